"""The sender of an application that takes ``produce()``'s return for success: setting ``counts = "returned"``.

``produce()`` puts a message into the client's own queue and returns; the request leaves later, after ``linger.ms`` or
with a full batch. Such an application never looks at a delivery report. Source: librdkafka, INTRODUCTION.md, "Asynchronous
message production".
"""

from __future__ import annotations

import numpy as np
from confluent_kafka import KafkaError, Message

from brokerproof.brokers.base import SendJob
from brokerproof.brokers.kafka.sending import Sending, number_of
from brokerproof.history import FAIL, OK


class Returning(Sending):
    """Reports still count what is unanswered, for the cap and for the end of a run."""

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        self._raised: list[int] = []

    def _send_now(self, first: int, n: int, batch: int = -1) -> None:
        super()._send_now(first, n, batch)
        numbers = np.setdiff1d(np.arange(first, first + n), self._raised)
        self._raised.clear()
        self._job.tape.close_many(self._ledger.rows(numbers), OK)

    def _refused(self, body: bytes, error: KafkaError) -> None:
        """``produce()`` did not return but raise: the one failure that such an application sees."""
        number = number_of(body)
        self._raised.append(number)
        self._job.tape.close(int(self._ledger.rows(np.array([number]))[0]), FAIL, error=error.name())
        self._unanswered -= 1

    def _close_ok(self, batch: list[Message]) -> None:
        self._unanswered -= len(batch)

    def _close_one(self, number: int, outcome: str, error: KafkaError, partition: int | None = None) -> None:
        self._unanswered -= 1
