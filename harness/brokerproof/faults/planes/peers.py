"""Faults of the links between nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from brokerproof.brokers.base import Direction, PeerLinks, PeerTrouble
from brokerproof.errors import PlanError
from brokerproof.faults.base import Plane, Scene
from brokerproof.faults.planes.nodes import resolve_nodes


class PeerFault:
    """A fault of the links between nodes. Targets as those of nodes."""

    plane: Plane = "peer"
    #: What is healed.
    trouble: ClassVar[PeerTrouble] = "cut"

    def directions(self, scene: Scene, targets: Sequence[str]) -> frozenset[Direction]:
        """Which ones it breaks."""
        raise NotImplementedError

    def break_(self, peers: PeerLinks, directions: frozenset[Direction], name: str) -> None:
        """name: of this injection's own, by which it is healed."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if scene.cluster.peers is None:
            raise PlanError(
                f"{type(self).__name__} needs a cluster with peer links; topology {scene.cluster.topology!r} has none"
            )
        return resolve_nodes(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        peers, name = peers_of(scene), scene.ledger.name("peers")
        try:
            self.break_(peers, self.directions(scene, targets), name)
            yield
        finally:
            peers.heal(self.trouble, name)


def peers_of(scene: Scene) -> PeerLinks:
    assert scene.cluster.peers is not None  # ``resolve`` has seen to it
    return scene.cluster.peers


def arrows(directions: Iterable[Direction]) -> str:
    return ", ".join(sorted(f"{a}->{b}" for a, b in directions))
