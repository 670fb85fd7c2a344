"""Drains and slow start with real clients: a server is drained under long downloads, with each policy at
the deadline and a command that waits; a server is killed, and hangs, under load with each `on_down`, and
comes back slowly. What operators ask for is printed: who fails for how long, who gets how much."""

import http.client
import json
import re
import signal
import socket
import subprocess
import threading
import time

import net as network
from check_health import CHECKS, _is, _nginx, _reload, _servers, _services, _wait
from check_reload import tcp_timeouts
from client import Background, Udp, udp_who
from plan import IPV4, SERVERS, endpoint
from report import equal, expect

# Sessions that were closed are gone at once, or waiting for their end would take minutes.
QUICK = tcp_timeouts("1s")
POLICIES = ("finish", "hold", "reschedule", "reset")
RAMP = 8  # seconds
CLIENT_GIVES_UP = 3  # seconds


def check(ctx):
    director, report = ctx.director, ctx.report
    services = [s for s in _services(ctx) if s.mode in ("nat", "dr", "fullnat")][:2]
    steps = [
        (f"{service.name}: drain: downloads go on until the deadline, then {then}", _deadline, service, then)
        for service in services for then in ("finish", "reset")]
    steps += [
        ("drain: who waits is told when the last session has ended", _gone, services[0]),
        ("drain: who waits is told of a cancellation; Ctrl-C cancels nothing", _cancelled, services[0]),
        ("drain: UDP flows stay until the deadline, then they move", _udp)]
    if ctx.start.device in ("net_tap", "net_af_packet"):
        steps += [("drain: it outlives kill -9, and who waits waits on", _restart, services[0])]
    if ctx.start.device == "net_tap":
        steps += [
            (f"on_down {policy}: no new session to a server that got {how.name}", _dies, how, policy)
            for how in (signal.SIGKILL, signal.SIGSTOP) for policy in POLICIES]
    steps += [("slow start: a server that comes back gets more and more", _comes_back)]
    try:
        for name, step, *arguments in steps:
            with report.check(name):
                _reload(director, director.toml(more=QUICK))
                _cancel_all(ctx)
                step(ctx, *arguments)
    finally:
        for server in SERVERS:
            _nginx(ctx, server).popen.send_signal(signal.SIGCONT)
        with report.check("drain: the usual configuration again"):
            _reload(director, director.toml())
            _cancel_all(ctx)
            for service in _services(ctx):
                equal(service.name, _servers(ctx, service), set(SERVERS))


def _cancel_all(ctx):
    for drain in ctx.director.shunt("drains"):
        ctx.director.shunt("drain", "cancel", drain["service"], drain["server"])
    _wait(ctx, "nobody is drained", lambda: not ctx.director.shunt("drains"))


# Draining

class _Download:
    """A client that reads a large file slowly. It asks who serves first, over the same connection."""

    def __init__(self, ctx, service):
        with ctx.net.inside("c"):
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # What the server may send ahead is little.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        self.sock.settimeout(10)
        self.sock.connect((service.vip, service.port))
        self.sock.sendall(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b'}\n' not in answer:
            answer += self.sock.recv(4096)
        self.server = answer.partition(b'"server": "')[2].partition(b'"')[0].decode()
        self.sock.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        self.bytes = 0
        self.ended = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        while not self.closing.is_set():
            try:
                piece = self.sock.recv(1 << 12)
            except OSError as error:
                self.ended = type(error).__name__
                return
            if not piece:
                self.ended = "end"
                return
            self.bytes += len(piece)
            time.sleep(0.01)

    def goes_on(self):
        """Whether more comes."""
        before = self.bytes
        return bool(network.wait_for(lambda: self.bytes > before or self.ended, 5)) and not self.ended

    def close(self):
        self.closing.set()
        self.thread.join()
        self.sock.close()


class _Downloads:
    """One download from every server at least; `to` are those from the first."""

    def __init__(self, ctx, service):
        self.all = [_Download(ctx, service) for _ in range(2 * len(SERVERS))]
        self.server = self.all[0].server
        self.to = [d for d in self.all if d.server == self.server]
        self.others = [d for d in self.all if d.server != self.server]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for download in self.all:
            download.close()


class _Shunt:
    """The command, running."""

    def __init__(self, ctx, *args):
        self.popen = subprocess.Popen(
            [ctx.director.binaries / "shunt", "--socket", ctx.director.socket, *args], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self):
        """Exit status, standard output, standard error."""
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


def _name(service):
    return f"{service.protocol}:{service.endpoint}"


def _at(service, server):
    """The server of the service, as arguments."""
    return _name(service), endpoint(service.server_address(server), service.server_port)


def _drained(ctx, service, server):
    """Waits until the drain is in force."""
    where = _at(service, server)
    _wait(ctx, f"{server} is drained", lambda: any(
        (d["service"], d["server"]) == where for d in ctx.director.shunt("drains")))


def _deadline(ctx, service, then):
    with _Downloads(ctx, service) as downloads:
        server, to = downloads.server, downloads.to
        expect(downloads.others, "all downloads come from one server")
        where = _at(service, server)
        command = _Shunt(ctx, "drain", "start", *where, "--deadline", "1h", "--wait")
        _drained(ctx, service, server)
        expect(server not in _servers(ctx, service), f"{server} gets new sessions")
        expect(all(d.goes_on() for d in to), "a download ended before the deadline")
        expect(command.popen.poll() is None, "who waits did not wait")
        # Now that all of that was seen it may come.
        ctx.director.shunt("drain", "start", *where, "--deadline", "1s", "--then", then)
        status, _, err = command.end()
        equal("exit status", status, 5)
        expect("sessions left" in err and "deadline in" in err, f"it told no progress:\n{err}")
        # Sessions that were closed a moment ago count, too.
        said = re.search(rf"the deadline came first, (\d+) sessions were left: {then}$", err.strip())
        expect(said and int(said[1]) >= len(to), f"it told not how it ended:\n{err}")
        if then == "finish":
            expect(all(d.goes_on() for d in to), "a download ended at the deadline")
        else:
            expect(network.wait_for(lambda: all(d.ended for d in to), 10), "a download goes on")
            equal("how downloads ended", {d.ended for d in to}, {"ConnectionResetError"})
        expect(all(d.goes_on() for d in downloads.others), "another server's download ended")
        expect(server not in _servers(ctx, service), f"{server} gets new sessions after the deadline")
        ctx.report.tell(f"drain, {service.name}, {then}: {len(to)} downloads; said: "
                        f"{err.splitlines()[0]} ... {err.splitlines()[-1]}")
    ctx.director.shunt("drain", "cancel", *where)
    _wait(ctx, "workers know", lambda: True)
    equal("servers after the cancellation", _servers(ctx, service), set(SERVERS))


def _gone(ctx, service):
    with _Downloads(ctx, service) as downloads:
        server = downloads.server
        command = _Shunt(ctx, "drain", "start", *_at(service, server), "--deadline", "1h",
                         "--then", "reset", "--wait")
        _drained(ctx, service, server)
        for download in downloads.to:
            expect(command.popen.poll() is None, "who waits did not wait")
            download.close()
        status, out, _ = command.end()
        equal("exit status", status, 0)
        expect("no session is left" in out, f"it said: {out}")
        expect(all(d.goes_on() for d in downloads.others), "another server's download ended")
        # Removing it now is nobody's business.
        rest = [each for each in SERVERS if each != server]
        _reload(ctx.director, ctx.director.toml(servers=rest, more=QUICK))
        equal("drains", ctx.director.shunt("drains"), [])
        expect(all(d.goes_on() for d in downloads.others), "the removal ended a download")
        _reload(ctx.director, ctx.director.toml(more=QUICK))
        equal("servers", _servers(ctx, service), set(SERVERS))


def _cancelled(ctx, service):
    with _Downloads(ctx, service) as downloads:
        server = downloads.server
        where = _at(service, server)
        command = _Shunt(ctx, "drain", "start", *where, "--wait")
        _drained(ctx, service, server)
        command.popen.send_signal(signal.SIGINT)
        status, _, _ = command.end()
        equal("exit status of Ctrl-C", status, -signal.SIGINT)
        expect(server not in _servers(ctx, service), f"{server} gets new sessions")
        command = _Shunt(ctx, "drain", "wait", *where)
        expect(command.popen.stderr.readline(), "it told no progress")
        ctx.director.shunt("drain", "cancel", *where)
        status, _, err = command.end()
        equal("exit status", status, 6)
        expect("cancelled" in err, f"it said: {err}")
        expect(all(d.goes_on() for d in downloads.all), "a download ended")


def _udp(ctx):
    service = next(s for s in ctx.services
                   if s.protocol == "udp" and s.family is IPV4 and s.mode in ("nat", "fullnat"))
    with Udp(ctx.net, service) as udp:
        server = udp.who().server
        where = _at(service, server)
        ctx.director.shunt("drain", "start", *where, "--deadline", "1h")
        _drained(ctx, service, server)
        expect(server not in {udp_who(ctx.net, service).server for _ in range(6)},
               f"{server} gets new flows")
        equal("server of the flow", udp.who().server, server)
        ctx.director.shunt("drain", "start", *where, "--deadline", "1s", "--then", "reschedule")
        _wait(ctx, "the deadline has come", lambda: all(
            d["state"] == "deadline" for d in ctx.director.shunt("drains")))
        expect(udp.who().server != server, "the flow did not move")
    ctx.director.shunt("drain", "cancel", *where)


def _restart(ctx, service):
    with _Downloads(ctx, service) as downloads:
        server = downloads.server
        where = _at(service, server)
        command = _Shunt(ctx, "drain", "start", *where, "--deadline", "1h", "--wait")
        _drained(ctx, service, server)
        # It is saved within a second.
        expect(network.wait_for(lambda: _saved(ctx) == [where], 10), "it is not saved")
        ctx.director.kill()
        ctx.director.again(more=QUICK)
        expect(command.popen.poll() is None, "who waits did not wait for the restart")
        expect(server not in _servers(ctx, service), f"{server} gets new sessions")
        expect(all(d.goes_on() for d in downloads.to), "a download ended")
        for download in downloads.to:
            download.close()
        status, _, err = command.end()
        equal(f"exit status; it said:\n{err}", status, 0)
    ctx.director.shunt("drain", "cancel", *where)


def _saved(ctx):
    """The drains in the file."""
    try:
        drains = json.loads(ctx.director.health.read_text())["drains"]
    except FileNotFoundError:
        return []
    return [(drain["service"], drain["server"]) for drain in drains]


# Servers that die and come back

class _Load(Background):
    """Clients of a service that ask again and again, in turn over a connection of their own for each request
    and over one that they keep. `done` has when each request began and ended, who answered (None: it failed),
    and whether it had a connection of its own."""

    CLIENTS = 9

    def __init__(self, ctx, service):
        super().__init__([self._run] * self.CLIENTS)
        self.ctx, self.service = ctx, service
        self.done = []

    def _run(self):
        kept = None
        while not self.ending.is_set():
            fresh = self._ask(None, True)
            if fresh:
                fresh.close()
            kept = self._ask(kept, False)
            time.sleep(0.01)
        if kept:
            kept.close()

    def _ask(self, connection, own):
        """One request; returns the connection if it is good."""
        begin = time.monotonic()
        who = None
        try:
            connection = connection or self._connect()
            connection.request("GET", "/who")
            body = connection.getresponse().read()
            who = body.partition(b'"server": "')[2].partition(b'"')[0].decode()
        except (OSError, http.client.HTTPException):
            connection = None
        self.done.append((begin, time.monotonic(), who, own))
        return connection

    def _connect(self):
        with self.ctx.net.inside("c"):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(CLIENT_GIVES_UP)
        connection = http.client.HTTPConnection(self.service.vip, self.service.port)
        connection.sock = sock
        sock.connect((self.service.vip, self.service.port))
        return connection

    def goes_on(self, since, requests=100):
        """Waits for some requests that began after a point in time."""
        expect(network.wait_for(lambda: sum(d[0] > since for d in list(self.done)) > requests, 20, 0.05),
               "the load does not go on")


def _dies(ctx, how, policy):
    service = _services(ctx)[0]
    server = SERVERS[0]
    _reload(ctx.director, ctx.director.toml(checks=CHECKS, more={**QUICK, "on_down": policy}))
    with _Load(ctx, service) as load:
        load.goes_on(time.monotonic())
        process = _nginx(ctx, server)
        died = time.monotonic()
        if how is signal.SIGKILL:
            process.stop(how)
        else:
            process.popen.send_signal(how)
        try:
            _wait(ctx, f"{server} is down", lambda: _is(ctx, server, "down"))
            down = time.monotonic()
            load.goes_on(down)
        finally:
            if how is signal.SIGKILL:
                ctx.topology.nginx(server)
            else:
                process.popen.send_signal(signal.SIGCONT)
    done = [d for d in load.done if d[1] > died]
    failed = [d for d in done if d[2] is None]
    late = [d for d in done if d[3] and d[0] > down and d[2] in (None, server)]
    equal("new sessions that fail once the server is down", len(late), 0)
    expect(failed, "nobody noticed: there was no load")
    last = max([d[0] for d in done if d[3] and d[2] in (None, server)], default=died)
    longest = max(d[1] - d[0] for d in failed)
    if policy == "reset":
        # Its clients are told at once, those that say nothing, too.
        expect(longest < CLIENT_GIVES_UP, f"a client waited until it gave up: {longest} s")
    own = sum(d[3] for d in failed)
    ctx.report.tell(
        f"{how.name}, on_down {policy}, {service.name}: {1000 * (last - died):.0f} ms until no new session "
        f"goes there; of {len(done)} requests failed {own} over a new connection and "
        f"{len(failed) - own} over a kept one, after {1000 * longest:.0f} ms at most")
    _wait(ctx, f"{server} is up", lambda: _is(ctx, server, "up"))


def _comes_back(ctx):
    """Its share in each quarter of the ramp grows, to that of the others."""
    service = _services(ctx)[0]
    server = SERVERS[0]
    more = {**QUICK, "scheduler": "wrr", "slow_start": f"{RAMP}s"}
    _reload(ctx.director, ctx.director.toml(checks=CHECKS, more=more))
    with _Load(ctx, service) as load:
        _nginx(ctx, server).stop(signal.SIGKILL)
        try:
            _wait(ctx, f"{server} is down", lambda: _is(ctx, server, "down"))
        finally:
            ctx.topology.nginx(server)
        _wait(ctx, f"{server} is up", lambda: _is(ctx, server, "up"))
        begin = time.monotonic()
        slow = [s for s in ctx.director.shunt("servers") if "slow_start" in s]
        expect(slow, "nobody is shown as slow")
        _wait(ctx, "it has its whole weight", lambda: not any(
            "slow_start" in s for s in ctx.director.shunt("servers")))
        whole = time.monotonic()
        load.goes_on(whole, 300)
    shares = []
    bounds = [begin + n * (whole - begin) / 4 for n in range(5)] + [time.monotonic()]
    for since, until in zip(bounds, bounds[1:]):
        got = [d[2] for d in load.done if d[3] and since <= d[0] < until]
        expect(None not in got, "requests fail while it comes back")
        shares.append(got.count(server) / len(got))
    ctx.report.tell(f"slow start of {RAMP} s, {service.name}: its share of new sessions in quarters of the "
                    f"time and after it: {', '.join(f'{100 * share:.1f} %' for share in shares)}")
    for before, after in zip(shares, shares[1:]):
        expect(after > before - 0.02, f"its share fell: {shares}")
    expect(shares[0] < shares[4] / 2, f"it did not begin slowly: {shares}")
    expect(0.30 < shares[4] < 0.37, f"it has not a third in the end: {shares}")
    weights = {s["weight"] for s in ctx.director.shunt("servers") if s["status"] == "up"}
    equal("weights", weights, {1})
