"""The order of things under several injections: each at its own offset, whatever another one takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brokerproof import run
from brokerproof.errors import EnvironmentProblem, PlanError
from brokerproof.faults.base import Probe, Scene, make
from brokerproof.plan import Destination, Injection, Plan, Sender, Workload
from brokerproof.results import RunFolder
from brokerproof.runtime.pool import ClusterKey
from brokerproof.workloads.stream import Block


def plan(*schedule: Injection, load_s: float = 1.0) -> Plan:
    return Plan(
        product="memory", version="sound", topology="single", trial="t", schedule=schedule,
        workload=Workload(
            destinations=(Destination(name="q", kind="queue"),),
            senders=(Sender(settings={"confirm": True}, rate_per_s=500.0),), load_s=load_s,
        ),
    )  # fmt: skip


def drive(tmp_path: Path, made: Plan, recorded: Sequence[Sequence[str]] | None = None) -> list[Mapping[str, Any]]:
    """The injections as ``faults.json`` has them."""
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=0, command="")
    session = run.Session(folder, expected_in=tmp_path, progress=lambda *_: None)
    key = ClusterKey.of("memory", "sound", "single", {})
    try:
        run.run_block(session, "test", [made], key, link_groups=("producer",), recorded=recorded)
    finally:
        session.close()
    found: list[Mapping[str, Any]] = json.loads((folder.trial("t") / "faults.json").read_text())["injections"]
    return found


def test_what_one_takes_to_be_looked_at_does_not_delay_the_next(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(make("latency"))
    probe = kind.probe

    def slow(self: Any, scene: Scene, targets: Sequence[str]) -> Probe:
        time.sleep(0.6)  # what a look at a real cluster takes
        return probe(self, scene, targets)

    monkeypatch.setattr(kind, "probe", slow)
    injections = drive(
        tmp_path,
        plan(
            Injection(fault="latency", target="all", at_s=0.2, for_s=0.4),
            Injection(fault="kill", target="leader", at_s=0.3, for_s=0.2),
            Injection(fault="client_kill", target="producer", at_s=0.6, for_s=0.1),
        ),
    )
    assert [i["fault"] for i in injections] == ["latency", "kill", "client_kill"]
    assert all(i["late_ms"] < 250 for i in injections), injections  # one after the other: 600 and more
    assert [round(i["planned_s"] - injections[0]["planned_s"], 3) for i in injections] == [0.0, 0.1, 0.4]


def test_what_was_still_healing_when_one_looked_ahead_is_looked_at_again(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heal = Block.replace

    def slowly(self: Any, role: str) -> None:
        time.sleep(1.2)  # what new processes take on a slow machine
        heal(self, role)

    monkeypatch.setattr(Block, "replace", slowly)
    monkeypatch.setattr("brokerproof.faults.base.CALM_S", 0.5)
    injections = drive(
        tmp_path,
        plan(*(Injection(fault="client_kill", target="producer", at_s=at, for_s=0.1) for at in (0.5, 3.6)), load_s=4.4),
    )
    assert [i["probes"]["before"]["bites"] for i in injections] == [False, False]
    assert [i["evidence"] for i in injections] == ["took_effect", "took_effect"]


def test_a_fault_that_comes_to_nothing_among_others_is_told_and_ends_no_trial(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise EnvironmentProblem("nothing to stop there")

    monkeypatch.setattr(type(make("stop")), "break_", fails)
    stop, reset = drive(
        tmp_path,
        plan(
            Injection(fault="stop", target="leader", at_s=0.2, for_s=0.1),
            Injection(fault="reset", target="all", at_s=0.5, for_s=0.1),
        ),
    )
    assert (stop["evidence"], stop["error"]) == ("unproven", "nothing to stop there")
    assert reset["evidence"] == "took_effect"
    with pytest.raises(EnvironmentProblem, match="nothing to stop there"):
        drive(tmp_path / "alone", plan(Injection(fault="stop", target="leader", at_s=0.2, for_s=0.1)))


def test_a_role_that_a_cluster_has_not_ends_the_trial(tmp_path: Path, state: Path) -> None:
    both = [Injection(fault=name, target="leader", at_s=4.0, for_s=0.1) for name in ("partition", "reset")]
    with pytest.raises(PlanError, match="needs a cluster with peer links"):
        drive(tmp_path, plan(*both, load_s=4.2))


def test_what_stays_on_through_the_final_read_is_healed_after_it(tmp_path: Path, state: Path) -> None:
    (kept,) = drive(tmp_path, plan(Injection(fault="latency", target="all", at_s=0.2, for_s=0.1, until_read=True)))
    assert kept["evidence"] == "took_effect"
    assert kept["healing_s"] - kept["injected_s"] > 0.5


def test_recorded_targets_belong_to_their_injection(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hit: list[tuple[str, ...]] = []

    @contextmanager
    def noted(self: Any, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        hit.append(tuple(targets))
        yield

    monkeypatch.setattr(type(make("reset")), "inject", noted)
    monkeypatch.setattr(type(make("reset")), "bite_s", 0.01)
    twice = [Injection(fault="reset", target="all", at_s=at, for_s=0.1) for at in (0.2, 0.5)]
    drive(tmp_path, plan(*twice), recorded=[["producer-m1"], ["consumer-m1"]])
    assert hit == [("producer-m1",), ("consumer-m1",)]


class Lanes:
    """What a real cluster does with destinations, told."""

    product, in_process = "memory", False

    def __init__(self) -> None:
        self.did: list[str] = []

    def endpoint(self, group: str) -> Mapping[str, Any]:
        return {"at": "here"}

    def create(self, destination: Destination, name: str) -> None:
        self.did.append("create")

    def sync(self) -> None:
        self.did.append("sync")


@pytest.mark.parametrize(("age_s", "did"), [(0.2, ["sync", "create"]), (0.6, ["create", "create", "sync"])])
def test_lanes_age_together_but_young_ones_are_made_for_their_own_trial_and_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, did: list[str]
) -> None:
    monkeypatch.setattr(run, "LANE_AGE_S", 0.6)
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=0, command="")
    session = run.Session(folder, expected_in=tmp_path, progress=lambda *_: None)
    cluster: Any = Lanes()
    made = replace(plan(), lane_age_s=age_s)
    session.ahead = [replace(made, trial="another", lane_age_s=0.6)]
    try:
        age = session.lanes_ready([made], cluster, ClusterKey.of_plan(made), "test")
    finally:
        session.close()
    assert cluster.did == did
    assert age_s <= age < age_s + 0.5


def test_what_a_cell_goes_on_to_is_made_before_what_coming_cells_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison has a lane for each of its trials: made one by one, each would age while nothing else is done."""
    monkeypatch.setattr(run, "LANE_AGE_S", 0.1)
    monkeypatch.setattr(run, "AHEAD_MAX", 2)
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=0, command="")
    session = run.Session(folder, expected_in=tmp_path, progress=lambda *_: None)
    cluster: Any = Lanes()
    first, second, third, other = (
        replace(plan(), trial=name, lane_age_s=0.1) for name in ("first", "second", "third", "of another cell")
    )
    session.ahead = [first, second, third]
    monkeypatch.setattr(type(session.blocks), "coming", [other] * 5)
    try:
        for made, so_far in ((first, 3), (second, 3), (third, 3), (other, 4)):
            session.lanes_ready([made], cluster, ClusterKey.of_plan(made), "test")
            assert cluster.did.count("create") == so_far
    finally:
        session.close()
