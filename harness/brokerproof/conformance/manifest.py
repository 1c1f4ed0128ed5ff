"""What cases are expected to show on a target: the ``[[case]]`` lines of ``suites/expected/<product>-<version>.toml``.

    [conformance]
    cases = 164                       # how many (case, variant, condition) the suites have for this target

    [[case]]
    case = "A7.06"                    # or "A2.13@slicer"
    variant = ""                      # "*": all
    verdict = "UNIMPL"
    reason = "what was measured, and why it is so"
    address = "where the vendor says so, if anywhere"
    since = "0.1.0"                   # version of the suites, or until = …; both optional

Without a line a judged case is expected to PASS and a recorded one to be INFO. NONSTRICT needs a line only with ``strict``.
SKIP is declared by the case itself. INCONCLUSIVE and HARNESS are never expected.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from brokerproof import __version__
from brokerproof.conformance.case import NO_JUDGEMENT, Case, Verdict
from brokerproof.errors import UsageError, unreadable
from brokerproof.expected import tables

_KEYS = {"case", "variant", "verdict", "reason", "address", "since", "until"}
#: What a line means that does not say it.
DEFAULTS = {"variant": "*", "address": "", "since": "", "until": ""}
_WORDS = tuple(v for v in get_args(Verdict) if v not in ("INCONCLUSIVE", "HARNESS"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The lines that are in force for this version of the suites. count: None where the file names none."""

    lines: tuple[Mapping[str, str], ...]
    count: int | None

    def line(self, case: str, variant: str) -> Mapping[str, str] | None:
        """The first that matches; case: with its condition, ``A2.13@slicer``."""
        return next((x for x in self.lines if x["case"] == case and x["variant"] in ("*", variant)), None)


@dataclass(frozen=True, slots=True)
class Judgement:
    """expected: the word.  listed: whether a line says so.  as_expected: whether the gate is content."""

    expected: Verdict
    reason: str
    listed: bool
    as_expected: bool


def gate(
    manifest: Manifest, case: Case, name: str, variant: str, verdict: Verdict, *, strict: bool = False
) -> Judgement:
    """Whether a verdict is the expected one: a new failure and an unexpected pass are not. name: id with condition."""
    line = manifest.line(name, variant)
    if line is not None:
        word: Verdict = line["verdict"]  # type: ignore[assignment]  # checked when the file was read
        return Judgement(word, line["reason"], True, verdict == word)
    word = "PASS" if case.accepts else "INFO"
    fine = verdict == word or verdict == "SKIP" or (verdict == "NONSTRICT" and not strict)
    return Judgement(word, "", False, fine and verdict not in NO_JUDGEMENT[1:])


def stale(manifest: Manifest, known: Collection[tuple[str, str]], *, whole: bool) -> list[str]:
    """What is wrong with the manifest itself: a line about a case that the suites do not have for this target, a changed
    number of cases. known: (case with condition, variant).  whole: whether ``known`` is all there is."""
    ids = {id for id, _ in known}
    out = []
    for line in manifest.lines if whole else ():
        if line["case"] not in ids or (line["variant"] != "*" and (line["case"], line["variant"]) not in known):
            out.append(f"stale line: the suites have no case {line['case']} {line['variant']}".rstrip())
    if whole and manifest.count is not None and manifest.count != len(known):
        out.append(f"the suites have {len(known)} cases for this target, and the manifest says {manifest.count}")
    return out


def manifest(folder: Path, product: str, version: str) -> Manifest:
    """The target's manifest; no line where there is no file. Raises UsageError for one that cannot be read as such."""
    return manifest_in(folder / f"{product}-{version}.toml")


@lru_cache(maxsize=32)
def manifest_in(file: Path) -> Manifest:
    """The same of a file by whatever name."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Manifest((), None)
    except (OSError, ValueError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise unreadable("expected results", file, exc) from exc
    about = data.get("conformance", {})
    count = about.get("cases") if isinstance(about, dict) else about
    if count is not None and type(count) is not int:
        raise UsageError(f"{str(file)!r}: [conformance] may have cases, a number; has {about!r}")
    return Manifest(tuple(_lines(file, tables(file, data, "case"))), count)


def _lines(file: Path, entries: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, str]]:
    for i, entry in enumerate(entries):
        line = {**DEFAULTS, **entry}
        if (
            set(line) != _KEYS
            or not all(isinstance(value, str) for value in line.values())
            or line["verdict"] not in _WORDS
            or not line["reason"]
        ):
            raise UsageError(
                f"{str(file)!r}, case {i + 1}: needs case, verdict ({', '.join(_WORDS)}) and a measured reason, may have "
                f"variant, address, since and until; has {dict(entry)}"
            )
        if (line["since"] and _numbers(line["since"]) > _numbers(__version__)) or (
            line["until"] and _numbers(line["until"]) <= _numbers(__version__)
        ):
            continue
        yield line


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
