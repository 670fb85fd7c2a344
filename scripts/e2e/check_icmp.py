"""ICMP: errors of others about a session reach its other end, translated; the director's own errors
reach the client."""

import hashlib
import socket
import struct

import net as network
from client import download
from plan import DIRECTOR_HOST, FRONT
from report import Failed, equal, expect

SMALL = 4 << 20
CLIENT_MTU = 1400

# linux/in.h, linux/in6.h, linux/errqueue.h
IP_RECVERR, IPV6_RECVERR = 11, 25
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
TIME_EXCEEDED = {4: (ORIGIN_ICMP, 11), 6: (ORIGIN_ICMP6, 3)}


def check(ctx):
    _narrow_path(ctx)
    for service in ctx.services:
        if service.protocol == "udp":
            with ctx.report.check(f"{service.name}: a packet whose TTL ends at the director "
                                  "is answered"):
                _time_exceeded(ctx, service)


def _narrow_path(ctx):
    """The router's link to the client is narrower than the server believes: a download stalls
    unless the router's errors, sent to the VIP, find the server. (Uploads do not pass the veth.)"""
    net = ctx.net
    for server in ctx.topology.homes():
        (server / "www" / "small").write_bytes((net.dir / "big").read_bytes()[:SMALL])
    wanted = hashlib.sha256((net.dir / "big").read_bytes()[:SMALL]).hexdigest()
    net.ip("r", "link", "set", "outer", "mtu", str(CLIENT_MTU))
    try:
        for service in ctx.services:
            if service.protocol == "tcp":
                with ctx.report.check(f"{service.name}: the server learns a narrower path "
                                      "to the client"):
                    equal("SHA-256", download(net, service, "small", seconds=10), wanted)
    finally:
        net.ip("r", "link", "set", "outer", "mtu", "1500")


def _time_exceeded(ctx, service):
    six = service.family.version == 6
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    with ctx.net.inside("c"):
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(level, IPV6_RECVERR if six else IP_RECVERR, 1)
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if six else socket.IP_TTL, 2)
        sock.connect((service.vip, service.port))
        sock.send(b"who")
        error = network.wait_for(lambda: _error(sock), 3)
        if not error:
            raise Failed("no ICMP error came to the client's socket")
        origin, kind, offender = error
        equal("origin and type", (origin, kind), TIME_EXCEEDED[service.family.version])
        own = {service.vip, service.family.address(FRONT, DIRECTOR_HOST)}
        expect(offender in own, f"the error is from {offender}, expected one of {sorted(own)}")


def _error(sock):
    """An error from the socket's queue: origin, ICMP type, who sent it."""
    try:
        _, ancillary, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    for _, _, data in ancillary:
        # struct sock_extended_err, then the sockaddr of who sent it.
        _, origin, kind, _, _, _, _ = struct.unpack_from("=IBBBBII", data)
        family = struct.unpack_from("=H", data, 16)[0]
        if family == socket.AF_INET6:
            return origin, kind, socket.inet_ntop(socket.AF_INET6, data[24:40])
        return origin, kind, socket.inet_ntop(socket.AF_INET, data[20:24])
    return None
