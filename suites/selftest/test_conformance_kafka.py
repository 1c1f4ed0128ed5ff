"""What single Kafka cases must see, on the reference peer: the step that sees it, and what is no evidence at all."""

from __future__ import annotations

import pytest

from brokerproof.conformance import protocols
from brokerproof.conformance.case import cases_of
from brokerproof.conformance.kafka.peer import server
from brokerproof.conformance.kafka.reference import KafkaReference
from brokerproof.conformance.scene import Outcome, play
from brokerproof.suites import suites
from brokerproof.wire.kafka import octets, removed, schema
from brokerproof.wire.kafka.errors import WireError

_CASES = {c.id: c for c in cases_of(suites() / "conformance" / "kafka")}


def _played(id: str, mutant: str = "", version: str = "") -> Outcome:
    ground = protocols.on_reference("kafka", mutant)
    assert isinstance(ground, KafkaReference)
    ground.version = version or ground.version
    try:
        return play(ground, _CASES[id])
    finally:
        ground.close()


def _verdicts(outcome: Outcome) -> dict[str, str]:
    return {j.step: j.verdict for j in outcome.steps}


@pytest.mark.parametrize("id", ["K1.07", "K2.09"])
def test_what_is_only_recorded_below_a_version_is_no_pass_there(id: str) -> None:
    assert _played(id).verdict == "PASS"
    outcome = _played(id, version="3.9.2")
    assert outcome.verdict == "INFO"
    assert outcome.observed == "; ".join(f"{k}: {v}" for k, v in outcome.recorded.items()) != ""


@pytest.mark.parametrize(
    ("mutant", "says"),
    [
        ("advertises-unserved", "list_offsets v3: closed"),
        ("removed-unserved", "delete_topics v0: closed"),
        ("removed-answered-newer", "delete_topics v0: not readable as v0: 4 octets behind the last field"),
    ],
)
def test_a_version_that_is_advertised_is_asked_for_with_and_without_a_schema(mutant: str, says: str) -> None:
    outcome = _played("K1.06", mutant)
    assert outcome.verdict == "FAIL"
    assert f"not served ({says})" in outcome.observed


def test_every_version_below_the_schemas_that_a_client_may_ask_for_has_a_body_and_a_form_of_its_answer() -> None:
    bodies = {(key, version): body for key, version, body in removed.harmless("topic", "group")}
    assert set(bodies) == set(removed.ANSWERS)
    # AlterPartition is between brokers; share groups had no version 0 outside an early access.
    others = {"alter_partition", "share_group_heartbeat", "share_group_describe", "share_fetch", "share_acknowledge"}
    below = {
        (key, v) for key, name in schema.NAMES.items() if name not in others for v in range(schema.versions(key)[0])
    }
    assert set(bodies) == below


def test_codes_are_read_by_the_form_of_their_version_and_nowhere_else() -> None:
    name, correlation = octets.string("t", flexible=False), octets.fixed("int32", 7)
    one = octets.fixed("int32", 1)
    # OffsetCommit v0: topics, partitions, each with its index and its code; the index is 35, the code is not.
    answer = correlation + one + name + one + octets.fixed("int32", 35) + octets.fixed("int16", 3)
    assert removed.codes(8, 0, answer) == [3]
    with pytest.raises(WireError, match="1 octets behind"):
        removed.codes(8, 0, answer + b"\0")
    with pytest.raises(WireError, match="are left"):
        removed.codes(8, 0, answer[:-1])
    assert removed.codes(39, 0, correlation + octets.fixed("int16", 64) + b"\0" * 12) == [64]


def test_offsets_that_a_migration_loses_are_seen() -> None:
    outcome = _played("K5.07", "migration-forgets")
    assert _verdicts(outcome)["offsets"] == "FAIL"
    assert " committed, -1 found" in outcome.observed


@pytest.mark.parametrize("mutant", ["renewed-unread", "renew-refused"])
def test_a_fetch_that_fails_and_a_renewal_that_is_refused_are_no_renewal(mutant: str) -> None:
    outcome = _played("K6.04", mutant)
    assert outcome.verdict == "FAIL"
    assert _verdicts(outcome)["renew"] == "FAIL"


def test_a_fetch_that_fails_does_not_show_that_a_record_is_gone() -> None:
    """Whatever became of it: that nothing can be fetched says nothing of one record."""
    outcome = _played("K6.04", "renewed-unread")
    assert not {"accept", "reject"} & set(_verdicts(outcome))


def test_renewing_is_not_judged_where_it_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server._MOST, "share_acknowledge", 1)
    monkeypatch.setitem(server._MOST, "share_fetch", 1)
    outcome = _played("K6.04")
    assert outcome.verdict == "PASS"
    assert _verdicts(outcome)["renew"] == "INFO"


def test_a_leader_that_serves_no_fetch_shows_nothing_of_what_was_read() -> None:
    outcome = _played("K7.02", "unread-after-election")
    assert (outcome.verdict, outcome.observed[:40]) == ("INCONCLUSIVE", "the new leader served no fetch within 20")


def test_a_leader_that_acknowledges_nothing_has_lost_nothing() -> None:
    outcome = _played("K7.01", "unwritten-after-election")
    assert (outcome.verdict, outcome.observed[:40]) == ("INCONCLUSIVE", "no record was acknowledged in round 1, 2")


@pytest.mark.parametrize(
    ("id", "mutant", "steps"),
    [
        ("K1.02", "own-versions-hidden", {"", "then"}),
        ("K3.10", "late-write-spoils", {"stable"}),
        ("K3.12", "abort-stays-pending", {"aborted"}),
    ],
)
def test_what_is_left_behind_is_seen(id: str, mutant: str, steps: set[str]) -> None:
    outcome = _played(id, mutant)
    assert {step for step, verdict in _verdicts(outcome).items() if verdict == "FAIL"} <= steps
    assert outcome.verdict == "FAIL", outcome.observed


@pytest.mark.parametrize(
    "id", ["K2.02", "K2.04", "K2.05", "K2.06", "K2.07", "K2.08", "K2.09", "K2.10", "K2.13", "K3.02"]
)
def test_what_is_refused_and_appended_all_the_same_is_seen(id: str) -> None:
    verdicts = _verdicts(_played(id, "refused-appended"))
    assert verdicts["log"] == "FAIL"


@pytest.mark.parametrize(
    ("id", "mutant", "step"),
    [
        ("K5.02", "commits-anyway", "committed"),
        ("K5.05", "commits-anyway", "nothing"),
        ("K5.06", "commits-anyway", "committed"),
        ("K5.09", "deletes-anyway", "kept"),
    ],
)
def test_what_a_group_refuses_and_does_all_the_same_is_seen(id: str, mutant: str, step: str) -> None:
    assert _verdicts(_played(id, mutant))[step] == "FAIL"


def test_no_version_that_is_served_is_no_version_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server._MOST, "api_versions", 2)
    assert _played("K1.03").verdict == "INCONCLUSIVE"


def test_an_acknowledgement_that_waited_for_nobody_is_seen_while_the_replica_is_still_counted_in_sync() -> None:
    outcome = _played("K2.03", "acks-all-early")
    assert _verdicts(outcome)["while stopping"] == "FAIL"
