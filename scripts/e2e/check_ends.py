"""Sessions of a server that is gone end at once, at both ends: an idle connection and a download of every
mode, whose server the operator marks down, or whose cable is pulled under a health check. How long it
takes until the client knows, and until it has another server, is printed."""

import contextlib
import socket
import time

import net as network
from check_health import _reload, _services, _wait
from check_reload import _Session as Session
from plan import IPV4, endpoint
from report import equal, expect

CHECK = {"interval": "200ms", "timeout": "200ms", "rise": 2, "fall": 2}
CHECKS = {"tcp": {"type": "tcp", **CHECK}, "udp": {"type": "icmp", **CHECK}}
PATIENCE = 10  # seconds, for what takes none


def check(ctx):
    report, usual = ctx.report, ctx.director.toml()
    for service in ctx.services:
        if service.protocol == "tcp":
            with report.check(f"{service.name}: ends: a server is marked down, both ends know at once"):
                _marked(ctx, service)
    try:
        with report.check("ends: a server's cable is pulled, its checks fail, its clients are reset"):
            _pulled(ctx)
    finally:
        with report.check("ends: the usual configuration again"):
            _reload(ctx.director, usual)


def _marked(ctx, service):
    with Session(ctx, service) as idle, _Download(ctx, service) as download:
        server = idle.who()
        equal("a session's other requests go to", idle.who(), server)
        while download.server != server:
            download.again()
        before = len(_sockets(ctx, service, server))
        expect(before >= 2, f"{server} has {before} connections")
        with _down(ctx, service, server) as begun:
            seconds = _until_reset(idle.http.sock, begun)
            _fetch_until_reset(download)
            with Session(ctx, service) as again:
                other = again.who()
                connected = time.monotonic() - begun
            expect(other != server, f"{server} gets a new session")
            gone = network.wait_for(lambda: not _sockets(ctx, service, server), PATIENCE, 0.005)
            expect(gone, f"{server} still has {_sockets(ctx, service, server)}")
            ctx.report.tell(
                f"{service.name}: reset {1000 * seconds:.0f} ms after the operator's command began, "
                f"served by another after {1000 * connected:.0f} ms, the server's sockets gone after "
                f"{1000 * (time.monotonic() - begun):.0f} ms")


@contextlib.contextmanager
def _down(ctx, service, server):
    """The server is marked down; gives when the command began."""
    name = f"tcp:{service.endpoint}"
    address = endpoint(service.server_address(server), service.server_port)
    begun = time.monotonic()
    ctx.director.shunt("server", "down", name, address)
    try:
        yield begun
    finally:
        ctx.director.shunt("server", "up", name, address)


def _until_reset(sock, begun):
    """Waits for a reset; returns how long after `begun` it came, seconds."""
    sock.settimeout(PATIENCE)
    try:
        got = sock.recv(1)
    except ConnectionResetError:
        return time.monotonic() - begun
    except TimeoutError:
        got = "nothing"
    return expect(False, f"the client is not reset: it got {got!r}")


def _fetch_until_reset(download):
    try:
        while download.more():
            pass
    except ConnectionResetError:
        return
    expect(False, "the download came to its end, or was closed")


class _Download:
    """A download that is read slowly: it takes some seconds."""

    def __init__(self, ctx, service):
        self.ctx, self.service, self.sock = ctx, service, None
        self.again()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def again(self):
        """Another one, which asks its server for its name first."""
        if self.sock:
            self.sock.close()
        family = socket.AF_INET if self.service.family is IPV4 else socket.AF_INET6
        with self.ctx.net.inside("c"):
            self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.sock.settimeout(PATIENCE)
        self.sock.connect((self.service.vip, self.service.port))
        self.sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"}" not in answer:
            answer += self.sock.recv(4096)
        self.server = answer.partition(b'"server": "')[2][:2].decode()
        self.sock.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        self.more()

    def more(self):
        """Takes some of it; how much."""
        time.sleep(0.001)
        return len(self.sock.recv(4096))


def _sockets(ctx, service, server):
    """The server's connections of the service, as its kernel lists them."""
    address = service.vip if service.direct else service.server_address(server)
    listed = ctx.net.run(server, "ss", "-Htn", "state", "established", "src",
                         endpoint(address, service.server_port))
    return listed.splitlines()


def _pulled(ctx):
    """Nobody says anything any more: neither the server nor its kernel."""
    director, services = ctx.director, _services(ctx)
    _reload(director, director.toml(checks=CHECKS))
    _wait(ctx, "all are up", lambda: all(
        s["status"] == "up" and s["health"]["known"]
        for s in director.shunt("servers") if s["status"] != "removed"))
    with contextlib.ExitStack() as stack:
        sessions = [(s, stack.enter_context(Session(ctx, s))) for s in services]
        first = {service.name: session.who() for service, session in sessions}
        server = first[services[0].name]
        plug, switch = f"{server}-eth0", ctx.topology.back_switch
        pulled = time.monotonic()
        ctx.net.ip("sw", "link", "set", plug, "nomaster")
        try:
            for service, session in sessions:
                if first[service.name] != server:
                    continue
                seconds = _until_reset(session.http.sock, pulled)
                with Session(ctx, service) as again:
                    other = again.who()
                expect(other != server, f"{server} gets a new session")
                ctx.report.tell(
                    f"{service.name}: a server's cable pulled, checks each 200 ms: reset after "
                    f"{1000 * seconds:.0f} ms, served by another after "
                    f"{1000 * (time.monotonic() - pulled):.0f} ms")
        finally:
            ctx.net.ip("sw", "link", "set", plug, "master", switch)
        _wait(ctx, f"{server} is up", lambda: all(
            s["status"] == "up" for s in director.shunt("servers") if s["status"] != "removed"))
