"""``brokerproof`` and ``python -m brokerproof``: the command line, and a short way for the command that CI calls most.

    brokerproof check PATH --json

in this form needs no option parser, no table and no colours; without them it starts in half the time. Whatever else is
asked, and every wrong usage, is the command line's (``cli.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main() -> None:
    """Entry point."""
    asked = _plain_check(sys.argv[1:])
    if asked is None:
        from brokerproof.cli import main as command_line

        command_line()
        return
    from brokerproof.checking import check_folder
    from brokerproof.errors import HarnessError

    try:
        sys.exit(check_folder(asked, as_json=True))
    except HarnessError as exc:
        print(f"brokerproof: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


def _plain_check(arguments: Sequence[str]) -> Path | None:
    """The folder of ``check PATH --json``, in whatever order; None for anything else, a run folder included."""
    if arguments[:1] != ["check"] or sorted(a.startswith("-") for a in arguments[1:]) != [False, True]:
        return None
    (path,) = (a for a in arguments[1:] if not a.startswith("-"))
    if "--json" not in arguments or (Path(path) / "run.json").exists():
        return None
    return Path(path)


if __name__ == "__main__":
    main()
