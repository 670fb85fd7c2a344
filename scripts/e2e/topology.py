"""The peers: client, router, real servers, and the cables to the director.

            outside              front                 back
    client ---------- router ------------- director ------------- s1 s2 s3
                        |______________________________|

One-arm the front and the back network are one (without VLANs), or two VLANs on one cable; two-arm
they are two cables. The router is in both, since replies of DR and TUN come from the back; it has a
second leg in the front network for the test of changing routes.
"""

import json
import os

import net as network
from plan import (
    BACK, CLIENT, CLIENT_HOST, DIRECTOR_HOST, FAMILIES, FRONT, ROUTER_HOST, ROUTER_SECOND_HOST,
    SERVER_HOSTS, SERVERS, VIP_HOSTS,
)

BIG = 24 << 20  # bytes of the file that is downloaded and uploaded


def with_length(family, number, host):
    return f"{family.address(number, host)}/{family.length}"


def alone(family, number, host):
    return f"{family.address(number, host)}/{family.host_length}"


class Topology:
    """Builds everything but the director itself."""

    def __init__(self, net, start):
        self.net = net
        self.start = start
        self.back = BACK if start.networks == 2 else FRONT
        # With virtio-user the director is as in a virtual machine: the cables are its host's.
        self.wires_in = "host" if start.device == "virtio_user" else "d"
        # Switches by network, as far as they are the director's.
        self.front_switch = "front" if start.arms == 2 else "lan"
        self.back_switch = "back" if start.arms == 2 else "lan"

    def build(self):
        net, start = self.net, self.start
        net.add("sw", "c", "r", "d", *SERVERS)
        net.switch("outside", *sorted({self.front_switch, self.back_switch}))
        net.cable("c", "eth0", "outside",
                  *(with_length(f, CLIENT, CLIENT_HOST) for f in FAMILIES))
        for family in FAMILIES:
            net.ip("c", "route", "add", "default",
                   "via", family.address(CLIENT, ROUTER_HOST))
        self._router()
        # The director's cables. Their ends are not the kernel's business until shuntd says so.
        if self.wires_in == "host":
            net.add("host")
        for node in {"d", self.wires_in}:
            net.sysctl(node, "net.ipv6.conf.default.disable_ipv6=1")
        net.cable(self.wires_in, "wire0", self.front_switch)
        if start.arms == 2:
            net.cable(self.wires_in, "wire1", self.back_switch)
        for server in SERVERS:
            self._server(server)
        self._wait_for_servers()

    def _router(self):
        net, start = self.net, self.start
        net.sysctl("r", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                   # Two legs in one network: each answers for its own address alone.
                   "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
        net.cable("r", "outer", "outside",
                  *(with_length(f, CLIENT, ROUTER_HOST) for f in FAMILIES))
        net.cable("r", "front", self.front_switch, vlan=start.vlan_of(0),
                  *(with_length(f, FRONT, ROUTER_HOST) for f in FAMILIES))
        net.cable("r", "front2", self.front_switch, vlan=start.vlan_of(0),
                  *(alone(f, FRONT, ROUTER_SECOND_HOST) for f in FAMILIES))
        # Counts replies that come by the second leg; ARP and ND pass there anyway.
        net.run("r", "nft", """
            table inet legs {
                counter second { }
                chain forward {
                    type filter hook forward priority 0
                    iifname front2 udp sport 53 counter name second
                }
            }""")
        if self.back == BACK:
            net.cable("r", "back", self.back_switch, vlan=start.vlan_of(1),
                      *(with_length(f, BACK, ROUTER_HOST) for f in FAMILIES))

    def _server(self, server):
        net, start = self.net, self.start
        vlan = start.vlan_of(1 if self.back == BACK else 0)
        net.cable(server, "eth0", self.back_switch, vlan=vlan,
                  *(with_length(f, self.back, SERVER_HOSTS[server]) for f in FAMILIES))
        # The VIPs of DR and TUN, silently; their replies go to the router, NAT's to the director.
        net.sysctl(server, "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
        for family in FAMILIES:
            version = f"-{family.version}"
            net.ip(server, "route", "add", "default",
                   "via", family.address(self.back, DIRECTOR_HOST))
            net.ip(server, version, "route", "add", "default", "table", "100",
                   "via", family.address(self.back, ROUTER_HOST))
            for mode in "dr", "tun":
                vip = family.address(FRONT, VIP_HOSTS[mode])
                net.address(server, "lo", f"{vip}/{family.host_length}")
                net.ip(server, version, "rule", "add", "from", vip, "lookup", "100")
        # Takes tunnelled packets apart; after the VLAN tag is gone (prio 1).
        net.classifier(server, "eth0")
        net.run(server, "tc", "filter", "add", "dev", "eth0", "ingress", "prio", "2",
                "bpf", "direct-action", "object-file", net.bpf("decap"), "section", "tc")
        self._daemons(server)

    def homes(self):
        """The servers' directories: www/ is served, up/ takes uploads."""
        return [self.net.dir / server for server in SERVERS]

    def _daemons(self, server):
        home = self.net.dir / server
        (home / "www").mkdir(parents=True, exist_ok=True)
        (home / "up").mkdir(exist_ok=True)
        big = self.net.dir / "big"
        if not big.exists():
            big.write_bytes(os.urandom(BIG))
        (home / "www" / "big").unlink(missing_ok=True)
        (home / "www" / "big").symlink_to(big)
        template = (network.LIB / "nginx.conf").read_text()
        config = home / "nginx.conf"
        config.write_text(template.replace("@NAME@", server).replace("@DIR@", str(home)))
        self.nginx(server)
        self.net.spawn(server, f"{server}-udp", network.LIB / "udp-server", server, 53, 5353)

    def nginx(self, server):
        """Starts a server's nginx; returns the process."""
        home = self.net.dir / server
        return self.net.spawn(server, f"{server}-nginx", "nginx", "-e", home / "nginx.log",
                              "-c", home / "nginx.conf")

    def _wait_for_servers(self):
        def serves(server):
            sockets = self.net.run(server, "ss", "-Hlntu")
            return all(f":{port} " in sockets for port in (80, 8080, 53, 5353))
        for server in SERVERS:
            if not network.wait_for(lambda s=server: serves(s), 10, 0.05):
                raise RuntimeError(f"{server} does not serve: see {self.net.dir}/{server}*.log")

    def second_leg(self):
        """UDP replies of VIPs that came by the router's second leg so far."""
        out = self.net.run("r", "nft", "-j", "list", "counter", "inet", "legs", "second")
        return next(item["counter"]["packets"] for item in json.loads(out)["nftables"]
                    if "counter" in item)

    @property
    def wires(self):
        """The switches' ends of the director's cables, in the node sw."""
        return [f"{self.wires_in}-wire{port}" for port in range(self.start.arms)]

    def director_bytes(self):
        """Bytes that came to and from the director over all its cables so far."""
        return sum(self.net.statistic("sw", wire, f"{direction}_bytes")
                   for wire in self.wires for direction in ("rx", "tx"))
