"""Where the suites are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from brokerproof.errors import HarnessError


def suites() -> Path:
    """The folder that holds ``claims`` and ``expected``."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "_suites", here.parent.parent / "suites"):
        if (candidate / "claims").is_dir():
            return candidate
    raise HarnessError(f"no suites beside {str(here)!r}; the installation is incomplete: install brokerproof again")
