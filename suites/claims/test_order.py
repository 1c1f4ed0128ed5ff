"""Section *order*: judged on effects, since each of several consumers may see a tidy sequence while the world does not."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Receiver, Sender, Workload

ONE = ("",)
#: Milliseconds of work of a quick consumer; of a slow one: ``Configurations.slow_ms``.
QUICK_MS = 1.0


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


@claim(
    "order/one-queue-one-consumer", revision=1, kind="promise",
    sentence="One queue with one single-threaded consumer keeps the order of each key.",
    source="S1 S4",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="two consumers of unequal speed",
)  # fmt: skip
def test_one_queue_one_consumer(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=one, control=several)


@claim(
    "order/many-consumers-break", revision=1, kind="hazard",
    sentence="Several consumers on one queue break the order of a key.",
    source="S1",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="one consumer: the safe arm",
)  # fmt: skip
def test_many_consumers_break(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=several, control=one)


@claim(
    "order/same-lane", revision=1, kind="promise",
    sentence="Where the messages of one key go to the same queue, several queues with a consumer each keep its order.",
    source="S1", brokers={"memory": ONE},
    deciding=("effect_out_of_order",), control="the queues taken in turn",
)  # fmt: skip
def test_same_lane(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # With three keys and two queues, taking the queues in turn sends each key to both.
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    keyed = Workload(
        destinations=(replace(c.ordered_destination, partitions=2),),
        senders=(sender,),
        receivers=tuple(
            Receiver(settings={**c.ack_after, "member": (n, 2)}, work_ms=ms * c.pace, prefetch=10)
            for n, ms in enumerate((QUICK_MS, c.slow_ms))
        ),
        load_s=3.0 * c.pace,
    )
    in_turn = replace(keyed, senders=(replace(sender, spread="round_robin"),))
    return Experiment(topology=c.topology, treatment=keyed, control=in_turn)


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
