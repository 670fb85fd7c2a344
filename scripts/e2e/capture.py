"""What is seen on a cable: tcpdump into a file, read back by scapy."""

import logging

import net as network

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import (  # noqa: E402
    ARP, ICMP, IP, TCP, UDP, Ether, IPv6, PcapReader, conf,
)

conf.use_pcap = False
LAYERS = {4: IP, 6: IPv6}
TRANSPORTS = {"tcp": TCP, "udp": UDP}
__all__ = ["ARP", "ICMP", "IP", "TCP", "UDP", "Ether", "IPv6", "PcapReader", "Capture", "Seen", "LAYERS",
           "TRANSPORTS"]


class Seen:
    """One frame of a TCP or UDP packet, with the headers that checks ask for."""

    def __init__(self, frame):
        self.frame = frame
        self.src_mac, self.dst_mac = frame.src, frame.dst
        ips = [layer for layer in _layers(frame) if isinstance(layer, (IP, IPv6))]
        self.outer = ips[0] if len(ips) > 1 else None
        self.ip = ips[-1]
        self.l4 = self.ip.getlayer(TCP) or self.ip.getlayer(UDP)
        self.src, self.dst = self.ip.src, self.ip.dst
        self.sport, self.dport = self.l4.sport, self.l4.dport
        self.protocol = "tcp" if isinstance(self.l4, TCP) else "udp"
        self.ttl = self.ip.ttl if isinstance(self.ip, IP) else self.ip.hlim

    def __repr__(self):
        tunnel = f"{self.outer.src} > {self.outer.dst}: " if self.outer else ""
        return f"{tunnel}{self.protocol} {self.src}:{self.sport} > {self.dst}:{self.dport}"


def _layers(frame):
    while frame:
        yield frame
        frame = frame.payload


class Capture:
    """A tcpdump on one interface, from `begin` to `end`."""

    def __init__(self, net, node, interface):
        self.net, self.node, self.interface = net, node, interface
        self.file = net.dir / f"{node}-{interface}.pcap"
        self.process = None

    def begin(self):
        self.file.unlink(missing_ok=True)
        self.process = self.net.spawn(
            self.node, f"tcpdump-{self.node}-{self.interface}",
            # 200 bytes: two IPv6 headers, TCP with all options, and a little data.
            "tcpdump", "-n", "-U", "--immediate-mode", "-s", "200", "-B", "8192",
            "-i", self.interface, "-w", self.file)
        # The file's header is written once the interface is open.
        if not network.wait_for(lambda: self.file.exists() and self.file.stat().st_size, 10):
            raise RuntimeError(f"tcpdump on {self.node} {self.interface} does not start")

    def end(self):
        """Stops; returns the TCP and UDP packets."""
        self.process.stop()
        with PcapReader(str(self.file)) as packets:
            return [Seen(p) for p in packets if p.haslayer(TCP) or p.haslayer(UDP)]
