"""Streams of messages that have an order: the same sender, the same ordering key."""

from __future__ import annotations

from typing import Literal

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Labels
from brokerproof.checkers.view import CHUNK
from brokerproof.history import Array


def streams(index: Index, *, by: Literal["process", "slot"]) -> tuple[Array, int]:
    """(stream of each message, how many there may be); -1 for messages without a key, which have no order.

    Within a stream message numbers, and so ids, rise in the order of the sends. by: whether a sender that came back
    after a reconnection is another one (``process``) or the same (``slot``). O(messages), kept by the index.
    """
    slots = len(index.meta.processes)
    if by == "slot" and slots and index.sends.greatest("process") < slots:
        by = "process"  # nobody has come back
    name = f"stream by {by}"
    return index.once(name, lambda: _streams(index, by))


def _streams(index: Index, by: Literal["process", "slot"]) -> tuple[Array, int]:
    if index.sends.greatest("key") < 0:
        return np.full(index.size, -1, dtype=np.int32), 0
    key = index.of_message("key")
    keys = Labels([key])
    single = index.sends.is_one("process")
    sender = None if single else index.of_message("process")
    if sender is not None and by == "slot":
        sender = index.slot(sender)
    senders = Labels([] if sender is None else [sender])
    count = senders.size * keys.size
    unordered = index.sends.least("key") < 0 or len(index.first_sends) < index.size
    out: Array = np.empty(index.size, dtype=np.int32 if count < 1 << 31 else np.int64)
    for low in range(0, index.size, CHUNK):
        here = slice(low, low + CHUNK)
        stream = keys.codes(key[here])
        if sender is not None:
            stream = senders.codes(sender[here]) * keys.size + stream
        out[here] = np.where(key[here] < 0, -1, stream) if unordered else stream
    if count > 4 * index.size + (1 << 16):
        ordered = out >= 0
        few = Labels([out[ordered]])
        stream = np.full(index.size, -1, dtype=np.int64)
        stream[ordered] = few.codes(out[ordered])
        return stream, few.size
    return out, count
