"""Section *producer*, Kafka: what ``acks`` promises, and what waits in the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, ComparisonExperiment, Experiment
from brokerproof.plan import Destination, Injection, Sender, Workload

_LONGER = ("standard", "thorough")
_THREE = {"replication.factor": "3", "min.insync.replicas": "2"}
_CUT = Injection(fault="power_cut", target="leader", at_s=4.0, for_s=2.0)


def _acks(
    cell: Cell, acks: str, *, topic: Mapping[str, str] = _THREE, load_s: float, count: int | None = None
) -> Workload:
    c = configurations(cell.broker)
    sender = Sender(settings={**c.confirmed, "acks": acks}, rate_per_s=c.rate_per_s, count=count, timeout_s=10.0)
    return Workload(destinations=(replace(c.destination, settings=topic),), senders=(sender,), load_s=load_s)


@claim(
    "producer/kafka-acks-0", revision=1, kind="hazard",
    sentence="With acks=0 messages that the client counts as sent can be lost.",
    source="S2; Kafka documentation, producer configuration acks",
    brokers={"kafka": ("link-cut", "kill")},
    deciding=("lost",), control="acks=all: the safe arm", profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_0(cell: Cell) -> Experiment:
    link_cut = cell.own_variant == "link-cut"
    fault = (
        Injection(fault="black_hole", target="all", at_s=1.0, for_s=2.0)
        if link_cut
        else Injection(fault="kill", target="leader", at_s=2.0, for_s=5.0)
    )
    load_s = 5.0 if link_cut else 12.0
    return Experiment(
        # What a killed leader had been sent and had not read is a matter of milliseconds.
        topology="cluster", mode="deterministic" if link_cut else "race", schedule=(fault,),
        treatment=_acks(cell, "0", load_s=load_s), control=_acks(cell, "all", load_s=load_s),
    )  # fmt: skip


@claim(
    "producer/kafka-acks-1", revision=1, kind="hazard",
    sentence="With acks=1 what the leader took and no follower had is lost with the leader.",
    source="S2; Kafka documentation, producer configuration acks",
    brokers={"kafka": ("isolate-leader", "kill", "power-cut")},
    deciding=("lost",), control="acks=all: the safe arm", needs=("peers", "leader"), profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_1(cell: Cell) -> Experiment:
    fault, load_s = {
        "isolate-leader": (Injection(fault="partition", target="leader", at_s=1.0, for_s=6.0), 9.0),
        "kill": (Injection(fault="kill", target="leader", at_s=2.0, for_s=5.0), 12.0),
        "power-cut": (_CUT, 12.0),
    }[cell.own_variant]
    return Experiment(
        # Followers fetch all the time: without a partition they are behind by milliseconds.
        topology="cluster", mode="deterministic" if cell.own_variant == "isolate-leader" else "race", schedule=(fault,),
        treatment=_acks(cell, "1", load_s=load_s), control=_acks(cell, "all", load_s=load_s),
        equipment=("disk",) if cell.own_variant == "power-cut" else (),
    )  # fmt: skip


@claim(
    "producer/kafka-acks-1-follower-copied", revision=1, kind="hazard", always=True,
    sentence="With acks=1 a message that the follower has copied is lost when the leader dies before it has written it to disk.",
    source="S2", brokers={"kafka": ("",)},
    deciding=("lost",), control="acks=all: the safe arm", needs=("leader",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_1_follower_copied(cell: Cell) -> Experiment:
    # All of it is sent in two seconds, and copied, when the leader's power is cut; nothing syncs before the kernel would
    # by itself (30 s).
    return Experiment(
        topology="cluster", schedule=(replace(_CUT, at_s=5.0),), equipment=("disk",), stored=True,
        treatment=_acks(cell, "1", load_s=8.0, count=2000), control=_acks(cell, "all", load_s=8.0, count=2000),
    )  # fmt: skip


@claim(
    "producer/kafka-acks-1-follower-copied--kept", revision=1, kind="promise",
    sentence="With acks=1 a message that the follower has copied survives the power cut of its leader, on disk or not.",
    source="Kafka documentation, replication; (ours)", sharpens="producer/kafka-acks-1-follower-copied",
    brokers={"kafka": ("",)},
    deciding=("lost",), control="no follower: replication.factor=1", needs=("leader",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_1_follower_copied_kept(cell: Cell) -> Experiment:
    alone = {"replication.factor": "1", "min.insync.replicas": "1"}
    return Experiment(
        topology="cluster", schedule=(replace(_CUT, at_s=5.0),), equipment=("disk",), stored=True,
        treatment=_acks(cell, "1", load_s=8.0, count=2000),
        control=_acks(cell, "1", topic=alone, load_s=8.0, count=2000),
    )  # fmt: skip


@claim(
    "producer/kafka-acks-all--while-a-replica-lives", revision=1, kind="promise",
    sentence="With acks=all and two replicas in sync no acknowledged message is lost while one of them keeps its disk: "
    "through the death, and the power cut, of the leader.",
    source="Kafka documentation, replication", sharpens="producer/kafka-acks-all",
    brokers={"kafka": ("kill", "power-cut", "rolling-kills")},
    deciding=("lost",), control="no acknowledgement awaited: acks=0", needs=("leader",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_all_while_a_replica_lives(cell: Cell) -> Experiment:
    kill = Injection(fault="kill", target="leader", at_s=2.0, for_s=5.0)
    schedule, load_s = {
        "kill": ((kill,), 12.0),
        "power-cut": ((_CUT,), 12.0),
        # The next leader dies when the one before is back, and has caught up.
        "rolling-kills": (tuple(replace(kill, at_s=at_s) for at_s in (2.0, 20.0, 38.0)), 48.0),
    }[cell.own_variant]
    return Experiment(
        topology="cluster", mode="race", schedule=schedule, equipment=("disk",) if cell.own_variant == "power-cut" else (),
        treatment=_acks(cell, "all", load_s=load_s), control=_acks(cell, "0", load_s=load_s),
    )  # fmt: skip


# -- what waits in the client ----------------------------------------------------------------------------------------------


def _returned(cell: Cell, linger_ms: int, **settings: object) -> Workload:
    c = configurations(cell.broker)
    sender = Sender(
        settings={**c.confirmed, "linger.ms": linger_ms, **settings},
        rate_per_s=3000.0,
        in_flight_max=50_000,
        timeout_s=6.0,
    )
    return Workload(destinations=(c.destination,), senders=(sender,), load_s=5.0)


@claim(
    "producer/kafka-batching-loses-on-crash", revision=1, kind="hazard",
    sentence="A message that produce() took sits in the client for a while, and is lost when the process dies.",
    source="S3; librdkafka, INTRODUCTION.md, asynchronous message production",
    brokers={"kafka": ("linger-0", "linger-5", "linger-1000")},
    deciding=("lost",), control="the delivery report counts, not produce()'s return: the safe arm", profiles=_LONGER,
)  # fmt: skip
def test_kafka_batching_loses_on_crash(cell: Cell) -> Experiment:
    linger_ms = int(cell.own_variant.removeprefix("linger-"))
    kill = Injection(fault="client_kill", target="producer", at_s=2.0, for_s=1.0)
    return Experiment(
        # What the client holds at linger 0 is what is on its way: a few milliseconds' worth.
        topology="cluster", mode="deterministic" if linger_ms == 1000 else "race", schedule=(kill,), stored=True,
        treatment=_returned(cell, linger_ms, counts="returned"), control=_returned(cell, linger_ms),
    )  # fmt: skip


# -- what it costs ---------------------------------------------------------------------------------------------------------


def _counted(
    settings: Mapping[str, Any], count: int, *, topic: Mapping[str, str] = _THREE, in_flight_max: int = 1000
) -> Workload:
    sender = Sender(
        settings={"enable.idempotence": False, **settings}, count=count, timeout_s=30.0, in_flight_max=in_flight_max
    )
    return Workload(destinations=(Destination(name="t", kind="log", settings=topic),), senders=(sender,), load_s=60.0)


@claim(
    "producer/kafka-batching-faster", revision=1, kind="comparison",
    sentence="Batching raises throughput by saving requests.",
    source="S3; Kafka documentation, producer configurations linger.ms and batch.size",
    brokers={"kafka": ("linger", "messages")},
    control="a request for each message: batch.num.messages=1; or linger.ms=0 with little in flight", profiles=_LONGER,
)  # fmt: skip
def test_kafka_batching_faster(cell: Cell) -> ComparisonExperiment:
    if cell.own_variant == "messages":
        # All that waits goes out together, or one by one.
        fast, slow = {"acks": "all", "linger.ms": 5}, {"acks": "all", "linger.ms": 5, "batch.num.messages": 1}
        return ComparisonExperiment(topology="cluster", treatment=_counted(fast, 5000), control=_counted(slow, 5000))
    # With much in flight a batch fills by itself while the one before is on its way: then lingering has nothing to add.
    fast, slow = {"acks": "all", "linger.ms": 5}, {"acks": "all", "linger.ms": 0}
    return ComparisonExperiment(topology="cluster", treatment=_counted(fast, 20_000), control=_counted(slow, 20_000))


@claim(
    "producer/kafka-acks-all-slower", revision=1, kind="comparison",
    sentence="acks=all costs throughput against acks=1 and acks=0.",
    source="S2", brokers={"kafka": ("against-1", "against-0", "one-by-one")},
    control="acks=all", profiles=_LONGER,
)  # fmt: skip
def test_kafka_acks_all_slower(cell: Cell) -> ComparisonExperiment:
    acks = "0" if cell.own_variant == "against-0" else "1"
    # Many in flight hide the wait for the followers; one at a time shows all of it.
    one = cell.own_variant == "one-by-one"
    count, linger, cap = (300, {"linger.ms": 0}, 1) if one else (20_000, {}, 1000)
    return ComparisonExperiment(
        topology="cluster", treatment=_counted({"acks": acks, **linger}, count, in_flight_max=cap),
        control=_counted({"acks": "all", **linger}, count, in_flight_max=cap),
    )  # fmt: skip
