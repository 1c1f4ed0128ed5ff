"""What the harness asks of a node by AMQP, of nodes that do not answer as they should."""

from __future__ import annotations

import socket

import pytest

from brokerproof.brokers.rabbitmq import admin


def test_a_node_that_accepts_and_says_nothing_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen or overloaded one: pika's deadline for the whole handshake is no AMQPError."""
    monkeypatch.setattr(admin, "_STACK_S", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(admin.NOT_YET, match="Timeout during AMQP handshake"),
    ):
        admin.server(silent.getsockname()[:2])
