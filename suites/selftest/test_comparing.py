"""A comparison from its plans to its entry, on the memory broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brokerproof import run
from brokerproof.claim import Claim
from brokerproof.experiment import Cell, ComparisonExperiment
from brokerproof.plan import Destination, Sender, Workload
from brokerproof.results import RunFolder

CLAIM = Claim(id="t/faster", revision=1, kind="comparison", sentence="s", source="s", control="half the rate")


def arm(rate_per_s: float) -> Workload:
    return Workload(
        destinations=(Destination(name="q", kind="queue"),), load_s=10.0,
        senders=(Sender(settings={"confirm": True}, rate_per_s=rate_per_s, count=40),),
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
