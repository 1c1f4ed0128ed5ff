"""``store_restart``: SIGKILL to a database that consumers have their effects in; it is started again when it is healed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.errors import PlanError, unknown
from brokerproof.faults.base import Plane, Probe, Scene, fault


@fault("store_restart")
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRestart:
    """Targets: ``redis``, ``postgresql``, ``mariadb``: all of that kind that effects of the trials are in. What one has not
    put on its disk is gone; the page cache, and so what it has written and not synced, is kept.

    Evidence: a fresh connection is refused, then answered. Of Redis the number of keys before and after stands with the
    steps.
    """

    name: ClassVar[str] = "store_restart"
    plane: ClassVar[Plane] = "store"

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if target not in self.roles:  # type: ignore[attr-defined]  # the decorator gives it
            raise unknown("target of store_restart", target, self.roles)  # type: ignore[attr-defined]
        found = tuple(name for name, store in scene.stores.items() if store.product == target)
        if not found:
            have = ", ".join(scene.stores) or "none"
            raise PlanError(f"store_restart of {target}: no effect of these trials is in one; their databases: {have}")
        return found

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        try:
            for name in targets:
                scene.note(f"{name} {scene.stores[name].holds()}")
                scene.stores[name].kill()
            yield
        finally:
            for name in targets:
                scene.stores[name].start()
                scene.note(f"{name} is back, and {scene.stores[name].holds()}")

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        answers = {name: scene.stores[name].answers() for name in targets}
        said = ", ".join(f"{name} {'answers' if up else 'refuses'}" for name, up in answers.items())
        return Probe(None if len(set(answers.values())) > 1 else not all(answers.values()), said)
