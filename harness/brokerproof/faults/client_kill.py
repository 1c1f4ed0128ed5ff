"""``client_kill``: SIGKILL to the load processes of a role; new ones take over when it is healed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.errors import PlanError, unknown
from brokerproof.faults.base import Plane, Probe, Scene, fault

_ROLES = ("consumer", "producer")


@fault("client_kill")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKill:
    """Targets: ``consumer`` or ``producer``. Evidence: the processes are gone, then others have taken their slots."""

    name: ClassVar[str] = "client_kill"
    plane: ClassVar[Plane] = "load"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if target not in _ROLES:
            raise unknown("target of client_kill", target, _ROLES)
        if scene.clients is None:
            raise PlanError("client_kill needs load processes, and this trial has none")
        return (target,)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        assert scene.clients is not None
        try:
            for role in targets:
                scene.clients.kill(role)
            yield
        finally:
            for role in targets:
                scene.clients.replace(role)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        assert scene.clients is not None
        gone = [name for role in targets for name in scene.clients.killed(role)]
        return Probe(
            bool(gone), f"killed and not replaced: {', '.join(gone)}" if gone else "every client slot is served"
        )
