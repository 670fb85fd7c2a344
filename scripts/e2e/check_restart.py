"""kill -9 and a new start: sessions go on, in every mode, with any number of workers; what cannot be
taken over is refused by name.

A net_tap port vanishes with its process, and virtio_user loses its backend: there the sessions are
looked at once the cables are plugged in again. With af_packet the traffic flows all the time, and
the blackout is measured.
"""

import concurrent.futures
import hashlib
import os
import threading
import time

import net as network
from check_reload import _Session as Tcp
from client import Udp, download, http_who
from plan import SERVERS
from report import equal, expect


def check(ctx):
    if ctx.start.device == "virtio_user":
        return  # DPDK 22.11's vhost backend does not take a frontend that died back.
    if ctx.start.is_plugin:
        return  # The test's driver makes its TAP anew with another MAC, which peers learn late.
    director, report = ctx.director, ctx.report
    usual = ctx.start.workers
    numbers = [usual, *(n for n in (2, 1) if n <= os.cpu_count() and n != usual), usual]
    for number in numbers:
        with report.check(f"restart: sessions go on after kill -9 and a start with {number} workers"):
            _goes_on(ctx, number)
    with report.check("restart: a server that was removed meanwhile keeps its sessions alone"):
        _removed_meanwhile(ctx)
    with report.check("restart: a session file that is damaged is refused by name"):
        _damaged(ctx)
    # As it was for the others.
    director.start = ctx.start


def _goes_on(ctx, workers):
    """Idle TCP and UDP sessions of every service, downloads and UDP flows of every mode."""
    flowing = ctx.start.device == "net_af_packet"
    mirrors = _mirrors(ctx)
    idle = [_Idle(ctx, service) for service in ctx.services]
    before = [session.view() for session in idle]
    flows = [_Flow(ctx, s) for s in ctx.services if s.protocol == "udp" and flowing]
    pool = concurrent.futures.ThreadPoolExecutor(8)
    wanted = hashlib.sha256((ctx.net.dir / "big").read_bytes()).hexdigest()
    downloads = {
        s.name: pool.submit(download, ctx.net, s, "big")
        for s in ctx.services if s.protocol == "tcp" and s.family.version == 4 and flowing}
    try:
        if flowing:
            time.sleep(0.3)  # the downloads are in the middle
        begin = time.monotonic()
        ctx.director.kill()
        ctx.director.again(workers=workers)
        took = time.monotonic() - begin
        for service, was, session in zip(ctx.services, before, idle):
            equal(f"{service.name}: who answers whom", session.view(), was)
        for name, done in downloads.items():
            equal(f"{name}: SHA-256 of the download", done.result(), wanted)
        equal("mirrors, and how often their carrier changed", _mirrors(ctx), mirrors)
        blackout = [flow.end() for flow in flows]
        told = f", blackout {max(blackout) * 1000:.0f} ms" if blackout else ""
        print(f"      {ctx.start.name}: answers {took * 1000:.0f} ms after the kill{told}; "
              f"{_adopted(ctx)}", flush=True)
    finally:
        for flow in flows:
            flow.stop()
        pool.shutdown()
        for session in idle:
            session.close()


def _adopted(ctx):
    lines = [line for line in ctx.director.process.tail(1000) if "sessions go on" in line]
    expect(lines, "shuntd does not tell that sessions go on")
    return lines[0].partition("sessions go on ")[2]


def _mirrors(ctx):
    """Carrier changes of each TAP that mirrors a port."""
    names = [link["ifname"] for link in ctx.net.ip_json("d", "link", "show")]
    read = ctx.net.run("d", "sh", "-c", "cd /sys/class/net; grep -H . */carrier_changes")
    counts = dict(line.split("/carrier_changes:") for line in read.splitlines())
    return {name: counts.get(name) for name in names if name.startswith("shunt")}


def _removed_meanwhile(ctx):
    service = next(s for s in ctx.services if s.protocol == "tcp")
    with Tcp(ctx, service) as session:
        server = session.who()
        others = [name for name in SERVERS if name != server]
        ctx.director.kill()
        ctx.director.again(workers=ctx.start.workers, servers=others)
        equal("server of the running session", session.who(), server)
        seen = {http_who(ctx.net, service).server for _ in range(6)}
        equal("servers of new sessions", seen, set(others))
        ctx.director.kill()
        ctx.director.again(workers=ctx.start.workers)
        equal("server of the running session, back again", session.who(), server)


def _damaged(ctx):
    director = ctx.director
    director.kill()
    with open(director.sessions, "r+b") as file:
        file.seek(50)
        file.write(b"damage")
    process = ctx.net.spawn("d", "shuntd-damaged", director.shuntd, "--config", director.config)
    expect(network.wait_for(lambda: not process.running(), 20), "shuntd starts")
    said = "\n".join(process.tail())
    equal("exit status", process.popen.returncode, 1)
    for word in str(director.sessions), "corrupted", "--discard-sessions":
        expect(word in said, f"{word!r} is missing in the message:\n{said}")
    director.again("--discard-sessions", workers=ctx.start.workers)
    equal("sessions", director.shunt("sessions")["sessions"], [])


class _Idle:
    """A session that nothing is sent in while the director is away."""

    def __init__(self, ctx, service):
        self.session = Tcp(ctx, service) if service.protocol == "tcp" else Udp(ctx.net, service)

    def view(self):
        """The server, and over UDP also whom it and the client saw."""
        return self.session.who()

    def close(self):
        self.session.__exit__()


class _Flow:
    """Datagrams of one UDP session, every few milliseconds; the longest time without an answer."""

    STEP = 0.005

    def __init__(self, ctx, service):
        self.udp = Udp(ctx.net, service)
        self.first = self.udp.who()
        self.service = service
        self.running = True
        self.gap = 0.0
        self.strange = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        last = time.monotonic()
        while self.running:
            self.udp.send(b"who")
            answer = self.udp.receive(self.STEP)
            if answer:
                now = time.monotonic()
                self.gap = max(self.gap, now - last)
                last = now
                if self.first.server.encode() not in answer[0]:
                    self.strange = answer
                time.sleep(self.STEP)

    def stop(self):
        self.running = False
        self.thread.join()
        self.udp.socket.close()

    def end(self):
        """The longest gap, in seconds."""
        self.running = False
        self.thread.join()
        equal(f"{self.service.name}: answers of another server", self.strange, None)
        return self.gap
