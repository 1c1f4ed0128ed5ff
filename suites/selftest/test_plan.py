from __future__ import annotations

import json
from dataclasses import replace

import pytest

from brokerproof.errors import PlanError
from brokerproof.plan import Destination, Injection, Plan, Receiver, Sender, Workload

PLAN = Plan(
    product="kafka", version="4.3.1", topology="cluster", seed=7, trial="t-0",
    workload=Workload(
        destinations=(Destination(name="a", kind="log", partitions=3), Destination(name="b", kind="queue")),
        senders=(Sender(settings={"acks": "all"}), Sender(destination=1)), receivers=(Receiver(destination=1),),
    ),
    schedule=(Injection(fault="kill", options={}),), settings={"x": 1},
)  # fmt: skip


def test_a_plan_survives_its_file() -> None:
    assert Plan.from_json(json.loads(PLAN.dumps())) == PLAN


def test_partitions_are_lanes() -> None:
    assert PLAN.workload.lanes == ((0, 0), (0, 1), (0, 2), (1, 0))
    assert PLAN.workload.first_lane(1) == 3
    assert PLAN.workload.roles == ("producer", "producer", "consumer", "reader", "reader")


def test_the_same_plan_has_the_same_trial_number_and_another_trial_another() -> None:
    again = Plan.from_json(json.loads(PLAN.dumps()))
    assert again.trial_number == PLAN.trial_number
    assert replace(PLAN, trial="t-1").trial_number != PLAN.trial_number
    assert replace(PLAN, seed=8).trial_number != PLAN.trial_number


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"destinations": ()}, "has no destination"),
        ({"senders": (Sender(destination=2),)}, "sender 0 uses destination 2, but there are only 2"),
        ({"receivers": (Receiver(destination=-1),)}, "receiver 0 uses destination -1"),
        ({"senders": (Sender(again_of=0),)}, "sender 0 sends again what sender 0 sends"),
        ({"senders": (Sender(count=3), Sender(again_of=0, count=4))}, "the same destination, count"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        replace(PLAN, workload=replace(PLAN.workload, **change)).validate()  # type: ignore[arg-type]


def test_a_fault_before_the_start_is_refused() -> None:
    with pytest.raises(PlanError, match="kill at -1"):
        replace(PLAN, schedule=(Injection(fault="kill", at_s=-1),)).validate()


@pytest.mark.parametrize("data", [{}, {"schema": 2}, {"workload": 3}, {**PLAN.to_json(), "surprise": 1}])
def test_what_is_no_plan_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(data)
