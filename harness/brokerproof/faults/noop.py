"""``noop``: nothing is done. The fault of the sham arm, and the one whose evidence must never say it took effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.faults.base import Plane, Probe, Scene, fault


@fault("noop")
@dataclass(frozen=True, slots=True, kw_only=True)
class Noop:
    """Evidence: none, ever."""

    name: ClassVar[str] = "noop"
    plane: ClassVar[Plane] = "none"
    bite_s: ClassVar[float] = 0.0

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return ()

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        yield

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        return Probe(False, "nothing was done")
