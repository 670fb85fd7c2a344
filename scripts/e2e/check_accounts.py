"""What the director says of itself: every packet is accounted for, sessions and servers are counted
as the traffic was."""

import net as network
from client import Udp, who
from plan import CLIENT, CLIENT_HOST, SERVERS, endpoint
from report import equal, expect

# Why packets of this traffic may be dropped: tunnels are shorter than links, what the director answers
# itself is used up, and other checks ask for refusals. Queues may be full where clients, servers, workers and the mirror share
# two cores.
EXPECTED_DROPS = {
    "too-big", "answered", "no-session", "neighbour-unresolved", "no-server", "ttl-exceeded",
    "transmit-full", "hand-over-full", "mirror-full",
}


def check(ctx):
    report, director = ctx.report, ctx.director
    with report.check("accounts: every packet is accounted for"):
        accounted(ctx)
    with report.check("accounts: nothing was dropped without need"):
        drops = {reason: count for reason, count in director.shunt("counters")["total"]["drops"].items()
                 if count and reason not in EXPECTED_DROPS}
        equal("drops", drops, {})
    if ctx.start.is_plugin:
        with report.check("accounts: the plugin's device was asked for nothing that it cannot do"):
            device, = director.shunt("interfaces")["ports"]
            equal("driver", device["driver"], ctx.start.device)
            counters = device["counters"]
            expect(counters["rx_packets"] > 0, f"it counts no packet: {counters}")
            equal("packets that it could not send", counters["tx_errors"], 0)
    for service in ctx.services:
        with report.check(f"{service.name}: is still served"):
            who(ctx.net, service)
    services = {(s["configuration"]["protocol"], s["configuration"]["vip"]): s
                for s in director.shunt("services")}
    for service in ctx.services:
        with report.check(f"{service.name}: counters are those of the traffic"):
            listed = services[service.protocol, service.endpoint]
            equal("mode", listed["configuration"]["mode"], service.mode)
            equal("servers", {server["address"] for server in listed["servers"]},
                  {endpoint(service.server_address(name), service.server_port) for name in SERVERS})
            counters = listed["counters"]
            expect(counters["sessions"] > 0 and counters["packets_in"] > 0,
                   f"no session or packet is counted: {counters}")
            equal("packets of servers were counted", counters["packets_out"] > 0,
                  not service.direct)
        if service.protocol == "udp":
            with report.check(f"{service.name}: its session is listed"):
                _listed(ctx, service)
    if ctx.start.workers > 1:
        with report.check("accounts: every worker has had sessions"):
            made = [worker["counters"]["sessions_created"]
                    for worker in director.shunt("counters")["workers"]]
            equal("workers with sessions", [count > 0 for count in made],
                  [True] * ctx.start.workers)


def accounted(ctx):
    """Nothing is missing, once nothing is on its way."""
    def missing():
        counters = ctx.director.shunt("counters")
        workers = [worker["unaccounted"] for worker in counters["workers"]]
        total = counters["total"]["counters"]
        return workers, total["handed_over"] - total["received_handed_over"]

    def none_missing():
        workers, between = missing()
        return not any(workers) and not between
    expect(network.wait_for(none_missing, 2, 0.1),
           f"unaccounted by worker, handed over and not received: {missing()}")


def _listed(ctx, service):
    with Udp(ctx.net, service) as udp:
        server = udp.who().server
        client = endpoint(service.family.address(CLIENT, CLIENT_HOST), udp.port)
        sessions = [s for s in ctx.director.shunt("sessions")["sessions"]
                    if s["client"] == client and s["vip"] == service.endpoint]
        equal("sessions of the client", len(sessions), 1)
        equal("server", sessions[0]["server"],
              endpoint(service.server_address(server), service.server_port))
        equal("mode", sessions[0]["mode"], service.mode)
        if service.mode == "fullnat":
            expect(sessions[0]["local"].startswith(endpoint(service.local_address, "")),
                   f"local address: {sessions[0]['local']}")
