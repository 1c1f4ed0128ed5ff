"""The model-based test of AMQP on the reference peer: a sound one does as the model, and it sees the wrong ones."""

from __future__ import annotations

import pytest

from brokerproof.conformance.amqp091 import machine
from brokerproof.conformance.amqp091.reference import on_reference


def test_a_sound_peer_does_as_the_model() -> None:
    machine.check(on_reference(), examples=15, derandomize=True)


@pytest.mark.parametrize(
    "mutant", ["drops-redelivered", "requeue-at-tail", "copy-per-binding", "fanout-by-key", "loses-unacked", "purge-all", "wrong-count"]
)  # fmt: skip
def test_a_wrong_peer_is_seen(mutant: str) -> None:
    # What one example shows, or a group of what several do.
    with pytest.raises((AssertionError, ExceptionGroup)):
        machine.check(on_reference(mutant), examples=150, derandomize=True, shrink=False)
