"""What a terminal shows of a run: progress while it goes, the verdict table at its end. Computes nothing new."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from brokerproof.render import recovery
from brokerproof.results import RunFolder, expectation, interruption, matrix, unexpected

#: More than any table of ours takes.
_LOG_COLUMNS = 1000

#: Word -> (symbol, style). The word always stands beside the colour.
LOOK: Mapping[str, tuple[str, str]] = {
    "HOLDS": ("✔", "green"),
    "VIOLATED": ("✘", "red"),
    "UNKNOWN": ("?", "yellow"),
    "UNSUPPORTED": ("–", "dim"),
    # Of protocol cases.
    "PASS": ("✔", "green"),
    "NONSTRICT": ("~", "green"),
    "INFO": ("i", "cyan"),
    "CODE": ("≠", "yellow"),
    "DEV": ("δ", "yellow"),
    "UNIMPL": ("∅", "yellow"),
    "FAIL": ("✘", "red"),
    "SKIP": ("–", "dim"),
    "INCONCLUSIVE": ("?", "yellow"),
    "HARNESS": ("!", "bold red"),
}


def console(file: IO[str] | None = None) -> Console:
    """What is printed on. A log has no width: there a table is as wide as its words, and nothing in it is folded."""
    made = Console(file=file)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _LOG_COLUMNS
    return made


def say(on: Console, text: str, style: str = "") -> None:
    """A line as it is. Never folded: a command or a path in it can be copied whole."""
    on.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class Watch:
    """Follows ``progress.jsonl`` of a run: a line per verdict, and what each worker is at right now.

    On a terminal the workers' lines are live; elsewhere (CI) every step is a line of its own.
    """

    def __init__(self, console: Console, folder: RunFolder) -> None:
        self._console = console
        self._file = folder.path / "progress.jsonl"
        self._start = time.time()
        self._stop = threading.Event()
        self._at: dict[int, tuple[float, str, str]] = {}
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> None:
        offset = 0
        while True:
            last = self._stop.is_set()
            offset = self._take(offset)
            if self._live is not None:
                self._live.update(self._now())
            if last:
                return
            self._stop.wait(0.25)

    def _take(self, offset: int) -> int:
        try:
            with self._file.open() as file:
                file.seek(offset)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n"):
                        break
                    offset = file.tell()
                    self._one(json.loads(line))
        except FileNotFoundError:
            pass
        return offset

    def _one(self, said: Mapping[str, Any]) -> None:
        cell, what, at = str(said["cell"]), str(said["what"]), float(said["t"])
        self._at[int(said["pid"])] = (at, cell, what)
        word = what.split(":", 1)[0]
        if word in LOOK:
            symbol, style = LOOK[word]
            line = Text(f"{at - self._start:6.1f} s  ").append(f"{symbol} {word:<11}", style=f"bold {style}")
            self._console.print(line.append(f" {cell}"), highlight=False, soft_wrap=True)
        elif what.startswith("harness error") or self._live is None:
            say(self._console, f"{at - self._start:6.1f} s    {cell}: {what}")

    def _now(self) -> Group:
        lines = [Text(f"{time.time() - self._start:6.1f} s", style="bold")]
        for at, cell, what in self._at.values():
            lines.append(
                Text(f"          ▸ {cell}: {what} ", style="cyan").append(f"{time.time() - at:.0f} s", style="dim")
            )
        return Group(*lines)


def verdict_table(results: Mapping[str, Any]) -> Table:
    """Claims down, brokers across; a variant in brackets, an unexpected verdict with an exclamation mark."""
    claims, brokers, cells = matrix(results)
    table = Table(title=f"verdicts of run {results['run']}", title_justify="left", show_lines=False)
    table.add_column("claim", overflow="fold")
    for broker in brokers:
        table.add_column(broker)
    for claim in claims:
        row: list[Text] = []
        for broker in brokers:
            text = Text()
            for entry in cells.get((claim, broker), ()):
                symbol, style = LOOK[entry["verdict"]]
                if text:
                    text.append("\n")
                text.append(f"{symbol} {entry['verdict']}", style=style)
                if entry["variant"]:
                    text.append(f" ({entry['variant']})", style="dim")
                if not entry["as_expected"]:
                    text.append(f" ! expected {entry['expected']}", style="bold red")
            row.append(text or Text("·", style="dim"))
        table.add_row(claim, *row)
    return table


def cost_table(results: Mapping[str, Any]) -> Table | None:
    """Fault by broker: evidence and figures of the measurements; None where there are none."""
    rows = list(recovery.measured(results["claims"]))
    if not rows:
        return None
    table = Table(title="what faults cost (medians; more in summary.md)", title_justify="left")
    headings = ("fault", "target", "evidence", *(heading for heading, _, _ in recovery.COLUMNS))
    # What fits a terminal.
    shown = [
        n for n, heading in enumerate(headings) if not heading.startswith(("lost over", "p", "back: last", "twice"))
    ]
    for n in shown:
        table.add_column(headings[n], overflow="fold")
    for row in rows:
        table.add_row(*(row[n] for n in shown), style="" if row[2] == "took effect" else "bold red")
    return table


def case_table(results: Mapping[str, Any]) -> Table:
    """Verdict by target: how many cases of each level."""
    levels = ["MUST", "SHOULD", "MAY", "extension", "unspecified", "?"]
    table = Table(title=f"protocol cases of run {results['run']}", title_justify="left")
    table.add_column("target")
    table.add_column("verdict")
    for level in levels:
        table.add_column(level, justify="right")
    table.add_column("all", justify="right")
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for entry in results["cases"]:
        row = counted.setdefault((f"{entry['broker']} {entry['version']}", entry["verdict"]), {})
        row[entry["level"]] = row.get(entry["level"], 0) + 1
    words = list(LOOK)
    last = ""
    for target, word in sorted(counted, key=lambda key: (key[0], words.index(key[1]))):
        row = counted[target, word]
        symbol, style = LOOK[word]
        table.add_row(
            target if target != last else "", Text(f"{symbol} {word}", style=style),
            *(str(row.get(level, "")) for level in levels), str(sum(row.values())),
        )  # fmt: skip
        last = target
    return table


def _on(entry: Mapping[str, Any]) -> str:
    return " ".join(word for word in (entry["broker"], entry["version"], entry["variant"]) if word)


def _print_cases(on: Console, results: Mapping[str, Any]) -> None:
    """The table, then every verdict that is not the expected one."""
    on.print(case_table(results))
    for entry in unexpected(results["cases"]):
        on.print(
            f"\n[bold]{entry['case']}[/] {entry['slug']} on {_on(entry)}: "
            f"{entry['verdict']}, {expectation(entry)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        say(on, f"  {entry['observed'][:600]}")
    for said in results.get("gate", ()):
        for sentence in said["says"]:
            say(on, f"\nexpected results of {said['target']}: {sentence}", "red")


def print_results(on: Console, results: Mapping[str, Any], folder: Path, files: Mapping[str, Path]) -> None:
    """The table, then every unexpected verdict with its reason and the command to repeat it, then where things lie.

    folder: the run's, as its reader would name it. files: what was written -> where.
    """
    on.print()
    if results["claims"] or not results["cases"]:
        on.print(verdict_table(results))
    if results["cases"]:
        _print_cases(on, results)
    costs = cost_table(results)
    if costs is not None:
        on.print()
        on.print(costs)
    if known := [e["claim"] for e in results["claims"] if e["verdict"] == "VIOLATED" and e["as_expected"]]:
        one = "as stated it is" if len(known) == 1 else "as stated they are"
        say(
            on,
            f"\nviolated, as was expected: {', '.join(dict.fromkeys(known))} ({one} known not to hold there; the report says why)",
        )
    for entry in unexpected(results["claims"]):
        on.print(
            f"\n[bold]{entry['claim']}[/] on {_on(entry)}: "
            f"{entry['verdict']}, {expectation(entry)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        say(on, f"  {entry['reason']}")
        for said in (entry.get("promises") or {}).get("treatment", ()):
            say(
                on,
                f"  {said['count']} {said['anomaly']}: {said['word'] or 'not in the promise table'}, {said['because']}",
            )
        say(on, f"  again: {entry['command']}")
    ill = dict.fromkeys(said for entry in results["claims"] for said in entry.get("unrecovered", ()))
    for said in ill:
        say(on, f"\nfound besides: {said}")
    for error in results["errors"]:
        say(on, f"\nharness error in {error['where']}: {error['error']}", "red")
    if cut := interruption(results, folder):
        say(on, f"\n{cut}", "red")
    on.print()
    for what, file in files.items():
        say(on, f"{what:<8} {file}")
