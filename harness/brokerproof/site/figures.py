"""The figures of a cell that two runs can be compared by, each with how far it may be trusted.

Two kinds of bounds, and a figure says which it has: a 95 % interval (rates: Wilson; ratios: bootstrap of the pairs), or the
range that was seen over n trials (recovery).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from brokerproof.render.folder import Json, items, mapping, number, text

#: Figures of an injection that are compared: what a user of the queue waits for, loses, or gets twice.
RECOVERY: tuple[tuple[str, str], ...] = (
    ("detection_s", "s"), ("gap_s", "s"), ("rto_s", "s"), ("clients_last_s", "s"), ("rpo_messages", ""),
    ("during_p99_ms", "ms"), ("duplicates_ratio", ""),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """low, high: bounds of the 95 % interval, or least and most where ``n`` says over how many trials (0: an interval)."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    n: int = 0


def figures(entry: Json) -> tuple[Figure, ...]:
    """All figures of an entry of ``results.json``; what is missing or damaged is left out."""
    return (*_rate(entry), *_ratio(entry), *_recovery(entry))


def _rate(entry: Json) -> Iterator[Figure]:
    arm = mapping(entry.get("treatment"))
    rate, bounds = number(arm.get("rate")), [number(b) for b in items(arm.get("wilson95"))[:2]]
    if rate is not None and len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        yield Figure("rate", "", rate, bounds[0], bounds[1])


def _ratio(entry: Json) -> Iterator[Figure]:
    comparison = mapping(entry.get("comparison"))
    ratio, bounds = number(comparison.get("ratio")), [number(b) for b in items(comparison.get("ci95"))[:2]]
    if ratio is not None and len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        yield Figure("ratio", "×", ratio, bounds[0], bounds[1])


def _recovery(entry: Json) -> Iterator[Figure]:
    seen: dict[str, int] = {}
    for injection in map(mapping, items(mapping(entry.get("recovery")).get("treatment"))):
        fault = text(injection.get("fault"))
        seen[fault] = seen.get(fault, 0) + 1
        name = fault if seen[fault] == 1 else f"{fault} {seen[fault]}"
        measured = mapping(injection.get("figures"))
        for key, unit in RECOVERY:
            one = mapping(measured.get(key))
            value, low, high, n = (number(one.get(k)) for k in ("median", "least", "most", "n"))
            if value is not None and low is not None and high is not None:
                yield Figure(f"{name}: {key}", unit, value, low, high, int(n or 1))
