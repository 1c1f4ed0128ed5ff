"""``client_pause``: SIGSTOP to the load processes of a role, SIGCONT when it is healed; longer than their lease, a zombie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.faults.base import Plane, Probe, Scene, fault
from brokerproof.faults.planes.clients import resolve_clients


@fault("client_pause")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPause:
    """Targets: ``consumer`` or ``producer``. Their connections stay, and nobody speaks on them. For longer than their
    session, lease or invisible time (the injection's ``for_s``), others are given what they hold, and when they go on
    they do not know.

    Evidence: the kernel's word for the state of each process, T while it is stopped.
    """

    name: ClassVar[str] = "client_pause"
    plane: ClassVar[Plane] = "load"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return resolve_clients(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        assert scene.clients is not None
        try:
            for role in targets:
                scene.clients.pause(role)
            yield
        finally:
            for role in targets:
                scene.clients.resume(role)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        assert scene.clients is not None
        states = {name: state for role in targets for name, state in scene.clients.states(role).items()}
        said = ", ".join(f"{name}: {state or 'gone'}" for name, state in states.items()) or "no client is there"
        if states and all(state == "T" for state in states.values()):
            return Probe(True, said)
        return Probe(None if "T" in states.values() or "" in states.values() else False, said)
