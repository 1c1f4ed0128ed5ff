"""Shapes what stands in a run folder into what the HTML templates print: no verdict, rate or count is made here.

One view per thing one sees: a report, a section of the matrix, a cell, an arm. A view that cannot be built from what
the files hold says so in its place and leaves the rest of the report standing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from brokerproof.render import recovery, svg
from brokerproof.render.folder import (
    ARMS,
    VERDICTS,
    Json,
    Run,
    as_expected,
    case_as_expected,
    error_of,
    items,
    mapping,
    measured,
    number,
    read_trial,
    section,
    text,
    verdict,
    where,
)
from brokerproof.render.trials import DAMAGE, TrialView, state_of, trial_view

#: Trials of one arm that are drawn in full, those that show the deciding anomaly before the others.
DRAWN_MAX = {"treatment": 3, "control": 2, "sham": 1}
#: Trials without findings that each arm shows, with the reason.
ABSENT_MAX = 5
#: How each kind of claim is decided, as the report tells its reader (design section 2).
KIND_MEANS = {
    "promise": "holds when no treatment trial shows the deciding anomaly, every fault has evidence, and the control "
    "arm does show it",
    "hazard": "holds when a treatment trial shows the anomaly with a witness, and the safe control arm stays clean "
    "under the same faults",
    "comparison": "holds when the 95 % interval of the ratio lies beyond the declared margin on the claimed side",
    "property": "holds when all cases agree with the claim's model, and a broker with a bug, or the control, fails",
    "measurement": "reported with its spread, judged only against a stated figure",
}
_SHOWN_FIRST = (
    "seed", "profile", "started", "finished", "duration_s", "tool", "tool_version", "suite_version", "host", "engine",
)  # fmt: skip
_HIDDEN = ("schema", "run", "command")


@dataclass(frozen=True, slots=True)
class Row:
    """A setting and its value in each arm; differs: whether the arms disagree."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmView:
    """strip: (trial id, state, anchor of its details or "") of every trial, in the order it ran."""

    name: str
    trials: str
    violated: str
    rate: str
    wilson: str
    interval: Markup
    faults: tuple[tuple[str, str], ...]
    strip: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    anchor: str
    claim: str
    section: str
    broker: str
    version: str
    variant: str
    verdict: str
    expected: str
    as_expected: bool
    unlisted: bool
    reason: str
    sentence: str
    kind: str
    kind_means: str
    source: str
    deciding: tuple[str, ...]
    control_is: str
    mode: str
    command: str
    facts: tuple[tuple[str, str], ...]
    arms: tuple[ArmView, ...] = ()
    configuration: tuple[Row, ...] = ()
    configured: tuple[str, ...] = ()
    broker_settings: tuple[tuple[str, str], ...] = ()
    ratio: str = ""
    comparison: tuple[tuple[str, str], ...] = ()
    prop: Json = field(default_factory=dict)
    metrics: tuple[tuple[str, str], ...] = ()
    recovery: tuple[tuple[str, ...], ...] = ()  # as render/recovery.py has it
    promises: tuple[tuple[str, ...], ...] = ()  # (arm, anomaly, count, word, because, source)
    trials: tuple[TrialView, ...] = ()
    undrawn: int = 0
    related: tuple[tuple[str, str, str], ...] = ()
    short: str = ""
    damage: str = ""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A line of the matrix: cells by column, several where there are variants."""

    claim: str
    sentence: str
    kind: str
    columns: tuple[tuple[CellView, ...], ...]


@dataclass(frozen=True, slots=True)
class CaseView:
    case: str
    slug: str
    target: str
    verdict: str
    expected: str
    as_expected: bool
    observed: str
    link: str


@dataclass(frozen=True, slots=True)
class ReportView:
    run: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    details: tuple[tuple[str, str], ...]
    command: str
    tally: tuple[tuple[str, int], ...]
    tally_bar: Markup
    columns: tuple[tuple[str, str], ...]
    sections: tuple[tuple[str, tuple[ClaimRow, ...]], ...]
    cells: tuple[CellView, ...]
    unexpected: tuple[CellView, ...]
    cases: tuple[CaseView, ...]
    case_table: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    errors: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    filters: Json


def report(run: Run) -> ReportView:
    """Everything the page shows."""
    names = _anchors(run.claims)
    cells = tuple(_guarded_cell(run, entry, anchor, names) for entry, anchor in zip(run.claims, names, strict=True))
    columns = tuple(sorted({(c.broker, c.version) for c in cells}, key=lambda c: (c[0], _natural(c[1]))))
    sections = tuple(_sections(cells, columns))
    counts = tuple((word, sum(c.verdict == word for c in cells)) for word in VERDICTS)
    cases = tuple(_case(run.path, entry) for entry in run.cases)
    facts, details = _facts(run)
    unexpected = tuple(c for c in cells if not c.as_expected)
    return ReportView(
        run=run.name,
        headline=_headline(cells, cases, len(run.errors)),
        facts=facts,
        details=details,
        command=text(run.facts.get("command")),
        tally=counts,
        tally_bar=svg.tally(counts) if cells else Markup(""),
        columns=columns,
        sections=sections,
        cells=tuple(c for _, rows in sections for row in rows for column in row.columns for c in column),
        unexpected=unexpected,
        cases=cases,
        case_table=_case_table(cases),
        errors=tuple(error_of(e) for e in run.errors),
        missing=run.alerts,
        filters={"cells": [_filterable(c) for c in cells]},
    )


def cell(run: Run, entry: Json) -> CellView:
    """One entry of this run's results alone, for a page of its own; what is related to it is not looked for."""
    return _guarded_cell(replace(run, claims=(entry,)), entry, "cell", ("cell",))


def duration(seconds: Any) -> str:
    """Seconds as one says them."""
    n = number(seconds)
    if n is None:
        return ""
    if n < 60:
        return f"{n:.1f} s"
    minutes, rest = divmod(round(n), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _headline(cells: Sequence[CellView], cases: Sequence[CaseView], errors: int) -> str:
    said = [_as_expected("verdict", cells)] if cells or not cases else []
    said += [_as_expected("protocol case", cases)] if cases else []
    out = "; ".join([said[0], *(s[0].lower() + s[1:] for s in said[1:])])
    return out + (f"{', and' if cells or cases else ';'} {_plural(errors, 'harness error')}" if errors else "")


def _as_expected(noun: str, found: Sequence[CellView] | Sequence[CaseView]) -> str:
    odd = sum(not one.as_expected for one in found)
    if not found:
        return "No claim was decided"
    if odd:
        return f"{odd} of {_plural(len(found), noun)} {'is' if odd == 1 else 'are'} not as expected"
    return f"All {len(found)} {noun}s are as expected" if len(found) > 1 else f"The {noun} is as expected"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _facts(run: Run) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """(what stands in the header, the rest one line each). Whatever keys ``run.json`` has are shown."""
    short: list[tuple[str, str]] = []
    facts = dict(run.facts)
    facts.setdefault("seed", run.results.get("seed"))
    facts.setdefault("finished", run.results.get("finished"))
    if number(facts.get("duration_s")) is None:
        facts["duration_s"] = _between(facts.get("started"), facts.get("finished"))
    rest: list[tuple[str, str]] = []
    for key in (*_SHOWN_FIRST, *(k for k in facts if k not in _SHOWN_FIRST)):
        value = facts.get(key)
        # What is false did not happen (``interrupted``), and nobody asks.
        if key in _HIDDEN or value in (None, "", {}, []) or value is False:
            continue
        flat = list(leaves(value, ""))
        if key in ("host", "engine", "tool") or not isinstance(value, Mapping | list):
            short.append(
                (_label(key), ", ".join(_said(f"{key}.{k}" if k else key, v) for k, v in flat if not _long(v)))
            )
            rest += [(f"{key}.{k}", text(v)) for k, v in flat if _long(v)]
        else:
            rest += [(f"{key}.{k}" if k else key, text(v)) for k, v in flat]
    versions = sorted({f"{text(e.get('broker'))} {text(e.get('version'))}" for e in (*run.claims, *run.cases)})
    if versions:
        short.insert(2, ("brokers", ", ".join(versions)))
    return tuple((k, v) for k, v in short if v), tuple(rest)


def _long(value: Any) -> bool:
    return len(text(value)) > 60


def _label(key: str) -> str:
    return re.sub(r"_(s|bytes)$", "", key).replace("_", " ")


def _said(key: str, value: Any) -> str:
    """A value with its unit; the last word of the key says what it is of, where the value does not."""
    last = key.rsplit(".", 1)[-1]
    n = number(value)
    if n is not None and last.endswith("_bytes"):
        return f"{n / 2**30:.3g} GiB {_label(last)}"
    if n is not None and last.endswith(("_gb", "_gib")):
        return f"{n:g} {'GiB' if last.endswith('_gib') else 'GB'} {last.rsplit('_', 1)[0].replace('_', ' ')}"
    if n is not None and last.endswith("_s"):
        return duration(n)
    if last in ("started", "finished"):
        return text(value).replace("T", " ").replace("+00:00", "Z").replace("Z", " UTC")
    if n is not None and "." in key:
        return f"{text(value)} {_label(last)}"
    return text(value)


def _between(started: Any, finished: Any) -> float | None:
    try:
        return (datetime.fromisoformat(text(finished)) - datetime.fromisoformat(text(started))).total_seconds()
    except (ValueError, TypeError):
        return None


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Leaves of a JSON value with their dotted names."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        for i, item in enumerate(value):
            yield from leaves(item, f"{prefix}[{i}]")
    else:
        yield prefix, value


def _anchors(entries: Sequence[Json]) -> tuple[str, ...]:
    """A readable and unique name for each cell's details."""
    seen: set[str] = set()
    out = []
    for entry in entries:
        slug = re.sub(r"[^a-z0-9.]+", "-", f"{text(entry.get('claim'))} {where(entry)}".lower()).strip("-")
        name, n = f"cell-{slug}", 1
        while name in seen:
            n += 1
            name = f"cell-{slug}-{n}"
        seen.add(name)
        out.append(name)
    return tuple(out)


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() and len(part) < 9 else (0, part) for part in re.split(r"[.-]", version)]


def _sections(
    cells: Sequence[CellView], columns: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, tuple[ClaimRow, ...]]]:
    """Claims in the order of the results, grouped by section."""
    by_section: dict[str, dict[str, list[CellView]]] = {}
    for cell in cells:
        by_section.setdefault(cell.section, {}).setdefault(cell.claim, []).append(cell)
    for name, claims in by_section.items():
        rows = []
        for claim, members in claims.items():
            first = next((c for c in members if c.sentence), members[0])
            spread = tuple(tuple(c for c in members if (c.broker, c.version) == column) for column in columns)
            rows.append(ClaimRow(claim, first.sentence, first.kind, spread))
        yield name, tuple(rows)


def _filterable(cell: CellView) -> Json:
    words = (cell.claim, cell.sentence, cell.reason, cell.broker, cell.version, cell.variant, cell.kind, *cell.deciding)
    return {
        "id": cell.anchor, "broker": f"{cell.broker} {cell.version}", "verdict": cell.verdict,
        "unexpected": not cell.as_expected, "text": " ".join(words).lower(),
    }  # fmt: skip


def _guarded_cell(run: Run, entry: Json, anchor: str, anchors: Sequence[str]) -> CellView:
    head = _head(entry, anchor)
    try:
        return _cell(run, entry, head, anchors)
    except DAMAGE as exc:
        return CellView(**head, damage=f"this entry of results.json cannot be shown: {type(exc).__name__}")


def _head(entry: Json, anchor: str) -> dict[str, Any]:
    """What can be said of any entry, however damaged."""
    kind = text(entry.get("kind"))
    started = text(entry.get("started"))
    facts = (
        ("revision", text(entry.get("revision"))),
        ("profile", text(entry.get("profile"))),
        ("started", _said("started", started)),
        ("took", duration(entry.get("duration_s"))),
        ("cell", text(entry.get("cell"))),
    )
    return {
        "anchor": anchor, "claim": text(entry.get("claim")) or "unnamed claim", "section": section(entry) or "other",
        "broker": text(entry.get("broker")), "version": text(entry.get("version")),
        "variant": text(entry.get("variant")), "verdict": verdict(entry), "expected": text(entry.get("expected")),
        "as_expected": as_expected(entry), "unlisted": entry.get("unlisted") is True,
        "reason": text(entry.get("reason")), "sentence": text(entry.get("sentence")), "kind": kind,
        "kind_means": KIND_MEANS.get(kind, ""), "source": text(entry.get("source")),
        "deciding": tuple(map(text, items(entry.get("deciding")))), "control_is": text(entry.get("control_is")),
        "mode": text(entry.get("mode")), "command": text(entry.get("command")),
        "facts": tuple((k, v) for k, v in facts if v),
    }  # fmt: skip


def _cell(run: Run, entry: Json, head: dict[str, Any], anchors: Sequence[str]) -> CellView:
    deciding = head["deciding"]
    arms: list[ArmView] = []
    drawn: list[TrialView] = []
    undrawn = 0
    for name in ARMS:
        arm = mapping(entry.get(name))
        if not arm:
            continue
        trials = [read_trial(run.path, trial, name) for trial in items(arm.get("trial_ids"))]
        states = {id(trial): state_of(trial, deciding) for trial in trials}
        # Those with something to show come first; the rest of the arm looks like the ones that are drawn.
        sound = sorted((t for t in trials if states[id(t)] != "missing"), key=lambda t: states[id(t)] != "shows")
        absent = [t for t in trials if states[id(t)] == "missing"]
        ranked = [*sound[: DRAWN_MAX[name]], *absent[:ABSENT_MAX]]
        views = {
            id(t): trial_view(t, f"{head['anchor']}--{name}-{i + 1}", deciding, first=i == 0)
            for i, t in enumerate(ranked)
        }
        drawn += views.values()
        undrawn += len(trials) - len(ranked)
        strip = tuple((t.id, states[id(t)], views[id(t)].anchor if id(t) in views else "") for t in trials)
        arms.append(_arm(name, arm, strip))
    configuration, configured = _configuration(mapping(entry.get("configuration")))
    comparison = mapping(entry.get("comparison"))
    pairs = [arm for arm in arms if arm.name != "sham" and arm.trials]
    short = " · ".join(f"{arm.violated}/{arm.trials}" for arm in pairs)
    if comparison:
        short = f"{measured(comparison.get('ratio'))}×"
    prop = _property(mapping(entry.get("property")))
    if prop:
        short = f"{prop['cases']} cases"
    return CellView(
        **head,
        arms=tuple(arms),
        configuration=configuration,
        configured=configured,
        broker_settings=tuple(
            (k, text(v)) for k, v in leaves(mapping(mapping(entry.get("configuration")).get("broker")), "") if k
        ),
        ratio=svg.ratio(comparison),
        comparison=tuple((k, measured(v)) for k, v in comparison.items()),
        prop=prop,
        metrics=tuple((k, measured(v)) for k, v in mapping(entry.get("metrics")).items()),
        recovery=tuple(recovery.rows(mapping(entry.get("recovery")))),
        promises=tuple(_promises(mapping(entry.get("promises")))),
        trials=tuple(drawn),
        undrawn=undrawn,
        related=tuple(_related(run.claims, entry, anchors)),
        short=short,
    )


def _related(entries: Sequence[Json], entry: Json, anchors: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(relation, claim, anchor): the claim that this one sharpens, and those that sharpen it, on the same target."""
    for other, anchor in zip(entries, anchors, strict=True):
        same = all(other.get(key) == entry.get(key) for key in ("broker", "version"))
        if same and other.get("sharpens") and other.get("sharpens") == entry.get("claim"):
            yield "stated more exactly by", f"{text(other.get('claim'))}: {verdict(other)}", anchor
        if same and entry.get("sharpens") and other.get("claim") == entry.get("sharpens"):
            yield "states more exactly", f"{text(other.get('claim'))}: {verdict(other)}", anchor


def _promises(promises: Json) -> Iterator[tuple[str, ...]]:
    for arm in ARMS:
        for said in map(mapping, items(promises.get(arm))):
            yield (arm, *(text(said.get(key)) for key in ("anomaly", "count", "word", "because", "source")))


def _property(prop: Json) -> Json:
    if not prop:
        return {}
    mutant = mapping(prop.get("mutant"))
    found = prop.get("counterexample")
    return {
        "cases": text(prop.get("cases")),
        "counterexample": "" if found is None else json.dumps(found, indent=2, ensure_ascii=False, default=str),
        "mutant": text(mutant.get("name")),
        "failed": mutant.get("failed") is True,
    }


def _configuration(configuration: Json) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Settings by arm, those that differ first."""
    arms = tuple(name for name in ARMS if mapping(configuration.get(name)))
    flat = {arm: {k: text(v) for k, v in leaves(mapping(configuration.get(arm)), "")} for arm in arms}
    names = dict.fromkeys(name for settings in flat.values() for name in settings)
    rows = []
    for name in names:
        values = tuple(flat[arm].get(name, "–") for arm in arms)
        rows.append(Row(name, values, len(set(values)) > 1))
    return tuple(sorted(rows, key=lambda row: not row.differs)), arms


def _arm(name: str, arm: Json, strip: tuple[tuple[str, str, str], ...]) -> ArmView:
    rate = number(arm.get("rate"))
    bounds = [number(b) for b in items(arm.get("wilson95"))[:2]]
    known = len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None
    faults: dict[tuple[str, str], int] = {}
    for fault in map(mapping, items(arm.get("faults"))):
        key = (text(fault.get("fault")), text(fault.get("evidence")))
        faults[key] = faults.get(key, 0) + 1
    said = tuple((f"{fault}" + (f" ×{n}" if n > 1 else ""), evidence) for (fault, evidence), n in faults.items())
    return ArmView(
        name=name,
        trials=text(arm.get("trials")),
        violated=text(arm.get("violated")),
        rate="" if rate is None else f"{rate:.1%}".replace("%", " %"),
        wilson=f"{bounds[0] or 0:.1%} – {bounds[1] or 0:.1%}".replace("%", " %") if known else "",
        interval=svg.interval(arm, name),
        faults=said,
        strip=strip,
    )


def _case(run: Path, entry: Json) -> CaseView:
    path = text(entry.get("path"))
    inside = bool(path) and not path.startswith(("/", "\\")) and ":" not in path and ".." not in path.split("/")
    expected, said = text(entry.get("expected")), text(entry.get("verdict")) or "INCONCLUSIVE"
    return CaseView(
        text(entry.get("case")), text(entry.get("slug")), where(entry), said, expected,
        case_as_expected(entry), text(entry.get("observed")),
        f"../{quote(path)}" if inside and (run / path).is_file() else "",
    )  # fmt: skip


def _case_table(cases: Sequence[CaseView]) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """How many cases of each target came to which verdict."""
    counts: dict[str, dict[str, int]] = {}
    for case in cases:
        by = counts.setdefault(case.target.split(" ")[0] + " " + " ".join(case.target.split(" ")[1:2]), {})
        by[case.verdict] = by.get(case.verdict, 0) + 1
    return tuple((target, tuple(sorted(by.items(), key=lambda kv: -kv[1]))) for target, by in counts.items())
