"""What single AMQP cases must see, on the reference peer: the step that sees it, and what is no evidence at all."""

from __future__ import annotations

import pytest

from brokerproof.conformance import protocols
from brokerproof.conformance.amqp091 import peer
from brokerproof.conformance.case import cases_of
from brokerproof.conformance.scene import Outcome, play
from brokerproof.suites import suites

_CASES = {c.id: c for c in cases_of(suites() / "conformance" / "amqp091")}


def _played(id: str, mutant: str = "", variant: str = "") -> Outcome:
    ground = protocols.on_reference("amqp091", mutant)
    try:
        return play(ground, _CASES[id], variant=variant)
    finally:
        ground.close()


def _verdicts(outcome: Outcome) -> dict[str, str]:
    return {j.step: j.verdict for j in outcome.steps}


@pytest.mark.parametrize(
    ("id", "variant", "step"),
    [("A1.25", "timeout", "gaps"), ("A5.16", "quorum", "dead letters"), ("A5.21", "classic", "get")],
)
def test_a_step_that_a_variant_does_not_take_is_not_passed(id: str, variant: str, step: str) -> None:
    outcome = _played(id, variant=variant)
    assert outcome.verdict == "PASS", outcome.observed
    assert _verdicts(outcome)[step] == "INFO"


def test_that_a_policy_does_not_win_shows_nothing_where_no_policy_is_in_force() -> None:
    outcome = _played("A4.16", "policies-ignored")
    assert outcome.verdict == "INCONCLUSIVE"
    assert outcome.observed.startswith("the policy has no effect where it stands alone")
    assert _verdicts(_played("A4.16", "alternate-by-policy"))["argument before policy"] == "FAIL"


def test_a_multiple_confirm_of_a_number_that_was_confirmed_is_seen() -> None:
    outcome = _played("A6.04", "confirms-again")
    assert outcome.verdict == "FAIL"
    assert "confirmed twice" in outcome.observed


@pytest.mark.parametrize(
    ("mutant", "step"),
    [
        ("keeps-auto-delete", "last one cancelled"), ("keeps-auto-delete", "last one's channel closed"),
        ("hasty-auto-delete", "one of two is left"), ("get-consumes", "get"),
    ],
)  # fmt: skip
def test_an_auto_delete_queue_that_stays_or_goes_at_the_wrong_moment_is_seen(mutant: str, step: str) -> None:
    assert _verdicts(_played("A5.08", mutant))[step] == "FAIL"


@pytest.mark.parametrize(
    ("id", "variant", "mutant", "step"),
    [
        ("A2.16", "", "garbage-kept", "memory"),
        ("A3.06", "", "serves-after-close-late", ""),
        ("A5.16", "classic", "keeps-one-refused", "full queue"),
        ("A7.12", "", "recover-doubles", "requeue"),
        ("A7.14", "", "notice-to-all-late", "without"),
    ],
)
def test_what_comes_late_or_once_too_often_is_seen_by_one_step(id: str, variant: str, mutant: str, step: str) -> None:
    outcome = _played(id, mutant, variant)
    assert {s for s, verdict in _verdicts(outcome).items() if verdict not in ("PASS", "INFO")} == {step}, (
        outcome.observed
    )


def test_a_get_that_counts_as_a_consumer_is_all_that_is_wrong_there() -> None:
    wrong = {step for step, verdict in _verdicts(_played("A5.08", "get-consumes")).items() if verdict != "PASS"}
    assert wrong == {"get"}


@pytest.mark.parametrize(
    ("id", "offer", "why"),
    [("A1.16", {"frame_max": 0}, "frames without a limit"), ("A1.17", {"channel_max": 0}, "channels without a limit")],
)
def test_where_no_limit_is_offered_none_can_be_passed(
    id: str, offer: dict[str, int], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_OFFER", {**peer._OFFER, **offer})
    outcome = _played(id)
    assert (outcome.verdict, outcome.observed) == ("SKIP", f"the server offers {why}")


def test_a_close_for_a_bad_password_is_not_asked_of_a_server_that_does_not_list_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "_CAPABILITIES", ("basic.nack",))
    outcome = _played("A1.13")
    assert (outcome.verdict, outcome.observed) == ("SKIP", "the server does not list authentication_failure_close")
