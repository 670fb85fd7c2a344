"""The documents' commands run as they are written, in a machine that the documents suppose: an
interface, real servers, another machine, and a file system whose /etc, /run and /usr/local are the
test's own.

A new command in a document fails here until it runs, or until NOT_HERE says why it cannot. The real
servers' `ssh` and their `systemctl` are stand-ins: the first runs its command in the server's node, the
second does nothing.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tomllib

import net as network
from documents import ROOT, blocks, commands, documents, mentioned
from report import Failed, equal, expect

BUILT = "the stage build and scripts/fresh-machine build it so"
# By their exact text, with the reason.
NOT_HERE = {
    "scripts/demo": "a stage of scripts/test",
    "scripts/test": "it runs this",
    "apt-get install build-essential pkg-config clang-14 libclang-14-dev libdpdk-dev":
        "scripts/test installs the same list, scripts/lib/packages.sh",
    "cargo build --release -p shuntd -p shunt-cli": BUILT,
    "cargo build --release -p shuntd -p shunt-cli --features shuntd/dynamic":
        "scripts/e2e/plugin/build does, for the starts over a plugin",
    "docker build -t shunt .": "no container engine; the stage image runs the same root",
    "docker run --rm --cap-add NET_ADMIN --device /dev/net/tun "
    "-v ./shunt.toml:/etc/shunt/shunt.toml:ro shunt":
        "no container engine; the stage image runs the same root",
    "scripts/bench": "takes most of an hour",
    "scripts/bench --quick": "takes minutes, and valgrind alone says something on a busy machine",
    "scripts/bench sessions": "takes minutes",
    "shunt-pktgen --device 0000:3b:00.0 --role client --vip 192.0.2.100:80 --protocol tcp --load data "
    "--address 192.0.2.254 --flows 100000 --rate 1000000 --size 128 --seconds 10 --json":
        "there is no such network card",
    "ipvsadm-save -n > rules": "it lists the kernel's IPVS, which may not be there",
}
# Commands that end with another exit status than 0, as the document says.
STATUS = {"shunt check shunt.toml": 3}
# Options that nobody types: shuntd starts itself with them.
HIDDEN = ("--hold-mirrors",)
# Where a command runs that is for another machine than the director: by what it begins with.
ELSEWHERE = {"curl http://192.0.2.100/": "do", "ethtool -K eth0 ": "ds"}


def check(ctx):
    report = ctx.report
    with contextlib.ExitStack() as stack:
        machine = Machine(ctx)
        stack.callback(machine.close)
        with report.check("docs: the machine that they suppose is made"):
            machine.begin()
        for document in documents():
            with report.check(f"docs: the commands of {document} run as they are written"):
                machine.runs(document)
    with report.check("docs: what cannot run here is in a document"):
        known = {command.bare for document in documents() for command in commands(document)}
        equal("stale entries", [text for text in [*NOT_HERE, *STATUS] if text not in known], [])
        for text in ELSEWHERE:
            expect(any(command.startswith(text) for command in known), f"stale entry: {text}")
    with report.check("docs: commands and options in their text are ones of shunt"):
        for document in documents():
            for place, words in mentioned(document):
                _is_known(ctx.director.binaries.resolve(), place, words)
    with report.check("docs: their JSON and TOML can be read"):
        for document in documents():
            _readable(document)


def _readable(document):
    for block in blocks(document):
        try:
            if block.info.startswith("json"):
                json.loads(block.content)
            elif block.info.startswith("toml"):
                tomllib.loads(block.content)
        except ValueError as error:
            raise Failed(f"{document}:{block.line}: {error}") from error


def _is_known(binaries, place, words):
    """Whether the words up to the first that is no command are commands, and all options are theirs."""
    program, *rest = words
    path = [str(binaries / program)]
    told = _help(path)
    for word in rest:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        deeper = _help([*path, word])
        if deeper is None:
            expect("<COMMAND>" not in told, f"{place}: `{' '.join(words)}`: there is no {word}")
            break
        path, told = [*path, word], deeper
    if "ipvsadm" in path[1:]:
        return  # docs/ipvsadm.md has its own test
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(rest)):
        expect(option in HIDDEN or re.search(rf"{option}(?![\w-])", told),
               f"{place}: `{' '.join(words)}`: {' '.join([program, *path[1:]])} has no {option}")


def _help(path):
    done = subprocess.run([*path, "--help"], timeout=10, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 else None


def toml(document, number=0):
    """A TOML block of a document."""
    return [block.content for block in blocks(document) if block.info.startswith("toml")][number]


class Machine:
    """The director's machine (dd), another one (do) and a real server (ds) on one switch."""

    def __init__(self, ctx):
        self.net = ctx.net
        self.binaries = ctx.director.binaries.resolve()
        self.home = self.net.dir / "docs"
        self.work = self.home / "work"
        self.holder = self.daemon = None

    # The machine

    def begin(self):
        net = self.net
        net.add("dd", "do", "ds")
        net.switch("docs")
        net.sysctl("dd", "net.ipv6.conf.default.disable_ipv6=1")
        net.cable("dd", "eth1", "docs", "192.0.2.3/24")
        net.cable("dd", "wire0", "docs")
        net.cable("do", "eth0", "docs", "192.0.2.10/24", "172.16.1.200/24")
        net.cable("ds", "eth0", "docs", "192.0.2.5/24", "192.0.2.6/24", "172.16.1.5/24", "172.16.1.6/24")
        self._nginx()
        for folder in "work/target/release", "stand-ins":
            (self.home / folder).mkdir(parents=True)
        for name in "shunt", "shuntd":
            (self.work / "target/release" / name).symlink_to(self.binaries / name)
        self._stand_in("ssh", f'shift\nexec ip netns exec {net.ns("ds")} "$@"')
        self._stand_in("systemctl", "exit 0")
        self._file_system()

    def _nginx(self):
        home = self.net.dir / "ds"
        (home / "www").mkdir(parents=True)
        text = (network.LIB / "nginx.conf").read_text()
        (home / "nginx.conf").write_text(text.replace("@NAME@", "ds").replace("@DIR@", str(home)))
        self.net.spawn("ds", "ds-nginx", "nginx", "-e", home / "nginx.log", "-c", home / "nginx.conf")
        up = network.wait_for(lambda: ":8080 " in self.net.run("ds", "ss", "-Hlnt"), 10)
        expect(up, "nginx does not listen")

    def _stand_in(self, name, script):
        file = self.home / "stand-ins" / name
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)

    def _file_system(self):
        """A mount namespace in which what is written to these folders is seen there alone."""
        script = ["set -e; mount -t tmpfs none /dev/shm; mount -t tmpfs none /mnt",
                  "mkdir /mnt/netns; mount --rbind /run/netns /mnt/netns"]
        for folder in "etc", "usr/local", "run":
            upper, work = (f"/mnt/{folder.replace('/', '-')}.{what}" for what in ("upper", "work"))
            script.append(
                f"mkdir {upper} {work}; mount -t overlay overlay "
                f"-o lowerdir=/{folder},upperdir={upper},workdir={work} /{folder}")
        # Of /run the overlay has files alone, not what is mounted in it.
        script.append("mount --rbind /mnt/netns /run/netns")
        script.append("mkdir -p /etc/shunt /etc/keepalived /etc/bash_completion.d; rm -f /etc/shunt/*")
        script.append("echo ready; exec sleep infinity")
        self.holder = self.net.spawn("dd", "docs-machine", "bash", "-c", "; ".join(script))
        ready = network.wait_for(
            lambda: "ready" in self.holder.tail() or not self.holder.running(), 10)
        expect(ready and self.holder.running(), "\n".join(self.holder.tail()))

    def _inside(self, command, node="dd"):
        """A command line by bash in the machine's file system; in the node by `ip netns exec`."""
        enter = ["nsenter", "-t", str(self.holder.popen.pid), "-m", f"--wd={self.work}"]
        return [*enter, "ip", "netns", "exec", self.net.ns(node), "bash", "-c", command]

    def _environment(self, installed=True):
        own = f"{self.work}/target/release:" if installed else ""
        kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TERM")}
        return kept | {
            "PATH": f"{self.home}/stand-ins:{own}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "NO_COLOR": "1"}

    def run(self, command, node="dd", installed=True):
        """Exit status and all that was said."""
        done = subprocess.run(
            self._inside(command, node), env=self._environment(installed), timeout=60, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def write(self, path, text):
        """A file of the machine; a relative path is one in the folder where commands run."""
        # Within the machine's own file system, which only commands see.
        done = subprocess.run(
            self._inside(f"cat > {path}"), env=self._environment(), input=text, timeout=10, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        equal(f"{path}: {done.stdout}", done.returncode, 0)

    # The director

    def start(self, command, installed=True):
        """A command that stays: shuntd. It is up when it answers."""
        self.stop()
        self.daemon = self.net.spawn(
            "dd", "docs-shuntd", *self._inside(f"exec {command}"), env=self._environment(installed))
        up = network.wait_for(self._answers, 30)
        expect(up and self.daemon.running(), "\n".join([command, *self.daemon.tail()]))
        links = {link["ifname"] for link in self.net.ip_json("dd", "link", "show")}
        if "dtap0" in links:
            self.net.patch("dd", "dtap0", "wire0")

    def _answers(self):
        return not self.daemon.running() or self.run("shunt status")[0] == 0

    def stop(self):
        if self.daemon:
            status, self.daemon = self.daemon.stop(signal.SIGTERM), None
            equal("exit status of shuntd", status, 0)

    def close(self):
        with contextlib.suppress(Failed):
            self.stop()
        if self.holder:
            self.holder.stop()

    # The documents

    def runs(self, document):
        """Runs the commands of a document."""
        scene = SCENES.get(document, lambda machine: {})(self)
        for command in commands(document):
            if command.bare in NOT_HERE:
                continue
            # What the text before it says, or does.
            for text, step in (scene or {}).items():
                if command.bare == text:
                    step()
            self._one(command, installed=document != "docs/guide.md")
        self.stop()

    def _one(self, command, installed):
        text = command.text
        if re.match(r"(\S*/)?shuntd --config", text):
            return self.start(command.bare, installed)
        node = next((n for begin, n in ELSEWHERE.items() if text.startswith(begin)), "dd")
        status, said = self.run(text, node, installed)
        expect(status == STATUS.get(command.bare, 0),
               f"{command.place}: {text}: exit status {status}\n{said}")
        if command.says is not None:
            lines = "\n".join(line.rstrip() for line in said.strip().splitlines())
            equal(f"{command.place}: what `{text}` says", lines, command.says)


def _readme(machine):
    machine.write("shunt.toml", toml("README.md"))


def _guide(machine):
    """The first configuration, in the order of the text: installed, started, a server set up."""
    machine.write("shunt.toml", toml("docs/guide.md"))


def _configuration(machine):
    right = toml("docs/guide.md")
    wrong = right.replace("\nweight = 2", "\nwieght = 2")
    expect(right != wrong, "the guide's first configuration has no weight any more")
    machine.write("shunt.toml", wrong)


def _example_here(text):
    """docs/configuration.md's example with this machine's devices and cores."""
    for number in range(2):
        text = text.replace(f'"0000:3b:00.{number}"', f'"net_tap{number},iface=dtap{number}"')
    text = text.replace("cores = [2, 3]", f"cores = [{min(1, os.cpu_count() - 1)}]")
    expect("0000:" not in text and "[2, 3]" not in text, "the example has other devices or cores")
    return text


def _example(machine):
    """The director of docs/configuration.md's example."""
    machine.write("/etc/shunt/shunt.toml", _example_here(toml("docs/configuration.md")))
    machine.start("shuntd --config /etc/shunt/shunt.toml")


def _operations(machine):
    _example(machine)
    text = _example_here(toml("docs/configuration.md"))
    changed = text.replace("weight = 2", "weight = 3")
    expect(changed != text, "the example has no weight any more")
    return {"shunt plan new.toml": lambda: machine.write("new.toml", changed)}


def _keepalived(machine):
    own = next(block for block in blocks("docs/keepalived.md") if block.info.startswith("keepalived"))
    virtual = """
virtual_server 192.0.2.100 80 {
    lb_algo wrr
    lb_kind DR
    protocol TCP
    real_server 192.0.2.5 80 {
        TCP_CHECK {
        }
    }
}
"""
    machine.write("/etc/keepalived/keepalived.conf", own.content + virtual)
    rules = "-A -t 192.0.2.100:80 -s wlc\n-a -t 192.0.2.100:80 -r 192.0.2.5:80 -g -w 1\n"
    return {"shunt import ipvsadm rules > services.toml": lambda: machine.write("rules", rules)}


SCENES = {
    "README.md": _readme,
    "docs/api.md": _example,
    "docs/configuration.md": _configuration,
    "docs/guide.md": _guide,
    "docs/keepalived.md": _keepalived,
    "docs/operations.md": _operations,
}
