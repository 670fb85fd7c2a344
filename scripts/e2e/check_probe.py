"""Checks of DR and TUN by the VIP: a server that is well but has lost its VIP is found out, one that is
asked itself is not."""

import net as network
from check_reload import _reload
from client import http_who
from plan import FRONT, SERVERS, VIP_HOSTS
from report import equal, expect

CHECK = {"type": "http", "path": "/who", "body": "server", "interval": "200ms", "timeout": "200ms",
         "rise": 2, "fall": 2}
PATIENCE = 20  # seconds, for what takes one at most


def check(ctx):
    if ctx.start.device == "net_af_packet":
        return  # what the kernel sends leaves by its own interface, past the workers
    director, report = ctx.director, ctx.report
    services = [s for s in ctx.services if s.protocol == "tcp" and s.direct]
    lost = SERVERS[0]
    try:
        with report.check("probe: servers that are asked by their VIP are up"):
            _reload(director, director.toml(checks=_by("vip")))
            _wait(ctx, services, {server: "up" for server in SERVERS})
            for service in services:
                equal(service.name, {http_who(ctx.net, service).server for _ in range(6)},
                      set(SERVERS))
        with report.check("probe: one that has lost its VIP is down, and gets no sessions"):
            _vips(ctx, services, lost, "del")
            _wait(ctx, services, {s: "down" if s == lost else "up" for s in SERVERS})
            for service in services:
                equal(service.name, {http_who(ctx.net, service).server for _ in range(6)},
                      set(SERVERS) - {lost})
        with report.check("probe: asked by its own address it is up all the same"):
            _reload(director, director.toml(checks=_by("server")))
            _wait(ctx, services, {server: "up" for server in SERVERS})
            _reload(director, director.toml(checks=_by("vip")))
            _wait(ctx, services, {s: "down" if s == lost else "up" for s in SERVERS})
        with report.check("probe: with its VIP it is up again"):
            _vips(ctx, services, lost, "add")
            _wait(ctx, services, {server: "up" for server in SERVERS})
    finally:
        _vips(ctx, services, lost, "replace")
        with report.check("probe: the usual configuration again"):
            _reload(director, director.toml())


def _by(via):
    return lambda service: (
        {**CHECK, "via": via} if service.direct and service.protocol == "tcp" else None)


def _vips(ctx, services, server, what):
    """Adds or removes the server's VIPs."""
    for service in services:
        vip = service.family.address(FRONT, VIP_HOSTS[service.mode])
        more = ["nodad"] if service.family.version == 6 and what != "del" else []
        ctx.net.ip(server, "address", what, f"{vip}/{service.family.host_length}", "dev", "lo", *more)


def _wait(ctx, services, wanted):
    """Waits until checks have said of each server what is wanted."""
    names = {f"tcp:{service.endpoint}" for service in services}
    addresses = {service.server_address(server): server
                 for service in services for server in SERVERS}

    def listed():
        return [s for s in ctx.director.shunt("servers")
                if s["service"] in names and s["status"] != "removed"]

    def met():
        return all("health" in s and s["health"]["known"]
                   and s["status"] == wanted[addresses[s["address"].rpartition(":")[0].strip("[]")]]
                   for s in listed())

    if not network.wait_for(met, PATIENCE, 0.05):
        seen = [f"{s['service']} {s['address']} {s['status']} {s['health']}" for s in listed()]
        expect(False, "\n".join([f"never: {wanted}", *seen]))
