"""What a client error says about an operation: the reviewed table. What is not in it is ``info``.

``fail`` means *definitely did not happen*. librdkafka tells the last error only, after retries of its own: an earlier
try may have been appended before its answer was lost. So an error that proves that *this* try was not appended proves
nothing about the message, unless the client was told not to retry: ``ONCE`` is for then, ``SENT`` for all others.
Names are those of ``KafkaError.name()``. Source: https://kafka.apache.org/protocol.html#protocol_error_codes and
librdkafka's ``rdkafka.h`` for the local ones, which begin with an underscore.
"""

from __future__ import annotations

from collections.abc import Mapping

from brokerproof.brokers.base import Meaning

_LAST_TRY = "the last try was refused before it was appended, but librdkafka may have tried before"

#: Delivery reports of a producer that may retry.
SENT: Mapping[str, Meaning] = {
    "_MSG_TIMED_OUT": Meaning("info", "message.timeout.ms passed; a request may have been on its way"),
    "_TIMED_OUT": Meaning("info", "no answer in time; the request may have been appended"),
    "_TIMED_OUT_QUEUE": Meaning("info", "timed out in the queue, where a message also waits between two tries"),
    "_TRANSPORT": Meaning("info", "the connection broke; the request may have been appended"),
    "_ALL_BROKERS_DOWN": Meaning("info", "no connection now; an earlier try may have been appended"),
    "_PURGE_INFLIGHT": Meaning("info", "taken back while a request with it was on its way"),
    "_PURGE_QUEUE": Meaning("info", "taken back from the queue, where a message also waits between two tries"),
    "_DESTROY": Meaning("info", "the producer was closed with the message unanswered"),
    "_FATAL": Meaning("info", "the idempotent producer gave up; it does not say what became of this message"),
    "_UNKNOWN_TOPIC": Meaning("info", "the topic is gone; it was there when an earlier try may have been made"),
    "_UNKNOWN_PARTITION": Meaning("info", "the partition is gone; it was there when an earlier try may have been made"),
    "REQUEST_TIMED_OUT": Meaning("info", "appended by the leader, not copied by the in-sync replicas in time"),
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": Meaning("info", "appended by the leader, then too few replicas were in sync"),
    "NOT_LEADER_FOR_PARTITION": Meaning("info", "also answered when leadership is lost while replicas copy the append"),
    "UNKNOWN_TOPIC_OR_PART": Meaning("info", "also answered when the partition goes while replicas copy the append"),
    "NETWORK_EXCEPTION": Meaning("info", "the server lost a connection on the way; nothing is known"),
    "KAFKA_STORAGE_ERROR": Meaning("info", "the log failed while it was written; it may have been written"),
    "UNKNOWN": Meaning("info", "the server does not know either"),
    "OUT_OF_ORDER_SEQUENCE_NUMBER": Meaning("info", "this try has a hole before it; an earlier one is not known"),
    "UNKNOWN_PRODUCER_ID": Meaning("info", "the broker forgot the producer; whether it had the message is not known"),
    "INVALID_PRODUCER_EPOCH": Meaning("info", "a newer producer took over; an earlier try may have been appended"),
    "INVALID_MSG": Meaning("info", "damaged on the way this time; an earlier try may have been appended"),
    "NOT_ENOUGH_REPLICAS": Meaning("info", _LAST_TRY),
    "MSG_SIZE_TOO_LARGE": Meaning(
        "info", "the batch was too large this time; an earlier try may have had another batch"
    ),
    "RECORD_LIST_TOO_LARGE": Meaning(
        "info", "the batch was too large this time; an earlier try may have had another batch"
    ),
    "TOPIC_AUTHORIZATION_FAILED": Meaning("info", _LAST_TRY),
    "CLUSTER_AUTHORIZATION_FAILED": Meaning("info", _LAST_TRY),
    "INVALID_RECORD": Meaning("info", "one record of the batch was refused; an earlier try may have had another batch"),
}

#: Delivery reports of a producer with retries=0 and idempotence off: one request, so its refusal is the whole story.
ONCE: Mapping[str, Meaning] = {
    "NOT_ENOUGH_REPLICAS": Meaning(
        "fail", "too few replicas in sync: the leader refused before it appended, once and for all"
    ),
    "MSG_SIZE_TOO_LARGE": Meaning("fail", "the leader refuses a batch that is too large as a whole, before it appends"),
    "RECORD_LIST_TOO_LARGE": Meaning("fail", "the leader refuses a batch larger than a segment, before it appends"),
    "TOPIC_AUTHORIZATION_FAILED": Meaning("fail", "authorization comes before the append"),
    "CLUSTER_AUTHORIZATION_FAILED": Meaning("fail", "authorization comes before the append"),
    "INVALID_RECORD": Meaning("fail", "the leader validates the whole batch before it appends"),
}

#: What ``produce`` itself raises: the message never came into the client's queue. A full queue is no outcome; the
#: application waits and calls again.
REFUSED: Mapping[str, Meaning] = {
    "MSG_SIZE_TOO_LARGE": Meaning("fail", "larger than message.max.bytes: never queued"),
    "_UNKNOWN_PARTITION": Meaning("fail", "the client knows the topic and it has no such partition: never queued"),
    "_UNKNOWN_TOPIC": Meaning("fail", "the client knows that there is no such topic: never queued"),
    "_INVALID_ARG": Meaning("fail", "the call was wrong: never queued"),
    "_FATAL": Meaning("fail", "the producer had given up before: never queued"),
    "_STATE": Meaning("fail", "no transaction was open: never queued"),
    "_CONFLICT": Meaning("fail", "the call was wrong: never queued"),
}

#: Committing offsets. A commit writes a number; writing it again is harmless, so only clear refusals are ``fail``.
COMMITTED: Mapping[str, Meaning] = {
    "ILLEGAL_GENERATION": Meaning("fail", "the group has moved on: the coordinator refused the offsets"),
    "UNKNOWN_MEMBER_ID": Meaning("fail", "the coordinator no longer knows this member and refused the offsets"),
    "FENCED_INSTANCE_ID": Meaning("fail", "another member has taken this one's place; the offsets were refused"),
    "STALE_MEMBER_EPOCH": Meaning("fail", "the group has moved on: the coordinator refused the offsets"),
    "REBALANCE_IN_PROGRESS": Meaning("fail", "refused while the group rebalances"),
    "_NO_OFFSET": Meaning("fail", "there was nothing to commit; no request was made"),
    "_ASSIGNMENT_LOST": Meaning("fail", "the partitions were taken away before a request was made"),
    "_TIMED_OUT": Meaning("info", "no answer in time; the offsets may have been written"),
    "_TRANSPORT": Meaning("info", "the connection broke; the offsets may have been written"),
    "_WAIT_COORD": Meaning("info", "no coordinator known; an earlier try may have been written"),
    "REQUEST_TIMED_OUT": Meaning("info", "written by the leader of the offsets, not copied in time"),
    "NOT_COORDINATOR": Meaning("info", "the coordinator moved; an earlier try may have been written"),
    "COORDINATOR_NOT_AVAILABLE": Meaning("info", "also answered when the write of the offsets was not copied in time"),
}

#: Accepting records of a share group (KIP-932).
ACCEPTED: Mapping[str, Meaning] = {
    "INVALID_RECORD_STATE": Meaning("fail", "the lock had run out: the record is no longer this consumer's to accept"),
    "FENCED_STATE_EPOCH": Meaning(
        "info", "the share-partition moved to another leader; it is not told what it had written"
    ),
    "NOT_LEADER_FOR_PARTITION": Meaning("info", "the leader moved; the answer of an earlier try is not known"),
    "SHARE_SESSION_NOT_FOUND": Meaning(
        "info", "the session ended; the records are released if they were not accepted before"
    ),
    "_TIMED_OUT": Meaning("info", "no answer in time; the acknowledgement may have been written"),
    "_TRANSPORT": Meaning("info", "the connection broke; the acknowledgement may have been written"),
}

#: Ending a transaction.
ENDED: Mapping[str, Meaning] = {
    "INVALID_TXN_STATE": Meaning("info", "the coordinator has it in another state; which one is not told"),
    "INVALID_PRODUCER_EPOCH": Meaning(
        "fail", "a newer producer took over: the coordinator aborts what this one had open"
    ),
    "PRODUCER_FENCED": Meaning("fail", "a newer producer took over: the coordinator aborts what this one had open"),
    "_FENCED": Meaning("fail", "a newer producer took over: the coordinator aborts what this one had open"),
    "_TIMED_OUT": Meaning("info", "no answer in time; the end marker may have been written"),
    "_STATE": Meaning("fail", "the client had no transaction to end"),
}

_UNLISTED = Meaning("info", "not in the table: nothing is known")


def meaning(table: Mapping[str, Meaning], error: str) -> Meaning:
    """The line of ``error``, or that nothing is known."""
    return table.get(error, _UNLISTED)


def sent(error: str, *, once: bool) -> Meaning:
    """What a failed delivery report says. once: the producer never retries (see ``ONCE``)."""
    if once and error in ONCE:
        return ONCE[error]
    return meaning(SENT, error)
