"""What the shell completes: the script that ``brokerproof completion SHELL`` prints, and the names behind each option.

The script asks the command line itself at every TAB, through Typer's own protocol; so the names are those of the installed
version, and a new broker or claim needs no new script.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
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


def _quiet(names: Iterator[str], incomplete: str) -> Iterator[str]:
    """Those that begin so; none where they cannot be had: a TAB must not print errors."""
    with contextlib.suppress(HarnessError, OSError):
        yield from (name for name in names if name.startswith(incomplete))


def brokers(incomplete: str) -> Iterator[str]:
    """``product`` and ``product=version``."""
    from brokerproof.listing import brokers as known

    rows = known()
    names = [str(row["broker"]) for row in rows]
    names += [f"{row['broker']}={version}" for row in rows for version in row["versions"]]
    return _quiet(iter(names), incomplete)


def claims(incomplete: str) -> Iterator[str]:
    """Sections and ids."""
    from brokerproof.listing import claims as known

    ids = [str(row["claim"]) for row in known()]
    return _quiet(iter([*dict.fromkeys(i.partition("/")[0] for i in ids), *ids]), incomplete)


def cases(incomplete: str) -> Iterator[str]:
    """Ids of protocol cases."""
    from brokerproof.listing import cases as known

    return _quiet((str(row["case"]) for row in known()), incomplete)


def schedules(incomplete: str) -> Iterator[str]:
    """Names of schedules."""
    from brokerproof.schedules import schedules as known

    return _quiet(iter(known()), incomplete)


def faults(incomplete: str) -> Iterator[str]:
    """Names of faults."""
    from brokerproof.faults.base import faults as known

    return _quiet(iter(known()), incomplete)


def runs(incomplete: str) -> Iterator[str]:
    """Run folders below ``runs/``, the newest first, or below the folder that is being typed."""
    folder = Path(incomplete).parent if "/" in incomplete else Path("runs")
    found = sorted((p.parent for p in folder.glob("*/run.json")), reverse=True)
    return _quiet((str(p) for p in found), incomplete)


def profiles(incomplete: str) -> Iterator[str]:
    """How much is decided."""
    from brokerproof.experiment import PROFILES

    return _quiet(iter(PROFILES), incomplete)


def lists(incomplete: str) -> Iterator[str]:
    """What ``list`` lists."""
    return _quiet(iter(("claims", "cases", "faults", "schedules", "effects", "checkers", "brokers")), incomplete)


def shells(incomplete: str) -> Iterator[str]:
    """Shells that are completed."""
    return _quiet(iter(SHELLS), incomplete)
