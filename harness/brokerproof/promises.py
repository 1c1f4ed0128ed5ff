"""The promise table: what a configuration promises under a class of faults, by the vendor's own documentation.

An anomaly in an arm is one of three things:

    broken promise                   the vendor says that it does not happen with these settings
    allowed by this configuration    with these settings the vendor says that it can; another setting prevents it
    not promised                     no setting of the product prevents it

``ROWS`` is data, read from top to bottom: the first row that fits decides. A row fits where the product is its own,
the anomaly is among its own, every setting that it names has one of the values (settings that nobody set have the
value in ``DEFAULTS``), and one of its classes of faults was injected (``*``: whatever was, ``none``: nothing was).
Nothing here decides a verdict: claims do; this says whether a verdict's anomalies should surprise anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from brokerproof.faults.base import Plane, faults, plane
from brokerproof.finding import Finding

Word = Literal["broken promise", "allowed by this configuration", "not promised"]
BROKEN: Word = "broken promise"
ALLOWED: Word = "allowed by this configuration"
UNPROMISED: Word = "not promised"
Json = Mapping[str, Any]

#: Class of fault by what it breaks. ``storage`` is also a node whose disk nobody reads again (``until_read``).
CLASSES: Mapping[Plane, str] = {
    "none": "none", "link": "link", "load": "client", "node": "node", "peer": "peers", "disk": "storage",
    "clock": "node", "resource": "node",
    "store": "client",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """anomalies: keys of checkers; ``duplicated/resend`` is what the application sent again, ``duplicated/broker`` not.

    when: setting -> values that fit, as text in lower case. because: the vendor's statement, in short. source: where.
    """

    product: str
    anomalies: tuple[str, ...]
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ("*",)
    word: Word
    because: str
    source: str


_KAFKA = "https://kafka.apache.org/documentation/"
_RABBIT = "https://www.rabbitmq.com/docs/"
_ROCKET = "https://rocketmq.apache.org/docs/"
_RDKAFKA = "https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"

#: Product -> setting -> its value where nobody sets it, in the vendor's words; and, for ours, what the harness does.
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "kafka": {
        "acks": "all", "enable.idempotence": "true", "min.insync.replicas": "1", "replication.factor": "1",
        "isolation.level": "read_committed", "group.protocol": "classic", "ack": "after", "spread": "key",
        "fsync_void": "false", "counts": "reported",
    },
    "rabbitmq": {
        "confirm": "true", "x-queue-type": "classic", "ack": "after", "receivers": "1", "fsync_void": "false",
        "durable": "true", "delivery_mode": "2", "on_error": "requeue", "fails": "false", "shards": "0",
    },
    "rocketmq": {
        "send": "sync", "flushdisktype": "async_flush", "brokerrole": "async_master", "message.type": "normal",
        "ack": "after", "receivers": "1", "fsync_void": "false", "spread": "key", "fails": "false",
    },
    "memory": {
        "confirm": "true", "ack": "after", "max-length": "none", "receivers": "1", "spread": "key",
        "on_error": "requeue", "fails": "false", "shards": "0",
    },
}  # fmt: skip

_CONTENT = ("phantom", "corrupted", "misrouted", "effect_of_nobody")
_POSITIONS = ("inconsistent_positions", "poll_skip", "poll_nonmonotonic")
_WORK = ("effect_lost", "settled_but_lost")
_OTHER_END = ("zombie_effect", "commit_regressed")
_DELAYS = ("delivered_early", "delivered_late", "expired_but_delivered")

ROWS: tuple[Row, ...] = (
    # -- the known-bad control of claims about the disk ----------------------------------------------------------------
    *(
        Row(product=product, anomalies=("lost", "definition_lost"), when={"fsync_void": ("true",)}, faults=("storage",),
            word=ALLOWED, because="every sync is made void: no broker can keep what its disk only says to keep",
            source="brokerproof.runtime.equipment.fsync_void")
        for product in ("kafka", "rabbitmq", "rocketmq")
    ),
    # -- Kafka ---------------------------------------------------------------------------------------------------------
    Row(product="kafka", anomalies=("lost",), when={"counts": ("returned",)}, faults=("client",), word=ALLOWED,
        because="produce() only puts a message into the client's own queue", source=_RDKAFKA),
    Row(product="kafka", anomalies=("lost",), when={"acks": ("0",)}, word=ALLOWED,
        because="acks=0: no guarantee can be made that the server has received the record",
        source=_KAFKA + "#producerconfigs_acks"),
    Row(product="kafka", anomalies=("lost",), when={"acks": ("1",)}, faults=("node", "peers", "storage"), word=ALLOWED,
        because="acks=1: if the leader fails after acknowledging but before the followers have replicated, it is lost",
        source=_KAFKA + "#producerconfigs_acks"),
    Row(product="kafka", anomalies=("lost",), when={"min.insync.replicas": ("1",)}, faults=("node", "peers", "storage"),
        word=ALLOWED, because="acks=all waits for the in-sync replicas, which may be the leader alone",
        source=_KAFKA + "#brokerconfigs_min.insync.replicas"),
    Row(product="kafka", anomalies=("lost", "definition_lost"), word=BROKEN,
        because="a committed message is not lost as long as one in-sync replica is alive",
        source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("failed_but_seen",), word=BROKEN,
        because="what the outcome table calls failed was refused before it was appended", source="https://kafka.apache.org/protocol"),
    Row(product="kafka", anomalies=("duplicated/resend",), word=UNPROMISED,
        because="idempotence is about the producer's own retries; what the application sends again is another record",
        source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("duplicated/broker",), when={"acks": ("all", "-1"), "enable.idempotence": ("true",)}, word=BROKEN,
        because="exactly one copy of each message is written to the stream",
        source=_KAFKA + "#producerconfigs_enable.idempotence"),
    Row(product="kafka", anomalies=("duplicated/broker",), faults=("link", "node", "peers", "client", "storage"), word=ALLOWED,
        because="without idempotence the producer's retries due to broker failures may write duplicates",
        source=_KAFKA + "#producerconfigs_enable.idempotence"),
    Row(product="kafka", anomalies=("duplicated/broker",), word=BROKEN,
        because="only a retry writes a record twice, and nothing had failed", source=_KAFKA + "#producerconfigs_retries"),
    Row(product="kafka", anomalies=("send_nonmonotonic",), when={"acks": ("all", "-1"), "enable.idempotence": ("true",)}, word=BROKEN,
        because="idempotence keeps the order of a producer's records in a topic-partition, retries included",
        source=_KAFKA + "#producerconfigs_max.in.flight.requests.per.connection"),
    Row(product="kafka", anomalies=("send_nonmonotonic",), word=ALLOWED,
        because="several requests in flight without idempotence may be reordered by retries",
        source=_KAFKA + "#producerconfigs_max.in.flight.requests.per.connection"),
    Row(product="kafka", anomalies=("effect_out_of_order", *_POSITIONS), when={"group.protocol": ("share",)}, word=UNPROMISED,
        because="a share group gives records of one topic-partition to several members, in no guaranteed order",
        source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-932%3A+Queues+for+Kafka"),
    Row(product="kafka", anomalies=("effect_out_of_order",), when={"spread": ("round_robin",)}, word=UNPROMISED,
        because="order is guaranteed within a topic-partition only", source=_KAFKA + "#intro_concepts_and_terms"),
    Row(product="kafka", anomalies=("effect_out_of_order",), faults=("client", "node", "peers", "link", "storage"),
        when={"ack": ("after",)}, word=ALLOWED,
        because="at least once: after a failure a consumer goes back to the last committed offset",
        source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("effect_out_of_order", *_POSITIONS), word=BROKEN,
        because="a consumer sees the records of a topic-partition in the order in which they are stored",
        source=_KAFKA + "#intro_concepts_and_terms"),
    Row(product="kafka", anomalies=(*_WORK, "commit_ahead_of_work"), when={"ack": ("first", "auto")}, word=ALLOWED,
        because="at most once: the offset is saved before the work is done", source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=(*_WORK, "commit_ahead_of_work"), word=BROKEN,
        because="at least once: the offset is saved after the work", source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("effect_duplicated",), when={"ack": ("after",)}, word=ALLOWED,
        because="at least once: what was done and not yet committed is done again", source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("effect_duplicated", *_OTHER_END), word=UNPROMISED,
        because="effects outside Kafka need the cooperation of the system they are in", source=_KAFKA + "#semantics"),
    Row(product="kafka", anomalies=("aborted_read", "g1c"), when={"isolation.level": ("read_uncommitted",)}, word=ALLOWED,
        because="read_uncommitted returns all messages, even of transactions that were aborted",
        source=_KAFKA + "#consumerconfigs_isolation.level"),
    Row(product="kafka", anomalies=("aborted_read", "g1c", "precommitted_read"), word=BROKEN,
        because="read_committed returns only messages of transactions that were committed",
        source=_KAFKA + "#consumerconfigs_isolation.level"),
    Row(product="kafka", anomalies=_CONTENT, word=BROKEN,
        because="a record batch carries a CRC-32C, and a record is appended to the topic-partition that it was sent to",
        source=_KAFKA + "#recordbatch"),
    Row(product="kafka", anomalies=(*_DELAYS, "stale_read"), word=UNPROMISED,
        because="Kafka has no delayed delivery, and nothing to say of caches", source=_KAFKA + "#design"),
    # -- RabbitMQ ------------------------------------------------------------------------------------------------------
    Row(product="rabbitmq", anomalies=("lost",), when={"confirm": ("false",)}, word=ALLOWED,
        because="without publisher confirms there is no way to know that a message reached the broker",
        source=_RABBIT + "confirms"),
    Row(product="rabbitmq", anomalies=("lost", "definition_lost"), when={"durable": ("false",)}, faults=("node", "storage"),
        word=ALLOWED, because="a queue that is not durable is deleted on node boot, with its messages, persistent or not",
        source=_RABBIT + "queues#durability"),
    Row(product="rabbitmq", anomalies=("lost",), when={"delivery_mode": ("1",), "x-queue-type": ("classic",)},
        faults=("node", "storage"), word=ALLOWED,
        because="messages published as transient are discarded during recovery, even in a durable queue",
        source=_RABBIT + "queues#durability"),
    Row(product="rabbitmq", anomalies=("lost", "definition_lost"), when={"x-queue-type": ("classic",)},
        faults=("peers", "storage"), word=ALLOWED,
        because="a classic queue is on one node: what its node alone has is gone with it",
        source=_RABBIT + "classic-queues"),
    Row(product="rabbitmq", anomalies=("lost", "definition_lost"), when={"x-queue-type": ("quorum",)}, word=BROKEN,
        because="a quorum queue confirms once a majority has the message, and survives the loss of a minority",
        source=_RABBIT + "quorum-queues#data-safety"),
    Row(product="rabbitmq", anomalies=("lost", "definition_lost"), word=BROKEN,
        because="a persistent message in a durable queue is confirmed when it is on disk, or on a majority's",
        source=_RABBIT + "confirms"),
    Row(product="rabbitmq", anomalies=("failed_but_seen",), word=BROKEN,
        because="a message that was returned was not routed to any queue", source=_RABBIT + "publishers"),
    Row(product="rabbitmq", anomalies=("duplicated/resend",), word=UNPROMISED,
        because="publishing again after a lost confirm can create duplicates; consumers have to deal with them",
        source=_RABBIT + "reliability"),
    Row(product="rabbitmq", anomalies=("duplicated/broker", "effect_duplicated"),
        faults=("link", "node", "peers", "client", "storage"), word=ALLOWED,
        because="an acknowledgement that was lost on the way makes the message come again",
        source=_RABBIT + "reliability"),
    Row(product="rabbitmq", anomalies=("duplicated/broker",), word=BROKEN,
        because="an acknowledged message is removed, and one that comes again says so (redelivered)",
        source=_RABBIT + "confirms"),
    Row(product="rabbitmq", anomalies=_WORK, when={"ack": ("auto", "first")}, word=ALLOWED,
        because="a message is considered delivered as soon as it was sent: with the consumer it is lost",
        source=_RABBIT + "confirms#acknowledgement-modes"),
    Row(product="rabbitmq", anomalies=_WORK, when={"on_error": ("leave", "reject")}, word=ALLOWED,
        because="what was not acknowledged stays its consumer's until the channel closes; what was rejected is dropped",
        source=_RABBIT + "confirms#consumer-nacks-requeue"),
    Row(product="rabbitmq", anomalies=_WORK, when={"delivery_mode": ("1",)}, faults=("node", "storage"), word=ALLOWED,
        because="only persistent messages are written to disk", source=_RABBIT + "publishers#message-properties"),
    Row(product="rabbitmq", anomalies=_WORK, word=BROKEN,
        because="what was not acknowledged is requeued when its channel or connection closes",
        source=_RABBIT + "confirms#automatic-requeueing"),
    Row(product="rabbitmq", anomalies=("effect_out_of_order",), when={"receivers": ("2", "3", "4", "5", "6", "7", "8")},
        word=UNPROMISED, because="with several consumers only the order of deliveries is kept, not that of the work",
        source=_RABBIT + "queues#message-ordering"),
    Row(product="rabbitmq", anomalies=("effect_out_of_order",), when={"shards": ("2",)}, word=UNPROMISED,
        because="what a consumer's own workers do in which order is the application's", source=_RABBIT + "queues#message-ordering"),
    Row(product="rabbitmq", anomalies=("effect_out_of_order",), when={"fails": ("true",)}, word=ALLOWED,
        because="a message that is requeued may come after messages that were published later",
        source=_RABBIT + "queues#message-ordering"),
    Row(product="rabbitmq", anomalies=("effect_out_of_order",), faults=("link", "node", "peers", "client", "storage"),
        word=ALLOWED, because="redeliveries may come after messages that were published later",
        source=_RABBIT + "queues#message-ordering"),
    Row(product="rabbitmq", anomalies=("effect_out_of_order", "send_nonmonotonic", *_POSITIONS), word=BROKEN,
        because="messages of one channel to one queue are delivered in the order in which they were published",
        source=_RABBIT + "queues#message-ordering"),
    Row(product="rabbitmq", anomalies=("aborted_read", "g1c", "precommitted_read"), word=BROKEN,
        because="what is published in a transaction reaches queues when it is committed",
        source=_RABBIT + "semantics"),
    Row(product="rabbitmq", anomalies=("delivered_early",), word=BROKEN,
        because="a message is dead-lettered when its time-to-live is over, not before", source=_RABBIT + "ttl"),
    Row(product="rabbitmq", anomalies=("delivered_late", "expired_but_delivered"), word=UNPROMISED,
        because="a message expires only at the head of its queue: one behind others waits", source=_RABBIT + "ttl"),
    Row(product="rabbitmq", anomalies=_CONTENT, word=BROKEN,
        because="a message goes, unchanged, to the queues that its exchange's bindings name",
        source="https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 3.1.3"),
    Row(product="rabbitmq", anomalies=("effect_duplicated", "commit_ahead_of_work", *_OTHER_END, "stale_read"), word=UNPROMISED,
        because="consumers should be idempotent: effects outside the broker are their own", source=_RABBIT + "reliability"),
    # -- RocketMQ ------------------------------------------------------------------------------------------------------
    Row(product="rocketmq", anomalies=("lost",), when={"send": ("oneway",)}, word=ALLOWED,
        because="one-way sending does not wait for an answer, and is for where reliability matters less",
        source=_ROCKET + "4.x/producer/02message1"),
    Row(product="rocketmq", anomalies=("lost",), when={"brokerrole": ("async_master",)}, faults=("peers", "storage"), word=ALLOWED,
        because="asynchronous replication: what the slave has not got yet is lost with the master",
        source=_ROCKET + "deploymentOperations/01deploy"),
    Row(product="rocketmq", anomalies=("lost",), when={"flushdisktype": ("async_flush",)}, faults=("node", "storage"), word=ALLOWED,
        because="asynchronous flush: SEND_OK says that the message is in memory, not that it is on disk",
        source=_ROCKET + "bestPractice/01bestpractice"),
    Row(product="rocketmq", anomalies=("lost", "definition_lost"), word=BROKEN,
        because="SEND_OK: the broker has the message, with synchronous flush or replication also on disk or on the slave",
        source=_ROCKET + "bestPractice/01bestpractice"),
    Row(product="rocketmq", anomalies=("failed_but_seen",), word=BROKEN,
        because="what the outcome table calls failed was refused before it was stored", source=_ROCKET + "bestPractice/01bestpractice"),
    Row(product="rocketmq", anomalies=("duplicated/resend", "duplicated/broker", "effect_duplicated"), word=UNPROMISED,
        because="RocketMQ does not avoid duplicates; a consumer that minds them has to be idempotent",
        source=_ROCKET + "bestPractice/01bestpractice"),
    Row(product="rocketmq", anomalies=_WORK, when={"ack": ("auto", "first")}, word=ALLOWED,
        because="a message that was acknowledged is not delivered again, whatever became of the work",
        source=_ROCKET + "featureBehavior/06consumertype"),
    Row(product="rocketmq", anomalies=_WORK, when={"fails": ("true",)}, word=ALLOWED,
        because="a message that was not consumed after the last of its retries goes to the dead-letter queue",
        source=_ROCKET + "featureBehavior/10consumerretrypolicy"),
    Row(product="rocketmq", anomalies=_WORK, word=BROKEN,
        because="a message that was not acknowledged within its invisible time is delivered again",
        source=_ROCKET + "featureBehavior/06consumertype"),
    Row(product="rocketmq", anomalies=("effect_out_of_order",), when={"spread": ("round_robin",)}, word=UNPROMISED,
        because="messages of different message groups have no order", source=_ROCKET + "featureBehavior/03fifomessage"),
    Row(product="rocketmq", anomalies=("effect_out_of_order",), when={"message.type": ("fifo",)}, word=BROKEN,
        because="messages of one message group are consumed in the order in which they were sent",
        source=_ROCKET + "featureBehavior/03fifomessage"),
    Row(product="rocketmq", anomalies=("effect_out_of_order",), word=UNPROMISED,
        because="only FIFO messages of one message group have an order", source=_ROCKET + "featureBehavior/03fifomessage"),
    Row(product="rocketmq", anomalies=("delivered_early", "delivered_late"), faults=("none",), word=BROKEN,
        because="a delayed message can be consumed from its delivery time on", source=_ROCKET + "featureBehavior/02delaymessage"),
    Row(product="rocketmq", anomalies=_DELAYS, word=UNPROMISED,
        because="many messages due at once, or a restart, may delay delivery", source=_ROCKET + "featureBehavior/02delaymessage"),
    Row(product="rocketmq", anomalies=("aborted_read", "g1c", "precommitted_read"), word=BROKEN,
        because="a half message is not visible to consumers until it is committed",
        source=_ROCKET + "featureBehavior/04transactionmessage"),
    Row(product="rocketmq", anomalies=(*_CONTENT, "send_nonmonotonic", *_POSITIONS), word=BROKEN,
        because="messages are immutable, and lie in their queue in the order in which they were stored",
        source=_ROCKET + "domainModel/04message"),
    Row(product="rocketmq", anomalies=("commit_ahead_of_work", *_OTHER_END, "stale_read"), word=UNPROMISED,
        because="effects outside the broker are the consumer's own", source=_ROCKET + "bestPractice/01bestpractice"),
    # -- the memory broker: its own documentation ------------------------------------------------------------------------
    Row(product="memory", anomalies=("lost",), when={"confirm": ("false",)}, word=ALLOWED,
        because="without a confirm a message that the link took counts as sent", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=("duplicated/resend",), word=UNPROMISED,
        because="what the application sends again is another message", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=_WORK, when={"ack": ("auto", "first")}, word=ALLOWED,
        because="what was acknowledged does not come again", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=_WORK, when={"on_error": ("leave",)}, word=ALLOWED,
        because="what was not acknowledged is its consumer's for as long as that is there", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=("effect_out_of_order",), when={"fails": ("true",)}, word=ALLOWED,
        because="what is requeued comes after what its consumer has in hand", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=("effect_out_of_order",), when={"shards": ("2",)}, word=UNPROMISED,
        because="what a consumer's own workers do in which order is the application's", source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=("effect_duplicated", "duplicated/broker", "effect_out_of_order"),
        faults=("link", "node", "client"), word=ALLOWED, because="what was not acknowledged comes again",
        source="brokerproof.brokers.memory.client"),
    Row(product="memory", anomalies=("effect_out_of_order",), when={"receivers": ("2", "3", "4", "5", "6", "7", "8")},
        word=UNPROMISED, because="several consumers work side by side", source="brokerproof.brokers.memory.cluster"),
    Row(product="memory", anomalies=("lost",), when={"max-length": ("none",)}, word=BROKEN,
        because="what is confirmed is durable", source="brokerproof.brokers.memory.cluster"),
    Row(product="memory", anomalies=("lost",), word=ALLOWED,
        because="with a length limit the oldest message makes room for the newest", source="brokerproof.brokers.memory.cluster"),
    Row(product="memory", anomalies=(
            "duplicated/broker", "failed_but_seen", "definition_lost", *_CONTENT, *_WORK, *_POSITIONS, "send_nonmonotonic",
            "effect_out_of_order", "aborted_read", "g1c", "precommitted_read",
        ), word=BROKEN, because="a queue holds what was sent to it, once, unchanged and in order",
        source="brokerproof.brokers.memory.cluster"),
    Row(product="memory", anomalies=("effect_duplicated", "commit_ahead_of_work", *_OTHER_END, *_DELAYS, "stale_read"),
        word=UNPROMISED, because="it has no delays, and effects are the consumer's own", source="brokerproof.brokers.memory.cluster"),
)  # fmt: skip


def fault_classes(schedule: Collection[tuple[str, bool]]) -> tuple[str, ...]:
    """Classes of (fault, until_read), sorted; ``none`` alone where nothing is broken."""
    known = faults()
    # A run may have been made with a fault that is not here (any more).
    of = {fault: CLASSES[plane(fault)] if fault in known else "node" for fault, _ in schedule}
    found = {"storage" if until_read else of[fault] for fault, until_read in schedule} - {"none"}
    return tuple(sorted(found)) or ("none",)


def settings_of(product: str, configuration: Json) -> dict[str, str]:
    """The settings of one arm, as ``results.json`` has them under ``configuration``, flat, names and values in lower
    case; ``receivers`` is how many there are. Where two clients differ, the weaker cannot be known: the last one counts."""
    out = {name.lower(): value for name, value in DEFAULTS.get(product, {}).items()}
    receivers = configuration.get("receivers") or ()
    parts = (
        configuration.get("broker") or {},
        *(configuration.get("destinations") or ()),
        *receivers,
        *(configuration.get("senders") or ()),
    )
    for part in parts:
        out |= {str(name).lower(): str(value).lower() for name, value in part.items()}
    return out | {"receivers": str(len(receivers))}


def promised(product: str, anomaly: str, settings: Mapping[str, str], faults: Sequence[str]) -> Row | None:
    """The first row that fits; None where the table does not speak of it (a product of somebody else's)."""
    for row in ROWS:
        if (
            row.product == product
            and anomaly in row.anomalies
            and all(settings.get(name, "") in values for name, values in row.when.items())
            and ("*" in row.faults or set(row.faults) & set(faults))
        ):
            return row
    return None


def explain(
    product: str, configuration: Json, faults: Sequence[str], findings: Iterable[Finding]
) -> list[dict[str, Any]]:
    """What the table says of the anomalies that an arm's trials show: one entry per anomaly, with its count over the
    trials; ``duplicated`` in two, since what the application sent again is another matter."""
    counts: dict[str, int] = {}
    for finding in findings:
        for key, count in finding.anomalies.items():
            if not count.count:
                continue
            parts = {key: count.count}
            if key == "duplicated":
                resend = int(count.details.get("resend", 0))
                parts = {"duplicated/resend": resend, "duplicated/broker": count.count - resend}
            for name, n in parts.items():
                if n:
                    counts[name] = counts.get(name, 0) + n
    settings = settings_of(product, configuration)
    out = []
    for name, n in sorted(counts.items()):
        row = promised(product, name, settings, faults)
        out.append({
            "anomaly": name, "count": n, "word": "" if row is None else row.word,
            "because": "the promise table has no row for this product" if row is None else row.because,
            "source": "" if row is None else row.source,
        })  # fmt: skip
    return out
