"""Active health checks with real servers and a client that never stops asking: a server is killed,
comes back, hangs, flaps; all fail; the director is killed meanwhile. What operators ask for first is
printed: how long new sessions still go to a dead server, and how many requests fail."""

import functools
import json
import signal
import socket
import threading
import time

import net as network
from check_reload import _reload, _servers
from check_reload import _Session as Session
from client import Background
from plan import IPV4, SERVERS, endpoint
from report import equal, expect

COMMON = {"interval": "200ms", "timeout": "200ms", "rise": 2, "fall": 2}
# A server that hangs is not answered for by its kernel.
CHECKS = {"tcp": {"type": "http", "path": "/who", "body": "server", **COMMON},
          "udp": {"type": "udp", "payload": "who", "expect": "server", **COMMON}}
# As long as a file is there.
FILE = {"tcp": {"type": "http", "path": "/alive", "status": [200], **COMMON},
        "udp": {"type": "icmp", **COMMON}}
PATIENCE = 20  # seconds, for what takes one at most


def check(ctx):
    director, report = ctx.director, ctx.report
    usual = director.toml()
    try:
        with report.check("health: every server of every service is found up"):
            _reload(director, director.toml(checks=CHECKS))
            _wait(ctx, "all are up", lambda: all(
                server["status"] == "up" and server["health"]["known"]
                for server in director.shunt("servers") if server["status"] != "removed"))
        with report.check("health: a killed server gets no new sessions, and does when it is back"):
            _killed(ctx)
        with report.check("health: sessions of a server that hangs are reset"):
            _hangs(ctx)
        with report.check("health: sessions of a server that hangs go on where it is inhibited"):
            _inhibited(ctx)
        with report.check("health: a server that flaps too fast for rise and fall stays as it is"):
            _flaps(ctx)
        with report.check("health: a program that is run inherits nothing of the director"):
            _programs(ctx)
        with report.check("health: the sorry server serves while all others are down"):
            _sorry(ctx)
        if ctx.start.device in ("net_tap", "net_af_packet"):
            with report.check("health: a director that was killed knows who is down"):
                _restart(ctx)
    finally:
        for server in SERVERS:
            _file(ctx, server).unlink(missing_ok=True)
            _nginx(ctx, server).popen.send_signal(signal.SIGCONT)
        with report.check("health: the usual configuration again"):
            _reload(director, usual)
            for service in _services(ctx):
                equal(service.name, _servers(ctx, service), set(SERVERS))


def _killed(ctx):
    """kill -9 of nginx under load of every mode: its kernel refuses connections from then on."""
    server = SERVERS[0]
    with _Load(ctx) as load:
        _wait(ctx, "the load runs", lambda: all(len(done) > 50 for done in load.done.values()))
        process = _nginx(ctx, server)
        killed = time.monotonic()
        process.stop(signal.SIGKILL)
        _wait(ctx, f"{server} is down", lambda: _is(ctx, server, "down"))
        down = time.monotonic()
        load.goes_on(down)
        for name, done in load.done.items():
            failed = [at for at, who in done if who is None]
            expect(failed, f"{name}: nobody noticed the death: there was no load")
            expect(min(failed) >= killed - 1, f"{name}: failures before the death")
            late = [at for at, who in done if at > down and who in (None, server)]
            equal(f"{name}: requests that fail once the server is down", len(late), 0)
            ctx.report.tell(
                f"killed server, {name}: {1000 * (max(failed) - killed):.0f} ms until no new session "
                f"goes there, {len(failed)} of {_after(done, killed, down)} requests failed")
        begun = time.monotonic()
        ctx.topology.nginx(server)
        _wait(ctx, f"{server} is up", lambda: _is(ctx, server, "up"))
        up = time.monotonic()
        load.goes_on(up)
        for name, done in load.done.items():
            again = [at for at, who in done if at > begun and who == server]
            expect(again, f"{name}: {server} gets no sessions")
            lost = [at for at, who in done if at > down and who is None]
            equal(f"{name}: requests that fail while it comes back", len(lost), 0)
            ctx.report.tell(f"server comes back, {name}: {1000 * (min(again) - begun):.0f} ms until "
                            f"its first session, 0 requests failed")


def _after(done, begin, end):
    return sum(begin <= at <= end for at, _ in done)


def _hangs(ctx):
    """SIGSTOP: the kernel accepts, nobody answers. `on_down` is reset."""
    service = _services(ctx)[0]
    with Session(ctx, service) as session:
        server = session.who()
        _nginx(ctx, server).popen.send_signal(signal.SIGSTOP)
        _wait(ctx, f"{server} is down", lambda: _is(ctx, server, "down"))
        expect(server not in _servers(ctx, service), f"{server} gets new sessions")
        try:
            answer = session.who()
        except ConnectionResetError:
            answer = None
        equal("answer to the session", answer, None)
        _nginx(ctx, server).popen.send_signal(signal.SIGCONT)
        _wait(ctx, f"{server} is up", lambda: _is(ctx, server, "up"))


def _inhibited(ctx):
    checks = {protocol: {**check, "on_failure": "inhibit"} for protocol, check in CHECKS.items()}
    _reload(ctx.director, ctx.director.toml(checks=checks))
    service = _services(ctx)[0]
    with Session(ctx, service) as session:
        server = session.who()
        _nginx(ctx, server).popen.send_signal(signal.SIGSTOP)
        _wait(ctx, f"{server} is down", lambda: _is(ctx, server, "down"))
        expect(server not in _servers(ctx, service), f"{server} gets new sessions")
        # It has a second to think about it.
        timer = threading.Timer(1, lambda: _nginx(ctx, server).popen.send_signal(signal.SIGCONT))
        timer.start()
        equal("server of the session", session.who(), server)
        timer.join()
        _wait(ctx, f"{server} is up", lambda: _is(ctx, server, "up"))


def _flaps(ctx):
    """Every other check fails, more or less: never five in a row."""
    server = SERVERS[0]
    for each in SERVERS:
        _file(ctx, each).touch()
    checks = {**FILE, "tcp": {**FILE["tcp"], "fall": 5}}
    _reload(ctx.director, ctx.director.toml(checks=checks))
    before = _health(ctx, server)
    with _Load(ctx) as load:
        for _ in range(10):
            _file(ctx, server).unlink()
            time.sleep(0.25)
            _file(ctx, server).touch()
            time.sleep(0.25)
        load.goes_on(time.monotonic())
        failed = sum(who is None for done in load.done.values() for _, who in done)
    after = _health(ctx, server)
    for name in before:
        equal(f"{name}: state and since when", (after[name]["state"], after[name]["since"]),
              (before[name]["state"], before[name]["since"]))
    misses = {name: health["failures"].get("status", 0) - before[name]["failures"].get("status", 0)
              for name, health in after.items()}
    expect(all(misses.values()), f"no check failed: {misses}")
    equal("requests that fail", failed, 0)
    ctx.report.tell(f"flapping server: {sum(misses.values())} checks failed, it stayed up, "
                    f"0 requests failed")


def _programs(ctx):
    """It lists its open files, and the server that it is asked about."""
    said = ctx.net.dir / "said"
    said.unlink(missing_ok=True)
    script = f"echo $SHUNT_VIP $(ls /proc/self/fd) > {said}.$$ && mv {said}.$$ {said}"
    program = {"type": "exec", "command": ["/bin/sh", "-c", script], **COMMON}
    _reload(ctx.director, ctx.director.toml(checks={"tcp": program, "udp": program}))
    _wait(ctx, "it says something", said.exists)
    vip, *files = said.read_text().split()
    expect(vip in {service.vip for service in ctx.services}, f"{vip} is no VIP")
    # ls itself opens the folder.
    equal("its open files", files, ["0", "1", "2", "3"])


def _sorry(ctx):
    *others, sorry = SERVERS
    for each in others:
        _file(ctx, each).touch()
    toml = ctx.director.toml(servers=others, checks=FILE, sorry=sorry)
    _reload(ctx.director, toml)
    for service in _services(ctx):
        equal(f"servers of {service.name}", _servers(ctx, service), set(others))
    for each in others:
        _file(ctx, each).unlink()
    _wait(ctx, "all are down", lambda: all(_is(ctx, server, "down") for server in others))
    for service in _services(ctx):
        equal(f"servers of {service.name}", _servers(ctx, service), {sorry})
    for each in others:
        _file(ctx, each).touch()
    _wait(ctx, "all are up", lambda: all(_is(ctx, server, "up") for server in others))
    for service in _services(ctx):
        equal(f"servers of {service.name}", _servers(ctx, service), set(others))


def _restart(ctx):
    """Its first check would come too late to tell."""
    server = SERVERS[0]
    for each in SERVERS[1:]:
        _file(ctx, each).touch()
    _file(ctx, server).unlink(missing_ok=True)
    director = ctx.director
    _reload(director, director.toml(checks=FILE))
    _wait(ctx, f"{server} alone is down", lambda: all(
        _is(ctx, each, "down" if each == server else "up") for each in SERVERS))
    _wait(ctx, "that is saved", lambda: _saved(ctx, server))
    director.kill()
    slow = {protocol: {**check, "interval": "1h", "timeout": "1s"} for protocol, check in FILE.items()}
    director.again(checks=slow)
    for service in _services(ctx):
        health = _health(ctx, server)[service.name]
        equal(f"{service.name}: state", (health["state"], health["known"]), ("down", True))
        expect(network.wait_for(lambda s=service: _answers(ctx, s), PATIENCE),
               f"{service.name} does not answer after the restart")
        equal(f"servers of {service.name}", _servers(ctx, service), set(SERVERS) - {server})


def _answers(ctx, service):
    return _ask(ctx, service) is not None


def _saved(ctx, server):
    """Whether the file has the server as down in all TCP services, and nobody else."""
    saved = json.loads(ctx.director.health.read_text())["servers"]
    ends = {(f"tcp:{s.endpoint}", endpoint(s.server_address(server), s.server_port))
            for s in ctx.services if s.protocol == "tcp"}
    return ends == {(line["service"], line["server"]) for line in saved if line["down"]}


class _Load(Background):
    """A client of each TCP service over IPv4 that asks again and again, each time by a connection of its
    own. `done` has when each request began, and who answered; None: it failed."""

    def __init__(self, ctx):
        services = _services(ctx)
        super().__init__([functools.partial(self._ask, service) for service in services])
        self.ctx = ctx
        self.done = {service.mode: [] for service in services}

    def _ask(self, service):
        while not self.ending.is_set():
            begin = time.monotonic()
            who = _ask(self.ctx, service)
            self.done[service.mode].append((begin, who))
            time.sleep(0.005)

    def goes_on(self, since):
        """Waits for some requests of every client that began after a point in time."""
        _wait(self.ctx, "the load goes on", lambda: all(
            sum(at > since for at, _ in list(done)) > 30 for done in self.done.values()))


def _ask(ctx, service):
    """One request; returns the server, or None."""
    with ctx.net.inside("c"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(3)
        try:
            sock.connect((service.vip, service.port))
            sock.sendall(b"GET /who HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
            return json.loads(answer.partition(b"\r\n\r\n")[2])["server"]
        except (OSError, ValueError):
            return None


def _services(ctx):
    """The TCP services over IPv4: one of each mode."""
    return [s for s in ctx.services if s.protocol == "tcp" and s.family is IPV4]


def _listed(ctx, server):
    """The server in each TCP service, as the director lists it, by the service's name."""
    listed = {(s["service"], s["address"]): s for s in ctx.director.shunt("servers")}
    return {s.name: listed[f"tcp:{s.endpoint}", endpoint(s.server_address(server), s.server_port)]
            for s in ctx.services if s.protocol == "tcp"}


def _is(ctx, server, status):
    return all(listed["status"] == status for listed in _listed(ctx, server).values())


def _health(ctx, server):
    return {name: listed["health"] for name, listed in _listed(ctx, server).items()}


def _nginx(ctx, server):
    """The latest: it may have been started again."""
    return [p for p in ctx.net.processes if p.name == f"{server}-nginx"][-1]


def _file(ctx, server):
    return ctx.net.dir / server / "www" / "alive"


def _wait(ctx, what, condition):
    """Waits for a condition, and until all workers know of it."""
    if not network.wait_for(lambda: condition() and _read(ctx), PATIENCE, 0.05):
        listed = [f"{s['service']} {s['address']} {s['status']} {s['health']}"
                  for s in ctx.director.shunt("servers") if "health" in s]
        expect(False, "\n".join([f"never: {what}", *listed]))


def _read(ctx):
    """Whether all workers run on the newest snapshot."""
    status = ctx.director.shunt("status")
    return status["acknowledged"] >= status["generation"]
