"""The operator's command: a service is made, changed and removed while the director runs."""

import subprocess

from client import http_who
from plan import FAMILIES, FRONT, PORTS, SERVER_PORTS, Service, endpoint
from report import equal, expect

HOST = 110


class _NewService(Service):
    """A NAT service besides the configured ones."""

    @property
    def vip(self):
        return self.family.address(FRONT, HOST)


def check(ctx):
    shunt, report = ctx.director.shunt, ctx.report
    before = len(shunt("services"))
    for family in FAMILIES:
        service = _NewService("nat", "tcp", family, ctx.topology.back)
        name = f"tcp:{endpoint(service.vip, PORTS['tcp'])}"
        one, two = (endpoint(service.server_address(server), SERVER_PORTS["tcp"])
                    for server in ("s1", "s2"))

        def servers(of=service):
            return {http_who(ctx.net, of).server for _ in range(4)}

        prefix = f"shunt, ipv{family.version}"
        with report.check(f"{prefix}: a new service with two servers answers"):
            shunt("service", "add", name, "--scheduler", "rr", "--mode", "nat",
                  "--announce", "worker")
            shunt("server", "add", name, one)
            shunt("server", "add", name, two)
            equal("servers", servers(), {"s1", "s2"})
        with report.check(f"{prefix}: a server of weight 0 rests"):
            shunt("server", "change", name, one, "--weight", "0")
            equal("servers", servers(), {"s2"})
        with report.check(f"{prefix}: a removed server is gone, another weight is in force"):
            shunt("server", "change", name, one, "--weight", "1")
            shunt("server", "remove", name, two)
            equal("servers", servers(), {"s1"})
        with report.check(f"{prefix}: the same service again is refused"):
            status, said = _refused(ctx, "service", "add", name)
            expect(status == 1 and service.vip in said, f"exit status {status}; it said: {said}")
        with report.check(f"{prefix}: the removed service does not answer"):
            shunt("service", "remove", name)
            equal("services", len(shunt("services")), before)
            try:
                view = http_who(ctx.net, service, patience=1)
            except subprocess.CalledProcessError:
                view = None
            expect(view is None, f"it was answered: {view}")


def _refused(ctx, *args):
    done = subprocess.run(
        [ctx.director.binaries / "shunt", "--socket", ctx.director.socket, *args], timeout=10,
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout
