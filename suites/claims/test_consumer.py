"""Section *consumer*: loss on the way out. A consumer process is killed in the middle of its work."""

from __future__ import annotations

from brokerproof.brokers.base import Configurations, Json, configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Receiver, Sender, Workload

ONE = ("",)


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
