"""``brokerproof search``: looks for a schedule of faults under which a promise breaks, and makes it small.

    draw      Hypothesis draws schedules within ``Limits``; each is run as one block of trials on a kept cluster
    shrink    the first that breaks a promise is made simpler, by Hypothesis (fewer faults, simpler ones, no gaps), then
              by ``shrinking`` (shorter windows, less load, fewer clients)
    confirm   what is left has to show it on a fresh cluster, and is written as the trial ``least`` of a run

A schedule breaks a promise where a trial shows an anomaly that decides one of the selected claims, and the vendor's own
documentation does not say that it may. A clean search proves nothing: it says how much was tried.
Source: D. MacIver, A. Donaldson, Test-Case Reduction via Test-Case Generation, ECOOP 2020 (Hypothesis' shrinking).
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from rich.console import Console

from brokerproof import promises, run
from brokerproof.brokers.base import Cluster, broker, configurations, parse_target, without
from brokerproof.claims import Declared, declared
from brokerproof.errors import EnvironmentProblem, HarnessError, UsageError, unknown
from brokerproof.experiment import Cell, Experiment
from brokerproof.faults.base import faults, make, missing
from brokerproof.plan import Injection, Plan
from brokerproof.results import EXIT_MISSING, EXIT_OK, EXIT_UNEXPECTED, RunFolder, load_json, new_run_id
from brokerproof.runtime import sweep
from brokerproof.runtime.pool import ClusterKey
from brokerproof.schedules import Limits, Schedule, end_s, equipment, fitted
from brokerproof.shrinking import describe, shrink
from brokerproof.suites import suites
from brokerproof.verdict import TrialResult, Verdict

#: Distinct workloads side by side under one schedule; two cores carry no more with room to breathe.
ARMS_MAX = 3
#: Faults of one schedule at most: what it takes more for is not found by drawing.
FAULTS_MAX = 4
#: How many trials' lanes are made ahead, so that they age while others run.
LANES_AHEAD = 12
#: After so many trials in a row that the harness could not carry out, the search gives up.
ERRORS_MAX = 3
#: Tries to show it on a fresh cluster, of each of so many candidates.
CONFIRMS, CANDIDATES = 3, 3
#: The simplest first: what Hypothesis shrinks towards, and draws first. What is not named here comes after them.
_ORDER = (
    "partition", "kill", "pause", "stop", "black_hole", "link_down", "reset", "lost_ack", "stall", "latency", "client_kill",
)  # fmt: skip
#: Windows and gaps, in units of a second times the product's pace.
_WINDOWS, _GAPS_MAX = (6, 3, 8, 2, 1), 6


def search_run(
    target: str, *, select: Sequence[str], arm: str, budget: str, schedules_max: int, only: Sequence[str],
    seed: int | None, run_dir: Path | None,
) -> int:  # fmt: skip
    """Exit code 1: a schedule was found that breaks a promise. 0: none within the budget. 3: nothing could be said of any.
    130: interrupted before anything was found."""
    budget_s = seconds(budget)
    product, version = parse_target(target)
    seed = random.SystemRandom().randrange(1, 100_000) if seed is None else seed
    arms = _arms(product, version, select, arm, seed, _equipment(only))
    folder = RunFolder((run_dir or Path("runs", new_run_id(seed))).absolute())
    if folder.path.exists():
        raise UsageError(f"run folder {str(folder.path)!r} exists; name another")
    folder.create(seed=seed, command=f"brokerproof search --broker {product}={version} --seed {seed}")
    sweep.register(folder.mark, folder=folder.path)
    sweep.clean()
    console = Console()
    console.print(
        f"search {folder.id}: {product} {version}, {len({c.claim.id for a in arms for c in a.cells})} claims, {len(arms)} "
        f"workloads, budget {budget_s:g} s or {schedules_max} schedules, seed {seed}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    hunt = Hunt(folder, console, seed=seed, budget_s=budget_s, schedules_max=schedules_max, only=only, arm=arm)
    # A polite kill is an interrupt: everything that was started goes through the same way out.
    before = {number: signal.signal(number, hunt.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(_Over):
            hunt.go(arms)
    except KeyboardInterrupt:
        pass  # it is known, and told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            hunt.close()
        finally:
            sweep.clean(folder.mark)
    return hunt.report()


def seconds(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1h`` in seconds. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--budget {text!r}: expected a time like 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _equipment(only: Sequence[str]) -> tuple[str, ...]:
    """What the nodes have to be started with for the faults that were asked for."""
    needs = equipment([Injection(fault=name) for name in only])
    if needs:
        from brokerproof.runtime import equipment as kinds

        if lacking := "; ".join(filter(None, (kinds.kind(name).missing() for name in needs))):
            raise EnvironmentProblem(lacking)
    return needs


# -- what is searched --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Arm:
    """One workload on one cluster, and the claims that it can break."""

    plan: Plan
    link_groups: tuple[str, ...]
    cells: list[Cell] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)

    @property
    def deciding(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for cell in self.cells for key in cell.claim.deciding))


def _arms(
    product: str, version: str, select: Sequence[str], arm: str, seed: int, equip: tuple[str, ...]
) -> list[Arm]:  # fmt: skip
    """The distinct workloads of the promises that are selected. Raises UsageError where there is none."""
    everything = declared(suites() / "claims")
    known = {d.claim.id for d in everything} | {d.claim.section for d in everything}
    for name in select:
        if name not in known:
            raise unknown("claim", name, known, listed="brokerproof list claims")
    if arm not in ("treatment", "control"):
        raise unknown("arm", arm, ("treatment", "control"))
    found: dict[str, Arm] = {}
    for cell, experiment in _cells(everything, product, version, select, seed):
        plan = replace(experiment.plans(cell, 0)[arm], schedule=(), equipment=equip, arm="treatment", seed=seed)
        same = json.dumps(
            [asdict(plan.workload), plan.topology, dict(plan.settings), experiment.link_groups], sort_keys=True
        )
        one = found.setdefault(same, Arm(plan, experiment.link_groups))
        one.cells.append(cell)
        one.experiments.append(experiment)
    if not found:
        raise UsageError(
            f"no promise of {', '.join(select) or 'any section'} is decided on {product}; `brokerproof list claims` shows all"
        )
    return list(found.values())


def _cells(
    everything: Sequence[Declared], product: str, version: str, select: Sequence[str], seed: int
) -> Iterator[tuple[Cell, Experiment]]:  # fmt: skip
    for one in everything:
        chosen = not select or one.claim.id in select or one.claim.section in select
        if not chosen or one.claim.kind != "promise" or without(product, version, one.needs):
            continue
        for variant in one.brokers.get(product, ()):
            cell = Cell(
                claim=one.claim, broker=product, version=version, variant=variant, profile=one.profiles[0], seed=seed
            )
            experiment = one.decide(cell)
            if isinstance(experiment, Experiment) and not without(product, version, experiment.needs):
                yield cell, experiment


def choices(cluster: Cluster, limits: Limits, arms: Sequence[Arm], only: Sequence[str]) -> list[tuple[str, str]]:
    """(fault, role) of what can be injected there within the limits. Without ``only``: every fault that needs no equipment
    of the nodes."""
    out: list[tuple[str, str]] = []
    names = sorted(faults(), key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))
    for name in names:
        fault = make(name)
        if fault.plane in ("none", "store") or (only and name not in only) or (not only and fault.needs):
            continue
        if fault.plane == "peer" and cluster.peers is None:
            continue
        if set(fault.asks) - broker(cluster.product).capabilities or (not cluster.in_process and missing(name)):
            continue
        roles: tuple[str, ...] = ("leader", "follower") if len(cluster.nodes) > 2 else ("leader",)
        if fault.plane == "link":
            roles = ("all", "leader") if len(cluster.nodes) > 1 else ("all",)
        elif fault.plane == "load":
            roles = ("consumer",) if any(a.plan.workload.receivers for a in arms) else ()
        out += [(name, role) for role in roles]
    # First what is done to leaders and to all links.
    out.sort(key=lambda choice: choice[1] == "follower" or (choice[1] == "leader" and make(choice[0]).plane == "link"))
    return [c for c in out if fitted((), Injection(fault=c[0], target=c[1]), limits) is not None]


def drawn(what: Sequence[tuple[str, str]], limits: Limits, unit_s: float) -> st.SearchStrategy[Schedule]:
    """Schedules within the limits. They shrink towards one fault, the first of ``what``, soon, in a window of six units."""
    step = st.tuples(st.sampled_from(list(what)), st.integers(0, _GAPS_MAX), st.sampled_from(_WINDOWS))

    def laid_out(steps: Sequence[tuple[tuple[str, str], int, int]]) -> Schedule:
        out: Schedule = ()
        at = 1.0
        for (fault, target), gap, window in steps:
            at += gap / 2
            wanted = Injection(
                fault=fault, target=target, at_s=round(at * unit_s, 3), for_s=round(window * unit_s, 3)
            )  # fmt: skip
            found = fitted(out, wanted, limits)
            if found is not None:
                out = tuple(sorted((*out, found), key=lambda i: i.at_s))
        return out

    return st.lists(step, min_size=1, max_size=FAULTS_MAX).map(laid_out)


# -- the search --------------------------------------------------------------------------------------------------------


class _Over(BaseException):
    """The budget is spent: passes through Hypothesis as an interrupt does."""


class _Broken(Exception):
    """A schedule broke a promise."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plan whose trial broke a promise."""

    plan: Plan
    arm: Arm
    cell: Cell
    experiment: Experiment
    said: str


class Hunt:
    """One search: its budget, its tally, the best it has found."""

    def __init__(
        self, folder: RunFolder, console: Console, *, seed: int, budget_s: float, schedules_max: int,
        only: Sequence[str], arm: str,
    ) -> None:  # fmt: skip
        self.folder, self.console, self.arm = folder, console, arm
        self.interrupted = False
        self._seed, self._budget_s, self._schedules_max, self._only = seed, budget_s, schedules_max, only
        self._started = time.monotonic()
        self._until = self._started + budget_s
        self._session = run.Session(folder, expected_in=suites() / "expected", progress=self._heard)
        self._n = 0  # trials' blocks so far
        self._drawn = 0
        self._complete = 0  # blocks whose evidence was complete
        self._tried: Counter[str] = Counter()
        self._bit: Counter[str] = Counter()
        self._allowed: Counter[str] = Counter()
        self._besides: dict[str, None] = {}
        self._errors: list[str] = []
        self._known: dict[str, bool] = {}
        self._found: list[Found] = []
        self._confirmed = ""
        self._limits = Limits()

    def _heard(self, cell: str, what: str) -> None:
        # What takes long and has no line of its own; the rest is in the lines of the schedules.
        if " up after " in what or what.startswith("letting new lanes"):
            self._say(what)

    def _say(self, what: str) -> None:
        passed = time.monotonic() - self._started
        self.console.print(f"{passed:7.1f} s  {what}", highlight=False, markup=False, soft_wrap=True)

    def interrupt(self, number: int, frame: object) -> None:
        """Handles the signal. An exception that comes while a library cleans up is lost; the word that it was is not, and
        ends the search before the next schedule."""
        self.interrupted = True
        raise KeyboardInterrupt

    def close(self) -> None:
        self._session.close()

    def go(self, arms: Sequence[Arm]) -> None:
        """Searches group after group, each for its share of the budget; stops at the first that is found."""
        groups = list(_groups(arms))
        for n, group in enumerate(groups):
            left = self._until - time.monotonic()
            share = time.monotonic() + left / (len(groups) - n)
            per_group = max(1, (self._schedules_max - self._drawn) // (len(groups) - n))
            with contextlib.suppress(_Over):
                self._draw(group, until=share, at_most=per_group)
            if self._found:
                self._smaller()
                self._confirm()
                return

    def _draw(self, group: Sequence[Arm], *, until: float, at_most: int) -> None:
        key = ClusterKey.of_plan(group[0].plan)
        pace = configurations(group[0].plan.product).pace
        with self._session.cluster(key, "search") as cluster:
            self._limits = Limits(nodes=len(cluster.nodes), quiet_s=2.0 * pace)
            what = choices(cluster, self._limits, group, self._only)
        if not what:
            raise UsageError(
                f"none of the faults {', '.join(self._only) or 'there are'} can be injected into {key.product} {key.topology}"
            )
        self._say(
            f"{', '.join(c.claim.id for a in group for c in a.cells)}; faults: {', '.join(f'{f} {t}' for f, t in what)}"
        )
        self._known.clear()
        first = self._drawn
        arms = list(group)

        def one(schedule: Schedule) -> None:
            text = json.dumps([asdict(i) for i in schedule], sort_keys=True)
            if text not in self._known:
                if self.interrupted:
                    raise KeyboardInterrupt
                shrinking = bool(self._found)
                if time.monotonic() >= (self._until if shrinking else until):
                    raise _Over
                if not shrinking and self._drawn - first >= at_most:
                    raise _Over
                self._drawn += 1
                # Once one is broken, only that workload is looked at further.
                chosen = [self._found[0].arm] if shrinking else arms
                self._known[text] = self._breaks([_under(a.plan, schedule, pace) for a in chosen], chosen)
            if self._known[text]:
                raise _Broken

        every = hypothesis.given(drawn(what, self._limits, pace))(one)
        quiet = hypothesis.settings(
            max_examples=at_most, deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
        )  # fmt: skip
        with contextlib.suppress(_Broken, hypothesis.errors.Flaky):
            quiet(hypothesis.seed(self._seed)(every))()

    def _breaks(self, plans: Sequence[Plan], arms: Sequence[Arm], *, name: str = "") -> bool:
        """Runs the plans as one block, tells and counts what came out, and keeps what broke a promise."""
        self._n += 1
        plans = [
            replace(plan, trial=name or f"search-{self._n:03d}" + (f"-{k}" if len(plans) > 1 else ""))
            for k, plan in enumerate(plans)
        ]
        if not name:
            self._session.ahead = [
                replace(plan, trial=f"search-{n:03d}" + (f"-{k}" if len(plans) > 1 else ""))
                for n in range(self._n, self._n + LANES_AHEAD)
                for k, plan in enumerate(plans)
            ]
        what = in_words(plans[0].schedule)
        try:
            run.run_block(
                self._session, "search", plans, ClusterKey.of_plan(plans[0]), link_groups=arms[0].link_groups
            )  # fmt: skip
            results = [run.evaluate(self.folder.trial(p.trial), a.deciding) for p, a in zip(plans, arms, strict=True)]
        except UsageError:
            raise
        except HarnessError as exc:
            self._errors.append(str(exc))
            self._say(f"! {what}: {exc}")
            if len(self._errors) >= ERRORS_MAX:
                raise EnvironmentProblem(f"{ERRORS_MAX} schedules in a row could not be run; the last: {exc}") from exc
            return False
        self._errors.clear()
        self._count(plans[0].schedule, results)
        broke = [f for f in map(self._broken, plans, arms, results) if f is not None]
        for plan in plans:
            if plan.trial not in {f.plan.trial for f in broke}:
                shutil.rmtree(self.folder.trial(plan.trial), ignore_errors=True)
        if not broke:
            self._say(f"· {what}" + _gap(results))
            return False
        self._say(f"✘ {what}: {broke[0].said}")
        self._found.append(broke[0])
        return True

    def _count(self, schedule: Schedule, results: Sequence[TrialResult]) -> None:
        self._tried.update(i.fault for i in schedule)
        self._bit.update(fault for fault, evidence, _ in results[0].faults if evidence == "took_effect")
        self._complete += not _gap(results)
        if not self._limits.beyond(schedule):
            for result in results:
                if result.unrecovered:
                    self._besides.setdefault(f"after {in_words(schedule)}: {result.unrecovered}")

    def _broken(self, plan: Plan, arm: Arm, result: TrialResult) -> Found | None:
        """The promise that this trial breaks, if it does; what the vendor allows is counted."""
        classes = promises.fault_classes([(i.fault, i.until_read) for i in plan.schedule])
        said = {
            word["anomaly"]: word
            for word in promises.explain(plan.product, run.settings_of(plan), classes, [result.finding])
        }
        for cell, experiment in zip(arm.cells, arm.experiments, strict=True):
            for key in cell.claim.deciding:
                for anomaly, word in said.items():
                    if anomaly.partition("/")[0] != key:
                        continue
                    if self.arm == "treatment" and word["word"] in (promises.ALLOWED, promises.UNPROMISED):
                        self._allowed[f"{anomaly} ({word['word']})"] += word["count"]
                        continue
                    first = result.finding.anomalies[key].messages[:1]
                    text = f"{word['count']} {anomaly} (first message {first[0] if first else '-'}), {cell.claim.id}"
                    return Found(plan, arm, cell, experiment, text)
        return None

    # -- smaller, and sure ---------------------------------------------------------------------------------------------

    def _smaller(self) -> None:
        """The best so far, with shorter windows, less load and fewer clients, as long as there is time."""
        best = self._best()
        self._say(f"making it smaller: {describe(best.plan)}")

        faultless: list[bool] = []

        def reproduces(what: str, plan: Plan) -> bool:
            if plan.schedule:
                return self._breaks([plan], [best.arm])
            # Asked again of every smaller plan, and answered once: a trial is dear.
            if not faultless:
                faultless.append(self._breaks([plan], [best.arm]))
                return faultless[0]
            return faultless[0] and self._breaks([plan], [best.arm])

        shrink(best.plan, reproduces, again=lambda: time.monotonic() < self._until)

    def _best(self) -> Found:
        """The smallest of what was found; of equals the last, which was derived from those before."""

        def size(found: Found) -> tuple[int, float, float]:
            plan = found.plan
            offered = sum(s.rate_per_s or 1e6 for s in plan.workload.senders) * plan.workload.load_s
            return len(plan.schedule), sum(i.for_s for i in plan.schedule) + plan.workload.load_s, offered

        return min(reversed(self._found), key=size)

    def _confirm(self) -> None:
        """On a fresh cluster: one remembers what was done to it, and that may be what made a small plan break."""
        ranked = sorted({f.plan.trial: f for f in reversed(self._found)}.values(), key=lambda f: _size(f.plan))
        for found in ranked[:CANDIDATES]:
            for n in range(CONFIRMS):
                self._session.pool.spoil(ClusterKey.of_plan(found.plan))
                self._session.ahead = ()
                if self._breaks([found.plan], [found.arm], name="least"):
                    self._confirmed = f"on a fresh cluster at try {n + 1}"
                    return
                if time.monotonic() > self._until + self._budget_s / 2:
                    return
            self._say(f"not on a fresh cluster in {CONFIRMS} tries: {in_words(found.plan.schedule)}")

    # -- what it says --------------------------------------------------------------------------------------------------

    def report(self) -> int:
        passed = time.monotonic() - self._started
        tally = ", ".join(f"{n} {fault}" + (f" ({self._bit[fault]} bit)" if self._bit[fault] < n else "")
                          for fault, n in sorted(self._tried.items()))  # fmt: skip
        lines = [
            "",
            f"{self._n} schedules in {passed:.0f} s, {self._tried.total()} injections: {tally or 'none'}"
            + ("; interrupted" if self.interrupted else ""),
        ]
        lines += [f"found besides: {said}" for said in self._besides]
        if self._allowed:
            lines.append("seen, and no broken promise: " + ", ".join(f"{n} {k}" for k, n in self._allowed.items()))
        if not self._found:
            missing = self._n - self._complete
            if missing:
                lines.append(f"evidence was missing in {missing} of {self._n}")
            lines.append("no schedule was found that breaks a promise; that proves nothing beyond what was tried")
            self._print(lines)
            if self.interrupted:
                return 130
            return EXIT_OK if self._complete else EXIT_MISSING
        last = next((f for f in reversed(self._found) if f.plan.trial == "least"), None)
        best = last or self._best()
        self._keep(best)
        lines += [
            f"broken: {best.said}" + ("" if self.arm == "treatment" else f", in its control arm ({best.cell.claim.control})"),
            f"under:  {in_words(best.plan.schedule)}", *self._targets(best),
            f"plan:   {describe(best.plan)}",
            f"sure:   {self._confirmed or 'not confirmed on a fresh cluster'}",
            f"witness: brokerproof explain {_shown(self.folder.path)} {self._witness(best)} --trial {best.plan.trial}",
            f"again:   brokerproof replay {_shown(self.folder.path)} --trial {best.plan.trial}",
        ]  # fmt: skip
        self._print(lines)
        return EXIT_UNEXPECTED

    def _print(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _targets(self, best: Found) -> list[str]:
        file = self.folder.trial(best.plan.trial) / "faults.json"
        injections = load_json(file)["injections"] if file.exists() else []
        return [
            f"        {i['fault']} {i['target']} = {', '.join(i['targets'])}, from {i['injected_s']:.2f} to {i['healed_s']:.2f} s, "
            f"{i['evidence']}"
            for i in injections
        ]

    def _witness(self, best: Found) -> str:
        finding = load_json(self.folder.trial(best.plan.trial) / "findings.json")
        keys = [k for k in best.cell.claim.deciding if finding["anomalies"].get(k, {}).get("messages")]
        return str(finding["anomalies"][keys[0]]["messages"][0]) if keys else "MESSAGE"

    def _keep(self, best: Found) -> None:
        """Leaves the run as one cell with the trial that was found, as ``check``, ``replay`` and ``shrink`` read it."""
        for folder in self.folder.trials.iterdir():
            if folder.name != best.plan.trial:
                shutil.rmtree(folder, ignore_errors=True)
        suffix = "search" if self.arm == "treatment" else "search-control"
        cell = replace(best.cell, variant="-".join(p for p in (best.cell.variant, suffix) if p))
        entry = run.found(
            self._session, cell, best.experiment, best.plan, Verdict(word="VIOLATED", reason=f"a search found {best.said}"),
            command=f"brokerproof replay {_shown(self.folder.path)} --trial {best.plan.trial}",
        )  # fmt: skip
        self.folder.write_cell(cell.slug, entry)
        self.folder.fold(interrupted=False)  # a search that was interrupted leaves what it had found, decided


def _groups(arms: Sequence[Arm]) -> Iterator[list[Arm]]:
    """Arms that can run side by side: one cluster, the same link groups, few of them."""
    by: dict[str, list[Arm]] = {}
    for arm in arms:
        by.setdefault(repr((ClusterKey.of_plan(arm.plan), arm.link_groups)), []).append(arm)
    for several in by.values():
        for n in range(0, len(several), ARMS_MAX):
            yield several[n : n + ARMS_MAX]


def _under(plan: Plan, schedule: Schedule, pace: float) -> Plan:
    """The plan under that schedule, with load until the last fault is over and a while after it."""
    load_s = round(end_s(schedule) + 2.0 * pace, 3)
    return replace(plan, schedule=schedule, workload=replace(plan.workload, load_s=load_s))


def _gap(results: Sequence[TrialResult]) -> str:
    """What is missing in the evidence of a block, for its line; empty where nothing is."""
    for result in results:
        if result.finding.missing:
            return f"  (evidence missing: {result.finding.missing[0]})"
    blind = [
        f"{fault} {evidence.replace('_', ' ')}" for fault, evidence, _ in results[0].faults if evidence != "took_effect"
    ]
    return f"  ({', '.join(blind)})" if blind else ""


def _size(plan: Plan) -> tuple[int, float]:
    return len(plan.schedule), sum(i.for_s for i in plan.schedule) + plan.workload.load_s


def in_words(schedule: Sequence[Injection]) -> str:
    return "; ".join(f"{i.fault} {i.target} at {i.at_s:g} s for {i.for_s:g} s" for i in schedule) or "no fault"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
