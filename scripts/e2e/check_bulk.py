"""Large transfers: every byte arrives, both ways, over links of 1500 bytes with nothing offloaded.
In TUN that needs path MTU discovery to work; in DR and TUN the download must not pass the director.
"""

import hashlib
import socket
import time

import net as network
from client import Udp, download, upload
from plan import SERVERS
from report import Failed, equal, expect
from topology import BIG

UDP_DATAGRAMS = 400
UDP_SIZE = 1400  # of the payload: fits in a tunnel
UDP_WINDOW = 8
UDP_SECONDS = 20

# linux/in.h, linux/in6.h
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24


def check(ctx):
    for service in ctx.services:
        if service.protocol == "tcp":
            _tcp(ctx, service)
        else:
            _udp(ctx, service)


def _tcp(ctx, service):
    net, report = ctx.net, ctx.report
    megabytes = BIG >> 20
    big = net.dir / "big"
    wanted = hashlib.sha256(big.read_bytes()).hexdigest()
    before = ctx.topology.director_bytes()
    with report.check(f"{service.name}: a download of {megabytes} MiB arrives whole"):
        equal("SHA-256", download(net, service, "big"), wanted)
        if service.direct:
            passed = ctx.topology.director_bytes() - before
            expect(passed < BIG // 4, f"expected acknowledgements alone, "
                   f"but {passed} bytes passed the director")
    with report.check(f"{service.name}: an upload of {megabytes} MiB arrives whole"):
        _forget_path(ctx, service)
        name = f"{service.mode}{service.family.version}"
        upload(net, service, big, f"up/{name}")
        files = [path for server in SERVERS if (path := net.dir / server / "up" / name).exists()]
        equal("uploaded files", len(files), 1)
        equal("SHA-256", hashlib.sha256(files[0].read_bytes()).hexdigest(), wanted)
        files[0].unlink()
    if service.mode == "tun":
        with report.check(f"{service.name}: the client has learnt the path's MTU"):
            equal("MTU", _path_mtu(ctx, service), service.mtu)


def _forget_path(ctx, service):
    for node in "c", "r":
        ctx.net.ip(node, f"-{service.family.version}", "route", "flush", "cache")


def _path_mtu(ctx, service):
    """The MTU that the client's kernel has for the way to the VIP."""
    route = ctx.net.ip("c", "route", "get", service.vip).split()
    return int(route[route.index("mtu") + 1]) if "mtu" in route else 1500


def _udp(ctx, service):
    with ctx.report.check(f"{service.name}: {UDP_DATAGRAMS} datagrams come back whole"):
        with Udp(ctx.net, service) as udp:
            _echo(udp)
    if service.mode == "tun":
        with ctx.report.check(f"{service.name}: a datagram too long for the tunnel is refused, "
                              "with the right MTU"):
            _forget_path(ctx, service)
            equal("MTU", _udp_path_mtu(ctx, service), service.mtu)


def _echo(udp):
    """Sends numbered datagrams, a window at a time, and each again until it is back."""
    missing = {number: _datagram(number) for number in range(UDP_DATAGRAMS)}
    deadline = time.monotonic() + UDP_SECONDS
    while time.monotonic() < deadline:
        numbers = list(missing)
        for at in range(0, len(numbers), UDP_WINDOW):
            if time.monotonic() > deadline:
                break
            window = set(numbers[at:at + UDP_WINDOW])
            for number in window:
                udp.send(missing[number])
            while window and (answer := udp.receive(0.2)):
                data, _ = answer
                number = int.from_bytes(data[:4], "big")
                if number in missing:
                    equal(f"datagram {number}", data == missing[number], True)
                    del missing[number]
                window.discard(number)
        if not missing:
            return
    raise Failed(f"{len(missing)} of {UDP_DATAGRAMS} datagrams never came back")


def _datagram(number):
    head = number.to_bytes(4, "big")
    return head + hashlib.shake_128(head).digest(UDP_SIZE - len(head))


def _udp_path_mtu(ctx, service):
    """Sends a datagram as long as the link takes with DF; returns the MTU that comes of it."""
    six = service.family.version == 6
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    headers = (40 if six else 20) + 8
    with ctx.net.inside("c"):
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(level, IPV6_MTU_DISCOVER if six else IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((service.vip, service.port))

        def learnt():
            try:
                sock.send(bytes(1500 - headers))
            except OSError:
                pass  # EMSGSIZE: learnt
            mtu = sock.getsockopt(level, IPV6_MTU if six else IP_MTU)
            return mtu if mtu != 1500 else 0
        return network.wait_for(learnt, 3, 0.1) or 1500
