"""Fail-over between two directors by Debian's keepalived: with the files that docs/keepalived.md tells
(device and socket alone are others). What is killed is keepalived, the director, and the port's link;
each time the VIPs move, are announced out of the other port, and come back. Measured are the time until
a new connection is answered, and how long a running download gets nothing.

    client --- router ---+--- a, b: the directors, one port each
                         +--- p, q: real servers
"""

import contextlib
import hashlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import net as network
from capture import ARP, PcapReader
from report import Failed, equal, expect

DOCS = network.LIB.parent.parent / "docs" / "keepalived.md"
# As the document has them.
ADDRESSES = {"a": "192.0.2.2", "b": "192.0.2.3"}
SERVERS = {"p": "192.0.2.5", "q": "192.0.2.6"}
ROUTER, DIRECT, NAT, GATEWAY = "192.0.2.1", "192.0.2.100", "192.0.2.101", "192.0.2.4"
CLIENT, OUTSIDE = "198.51.100.10", "198.51.100.1"
# Far more than it takes: VRRP needs a second, and the track script two.
SECONDS = 20


def check(ctx):
    with contextlib.ExitStack() as stack:
        pair = Pair(ctx)
        stack.callback(pair.close)
        with ctx.report.check("failover: two directors settle, a is master"):
            pair.begin()
        with ctx.report.check("failover: the master serves downloads by DR and by NAT"):
            for vip in DIRECT, NAT:
                equal(f"SHA-256 of {vip}", pair.curl(vip), pair.digest)
        for fault in Keepalived(pair), Link(pair), Shuntd(pair):
            with ctx.report.check(f"failover: {fault.name}: the VIPs move, a DR download goes on"):
                _fails(pair, fault)
        with ctx.report.check("failover: a NAT download is reset when its client sends again"):
            _nat(pair)


def _fails(pair, fault):
    download = Download(pair, DIRECT)
    try:
        download.reaches(0.1)
        announced = Announcements(pair, "b")
        with announced:
            begin = time.monotonic()
            fault.strike()
            times = {vip: pair.answered(vip, begin) for vip in (DIRECT, NAT)}
            pair.settles("b")
        equal("gratuitous ARP for", announced.vips(), {DIRECT, NAT, GATEWAY})
        equal("the router's MAC of the VIP", pair.neighbour(DIRECT), pair.directors["b"].mac)
        download.moves()
        over = download.gap
        back = Announcements(pair, "a")
        with back:
            fault.mend()
            again = network.wait_for(lambda: DIRECT in back.vips(), SECONDS, 0.2)
            expect(again, f"no gratuitous ARP for {DIRECT} after a is back")
            pair.settles("a")
        pair.answered(DIRECT, time.monotonic())
        equal("SHA-256 of the download", download.end(), pair.digest)
        pair.report.tell(
            f"failover: {fault.name}: new connections after {_ms(times[DIRECT])} (DR), "
            f"{_ms(times[NAT])} (NAT); longest gap of a DR download {_ms(over)}, "
            f"with the way back {_ms(download.gap)}")
    finally:
        download.close()


def _nat(pair):
    """The standby has no translation: the server's segments find no way, the client's are answered
    with a reset."""
    download, fault = Download(pair, NAT), Link(pair)
    try:
        download.reaches(0.1)
        fault.strike()
        pair.answered(NAT, time.monotonic())
        pair.settles("b")
        download.speak()
        expect(network.wait_for(lambda: download.error, SECONDS), "the download was not reset")
        expect(isinstance(download.error, ConnectionResetError), f"it ended by {download.error!r}")
    finally:
        download.close()
        fault.mend()
    pair.settles("a")


def _ms(seconds):
    return f"{1000 * seconds:.0f} ms"


def block(language):
    """The block of the document that is for the test."""
    found = re.findall(rf"^```{language} failover\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    equal(f"blocks of {language} in {DOCS.name}", len(found), 1)
    return found[0]


class Pair:
    """Both directors and all around them."""

    def __init__(self, ctx):
        self.net, self.report = ctx.net, ctx.report
        self.binaries = ctx.director.binaries
        big = self.net.dir / "big"
        self.digest = hashlib.sha256(big.read_bytes()).hexdigest()
        self.size = big.stat().st_size
        self.directors = {name: Director(self, name) for name in ADDRESSES}

    def begin(self):
        net = self.net
        nodes = ["fc", "fr", *(f"f{name}" for name in [*ADDRESSES, *SERVERS])]
        net.add(*nodes)
        net.switch("foutside", "finside")
        net.cable("fc", "eth0", "foutside", f"{CLIENT}/24")
        net.ip("fc", "route", "add", "default", "via", OUTSIDE)
        net.cable("fr", "outer", "foutside", f"{OUTSIDE}/24")
        net.cable("fr", "inner", "finside", f"{ROUTER}/24")
        net.sysctl("fr", "net.ipv4.ip_forward=1")
        for name, address in SERVERS.items():
            self._server(f"f{name}", address)
        for director in self.directors.values():
            director.begin()
        for director in self.directors.values():
            director.keepalived()
        self.settles("a")

    def _server(self, node, address):
        """A server of both services: the way back of DR is the router, of NAT the gateway."""
        net = self.net
        net.cable(node, "eth0", "finside", f"{address}/24")
        net.sysctl(node, "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
        net.address(node, "lo", f"{DIRECT}/32")
        net.ip(node, "route", "add", "default", "via", GATEWAY)
        net.ip(node, "route", "add", "default", "table", "100", "via", ROUTER)
        net.ip(node, "rule", "add", "from", DIRECT, "lookup", "100")
        home = net.dir / node
        (home / "www").mkdir(parents=True)
        (home / "www" / "big").symlink_to(net.dir / "big")
        text = (network.LIB / "nginx.conf").read_text()
        (home / "nginx.conf").write_text(text.replace("@NAME@", node).replace("@DIR@", str(home)))
        net.spawn(node, f"{node}-nginx", "nginx", "-e", home / "nginx.log", "-c", home / "nginx.conf")
        up = network.wait_for(lambda: ":8080 " in net.run(node, "ss", "-Hlnt"), 10)
        expect(up, f"nginx of {node} does not listen")

    def curl(self, vip):
        """Downloads the file; its SHA-256."""
        file = self.net.dir / "failover-download"
        self.net.run("fc", "curl", "-sS", "--noproxy", "*", "--max-time", "60", "-o", file,
                     f"http://{vip}/big", timeout=70)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def answered(self, vip, begin):
        """Seconds from `begin` until a new connection was answered."""
        def tried():
            with self.connection() as connection:
                # Another one each time: a SYN that is lost is sent again a second later only.
                connection.settimeout(0.2)
                try:
                    connection.connect((vip, 80))
                    connection.sendall(b"GET /who HTTP/1.0\r\n\r\n")
                    return b"200 OK" in connection.recv(4096)
                except OSError:
                    return False
        expect(network.wait_for(tried, SECONDS), f"{vip} did not answer within {SECONDS} s")
        return time.monotonic() - begin

    def connection(self):
        with self.net.inside("fc"):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def settles(self, master):
        """Waits until this one, and of those that can be reached it alone, is master."""
        def settled():
            states = {name: d.state() for name, d in self.directors.items() if d.reachable}
            others = {state for name, state in states.items() if name != master}
            return states.get(master) == "MASTER" and "MASTER" not in others \
                and self.neighbour(DIRECT) in (self.directors[master].mac, None)
        if not network.wait_for(settled, SECONDS, 0.05):
            said = {name: d.said() for name, d in self.directors.items()}
            raise Failed(f"{master} is not master, or the router does not know: "
                         f"{self.neighbour(DIRECT)}, {said}")

    def neighbour(self, address):
        """The router's MAC of an address."""
        known = self.net.ip_json("fr", "neigh", "show", "dev", "inner", "to", address)
        return known[0].get("lladdr") if known else None

    def close(self):
        for director in self.directors.values():
            director.end()


class Director:
    """shuntd and keepalived on one of the two."""

    def __init__(self, pair, name):
        self.pair, self.net, self.name = pair, pair.net, name
        self.node = f"f{name}"
        self.mac = f"02:00:00:00:fa:{ord(name):02x}"
        self.socket = self.net.dir / f"{self.node}.sock"
        self.instance = f"{self.net.prefix}{name}"
        self.vrrp_pid = self.net.dir / f"{self.node}-vrrp.pid"
        self.process = self.vrrp = None
        self.reachable = True

    def begin(self):
        self.net.sysctl(self.node, "net.ipv6.conf.default.disable_ipv6=1")
        self.net.cable(self.node, "wire0", "finside")
        self.start()
        self.net.address(self.node, "shunt0", f"{ADDRESSES[self.name]}/24")
        self.net.ip(self.node, "route", "add", "default", "via", ROUTER, "dev", "shunt0")

    def start(self):
        """shuntd with the document's file; device, names and paths are the test's."""
        toml = block("toml").replace(
            'device = "0000:3b:00.0"', f'device = "net_tap0,iface=dtap0,mac={self.mac}"')
        expect("net_tap0" in toml, "the document's device is another one")
        config = self.net.dir / f"{self.node}.toml"
        config.write_text(f"""
[daemon]
socket = "{self.socket}"
name = "{self.instance}"
{toml}""")
        self.process = self.net.spawn(
            self.node, f"shuntd-{self.node}", self.pair.binaries / "shuntd", "--config", config)
        up = network.wait_for(lambda: self.answers() or not self.process.running(), 30)
        expect(up and self.process.running(), "\n".join(self.process.tail()))
        self.net.patch(self.node, "dtap0", "wire0")

    def answers(self):
        try:
            self.shunt("status")
            return True
        except (OSError, subprocess.SubprocessError):
            return False

    def shunt(self, *arguments):
        return network.run(str(self.pair.binaries / "shunt"), "--socket", str(self.socket), *arguments)

    def keepalived(self):
        text = block("keepalived").replace(
            "/usr/local/sbin/shunt status",
            f"{self.pair.binaries.resolve()}/shunt --socket {self.socket} status")
        if self.name == "b":
            text = text.replace("router_id a", "router_id b").replace("priority 150", "priority 100")
        config = self.net.dir / f"keepalived-{self.node}.conf"
        config.write_text(text)
        self.vrrp = self.net.spawn(
            self.node, f"keepalived-{self.node}", "keepalived", "--dont-fork", "--log-console",
            "--vrrp", "--use-file", config, "--pid", self.net.dir / f"keepalived-{self.node}.pid",
            "--vrrp_pid", self.vrrp_pid)

    def said(self):
        return [line for line in self.vrrp.tail(1000) if "STATE" in line][-6:]

    def state(self):
        """The state of its VRRP, as it said last."""
        states = re.findall(r"Entering (\w+) STATE", "\n".join(self.vrrp.tail(1000)))
        return states[-1] if states else None

    def end(self):
        for process in self.vrrp, self.process:
            if process:
                process.stop()
        for end in "sessions", "health":
            (pathlib.Path("/dev/shm") / f"{self.instance}.{end}").unlink(missing_ok=True)


class Keepalived:
    """keepalived of a is killed, and its child: no word of farewell, and the addresses stay."""

    name = "keepalived is killed"

    def __init__(self, pair):
        self.director = pair.directors["a"]

    def strike(self):
        director = self.director
        child = int(director.vrrp_pid.read_text())
        director.reachable = False
        # The child first: it would say farewell when its parent dies.
        os.kill(child, signal.SIGKILL)
        director.vrrp.stop(signal.SIGKILL)

    def mend(self):
        self.director.vrrp_pid.unlink(missing_ok=True)
        self.director.keepalived()
        self.director.reachable = True


class Shuntd:
    """The director a is killed; its mirror stays."""

    name = "the director is killed"

    def __init__(self, pair):
        self.director = pair.directors["a"]

    def strike(self):
        self.director.process.stop(signal.SIGKILL)

    def mend(self):
        self.director.start()


class Link:
    """The link of a's port goes down."""

    name = "the port's link is down"

    def __init__(self, pair):
        self.director = pair.directors["a"]

    def strike(self):
        self.director.reachable = False
        self.director.net.ip(self.director.node, "link", "set", "wire0", "down")

    def mend(self):
        self.director.net.ip(self.director.node, "link", "set", "wire0", "up")
        self.director.reachable = True


class Announcements:
    """The gratuitous ARP that leaves a director's port."""

    def __init__(self, pair, name):
        self.net, self.mac = pair.net, pair.directors[name].mac
        self.wire = f"f{name}-wire0"
        self.file = self.net.dir / f"arp-{name}.pcap"
        self.process = None

    def __enter__(self):
        self.file.unlink(missing_ok=True)
        self.process = self.net.spawn(
            "sw", f"tcpdump-{self.wire}", "tcpdump", "-n", "-U", "--immediate-mode", "-i", self.wire,
            "-w", self.file, f"arp and ether src {self.mac}")
        begun = network.wait_for(lambda: self.file.exists() and self.file.stat().st_size, 10)
        expect(begun, "tcpdump does not start")
        return self

    def __exit__(self, *_):
        self.process.stop()

    def vips(self):
        """For which addresses."""
        with PcapReader(str(self.file)) as packets:
            frames = [packet[ARP] for packet in packets if packet.haslayer(ARP)]
        return {arp.psrc for arp in frames if arp.psrc == arp.pdst and arp.hwsrc == self.mac}


class Download:
    """A download that is slow by what its client reads, and the longest time in which nothing came."""

    STEP = 0.01

    def __init__(self, pair, vip):
        self.pair = pair
        self.error = None
        self.gap = 0.0
        self.got = 0
        self.sum = hashlib.sha256()
        self.closing = False
        self.socket = pair.connection()
        # Little room, so that the server is never far ahead.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        self.socket.settimeout(5)
        self.socket.connect((vip, 80))
        self.socket.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        self.socket.settimeout(60)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        head, last = b"", time.monotonic()
        try:
            while not self.closing:
                piece = self.socket.recv(16384)
                now = time.monotonic()
                self.gap, last = max(self.gap, now - last), now
                if not piece:
                    return
                if head is not None:
                    head += piece
                    _, end, piece = head.partition(b"\r\n\r\n")
                    if not end:
                        continue
                    head = None
                self.got += len(piece)
                self.sum.update(piece)
                time.sleep(self.STEP)
        except OSError as error:
            self.error = error

    def reaches(self, part):
        there = network.wait_for(lambda: self.got >= part * self.pair.size or self.error, SECONDS)
        expect(there and not self.error, f"the download stands at {self.got} bytes: {self.error!r}")

    def moves(self):
        """Waits until something more has come; the gap before it counts then."""
        before = self.got
        expect(network.wait_for(lambda: self.got > before or self.error, SECONDS),
               f"the download stands at {before} bytes")

    def speak(self):
        """The client says something more."""
        self.socket.sendall(b"\r\n")

    def end(self):
        """Its SHA-256."""
        self.thread.join(90)
        expect(not self.thread.is_alive() and not self.error,
               f"the download stands at {self.got} of {self.pair.size} bytes: {self.error!r}")
        return self.sum.hexdigest()

    def close(self):
        self.closing = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.socket.close()
