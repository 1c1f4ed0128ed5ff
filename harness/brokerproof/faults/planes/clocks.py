"""Faults of nodes' wall clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from brokerproof.brokers.base import Clocked, TellsTime
from brokerproof.errors import HarnessError, PlanError
from brokerproof.faults.base import Plane, Probe, Scene
from brokerproof.faults.planes.nodes import need, resolve_nodes

#: A clock is right when it is no further off than this, and the error of reading it.
CLOCK_RIGHT_S = 0.1


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far a clock was seen ahead of the true time, give or take the error; at_s: when, by a monotonic clock. what: the
    node's ``date``, or what the broker on it calls its own."""

    node: str
    what: str
    ahead_s: float
    error_s: float
    at_s: float

    @property
    def right(self) -> bool:
        return abs(self.ahead_s) <= self.error_s + CLOCK_RIGHT_S

    def __str__(self) -> str:
        return f"{self.node}: {self.what} {self.ahead_s:+.3f} s (± {self.error_s:.3f})"


class ClockFault:
    """A fault of nodes' wall clocks. Targets: as for nodes, of those whose clock can be moved; when it is healed the clock
    is set right at once, which is a jump as well.

    Evidence: the date that a fresh process on the node sees, and the time the broker itself tells where it does, each
    compared with the true time.
    """

    plane: Plane = "clock"
    needs: tuple[str, ...] = ("clock",)
    bite_s = 15.0

    def move(self, node: Clocked) -> None:
        raise NotImplementedError

    def bites(self, readings: Sequence[ClockReading], again: Callable[[], Sequence[ClockReading]]) -> bool | None:
        """Whether clocks of which not all are right are wrong as this fault makes them; ``again`` reads them anew."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        nodes = need(Clocked, scene, resolve_nodes(scene, target), "a clock that can be moved")
        movable = tuple(name for name in nodes if _clocked(scene, name).clock_moves())
        if not movable:
            raise PlanError(f"no clock of {', '.join(nodes)} can be moved; start the nodes with the equipment clock")
        return movable

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [_clocked(scene, name) for name in targets]
        try:
            with ThreadPoolExecutor(max(1, len(nodes))) as pool:
                list(pool.map(self.move, nodes))
            yield
        finally:
            for node in nodes:
                node.move_clock(0.0)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        try:
            readings = _clocks(scene, targets)
            said = [", ".join(map(str, readings))]

            def again() -> Sequence[ClockReading]:
                later = _clocks(scene, targets)
                said.append(f"then {', '.join(map(str, later))}")
                return later

            bites = False if all(r.right for r in readings) else self.bites(readings, again)
        except HarnessError as exc:
            return Probe(None, str(exc))
        return Probe(bites, "; ".join(said))


def _clocked(scene: Scene, name: str) -> Clocked:
    node = scene.cluster.nodes[name]
    assert isinstance(node, Clocked)
    return node


def _clocks(scene: Scene, names: Sequence[str]) -> list[ClockReading]:
    """Each node's date, and its broker's own time where that is told."""
    found = []
    for name in names:
        ahead_s, error_s = _clocked(scene, name).clock_ahead()
        found.append(ClockReading(name, "date", ahead_s, error_s, time.monotonic()))
        if isinstance(scene.cluster, TellsTime) and (told := scene.cluster.own_clock(name)) is not None:
            ahead_s, error_s, what = told
            found.append(ClockReading(name, what, ahead_s, error_s, time.monotonic()))
    return found
