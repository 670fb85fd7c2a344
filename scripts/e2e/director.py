"""The director under test: its configuration, its process, its kernel side."""

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess

import net as network
from plan import (
    BACK, DIRECTOR_HOST, FAMILIES, FRONT, LOCAL_HOST, ROUTER_HOST, SERVERS, VIP_HOSTS, endpoint,
    services,
)
from report import Failed


class Director:
    """shuntd in the node d, for one start. `plugin` is the directory of a shuntd that loads plugin
    drivers, and of the plugin; None: the device's driver is linked in."""

    def __init__(self, net, start, binaries, plugin=None):
        self.net = net
        self.start = start
        self.back = BACK if start.networks == 2 else FRONT
        self.binaries = pathlib.Path(binaries)
        self.shuntd = pathlib.Path(plugin or binaries) / "shuntd"
        self.plugin = plugin and plugin_in(net, plugin)
        self.socket = net.dir / "shunt.sock"
        self.config = net.dir / "shunt.toml"
        self.token = net.dir / "token"
        self.sessions = pathlib.Path("/dev/shm") / f"{net.prefix}.sessions"
        self.health = pathlib.Path("/dev/shm") / f"{net.prefix}.health"
        self.dpdk = {}  # further keys of [dpdk]
        self.process = None
        self.vhost = None

    # Configuration

    def mirror(self, number):
        """The kernel interface of the front or back network."""
        port = (0 if number == FRONT else 1) if self.start.arms == 2 else 0
        vlan = self.start.vlan_of(0 if number == FRONT else 1)
        name = f"wire{port}" if self.start.device == "net_af_packet" else f"shunt{port}"
        return f"{name}.{vlan}" if vlan else name

    def announce(self, mode):
        """Who answers for a VIP. With af_packet the kernel sees every frame, so it must not have
        the VIP; else both ways are tried."""
        if self.start.device == "net_af_packet" or mode in ("dr", "tun"):
            return "worker"
        return "kernel"

    def _eal(self):
        """Further arguments of EAL: devices that it makes before shuntd asks for them by name."""
        if self.plugin:
            ways = "queues=2" if self.start.steers else "most=5,split=20,lie=1"
            return ["-d", str(self.plugin), f"--vdev=net_shunttest0,iface=dtap0,{ways}"]
        if self.start.device == "net_tap" and self.start.arms == 2:
            return ["--vdev=net_tap1,iface=dtap1,mac=fixed"]
        return []

    def _device(self, port):
        made = f"{self.start.device}{port}"
        if any(argument.startswith(f"--vdev={made},") for argument in self._eal()):
            return made
        if self.start.device == "net_tap":
            # One that stays, as a NIC has: neighbours know the director by it after a restart.
            return f"net_tap{port},iface=dtap{port},mac=fixed"
        if self.start.device == "net_af_packet":
            return f"net_af_packet{port},iface=wire{port},qpairs={self.start.workers}"
        return f"net_virtio_user{port},path={self.net.dir}/vhost{port}.sock"

    def _workers(self):
        """Control's core comes last; then they share."""
        cores = os.cpu_count()
        workers = self.start.workers
        return {"cores": [(1 + n) % cores for n in range(workers)], "control_core": 0,
                "share_cores": workers > cores}

    def toml(self, servers=SERVERS, weights=None, checks=None, more=None, sorry=None, aim=None):
        """The configuration; with fewer servers or other weights than usual, with a check for each
        protocol or as `checks` says of a service, more keys of all services, a sorry server; `aim` says of a service what it is for, where
        that is not its VIP and port."""
        start = self.start
        tables = {
            "daemon": {"socket": str(self.socket), "name": self.net.prefix,
                       "listen": "127.0.0.1:9790", "token_file": str(self.token)},
            "dpdk": {"memory": "256M", "eal": self._eal(), **self.dpdk},
            "workers": self._workers(),
            "limits": {"sessions": 16384 + 5 * start.crowd, "servers": 256},
            "sessions": {"file": str(self.sessions)},
            "health": {"file": str(self.health),
                       "probe_addresses": ["198.18.0.0/16", "2001:db8:ff::/112"]},
        }
        lines = []
        for name, table in tables.items():
            lines += [f"[{name}]", *_keys(table), ""]
        for port in range(start.arms):
            entry = {"name": f"p{port}", "device": self._device(port)}
            if start.device != "net_af_packet":
                entry["mirror"] = f"shunt{port}"
            if start.vlan:
                entry["vlans"] = [100, 200] if start.arms == 1 else [(100, 200)[port]]
            lines += ["[[port]]", *_keys(entry), ""]
        for service in services(start):
            what = aim(service) if aim else {
                "protocol": service.protocol, "vip": service.endpoint}
            entry = what | {
                "scheduler": "rr", "mode": service.mode, "announce": self.announce(service.mode),
            }
            if service.mode == "fullnat":
                entry["local_addresses"] = [service.local_address]
            entry |= more or {}
            if sorry:
                entry["sorry_server"] = endpoint(
                    service.server_address(sorry), service.server_port)
            lines += ["[[service]]", *_keys(entry)]
            check = checks(service) if callable(checks) else (checks or {}).get(service.protocol)
            if check:
                lines += ["[service.check]", *_keys(check)]
            for server in servers:
                address = service.server_address(server)
                if not (aim and service.direct):  # those have the client's port
                    address = endpoint(address, service.server_port)
                entry = {"address": address}
                if weights and server in weights:
                    entry["weight"] = weights[server]
                lines += ["[[service.server]]", *_keys(entry)]
            lines.append("")
        return "\n".join(lines)

    # Life

    def begin(self):
        """Starts shuntd and everything around it; returns when the API answers."""
        if self.start.device == "virtio_user":
            self._vhost_backend()
        self.sessions.unlink(missing_ok=True)
        self.health.unlink(missing_ok=True)
        self._run(self.toml())
        self._kernel_side()

    def _run(self, toml, *options):
        self.config.write_text(toml)
        self.token.touch(0o600)
        self.token.write_text(secrets.token_hex(16))
        self.process = self.net.spawn(
            "d", "shuntd", self.shuntd, "--config", self.config, *options)
        settled = network.wait_for(lambda: self.answers() or not self.process.running(), 30, 0.02)
        if not settled or not self.process.running():
            self.process.stop()
            raise Failed("\n".join(["shuntd did not come up:", *self.process.tail()]))
        if self.start.device in ("net_tap", "net_shunttest"):
            for port in range(self.start.arms):
                self.net.patch("d", f"dtap{port}", f"wire{port}")

    def kill(self):
        """kill -9; what is left is the kernel's side and the session file."""
        status = self.process.stop(signal.SIGKILL)
        if status != -signal.SIGKILL:
            raise Failed(f"shuntd was not killed, its exit status is {status}")

    def again(self, *options, workers=None, **changes):
        """Starts shuntd anew after `kill`, perhaps with another number of workers or other servers."""
        if workers:
            self.start = dataclasses.replace(self.start, workers=workers)
        self._run(self.toml(**changes), *options)

    def _vhost_backend(self):
        """testpmd as the vhost-user backend, in the host: between virtio-user and the cable."""
        self.vhost = self.net.spawn(
            "host", "testpmd", "dpdk-testpmd",
            # It polls on core 0; the worker has core 1.
            "-l", "0,1", "--main-lcore", "1", "--no-huge", "-m", "128", "--no-pci",
            "--no-telemetry", f"--file-prefix={self.net.prefix}vhost",
            f"--vdev=net_vhost0,iface={self.net.dir}/vhost0.sock",
            "--vdev=net_af_packet0,iface=wire0",
            "--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=8192",
            "--nb-cores=1", "--no-mlockall")
        if not network.wait_for(lambda: (self.net.dir / "vhost0.sock").exists(), 20, 0.1):
            raise Failed("\n".join(["testpmd made no vhost socket:", *self.vhost.tail()]))

    def _kernel_side(self):
        """What an operator does with plain `ip`: addresses and a default route on the mirrors."""
        net = self.net
        for number in {FRONT, self.back}:
            interface = self.mirror(number)
            net.sysctl("d", f"net/ipv6/conf/{interface}/disable_ipv6=0")
            for family in FAMILIES:
                address = family.address(number, DIRECTOR_HOST)
                net.address("d", interface, f"{address}/{family.length}")
        for family in FAMILIES:
            self.default_route(family, ROUTER_HOST)
            for mode in self.start.modes:
                if self.announce(mode) != "kernel":
                    continue
                vip = family.address(FRONT, VIP_HOSTS[mode])
                net.address("d", self.mirror(FRONT), f"{vip}/{family.host_length}")
                if mode == "fullnat":
                    local = family.address(self.back, LOCAL_HOST)
                    net.address("d", self.mirror(self.back), f"{local}/{family.host_length}")

    def default_route(self, family, host):
        self.net.ip("d", f"-{family.version}", "route", "replace", "default",
                    "via", family.address(FRONT, host), "dev", self.mirror(FRONT))

    def mac(self, number):
        return self.net.mac("d", self.mirror(number))

    def end(self):
        """Stops shuntd as an init system would; returns its exit status."""
        status = self.process.stop()
        self.sessions.unlink(missing_ok=True)
        self.health.unlink(missing_ok=True)
        if self.vhost:
            self.vhost.stop()
        return status

    # Questions

    def shunt(self, *args):
        """The operator's command, as JSON."""
        out = network.run(str(self.binaries / "shunt"), "--socket", str(self.socket), "--json", *args,
                          timeout=10)
        return json.loads(out) if out.strip() else None

    def reload(self, toml):
        """Has the configuration reloaded; returns the exit status and what was said."""
        self.config.write_text(toml)
        done = subprocess.run(
            [self.binaries / "shunt", "--socket", self.socket, "reload"], timeout=20, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    def answers(self):
        try:
            return self.shunt("status") is not None
        except (OSError, subprocess.SubprocessError, ValueError):
            return False


def plugin_in(net, directory):
    """The plugin, copied to where only root may write: EAL loads none from elsewhere, and who knows
    where this repository is."""
    return pathlib.Path(shutil.copy(pathlib.Path(directory) / "net_shunttest.so", net.dir))


def _keys(table):
    # JSON's strings, numbers, booleans and lists of them are TOML's.
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
