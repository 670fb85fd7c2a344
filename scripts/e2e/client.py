"""The client: curl for TCP, sockets for UDP, both in the client's namespace."""

import dataclasses
import hashlib
import itertools
import json
import socket
import subprocess
import threading

from report import Failed

# Every exchange has a port of its own, so that a captured packet tells whose it is. (The kernel
# would give one port to connections with different destinations. These are below its range.)
_ports = itertools.count(10000)


@dataclasses.dataclass(frozen=True)
class View:
    """One exchange, as both ends saw it."""

    server: str
    peer: str  # whom the server saw
    peer_port: int
    local: str  # what the server was addressed as
    local_port: int
    client_port: int
    answered_by: tuple  # whom the client saw: address, port


class Background:
    """Threads that run `bodies` beside a check; they end when it leaves, which `ending` tells them."""

    def __init__(self, bodies):
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=body) for body in bodies]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()


def http_who(net, service, patience=5):
    """One request over a connection of its own; an error after so many seconds without an answer."""
    out = net.run(
        "c", "curl", "-sS", "-g", "--max-time", str(patience), "--noproxy", "*",
        "--local-port", str(next(_ports)), "-w", "%{remote_ip} %{remote_port} %{local_port}",
        f"http://{service.endpoint}/who")
    body, _, line = out.rpartition("\n")
    address, port, client_port = line.split()
    return View(client_port=int(client_port), answered_by=(address, int(port)), **json.loads(body))


class Udp:
    """A UDP socket of the client. It is not connected: it takes answers from anyone, and says from
    whom."""

    def __init__(self, net, service):
        self.service = service
        kind = socket.AF_INET6 if service.family.version == 6 else socket.AF_INET
        with net.inside("c"):
            self.socket = socket.socket(kind, socket.SOCK_DGRAM)
        self.port = next(_ports)
        self.socket.bind(("", self.port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendto(data, (self.service.vip, self.service.port))

    def receive(self, seconds):
        """The next datagram and its sender, or None."""
        self.socket.settimeout(seconds)
        try:
            data, sender = self.socket.recvfrom(65536)
        except TimeoutError:
            return None
        return data, sender[:2]

    def ask(self, data, seconds=1.0, tries=3):
        """Sends until it is answered, as every UDP client must."""
        for _ in range(tries):
            self.send(data)
            answer = self.receive(seconds)
            if answer:
                return answer
        raise Failed(f"{self.service.endpoint} (UDP) does not answer")

    def who(self):
        data, sender = self.ask(b"who")
        return View(client_port=self.port, answered_by=sender, **json.loads(data))


def udp_who(net, service):
    """One request from a port of its own."""
    with Udp(net, service) as udp:
        return udp.who()


def who(net, service):
    return http_who(net, service) if service.protocol == "tcp" else udp_who(net, service)


def download(net, service, path, seconds=60):
    """Downloads a file; returns its SHA-256."""
    command = ["ip", "netns", "exec", net.ns("c"), "curl", "-sS", "-g", "--noproxy", "*",
               "--max-time", str(seconds), f"http://{service.endpoint}/{path}"]
    digest = hashlib.sha256()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as curl:
        while piece := curl.stdout.read(1 << 16):
            digest.update(piece)
        error = curl.stderr.read().decode()
    if curl.returncode:
        raise Failed(f"download: {error.strip()}")
    return digest.hexdigest()


def upload(net, service, file, path, seconds=60):
    """Uploads a file."""
    net.run("c", "curl", "-sS", "-g", "-f", "--noproxy", "*", "--max-time", str(seconds),
            "-T", file, f"http://{service.endpoint}/{path}", timeout=seconds + 10)
