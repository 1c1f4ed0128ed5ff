"""Section *dup*, Kafka: reading, processing and writing in one transaction."""

from __future__ import annotations

from typing import Any

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Destination, Injection, Receiver, Sender, Workload

_LONGER = ("standard", "thorough")
_THREE = {"replication.factor": "3", "min.insync.replicas": "2"}
_ONCE = ("effect_duplicated", "effect_lost")


def _forwards(cell: Cell, *, transactional: bool, reading: str = "read_committed", effect: str = "") -> Workload:
    """Every message goes from ``in`` to ``out``. effect: the guard of what is done besides in a database; empty: what arrives in
    ``out`` is the effect."""
    c = configurations(cell.broker)
    settings: dict[str, Any] = {"forward_to": "out", **({"transactional.id": "forwarder"} if transactional else {})}
    done: dict[str, Any] = (
        {"work_ms": 25.0, "effect": {"guard": effect, "options": {}, "sql": "postgresql"}} if effect else {}
    )
    told: dict[str, Any] = {"effects": "elsewhere"} if effect else {"effects": True, "read.isolation.level": reading}
    return Workload(
        destinations=(Destination(name="in", kind="log", settings=_THREE), Destination(name="out", kind="log", settings=_THREE | told)),
        senders=(Sender(settings=c.confirmed, rate_per_s=20.0, count=200),),
        receivers=(Receiver(settings=settings, **done),), load_s=14.0,
    )  # fmt: skip


def _killed(treatment: Workload, control: Workload, step: str = "") -> Experiment:
    """Twice, each time while a message has been written and its offset has not; another takes over when the group has missed the
    one before (6 s)."""
    kills = tuple(
        Injection(fault="client_kill", target="consumer", at_s=at_s, for_s=0.5, options={"step": step} if step else {})
        for at_s in (1.5, 10.5)
    )
    return Experiment(
        topology="cluster", treatment=treatment, control=control, schedule=kills, link_groups=("consumer",), sham_s=2.0
    )


@claim(
    "dup/kafka-transactions", revision=1, kind="promise",
    sentence="Read, process and write in one Kafka transaction: whoever reads what is committed sees each effect once, inside Kafka.",
    source="(ours); KIP-98", brokers={"kafka": ("",)}, deciding=_ONCE, control="the same without a transaction",
    needs=("transactions",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_transactions(cell: Cell) -> Experiment:
    return _killed(_forwards(cell, transactional=True), _forwards(cell, transactional=False))


@claim(
    "dup/kafka-transactions--read-uncommitted", revision=1, kind="hazard",
    sentence="Whoever reads what is not committed (isolation.level=read_uncommitted) sees effects of transactions that were aborted, "
    "and so some of them twice.",
    source="(ours); Kafka documentation, consumer configuration isolation.level", brokers={"kafka": ("",)},
    sharpens="dup/kafka-transactions", deciding=("effect_duplicated",), control="isolation.level=read_committed: the safe arm",
    needs=("transactions",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_transactions_read_uncommitted(cell: Cell) -> Experiment:
    return _killed(_forwards(cell, transactional=True, reading="read_uncommitted"), _forwards(cell, transactional=True))


@claim(
    "dup/kafka-transactions--outside", revision=1, kind="hazard", always=True,
    sentence="A Kafka transaction does not hold what is done outside of Kafka: an effect in a database comes twice.",
    source="(ours); Kafka documentation, message delivery semantics", brokers={"kafka": ("",)},
    sharpens="dup/kafka-transactions", deciding=("effect_duplicated",), control="the id under a unique index: the safe arm",
    needs=("transactions",), profiles=_LONGER,
)  # fmt: skip
def test_kafka_transactions_outside(cell: Cell) -> Experiment:
    return _killed(
        _forwards(cell, transactional=True, effect="increment"), _forwards(cell, transactional=True, effect="dedup_table"),
        "effect",
    )  # fmt: skip
