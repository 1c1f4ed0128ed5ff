"""The sender without a broker: where it asks the client library to put messages, and what it writes down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from brokerproof.brokers.base import Pace, SendJob
from brokerproof.brokers.kafka import sending
from brokerproof.brokers.kafka.sending import Sending
from brokerproof.history import FAIL
from brokerproof.message import Bodies
from brokerproof.plan import Sender
from brokerproof.tape import OPEN, Tape


class Producer:
    """Takes what it is given; its queue is full every third time, and it refuses bodies of message 4."""

    def __init__(self, _: Any) -> None:
        self.taken: list[tuple[int, int, bytes | None]] = []  # (message, partition, key)
        self.calls = 0

    def produce(self, topic: str, value: bytes, partition: int, on_delivery: Any, key: bytes | None = None) -> None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise BufferError("full")
        number = int.from_bytes(value[12:20], "little")
        if number == 4:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.taken.append((number, partition, key))

    def poll(self, timeout_s: float) -> int:
        return 0


def test_taking_partitions_in_turn_gives_each_message_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "Producer", Producer)
    (tmp_path / "tape").mkdir()
    tape = Tape(tmp_path / "tape", slot=0, slots=1, zero_ns=0)
    job = SendJob(
        endpoint={"bootstrap": ["nowhere:1"]}, destination="t", kind="log", lane=10, partitions=2, tape=tape, seed=1, trial_number=1,
        stopping=lambda: False, report=lambda **_: None, sender=Sender(spread="round_robin", keys=3),
        pace=Pace(rate_per_s=None, count=6, load_ns=10**9, keys=3), bodies=Bodies(trial=1, sender=0, seed=1, size=64),
    )  # fmt: skip
    one: Any = Sending(job)
    one._send_now(0, 6)
    assert one._producer.taken == [(n, n % 2, str(n % 3).encode()) for n in (0, 1, 2, 3, 5)]
    (segment,) = tape._segments
    columns = SimpleNamespace(**{c: segment.columns[c][: segment.head].tolist() for c in ("msg", "lane", "outcome")})
    assert columns.msg == list(range(6))
    assert columns.lane == [10 + n % 2 for n in range(6)]
    assert columns.outcome == [FAIL if n == 4 else OPEN for n in range(6)]
    tape.finish()
