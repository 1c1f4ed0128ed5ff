"""Reads a finished run folder for the renderers, which trust nothing in it.

A file that is not there or cannot be read becomes a sentence in ``missing``, never an exception: a report on half a run
is what one needs after a crash. All text passes ``clean``: brokers and users write what stands in these files, so
control characters, lone surrogates and bidirectional overrides are made visible before any renderer sees them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokerproof.finding import Finding
from brokerproof.results import interruption

Json = Mapping[str, Any]
ARMS = ("treatment", "control", "sham")
VERDICTS = ("HOLDS", "VIOLATED", "UNKNOWN", "UNSUPPORTED")
#: Lines of errors.jsonl and names of log files that a report repeats; the rest is behind the link.
ERRORS_MAX, LOGS_MAX = 20, 40

# What XML 1.0 forbids (but tab and line feed), C1 controls, and characters that turn the reading direction.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(value: Any) -> Any:
    """The same JSON value, with every unseen character of its texts and keys written out, as in ``\\x1b``."""
    if isinstance(value, str):
        return _UNSEEN.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", value)
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def number(value: Any) -> float | None:
    """value as a finite number, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def text(value: Any) -> str:
    """value as one writes it in a sentence: nothing for None, JSON for what has parts."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def figure(value: float) -> str:
    """To three significant digits, from a thousand on whole: more of them is noise."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def measured(value: Any) -> str:
    """What was measured as one writes it, each of several; anything else as ``text``."""
    if isinstance(value, list) and value and all(number(v) is not None for v in value):
        return ", ".join(map(measured, value))
    n = number(value)
    return figure(n) if isinstance(value, float) and n is not None else text(value)


def mapping(value: Any) -> Json:
    """value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """value if it is a list, else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One folder of ``trials/``. faults, finding: None where the file is missing; ``missing`` then says why.

    files: paths inside the trial's folder that are there, to link to.  places: message number -> node -> where; empty
    where it was not looked for.
    """

    id: str
    arm: str
    faults: tuple[Json, ...] | None = None
    finding: Finding | None = None
    errors: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    places: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder's own files. claims, cases: the entries of ``results.json`` that are JSON objects."""

    path: Path
    facts: Json
    results: Json
    claims: tuple[Json, ...]
    cases: tuple[Json, ...]
    errors: tuple[Any, ...]
    missing: tuple[str, ...]

    @property
    def alerts(self) -> tuple[str, ...]:
        """What a reader has to know before all else: files that are missing, an end before the end."""
        cut = interruption(self.results)
        return (*self.missing, cut) if cut else self.missing

    @property
    def name(self) -> str:
        return text(self.results.get("run")) or text(self.facts.get("run")) or text(clean(self.path.resolve().name))


def read_run(path: Path) -> Run:
    """run.json and results.json of this folder."""
    facts, no_facts = read_object(path / "run.json")
    results, no_results = read_object(path / "results.json")
    return Run(
        path=path,
        facts=facts or {},
        results=results or {},
        claims=tuple(entry for entry in items((results or {}).get("claims")) if isinstance(entry, Mapping)),
        cases=tuple(entry for entry in items((results or {}).get("cases")) if isinstance(entry, Mapping)),
        errors=tuple(items((results or {}).get("errors"))),
        missing=tuple(reason for reason in (no_facts, no_results) if reason),
    )


def read_trial(run: Path, trial: Any, arm: str) -> Trial:
    """One trial's files. An id that is not one plain folder name is not followed."""
    name = text(clean(trial))
    if not isinstance(trial, str) or not trial or trial in (".", "..") or any(c in trial for c in "/\\\0"):
        return Trial(id=name, arm=arm, missing=(f"trial id {name!r} is not a folder name",))
    folder = run / "trials" / trial
    try:
        there = folder.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        return Trial(id=name, arm=arm, missing=("the trial's folder is missing",))
    faults, no_faults = read_object(folder / "faults.json")
    raw, no_finding = read_object(folder / "findings.json")
    finding = None
    if raw is not None:
        try:
            finding = Finding.from_json(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            no_finding = f"findings.json is not a finding: {type(exc).__name__} {exc}"
    return Trial(
        id=name,
        arm=arm,
        faults=None if faults is None else tuple(map(mapping, items(faults.get("injections")))),
        finding=finding,
        errors=_errors(folder / "errors.jsonl"),
        files=_files(folder),
        missing=tuple(reason for reason in (no_faults, no_finding) if reason),
        places=mapping((read_object(folder / "places.json")[0] or {}).get("messages")),
    )


def verdict(entry: Json) -> str:
    """One of the four words; what is none of them is not known."""
    said = text(entry.get("verdict"))
    return said if said in VERDICTS else "UNKNOWN"


def as_expected(entry: Json) -> bool:
    """As ``results.json`` says, or else the comparison it stands for; UNKNOWN never is."""
    if verdict(entry) == "UNKNOWN":
        return False
    said = entry.get("as_expected")
    # No expectation is written for what a broker declares that it does not have.
    return said if isinstance(said, bool) else verdict(entry) in ("UNSUPPORTED", entry.get("expected"))


def case_as_expected(entry: Json) -> bool:
    """As ``results.json`` says, or else the comparison it stands for."""
    said = entry.get("as_expected")
    return said if isinstance(said, bool) else entry.get("verdict") == entry.get("expected")


def section(entry: Json) -> str:
    """The claim's section, as ``Claim.section`` says it."""
    return text(entry.get("claim")).split("/", 1)[0]


def where(entry: Json) -> str:
    """Broker, version and variant in one line."""
    return " ".join(part for part in (text(entry.get(key)) for key in ("broker", "version", "variant")) if part)


def error_of(entry: Any) -> tuple[str, str]:
    """(where, what) of one harness error, which may be a sentence or an object."""
    if not isinstance(entry, Mapping):
        return "", text(entry)
    at = next((text(entry[key]) for key in ("cell", "claim", "trial", "where") if entry.get(key)), "")
    what = next((text(entry[key]) for key in ("message", "error", "reason", "text") if entry.get(key)), "")
    return at, what or text(dict(entry))


def read_object(path: Path) -> tuple[Json | None, str]:
    """(the JSON object, cleaned, "") or (None, a sentence)."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None, f"{path.name} is missing"
    except (OSError, ValueError, RecursionError) as exc:
        return None, clean(f"{path.name} cannot be read: {type(exc).__name__}")
    if not isinstance(data, dict):
        return None, f"{path.name} is not a JSON object"
    cleaned: Json = clean(data)
    return cleaned, ""


def _errors(path: Path) -> tuple[str, ...]:
    out: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if len(out) == ERRORS_MAX:
                    break
                if line.strip():
                    out.append(text(clean(line.strip()))[:400])
    except OSError:
        pass  # no file: no client said anything
    return tuple(out)


def _files(folder: Path) -> tuple[str, ...]:
    names = ("plan.json", "history.arrow", "faults.json", "findings.json", "places.json", "errors.jsonl")
    out = [name for name in names if (folder / name).is_file()]
    logs = sorted(p.relative_to(folder).as_posix() for p in (folder / "logs").rglob("*") if p.is_file())
    return tuple(out + logs[:LOGS_MAX])
