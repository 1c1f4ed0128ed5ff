"""``partition``: packets between groups of nodes are dropped; their clients stay attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

from brokerproof.brokers.base import Direction, PeerLinks, both_ways
from brokerproof.errors import PlanError, unknown
from brokerproof.faults.base import Probe, Scene, fault
from brokerproof.faults.planes.peers import PeerFault, arrows, peers_of

_SHAPES = ("isolate", "halves", "ring", "bridge")


@fault("partition")
@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(PeerFault):
    """shape, on the nodes in the order of their names, the target's first:

        isolate   the targets see none of the others
        halves    the target's half sees none of the rest
        bridge    the rest is two halves that do not see each other; the target, one node, sees both
        ring      every node hears a majority, itself included, and no two the same one. Five nodes hear their two
                  neighbours, who hear them. Three hear one neighbour, who does not hear them: no TCP connection lives.

    one_way: "" both ways; "out" drops only what the targets send, "in" only what they are sent. For a bridge, the half
    that comes first takes the place of the targets; a ring has no side that it could be about.
    Evidence: which datagrams arrive between every pair of nodes, in both directions.
    Source of ring and bridge: Jepsen's nemesis, majorities-ring and bridge.
    """

    name: ClassVar[str] = "partition"
    shape: Literal["isolate", "halves", "ring", "bridge"] = "isolate"
    one_way: Literal["", "in", "out"] = ""

    @property
    def asks(self) -> tuple[str, ...]:
        return ("three_nodes",) if self.shape in ("ring", "bridge") else ()

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if self.shape not in _SHAPES:
            raise unknown("shape of a partition", self.shape, _SHAPES)
        # Named in full: ``slots`` makes another class of this one, which ``super()`` without words does not know.
        chosen = PeerFault.resolve(self, scene, target)
        every = sorted(scene.cluster.nodes)
        if self.shape in ("ring", "bridge"):
            return self._of_three(scene, target, chosen)
        if self.shape == "halves":
            rest = [name for name in every if name not in chosen]
            chosen = (*chosen, *rest)[: max(len(chosen), len(every) // 2)]
        if not chosen or len(chosen) == len(every):
            raise PlanError(f"a partition needs nodes on both sides; {target!r} is {chosen} of {len(every)}")
        return tuple(chosen)

    def _of_three(self, scene: Scene, target: str, chosen: Sequence[str]) -> tuple[str, ...]:
        replicas = peers_of(scene).replicas
        if len(replicas) < 3:
            raise PlanError(
                f"a partition of the shape {self.shape} needs three nodes that keep messages; topology "
                f"{scene.cluster.topology!r} has {len(replicas)}: {', '.join(replicas)}"
            )
        if self.shape == "ring" and self.one_way:
            raise PlanError("a partition of the shape ring has no one_way: every node is on both sides of it")
        if self.shape == "bridge" and len(chosen) != 1:
            raise PlanError(f"a partition of the shape bridge needs one node as its target; {target!r} is {chosen}")
        return tuple(chosen)

    def directions(self, scene: Scene, targets: Sequence[str]) -> frozenset[Direction]:
        rest = [name for name in sorted(scene.cluster.nodes) if name not in targets]
        if self.shape == "ring":
            return _ring([*targets, *rest])
        left, right = list(targets), rest
        if self.shape == "bridge":
            left, right = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        if not self.one_way:
            return both_ways(left, right)
        return frozenset(product(left, right) if self.one_way == "out" else product(right, left))

    def break_(self, peers: PeerLinks, directions: frozenset[Direction], name: str) -> None:
        peers.cut(directions, name)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        reach = peers_of(scene).reach()
        dead = {direction for direction, arrives in reach.items() if not arrives}
        if not dead:
            return Probe(False, f"all {len(reach)} directions between nodes pass")
        said = f"nothing arrives on {arrows(dead)}"
        # The directions that this fault cuts, among nodes that run; and those that it and others were told to cut.
        mine, known = self.directions(scene, targets) & set(reach), peers_of(scene).ordered("cut")
        if not mine:
            return Probe(None, said)
        # What none of them explains makes it another fault than the one that was asked for.
        if mine <= dead:
            return Probe(True if dead <= mine | known else None, said)
        return Probe(False if dead <= known else None, said)


def _ring(nodes: Sequence[str]) -> frozenset[Direction]:
    """What is cut so that each node of the ring hears the majority around it, and nobody else."""
    n, majority = len(nodes), len(nodes) // 2 + 1
    cut = set()
    for i, name in enumerate(nodes):
        before = majority // 2
        heard = {nodes[(i - before + k) % n] for k in range(majority)}
        cut |= {(other, name) for other in nodes if other not in heard}
    return frozenset(cut)
