"""Histories told in words, for tests; knows the file format, and of checkers only how many rows they look at together.

    told("ok send a@0", "ok receive b@0", kind="log")

One row a string: outcome, function, message (a letter, a number, ``-`` for none, ``?`` for unreadable), ``@position``,
then ``name=value``: any column, ``by=`` the process, ``at=3`` or ``at=3..5`` the times in milliseconds, ``error=``
a text without blanks (``_`` stands for one, ``~`` for an underscore). Rows are a millisecond apart and take half of one. Slot 0 sends, slot 1
consumes, slot 2 consumes, slot 3 is the final reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from brokerproof.checkers import poll_order, positions, send_order, streams, view
from brokerproof.history import COLUMNS, OUTCOME, F, History, Meta

MS = 1_000_000
ROLES = ("producer", "consumer", "consumer", "reader")
_BY = {"send": 0, "receive": 1, "settle": 1, "effect": 1, "commit": 1, "assign": 1, "revoke": 1, "read": 1,
       "txn_begin": 0, "txn_commit": 0, "txn_abort": 0, "fault": -1, "control": -1}  # fmt: skip
_ABOUT_MESSAGES = ("send", "receive", "settle", "effect")


def number(word: str) -> int:
    """``a`` is message 0, ``b`` is 1 …"""
    if word == "-":
        return -1
    if word == "?":
        return -2
    return ord(word) - ord("a") if len(word) == 1 and word.isalpha() else int(word)


def row(text: str, nth: int = 0) -> dict[str, Any]:
    """One row as column -> value; ``error`` is its text."""
    words = text.split()
    outcome, f = words[:2]
    out: dict[str, Any] = {name: -1 for name, _ in COLUMNS}
    out |= {
        "f": f,
        "outcome": outcome,
        "process": _BY[f],
        "start_ns": nth * MS,
        "end_ns": nth * MS + MS // 2,
        "error": "",
    }
    if f in _ABOUT_MESSAGES:
        out |= {"lane": 0, "key": 0}
    if f in ("commit", "assign", "revoke"):
        out |= {"lane": 0}
    for word in words[2:]:
        if "=" not in word:
            msg, _, pos = word.partition("@")
            out["msg"] = number(msg)
            if pos:
                out["pos"] = int(pos)
            continue
        name, value = word.split("=", 1)
        if name == "at":
            start, _, end = value.partition("..")
            out["start_ns"] = int(float(start) * MS)
            out["end_ns"] = int(float(end) * MS) if end else out["start_ns"] + MS // 2
        elif name == "by":
            out["process"] = int(value)
        elif name == "error":
            out["error"] = value.replace("_", " ").replace("~", "_")
        elif name == "pending":
            out["end_ns"] = -1
        else:
            out[name] = int(value)
    return out


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray[Any, Any]], tuple[str, ...]]:
    """Columns with codes, and the error texts."""
    texts: dict[str, int] = {"": 0}
    for r in rows:
        texts.setdefault(r["error"], len(texts))
    codes = {"f": F, "outcome": OUTCOME, "error": texts}
    return {
        name: np.array([codes[name][r[name]] if name in codes else r[name] for r in rows], dtype=kind)
        for name, kind in COLUMNS
    }, tuple(texts)


def history(
    rows: Sequence[Mapping[str, Any]], *, lanes: Sequence[str] = ("queue",), roles: Sequence[str] = ROLES,
    groups: Sequence[str] = (), routes: Mapping[str, Sequence[Mapping[str, Any]]] | None = None, torn: str = "",
    lane_facts: Mapping[str, str] | None = None,
) -> History:  # fmt: skip
    meta = Meta(
        trial="told",
        lanes=tuple({"name": f"{kind}-{n}", "kind": kind, **(lane_facts or {})} for n, kind in enumerate(lanes)),
        routes=routes or {},
        processes=tuple(roles),
        groups=tuple(groups),
    )
    cols, texts = columns(rows)
    return History(meta, cols, texts, torn)


def told(*lines: str, kind: str = "queue", drained: bool | None = None, **about: Any) -> History:
    """drained: None is a foreign file, without ``control`` rows; False has one at its start, True all lanes emptied."""
    about.setdefault("lanes", (kind,))
    tale: list[str] = []
    if drained is not None:
        tale.append("ok control error=start at=0..0")
    tale += lines
    if drained:
        tale += [f"ok control error=drained lane={n}" for n in range(len(about["lanes"]))]
    return history([row(line, n) for n, line in enumerate(tale)], **about)


@contextmanager
def chunks_of(rows: int) -> Iterator[None]:
    """Checkers go through histories this many rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (view, poll_order, positions, send_order, streams):
            patch.setattr(module, "CHUNK", rows)
        yield


def nonzero(counts: Mapping[str, Any]) -> dict[str, int]:
    """key -> count, where there is any."""
    return {key: count.count for key, count in counts.items() if count.count}


def letters(numbers: Iterable[int]) -> str:
    return "".join(chr(ord("a") + n) for n in numbers)
