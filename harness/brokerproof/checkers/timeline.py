"""What the report draws of a trial: a few hundred numbers, however long the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.view import View
from brokerproof.history import Array

BINS_MAX = 600
_LEAST_BIN_S = 0.1
#: Up to this many latencies are sorted; more go into buckets that are at most 1.6 % wide.
_SORTED_MAX = 1 << 19
#: Bits of a float32's mantissa that tell buckets apart: 6, so a bucket is 1/64 of its power of two wide.
_SHIFT = 23 - 6
#: The buckets of a nanosecond and of about ten hours.
_FIRST_BUCKET, _LAST_BUCKET = (int(np.float32(ns).view(np.int32)) >> _SHIFT for ns in (1, 1 << 45))


def timeline(index: Index) -> dict[str, Any]:
    """``{"bin_s", "sent_ok", "received_ok", "send_p50_ms", "send_p99_ms"}``: lists of equal length, at most 600, a bin
    being that many seconds from the trial's start. Percentiles are of the latency (end - due, or start where nothing
    was due) of sends that ended in the bin, None where there are none; exact below half a million sends, within 1.6 %
    above. O(rows)."""
    sends, receives = index.acknowledgements, index.ok("receive")
    last = max(0, sends.greatest("end_ns"), receives.greatest("end_ns"))
    bin_s = _bin_s(last / 1e9)
    bin_ns = round(bin_s * 1e9)
    n = max(1, min(BINS_MAX, last // bin_ns + 1))
    received = np.zeros(n, dtype=np.int64)
    for (ends,) in receives.chunks("end_ns"):
        received += np.bincount(_bins(ends, bin_ns, n), minlength=n)
    sent, middle, high = (_sorted if len(sends) <= _SORTED_MAX else _bucketed)(sends, bin_ns, n)
    return {
        "bin_s": bin_s, "sent_ok": sent, "received_ok": received.tolist(), "send_p50_ms": middle, "send_p99_ms": high,
    }  # fmt: skip


def _bin_s(length_s: float) -> float:
    """The least of 0.1, 0.2, 0.5, 1, 2, 5 … seconds that makes at most 600 bins."""
    size = _LEAST_BIN_S
    for step in range(200):
        size = (1, 2, 5)[step % 3] * 10 ** (step // 3) * _LEAST_BIN_S
        if length_s / size < BINS_MAX - 1:
            break
    return round(size, 6)


def _bins(times: Array, bin_ns: int, n: int) -> Array:
    # Dividing integers by one number is several times as fast as multiplying them as floats.
    bins: Array = times // bin_ns
    np.maximum(bins, 0, out=bins)
    np.minimum(bins, n - 1, out=bins)
    return bins


def _latencies(view: View) -> Iterator[tuple[Array, Array]]:
    """(end, float32 nanoseconds from due, or from start, to end) of some sends at a time."""
    if view.least("due_ns") >= 0 or view.greatest("due_ns") < 0:
        begun = "due_ns" if view.greatest("due_ns") >= 0 else "start_ns"
        for begin, end in view.chunks(begun, "end_ns"):
            yield end, np.maximum((end - begin).astype(np.float32), np.float32(1))
        return
    for start, end, due in view.chunks("start_ns", "end_ns", "due_ns"):
        yield end, np.maximum((end - np.where(due >= 0, due, start)).astype(np.float32), np.float32(1))


_Bins = tuple[list[int], list[float | None], list[float | None]]


def _sorted(view: View, bin_ns: int, n: int) -> _Bins:
    """(sends, median and 99th percentile of their latency in ms) of each bin."""
    parts = [(_bins(end, bin_ns, n), latency) for end, latency in _latencies(view)]
    if not parts:
        return [0] * n, [None] * n, [None] * n
    bins, latency = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((latency, bins))
    bins, latency = bins[order], latency[order]
    start = np.searchsorted(bins, np.arange(n + 1))
    out: list[list[float | None]] = []
    for quantile in (0.5, 0.99):
        row: list[float | None] = []
        for low, high in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
            row.append(_between(latency, low, high, quantile) if high > low else None)
        out.append(row)
    return np.diff(start).tolist(), out[0], out[1]


def _between(values: Array, low: int, high: int, quantile: float) -> float:
    """The quantile of ``values[low:high]``, which are sorted, in milliseconds; linear between neighbours."""
    place = low + quantile * (high - low - 1)
    left = int(place)
    right = min(left + 1, high - 1)
    value = float(values[left]) + (place - left) * (float(values[right]) - float(values[left]))
    return round(value / 1e6, 4)


def _bucketed(view: View, bin_ns: int, n: int) -> _Bins:
    """As ``_sorted``, without sorting: positive floats order as their bits do, so the upper bits are a bucket on a logarithmic scale."""
    low, width = _FIRST_BUCKET, _LAST_BUCKET - _FIRST_BUCKET + 1
    cells = np.zeros(n * width, dtype=np.int64)
    for end, latency in _latencies(view):
        bucket = np.minimum(latency.view(np.int32) >> _SHIFT, _LAST_BUCKET) - low
        cell = _bins(end, bin_ns, n) * width + bucket
        first = int(cell.min())
        mine = np.bincount(cell - first)
        cells[first : first + len(mine)] += mine
    counts = cells.reshape(n, width)
    total = counts.sum(axis=1)
    so_far = counts.cumsum(axis=1)
    out: list[list[float | None]] = []
    for quantile in (0.5, 0.99):
        wanted = np.maximum(1, np.ceil(quantile * total))
        at = (so_far < wanted[:, None]).sum(axis=1) + low
        # The middle of the bucket.
        bits = (at.astype(np.int32) << _SHIFT) + (1 << (_SHIFT - 1))
        value = bits.astype(np.int32).view(np.float32)
        out.append([round(float(v) / 1e6, 4) if t else None for v, t in zip(value, total, strict=True)])
    return total.tolist(), out[0], out[1]
