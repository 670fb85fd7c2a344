"""What the director writes down: each session's beginning and end with what it carried, in a file and to
syslog; and a log whose levels are changed while it runs."""

import json
import pathlib
import socket
import stat

import net as network
from client import who
from report import equal, expect

DEV_LOG = pathlib.Path("/dev/log")


def check(ctx):
    _sessions(ctx)
    _syslog(ctx)
    _levels(ctx)


def _lines(file):
    """The log's lines; one that is being written is not among them."""
    if not file.exists():
        return []
    whole, _, _ = file.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _logging(to):
    return f'\n[session_log]\nto = "{to}"\nevents = ["created", "closed"]\n'


def _reload(ctx, more):
    status, said = ctx.director.reload(ctx.director.toml() + more)
    equal(f"reload said {said}", status, 0)


def _sessions(ctx):
    net, report, director = ctx.net, ctx.report, ctx.director
    file = net.dir / "sessions.json"
    of = {s.protocol + s.mode + str(s.family.version): s for s in ctx.services}
    clients = {}
    with report.check("logs: sessions that begin are written down"):
        _reload(ctx, _logging(file))
        servers = {name: who(net, service).server for name, service in of.items()}
        for name, service in of.items():
            wanted = {"event": "created", "protocol": service.protocol, "mode": service.mode,
                      "vip": service.endpoint,
                      "service": f"{service.protocol}:{service.endpoint}"}
            found = network.wait_for(lambda: _found(file, wanted), 5)
            expect(found, f"{name}: no line with {wanted}")
            clients[name] = found["client"]
            address = service.server_address(servers[name])
            expect(found["server"].startswith((address, f"[{address}]")), f"{name}: {found}")
            equal(f"{name}: a local address is told", "local" in found, service.mode == "fullnat")
    with report.check("logs: sessions that end are, with what they carried"):
        for service in ctx.services:
            director.shunt("service", "change", f"{service.protocol}:{service.endpoint}",
                           "--timeout", "tcp_time_wait=1s", "--timeout", "tcp_close=1s",
                           "--timeout", "tcp_fin_wait=1s", "--timeout", "udp=1s")
        for name, service in of.items():
            # Not one of an earlier check's that ends only now.
            wanted = {"event": "closed", "service": f"{service.protocol}:{service.endpoint}",
                      "client": clients[name]}
            found = network.wait_for(lambda: _found(file, wanted), 20)
            expect(found, f"{name}: no line with {wanted}")
            reasons = ("idle",) if service.protocol == "udp" or service.direct else ("closed", "idle")
            expect(found["reason"] in reasons, f"{name}: {found}")
            expect(found["packets_in"] > 0 and found["bytes_in"] > 0, f"{name}: {found}")
            equal(f"{name}: packets of the server are told", found["packets_out"] > 0,
                  not service.direct)
            expect(1000 <= found["duration_ms"] < 600_000, f"{name}: {found}")
    with report.check("logs: a file that was moved away is made anew by a reload"):
        moved = file.with_suffix(".1")
        file.rename(moved)
        _reload(ctx, _logging(file))
        who(net, ctx.services[0])
        expect(network.wait_for(lambda: _lines(file), 5), "nothing is written")
    with report.check("logs: of a sample the rest is counted"):
        _reload(ctx, _logging(file) + "one_in = 1000000\n")
        for service in ctx.services:
            who(net, service)
        # Sessions of UDP last as long as the service says again.
        for service in ctx.services:
            director.shunt("service", "change", f"{service.protocol}:{service.endpoint}",
                           "--timeout", "udp=1s", "--timeout", "tcp_time_wait=1s")
        told = network.wait_for(lambda: _found(file, {"event": "left-out"}), 30, 0.1)
        expect(told and told["sampled_out"] > 0, f"it says {told}")
        equal("lost", told["lost"], 0)


def _found(file, wanted):
    return next((line for line in _lines(file)
                 if all(line.get(key) == value for key, value in wanted.items())), None)


def _syslog(ctx):
    report = ctx.report
    if DEV_LOG.exists() and stat.S_ISSOCK(DEV_LOG.stat().st_mode):
        report.tell("logs: syslog: this machine has a daemon of its own, not tried")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(DEV_LOG))
        daemon.settimeout(10)
        try:
            with report.check("logs: syslog gets the lines"):
                _reload(ctx, _logging("syslog"))
                who(ctx.net, ctx.services[0])
                said = daemon.recv(65536).decode()
                # Facility local0 (16), severity informational (6): RFC 3164, section 4.1.1.
                expect(said.startswith("<134>") and "shunt-sessions" in said, said)
                line = json.loads(said[said.index("{"):])
                expect(line["event"] in ("created", "closed"), said)
        finally:
            DEV_LOG.unlink()


def _levels(ctx):
    report, director = ctx.report, ctx.director
    with report.check("logs: levels are changed while the director runs"):
        equal("filter", director.shunt("log"), {"filter": "info"})
        director.shunt("log", "info,shunt_control=debug")
        equal("filter", director.shunt("log"), {"filter": "info,shunt_control=debug"})
        director.shunt("log", "error")
        before = len(director.process.tail(100_000))
        status, _ = director.reload(director.toml())
        equal("reload", status, 0)
        equal("lines at level error", director.process.tail(100_000)[before:], [])
        director.shunt("log", "info")
        said = network.wait_for(lambda: [line for line in director.process.tail(100_000)[before:]
                                         if "what is logged was changed" in line], 5)
        expect(said, "nothing is said at level info")
