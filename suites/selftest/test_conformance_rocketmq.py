"""What single RocketMQ cases must see, on the reference peer, and what is no evidence at all."""

from __future__ import annotations

import re

import pytest

from brokerproof.conformance import protocols
from brokerproof.conformance.case import cases_of
from brokerproof.conformance.scene import Outcome, play
from brokerproof.suites import suites

_CASES = {c.id: c for c in cases_of(suites() / "conformance" / "rocketmq")}


def _played(id: str, mutant: str) -> Outcome:
    ground = protocols.on_reference("rocketmq", mutant)
    try:
        return play(ground, _CASES[id])
    finally:
        ground.close()


@pytest.mark.parametrize(
    ("id", "mutant", "step", "shows"),
    [
        ("R6.03", "strangers_wait", "receiving before", "no answer"),
        ("R6.10", "order_lapses", "held back", "[b'A1'] delivered"),
        ("R5.03", "half_shows_late", "before commit", "visible"),
        ("R1.04", "keeps_large_frames", "broker's memory", "1024 MiB more, round after round"),
        ("R3.08", "too_few_unsaid", "refused", "refused"),
        ("R3.08", "stores_unseen", "stored, in sync again", "stored"),
        ("R3.10", "recall_takes_all", "not recalled", "never"),
        ("R3.10", "recall_does_nothing", "", "recalled, yet it came in time"),
        ("R3.10", "recall_loses", "", "refused in words, never"),
        ("R3.10", "recall_unsaid", "", "refused without a word, in time"),
        ("R3.10", "recall_hurries", "", "refused in words, (59|60) s early"),
    ],
)
def test_a_step_sees_it(id: str, mutant: str, step: str, shows: str) -> None:
    outcome = _played(id, mutant)
    assert outcome.verdict == "FAIL"
    (seen,) = [j for j in outcome.steps if j.step == step]
    assert seen.verdict == "FAIL" and re.fullmatch(shows if "|" in shows else re.escape(shows), seen.seen.behaviour)


def test_a_retry_in_broadcasting_mode_is_seen_and_nothing_else_is_wrong_there() -> None:
    steps = {j.step: j.verdict for j in _played("R4.05", "retries_broadcast").steps}
    assert {step for step, verdict in steps.items() if verdict != "PASS"} == {"no retry"}


@pytest.mark.parametrize(
    ("id", "mutant", "verdict"),
    [
        ("R3.08", "too_few_general_code", "CODE"),
        ("R3.08", "too_few_timeout", "CODE"),
        ("R3.10", "recall_forbidden", "UNIMPL"),
    ],
)
def test_what_is_refused_in_words_is_no_failure(id: str, mutant: str, verdict: str) -> None:
    assert _played(id, mutant).verdict == verdict


@pytest.mark.parametrize(
    ("id", "mutant", "says"),
    [
        ("R7.02", "elected_silent", "the new master acknowledged nothing"),
        ("R6.04", "ends_untold", "the broker does not say where the topics end"),
    ],
)
def test_where_nothing_is_said_or_acknowledged_nothing_is_passed(id: str, mutant: str, says: str) -> None:
    outcome = _played(id, mutant)
    assert (outcome.verdict, outcome.observed[: len(says)]) == ("INCONCLUSIVE", says)
