"""Every protocol case on its reference peer: it passes on the sound one, and sees the mutants that were found for it (``ci/kills``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from brokerproof.conformance import protocols
from brokerproof.conformance.case import cases_of
from brokerproof.conformance.rocketmq.peer_filters import java_hash, matcher
from brokerproof.conformance.running import Job, jobs_of
from brokerproof.conformance.scene import Outcome, play
from brokerproof.errors import UsageError
from brokerproof.suites import suites
from brokerproof.wire.rocketmq import Stored

_PROTOCOLS = sorted(set(protocols.PROTOCOLS.values()))
_JOBS = {job.slug: job for job in jobs_of(cases_of(suites() / "conformance"))}
_KILLS: Mapping[str, Mapping[str, list[str]]] = {
    protocol: json.loads((Path(__file__).parents[2] / "docs" / "conformance" / f"kills-{protocol}.json").read_text())
    for protocol in _PROTOCOLS
}
#: What cannot be in one process: the client library has timers of its own.
_SKIPPED = {"R2.04"}
_BAD = ("FAIL", "CODE", "NONSTRICT", "UNIMPL", "DEV")
#: A busy machine makes a sound peer late, and keeps a case from seeing a wrong one.
_TRIES = 3


def _good(job: Job) -> str:
    return "SKIP" if job.slug in _SKIPPED else "PASS" if job.case.accepts else "INFO"


def _played(job: Job, mutant: str = "") -> Outcome:
    """The last try: the first that is as it should be."""
    for _ in range(_TRIES):
        ground = protocols.on_reference(job.case.protocol, mutant)
        try:
            outcome = play(ground, job.case, variant=job.variant, condition=job.condition)
        finally:
            ground.close()
        if outcome.verdict in (_BAD if mutant else (_good(job),)) or (mutant and outcome.verdict == "INFO"):
            break
    return outcome


@pytest.mark.parametrize("slug", _JOBS)
def test_case_passes_on_the_sound_peer(slug: str) -> None:
    outcome = _played(_JOBS[slug])
    assert outcome.verdict == _good(_JOBS[slug]), outcome.observed


@pytest.mark.parametrize("slug", [slug for slug in _JOBS if slug not in _SKIPPED])
def test_case_sees_a_wrong_peer(slug: str) -> None:
    """One of the first two that it was seen to see."""
    job = _JOBS[slug]
    mutants = _KILLS[job.case.protocol].get(slug, [])[:2]
    assert mutants, f"no mutant is known that {slug} sees: ci/kills --cases {slug} {job.case.protocol}"
    for mutant in mutants:
        outcome = _played(job, mutant)
        if outcome.verdict in _BAD if job.case.accepts else outcome.recorded != _played(job).recorded:
            return
    pytest.fail(f"{slug} no longer sees {mutants}: {outcome.verdict} {outcome.observed}")


@pytest.mark.parametrize("protocol", _PROTOCOLS)
def test_kills_are_of_cases_and_mutants_that_there_are(protocol: str) -> None:
    kills = _KILLS[protocol]
    jobs = {slug for slug, job in _JOBS.items() if job.case.protocol == protocol}
    assert set(kills) == jobs, f"run ci/kills {protocol}"
    assert {slug for slug, mutants in kills.items() if not mutants} == _SKIPPED & jobs
    assert {m for mutants in kills.values() for m in mutants} <= set(protocols.mutants(protocol))


@pytest.mark.parametrize("protocol", _PROTOCOLS)
def test_every_mutant_says_what_it_gets_wrong(protocol: str) -> None:
    assert all(text and not text.endswith(".") for text in protocols.mutants(protocol).values())


@pytest.mark.parametrize("protocol", _PROTOCOLS)
def test_a_mutant_that_does_not_exist_is_refused(protocol: str) -> None:
    with pytest.raises(UsageError, match="no-such"):
        protocols.on_reference(protocol, "no-such")


def test_two_tags_of_equal_hash() -> None:
    """The RocketMQ peer filters as the vendor documents it: by hash at the broker."""
    assert java_hash("Aa") == java_hash("BB") == 2112
    other = Stored(0, 0, 0, 0, 0, b"", "t", {"TAGS": "BB"})
    assert matcher("Aa", "TAG")(other)
    assert not matcher("Aa", "TAG", bug="exact_tags")(other)
