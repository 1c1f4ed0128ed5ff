"""What the world shows after a trial, set against what its consumers said that they did.

A consumer writes an ``effect`` row after its guard came back, so one that was killed may have had an effect without a
row. The databases are asked over a connection of the harness' own; each effect that they show and nobody told of becomes
a row of the consumer that was given the message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from brokerproof.history import OK, F, History, read_history
from brokerproof.live import caught_up
from brokerproof.tape import Tape

_WRITTEN_S = 20.0


def tell(folder: Path, shown: Mapping[int, int], tape: Tape) -> str:
    """Writes the rows that are missing. Returns what the consumers told and the world does not show, in a sentence; empty
    where there is nothing of the kind."""
    caught_up(folder, _WRITTEN_S)
    history = read_history(folder / "history.arrow")
    told = Counter(history["msg"][(history["f"] == F["effect"]) & (history["outcome"] == OK)].tolist())
    for msg, times in shown.items():
        for _ in range(times - told[msg]):
            _row(history, msg, tape)
    gone = [msg for msg, times in told.items() if times > shown.get(msg, 0)]
    if not gone:
        return ""
    return f"{len(gone)} messages had more effects than the world shows, the first is {gone[0]}: the database lost some"


def _row(history: History, msg: int, tape: Tape) -> None:
    """An effect that nobody told of: by the last consumer that was given the message, some time since then."""
    given = np.flatnonzero((history["f"] == F["receive"]) & (history["msg"] == msg))
    now = tape.now()
    if not given.size:
        tape.row("effect", OK, start_ns=now, end_ns=now, msg=msg)
        return
    row = int(given[-1])
    tape.rows(
        "effect", OK, 1, process=int(history["process"][row]), start_ns=int(history["start_ns"][row]), end_ns=now, msg=msg,
        key=int(history["key"][row]), lane=int(history["lane"][row]),
    )  # fmt: skip
