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
