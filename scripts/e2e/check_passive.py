"""Passive health checks: nobody asks the servers, and one that refuses its clients or does not answer them
is ejected, comes back after its time, and is ejected again if it still does. All that fail at once stay
within the share. All services at a time: most of it is waiting."""

import concurrent.futures
import socket
import time

import net as network
from check_reload import _reload
from client import Background
from plan import CLIENT, CLIENT_HOST, IPV4, SERVERS, endpoint
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
        _reload(director, _toml(director, services))
        for what, verdict in ("refuses", REFUSES), ("does not answer", "drop"):
            _at_once(ctx, services, f"passive: a server that {what} is ejected, and comes back",
                     lambda service: _fails(ctx, service, what, verdict))
        _at_once(ctx, services, "passive: when all fail no more than the share is ejected",
                 lambda service: _all_fail(ctx, service))
    finally:
        for service in services:
            for server in SERVERS:
                _well(ctx, server, service)
        with report.check("passive: the usual configuration again"):
            _reload(director, usual)


def _toml(director, services):
    """The usual configuration with passive checks of these services."""
    text = director.toml()
    keys = ", ".join(f'{k} = {v!r}'.replace("'", '"') for k, v in PASSIVE.items())
    for service in services:
        first, head, second = text.partition(f'protocol = "tcp"\nvip = "{service.endpoint}"\n')
        expect(head, f"no {service.name} in\n{text}")
        text = f"{first}{head}passive = {{ {keys} }}\n{second}"
    return text


def _at_once(ctx, services, what, work):
    """A check of each service, with the others' beside it."""
    with concurrent.futures.ThreadPoolExecutor(len(services)) as pool:
        outcomes = [(service, pool.submit(work, service)) for service in services]
    for service, outcome in outcomes:
        with ctx.report.check(f"{service.name}: {what}"):
            outcome.result()


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
        _well(ctx, server, service)
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
            _well(ctx, server, service)
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
    # NAT and FULLNAT have the same address and port there.
    foreign = "!=" if service.mode == "fullnat" else "=="
    client = f"ip saddr {foreign} {IPV4.address(CLIENT, CLIENT_HOST)}"
    ctx.net.run(server, "nft", f"""
        table ip ill-{service.mode} {{
            chain in {{
                type filter hook input priority 0
                {client} ip daddr {address} tcp dport {service.server_port} tcp flags & (syn|ack) == syn {verdict}
            }}
        }}""")


def _well(ctx, server, service):
    table = f"table ip ill-{service.mode}"
    ctx.net.run(server, "nft", f"{table} {{ }}; delete {table}")


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
