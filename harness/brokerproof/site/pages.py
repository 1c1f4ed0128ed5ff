"""Writes the site: every page, its data, badges and assets, and takes away what an earlier site left in the folder.

index.html                     the matrix            assets/    style, scripts, translations
claims/ cases/ faults/ targets/ cells/               one page each
faults.html runs.html          lists                 data/      results by run, for the differences
differences.html               of two runs or versions
badges/                        SVG and JSON          details/   trials, taken in when they are opened
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.render import cases, recovery, svg, views
from brokerproof.render.folder import (
    ARMS,
    VERDICTS,
    Json,
    items,
    mapping,
    read_object,
    read_trial,
    text,
)  # fmt: skip
from brokerproof.render.html import asset, filled
from brokerproof.render.trials import TrialView
from brokerproof.site import drawings
from brokerproof.site.badges import badge
from brokerproof.site.chunks import chunk
from brokerproof.site.loglines import log_lines
from brokerproof.site.model import Cell, Model, Result, Row, RunInfo, injections
from brokerproof.site.names import file_name
from brokerproof.site.settings import Pairs, durability, said
from brokerproof.site.timeline import pyramid

#: Nothing loads but this folder's own style and scripts, nothing runs that stands in a page, nothing is sent anywhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
#: Marks a folder as a site of ours, and lists its files: only what stands there is taken away by the next one.
MANIFEST = "site.json"
#: Says in it that the folder is ours to write over.
WHAT = "brokerproof site"
STYLES = ("styles/report.css", "styles/site.css")
SCRIPTS = ("site.js", "matrix.js", "differences.js", "timeline.js")
#: Frames and log lines of a case that its page shows; the run folder has all.
FRAMES_MAX, LOGS_MAX = 120, 60
#: Figures that the page of a fault draws side by side.
DRAWN = (("gap_s", "longest gap"), ("clients_last_s", "back: last client"))


def write(model: Model, out: Path) -> dict[str, int]:
    """Writes everything; returns the files' sizes in octets by their path in the site.

    Raises UsageError where ``out`` holds anything else, EnvironmentProblem where it cannot be written.
    """
    old = _manifest(out)
    sizes: dict[str, int] = {}
    try:
        # First of all, so that a site that was not finished can be written again.
        _list(out, old)
        for path, content in _files(model):
            file = out / path
            file.parent.mkdir(parents=True, exist_ok=True)
            octets = content.encode("utf-8", "backslashreplace")
            file.write_bytes(octets)
            sizes[path] = len(octets)
        for path in old - set(sizes):
            (out / path).unlink(missing_ok=True)
        _list(out, sizes)
    except OSError as exc:
        raise EnvironmentProblem(f"writing the site {str(out)!r}: {exc}; is the disk full, or not ours?") from exc
    return sizes


def _list(out: Path, files: Iterable[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).write_text(json.dumps({"schema": 1, "what": WHAT, "files": sorted(files)}, indent=0) + "\n")


def _manifest(out: Path) -> set[str]:
    """Files of the site that stands there. Raises UsageError where something else does."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    listed = read_object(out / MANIFEST)[0] if out.is_dir() else None
    if listed is None or listed.get("what") != WHAT:
        raise UsageError(
            f"--out {str(out)!r} is there and is no site of `brokerproof compare`; name an empty or a new folder"
        )
    plain = [text(f) for f in items(listed.get("files"))]
    return {f for f in plain if f and not f.startswith("/") and ".." not in f.split("/")}


@dataclass(frozen=True, slots=True)
class _Page:
    """What every page is given. root: the way to the site's top folder."""

    model: Model
    root: str

    def fill(self, template: str, *, title: str, scripts: Sequence[str] = (), **values: Any) -> str:
        model = self.model
        return filled(
            template, policy=POLICY, root=self.root, title=title, scripts=("site.js", *scripts), spark=drawings.spark,
            target_file=_target_file, symbols=cases.SYMBOLS, said=text, targets=model.targets, runs=model.runs,
            meanings=cases.MEANINGS, interval=_interval, place=_place, figure=_figure_of,
            row_file=lambda cell: file_name(cell.key.what, cell.key.id), **values,
        )  # fmt: skip


def _files(model: Model) -> Iterator[tuple[str, str]]:
    """(path in the site, content) of everything."""
    top, inner = _Page(model, ""), _Page(model, "../")
    yield "assets/site.css", "\n".join(map(asset, STYLES))
    for script in SCRIPTS:
        yield f"assets/{script}", asset(f"scripts/{script}")
    yield "assets/zh.js", chunk("zh", [[k, v] for k, v in sorted(json.loads(asset("strings/zh.json")).items())])
    yield "index.html", top.fill("site-index.html.j2", title="Comparison", scripts=("matrix.js",), **_matrix(model))
    for row in model.rows:
        folder = "claims" if row.what == "claim" else "cases"
        yield (
            f"{folder}/{row.file}.html",
            inner.fill("site-row.html.j2", title=row.id, row=row, kin=_kin(model, row), required=_required(model, row)),
        )
    for cell in model.cells:
        yield from _cell(inner, model, cell)
    faults = _faults(model)
    yield "faults.html", top.fill("site-faults.html.j2", title="Faults", faults=faults)
    for fault in faults:
        yield f"faults/{fault.file}.html", inner.fill(
            "site-fault.html.j2", title=fault.name, fault=fault, columns=[heading for heading, _, _ in recovery.COLUMNS], drawn=DRAWN
        )  # fmt: skip
    for target in model.targets:
        yield from _target(inner, model, target)
    summaries = _summaries(model)
    yield "runs.html", top.fill("site-runs.html.j2", title="Runs", summaries=summaries)
    yield "differences.html", top.fill("site-differences.html.j2", title="Differences", scripts=("differences.js",))
    yield from _data(model, summaries)
    for row in model.of("claim"):
        for target, cells in row.by_target.items():
            yield from _badge(file_name(row.id, *target), f"{row.id} on {' '.join(target)}", cells)


# --- the matrix


def _matrix(model: Model) -> dict[str, Any]:
    claims, conformance = model.of("claim"), model.of("case")
    counts = {word: sum(c.latest.verdict == word for r in claims for c in r.cells) for word in VERDICTS}
    words = [w for w in cases.SYMBOLS if any(c.latest.verdict == w for r in conformance for c in r.cells)]
    return {
        "claims": _by_group(claims), "cases": _by_group(conformance), "counts": counts, "words": words,
        "groups": list(dict.fromkeys(r.group for r in (*claims, *conformance))), "notes": model.notes,
        "claim_targets": _targets_of(model, claims), "case_targets": _targets_of(model, conformance),
        "odd": sum(not c.latest.as_expected for c in model.cells),
    }  # fmt: skip


def _by_group(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row.group, []).append(row)
    return list(out.items())


def _targets_of(model: Model, rows: Sequence[Row]) -> list[tuple[str, str]]:
    there = {c.key.target for r in rows for c in r.cells}
    return [t for t in model.targets if t in there]


def _kin(model: Model, row: Row) -> list[tuple[str, Row]]:
    """(relation, row): the claim that this one sharpens, and those that sharpen it."""
    of = model.claims.get(row.sharpens)
    out = [("states more exactly", of)] if of is not None else []
    return out + [("stated more exactly by", r) for r in model.sharpened.get(row.id, ())]


def _required(model: Model, row: Row) -> tuple[str, str]:
    """(sentence, reference) of a protocol case, as its newest run wrote them; empty for a claim, whose sentence the row has."""
    if row.what != "case":
        return "", ""
    newest = max(row.cells, key=lambda cell: cell.latest.run)
    whole = cases.case_file(model.runs[newest.latest.run].read.path, newest.entry)
    return text(whole.get("requirement")), text(whole.get("reference"))


# --- a cell


def _cell(page: _Page, model: Model, cell: Cell) -> Iterator[tuple[str, str]]:
    run = model.runs[cell.latest.run]
    common: dict[str, Any] = {"one": cell, "run": run, "history": drawings.history(cell)}
    if cell.key.what == "case":
        whole = cases.case_file(run.read.path, cell.entry)
        shown = dict(cases.shown(cell.entry, whole))
        shown["logs"] = {node: lines[:LOGS_MAX] for node, lines in shown["logs"].items()}
        yield f"cells/{cell.file}.html", page.fill(
            "site-cell.html.j2", title=_title(cell), case=shown, frames=cases.frames({**whole, "wire": items(whole.get("wire"))[:FRAMES_MAX]}),
            left_off=max(0, len(items(whole.get("wire"))) - FRAMES_MAX), **common,
        )  # fmt: skip
        return
    view = views.cell(run.read, cell.entry)
    trials = [(f"{cell.file}/{i}", trial) for i, trial in enumerate(view.trials)]
    for name, trial in trials:
        yield from _trial(run, name, trial)
    yield f"cells/{cell.file}.html", page.fill(
        "site-cell.html.j2", title=_title(cell), scripts=("timeline.js",), cell=view, trials=trials,
        recovery_columns=[heading for heading, _, _ in recovery.COLUMNS], **common,
    )  # fmt: skip


def _trial(run: RunInfo, name: str, view: TrialView) -> Iterator[tuple[str, str]]:
    """A trial's evidence, and the finer levels of its timeline."""
    raw = read_trial(run.read.path, view.id, view.arm)
    levels = None if raw.finding is None else pyramid(raw.finding.timeline, raw.faults or ())
    logs = None
    if levels is not None:
        end_s = levels.overview["bins"] * levels.overview["bin_s"]
        logs = log_lines(run.read.path / "trials" / view.id, end_s, raw.faults or (), run.facts)
        levels.overview["log"] = logs.overview(end_s) if logs is not None else None
    # Drawn by the page itself, at the level of detail that is looked at.
    shown = replace(view, timeline=Markup('<div class="zoom"></div>') if levels else "", links=(), opened=True)
    body = str(filled("trial.html.j2", trial=shown))
    yield f"details/{name}.js", chunk(name, {"html": body, "timeline": levels.overview if levels else None})
    if logs is not None:
        yield f"details/{name}-log.js", chunk(f"{name}-log", logs.rows())
    for (level, part), series in (levels.parts if levels else {}).items():
        fine = f"{name}-{level}-{part}"
        yield f"details/{fine}.js", chunk(fine, series)


def _title(cell: Cell) -> str:
    return " · ".join(p for p in (cell.key.id, " ".join(cell.key.target), cell.key.variant) if p)


# --- faults


@dataclass(frozen=True, slots=True)
class FaultLine:
    """One injection in one arm of one cell. row: as ``recovery.rows`` has it.  bars: of the figures in ``DRAWN``.
    settings: of this arm, which is what recovered."""

    cell: Cell
    settings: Pairs
    row: tuple[str, ...]
    bars: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class FaultPage:
    """evidence: (target, word, how many) over all arms of all cells."""

    name: str
    file: str
    lines: tuple[FaultLine, ...]
    evidence: tuple[tuple[str, str, int], ...]
    cells: int


def _faults(model: Model) -> list[FaultPage]:
    lines: dict[str, list[tuple[Cell, str, Json]]] = {}
    evidence: dict[str, dict[tuple[str, str], int]] = {}
    where: dict[str, set[str]] = {}
    for cell in model.cells:
        for arm, injection in injections(cell):
            if arm != "sham":
                lines.setdefault(text(injection.get("fault")), []).append((cell, arm, injection))
        for arm in ARMS:
            for one in map(mapping, items(mapping(cell.entry.get(arm)).get("faults"))):
                name = text(one.get("fault"))
                by = evidence.setdefault(name, {})
                key = (" ".join(cell.key.target), text(one.get("evidence")))
                by[key] = by.get(key, 0) + 1
                where.setdefault(name, set()).add(cell.file)
    out = []
    for name in sorted({*lines, *evidence}):
        found = lines.get(name, [])
        ends = [drawings.most([mapping(i.get("figures")) for _, _, i in found], figure) for figure, _ in DRAWN]
        told = tuple(
            FaultLine(
                cell, durability(cell.entry, arm), next(recovery.rows({arm: [injection]})),
                tuple(drawings.spread(mapping(injection.get("figures")), figure, end) for (figure, _), end in zip(DRAWN, ends, strict=True)),
            )
            for cell, arm, injection in sorted(found, key=lambda f: (f[1] == "control", f[0].key.order()))
        )  # fmt: skip
        counted = tuple((target, word, n) for (target, word), n in sorted(evidence.get(name, {}).items()))
        out.append(
            FaultPage(
                name,
                file_name("fault", name),
                told,
                counted,
                len(where.get(name, set()) | {c.file for c, _, _ in found}),
            )
        )
    return out


# --- targets, runs


def _target_file(target: tuple[str, str]) -> str:
    return file_name("target", *target)


def _target(page: _Page, model: Model, target: tuple[str, str]) -> Iterator[tuple[str, str]]:
    rows = model.rows_at[target]
    of = {what: [c for r in rows if r.what == what for c in r.cells] for what in ("claim", "case")}
    name = _target_file(target)
    titled = " ".join(target)
    for what, label in (("claim", f"{titled} promises"), ("case", f"{titled} protocol")):
        if of[what]:
            yield from _badge(f"{name}-{what}s", label, of[what])
    yield f"targets/{name}.html", page.fill(
        "site-target.html.j2", title=titled, target=target, name=name,
        groups={what: _by_group([r for r in rows if r.what == what]) for what in ("claim", "case")},
        counts={what: _count(cells) for what, cells in of.items()}, clusters=_clusters(model, target),
        others=[t for t in model.targets if t[0] == target[0] and t != target],
    )  # fmt: skip


def _count(cells: Sequence[Cell]) -> list[tuple[str, int]]:
    words = (*VERDICTS, *cases.SYMBOLS)
    said = [c.latest.verdict for c in cells]
    return [(w, said.count(w)) for w in words if w in said]


def _clusters(model: Model, target: tuple[str, str]) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """(topology, settings that differ from the default) of each cluster of the latest run that had one."""
    for run in reversed(model.runs):
        found = [
            (text(facts.get("topology")) or name, tuple((k, text(v)) for k, v in views.leaves(mapping(facts.get("settings")), "") if k))
            for name, facts in ((n, mapping(f)) for n, f in mapping(run.facts.get("brokers")).items())
            if (text(facts.get("broker")), text(facts.get("version"))) == target
        ]  # fmt: skip
        if found:
            return sorted(set(found))
    return []


@dataclass(frozen=True, slots=True)
class RunSummary:
    """counts: of the verdicts of this run.  previous: index of the run before it with cells in common, None without; common: how
    many they are."""

    run: RunInfo
    index: int
    counts: tuple[tuple[str, int], ...]
    targets: tuple[str, ...]
    host: str
    previous: int | None
    common: int


def _summaries(model: Model) -> list[RunSummary]:
    words: list[list[str]] = [[] for _ in model.runs]
    targets: list[set[tuple[str, str]]] = [set() for _ in model.runs]
    before: list[Counter[int]] = [Counter() for _ in model.runs]
    for cell in model.cells:
        last = None
        for result in cell.history:
            words[result.run].append(result.verdict)
            targets[result.run].add(cell.key.target)
            if last is not None:
                before[result.run][last] += 1
            last = result.run
    return [
        RunSummary(
            run=run, index=i, counts=tuple((w, words[i].count(w)) for w in (*VERDICTS, *cases.SYMBOLS) if w in words[i]),
            targets=tuple(" ".join(t) for t in model.targets if t in targets[i]), host=_host(run),
            previous=max(before[i], default=None), common=before[i][max(before[i])] if before[i] else 0,
        )
        for i, run in enumerate(model.runs)
    ]  # fmt: skip


def _host(run: RunInfo) -> str:
    host = mapping(run.facts.get("host"))
    return ", ".join(f"{text(host[k])} {word}" for k, word in (("cores", "cores"), ("memory_gib", "GiB")) if k in host)


# --- data for the differences, badges


def _data(model: Model, summaries: Sequence[RunSummary]) -> Iterator[tuple[str, str]]:
    """Cells by number, and what each run said of them: what the page of differences is made of."""
    yield "data/cells.js", chunk("cells", {
        "runs": [
            {"id": s.run.id, "started": s.run.started, "suites": s.run.suites, "previous": s.previous, "common": s.common} for s in summaries
        ],
        "targets": [list(t) for t in model.targets],
        "cells": [[*c.key.parts, c.file, c.group, c.kind] for c in model.cells],
    })  # fmt: skip
    yield "data/latest.js", chunk("latest", [[i, c.latest.run, *_said(c.latest)] for i, c in enumerate(model.cells)])
    by_run: dict[int, list[list[Any]]] = {i: [] for i in range(len(model.runs))}
    for i, cell in enumerate(model.cells):
        for result in cell.history:
            by_run[result.run].append([i, result.run, *_said(result)])
    for index, results in by_run.items():
        yield f"data/run-{index}.js", chunk(f"run-{index}", results)


def _said(result: Result) -> list[Any]:
    figures = [[f.name, f.unit, f.value, f.low, f.high, f.n] for f in result.figures]
    return [result.verdict, result.revision, figures]


def _badge(name: str, label: str, cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    made = badge(label, cells)
    yield f"badges/{name}.svg", made.as_svg()
    yield f"badges/{name}.json", made.as_json()


# --- what templates ask for


def _interval(result: Result) -> str:
    """The 95 % interval of a result's rate or ratio, as one writes it; nothing where there is none."""
    for figure in result.figures:
        if figure.name == "rate":
            return f"{figure.value:.0%} ({figure.low:.0%}–{figure.high:.0%})"
        if figure.name == "ratio":
            return f"{figure.value:.3g}× ({figure.low:.3g}–{figure.high:.3g})"
    return ""


def _figure_of(entry: Mapping[str, Any], arm: str) -> Markup:
    return svg.interval(mapping(entry.get(arm)), arm) if mapping(entry.get(arm)) else Markup("")


def _place(cell: Cell) -> str:
    """What tells cells of one row and target apart: variant, or settings where variants are the same."""
    return cell.key.variant or said(cell.settings)
