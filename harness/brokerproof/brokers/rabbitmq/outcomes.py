"""What a client error says about an operation: the reviewed table. What is not in it is ``info``.

``fail`` means *definitely did not happen*. A channel or connection that closes takes every unconfirmed message with it,
also those that came before the one that caused it: so no reply code proves anything about a single message.
Names of reply codes are those of the specification.
Source: AMQP 0-9-1 section 1.3 (https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf),
https://www.rabbitmq.com/docs/confirms (returns, negative acknowledgements), https://www.rabbitmq.com/docs/semantics#tx
"""

from __future__ import annotations

from collections.abc import Mapping

import pika.exceptions

from brokerproof.brokers.base import Meaning

_OTHERS = "the channel closes with it, and messages before the one it is about may be in the queue"

#: Sends, settles and commits, by error class.
OUTCOMES: Mapping[str, Meaning] = {
    # answers to one message
    "UNROUTABLE": Meaning("fail", "returned with 312: no queue was bound for it, so it is in none"),
    "NACK": Meaning("info", "some queue did not take it; another, or a replica of the same, may have"),
    "NACK_REJECT_PUBLISH": Meaning("fail", "its only queue is full and set to reject: it was not enqueued"),
    "Timeout": Meaning("info", "no confirm in time; it may be in the queue, or on its way there"),
    # a transaction
    "ROLLED_BACK": Meaning("fail", "tx.rollback-ok: the broker dropped what the transaction had published"),
    "NOT_COMMITTED": Meaning("fail", "the channel ended before tx.commit was written: nothing of it can be enqueued"),
    # nothing left the process
    "NotSent": Meaning("fail", "the channel was closed before a byte of it was handed to the connection"),
    # the connection
    "ConnectionReset": Meaning("info", "the connection broke; what was written may have arrived"),
    "ConnectionClosed": Meaning(
        "info", "the peer ended the connection without a word; what was written may have arrived"
    ),
    "HeartbeatTimeout": Meaning("info", "nothing was heard for two heartbeats; what was written may have arrived"),
    "BlockedTimeout": Meaning("info", "the broker blocked publishers; what was written waits in its buffers"),
    "ConsumerCancelled": Meaning("info", "the queue went or moved; acknowledgements on their way may have arrived"),
    "ChannelGone": Meaning("info", "the client closed the channel over an answer that it did not expect"),
    "CONNECTION_FORCED": Meaning("info", "320: an operator or a shutdown closed the connection under the messages"),
    # reply codes that close the channel
    "CONTENT_TOO_LARGE": Meaning("info", "311: " + _OTHERS),
    "ACCESS_REFUSED": Meaning("info", "403: " + _OTHERS),
    "NOT_FOUND": Meaning("info", "404: " + _OTHERS),
    "RESOURCE_LOCKED": Meaning("info", "405: " + _OTHERS),
    "PRECONDITION_FAILED": Meaning("info", "406, also for an acknowledgement that came too late: " + _OTHERS),
    # reply codes that close the connection
    "FRAME_ERROR": Meaning("info", "501: " + _OTHERS),
    "SYNTAX_ERROR": Meaning("info", "502: " + _OTHERS),
    "COMMAND_INVALID": Meaning("info", "503: " + _OTHERS),
    "CHANNEL_ERROR": Meaning("info", "504: " + _OTHERS),
    "UNEXPECTED_FRAME": Meaning("info", "505: " + _OTHERS),
    "RESOURCE_ERROR": Meaning("info", "506: " + _OTHERS),
    "NOT_ALLOWED": Meaning("info", "530: " + _OTHERS),
    "NOT_IMPLEMENTED": Meaning("info", "540: " + _OTHERS),
    "INTERNAL_ERROR": Meaning("info", "541: the broker failed inside, at a point that it does not tell"),
}

_CODES = {
    311: "CONTENT_TOO_LARGE", 312: "UNROUTABLE", 320: "CONNECTION_FORCED", 403: "ACCESS_REFUSED", 404: "NOT_FOUND",
    405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED", 501: "FRAME_ERROR", 502: "SYNTAX_ERROR", 503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR", 505: "UNEXPECTED_FRAME", 506: "RESOURCE_ERROR", 530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}  # fmt: skip


def meaning(error: str) -> Meaning:
    return OUTCOMES.get(error, Meaning("info", "not in the table"))


def of_code(code: int) -> str:
    """The error class of an AMQP reply code."""
    return _CODES.get(code, f"CODE_{code}")


def classify(error: BaseException | None) -> str:
    """The error class of what pika says ended a connection or a channel."""
    e = pika.exceptions
    if isinstance(error, (e.ConnectionClosedByBroker, e.ChannelClosedByBroker)):
        return of_code(error.reply_code)
    if isinstance(error, e.AMQPHeartbeatTimeout):
        return "HeartbeatTimeout"
    if isinstance(error, e.ConnectionBlockedTimeout):
        return "BlockedTimeout"
    if isinstance(error, e.ConsumerCancelled):
        return "ConsumerCancelled"
    if isinstance(error, (e.ChannelClosed, e.ChannelWrongStateError)):
        return "ChannelGone"
    if isinstance(error, e.ConnectionClosedByClient):
        return "ConnectionClosed"
    if isinstance(error, (e.StreamLostError, OSError)):
        # pika wraps the socket's error in its own, as text; an end of file is one of them.
        text = repr(error)
        return "ConnectionReset" if "Reset" in text or "Broken" in text or "EPIPE" in text else "ConnectionClosed"
    return type(error).__name__ if error is not None else "ConnectionClosed"
