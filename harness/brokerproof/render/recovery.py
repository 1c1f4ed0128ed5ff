"""What injections cost, as lines of a table: for the page of a cell, and fault by broker for the summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from brokerproof.render.folder import Json, figure, items, mapping, number, text

#: Heading -> the figures it shows, with the unit of all of them.
COLUMNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("noticed", ("detection_s",), "s"),
    ("longest gap", ("gap_s",), "s"),
    ("back: first, median, last client", ("clients_first_s", "clients_median_s", "clients_last_s"), "s"),
    ("back: last lane", ("lanes_last_s",), "s"),
    ("lost", ("rpo_messages",), ""),
    ("lost over", ("rpo_s",), "s"),
    ("p50 before, during, after", ("before_p50_ms", "during_p50_ms", "after_p50_ms"), "ms"),
    ("p99", ("before_p99_ms", "during_p99_ms", "after_p99_ms"), "ms"),
    ("p99.9", ("before_p999_ms", "during_p999_ms", "after_p999_ms"), "ms"),
    ("twice", ("duplicates_ratio",), ""),
)


def rows(recovery: Json) -> Iterator[tuple[str, ...]]:
    """(arm, fault, trials, one text per column) of every injection: medians over the trials."""
    for arm, injections in recovery.items():
        for injection in map(mapping, items(injections)):
            fault = f"{text(injection.get('fault'))} on {_targets(injection)}"
            yield (arm, fault, text(injection.get("trials")), *figures(mapping(injection.get("figures"))))


def figures(of: Json) -> Iterator[str]:
    """One text per column; an en dash where a figure was not to be had."""
    for _, names, unit in COLUMNS:
        medians = [number(mapping(of.get(name)).get("median")) for name in names]
        told = ", ".join("–" if m is None else figure(m) for m in medians)
        yield f"{told} {unit}".strip() if any(m is not None for m in medians) else "–"


def _targets(injection: Json) -> str:
    return " or ".join(dict.fromkeys(text(t) for t in items(injection.get("targets")))) or "nobody"


def measured(claims: Sequence[Json]) -> Iterator[tuple[str, ...]]:
    """(fault, broker and version, evidence, one text per column) of every measurement, fault by fault."""
    chosen = [e for e in claims if e.get("kind") == "measurement"]
    for e in sorted(chosen, key=lambda e: (text(e.get("claim")), text(e.get("variant")), text(e.get("broker")))):
        treatment = mapping(e.get("treatment"))
        evidence = ", ".join(
            text(f.get("evidence")).replace("_", " ") for f in map(mapping, items(treatment.get("faults")))
        )
        name = text(e.get("claim")).partition("/")[2] + (f" ({text(e.get('variant'))})" if e.get("variant") else "")
        said = evidence or text(e.get("verdict"))
        found = [mapping(i) for i in items(mapping(e.get("recovery")).get("treatment"))]
        for injection in found or [{}]:
            of = mapping(injection.get("figures"))
            yield (name, f"{text(e.get('broker'))} {text(e.get('version'))}", said, *figures(of))
