"""Several workers: packets reach the one that has their session. Where the device steers, hardly any is
handed over; where it does not, everything is served all the same."""

from client import who
from report import equal, expect

# Exchanges with each service, each from a port and so from a shard of its own.
EXCHANGES = 16


def check(ctx):
    if ctx.start.workers == 1:
        return
    report, steers = ctx.report, ctx.start.steers
    with report.check("steering: the ports tell what steers"):
        told = {port["steering"] for port in ctx.director.shunt("interfaces")["ports"]}
        equal("steering", told, {"rss+rte_flow" if steers else "software"})
    # Replies of NAT come by their clients' port, which the device of one arm does not hash.
    steered = [s for s in ctx.services if s.mode != "nat"]
    with report.check("steering: both directions of many sessions"):
        before = _counted(ctx)
        for service in steered:
            for _ in range(EXCHANGES):
                who(ctx.net, service)
        received, handed_over = (now - then for now, then in zip(_counted(ctx), before))
        least = len(steered) * EXCHANGES * 2
        expect(received >= least, f"{received} packets were received, of at least {least}")
        if steers:
            expect(handed_over * 100 <= received,
                   f"{handed_over} of {received} packets were handed over, though the device steers")
        else:
            expect(handed_over > 0, f"none of {received} packets was handed over")
    with report.check("steering: the share of packets handed over is told"):
        workers = ctx.director.shunt("status")["workers"]
        counters = ctx.director.shunt("counters")["workers"]
        for worker, counted in zip(workers, (c["counters"] for c in counters)):
            share = counted["handed_over"] / max(counted["received"], 1)
            expect(abs(worker["handed_over"] - share) < 0.05,
                   f"worker {worker['worker']} tells {worker['handed_over']}, counters say {share}")


def _counted(ctx):
    counters = ctx.director.shunt("counters")["total"]["counters"]
    return counters["received"], counters["handed_over"]
