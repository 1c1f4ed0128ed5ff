"""Lines of the nodes' logs beside a trial's timeline: those of its time, on its clock.

    trials/<id>/logs/<node>.log     each line as the engine has it: its UTC time, then what the node wrote
    trials/<id>/faults.json         "zero": the UTC time of the trial's second 0

A log may have a million lines. Kept are ``LINES_MAX``: errors and warnings first, then what is nearest to the begin or the end of a
fault; how many were left out is said. They are redacted, as in a bundle: a site is what one publishes.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokerproof.redacting import Redactor
from brokerproof.render.folder import Json, clean, number, read_object, text

LINES_MAX, CHARS_MAX = 400, 240
#: Marks on the drawing; a mark is the worst line of its stretch.
MARKS_MAX = 240
LEVELS = ("other", "warning", "error")
#: Of ``[warning] …``, ``WARN …``, ``level=error``, ``"level":"fatal"``, near the begin of a line.
_LEVEL = re.compile(r"\b(?:(error|fatal|critical|severe)|(warn(?:ing)?))\b", re.IGNORECASE)
_LEVEL_CHARS = 120
#: Before the load there is the start of the cluster, which is not what a trial is about.
_BEFORE_S, _AFTER_S = 1.0, 1.0
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z ")


@dataclass(frozen=True, slots=True)
class Line:
    """t_s: on the trial's clock.  level: index into ``LEVELS``."""

    t_s: float
    node: str
    level: int
    says: str


@dataclass(frozen=True, slots=True)
class LogLines:
    """lines: in the order of time.  left_out: how many more there are in its time."""

    lines: tuple[Line, ...]
    left_out: int

    def overview(self, end_s: float) -> dict[str, Any]:
        """What comes with the trial: (time, level) marks, and counts; the lines are read when somebody asks for them."""
        worst: dict[int, int] = {}
        wide = max(end_s, 1e-9) / MARKS_MAX
        for line in self.lines:
            at = int(max(0.0, min(line.t_s, end_s)) / wide)
            worst[at] = max(worst.get(at, 0), line.level)
        marks = [[round((at + 0.5) * wide, 4), level] for at, level in sorted(worst.items())]
        return {"marks": marks, "lines": len(self.lines), "left_out": self.left_out}

    def rows(self) -> list[list[Any]]:
        """(seconds, node, level, text) of each line."""
        return [[line.t_s, line.node, LEVELS[line.level], line.says] for line in self.lines]


def log_lines(trial: Path, end_s: float, faults: Sequence[Json], facts: Json) -> LogLines | None:
    """Of a trial's folder; None where it has no logs, or does not say when its second 0 was. end_s: of its timeline.  facts: of the
    run, whose settings may name a credential. Cost O(octets of the logs)."""
    zero = _zero(trial)
    if zero is None:
        return None
    found: list[Line] = []
    for file in sorted((trial / "logs").glob("*.log")):
        if file.is_symlink() or not file.is_file():
            continue
        found += _of(file, zero, end_s)
    if not found:
        return None
    edges = [t for fault in faults for key in ("injected_s", "healed_s") if (t := number(fault.get(key))) is not None]
    ranked = sorted(
        found, key=lambda line: (-line.level, min((abs(line.t_s - t) for t in edges), default=line.t_s), line.t_s)
    )
    kept = sorted(ranked[:LINES_MAX], key=lambda line: (line.t_s, line.node, line.says))
    return LogLines(tuple(_redacted(kept, facts)), len(found) - len(kept))


def _zero(trial: Path) -> datetime.datetime | None:
    said = text((read_object(trial / "faults.json")[0] or {}).get("zero"))
    try:
        zero = datetime.datetime.fromisoformat(said)
    except ValueError:
        return None
    return zero if zero.tzinfo is not None else None


def _of(file: Path, zero: datetime.datetime, end_s: float) -> Iterator[Line]:
    try:
        with file.open("rb") as lines:
            for raw in lines:
                match = _TIME.match(raw[:64])
                if match is None:
                    continue  # what is no line of the engine
                try:
                    second = datetime.datetime.fromisoformat(f"{match[1].decode()}+00:00")
                except ValueError:
                    continue
                t_s = (second - zero).total_seconds() + float(b"0." + (match[2] or b"0"))
                if not -_BEFORE_S <= t_s <= end_s + _AFTER_S:
                    continue
                says = raw[match.end() : match.end() + 4 * CHARS_MAX].decode("utf-8", "replace").rstrip()
                level = _LEVEL.search(says[:_LEVEL_CHARS])
                yield Line(round(t_s, 3), file.stem, 0 if level is None else 2 if level[1] else 1, says)
    except OSError:
        return  # a log that cannot be read says nothing


def _redacted(lines: Sequence[Line], facts: Json) -> Iterator[Line]:
    """Line by line, so that each keeps its place; what one of them gives away is taken out of all. Cut at last: a cut credential
    would be in no known form."""
    redactor = Redactor()
    redactor.learn(json.dumps(facts).encode("utf-8", "backslashreplace"))
    for line in lines:
        redactor.learn(line.says.encode("utf-8", "backslashreplace"))
    for line in lines:
        out, _ = redactor.redact(line.says.encode("utf-8", "backslashreplace"))
        says = str(clean(out.decode("utf-8", "replace")))
        yield Line(line.t_s, line.node, line.level, says if len(says) <= CHARS_MAX else f"{says[:CHARS_MAX]} …")
