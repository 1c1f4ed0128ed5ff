"""What cells are expected to show: ``suites/expected/<product>-<version>.toml``, each line with its measured reason.

    [[cell]]
    claim = "dup/broker-inner-id"
    variant = ""                      # "*" any but those under a schedule (``under-<name>``), which are named in full
    profile = "*"
    verdict = "VIOLATED"
    reason = "what was measured, and when"

A cell without a line is expected to hold (a hazard: to show) and is marked ``unlisted``. UNKNOWN is never expected; what was
asked for in full and could not be told, and why, is written down for readers, and no run is measured by it:

    [[undecided]]
    claim = "dup/primary-key-slow--mark"
    variant = "seen-id"
    reason = "what was measured, and when"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from brokerproof.errors import UsageError, unreadable
from brokerproof.experiment import UNDER

_WORDS = ("HOLDS", "VIOLATED", "UNSUPPORTED")
_KEYS = {"claim", "variant", "profile", "verdict", "reason"}
#: What a line means that does not say it.
DEFAULTS = {"variant": "*", "profile": "*"}


@dataclass(frozen=True, slots=True)
class Expected:
    """The word, and why it is expected; ``unlisted`` when nothing says so."""

    verdict: str
    reason: str
    unlisted: bool


def expected(folder: Path, *, broker: str, version: str, claim: str, variant: str, profile: str) -> Expected:
    """The line for this cell. Raises UsageError for a file that cannot be read as what it should be."""
    line = line_for(folder / f"{broker}-{version}.toml", claim=claim, variant=variant, profile=profile)
    return Expected(line["verdict"], line["reason"], False) if line else Expected("HOLDS", "", True)


def line_for(file: Path, *, claim: str, variant: str, profile: str) -> dict[str, str] | None:
    """The first line of a file that is about this cell. Raises UsageError as ``lines``."""
    for line in lines(file):
        if (
            line["claim"] == claim
            and (line["variant"] == variant or (line["variant"] == "*" and UNDER not in variant))
            and line["profile"] in ("*", profile)
        ):  # fmt: skip
            return line
    return None


@lru_cache(maxsize=32)
def lines(file: Path) -> tuple[dict[str, str], ...]:
    """All lines of one file, none where it does not exist. Raises UsageError for one that cannot be read as such."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise unreadable("expected results", file, exc) from exc
    found = []
    for i, cell in enumerate(tables(file, data, "cell")):
        line = {**DEFAULTS, **cell}
        if (
            set(line) != _KEYS
            or not all(isinstance(value, str) for value in line.values())
            or line["verdict"] not in _WORDS
            or not line["reason"]
        ):
            raise UsageError(
                f"{str(file)!r}, cell {i + 1}: needs claim, verdict ({', '.join(_WORDS)}) and a measured reason, "
                f"may have variant and profile; has {cell}"
            )
        found.append(line)
    return tuple(found)


@lru_cache(maxsize=32)
def undecided(file: Path) -> tuple[dict[str, str], ...]:
    """The cells of one file that were asked for in full and could not be told, each with claim, variant and reason. Raises
    UsageError as ``lines``, and for a cell that has a verdict as well."""
    if not file.exists():
        return ()
    known = lines(file)
    try:
        found = tables(file, tomllib.loads(file.read_text(encoding="utf-8")), "undecided")
    except (OSError, ValueError) as exc:
        raise unreadable("expected results", file, exc) from exc
    for i, cell in enumerate(found):
        if (
            set(cell) != {"claim", "variant", "reason"}
            or not all(isinstance(v, str) for v in cell.values())
            or not cell["reason"]
        ):
            raise UsageError(
                f"{str(file)!r}, undecided {i + 1}: needs claim, variant and a measured reason; has {cell}"
            )
        if any(line["claim"] == cell["claim"] and line["variant"] in (cell["variant"], "*") for line in known):
            raise UsageError(
                f"{str(file)!r}, undecided {i + 1}: {cell['claim']} {cell['variant']} has a verdict; remove one of the two"
            )
    return tuple(found)


def tables(file: Path, data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The tables ``[[name]]`` of a file, none where it has none. Raises UsageError for what is written in another way."""
    found = data.get(name, [])
    if isinstance(found, dict):
        raise UsageError(
            f"{str(file)!r}: has [{name}], one table, where [[{name}]] is due, one of many; write two brackets"
        )
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise UsageError(f"{str(file)!r}: expected tables [[{name}]], got {name} = {found!r}")
    return found
