"""VRRP by keepalived: the director's on its mirror, and a peer in the router that takes over after
more than three seconds without a word of it."""

import re

import net as network
from plan import FRONT, IPV4
from report import equal, expect

ADDRESS = IPV4.address(FRONT, 250)
# The director's priority is that of an address' owner, which is master from its first second on.
INSTANCE = """
global_defs {{
    router_id {node}
}}
vrrp_instance mirror {{
    state {state}
    interface {interface}
    virtual_router_id 51
    priority {priority}
    advert_int 1
    virtual_ipaddress {{
        {address}/32
    }}
}}
"""


class Vrrp:
    """The pair, settled: the director's keepalived is master."""

    def __init__(self, ctx):
        self.net = ctx.net
        self.running = {}
        self._start("r", "front", "BACKUP", 100)
        self._start("d", ctx.director.mirror(FRONT), "MASTER", 255)
        settled = network.wait_for(lambda: self.states() == {"d": ["MASTER"], "r": ["BACKUP"]}, 10)
        expect(settled, f"keepalived does not settle: {self.states()}")

    def _start(self, node, interface, state, priority):
        name = f"keepalived-{node}"
        config = self.net.dir / f"{name}.conf"
        config.write_text(INSTANCE.format(
            node=node, state=state, interface=interface, priority=priority, address=ADDRESS))
        self.running[node] = self.net.spawn(
            node, name, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", config,
            "--pid", self.net.dir / f"{name}.pid", "--vrrp_pid", self.net.dir / f"{name}-vrrp.pid")

    def states(self):
        """The states that each node's keepalived entered so far."""
        return {node: re.findall(r"Entering (\w+) STATE", "\n".join(process.tail(1000)))
                for node, process in self.running.items()}

    def stands(self):
        """Fails if there was a transition."""
        equal("states of keepalived", self.states(), {"d": ["MASTER"], "r": ["BACKUP"]})

    def stop(self):
        for process in self.running.values():
            process.popen.terminate()
        for process in self.running.values():
            process.stop()
