"""The links between a cluster's nodes, broken by nftables and shaped by tc in each node's network namespace.

One side container per cluster shares the host's process ids and enters a node's namespace by the process id the node
has at that moment. All nodes are handled in one exec: a partition is there within about 0.2 s. A node that is started
again gets a new namespace, and what is on at that moment is put into that one as well (``again``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from threading import Lock

from brokerproof.brokers.base import Direction, PeerTrouble
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import datagrams
from brokerproof.runtime.node import ContainerNode

_TABLES: Mapping[PeerTrouble, str] = {"cut": "brokerproof_cut", "loss": "brokerproof_loss"}
_DATAGRAM_OCTETS = 1400
#: Time for datagrams that are late though nothing delays them: the machine is busy.
_LATE_S = 0.4
# A slow link holds a second's worth of what is sent, and at least so much: packets reach the queue in pieces of up to
# 64 kB, before the (virtual) card cuts them, and a queue smaller than one would let none through.
_QUEUE_OCTETS_MIN = 256_000


class ContainerPeers:
    """``brokers.base.PeerLinks`` by nftables and tc."""

    def __init__(
        self, side: ContainerNode, nodes: Mapping[str, ContainerNode], replicas: Sequence[str] | None = None
    ) -> None:  # fmt: skip
        self._side = side
        self._nodes = nodes
        self.replicas: Sequence[str] = tuple(nodes) if replicas is None else tuple(replicas)
        #: What is on, by name: its directions, and what puts it into the namespaces of these nodes.
        self._on: dict[PeerTrouble, dict[str, tuple[frozenset[Direction], Callable[[Collection[str]], None]]]] = {}
        #: Faults that overlap look at the same time, and a node has one port to be looked at.
        self._measuring = Lock()
        for node in nodes.values():
            node.after_start.append(self.again)

    def again(self, name: str) -> None:
        """For a node that was started while links are broken."""
        for apply in [apply for on in list(self._on.values()) for _, apply in list(on.values())]:
            apply([name])

    def cut(self, directions: Collection[Direction], name: str = "") -> None:
        self._begin("cut", name, directions, partial(self._cut, directions, name))

    def lose(self, directions: Collection[Direction], percent: int, name: str = "") -> None:
        self._begin("loss", name, directions, partial(self._lose, directions, percent, name))

    def slow(self, directions: Collection[Direction], rate_kb_s: int, name: str = "") -> None:
        if self._on.get("rate"):
            raise EnvironmentProblem(
                "slowing peer links: they are slow already, and a node has one queue; heal that first"
            )
        self._begin("rate", name, directions, partial(self._slow, directions, rate_kb_s))

    def _begin(
        self, trouble: PeerTrouble, name: str, directions: Collection[Direction],
        apply: Callable[[Collection[str]], None],
    ) -> None:  # fmt: skip
        self._on.setdefault(trouble, {})[name] = (frozenset(directions), apply)
        apply(self._nodes)

    def ordered(self, trouble: PeerTrouble) -> frozenset[Direction]:
        return frozenset().union(*(directions for directions, _ in list(self._on.get(trouble, {}).values())))

    def _cut(self, directions: Collection[Direction], of: str, at: Collection[str]) -> None:
        # Where they leave and where they come in: a packet that is on its way is dropped as well.
        leaving = self._addresses(directions, of="destination")
        coming = self._addresses(directions, of="source")
        rules = {
            name: [
                *(f"output ip daddr {a} drop" for a in leaving.get(name, ())),
                *(f"input ip saddr {a} drop" for a in coming.get(name, ())),
            ]
            for name in {*leaving, *coming}
        }
        self._filter("cut", of, rules, at, "cutting peer links")

    def _lose(self, directions: Collection[Direction], percent: int, of: str, at: Collection[str]) -> None:
        # Where they come in, and nowhere else, or a packet would be drawn for twice.
        coming = self._addresses(directions, of="source")
        rules = {
            name: [f"input ip saddr {a} numgen random mod 100 < {percent} drop" for a in sources]
            for name, sources in coming.items()
        }
        self._filter("loss", of, rules, at, "making peer links lose packets")

    def _slow(self, directions: Collection[Direction], rate_kb_s: int, at: Collection[str]) -> None:
        # A class for each destination; what belongs to none (clients, the proxy) passes by all of them.
        script = []
        for name, destinations in sorted(self._addresses(directions, of="destination").items()):
            if name not in at or not (pid := self._pid(name)):
                continue
            tc = ["qdisc add dev $dev root handle 1: htb default 0"]
            for n, address in enumerate(destinations, start=0x10):
                queue = max(_QUEUE_OCTETS_MIN, rate_kb_s * 1000)
                tc += [
                    # kbps is kilobytes a second in tc's words.
                    f"class add dev $dev parent 1: classid 1:{n:x} htb rate {rate_kb_s}kbps burst 3k",
                    f"qdisc add dev $dev parent 1:{n:x} bfifo limit {queue}",
                    f"filter add dev $dev parent 1: protocol ip prio 1 u32 match ip dst {address}/32 flowid 1:{n:x}",
                ]
            device = f"$(nsenter -t {pid} -n ip -o -4 addr show to {self._nodes[name].address} | cut -d' ' -f2)"
            script.append(f"dev={device}")
            script += [f"nsenter -t {pid} -n tc {line} || exit 1" for line in tc]
        self._run(" ; ".join(script) or "true", "slowing peer links")

    def heal(self, trouble: PeerTrouble = "cut", name: str = "") -> None:
        on = self._on.get(trouble, {})
        if name and name not in on:
            return  # it was refused, or is healed: what is there is another's
        if name:
            del on[name]
        else:
            on.clear()
        script = []
        for node in self._nodes:
            if not (pid := self._pid(node)):
                continue  # its namespace is gone, and all rules with it
            inside = f"nsenter -t {pid} -n"
            if trouble == "rate":
                device = f"$({inside} ip -o -4 addr show to {self._nodes[node].address} | cut -d' ' -f2)"
                script.append(f"{inside} tc qdisc del dev {device} root 2>/dev/null")
            elif name:
                script.append(f"{inside} nft delete table inet {_TABLES[trouble]}_{name} 2>/dev/null")
            else:
                tables = f"$({inside} nft list tables inet | grep -o '{_TABLES[trouble]}[^ ]*')"
                script.append(f"for t in {tables} ; do {inside} nft delete table inet $t ; done")
        self._run(" ; ".join([*script, "true"]), "healing peer links")

    def reach(self) -> Mapping[Direction, bool]:
        return {direction: n > 0 for direction, (n, _) in self._measure(3, 0, _LATE_S).items()}

    def arriving(self, datagrams: int) -> Mapping[Direction, float]:
        return {direction: n / datagrams for direction, (n, _) in self._measure(datagrams, 0, _LATE_S).items()}

    def throughput(self, octets: int, timeout_s: float) -> Mapping[Direction, float]:
        rounds = max(3, math.ceil(octets / _DATAGRAM_OCTETS))
        # The time from the first to the last is that of all but the first.
        return {
            direction: (n - 1) * _DATAGRAM_OCTETS / 1000 / max(took_s, 1e-6) if n > 1 else 0.0
            for direction, (n, took_s) in self._measure(rounds, _DATAGRAM_OCTETS, timeout_s).items()
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _measure(self, rounds: int, octets: int, patience_s: float) -> Mapping[Direction, tuple[int, float]]:
        """(how many arrived, seconds from the first to the last) for all pairs of nodes that run."""
        pids = {name: pid for name in self._nodes if (pid := self._pid(name))}
        arguments = [str(rounds), str(octets), str(patience_s)]
        arguments += [word for name, pid in pids.items() for word in (name, str(pid), self._nodes[name].address)]
        with self._measuring:
            output = self._exec(["perl", "-e", datagrams.PROGRAM, *arguments], "probing peer links")
        lines = re.findall(r"^from (\S+) (\S+) (\d+) (\S+)$", output, flags=re.MULTILINE)
        seen = {(a, b): (int(n), float(took)) for a, b, n, took in lines}
        return {(a, b): seen.get((a, b), (0, 0.0)) for a in pids for b in pids if a != b}

    def _addresses(self, directions: Collection[Direction], *, of: str) -> dict[str, list[str]]:
        """of "source": destination -> addresses of its sources; of "destination": source -> those of its destinations."""
        found: dict[str, list[str]] = {}
        for source, destination in sorted(directions):
            at, other = (destination, source) if of == "source" else (source, destination)
            found.setdefault(at, []).append(self._nodes[other].address)
        return found

    def _filter(
        self, trouble: PeerTrouble, of: str, rules: Mapping[str, Sequence[str]], at: Collection[str], doing: str
    ) -> None:  # fmt: skip
        # A table for each: what two of them drop is dropped until both are healed.
        table = f"inet {_TABLES[trouble]}{of and '_'}{of}"
        script = []
        for name in sorted(set(rules) & set(at)):
            if not (pid := self._pid(name)):
                continue
            lines = [f"add table {table}"]
            lines += [f"add chain {table} {h} {{ type filter hook {h} priority 0; }}" for h in ("input", "output")]
            lines += [f"add rule {table} {rule}" for rule in rules[name]]
            text = "\\n".join(lines)
            script.append(f"printf '{text}\\n' | nsenter -t {pid} -n nft -f - || exit 1")
        self._run(" ; ".join(script) or "true", doing)

    def _pid(self, name: str) -> int:
        node = self._nodes[name]
        return node.pid() if node.state() in ("running", "paused") else 0

    def _run(self, script: str, doing: str) -> None:
        self._exec(["sh", "-c", script], doing)

    def _exec(self, command: Sequence[str], doing: str) -> str:
        return enter(self._side, command, doing)


def enter(side: ContainerNode, command: Sequence[str], doing: str) -> str:
    """The output of a command of the side container. Raises EnvironmentProblem."""
    code, output = side.execute(command)
    if code != 0:
        raise EnvironmentProblem(
            f"{doing}: exit code {code}: {output.strip()[-400:]!r}; needs nftables (and for slow links the htb queue) in "
            "the kernel, and an engine that lets a container have NET_ADMIN, SYS_ADMIN and the host's process ids"
        )
    return output
