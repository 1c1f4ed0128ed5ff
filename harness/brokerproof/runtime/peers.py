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
# A datagram socket belongs for ever to the namespace it was made in. So one process enters the namespaces one after the
# other, makes a bound socket in each, and only then sends from every one to every other: nothing is sent to who is not
# listening yet. Arguments: name, process id, address of each node. setns(2): 308 on x86_64, 268 on aarch64.
_PROBE = """
use Socket; use POSIX ();
my $setns = (POSIX::uname())[4] eq "aarch64" ? 268 : 308;
my (@nodes, %name);
while (@ARGV) {
    my ($name, $pid, $address) = splice(@ARGV, 0, 3);
    open(my $ns, "<", "/proc/$pid/ns/net") or next;
    syscall($setns, fileno($ns), 0x40000000) == 0 or die "setns to $name: $!";
    socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "socket of $name: $!";
    bind($socket, sockaddr_in(PORT, INADDR_ANY)) or die "bind of $name: $!";
    push @nodes, [$name, $socket, $address];
}
my %seen;
for my $round (1 .. 3) {
    for my $from (@nodes) {
        for my $to (@nodes) {
            next if $from == $to;
            send($from->[1], $from->[0], 0, sockaddr_in(PORT, inet_aton($to->[2])));
        }
    }
    for (1 .. 20) {
        my $bits = "";
        vec($bits, fileno($_->[1]), 1) = 1 for @nodes;
        select($bits, undef, undef, 0.02) or next;
        for my $to (@nodes) {
            next unless vec($bits, fileno($to->[1]), 1);
            recv($to->[1], my $from, 64, 0);
            $seen{"$from $to->[0]"} = 1;
        }
    }
    last if keys(%seen) == @nodes * (@nodes - 1);
}
print "from $_\n" for keys %seen;
""".replace("PORT", str(_PROBE_PORT))


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
        arguments = [word for name, pid in pids.items() for word in (name, str(pid), self._nodes[name].address)]
        output = self._exec(["perl", "-e", _PROBE, *arguments], "probing peer links")
        seen = set(re.findall(r"^from (\S+) (\S+)$", output, flags=re.MULTILINE))
        return {(a, b): (a, b) in seen for a in pids for b in pids if a != b}

    def _pid(self, name: str) -> int:
        node = self._nodes[name]
        return node.pid() if node.state() in ("running", "paused") else 0

    def _run(self, script: str, doing: str) -> str:
        return self._exec(["sh", "-c", script], doing)

    def _exec(self, command: Sequence[str], doing: str) -> str:
        code, output = self._side.execute(command)
        if code != 0:
            raise EnvironmentProblem(
                f"{doing}: exit code {code}: {output.strip()[-400:]!r}; needs nftables in the kernel, and an engine that "
                "lets a container have NET_ADMIN, SYS_ADMIN and the host's process ids"
            )
        return output
