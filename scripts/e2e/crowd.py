"""Many sessions: clients that send a datagram each, and what of them comes to which server, where it
is written down and dropped."""

import socket
import struct
import time

from plan import CLIENT, CLIENT_HOST, SERVERS
from report import equal

FIRST_PORT = 20000  # of the clients
MARK = b"crowd of clients"  # what tells these datagrams from others
BATCH = 100  # datagrams between two pauses: the rings on their way hold some hundred
ROUNDS = 6  # datagrams may be lost, as everywhere; who was not heard sends again
BUFFER = 256 << 20  # bytes, for all that comes to a server before it is looked at
# Python's socket module has no names for these (linux/if_ether.h, asm-generic/socket.h).
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
TUNNELS = {4: (9, 4, 20), 6: (6, 41, 40)}  # where the header says so, by what, and its length


class Crowd:
    """`number` UDP sessions in every mode, one half over IPv4 and one over IPv6."""

    def __init__(self, ctx, number):
        self.net = ctx.net
        self.services = [s for s in ctx.services if s.protocol == "udp"]
        self.ports = range(FIRST_PORT, FIRST_PORT + number // 2)
        self.number = len(self.ports) * len(self.services)
        self.sniffers = {server: self._sniffer(server) for server in SERVERS}

    def _sniffer(self, server):
        with self.net.inside(server):
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        sniffer.bind(("eth0", ETH_P_ALL))
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sniffer.setblocking(False)
        # For the server itself they would be too many.
        self.net.run(server, "nft", f"""
            table inet crowd {{
                chain in {{
                    type filter hook prerouting priority raw
                    @th,64,128 0x{MARK.hex()} drop
                }}
            }}""")
        return sniffer

    def close(self):
        for sniffer in self.sniffers.values():
            sniffer.close()

    def view(self):
        """Has every client send until it is heard; returns what each server saw: source and
        destination of one packet of each session. In NAT, DR and TUN the source is the client, in
        FULLNAT the session's local address and port."""
        seen = {server: set() for server in SERVERS}
        missing = self.services
        for _ in range(ROUNDS):
            for service in missing:
                self._send(service)
                for server, sniffer in self.sniffers.items():
                    seen[server] |= _marked(sniffer)
            time.sleep(0.1)  # the last ones are on their way
            for server, sniffer in self.sniffers.items():
                seen[server] |= _marked(sniffer)
            heard = {s.name: sum(map(_is_of(s), [e for of in seen.values() for e in of]))
                     for s in self.services}
            missing = [s for s in self.services if heard[s.name] < len(self.ports)]
            if not missing:
                break
        equal("sessions that reach a server", heard, {s.name: len(self.ports) for s in self.services})
        return seen

    def _send(self, service):
        """A datagram of every client of a service."""
        six = service.family.version == 6
        with self.net.inside("c"):
            raw = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW,
                                socket.IPPROTO_UDP)
        with raw:
            if six:  # a checksum is obligatory there, and the kernel's work
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
            raw.connect((service.vip, 0))
            for n, port in enumerate(self.ports):
                raw.send(struct.pack("!4H", port, service.port, 8 + len(MARK), 0) + MARK)
                if n % BATCH == 0:
                    time.sleep(0.001)


def _marked(sniffer):
    """Source and destination of the marked packets that came meanwhile: address, port, each."""
    seen = set()
    try:
        while True:
            packet = sniffer.recv(2048)
            if not packet.endswith(MARK):
                continue
            at, inner, length = TUNNELS[packet[0] >> 4]
            if packet[at] == inner:
                packet = packet[length:]
            if packet[0] >> 4 == 4:
                seen.add((packet[12:16], packet[20:22], packet[16:20], packet[22:24]))
            else:
                seen.add((packet[8:24], packet[40:42], packet[24:40], packet[42:44]))
    except BlockingIOError:
        return seen


def _is_of(service):
    """A test for sources and destinations that a server sees of the service."""
    kind = socket.AF_INET6 if service.family.version == 6 else socket.AF_INET
    client, local, vip = (
        socket.inet_pton(kind, address) for address in (
            service.family.address(CLIENT, CLIENT_HOST), service.local_address, service.vip))
    if service.mode == "fullnat":
        return lambda ends: ends[0] == local
    if service.direct:
        return lambda ends: ends[2] == vip
    port = struct.pack("!H", service.server_port)
    return lambda ends: ends[0] == client and ends[3] == port
