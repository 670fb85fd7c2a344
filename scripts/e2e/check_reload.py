"""A new configuration while traffic flows: a wrong one changes nothing, a right one changes what it
says and leaves running sessions alone."""

import http.client
import json
import signal
import socket

import net as network
from client import http_who
from plan import SERVERS
from report import equal, expect

# States of TCP in which nothing more is to be said.
CLOSING = ("fin_wait", "time_wait", "close", "close_wait", "last_ack")


def check(ctx):
    director, report = ctx.director, ctx.report
    usual = director.toml()
    service = next(s for s in ctx.services if s.protocol == "tcp")
    try:
        with report.check("reload: a configuration with a mistake is refused and changes nothing"):
            status, said = director.reload(usual.replace('"rr"', '"rrr"', 1))
            expect(status != 0, "the reload succeeded")
            for word in "rrr", f"{director.config.name}:":
                expect(word in said, f"{word!r} is missing in the message:\n{said}")
            equal("services", len(director.shunt("services")), len(ctx.services))
            equal("servers", _servers(ctx, service), set(SERVERS))
        with report.check("reload: a server of weight 0 gets no new session, running ones go on"):
            with _Session(ctx, service) as session:
                server = session.who()
                _reload(director, director.toml(weights={server: 0}))
                equal("servers of new sessions", _servers(ctx, service), set(SERVERS) - {server})
                equal("server of the running session", session.who(), server)
                _reload(director, usual)
        with report.check("reload: without a server of any weight clients are refused"):
            _reload(director, director.toml(weights=dict.fromkeys(SERVERS, 0)))
            for each in ctx.services:
                expect(_refused(ctx, each), f"{each.name}: no refusal")
            _reload(director, usual)
        with report.check("reload: SIGHUP removes a server, its running sessions finish"):
            with _Session(ctx, service) as session:
                server = session.who()
                others = [name for name in SERVERS if name != server]
                director.config.write_text(director.toml(servers=others))
                director.process.popen.send_signal(signal.SIGHUP)
                gone = network.wait_for(lambda: server not in _servers(ctx, service), 3, 0.1)
                expect(gone, f"{server} still gets new sessions")
                equal("server of the running session", session.who(), server)
    finally:
        with report.check("reload: the usual configuration again"):
            _reload(director, usual)
            equal("servers", _servers(ctx, service), set(SERVERS))


def tcp_timeouts(time, *more):
    """Keys of services that have sessions in closing states, and `more` of them, expire after this time."""
    return {f"timeouts.tcp_{state}": time for state in (*CLOSING, *more)}


def _reload(director, toml):
    status, said = director.reload(toml)
    expect(status == 0, f"exit status {status}; it said:\n{said}")


def _servers(ctx, service):
    """The servers that six new sessions go to."""
    return {http_who(ctx.net, service).server for _ in range(6)}


def _refused(ctx, service):
    """Whether a reset (TCP) or port unreachable (UDP) comes back."""
    six = service.family.version == 6
    kind = socket.SOCK_STREAM if service.protocol == "tcp" else socket.SOCK_DGRAM
    with ctx.net.inside("c"):
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
    with sock:
        sock.settimeout(3)
        try:
            sock.connect((service.vip, service.port))
            sock.send(b"who")
            sock.recv(1)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
    return False


class _Session:
    """A TCP connection of the client that stays open."""

    def __init__(self, ctx, service):
        kind = socket.AF_INET6 if service.family.version == 6 else socket.AF_INET
        with ctx.net.inside("c"):
            connection = socket.socket(kind, socket.SOCK_STREAM)
        connection.settimeout(5)
        connection.connect((service.vip, service.port))
        self.http = http.client.HTTPConnection(service.vip, service.port)
        self.http.sock = connection

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def who(self):
        """Asks over the same connection (an error if it was closed)."""
        self.http.request("GET", "/who")
        return json.load(self.http.getresponse())["server"]
