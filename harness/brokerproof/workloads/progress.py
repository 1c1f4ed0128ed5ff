"""What the clients of a trial have come to while it runs: a hint for who waits, never a verdict.

Rows lie on the tapes until the recorder has written them, and in ``history.arrow`` from then on; a tape that is worked off
is removed. So both are looked at, the tapes first: what is taken from them meanwhile is in the file by then. A row may be
seen twice, which is nothing to who asks for messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from brokerproof.errors import HarnessError
from brokerproof.history import FAIL, OK, Array, F, read_history
from brokerproof.recorder import TAPES
from brokerproof.tape import Segment

_COLUMNS = ("f", "outcome", "msg", "start_ns", "end_ns")


class Progress:
    """slots: how many clients write.  of_role: the slots of a role's clients."""

    def __init__(self, folder: Path, slots: int, of_role: Callable[[str], Collection[int]]) -> None:
        self._folder, self._slots, self._of_role = folder, slots, of_role
        #: Role -> rows of the file, as far as they were read.
        self._written: dict[str, list[dict[str, Array]]] = {}
        self._parts: dict[str, int] = {}

    def segments(self, role: str) -> Iterator[Segment]:
        """What is on the role's tapes now."""
        slots = self._of_role(role)
        for path in (self._folder / TAPES).glob("*.seg"):
            with contextlib.suppress(FileNotFoundError, HarnessError):
                segment = Segment.open(path)
                if segment.slot in slots:
                    yield segment

    def messages(self, role: str, functions: Collection[str], *, sure: bool = True) -> Array:
        """Messages that the role has a row of one of these functions for, each once. sure: one that is ``ok``, else one that
        is not ``fail``."""
        rows = self._rows(role)
        chosen = np.isin(rows["f"], [F[f] for f in functions])
        chosen &= rows["outcome"] == OK if sure else rows["outcome"] != FAIL
        return np.unique(rows["msg"][chosen])

    def last_ns(self, role: str) -> int:
        """When the role's clients last wrote something, on the trial's clock."""
        rows = self._rows(role)
        return int(max(rows["start_ns"].max(initial=0), rows["end_ns"].max(initial=0)))

    def pending_ns(self, expected: int) -> int:
        """When consumers last had to do with a message that is not worked off; while some of ``expected`` messages have
        not come at all, with any message."""
        rows = self._rows("consumer")
        msg, ok = rows["msg"], rows["outcome"] == OK
        pending = ~np.isin(msg, msg[np.isin(rows["f"], (F["effect"], F["settle"])) & ok])
        if len(np.unique(msg[rows["f"] == F["receive"]])) < expected:
            pending[:] = True
        return int(max(rows["start_ns"][pending].max(initial=0), rows["end_ns"][pending].max(initial=0)))

    def _rows(self, role: str) -> Mapping[str, Array]:
        rows = []
        for segment in self.segments(role):
            head = segment.head  # once: the client goes on writing
            rows.append({name: segment.columns[name][:head].copy() for name in _COLUMNS})
        self._read_on(role)
        rows += self._written.get(role, [])
        if not rows:
            return {name: np.empty(0, dtype=np.int64) for name in _COLUMNS}
        return {name: np.concatenate([part[name] for part in rows]) for name in _COLUMNS}

    def _read_on(self, role: str) -> None:
        """What was written since the last time."""
        try:
            parts = read_history(self._folder / "history.arrow").parts
        except HarnessError:
            return  # not begun
        slots = list(self._of_role(role))
        for part in parts[self._parts.get(role, 0) :]:
            mine = (part["process"] >= 0) & np.isin(part["process"] % self._slots, slots)
            if mine.any():
                self._written.setdefault(role, []).append({name: part[name][mine] for name in _COLUMNS})
        self._parts[role] = len(parts)
