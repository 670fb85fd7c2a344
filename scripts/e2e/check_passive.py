"""Passive health checks: nobody asks the servers, and one that refuses its clients or does not answer them
is ejected, comes back after its time, and is ejected again if it still does. All that fail at once stay
within the share."""

import socket
import time

import net as network
from check_reload import _reload
from client import Background
from plan import IPV4, SERVERS, endpoint
from report import equal, expect

PASSIVE = {"failures": 50, "sample": 5, "window": "3s", "answer": "500ms", "min": "2s", "max": "4s",
           "max_ejected": 67}
PATIENCE = 25  # seconds, for what takes a few
REFUSES = "reject with tcp reset"


def check(ctx):
    director, report = ctx.director, ctx.report
    usual = director.toml()
    services = [s for s in ctx.services if s.protocol == "tcp" and s.family is IPV4]
    try:
        for service in services:
            _reload(director, _toml(director, service))
            for what, verdict in ("refuses", REFUSES), ("does not answer", "drop"):
                with report.check(f"{service.name}: passive: a server that {what} is ejected, and comes back"):
                    _fails(ctx, service, what, verdict)
            with report.check(f"{service.name}: passive: when all fail no more than the share is ejected"):
                _all_fail(ctx, service)
    finally:
        for server in SERVERS:
            _well(ctx, server)
        with report.check("passive: the usual configuration again"):
            _reload(director, usual)


def _toml(director, service):
    """The usual configuration with passive checks of one service."""
    head = f'vip = "{service.endpoint}"'
    first, second = director.toml().split(head)
    keys = ", ".join(f'{k} = {v!r}'.replace("'", '"') for k, v in PASSIVE.items())
    return f"{first}{head}\npassive = {{ {keys} }}{second}"


def _fails(ctx, service, what, verdict):
    server = SERVERS[0]
    with _Clients(ctx, service) as clients:
        _wait(ctx, "all serve", lambda: clients.recent() >= set(SERVERS))
        begun = time.monotonic()
        _ill(ctx, server, service, verdict)
        _wait(ctx, f"{server} is ejected", lambda: _status(ctx, service)[server] == "ejected")
        took = time.monotonic() - begun
        equal("the others", {_status(ctx, service)[s] for s in SERVERS[1:]}, {"up"})
        expect("failed" in _listed(ctx, service)[server]["passive"]["reason"], "no reason is given")
        _wait(ctx, "nobody is refused any more", lambda: None not in clients.recent(0.5))
        # It comes back after its time, and is ill still: it goes for longer.
        back = network.wait_for(lambda: _status(ctx, service)[server] == "up", PATIENCE, 0.05)
        expect(back, "it never comes back")
        _wait(ctx, f"{server} is ejected again", lambda: _status(ctx, service)[server] == "ejected")
        left = _listed(ctx, service)[server]["passive"]["ejected_seconds"]
        expect(left > 2, f"the second time is no longer than the first: {left} s left")
        _well(ctx, server)
        _wait(ctx, f"{server} serves again", lambda: server in clients.recent())
        ctx.report.tell(f"{service.name}: a server {what}: ejected after {1000 * took:.0f} ms")
        _wait(ctx, "all are up", lambda: set(_status(ctx, service).values()) == {"up"})


def _all_fail(ctx, service):
    """NAT and FULLNAT see refusals and eject two of three; DR and TUN, by comparison, nobody."""
    with _Clients(ctx, service) as clients:
        _wait(ctx, "all serve", lambda: clients.recent() >= set(SERVERS))
        for server in SERVERS:
            _ill(ctx, server, service, REFUSES)
        most = 0
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            ejected = list(_status(ctx, service).values()).count("ejected")
            most = max(most, ejected)
            expect(ejected <= 2, f"{ejected} of 3 are ejected")
            time.sleep(0.1)
        if not service.direct:
            equal("servers ejected at a time", most, 2)
        for server in SERVERS:
            _well(ctx, server)
        _wait(ctx, "all serve again", lambda: clients.recent() >= set(SERVERS))


class _Clients(Background):
    """Connections of the client, one after another and two at a time; who served them and when, None: nobody."""

    def __init__(self, ctx, service):
        super().__init__([self._ask] * 4)
        self.ctx, self.service = ctx, service
        self.done = []

    def _ask(self):
        while not self.ending.is_set():
            self.done.append((time.monotonic(), self._one()))
            time.sleep(0.02)

    def _one(self):
        with self.ctx.net.inside("c"):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(0.8)
            try:
                sock.connect((self.service.vip, self.service.port))
                sock.sendall(b"GET /who HTTP/1.0\r\n\r\n")
                answer = b""
                while piece := sock.recv(4096):
                    answer += piece
                return answer.partition(b'"server": "')[2][:2].decode() or None
            except OSError:
                return None

    def recent(self, seconds=1.0):
        """Who served the clients lately."""
        since = time.monotonic() - seconds
        return {who for at, who in list(self.done) if at > since}


def _ill(ctx, server, service, verdict):
    """The server's kernel refuses new connections of the service, or lets their SYNs lie."""
    address = service.vip if service.direct else service.server_address(server)
    ctx.net.run(server, "nft", f"""
        table ip ill {{
            chain in {{
                type filter hook input priority 0
                ip daddr {address} tcp dport {service.server_port} tcp flags & (syn|ack) == syn {verdict}
            }}
        }}""")


def _well(ctx, server):
    ctx.net.run(server, "nft", "table ip ill { }; delete table ip ill")


def _listed(ctx, service):
    """The service's servers, as the director lists them."""
    listed = {s["address"]: s for s in ctx.director.shunt("servers")
              if s["service"] == f"tcp:{service.endpoint}" and s["status"] != "removed"}
    return {s: listed[endpoint(service.server_address(s), service.server_port)] for s in SERVERS}


def _status(ctx, service):
    return {name: server["status"] for name, server in _listed(ctx, service).items()}


def _wait(ctx, what, condition):
    if not network.wait_for(condition, PATIENCE, 0.05):
        listed = [f"{s['service']} {s['address']} {s['status']} {s['passive']}"
                  for s in ctx.director.shunt("servers") if "passive" in s]
        expect(False, "\n".join([f"never: {what}", *listed]))
