"""The outcome table line by line, and how errors of library and wire come to its names."""

from __future__ import annotations

import grpc
import pytest

from brokerproof.brokers.rocketmq import outcomes
from brokerproof.brokers.rocketmq.library import grpc_protocol
from brokerproof.history import FAIL, INFO, OK, OUTCOME

FAILS = {
    "TOO_MANY_REQUESTS", "TOPIC_NOT_FOUND", "ILLEGAL_TOPIC", "ILLEGAL_MESSAGE_TAG", "ILLEGAL_MESSAGE_KEY",
    "ILLEGAL_MESSAGE_GROUP", "ILLEGAL_MESSAGE_PROPERTY_KEY", "ILLEGAL_MESSAGE_ID", "ILLEGAL_DELIVERY_TIME",
    "MESSAGE_PROPERTY_CONFLICT_WITH_TYPE", "MESSAGE_CORRUPTED", "MESSAGE_BODY_EMPTY", "MESSAGE_BODY_TOO_LARGE",
    "MESSAGE_PROPERTIES_TOO_LARGE", "CLIENT_ID_REQUIRED", "UNAUTHORIZED", "FORBIDDEN", "NotConnected", "NoRoute",
    "NotRunning", "Rejected",
}  # fmt: skip
INFOS = {
    "MASTER_PERSISTENCE_TIMEOUT", "SLAVE_PERSISTENCE_TIMEOUT", "HA_NOT_AVAILABLE", "PROXY_TIMEOUT",
    "INTERNAL_SERVER_ERROR", "INTERNAL_ERROR", "DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL",
    "ConnectionLost",
}  # fmt: skip
SETTLE_FAILS = {
    "INVALID_RECEIPT_HANDLE", "TOPIC_NOT_FOUND", "CONSUMER_GROUP_NOT_FOUND", "TOO_MANY_REQUESTS", "NotConnected",
    "NotRunning",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(outcomes.SENT))
def test_each_line_about_sends(name: str) -> None:
    expected = OK if name == "OK" else FAIL if name in FAILS else INFO
    assert outcomes.sent([name]) == expected
    assert name == "OK" or (name in FAILS) != (name in INFOS), "reviewed as one or the other"
    assert outcomes.SENT[name].because


@pytest.mark.parametrize("name", sorted(outcomes.SETTLED))
def test_each_line_about_acknowledgements(name: str) -> None:
    expected = OK if name == "OK" else FAIL if name in SETTLE_FAILS else INFO
    assert outcomes.settled(name) == expected
    assert outcomes.SETTLED[name].because


@pytest.mark.parametrize("name", sorted(n for n in (FAILS | INFOS) if n.isupper()))
def test_names_are_the_wires_own(name: str) -> None:
    codes = set(grpc_protocol.Code.keys()) | {status.name for status in grpc.StatusCode}
    assert name in codes


def test_what_is_not_listed_is_unknown() -> None:
    assert outcomes.sent(["FAILED_TO_CONSUME_MESSAGE"]) == INFO
    assert outcomes.settled("whatever") == INFO == OUTCOME["info"]
    assert outcomes.sent([]) == INFO


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        (["NotConnected", "NotConnected", "NotConnected"], FAIL),
        (["DEADLINE_EXCEEDED", "NotConnected"], INFO),  # the first may have been stored
        (["DEADLINE_EXCEEDED", "OK"], OK),
        (["unanswered", "TOO_MANY_REQUESTS"], INFO),
    ],
)
def test_a_retried_send_fails_only_when_every_attempt_did(attempts: list[str], expected: int) -> None:
    assert outcomes.sent(attempts) == expected


class _RpcError(Exception):
    """What grpc.aio raises, as far as it is looked at."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        self._status, self._details = status, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details


def test_a_call_without_a_transport_is_told_from_a_broken_one() -> None:
    refused = _RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: …")
    broken = _RpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert outcomes.error_class(refused) == "NotConnected"
    assert outcomes.error_class(broken) == "UNAVAILABLE"
    assert outcomes.error_class(_RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "")) == "DEADLINE_EXCEEDED"


def test_the_librarys_exceptions_come_down_to_the_code_they_carry() -> None:
    from rocketmq.v5.exception import IllegalArgumentException, ProxyTimeoutException

    # One class for three outcomes of different meaning: the code decides.
    for name in ("PROXY_TIMEOUT", "MASTER_PERSISTENCE_TIMEOUT", "SLAVE_PERSISTENCE_TIMEOUT"):
        assert outcomes.error_class(ProxyTimeoutException("x", grpc_protocol.Code.Value(name))) == name
    assert outcomes.error_class(IllegalArgumentException("message type")) == "Rejected"
    assert outcomes.error_class(Exception("failed to fetch topic:t route.")) == "NoRoute"
    assert outcomes.error_class(ValueError("127.0.0.1:8081")) == "ValueError", "never free text"
    assert outcomes.code_name(12345) == "code 12345"
