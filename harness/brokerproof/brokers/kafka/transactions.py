"""The sender in transactions: ``transaction.messages`` messages each, every ``transaction.abort.every``-th aborted.

    txn_begin, sends with the same ``batch``, then txn_commit or txn_abort: the outcome of them all

A delivery report inside a transaction says that the message is in the log, not that anyone may read it.
Source: KIP-98; error classes (retriable, abortable, fatal) as in librdkafka's transactional producer.
"""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Producer

from brokerproof.brokers.base import Job, SendJob
from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.sending import CHUNK, Sending
from brokerproof.history import OK, OUTCOME

_MESSAGES = 100
_CALL_S = 10.0
_SLICE_S = 1.0


def send_in_transactions(job: SendJob) -> None:
    """``send`` for a sender with a ``transactional.id``."""
    _Transacting(job).run()


class Transactions:
    """Begin, commit and abort with their rows; shared with the receiver that forwards in transactions."""

    def __init__(self, job: Job, producer: Producer) -> None:
        self._tape = job.tape
        self.producer = producer
        self.number = 0
        #: The producer instance is of no more use.
        self.fatal = False

    def begin(self) -> None:
        self.number += 1
        start = self._tape.now()
        self.producer.begin_transaction()
        self._tape.row("txn_begin", OK, start_ns=start, end_ns=self._tape.now(), batch=self.number)

    def end(self, *, commit: bool) -> bool:
        """Commits (or aborts); what cannot be committed is aborted. Whether it was committed."""
        if commit:
            error = self._ended("txn_commit", self.producer.commit_transaction)
            if error is None or self.fatal:
                return error is None
        self._ended("txn_abort", self.producer.abort_transaction)
        return False

    def _ended(self, f: str, call: Callable[[float], None]) -> KafkaError | None:
        tape = self._tape
        start = tape.now()
        error: KafkaError | None = None
        while True:
            try:
                call(_SLICE_S)
                error = None
                break
            except KafkaException as exc:
                error = exc.args[0]
                assert error is not None
                # A retriable call is the same call again, it can be repeated without harm.
                if not error.retriable() or tape.now() - start > _CALL_S * 1e9:
                    break
        name = "" if error is None else error.name()
        outcome = OK if error is None else OUTCOME[outcomes.meaning(outcomes.ENDED, name).outcome]
        tape.row(f, outcome, start_ns=start, end_ns=tape.now(), batch=self.number, error=name)
        # One that cannot even be aborted ends with its producer: the next instance of the id aborts it.
        self.fatal = error is not None and (error.fatal() or f == "txn_abort")
        return error


def initialised(job: Job, config: dict[str, object]) -> Producer:
    """A transactional producer that has fenced the one before it; tries until the job is stopping."""
    while True:
        producer = Producer(config)
        try:
            producer.init_transactions(_CALL_S)
            return producer
        except KafkaException:
            if job.stopping():
                return producer


class _Transacting(Sending):
    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        own = job.sender.settings
        self._per = int(own.get("transaction.messages", _MESSAGES))
        self._abort_every = int(own.get("transaction.abort.every", 0))
        self._transactions = Transactions(job, self._producer)

    def _connect(self) -> Producer:
        return initialised(self._job, self._config)

    def _warm_up(self) -> None:
        """Its id was there before the producer was handed out."""

    def _send_due(self, now: int) -> bool:
        """One transaction of what is due, begun and ended; whether there is likely more to do at once."""
        job = self._job
        first = job.pace.sent
        n = job.pace.take(now, min(CHUNK, self._per, job.sender.in_flight_max))
        if not n:
            return False
        transactions = self._transactions
        try:
            transactions.begin()
        except KafkaException as exc:
            # Nothing was sent; the messages were due all the same.
            self._never_sent(first, n, exc.args[0].name())
            self._renew()
            return True
        self._send_now(first, n, batch=transactions.number)
        deadline = job.tape.now() + int(job.sender.timeout_s * 1e9)
        while self._unanswered and job.tape.now() < deadline:
            self._poll(0.05)
        abort = self._abort_every > 0 and transactions.number % self._abort_every == 0
        transactions.end(commit=not abort)
        if transactions.fatal:
            self._renew()
        return True

    def _never_sent(self, first: int, n: int, error: str) -> None:
        job = self._job
        row = job.tape.open_sends(first, job.pace.keys(first, n), -1, job.pace.due_many(first, n))
        for i in range(n):
            job.tape.close(row + i, OUTCOME["fail"], error=error)

    def _replace(self) -> None:
        """A fatal report; the transaction's end will say so too, and the instance is replaced after it."""
        self._fatal = False

    def _renew(self) -> None:
        self._replace_producer()
        self._transactions.producer = self._producer
        self._transactions.fatal = False
