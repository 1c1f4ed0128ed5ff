"""The sender that uses ``tx``: publish a batch, commit, wait; the messages share the transaction's outcome.

Settings: ``batch`` messages a transaction (1), ``rollback_every`` n: each n-th transaction is rolled back on purpose.
A returned message was not enqueued though its transaction was committed: returns come before commit-ok.
Source: https://www.rabbitmq.com/docs/semantics#tx
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pika.channel import Channel

from brokerproof.brokers.base import SendJob
from brokerproof.brokers.rabbitmq import outcomes
from brokerproof.brokers.rabbitmq.sending import Sending, publish
from brokerproof.history import FAIL, OK, OUTCOME
from brokerproof.tape import OPEN

_MSG_AT = 12  # of message.py's header


class Transactions(Sending):
    """One transaction at a time: begin, publish, commit, wait."""

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        self._batch = max(1, int(self.settings.get("batch", 1)))
        self._rollback_every = int(self.settings.get("rollback_every", 0))
        self._number = 0
        self._sends: dict[int, int] = {}  # message -> row, of the transaction in hand
        self._end_row = -1
        self._asked_at = 0

    def set_up(self, channel: Channel) -> None:
        if self.session.connections > 1:
            self.job.tape.reconnected()
        channel.add_on_return_callback(self.on_return)
        channel.tx_select(callback=lambda _: self.session.ready())

    def lost(self, error: str) -> None:
        if self._sends:
            # tx.commit is written right after the messages: it may have arrived.
            self._ended(error)

    def unanswered(self) -> int:
        return len(self._sends)

    def send_due(self, now: int) -> bool:
        job = self.job
        if self._sends:
            self.capped += not job.pace.over(now)
            return False
        messages = [self.resends.popleft()[0] for _ in range(self._resendable(now))]
        first = job.pace.sent
        messages += range(first, first + job.pace.take(now, self._batch - len(messages)))
        if messages:
            self._transact(messages)
        return False

    def resend_due(self, now: int) -> None:
        if not self._sends and (n := self._resendable(now)):
            self._transact([self.resends.popleft()[0] for _ in range(n)])

    def on_return(self, _channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        self.returned += 1
        row = self._sends.get(message := int.from_bytes(body[_MSG_AT : _MSG_AT + 8], "little"))
        if row is not None:
            self.job.tape.close(row, FAIL, error=outcomes.of_code(method.reply_code))
            self._again([message])

    def settle(self, now: int) -> None:
        if self._sends and now - self._asked_at > int(self.job.sender.timeout_s * 1e9):
            # The answer may still come, and would then be taken for the next transaction's: another channel.
            self.session.drop("Timeout")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _resendable(self, now: int) -> int:
        return sum(1 for _, at in list(self.resends)[: self._batch] if at <= now)

    def _transact(self, messages: list[int]) -> None:
        job, tape = self.job, self.job.tape
        self._number += 1
        now = tape.now()
        tape.row("txn_begin", OK, start_ns=now, end_ns=now, batch=self._number)
        sent = True
        for message in messages:
            keys = job.pace.keys(message, 1)
            lane = self.place.lanes(message, keys)
            row = tape.open(
                "send", msg=message, key=int(keys[0]), lane=lane if isinstance(lane, int) else int(lane[0]),
                due_ns=job.pace.due_ns(message), batch=self._number,
            )  # fmt: skip
            self._sends[message] = row
            sent = sent and publish(self, message, keys) == 1
        self._asked_at = tape.now()
        if not sent:
            self._ended("NOT_COMMITTED")
        elif self._rollback_every and self._number % self._rollback_every == 0:
            self._end_row = tape.open("txn_abort", batch=self._number)
            self.session.channel.tx_rollback(callback=lambda _: self._ended("ROLLED_BACK", end=OK))
        else:
            self._end_row = tape.open("txn_commit", batch=self._number)
            self.session.channel.tx_commit(callback=lambda _: self._ended("", end=OK))

    def _ended(self, error: str, *, end: int = OPEN) -> None:
        """Closes the transaction's rows. end: its own outcome, when it is another than that of its messages."""
        tape = self.job.tape
        outcome = OUTCOME[outcomes.meaning(error).outcome] if error else OK
        if self._end_row >= 0:
            tape.close(self._end_row, outcome if end == OPEN else end, error="" if end == OK else error)
        failed = [m for m, row in self._sends.items() if tape.is_open(row)] if error else []
        tape.close_many(np.array(list(self._sends.values())), outcome, error=error)
        self._sends.clear()
        self._end_row = -1
        self._again(failed)
