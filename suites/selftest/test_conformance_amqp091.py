"""The AMQP cases on the reference peer: each passes on the sound one, and sees the mutant that was found for it (``ci/kills``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokerproof.conformance import protocols
from brokerproof.conformance.case import cases_of
from brokerproof.conformance.running import Job, jobs_of
from brokerproof.conformance.scene import Outcome, play

ROOT = Path(__file__).parents[2]
JOBS = {job.slug: job for job in jobs_of(cases_of(ROOT / "suites" / "conformance" / "amqp091"))}
KILLS: dict[str, list[str]] = json.loads((ROOT / "docs" / "conformance" / "kills-amqp091.json").read_text())
#: A busy machine makes a sound peer late.
TRIES = 3
BAD = ("FAIL", "CODE", "NONSTRICT", "UNIMPL")


def played(job: Job, mutant: str = "") -> Outcome:
    for _ in range(1 if mutant else TRIES):
        ground = protocols.on_reference("amqp091", mutant)
        outcome = play(ground, job.case, variant=job.variant, condition=job.condition)
        ground.close()
        if outcome.verdict in ("PASS", "INFO"):
            break
    return outcome


@pytest.mark.parametrize("slug", JOBS)
def test_case_passes_on_the_sound_peer(slug: str) -> None:
    outcome = played(JOBS[slug])
    assert outcome.verdict == ("PASS" if JOBS[slug].case.accepts else "INFO"), outcome.observed


@pytest.mark.parametrize("slug", JOBS)
def test_case_sees_a_wrong_peer(slug: str) -> None:
    assert KILLS.get(slug), f"no mutant is known that {slug} sees: ci/kills --cases {slug} amqp091"
    for mutant in KILLS[slug][:2]:
        outcome = played(JOBS[slug], mutant)
        seen = outcome.verdict in BAD if JOBS[slug].case.accepts else outcome.recorded != played(JOBS[slug]).recorded
        if seen:
            return
    pytest.fail(f"{slug} no longer sees {KILLS[slug][:2]}: {outcome.verdict} {outcome.observed}")


def test_every_mutant_says_what_it_gets_wrong() -> None:
    assert all(text and not text.endswith(".") for text in protocols.mutants("amqp091").values())


def test_a_mutant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Exception, match="unknown mutant"):
        protocols.on_reference("amqp091", "wrong-cod")
