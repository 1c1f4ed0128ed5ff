"""Shapes one trial's files into what the report prints of it: faults with their evidence, life lines, counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from brokerproof.finding import Finding
from brokerproof.render import svg
from brokerproof.render.folder import Json, Trial, items, mapping, measured, number, text
from brokerproof.where import Where

#: Life lines that are drawn of one trial, and operations of each; the rest stands in findings.json.
WITNESSES_MAX, LINES_MAX = 3, 12

EVIDENCE_SAYS = {
    "took_effect": "took effect and was healed",
    "no_effect": "had no effect",
    "not_healed": "was not healed",
    "unproven": "is unproven",
}
_TIMES = (("injected", "injected_s"), ("took effect", "bit_s"), ("healing from", "healing_s"), ("healed", "healed_s"))
#: What a damaged file can raise while it is shaped or drawn.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError)


@dataclass(frozen=True, slots=True)
class FaultView:
    name: str
    target: str
    targets: str
    options: str
    evidence: str
    says: str
    times: tuple[tuple[str, str], ...]
    in_flight: str
    probes: tuple[tuple[str, str, str], ...]
    observed: tuple[tuple[str, str], ...]
    error: str


@dataclass(frozen=True, slots=True)
class WitnessView:
    """A message's life: rows of (cells, drawing) on one time axis from ``first`` to ``last`` (seconds, as text).
    places: each node, and in words where it had the message after the final read."""

    anomaly: str
    msg: str
    first: str
    last: str
    rows: tuple[tuple[tuple[str, ...], Markup], ...]
    left_off: int
    places: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    id: str
    anchor: str
    arm: str
    opened: bool
    shows: str
    state: str
    links: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    timeline: str = ""
    faults: tuple[FaultView, ...] = ()
    anomalies: tuple[tuple[str, int, str, bool], ...] = ()
    silent: tuple[str, ...] = ()
    observations: tuple[tuple[str, int, str], ...] = ()
    exercised: tuple[tuple[str, str, str, str], ...] = ()
    metrics: tuple[tuple[str, str], ...] = ()
    gaps: tuple[str, ...] = ()
    witnesses: tuple[WitnessView, ...] = ()
    witnesses_left_off: int = 0
    errors: tuple[str, ...] = ()


def state_of(trial: Trial, deciding: Sequence[str]) -> str:
    """shows, clean, or missing: whether the trial's own findings hold the deciding anomaly."""
    if trial.finding is None:
        return "missing"
    try:
        return "shows" if trial.finding.shows(*deciding) else "clean"
    except DAMAGE:
        return "missing"


def trial_view(trial: Trial, anchor: str, deciding: Sequence[str], *, first: bool) -> TrialView:
    links = tuple((name, f"../trials/{quote(trial.id)}/{quote(name)}") for name in trial.files)
    head: dict[str, Any] = {
        "id": trial.id, "anchor": anchor, "arm": trial.arm, "state": state_of(trial, deciding), "links": links,
        "errors": trial.errors, "opened": first and trial.arm != "sham",
    }  # fmt: skip
    try:
        return TrialView(**head, missing=trial.missing, **_measured(trial, deciding))
    except DAMAGE as exc:
        broken = f"what its files hold cannot be shown: {type(exc).__name__}"
        return TrialView(**head, shows="", missing=(*trial.missing, broken))


def _measured(trial: Trial, deciding: Sequence[str]) -> dict[str, Any]:
    """The parts of a trial's view that come from faults.json and findings.json."""
    faults = trial.faults or ()
    out: dict[str, Any] = {"shows": "", "faults": tuple(_fault(f) for f in faults)}
    finding = trial.finding
    if finding is None:
        return out
    found = {key: count for key, count in finding.anomalies.items() if count.count}
    shown = [f"{key} {found[key].count}" for key in deciding if key in found]
    out["shows"] = ", ".join(shown)
    out["timeline"] = svg.timeline(finding.timeline, faults)
    out["anomalies"] = tuple((key, c.count, _first(c.messages, c.details), key in deciding) for key, c in found.items())
    out["silent"] = tuple(key for key in finding.anomalies if key not in found)
    out["observations"] = tuple(
        (key, c.count, _first(c.messages, c.details)) for key, c in finding.observations.items() if c.count
    )
    out["exercised"] = tuple(
        (f, *(text(mapping(by).get(outcome, 0)) for outcome in ("ok", "fail", "info")))
        for f, by in finding.exercised.items()
    )
    out["metrics"] = tuple((key, measured(value)) for key, value in finding.metrics.items())
    out["gaps"] = tuple(map(text, finding.missing))
    out["witnesses"] = tuple(_witnesses(finding, deciding, faults, trial.places))
    out["witnesses_left_off"] = max(0, len(finding.witnesses) - WITNESSES_MAX)
    return out


def _first(messages: Sequence[Any], details: Json) -> str:
    said = ", ".join(map(text, messages[:12])) + (", …" if len(messages) > 12 else "")
    extra = ", ".join(f"{key} {text(value)}" for key, value in mapping(details).items())
    return "; ".join(part for part in (f"messages {said}" if said else "", extra) if part)


def _witnesses(
    finding: Finding, deciding: Sequence[str], faults: Sequence[Json], places: Json
) -> Iterator[WitnessView]:  # fmt: skip
    ranked = sorted(map(mapping, finding.witnesses), key=lambda w: text(w.get("anomaly")) not in deciding)
    for witness in ranked[:WITNESSES_MAX]:
        lines = list(map(mapping, items(witness.get("lines"))))
        shown = lines[:LINES_MAX]
        scale = svg.lifeline_scale(shown)
        if scale is None:
            continue
        rows = tuple((_line_cells(line), svg.lifeline(line, scale, faults)) for line in shown)
        yield WitnessView(
            text(witness.get("anomaly")), "of which the body is unreadable" if witness.get("msg") == -2 else text(witness.get("msg")), f"{scale[0]:.2f} s", f"{scale[1]:.2f} s",
            rows, len(lines) - len(shown), tuple(_places(places.get(text(witness.get("msg"))))),
        )  # fmt: skip


def _places(nodes: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node, where in mapping(nodes).items():
        with contextlib.suppress(*DAMAGE):
            yield node, tuple(map(text, Where.from_json(where).lines()))


def _line_cells(line: Json) -> tuple[str, ...]:
    start, end = number(line.get("t_s")), number(line.get("end_s"))
    # The injector has no number that one could follow.
    process = "" if line.get("process") == -1 else text(line.get("process"))
    role = f"{text(line.get('role'))} {process}".strip()
    return (
        "" if start is None else f"{start:.4f}",
        "open" if end is None or (start is not None and end < start) else f"{end:.4f}",
        role,
        text(line.get("f")),
        text(line.get("outcome")),
        *("" if line.get(key) in (-1, None) else text(line.get(key)) for key in ("lane", "pos", "attempt")),
        text(line.get("error")),
    )


def _fault(fault: Json) -> FaultView:
    evidence = text(fault.get("evidence"))
    known = ((word, number(fault.get(key))) for word, key in _TIMES)
    times = tuple((word, f"{at:.2f} s") for word, at in known if at is not None and at >= 0)
    probes = []
    for when in ("before", "during", "after"):
        probe = mapping(mapping(fault.get("probes")).get(when))
        says = "cannot tell" if probe else "not looked"
        if isinstance(probe.get("bites"), bool):
            says = "bites" if probe["bites"] else "does not bite"
        probes.append((when, says, text(probe.get("seen"))))
    in_flight = number(fault.get("in_flight"))
    return FaultView(
        name=("dry run of " if fault.get("dry") is True else "") + text(fault.get("fault")),
        target=text(fault.get("target")),
        targets=", ".join(map(text, items(fault.get("targets")))),
        options=", ".join(f"{k} {text(v)}" for k, v in mapping(fault.get("options")).items()),
        evidence=evidence,
        says=EVIDENCE_SAYS.get(evidence, "has no evidence"),
        times=times,
        in_flight="" if in_flight is None or in_flight < 0 else f"{in_flight:,.0f}",
        probes=tuple(probes),
        observed=tuple((when, text(seen)) for when, seen in mapping(fault.get("observed")).items() if seen),
        error=text(fault.get("error")),
    )
