"""Section *dup*: doubles, and what brokers do about them."""

from __future__ import annotations

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Sender, Workload


@claim(
    "dup/broker-inner-id", revision=1, kind="promise",
    sentence="The broker gives each produced message an internal id and drops a resend of it.",
    source="S4",
    brokers={"rabbitmq": ("",), "kafka": ("",), "rocketmq": ("",)},
    deciding=("duplicated",), control="deduplication off, where the broker has one",
)  # fmt: skip
def test_broker_inner_id(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(settings: object) -> Workload:
        # No faster than needed: each message is a request, and a sham that hits its own time-out, because five arms at once
        # keep a small machine busy, says nothing of the fault.
        rate = min(c.rate_per_s, 50.0)
        sender = Sender(settings=settings, resend=True, timeout_s=4.0, rate_per_s=rate)  # type: ignore[arg-type]
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=8.0)

    return Experiment(
        topology=c.topology, treatment=arm(c.dedup), control=arm(c.no_dedup),
        schedule=(Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),),
    )  # fmt: skip


@claim(
    "dup/broker-inner-id--client-retry", revision=1, kind="promise",
    sentence="The broker drops what an idempotent producer sends again by itself, within one producer instance.",
    source="Kafka documentation, enable.idempotence; KIP-98",
    brokers={"kafka": ("",)},
    deciding=("duplicated",), control="enable.idempotence=false, the same retries", sharpens="dup/broker-inner-id",
    needs=("dedup",),
)  # fmt: skip
def test_client_retry_is_dropped(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # The library, not the application, sends again: a short request time-out makes it do so during the fault.
    retries = {"request.timeout.ms": 2000, "socket.timeout.ms": 2000, "message.timeout.ms": 30000, "retries": 100}

    def arm(idempotence: bool) -> Workload:
        settings = {**c.confirmed, **retries, "enable.idempotence": idempotence}
        sender = Sender(settings=settings, timeout_s=15.0, rate_per_s=min(c.rate_per_s, 50.0))
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=8.0)

    return Experiment(
        topology=c.topology, treatment=arm(True), control=arm(False),
        schedule=(Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),),
    )  # fmt: skip
