"""Where each broker node has the messages that matter, looked for after the final read: ``places.json``.

Before a fault that lasts through the final read is healed: what a lost node has to itself is seen to be its alone.

What matters: the first witnesses of each anomaly of the trial, and one message that was acknowledged and read. That one
shows that looking finds anything at all, and where a message belongs that nothing befell.

    {"schema": 1, "at_s": …, "took_s": …, "says": "", "sample": number or null, "messages": {number: {node: Where}}}

``at_s``: on the trial's clock.  ``says``: why nothing was looked for, if so. Nothing here costs a trial its verdict.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof.brokers.base import Cluster, Locates
from brokerproof.checkers.base import checkers, judge
from brokerproof.checkers.index import Index
from brokerproof.errors import DeadlineError, EnvironmentProblem
from brokerproof.history import OK, F, History
from brokerproof.live import caught_up, snapshot
from brokerproof.message import mark
from brokerproof.plan import Plan
from brokerproof.results import load_json, write_json
from brokerproof.where import Where

FILE = "places.json"
#: Messages of one anomaly that are looked for.
WITNESSES_MAX = 20
#: For all nodes and all trials of a block together.
LOOKING_S = 20.0
#: The recorder writes every 0.1 s; a witness too many, should it be slower, only costs a search.
CATCH_UP_S = 3.0


@dataclass(slots=True)
class _Sought:
    """What is looked for of one trial. lanes: message -> (destination, partition), as far as the history knows."""

    plan: Plan
    folder: Path
    sample: int | None = None
    lanes: Mapping[int, tuple[str, int]] | None = None
    says: str = ""

    def marks(self) -> dict[bytes, tuple[str, int]]:
        return {mark(self.plan.trial_number, n): lane for n, lane in (self.lanes or {}).items()}


def record_places(cluster: Cluster, trials: Iterable[tuple[Plan, Path]], at_s: float) -> None:
    """Writes ``places.json`` into the folders of these trials, which ran side by side on the cluster and have been read.
    at_s: on their clock."""
    begin = time.monotonic()
    sought = [_seek(plan, folder) for plan, folder in trials]
    lanes = {s.plan.destination_name(d): dest for s in sought for d, dest in enumerate(s.plan.workload.destinations)}
    found: Mapping[str, Mapping[bytes, Where]] = {}
    marks = {m: lane for s in sought for m, lane in s.marks().items()}
    says = "" if isinstance(cluster, Locates) else f"not looked: {cluster.product} cannot tell"
    if isinstance(cluster, Locates) and marks:
        try:
            found = cluster.locate(lanes, marks, time.monotonic() + LOOKING_S)
        except Exception as exc:  # an explanation less, and no verdict less
            says = f"not looked: {type(exc).__name__}: {exc}"
    took_s = round(time.monotonic() - begin, 2)
    for s in sought:
        messages = {
            str(n): {node: where[m].to_json() for node, where in found.items() if m in where}
            for m, n in zip(s.marks(), s.lanes or {}, strict=True)
        }
        told = {
            "schema": 1, "at_s": round(at_s, 3), "took_s": took_s, "says": s.says or says, "sample": s.sample,
            "messages": messages,
        }  # fmt: skip
        with contextlib.suppress(EnvironmentProblem):  # a full disk is told by whoever writes what is needed
            write_json(s.folder / FILE, told)


def read_places(folder: Path, message: int) -> tuple[Mapping[str, Where], float, str]:
    """(node -> where, when that was on the trial's clock, why there is nothing if so)."""
    if not (folder / FILE).exists():
        return {}, -1.0, "not recorded"
    data: Mapping[str, Any] = load_json(folder / FILE)
    here = data["messages"].get(str(message))
    if here is None or data["says"]:
        sample = f"; message {data['sample']} was, of those that were kept" if data["sample"] is not None else ""
        return {}, -1.0, data["says"] or f"not looked for: it is none of an anomaly's first witnesses{sample}"
    return {node: Where.from_json(where) for node, where in here.items()}, data["at_s"], ""


def _seek(plan: Plan, folder: Path) -> _Sought:
    try:
        with contextlib.suppress(DeadlineError):
            caught_up(folder, CATCH_UP_S)
        history = snapshot(folder)
        finding = judge(Index(history), checkers())
        sample = _sample(history)
        witnesses = {n for count in finding.anomalies.values() for n in count.messages[:WITNESSES_MAX] if n >= 0}
        if sample is not None:
            witnesses.add(sample)
        return _Sought(plan, folder, sample, _lanes(plan, history, sorted(witnesses)))
    except Exception as exc:  # the verdict will say what is wrong with the history
        return _Sought(plan, folder, says=f"not looked: {type(exc).__name__}: {exc}")


def _sample(history: History) -> int | None:
    """The last message that was acknowledged and read."""
    f, msg = history["f"], history["msg"]
    sent = msg[(f == F["send"]) & (history["outcome"] == OK) & (msg >= 0)]
    read = np.intersect1d(sent, msg[f == F["receive"]])
    return int(read[-1]) if len(read) else None


def _lanes(plan: Plan, history: History, messages: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Of each message the lane that a row of it names; where none does, its partition is -1."""
    out = dict.fromkeys(messages, (plan.destination_name(0), -1))
    chosen = np.isin(history["msg"], np.array(messages, dtype=np.int64)) & (history["lane"] >= 0)
    lanes = plan.workload.lanes
    for n, lane in zip(history["msg"][chosen].tolist(), history["lane"][chosen].tolist(), strict=True):
        if lane < len(lanes):
            destination, partition = lanes[lane]
            out[n] = (plan.destination_name(destination), partition)
    return out
