"""Life lines of messages: every row that is about one, and the faults that fell into its life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from brokerproof.checkers.index import Index
from brokerproof.checkers.view import CHUNK
from brokerproof.finding import Count
from brokerproof.history import FUNCTIONS, OUTCOMES, UNREADABLE, Array

#: How many messages of an anomaly are shown, and how many rows of one message.
MESSAGES, LINES = 3, 200
#: A table of so many entries is small whatever there is to look for.
_TABLE_MIN = 1 << 16
_SHOWN = tuple(f for f in FUNCTIONS if f not in ("fault", "control"))


def witnesses(index: Index, anomalies: Mapping[str, Count]) -> tuple[Mapping[str, Any], ...]:
    """For the first messages of each anomaly ``{"anomaly", "msg", "lines"}``, lines by time. A body that could not be
    read is nobody's: each of its rows is shown alone, with msg -2. O(rows) where there is an anomaly, else nothing."""
    wanted = [(key, n) for key, count in anomalies.items() for n in count.messages[:MESSAGES]]
    out: list[Mapping[str, Any]] = []
    lives = lifelines(index, sorted({n for _, n in wanted}))
    for key, count in anomalies.items():
        out.extend({"anomaly": key, "msg": n, "lines": lives[n]} for n in count.messages[:MESSAGES])
        if key == "corrupted" and count.count:
            rows = index.unreadable["row"][:MESSAGES].tolist()
            out.extend({"anomaly": key, "msg": UNREADABLE, "lines": _lines(index, [row])} for row in rows)
    return tuple(out)


def lifelines(index: Index, messages: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    """The lines of each of these message numbers; also what ``explain`` shows. O(rows)."""
    numbers = np.array(sorted(set(messages)), dtype=np.int64)
    rows: dict[int, list[int]] = {int(n): [] for n in numbers}
    if not len(numbers):
        return {}
    for f in _SHOWN:
        view = index.view(f)
        if not len(view):
            continue
        hits = _where(view["msg"], numbers)
        for message, row in zip(view["msg"][hits].tolist(), view["row"][hits].tolist(), strict=True):
            if len(rows[message]) < LINES:
                rows[message].append(row)
    return {message: _lines(index, mine) for message, mine in rows.items()}


def _where(values: Array, wanted: Array) -> Array:
    """Places of the wanted values: looked up in a table where they lie near each other, else searched for."""
    low, span = int(wanted[0]), int(wanted[-1]) - int(wanted[0]) + 1
    if span <= max(_TABLE_MIN, 4 * len(values)):
        # One entry more, where everything that is out of range falls.
        table = np.zeros(span + 1, dtype=bool)
        table[wanted - low] = True
        out = [
            np.flatnonzero(table[np.clip(values[at : at + CHUNK] - low, -1, span)]) + at
            for at in range(0, len(values), CHUNK)
        ]
        return np.concatenate(out) if out else np.empty(0, dtype=np.int64)
    near = np.flatnonzero((values >= wanted[0]) & (values <= wanted[-1]))
    at = np.minimum(np.searchsorted(wanted, values[near]), len(wanted) - 1)
    found: Array = near[wanted[at] == values[near]]
    return found


def _lines(index: Index, rows: list[int]) -> list[dict[str, Any]]:
    lines = [_line(index, row) for row in rows]
    if not lines:
        return []
    begin = min(line["t_s"] for line in lines)
    end = max(max(line["t_s"], line["end_s"] or 0.0) for line in lines)
    faults = index.once(
        "fault lines", lambda: [_line(index, row) for row in index.view("fault")["row"][:10_000].tolist()]
    )
    lines += [line for line in faults if begin <= line["t_s"] <= end][:LINES]
    return sorted(lines, key=lambda line: (line["t_s"], line["end_s"] is None, line["end_s"] or 0.0))


def _line(index: Index, row: int) -> dict[str, Any]:
    value = {}
    at = row
    for part in index.history.parts:
        n = len(part["process"])
        if at < n:
            value = {name: int(part[name][at]) for name in part}
            break
        at -= n
    lane = value["lane"]
    return {
        "t_s": value["start_ns"] / 1e9,
        "end_s": None if value["end_ns"] < 0 else value["end_ns"] / 1e9,
        "process": value["process"],
        "role": index.role(value["process"]),
        "f": FUNCTIONS[value["f"]] if value["f"] >= 0 else "unknown",
        "outcome": OUTCOMES[value["outcome"]] if value["outcome"] >= 0 else "unknown",
        "lane": index.lane(lane).name if lane >= 0 else "",
        "pos": value["pos"],
        "attempt": value["attempt"],
        "key": value["key"],
        "batch": value["batch"],
        "error": index.error(value["error"]),
    }
