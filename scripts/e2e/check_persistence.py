"""Persistence: all sessions of a client go to one server, whichever worker they come to; a server of
weight 0 loses its clients for good; a restart after kill -9 knows whose they are."""

import net as network
from check_reload import _reload
from client import Udp, http_who
from plan import SERVERS
from report import equal, expect

SESSIONS = 6
KEEPS = {"persistence": "10m"}


def check(ctx):
    director, report = ctx.director, ctx.report
    _reload(director, director.toml(more=KEEPS))
    try:
        servers = {}
        for service in ctx.services:
            with report.check(f"{service.name}: persistence: {SESSIONS} sessions of a client go to one server"):
                servers[service] = _one_server(ctx, service)
        with report.check("persistence: clients of a server of weight 0 get another, and stay there"):
            _weight_0(ctx, servers)
        if ctx.start.device != "virtio_user" and not ctx.start.is_plugin:
            with report.check("persistence: after kill -9 and a new start clients go to their servers"):
                _restart(ctx)
    finally:
        with report.check("persistence: without it sessions go to servers in turn again"):
            _reload(director, director.toml())
            for service in ctx.services:
                equal(service.name, {_server(ctx, service) for _ in SERVERS}, set(SERVERS))


def _server(ctx, service):
    """The server of a new session."""
    if service.protocol == "tcp":
        return http_who(ctx.net, service).server
    with Udp(ctx.net, service) as udp:
        return udp.who().server


def _one_server(ctx, service):
    servers = {_server(ctx, service) for _ in range(SESSIONS)}
    expect(len(servers) == 1, f"expected one server, seen {sorted(servers)}")
    return servers.pop()


def _weight_0(ctx, servers):
    director = ctx.director
    for server in sorted(set(servers.values())):
        _reload(director, director.toml(more=KEEPS, weights={server: 0}))
        moved = {s: _one_server(ctx, s) for s, its in servers.items() if its == server}
        expect(server not in moved.values(), f"{server} got new sessions: {moved}")
        _reload(director, director.toml(more=KEEPS))
        for service, its in moved.items():
            equal(f"{service.name}: server once {server} has weight again", _one_server(ctx, service), its)


def _restart(ctx):
    director = ctx.director
    before = {service: _one_server(ctx, service) for service in ctx.services}
    director.kill()
    director.again(more=KEEPS)
    expect(network.wait_for(director.answers, 10, 0.1), "the API does not answer")
    for service, server in before.items():
        equal(f"{service.name}: server after the restart", _one_server(ctx, service), server)
