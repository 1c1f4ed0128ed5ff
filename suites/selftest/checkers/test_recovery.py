"""What an injection cost, from literal histories."""

from __future__ import annotations

from typing import Any

import pytest
from storybook import told

from brokerproof.checkers.base import check


def costs(*rows: str, **how: Any) -> list[dict[str, Any]]:
    return [dict(each) for each in check(told(*rows, **how)).recovery]


def test_nothing_injected_costs_nothing() -> None:
    assert costs("ok send a", "ok receive a") == []
    assert costs("ok fault - error=inject_kill_n1") == []


def test_one_injection() -> None:
    (cost,) = costs(
        "ok send 1 at=0..1 due_ns=0",
        "ok send 2 at=500..502 due_ns=499000000",
        "ok fault - error=inject_kill_n1,n2 at=1000..1000",
        "info send 3 at=990..1700",       # the first to be told of anything
        "info send 4 at=1100..1900",
        "ok send 5 at=3000..3500",
        "ok fault - error=heal_kill at=3600..3600",
        "ok send 6 at=4000..4010",
        *(f"ok receive {n} at={4100 + n}" for n in (1, 2, 5, 6, 6)),
    )  # fmt: skip
    assert (cost["fault"], cost["targets"], cost["injected_s"], cost["healed_s"]) == ("kill", "n1,n2", 1.0, 3.6)
    assert cost["detection_s"] == pytest.approx(0.7)
    assert cost["gap_s"] == pytest.approx(2.5)
    assert cost["rto_s"] == pytest.approx(2.5)
    assert cost["clients"] == {"n": 1, "never": 0, "first_s": 2.5, "median_s": 2.5, "last_s": 2.5}
    assert cost["rpo"] == {"messages": 0, "seconds": 0.0}
    assert [cost["latency_ms"][when]["n"] for when in ("before", "during", "after")] == [2, 1, 1]
    assert cost["latency_ms"]["before"]["p50"] == pytest.approx(2.0)
    assert cost["latency_ms"]["during"]["p999"] == pytest.approx(500)
    assert cost["duplicates"] == {"messages": 3, "twice": 1, "ratio": pytest.approx(1 / 3, abs=1e-6)}


def test_clients_and_lanes_come_back_one_by_one() -> None:
    (cost,) = costs(
        "ok fault - error=inject_stop at=100..100",
        "ok send 1 by=0 lane=0 at=150..200",
        "info send 2 by=4 lane=1 at=150..900", "ok send 3 by=4 lane=1 at=1000..1100",
        "info send 4 by=8 lane=2 at=150..900",
        "ok receive 1", "ok receive 3",
        lanes=("queue", "queue", "queue"), roles=("producer",),
    )  # fmt: skip
    spread = {"n": 3, "never": 1, "first_s": 0.1, "median_s": 0.55, "last_s": 1.0}
    assert cost["lanes"] == spread
    # One slot: three generations of the same client.
    assert cost["clients"]["n"] == 1


def test_losses_belong_to_the_injection_they_are_next_to() -> None:
    first, second = costs(
        "ok send 1 at=0..10", "ok send 2 at=20..30",
        "ok fault - error=inject_kill_a at=100..100", "ok fault - error=heal_kill at=200..200",
        "ok send 3 at=300..310",
        "ok fault - error=inject_kill_b at=1000..1000", "ok send 4 at=1100..1110",
        "ok fault - error=heal_kill at=1200..1200", "ok send 5 at=1300..1310",
        "ok receive 1", "ok receive 5",
    )  # fmt: skip
    assert first["rpo"] == {"messages": 2, "seconds": pytest.approx(0.28)}
    assert second["rpo"]["messages"] == 2
    assert (first["healed_s"], second["healed_s"]) == (0.2, 1.2)


def test_never_healed_and_never_back() -> None:
    (cost,) = costs(
        "ok send 1 at=0..1", "ok fault - error=inject_pause_x at=10..10", "info send 2 at=11..20", "ok receive 1"
    )
    assert cost["healed_s"] is None
    assert cost["rto_s"] is None
    assert cost["clients"]["never"] == 1
    assert cost["latency_ms"]["after"]["n"] == 0


def test_consumers_are_asked_for_doubles_and_the_reader_only_where_there_are_none() -> None:
    sent = ("ok fault - error=inject_kill", "ok send 1", "ok send 2")
    (both,) = costs(*sent, "ok receive 1", "ok receive 2", "ok receive 1 by=3", "ok receive 2 by=3")
    assert both["duplicates"]["twice"] == 0
    (read,) = costs(*sent, "ok receive 1 by=3", "ok receive 1 by=3", "ok receive 2 by=3")
    assert read["duplicates"]["twice"] == 1
