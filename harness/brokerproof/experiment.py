"""How a claim is decided in one cell: arms, the faults that hit all of them, how often.

A cell is claim x broker x version x variant. Its arms run side by side under the same injections:

    treatment   the guarantee as the claim states it
    control     the guarantee taken away (promise) or kept (hazard: the safe arm); one setting different
    sham        the control's settings with no fault; it must be clean
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from brokerproof.claim import Claim
from brokerproof.errors import PlanError
from brokerproof.faults.base import spares_nodes
from brokerproof.plan import LANE_AGE_S, Injection, Plan, Workload
from brokerproof.rates import By
from brokerproof.schedules import Schedule, end_s, equipment

Mode = Literal["deterministic", "race", "property", "comparison"]
PROFILES = ("quick", "standard", "thorough")
#: What a variant that is decided under a named schedule ends with, and the schedule's name.
UNDER = "under-"
#: Trials per arm. A race needs four of each for Fisher's test to get below 0.05 at all.
TRIALS: Mapping[Mode, Mapping[str, int]] = {
    "deterministic": {"quick": 1, "standard": 3, "thorough": 10},
    "race": {"quick": 0, "standard": 6, "thorough": 20},
}


def under(schedule: str) -> str:
    """How a variant says that it is decided under that schedule."""
    return f"{UNDER}{schedule}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Claim x target x variant x profile: what one pytest item decides.

    schedule: name of the schedule that stands in place of the claim's own; empty: its own.
    """

    claim: Claim
    broker: str
    version: str
    variant: str = ""
    profile: str = "quick"
    seed: int = 0
    node_id: str = ""
    schedule: str = ""

    @property
    def own_variant(self) -> str:
        """The variant as the claim knows it, without the schedule that it is decided under."""
        return self.variant.removesuffix(under(self.schedule)).removesuffix("-") if self.schedule else self.variant

    def under(self, name: str) -> Cell:
        """This cell under a named schedule in place of its claim's own; its variant says so."""
        return replace(self, schedule=name, variant="-".join(p for p in (self.variant, under(name)) if p))

    @property
    def slug(self) -> str:
        """A name for files: of this cell only."""
        parts = (self.claim.id.replace("/", "."), self.broker, self.version, self.variant)
        return "-".join(p for p in parts if p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """schedule: injections that hit treatment and control.  link_groups: client groups whose links link faults break.

    settings, control_settings: of the broker, in the vendor's words; ``None``: the same for both.
    control_schedule: the control's own injections; ``None``: the same. A measurement's are dry (``Injection.dry``).
    equipment, control_equipment: what the nodes are started with for the faults of the schedule, see
        ``Plan.equipment``; ``None``: the same for both.
    stored: what the faults are to take lies in the broker when they strike, confirmed and not consumed: that is its
        exposure, and not that it is on its way.
    lane_age_s: see ``Plan.lane_age_s``.
    sham_s: how long the sham arm is loaded, at most the workload's own time; 0 no sham (an experiment without a fault
        has nothing to sham).
    needs: capabilities that this variant asks for, besides those of its claim.
    """

    topology: str
    treatment: Workload
    control: Workload
    schedule: tuple[Injection, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    control_settings: Mapping[str, Any] | None = None
    control_schedule: tuple[Injection, ...] | None = None
    equipment: tuple[str, ...] = ()
    control_equipment: tuple[str, ...] | None = None
    mode: Mode = "deterministic"
    link_groups: tuple[str, ...] = ("producer",)
    stored: bool = False
    lane_age_s: float = LANE_AGE_S
    sham_s: float = 3.0
    needs: tuple[str, ...] = ()

    @property
    def all_equipment(self) -> tuple[str, ...]:
        """Of all arms."""
        return tuple(sorted({*self.equipment, *(self.control_equipment or ())}))

    @property
    def shares_injection_with_sham(self) -> bool:
        """Whether the sham can run beside the others: its links are its own, so link and client faults miss it."""
        return all(spares_nodes(i.fault) for i in self.schedule)

    def under(self, schedule: Schedule, pace: float) -> Experiment:
        """The same arms and the same deciding anomalies under another schedule; the load lasts until that is over.

        pace: factor on a second, see ``Configurations.pace``.  Raises UsageError for a fault that does not exist.
        """
        load_s, needs = round(end_s(schedule) + 2.0 * pace, 3), equipment(schedule)

        def longer(workload: Workload) -> Workload:
            return replace(workload, load_s=max(workload.load_s, load_s))

        return replace(
            self, schedule=schedule, treatment=longer(self.treatment), control=longer(self.control),
            equipment=tuple(sorted({*self.equipment, *needs})),
            control_equipment=None if self.control_equipment is None else tuple(sorted({*self.control_equipment, *needs})),
        )  # fmt: skip

    def trials(self, profile: str) -> int:
        return TRIALS[self.mode][profile]

    def plans(self, cell: Cell, n: int) -> dict[str, Plan]:
        """The plans of trial ``n``, by arm."""
        base = Plan(
            product=cell.broker, version=cell.version, topology=self.topology, workload=self.treatment,
            schedule=self.schedule, settings=dict(self.settings), equipment=self.equipment, seed=cell.seed, claim=cell.claim.id,
            variant=cell.variant, arm="treatment", trial=f"{cell.slug}-treatment-{n}", lane_age_s=self.lane_age_s,
        )  # fmt: skip
        control_settings = self.settings if self.control_settings is None else self.control_settings
        control = replace(
            base,
            workload=self.control,
            arm="control",
            trial=f"{cell.slug}-control-{n}",
            settings=dict(control_settings),
            schedule=self.schedule if self.control_schedule is None else self.control_schedule,
            equipment=self.equipment if self.control_equipment is None else self.control_equipment,
        )
        plans = {"treatment": base, "control": control}
        if self.schedule and self.sham_s > 0:
            plans["sham"] = replace(
                control, workload=_sham(self.control, self.sham_s), arm="sham", trial=f"{cell.slug}-sham-{n}",
                schedule=(Injection(fault="noop", target="all", at_s=self.sham_s / 3, for_s=self.sham_s / 3),),
            )  # fmt: skip
        return plans

    def blocks(self, cell: Cell, n: int) -> list[list[Plan]]:
        """The plans of trial ``n`` in the order they run; those of one block run side by side under one injection."""
        plans = self.plans(cell, n)
        treatment, control, sham = plans["treatment"], plans["control"], plans.get("sham")
        together = (treatment.settings, treatment.schedule) == (control.settings, control.schedule)
        together = together and treatment.equipment == control.equipment
        blocks = [[treatment, control]] if together else [[treatment], [control]]
        if sham is not None:
            if self.shares_injection_with_sham:
                blocks[-1].append(sham)
            else:
                # Before the node has been through anything; and next to the control, whose cluster it shares.
                blocks.insert(len(blocks) - 1, [sham])
        return blocks


def _sham(workload: Workload, sham_s: float) -> Workload:
    return replace(
        workload,
        senders=tuple(replace(s, link="sham") for s in workload.senders),
        receivers=tuple(replace(r, link="sham") for r in workload.receivers),
        load_s=min(workload.load_s, sham_s),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonExperiment:
    """Two ways to do the same counted work, one after the other, pair after pair; who is first changes.

    treatment: the one that the claim says is faster.  margin: the least ratio of rates that makes a difference.
    by: what is counted. ``send``: messages are acknowledged to senders that have ``count`` and no rate of their own;
        there are no receivers, so nothing else limits them. ``receive``, ``effect``: messages that all lie in the broker
        before the first receiver starts are received, or have had their effect, so the receivers are what limits.
        ``delay``: how soon a message that was just sent is received. See ``rates``.
    settings, control_settings: of the broker, in the vendor's words; ``None``: the same for both.
    """

    topology: str
    treatment: Workload
    control: Workload
    by: By = "send"
    margin: float = 1.1
    pairs: Mapping[str, int] = field(default_factory=lambda: {"quick": 0, "standard": 10, "thorough": 30})
    settings: Mapping[str, Any] = field(default_factory=dict)
    control_settings: Mapping[str, Any] | None = None
    mode: Mode = "comparison"

    def plans(self, cell: Cell, n: int) -> dict[str, Plan]:
        """The plans of pair ``n``, by arm, in the order they run.

        Raises PlanError where an arm does not count what it is compared by.
        """
        arms = {"treatment": self.treatment, "control": self.control}
        settings = {
            "treatment": self.settings,
            "control": self.settings if self.control_settings is None else self.control_settings,
        }
        for arm, load in arms.items():
            if any(sender.count is None for sender in load.senders):
                raise PlanError(
                    f"{cell.slug}: a sender of the {arm} has no count; what is compared is the same work, done"
                )
            if (self.by == "send") == bool(load.receivers):
                wanted = "no receivers" if self.by == "send" else "receivers"
                raise PlanError(f"{cell.slug}: the {arm} is compared by {self.by!r} and needs {wanted}")
        return {
            arm: Plan(
                product=cell.broker, version=cell.version, topology=self.topology,
                workload=replace(arms[arm], backlog=self.by in ("receive", "effect")), settings=dict(settings[arm]), seed=cell.seed, claim=cell.claim.id, variant=cell.variant, arm=arm,
                trial=f"{cell.slug}-{arm}-{n}",
            )
            for arm in (("treatment", "control") if n % 2 == 0 else ("control", "treatment"))
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyResult:
    """What a property check found. counterexample: shrunk, JSON-able, None when all cases agreed."""

    cases: int
    counterexample: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "counterexample": None if self.counterexample is None else dict(self.counterexample),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyExperiment:
    """A claim over cases, generated or listed: the real broker and the claim's model must agree on every one.

    check: (cluster, seed, cases) -> PropertyResult; runs on the real cluster. That it can go red is shown in one of two
        ways: it runs again on a memory broker with the bug ``mutant``, which it must find; or
    control: the same cases on the same cluster with what the claim rests on taken away, which must disagree.
    """

    topology: str
    check: Callable[[Any, int, int], PropertyResult]
    mutant: str = ""
    control: Callable[[Any, int, int], PropertyResult] | None = None
    cases: Mapping[str, int] = field(default_factory=lambda: {"quick": 200, "standard": 1000, "thorough": 5000})
    settings: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "property"
