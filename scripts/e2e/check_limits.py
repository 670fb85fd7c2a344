"""Limits: a source gets exactly the sessions it may have and no new ones faster than it may, a service has
its most; who is refused hears of it at once, others are unaffected, and what ends makes room."""

import contextlib
import socket
import time

import net as network
from check_reload import _reload, tcp_timeouts
from plan import CLIENT, IPV4
from report import equal, expect

MOST = 3
BURST = 4
OTHER_HOST = 11
# Closed connections are soon over.
SOON = tcp_timeouts("500ms", "syn_recv")


def check(ctx):
    director, report = ctx.director, ctx.report
    services = [s for s in ctx.services if s.protocol == "tcp" and s.family is IPV4]
    other = IPV4.address(CLIENT, OTHER_HOST)
    there = (f"{other}/{IPV4.length}", "dev", _interface(ctx))
    ctx.net.ip("c", "address", "add", *there)
    try:
        _reload(director, director.toml(more={"source.max_sessions": MOST, **SOON}))
        for service in services:
            with report.check(f"{service.name}: limits: a source has {MOST} connections, others are unaffected"):
                _of_source(ctx, service, other)
        _reload(director, director.toml(more={"max_sessions": MOST, **SOON}))
        for service in services:
            with report.check(f"{service.name}: limits: a service has {MOST} connections"):
                _of_service(ctx, service, other)
        _reload(director, director.toml(more={"source.rate": 1, "source.burst": BURST}))
        for service in services:
            with report.check(f"{service.name}: limits: a source makes connections as fast as it may"):
                _rate(ctx, service)
    finally:
        ctx.net.ip("c", "address", "del", *there)
        with report.check("limits: without them clients are served as before"):
            _reload(director, director.toml())
            for service in services:
                with _Connections(ctx, service) as all_there:
                    for _ in range(2 * BURST):
                        expect(all_there.add(), f"{service.name} refuses")


def _interface(ctx):
    """The client's interface to its network."""
    route = ctx.net.ip_json("c", "route", "get", IPV4.address(CLIENT, OTHER_HOST))
    return route[0]["dev"]


class _Connections(contextlib.ExitStack):
    """Connections that are kept."""

    def __init__(self, ctx, service):
        super().__init__()
        self.ctx, self.service = ctx, service

    def add(self, source=""):
        """Another one; returns whether there is one. A refusal comes at once, or it is a failure."""
        with self.ctx.net.inside("c"):
            made = socket.socket()
        self.enter_context(made)
        made.settimeout(5)
        made.bind((source, 0))
        try:
            made.connect((self.service.vip, self.service.port))
        except ConnectionRefusedError:
            return False
        made.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        expect(made.recv(1).startswith(b"H"), f"{self.service.name}: no answer over a connection")
        return True


def _listed(ctx, service):
    listed = ctx.director.shunt("services", f"tcp:{service.endpoint}")
    return listed[0]


def _drops(ctx, reason):
    return ctx.director.shunt("counters")["total"]["drops"][reason]


def _idle(ctx, service):
    """Waits until the service has no session, of earlier checks, too."""
    gone = network.wait_for(lambda: _listed(ctx, service)["live_sessions"] == 0, 90, 0.1)
    if not gone:
        left = ctx.director.shunt("sessions", "--service", f"tcp:{service.endpoint}")["sessions"]
        count = _listed(ctx, service)["live_sessions"]
        expect(False, f"{service.name} has {count} sessions for good, of which are listed: {left}")


def _of_source(ctx, service, other):
    _idle(ctx, service)
    refused = _drops(ctx, "source-sessions")
    with _Connections(ctx, service) as held:
        made = [held.add() for _ in range(MOST + 2)]
        equal("connections made", made, [True] * MOST + [False] * 2)
        equal("another source's", [held.add(other) for _ in range(MOST + 1)], [True] * MOST + [False])
        equal("refused, by reason", _drops(ctx, "source-sessions") - refused, 3)
        equal("live sessions", _listed(ctx, service)["live_sessions"], 2 * MOST)
        text = network.run(str(ctx.director.binaries / "shunt"), "--socket", str(ctx.director.socket),
                           "services", f"tcp:{service.endpoint}")
        expect("REFUSED" in text, f"no column for it in\n{text}")
    with _Connections(ctx, service) as held:
        expect(network.wait_for(held.add, 20, 0.2), "no room after they were closed")


def _of_service(ctx, service, other):
    _idle(ctx, service)
    with _Connections(ctx, service) as held:
        made = [held.add(source) for source in ("", other, "", other, "")]
        equal("connections made", made, [True] * MOST + [False] * 2)
        listed = _listed(ctx, service)
        equal("live sessions", listed["live_sessions"], MOST)
        equal("limit", listed["configuration"]["max_sessions"], MOST)
        expect(listed["refused"] >= 2, f"{listed['refused']} refused")
    metrics = network.run("curl", "-sS", "--unix-socket", str(ctx.director.socket), "http://x/metrics")
    for line in (f'shunt_service_max_sessions{{service="tcp:{service.endpoint}"}} {MOST}\n',
                 'shunt_drops_total{worker="0",reason="service-limit"}'):
        expect(line in metrics, f"no {line!r} in the metrics")


def _rate(ctx, service):
    begin = time.monotonic()
    with _Connections(ctx, service) as held:
        made = [held.add() for _ in range(3 * BURST)]
        # One more for each second that it took.
        most = BURST + int(time.monotonic() - begin) + 1
        expect(all(made[:BURST]), f"refused among the first {BURST}: {made}")
        expect(made.count(True) <= most, f"{made.count(True)} made, {most} allowed")
        expect(network.wait_for(held.add, 10, 0.2), "none later either")
