#!/usr/bin/env python3
"""Puts figures beside what they have to reach: a table, JSON, and plots (SVG).

usage: report.py ROWS BUDGETS FOLDER NAME [KEY=VALUE...]

ROWS has a line of JSON for each figure, BUDGETS is bench/budgets.tsv; FOLDER/NAME.json, NAME.txt and
plots are written. Called by scripts/bench; needs nothing but Python.
"""

import json
import math
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone

FLOWS = {"1": 1, "1K": 1e3, "64K": 65536, "1M": 1e6, "10M": 1e7}
COLOURS = ["#1b6ca8", "#c0392b", "#27864b", "#8e44ad", "#b9770e", "#555555"]


def budgets(path):
    """The budgets by id, in the order of the file."""
    table = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#") or not line.strip():
                continue
            id_, better, must, aim, unit, name = line.rstrip("\n").split("\t")
            table[id_] = {"better": better, "must": float(must), "aim": float(aim), "unit": unit, "name": name}
    return table


def run(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(extra):
    """Facts of the machine and the build."""
    with open("/proc/cpuinfo", encoding="utf-8") as text:
        cpu = re.search(r"^model name\s*:\s*(.*)$", text.read(), re.M)
    with open("/proc/meminfo", encoding="utf-8") as text:
        meminfo = text.read()
    with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="utf-8") as text:
        thp = re.search(r"\[(\w+)\]", text.read())
    facts = {
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu.group(1) if cpu else "unknown",
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "hugepages": "DPDK's memory" if "hugepages=1" in extra else "none",
        "transparent_hugepages": thp.group(1) if thp else "unknown",
        "memory_mib": int(re.search(r"^MemTotal:\s*(\d+)", meminfo, re.M).group(1)) // 1024,
        "load_average": os.getloadavg()[0],
        "dpdk": run("pkg-config", "--modversion", "libdpdk"),
        "rustc": run("rustc", "--version"),
        "commit": run("git", "rev-parse", "--short", "HEAD"),
        "dirty": run("git", "status", "--porcelain", "--untracked-files=no", "--", ":!bench/results") not in ("", "unknown"),
    }
    return facts


def read(path):
    """The figures, the last of each id."""
    rows = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                row = json.loads(line)
                rows[row["id"]] = row
    few, many = (rows.get(f"cycles.fullnat4.tcp.{n}.uniform") for n in ("1K", "10M"))
    if few and many:
        rows["G.cycles"] = {
            "id": "G.cycles",
            "name": "cycles a packet, FULLNAT, 10 million flows against 1000",
            "value": many["value"] / few["value"],
            "unit": "times",
            "reference": f"{many['value']:.1f} against {few['value']:.1f} TSC cycles, net_null included",
        }
    return rows


def verdict(row, budget):
    """Adds must, aim, better and verdict."""
    row.update(must=None, aim=None, better=None, verdict="")
    if budget:
        row.update(must=budget["must"], aim=budget["aim"], better=budget["better"])
        sign = 1 if budget["better"] == "lower" else -1
        reached = [w for w in ("aim", "must") if sign * row["value"] <= sign * budget[w]]
        row["verdict"] = reached[0] if reached else "MISSED"


def digits(value):
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.{max(0, 2 - int(math.log10(max(abs(value), 1e-9))))}f}" if abs(value) < 1000 else f"{value:.0f}"


def table(rows, order):
    lines = [f"{'figure':<30} {'value':>9} {'must':>6} {'aim':>6} {'verdict':<8} unit and reference"]
    lines.append("-" * 118)
    for row in order:
        lines.append(
            f"{row['id']:<30} {digits(row['value']):>9} {digits(row['must']):>6} {digits(row['aim']):>6} "
            f"{row['verdict']:<8} {row['unit']}; {row['name']}"
        )
        if row["reference"] not in ("", "callgrind"):
            lines.append(f"{'':<63}{row['reference']}")
    return "\n".join(lines)


class Plot:
    """Lines over a logarithmic x axis."""

    WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 440, 70, 60, 50, 210

    def __init__(self, title, x_name, y_name):
        self.title, self.x_name, self.y_name, self.lines = title, x_name, y_name, []

    def line(self, name, points, dashed=False):
        if points:
            self.lines.append((name, sorted(points), dashed))

    def write(self, path):
        if not self.lines:
            return
        xs = [x for _, points, _ in self.lines for x, _ in points]
        top = max(y for _, points, _ in self.lines for _, y in points) * 1.1
        low, high = math.log10(min(xs)), math.log10(max(xs))
        right, bottom = self.WIDTH - self.RIGHT, self.HEIGHT - self.BOTTOM
        scale = max(high - low, 1)

        def x_at(x):
            return self.LEFT + (math.log10(x) - low) / scale * (right - self.LEFT)

        def y_at(y):
            return bottom - y / top * (bottom - self.TOP)

        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.WIDTH}" height="{self.HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="{self.LEFT}" y="25" font-size="15">{self.title}</text>',
            f'<text x="{(self.LEFT + right) / 2}" y="{self.HEIGHT - 15}" text-anchor="middle">{self.x_name}</text>',
            f'<text x="18" y="{(self.TOP + bottom) / 2}" text-anchor="middle" '
            f'transform="rotate(-90 18 {(self.TOP + bottom) / 2})">{self.y_name}</text>',
        ]
        tick = 10 ** math.floor(math.log10(top / 3))
        tick *= next(m for m in (1, 2, 5, 10) if top / (tick * m) <= 8)
        for n in range(int(top / tick) + 1):
            y = y_at(n * tick)
            out.append(f'<line x1="{self.LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{self.LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{digits(n * tick)}</text>')
        for x in sorted(set(xs)):
            word = next((w for w, n in FLOWS.items() if n == x), None) or (f"{x / 1024:.0f}K" if x < 1e6 else f"{x / 2**20:.0f}M")
            out.append(f'<text x="{x_at(x):.1f}" y="{bottom + 18}" text-anchor="middle">{word}</text>')
        for n, (name, points, dashed) in enumerate(self.lines):
            colour, dash = COLOURS[n % len(COLOURS)], ' stroke-dasharray="6 4"' if dashed else ""
            path_ = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
            out.append(f'<polyline points="{path_}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            out += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
            y = self.TOP + 10 + n * 20
            out.append(f'<line x1="{right + 12}" x2="{right + 40}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>')
            out.append(f'<text x="{right + 46}" y="{y + 4}">{name}</text>')
        out.append("</svg>")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(out) + "\n")


def by_flows(rows, prefix, suffix):
    points = [(n, rows.get(f"{prefix}{word}{suffix}")) for word, n in FLOWS.items()]
    return [(n, row["value"]) for n, row in points if row]


def plots(rows, folder, name):
    plot = Plot("Cycles a packet of established sessions, net_null included", "flows, uniformly at random", "TSC cycles a packet")
    for mode in ("dr", "tun", "nat", "fullnat"):
        plot.line(mode.upper(), by_flows(rows, f"cycles.{mode}4.tcp.", ".uniform"))
    plot.line("FULLNAT, Zipf 1.1", by_flows(rows, "cycles.fullnat4.tcp.", ".zipf"), True)
    plot.line("l3fwd exact match", by_flows(rows, "reference.l3fwd.", ""), True)
    plot.write(os.path.join(folder, f"{name}-cycles.svg"))

    plot = Plot("Table lookup, hits, bursts of 32", "entries", "TSC cycles a lookup")
    ours, theirs = [], []
    for row in rows.values():
        found = re.match(r"ours ([\d.]+) TSC cycles .* rte_hash ([\d.]+) ", row["reference"])
        entries = re.search(r"(\d+)([KM]) entries", row["name"])
        if row["id"].startswith("P5") and found and entries:
            n = int(entries.group(1)) * {"K": 1024, "M": 2**20}[entries.group(2)]
            ours.append((n, float(found.group(1))))
            theirs.append((n, float(found.group(2))))
    plot.line("session table", ours)
    plot.line("rte_hash bulk", theirs, True)
    plot.write(os.path.join(folder, f"{name}-lookup.svg"))


def main():
    rows_path, budget_path, folder, name = sys.argv[1:5]
    goals, rows = budgets(budget_path), read(rows_path)
    for row in rows.values():
        verdict(row, goals.get(row["id"]))
    # Those with a budget first, in its order.
    order = [rows[id_] for id_ in goals if id_ in rows]
    order += [row for id_, row in rows.items() if id_ not in goals]
    facts = machine(sys.argv[5:])
    text = "\n".join(f"{key}: {value}" for key, value in facts.items()) + "\n\n" + table(rows, order)
    missing = [id_ for id_ in goals if id_ not in rows]
    if missing:
        text += "\n\nnot measured in this run: " + ", ".join(missing)
    print(text)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
        json.dump({"machine": facts, "figures": order, "not_measured": missing}, file, indent=1)
        file.write("\n")
    plots(rows, folder, name)
    print(f"\nwritten: {folder}/{name}.json, {name}.txt, plots beside them")


main()
