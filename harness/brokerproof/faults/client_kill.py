"""``client_kill``: SIGKILL to the load processes of a role; new ones take over when it is healed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.errors import PlanError, unknown
from brokerproof.faults.base import ACTIVE, Plane, Probe, Scene, Step, fault
from brokerproof.faults.planes.clients import resolve_clients

#: Step -> what the history has last of a client that was killed right after it.
_LAST = {"receive": ("receive",), "effect": ("effect",), "ack": ("settle", "commit")}
#: What a step of the effect's guard is called: this, and the guard's name for it.
_WITHIN = "effect:"


@fault("client_kill")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKill:
    """Targets: ``consumer`` or ``producer``.

    step: "" a consumer in the middle of its work, a producer at once; ``receive``, ``effect`` or ``ack``: a consumer
    kills itself right after it was handed a message, after that message's effect, or when its acknowledgement was
    answered; ``effect:STEP``: in the middle of the effect, right after that step of its guard (``list effects`` names
    them). One that never comes to that step lives.
    which: "" all of the role, a number the one with that number in each trial, ``active`` the one that was handed
    something last (of consumers of which only one is given messages).
    Evidence: the processes are gone, then others have taken their slots; with a step, it is the last thing that the
    history has of each of them. In the middle of an effect: each was handed a message whose effect the history does not
    have. (Not that the last row is a ``receive``: a client that is handed several at once settles the one before.)
    """

    name: ClassVar[str] = "client_kill"
    plane: ClassVar[Plane] = "load"
    step: Step = ""
    which: str = ""

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if self.step and self.step not in _LAST and not self.step.startswith(_WITHIN):
            raise unknown("step of client_kill", self.step, (*_LAST, f"{_WITHIN}STEP"))
        if self.step and target == "producer":
            raise PlanError(f"client_kill at the step {self.step!r} is for consumers; a producer has no such step")
        if self.which and self.which != ACTIVE and not self.which.isdigit():
            raise PlanError(f"client_kill: which is {self.which!r}; expected a number, {ACTIVE!r}, or nothing for all")
        return resolve_clients(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        assert scene.clients is not None
        try:
            for role in targets:
                pids = scene.clients.kill(role, self.step, self.which)
                scene.note(f"killed {len(pids)} {role}s: {', '.join(map(str, pids))}")
            yield
        finally:
            for role in targets:
                scene.clients.replace(role)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        assert scene.clients is not None
        gone = [name for role in targets for name in scene.clients.killed(role)]
        if not gone:
            return Probe(False, "every client slot is served")
        said = f"killed and not replaced: {', '.join(gone)}"
        if not self.step:
            return Probe(True, said)
        if self.step.startswith(_WITHIN):
            hand = {name: n for role in targets for name, n in scene.clients.in_hand(role).items()}
            said += "; in hand without their effect: " + ", ".join(str(hand.get(name, 0)) for name in gone)
            return Probe(True if all(hand.get(name) for name in gone) else None, said)
        expected = _LAST[self.step]
        last = {name: f for role in targets for name, f in scene.clients.last_steps(role).items()}
        said += "; last in the history: " + ", ".join(last.get(name, "nothing") for name in gone)
        return Probe(True if all(last.get(name) in expected for name in gone) else None, said)
