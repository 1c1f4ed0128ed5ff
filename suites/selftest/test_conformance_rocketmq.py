"""RocketMQ's cases on the reference peer: every one passes, and the mutants named for it are seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokerproof.conformance.case import cases_of
from brokerproof.conformance.rocketmq.peer_broker import java_hash, matcher
from brokerproof.conformance.rocketmq.reference import MUTANTS, on_reference
from brokerproof.conformance.running import Job, jobs_of
from brokerproof.conformance.scene import Outcome, play
from brokerproof.errors import UsageError
from brokerproof.wire.rocketmq import Stored

_ROOT = Path(__file__).parents[2]
_KILLS = _ROOT / "docs" / "conformance" / "kills-rocketmq.json"
_JOBS = {job.slug: job for job in jobs_of(cases_of(_ROOT / "suites" / "conformance" / "rocketmq"))}
#: What cannot be in one process: the client library has timers of its own.
_SKIPPED = {"R2.04"}
_BAD = ("FAIL", "CODE", "NONSTRICT", "UNIMPL", "DEV")


def _played(job: Job, mutant: str = "", until: tuple[str, ...] = ("PASS", "INFO", "SKIP")) -> Outcome:
    """A few tries: on a busy machine a peer can be too late."""
    for _ in range(3):
        outcome = play(on_reference(mutant), job.case, variant=job.variant, condition=job.condition)
        if outcome.verdict in until:
            break
    return outcome


@pytest.mark.parametrize("slug", _JOBS)
def test_every_case_passes_on_the_reference(slug: str) -> None:
    outcome = _played(_JOBS[slug])
    wanted = "SKIP" if slug in _SKIPPED else "PASS" if _JOBS[slug].case.accepts else "INFO"
    assert outcome.verdict == wanted, outcome.observed


def test_every_case_has_a_mutant_that_it_sees() -> None:
    kills = json.loads(_KILLS.read_text())
    assert set(kills) == set(_JOBS), "run ci/kills rocketmq"
    assert {slug for slug, mutants in kills.items() if not mutants} == _SKIPPED
    assert {m for mutants in kills.values() for m in mutants} <= set(MUTANTS)


@pytest.mark.parametrize("slug", [slug for slug in _JOBS if slug not in _SKIPPED])
def test_the_mutant_named_for_it_is_seen(slug: str) -> None:
    job = _JOBS[slug]
    (mutant, *_) = json.loads(_KILLS.read_text())[slug]
    if job.case.accepts:
        outcome = _played(job, mutant, until=_BAD)
        assert outcome.verdict in _BAD, outcome.observed
    else:
        assert _played(job, mutant).recorded != _played(job).recorded


def test_no_mutant_of_that_name() -> None:
    with pytest.raises(UsageError, match="no_such"):
        on_reference("no_such")


def test_two_tags_of_equal_hash() -> None:
    """The reference filters as the vendor documents it: by hash at the broker."""
    assert java_hash("Aa") == java_hash("BB") == 2112
    other = Stored(0, 0, 0, 0, 0, b"", "t", {"TAGS": "BB"})
    assert matcher("Aa", "TAG")(other)
    assert not matcher("Aa", "TAG", bug="exact_tags")(other)
