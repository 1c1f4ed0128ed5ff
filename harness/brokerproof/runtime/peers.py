"""The links between a cluster's nodes, cut by nftables in each node's network namespace.

One side container per cluster shares the host's process ids and enters a node's namespace by the process id the node
has at that moment; so a restarted node, whose namespace is new, is found again. All nodes are handled in one exec: a
partition is there within about 0.2 s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime.node import ContainerNode

_TABLE = "brokerproof"
_PROBE_PORT = 45997
# Listens for a second in one namespace and prints the tag of every datagram that came.
_LISTEN = (
    "use IO::Socket::INET; my $s=IO::Socket::INET->new(LocalPort=>%d,Proto=>'udp') or die $!;"
    "$SIG{ALRM}=sub{exit 0}; alarm 1; while(1){ $s->recv(my $m,64); print qq($m %s\\n); $|=1; }"
)
_SEND = (
    "use IO::Socket::INET; for my $i (1..3) { for my $a (qw(%s)) { my $s=IO::Socket::INET->new("
    "PeerAddr=>$a,PeerPort=>%d,Proto=>'udp') or next; $s->send('from %s'); } select(undef,undef,undef,0.1); }"
)


class ContainerPeers:
    """``brokers.base.PeerLinks`` by nftables."""

    def __init__(self, side: ContainerNode, nodes: Mapping[str, ContainerNode]) -> None:
        self._side = side
        self._nodes = nodes

    def cut(self, left: Sequence[str], right: Sequence[str], *, one_way: bool = False) -> None:
        drops_in: dict[str, list[str]] = {}
        drops_out: dict[str, list[str]] = {}
        for sources, destinations in ((left, right),) if one_way else ((left, right), (right, left)):
            for source in sources:
                drops_out.setdefault(source, []).extend(destinations)
            for destination in destinations:
                drops_in.setdefault(destination, []).extend(sources)
        script = []
        for name in sorted({*drops_in, *drops_out}):
            rules = [f"add table inet {_TABLE}"]
            for hook, drops, field in (("input", drops_in, "saddr"), ("output", drops_out, "daddr")):
                rules.append(f"add chain inet {_TABLE} {hook} {{ type filter hook {hook} priority 0; }}")
                if drops.get(name):
                    addresses = ", ".join(sorted(self._nodes[peer].address for peer in drops[name]))
                    rules.append(f"add rule inet {_TABLE} {hook} ip {field} {{ {addresses} }} drop")
            pid = self._pid(name)
            if pid:
                text = "\\n".join(rules)
                script.append(f"printf '{text}\\n' | nsenter -t {pid} -n nft -f - || exit 1")
        self._run(" ; ".join(script) or "true", "cutting peer links")

    def heal(self) -> None:
        script = [
            f"nsenter -t {pid} -n nft delete table inet {_TABLE} 2>/dev/null"
            for pid in map(self._pid, self._nodes)
            if pid
        ]
        self._run(" ; ".join([*script, "true"]), "healing peer links")

    def reach(self) -> Mapping[tuple[str, str], bool]:
        """(source, destination) -> whether a datagram of the source arrives, for all pairs of nodes that run."""
        pids = {name: pid for name in self._nodes if (pid := self._pid(name))}
        script = [f"nsenter -t {pid} -n perl -e \"{_quote(_LISTEN % (_PROBE_PORT, name))}\" &" for name, pid in pids.items()]
        script.append("perl -e 'select(undef,undef,undef,0.2)' ;")
        for name, pid in pids.items():
            others = " ".join(self._nodes[other].address for other in pids if other != name)
            script.append(f"nsenter -t {pid} -n perl -e \"{_quote(_SEND % (others, _PROBE_PORT, name))}\" &")
        output = self._run(" ".join([*script, "wait"]), "probing peer links")
        seen = set(re.findall(r"^from (\S+) (\S+)$", output, flags=re.MULTILINE))
        return {(a, b): (a, b) in seen for a in pids for b in pids if a != b}

    def _pid(self, name: str) -> int:
        node = self._nodes[name]
        return node.pid() if node.state() in ("running", "paused") else 0

    def _run(self, script: str, doing: str) -> str:
        code, output = self._side.execute(["sh", "-c", script])
        if code != 0:
            raise EnvironmentProblem(
                f"{doing}: exit code {code}: {output.strip()[-400:]!r}; needs nftables in the kernel, and an engine that "
                "lets a container have NET_ADMIN, SYS_ADMIN and the host's process ids"
            )
        return output


def _quote(perl: str) -> str:
    """For use between double quotes of a POSIX shell."""
    return re.sub(r'([\\"$`])', r"\\\1", perl)
