"""``brokerproof check DIR``: judges one history, and prints every anomaly and observation."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from brokerproof.checkers.base import check
from brokerproof.errors import UsageError
from brokerproof.finding import Finding
from brokerproof.history import read_history
from brokerproof.results import problems_of

#: What ``--json`` prints of a finding; the rest is in ``findings.json`` of a run.
_BRIEF = ("operations", "anomalies", "observations", "missing")
_SIZE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) *(?P<unit>[KMGT]i?B)", re.IGNORECASE)
_UNITS = {f"{c}{i}b": (1024 if i else 1000) ** n for n, c in enumerate("kmgt", 1) for i in ("", "i")}


def memory_bytes(size: str) -> int:
    """Bytes of "1GiB", "512MiB", "2 GB". Raises UsageError."""
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise UsageError(f"memory limit {size!r}: expected a number and a unit, e.g. 1GiB or 512MiB")
    return int(float(match["number"]) * _UNITS[match["unit"].lower()])


def check_folder(path: Path, *, as_json: bool, memory_limit: str = "") -> int:
    """Checks the history in a folder, or a history file. Exit code: 0 clean, 1 anomalies, 3 evidence missing.

    memory_limit: as in "1GiB"; a history that would take more is judged in parts. Empty: no limit.
    A trial whose recorder was killed is salvaged first.
    Raises HistoryError where nothing can be read.
    """
    limit = memory_bytes(memory_limit) if memory_limit else None
    if (path / "tape").is_dir():
        from brokerproof.recorder import rescue

        rescue(path)
    history = read_history(path / "history.arrow" if path.is_dir() else path)
    if limit is None:
        finding = check(history, drawn=False)
    else:
        from brokerproof.checkers.bounded import check_within

        finding = check_within(history, limit, note=lambda what: print(f"brokerproof: {what}", file=sys.stderr))
    problems = problems_of(path)
    if problems:
        finding = replace(finding, missing=(*finding.missing, *problems))
    if as_json:
        print(json.dumps({key: value for key, value in finding.to_json().items() if key in _BRIEF}))
    else:
        _print_table(finding)
    if any(count.count for count in finding.anomalies.values()):
        return 1
    return 3 if finding.missing or finding.observations["undrained"].count else 0


def _print_table(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{finding.operations:,} operations", title_justify="left")
    for column in ("class", "kind", "count", "first messages"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for kind, classes in (("anomaly", finding.anomalies), ("observation", finding.observations)):
        for key, count in classes.items():
            style = "bold red" if kind == "anomaly" and count.count else "" if count.count else "dim"
            first = ", ".join(map(str, count.messages[:5])) + (" …" if count.count > 5 else "")
            table.add_row(key, kind, f"{count.count:,}", first, style=style)
    console = Console()
    console.print(table)
    for sentence in finding.missing:
        console.print(f"evidence missing: {sentence}", style="yellow", highlight=False, markup=False)
