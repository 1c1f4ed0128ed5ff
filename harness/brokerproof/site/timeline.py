"""A trial's timeline at several levels of detail, so that one may look at an hour or at a second of it.

Findings hold bins of time, whatever the number of operations was. Level 0 are those bins, each further level has one for
``FACTOR`` of the one before, until one screen holds them all. The coarsest comes with the trial, finer ones in parts, when
somebody looks at their stretch of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brokerproof.render.folder import Json, items, number, text

FACTOR = 4
#: Bins of the level that comes with the trial, and bins of one part of a finer level.
SCREEN_MAX, PART = 600, 1024
#: Counts are added up, latencies are those of the worst bin: a peak stays visible at every level.
SUMS, PEAKS = ("sent_ok", "received_ok"), ("send_p50_ms", "send_p99_ms")

Series = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Pyramid:
    """overview: the coarsest level with all that a drawing needs.  parts: (level, part) -> its series."""

    overview: dict[str, Any]
    parts: dict[tuple[int, int], Series]


def pyramid(timeline: Json, faults: Sequence[Json]) -> Pyramid | None:
    """None where there are no bins. Cost O(bins)."""
    bin_s = number(timeline.get("bin_s")) or 0.0
    series: Series = [[number(v) for v in items(timeline.get(name))] for name in (*SUMS, *PEAKS)]
    bins = max(map(len, series))
    if bin_s <= 0 or not bins:
        return None
    levels = [[s + [None] * (bins - len(s)) for s in series]]
    while len(levels[-1][0]) > SCREEN_MAX:
        levels.append([_coarser(s, sums=i < len(SUMS)) for i, s in enumerate(levels[-1])])
    parts = {
        (level, part): [s[part * PART : (part + 1) * PART] for s in of]
        for level, of in enumerate(levels[:-1])
        for part in range(-(-len(of[0]) // PART))
    }
    overview = {
        "bin_s": bin_s, "bins": bins, "factor": FACTOR, "part": PART, "levels": len(levels), "series": levels[-1],
        "faults": [_band(f) for f in faults],
    }  # fmt: skip
    return Pyramid(overview, parts)


def _coarser(values: Sequence[float | None], *, sums: bool) -> list[float | None]:
    out: list[float | None] = []
    for first in range(0, len(values), FACTOR):
        known = [v for v in values[first : first + FACTOR] if v is not None]
        out.append((sum(known) if sums else max(known)) if known else None)
    return out


def _band(fault: Json) -> dict[str, Any]:
    targets = ", ".join(text(t) for t in items(fault.get("targets"))) or text(fault.get("target"))
    return {
        "fault": text(fault.get("fault")), "targets": targets, "dry": fault.get("dry") is True,
        **{key: number(fault.get(key)) for key in ("injected_s", "bit_s", "healing_s", "healed_s")},
    }  # fmt: skip
