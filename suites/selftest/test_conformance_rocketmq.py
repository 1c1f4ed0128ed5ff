"""What single RocketMQ cases must see, on the reference peer, and what is no evidence at all."""

from __future__ import annotations

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
    ],
)
def test_a_step_sees_it(id: str, mutant: str, step: str, shows: str) -> None:
    outcome = _played(id, mutant)
    assert outcome.verdict == "FAIL"
    (seen,) = [j for j in outcome.steps if j.step == step]
    assert (seen.verdict, seen.seen.behaviour) == ("FAIL", shows)


@pytest.mark.parametrize(("id", "says"), [("R7.02", "the new master acknowledged nothing")])
def test_where_nothing_was_acknowledged_nothing_can_be_lost(id: str, says: str) -> None:
    outcome = _played(id, "elected_silent")
    assert (outcome.verdict, outcome.observed[: len(says)]) == ("INCONCLUSIVE", says)
