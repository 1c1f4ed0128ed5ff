"""The table of RabbitMQ's outcomes, line by line, and the way from pika's exceptions to it."""

from __future__ import annotations

import pika.exceptions
import pytest

from brokerproof.brokers.rabbitmq.outcomes import OUTCOMES, classify, meaning, of_code

FAIL = {"UNROUTABLE", "NACK_REJECT_PUBLISH", "ROLLED_BACK", "NOT_COMMITTED", "NotSent"}


@pytest.mark.parametrize("error", sorted(OUTCOMES))
def test_only_what_proves_that_nothing_was_enqueued_is_fail(error: str) -> None:
    assert meaning(error).outcome == ("fail" if error in FAIL else "info")
    assert len(meaning(error).because) > 20


def test_an_error_that_is_not_in_the_table_is_info() -> None:
    assert meaning("SomethingNew").outcome == "info"
    assert meaning(of_code(599)).outcome == "info"


e = pika.exceptions


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (e.ConnectionClosedByBroker(320, "CONNECTION_FORCED - broker forced connection closure"), "CONNECTION_FORCED"),
        (e.ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q' in vhost '/'"), "NOT_FOUND"),
        (e.ChannelClosedByBroker(406, "PRECONDITION_FAILED - delivery acknowledgement timed out"), "PRECONDITION_FAILED"),
        (e.AMQPHeartbeatTimeout("No activity or too many missed heartbeats in the last 5 seconds"), "HeartbeatTimeout"),
        (e.StreamLostError("Stream connection lost: ConnectionResetError(104, 'Connection reset by peer')"), "ConnectionReset"),
        (e.StreamLostError("Transport indicated EOF"), "ConnectionClosed"),
        (BrokenPipeError(32, "Broken pipe"), "ConnectionReset"),
        (e.ConnectionBlockedTimeout("Blocked connection timeout expired."), "BlockedTimeout"),
        (e.ConsumerCancelled(None), "ConsumerCancelled"),
        (e.ChannelClosedByClient(0, "Normal shutdown"), "ChannelGone"),
        (e.ConnectionClosedByClient(200, "Normal shutdown"), "ConnectionClosed"),
        (None, "ConnectionClosed"),
    ],
)  # fmt: skip
def test_what_pika_says_becomes_a_class_of_the_table(error: BaseException | None, name: str) -> None:
    assert classify(error) == name
    assert name in OUTCOMES


@pytest.mark.parametrize("code", [311, 312, 320, 403, 404, 405, 406, 501, 502, 503, 504, 505, 506, 530, 540, 541])
def test_every_reply_code_of_the_specification_has_a_line(code: int) -> None:
    assert of_code(code) in OUTCOMES


def test_no_class_holds_an_address_or_a_name() -> None:
    error = e.StreamLostError("Stream connection lost: ConnectionResetError(104, '127.0.0.1:25001')")
    assert classify(error).isalpha()
