"""Each service as client, server and wire see it: who answers, whom the server sees, which headers
travel, where replies go. Small requests, everything captured."""

import socket

from capture import LAYERS, TRANSPORTS, Capture
from client import Udp, who
from plan import CLIENT, CLIENT_HOST, DIRECTOR_HOST, FRONT, IPV4, IPV6, SERVERS
from report import equal, expect

REQUESTS = 9
TOA_KIND = 254


def check(ctx):
    """All services of the start."""
    net, report = ctx.net, ctx.report
    captures = {"client": Capture(net, "c", "eth0")}
    captures |= {server: Capture(net, server, "eth0") for server in SERVERS}
    captures |= {wire: Capture(net, "sw", wire) for wire in ctx.topology.wires}
    for capture in captures.values():
        capture.begin()
    views = {}
    for service in ctx.services:
        with report.check(f"{service.name}: {REQUESTS} requests are answered"):
            views[service] = []
            for _ in range(REQUESTS):
                views[service].append(who(net, service))
    seen = {name: capture.end() for name, capture in captures.items()}
    for service, answers in views.items():
        if answers:
            _Service(ctx, service, answers, seen).check()
    with report.check("the client gets packets from VIPs alone"):
        vips = {s.vip for s in ctx.services}
        others = [p for p in seen["client"] if p.dst == _client(p) and p.src not in vips]
        expect(not others, f"expected none but {sorted(vips)}, seen {others[:5]}")


def _client(packet):
    family = IPV6 if ":" in packet.dst else IPV4
    return family.address(CLIENT, CLIENT_HOST)


class _Service:
    """The checks of one service over what was seen."""

    def __init__(self, ctx, service, views, seen):
        self.ctx, self.service, self.views, self.seen = ctx, service, views, seen
        self.client = service.family.address(CLIENT, CLIENT_HOST)
        self.ports = {view.client_port for view in views}
        self.wires = [p for wire in ctx.topology.wires for p in seen[wire]]

    def check(self):
        service = self.service
        checks = {
            "servers in turn, the newest first": self._turn,
            "the client sees the VIP": self._client_view,
            f"the server sees {self._expected_view()}": self._server_view,
            "TTL falls by one": self._ttl,
        }
        if service.direct:
            checks["replies do not pass the director"] = self._replies_direct
        else:
            checks["replies pass the director"] = self._replies_through
        if service.mode == "tun":
            checks["requests come in a tunnel from the director"] = self._tunnel
        if service.mode == "dr":
            checks["only the Ethernet addresses change"] = self._ethernet
        if service.mode == "fullnat" and service.protocol == "tcp":
            checks["a TCP option tells the server the client"] = self._toa
        if service.protocol == "udp":
            checks["one client stays with one server"] = self._stays
        for name, body in checks.items():
            with self.ctx.report.check(f"{service.name}: {name}"):
                body()

    def _turn(self):
        wanted = [SERVERS[::-1][i % len(SERVERS)] for i in range(len(self.views))]
        equal("servers", [view.server for view in self.views], wanted)

    def _client_view(self):
        service = self.service
        vip = (service.vip, service.port)
        for view in self.views:
            equal("answered by", view.answered_by, vip)
        for packet in self._at_client():
            equal("source of a reply", (packet.src, packet.sport), vip)

    def _at_client(self):
        """What arrives at the client's ports, whoever sent it."""
        replies = [p for p in self.seen["client"]
                   if p.protocol == self.service.protocol
                   and p.dst == self.client and p.dport in self.ports]
        expect(replies, "no reply was captured at the client")
        return replies

    def _expected_view(self):
        return {
            "nat": "the client, itself addressed",
            "dr": "the client, the VIP addressed",
            "tun": "the client, the VIP addressed",
            "fullnat": "the local address, itself addressed",
        }[self.service.mode]

    def _server_view(self):
        service = self.service
        for view in self.views:
            local = service.vip if service.direct else service.server_address(view.server)
            equal("addressed as", (view.local, view.local_port), (local, service.server_port))
            if service.mode == "fullnat":
                equal("peer", view.peer, service.local_address)
                expect(view.peer_port >= 1024, f"local port {view.peer_port} is a privileged one")
            else:
                equal("peer", (view.peer, view.peer_port), (self.client, view.client_port))

    def _requests(self, packets):
        """Requests of this service as the client sent them or as DR and TUN leave them."""
        return [p for p in packets if p.protocol == self.service.protocol and p.dst == self.service.vip
                and p.src == self.client and p.sport in self.ports]

    def _at_servers(self):
        """Requests as they arrive at the servers."""
        service, arrived = self.service, []
        for server in SERVERS:
            packets = self.seen[server]
            if service.direct:
                arrived += [(server, p) for p in self._requests(packets)]
            else:
                sources = {(v.peer, v.peer_port) for v in self.views if v.server == server}
                arrived += [(server, p) for p in packets
                            if p.protocol == service.protocol and (p.src, p.sport) in sources
                            and p.dst == service.server_address(server)
                            and p.dport == service.server_port]
        expect(arrived, "no request was captured at the servers")
        return arrived

    def _ttl(self):
        # 64 at the client, 63 after the router, so 62 after the director; and likewise back.
        equal("TTLs at the servers", {p.ttl for _, p in self._at_servers()}, {62})
        equal("TTLs at the client", {p.ttl for p in self._at_client()},
              {63 if self.service.direct else 62})

    def _replies(self, packets):
        """Replies in any shape: from the VIP, or from a server to whom it took for its client."""
        service = self.service
        peers = {(v.peer, v.peer_port) for v in self.views}
        return [p for p in packets if p.protocol == service.protocol
                and (p.src == service.vip or (p.dst, p.dport) in peers)
                and p.sport in (service.port, service.server_port)]

    def _replies_direct(self):
        macs = {self.ctx.director.mac(network) for network in (FRONT, self.service.back)}
        passing = [p for p in self._replies(self.wires) if macs & {p.src_mac, p.dst_mac}]
        expect(not passing, f"expected none, seen {passing[:3]}")

    def _replies_through(self):
        mac = self.ctx.director.mac(FRONT)
        sent = [p for p in self._replies(self.wires) if p.src_mac == mac]
        expect(sent, "no reply left the director")
        equal("source of replies", {(p.src, p.sport) for p in sent},
              {(self.service.vip, self.service.port)})

    def _tunnel(self):
        service = self.service
        source = service.family.address(service.back, DIRECTOR_HOST)
        for server, packet in self._at_servers():
            expect(packet.outer is not None, f"{packet} came without a tunnel")
            equal("outer addresses", (packet.outer.src, packet.outer.dst),
                  (source, service.server_address(server)))
            if service.family.version == 4:
                equal("DF outside and inside", packet.outer.flags.DF, packet.ip.flags.DF)

    def _ethernet(self):
        layer, transport = LAYERS[self.service.family.version], TRANSPORTS[self.service.protocol]
        sent = {bytes(p.frame[transport]) for p in self._requests(self.seen["client"])}
        for server, packet in self._at_servers():
            equal("destination MAC", packet.dst_mac, self.ctx.net.mac(server, "eth0"))
            expect(packet.outer is None, f"{packet} came in a tunnel")
            expect(bytes(packet.frame[layer][transport]) in sent,
                   f"{packet}: transport header or data differ from what the client sent")

    def _toa(self):
        # One local port may serve several servers at a time.
        found = {}
        for server, packet in self._at_servers():
            for kind, value in packet.l4.options:
                if kind == TOA_KIND:
                    found.setdefault((server, packet.sport), set()).add(bytes(value))
        for view in self.views:
            wanted = {_toa_value(self.client, view.client_port)}
            equal(f"TOA of the client's port {view.client_port}",
                  found.get((view.server, view.peer_port), set()), wanted)

    def _stays(self):
        with Udp(self.ctx.net, self.service) as udp:
            servers = {udp.who().server for _ in range(4)}
        expect(len(servers) == 1, f"expected one server, seen {sorted(servers)}")


def _toa_value(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return port.to_bytes(2, "big") + socket.inet_pton(family, address)
