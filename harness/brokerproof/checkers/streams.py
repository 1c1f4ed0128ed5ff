"""Streams of messages that have an order: the same sender, the same ordering key."""

from __future__ import annotations

from typing import Literal

import numpy as np

from brokerproof.checkers.index import Index, Labels
from brokerproof.history import Array


def streams(index: Index, *, by: Literal["process", "slot"]) -> tuple[Array, int]:
    """(stream of each message, how many there may be); -1 for messages without a key, which have no order.

    Within a stream message numbers, and so ids, rise in the order of the sends. by: whether a sender that came back
    after a reconnection is another one (``process``) or the same (``slot``). O(messages), kept by the index.
    """
    name = f"stream by {by}"
    kept = index.kept.get(name)
    if kept is None:
        kept = index.kept[name] = _streams(index, by)
    stream: Array = kept[0]
    return stream, kept[1]


def _streams(index: Index, by: Literal["process", "slot"]) -> tuple[Array, int]:
    key = index.of_message("key") if index.size and len(index.sends) else np.empty(0, dtype=np.int32)
    if not len(key) or int(key.max()) < 0:
        return np.full(index.size, -1, dtype=np.int64), 0
    sender = index.of_message("process")
    if by == "slot":
        sender = index.slot(sender)
    senders, keys = Labels([sender]), Labels([key])
    count = senders.size * keys.size
    stream = keys.codes(key)
    if senders.size > 1:
        stream = senders.codes(sender) * keys.size + stream
    unordered = key < 0
    if count > 4 * index.size + 65536:
        dense = Labels([stream])
        stream, count = dense.codes(stream), dense.size
    if unordered.any():
        stream = np.where(unordered, -1, stream)
    return stream, count
