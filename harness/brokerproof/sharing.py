"""One injection serves many cells: arms that several cells have in common are run once.

A *block* is a set of trials side by side on one cluster under one set of injections. Cells that put the same
injections on the same cluster share a block; it holds each distinct arm of theirs once. A promise and its hazard, for
one, are the same two arms, read from opposite ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Plan

#: Each arm is two processes or more; side by side they have to leave the two cores of a small machine room to breathe, or
#: time-outs strike where no fault is.
ARMS_MAX = 6


@dataclass(slots=True, eq=False)
class SharedBlock:
    """plans: the distinct arms, those of the first cell first.  failed: what ended it, if something did."""

    link_groups: tuple[str, ...]
    plans: list[Plan] = field(default_factory=list)
    done: bool = False
    failed: Exception | None = None
    _trials: dict[str, str] = field(default_factory=dict)

    def add(self, plans: Sequence[Plan]) -> None:
        """Arms that are there already are not run again."""
        for arm, plan in zip(_arms(plans), plans, strict=True):
            if arm not in self._trials:
                self._trials[arm] = plan.trial
                self.plans.append(plan)

    def serves(self, plans: Sequence[Plan]) -> bool:
        """Whether all of a cell's arms are in it."""
        return all(arm in self._trials for arm in _arms(plans))

    def takes(self, plans: Sequence[Plan]) -> bool:
        """Whether a cell's arms can still be added; arms that have nothing in common with it would only crowd it."""
        arms = {arm for arm in _arms(plans) if arm not in self._trials}
        return not self.done and len(arms) < len(plans) and len(self._trials) + len(arms) <= ARMS_MAX

    def trials(self, plans: Sequence[Plan]) -> list[str]:
        """The trial of each of a cell's arms: its own, or that of the cell which had the arm first."""
        return [self._trials[arm] for arm in _arms(plans)]


class Blocks:
    """The blocks of all cells that one process is to decide, worked out before the first of them runs."""

    def __init__(self, cells: Sequence[tuple[Cell, Experiment]] = (), *, shared: bool = True) -> None:
        """shared: False keeps each cell to itself."""
        self._shared = shared
        self._by_injection: dict[str, list[SharedBlock]] = {}
        for cell, experiment in cells:
            for n in range(experiment.trials(cell.profile)):
                self.of(cell, experiment, n)

    def of(self, cell: Cell, experiment: Experiment, n: int) -> list[tuple[SharedBlock, list[Plan]]]:
        """Each block that trial ``n`` of the cell needs, in the order they are to run, with the cell's own plans."""
        found = []
        for mine in experiment.blocks(cell, n):
            key = _injection(mine, n, experiment.link_groups) + ("" if self._shared else cell.slug)
            blocks = self._by_injection.setdefault(key, [])
            block = next((b for b in blocks if b.serves(mine)), None) or next(
                (b for b in blocks if b.takes(mine)), None
            )
            if block is None:
                block = SharedBlock(experiment.link_groups)
                blocks.append(block)
            block.add(mine)
            found.append((block, mine))
        return found

    @property
    def coming(self) -> list[Plan]:
        """Plans that have not been run yet, in order."""
        blocks = (block for blocks in self._by_injection.values() for block in blocks if not block.done)
        return [plan for block in blocks for plan in block.plans]


def _injection(plans: Sequence[Plan], n: int, link_groups: Sequence[str]) -> str:
    """What makes two injections the same: where, what, when; and which repetition, since trials are independent."""
    broken = next((p for p in plans if p.arm != "sham"), plans[0])
    return json.dumps(
        [broken.product, broken.version, broken.topology, dict(broken.settings), sorted(broken.equipment), broken.seed, n,
         broken.lane_age_s,
         sorted(link_groups), [asdict(i) for i in broken.schedule]],
        sort_keys=True,
    )  # fmt: skip


def _arms(plans: Sequence[Plan]) -> list[str]:
    """What makes two arms under one injection the same. Equal arms of one cell are told apart by their number: its
    treatment and its control are never one trial, however alike a broker makes them."""
    found: list[str] = []
    for plan in plans:
        arm = json.dumps([asdict(plan.workload), [asdict(i) for i in plan.schedule]], sort_keys=True)
        found.append(f"{sum(f.endswith(arm) for f in found)} {arm}")
    return found
