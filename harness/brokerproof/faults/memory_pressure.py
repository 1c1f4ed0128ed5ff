"""``memory_pressure``: a node is short of memory, by its own alarm or by its container's limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from brokerproof.brokers.base import Limited, MemoryAlarmed, Node
from brokerproof.errors import HarnessError, PlanError
from brokerproof.faults.base import Plane, Probe, Scene, fault
from brokerproof.faults.planes.nodes import need, resolve_nodes, revive

#: The kernel gives back memory a little ahead of the limit, in batches of some pages for each processor.
_AT_LIMIT = 0.97


@fault("memory_pressure")
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure:
    """by: ``alarm`` lets the broker's own watch over its memory go off (RabbitMQ: publishers are blocked); ``limit`` lowers
    the container's memory to what the node cannot give back and ``headroom_mb`` more, so that it has to give back the
    files that it works on for whatever it needs; ``""``: alarm where the product has one, else limit. Under a limit the
    kernel may kill the node: the looks say so, and healing starts it again.

    Evidence: the alarm as the node reports it, with the connections it blocks; or the limit that the kernel has in force,
    with the node's use at it, or the node killed for want of memory.
    """

    name: ClassVar[str] = "memory_pressure"
    plane: ClassVar[Plane] = "resource"
    bite_s: ClassVar[float] = 15.0
    abilities: ClassVar[tuple[str, ...]] = ("memory limits",)
    by: Literal["", "alarm", "limit"] = ""
    headroom_mb: int = 8

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        nodes = resolve_nodes(scene, target)
        if self._alarm(scene) is not None:
            return nodes
        if self.by == "alarm":
            raise PlanError(f"memory_pressure by alarm: {scene.cluster.product} has no memory alarm; leave out `by`")
        return need(Limited, scene, nodes, "a memory that can be limited")

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = {name: scene.cluster.nodes[name] for name in targets}
        alarm = self._alarm(scene)
        try:
            for name, node in nodes.items():
                if alarm is not None:
                    alarm.raise_memory_alarm(name)
                else:
                    assert isinstance(node, Limited)
                    node.limit_memory(self.headroom_mb)
            yield
        finally:
            for name, node in nodes.items():
                if alarm is not None:
                    alarm.clear_memory_alarm(name)
                else:
                    assert isinstance(node, Limited)
                    node.limit_memory(None)
                revive(node)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        alarm = self._alarm(scene)
        try:
            told: dict[str, tuple[bool | None, str]] = {
                name: alarm.memory_alarm(name) if alarm is not None else _short(scene.cluster.nodes[name])
                for name in targets
            }
        except HarnessError as exc:
            return Probe(None, str(exc))
        said = "; ".join(f"{name}: {what}" for name, (_, what) in told.items())
        biting = {bites for bites, _ in told.values()}
        return Probe(biting.pop() if len(biting) == 1 else None, said)

    def _alarm(self, scene: Scene) -> MemoryAlarmed | None:
        cluster = scene.cluster
        return cluster if self.by != "limit" and isinstance(cluster, MemoryAlarmed) else None


def _short(node: Node) -> tuple[bool | None, str]:
    """Whether the node is short of memory (None: it is down for another reason), and what was seen."""
    assert isinstance(node, Limited)
    if (state := node.state()) != "running":
        return True if node.killed() else None, f"{state}{_killed(node)}"
    seen = node.memory()
    at_limit = seen.limit_mb < seen.configured_mb and seen.used_mb >= _AT_LIMIT * seen.limit_mb
    return at_limit, (
        f"uses {seen.used_mb:.0f} of {seen.limit_mb:.0f} MB ({seen.configured_mb:.0f} MB configured), {seen.own_mb:.0f} MB "
        f"of it its own; {seen.major_faults} page faults waited for the disk since it started{_killed(node)}"
    )


def _killed(node: Limited) -> str:
    return f"; the kernel killed it for want of memory at {when}" if (when := node.killed()) else ""
