"""Every error the harness raises on purpose, in one tree.

    HarnessError                 base; the command line prints it without a traceback
    +-- UsageError               the caller asked for something that does not exist        exit 2
    +-- EnvironmentProblem       engine, image, disk or port: the machine is not ready     exit 4
    |   +-- ProvisionError       a broker did not start, or did not become healthy         exit 4
    +-- PlanError                a plan or an experiment contradicts itself                exit 4
    +-- HistoryError             a history cannot be read at all                           exit 4
    +-- DeadlineError            a condition was not reached in time (``waiting.wait_until``)

A message says what was being done and to what, what was expected, what was seen, and what to do next.
Errors of client libraries do not travel: each broker's outcome table turns them into ``ok``, ``fail`` or ``info``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 4


class UsageError(HarnessError):
    """The caller asked for something that does not exist or cannot be combined."""

    exit_code = 2


class EnvironmentProblem(HarnessError):
    """The machine is not ready: no engine, an image that will not build, a full disk, a port in use."""


class ProvisionError(EnvironmentProblem):
    """A broker did not start, exited, or did not become healthy; carries its last log lines."""


class PlanError(HarnessError):
    """A plan or an experiment contradicts itself."""


class HistoryError(HarnessError):
    """A history cannot be read at all (a torn tail is not an error)."""


class DeadlineError(HarnessError):
    """A condition was not reached before its deadline; the message holds the last state seen."""


def unknown(kind: str, given: str, known: Iterable[str], *, listed: str = "") -> UsageError:
    """The error for a name that is not registered: says which exist, and suggests the nearest.

    listed: the command that names them, where there are hundreds; then the sentence does not.
    """
    names = sorted(known)
    near = [name for name in names if given in name][:3] if listed else []
    near = near or difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    exist = f"`{listed}` names them" if listed else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} {given!r}; {exist}{hint}")


def unreadable(kind: str, file: object, exc: Exception) -> UsageError:
    """The error for a file that somebody wrote and that cannot be read: where, and what to do."""
    said = f"{kind} {str(file)!r} cannot be read: "
    if isinstance(exc, UnicodeDecodeError):
        return UsageError(f"{said}octet {exc.start} is no UTF-8 (0x{exc.object[exc.start]:02x}); save it as UTF-8")
    return UsageError(f"{said}{exc}")
