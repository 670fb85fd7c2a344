"""Services for more than one address and port: prefixes of VIPs, ranges of ports, match sets; and UDP
services whose every packet is scheduled by itself."""

import dataclasses

from check_reload import _reload
from client import Udp, who
from plan import SERVERS
from report import equal, expect

ASKED = 2 * len(SERVERS)
OTHER_PORT = 81


def check(ctx):
    director, report = ctx.director, ctx.report
    _reload(director, director.toml(aim=_prefix_or_range))
    try:
        for service in ctx.services:
            kind = "a prefix" if _prefix_or_range(service)["vip"].count("/") else "a range of ports"
            with report.check(f"{service.name}: {kind} is served"):
                _in_turn(ctx, service)
        _reload(director, director.toml(aim=_set, more={"persistence": "10m"}))
        for service in ctx.services:
            with report.check(f"{service.name}: a match set is served, a client keeps its server in it"):
                _one_server(ctx, service)
        _reload(director, director.toml(aim=_one_packet))
        for service in (s for s in ctx.services if _is_one_packet(s)):
            with report.check(f"{service.name}: one-packet: each of a socket's packets is scheduled"):
                _packets_in_turn(ctx, service)
    finally:
        with report.check("destinations: services as they were go on"):
            _reload(director, director.toml())
            for service in ctx.services:
                _in_turn(ctx, service)


def _prefix_or_range(service):
    """DR's and TUN's VIPs are neighbours: there prefixes would overlap."""
    address, ports = service.vip, f"{service.port}-{service.port + 9}"
    if not service.direct:
        base, _, host = address.rpartition("." if service.family.version == 4 else ":")
        dot = address[len(base)]
        address = f"{base}{dot}{int(host) // 2 * 2}/{service.family.host_length - 1}"
    vip = f"[{address}]:{ports}" if service.family.version == 6 else f"{address}:{ports}"
    return {"protocol": service.protocol, "vip": vip}


def _set(service):
    wanted = [service.endpoint]
    if not service.direct:
        wanted.append(_at(service, OTHER_PORT).endpoint)
    name = f"{service.mode}-{service.protocol}{service.family.version}"
    return {"set": name, "match": [f"{service.protocol} {vip}" for vip in wanted]}


def _is_one_packet(service):
    return service.protocol == "udp" and service.mode != "fullnat"


def _one_packet(service):
    entry = {"protocol": service.protocol, "vip": service.endpoint}
    return entry | ({"one_packet": True} if _is_one_packet(service) else {})


def _at(service, port):
    """The same service at another port of its VIP."""
    return dataclasses.replace(service, other_port=port)


def _in_turn(ctx, service):
    views = [who(ctx.net, service) for _ in range(ASKED)]
    equal("answered by", {v.answered_by for v in views}, {(service.vip, service.port)})
    equal("servers", {v.server for v in views}, set(SERVERS))


def _one_server(ctx, service):
    asked = [service] if service.direct else [service, _at(service, OTHER_PORT)]
    views = [(s, who(ctx.net, s)) for s in asked for _ in range(len(SERVERS))]
    for at, view in views:
        equal("answered by", view.answered_by, (at.vip, at.port))
    servers = {view.server for _, view in views}
    expect(len(servers) == 1, f"expected one server, seen {sorted(servers)}")


def _packets_in_turn(ctx, service):
    with Udp(ctx.net, service) as udp:
        views = [udp.who() for _ in range(ASKED)]
    equal("answered by", {v.answered_by for v in views}, {(service.vip, service.port)})
    equal("servers", sorted(v.server for v in views), sorted(SERVERS * 2))
    name = f"udp:{service.endpoint}"
    left = ctx.director.shunt("sessions", "--service", name)
    # Those of earlier checks may be there.
    own = [s for s in left["sessions"] if s["client"].endswith(f":{udp.port}")]
    equal("sessions", own, [])
