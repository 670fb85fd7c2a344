"""Starts that must fail: one clear message that names what is wrong, an exit status that is not 0,
and nothing left behind: no interface, no socket, no file."""

import pathlib
import shutil
import subprocess

import net as network
from director import plugin_in
from report import equal, expect

PORT = """
[[port]]
name = "p0"
device = "net_tap0,iface=dtap0"
mirror = "shunt0"
"""


def check(net, report, binaries, plugin):
    net.add("refuse")
    case = _Cases(net, report, pathlib.Path(binaries))
    case.refused("a PCI device that is not there",
                 PORT.replace("net_tap0,iface=dtap0", "0000:7f:1f.7"),
                 ["0000:7f:1f.7", "no such device"])
    case.refused("an interface that is not there",
                 '[[port]]\nname = "p0"\ndevice = "net_af_packet0,iface=nosuch0"\n',
                 ["p0", "nosuch0"])
    case.refused("less memory than any director needs", PORT, ["4M", "out of range"],
                 dpdk='memory = "4M"', place=True)
    case.refused("less memory than the queues need", PORT + "queues = 1\ndescriptors = 32768\n",
                 ["no memory", "MiB"], dpdk='memory = "64M"\nhugepages = "off"')
    case.refused("a core that the machine has not", PORT, ["cannot run on core 999"],
                 workers="cores = [999]", place=True)
    case.refused("mistakes in the configuration, all at once", PORT + """
[[service]]
protocol = "tcp"
vip = "10.0.0.300:80"
schedulr = "rr"

[[service]]
protocol = "tcp"
vip = "10.0.0.1:80"
mode = "fullnat"
""", ["10.0.0.300", "schedulr", "scheduler", "local_addresses"], place=True)
    case.refused("a plugin driver, by a build that has its drivers linked in", PORT,
                 ["/opt/net_x.so", "cannot load plugins", "dynamic"],
                 dpdk='eal = ["-d", "/opt/net_x.so"]')
    case.plugins(plugin)
    net.ip("refuse", "link", "add", "shunt0", "type", "bridge")
    case.refused("a mirror whose name is taken", PORT, ["shunt0"], links={"shunt0"})
    net.ip("refuse", "link", "del", "shunt0")
    case.in_use("a socket that another director owns")
    with report.check("refusals: no configuration file"):
        status, said = case.start(net.dir / "nothing.toml")
        expect(status not in (0, None), f"exit status {status}")
        expect("nothing.toml" in said, f"the message does not name the file: {said}")


class _Cases:
    def __init__(self, net, report, binaries):
        self.net, self.report, self.binaries = net, report, binaries
        self.shuntd = binaries / "shuntd"
        self.socket = net.dir / "refuse.sock"
        self.config = net.dir / "refuse.toml"

    def write(self, path, rest, name, dpdk='memory = "128M"', workers="cores = [0]"):
        path.write_text(f'[daemon]\nsocket = "{self.socket}"\nname = "{name}"\n'
                        f"[dpdk]\n{dpdk}\n[workers]\n{workers}\n{rest}")

    def start(self, config):
        """Runs shuntd; returns exit status and what it said."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.net.ns("refuse"),
             self.shuntd, "--config", config],
            timeout=30, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def refused(self, what, rest, words, links=frozenset(), place=False, **tables):
        """The start fails and the message has these words (and the place in the file)."""
        with self.report.check(f"refusals: {what}"):
            name = f"{self.net.prefix}r"
            self.write(self.config, rest, name, **tables)
            status, said = self.start(self.config)
            expect(status > 0, f"exit status {status}; it said:\n{said}")
            for word in words:
                expect(word in said, f"{word!r} is missing in the message:\n{said}")
            if place:
                expect(f"{self.config.name}:" in said, f"no file and line in the message:\n{said}")
            expect("panicked" not in said, f"a panic is no message:\n{said}")
            self.nothing_left(name, links)

    def plugins(self, directory):
        """Plugins that cannot be loaded, by a build that loads plugins."""
        self.shuntd = pathlib.Path(directory) / "shuntd"
        device = PORT.replace("net_tap0", "net_shunttest0")
        self.refused("a plugin driver that is not there", PORT, ["/opt/nosuch.so"],
                     dpdk='eal = ["-d", "/opt/nosuch.so"]')
        plugin = plugin_in(self.net, directory)
        insecure = self.net.dir / "insecure"
        insecure.mkdir()
        insecure.chmod(0o777)
        copied = shutil.copy(plugin, insecure)
        self.refused("a plugin driver in a folder that everybody may write to", device,
                     [str(insecure), "world-writable"], dpdk=f'eal = ["-d", "{copied}"]')
        self.refused("a plugin's device without what it needs", device.replace(",iface=dtap0", ""),
                     ["p0", "net_shunttest0", "iface=NAME is missing"],
                     dpdk=f'eal = ["-d", "{plugin}"]')
        self.shuntd = self.binaries / "shuntd"

    def nothing_left(self, name, links):
        left = {link["ifname"] for link in self.net.ip_json("refuse", "link", "show")}
        equal("interfaces", left - {"lo"}, set(links))
        expect(not self.socket.exists(), f"{self.socket} is left")
        files = [str(path) for place in ("/dev/hugepages", "/var/run/dpdk", "/dev/shm")
                 for path in pathlib.Path(place).glob(f"{name}*")]
        equal("files", files, [])

    def in_use(self, what):
        """A second director with the first one's socket goes; the first one stays."""
        with self.report.check(f"refusals: {what}"):
            name = f"{self.net.prefix}a"
            first_config = self.net.dir / "first.toml"
            self.write(first_config, PORT, name)
            first = self.net.spawn("refuse", "first", self.binaries / "shuntd",
                                   "--config", first_config)
            expect(network.wait_for(self.answers, 30, 0.1), "the first one does not come up")
            other = PORT.replace("tap0", "tap1").replace("shunt0", "shunt1")
            self.write(self.config, other, f"{self.net.prefix}b")
            status, said = self.start(self.config)
            expect(status > 0, f"exit status {status}; it said:\n{said}")
            expect(str(self.socket) in said, f"the socket is not named:\n{said}")
            expect(self.answers(), "the first one does not answer any more")
            equal("exit status of the first one", first.stop(), 0)
            # What a director leaves that did start: its sessions.
            (pathlib.Path("/dev/shm") / f"{name}.sessions").unlink()
            self.nothing_left(name, set())

    def answers(self):
        return subprocess.run(
            [self.binaries / "shunt", "--socket", self.socket, "status"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=10).returncode == 0
