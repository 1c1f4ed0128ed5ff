"""Histories from a model of a broker that keeps its promises: clean; with one anomaly planted, that one is found, what
it implies, and nothing else, wherever it is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storybook import MS, chunks_of, history, nonzero, row

from brokerproof.checkers.base import check, keys

Row = dict[str, Any]
#: Slots: two producers, two consumers, the final reader.
SLOTS = ("producer", "producer", "consumer", "consumer", "reader")
GHOST = 999


@dataclass
class World:
    """A sane trial: every row in the order of time, a millisecond apart; one lane per consumer."""

    kind: Literal["log", "queue"]
    rows: list[Row] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def add(self, text: str, at: int | None = None) -> Row:
        r = row(text, len(self.rows))
        if at is None:
            self.rows.append(r)
        else:
            self.rows.insert(at, r)
        return r

    def timed(self) -> list[Row]:
        """Times by place, so that what was planted in between gets its own."""
        out = []
        for n, r in enumerate(self.rows):
            shift = n * MS - r["start_ns"]
            out.append({**r, "start_ns": n * MS, "end_ns": r["end_ns"] + shift if r["end_ns"] >= 0 else -1})
        return out

    def check(self) -> Any:
        kinds = [self.kind, self.kind]
        return check(history(self.timed(), lanes=kinds, roles=SLOTS))

    def find(self, f: str, msg: int) -> int:
        return next(n for n, r in enumerate(self.rows) if (r["f"], r["msg"]) == (f, msg) and r["outcome"] == "ok")


@st.composite
def worlds(draw: st.DrawFn, kind: Literal["log", "queue"]) -> World:
    """Sends of two producers with two keys each, on two lanes; each lane has one consumer, which works, then settles
    (or commits); benign noise in between. Effects of a key are in the order of its sends."""
    world = World(kind)
    world.add("ok control - error=start by=-1")
    count = draw(st.integers(5, 12))
    places = [0, 0]
    backlog: list[tuple[int, int, int]] = []
    if kind == "log":
        world.add("ok assign - lane=0 by=2")
        world.add("ok assign - lane=1 by=3")
    for msg in range(count):
        sender, key = draw(st.integers(0, 1)), draw(st.integers(0, 1))
        lane = key
        noise = draw(st.sampled_from(("", "", "", "unknown", "seen", "refused", "hole", "resend", "rebalance")))
        if noise == "hole" and kind == "log":
            places[lane] += 2
        if noise == "unknown":
            world.add(f"info send {100 + msg} lane={lane} key={key} by={sender} error=Timeout")
        if noise == "refused":
            world.add(f"fail send {200 + msg} lane=-1 key={key} by={sender} error=NotEnoughReplicas")
        if noise == "seen":
            world.add(f"info send {msg} lane={lane} key={key} by={sender} error=Timeout")
        else:
            if noise == "resend":
                world.add(f"fail send {msg} lane={lane} key={key} by={sender} error=Refused")
            pos = f"@{places[lane]}" if kind == "log" else ""
            world.add(f"ok send {msg}{pos} lane={lane} key={key} by={sender}")
            world.sent.append(msg)
        backlog.append((msg, lane, places[lane]))
        places[lane] += 1
        while backlog and draw(st.booleans()):
            deliver(draw, world, backlog.pop(0))
        if noise == "rebalance" and kind == "log":
            world.add("ok revoke - lane=0 by=2")
            world.add("ok assign - lane=0 by=2")
    for item in backlog:
        deliver(draw, world, item)
    if kind == "log":
        for lane in (0, 1):
            last = -1
            for r in [r for r in world.rows if r["f"] == "receive" and r["lane"] == lane and r["process"] in (2, 3)]:
                if r["pos"] > last:
                    last = r["pos"]
                    world.add(f"ok receive {r['msg']}@{r['pos']} lane={lane} by=4 batch=77")
    for lane in (0, 1):
        world.add(f"ok control - error=drained lane={lane} by=-1")
    return world


def deliver(draw: st.DrawFn, world: World, item: tuple[int, int, int]) -> None:
    msg, lane, pos = item
    by = 2 + lane
    if world.kind == "log":
        world.add(f"ok receive {msg}@{pos} lane={lane} by={by} batch={msg // 2}")
    else:
        world.add(f"ok receive {msg}@{10 + msg} lane={lane} by={by} attempt=0")
        if draw(st.integers(0, 5)) == 0:
            # The first delivery was never worked on, its connection was cut; the second one says so.
            world.add(f"ok receive {msg}@{30 + msg} lane={lane} by={by + 5} attempt=1")
    world.add(f"ok effect {msg} lane={lane} by={by} value={msg}")
    if world.kind == "log":
        world.add(f"ok commit - lane={lane} by={by} value={pos + 1}")
    else:
        world.add(f"ok settle {msg} lane={lane} by={by}")


def drop(world: World, msg: int, *fs: str) -> None:
    world.rows = [r for r in world.rows if r["msg"] != msg or r["f"] not in fs]


def copy(world: World, f: str, msg: int, /, *, after: int | None = None, **changes: Any) -> None:
    at = world.find(f, msg)
    world.rows.insert(len(world.rows) if after is None else after, {**world.rows[at], **changes})


def alter(world: World, f: str, msg: int, /, **changes: Any) -> None:
    world.rows = [{**r, **changes} if (r["f"], r["msg"]) == (f, msg) else r for r in world.rows]


# -- plants: each returns what has to be found; None where the world has no place for it ---------------------------------

Plant = Callable[[World, int], "set[str] | None"]


def lose(w: World, msg: int) -> set[str]:
    drop(w, msg, "receive", "effect", "settle")
    # In a log the offsets that were committed over it say that it was passed by without its effect.
    return {"lost", "effect_lost"} | ahead(w, msg)


def ahead(w: World, msg: int) -> set[str]:
    if w.kind == "queue":
        return set()
    sent = w.rows[w.find("send", msg)]
    mine = [r for r in w.rows if r["f"] == "receive" and r["lane"] == sent["lane"] and r["process"] in (2, 3)]
    first = min((r["pos"] for r in mine), default=None)
    covered = any(r["f"] == "commit" and r["lane"] == sent["lane"] and r["value"] > sent["pos"] for r in w.rows)
    out = {"commit_ahead_of_work"} if first is not None and first < sent["pos"] and covered else set()
    for by in (2 + sent["lane"], 4):
        order = [
            (n, r["pos"])
            for n, r in enumerate(w.rows)
            if r["f"] == "receive" and r["lane"] == sent["lane"] and r["process"] == by
        ]
        for (n, before), (m, after) in pairwise(order):
            moved = any(r["f"] in ("assign", "revoke") and r["process"] == by for r in w.rows[n:m])
            if before < sent["pos"] < after and not moved:
                out.add("poll_skip")
    return out


def forget_the_effect(w: World, msg: int) -> set[str]:
    by = w.rows[w.find("effect", msg)]["process"]
    drop(w, msg, "effect")
    if w.kind == "queue":
        return {"effect_lost", "settled_but_lost"} if any(r["f"] == "effect" for r in w.rows) else set()
    # Commits are judged for consumers that have effects.
    works = any(r["f"] == "effect" and r["process"] == by for r in w.rows)
    return {"effect_lost", "commit_ahead_of_work"} if works else {"effect_lost"}


def double_the_effect(w: World, msg: int) -> set[str]:
    copy(w, "effect", msg, after=w.find("effect", msg) + 1)
    return {"effect_duplicated"}


def phantom(w: World, msg: int) -> set[str]:
    place = {"pos": 10_000} if w.kind == "log" else {}
    # In a log the phantom lies at the end, where nobody is passed over; a reader of its own sees it.
    copy(w, "receive", msg, msg=GHOST, process=14, **place)
    return {"phantom"}


def corrupt(w: World, msg: int) -> set[str]:
    w.rows[w.find("receive", msg)]["msg"] = -2
    if w.kind == "log":
        return {"corrupted"}  # the final reader read it well
    again = any(r["f"] == "receive" and r["msg"] == msg for r in w.rows)
    return {"corrupted"} if again else {"corrupted", "lost"}


def misroute(w: World, msg: int) -> set[str] | None:
    if w.kind == "log":
        return None
    lane = w.rows[w.find("receive", msg)]["lane"]
    copy(w, "receive", msg, lane=1 - lane, process=9, attempt=1)
    return {"misrouted"}


def refuse_and_deliver(w: World, msg: int) -> set[str] | None:
    if sum(r["f"] == "send" and r["msg"] == msg for r in w.rows) > 1:
        return None
    alter(w, "send", msg, outcome="fail", pos=-1)
    return {"failed_but_seen"}


def deliver_twice(w: World, msg: int) -> set[str]:
    if w.kind == "log":
        # A second copy at the end of the log; who reads it there goes on in order.
        end = max(r["pos"] for r in w.rows) + 5
        copy(w, "receive", msg, pos=end, process=14)
        return {"duplicated"}
    copy(w, "receive", msg, attempt=1, process=12)  # flagged, but after the settle
    return {"duplicated"}


def deliver_twice_unflagged(w: World, msg: int) -> set[str] | None:
    if w.kind == "log":
        return None
    copy(w, "receive", msg, after=w.find("receive", msg) + 1, attempt=0, process=12)
    return {"duplicated"}


def effect_too_late(w: World, msg: int) -> set[str] | None:
    at = w.find("effect", msg)
    mine = w.rows[w.find("send", msg)]
    end = next(n for n, r in enumerate(w.rows) if r["f"] == "control" and r["error"] == "drained")
    later = [
        r for r in w.rows if r["f"] == "effect" and r["msg"] > msg
        and any((s["f"], s["msg"], s["key"], s["process"]) == ("send", r["msg"], mine["key"], mine["process"]) for s in w.rows)
    ]  # fmt: skip
    if not later:
        return None
    w.rows.insert(end, w.rows[at])
    del w.rows[at]
    return {"effect_out_of_order"} | (set() if w.kind == "queue" else {"commit_ahead_of_work"})


def effect_of_nobody(w: World, msg: int) -> set[str]:
    copy(w, "effect", msg, msg=GHOST)
    return {"effect_of_nobody"}


def effect_after_revocation(w: World, msg: int) -> set[str] | None:
    if w.kind == "queue":
        return None
    at = w.find("effect", msg)
    r = w.rows[at]
    w.rows.insert(at, {**row("ok revoke -"), "lane": r["lane"], "process": r["process"]})
    w.rows.insert(at + 2, {**row("ok assign -"), "lane": r["lane"], "process": r["process"]})
    return {"zombie_effect"}


def commit_back(w: World, msg: int) -> set[str] | None:
    commits = [n for n, r in enumerate(w.rows) if r["f"] == "commit"]
    if w.kind == "queue" or not commits:
        return None
    at = commits[msg % len(commits)]
    if w.rows[at]["value"] < 1:
        return None
    w.rows.insert(at + 1, {**w.rows[at], "value": w.rows[at]["value"] - 1})
    return {"commit_regressed"}


def commit_before_the_work(w: World, msg: int) -> set[str] | None:
    if w.kind == "queue":
        return None
    at = w.find("effect", msg)
    if w.rows[at + 1]["f"] != "commit":
        return None
    w.rows[at], w.rows[at + 1] = w.rows[at + 1], w.rows[at]
    return {"commit_ahead_of_work"}


def two_in_one_place(w: World, msg: int) -> set[str] | None:
    if w.kind == "queue":
        return None
    copy(w, "receive", msg, msg=GHOST, process=14)
    return {"inconsistent_positions", "phantom"}


def go_back(w: World, msg: int) -> set[str] | None:
    reader = [r for r in w.rows if r["process"] == 4 and r["lane"] == 0 and r["f"] == "receive"]
    if w.kind == "queue" or len(reader) < 2:
        return None
    w.rows.append({**reader[msg % (len(reader) - 1)]})
    return {"poll_nonmonotonic"}


def jump(w: World, msg: int) -> set[str] | None:
    at = [n for n, r in enumerate(w.rows) if r["process"] == 4 and r["msg"] == msg]
    if w.kind == "queue" or not at:
        return None
    lane = w.rows[at[0]]["lane"]
    mine = [r["pos"] for r in w.rows if r["process"] == 4 and r["lane"] == lane and r["f"] == "receive"]
    here = w.rows[at[0]]["pos"]
    if not (min(mine) < here < max(mine)):
        return None
    del w.rows[at[0]]
    return {"poll_skip"}


def append_out_of_order(w: World, msg: int) -> set[str] | None:
    """The log took the sender's next message first: each lies where the other should, and all who read see it so."""
    if w.kind == "queue":
        return None
    mine = w.rows[w.find("send", msg)]
    later = [
        r for r in w.rows if (r["f"], r["outcome"], r["key"], r["process"]) == ("send", "ok", mine["key"], mine["process"])
        and r["msg"] > msg
    ]  # fmt: skip
    sends = [r["msg"] for r in w.rows if r["f"] == "send"]
    if not later or sends.count(msg) > 1 or sends.count(later[0]["msg"]) > 1:
        return None
    other = later[0]
    swap = {msg: other["msg"], other["msg"]: msg}
    mine["pos"], other["pos"] = other["pos"], mine["pos"]
    w.rows = [r if r["f"] == "send" else {**r, "msg": swap.get(r["msg"], r["msg"])} for r in w.rows]
    if w.find("effect", msg) < w.find("send", msg):
        return None
    return {"send_nonmonotonic", "effect_out_of_order"}


PLANTS: tuple[Plant, ...] = (
    lose, forget_the_effect, double_the_effect, phantom, corrupt, misroute, refuse_and_deliver, deliver_twice,
    deliver_twice_unflagged, effect_too_late, effect_of_nobody, effect_after_revocation, commit_back,
    commit_before_the_work, two_in_one_place, go_back, jump, append_out_of_order,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["queue", "log"])
def test_a_sane_world_is_clean(kind: Literal["log", "queue"]) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @given(world=worlds(kind))
    def clean(world: World) -> None:
        finding = world.check()
        assert nonzero(finding.anomalies) == {}
        assert not [s for s in finding.missing if world.sent or "no send" not in s]

    clean()


@pytest.mark.parametrize("kind", ["queue", "log"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda p: p.__name__)
def test_what_is_planted_is_found_and_nothing_else(plant: Plant, kind: Literal["log", "queue"]) -> None:
    planted = 0

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        world=worlds(kind), where=st.sampled_from(("first", "middle", "last")), chunk=st.sampled_from((1 << 17, 1, 2, 3)),
    )  # fmt: skip
    def each(world: World, where: str, chunk: int) -> None:
        nonlocal planted
        if not world.sent:
            return
        place = {"first": 0, "middle": len(world.sent) // 2, "last": -1}[where]
        expected = plant(world, world.sent[place])
        if expected is None:
            return
        planted += 1
        # With a few rows at a time, what was planted lies on the borders of chunks.
        with chunks_of(chunk):
            finding = world.check()
        assert set(nonzero(finding.anomalies)) == expected
        assert not [s for s in finding.missing if "raised" in s]
        shown = {w["anomaly"] for w in finding.witnesses}
        assert shown <= expected

    each()
    if kind == "queue" and plant in (
        misroute, deliver_twice_unflagged, lose, phantom, corrupt, refuse_and_deliver, deliver_twice, double_the_effect,
    ):  # fmt: skip
        assert planted


def test_the_plants_cover_every_anomaly() -> None:
    """Those of transactions, caches, due times and lanes that vanish are planted in test_checkers_planted_more.py."""
    elsewhere = {"definition_lost", "aborted_read", "precommitted_read", "delivered_early", "delivered_late",
                 "expired_but_delivered", "g1c", "stale_read"}  # fmt: skip
    shown = {"lost", "effect_lost", "settled_but_lost", "effect_duplicated", "phantom", "corrupted", "misrouted",
             "failed_but_seen", "duplicated", "effect_out_of_order", "effect_of_nobody", "zombie_effect",
             "commit_regressed", "commit_ahead_of_work", "inconsistent_positions", "poll_nonmonotonic", "poll_skip", "send_nonmonotonic"}  # fmt: skip
    assert shown | elsewhere == {key for key, kind in keys().items() if kind == "anomaly"}
