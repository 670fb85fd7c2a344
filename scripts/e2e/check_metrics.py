"""Metrics: Debian's Prometheus scrapes the director as docs/monitoring.md says; its promtool judges names
and rules; every expression of the rules and of the dashboard is one that it can evaluate."""

import json
import pathlib
import re
import urllib.parse

import net as network
from client import who
from report import equal, expect

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
LISTEN = "127.0.0.1:9790"
WEB = "127.0.0.1:9090"


def check(ctx):
    net, report = ctx.net, ctx.report
    for service in ctx.services:
        who(net, service)
    with report.check("metrics: by TCP the token is needed"):
        equal("status without", _status(ctx), "401")
        equal("status with another", _status(ctx, "x" * 32), "401")
        equal("status", _status(ctx, ctx.director.token.read_text().strip()), "200")
    with report.check("metrics: promtool finds nothing wrong"):
        text = network.run("curl", "-s", "--unix-socket", str(ctx.director.socket),
                           "http://shunt/metrics")
        expect("shunt_service_handshake_seconds_bucket" in text, "no histogram of handshakes")
        file = net.dir / "metrics.txt"
        file.write_text(text)
        told = network.run("sh", "-c", f"promtool check metrics < {file} 2>&1; echo $?")
        equal("promtool said", told.strip(), "0")
    with report.check("metrics: the alert rules are good"):
        network.run("promtool", "check", "rules", DOCS / "monitoring/alerts.yml")
    prometheus = _prometheus(ctx)
    try:
        _scraped(ctx)
    finally:
        prometheus.stop()


def _status(ctx, token=None):
    header = ["-H", f"Authorization: Bearer {token}"] if token else []
    return ctx.net.run("d", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *header,
                       f"http://{LISTEN}/metrics")


def _prometheus(ctx):
    """Prometheus in the director's node, with the configuration of the manual."""
    manual = (DOCS / "monitoring.md").read_text()
    config, = re.findall(r"```yaml\n(.*?)```", manual, re.S)
    config = config.replace("/etc/prometheus/shunt-alerts.yml", str(DOCS / "monitoring/alerts.yml"))
    config = config.replace("/etc/shunt/token", str(ctx.director.token))
    file = ctx.net.dir / "prometheus.yml"
    file.write_text("global: {scrape_interval: 1s, evaluation_interval: 1s}\n" + config)
    network.run("promtool", "check", "config", file)
    return ctx.net.spawn("d", "prometheus", "prometheus", f"--config.file={file}",
                         f"--storage.tsdb.path={ctx.net.dir}/prometheus",
                         f"--web.listen-address={WEB}")


def _ask(ctx, path, **query):
    url = f"http://{WEB}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    answer = ctx.net.run("d", "curl", "-s", url, check=False)
    try:
        return json.loads(answer)
    except ValueError:  # it is still starting
        return {"status": "none"}


def _value(ctx, query):
    """The value of a query's only sample; None if there is none."""
    result = _ask(ctx, "query", query=query).get("data", {}).get("result", [])
    return float(result[0]["value"][1]) if result else None


def _scraped(ctx):
    report = ctx.report
    with report.check("metrics: Prometheus scrapes the director"):
        expect(network.wait_for(lambda: _up(ctx), 30, 0.2), "it does not")
        service = ctx.services[0]
        name = f'service="{service.protocol}:{service.endpoint}"'
        before = _value(ctx, f"shunt_service_sessions_total{{{name}}}")
        expect(before, "no sessions were counted")
        who(ctx.net, service)
        more = f"shunt_service_sessions_total{{{name}}} > {before}"
        expect(network.wait_for(lambda: _value(ctx, more), 20, 0.2), "one session more is not seen")
        sums = "sum(shunt_worker_sessions_created_total) - on () sum(shunt_service_sessions_total)"
        expect(_value(ctx, sums) is not None, f"{sums}: nothing")
    with report.check("metrics: every rule can be evaluated"):
        def rules():
            groups = _ask(ctx, "rules")["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else None
        rules = network.wait_for(rules, 20, 0.2)
        bad = [(r["name"], r.get("lastError")) for r in rules if r["health"] != "ok"]
        equal("rules that cannot be", bad, [])
        names = {r["name"] for r in rules}
        expect("ShuntServiceWithoutServers" in names, f"rules: {names}")
        down = _ask(ctx, "query", query='ALERTS{alertname="ShuntDown"}')["data"]["result"]
        equal("alerts about a director that is up", down, [])
    with report.check("metrics: every panel of the dashboard has samples"):
        dashboard = json.loads((DOCS / "monitoring/dashboard.json").read_text())
        empty = []
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "1m")
                query = query.replace("$instance", ".*").replace("$service", ".*")
                answer = _ask(ctx, "query", query=query)
                equal(f"{panel['title']}: status", answer["status"], "success")
                # What failed or was dropped may be nothing.
                if not answer["data"]["result"] and "> 0" not in query:
                    empty.append(panel["title"])
        equal("panels without samples", empty, [])


def _up(ctx):
    return _value(ctx, 'up{job="shunt"}') == 1
