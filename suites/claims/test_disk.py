"""Section *broker*, on disk: what of it is there when the power was cut under load.

Every cut hits all nodes that keep the lane, at once: one alone would only copy from the others. The journal is left alone
(``commit=600``), and the cut comes sooner than the kernel writes back by itself (30 s), so what is on the disk afterwards is
what the broker synced. Source: docs.kernel.org/admin-guide/sysctl/vm.html, ``dirty_expire_centisecs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Destination, Injection, Sender, Workload

_CUT = Injection(fault="power_cut", target="all", at_s=4.0, for_s=2.0)
_PROFILES = ("standard", "thorough")
_DISK, _KNOWN_BAD = ("disk",), ("disk", "fsync_void")
#: What makes a product sync before it acknowledges: settings of the destination, and of the broker.
_SYNCED: Mapping[str, tuple[Destination, Mapping[str, str]]] = {
    "rabbitmq": (Destination(name="q", kind="queue", settings={"x-queue-type": "quorum"}), {}),
    # Kafka leaves syncing to the kernel, and says so; with this each append is synced before it is acknowledged.
    "kafka": (Destination(name="t", kind="log", settings={"flush.messages": "1"}), {}),
    "rocketmq": (configurations("rocketmq").destination, {"flushDiskType": "SYNC_FLUSH"}),
}


def _arm(cell: Cell, destination: Destination, *, confirmed: bool = True) -> Workload:
    c = configurations(cell.broker)
    sender = Sender(settings=c.confirmed if confirmed else c.unconfirmed, rate_per_s=c.rate_per_s, timeout_s=6.0)
    return Workload(destinations=(destination,), senders=(sender,), load_s=9.0)


@claim(
    "broker/confirm-after-disk", revision=1, kind="promise",
    sentence="The confirm of a persistent message comes only after it is on disk.",
    source="S0 S1 S3 S4; rabbitmq.com/docs/confirms, when are published messages confirmed; kafka.apache.org/documentation, "
    "log flush management",
    brokers={"rabbitmq": ("quorum", "classic", "stream"), "kafka": ("default", "flush-each")},
    deciding=("lost",), control="the known-bad broker: every fsync is void", profiles=_PROFILES,
)  # fmt: skip
def test_confirm_after_disk(cell: Cell) -> Experiment:
    destination, _ = _SYNCED[cell.broker]
    if cell.variant == "classic":
        destination = replace(destination, settings={"x-queue-type": "classic"})
    elif cell.variant == "stream":
        destination = replace(destination, kind="log", settings={"x-queue-type": "stream"})
    elif cell.variant == "default":
        destination = replace(destination, settings={})
    arm = _arm(cell, destination)
    return Experiment(
        topology="single", treatment=arm, control=arm, schedule=(_CUT,), equipment=_DISK, control_equipment=_KNOWN_BAD
    )


@claim(
    "broker/rocketmq-sync-flush", revision=1, kind="promise",
    sentence="With synchronous flush, acknowledged means on disk: a power cut loses nothing.",
    source="S2",
    brokers={"rocketmq": ("",)},
    deciding=("lost",), control="asynchronous flush, every 5 s", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_sync_flush(cell: Cell) -> Experiment:
    destination, synced = _SYNCED[cell.broker]
    arm = _arm(cell, destination)
    # Every 500 ms by default: one cut in thirty would come right after a flush, and the control lose nothing.
    rarely = {"flushDiskType": "ASYNC_FLUSH", "flushIntervalCommitLog": 5000}
    return Experiment(
        topology="single", treatment=arm, control=arm, schedule=(_CUT,), equipment=_DISK,
        settings=synced, control_settings=rarely,
    )  # fmt: skip


@claim(
    "broker/rocketmq-async-flush", revision=1, kind="hazard",
    sentence="Asynchronous flush, the default, acknowledges before disk, so a power cut can lose what was acknowledged.",
    source="S2",
    brokers={"rocketmq": ("",)},
    deciding=("lost",), control="synchronous flush", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_async_flush(cell: Cell) -> Experiment:
    promise = test_rocketmq_sync_flush(cell)
    return replace(promise, settings={}, control_settings=promise.settings)


@claim(
    "broker/crash-before-disk-loses-tail", revision=1, kind="hazard",
    sentence="Without waiting for the confirm, a crash loses the last few messages.",
    source="S0 S1",
    brokers={"rabbitmq": ("power-cut",), "kafka": ("power-cut",), "rocketmq": ("power-cut",)},
    deciding=("lost",), control="the same, waiting for the confirm", profiles=_PROFILES,
)  # fmt: skip
def test_crash_before_disk_loses_tail(cell: Cell) -> Experiment:
    destination, settings = _SYNCED[cell.broker]
    return Experiment(
        topology="single", treatment=_arm(cell, destination, confirmed=False), control=_arm(cell, destination),
        schedule=(_CUT,), settings=settings, equipment=_DISK,
    )  # fmt: skip
