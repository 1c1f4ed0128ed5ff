"""Section *consumer*: loss on the way out. A consumer process is killed in the middle of its work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from brokerproof.brokers.base import Configurations, Json, configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, ComparisonExperiment, Experiment
from brokerproof.plan import Injection, Receiver, Sender, Workload

ONE = ("",)
_LONGER = ("standard", "thorough")


def _topology(cell: Cell) -> str:
    """The smallest on which the product's safest destination can be had, where only clients are in trouble."""
    return configurations(cell.broker).topology if cell.broker == "kafka" else "single"


def _arm(c: Configurations, acknowledge: Json) -> Workload:
    # Messages come faster than they are worked off, so that the kill finds one in hand and more behind it.
    # The work is long enough for a kill to hit it on a machine that has other things to do.
    return Workload(
        destinations=(c.destination,),
        senders=(Sender(settings=c.confirmed, rate_per_s=100.0 / c.pace, count=60),),
        receivers=(Receiver(settings=acknowledge, work_ms=max(15.0, 40.0 * c.pace), prefetch=20),),
        load_s=2.5 * c.pace,
    )


def _killed(cell: Cell, treatment: Json, control: Json) -> Experiment:
    c = configurations(cell.broker)
    return Experiment(
        topology=c.topology, treatment=_arm(c, treatment), control=_arm(c, control), link_groups=("consumer",),
        schedule=(Injection(fault="client_kill", target="consumer", at_s=1.2 * c.pace, for_s=0.5 * c.pace),),
        sham_s=2.0 * c.pace,
    )  # fmt: skip


@claim(
    "consumer/manual-ack-no-loss", revision=1, kind="promise",
    sentence="A consumer that acknowledges after the work loses nothing when it dies.",
    source="S1 S2 S3 S4",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_lost", "settled_but_lost"), control="acknowledged first, then worked",
)  # fmt: skip
def test_manual_ack_no_loss(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return _killed(cell, c.ack_after, c.ack_first)


@claim(
    "consumer/auto-ack-loses", revision=1, kind="hazard",
    sentence="Automatic acknowledgement loses what a consumer that dies had not finished.",
    source="S1; Kafka enable.auto.commit; RocketMQ acknowledged at delivery",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_lost", "settled_but_lost"), control="acknowledged after the work: the safe arm",
)  # fmt: skip
def test_auto_ack_loses(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return _killed(cell, c.ack_auto, c.ack_after)


#: Where a consumer is when it dies -> the step of ``client_kill``.
_STEPS = {"received": "receive", "worked": "effect", "acknowledged": "ack"}


@claim(
    "consumer/deleted-only-after-ack", revision=1, kind="promise",
    sentence="A message leaves the queue when it is acknowledged, and not before.",
    source="S2 S3 S4",
    brokers=dict.fromkeys(("rabbitmq", "kafka", "rocketmq", "memory"), tuple(_STEPS)),
    deciding=("effect_lost", "settled_but_lost"), control="acknowledged before the work, and dead right after that",
    profiles=_LONGER,
)  # fmt: skip
def test_deleted_only_after_ack(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def death(step: str) -> tuple[Injection, ...]:
        return (
            Injection(
                fault="client_kill", target="consumer", at_s=1.2 * c.pace, for_s=0.5 * c.pace, options={"step": step}
            ),
        )

    # RabbitMQ answers no acknowledgement, so that a client cannot die right after the answer; automatic acknowledgement
    # is given at delivery, before any of these steps.
    automatic = cell.broker in ("rabbitmq", "memory")
    step = _STEPS[cell.own_variant]
    return Experiment(
        topology=c.topology, treatment=_arm(c, c.ack_after),
        control=_arm(c, c.ack_auto if automatic else c.ack_first), link_groups=("consumer",),
        schedule=death(step), control_schedule=None if automatic else death("ack"), sham_s=2.0 * c.pace,
    )  # fmt: skip


@claim(
    "consumer/kafka-commit-order", revision=1, kind="hazard",
    sentence="A commit before the work loses, and work before the commit doubles, when the consumer dies in between.",
    source="(ours); kafka.apache.org/documentation, message delivery semantics",
    brokers={"kafka": ("commit-first", "work-first")},
    deciding=("effect_lost", "settled_but_lost", "effect_duplicated"), control="the other order, under the same kill: the safe arm",
    profiles=_LONGER,
)  # fmt: skip
def test_kafka_commit_order(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # Right after the commit there is nothing to double, and right after the work nothing to lose.
    first = cell.own_variant == "commit-first"
    treatment, control, step = (c.ack_first, c.ack_after, "ack") if first else (c.ack_after, c.ack_first, "effect")
    kill = Injection(fault="client_kill", target="consumer", at_s=1.2, for_s=0.5, options={"step": step})
    return Experiment(
        topology=c.topology, treatment=_arm(c, treatment), control=_arm(c, control), link_groups=("consumer",),
        schedule=(kill,), sham_s=2.0,
    )  # fmt: skip


def _comes_and_goes(cell: Cell, acknowledge: Json) -> Workload:
    c = configurations(cell.broker)
    # Into a database, where a count that was kept is seen by everybody; the work outlasts the three deaths.
    effect = {"guard": "dedup_table", "options": {}, "sql": "postgresql"}
    return Workload(
        destinations=(c.destination,), senders=(Sender(settings=c.confirmed, rate_per_s=8.0, count=192),),
        receivers=(Receiver(settings=acknowledge, work_ms=100.0, prefetch=20, effect=effect),), load_s=25.0,
    )  # fmt: skip


@claim(
    "consumer/eventual-consistency", revision=1, kind="promise",
    sentence="A broker that waits for the acknowledgement brings eventual consistency: consumers fail and come back, and in the "
    "end their database has every message's effect, once.",
    source="S4", brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE},
    deciding=("effect_lost", "effect_duplicated", "settled_but_lost"), control="acknowledged first, then worked", profiles=_LONGER,
)  # fmt: skip
def test_eventual_consistency(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    deaths = tuple(
        Injection(fault="client_kill", target="consumer", at_s=at_s, for_s=0.5, options={"step": step})
        # Between the acknowledgement and the effect lies the work; where the client waits for no answer, nothing else does.
        for at_s, step in ((2.0, "receive"), (11.0, "effect"), (20.0, ""))
    )
    return Experiment(
        topology=_topology(cell), treatment=_comes_and_goes(cell, c.ack_after), control=_comes_and_goes(cell, c.ack_first),
        schedule=deaths, link_groups=("consumer",), sham_s=2.0,
    )  # fmt: skip


# -- what becomes of unacknowledged messages -------------------------------------------------------------------------------

_IN_HAND = 5
#: By then it has them in hand: what it was handed only after a fault, that fault has not taken from it.
_ALL_LEFT_S = 3.0
#: Where only clients are in trouble, one node does.
_SMALL = {"rabbitmq": "single"}


def _leaving(cell: Cell, **settings: object) -> tuple[Receiver, Receiver]:
    """(one whose work fails on all that it may have in hand, and which does what the settings say; one that works)."""
    c = configurations(cell.broker)
    fails = Receiver(
        settings={**c.ack_after, "on_error": "leave", **settings}, work_ms=5.0 * c.pace, prefetch=_IN_HAND,
        fail_first=_IN_HAND,
    )  # fmt: skip
    return fails, Receiver(settings=c.ack_after, work_ms=5.0 * c.pace, prefetch=_IN_HAND)


def _beside(cell: Cell, *receivers: Receiver, load_s: float = 1.5) -> Workload:
    c = configurations(cell.broker)
    sender = Sender(settings=c.confirmed, rate_per_s=50.0 / c.pace, count=40)
    return Workload(destinations=(c.destination,), senders=(sender,), receivers=receivers, load_s=load_s * c.pace)


def _leaves(cell: Cell, treatment: str, control: str = "") -> Experiment:
    """quit_by of the failing consumer in the arms; empty: it stays, with what it has not acknowledged."""

    def arm(quit_by: str) -> Workload:
        quits = {"quit_by": quit_by, "quit_after": _IN_HAND} if quit_by else {}
        return _beside(cell, *_leaving(cell, **quits))

    return Experiment(topology="single", treatment=arm(treatment), control=arm(control))


@claim(
    "consumer/unacked-redelivered-on-disconnect", revision=1, kind="promise",
    sentence="What a consumer has not acknowledged goes to another one when its connection drops or it cancels.",
    source="S2 S4", brokers={"rabbitmq": ("disconnect", "cancel")},
    deciding=("effect_lost",), control="it stays and does not acknowledge", profiles=_LONGER,
)  # fmt: skip
def test_unacked_redelivered_on_disconnect(cell: Cell) -> Experiment:
    return _leaves(cell, {"disconnect": "connection.close", "cancel": "basic.cancel"}[cell.own_variant])


@claim(
    "consumer/unacked-redelivered-on-disconnect--cancel", revision=1, kind="promise",
    sentence="What a consumer that cancelled has not acknowledged goes to another one when its channel is closed.",
    source="(ours); AMQP 0-9-1, basic.cancel; rabbitmq.com/docs/confirms, automatic requeueing",
    brokers={"rabbitmq": ONE}, sharpens="consumer/unacked-redelivered-on-disconnect",
    deciding=("effect_lost",), control="it cancels, and its channel stays open", profiles=_LONGER,
)  # fmt: skip
def test_unacked_redelivered_on_cancel(cell: Cell) -> Experiment:
    return _leaves(cell, "channel.close", "basic.cancel")


@claim(
    "consumer/unacked-redelivered-on-disconnect--disconnect", revision=1, kind="promise",
    sentence="What a consumer has not acknowledged goes to another one when its connection is lost, however it is lost.",
    source="S2 S4; rabbitmq.com/docs/confirms, automatic requeueing; rabbitmq.com/docs/heartbeats",
    brokers={"rabbitmq": ("kill", "reset", "half-open")}, sharpens="consumer/unacked-redelivered-on-disconnect",
    deciding=("effect_lost",), control="another consumer is hit: the one that has not acknowledged stays",
    profiles=_LONGER,
)  # fmt: skip
def test_unacked_redelivered_on_loss(cell: Cell) -> Experiment:
    fails, works = _leaving(cell)
    if cell.own_variant == "kill":
        schedule = (
            Injection(fault="client_kill", target="consumer", at_s=_ALL_LEFT_S, for_s=1.0, options={"which": "0"}),
        )
        treatment, control = (fails, works), (works, fails)
    else:
        # The consumers' links: one is broken, the other one is that of shams.
        fault, for_s = {"reset": ("reset", 1.0), "half-open": ("half_open", 15.0)}[cell.own_variant]
        schedule = (Injection(fault=fault, target="all", at_s=_ALL_LEFT_S, for_s=for_s),)
        spared = [replace(r, link="sham") for r in (fails, works)]
        treatment, control = (fails, spared[1]), (spared[0], works)
    return Experiment(
        topology="single", schedule=schedule, link_groups=("consumer",),
        treatment=_beside(cell, *treatment, load_s=5.0), control=_beside(cell, *control, load_s=5.0),
        # The control leaves messages without any fault.
        sham_s=0.0,
    )  # fmt: skip


@claim(
    "consumer/error-redelivers", revision=1, kind="promise",
    sentence="An error while a consumer processes a message moves it to another consumer.",
    source="S2", brokers={"rabbitmq": ONE},
    deciding=("effect_lost",), control="rejected without requeue", profiles=_LONGER,
)  # fmt: skip
def test_error_redelivers(cell: Cell) -> Experiment:
    fails, works = _leaving(cell)
    rejects, _ = _leaving(cell, on_error="reject")
    return Experiment(
        topology="single", treatment=_beside(cell, fails, works), control=_beside(cell, rejects, works)
    )  # fmt: skip


@claim(
    "consumer/error-redelivers--requeue", revision=1, kind="promise",
    sentence="A message whose processing failed is delivered again once the consumer gives it back (basic.nack with requeue).",
    source="(ours); rabbitmq.com/docs/nack", brokers={"rabbitmq": ONE, "memory": ONE}, sharpens="consumer/error-redelivers",
    deciding=("effect_lost",), control="the consumer says nothing", profiles=_LONGER,
)  # fmt: skip
def test_error_redelivers_requeue(cell: Cell) -> Experiment:
    leaves, works = _leaving(cell)
    requeues, _ = _leaving(cell, on_error="requeue")
    return Experiment(
        topology=_SMALL.get(cell.broker, configurations(cell.broker).topology), treatment=_beside(cell, requeues, works),
        control=_beside(cell, leaves, works),
    )  # fmt: skip


# -- how much a consumer is handed -----------------------------------------------------------------------------------------


def _busy(prefetch: int, *, auto: bool = False) -> Workload:
    """A slow consumer, which has to do with its first message for longer than all messages take to come, and a quick one.

    What the slow one is handed besides waits in its memory, and is overtaken by all that the quick one does: its effects
    come out of order. What it is handed alone overlaps with the others, which contradicts nothing.
    """
    c = configurations("rabbitmq")
    slow = Receiver(settings={**(c.ack_auto if auto else c.ack_after), "shards": 1}, work_ms=2000.0, prefetch=prefetch)
    quick = Receiver(settings=c.ack_after, work_ms=1.0, prefetch=1)
    sender = Sender(settings=c.confirmed, rate_per_s=20.0, count=10, keys=1)
    return Workload(destinations=(c.destination,), senders=(sender,), receivers=(slow, quick), load_s=1.0)


@claim(
    "consumer/unacked-means-busy", revision=1, kind="promise",
    sentence="A consumer that has not acknowledged a message is busy, and is given no other one.",
    source="S4", brokers={"rabbitmq": ("unset", "three")},
    deciding=("effect_out_of_order",), control="automatic acknowledgement", profiles=_LONGER,
)  # fmt: skip
def test_unacked_means_busy(cell: Cell) -> Experiment:
    prefetch = {"unset": 0, "three": 3}[cell.own_variant]
    return Experiment(topology="single", treatment=_busy(prefetch), control=_busy(prefetch, auto=True))


@claim(
    "consumer/unacked-means-busy--prefetch-one", revision=1, kind="promise",
    sentence="With prefetch 1 a consumer that has not acknowledged a message is given no other one.",
    source="(ours); rabbitmq.com/docs/consumer-prefetch", brokers={"rabbitmq": ONE}, sharpens="consumer/unacked-means-busy",
    deciding=("effect_out_of_order",), control="prefetch not set: no limit", profiles=_LONGER,
)  # fmt: skip
def test_unacked_means_busy_prefetch_one(cell: Cell) -> Experiment:
    return Experiment(topology="single", treatment=_busy(1), control=_busy(0))


@claim(
    "consumer/push-overruns", revision=1, kind="hazard",
    sentence="Pushing ignores what a consumer can bear: messages pile up in a slow one while another one is idle.",
    source="S3", brokers={"rabbitmq": ONE},
    deciding=("effect_out_of_order",), control="prefetch 1: the safe arm", profiles=_LONGER,
)  # fmt: skip
def test_push_overruns(cell: Cell) -> Experiment:
    return Experiment(topology="single", treatment=_busy(0), control=_busy(1))


# -- how long the broker waits, and where it keeps what it waits for ---------------------------------------------------------

#: The limit is looked at every minute by default, too seldom for a trial. Source: rabbit_channel.erl, channel_tick_interval.
_TICKS = {"advanced.config": "[{rabbit, [{channel_tick_interval, 1000}]}]."}
_LIMIT_MS, _HELD_MS = 5000, 12_000.0
_OWN_LIMIT = ("consumer_timeout_of_a_queue",)


def _holding(queue: Mapping[str, object]) -> Workload:
    """Two messages: on one of them a worker works for longer than the limit, while its connection is alive and served; the
    other one, and what the broker takes back, goes to a quick one."""
    c = configurations("rabbitmq")
    slow = Receiver(settings={**c.ack_after, "shards": 1}, work_ms=_HELD_MS, prefetch=1)
    quick = Receiver(settings=c.ack_after, work_ms=1.0, prefetch=1)
    return Workload(
        destinations=(replace(c.destination, settings=dict(queue)),), senders=(Sender(settings=c.confirmed, rate_per_s=5.0, count=2),),
        receivers=(slow, quick), load_s=1.0,
    )  # fmt: skip


@claim(
    "consumer/no-ack-timeout", revision=1, kind="promise",
    sentence="There is no time-out: as long as the connection lives, the broker waits for the acknowledgement.",
    source="S4", brokers={"rabbitmq": ("classic", "quorum", "policy", "node")},
    deciding=("effect_duplicated",), control="a limit of two seconds instead of five", profiles=_LONGER,
)  # fmt: skip
def test_no_ack_timeout(cell: Cell) -> Experiment:
    # The limit is 30 minutes by default, which no trial waits for: it is lowered, in each of the places where it can be set.
    def queue(limit_ms: int) -> Mapping[str, object]:
        kind = {"x-queue-type": cell.own_variant if cell.own_variant == "classic" else "quorum"}
        if cell.own_variant == "policy":
            return {**kind, "policy": {"consumer-timeout": limit_ms}}
        return kind if cell.own_variant == "node" else {**kind, "x-consumer-timeout": limit_ms}

    by_node = cell.own_variant == "node"
    return Experiment(
        topology="single", treatment=_holding(queue(_LIMIT_MS)), control=_holding(queue(2000)),
        settings={**_TICKS, **({"consumer_timeout": _LIMIT_MS} if by_node else {})}, needs=() if by_node else _OWN_LIMIT,
    )  # fmt: skip


@claim(
    "consumer/no-ack-timeout--below-the-limit", revision=1, kind="promise",
    sentence="While the connection lives, the broker waits for an acknowledgement as long as consumer_timeout allows (30 minutes "
    "by default); then it closes the channel, and gives the message to whoever comes.",
    source="rabbitmq.com/docs/consumers, delivery acknowledgement timeout", brokers={"rabbitmq": ("classic", "quorum")},
    deciding=("effect_duplicated",), control="x-consumer-timeout of 5 s", sharpens="consumer/no-ack-timeout",
    profiles=_LONGER,
)  # fmt: skip
def test_no_ack_timeout_below_the_limit(cell: Cell) -> Experiment:
    kind = {"x-queue-type": cell.own_variant}
    return Experiment(
        topology="single", treatment=_holding(kind), control=_holding({**kind, "x-consumer-timeout": _LIMIT_MS}), settings=_TICKS,
        needs=_OWN_LIMIT,
    )  # fmt: skip


def _held_at_death(delivery_mode: int, kind: str, *, held: bool = True) -> Workload:
    """A hundred messages, all in a consumer's hands and left there, when the node dies; what comes again is worked on. Twenty more
    are worked off: an acknowledgement is known to arrive."""
    c = configurations("rabbitmq")
    fails = Receiver(
        settings={**c.ack_after, "on_error": "leave"}, work_ms=1.0, prefetch=200, fail_first=100 if held else 0
    )
    sender = Sender(settings={**c.confirmed, "delivery_mode": delivery_mode}, rate_per_s=200.0, count=120)
    destination = replace(c.destination, settings={"x-queue-type": kind})
    return Workload(destinations=(destination,), senders=(sender,), receivers=(fails,), load_s=6.0)


_DEATH = Injection(fault="kill", target="leader", at_s=2.0, for_s=1.0)


@claim(
    "consumer/unacked-kept-in-memory", revision=1, kind="hazard",
    sentence="Until it is acknowledged a message that was handed to a consumer is kept in memory, and is gone with the node.",
    source="S2, its first half", brokers={"rabbitmq": ("classic", "quorum")}, always=True,
    deciding=("effect_lost",), control="acknowledged before the node dies: the safe arm", profiles=_LONGER,
)  # fmt: skip
def test_unacked_kept_in_memory(cell: Cell) -> Experiment:
    return Experiment(
        topology="single", treatment=_held_at_death(2, cell.own_variant), control=_held_at_death(2, cell.own_variant, held=False),
        schedule=(_DEATH,), sham_s=0.0, stored=True, link_groups=("consumer",),
    )  # fmt: skip


@claim(
    "consumer/unacked-kept-in-memory--persistent", revision=1, kind="promise",
    sentence="A persistent message that a consumer has not acknowledged survives the death of its node, and is delivered again.",
    source="(ours); rabbitmq.com/docs/confirms", brokers={"rabbitmq": ("classic", "quorum")},
    sharpens="consumer/unacked-kept-in-memory", deciding=("effect_lost",), control="transient messages in a classic queue",
    profiles=_LONGER,
)  # fmt: skip
def test_unacked_kept_in_memory_persistent(cell: Cell) -> Experiment:
    return Experiment(
        topology="single", treatment=_held_at_death(2, cell.own_variant), control=_held_at_death(1, "classic"),
        schedule=(_DEATH,), sham_s=0.0, stored=True, link_groups=("consumer",),
    )  # fmt: skip


def _unwilling(times: int, retry_max: int) -> Workload:
    """A consumer whose work on each of five messages of ten fails so many times; the group delivers again so many times."""
    c = configurations("rocketmq")
    receiver = Receiver(
        settings={**c.ack_after, "retry_max_times": retry_max}, work_ms=5.0, prefetch=5, fail_first=5, fail_times=times
    )
    sender = Sender(settings=c.confirmed, rate_per_s=20.0, count=10)
    return Workload(destinations=(c.destination,), senders=(sender,), receivers=(receiver,), load_s=1.0, drain_s=120.0)


@claim(
    "consumer/rocketmq-broker-resends", revision=1, kind="promise",
    sentence="The broker delivers a message again and again until it is acknowledged.",
    source="S2", brokers={"rocketmq": ONE},
    deciding=("effect_lost",), control="one delivery less than the work needs", profiles=_LONGER,
)  # fmt: skip
def test_rocketmq_broker_resends(cell: Cell) -> Experiment:
    # 16 times by default, in ever longer intervals; the third delivery would succeed, and the group ends with the second.
    c = configurations(cell.broker)
    return Experiment(topology=c.topology, treatment=_unwilling(2, 1), control=_unwilling(3, 1))


@claim(
    "consumer/rocketmq-broker-resends--up-to-retry-max", revision=1, kind="promise",
    sentence="The broker delivers a message again until it is acknowledged or was delivered retryMaxTimes + 1 times.",
    source="(ours); rocketmq.apache.org/docs, consumption retry", brokers={"rocketmq": ONE},
    deciding=("effect_lost",), control="the work needs one delivery more", sharpens="consumer/rocketmq-broker-resends",
    profiles=_LONGER,
)  # fmt: skip
def test_rocketmq_broker_resends_up_to_retry_max(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return Experiment(topology=c.topology, treatment=_unwilling(1, 1), control=_unwilling(2, 1))


# -- pushed or pulled ------------------------------------------------------------------------------------------------------


@claim(
    "consumer/pull-may-be-empty", revision=2, kind="comparison",
    sentence="Pulling may return nothing, and the consumer sees a message late; pushing brings it at once.",
    source="S3", brokers={"rabbitmq": ONE, "kafka": ("long-poll",), "rocketmq": ("long-poll", "push")},
    control="asked for every 200 ms, without waiting; the numbers tell how often for nothing", profiles=_LONGER,
)  # fmt: skip
def test_pull_may_be_empty(cell: Cell) -> ComparisonExperiment:
    c = configurations(cell.broker)

    def arm(**settings: object) -> Workload:
        return Workload(
            destinations=(c.destination,), senders=(Sender(settings=c.confirmed, rate_per_s=20.0, count=80),),
            receivers=(Receiver(settings={**c.ack_after, **settings}, prefetch=20),), load_s=5.0,
        )  # fmt: skip

    treatment = arm(consumer="push") if cell.own_variant == "push" else arm()
    # With RocketMQ's library a question always waits, and how long is the proxy's to say: an await_duration of 0 is not sent.
    # Source: consumer.py, _receive_req; ReceiveMessageActivity.java.
    waits = "proxy.grpcClientConsumer{}LongPollingTimeoutMillis"
    at_once = {waits.format(end): 1 for end in ("Min", "Max")} if cell.broker == "rocketmq" else {}
    return ComparisonExperiment(
        topology=_topology(cell),
        by="delay",
        treatment=treatment,
        control=arm(poll_every_ms=200),
        control_settings=at_once,
    )


@claim(
    "consumer/pull-batches", revision=1, kind="comparison",
    sentence="A pull takes one message or many, and many at a time are received faster.",
    source="S3", brokers={"kafka": ONE, "rocketmq": ONE}, control="one message a pull", profiles=_LONGER,
)  # fmt: skip
def test_pull_batches(cell: Cell) -> ComparisonExperiment:
    c = configurations(cell.broker)
    # One at a time, with its commit, takes Kafka's consumer about 7 ms: 20,000 took 160 s an arm.
    count = {"kafka": 6000, "rocketmq": 1500}[cell.broker]
    # On Kafka a consumer that is handed one at a time still fetches many: what the library asks the broker for is a setting
    # of its own, in octets. Each is committed with its pull.
    settings = {**c.ack_after, **({"commit": "poll"} if cell.broker == "kafka" else {})}

    def arm(prefetch: int) -> Workload:
        return Workload(
            destinations=(c.destination,), senders=(Sender(settings=c.confirmed, count=count, timeout_s=20.0),),
            receivers=(Receiver(settings=settings, prefetch=prefetch),), load_s=30.0,
        )  # fmt: skip

    return ComparisonExperiment(
        topology=_topology(cell), by="receive", treatment=arm(500 if cell.broker == "kafka" else 32), control=arm(1)
    )
