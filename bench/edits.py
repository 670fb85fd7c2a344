#!/usr/bin/env python3
"""Changes a director's configuration at random by the API, one change after the other, and reports in JSON
what that took and what the workers counted meanwhile.

usage: bench/edits.py SOCKET VIP:PORT NUMBER

VIP:PORT is the UDP service that has traffic: its servers get other weights, the last of them goes and comes, its
settings change. The others come, change and go as well. The same seed makes the same changes.
"""

import http.client
import json
import random
import re
import socket
import sys
import time

SEED = 20261127
LONG = 0.000131072  # an edge of the director's histogram, seconds
OTHERS = 20  # services beside the one with traffic
EDGES = re.compile(r'shunt_worker_iteration_seconds_bucket\{worker="(\d+)",le="([^"]+)"\} (\d+)')


class Api(http.client.HTTPConnection):
    """One connection to the socket, kept open."""

    def __init__(self, path):
        super().__init__("shunt")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, text=False):
        try:
            self.request(method, path, None if body is None else json.dumps(body))
            answer = self.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            # A connection lives five minutes; what was asked last was not done.
            self.close()
            return self.ask(method, path, body, text)
        said = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path} {body}: {answer.status} {said.decode()}")
        return said.decode() if text else json.loads(said or "null")


def iterations(api):
    """Busy iterations by the upper bound of their time, seconds."""
    counts, last = {}, {}
    for worker, edge, count in EDGES.findall(api.ask("GET", "/metrics", text=True)):
        below = last.get(worker, 0)
        last[worker] = int(count)
        counts[float(edge)] = counts.get(float(edge), 0) + int(count) - below
    return counts


def main():
    path, vip, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    api, dice = Api(path), random.Random(SEED)
    name = f"/v1/services/udp:{vip}"
    served = [s["address"] for s in api.ask("GET", name)["servers"]]
    *stay, goes = served
    mode = api.ask("GET", name)["configuration"]["mode"]
    there, others = True, set()

    def one():
        nonlocal there
        n = dice.randrange(OTHERS)
        key = f"/v1/services/tcp:10.0.1.{n + 1}:80"
        what = dice.choice(["weight"] * 4 + ["goes", "setting", "server", "server", "service"])
        if what == "weight":
            api.ask("PATCH", f"{name}/servers/{dice.choice(stay)}", {"weight": dice.randint(1, 9)})
        elif what == "goes":
            if there:
                api.ask("DELETE", f"{name}/servers/{goes}")
            else:
                api.ask("PUT", f"{name}/servers/{goes}", {"mode": mode})
            there = not there
        elif what == "setting":
            api.ask("PATCH", name, {"timeouts": {"udp": f"{dice.randint(200, 400)}s"}})
        elif n not in others:
            api.ask("PUT", key, {"scheduler": dice.choice(["mh", "wrr", "wlc", "conhash"]), "servers": [
                {"address": f"192.168.1.{host}:80"} for host in (11, 12)]})
            others.add(n)
        elif what == "server":
            host = dice.randint(11, 14)
            api.ask("PUT", f"{key}/servers/192.168.1.{host}:80", {"weight": dice.randint(0, 9)})
        else:
            api.ask("DELETE", key)
            others.remove(n)

    drops = api.ask("GET", "/v1/counters")["total"]["drops"]
    before, first = iterations(api), api.ask("GET", "/v1/status")["generation"]
    begin, longest = time.monotonic(), 0.0
    for _ in range(number):
        since = time.monotonic()
        one()
        longest = max(longest, time.monotonic() - since)
    took = time.monotonic() - begin
    after = iterations(api)
    counted = {edge: after[edge] - before.get(edge, 0) for edge in after}
    status = api.ask("GET", "/v1/status")
    total = api.ask("GET", "/v1/counters")["total"]
    dropped = {why: n - drops[why] for why, n in total["drops"].items() if n != drops[why]}
    busy = sum(counted.values())

    def below(part):
        """Upper bound of this part of the iterations, microseconds."""
        left = busy * (1 - part)
        for edge in sorted(counted, reverse=True):
            left -= counted[edge]
            if left < 0:
                return edge * 1e6
        return 0.0

    print(json.dumps({
        "edits": number, "seconds": took, "edits_per_second": number / took, "longest_edit_ms": longest * 1e3,
        "generations": status["generation"] - first,
        "acknowledged": status["acknowledged"] == status["generation"],
        "drops": dropped, "unaccounted": total["unaccounted"], "busy_iterations": busy,
        "us_longest_below": max((edge for edge, n in counted.items() if n), default=0) * 1e6,
        "long_above_us": LONG * 1e6, "long": sum(n for edge, n in counted.items() if edge > LONG),
        "us_p99.99_below": below(0.9999), "us_p99.9_below": below(0.999),
    }))


if __name__ == "__main__":
    main()
