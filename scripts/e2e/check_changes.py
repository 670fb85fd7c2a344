"""What changes in the director's kernel reaches the packets of running sessions within a second."""

import itertools
import time

from client import Udp
from plan import FAMILIES, FRONT, ROUTER_HOST, ROUTER_SECOND_HOST
from report import Failed, expect

LIMIT = 1.0

# A new one each time: the switch would look for a used one where it was last.
_macs = (f"02:5e:00:00:00:{number:02x}" for number in itertools.count(1))


def check(ctx):
    for family in FAMILIES:
        for service in ctx.services:
            if service.family is not family or service.protocol != "udp":
                continue
            with ctx.report.check(f"{service.name}: a real server's new MAC is followed"):
                _neighbour(ctx, service)
            if not service.direct:
                with ctx.report.check(f"{service.name}: a new route to the clients is followed"):
                    _route(ctx, service)


def _neighbour(ctx, service):
    """A server gets another MAC, and the director's kernel is told."""
    net = ctx.net
    with Udp(net, service) as udp:
        server = udp.who().server
        address = service.server_address(server)
        mirror = ctx.director.mirror(service.back)
        old, new = net.mac(server, "eth0"), next(_macs)

        def tell(mac, state):
            net.ip("d", "neigh", "replace", address, "dev", mirror, "lladdr", mac, "nud", state)
        try:
            # Permanent, so that the kernel does not find out by itself.
            tell(old, "permanent")
            net.ip(server, "link", "set", "eth0", "address", new)
            expect(_silent(udp), f"{server} still answers to its old MAC")
            begin = time.monotonic()
            tell(new, "permanent")
            _until(begin, lambda: _answers(udp), f"no packet to {server} at {new}")
        finally:
            net.ip(server, "link", "set", "eth0", "address", old)
            tell(old, "reachable")
        _until(time.monotonic(), lambda: _answers(udp), f"no packet to {server} at {old} again")


def _route(ctx, service):
    """The default route moves to the router's second leg, and back."""
    net = ctx.net

    def replies_by_second_leg():
        before = ctx.topology.second_leg()
        _answers(udp)
        return ctx.topology.second_leg() > before

    with Udp(net, service) as udp:
        udp.who()
        # The leg must be known, so that only the change itself is measured.
        net.run("d", "ping", "-c", "1", "-W", "2",
                service.family.address(FRONT, ROUTER_SECOND_HOST))
        expect(not replies_by_second_leg(), "replies go by the second leg before the change")
        try:
            begin = time.monotonic()
            ctx.director.default_route(service.family, ROUTER_SECOND_HOST)
            _until(begin, replies_by_second_leg, "replies still go by the first leg")
        finally:
            ctx.director.default_route(service.family, ROUTER_HOST)
        _until(time.monotonic(), lambda: not replies_by_second_leg(),
               "replies do not go by the first leg again")


def _answers(udp):
    udp.send(b"who")
    return udp.receive(0.05) is not None


def _silent(udp):
    return not any(_answers(udp) for _ in range(3))


def _until(begin, condition, otherwise):
    while True:
        if condition():
            return
        if time.monotonic() - begin > LIMIT:
            raise Failed(f"{otherwise} after {LIMIT} s")
