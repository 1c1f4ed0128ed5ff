"""To whom oneway messages go, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from brokerproof.brokers.rocketmq import remoting, sending

ADDRESSES = {"b1": ["127.0.0.1", 1], "b2": ["127.0.0.1", 2]}


class _Connection:
    """Of a broker whose role is in ``roles``, by its port; one without is down."""

    roles: dict[int, str]
    asked: list[int]

    def __init__(self, address: tuple[str, int], timeout_s: float, access: object) -> None:
        self.port, self.closed = address[1], False
        if self.port not in self.roles:
            raise ConnectionRefusedError

    def close(self) -> None:
        self.closed = True


def _connected(monkeypatch: pytest.MonkeyPatch, roles: dict[int, str], addresses: dict[str, Any]) -> int | None:
    """The port that the sender connects to."""
    monkeypatch.setattr(_Connection, "roles", roles, raising=False)
    monkeypatch.setattr(remoting, "Connection", _Connection)
    monkeypatch.setattr(remoting, "role", lambda to: roles[to.port])
    job: Any = SimpleNamespace(
        destination_settings={}, sender=SimpleNamespace(spread="key"), endpoint={"brokers": addresses}
    )
    made: Any = sending._Oneway(job)._connect()
    assert made is None or not made.closed
    return None if made is None else made.port


@pytest.mark.parametrize(
    ("roles", "to"),
    [
        ({1: "SYNC_MASTER", 2: "SLAVE"}, 1),
        ({1: "SLAVE", 2: "SYNC_MASTER"}, 2),
        ({2: "SYNC_MASTER"}, 2),
        ({1: "SLAVE", 2: "SLAVE"}, None),
        ({}, None),
    ],
)
def test_oneway_messages_go_to_whoever_is_the_master(
    monkeypatch: pytest.MonkeyPatch, roles: dict[int, str], to: int | None
) -> None:
    assert _connected(monkeypatch, roles, ADDRESSES) == to


def test_where_there_is_one_broker_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _connected(monkeypatch, {1: "SLAVE"}, {"m1": ["127.0.0.1", 1]}) == 1
