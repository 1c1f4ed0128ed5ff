"""The pytest surface of protocol cases: a case becomes one item per target, variant and condition.

    pytest suites/conformance --brokerproof-broker rabbitmq=4.0.5 --brokerproof-case A2.03

The items of a target are run by its ``Conductor``, side by side where they are isolated; an item waits for its own, and fails if
and only if the verdict is not the expected one.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.manifest import manifest, stale
from brokerproof.conformance.protocols import PROTOCOLS
from brokerproof.conformance.running import Choice, Conductor, Job, Target, jobs_of
from brokerproof.results import expectation


def add_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--brokerproof-case",
        action="append",
        default=[],
        metavar="ID",
        help="Only this protocol case, e.g. A2.03. Repeatable.",
    )
    group.addoption(
        "--brokerproof-section",
        action="append",
        default=[],
        metavar="ID",
        help="Only cases of this section, e.g. A2. Repeatable.",
    )
    group.addoption(
        "--brokerproof-level",
        action="append",
        default=[],
        help="Only cases of this level: must, should, may, extension, unspecified.",
    )
    group.addoption(
        "--brokerproof-tag",
        action="append",
        default=[],
        help="Only cases with this tag; no-TAG: only those without. Repeatable.",
    )
    group.addoption("--brokerproof-nonstrict-fails", action="store_true", help="NONSTRICT is not as expected.")  # fmt: skip


def wanted(job: Job, option: Any) -> bool:
    """Whether the options ask for it."""
    return Choice(
        case=option.brokerproof_case, section=option.brokerproof_section, level=option.brokerproof_level, tag=option.brokerproof_tag,
        variant=option.brokerproof_variant,
    ).takes(job)  # fmt: skip


def whole(suite: Path, target: Target, known: Collection[tuple[str, str]]) -> bool:
    """Whether these, (case with condition, variant), are all that the suite has for the target. By whatever means less was asked for,
    options of ours or ``-k``, ``-m``, ``--deselect``, a single file: of what was not asked for nothing can be said."""
    jobs = jobs_of(c for c in cases_of(suite) if c.protocol == PROTOCOLS.get(target.product))
    return {(job.id, job.variant) for job in jobs} <= set(known)


def items_of(collector: Any, name: str, case: Case, targets: Sequence[Target]) -> Iterator[pytest.Item]:
    option = collector.config.option
    for target in targets:
        if PROTOCOLS.get(target.product) != case.protocol:
            continue
        for job in jobs_of([case]):
            if wanted(job, option):
                tail = "-".join(p for p in (target.product, target.version, job.condition, job.variant) if p)
                item = CaseItem.from_parent(collector, name=f"{name}[{tail}]")
                item.prepare(job, target)
                yield item


class UnexpectedOutcome(Exception):
    """A case's verdict is not the expected one; the text is the report's."""


class CaseItem(pytest.Item):
    """One case on one target. ``runtest`` waits for its entry."""

    job: Job
    target: Target

    def prepare(self, job: Job, target: Target) -> None:
        self.job, self.target = job, target
        self.add_marker(pytest.mark.cell)
        self.extra_keyword_matches.update({target.product, job.case.id, job.case.slug, job.case.level})

    def runtest(self) -> None:
        try:
            entry = Conductors.of(self.session).entry(self)
        except Exception as exc:
            # The run has a hole, and results.json must say so.
            cells: Any = self.config.pluginmanager.get_plugin("brokerproof-cells")
            where = f"{self.target.product}-{self.target.version}-{self.job.slug}"
            cells.folder.write_error(where, f"{type(exc).__name__}: {exc}")
            raise
        if entry["verdict"] == "SKIP":
            pytest.skip(f"SKIP: {entry['observed']}")
        if not entry["as_expected"]:
            raise UnexpectedOutcome(
                f"{entry['case']} {entry['slug']} on {self.target.product} {self.target.version} {entry['variant']}: {entry['verdict']}, "
                f"{expectation(entry)}\n  {entry['observed']}\n"
                f"  again: {self.job.command(self.target)}"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, UnexpectedOutcome):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


#: Clusters at a time in a run of one target; several targets run side by side themselves, and two cores carry no more.
CLUSTERS = 2


class Conductors:
    """One per target that this process has items of, started with the first of them."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._by_target: dict[Target, Conductor] = {}

    @classmethod
    def of(cls, session: pytest.Session) -> Conductors:
        manager = session.config.pluginmanager
        found = manager.get_plugin("brokerproof-conductors")
        if found is None:
            found = cls(session)
            manager.register(found, "brokerproof-conductors")
        assert isinstance(found, cls)
        return found

    def entry(self, item: CaseItem) -> dict[str, Any]:
        return self._of(item.target).entry(item.job)

    def close(self) -> None:
        for conductor in self._by_target.values():
            conductor.close()

    def _of(self, target: Target) -> Conductor:
        if target not in self._by_target:
            cells: Any = self._session.config.pluginmanager.get_plugin("brokerproof-cells")
            option = self._session.config.option
            jobs = [i.job for i in self._session.items if isinstance(i, CaseItem) and i.target == target]
            home, lines = cells.session(self._session), manifest(cells.expected_in(), target.product, target.version)
            known = {(job.id, job.variant) for job in jobs}
            home.folder.write_gate(
                f"{target.product}-{target.version}",
                stale(lines, known, whole=whole(cells.suites() / "conformance", target, known)),
            )
            # The order in which a file happens to name them is nobody's business; a seed makes it another one each time.
            random.Random(option.brokerproof_seed).shuffle(jobs)
            self._by_target[target] = Conductor(
                home, target, jobs, expected_in=cells.expected_in(), ledger_in=cells.suites() / "conformance" / "ledger",
                strict=option.brokerproof_nonstrict_fails, clusters=CLUSTERS if len(option.brokerproof_broker) == 1 else 1,
            )  # fmt: skip
        return self._by_target[target]
