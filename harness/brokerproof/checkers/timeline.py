"""What the report draws of a trial: a few hundred numbers, however long the history."""

from __future__ import annotations

from typing import Any

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.history import Array

BINS_MAX = 600
_LEAST_BIN_S = 0.1
#: Up to this many latencies are sorted; more go into buckets that are at most 1.6 % wide.
_SORTED_MAX = 1 << 19
#: Bits of a float32's mantissa that tell buckets apart: 6, so a bucket is 1/64 of its power of two wide.
_SHIFT = 23 - 6


def timeline(index: Index) -> dict[str, Any]:
    """``{"bin_s", "sent_ok", "received_ok", "send_p50_ms", "send_p99_ms"}``: lists of equal length, at most 600, a bin
    being that many seconds from the trial's start. Percentiles are of the latency (end - due, or start where nothing
    was due) of sends that ended in the bin, None where there are none; exact below half a million sends, within 1.6 %
    above. O(rows)."""
    sends, receives = index.acknowledgements, index.ok("receive")
    last = max(int(v["end_ns"].max(initial=0)) for v in (sends, receives))
    bin_s = _bin_s(last / 1e9)
    n = max(1, min(BINS_MAX, int(last / 1e9 / bin_s) + 1))
    out: dict[str, Any] = {"bin_s": bin_s}
    sent, received = (_bins(v["end_ns"], bin_s, n) for v in (sends, receives))
    out["sent_ok"] = np.bincount(sent, minlength=n).tolist() if len(sent) else [0] * n
    out["received_ok"] = np.bincount(received, minlength=n).tolist() if len(received) else [0] * n
    latency = _latency(index)
    middle, high = (_sorted if len(sent) <= _SORTED_MAX else _bucketed)(sent, latency, n)
    out["send_p50_ms"], out["send_p99_ms"] = middle, high
    return out


def _bin_s(length_s: float) -> float:
    """The least of 0.1, 0.2, 0.5, 1, 2, 5 … seconds that makes at most 600 bins."""
    size = _LEAST_BIN_S
    for step in range(200):
        size = (1, 2, 5)[step % 3] * 10 ** (step // 3) * _LEAST_BIN_S
        if length_s / size < BINS_MAX - 1:
            break
    return round(size, 6)


def _bins(times: Array, bin_s: float, n: int) -> Array:
    # Truncated to 32 bits on the way: a quarter of the memory, and no time is so far out that it matters.
    out = (times * (1e-9 / bin_s)).astype(np.int32)
    return np.clip(out, 0, n - 1, out=out)


def _latency(index: Index) -> Array:
    """float32 nanoseconds of each acknowledgement."""
    view = index.acknowledgements
    due = view["due_ns"]
    begun = view["start_ns"] if not len(due) or int(due.max()) < 0 else np.where(due >= 0, due, view["start_ns"])
    return np.maximum((view["end_ns"] - begun).astype(np.float32), np.float32(0))


def _sorted(bins: Array, latency: Array, n: int) -> tuple[list[float | None], list[float | None]]:
    order = np.lexsort((latency, bins))
    bins, latency = bins[order], latency[order]
    start = np.searchsorted(bins, np.arange(n + 1))
    out: list[list[float | None]] = []
    for quantile in (0.5, 0.99):
        row: list[float | None] = []
        for low, high in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
            row.append(_between(latency, low, high, quantile) if high > low else None)
        out.append(row)
    return out[0], out[1]


def _between(values: Array, low: int, high: int, quantile: float) -> float:
    """The quantile of ``values[low:high]``, which are sorted, in milliseconds; linear between neighbours."""
    place = low + quantile * (high - low - 1)
    left = int(place)
    right = min(left + 1, high - 1)
    value = float(values[left]) + (place - left) * (float(values[right]) - float(values[left]))
    return round(value / 1e6, 4)


def _bucketed(bins: Array, latency: Array, n: int) -> tuple[list[float | None], list[float | None]]:
    """Positive floats order as their bits do, so the upper bits are a bucket on a logarithmic scale."""
    bucket = latency.view(np.int32) >> _SHIFT
    low = int(bucket.min())
    width = int(bucket.max()) - low + 1
    counts = np.bincount(bins * width + (bucket - low), minlength=n * width).reshape(n, width)
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
    return out[0], out[1]
