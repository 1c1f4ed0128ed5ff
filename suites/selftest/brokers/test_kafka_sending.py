"""The sender without a broker: where it asks the client library to put messages, and what it writes down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from brokerproof.brokers.base import Pace, SendJob
from brokerproof.brokers.kafka import sending
from brokerproof.brokers.kafka.returning import Returning
from brokerproof.brokers.kafka.sending import Sending
from brokerproof.history import FAIL, OK
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


def job_of(tmp_path: Path, **sender: Any) -> tuple[SendJob, Tape]:
    (tmp_path / "tape").mkdir()
    tape = Tape(tmp_path / "tape", slot=0, slots=1, zero_ns=0)
    job = SendJob(
        endpoint={"bootstrap": ["nowhere:1"]}, destination="t", kind="log", lane=10, partitions=2, tape=tape, seed=1, trial_number=1,
        stopping=lambda: False, report=lambda **_: None, sender=Sender(spread="round_robin", keys=3, **sender),
        pace=Pace(rate_per_s=None, count=6, load_ns=10**9, keys=3), bodies=Bodies(trial=1, sender=0, seed=1, size=64),
    )  # fmt: skip
    return job, tape


def columns_of(tape: Tape) -> Any:
    (segment,) = tape._segments
    return SimpleNamespace(**{c: segment.columns[c][: segment.head].tolist() for c in ("msg", "lane", "outcome")})


def test_taking_partitions_in_turn_gives_each_message_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "Producer", Producer)
    job, tape = job_of(tmp_path)
    one: Any = Sending(job)
    one._send_now(0, 6)
    assert one._producer.taken == [(n, n % 2, str(n % 3).encode()) for n in (0, 1, 2, 3, 5)]
    columns = columns_of(tape)
    assert columns.msg == list(range(6))
    assert columns.lane == [10 + n % 2 for n in range(6)]
    assert columns.outcome == [FAIL if n == 4 else OPEN for n in range(6)]
    tape.finish()


def test_an_application_that_looks_at_no_report_takes_the_return_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "Producer", Producer)
    job, tape = job_of(tmp_path, settings={"counts": "returned"})
    one: Any = Returning(job)
    one._send_now(0, 6)
    assert columns_of(tape).outcome == [FAIL if n == 4 else OK for n in range(6)]
    assert one._unanswered == 5, "what was refused is answered, what was taken is not"
    one._close_one(3, "fail", KafkaError(KafkaError._MSG_TIMED_OUT))
    assert columns_of(tape).outcome[3] == OK, "a report that nobody looks at"
    assert one._unanswered == 4
    tape.finish()
