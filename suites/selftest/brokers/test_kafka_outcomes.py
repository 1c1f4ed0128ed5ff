"""Kafka's outcome tables: every line by itself, and the rule that they follow."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.settings import retries

TABLES = {
    "sent": outcomes.SENT, "once": outcomes.ONCE, "refused": outcomes.REFUSED, "committed": outcomes.COMMITTED,
    "accepted": outcomes.ACCEPTED, "ended": outcomes.ENDED,
}  # fmt: skip
LINES = [(table, error) for table, lines in TABLES.items() for error in lines]
#: What may be ``fail`` where: a line that moves into or out of here changes verdicts.
DEFINITE = {
    "sent": set(),
    "once": {
        "NOT_ENOUGH_REPLICAS", "MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED", "INVALID_RECORD",
    },
    "refused": {
        "MSG_SIZE_TOO_LARGE", "_UNKNOWN_PARTITION", "_UNKNOWN_TOPIC", "_INVALID_ARG", "_FATAL", "_STATE", "_CONFLICT",
    },
    "committed": {
        "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "STALE_MEMBER_EPOCH", "REBALANCE_IN_PROGRESS",
        "_NO_OFFSET", "_ASSIGNMENT_LOST",
    },
    "accepted": {"INVALID_RECORD_STATE"},
    "ended": {"INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "_FENCED", "_STATE"},
}  # fmt: skip


@pytest.mark.parametrize(("table", "error"), LINES, ids=[f"{t}-{e}" for t, e in LINES])
def test_each_line_names_a_real_error_and_says_why(table: str, error: str) -> None:
    line = TABLES[table][error]
    assert KafkaError(getattr(KafkaError, error)).name() == error
    assert line.outcome == ("fail" if error in DEFINITE[table] else "info")
    assert len(line.because.split()) >= 4


def test_an_error_that_is_not_listed_is_info() -> None:
    assert outcomes.sent("SOMETHING_NEW", once=True).outcome == "info"
    assert outcomes.meaning(outcomes.COMMITTED, "SOMETHING_NEW").outcome == "info"


def test_a_refusal_is_final_only_for_a_producer_that_never_retries() -> None:
    assert outcomes.sent("NOT_ENOUGH_REPLICAS", once=True).outcome == "fail"
    assert outcomes.sent("NOT_ENOUGH_REPLICAS", once=False).outcome == "info"


@pytest.mark.parametrize("error", ["NOT_ENOUGH_REPLICAS_AFTER_APPEND", "REQUEST_TIMED_OUT", "NOT_LEADER_FOR_PARTITION"])
def test_what_can_follow_an_append_is_never_fail(error: str) -> None:
    assert outcomes.sent(error, once=True).outcome == "info"


@pytest.mark.parametrize(
    ("config", "may"),
    [
        ({"enable.idempotence": True, "retries": 0}, True),
        ({"enable.idempotence": "true"}, True),
        ({"enable.idempotence": False}, True),
        ({"enable.idempotence": False, "retries": 0}, False),
        ({"enable.idempotence": "false", "message.send.max.retries": "0"}, False),
        ({"enable.idempotence": False, "retries": 3}, True),
    ],
)
def test_whether_a_producer_may_send_twice_by_itself(config: dict[str, object], may: bool) -> None:
    assert retries(config) is may
