"""Network namespaces, cables and processes, and the promise that none of them is left behind.

Everything of a run has the run's prefix. What it made is written down in its directory under
/run/shunt-e2e before it is made, so that the next run removes what a killed one left.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time

STATE = pathlib.Path("/run/shunt-e2e")
HUGE_PAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
LIB = pathlib.Path(__file__).resolve().parent.parent / "lib"
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def run(*args, timeout=20, check=True, **more):
    """Runs a command and returns its standard output."""
    done = subprocess.run(
        args, timeout=timeout, check=check, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )
    return done.stdout


def wait_for(condition, seconds, step=0.02):
    """Waits until the condition holds; returns its value, or a false one after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() >= deadline:
            return value
        time.sleep(step)


def start_time(pid):
    """When a process started: with the id it tells it from a later one. None: there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


class Process:
    """A process in a node, with its output in a file."""

    def __init__(self, net, node, name, args, env=None):
        self.name = name
        self.log = net.dir / f"{name}.log"
        self._stdin = None
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                ["ip", "netns", "exec", net.ns(node), *map(str, args)],
                # A pipe that stays open: testpmd ends when its standard input does.
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=env,
            )
        net.record("process", f"{self.popen.pid} {start_time(self.popen.pid)}")
        net.processes.append(self)

    def running(self):
        return self.popen.poll() is None

    def stop(self, how=signal.SIGTERM, seconds=10):
        """Ends it; returns its exit status (None: it had to be killed)."""
        if self.running():
            end = os.pidfd_open(self.popen.pid)
            self.popen.send_signal(how)
            # At the very moment, where Popen.wait would look every 50 ms.
            ended, _, _ = select.select([end], [], [], seconds)
            os.close(end)
            if not ended:
                self.popen.kill()
                self.popen.wait()
                return None
            self.popen.wait()
        return self.popen.returncode

    def tail(self, lines=15):
        return self.log.read_text(errors="replace").splitlines()[-lines:]


class Net:
    """The namespaces of one run."""

    def __init__(self):
        sweep()
        self.prefix = f"se{os.getpid()}"
        self.dir = STATE / self.prefix
        self.dir.mkdir(parents=True)
        self.record("owner", f"{os.getpid()} {start_time(os.getpid())}")
        self.processes = []
        self.nodes = []

    def record(self, kind, line):
        with open(self.dir / f"state.{kind}", "a", encoding="ascii") as state:
            state.write(f"{line}\n")

    # Nodes and cables

    def ns(self, node):
        """Name of a node's namespace."""
        return f"{self.prefix}-{node}"

    def add(self, *nodes):
        for node in nodes:
            run("ip", "netns", "add", self.ns(node))
            self.nodes.append(node)
            self.ip(node, "link", "set", "lo", "up")
            self.sysctl(node, "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")

    def remove_nodes(self):
        """Ends every process and removes every namespace; the run's directory stays."""
        for process in reversed(self.processes):
            process.stop(seconds=3)
        self.processes.clear()
        for node in self.nodes:
            run("ip", "netns", "del", self.ns(node), check=False)
        self.nodes.clear()
        (self.dir / "state.process").unlink(missing_ok=True)

    def close(self):
        self.remove_nodes()
        shutil.rmtree(self.dir, ignore_errors=True)

    def switch(self, *names):
        for name in names:
            self.ip("sw", "link", "add", name, "type", "bridge",
                    "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
            self.ip("sw", "link", "set", name, "up")

    def cable(self, node, interface, switch, *addresses, vlan=None):
        """An Ethernet cable between a node and a switch. Nothing is offloaded, so that every frame
        on it is one that could be on a real wire. With a VLAN the node's end is tagged with it."""
        port = f"{node}-{interface}"
        self.ip("sw", "link", "add", port, "type", "veth",
                "peer", "name", interface, "netns", self.ns(node))
        self.ip("sw", "link", "set", port, "master", switch, "up")
        self.run(node, "ethtool", "-K", interface, "tx", "off", "rx", "off",
                 "tso", "off", "gso", "off", "gro", "off")
        if vlan:
            self.classifier(node, interface)
            program = self.bpf("vlan", vid=vlan)
            for direction, section in ("egress", "tag"), ("ingress", "untag"):
                self.run(node, "tc", "filter", "add", "dev", interface, direction, "prio", "1",
                         "bpf", "direct-action", "object-file", program, "section", section)
        self.ip(node, "link", "set", interface, "up")
        for address in addresses:
            self.address(node, interface, address)

    def address(self, node, interface, address):
        # nodad: a tentative IPv6 address would answer only a second later.
        nodad = ["nodad"] if ":" in address else []
        self.ip(node, "addr", "add", address, "dev", interface, *nodad)

    def classifier(self, node, interface):
        if "clsact" not in self.run(node, "tc", "qdisc", "show", "dev", interface):
            self.run(node, "tc", "qdisc", "add", "dev", interface, "clsact")

    def bpf(self, name, **macros):
        """Compiles scripts/lib/bpf/NAME.c and returns the object's path."""
        suffix = "".join(f"-{value}" for value in macros.values())
        program = self.dir / f"{name}{suffix}.o"
        if not program.exists():
            run("clang-14", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror",
                f"-I/usr/include/{os.uname().machine}-linux-gnu",
                *(f"-D{macro.upper()}={value}" for macro, value in macros.items()),
                "-c", LIB / "bpf" / f"{name}.c", "-o", program)
        return str(program)

    def patch(self, node, a, b):
        """Every frame that comes in by one interface goes out by the other, past the stack. What was
        patched before, when an interface of that name was another one, is not any more."""
        run("ip", "netns", "exec", self.ns(node), "nft", f"""
            table netdev {a} {{ }}
            delete table netdev {a}
            table netdev {a} {{
                chain out {{ type filter hook ingress device {a} priority 0; fwd to {b}; }}
                chain back {{ type filter hook ingress device {b} priority 0; fwd to {a}; }}
            }}""")

    # Doing something in a node

    def run(self, node, *args, **more):
        return run("ip", "netns", "exec", self.ns(node), *args, **more)

    def ip(self, node, *args, **more):
        return run("ip", "-n", self.ns(node), *args, **more)

    def ip_json(self, node, *args):
        return json.loads(self.ip(node, "-j", *args) or "[]")

    def sysctl(self, node, *settings):
        self.run(node, "sysctl", "-qw", *settings)

    def spawn(self, node, name, *args, **more):
        return Process(self, node, name, args, **more)

    def mac(self, node, interface):
        return self.ip_json(node, "link", "show", interface)[0]["address"]

    def statistic(self, node, interface, name):
        """A counter of an interface: rx_bytes, tx_packets, ..."""
        link = self.ip_json(node, "-s", "link", "show", interface)[0]
        direction, _, what = name.partition("_")
        return link["stats64"][direction][what]

    @contextlib.contextmanager
    def huge_pages(self, number):
        """A folder in hugetlbfs, and so many more of its pages (2 MiB) as long as it is there."""
        folder = self.dir / "huge"
        folder.mkdir()
        self.record("huge_pages", number)
        _more_huge_pages(number)
        run("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", folder)
        try:
            if self.free_huge_pages() < number:
                raise RuntimeError(f"the machine has no {number} huge pages to spare")
            yield folder
        finally:
            return_huge_pages(self.dir)

    @staticmethod
    def free_huge_pages():
        return int((HUGE_PAGES / "free_hugepages").read_text())

    @contextlib.contextmanager
    def inside(self, node):
        """The calling thread's new sockets and children belong to the node."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.ns(node)}", os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(home)
            os.close(there)
            os.close(home)


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _more_huge_pages(number):
    file = HUGE_PAGES / "nr_hugepages"
    file.write_text(str(max(0, int(file.read_text()) + number)))


def return_huge_pages(state):
    """Takes back what `Net.huge_pages` did for the run with this directory."""
    if os.path.ismount(state / "huge"):
        run("umount", state / "huge")
    taken = state / "state.huge_pages"
    for number in taken.read_text().split() if taken.exists() else []:
        _more_huge_pages(-int(number))
    taken.unlink(missing_ok=True)
    if (state / "huge").exists():
        (state / "huge").rmdir()


def sweep():
    """Removes what runs left that were killed."""
    for state in STATE.glob("se*"):
        owner = state / "state.owner"
        if owner.exists() and not _alive(owner.read_text().strip()):
            processes = state / "state.process"
            for line in processes.read_text().splitlines() if processes.exists() else []:
                if _alive(line):
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            for line in run("ip", "netns", "list").splitlines():
                if line.startswith(f"{state.name}-"):
                    run("ip", "netns", "del", line.split()[0], check=False)
            return_huge_pages(state)
            (pathlib.Path("/dev/shm") / f"{state.name}.sessions").unlink(missing_ok=True)
            shutil.rmtree(state, ignore_errors=True)


def _alive(identity):
    pid, start = identity.split()
    return str(start_time(int(pid))) == start
