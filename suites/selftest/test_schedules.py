"""Schedules are data from a seed, within their limits, whoever draws them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerproof.errors import UsageError
from brokerproof.faults.base import faults
from brokerproof.plan import Injection
from brokerproof.schedules import (
    Ground,
    Limits,
    end_s,
    equipment,
    fitted,
    lacking,
    missing_faults,
    named,
    overlapping,
    paced,
    prose,
    randomised,
    repeated,
    rotated,
    schedules,
    single,
)

CHOICES = [("kill", "leader"), ("kill", "minority"), ("partition", "leader"), ("reset", "all"), ("stall", "leader")]


def offsets(schedule: tuple[Injection, ...]) -> list[tuple[str, float, float]]:
    return [(i.fault, i.at_s, i.for_s) for i in schedule]


def test_repeated_keeps_the_distance_and_the_role() -> None:
    thrice = repeated(single("kill", at_s=1.0, for_s=2.0), times=3, every_s=5.0)
    assert offsets(thrice) == [("kill", 1.0, 2.0), ("kill", 6.0, 2.0), ("kill", 11.0, 2.0)]
    assert {i.target for i in thrice} == {"leader"}


def test_rotated_leaves_quiet_in_between_and_overlapping_does_not() -> None:
    one, two = single("kill", at_s=1.0, for_s=2.0), single("reset", "all", at_s=4.0, for_s=1.0)
    assert offsets(rotated(one, two, (), one, quiet_s=3.0)) == [
        ("kill", 1.0, 2.0), ("reset", 6.0, 1.0), ("kill", 10.0, 2.0),
    ]  # fmt: skip
    assert offsets(overlapping(two, one)) == [("kill", 1.0, 2.0), ("reset", 4.0, 1.0)]
    assert end_s(rotated(one, two, quiet_s=3.0)) == 7.0
    assert end_s(()) == 0.0
    assert offsets(paced(one, 0.1)) == [("kill", 0.1, 0.2)]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (single("kill", "majority"), "2 of 3 nodes are out, more than 1"),
        (single("kill", "all"), "3 of 3 nodes are out"),
        (overlapping(single("kill", "a"), single("pause", "b", at_s=2.0)), "at 2 s 2 of 3 nodes are out"),
        (overlapping(single("kill"), single("reset", "all"), single("client_kill", "consumer")), "3 faults are on at once"),
        (overlapping(single("reset", "all"), single("stall", "all")), "2 faults are on client links at once, more than 1"),
        (rotated(single("kill"), single("pause"), quiet_s=1.0), "pause at 5 s follows 1 s after kill, earlier than 2 s"),
        ((Injection(fault="kill", until_read=True),), "stays on through the final read"),
        (single("a_fault_of_tomorrow", "all"), "3 of 3 nodes are out"),
    ],
)  # fmt: skip
def test_beyond_the_limits_is_said_why(schedule: tuple[Injection, ...], why: str) -> None:
    assert why in Limits().beyond(schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        single("kill", "minority"), single("reset", "all"), rotated(single("kill"), single("pause"), quiet_s=2.0),
        overlapping(single("kill"), single("reset", "all")), (),
    ],
)  # fmt: skip
def test_within_the_limits_liveness_is_asked_for(schedule: tuple[Injection, ...]) -> None:
    assert Limits().beyond(schedule) == ""


def test_a_single_node_may_be_restarted_and_five_may_lose_two() -> None:
    assert Limits(nodes=1).beyond(single("kill", "all")) == ""
    assert Limits(nodes=5).beyond(overlapping(single("kill", "a"), single("pause", "b"))) == ""
    assert Limits(nodes=5, out_max=1).beyond(overlapping(single("kill", "a"), single("pause", "b"))) != ""


def test_an_injection_is_moved_to_where_it_fits() -> None:
    kill = single("kill", at_s=1.0, for_s=3.0)
    moved = fitted(kill, Injection(fault="pause", at_s=2.0, for_s=1.0), Limits())
    assert moved is not None
    assert moved.at_s == 6.0
    assert fitted(kill, Injection(fault="reset", target="all", at_s=2.0), Limits()) == Injection(
        fault="reset", target="all", at_s=2.0
    )
    assert fitted((), Injection(fault="kill", target="all"), Limits()) is None


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(), nodes=st.sampled_from([1, 3, 5]), overlap=st.integers(1, 3), quiet_s=st.sampled_from([0.0, 2.0])
)
def test_what_is_drawn_stays_within_the_limits_and_is_the_seeds(
    seed: int, nodes: int, overlap: int, quiet_s: float
) -> None:
    limits = Limits(nodes=nodes, overlap_max=overlap, quiet_s=quiet_s)
    drawn = randomised(seed, limits, CHOICES, within_s=30.0)
    assert limits.beyond(drawn) == ""
    assert drawn == randomised(seed, limits, CHOICES, within_s=30.0)
    assert end_s(drawn) <= 30.0
    assert drawn


def test_storms_differ_by_their_seed_and_overlap() -> None:
    storms = [named("storm", Ground(seed=seed)) for seed in range(20)]
    assert len({repr(storm) for storm in storms}) == 20
    assert any(b.at_s < a.at_s + a.for_s for storm in storms for a, b in pairwise(storm))
    assert all(i.fault != "partition" for i in named("storm", Ground(seed=1, peers=False)))
    assert {i.fault for storm in storms for i in storm} >= {"partition", "kill", "reset"}


@pytest.mark.parametrize("name", schedules())
def test_every_named_schedule_is_data_that_says_what_it_does(name: str) -> None:
    found = named(name)
    assert found
    assert len(prose(name)) > 60
    assert all(i.at_s >= 0 and i.for_s > 0 for i in found)
    if name != "disk":
        assert Limits(quiet_s=0.0).beyond(found) == "" or missing_faults(found)


@pytest.mark.parametrize("name", schedules())
def test_a_named_schedule_can_be_used_or_says_what_it_needs(name: str) -> None:
    found = named(name)
    missing = [i.fault for i in found if i.fault not in faults()]
    said = lacking(name, found, peers=True)
    assert all(fault in said for fault in missing)
    assert bool(said) == bool(missing)
    if not missing:
        assert isinstance(equipment(found), tuple)


def test_a_rolling_restart_takes_one_node_out_at_a_time() -> None:
    assert Limits().beyond(single("restart_rolling", "all")) == ""


def test_a_fault_that_is_not_there_is_named() -> None:
    made = single("melt_down", "all")
    assert missing_faults(made) == ("melt_down",)
    assert lacking("x", made, peers=True) == "schedule x needs the fault melt_down, not in this version"
    assert "needs links between nodes, for partition" in lacking("x", single("partition"), peers=False)
    assert (
        lacking("x", single("power_cut"), peers=True, equipped=False) == "schedule x needs nodes with disk of their own"
    )
    with pytest.raises(UsageError, match="did you mean 'storm'"):
        named("strom")
