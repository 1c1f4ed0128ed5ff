"""``report/conformance.html``, the matrix of protocol cases by target, and a page per case and target in ``report/cases/``.

A page per case, and not one page for all: what was on the wire is long, and is read one case at a time. Each page stands
for itself: style and script are in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from brokerproof.render.folder import Json, Run, case_as_expected, items, mapping, number, read_object, read_run, text

PAGE = "conformance.html"
#: Verdict -> symbol. The word always stands beside it.
SYMBOLS: Mapping[str, str] = {
    "FAIL": "✘", "DEV": "δ", "CODE": "≠", "UNIMPL": "∅", "NONSTRICT": "~", "PASS": "✔", "INFO": "i", "SKIP": "–",
    "INCONCLUSIVE": "?", "HARNESS": "!",
}  # fmt: skip
MEANINGS: Sequence[tuple[str, str]] = (
    ("PASS", "as required"),
    ("NONSTRICT", "within every MUST, but not the SHOULD or the canonical reaction"),
    ("CODE", "the right reaction with the wrong reply code, no code, or in the wrong scope"),
    ("DEV", "differs from the specification, and the vendor says so in public"),
    ("UNIMPL", "refuses cleanly, in the protocol's own words for not supported"),
    ("INFO", "unspecified: recorded, never judged"),
    ("FAIL", "breaks a MUST, and the vendor does not say so"),
    ("SKIP", "does not apply to this version or target"),
    ("INCONCLUSIVE", "repeats disagree, or nothing came that can be judged"),
    ("HARNESS", "our own fault: container, proxy, deadline"),
)
LEVELS = ("MUST", "SHOULD", "MAY", "extension", "unspecified", "?")
#: What needs no second look.
QUIET = ("PASS", "INFO", "SKIP")


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict in the matrix. link: of its page, empty where there is none."""

    verdict: str
    link: str
    as_expected: bool
    drift: bool
    observed: str


@dataclass(frozen=True, slots=True)
class Row:
    """One case, variant and condition. marks: by column; None where it was not run."""

    id: str
    slug: str
    variant: str
    section: str
    level: str
    requirement: str
    marks: tuple[Mark | None, ...]

    @property
    def differs(self) -> bool:
        return len({m.verdict for m in self.marks if m is not None and m.verdict != "SKIP"}) > 1

    @property
    def quiet(self) -> bool:
        return all(m is None or m.verdict in QUIET for m in self.marks)


@dataclass(frozen=True, slots=True)
class Matrix:
    """columns: (product, version).  counts: per column, (verdict, how many)."""

    run: str
    columns: tuple[tuple[str, str], ...]
    sections: tuple[tuple[str, tuple[Row, ...]], ...]
    counts: tuple[tuple[tuple[str, int], ...], ...]
    gate: tuple[tuple[str, str], ...]

    @property
    def words(self) -> list[str]:
        return [w for w in SYMBOLS if any(w == word for count in self.counts for word, _ in count)]

    @property
    def rows(self) -> int:
        return sum(len(rows) for _, rows in self.sections)


def matrix(run: Run) -> Matrix:
    """Everything the matrix shows."""
    entries = [e for e in run.cases if text(e.get("case"))]
    columns = sorted(
        {(text(e.get("broker")), text(e.get("version"))) for e in entries}, key=lambda c: (c[0], _natural(c[1]))
    )
    grid: dict[tuple[str, str], dict[tuple[str, str], Json]] = {}
    for entry in entries:
        grid.setdefault((text(entry["case"]), text(entry.get("variant"))), {})[
            text(entry.get("broker")), text(entry.get("version"))
        ] = entry
    sections: dict[str, list[Row]] = {}
    for (case, variant), by in sorted(grid.items(), key=lambda item: (_natural(item[0][0]), item[0][1])):
        one = next(iter(by.values()))
        whole = case_file(run.path, one)
        row = Row(
            id=case, slug=text(one.get("slug")), variant=variant, section=text(one.get("section")) or case.partition(".")[0],
            level=text(one.get("level")), requirement=text(whole.get("requirement")),
            marks=tuple(_mark(run.path, by[c]) if c in by else None for c in columns),
        )  # fmt: skip
        sections.setdefault(row.section, []).append(row)
    return Matrix(
        run=run.name, columns=tuple(columns), sections=tuple((name, tuple(rows)) for name, rows in sections.items()),
        counts=tuple(_counts(entries, c) for c in columns),
        gate=tuple((text(mapping(g).get("target")), text(s)) for g in items(run.results.get("gate")) for s in items(mapping(g).get("says"))),
    )  # fmt: skip


def render(run: Path) -> list[Path]:
    """Writes all pages and returns their paths; none where the run has no case."""
    from brokerproof.render.html import templated

    read = read_run(run)
    if not read.cases:
        return []
    out = [run / "report" / PAGE]
    out[0].parent.mkdir(exist_ok=True)
    view = matrix(read)
    out[0].write_text(
        templated("matrix.html.j2", "scripts/cases.js", matrix=view, symbols=SYMBOLS, levels=LEVELS, meanings=MEANINGS),
        encoding="utf-8",
        newline="\n",
    )
    folder = run / "report" / "cases"
    folder.mkdir(exist_ok=True)
    for entry in read.cases:
        whole = case_file(run, entry)
        if not whole:
            continue
        page = folder / _page(entry)
        page.write_text(
            templated("case.html.j2", "", case=shown(entry, whole), frames=frames(whole), symbols=SYMBOLS, run=read.name, said=text),
            encoding="utf-8", newline="\n",
        )  # fmt: skip
        out.append(page)
    return out


def shown(entry: Json, whole: Json) -> Json:
    """What the page of a case needs, each value of the kind that the page expects, whatever the file holds."""
    both = {**entry, **whole}
    out: dict[str, Any] = {key: both.get(key, "") for key in _TEXTS}
    seen = {"behaviour": "", "ending": "", "scope": "", "code": None, "detail": ""}
    step = {"step": "", "t": "", "accepts": "", "verdict": "", "why": ""}
    axes = dict.fromkeys(("behaviour", "endings", "scopes", "codes"))
    out["as_expected"], out["drift"] = bool(both.get("as_expected")), bool(both.get("drift"))
    out["attempts"] = number(both.get("attempts")) or 1
    out["tags"], out["records"] = items(both.get("tags")), items(both.get("records"))
    out["recorded"] = mapping(both.get("recorded"))
    out["steps"] = [
        {**step, **s, "seen": {**seen, **mapping(s.get("seen"))}} for s in map(mapping, items(both.get("steps")))
    ]
    out["accepts"] = {
        name: {
            "says": table.get("says"),
            "lines": [{"verdict": "", **axes, **mapping(x)} for x in items(table.get("lines"))],
        }
        for name, table in ((n, mapping(t)) for n, t in mapping(both.get("accepts")).items())
    }
    for table in out["accepts"].values():
        for line in table["lines"]:
            line.update({axis: None if line[axis] is None else [text(v) for v in items(line[axis])] for axis in axes})
    out["says"] = [
        {"verdict": "", "text": "", "address": "", "version": "", **s} for s in map(mapping, items(both.get("says")))
    ]
    out["logs"] = {node: [text(line) for line in items(lines)] for node, lines in mapping(both.get("logs")).items()}
    return out


_TEXTS = (
    "case", "slug", "broker", "version", "variant", "condition", "verdict", "expected", "observed", "path", "requirement",
    "level", "reference", "took_s", "settings", "command", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of the wire log. hex: in groups of two octets, 16 octets a line.  after_end: after the first divergence."""

    t: str
    direction: str
    layer: str
    where: str
    decoded: str
    hex: tuple[str, ...]
    octets: str
    note: str


_ARROWS = {">": "→ sent", "<": "← received", "-": "·"}
#: Lines of hex that one entry shows.
_HEX_LINES = 16


def frames(whole: Json) -> list[Frame]:
    """The wire log, as a page shows it."""
    out = []
    for entry in map(mapping, items(whole.get("wire"))):
        raw = re.sub(r"[^0-9a-f]", "", text(entry.get("hex")))
        lines = [raw[i : i + 32] for i in range(0, len(raw), 32)]
        t = number(entry.get("t"))
        octets = number(entry.get("octets")) or 0
        channel = entry.get("chan")
        out.append(
            Frame(
                t="" if t is None else f"{t:.3f}", direction=_ARROWS.get(text(entry.get("dir")), "·"), layer=text(entry.get("layer")),
                where=" ".join(p for p in (text(entry.get("conn")), "" if channel is None else f"channel {text(channel)}") if p),
                decoded=text(entry.get("decoded")),
                hex=tuple(" ".join(line[i : i + 4] for i in range(0, len(line), 4)) for line in lines[:_HEX_LINES]),
                octets=f"{octets:.0f} octets" + (", cut here" if octets * 2 > len(raw) else "") if octets else "",
                note=text(entry.get("note")),
            )
        )  # fmt: skip
    return out


def _mark(run: Path, entry: Json) -> Mark:
    said = text(entry.get("verdict"))
    return Mark(
        verdict=said if said in SYMBOLS else "INCONCLUSIVE",
        link=f"cases/{quote(_page(entry))}" if case_file(run, entry) else "",
        as_expected=case_as_expected(entry),
        drift=bool(entry.get("drift")),
        observed=text(entry.get("observed"))[:300],
    )


def _page(entry: Json) -> str:
    """The name of its page: of what the names hold, only what every file system takes."""
    parts = (text(entry.get("broker")), text(entry.get("version")), text(entry.get("case")), text(entry.get("variant")))
    return re.sub(r"[^A-Za-z0-9.@_-]", "_", "-".join(p for p in parts if p)) + ".html"


def case_file(run: Path, entry: Json) -> Json:
    """What the case's own file says; nothing where it is missing, or its path leads elsewhere."""
    path = text(entry.get("path"))
    if not path or path.startswith(("/", "\\")) or ":" in path or ".." in path.split("/"):
        return {}
    return read_object(run / path)[0] or {}


def _counts(entries: Sequence[Json], column: tuple[str, str]) -> tuple[tuple[str, int], ...]:
    said = [text(e.get("verdict")) for e in entries if (text(e.get("broker")), text(e.get("version"))) == column]
    return tuple((word, said.count(word)) for word in SYMBOLS if word in said)


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
