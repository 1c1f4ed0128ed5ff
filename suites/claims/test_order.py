"""Section *order*: judged on effects, since each of several consumers may see a tidy sequence while the world does not."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment, Mode
from brokerproof.plan import Injection, Receiver, Sender, Workload

ONE = ("",)
#: Where only clients are in trouble, one node does.
_SMALL = {"rabbitmq": "single"}
#: Milliseconds of work of a quick consumer; of a slow one: ``Configurations.slow_ms``.
QUICK_MS = 1.0


#: What "several consumers on one queue" asks for.
_SEVERAL = ("several_consumers_per_lane",)


def _arms(cell: Cell) -> tuple[Workload, Workload]:
    """(one consumer, several of unequal speed) on one queue with three keys, no fault."""
    c = configurations(cell.broker)
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    receiver = Receiver(settings=c.ack_after, work_ms=QUICK_MS * c.pace, prefetch=10)
    one = Workload(destinations=(c.ordered_destination,), senders=(sender,), receivers=(receiver,), load_s=3.0 * c.pace)
    over = dict(c.several)
    spread = over.pop("spread", sender.spread)
    partitions = over.pop("partitions", c.ordered_destination.partitions)
    several = replace(
        one,
        destinations=(replace(c.ordered_destination, partitions=partitions),),
        senders=(replace(sender, spread=spread),),
        receivers=tuple(
            replace(receiver, work_ms=ms * c.pace, settings={**receiver.settings, **over})
            for ms in (QUICK_MS, c.slow_ms)
        ),
    )
    return one, several


def _troubled(cell: Cell, one: Workload, *others: Workload) -> Experiment:
    """The arms with what the cell's variant does to them: work that fails, or a link of the consumers that swallows what is
    sent for a while and then closes. The consumer has a backlog, so that it has as many messages in hand as it may."""
    c = configurations(cell.broker)
    # More comes than one consumer works off.
    busy_ms = 1.3 * 1000 / (one.senders[0].rate_per_s or 1.0)

    def arm(workload: Workload) -> Workload:
        # A slow one stays slower than the others.
        receivers = tuple(
            replace(r, work_ms=busy_ms if r.work_ms == QUICK_MS * c.pace else 4 * busy_ms) for r in workload.receivers
        )
        if cell.own_variant.startswith("requeue"):
            receivers = tuple(replace(r, fail_first=5) for r in receivers)
        destinations = workload.destinations
        if cell.own_variant.endswith("classic"):
            destinations = tuple(replace(d, settings={**d.settings, "x-queue-type": "classic"}) for d in destinations)
        return replace(workload, destinations=destinations, receivers=receivers)

    schedule = ()
    if cell.own_variant == "reconnect":
        schedule = (Injection(fault="black_hole", target="all", at_s=1.0 * c.pace, for_s=1.5 * c.pace),)
    return Experiment(
        topology=c.topology, treatment=arm(one), control=arm(others[0]), schedule=schedule, link_groups=("consumer",),
        # The control breaks the order without any fault.
        sham_s=0.0, needs=_SEVERAL,
    )  # fmt: skip


@claim(
    "order/one-queue-one-consumer", revision=1, kind="promise",
    sentence="One queue with one single-threaded consumer keeps the order of each key.",
    source="S1 S4",
    brokers={
        "rabbitmq": ("", "requeue", "requeue-classic", "reconnect"), "kafka": ("", "reconnect"), "rocketmq": ("", "requeue", "reconnect"),
        "memory": ONE,
    },
    deciding=("effect_out_of_order",), control="two consumers of unequal speed",
    longer=("requeue", "requeue-classic", "reconnect"),
)  # fmt: skip
def test_one_queue_one_consumer(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    if cell.own_variant:
        return _troubled(cell, one, several)
    return Experiment(topology=configurations(cell.broker).topology, treatment=one, control=several, needs=_SEVERAL)


@claim(
    "order/one-queue-one-consumer--one-in-hand", revision=1, kind="promise",
    sentence="One queue with one single-threaded consumer that has one message in hand at a time (prefetch 1) keeps the order "
    "of each key when a message is requeued, and when its connection is lost.",
    source="(ours); rabbitmq.com/docs/queues, message ordering; rabbitmq.com/docs/confirms, channel prefetch",
    brokers={"rabbitmq": ("requeue", "requeue-classic", "reconnect")}, sharpens="order/one-queue-one-consumer",
    deciding=("effect_out_of_order",), control="ten in hand", profiles=("standard", "thorough"),
)  # fmt: skip
def test_one_queue_one_consumer_one_in_hand(cell: Cell) -> Experiment:
    ten, _ = _arms(cell)
    one = replace(ten, receivers=tuple(replace(r, prefetch=1) for r in ten.receivers))
    return _troubled(cell, one, ten)


@claim(
    "order/many-consumers-break", revision=1, kind="hazard",
    sentence="Several consumers on one queue break the order of a key.",
    source="S1",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="one consumer: the safe arm",
)  # fmt: skip
def test_many_consumers_break(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=several, control=one, needs=_SEVERAL)


def _lanes(cell: Cell) -> tuple[Workload, Workload]:
    """(each key in one queue, the queues taken in turn): two queues with a consumer each, of unequal speed."""
    c = configurations(cell.broker)
    destination = replace(c.ordered_destination, partitions=2)
    if cell.broker == "rocketmq":
        # A topic has several queues and is one lane here; the message group chooses the queue.
        destination = replace(c.ordered_destination, settings={"message.type": "FIFO", "queues": 2})
    # With three keys and two queues, taking the queues in turn sends each key to both.
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    keyed = Workload(
        destinations=(destination,),
        senders=(sender,),
        receivers=tuple(
            Receiver(settings={**c.ack_after, "member": (n, 2)}, work_ms=ms * c.pace, prefetch=10)
            for n, ms in enumerate((QUICK_MS, c.slow_ms))
        ),
        load_s=3.0 * c.pace,
    )
    return keyed, replace(keyed, senders=(replace(sender, spread="round_robin"),))


@claim(
    "order/same-lane", revision=1, kind="promise",
    sentence="Where the messages of one key go to the same queue, several queues with a consumer each keep its order.",
    source="S1", brokers={"kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="the queues taken in turn",
)  # fmt: skip
def test_same_lane(cell: Cell) -> Experiment:
    keyed, in_turn = _lanes(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=keyed, control=in_turn)


@claim(
    "order/split-queues", revision=1, kind="promise",
    sentence="Several queues with a consumer each, and each key hashed to one of them, keep the order of each key.",
    source="S1", brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE},
    deciding=("effect_out_of_order",), control="the queues taken in turn", profiles=("standard", "thorough"),
)  # fmt: skip
def test_split_queues(cell: Cell) -> Experiment:
    keyed, in_turn = _lanes(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=keyed, control=in_turn)


@claim(
    "order/split-queues--resized", revision=1, kind="hazard",
    sentence="A queue that is added under load moves keys to other queues while messages of theirs wait in the old ones, and "
    "so breaks their order.",
    source="(ours)", brokers={"rabbitmq": ONE, "memory": ONE}, sharpens="order/split-queues",
    deciding=("effect_out_of_order",), control="the number of queues stays: the safe arm",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_split_queues_resized(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    keyed, _ = _lanes(cell)
    # Of five keys and two queues, a third queue moves 2 (from the first to the new one), 3 (second to first) and
    # 4 (first to second). The first consumer is the slow one, so that something waits there.
    three = replace(
        keyed,
        destinations=(replace(c.ordered_destination, partitions=3),),
        senders=(replace(keyed.senders[0], keys=5),),
        receivers=tuple(
            Receiver(settings={**c.ack_after, "member": (n, 3)}, work_ms=ms * c.pace, prefetch=10)
            for n, ms in enumerate((c.slow_ms, QUICK_MS, QUICK_MS))
        ),
    )
    (sender,) = three.senders
    grown = replace(three, senders=(replace(sender, settings={**sender.settings, "grow_after": 150}),))
    return Experiment(topology=_SMALL.get(cell.broker, c.topology), treatment=grown, control=three)


def _sharing(cell: Cell, **settings: object) -> Workload:
    """One consumer with two workers, which has more to do than they work off; the work on a message takes unequally long."""
    c = configurations(cell.broker)
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    receiver = Receiver(
        settings={**c.ack_after, "shards": 2, **settings}, work_ms=25.0 * c.pace, uneven=True, prefetch=20
    )
    return Workload(
        destinations=(c.ordered_destination,), senders=(sender,), receivers=(receiver,), load_s=3.0 * c.pace
    )


def _shared_out(
    cell: Cell, treatment: Workload, control: Workload, *, killed: bool, sham: bool = False, mode: Mode = "deterministic"
) -> Experiment:  # fmt: skip
    c = configurations(cell.broker)
    # In the middle of the work on one message, with others in the workers' queues.
    kill = Injection(fault="client_kill", target="consumer", at_s=1.2 * c.pace, for_s=0.5 * c.pace)
    return Experiment(
        topology=_SMALL.get(cell.broker, c.topology), treatment=treatment, control=control, schedule=(kill,) if killed else (),
        link_groups=("consumer",), sham_s=2.0 * c.pace if sham else 0.0, mode=mode,
    )  # fmt: skip


@claim(
    "order/in-memory-sharding", revision=1, kind="promise",
    sentence="One consumer that shares messages out to worker queues in memory by key keeps the order of each key.",
    source="S1",
    brokers={"rabbitmq": ("", "killed-ack-each", "killed-ack-in-order"), "memory": ("", "killed-ack-each")},
    deciding=("effect_out_of_order",), control="shared out to the workers in turn", profiles=("standard", "thorough"),
)  # fmt: skip
def test_in_memory_sharding(cell: Cell) -> Experiment:
    ack = {"ack": "in_order"} if cell.own_variant == "killed-ack-in-order" else {}
    return _shared_out(
        cell, _sharing(cell, **ack), _sharing(cell, shard_by="turn", **ack), killed=bool(cell.own_variant)
    )


@claim(
    "order/in-memory-sharding--acknowledged-each", revision=1, kind="promise",
    sentence="One consumer that shares messages out by key, and acknowledges each by itself when it is done, keeps the order of each "
    "key when it is killed.",
    source="(ours), from S1", brokers={"rabbitmq": ONE}, sharpens="order/in-memory-sharding",
    # What was done before an older message of another key is delivered again, and done again, behind younger ones of its key.
    deciding=("effect_out_of_order",), control="acknowledged in order, once everything before it is done",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_in_memory_sharding_acknowledged_each(cell: Cell) -> Experiment:
    # Whether what is done again stands behind younger ones of its key is a matter of whose turn it was.
    return _shared_out(cell, _sharing(cell), _sharing(cell, ack="in_order"), killed=True, mode="race")


@claim(
    "order/in-memory-sharding--acknowledged-on-receipt", revision=1, kind="hazard",
    sentence="A consumer that acknowledges what it puts into its workers' queues loses what lies there when it dies.",
    source="(ours), from S1", brokers={"rabbitmq": ONE, "memory": ONE}, sharpens="order/in-memory-sharding",
    deciding=("effect_lost", "settled_but_lost"), control="acknowledged after the work: the safe arm",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_in_memory_sharding_acknowledged_on_receipt(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return _shared_out(cell, _sharing(cell, **c.ack_first), _sharing(cell), killed=True, sham=True)


@claim(
    "order/single-active-consumer", revision=1, kind="promise",
    sentence="A queue with a single active consumer keeps the order of each key when that consumer dies and another takes over.",
    source="(ours); rabbitmq.com/docs/consumers, single active consumer",
    brokers={"rabbitmq": ("quorum", "classic")},
    deciding=("effect_out_of_order",), control="both consumers are active", profiles=("standard", "thorough"),
)  # fmt: skip
def test_single_active_consumer(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    one, _ = _arms(cell)
    receivers = tuple(replace(one.receivers[0], work_ms=ms) for ms in (15.0, 40.0))

    def arm(single: bool) -> Workload:
        settings = {"x-queue-type": cell.own_variant, **({"x-single-active-consumer": True} if single else {})}
        destination = replace(c.ordered_destination, settings=settings)
        return replace(one, destinations=(destination,), receivers=receivers)

    kill = Injection(fault="client_kill", target="consumer", at_s=1.2, for_s=1.5, options={"which": "active"})
    return Experiment(
        topology="single", treatment=arm(True), control=arm(False), schedule=(kill,), link_groups=("consumer",), sham_s=0.0
    )  # fmt: skip


@claim(
    "order/rocketmq-fifo", revision=1, kind="promise",
    sentence="A FIFO topic keeps the order of each message group when a consumer dies and another takes over.",
    source="(ours); rocketmq.apache.org/docs, Ordered Message", brokers={"rocketmq": ONE},
    deciding=("effect_out_of_order",), control="a message group of its own for each message",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_rocketmq_fifo(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    keyed, in_turn = _lanes(cell)

    def arm(workload: Workload) -> Workload:
        return replace(workload, receivers=tuple(replace(r, work_ms=40.0) for r in workload.receivers), load_s=5.0)

    kill = Injection(fault="client_kill", target="consumer", at_s=2.0, for_s=1.5, options={"which": "0"})
    return Experiment(
        topology=c.topology, treatment=arm(keyed), control=arm(in_turn), schedule=(kill,), link_groups=("consumer",),
        sham_s=0.0,
    )  # fmt: skip


@claim(
    "order/kafka-retry-reorders", revision=1, kind="hazard",
    sentence="Without idempotence, several requests in flight and retries can put a later message before an earlier one.",
    source="(ours); Kafka documentation, producer configurations retries and max.in.flight.requests.per.connection; "
    "librdkafka, INTRODUCTION.md, Reordering",
    brokers={"kafka": ONE},
    deciding=("send_nonmonotonic",), control="enable.idempotence=true: the safe arm", needs=("leader", "dedup"),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_kafka_retry_reorders(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # A broken connection alone does not reorder: TCP keeps the requests in order, and librdkafka puts what is to be sent
    # again back in its old place (rd_kafka_retry_msgq inserts by message number) before anything younger is sent. It takes
    # a request that is refused while a younger one, on its way already, is not. So: too few replicas in sync
    # (NOT_ENOUGH_REPLICAS refuses before the append), and at the moment when there are enough again, requests in flight:
    # a slow link holds 400 ms of them. Time spent in backoff is time with nothing in flight (the oldest message holds
    # back those behind it), so that is short.
    topic = replace(c.destination, settings={"replication.factor": "2", "min.insync.replicas": "2"})

    def arm(idempotence: bool) -> Workload:
        settings = {
            **c.confirmed, "enable.idempotence": idempotence, "retry.backoff.ms": 10, "retry.backoff.max.ms": 10,
            "message.timeout.ms": 60000, "batch.num.messages": 100,
        }  # fmt: skip
        # The cap leaves room for all that cannot be sent meanwhile: a sender that stands still has nothing in flight.
        sender = Sender(settings=settings, rate_per_s=300.0, keys=1, in_flight_max=20_000, timeout_s=20.0)
        return Workload(destinations=(topic,), senders=(sender,), load_s=30.0)

    return Experiment(
        topology=c.topology, treatment=arm(False), control=arm(True),
        schedule=(
            Injection(fault="latency", target="all", at_s=0.5, for_s=28.0, options={"latency_ms": 200}),
            Injection(fault="kill", target="replica", at_s=2.0, for_s=7.0),
        ),
    )  # fmt: skip
