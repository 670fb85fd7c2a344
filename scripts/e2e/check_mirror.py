"""The director's own kernel, reached through its ports: ping, ARP and ND, a TCP server."""

import hashlib
import os
import socket
import threading

from plan import DIRECTOR_HOST, FAMILIES, FRONT, ROUTER_HOST
from report import equal, expect

SIZE = 4 << 20


def check(ctx):
    net, report, director = ctx.net, ctx.report, ctx.director
    for family in FAMILIES:
        own = family.address(FRONT, DIRECTOR_HOST)
        with report.check(f"mirror ipv{family.version}: the client pings the director"):
            net.run("c", "ping", "-c", "3", "-i", "0.1", "-W", "2", own)
        with report.check(f"mirror ipv{family.version}: the director pings the router"):
            net.run("d", "ping", "-c", "3", "-i", "0.1", "-W", "2",
                    family.address(FRONT, ROUTER_HOST))
        protocol = "ARP" if family.version == 4 else "ND"
        with report.check(f"mirror ipv{family.version}: {protocol} finds the director's MAC"):
            net.ip("r", "neigh", "flush", "dev", "front", "to", own)
            net.run("r", "ping", "-c", "1", "-W", "2", own)
            neighbours = net.ip_json("r", "neigh", "show", "dev", "front", "to", own)
            equal("MAC", [n.get("lladdr") for n in neighbours], [director.mac(FRONT)])
        with report.check(f"mirror ipv{family.version}: the director refuses a closed port itself"):
            with net.inside("c"):
                probe = socket.socket(_kind(family), socket.SOCK_STREAM)
            with probe:
                probe.settimeout(3)
                try:
                    probe.connect((own, 23))
                    refused = False
                except ConnectionRefusedError:
                    refused = True
                expect(refused, "expected a reset by the director's kernel")
        with report.check(f"mirror ipv{family.version}: a TCP session with the director, "
                          f"{SIZE >> 20} MiB both ways"):
            _session(net, family, own)
    _vips(ctx)


def _vips(ctx):
    for vip in sorted({service.vip for service in ctx.services}):
        with ctx.report.check(f"mirror: the client pings the VIP {vip}"):
            ctx.net.run("c", "ping", "-c", "2", "-i", "0.1", "-W", "2", vip)


def _kind(family):
    return socket.AF_INET6 if family.version == 6 else socket.AF_INET


def _session(net, family, own):
    """As ssh would: a server in the director's namespace, a client that sends and receives."""
    payload = os.urandom(SIZE)
    with net.inside("d"):
        listener = socket.create_server((own, 22), family=_kind(family))
    listener.settimeout(10)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            connection.sendall(_receive(connection, SIZE))

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with listener:
        with net.inside("c"):
            client = socket.socket(_kind(family), socket.SOCK_STREAM)
        with client:
            client.settimeout(20)
            client.connect((own, 22))
            client.sendall(payload)
            back = _receive(client, SIZE)
        server.join(20)
    equal("SHA-256", hashlib.sha256(back).hexdigest(), hashlib.sha256(payload).hexdigest())


def _receive(connection, size):
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        data += piece
    return bytes(data)
