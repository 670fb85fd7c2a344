"""kill -9 and a new start: sessions go on, in every mode, with any number of workers and another
build; VRRP on the mirror does not notice; what cannot be taken over is refused by name.

A net_tap port vanishes with its process, and virtio_user loses its backend: there the sessions are
looked at once the cables are plugged in again. With af_packet the traffic flows all the time, and
the blackout is measured.
"""

import concurrent.futures
import hashlib
import re
import threading
import time

import net as network
from check_reload import _Session as Tcp
from client import Udp, download, http_who
from crowd import Crowd
from plan import SERVERS
from report import equal, expect
from vrrp import Vrrp

# Of a file with some sessions: what is provided ahead (64 MiB), its head, and somewhat more.
PAGES = 48


def check(ctx):
    if ctx.start.device == "virtio_user":
        return  # DPDK 22.11's vhost backend does not take a frontend that died back.
    if ctx.start.is_plugin:
        return  # The test's driver makes its TAP anew with another MAC, which peers learn late.
    director, report = ctx.director, ctx.report
    vrrp = Vrrp(ctx)
    try:
        _restarts(ctx)
        with report.check("restart: keepalived on the mirror sees no transition"):
            vrrp.stands()
    finally:
        vrrp.stop()
    with report.check("restart: a server that was removed meanwhile keeps its sessions alone"):
        _removed_meanwhile(ctx)
    with report.check("restart: a session file that is damaged is refused by name"):
        _damaged(ctx)
    if ctx.start.crowd:
        with report.check("restart: sessions in a file of huge pages go on"):
            _huge_pages(ctx)
    # As it was for the others.
    director.start = ctx.start


def _restarts(ctx):
    director, report, usual = ctx.director, ctx.report, ctx.start.workers
    release, crowd = director.shuntd, None
    if ctx.start.crowd:
        with report.check(f"restart: {4 * ctx.start.crowd} sessions begin"):
            crowd = _Crowd(ctx)
    # Three share the cores of a small machine.
    numbers = (1, 2, 3, 1) if _flows(ctx) else (usual, 3 - usual, usual)
    for number in numbers:
        what = f"a start with {number} workers"
        if number == 2 and ctx.start.crowd:
            what += " of another build"
            director.shuntd = ctx.rebuilt
        with report.check(f"restart: sessions go on after kill -9 and {what}"):
            expect(director.shuntd == release or
                   release.read_bytes() != ctx.rebuilt.read_bytes(), "it is the same build")
            _goes_on(ctx, number, crowd)
        director.shuntd = release
    if crowd:
        crowd.close()


def _flows(ctx):
    """Whether the director's cables outlive it."""
    return ctx.start.device == "net_af_packet"


def _goes_on(ctx, workers, crowd=None):
    """Idle TCP and UDP sessions of every service, downloads and UDP flows of every mode."""
    flowing = _flows(ctx)
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
        died = time.monotonic()
        ctx.director.again(workers=workers)
        answers = time.monotonic()
        for service, was, session in zip(ctx.services, before, idle):
            equal(f"{service.name}: who answers whom", session.view(), was)
        for name, done in downloads.items():
            equal(f"{name}: SHA-256 of the download", done.result(), wanted)
        equal("mirrors, and how often their carrier changed", _mirrors(ctx), mirrors)
        adopted, census = _adopted(ctx)
        ctx.report.tell(
            f"to {workers} workers: {_blackout(flows)}died in {_ms(died - begin)}, answers after "
            f"{_ms(answers - begin)}; {census}")
        if crowd:
            crowd.stands(adopted)
    finally:
        for flow in flows:
            flow.stop()
        pool.shutdown()
        for session in idle:
            session.close()


class _Crowd:
    """Very many sessions that must go on."""

    def __init__(self, ctx):
        self.crowd = Crowd(ctx, ctx.start.crowd)
        self.shunt = ctx.director.shunt
        self.before = self.crowd.view()

    def close(self):
        self.crowd.close()

    def stands(self, adopted):
        """Fails if one of them is gone, or at another server, or comes from another local port."""
        number = self.crowd.number
        expect(adopted >= number, f"of {number} sessions and more {adopted} go on")
        expect(self.shunt("status")["sessions"] >= number, "there are fewer in the API's count")
        created = self._created()
        view = self.crowd.view()
        equal("sessions that were made anew", self._created() - created, 0)
        for server, now in view.items():
            was = self.before[server]
            expect(now == was, f"{server}: {len(was - now)} sessions of {len(was)} are gone, "
                               f"{len(now - was)} are new: {sorted(was ^ now)[:4]}")

    def _created(self):
        return self.shunt("counters")["total"]["counters"]["sessions_created"]


def _ms(seconds):
    return f"{seconds * 1000:.0f} ms"


def _blackout(flows):
    """The longest time without an answer, of each mode; of none where nothing flows."""
    longest = {}
    for flow in flows:
        mode = flow.service.mode
        longest[mode] = max(longest.get(mode, 0.0), flow.end())
    return "".join(f"{mode} {_ms(gap)}, " for mode, gap in longest.items())


def _adopted(ctx):
    """How many sessions go on, as shuntd says, and its words. Fails if it lost any."""
    said = ctx.director.process.tail(1000)
    expect(not any("sessions were lost" in line for line in said), "\n".join(said))
    lines = [line for line in said if "sessions go on" in line]
    expect(lines, "shuntd does not tell that sessions go on")
    census = lines[0].partition("sessions go on ")[2]
    return int(re.match(r"adopted=(\d+)", census)[1]), census


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


def _huge_pages(ctx):
    director, usual = ctx.director, ctx.director.sessions
    director.kill()
    usual.unlink()
    try:
        with ctx.net.huge_pages(PAGES) as folder:
            director.sessions = folder / "sessions"
            # For itself DPDK shall leave them alone.
            director.dpdk = {"hugepages": "off"}
            director.again(workers=ctx.start.workers)
            equal("the file's size in huge pages", director.sessions.stat().st_size % (2 << 20), 0)
            expect(ctx.net.free_huge_pages() < PAGES, "no huge page is in use")
            _goes_on(ctx, 1)
            director.kill()
    finally:
        director.sessions, director.dpdk = usual, {}
        director.again(workers=ctx.start.workers)


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
