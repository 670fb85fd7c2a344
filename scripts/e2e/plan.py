"""What is tested: the starts of the director, the services, and who has which address."""

import dataclasses
import itertools

MODES = ("nat", "dr", "tun", "fullnat")
SERVERS = ("s1", "s2", "s3")


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of shuntd, with all services."""

    device: str  # net_tap, net_af_packet, virtio_user or net_shunttest (a plugin, plugin/)
    arms: int
    workers: int
    vlan: bool
    modes: tuple = MODES
    crowd: int = 0  # synthetic sessions in each mode, over which the director is restarted
    whole: bool = False  # all checks are made, also those that a few starts are enough for
    steers: bool = False  # the device brings packets to their worker (net_shunttest alone)

    @property
    def name(self):
        arms = ("one", "two")[self.arms - 1]
        vlan = " vlan" if self.vlan else ""
        steers = " steers" if self.steers else ""
        return f"{self.device} {arms}-arm {self.workers}w{vlan}{steers}"

    @property
    def is_plugin(self):
        """Whether the device's driver is a plugin, which a statically linked shuntd cannot load."""
        return self.device == "net_shunttest"

    @property
    def networks(self):
        """Networks the director is in. With VLANs even one arm is in two."""
        return 2 if self.vlan else self.arms

    def vlan_of(self, network):
        """The VLAN of the front (0) or back (1) network; None: untagged."""
        return (100, 200)[network] if self.vlan else None


# Every pair of (device, arms, workers, vlan) values occurs in one of the first five starts.
STARTS = (
    Start("net_tap", arms=1, workers=1, vlan=False, whole=True),
    Start("net_tap", arms=2, workers=2, vlan=True, whole=True),
    Start("net_af_packet", arms=1, workers=2, vlan=True),
    Start("net_af_packet", arms=2, workers=1, vlan=True),
    Start("net_af_packet", arms=2, workers=2, vlan=False, crowd=25_000),
    Start("virtio_user", arms=1, workers=1, vlan=False, modes=("dr", "fullnat")),
    # A driver that Shunt does not know, with fewer queues than workers.
    Start("net_shunttest", arms=1, workers=2, vlan=False),
    # One that does with RSS and rules what a NIC does.
    Start("net_shunttest", arms=1, workers=2, vlan=True, steers=True),
)


def uncovered_pairs():
    """Pairs of factor values that no start of the matrix has; none, as the driver asserts."""
    factors = {
        "device": ("net_tap", "net_af_packet"), "arms": (1, 2),
        "workers": (1, 2), "vlan": (False, True),
    }
    for (a, a_values), (b, b_values) in itertools.combinations(factors.items(), 2):
        for pair in itertools.product(a_values, b_values):
            if not any((getattr(s, a), getattr(s, b)) == pair for s in STARTS):
                yield a, b, pair


@dataclasses.dataclass(frozen=True)
class Family:
    """IPv4 or IPv6: the same host numbers in the same three networks."""

    version: int
    prefixes: tuple  # of the client's, the front and the back network
    length: int
    host_length: int
    tunnel: int  # bytes of an outer header

    def address(self, network, host):
        return f"{self.prefixes[network]}{host}"


IPV4 = Family(4, ("10.0.0.", "172.16.1.", "172.16.2."), 24, 32, 20)
IPV6 = Family(6, ("2001:db8:a::", "2001:db8:1::", "2001:db8:2::"), 64, 128, 40)
FAMILIES = (IPV4, IPV6)

# Networks.
CLIENT, FRONT, BACK = range(3)

# Host numbers, the same in every network and family.
CLIENT_HOST = 10
ROUTER_HOST = 200
ROUTER_SECOND_HOST = 201
DIRECTOR_HOST = 3
SERVER_HOSTS = {"s1": 5, "s2": 6, "s3": 7}
VIP_HOSTS = {"nat": 101, "dr": 102, "tun": 103, "fullnat": 104}
LOCAL_HOST = 20

PORTS = {"tcp": 80, "udp": 53}
SERVER_PORTS = {"tcp": 8080, "udp": 5353}


@dataclasses.dataclass(frozen=True)
class Service:
    """One of the services of a start."""

    mode: str
    protocol: str
    family: Family
    back: int  # the servers' network
    other_port: int = 0  # asked in the place of the usual

    @property
    def name(self):
        return f"{self.mode} {self.protocol} ipv{self.family.version}"

    @property
    def vip(self):
        return self.family.address(FRONT, VIP_HOSTS[self.mode])

    @property
    def port(self):
        return self.other_port or PORTS[self.protocol]

    @property
    def endpoint(self):
        return endpoint(self.vip, self.port)

    @property
    def direct(self):
        """Whether the server replies to the client past the director."""
        return self.mode in ("dr", "tun")

    @property
    def server_port(self):
        return self.port if self.direct else SERVER_PORTS[self.protocol]

    @property
    def local_address(self):
        return self.family.address(self.back, LOCAL_HOST)

    def server_address(self, server):
        return self.family.address(self.back, SERVER_HOSTS[server])

    @property
    def mtu(self):
        """Longest packet of a client that reaches the server over links with an MTU of 1500."""
        return 1500 - (self.family.tunnel if self.mode == "tun" else 0)


def endpoint(address, port):
    """address:port as configuration and URLs write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def services(start):
    """The services of a start."""
    back = BACK if start.networks == 2 else FRONT
    return [
        Service(mode, protocol, family, back)
        for mode in start.modes for protocol in ("tcp", "udp") for family in FAMILIES
    ]
