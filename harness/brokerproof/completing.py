"""What the shell completes: the script that ``brokerproof completion SHELL`` prints, and the names behind each option.

The script asks the command line itself at every TAB, through Typer's own protocol; so the names are those of the installed
version, and a new broker or claim needs no new script.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from brokerproof.errors import HarnessError, unknown

SHELLS = ("bash", "zsh", "fish")
_ASKED = "_BROKERPROOF_COMPLETE"


def script(shell: str) -> str:
    """The completion script. Raises UsageError for a shell that is not known."""
    if shell not in SHELLS:
        raise unknown("shell", shell, SHELLS)
    from brokerproof.cli import app

    out = io.StringIO()
    before = os.environ.get(_ASKED)
    os.environ[_ASKED] = f"source_{shell}"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            app(prog_name="brokerproof")
    finally:
        os.environ.pop(_ASKED) if before is None else os.environ.update({_ASKED: before})
    return out.getvalue().strip("\n") + "\n"


def _quiet(names: Callable[[], Iterable[str]], incomplete: str) -> Iterator[str]:
    """Those that begin so; none where they cannot be had: a TAB must not print errors. names: asks for them, which may fail."""
    with contextlib.suppress(HarnessError, OSError):
        yield from (name for name in names() if name.startswith(incomplete))


def brokers(incomplete: str) -> Iterator[str]:
    """``product`` and ``product=version``."""

    def names() -> Iterator[str]:
        from brokerproof.listing import brokers as known

        rows = known()
        yield from (str(row["broker"]) for row in rows)
        yield from (f"{row['broker']}={version}" for row in rows for version in row["versions"])

    return _quiet(names, incomplete)


def claims(incomplete: str) -> Iterator[str]:
    """Sections and ids."""

    def names() -> Iterator[str]:
        from brokerproof.listing import claims as known

        ids = [str(row["claim"]) for row in known()]
        yield from dict.fromkeys(i.partition("/")[0] for i in ids)
        yield from ids

    return _quiet(names, incomplete)


def cases(incomplete: str) -> Iterator[str]:
    """Ids of protocol cases."""

    def names() -> Iterator[str]:
        from brokerproof.listing import cases as known

        yield from (str(row["case"]) for row in known())

    return _quiet(names, incomplete)


def schedules(incomplete: str) -> Iterator[str]:
    """Names of schedules."""

    def names() -> Iterator[str]:
        from brokerproof.schedules import schedules as known

        yield from known()

    return _quiet(names, incomplete)


def faults(incomplete: str) -> Iterator[str]:
    """Names of faults."""

    def names() -> Iterator[str]:
        from brokerproof.faults.base import faults as known

        yield from known()

    return _quiet(names, incomplete)


def runs(incomplete: str) -> Iterator[str]:
    """Run folders below ``runs/``, the newest first, or below the folder that is being typed."""

    def names() -> Iterator[str]:
        folder = Path(incomplete).parent if "/" in incomplete else Path("runs")
        yield from map(str, sorted((p.parent for p in folder.glob("*/run.json")), reverse=True))

    return _quiet(names, incomplete)


def profiles(incomplete: str) -> Iterator[str]:
    """How much is decided."""

    def names() -> Iterator[str]:
        from brokerproof.experiment import PROFILES

        yield from PROFILES

    return _quiet(names, incomplete)


def lists(incomplete: str) -> Iterator[str]:
    """What ``list`` lists."""
    return _quiet(lambda: ("claims", "cases", "faults", "schedules", "effects", "checkers", "brokers"), incomplete)


def shells(incomplete: str) -> Iterator[str]:
    """Shells that are completed."""
    return _quiet(lambda: SHELLS, incomplete)
