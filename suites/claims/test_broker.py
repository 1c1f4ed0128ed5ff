"""Section *broker*: loss inside."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Sender, Workload


@claim(
    "broker/rocketmq-sync-replication", revision=1, kind="promise",
    sentence="With a synchronous master, acknowledged means on the slave too: the master's loss loses nothing.",
    source="(ours)",
    brokers={"rocketmq": ("master-lost",)},
    deciding=("lost",), control="asynchronous replication, the default", needs=("peers", "slave"),
)  # fmt: skip
def test_rocketmq_sync_replication(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    sender = Sender(settings=c.confirmed, rate_per_s=c.rate_per_s, timeout_s=6.0)
    arm = Workload(destinations=(c.destination,), senders=(sender,), load_s=8.0)
    # The slave is cut off, then the master is gone for good as far as the final read can tell: its disk is never read.
    return Experiment(
        topology=c.topology, treatment=arm, control=arm,
        settings={"brokerRole": "SYNC_MASTER", "inSyncReplicas": 2},
        control_settings={},
        schedule=(
            Injection(fault="partition", target="leader", at_s=1.0, for_s=5.0),
            Injection(fault="kill", target="leader", at_s=5.5, for_s=2.5, until_read=True),
        ),
    )  # fmt: skip


@claim(
    "broker/kafka-isr-of-one", revision=1, kind="hazard",
    sentence="acks=all loses acknowledged messages when the in-sync replicas have shrunk to one and "
    "min.insync.replicas is 1.",
    source="(ours); Kafka documentation, topic configurations min.insync.replicas and unclean.leader.election.enable",
    brokers={"kafka": ("unclean-election",)},
    deciding=("lost",), control="min.insync.replicas=2: the safe arm", needs=("leader",),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_kafka_isr_of_one(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(least: str) -> Workload:
        # Two copies and not three: every node is a controller too, and with two of three nodes down nobody shrinks the
        # in-sync replicas. Unclean election is on in both arms, so the last in-sync replica need not come back.
        topic = {"replication.factor": "2", "min.insync.replicas": least, "unclean.leader.election.enable": "true"}
        sender = Sender(settings=c.confirmed, rate_per_s=500.0, timeout_s=5.0)
        return Workload(destinations=(replace(c.destination, settings=topic),), senders=(sender,), load_s=16.0)

    return Experiment(
        # What the leader alone acknowledged, and the replica has not, is what its death takes.
        topology=c.topology, treatment=arm("1"), control=arm("2"), stored=True,
        schedule=(
            # Missed after 4 s (broker.session.timeout.ms); from then on the leader alone acknowledges, for 6 s and more.
            Injection(fault="kill", target="replica", at_s=2.0, for_s=12.0),
            # The replica, which has missed all that, comes back and is elected, some 15 s after the leader's death. The
            # leader comes back later, and cuts its log to what the new one has. It has to come back before the final
            # read: with fewer replicas in sync than min.insync.replicas the high watermark stands still, and what the
            # safe arm has kept could not be read.
            Injection(fault="kill", target="leader", at_s=12.0, for_s=30.0),
        ),
    )  # fmt: skip


@claim(
    "broker/kept-until-consumed", revision=1, kind="promise",
    sentence="What was confirmed lies in the queue, once and unchanged, until it is consumed.",
    source="(ours); rabbitmq.com/docs/confirms, when are published messages confirmed; rabbitmq.com/docs/maxlength",
    brokers={"memory": ("",)},
    deciding=("lost", "duplicated", "corrupted"), control="a length limit: the oldest message makes room for the newest",
)  # fmt: skip
def test_kept_until_consumed(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    arm = Workload(
        destinations=(c.destination,),
        senders=(Sender(settings=c.confirmed, rate_per_s=c.rate_per_s),),
        load_s=3.0 * c.pace,
    )
    limited = replace(c.destination, settings={**c.destination.settings, "max-length": 50})
    return Experiment(topology=c.topology, treatment=arm, control=replace(arm, destinations=(limited,)))


@claim(
    "broker/kafka-replica-failover", revision=1, kind="promise",
    sentence="When the replica that leads dies, another takes over, and nothing acknowledged is lost.",
    source="S2; Kafka documentation, replication", brokers={"kafka": ("",)},
    # How soon another one takes over is with the numbers (rto_s): before the dead one is back, after 12 s.
    deciding=("lost", "given_up"), control="no other replica: replication.factor=1", needs=("leader",),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_kafka_replica_failover(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(copies: int) -> Workload:
        topic = {"replication.factor": str(copies), "min.insync.replicas": str(min(copies, 2))}
        # It goes on trying for as long as its library does (message.timeout.ms, 30 s).
        sender = Sender(settings=c.confirmed, resend=True, rate_per_s=300.0, timeout_s=35.0)
        return Workload(destinations=(replace(c.destination, settings=topic),), senders=(sender,), load_s=18.0)

    return Experiment(
        topology=c.topology, treatment=arm(3), control=arm(1), equipment=("disk",),
        schedule=(Injection(fault="power_cut", target="leader", at_s=3.0, for_s=12.0),),
    )  # fmt: skip


@claim(
    "broker/young-lane-survives", revision=1, kind="promise",
    sentence="A queue or topic that has just been declared, and has confirmed messages, survives the death of its node within its "
    "first seconds, and so do they.",
    source="(ours)", brokers=dict.fromkeys(("rabbitmq", "kafka", "rocketmq"), ("kill", "kill-later", "power-cut")),
    deciding=("lost", "definition_lost"), control="no confirm", profiles=("standard", "thorough"),
)  # fmt: skip
def test_young_lane_survives(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # What makes a product sync before it confirms, so that it is the lane's own definition that is in question.
    destination, settings = {
        "rabbitmq": (replace(c.destination, settings={"x-queue-type": "quorum"}), {}),
        "kafka": (replace(c.destination, settings={"flush.messages": "1"}), {}),
        "rocketmq": (c.destination, {"flushDiskType": "SYNC_FLUSH"}),
    }[cell.broker]

    def arm(sender: object) -> Workload:
        sending = Sender(settings=sender, rate_per_s=c.rate_per_s, timeout_s=6.0)  # type: ignore[arg-type]
        return Workload(destinations=(destination,), senders=(sending,), load_s=14.0)

    # The age at the fault is lane_age_s of the trial's faults.json plus injected_s: clients take 2 to 5 s to connect.
    fault, at_s = {"kill": ("kill", 0.5), "kill-later": ("kill", 5.0), "power-cut": ("power_cut", 0.5)}[
        cell.own_variant
    ]
    return Experiment(
        topology="single", mode="race", settings=settings, lane_age_s=0.0, sham_s=0.0,
        treatment=arm(c.confirmed), control=arm(c.unconfirmed),
        equipment=("disk",) if fault == "power_cut" else (),
        schedule=(Injection(fault=fault, target="all", at_s=at_s, for_s=2.0),),
    )  # fmt: skip
