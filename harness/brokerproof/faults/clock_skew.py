"""``clock_skew``: a node's wall clock runs fast or slow, by so many milliseconds per second; its monotonic clock does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Clocked
from brokerproof.errors import DeadlineError, UsageError
from brokerproof.faults.base import fault
from brokerproof.faults.planes.clocks import CLOCK_RIGHT_S, ClockFault, ClockReading
from brokerproof.waiting import wait_until

#: So much a clock has to have gained between two looks, at the errors of a busy machine.
_GAIN_S = 0.15


@fault("clock_skew")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSkew(ClockFault):
    """drift_ms_per_s: 500 lets the clock run at one and a half times the speed, -500 at half. When it is healed the clock
    jumps back to the true time.

    Evidence: the date as a fresh process on the node sees it gains as much on the true time between two looks, and the
    broker's own time, where it tells one, agrees with it.
    """

    name: ClassVar[str] = "clock_skew"
    drift_ms_per_s: float = 500.0

    def __post_init__(self) -> None:
        if not abs(self.drift_ms_per_s) >= 20 or self.drift_ms_per_s <= -1000:
            raise UsageError(
                f"clock_skew of {self.drift_ms_per_s:g} ms/s: expected at least 20 either way, or it is not seen in time, "
                "and more than -1000: a clock that runs backwards is a series of jumps"
            )

    @property
    def _drift(self) -> float:
        return self.drift_ms_per_s / 1000

    def move(self, node: Clocked) -> None:
        node.move_clock(0.0, self._drift)

    def bites(self, readings: Sequence[ClockReading], again: Callable[[], Sequence[ClockReading]]) -> bool | None:
        later: Sequence[ClockReading] = ()

        def gained() -> bool:
            nonlocal later
            later = again()
            return later[0].at_s - readings[0].at_s >= _GAIN_S / abs(self._drift)

        with suppress(DeadlineError):
            wait_until(gained, 1 + _GAIN_S / abs(self._drift), "the clock to gain", interval_s=0.5)
        dates = [{r.node: r for r in seen if r.what == "date"} for seen in (readings, later)]
        runs = all(self._runs(dates[0][node], last) for node, last in dates[1].items())
        return True if runs and all(self._agrees(own, dates[1][own.node]) for own in later) else None

    def _runs(self, first: ClockReading, last: ClockReading) -> bool:
        """Whether the date gained what it should; not more than a fifth off, however good the readings."""
        expected, gain = self._drift * (last.at_s - first.at_s), last.ahead_s - first.ahead_s
        error = first.error_s + last.error_s
        return abs(gain) > error and abs(gain - expected) <= error + abs(expected) / 5

    def _agrees(self, own: ClockReading, date: ClockReading) -> bool:
        """Whether the broker sees the date that its node has: within their errors, and what came on top in between."""
        between = abs(self._drift) * abs(own.at_s - date.at_s)
        return abs(own.ahead_s - date.ahead_s) <= own.error_s + date.error_s + between + CLOCK_RIGHT_S
