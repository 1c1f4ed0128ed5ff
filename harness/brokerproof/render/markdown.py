"""``summary.md``: the verdict matrix and what was not expected, short enough for the summary of a CI job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from brokerproof.render import recovery
from brokerproof.render.folder import (
    Json,
    Run,
    as_expected,
    case_as_expected,
    error_of,
    items,
    mapping,
    read_run,
    text,
    verdict,
    where,
)

SYMBOL = {"HOLDS": "✓", "VIOLATED": "✗", "UNKNOWN": "?", "UNSUPPORTED": "–"}


def render(run: Path) -> Path:
    """Writes the file and returns its path."""
    out = run / "summary.md"
    out.write_text("\n".join(lines(read_run(run))) + "\n", encoding="utf-8", newline="\n")
    return out


def lines(run: Run) -> Iterator[str]:
    """The document, line by line."""
    unexpected = [entry for entry in run.claims if not as_expected(entry)]
    yield f"# brokerproof: {escape(run.name)}"
    yield ""
    said = f"{len(run.claims)} verdicts, {len(unexpected)} not as expected"
    if run.cases and not run.claims:
        said = f"{len(run.cases)} protocol cases, {sum(not case_as_expected(e) for e in run.cases)} not as expected"
    facts = (("seed", run.results.get("seed", run.facts.get("seed"))), ("profile", run.facts.get("profile")))
    known = [f"{name} {escape(text(value))}" for name, value in facts if value not in (None, "")]
    yield "; ".join([said, *known]) + "."
    for reason in run.alerts:
        yield f"\n**{escape(reason)}**"
    if run.claims:
        yield ""
        yield from _matrix(run.claims)
    if unexpected:
        yield from ("", "## Not as expected", "")
        for entry in unexpected:
            yield from _unexpected(entry)
    yield from _anomalies(run.claims)
    yield from _measured(run.claims)
    yield from _conformance(run)
    if run.errors:
        yield from ("", "## Harness errors", "")
        for at, what in map(error_of, run.errors):
            yield f"- {escape(at)}{': ' if at else ''}{escape(what)}"


def escape(value: str) -> str:
    """Text that markdown and the HTML in it leave as it is, in one line, safe in a table's cell."""
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\s+", " ", re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", value)).strip()


def _matrix(claims: Sequence[Json]) -> Iterator[str]:
    columns = sorted({(text(e.get("broker")), text(e.get("version"))) for e in claims})
    yield "| claim | " + " | ".join(escape(f"{broker} {version}") for broker, version in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for claim in dict.fromkeys(text(e.get("claim")) for e in claims):
        row = []
        for column in columns:
            here = [e for e in claims if text(e.get("claim")) == claim]
            here = [e for e in here if (text(e.get("broker")), text(e.get("version"))) == column]
            row.append("<br>".join(map(_chip, here)))
        yield f"| {escape(claim)} | " + " | ".join(row) + " |"


def _chip(entry: Json) -> str:
    said = verdict(entry)
    variant = text(entry.get("variant"))
    out = f"{SYMBOL[said]} {said}" if as_expected(entry) else f"**{SYMBOL[said]} {said} (unexpected)**"
    return out + (f" {escape(variant)}" if variant else "")


def _unexpected(entry: Json) -> Iterator[str]:
    expected = escape(text(entry.get("expected")) or "nothing")
    claim = escape(text(entry.get("claim")))
    yield f"- **{claim}** on {escape(where(entry))}: {verdict(entry)}, expected {expected}"
    if entry.get("reason"):
        yield f"  - {escape(text(entry.get('reason')))}"
    command = re.sub(r"\s+", " ", text(entry.get("command"))).strip()
    if command:
        # A fence longer than any run of backticks inside it; the blanks keep one at an end apart.
        fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", command)), default=0))
        pad = " " if "`" in command else ""
        yield f"  - repeat: {fence}{pad}{command}{pad}{fence}"


def _anomalies(claims: Sequence[Json]) -> Iterator[str]:
    """What treatments showed, and whether their configuration promises that it does not happen."""
    rows = [
        (text(e.get("claim")), where(e), f"{text(a.get('count'))} {text(a.get('anomaly'))}", text(a.get("word")),
         text(a.get("because")), text(a.get("source")))
        for e in claims
        for a in map(mapping, items(mapping(e.get("promises")).get("treatment")))
    ]  # fmt: skip
    if rows:
        yield from ("", "## Anomalies, and what the configuration promises", "")
        yield from ("| claim | target | anomalies | word | because | source |", "|---|---|---|---|---|---|")
    for row in rows:
        yield "| " + " | ".join(map(escape, row)) + " |"


def _measured(claims: Sequence[Json]) -> Iterator[str]:
    """Fault by broker: whether it took effect, and what it cost."""
    rows = list(recovery.measured(claims))
    if rows:
        heads = ("fault", "target", "evidence", *(name for name, _, _ in recovery.COLUMNS))
        yield from ("", "## What faults cost", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for row in rows:
        yield "| " + " | ".join(map(escape, row)) + " |"


def _conformance(run: Run) -> Iterator[str]:
    if not run.cases:
        return
    odd = [e for e in run.cases if not case_as_expected(e)]
    yield from ("", "## Conformance", "", f"{len(run.cases)} cases, {len(odd)} not as expected.")
    if odd:
        yield from ("", "| case | target | verdict | expected | observed |", "|---|---|---|---|---|")
    for e in odd:
        case = f"{text(e.get('case'))} {text(e.get('slug'))}"
        cells = (case, where(e), text(e.get("verdict")), text(e.get("expected")), text(e.get("observed")))
        yield "| " + " | ".join(map(escape, cells)) + " |"
