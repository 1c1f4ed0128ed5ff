"""``partition``: packets between groups of nodes are dropped; their clients stay attached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from brokerproof.errors import PlanError
from brokerproof.faults.base import Plane, Probe, Scene, fault, resolve_nodes


@fault("partition")
@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Isolates the target nodes from all others, or cuts the cluster in halves (the target's half against the rest).

    one_way: "" both ways; "out" drops only what the targets send, "in" only what they are sent.
    Evidence: which datagrams arrive between every pair of nodes, in both directions.
    """

    name: ClassVar[str] = "partition"
    plane: ClassVar[Plane] = "peer"
    shape: Literal["isolate", "halves"] = "isolate"
    one_way: Literal["", "in", "out"] = ""

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if scene.cluster.peers is None:
            raise PlanError(
                f"a partition needs a cluster with peer links; topology {scene.cluster.topology!r} has none"
            )
        chosen = resolve_nodes(scene, target)
        if self.shape == "halves":
            rest = [name for name in sorted(scene.cluster.nodes) if name not in chosen]
            chosen = (*chosen, *rest)[: max(len(chosen), len(scene.cluster.nodes) // 2)]
        if not chosen or len(chosen) == len(scene.cluster.nodes):
            raise PlanError(
                f"a partition needs nodes on both sides; {target!r} is {chosen} of {len(scene.cluster.nodes)}"
            )
        return tuple(chosen)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        peers = scene.cluster.peers
        assert peers is not None
        rest = [name for name in scene.cluster.nodes if name not in targets]
        left, right = (rest, list(targets)) if self.one_way == "in" else (list(targets), rest)
        try:
            peers.cut(left, right, one_way=bool(self.one_way))
            yield
        finally:
            peers.heal()

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        peers = scene.cluster.peers
        assert peers is not None
        reach = peers.reach()
        dead = sorted(f"{a}->{b}" for (a, b), arrives in reach.items() if not arrives)
        said = f"nothing arrives on {', '.join(dead)}" if dead else f"all {len(reach)} directions between nodes pass"
        if not dead:
            return Probe(False, said)
        return Probe(True if set(dead) == set(self._cut(reach, targets)) else None, said)

    def _cut(self, reach: Mapping[tuple[str, str], bool], targets: Sequence[str]) -> list[str]:
        """The directions that this fault cuts, and no others."""
        out = [f"{a}->{b}" for a, b in reach if a in targets and b not in targets]
        into = [f"{a}->{b}" for a, b in reach if a not in targets and b in targets]
        return {"": out + into, "out": out, "in": into}[self.one_way]
