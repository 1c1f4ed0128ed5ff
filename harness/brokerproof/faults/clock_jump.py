"""``clock_jump``: a node's wall clock is set wrong at once, forwards or backwards; its monotonic clock goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Clocked
from brokerproof.errors import UsageError
from brokerproof.faults.base import fault
from brokerproof.faults.planes.clocks import CLOCK_RIGHT_S, ClockFault, ClockReading


@fault("clock_jump")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(ClockFault):
    """jump_s: backwards where it is negative. When it is healed the clock jumps back to the true time.

    Evidence: the date as a fresh process on the node sees it, and the broker's own time where it tells one, are off the
    true time by the jump.
    """

    name: ClassVar[str] = "clock_jump"
    jump_s: float = 300.0

    def __post_init__(self) -> None:
        if abs(self.jump_s) < 1:
            raise UsageError(f"clock_jump of {self.jump_s:g} s: expected at least 1 s, or it is not told from an error")

    def move(self, node: Clocked) -> None:
        node.move_clock(self.jump_s)

    def bites(self, readings: Sequence[ClockReading], again: Callable[[], Sequence[ClockReading]]) -> bool | None:
        off = [abs(r.ahead_s - self.jump_s) <= r.error_s + CLOCK_RIGHT_S for r in readings]
        return True if all(off) else None
