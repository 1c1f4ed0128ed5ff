"""Many runs as one table of cells: claim or protocol case × variant × product × version × configuration.

A cell keeps what every run said of it, oldest first; its latest result is what the site shows. Nothing of it depends on
the order in which the runs were named, on where they lie, or on the clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from brokerproof.errors import UsageError
from brokerproof.render.cases import SYMBOLS
from brokerproof.render.folder import (
    Json,
    Run,
    as_expected,
    case_as_expected,
    items,
    mapping,
    number,
    read_run,
    section,
    text,
    verdict,
)  # fmt: skip
from brokerproof.site.figures import Figure, figures
from brokerproof.site.names import file_name, natural
from brokerproof.site.rejudged import rejudged_case, rejudged_claim
from brokerproof.site.settings import Pairs, durability, said

What = Literal["claim", "case"]
Standing = Literal["good", "open", "bad"]

_BAD_CASES = ("FAIL", "CODE", "DEV", "UNIMPL")


def standing(what: What, word: str) -> Standing:
    """Where a verdict stands in a history or a difference: kept, not kept, or neither said."""
    if what == "claim":
        return "good" if word == "HOLDS" else "bad" if word == "VIOLATED" else "open"
    return "bad" if word in _BAD_CASES else "good" if word in ("PASS", "NONSTRICT", "INFO") else "open"


@dataclass(frozen=True, slots=True)
class Key:
    """What makes two results results of one cell. configuration: the durability settings, or a case's condition."""

    what: What
    id: str
    variant: str
    product: str
    version: str
    configuration: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.what, self.id, self.variant, self.product, self.version, self.configuration)

    @property
    def target(self) -> tuple[str, str]:
        return self.product, self.version

    def order(self) -> tuple[object, ...]:
        names = (self.id, self.product, self.version, self.variant, self.configuration)
        return (self.what != "claim", *map(natural, names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run said. run: index into ``Model.runs``.  trials, shows: of the treatment; of a case its attempts and 0; where
    there are no trials, as many pairs (of a comparison) or cases (of a property) as ``of`` says.  control: (trials, shows), None
    without one."""

    run: int
    verdict: str
    expected: str
    as_expected: bool
    revision: str
    profile: str
    reason: str
    trials: int
    of: Literal["trials", "pairs", "cases"] = "trials"
    shows: int
    control: tuple[int, int] | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """history: oldest first, at least one.  entry: the latest run's, whole.  group: the claim's or case's section."""

    key: Key
    file: str
    group: str
    sentence: str
    kind: str
    source: str
    sharpens: str
    settings: Pairs
    history: tuple[Result, ...]
    entry: Json

    @property
    def latest(self) -> Result:
        return self.history[-1]

    @property
    def standing(self) -> Standing:
        return standing(self.key.what, self.latest.verdict)

    @property
    def changes(self) -> int:
        """How often the verdict changed from one run to the next."""
        words = [r.verdict for r in self.history]
        return sum(a != b for a, b in pairwise(words))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run. suites: version of the suites that it ran.  read: its folder's own files."""

    id: str
    file: str
    started: str
    suites: str
    facts: Json
    read: Run


@dataclass(frozen=True)
class Row:
    """One claim or case with its cells by target: a line of the matrix, and a page."""

    what: What
    id: str
    file: str
    group: str
    sentence: str
    kind: str
    source: str
    sharpens: str
    cells: tuple[Cell, ...]

    @property
    def differs(self) -> bool:
        """Whether targets, variants or configurations disagree; what does not apply somewhere is no disagreement."""
        return len({c.latest.verdict for c in self.cells} - {"UNSUPPORTED", "SKIP"}) > 1

    @cached_property
    def by_target(self) -> Mapping[tuple[str, str], tuple[Cell, ...]]:
        """Only those that it has cells on."""
        found: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.key.target, []).append(cell)
        return {target: tuple(cells) for target, cells in found.items()}

    def at(self, target: tuple[str, str]) -> tuple[Cell, ...]:
        return self.by_target.get(target, ())


@dataclass(frozen=True)
class Model:
    """runs: oldest first.  cells: in the order of ``Key.order``."""

    runs: tuple[RunInfo, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def targets(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted({c.key.target for c in self.cells}, key=lambda t: (t[0], natural(t[1]))))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        by: dict[tuple[What, str], list[Cell]] = {}
        for cell in self.cells:
            by.setdefault((cell.key.what, cell.key.id), []).append(cell)
        out = []
        for (what, id_), cells in by.items():
            newest = max(cells, key=lambda c: c.latest.run)
            out.append(
                Row(
                    what=what, id=id_, file=file_name(what, id_), group=newest.group, sentence=newest.sentence, kind=newest.kind,
                    source=newest.source, sharpens=newest.sharpens, cells=tuple(cells),
                )
            )  # fmt: skip
        return tuple(sorted(out, key=lambda r: (r.what != "claim", natural(r.group), natural(r.id))))

    @cached_property
    def by_what(self) -> Mapping[What, tuple[Row, ...]]:
        return {what: tuple(r for r in self.rows if r.what == what) for what in ("claim", "case")}

    def of(self, what: What) -> tuple[Row, ...]:
        return self.by_what[what]

    @cached_property
    def claims(self) -> Mapping[str, Row]:
        """By id."""
        return {row.id: row for row in self.of("claim")}

    @cached_property
    def sharpened(self) -> Mapping[str, tuple[Row, ...]]:
        """Id of a claim -> those that state it more exactly."""
        found: dict[str, list[Row]] = {}
        for row in self.of("claim"):
            if row.sharpens:
                found.setdefault(row.sharpens, []).append(row)
        return {id_: tuple(rows) for id_, rows in found.items()}

    @cached_property
    def rows_at(self) -> Mapping[tuple[str, str], tuple[Row, ...]]:
        """Target -> its rows, each with its cells there only."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            for target, cells in row.by_target.items():
                found.setdefault(target, []).append(replace(row, cells=cells))
        return {target: tuple(rows) for target, rows in found.items()}


def read(paths: Sequence[Path], expected: Path | None = None) -> Model:
    """The table of these run folders. expected: the folder of lines to hold results against, instead of what each run was
    expected to show on its day. Raises UsageError where one is no run folder, or none decided anything."""
    if not paths:
        raise UsageError("compare: no run folder was named; try `brokerproof compare runs/* --out site/`")
    runs, notes = _runs(paths)
    gathered: dict[Key, list[tuple[Result, Json]]] = {}
    for index, run in enumerate(runs):
        for key, result, entry in _results(index, run.read, expected):
            past = gathered.setdefault(key, [])
            if past and past[-1][0].run == index:
                notes.append(
                    f"run {run.id}: {' '.join(filter(None, key.parts[1:5]))} stands there twice; the last one counts"
                )
                past.pop()
            past.append((result, entry))
    if not gathered:
        raise UsageError(
            f"compare: {len(paths)} run folder{'s hold' if len(paths) > 1 else ' holds'} no decided cell; "
            "finish one with `brokerproof run` or `brokerproof conformance`, or fold a killed one with `brokerproof check RUN`"
        )
    cells = tuple(_cell(key, past) for key, past in sorted(gathered.items(), key=lambda item: item[0].order()))
    return Model(tuple(runs), cells, tuple(notes))


def _runs(paths: Sequence[Path]) -> tuple[list[RunInfo], list[str]]:
    """Runs by their start, each once, and what there is to say of those that were left out.

    A run is known by what it was started as, wherever its folder lies: a copy may be redacted, judged again, or hold less. Of several
    the one that was judged last is taken, and of those the fullest, in whatever order they are named.
    """
    found: dict[str, list[Run]] = {}
    notes: list[str] = []
    for path in paths:
        if not (path / "run.json").is_file():
            what = "does not exist" if not path.exists() else "holds no run.json"
            raise UsageError(f"compare: {str(path)!r} {what}; a run folder is what `brokerproof run` names at its end")
        run = read_run(path)
        if run.missing:
            notes.append(f"run {run.name} is left out: {'; '.join(run.missing)}")
        else:
            identity = [run.name, *(run.facts.get(name) for name in ("started", "seed", "command", "host"))]
            found.setdefault(_digest(identity), []).append(run)
    infos: dict[str, RunInfo] = {}
    for copies in found.values():
        if len(copies) > 1:
            notes.append(f"run {copies[0].name} was named {len(copies)} times, or has copies; it counts once")
        run = copies[0] if len(copies) == 1 else max(copies, key=_fullness)
        digest = _digest([run.facts, run.results])
        started = text(run.facts.get("started"))
        infos[digest] = RunInfo(
            run.name, file_name(run.name, digest), started, text(run.facts.get("suites")), run.facts, run
        )
    ordered = sorted(infos.items(), key=lambda item: (item[1].started, item[1].id, item[0]))
    return [info for _, info in ordered], sorted(notes)


def _digest(value: object) -> str:
    said = json.dumps(value, sort_keys=True).encode("utf-8", "backslashreplace")
    return hashlib.sha256(said).hexdigest()


def _fullness(run: Run) -> tuple[object, ...]:
    """What one copy of a run is taken before another for; nothing of it is of the place where it lies."""
    files = sorted((p.relative_to(run.path).as_posix(), p) for p in run.path.rglob("*") if p.is_file())
    contents = hashlib.sha256()
    for name, path in files:
        contents.update(f"{name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        if path.suffix == ".json":
            contents.update(path.read_bytes())
    return text(run.results.get("finished")), len(files), contents.hexdigest()


def _results(index: int, run: Run, expected: Path | None) -> Iterator[tuple[Key, Result, Json]]:
    for entry in run.claims:
        if not text(entry.get("claim")):
            continue
        if expected is not None:
            entry = rejudged_claim(entry, expected)
        treatment, control = mapping(entry.get("treatment")), mapping(entry.get("control"))
        n, unit = _counted(entry)
        key = _key("claim", text(entry["claim"]), entry, said(durability(entry)))
        yield key, Result(
            run=index, verdict=verdict(entry), expected=text(entry.get("expected")), as_expected=as_expected(entry),
            revision=text(entry.get("revision")), profile=text(entry.get("profile")), reason=text(entry.get("reason")),
            trials=n, of=unit, shows=_count(treatment.get("violated")),
            control=(_count(control.get("trials")), _count(control.get("violated"))) if control else None,
            figures=figures(entry),
        ), entry  # fmt: skip
    for entry in run.cases:
        if not text(entry.get("case")):
            continue
        if expected is not None:
            entry = rejudged_case(entry, expected)
        word = text(entry.get("verdict"))
        key = _key("case", text(entry["case"]), entry, text(entry.get("condition")))
        yield key, Result(
            run=index, verdict=word if word in SYMBOLS else "INCONCLUSIVE", expected=text(entry.get("expected")),
            as_expected=case_as_expected(entry), revision=text(entry.get("revision")), profile="",
            reason=text(entry.get("observed")), trials=_count(entry.get("attempts")) or 1, shows=0, control=None, figures=(),
        ), entry  # fmt: skip


def _key(what: What, id_: str, entry: Json, configuration: str) -> Key:
    variant, product, version = (text(entry.get(name)) for name in ("variant", "broker", "version"))
    return Key(what, id_, variant, product, version, configuration)


def _cell(key: Key, past: Sequence[tuple[Result, Json]]) -> Cell:
    entry = past[-1][1]
    is_claim = key.what == "claim"
    return Cell(
        key=key, file=file_name(*key.parts), history=tuple(result for result, _ in past), entry=entry,
        group=section(entry) if is_claim else text(entry.get("section")) or key.id.partition(".")[0],
        sentence=text(entry.get("sentence")) if is_claim else text(entry.get("slug")),
        kind=text(entry.get("kind")) if is_claim else text(entry.get("level")),
        source=text(entry.get("source")), sharpens=text(entry.get("sharpens")),
        settings=durability(entry) if is_claim else tuple((("through", key.configuration),) if key.configuration else ()),
    )  # fmt: skip


def _count(value: object) -> int:
    n = number(value)
    return int(n) if n is not None else 0


def _counted(entry: Json) -> tuple[int, Literal["trials", "pairs", "cases"]]:
    """How many, and of what, a verdict was made of."""
    if n := _count(mapping(entry.get("treatment")).get("trials")):
        return n, "trials"
    if n := _count(mapping(entry.get("comparison")).get("pairs")):
        return n, "pairs"
    n = _count(mapping(entry.get("property")).get("cases"))
    return n, "cases" if n else "trials"


def injections(cell: Cell) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(arm, injection with its figures) of the latest entry's recovery."""
    for arm, found in mapping(cell.entry.get("recovery")).items():
        for injection in map(mapping, items(found)):
            yield text(arm), injection
