"""How much of its work a trial did, and how many of it a second: what comparisons are decided on.

    send      messages that were acknowledged, from the first send's beginning to the last acknowledgement
    receive   messages that consumers were handed, from the first batch on
    effect    messages that had their effect, from the first batch on
    delay     one over the median time from a message's send to the end of its first receipt: what a consumer is waited for

"From the first batch on": the clock starts when the first consumer is handed its first messages, so connecting and
joining a group are not in it. Of receiving, those messages are not counted either: they came before the clock started.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from brokerproof.history import OK, Array, F, History

By = Literal["send", "receive", "effect", "delay"]
#: What is counted, in words.
WORDS = {
    "send": "messages/s acknowledged", "receive": "messages/s received", "effect": "messages/s worked off",
    "delay": "per second (one over the median time from send to receipt)",
}  # fmt: skip


def done(history: History, by: By) -> int:
    """How many different messages that was done with."""
    return len(np.unique(history["msg"][_rows(history, by)]))


def rate_per_s(history: History, by: By) -> float:
    """0 where nothing was done, or all of it at one moment."""
    rows = _rows(history, by)
    if not rows.any():
        return 0.0
    start, end, msg = history["start_ns"], history["end_ns"], history["msg"]
    if by == "delay":
        return 1e9 / _median_delay_ns(history, rows)
    if by == "send":
        from_ns = int(start[rows].min())
    else:
        from_ns = int(end[_rows(history, "receive")].min(initial=int(end[rows].max())))
        rows &= end > from_ns
    counted = len(np.unique(msg[rows]))
    return counted / (int(end[rows].max()) - from_ns) * 1e9 if counted else 0.0


def _rows(history: History, by: By) -> Array:
    """The rows that say so. What the final read finds was handed to no consumer."""
    f = "receive" if by == "delay" else by
    rows: Array = (history["f"] == F[f]) & (history["outcome"] == OK) & (history["end_ns"] >= 0)
    slots = len(history.meta.processes)
    if f == "receive" and slots:
        roles = np.array(history.meta.processes)
        rows &= (history["process"] >= 0) & (roles[history["process"] % slots] == "consumer")
    return rows


def _median_delay_ns(history: History, receives: Array) -> float:
    """From the first send of a message to the end of its first receipt."""
    sends = (history["f"] == F["send"]) & (history["msg"] >= 0)
    number = int(max(history["msg"][sends].max(initial=-1), history["msg"][receives].max(initial=-1))) + 1
    late = np.iinfo(np.int64).max
    sent, came = np.full(number, late, np.int64), np.full(number, late, np.int64)
    np.minimum.at(sent, history["msg"][sends], history["start_ns"][sends])
    known = receives & (history["msg"] >= 0)
    np.minimum.at(came, history["msg"][known], history["end_ns"][known])
    both = (sent < late) & (came < late)
    return max(1.0, float(np.median(came[both] - sent[both])))
