"""The configuration as a whole while traffic flows: planned, applied on probation, taken back by time and by
hand, changed at random without the loss of a packet; a director that is killed meanwhile starts with its file."""

import json
import random
import subprocess
import threading
import time

import net as network
from check_reload import _Session, _servers
from client import Udp, http_who
from plan import SERVERS
from report import equal, expect

PROBATION = 2  # seconds
EDITS = 200


def check(ctx):
    director, report = ctx.director, ctx.report
    service = next(s for s in ctx.services if s.protocol == "tcp")
    try:
        with report.check("transactions: a plan tells whose sessions it is about, and changes nothing"):
            _plan(ctx, service)
        with report.check("transactions: what is not confirmed is taken back, sessions and counts stay"):
            _probation(ctx, service)
        with report.check("transactions: confirmed, gone back from, saved"):
            _back(ctx, service)
        with report.check(f"transactions: {EDITS} random edits, and no packet is lost to one"):
            _edits(ctx)
        if ctx.start.device.startswith("net_") and not ctx.start.is_plugin:  # as in check_restart
            with report.check("transactions: killed while a confirmation is due, it starts with its file"):
                _killed(ctx, service)
    finally:
        with report.check("transactions: the usual configuration again"):
            status, said = director.reload(director.toml())
            expect(status == 0, said)
            equal("servers", _servers(ctx, service), set(SERVERS))


def _file(ctx, **changes):
    path = ctx.net.dir / "other.toml"
    path.write_text(ctx.director.toml(**changes))
    return str(path)


def _counted(ctx, service, server):
    """A server as it is listed."""
    address = service.server_address(server)
    listed = ctx.director.shunt("servers")
    return next(s for s in listed if s["service"].startswith(f"{service.protocol}:")
                and service.vip in s["service"] and address in s["address"])


def _plan(ctx, service):
    with _Session(ctx, service) as session:
        server = session.who()
        others = [name for name in SERVERS if name != server]
        plan = ctx.director.shunt("plan", _file(ctx, servers=others))
        gone = [c for c in plan["changes"] if c["change"] == "removed"]
        equal("removed", len(gone), len(ctx.services))
        sessions = [c["sessions"] for c in gone if service.vip in c["name"]
                    and c["name"].startswith("tcp:")]
        expect(sum(sessions) >= 1, f"no session of {server}: {gone}")
        equal("needs a restart", plan["needs_restart"], [])
        equal("warnings", plan["warnings"], [])
    equal("servers", _servers(ctx, service), set(SERVERS))


def _probation(ctx, service):
    shunt = ctx.director.shunt
    with _Session(ctx, service) as session:
        server = session.who()
        before = _counted(ctx, service, server)
        others = [name for name in SERVERS if name != server]
        applied = shunt("apply", _file(ctx, servers=others), "--confirm-within", f"{PROBATION}s")
        expect(applied["acknowledged"], f"{applied}")
        begin = time.monotonic()
        equal("servers of new sessions", _servers(ctx, service), set(others))
        equal("server of the running session", session.who(), server)
        back = network.wait_for(
            lambda: shunt("history")["generations"][0]["origin"] == "expired", 10 * PROBATION, 0.1)
        expect(back, "it was never taken back")
        # A little less than the whole: it began before the answer came.
        expect(time.monotonic() - begin > PROBATION / 2, "it was taken back too early")
        equal("servers of new sessions", _servers(ctx, service), set(SERVERS))
        equal("server of the running session", session.who(), server)
        after = _counted(ctx, service, server)
        equal("its id", after["id"], before["id"])
        for what in "sessions", "packets_in", "bytes_in":
            expect(after["counters"][what] >= before["counters"][what], f"{what}: {after}")


def _back(ctx, service):
    shunt = ctx.director.shunt
    shunt("apply", _file(ctx, weights={"s1": 0}), "--confirm-within", "60s")
    shunt("confirm")
    equal("servers", _servers(ctx, service), set(SERVERS) - {"s1"})
    saved = ctx.net.dir / "saved.toml"
    shunt("save", str(saved))
    equal("what is saved", saved.read_text(), ctx.director.toml(weights={"s1": 0}))
    shunt("rollback")
    equal("servers", _servers(ctx, service), set(SERVERS))


def _edits(ctx):
    director, dice = ctx.director, random.Random(20261127)
    tcp = [s for s in ctx.services if s.protocol == "tcp"]
    udp = next(s for s in ctx.services if s.protocol == "udp")
    before = director.shunt("counters")["total"]["drops"]
    done, faults, asked = threading.Event(), [], 0

    def change():
        names = [s["key"] for s in director.shunt("services")]
        try:
            for _ in range(EDITS):
                name = dice.choice(names)
                servers = director.shunt("services", name)[0]["servers"]
                server = dice.choice(servers)["address"]
                director.shunt("server", "change", name, server, "--weight", str(dice.randint(1, 9)))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            faults.append(f"an edit: {error}")
        finally:
            done.set()

    changing = threading.Thread(target=change)
    with Udp(ctx.net, udp) as running:
        server = running.who().server
        changing.start()
        while not done.is_set():
            http_who(ctx.net, dice.choice(tcp))
            if running.who().server != server:
                faults.append("a session went to another server")
            asked += 1
        changing.join()
    equal("faults", faults, [])
    expect(asked > 10, f"only {asked} requests while it was changed")
    after = director.shunt("counters")["total"]["drops"]
    # What the director answers itself (ARP, ND) ends there.
    dropped = {reason: after[reason] - before[reason] for reason in after
               if after[reason] != before[reason] and reason != "answered"}
    equal("drops", dropped, {})


def _killed(ctx, service):
    director = ctx.director
    director.shunt("apply", _file(ctx, servers=["s1"]), "--confirm-within", "600s",
                   "--allow-shrink")
    equal("servers", _servers(ctx, service), {"s1"})
    director.kill()
    director.again()
    history = director.shunt("history")
    equal("generations", [g["origin"] for g in history["generations"]], ["start"])
    expect("pending" not in history, json.dumps(history))
    equal("servers", _servers(ctx, service), set(SERVERS))
