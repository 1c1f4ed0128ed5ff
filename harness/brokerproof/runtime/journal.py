"""What we have made on a target, written down before it is made, so that a killed run's is found and removed.

One file for each target and user, ``targets/<key>.jsonl`` beside the register of runs; a line for each thing made, and one
when it is gone. The next run on the target, and ``brokerproof clean --target FILE``, remove what dead runs left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from brokerproof.brokers.base import Thing
from brokerproof.runtime import sweep


class Journal:
    """key: of the target, see ``Target.key``."""

    def __init__(self, key: str) -> None:
        folder = sweep.state_folder() / "targets"
        folder.mkdir(parents=True, exist_ok=True)
        self.path: Path = folder / f"{key}.jsonl"

    def making(self, run: str, things: Sequence[Thing]) -> None:
        """Before they are made."""
        self._write([{"run": run, "kind": t.kind, "name": t.name} for t in things])

    def gone(self, things: Collection[Thing]) -> None:
        self._write([{"gone": True, "kind": t.kind, "name": t.name} for t in things])
        with self._locked() as file:
            if not self.left():
                file.truncate(0)

    def left(self, of: Callable[[str], bool] = lambda run: True) -> list[Thing]:
        """What was made and is not known to be gone, by runs that ``of`` says true of; the first made first."""
        there: dict[Thing, str] = {}
        for line in self._lines():
            thing = Thing(str(line.get("kind")), str(line.get("name")))
            if line.get("gone"):
                there.pop(thing, None)
            else:
                there[thing] = str(line.get("run"))
        return [thing for thing, run in there.items() if of(run)]

    def left_by_the_dead(self) -> list[Thing]:
        return self.left(lambda run: not sweep.alive(run))

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # torn by a kill: what it was about to name was not made yet
        return found

    def _write(self, lines: Sequence[dict[str, Any]]) -> None:
        if not lines:
            return
        with self._locked() as file:
            # A torn line of before must not swallow this one.
            file.write("\n" + "".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
