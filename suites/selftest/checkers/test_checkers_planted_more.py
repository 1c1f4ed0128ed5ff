"""Sane worlds of transactions, caches and delays, and of lanes that vanish: clean; and with one anomaly planted, at the
first place, the last or one between, that one is found and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storybook import MS, history, nonzero, row

from brokerproof.checkers.base import check

Row = dict[str, Any]
#: Slots: two that send and read in transactions, a consumer, the final reader.
SLOTS = ("producer", "producer", "consumer", "reader")


@dataclass
class World:
    """rows stand in the order of time. chosen: what may be planted at, in order (messages, transactions or reads)."""

    rows: list[Row]
    chosen: list[int]
    lanes: tuple[str, ...] = ("log", "log")
    lane_facts: dict[str, str] | None = None

    def look(self) -> dict[str, int]:
        timed = [{**r, "start_ns": n * MS, "end_ns": n * MS + MS // 2} for n, r in enumerate(self.rows)]
        finding = check(history(timed, lanes=self.lanes, roles=SLOTS, lane_facts=self.lane_facts))
        assert not [s for s in finding.missing if "raised" in s or "could not" in s]
        return nonzero(finding.anomalies)

    def add(self, *lines: str, at: int | None = None) -> None:
        new = [row(line) for line in lines]
        place = len(self.rows) if at is None else at
        self.rows[place:place] = new

    def find(self, f: str, **values: int) -> int:
        return next(n for n, r in enumerate(self.rows) if r["f"] == f and all(r[k] == v for k, v in values.items()))


# -- transactions ------------------------------------------------------------------------------------------------------


@st.composite
def of_transactions(draw: st.DrawFn) -> World:
    """Two processes, each one transaction after the other, interleaved in any way; each sends one to three messages to
    two logs, reads what was committed before it, and commits or aborts. The final reader reads what is committed."""
    w = World([], [])
    w.add("ok control - error=start")
    places, message, lying = [0, 0], 0, []
    open_: dict[int, list[tuple[int, int, int]]] = {}
    number = {0: 0, 1: 0}
    readable: list[tuple[int, int, int]] = []
    handed: dict[int, set[int]] = {0: set(), 1: set()}
    for _ in range(draw(st.integers(8, 30))):
        by = draw(st.integers(0, 1))
        if by not in open_:
            number[by] += 1
            open_[by] = []
            w.add(f"ok txn_begin - batch={number[by]} by={by}")
            continue
        do = draw(st.sampled_from(("send", "send", "read", "commit", "abort")))
        if do == "send":
            lane = draw(st.integers(0, 1))
            w.add(f"ok send {message}@{places[lane]} lane={lane} key={by} batch={number[by]} by={by}")
            open_[by].append((message, lane, places[lane]))
            places[lane] += 1
            message += 1
        if do == "read":
            new = [m for m in readable if m[0] not in handed[by]]
            if new:
                # Each reads every log in order, and goes on where it was.
                m, lane, pos = min((x for x in new if x[1] == new[0][1]), key=lambda x: x[2])
                if not any(x[1] == lane and x[2] > pos and x[0] in handed[by] for x in readable):
                    handed[by].add(m)
                    w.add(f"ok receive {m}@{pos} lane={lane} batch={number[by]} by={by}")
        if do in ("commit", "abort"):
            w.add(f"ok txn_{do} - batch={number[by]} by={by}")
            sent = open_.pop(by)
            if do == "commit":
                # Readers see a log up to the first transaction that is still open.
                lying += sent
                held = [x for rest in open_.values() for x in rest]
                readable += [
                    x for x in sorted(lying, key=lambda x: x[2])
                    if x not in readable and not any(h[1] == x[1] and h[2] < x[2] for h in held)
                ]  # fmt: skip
                w.chosen += [number[by] * 2 + by]
    for by in sorted(open_):
        w.add(f"ok txn_abort - batch={number[by]} by={by}")
    for m, lane, pos in sorted(lying, key=lambda x: (x[1], x[2])):
        w.add(f"ok receive {m}@{pos} lane={lane} by=3")
    w.add("ok control - error=drained lane=0", "ok control - error=drained lane=1")
    return w


def read_from_each_other(w: World, txn: int) -> set[str] | None:
    """Two transactions that were open together each see, in queues of their own, what the other sends."""
    number, by = divmod(txn, 2)
    end = w.find("txn_commit", batch=number, process=by)
    others = [r["batch"] for r in w.rows[:end] if r["f"] == "txn_begin" and r["process"] == 1 - by]
    ended = [r["batch"] for r in w.rows[:end] if r["f"] in ("txn_commit", "txn_abort") and r["process"] == 1 - by]
    if not set(others) - set(ended):
        return None
    other = others[-1]
    if any(r["f"] == "txn_abort" and (r["batch"], r["process"]) == (other, 1 - by) for r in w.rows):
        return None
    w.add(
        f"ok send 501 lane=2 key=-1 batch={number} by={by}", f"ok send 502 lane=2 key=-1 batch={other} by={1 - by}",
        f"ok receive 502 lane=2 batch={number} by={by}", f"ok receive 501 lane=2 batch={other} by={1 - by}", at=end,
    )  # fmt: skip
    w.add("ok control - error=drained lane=2")
    w.lanes = ("log", "log", "queue")
    return {"g1c"}


def read_what_was_aborted(w: World, txn: int) -> set[str] | None:
    gone = [(r["process"], r["batch"]) for r in w.rows if r["f"] == "txn_abort"]
    sends = [r for r in w.rows if r["f"] == "send" and (r["process"], r["batch"]) in gone]
    if not sends:
        return None
    seen = sends[txn % len(sends)]
    w.rows.append({**row("ok receive 0"), **{c: seen[c] for c in ("msg", "pos", "lane")}, "process": 2})
    return {"aborted_read", "failed_but_seen"}


def read_its_own(w: World, txn: int) -> set[str] | None:
    number, by = divmod(txn, 2)
    sends = [n for n, r in enumerate(w.rows) if (r["f"], r["batch"], r["process"]) == ("send", number, by)]
    read = any(r["f"] == "receive" and r["process"] == by for r in w.rows)
    if not sends or read:
        return None
    sent = w.rows[sends[-1]]
    w.rows.insert(
        sends[-1] + 1, {**row("ok receive 0"), **{c: sent[c] for c in ("msg", "pos", "lane", "batch", "process")}}
    )
    return {"precommitted_read"}


# -- caches ------------------------------------------------------------------------------------------------------------


@st.composite
def of_a_cache(draw: st.DrawFn) -> World:
    """Versions of two keys are written and invalidate a cache in order; reads see the newest version or, of what was
    invalidated while they ran, any; or miss."""
    w = World([], [], lanes=("queue",))
    w.add("ok control - error=start")
    newest = {0: -1, 1: -1}
    version = 0
    for message in range(draw(st.integers(4, 12))):
        key = draw(st.integers(0, 1))
        version += draw(st.integers(1, 3))
        w.add(f"ok send {message} key={key}", f"ok receive {message} key={key}",
              f"ok effect {message} key={key} value={version}", f"ok settle {message}")  # fmt: skip
        newest[key] = version
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.integers(0, 1))
            seen = draw(st.sampled_from((newest[key], newest[key], newest[key] + 1, -1)))
            w.add(f"ok read - key={key} value={seen} by=2")
            if newest[key] >= 0:
                w.chosen.append(len(w.rows) - 1)
    w.add("ok control - error=drained lane=0")
    return w


def read_what_is_gone(w: World, at: int) -> set[str]:
    key = w.rows[at]["key"]
    done = [r["value"] for r in w.rows[:at] if r["f"] == "effect" and r["key"] == key]
    w.rows[at]["value"] = max(done) - 1
    return {"stale_read"}


# -- due times ---------------------------------------------------------------------------------------------------------


@st.composite
def of_delays(draw: st.DrawFn, word: str) -> World:
    """Delayed messages (or such that expire), each received near its time, or before it expires."""
    w = World([], [], lanes=("queue",), lane_facts={"due": word})
    w.add("ok control - error=start")
    count = draw(st.integers(2, 8))
    due = [draw(st.integers(3_000, 9_000)) for _ in range(count)]
    w.rows += [{**row(f"ok send {m}"), "value": d * MS} for m, d in enumerate(due)]
    for m, d in enumerate(due):
        least = -900 if word == "delay" else -2_000
        w.rows.append({**row(f"ok receive {m}"), "end_ns": (d + draw(st.integers(least, 900))) * MS})
        w.chosen.append(len(w.rows) - 1)
    w.add("ok control - error=drained lane=0")
    return w


def timed(w: World) -> dict[str, int]:
    rows = [r if r["f"] == "receive" else {**r, "start_ns": 0, "end_ns": n * 1000} for n, r in enumerate(w.rows)]
    return nonzero(check(history(rows, lanes=w.lanes, roles=SLOTS, lane_facts=w.lane_facts)).anomalies)


# -- the proofs --------------------------------------------------------------------------------------------------------

_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
_WHERE = st.sampled_from(("first", "middle", "last"))


def place(chosen: list[int], where: str) -> int:
    return chosen[{"first": 0, "middle": len(chosen) // 2, "last": -1}[where]]


@_SETTINGS
@given(w=of_transactions())
def test_sane_transactions_are_clean(w: World) -> None:
    assert w.look() == {}


@_SETTINGS
@given(w=of_a_cache())
def test_a_sane_cache_is_clean(w: World) -> None:
    assert w.look() == {}


@pytest.mark.parametrize("plant", [read_from_each_other, read_what_was_aborted, read_its_own], ids=lambda p: p.__name__)
def test_what_is_planted_among_transactions_is_found(plant: Callable[[World, int], set[str] | None]) -> None:
    planted = 0

    @_SETTINGS
    @given(w=of_transactions(), where=_WHERE)
    def each(w: World, where: str) -> None:
        nonlocal planted
        expected = plant(w, place(w.chosen, where)) if w.chosen else None
        if expected is not None:
            planted += 1
            assert set(w.look()) == expected

    each()
    assert planted >= 5


def test_a_stale_read_is_found_wherever_it_is() -> None:
    planted = 0

    @_SETTINGS
    @given(w=of_a_cache(), where=_WHERE)
    def each(w: World, where: str) -> None:
        nonlocal planted
        if w.chosen:
            planted += 1
            at = place(w.chosen, where)
            expected = read_what_is_gone(w, at) if w.rows[at]["value"] >= 0 else set()
            assert set(w.look()) == expected

    each()
    assert planted >= 20


@pytest.mark.parametrize(("word", "by_ms", "key"), [
    ("delay", -1_100, "delivered_early"), ("delay", 1_100, "delivered_late"), ("expiry", 1_100, "expired_but_delivered"),
])  # fmt: skip
def test_what_comes_at_the_wrong_time_is_found(word: str, by_ms: int, key: str) -> None:
    @_SETTINGS
    @given(w=of_delays(word), where=_WHERE)
    def each(w: World, where: str) -> None:
        assert timed(w) == {}
        late = w.rows[place(w.chosen, where)]
        due = w.rows[w.find("send", msg=late["msg"])]["value"]
        late["end_ns"] = due + by_ms * MS
        assert timed(w) == {key: 1}

    each()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lane_that_vanishes_takes_its_messages_with_it(lost: int) -> None:
    """Nothing of it is lost: it is not known what was in it."""
    w = World([], [], lanes=("queue", "queue"))
    w.add("ok control - error=start", *(f"ok send {m} lane={m % 2}" for m in range(6)))
    w.add(*(f"ok receive {m} lane={m % 2}" for m in range(6) if m % 2 != lost))
    w.add(f"ok control - error=definition~lost lane={lost}", f"ok control - error=drained lane={1 - lost}")
    assert w.look() == {"definition_lost": 1}
