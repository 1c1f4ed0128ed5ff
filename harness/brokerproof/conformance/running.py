"""Runs protocol cases on a target: side by side where they are isolated, one by one where others would feel them.

A case has fresh names of its own, so many run on one cluster at a time, and what a broker makes them wait for overlaps. The
cases that are ``destructive`` come after all others, each alone, and the cluster must be healthy again before the next.

A broker that has a dozen cases at a time on a busy machine may answer after a case's window. So a FAIL that nobody expected is
asked again once the crowd is gone: it is a FAIL if it fails each time, and INCONCLUSIVE, never a pass, if it does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Cluster
from brokerproof.conformance import adopted
from brokerproof.conformance.adopted import lacking
from brokerproof.conformance.case import CUT_SHORT, Case
from brokerproof.conformance.ledger import Says, admitted, drifts, ledger
from brokerproof.conformance.manifest import Judgement, gate, manifest
from brokerproof.conformance.protocols import CONDITIONS, on_cluster, on_target
from brokerproof.conformance.scene import AFTERWARDS, Ground, Judged, Outcome, of_steps, play
from brokerproof.errors import HarnessError
from brokerproof.results import RunFolder, write_json
from brokerproof.runtime.pool import ClusterKey, Pool

#: Cases at a time on one cluster: most of them wait, for a reaction or for a window to end.
SIDE_BY_SIDE = 12
#: Of a case that fails and was not expected to, in all.
ATTEMPTS = 3
_HEALTH_S = 90.0
_LOG_LINES_MAX = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One case in one variant, through one condition ("" none)."""

    case: Case
    variant: str
    condition: str

    @property
    def id(self) -> str:
        """``A2.13`` or ``A2.13@slicer``, as results name it."""
        return self.case.id + (f"@{self.condition}" if self.condition else "")

    @property
    def slug(self) -> str:
        """Its file's name."""
        return f"{self.id}-{self.variant}" if self.variant else self.id

    def command(self, target: Target) -> str:
        """What repeats it, in this variant and through this condition."""
        variant = f" --variant {self.variant}" if self.variant else ""
        return f"brokerproof conformance {target.asked_for} --case {self.id}{variant}"


@dataclass(frozen=True, slots=True)
class Target:
    """What the cases are run on. adoption: of a broker that somebody else runs; None: of one of ours."""

    product: str
    version: str
    adoption: Adoption | None = field(default=None, compare=False)

    @property
    def asked_for(self) -> str:
        """As a person types it."""
        return self.adoption.command if self.adoption is not None else f"--broker {self.product}={self.version}"


class Home(Protocol):
    """What the running needs of a run: its folder, its clusters, and whom to tell."""

    folder: RunFolder
    pool: Pool

    def cluster(self, key: ClusterKey, cell: str) -> AbstractContextManager[Cluster]: ...

    def say(self, cell: str, what: str) -> None: ...


def jobs_of(cases: Iterable[Case]) -> list[Job]:
    """Every variant of every case, and each of them through the case's conditions."""
    out = []
    for case in cases:
        for condition in case.conditions:
            if condition not in CONDITIONS:
                raise HarnessError(f"case {case.id}: no condition {condition!r}; there are {', '.join(CONDITIONS)}")
        out += [Job(case, v, c) for v in case.variants for c in ("", *case.conditions)]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of the cases is asked for; what is empty asks for all.

    case: ids, with a condition or without, or slugs.  level: in whichever case.  tag: one that it has; ``no-TAG`` has not.
    """

    case: Collection[str] = ()
    section: Collection[str] = ()
    level: Collection[str] = ()
    tag: Collection[str] = ()
    variant: Collection[str] = ()

    def takes(self, job: Job) -> bool:
        case = job.case
        return (
            (not self.case or bool({case.id, job.id, case.slug} & set(self.case)))
            and (not self.section or case.section in self.section)
            and (not self.level or case.level.lower() in {level.lower() for level in self.level})
            and (not self.variant or job.variant in self.variant)
            and all((t[3:] not in case.tags) if t.startswith("no-") else (t in case.tags) for t in self.tag)
        )


class Conductor:
    """Runs the jobs of one target in threads of its own; ``entry`` waits for one of them."""

    def __init__(
        self, home: Home, target: Target, jobs: Sequence[Job], *, expected_in: Path, ledger_in: Path, strict: bool = False,
        clusters: int = 1,
    ) -> None:  # fmt: skip
        """clusters: how many at a time, where cases need several; what one makes its cases wait for overlaps, too."""
        self._home, self._target, self._strict, self._clusters = home, target, strict, clusters
        self._manifest = manifest(expected_in, target.product, target.version)
        self._ledger = ledger(ledger_in, target.product)
        self._results: dict[Job, Future[dict[str, Any]]] = {job: Future() for job in jobs}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._all, name=f"cases-{target.product}-{target.version}", daemon=True)
        self._thread.start()

    def entry(self, job: Job) -> dict[str, Any]:
        """The job's entry for ``results.json``, as soon as it is decided."""
        return self._results[job].result()

    def close(self) -> None:
        """Ends what still runs; cases that were not reached come out as HARNESS."""
        self._stop.set()
        self._thread.join(_HEALTH_S)

    def _all(self) -> None:
        try:
            if self._target.adoption is not None:
                self._on_target(self._target.adoption)
                return
            with ThreadPoolExecutor(self._clusters, thread_name_prefix="cluster") as several:
                for ended in [several.submit(self._on_one, key, jobs) for key, jobs in self._by_cluster()]:
                    ended.result()
        finally:
            for job in self._left(list(self._results)):
                self._done(job, Outcome("HARNESS", "not run: the run was ended before"), {})

    def _by_cluster(self) -> list[tuple[ClusterKey, list[Job]]]:
        """Jobs by the cluster that they need, the usual one first; those that do not apply are decided at once."""
        from brokerproof.runtime import equipment  # brings the engine's library, which not every pytest needs

        groups: dict[ClusterKey, list[Job]] = {}
        product, version = self._target.product, self._target.version
        for job in self._results:
            absent = job.case.absent(product, version, job.variant)
            if absent:
                self._done(job, Outcome("SKIP", absent), {})
                continue
            settings = job.case.settings_of(job.variant, product, version)
            had = [name for name in job.case.equipment if not equipment.kind(name).missing()]
            key = ClusterKey.of(product, version, job.case.topology, settings, had)
            groups.setdefault(key, []).append(job)
        return sorted(
            groups.items(), key=lambda item: (item[0].topology != "single", item[0].settings != "{}", item[0].settings)
        )

    def _on_target(self, adoption: Adoption) -> None:
        """All jobs that somebody else's broker can be asked; what it does not give is decided at once."""
        name = f"{adoption.product} {adoption.version}"
        for job in self._results:
            absent = job.case.absent(adoption.product, adoption.version, job.variant)
            if absent := absent or lacking(adoption, job.case, job.variant, job.condition):
                self._done(job, Outcome("SKIP", absent), {})
        try:
            ground = on_target(adoption, self._home.folder.mark)
            try:
                self._play_shared(ground, None, self._left(list(self._results)), adopted.SIDE_BY_SIDE)
            finally:
                ground.close()
        except Exception as exc:  # as in ``_on_one``
            self._harness_error(name, exc, list(self._results))

    def _on_one(self, key: ClusterKey, jobs: list[Job]) -> None:
        """All jobs of one cluster. A cluster that one of them breaks is replaced for the rest."""
        name = f"{key.product} {key.version}"
        while (left := self._left(jobs)) and not self._stop.is_set():
            try:
                with self._home.cluster(key, name) as cluster:
                    ground = on_cluster(cluster)
                    try:
                        self._play_all(ground, cluster, left)
                    finally:
                        ground.close()
                    # Before it is given back: another worker may have leased it a moment later.
                    if self._left(jobs) or any(job.case.alone for job in jobs):
                        self._home.pool.spoil(key)
            except (
                Exception
            ) as exc:  # ours or the machine's: no case may be left waiting, and none counts against a broker
                with contextlib.suppress(Exception):
                    self._home.pool.spoil(key)
                self._harness_error(name, exc, jobs)

    def _harness_error(self, name: str, exc: Exception, jobs: Sequence[Job]) -> None:
        what = str(exc) if isinstance(exc, HarnessError) else f"{type(exc).__name__}: {exc}"
        with contextlib.suppress(Exception):
            self._home.say(name, f"harness error: {what}")
        for job in self._left(jobs):
            self._done(job, Outcome("HARNESS", what), {})

    def _play_all(self, ground: Ground, cluster: Cluster, jobs: Sequence[Job]) -> None:
        """The shared ones together; then the others, until one leaves the cluster unwell."""
        self._play_shared(ground, cluster, [j for j in jobs if not j.case.alone], SIDE_BY_SIDE)
        for job in (j for j in jobs if j.case.alone):
            doubtful = self._first(ground, cluster, job)
            if doubtful is not None and not self._well(job, cluster):
                self._conclude(cluster, job, doubtful)  # there is nothing left to ask
                return
            self._again(ground, cluster, job, doubtful)
            if self._stop.is_set() or not self._well(job, cluster):
                return

    def _well(self, job: Job, cluster: Cluster) -> bool:
        try:
            cluster.wait_healthy(_HEALTH_S)
        except HarnessError as exc:
            self._home.say(job.slug, f"the cluster is replaced: {exc}")
            return False
        return True

    def _play_shared(self, ground: Ground, cluster: Cluster | None, jobs: Sequence[Job], at_a_time: int) -> None:
        """Together, the longest first. cluster: whose logs stand beside what is not as required; None: there are none."""
        longest_first = sorted(jobs, key=lambda j: ("slow" not in j.case.tags, -j.case.limit_s))
        with ThreadPoolExecutor(at_a_time, thread_name_prefix="case") as several:
            first = [several.submit(self._first, ground, cluster, job) for job in longest_first]
        for job, ended in zip(longest_first, first, strict=True):
            self._again(ground, cluster, job, ended.result())

    def _first(self, ground: Ground, cluster: Cluster | None, job: Job) -> Outcome | None:
        """Plays it; what came out, if it has to be asked again."""
        if self._stop.is_set():
            return None
        self._home.say(f"{job.slug} {self._target.product}-{self._target.version}", "started")
        outcome = self._play(ground, job)
        if outcome.verdict == "FAIL" and not self._expected(job, outcome).as_expected:
            return outcome
        self._conclude(cluster, job, outcome)
        return None

    def _again(self, ground: Ground, cluster: Cluster | None, job: Job, first: Outcome | None) -> None:
        """first: a FAIL in doubt, of ``_first``; None: there is nothing to ask."""
        if first is None:
            return
        tried = [first]
        while tried[-1].verdict == "FAIL" and len(tried) < ATTEMPTS and not self._stop.is_set():
            self._home.say(
                f"{job.slug} {self._target.product}-{self._target.version}", f"again: {tried[-1].observed[:200]}"
            )
            tried.append(self._play(ground, job))
        outcome = tried[-1]
        outcome.attempts = len(tried)
        if outcome.verdict not in ("FAIL", "HARNESS"):
            failed = f"{len(tried) - 1} of {len(tried)} FAIL ({first.observed})"
            outcome.observed = f"repeats disagree: {failed}, then {outcome.verdict}"
            outcome.verdict = "INCONCLUSIVE"
        self._conclude(cluster, job, outcome)

    def _play(self, ground: Ground, job: Job) -> Outcome:
        outcome = play(ground, job.case, variant=job.variant, condition=job.condition, stop=self._stop.is_set)
        admit(outcome, self._says(job))
        return outcome

    def _conclude(self, cluster: Cluster | None, job: Job, outcome: Outcome) -> None:
        if cluster is None or outcome.verdict in ("PASS", "INFO", "SKIP"):
            self._done(job, outcome, {})
        else:
            self._done(job, outcome, _log_lines(cluster, outcome))

    def _says(self, job: Job) -> list[Says]:
        """What the vendor says of it."""
        return [s for s in self._ledger if s.of(job.case.id, self._target.version, job.variant)]

    def _expected(self, job: Job, outcome: Outcome) -> Judgement:
        return gate(self._manifest, job.case, job.id, job.variant, outcome.verdict, strict=self._strict)

    def _done(self, job: Job, outcome: Outcome, logs: Mapping[str, Sequence[str]]) -> None:
        try:
            entry = self._decide(job, outcome, logs)
            said = f"{entry['verdict']}: {entry['observed'][:200]}"
            self._home.say(f"{job.slug} {self._target.product}-{self._target.version}", said)
        except Exception as exc:  # a full disk: whoever waits for the entry is told, and does not wait for ever
            self._results[job].set_exception(exc)
        else:
            self._results[job].set_result(entry)

    def _decide(self, job: Job, outcome: Outcome, logs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Applies the manifest, writes the case's file, and makes its entry."""
        product, version, says = self._target.product, self._target.version, self._says(job)
        found = self._expected(job, outcome)
        if self._target.adoption is not None and outcome.verdict == "SKIP":
            # The lines were measured on brokers of ours, which give everything.
            found = Judgement("SKIP", outcome.observed, listed=False, as_expected=True)
        path = Path("conformance", f"{product}-{version}", f"{job.slug}.json")
        # The fixed part first (design, section 6).
        entry: dict[str, Any] = {
            "case": job.id, "slug": job.case.slug, "revision": job.case.revision, "broker": product, "version": version,
            "variant": job.variant, "verdict": outcome.verdict, "expected": found.expected, "observed": outcome.observed,
            "path": str(path),
            "section": job.case.section, "level": job.case.level, "tags": sorted(job.case.tags), "condition": job.condition,
            "as_expected": found.as_expected, "listed": found.listed, "reason": found.reason,
            "drift": drifts(says, outcome.verdict), "says": [s.to_json() for s in says], "took_s": outcome.took_s,
            "attempts": outcome.attempts,
        }  # fmt: skip
        whole = {
            "schema": 1, **job.case.to_json(job.condition), **entry, "accepts": _accepts(job, outcome),
            "steps": [_step(j) for j in outcome.steps], "unfinished": outcome.unfinished,
            "recorded": outcome.recorded, "began": outcome.log.began, "wire": outcome.log.entries(), "logs": dict(logs),
            "settings": job.case.settings_of(job.variant, self._target.product, self._target.version), "topology": job.case.topology,
            "command": job.command(self._target),
        }  # fmt: skip
        file = self._home.folder.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, json.loads(json.dumps(whole, default=str)))
        write_json(self._home.folder.path / "cases" / f"{product}-{version}-{job.slug}.json", entry)
        return entry

    def _left(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs if not self._results[job].done()]


def _step(judged: Judged) -> dict[str, Any]:
    """As the case's file has it."""
    as_it_is = dataclasses.asdict(judged)
    return {**as_it_is, "accepts": as_it_is.pop("says")}


def _accepts(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Step -> its table; where frames were cut short, that of every step that was judged by ``CUT_SHORT``."""
    cut = {j.step for j in outcome.steps if j.says == CUT_SHORT.says}
    return {
        step: (CUT_SHORT if step in cut else table).to_json() for step, table in job.case.tables(job.condition).items()
    }


def admit(outcome: Outcome, says: Sequence[Says]) -> None:
    """Turns a FAIL into DEV, step by step, where the vendor says in public that the product does exactly this."""
    changed = False
    for step in outcome.steps:
        if step.verdict == "FAIL" and step.step != AFTERWARDS and admitted(says, step):
            step.verdict, changed = "DEV", True
    if not changed or outcome.verdict != "FAIL":
        return
    outcome.verdict = of_steps((s.step, s.verdict) for s in outcome.steps)
    if outcome.unfinished and outcome.verdict != "FAIL":
        # Of what was not judged nothing was admitted.
        outcome.verdict, outcome.observed = "INCONCLUSIVE", f"{outcome.unfinished}; before that: {outcome.observed}"


def _log_lines(cluster: Cluster, outcome: Outcome) -> dict[str, list[str]]:
    """What each node has logged while the case ran; the engine stamps each line."""
    began, ended = outcome.log.began, time.time()
    out = {}
    for name, node in cluster.nodes.items():
        between = getattr(node, "logs_between", None)
        if between is not None:
            # An engine that does not answer for once takes no verdict away.
            with contextlib.suppress(HarnessError):
                out[name] = between(began, ended).splitlines()[-_LOG_LINES_MAX:]
    return out
