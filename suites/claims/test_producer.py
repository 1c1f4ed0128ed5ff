"""Section *producer*: loss and duplicates on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brokerproof.brokers.base import Configurations, configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, ComparisonExperiment, Experiment
from brokerproof.plan import Destination, Injection, Sender, Workload

ONE = ("",)


def _workload(c: Configurations, sender: Sender, *, load_s: float) -> Workload:
    return Workload(
        destinations=(c.destination,),
        senders=(replace(sender, rate_per_s=c.rate_per_s, timeout_s=sender.timeout_s * c.pace),),
        load_s=load_s * c.pace,
    )


def _link_cut(cell: Cell) -> tuple[Workload, Workload, Experiment]:
    """(confirmed and resent, fire and forget, the experiment with the first as treatment).

    The link swallows what is sent for two seconds and then closes: the sender's socket took it, nobody has it.
    """
    c = configurations(cell.broker)
    confirmed = _workload(c, Sender(settings=c.confirmed, resend=True, timeout_s=2.0), load_s=5.0)
    unconfirmed = _workload(c, Sender(settings=c.unconfirmed), load_s=5.0)
    experiment = Experiment(
        topology=c.topology, treatment=confirmed, control=unconfirmed, sham_s=3.0 * c.pace,
        schedule=(Injection(fault="black_hole", target="all", at_s=1.0 * c.pace, for_s=2.0 * c.pace),),
    )  # fmt: skip
    return confirmed, unconfirmed, experiment


@claim(
    "producer/fire-and-forget-loses", revision=1, kind="hazard",
    sentence="Without transaction or confirm, messages are lost when the link fails, and the producer does not know.",
    source="S0; RabbitMQ without confirms, Kafka acks=0, RocketMQ one-way send",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("lost",), control="confirms kept: the safe arm",
)  # fmt: skip
def test_fire_and_forget_loses(cell: Cell) -> Experiment:
    confirmed, unconfirmed, experiment = _link_cut(cell)
    return replace(experiment, treatment=unconfirmed, control=confirmed)


@claim(
    "producer/acknowledged-survives-link-cut", revision=1, kind="promise",
    sentence="A message that was acknowledged is not lost when the client's link is cut.",
    source="(ours), from S0 S1: keep what is not confirmed, and send it again",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("lost",), control="no confirm: what the socket took counts as sent",
)  # fmt: skip
def test_acknowledged_survives_link_cut(cell: Cell) -> Experiment:
    return _link_cut(cell)[2]


@claim(
    "producer/confirm-means-taken", revision=1, kind="promise",
    sentence="A confirmed message is not lost by the death and restart of the broker that confirmed it.",
    source="S0 S2 S3 S4; RocketMQ: (ours)",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("lost",), control="no confirm", profiles=("standard", "thorough"),
)  # fmt: skip
def test_confirm_means_taken(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return Experiment(
        topology=c.topology, mode="race",
        treatment=_workload(c, Sender(settings=c.confirmed, timeout_s=10.0), load_s=15.0),
        control=_workload(c, Sender(settings=c.unconfirmed), load_s=15.0),
        schedule=(Injection(fault="kill", target="leader", at_s=2.0 * c.pace, for_s=5.0 * c.pace),),
        sham_s=3.0 * c.pace,
    )  # fmt: skip


@claim(
    "producer/confirm-means-taken--dead-connection", revision=1, kind="promise",
    sentence="A confirmed message survives the death and restart of the broker; what is written to the dead connection "
    "without waiting for a confirm is lost every time.",
    source="S0 S2 S3 S4, for the first half; RFC 9293, section 3.10.7: only the next segment tells of a reset",
    brokers={"memory": ONE}, sharpens="producer/confirm-means-taken",
    deciding=("lost",), control="no confirm",
)  # fmt: skip
def test_confirm_means_taken_dead_connection(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    return Experiment(
        topology=c.topology,
        treatment=_workload(c, Sender(settings=c.confirmed), load_s=6.0),
        control=_workload(c, Sender(settings=c.unconfirmed), load_s=6.0),
        schedule=(Injection(fault="kill", target="leader", at_s=2.0 * c.pace, for_s=2.0 * c.pace),),
        sham_s=3.0 * c.pace,
    )  # fmt: skip


@claim(
    "producer/kafka-acks-all", revision=1, kind="promise",
    sentence="With acks=all no acknowledged message is lost, whatever happens to the leader.",
    source="S2 S3; Kafka documentation, producer configuration acks",
    brokers={"kafka": ("isolate-leader", "all-power-cut")},
    deciding=("lost",), control="acks=1", needs=("peers", "leader"), longer=("all-power-cut",),
)  # fmt: skip
def test_kafka_acks_all(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    if cell.own_variant == "all-power-cut":
        # The leader, and all who have copied from it, at once.
        both = [
            _workload(c, Sender(settings={**c.confirmed, "acks": acks}, timeout_s=6.0), load_s=9.0)
            for acks in ("all", "1")
        ]
        return Experiment(
            topology=c.topology, treatment=both[0], control=both[1], equipment=("disk",),
            schedule=(Injection(fault="power_cut", target="all", at_s=4.0, for_s=2.0),),
        )  # fmt: skip
    # The isolated leader does not know: it goes on taking what its clients send until they hear of another.
    arms = [
        _workload(c, Sender(settings={**c.confirmed, "acks": acks}, timeout_s=10.0), load_s=9.0)
        for acks in ("all", "1")
    ]
    return Experiment(
        topology=c.topology, treatment=arms[0], control=arms[1],
        schedule=(Injection(fault="partition", target="leader", at_s=1.0, for_s=6.0),),
    )  # fmt: skip


def _lost_ack(cell: Cell) -> tuple[Workload, Workload, Experiment]:
    """(resends, does not, the experiment with the first as treatment): replies are dropped for five seconds.

    The time-out leaves room for a slow machine: a sham that sends again says nothing of the fault."""
    c = configurations(cell.broker)
    calm = replace(c, rate_per_s=min(c.rate_per_s, 50.0 / c.pace))
    resends = _workload(calm, Sender(settings=c.no_dedup, resend=True, timeout_s=4.0), load_s=8.0)
    once = _workload(calm, Sender(settings=c.no_dedup, timeout_s=4.0), load_s=8.0)
    experiment = Experiment(
        topology=c.topology, treatment=resends, control=once, sham_s=3.0 * c.pace,
        schedule=(Injection(fault="lost_ack", target="all", at_s=1.0 * c.pace, for_s=5.0 * c.pace),),
    )  # fmt: skip
    return resends, once, experiment


@claim(
    "producer/resend-duplicates", revision=1, kind="hazard",
    sentence="Resending after a lost acknowledgement doubles the message.",
    source="(ours)",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("duplicated",), control="the same lost acknowledgements, nothing sent again: the safe arm",
)  # fmt: skip
def test_resend_duplicates(cell: Cell) -> Experiment:
    return _lost_ack(cell)[2]


@claim(
    "producer/resend-duplicates--only-then", revision=1, kind="promise",
    sentence="A message that was sent once is there once, even where its acknowledgement was lost.",
    source="(ours)", brokers={"memory": ONE}, sharpens="producer/resend-duplicates",
    deciding=("duplicated",), control="sent again after each lost acknowledgement",
)  # fmt: skip
def test_resend_duplicates_only_then(cell: Cell) -> Experiment:
    resends, once, experiment = _lost_ack(cell)
    return replace(experiment, treatment=once, control=resends)


#: A library that tries again by itself would do what the application is to do: its own retries are off, or soon over.
_ONCE: Mapping[str, Mapping[str, Any]] = {
    "rabbitmq": {},
    "kafka": {"enable.idempotence": False, "retries": 0, "request.timeout.ms": 1900, "message.timeout.ms": 2000},
    "rocketmq": {"attempts": 1, "request_timeout": 2},
}


def _resent_after_timeout(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    c = replace(c, rate_per_s=min(c.rate_per_s, 200.0))
    schedule = [Injection(fault="black_hole", target="all", at_s=1.0, for_s=4.0)]
    if cell.own_variant == "producer-killed":
        # While it holds what the link has swallowed; another takes over, which knows nothing of that.
        schedule.append(Injection(fault="client_kill", target="producer", at_s=2.5, for_s=0.5))
    settings = {**c.confirmed, **_ONCE[cell.broker]}
    return Experiment(
        topology="single" if cell.broker == "rabbitmq" else c.topology, schedule=tuple(schedule),
        treatment=_workload(c, Sender(settings=settings, resend=True, timeout_s=2.0), load_s=9.0),
        control=_workload(c, Sender(settings=settings, timeout_s=2.0), load_s=9.0),
    )  # fmt: skip


@claim(
    "producer/timeout-then-resend-no-loss", revision=1, kind="promise",
    sentence="A producer that keeps unconfirmed messages in memory and sends them again after a time-out loses nothing.",
    source="S0 S1",
    brokers=dict.fromkeys(_ONCE, ("link-cut", "producer-killed")),
    deciding=("lost", "given_up"), control="what was not confirmed in time is not sent again",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_timeout_then_resend_no_loss(cell: Cell) -> Experiment:
    return _resent_after_timeout(cell)


@claim(
    "producer/timeout-then-resend-no-loss--while-it-lives", revision=1, kind="promise",
    sentence="A producer that keeps unconfirmed messages in memory and sends them again after a time-out loses nothing, as "
    "long as its process lives.",
    source="(ours)", sharpens="producer/timeout-then-resend-no-loss",
    brokers=dict.fromkeys(_ONCE, ("link-cut",)),
    deciding=("lost", "given_up"), control="what was not confirmed in time is not sent again",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_timeout_then_resend_while_it_lives(cell: Cell) -> Experiment:
    return _resent_after_timeout(cell)


@claim(
    "producer/resend-repairs-crash", revision=1, kind="promise",
    sentence="A message that a crash takes before it is on disk was not acknowledged, so the producer sends it again: none is lost.",
    source="S0 (S1 says that nothing can be done then)",
    brokers=dict.fromkeys(_ONCE, ("power-cut",)),
    deciding=("lost", "given_up"), control="what was not acknowledged is not sent again",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_resend_repairs_crash(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # Brokers that sync before they acknowledge: what they acknowledged is no question here.
    destination, broker = {
        "rabbitmq": (replace(c.destination, settings={"x-queue-type": "quorum"}), {}),
        "kafka": (replace(c.destination, settings={"flush.messages": "1"}), {}),
        "rocketmq": (c.destination, {"flushDiskType": "SYNC_FLUSH"}),
    }[cell.broker]
    settings = {**c.confirmed, **_ONCE[cell.broker]}

    def arm(resend: bool) -> Workload:
        # Sent again for as long as a broker may take to come back.
        sender = Sender(
            settings=settings, resend=resend, rate_per_s=min(c.rate_per_s, 200.0), timeout_s=15.0 if resend else 3.0
        )
        return Workload(destinations=(destination,), senders=(sender,), load_s=25.0)

    return Experiment(
        topology="single", treatment=arm(True), control=arm(False), settings=broker, equipment=("disk",),
        schedule=(Injection(fault="power_cut", target="all", at_s=4.0, for_s=2.0),),
    )  # fmt: skip


#: What may make a producer's messages come twice: variant -> the fault.
_CAUSES = {
    "lost-ack": Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),
    "reset": Injection(fault="reset", target="all", at_s=1.0, for_s=3.0),
    "failover": Injection(fault="kill", target="leader", at_s=2.0, for_s=5.0),
}
#: The same, so that they catch something in every trial. A single reset finds a message between the append and the answer in every
#: second to eighth trial only: here answers are on their way for 50 ms. A failover is rare in that too: two of them.
_CAUSES_CATCH = {
    "lost-ack": (_CAUSES["lost-ack"],),
    "reset": (
        Injection(
            fault="latency", target="all", at_s=0.5, for_s=9.5, options={"latency_ms": 50, "stream": "downstream"}
        ),
        Injection(fault="reset", target="all", at_s=4.0, for_s=3.0),
    ),
    "failover": tuple(Injection(fault="kill", target="leader", at_s=at_s, for_s=3.0) for at_s in (2.0, 17.0)),
}
#: RocketMQ's master answers as soon as it has appended: its death finds nothing between. So it waits for a slave that has
#: stopped, and dies meanwhile: what it appended is in its log, and comes when it is back.
_WAITS = {"brokerRole": "SYNC_MASTER", "inSyncReplicas": 2}
_DIES_WAITING = (
    Injection(fault="pause", target="replica", at_s=2.0, for_s=6.0),
    Injection(fault="kill", target="leader", at_s=3.5, for_s=3.0),
)


def _doubling(cell: Cell, *, resend: bool, load_s: float = 15.0) -> Workload:
    c = configurations(cell.broker)
    settings = {**c.confirmed, **_ONCE[cell.broker]}
    sender = Sender(settings=settings, resend=resend, rate_per_s=min(c.rate_per_s, 200.0), timeout_s=6.0)
    return Workload(destinations=(c.destination,), senders=(sender,), load_s=load_s)


@claim(
    "producer/duplicates-rare", revision=1, kind="measurement",
    sentence="Duplicates from a producer that sends again what was not acknowledged, by cause: how many of its messages came twice.",
    source="S3: they are rare, and mostly its own fault", brokers=dict.fromkeys(_ONCE, tuple(_CAUSES)),
    control="the same injection, dry", profiles=("standard", "thorough"),
)  # fmt: skip
def test_duplicates_rare(cell: Cell) -> Experiment:
    arm, fault = _doubling(cell, resend=True), _CAUSES[cell.own_variant]
    return Experiment(
        topology=configurations(cell.broker).topology, treatment=arm, control=arm, schedule=(fault,),
        control_schedule=(replace(fault, dry=True),), sham_s=0.0,
    )  # fmt: skip


@claim(
    "producer/duplicates-rare--its-own", revision=2, kind="promise",
    sentence="A message comes twice only where it was sent twice: without a producer that sends again, no fault of the link and "
    "no failover doubles one.",
    source="S3, its second half; (ours)", sharpens="producer/duplicates-rare",
    brokers=dict.fromkeys(_ONCE, tuple(_CAUSES)),
    deciding=("duplicated",), control="the producer sends again what was not acknowledged", profiles=("standard", "thorough"),
)  # fmt: skip
def test_duplicates_its_own(cell: Cell) -> Experiment:
    # Time for the first node to be back before the second is killed.
    load_s = 25.0 if cell.own_variant == "failover" else 15.0
    treatment, control = (_doubling(cell, resend=again, load_s=load_s) for again in (False, True))
    waits = cell.own_variant == "failover" and cell.broker == "rocketmq"
    return Experiment(
        topology=configurations(cell.broker).topology, treatment=treatment, control=control,
        schedule=_DIES_WAITING if waits else _CAUSES_CATCH[cell.own_variant], settings=_WAITS if waits else {},
        # A reset or a failover catches some messages between the append and the answer, or none.
        mode="deterministic" if cell.own_variant == "lost-ack" else "race",
    )  # fmt: skip


@claim(
    "producer/tx-rollback-retry", revision=1, kind="promise",
    sentence="With tx.select a publish that failed can be rolled back and sent again: nothing is given up, what was rolled "
    "back is never seen, and what was committed is never lost.",
    source="S0 S1; rabbitmq.com/docs/semantics",
    brokers={"rabbitmq": ("link-cut", "kill")},
    deciding=("lost", "given_up", "aborted_read"), control="no transaction and no confirm",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_tx_rollback_retry(cell: Cell) -> Experiment:
    c = replace(configurations(cell.broker), rate_per_s=200.0)
    # Every seventh transaction is rolled back on purpose, and its messages are sent again.
    tx = Sender(settings={"mode": "tx", "batch": 10, "rollback_every": 7}, resend=True, timeout_s=2.0)
    fault = {
        "link-cut": Injection(fault="black_hole", target="all", at_s=1.0, for_s=3.0),
        "kill": Injection(fault="kill", target="all", at_s=2.0, for_s=2.0),
    }[cell.own_variant]
    load_s = {"link-cut": 8.0, "kill": 24.0}[cell.own_variant]
    return Experiment(
        topology="single", schedule=(fault,), treatment=_workload(c, tx, load_s=load_s),
        control=_workload(c, Sender(settings=c.unconfirmed), load_s=load_s),
    )  # fmt: skip


#: Variant -> the sender that is said to be slower. The faster one is the same: confirms, up to 1,000 unanswered.
_SLOW: Mapping[str, Mapping[str, Any]] = {
    "tx-each": {"mode": "tx", "batch": 1},
    "tx-100": {"mode": "tx", "batch": 100},
    "confirm-each": {"confirm": True, "mode": "each"},
}


@claim(
    "producer/tx-is-synchronous-and-slow", revision=1, kind="comparison",
    sentence="Transactions block and cost throughput; confirms are asynchronous and faster.",
    source="S0 S1 S4",
    brokers={"rabbitmq": ("tx-each", "tx-100", "confirm-each")},
    control="a transaction for each message, or for 100; or a confirm awaited for each", needs=("confirm", "transactions"),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_tx_is_synchronous_and_slow(cell: Cell) -> ComparisonExperiment:
    queue = Destination(name="q", kind="queue", settings={"x-queue-type": "classic"})

    def arm(settings: Mapping[str, Any]) -> Workload:
        sender = Sender(settings=settings, count=2000, timeout_s=20.0)
        return Workload(destinations=(queue,), senders=(sender,), load_s=60.0)

    return ComparisonExperiment(
        topology="single", treatment=arm({"confirm": True, "mode": "pipelined"}), control=arm(_SLOW[cell.own_variant])
    )


@claim(
    "producer/rocketmq-reliability-slows", revision=1, kind="comparison",
    sentence="Reliability limits the send rate: asynchronous flush and replication are faster.",
    source="S2", brokers={"rocketmq": ("sync-flush", "sync-replication", "both", "sync-flush-one-by-one", "sync-replication-one-by-one")},
    control="flushDiskType=SYNC_FLUSH; brokerRole=SYNC_MASTER; or both", profiles=("standard", "thorough"),
)  # fmt: skip
def test_rocketmq_reliability_slows(cell: Cell) -> ComparisonExperiment:
    c = configurations(cell.broker)
    flush, copied = {"flushDiskType": "SYNC_FLUSH"}, {"brokerRole": "SYNC_MASTER", "inSyncReplicas": 2}
    what = cell.own_variant.removesuffix("-one-by-one")
    reliable = {"sync-flush": flush, "sync-replication": copied, "both": flush | copied}[what]
    # Of many in flight one flush and one round to the slave serve several; one by one, each waits for its own.
    count, in_flight = (3000, 64) if what == cell.own_variant else (500, 1)
    sender = Sender(settings=c.confirmed, count=count, in_flight_max=in_flight, timeout_s=30.0)
    arm = Workload(destinations=(c.destination,), senders=(sender,), load_s=60.0)
    return ComparisonExperiment(topology=c.topology, treatment=arm, control=arm, control_settings=reliable)
