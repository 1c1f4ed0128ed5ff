"""Figures and details that no anomaly depends on, found wanting by mutants: latencies, pauses, knots, causes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from plain_reference import on_cycles
from storybook import told

from brokerproof.checkers import timeline as timelines
from brokerproof.checkers import unavailable
from brokerproof.checkers.base import check
from brokerproof.checkers.index import Index
from brokerproof.checkers.knots import knots
from brokerproof.checkers.timeline import timeline


@pytest.mark.parametrize("sorted_max", [1 << 19, 0], ids=["sorted", "bucketed"])
def test_percentiles_of_the_latency_in_each_bin(monkeypatch: pytest.MonkeyPatch, sorted_max: int) -> None:
    """A hundred sends that take 1 … 100 ms, all ending in the third tenth of a second; one later that takes 50."""
    monkeypatch.setattr(timelines, "_SORTED_MAX", sorted_max)
    lines = [f"ok send {n} at={210 - n}..210" for n in range(1, 101)]
    drawn = timeline(Index(told(*lines, "ok send 200 at=500..550", "ok receive 1 at=212..214")))
    assert drawn["bin_s"] == 0.1
    assert drawn["sent_ok"] == [0, 0, 100, 0, 0, 1]
    assert drawn["received_ok"] == [0, 0, 1, 0, 0, 0]
    for name, middle in (("send_p50_ms", 50.5), ("send_p99_ms", 99.01)):
        assert [value is None for value in drawn[name]] == [True, True, False, True, True, False]
        assert drawn[name][2] == pytest.approx(middle, rel=0.02)
        # Half a bucket, which is a 64th of its power of two.
        assert drawn[name][5] == pytest.approx(50, rel=0.008)


def test_latency_counts_from_when_a_send_was_due() -> None:
    drawn = timeline(Index(told("ok send a at=40..50 due_ns=10000000")))
    assert drawn["send_p50_ms"] == [40.0]


@pytest.mark.parametrize("sorted_max", [1 << 21, 0], ids=["sorted", "in bins"])
def test_the_longest_pause(monkeypatch: pytest.MonkeyPatch, sorted_max: int) -> None:
    monkeypatch.setattr(unavailable, "_SORTED_MAX", sorted_max)
    ends = [*range(0, 500, 10), *range(3_000, 4_000, 10), *range(9_000, 9_500, 10)]
    finding = check(told(*(f"ok send {n} at={at}..{at + 1}" for n, at in enumerate(ends))))
    assert finding.metrics["longest_gap_s"] == pytest.approx(5.01)
    assert finding.observations["unavailable"].count == 2


def test_a_redelivery_that_is_not_flagged_is_told_from_new_disorder_by_time() -> None:
    finding = check(told("ok send a", "ok send b", "ok receive a", "ok receive b by=2", "ok receive a by=2"))
    assert finding.observations["reordered"].details == {"new": 0, "redelivery": 1, "resend": 0}


def test_knots_are_the_nodes_on_cycles_however_they_are_numbered_and_dated() -> None:
    noise = random.Random(1)
    some = 0
    for _ in range(400):
        n = noise.randrange(2, 12)
        edges = {(noise.randrange(n), noise.randrange(n)) for _ in range(noise.randrange(1, 2 * n))}
        proper = {(a, b) for a, b in edges if a != b}
        ends = np.array(sorted(edges), dtype=np.int64)
        knot = knots(np.array([noise.randrange(4) for _ in range(n)]), ends[:, 0], ends[:, 1])
        assert set(np.flatnonzero(knot >= 0).tolist()) == on_cycles(proper)
        # In one knot are those that reach each other, in another those that do not.
        for a, b in proper:
            if knot[a] >= 0 and knot[b] >= 0:
                assert (knot[a] == knot[b]) == _leads(proper, b, a)
        some += bool((knot >= 0).any())
    assert some > 100


def _leads(edges: set[tuple[int, int]], start: int, end: int) -> bool:
    reached, todo = {start}, [start]
    while todo:
        here = todo.pop()
        new = {b for a, b in edges if a == here} - reached
        reached |= new
        todo += new
    return end in reached


def test_where_nothing_ever_succeeded_the_whole_load_is_one_gap() -> None:
    finding = check(told("fail send a at=3000..4000", "fail send b at=8000..8001"))
    assert finding.metrics["longest_gap_s"] == 5.0
    assert finding.observations["unavailable"].count == 1


def test_a_time_to_recover_is_told_only_where_all_recovered() -> None:
    tale = ["ok fault - error=inject~kill at=1000..1000", "ok send a at=2000..2001", "ok send b at=2500..2501",
            "ok fault - error=inject~kill at=3000..3000", "fail send c at=3500..3501"]  # fmt: skip
    finding = check(told(*(line.replace("~", "_") for line in tale)))
    assert [o["rto_s"] for o in finding.observations["unavailable"].details["injections"]] == [1.001, None]
    assert "rto_s" not in finding.metrics
    assert check(told(*(line.replace("~", "_") for line in tale[:3]))).metrics["rto_s"] == 1.001


def test_effects_whose_lane_nobody_knows_have_every_lane_judged() -> None:
    routes = {"0": [{"lane": 0, "must": True}]}
    tale = ["ok send a", "ok send b", "ok receive a", "ok receive b", "ok effect a lane=-1"]
    # Neither is known to have had its effect in the lane that has to have it.
    assert check(told(*tale, routes=routes)).anomalies["effect_lost"].count == 2


def test_a_success_between_failures_is_no_recovery() -> None:
    tale = ["ok fault - error=inject_kill at=1000..1000", "fail send a at=1100..1101", "ok send b at=1200..1201",
            "fail send c at=1300..1301", "ok send d at=1400..1401"]  # fmt: skip
    assert check(told(*tale)).metrics["rto_s"] == 0.401


def test_effects_out_of_order_that_none_repeats() -> None:
    count = check(told("ok send a key=1", "ok send b key=1", "ok effect b key=1", "ok effect a key=1"))
    assert count.anomalies["effect_out_of_order"].details == {"repeated": 0}
