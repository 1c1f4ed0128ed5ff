"""The order of things, and the only file that knows it:

    plan -> provision -> drive + break -> history -> check -> verdict -> report

``decide`` takes one cell through it. Each arrow is a file of the run, so ``recheck`` can start again at the history.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof import promises
from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Cluster, Perishing, broker, without
from brokerproof.checkers.base import check
from brokerproof.claim import Claim
from brokerproof.effects.base import make as guard_of
from brokerproof.errors import HarnessError, HistoryError, PlanError, UsageError
from brokerproof.expected import expected
from brokerproof.experiment import Cell, ComparisonExperiment, Experiment, PropertyExperiment
from brokerproof.faults.base import LOOK_AHEAD_S, Applied, Look, Scene, apply, look, make, missing, plane, spares_nodes
from brokerproof.finding import Finding
from brokerproof.history import FAIL, OK, F, History, read_history
from brokerproof.live import Watch
from brokerproof.places import record_places
from brokerproof.plan import LANE_AGE_S, Injection, Plan, Workload
from brokerproof.rates import WORDS, By, done, rate_per_s
from brokerproof.recorder import rescue
from brokerproof.results import RunFolder, load_json, problems_of, utc_now, write_json
from brokerproof.runtime import sweep
from brokerproof.runtime.pool import ClusterKey, Pool
from brokerproof.sharing import Blocks, SharedBlock
from brokerproof.verdict import ArmResult, TrialResult, Verdict, judge, judge_comparison, judge_property, recovery
from brokerproof.waiting import wait_until
from brokerproof.workloads.crew import Crew, ProcessScribe, Scribe, ThreadScribe
from brokerproof.workloads.stream import Block

#: Ra, RabbitMQ's Raft, asks again for what a replica misses every 30 s: twice is patience enough.
HEALTHY_S = 70.0
#: Lanes of coming cells are made ahead, so that they age while others are decided; at most so many.
AHEAD_MAX = 120
#: What is issued later than this after its offset is said.
LATE_MS = 50.0
#: How long before its heal an injection that had company is looked at once more.
CONFIRM_S = 1.5
#: How long after its last moment an injection may take to be over: a look, a node that starts, a deadline of the engine.
HANDS_S = 120.0
#: Of each injection of a plan the nodes and links that it hit.
Recorded = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Made:
    at: float
    synced: bool


class Session:
    """One harness process of a run: its load processes, its recorder, its clusters, the lanes it has made."""

    def __init__(
        self, folder: RunFolder, *, expected_in: Path, progress: Callable[[str, str], None],
        upcoming: Sequence[tuple[Cell, Experiment]] = (), live: bool = False, fail_fast: bool = False,
        adoption: Adoption | None = None,
    ) -> None:  # fmt: skip
        """upcoming: all cells that this process may decide, in order: they share injections, and their lanes are made
        ahead.

        live: trials are counted while they run.  fail_fast: a trial that breaks a promise ends there and then.
        adoption: the cluster that somebody else runs, which all of it stands on.
        """
        self.adoption = adoption
        self.live, self.fail_fast = live, fail_fast
        self.folder = folder
        self.expected_in = expected_in
        # A trial that is ended early has nothing to say to another cell. On what others use, few arms at a time.
        self.blocks = Blocks(upcoming, shared=not fail_fast and adoption is None)
        #: Plans that are not of a cell, and that are likely to come: their lanes are made ahead as well.
        self.ahead: Sequence[Plan] = ()
        self._progress = progress
        self.pool = Pool(run=folder.mark, folder=folder.path / "pool", target=adoption.target if adoption else None)
        self._crew: Crew | None = None
        self._scribes: dict[bool, Scribe] = {}
        self._lanes: dict[tuple[str, str], _Made] = {}
        self._last: dict[str, Cluster] = {}
        self._stands: dict[str, Any] = {}

    def say(self, cell: str, what: str) -> None:
        self._progress(cell, what)

    def asked(self, cell: Cell) -> str:
        """What a person types for the cell's broker."""
        return self.adoption.command if self.adoption else f"--broker {cell.broker}={cell.version}"

    def _registered(self, pid: int) -> None:
        sweep.register_process(self.folder.mark, pid)

    @property
    def crew(self) -> Crew:
        if self._crew is None:
            self._crew = Crew(self.folder.path / "logs", self._registered)
        return self._crew

    def scribe(self, in_process: bool) -> Scribe:
        if in_process not in self._scribes:
            log = self.folder.path / "logs" / f"recorder-{os.getpid()}.log"
            self._scribes[in_process] = ThreadScribe() if in_process else ProcessScribe(log, self._registered)
        return self._scribes[in_process]

    @contextlib.contextmanager
    def cluster(self, key: ClusterKey, cell: str) -> Iterator[Cluster]:
        """Leases a cluster; one that a trial left unhealthy is replaced."""
        self.say(cell, f"waiting for {key.product} {key.version} {key.topology}")
        needed = {ClusterKey.of_plan(p).cluster for p in (*self.blocks.coming, *self.ahead)}
        with self.pool.lease(key, progress=lambda what: self.say(cell, what), needed=needed) as cluster:
            if self._last.get(key.product) is not cluster:
                self._last[key.product] = cluster
                if self._crew is not None:
                    self._crew.retire(key.product)
            facts = self.folder.path / "clusters" / f"{key.slug}.json"
            if not facts.exists():
                self.folder.note_cluster(key.slug, _cluster_facts(cluster, self.folder.mark))
            yield cluster

    def _coming(self, key: ClusterKey) -> list[tuple[Plan, int]]:
        """(plan, destination) of each lane that will be needed on that cluster, what the cell at hand goes on to first: where there is
        not room for all, a lane made now has aged when its turn comes. Nothing is made ahead on what others use."""
        if self.adoption is not None:
            return []
        mine = (
            p for p in (*self.ahead, *self.blocks.coming)
            if ClusterKey.of_plan(p).cluster == key.cluster and p.lane_age_s >= LANE_AGE_S
        )  # fmt: skip
        return [(p, d) for p in mine for d in range(len(p.workload.destinations))]

    def _declare(self, cluster: Cluster, lanes: Sequence[tuple[Plan, int]], say: Callable[[str], None]) -> None:
        id_ = _id(cluster)
        by_name = {(id_, plan.destination_name(d)): (plan, d) for plan, d in lanes}
        fresh = {name: lane for name, lane in by_name.items() if name not in self._lanes}
        if not fresh:
            return
        say(f"declaring {len(fresh)} queues and topics")

        def make_lane(item: tuple[tuple[str, str], tuple[Plan, int]]) -> None:
            name, (plan, d) = item
            cluster.create(plan.workload.destinations[d], name[1])
            self._lanes[name] = _Made(time.monotonic(), False)

        with ThreadPoolExecutor(1 if cluster.in_process else 4) as several:
            list(several.map(make_lane, fresh.items()))

    def lanes_ready(self, plans: Sequence[Plan], cluster: Cluster, key: ClusterKey, cell: str) -> float:
        """Makes the lanes of these plans, and of coming ones on the same cluster, lets them age, and has their nodes sync
        what they made. Returns the age in seconds of the youngest lane of ``plans``. Where the plans are about young
        lanes, only these are made, and nothing is synced."""
        age_s = min(p.lane_age_s for p in plans)
        id_ = _id(cluster)
        wanted = [(p, d) for p in plans for d in range(len(p.workload.destinations))]
        if age_s < LANE_AGE_S:
            if not cluster.in_process:
                # The claim is about young lanes, not about a young node: what that made of itself is on its disk.
                cluster.sync()
            self._declare(cluster, wanted, lambda what: self.say(cell, what))
        elif any((id_, p.destination_name(d)) not in self._lanes for p, d in wanted):
            mine = {p.destination_name(d) for p, d in wanted}
            coming = (
                (p, d) for p, d in self._coming(key)
                if (lane := p.destination_name(d)) not in mine and (id_, lane) not in self._lanes and not _perishes(cluster, p, d)
            )  # fmt: skip
            self._declare(cluster, [*wanted, *islice(coming, AHEAD_MAX)], lambda what: self.say(cell, what))
        if cluster.in_process:
            return 0.0
        names = [(id_, p.destination_name(d)) for p, d in wanted]
        youngest = max(self._lanes[name].at for name in names)
        if (rest := age_s - (time.monotonic() - youngest)) > 0.5:
            self.say(cell, f"letting new lanes age for {rest:.0f} s")
        wait_until(lambda: time.monotonic() - youngest >= age_s, age_s + 5, "lanes to age")
        if age_s >= LANE_AGE_S and any(not self._lanes[name].synced for name in names):
            cluster.sync()
            for name, made in self._lanes.items():
                if name[0] == id_:
                    self._lanes[name] = _Made(made.at, True)
        return time.monotonic() - youngest

    def stands(self, plan: Plan, cell: str) -> Mapping[str, Any]:
        """The databases that the plan's effects are in, by name."""
        return {
            f"{product} that keeps" if keeps else product: self.stand(product, cell, keeps=keeps)
            for product, keeps in sorted(_databases(plan.workload))
        }

    def stand(self, product: str, cell: str, *, keeps: bool = False) -> Any:
        """A database, a ``runtime.stores.Stand``; started when it is first needed, for all cells. keeps: of Redis, each
        change is on its disk before it answers."""
        from brokerproof.runtime import stores  # brings the images with it

        name = f"{product} that keeps" if keeps else product
        if name not in self._stands:
            self.say(cell, f"starting {name}")
            self._stands[name] = stores.start(
                product, run=self.folder.mark, name=f"bp-{self.folder.mark}-{os.getpid()}" + ("-keeps" if keeps else ""),
                arguments=stores.KEEPS if keeps else (),
            )  # fmt: skip
        return self._stands[name]

    def close(self) -> None:
        for stand in self._stands.values():
            stand.close()
        if self._crew is not None:
            self._crew.close()
        for scribe in self._scribes.values():
            scribe.close()
        self.pool.close()


def _databases(workload: Workload) -> set[tuple[str, bool]]:
    """(product, whether each change is on its disk before it answers) of those that the effects are in."""
    names: set[tuple[str, bool]] = set()
    for effect in (r.effect for r in workload.receivers if r.effect):
        needs = guard_of(effect["guard"], effect.get("options")).needs
        names |= {
            (effect.get("sql", "postgresql"), False) if need == "sql" else (need, bool(effect.get("keeps")))
            for need in needs
        }
    return names


def _perishes(cluster: Cluster, plan: Plan, destination: int) -> bool:
    return isinstance(cluster, Perishing) and cluster.perishes(plan.workload.destinations[destination])


def _id(cluster: Cluster) -> str:
    """Tells one start of a cluster from the next."""
    return str(id(cluster)) if cluster.in_process else json.dumps(cluster.endpoint("admin"), sort_keys=True)


# -- one cell ----------------------------------------------------------------------------------------------------------


Decided = Experiment | PropertyExperiment | ComparisonExperiment


def decide(session: Session, cell: Cell, experiment: Decided) -> dict[str, Any]:
    """Decides one cell and writes its verdict file; returns its entry of ``results.json``."""
    started, clock = utc_now(), time.monotonic()
    session.folder.write_cell(cell.slug, _undecided(session, cell, experiment, started))
    try:
        if isinstance(experiment, PropertyExperiment):
            entry = _decide_property(session, cell, experiment)
        elif isinstance(experiment, ComparisonExperiment):
            entry = _decide_comparison(session, cell, experiment)
        else:
            arms, broken = _run_trials(session, cell, experiment)
            verdict = judge(cell.claim, experiment.mode, arms, has_faults=bool(experiment.schedule))
            if broken:
                verdict = _stopped(broken)
            entry = _entry(session, cell, experiment.mode, verdict) | {"stopped": broken}
            entry |= {name: arm.to_json(cell.claim) for name, arm in arms.items()} | {"unrecovered": _unrecovered(arms)}
            entry |= {"configuration": _configuration(cell, experiment), "link_groups": list(experiment.link_groups)}
            entry["stored"] = experiment.stored
            entry["fault_classes"] = list(
                promises.fault_classes([(i.fault, i.until_read) for i in experiment.schedule])
            )
            entry["promises"] = _promises(entry, arms)
            entry["recovery"] = _recovery(arms)
    except BaseException:
        session.folder.forget_cell(cell.slug)  # the error is told; only a kill leaves the cell undecided
        raise
    entry |= {"started": started, "duration_s": round(time.monotonic() - clock, 1)}
    session.folder.write_cell(cell.slug, entry)
    session.say(cell.slug, f"{entry['verdict']}: {entry['reason']}")
    return entry


def conclude(
    session: Session, cell: Cell, arms: Mapping[str, ArmResult], *, has_faults: bool, command: str, clock: float
) -> dict[str, Any]:  # fmt: skip
    """The entry of an experiment whose arms somebody else has run, judged and written like any other.

    clock: ``time.monotonic()`` of its beginning.  command: what a person types to see it again.
    """
    arms = _witnessed(arms)
    verdict = judge(cell.claim, "deterministic", arms, has_faults=has_faults)
    entry = _entry(session, cell, "deterministic", verdict) | {"stopped": "", "command": command}
    entry |= {name: arm.to_json(cell.claim) for name, arm in arms.items()} | {"unrecovered": _unrecovered(arms)}
    duration_s = round(time.monotonic() - clock, 1)
    entry |= {"link_groups": ["producer"], "stored": False, "recovery": _recovery(arms), "started": utc_now()}
    entry |= {"duration_s": duration_s}
    session.folder.write_cell(cell.slug, entry)
    session.say(cell.slug, f"{entry['verdict']}: {entry['reason']}")
    return entry


def _stopped(broken: str) -> Verdict:
    """A promise that is broken stays so, whatever the arms that did not run would have shown."""
    return Verdict(word="VIOLATED", reason=f"stopped before the drain, on the first broken promise: {broken}")


def _undecided(
    session: Session, cell: Cell, experiment: Decided, started: str
) -> dict[str, Any]:  # fmt: skip
    """The entry that stands until the cell is decided: what a killed run leaves, with the trials that were planned."""
    verdict = Verdict(word="UNKNOWN", reason="the run was killed before this was decided")
    entry = _entry(session, cell, experiment.mode, verdict) | {"started": started, "duration_s": 0.0, "undecided": True}
    if not isinstance(experiment, Experiment):
        return entry
    planned: dict[str, list[str]] = {}
    for n in range(experiment.trials(cell.profile)):
        for block, plans in session.blocks.of(cell, experiment, n):
            for plan, trial in zip(plans, block.trials(plans), strict=True):
                planned.setdefault(plan.arm, []).append(trial)
    for arm, trials in planned.items():
        entry[arm] = ArmResult(trials=()).to_json(cell.claim) | {"trial_ids": trials}
    return entry | {"configuration": _configuration(cell, experiment), "link_groups": list(experiment.link_groups)}


def found(
    session: Session, cell: Cell, experiment: Experiment, plan: Plan, verdict: Verdict, *, command: str
) -> dict[str, Any]:  # fmt: skip
    """The entry of a trial that a search came to, as the treatment of a cell without other arms."""
    result = evaluate(session.folder.trial(plan.trial), cell.claim.deciding, stored=experiment.stored)
    arms = {"treatment": ArmResult(trials=(result,))}
    entry = _entry(session, cell, experiment.mode, verdict) | {"started": utc_now(), "duration_s": 0.0, "stopped": ""}
    entry |= {
        "treatment": arms["treatment"].to_json(cell.claim),
        "unrecovered": _unrecovered(arms),
        "found": verdict.reason,
    }
    entry |= {
        "configuration": {"treatment": settings_of(plan)},
        "link_groups": list(experiment.link_groups),
        "command": command,
    }
    entry["fault_classes"] = list(promises.fault_classes([(i.fault, i.until_read) for i in plan.schedule]))
    entry["promises"] = _promises(entry, arms)
    return entry


def lacking(experiment: Decided, product: str, adoption: Adoption | None = None, *, version: str = "") -> str:
    """What the product lacks for the experiment or its faults, or this machine for them and the equipment, in a sentence; empty
    when it can be had. adoption: the cluster of somebody else that it is to stand on.  version: "" the newest."""
    if adoption is not None and (reason := adoption.lacking(experiment)):
        return reason
    if not isinstance(experiment, Experiment):
        return ""
    if adoption is not None and (reason := adoption.lacks(experiment.needs)):
        return reason
    version = version or broker(product).versions[0]
    if absent := without(product, version, experiment.needs):
        return f"{product} {version} has no {', '.join(absent)}"
    for injection in experiment.schedule:
        if absent := sorted(set(make(injection.fault, injection.options).asks) - broker(product).capabilities):
            return f"{product} has no {', '.join(absent)}, which {injection.fault} {dict(injection.options)} needs"
    from brokerproof.runtime import equipment

    lacks = [equipment.kind(name).missing() for name in experiment.all_equipment]
    lacks += [missing(name) for name in sorted({i.fault for i in experiment.schedule})]
    if adoption is not None and any(map(_databases, (experiment.treatment, experiment.control))):
        from brokerproof.runtime import stores

        # A target needs no engine; its effects' databases do.
        lacks.append(stores.missing())
    return "; ".join(dict.fromkeys(filter(None, lacks)))


def unsupported(session: Session, cell: Cell, missing: str) -> dict[str, Any]:
    """The entry of a cell whose product lacks a declared capability."""
    entry = _entry(session, cell, "deterministic", Verdict(word="UNSUPPORTED", reason=missing))
    entry |= {"started": utc_now(), "duration_s": 0.0}
    session.folder.write_cell(cell.slug, entry)
    return entry


def _run_trials(session: Session, cell: Cell, experiment: Experiment) -> tuple[dict[str, ArmResult], str]:
    """The arms, and the sentence about the broken promise that ended them early, if one did."""
    results: dict[str, list[TrialResult]] = {}
    broken = ""
    for n in range(experiment.trials(cell.profile)):
        # Arms that can share an injection run side by side; interleaving comes from taking all arms trial by trial.
        for block, plans in session.blocks.of(cell, experiment, n):
            if broken:
                break
            if not block.done:
                with _watching(session, cell, block.plans) as watch:
                    _run_shared(session, cell, block, watch)
                if watch is not None and watch.broken and session.fail_fast:
                    broken = watch.broken
            if block.failed is not None:
                raise block.failed
            session.say(cell.slug, "checking")
            for plan, trial in zip(plans, block.trials(plans), strict=True):
                found = evaluate(session.folder.trial(trial), cell.claim.deciding, stored=experiment.stored)
                results.setdefault(plan.arm, []).append(found)
    return _witnessed({arm: ArmResult(trials=tuple(trials)) for arm, trials in results.items()}), broken


@contextlib.contextmanager
def _watching(session: Session, cell: Cell, plans: Sequence[Plan]) -> Iterator[Watch | None]:
    """A watch over these trials, if anybody wants one. A hazard that shows breaks no promise."""
    if not (session.live or session.fail_fast):
        yield None
        return
    promised = cell.claim.deciding if cell.claim.kind == "promise" and session.fail_fast else ()
    trials = {session.folder.trial(p.trial): promised if p.arm == "treatment" else () for p in plans}
    with Watch(trials, (lambda what: session.say(cell.slug, what)) if session.live else (lambda _: None)) as watch:
        yield watch


def _run_shared(session: Session, cell: Cell, block: SharedBlock, watch: Watch | None) -> None:
    try:
        run_block(
            session, cell.slug, block.plans, ClusterKey.of_plan(block.plans[0]), link_groups=block.link_groups, watch=watch
        )  # fmt: skip
    except Exception as exc:
        block.failed = exc
    block.done = True


def _witnessed(arms: Mapping[str, ArmResult]) -> dict[str, ArmResult]:
    """Takes the evidence back from faults whose sign no trial under the same injection shows."""
    out = {}
    for arm, result in arms.items():
        trials = []
        for n, trial in enumerate(result.trials):
            together = [arms[a].trials[n] for a in ("treatment", "control") if n < len(arms.get(a, ArmResult()).trials)]
            faults = []
            for fault, evidence, in_flight in trial.faults:
                signs = make(fault).witnessed_by
                seen = any(t.finding.shows(s) or t.finding.observed(s) for t in together for s in signs)
                took = evidence == "took_effect" and (not signs or seen)
                faults.append((fault, evidence if took or evidence != "took_effect" else "no_effect", in_flight))
            trials.append(replace(trial, faults=tuple(faults)))
        out[arm] = ArmResult(trials=tuple(trials))
    return out


def run_block(
    session: Session, cell: str, plans: Sequence[Plan], key: ClusterKey, *, link_groups: tuple[str, ...],
    recorded: Recorded | None = None, watch: Watch | None = None,
) -> None:  # fmt: skip
    """Runs trials side by side under one set of injections; each leaves its files for ``evaluate``.

    recorded: of each injection the nodes, to inject into these again instead of resolving roles (``replay --targets
        recorded``).
    watch: whoever looks on; once it says that a promise is broken, everything ends, healed and not drained.
    """
    if session.adoption is not None:
        plans = session.adoption.fitted(plans)
    for plan in plans:
        plan.validate()
        for injection in plan.schedule:
            if lacking := sorted(set(make(injection.fault, injection.options).needs) - set(plan.equipment)):
                raise PlanError(
                    f"plan {plan.trial!r}: {injection.fault} needs nodes equipped with {', '.join(lacking)}; name it in "
                    "the experiment's equipment"
                )
    with session.cluster(key, cell) as cluster, _kept_logs(cluster, session.folder.trial(plans[0].trial) / "logs"):
        lane_age_s = session.lanes_ready(plans, cluster, key, cell)
        block = Block(
            plans, cluster, lambda p: session.folder.trial(p.trial), session.crew, session.scribe(cluster.in_process),
            lambda p: [stand.store for stand in session.stands(p, cell).values()],
        )  # fmt: skip
        broken = tuple(p for p in plans if p.arm != "sham") or tuple(plans)
        scene = Scene(
            cluster=cluster,
            destinations=tuple(p.destination_name(d) for p in broken for d in range(len(p.workload.destinations))),
            link_groups=link_groups, clients=block,
            stores={name: stand for p in broken for name, stand in session.stands(p, cell).items()},
        )  # fmt: skip
        try:
            session.say(cell, f"load on {_arms_in_words(plans)}")
            applied, unrecovered = _drive(session, cell, block, scene, broken[0].schedule, recorded, watch)
            block.finish()
        except BaseException:
            block.abandon()
            session.pool.spoil(key)
            raise
        for plan in plans:
            folder = session.folder.trial(plan.trial)
            faults = applied if plan in broken else [_noop(i) for i in plan.schedule]
            write_json(
                folder / "faults.json",
                {"schema": 1, "zero": block.zero_utc, "lane_age_s": round(lane_age_s, 1), "clients": _facts(block, plan),
                 "unrecovered": unrecovered, "injections": [a.to_json() for a in faults]},
            )  # fmt: skip
            if plan is plans[0]:
                cluster.save_logs(folder / "logs")
            else:
                _link_tree(session.folder.trial(plans[0].trial) / "logs", folder / "logs")
        if not unrecovered:
            for plan, d in ((p, d) for p in plans for d in range(len(p.workload.destinations))):
                with contextlib.suppress(HarnessError):
                    cluster.delete(plan.workload.destinations[d], plan.destination_name(d))
        else:
            session.pool.spoil(key)


@contextlib.contextmanager
def _kept_logs(cluster: Cluster, folder: Path) -> Iterator[None]:
    """On an error: the cluster goes, and with it what its nodes say of it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, HarnessError):  # the first error is the one to tell
            cluster.save_logs(folder)
        raise


def _link_tree(source: Path, target: Path) -> None:
    """One cluster, one set of logs: the trials of a block hold the same files."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def _arms_in_words(plans: Sequence[Plan]) -> str:
    counted = Counter(p.arm for p in plans)
    return ", ".join(arm if n == 1 else f"{n} {arm}s" for arm, n in counted.items())


def _drive(
    session: Session, cell: str, block: Block, scene: Scene, schedule: Sequence[Injection],
    recorded: Recorded | None, watch: Watch | None = None,
) -> tuple[list[Applied], str]:  # fmt: skip
    """Load, faults, heal, drain, final read, a look into the nodes. Returns the injections, and the sentence that says why the cluster did not
    come back healthy, empty where it did."""
    hands = [
        _Hand(session, cell, block, scene, injection, recorded[n] if recorded and n < len(recorded) else None,
              among_others=len(schedule) > 1, first=not any(
                  o.at_s < injection.at_s < o.at_s + o.for_s or o.until_read for o in schedule if o is not injection))
        for n, injection in enumerate(schedule)
    ]  # fmt: skip
    # A first look takes a second or two. It is taken ahead of the moment, so that it does not delay the injection:
    # before the load where the moment is near its start; later ones see the leaders of their own time.
    for hand in hands:
        if hand.injection.at_s <= LOOK_AHEAD_S:
            hand.look()
    start_s = block.start()
    load_s = max(t.plan.workload.load_s for t in block.trials)
    passing = [hand for hand in hands if not hand.injection.until_read]
    unrecovered = ""
    try:
        for hand in hands:
            hand.go(start_s)
        # Without a fault there is nothing to wait for once all counted messages are sent.
        _until(block, start_s + load_s, watch, hands, or_else=lambda: not hands and not block.sending())
        last_s = max([0.0, *(h.injection.at_s + h.injection.for_s for h in passing)])
        _until(block, start_s + last_s, watch, hands, also=lambda: not any(h.busy for h in passing))
        session.say(cell, "senders end")
        block.stop_senders()
        _look_again(passing)
        if len(passing) == len(hands) and any(not spares_nodes(i.fault) for i in schedule):
            session.say(cell, "waiting for health")
            unrecovered = _health(scene.cluster)
        session.say(cell, "draining, final read")
        block.drain()
        session.say(cell, "looking where the nodes have the witnesses")
        record_places(scene.cluster, [(t.plan, t.folder) for t in block.trials], block.now_s())
        _end(hands)
        _look_again(hands)
        if len(passing) < len(hands):
            unrecovered = unrecovered or _health(scene.cluster)
    except _PromiseBroken as exc:
        session.say(cell, f"stopping: {exc}")
        block.note("control", f"stopped {exc}", block.now_s())
        _end(hands)
        block.halt()
        if any(not spares_nodes(i.fault) for i in schedule):
            unrecovered = unrecovered or _health(scene.cluster)
    finally:
        _end(hands)
    if unrecovered:
        block.note("control", "unhealthy", block.now_s(), FAIL)
    return [hand.record for hand in hands], unrecovered


class _Hand:
    """One injection, in a thread of its own: what one takes to bite, or to be looked at, delays no other."""

    def __init__(
        self, session: Session, cell: str, block: Block, scene: Scene, injection: Injection,
        recorded: Sequence[str] | None, *, among_others: bool, first: bool,
    ) -> None:  # fmt: skip
        """among_others: of a schedule of several.  first: all that began before it is to be healed by its moment."""
        self.injection, self._first = injection, first
        self._among_others = among_others
        self.failed: BaseException | None = None
        self._session, self._cell, self._block, self._scene = session, cell, block, scene
        self._fault = make(injection.fault, injection.options)
        self._recorded = recorded
        self._seen: Look | None = None
        self._over = threading.Event()
        # A second Ctrl-C may come while the first one's end is waited for: nothing may keep the process then. What such an
        # injection had broken goes with the cluster.
        self._thread = threading.Thread(target=self._run, name=f"inject {injection.fault}", daemon=True)
        self.record = Applied(injection.fault, injection.target, dict(injection.options))

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def look(self) -> None:
        self._seen = look(self._fault, self._scene, self.injection.target, self._recorded)

    def go(self, start_s: float) -> None:
        self._due_s = start_s + self.injection.at_s
        self._thread.start()

    def is_over(self) -> None:
        """Heals now, if it has not been healed; does not wait for it."""
        self._over.set()

    def end(self) -> None:
        """Heals now, if it has not been healed."""
        self.is_over()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._carry_out()
        except (UsageError, PlanError) as exc:
            self.failed = exc
        except HarnessError as exc:
            if not self._among_others:
                self.failed = exc
                return
            # What one fault left of the cluster may be more than another one can act on: no leader, no such process.
            self.record.error, self.record.evidence = str(exc), "unproven"
            self.record.planned_s = self._due_s
            self._say(f"{self.injection.fault} came to nothing: {exc}")
        except BaseException as exc:
            self.failed = exc

    def _carry_out(self) -> None:
        injection, block = self.injection, self._block
        if self._seen is None:
            if self._wait(self._due_s - LOOK_AHEAD_S):
                return
            self.look()
        if self._wait(self._due_s):
            return
        assert self._seen is not None
        if self._first and self._seen.probe.bites:
            # The look was ahead of the moment: on a slow machine the one before was still healing then.
            self.look()
        with apply(
            self._fault, self._scene, injection.target, now_s=block.now_s, before=self._seen, options=injection.options,
            planned_s=self._due_s, dry=injection.dry,
        ) as record:  # fmt: skip
            self.record = record
            block.note("fault", f"inject {injection.fault} {','.join(record.targets)}", record.injected_s)
            late = record.late_ms or 0.0
            self._say(
                f"{'dry run of ' if injection.dry else ''}{injection.fault} on {', '.join(record.targets)} for "
                f"{injection.for_s:g} s" + (f", {late:.0f} ms later than planned" if late > LATE_MS else "")
            )
            if injection.until_read:
                self._over.wait()
            else:
                # An injection that came late (a slow machine) still lasts as long as planned.
                heal_s = max(self._due_s, record.injected_s) + injection.for_s
                if not self._wait(heal_s - min(CONFIRM_S, injection.for_s / 4)):
                    record.confirm()
                self._wait(heal_s)
            self._say(f"healing {injection.fault}")
            block.note("fault", f"heal {injection.fault}", block.now_s())

    def _say(self, what: str) -> None:
        self._session.say(self._cell, what)

    def _wait(self, at_s: float) -> bool:
        """Until that moment of the block's clock; true where everything is to end before it."""
        return self._over.wait(max(0.0, at_s - self._block.now_s()))


def _end(hands: Sequence[_Hand]) -> None:
    for hand in hands:
        hand.is_over()
    for hand in hands:
        hand.end()
    _failed(hands)


def _failed(hands: Sequence[_Hand]) -> None:
    for hand in hands:
        if hand.failed is not None:
            failed, hand.failed = hand.failed, None
            raise failed


def _look_again(hands: Sequence[_Hand]) -> None:
    """Whether injections that had company are healed, now that the company is gone."""
    for hand in hands:
        hand.record.settle()


class _PromiseBroken(Exception):
    """Says which; the trials end here."""


def _until(
    block: Block, at_s: float, watch: Watch | None, hands: Sequence[_Hand], also: Callable[[], bool] = lambda: True,
    or_else: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    def due() -> bool:
        _failed(hands)
        if watch is not None and watch.broken:
            raise _PromiseBroken(watch.broken)
        return (block.now_s() >= at_s and also()) or or_else()

    wait_until(due, max(0.0, at_s - block.now_s()) + HANDS_S, "the next moment of the schedule",
               interval_s=0.005 if block.cluster.in_process else 0.01)  # fmt: skip


def _health(cluster: Cluster) -> str:
    """Why the cluster is not healthy; empty when it is."""
    try:
        cluster.wait_healthy(HEALTHY_S)
    except HarnessError as exc:
        return f"the cluster did not come back healthy: {exc}"
    return ""


def _noop(injection: Injection) -> Applied:
    return Applied(injection.fault, injection.target, dict(injection.options), evidence="no_effect")


def _facts(block: Block, plan: Plan) -> Mapping[str, Any]:
    return next(t.facts for t in block.trials if t.plan is plan)


# -- from the files of a trial to its part of the verdict --------------------------------------------------------------


def _of(fault: str, *planes: str) -> bool:
    """Whether that is a fault of one of these planes; an older run may hold one that there is no more."""
    try:
        return plane(fault) in planes
    except UsageError:
        return False


def evaluate(folder: Path, deciding: Sequence[str], *, stored: bool = False) -> TrialResult:
    """History -> finding, with the exposure of each fault; writes ``findings.json`` and completes ``faults.json``.

    stored: see ``Experiment``.
    """
    try:
        history = read_history(folder / "history.arrow")
        finding = check(history)
    except HistoryError as exc:
        history, finding = None, Finding(missing=(str(exc),))
    faults = _load_faults(folder)
    injections = faults.get("injections", [])
    # A disk that fails takes what it was given before, too: what was sent was in its hands ever since. So does a database.
    windows = [
        (0.0 if stored or _of(i["fault"], "disk", "store") else i["injected_s"], i["healed_s"])
        for i in injections
        if i["injected_s"] >= 0
    ]
    witnesses, unheard = 0, ""
    if history is not None:
        for injection in injections:
            if injection["injected_s"] >= 0:
                from_s = 0.0 if stored else injection["injected_s"]
                injection["in_flight"] = (
                    _may_come_again(history, injection["injected_s"])
                    if _of(injection["fault"], "store")
                    else _in_flight(history, from_s, injection["healed_s"])
                )
        witnesses = _witnesses_in_flight(history, finding, deciding, windows)
        unheard = _unheard(folder, history, [to_s for _, to_s in windows])
        problems = [*problems_of(folder), *filter(None, [unheard])]
        if problems:
            finding = _with_missing(finding, problems)
        if (told := folder / "world.json").exists():
            finding = replace(finding, metrics={**finding.metrics, **load_json(told)})
    write_json(folder / "findings.json", finding.to_json())
    if injections:
        write_json(folder / "faults.json", faults)
    if unheard:
        # What was promised to somebody who can be asked is not broken, nor kept, where nobody could be.
        kept = {key: count for key, count in finding.anomalies.items() if key not in deciding}
        finding, witnesses = replace(finding, anomalies=kept), 0
    return TrialResult(
        trial=folder.name, finding=finding,
        faults=tuple((i["fault"], i["evidence"], i["in_flight"]) for i in injections), witnesses_in_flight=witnesses,
        unrecovered=faults.get("unrecovered", ""),
    )  # fmt: skip


def _unheard(folder: Path, history: History, healed_s: Sequence[float]) -> str:
    """Says so where the senders were not answered again in time, see ``Workload.heard_s``."""
    plan = folder / "plan.json"
    heard_s = float(load_json(plan)["workload"].get("heard_s", 0.0)) if plan.exists() else 0.0
    if not heard_s or not healed_s:
        return ""
    sends = history["f"] == F["send"]
    begun, ended = history["start_ns"][sends] / 1e9, history["end_ns"][sends] / 1e9
    fine = (history["outcome"][sends] == OK) & (ended > max(healed_s))
    last = float(begun.max()) if len(begun) else 0.0
    if (fine & (ended <= last - heard_s)).any():
        return ""
    return (
        f"no send succeeded between the end of the last fault at {max(healed_s):.1f} s and {heard_s:g} s before the senders ended at "
        f"{last:.1f} s: the broker had nobody to ask"
    )


def _load_faults(folder: Path) -> dict[str, Any]:
    file = folder / "faults.json"
    return load_json(file) if file.exists() else {"schema": 1, "injections": []}


def _overlaps(history: History, from_s: float, to_s: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows whose operation was open at some moment of the window."""
    start, end = history["start_ns"], history["end_ns"]
    return (start <= to_s * 1e9) & ((end >= from_s * 1e9) | (end < 0)) & (history["process"] >= 0)


def _in_flight(history: History, from_s: float, to_s: float) -> int:
    """Operations that were open during the window, and messages that were in a consumer's hands: received before its
    end, their effect after its beginning or never."""
    work = np.isin(history["f"], [F["send"], F["receive"], F["settle"], F["effect"], F["commit"]])
    open_ = int(np.count_nonzero(_overlaps(history, from_s, to_s) & work))
    effects = history["f"] == F["effect"]
    if not effects.any():
        return open_
    taken = (history["f"] == F["receive"]) & (history["start_ns"] <= to_s * 1e9)
    worked = effects & (history["end_ns"] < from_s * 1e9)
    return open_ + len(np.setdiff1d(history["msg"][taken], history["msg"][worked]))


def _may_come_again(history: History, at_s: float) -> int:
    """What a database that is lost at that moment is needed for: messages that had had their effect and were not known to
    be settled, so that only what the database remembers can tell when they come again."""
    before = (history["end_ns"] >= 0) & (history["end_ns"] <= at_s * 1e9) & (history["outcome"] == OK)
    worked, settled = (before & (history["f"] == F[f]) for f in ("effect", "settle"))
    return len(np.setdiff1d(history["msg"][worked], history["msg"][settled]))


def _witnesses_in_flight(
    history: History, finding: Finding, deciding: Sequence[str], windows: Sequence[tuple[float, float]]
) -> int:  # fmt: skip
    """How many of the first messages of the deciding anomalies had an operation open during a fault.

    A message that was handed to a consumer and never had its effect is in that consumer's hands for ever: what is
    recorded of it ends before the kill that ended it. One that was handed out and not settled was in its hands, too,
    whatever had been done with it: the broker still has it. Where nobody records what is settled (an application of one's own), a
    message is on its way from when it was sent until its last effect.
    """
    found: set[int] = set()
    settled = (history["f"] == F["settle"]) & (history["outcome"] == OK)
    unsettled = not (history["f"] == F["settle"]).any()
    for key in deciding:
        mine = np.isin(history["msg"], np.array(finding.of(key).messages, dtype=np.int64))
        in_hand = key in ("effect_lost", "settled_but_lost")
        for from_s, to_s in windows:
            hit = _overlaps(history, from_s, to_s)
            begun = history["start_ns"] <= to_s * 1e9
            if in_hand:
                hit |= begun & np.isin(history["f"], [F["receive"], F["settle"], F["send"]])
            before = history["msg"][settled & (history["end_ns"] >= 0) & (history["end_ns"] < from_s * 1e9)]
            hit |= begun & (history["f"] == F["receive"]) & ~np.isin(history["msg"], before)
            if unsettled:
                late = history["msg"][(history["f"] == F["effect"]) & (history["end_ns"] >= from_s * 1e9)]
                hit |= begun & (history["f"] == F["send"]) & np.isin(history["msg"], late)
            found.update(np.unique(history["msg"][mine & hit]).tolist())
    return len(found)


def _with_missing(finding: Finding, problems: Sequence[str]) -> Finding:
    data = finding.to_json()
    return Finding.from_json({**data, "missing": [*data["missing"], *problems]})


# -- entries of results.json -------------------------------------------------------------------------------------------


def _entry(session: Session, cell: Cell, mode: str, verdict: Verdict) -> dict[str, Any]:
    claim = cell.claim
    want = expected(
        session.expected_in, broker=cell.broker, version=cell.version, claim=claim.id, variant=cell.variant,
        profile=cell.profile,
    )  # fmt: skip
    return {
        "slug": cell.slug, "claim": claim.id, "revision": claim.revision, "kind": claim.kind, "broker": cell.broker,
        "version": cell.version, "variant": cell.variant, "profile": cell.profile,
        "verdict": verdict.word, "expected": want.verdict, "reason": verdict.reason,
        "treatment": None, "control": None, "sham": None, "comparison": None, "metrics": dict(verdict.metrics),
        "cell": cell.node_id, "sentence": claim.sentence, "source": claim.source, "control_is": claim.control,
        "sharpens": claim.sharpens, "mode": mode, "deciding": list(claim.deciding), "always": claim.always,
        "unlisted": want.unlisted, "expected_because": want.reason,
        "as_expected": verdict.word == want.verdict or verdict.word == "UNSUPPORTED",
        "p": verdict.p, "configuration": {},
        "command": f"brokerproof run {session.asked(cell)} --select {claim.id}"
        + (f" --variant {cell.own_variant}" if cell.own_variant else "")
        + (f" --schedule {cell.schedule}" if cell.schedule else "") + f" --profile {cell.profile} --seed {cell.seed}",
    }  # fmt: skip


def _unrecovered(arms: Mapping[str, ArmResult]) -> list[str]:
    """What was wrong with the cluster after trials, each sentence once."""
    return list(dict.fromkeys(t.unrecovered for arm in arms.values() for t in arm.trials if t.unrecovered))


def _recovery(arms: Mapping[str, ArmResult]) -> dict[str, Any]:
    """What the injections cost, of each arm that had any; see ``verdict.recovery``."""
    return {arm: figures for arm, result in arms.items() if (figures := recovery(result))}


def _promises(entry: Mapping[str, Any], arms: Mapping[str, ArmResult]) -> dict[str, Any]:
    """Of each arm the anomalies, and whether its configuration promises that there are none; the sham has no fault."""
    return {
        arm: promises.explain(
            entry["broker"], entry["configuration"].get(arm, {}), ("none",) if arm == "sham" else entry["fault_classes"],
            [t.finding for t in result.trials],
        )
        for arm, result in arms.items()
    }  # fmt: skip


def _configuration(cell: Cell, experiment: Experiment) -> dict[str, Any]:
    arms = experiment.plans(cell, 0)
    return {arm: settings_of(plan) for arm, plan in arms.items()}


def settings_of(plan: Plan) -> dict[str, Any]:
    """What is set, by the part it is set on: what the promise table is asked with."""
    return {
        "senders": [dict(s.settings) | {"resend": s.resend, "spread": s.spread} for s in plan.workload.senders],
        "receivers": [
            dict(r.settings)
            | {"work_ms": r.work_ms, "prefetch": r.prefetch}
            | ({"fails": True} if r.fail_first else {})
            | ({"effect": r.effect["guard"]} if r.effect else {})
            for r in plan.workload.receivers
        ],
        "destinations": [dict(d.settings) | {"partitions": d.partitions} for d in plan.workload.destinations],
        "broker": dict(plan.settings) | {name: True for name in plan.equipment if name == "fsync_void"},
    }


def _decide_property(session: Session, cell: Cell, experiment: PropertyExperiment) -> dict[str, Any]:
    cases = experiment.cases[cell.profile]
    key = ClusterKey.of(cell.broker, cell.version, experiment.topology, experiment.settings)
    with session.cluster(key, cell.slug) as cluster:
        session.say(cell.slug, f"{cases} generated cases" if experiment.mutant else "cases, and the control's")
        real = experiment.check(cluster, cell.seed, cases)
        if experiment.control is not None:
            on_mutant = experiment.control(cluster, cell.seed, cases)
    if experiment.control is None:
        memory = ClusterKey.of("memory", experiment.mutant, "single", {})
        with session.cluster(memory, cell.slug) as mutant:
            on_mutant = experiment.check(mutant, cell.seed, cases)
    verdict = judge_property(cell.claim, real, experiment.mutant, on_mutant)
    entry = _entry(session, cell, experiment.mode, verdict)
    entry["property"] = {
        **real.to_json(),
        "mutant": {"name": experiment.mutant or "control", "failed": on_mutant.counterexample is not None},
    }
    entry["configuration"] = {"treatment": {"broker": dict(experiment.settings)}}
    return entry


def _decide_comparison(session: Session, cell: Cell, experiment: ComparisonExperiment) -> dict[str, Any]:
    pairs = [experiment.plans(cell, n) for n in range(experiment.pairs[cell.profile])]
    session.ahead = [plan for arms in pairs for plan in arms.values()]
    trials: dict[str, list[str]] = {}
    rates: dict[str, list[float]] = {}
    metrics: dict[str, list[Mapping[str, float]]] = {}
    missing = ""
    for arms in pairs:
        for arm, plan in arms.items():
            run_block(session, cell.slug, [plan], ClusterKey.of_plan(plan), link_groups=("producer",))
            folder = session.folder.trial(plan.trial)
            result = evaluate(folder, cell.claim.deciding)
            history = read_history(folder / "history.arrow")
            missing = missing or _not_done(plan, result, history, experiment.by)
            trials.setdefault(arm, []).append(plan.trial)
            rates.setdefault(arm, []).append(rate_per_s(history, experiment.by))
            metrics.setdefault(arm, []).append(result.finding.metrics)
    session.ahead = ()
    paired = list(zip(rates.get("treatment", ()), rates.get("control", ()), strict=True))
    verdict, comparison = judge_comparison(cell.claim, experiment.margin, paired, missing, WORDS[experiment.by])
    entry = _entry(session, cell, experiment.mode, verdict) | {"comparison": comparison}
    entry["compared"] = {
        "rates_per_s": rates, "trial_ids": trials, "metrics": metrics, "empty_polls": _empty_polls(session, trials),
    }  # fmt: skip
    entry["configuration"] = {arm: settings_of(plan) for arm, plan in experiment.plans(cell, 0).items()}
    return entry


def _empty_polls(session: Session, trials: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Of each arm's trials: how often a consumer asked and got nothing, where it counts that."""
    found: dict[str, list[int]] = {}
    for arm, names in trials.items():
        for name in names:
            clients = _load_faults(session.folder.trial(name)).get("clients", {})
            counts = [facts["empty_polls"] for facts in clients.values() if "empty_polls" in facts]
            if counts:
                found.setdefault(arm, []).append(sum(counts))
    return found


def _not_done(plan: Plan, result: TrialResult, history: History, by: By) -> str:
    """Why the trial does not count: both arms have to do the same work, all of it, once."""
    wanted = sum(sender.count or 0 for sender in plan.workload.senders)
    sent, did = result.finding.exercised.get("send", {}).get("ok", 0), done(history, by)
    wrong = ("lost", "duplicated") if by == "send" else ("lost", "duplicated", "effect_lost", "effect_duplicated")
    if result.finding.missing:
        return f"evidence missing in trial {plan.trial}: {result.finding.missing[0]}"
    if sent != wanted or did != wanted or result.finding.shows(*wrong):
        return f"trial {plan.trial}: {did} of {wanted} messages were done ({WORDS[by]}), or not all of them were there, once"
    if not rate_per_s(history, by):
        return f"trial {plan.trial}: all {wanted} messages were done at one moment ({WORDS[by]}); it takes more of them to see a rate"
    return ""


def _cluster_facts(cluster: Cluster, run: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "broker": cluster.product, "version": cluster.version, "topology": cluster.topology,
        "settings": dict(cluster.settings()),
    }  # fmt: skip
    if not cluster.in_process:
        from brokerproof.runtime import ground  # brings the engine's client with it

        facts |= ground.facts(run)
    return facts


# -- again, from what a run left ---------------------------------------------------------------------------------------


def recheck(folder: RunFolder) -> list[dict[str, Any]]:
    """Judges every cell of a run again from its histories, with today's checkers; returns the new entries.

    Properties have no history; their entries stay as they are.
    """
    entries = []
    for old in folder.cells():
        if old["treatment"] is None:
            entries.append(old)
            continue
        planned = [t for arm in ("treatment", "control", "sham") if old[arm] for t in old[arm]["trial_ids"]]
        ran = [t for t in planned if folder.trial(t).is_dir()]
        for trial in ran:
            rescue(folder.trial(trial))
        claim = Claim(
            id=old["claim"], revision=old["revision"], kind=old["kind"], sentence=old["sentence"], source=old["source"],
            deciding=tuple(old["deciding"]), control=old["control_is"], always=old["always"], sharpens=old["sharpens"],
        )  # fmt: skip
        arms = {
            arm: ArmResult(
                trials=tuple(
                    evaluate(folder.trial(t), claim.deciding, stored=bool(old.get("stored")))
                    for t in old[arm]["trial_ids"]
                    if t in ran
                )
            )
            for arm in ("treatment", "control", "sham")
            if old[arm] is not None
        }
        arms = _witnessed(arms)
        if len(ran) < len(planned):
            never = ", ".join(t for t in planned if t not in ran)
            verdict = Verdict(word="UNKNOWN", reason=f"the run was killed; it has nothing of {never}")
        else:
            has_faults = any(t.faults for t in arms["treatment"].trials)
            verdict = judge(claim, old["mode"], arms, has_faults=has_faults)
            if old.get("stopped") and any(t.shows(claim) for t in arms["treatment"].trials):
                verdict = _stopped(old["stopped"])
            if old.get("found") and any(t.shows(claim) for t in arms["treatment"].trials):
                verdict = Verdict(word="VIOLATED", reason=old["found"])
        new = {
            **old,
            "verdict": verdict.word,
            "reason": verdict.reason,
            "metrics": dict(verdict.metrics),
            "p": verdict.p,
        }
        new |= {arm: result.to_json(claim) for arm, result in arms.items()} | {"unrecovered": _unrecovered(arms)}
        new["as_expected"] = verdict.word == old["expected"]
        new["recovery"] = _recovery(arms)
        if "fault_classes" in old:
            new["promises"] = _promises(old, arms)
        entries.append(new)
    return entries


def replay(session: Session, folder: RunFolder, trials: Sequence[str], *, recorded_targets: bool) -> list[TrialResult]:
    """Runs the plans of these trials of an old run again, one by one; roles are resolved anew unless
    ``recorded_targets``. The seed repeats the plan, not the interleaving."""
    results = []
    for trial in trials:
        old = folder.trial(trial)
        if not (old / "plan.json").exists():
            raise PlanError(
                f"trial {trial!r} of {folder.id} has no plan.json; its trials are in {str(folder.trials)!r}"
            )
        plan = Plan.from_json(load_json(old / "plan.json"))
        recorded = [i["targets"] for i in _load_faults(old)["injections"]] if recorded_targets else None
        entry = next((c for c in folder.cells() for arm in ("treatment", "control", "sham")
                      if trial in (c[arm] or {}).get("trial_ids", ())), None)  # fmt: skip
        deciding = tuple(entry["deciding"]) if entry else ()
        groups = tuple(sorted({s.link for s in plan.workload.senders} | {r.link for r in plan.workload.receivers}))
        run_block(
            session, f"replay of {trial}", [plan], ClusterKey.of_plan(plan),
            link_groups=tuple(entry["link_groups"]) if entry else groups, recorded=recorded,
        )  # fmt: skip
        stored = bool(entry.get("stored")) if entry else False
        results.append(evaluate(session.folder.trial(trial), deciding, stored=stored))
    return results
