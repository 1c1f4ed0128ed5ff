"""Cells that put the same injections on the same cluster share their trials, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.claim import Claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Destination, Injection, Sender, Workload
from brokerproof.sharing import ARMS_MAX, Blocks


def _cell(slug: str) -> Cell:
    claim = Claim(
        id=f"producer/{slug}", revision=1, kind="promise", sentence="", source="", deciding=("lost",), control="c"
    )
    return Cell(claim=claim, broker="memory", version="sound", profile="quick", seed=7)


def _arm(name: str) -> Workload:
    return Workload(destinations=(Destination(name="q", kind="queue"),), senders=(Sender(settings={"send": name}),))


CUT = (Injection(fault="link_down", target="all", at_s=1.0, for_s=1.0),)
PROMISE = Experiment(topology="single", treatment=_arm("confirmed"), control=_arm("blind"), schedule=CUT)
HAZARD = replace(PROMISE, treatment=PROMISE.control, control=PROMISE.treatment)


def test_a_promise_and_its_hazard_are_one_block_with_each_arm_once() -> None:
    promise, hazard = _cell("promise"), _cell("hazard")
    blocks = Blocks([(promise, PROMISE), (hazard, HAZARD)])
    ((one, of_promise),) = blocks.of(promise, PROMISE, 0)
    ((two, of_hazard),) = blocks.of(hazard, HAZARD, 0)
    assert one is two
    # Treatment and control are shared; each cell's sham is of its own control's settings.
    assert len(one.plans) == len(blocks.coming) == 4
    assert one.trials(of_promise)[:2] == list(reversed(two.trials(of_hazard)[:2]))
    assert one.trials(of_promise)[2] != two.trials(of_hazard)[2]


def test_the_lanes_of_a_block_that_was_run_are_no_longer_coming() -> None:
    cell = _cell("promise")
    blocks = Blocks([(cell, PROMISE)])
    ((block, _),) = blocks.of(cell, PROMISE, 0)
    block.done = True
    assert blocks.coming == []
    assert blocks.of(cell, PROMISE, 0)[0][0] is block


def test_another_time_fault_topology_setting_or_repetition_is_another_injection() -> None:
    cell = _cell("promise")
    later = replace(PROMISE, schedule=(replace(CUT[0], at_s=2.0),))
    other = replace(PROMISE, schedule=(replace(CUT[0], fault="reset"),))
    settings = replace(PROMISE, settings={"x": 1})
    groups = replace(PROMISE, link_groups=("consumer",))
    blocks = Blocks()
    first = blocks.of(cell, PROMISE, 0)[0][0]
    for n, experiment in enumerate((later, other, settings, groups)):
        assert blocks.of(_cell(f"other-{n}"), experiment, 0)[0][0] is not first
    assert blocks.of(cell, PROMISE, 1)[0][0] is not first


def test_equal_arms_of_one_cell_are_two_trials() -> None:
    cell = _cell("no-dedup-here")
    same = replace(PROMISE, control=PROMISE.treatment)
    ((block, plans),) = Blocks([(cell, same)]).of(cell, same, 0)
    assert len(set(block.trials(plans))) == len(plans) == 3


def test_a_block_is_not_crowded_and_every_cell_finds_its_own_again() -> None:
    cells = [
        (_cell(f"c{n}"), replace(PROMISE, control=_arm(f"blind {n}")))
        for n in range(5)
    ]  # fmt: skip
    blocks = Blocks(cells)
    served = [blocks.of(cell, experiment, 0)[0] for cell, experiment in cells]
    assert all(len(block.plans) <= ARMS_MAX for block, _ in served)
    assert all(block.serves(plans) for block, plans in served)
    assert 1 < len({id(block) for block, _ in served}) < len(cells)


def test_cells_with_nothing_in_common_do_not_share() -> None:
    one, two = _cell("one"), _cell("two")
    apart = replace(PROMISE, treatment=_arm("x"), control=_arm("y"))
    blocks = Blocks([(one, PROMISE), (two, apart)])
    assert blocks.of(one, PROMISE, 0)[0][0] is not blocks.of(two, apart, 0)[0][0]


def test_a_cell_that_nobody_announced_gets_a_block_of_its_own() -> None:
    known, late = _cell("known"), _cell("late")
    blocks = Blocks([(known, PROMISE)])
    ((first, _),) = blocks.of(known, PROMISE, 0)
    first.done = True
    ((second, plans),) = blocks.of(late, replace(PROMISE, control=_arm("z")), 0)
    assert second is not first
    assert second.serves(plans)


CUT_POWER = (Injection(fault="power_cut", target="all", at_s=1.0, for_s=1.0),)
ON_DISK = replace(PROMISE, schedule=CUT_POWER, equipment=("disk",), control_equipment=("disk", "fsync_void"))


def test_a_control_with_other_equipment_has_a_cluster_and_an_injection_of_its_own() -> None:
    cell = _cell("disk")
    assert {arm: plan.equipment for arm, plan in ON_DISK.plans(cell, 0).items()} == {
        "treatment": ("disk",), "control": ("disk", "fsync_void"), "sham": ("disk", "fsync_void"),
    }  # fmt: skip
    assert [[p.arm for p in block] for block in ON_DISK.blocks(cell, 0)] == [["treatment"], ["sham"], ["control"]]
    assert len({id(block) for block, _ in Blocks().of(cell, ON_DISK, 0)}) == 3
    assert ON_DISK.all_equipment == ("disk", "fsync_void")
    assert PROMISE.all_equipment == ()


def test_arms_that_differ_in_equipment_alone_are_not_shared() -> None:
    one, other = _cell("one"), _cell("other")
    alike = replace(ON_DISK, treatment=PROMISE.control, control_equipment=None)
    void = replace(alike, equipment=("disk", "fsync_void"))
    blocks = Blocks([(one, alike), (other, void)])
    assert {id(b) for b, _ in blocks.of(one, alike, 0)}.isdisjoint(id(b) for b, _ in blocks.of(other, void, 0))
