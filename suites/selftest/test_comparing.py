"""A comparison from its plans to its entry, on the memory broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brokerproof import run
from brokerproof.claim import Claim
from brokerproof.errors import PlanError
from brokerproof.experiment import Cell, ComparisonExperiment
from brokerproof.history import COLUMNS, OK, F, History, Meta, read_history
from brokerproof.plan import Destination, Receiver, Sender, Workload
from brokerproof.rates import done, rate_per_s
from brokerproof.results import RunFolder

CLAIM = Claim(id="t/faster", revision=1, kind="comparison", sentence="s", source="s", control="half the rate")


def arm(rate_per_s: float) -> Workload:
    return Workload(
        destinations=(Destination(name="q", kind="queue"),), load_s=10.0,
        senders=(Sender(settings={"confirm": True}, rate_per_s=rate_per_s, count=40),),
    )  # fmt: skip


def drained(work_ms: float | None, prefetch: int = 1, count: int | None = 40) -> Workload:
    """Counted messages, sent as fast as they go, then received by a consumer that takes that long for each."""
    return Workload(
        destinations=(Destination(name="q", kind="queue"),), load_s=10.0,
        senders=(Sender(settings={"confirm": True}, count=count),), receivers=(Receiver(work_ms=work_ms, prefetch=prefetch),),
    )  # fmt: skip


def decided(tmp_path: Path, experiment: ComparisonExperiment, *, version: str = "sound") -> dict[str, Any]:
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=0, command="")
    session = run.Session(folder, expected_in=tmp_path, progress=lambda *_: None)
    try:
        return run.decide(
            session, Cell(claim=CLAIM, broker="memory", version=version, profile="standard", seed=1), experiment
        )
    finally:
        session.close()


def test_the_arms_take_turns_in_being_first() -> None:
    experiment = ComparisonExperiment(topology="single", treatment=arm(400.0), control=arm(200.0))
    cell = Cell(claim=CLAIM, broker="memory", version="sound")
    assert [list(experiment.plans(cell, n)) for n in range(2)] == [["treatment", "control"], ["control", "treatment"]]


def test_a_comparison_is_decided_and_ends_when_its_messages_are_sent(tmp_path: Path, state: Path) -> None:
    entry = decided(tmp_path, ComparisonExperiment(topology="single", treatment=arm(400.0), control=arm(200.0)))
    assert entry["verdict"] == "HOLDS"
    assert entry["comparison"]["pairs"] == 10
    assert entry["comparison"]["ratio"] == pytest.approx(2.0, rel=0.2)
    assert [len(entry["compared"]["trial_ids"][arm]) for arm in ("treatment", "control")] == [10, 10]
    assert entry["duration_s"] < 20 * 10.0 / 2  # each would load for 10 s


def test_arms_that_do_not_do_the_same_work_are_not_compared(tmp_path: Path, state: Path) -> None:
    experiment = ComparisonExperiment(
        topology="single", treatment=arm(400.0), control=arm(200.0), pairs={"standard": 2}
    )
    entry = decided(tmp_path, experiment, version="loses-acknowledged")
    assert (entry["verdict"], entry["comparison"]) == ("UNKNOWN", None)


def test_consumers_are_compared_by_what_they_work_off_of_a_backlog(tmp_path: Path, state: Path) -> None:
    experiment = ComparisonExperiment(topology="single", treatment=drained(10.0), control=drained(30.0), by="effect")
    entry = decided(tmp_path, experiment)
    assert (entry["verdict"], entry["comparison"]["pairs"]) == ("HOLDS", 10)
    assert entry["comparison"]["ratio"] == pytest.approx(3.0, rel=0.35)
    assert "messages/s worked off" in entry["reason"]
    for trial in entry["compared"]["trial_ids"]["treatment"]:
        history = read_history(tmp_path / "run" / "trials" / trial / "history.arrow")
        ends, starts = (history[c][history["f"] == F[f]] for c, f in (("end_ns", "send"), ("start_ns", "receive")))
        assert len(ends) == 40 and ends.max() < starts.min()  # all of it was there before anybody came to take it


def test_consumers_are_compared_by_what_they_receive(tmp_path: Path, state: Path) -> None:
    experiment = ComparisonExperiment(
        topology="single", treatment=drained(5.0, 2), control=drained(20.0, 2), by="receive", pairs={"standard": 10}
    )
    entry = decided(tmp_path, experiment)
    assert entry["verdict"] == "HOLDS"
    assert "messages/s received" in entry["reason"]


def test_a_backlog_that_came_at_one_moment_has_no_rate(tmp_path: Path, state: Path) -> None:
    experiment = ComparisonExperiment(
        topology="single", treatment=drained(1.0, count=1), control=drained(1.0, count=1), by="receive",
        pairs={"standard": 1},
    )  # fmt: skip
    assert "at one moment" in decided(tmp_path, experiment)["reason"]


def test_consumers_that_do_not_do_all_the_work_are_not_compared(tmp_path: Path, state: Path) -> None:
    experiment = ComparisonExperiment(
        topology="single", treatment=drained(1.0), control=drained(2.0), by="effect", pairs={"standard": 10}
    )
    entry = decided(tmp_path, experiment, version="loses-acknowledged")
    assert (entry["verdict"], entry["comparison"]) == ("UNKNOWN", None)


def test_each_arm_has_its_own_settings_of_the_broker() -> None:
    experiment = ComparisonExperiment(
        topology="single", treatment=arm(400.0), control=arm(200.0), settings={"a": 1}, control_settings={"a": 2}
    )
    plans = experiment.plans(Cell(claim=CLAIM, broker="memory", version="sound"), 0)
    assert {arm: plan.settings for arm, plan in plans.items()} == {"treatment": {"a": 1}, "control": {"a": 2}}


@pytest.mark.parametrize(
    ("load", "by", "why"),
    [
        (arm(1.0), "effect", "needs receivers"),
        (drained(1.0), "send", "needs no receivers"),
        (drained(1.0, count=None), "effect", "has no count"),
    ],
)
def test_an_arm_that_does_not_count_what_it_is_compared_by_is_no_plan(load: Workload, by: Any, why: str) -> None:
    experiment = ComparisonExperiment(topology="single", treatment=load, control=load, by=by)
    with pytest.raises(PlanError, match=why):
        experiment.plans(Cell(claim=CLAIM, broker="memory", version="sound"), 0)


def a_history(rows: list[tuple[str, int, int, int, int]]) -> History:
    """(function, process, start, end, message); slot 0 sends, slot 1 consumes, slot 2 reads at the end."""
    columns = {name: np.zeros(len(rows), kind) for name, kind in COLUMNS}
    columns["f"] = np.array([F[row[0]] for row in rows], columns["f"].dtype)
    columns["outcome"][:] = OK
    for n, name in enumerate(("process", "start_ns", "end_ns", "msg"), start=1):
        columns[name] = np.array([row[n] for row in rows], columns[name].dtype)
    return History(Meta(processes=("producer", "consumer", "reader")), columns, ("",))


def test_the_clock_of_a_backlog_starts_with_its_first_batch() -> None:
    second = 10**9
    history = a_history([
        ("send", 0, 0, second // 2, 1), ("send", 0, 0, second, 2), ("send", 0, 0, second, 3),
        ("receive", 1, 2 * second, 4 * second, 1), ("receive", 4, 4 * second, 6 * second, 2),  # 4: its replacement
        ("effect", 1, 4 * second, 5 * second, 1), ("effect", 4, 6 * second, 8 * second, 2),
        ("receive", 2, 9 * second, 9 * second, 3),
    ])  # fmt: skip
    assert [done(history, by) for by in ("send", "receive", "effect")] == [3, 2, 2]
    assert rate_per_s(history, "send") == pytest.approx(3.0)
    assert rate_per_s(history, "receive") == pytest.approx(1 / 2)  # the second one, 2 s after the first
    assert rate_per_s(history, "effect") == pytest.approx(2 / 4)


def test_the_delay_of_a_message_is_from_its_first_send_to_its_first_receipt() -> None:
    s = 1_000_000_000
    history = a_history([
        ("send", 0, 0, 1 * s, 0), ("send", 0, 1 * s, 2 * s, 1), ("send", 0, 1 * s, 2 * s, 2), ("send", 0, 1 * s, 2 * s, 3),
        # Delays of 0.5, 2 and 4 s; the second receipt of the first, the final read, and what never came say nothing.
        ("receive", 1, s // 2, s // 2, 0), ("receive", 1, 9 * s, 9 * s, 0), ("receive", 1, 3 * s, 3 * s, 1),
        ("receive", 1, 5 * s, 5 * s, 2), ("receive", 2, 1 * s, 1 * s, 1),
    ])  # fmt: skip
    assert rate_per_s(history, "delay") == pytest.approx(1 / 2)
    assert done(history, "delay") == 3
