"""Truncated, malformed and lying packets to the VIPs: nothing of them comes out, nothing breaks.

The frames are made from valid requests by damage that has a name, and by random damage; the seed is
printed with a failure, and E2E_SEED replays it.
"""

import os
import random
import socket
import time

import net as network
from capture import ICMP, IP, TCP, UDP, Ether, IPv6
from check_accounts import accounted
from check_reload import _reload, tcp_timeouts
from client import who
from plan import CLIENT, CLIENT_HOST, FRONT
from report import equal, expect

RANDOM_FRAMES = 1500
ETH_P_ALL = 3
# A SYN and what reads as ACK after it make a session that nobody will ever close, and a datagram one that
# nobody answers: they would be in the way of the checks that follow.
SOON_OVER = {**tcp_timeouts("1s", "established", "syn_recv"), "timeouts.udp": "1s"}


def check(ctx):
    seed = int(os.environ.get("E2E_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    frames = [frame for service in ctx.services for frame in _named(ctx, service)]
    valid = [bytes(_request(ctx, service)) for service in ctx.services]
    frames += [_damaged(chance, chance.choice(valid)) for _ in range(RANDOM_FRAMES)]
    name = f"{len(frames)} malformed frames (seed {seed})"
    _reload(ctx.director, ctx.director.toml(more=SOON_OVER))
    begin = time.monotonic()
    with ctx.report.check(f"{name}: the director stays up"):
        _send(ctx, frames)
        expect(ctx.director.answers(), "the API does not answer")
        expect(ctx.director.process.running(), "shuntd has ended")
    with ctx.report.check(f"{name}: every frame is accounted for"):
        accounted(ctx)
    with ctx.report.check(f"{name}: services work as before"):
        for service in ctx.services:
            equal("answered by", who(ctx.net, service).answered_by, (service.vip, service.port))
    # A session's end is looked at when it is due, by the timeouts of then: with the usual ones it would stay.
    with ctx.report.check(f"{name}: what they made is soon over"):
        expect(network.wait_for(lambda: not _since(ctx, begin), 30, 0.1), f"for good: {_since(ctx, begin)}")
    _reload(ctx.director, ctx.director.toml())


def _since(ctx, begin):
    """The sessions that began after this moment."""
    most = (time.monotonic() - begin) * 1000
    return [s for s in ctx.director.shunt("sessions")["sessions"] if s["age_ms"] < most]


def _request(ctx, service, **l4):
    """A valid request as the router would send it: a SYN, or a datagram."""
    ether = Ether(src=ctx.net.mac("r", "front"), dst=ctx.director.mac(FRONT))
    layer = IPv6 if service.family.version == 6 else IP
    ip = layer(src=service.family.address(CLIENT, CLIENT_HOST), dst=service.vip)
    if service.protocol == "tcp":
        return ether / ip / TCP(sport=7, dport=service.port, **({"flags": "S"} | l4))
    return ether / ip / UDP(sport=7, dport=service.port, **l4) / b"garbage"


def _named(ctx, service):
    """Damage by name. Checksums are computed over the lies, so that only the lie is wrong."""
    base = _request(ctx, service)
    four = service.family.version == 4
    layer = IP if four else IPv6
    lies, frames = [], []

    def lie(part, **fields):
        packet = base.copy()
        for field, value in fields.items():
            setattr(packet[part], field, value)
        lies.append(packet)

    for version in 0, 5, 15:
        lie(layer, version=version)
    if four:
        lie(IP, ihl=4)
        lie(IP, ihl=15)
        lie(IP, len=19)
        lie(IP, len=1400)
        lie(IP, chksum=1)
        lie(IP, ttl=0)
        lie(IP, frag=100)
        lie(IP, src="127.0.0.1")
        lie(IP, src="255.255.255.255")
        lie(IP, src=service.vip)
    else:
        lie(IPv6, plen=0)
        lie(IPv6, plen=3)
        lie(IPv6, plen=1400)
        lie(IPv6, hlim=0)
        lie(IPv6, src="::1")
        lie(IPv6, src="ff02::1")
        for chain in 0, 43, 44, 60, 51, 135:
            lie(IPv6, nh=chain)
    if service.protocol == "tcp":
        for words in 0, 4, 15:
            lie(TCP, dataofs=words)
        lie(TCP, flags=0)
        lie(TCP, flags=0x3F)
        lie(TCP, sport=0)
        # Not damaged, but of nobody: a handshake that seems whole.
        frames = [bytes(_request(ctx, service, flags=flags)) for flags in "SA"]
    else:
        for length in 0, 7, 9, 1400, 65535:
            lie(UDP, len=length)
        lie(UDP, sport=0)
    frames += [bytes(packet) for packet in lies]
    whole = bytes(base)
    frames += [whole[:length] for length in range(14, len(whole))]
    if four:
        # An ICMP error that quotes too little, and one that quotes what never was.
        head = base.copy()
        head[IP].remove_payload()
        for kind, quote in (3, whole[14:20]), (11, whole[14:38]), (3, b""), (5, whole[14:]):
            frames.append(bytes(head / ICMP(type=kind, code=4) / quote))
    return frames


def _damaged(chance, frame):
    """A valid frame with some bytes changed, cut or grown; its Ethernet header is left alone."""
    frame = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        frame[chance.randrange(14, len(frame))] = chance.randrange(256)
    kind = chance.randrange(4)
    if kind == 0:
        del frame[chance.randrange(14, len(frame)):]
    elif kind == 1:
        frame += chance.randbytes(chance.randrange(1, 1400))
    return bytes(frame)


def _send(ctx, frames):
    """From the router's interface, where the director's client side begins."""
    with ctx.net.inside("r"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with raw:
        raw.bind(("front", 0))
        raw.settimeout(5)
        for frame in frames:
            raw.send(frame[:1514])
