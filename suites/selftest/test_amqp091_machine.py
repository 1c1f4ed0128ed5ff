"""The model-based test of AMQP: a sound reference peer does as the model, it sees the wrong ones, and RabbitMQ does as the model."""

from __future__ import annotations

import uuid

import pytest

from brokerproof.brokers.rabbitmq.cluster import BROKER
from brokerproof.conformance.amqp091 import machine
from brokerproof.conformance.amqp091.reference import on_reference
from brokerproof.conformance.protocols import on_cluster


def test_a_sound_peer_does_as_the_model() -> None:
    machine.check(on_reference(), examples=15, derandomize=True)


@pytest.mark.parametrize(
    "mutant", ["drops-redelivered", "requeue-at-tail", "copy-per-binding", "fanout-by-key", "loses-unacked", "purge-all", "wrong-count"]
)  # fmt: skip
def test_a_wrong_peer_is_seen(mutant: str) -> None:
    # What one example shows, or a group of what several do.
    with pytest.raises((AssertionError, ExceptionGroup)):
        machine.check(on_reference(mutant), examples=150, derandomize=True, shrink=False)


@pytest.mark.container
def test_rabbitmq_does_as_the_model() -> None:
    name = f"bpm-{uuid.uuid4().hex[:6]}"
    cluster = BROKER.start(
        version=BROKER.versions[0], topology="single", settings={}, name=name, run=name, progress=print
    )  # fmt: skip
    try:
        machine.check(on_cluster(cluster), examples=15)
    finally:
        cluster.close()
