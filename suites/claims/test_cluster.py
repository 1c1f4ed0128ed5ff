"""Section *cluster*: RabbitMQ on three nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Sender, Workload


@claim(
    "cluster/quorum-survives", revision=1, kind="promise",
    sentence="A quorum queue loses nothing confirmed while a majority lives, whatever is cut.",
    source="(ours); rabbitmq.com/docs/quorum-queues, data safety",
    brokers={"rabbitmq": ("isolate-leader",)},
    deciding=("lost",), control="no confirm: what the isolated leader was sent counts as taken", needs=("peers", "leader"),
)  # fmt: skip
def test_quorum_survives(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(settings: object) -> Workload:
        sender = Sender(settings=settings, rate_per_s=c.rate_per_s, timeout_s=10.0)  # type: ignore[arg-type]
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=47.0)

    return Experiment(
        topology=c.topology, treatment=arm(c.confirmed), control=arm(c.unconfirmed),
        # Longer than the isolated node needs to notice (net_ticktime 15 s, so up to 20 s) and to pause itself: healed
        # before, it would send on what its channels still hold, and nothing would tell the arms apart.
        schedule=(Injection(fault="partition", target="leader", at_s=1.0, for_s=45.0),),
    )  # fmt: skip


def _mirrored(cell: Cell, *, promote: str, sender: Mapping[str, Any], via: tuple[str, ...], load_s: float) -> Workload:
    """A classic queue on r1 and r2, synchronised only when somebody asks for it: the default of mirrored queues.

    promote: ``ha-promote-on-failure``.  via: a sender each, and the node it is connected to.
    """
    c = configurations(cell.broker)
    policy = {
        "ha-mode": "nodes", "ha-params": ["rabbit@r1", "rabbit@r2"], "ha-sync-mode": "manual",
        "ha-promote-on-failure": promote,
    }  # fmt: skip
    queue = replace(c.destination, settings={"x-queue-type": "classic", "policy": policy})
    senders = tuple(Sender(settings={**sender, "via": v}, rate_per_s=100.0, timeout_s=10.0) for v in via)
    return Workload(destinations=(queue,), senders=senders, load_s=load_s)


#: A mirror goes and comes back empty, and then the master dies: ha-promote-on-failure decides who has the queue. What goes
#: with the master lies in the queue, confirmed, and is not on its way.
_UNSYNCHRONISED = (
    # From the start, so that what is lost first was sent while the mirror was away.
    Injection(fault="stop", target="replica", at_s=0.0, for_s=3.0),
    # A node takes some 8 s to be back and to hold a mirror again.
    Injection(fault="kill", target="leader", at_s=22.0, for_s=4.0),
)
#: Noticed after up to 20 s (net_ticktime 15 s); from then on each side has a master of its own.
_PARTITION = (Injection(fault="partition", target="leader", at_s=1.0, for_s=45.0),)
#: Autoheal restarts the side with fewer clients, so the isolated master has one of three. The load goes on for a while, so
#: that what heals the cluster is the broker, not the harness's wait for health.
_BOTH_SIDES: Mapping[str, Any] = {"via": ("leader", "others", "others"), "load_s": 58.0}
_ONE_SIDE: Mapping[str, Any] = {"via": ("leader",), "load_s": 28.0}


@claim(
    "cluster/mirrored-survives", revision=1, kind="promise",
    sentence="A mirrored queue loses nothing confirmed when one of its nodes dies or is cut off.",
    source="S1 S4",
    brokers={"rabbitmq": ("unsynchronised", "autoheal")},
    deciding=("lost",), control="no confirm", needs=("mirrored", "leader", "peers"), profiles=("standard", "thorough"),
)  # fmt: skip
def test_mirrored_survives(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    apart = cell.variant == "autoheal"
    arms = [
        _mirrored(cell, promote="always", sender=sender, **(_BOTH_SIDES if apart else _ONE_SIDE))
        for sender in (c.confirmed, c.unconfirmed)
    ]
    return Experiment(
        topology=c.topology, treatment=arms[0], control=arms[1],
        settings={"cluster_partition_handling": "autoheal"} if apart else {},
        schedule=_PARTITION if apart else _UNSYNCHRONISED, stored=not apart,
    )  # fmt: skip


@claim(
    "cluster/mirrored-survives--when-synced", revision=1, kind="promise",
    sentence="Where only a synchronised mirror may be promoted, a mirrored queue loses nothing confirmed when its master "
    "dies and comes back.",
    source="rabbitmq.com/docs/3.13/ha, ha-promote-on-failure", sharpens="cluster/mirrored-survives",
    brokers={"rabbitmq": ("unsynchronised",)},
    deciding=("lost",), control="ha-promote-on-failure=always, the default", needs=("mirrored", "leader"),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_mirrored_when_synced(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    arms = [
        _mirrored(cell, promote=promote, sender=c.confirmed, **_ONE_SIDE) for promote in ("when-synced", "always")
    ]  # fmt: skip
    return Experiment(topology=c.topology, treatment=arms[0], control=arms[1], schedule=_UNSYNCHRONISED, stored=True)


@claim(
    "cluster/mirrored-survives--pause-minority", revision=1, kind="promise",
    sentence="Where a minority pauses, a mirrored queue loses nothing confirmed when its master is cut off.",
    source="rabbitmq.com/docs/partitions, pause-minority mode", sharpens="cluster/mirrored-survives",
    brokers={"rabbitmq": ("isolate-leader",)},
    deciding=("lost",), control="cluster_partition_handling=autoheal", needs=("mirrored", "leader", "peers"),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_mirrored_pause_minority(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    arm = _mirrored(cell, promote="always", sender=c.confirmed, **_BOTH_SIDES)
    return Experiment(
        topology=c.topology, treatment=arm, control=arm,
        settings={}, control_settings={"cluster_partition_handling": "autoheal"},
        schedule=_PARTITION,
    )  # fmt: skip
