"""``brokerproof shrink``: the smallest plan that still shows what a trial showed.

    smaller(plan)              plans with one thing less: a fault, half a window, half the load, a client, a key
    shrink(plan, reproduces)   takes the first of them that still reproduces, again and again, until none does
    shrink_run(...)            with a broker: reproduces = at least so many of so many trials show the anomaly; what is
                               written reproduced on a fresh cluster as well

Greedy, as delta debugging is: what comes out can not be made smaller by one more step, which is not to say that it is
the smallest there is. Source: A. Zeller and R. Hildebrandt, IEEE Trans. Softw. Eng. 28 (2002) 183.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brokerproof import run, show
from brokerproof.errors import UsageError, unknown
from brokerproof.finding import Finding
from brokerproof.plan import Injection, Plan, Workload
from brokerproof.results import EXIT_MISSING, EXIT_OK, RunFolder, load_json, new_run_id, open_run
from brokerproof.runtime import sweep
from brokerproof.runtime.pool import ClusterKey
from brokerproof.suites import suites

#: What is not made smaller: below, a trial measures the harness.
LOAD_MIN_S, WINDOW_MIN_S, RATE_MIN_PER_S, SIZE_MIN_BYTES = 0.1, 0.05, 10.0, 64


def smaller(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """(what is less, the plan), the greatest steps first. Every chain of steps ends."""
    faults, load = plan.schedule, plan.workload
    if len(faults) > 1:
        yield "no fault at all", replace(plan, schedule=())
    for n, fault in enumerate(faults):
        yield f"no {fault.fault}", replace(plan, schedule=faults[:n] + faults[n + 1 :])
    if load.load_s / 2 >= LOAD_MIN_S and all(i.for_s / 2 >= WINDOW_MIN_S for i in faults):
        half = tuple(replace(i, at_s=_half(i.at_s), for_s=_half(i.for_s)) for i in faults)
        yield "everything in half the time", _with(replace(plan, schedule=half), load_s=_half(load.load_s))
    if load.load_s / 2 >= max([LOAD_MIN_S, *(i.at_s + i.for_s for i in faults)]):
        yield "half the time of load", _with(plan, load_s=_half(load.load_s))
    for role, clients in (("receiver", load.receivers), ("sender", load.senders)):
        for n in range(len(clients)) if len(clients) > 1 or role == "receiver" else ():
            fewer: Any = clients[:n] + clients[n + 1 :]
            yield f"without {role} {n}", _with(plan, **{f"{role}s": fewer})
    yield from _windows(plan, faults)
    yield from _loads(plan, load)


def _windows(plan: Plan, faults: tuple[Injection, ...]) -> Iterator[tuple[str, Plan]]:
    for n, fault in enumerate(faults):
        if fault.for_s / 2 >= WINDOW_MIN_S:
            shorter = replace(fault, for_s=_half(fault.for_s))
            yield f"{fault.fault} half as long", replace(plan, schedule=(*faults[:n], shorter, *faults[n + 1 :]))
        if fault.at_s >= 2 * WINDOW_MIN_S:
            earlier = replace(fault, at_s=_half(fault.at_s))
            yield f"{fault.fault} earlier", replace(plan, schedule=(*faults[:n], earlier, *faults[n + 1 :]))


def _loads(plan: Plan, load: Workload) -> Iterator[tuple[str, Plan]]:
    for n, sender in enumerate(load.senders):
        changes: list[tuple[str, Mapping[str, Any]]] = []
        if sender.rate_per_s is not None and sender.rate_per_s / 2 >= RATE_MIN_PER_S:
            changes.append(("half the rate", {"rate_per_s": _half(sender.rate_per_s)}))
        if sender.count is not None and sender.count > 1:
            changes.append(("half the messages", {"count": sender.count // 2}))
        if sender.keys > 1:
            changes.append(("half the keys", {"keys": sender.keys // 2}))
        if sender.size_bytes // 2 >= SIZE_MIN_BYTES:
            changes.append(("half the size", {"size_bytes": sender.size_bytes // 2}))
        for what, change in changes:
            less = replace(sender, **change)
            yield f"sender {n}: {what}", _with(plan, senders=(*load.senders[:n], less, *load.senders[n + 1 :]))
    for n, receiver in enumerate(load.receivers):
        if receiver.prefetch > 1:
            one = replace(receiver, prefetch=receiver.prefetch // 2)
            receivers = (*load.receivers[:n], one, *load.receivers[n + 1 :])
            yield f"receiver {n}: half the prefetch", _with(plan, receivers=receivers)
    for n, destination in enumerate(load.destinations):
        if destination.partitions > 1:
            one_less = replace(destination, partitions=destination.partitions // 2)
            destinations = (*load.destinations[:n], one_less, *load.destinations[n + 1 :])
            yield f"{destination.name}: half the partitions", _with(plan, destinations=destinations)


def _half(value: float) -> float:
    return round(value / 2, 3)


def _with(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, workload=replace(plan.workload, **changes))


def shrink(
    plan: Plan, reproduces: Callable[[str, Plan], bool], *, again: Callable[[], bool] = lambda: True
) -> Plan:  # fmt: skip
    """The last plan that reproduced. ``reproduces`` is told what is less. Asks ``again`` before every try."""
    tried: set[str] = set()
    while True:
        for what, candidate in smaller(plan):
            text = candidate.dumps()
            if text in tried:
                continue
            if not again():
                return plan
            tried.add(text)
            if reproduces(what, candidate):
                plan = candidate
                break
        else:
            return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At least ``shown_min`` of ``trials`` trials have to show it."""

    trials: int
    share: float

    @property
    def shown_min(self) -> int:
        return max(1, math.ceil(self.share * self.trials - 1e-9))

    def reached(self, show: Callable[[int], bool]) -> tuple[bool, int, int]:
        """(whether, how many showed it, how many were run); stops as soon as it is clear."""
        shown = 0
        for n in range(self.trials):
            shown += show(n)
            if shown >= self.shown_min or shown + self.trials - n - 1 < self.shown_min:
                return shown >= self.shown_min, shown, n + 1
        return False, shown, self.trials


def shrink_run(
    path: Path, cell: str, *, trials: int, rate: float, tries: int, out: Path | None, run_dir: Path | None
) -> int:  # fmt: skip
    """Exit code 0: a plan was written, the smallest that was found. 3: the trial as it was does not reproduce."""
    if trials < 1 or not 0 < rate <= 1:
        raise UsageError(
            f"--trials {trials} --rate {rate:g}: expected at least one trial, and a rate above 0 and up to 1"
        )
    old = open_run(path)
    entry, trial = _violation(old, cell)
    plan = Plan.from_json(load_json(old.trial(trial) / "plan.json"))
    new = RunFolder((run_dir or Path("runs", new_run_id(plan.seed))).absolute())
    if new.path.exists():
        raise UsageError(f"run folder {str(new.path)!r} exists; name another")
    new.create(seed=plan.seed, command=f"brokerproof shrink {path} {entry['slug']}")
    sweep.register(new.mark, folder=new.path)
    console = show.console()
    session = run.Session(new, expected_in=suites() / "expected", progress=lambda *_: None)
    need, deciding, steps = Rate(trials=trials, share=rate), tuple(entry["deciding"]), 0
    kept: list[Plan] = []

    def reproduces(what: str, candidate: Plan) -> bool:
        nonlocal steps
        steps += 1
        number = steps
        yes, shown, ran = need.reached(
            lambda n: _shows(session, candidate, f"shrink-{number:03d}-{n}", entry, deciding)
        )
        show.say(console, f"{'✔' if yes else '·'} {what}: {shown} of {ran} trials show it")
        if yes:
            kept.append(candidate)
        return yes

    try:
        if not reproduces(f"{trial} as it was", plan):
            show.say(
                console,
                f"it does not reproduce in {need.shown_min} of {trials} trials; try more --trials or a lower --rate",
            )
            return EXIT_MISSING
        shrink(plan, reproduces, again=lambda: steps <= tries)
        least = plan
        # A cluster remembers: what the trials before left may be what made a small plan reproduce.
        for candidate in reversed(kept.copy()):
            session.pool.spoil(ClusterKey.of_plan(candidate))
            if reproduces(f"on a fresh cluster: {describe(candidate)}", candidate):
                least = candidate
                break
    finally:
        session.close()
        sweep.clean(new.mark)
    file = out or old.path / "shrunk" / f"{entry['slug']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(least.dumps())
    show.say(console, f"\n{describe(plan)}\n-> {describe(least)}\nplan     {file}\ntrials   {new.path}")
    return EXIT_OK


def _shows(session: run.Session, plan: Plan, trial: str, entry: Mapping[str, Any], deciding: tuple[str, ...]) -> bool:
    plan = replace(plan, trial=trial)
    groups = tuple(entry.get("link_groups") or ("producer",))
    run.run_block(session, trial, [plan], ClusterKey.of_plan(plan), link_groups=groups)
    return run.evaluate(session.folder.trial(trial), deciding).finding.shows(*deciding)


def _violation(folder: RunFolder, cell: str) -> tuple[Mapping[str, Any], str]:
    """The cell, and its first treatment trial that shows the deciding anomaly."""
    found: dict[str, tuple[Mapping[str, Any], str]] = {}
    entries = [entry for entry in folder.cells() if entry["treatment"] is not None]
    for entry in entries:
        for trial in entry["treatment"]["trial_ids"]:
            file = folder.trial(trial) / "findings.json"
            if file.exists() and Finding.from_json(load_json(file)).shows(*entry["deciding"]):
                found.setdefault(entry["slug"], (entry, trial))
    named = [slug for slug, (entry, _) in found.items() if cell in (slug, entry["claim"])]
    if cell and not named:
        if cell not in {name for e in entries for name in (e["slug"], e["claim"])}:
            raise unknown("cell", cell, [e["slug"] for e in entries])
        raise UsageError(
            f"no treatment trial of {cell!r} shows what decides it; of others: {', '.join(found) or 'none'}"
        )
    chosen = named if cell else [s for s, (e, _) in found.items() if e["verdict"] == "VIOLATED"] or list(found)
    if len(chosen) != 1:
        what = (
            f"several cells show an anomaly, name one: {', '.join(chosen)}" if chosen else "no trial shows an anomaly"
        )
        raise UsageError(f"shrinking {folder.id}: {what}")
    return found[chosen[0]]


def describe(plan: Plan) -> str:
    """The size of a plan in a line."""
    load = plan.workload
    rates = ", ".join("as fast as it goes" if s.rate_per_s is None else f"{s.rate_per_s:g}/s" for s in load.senders)
    faults = ", ".join(f"{i.fault} at {i.at_s:g} s for {i.for_s:g} s" for i in plan.schedule) or "no fault"
    return (
        f"{load.load_s:g} s of load, {len(load.senders)} senders ({rates}), {len(load.receivers)} receivers, "
        f"{len(load.lanes)} lanes; {faults}"
    )
