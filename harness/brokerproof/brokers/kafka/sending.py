"""The sender: an open loop around librdkafka's producer that costs little more than the producer itself.

    due messages -> intents on the tape -> produce_batch -> poll -> delivery reports in a list -> completions

Everything is done by the hundred: one call of Python per message is left, the delivery callback, which appends to a
list. A delivery report is told apart by the message number in its body. At a low rate the same loop waits in ``poll``,
which returns with the first report.
"""

from __future__ import annotations

import gc
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from brokerproof.brokers.base import SendJob
from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.probe import PROBE_BODY
from brokerproof.brokers.kafka.settings import of_producer, retries, tellable
from brokerproof.history import OK, OUTCOME

Numbers = npt.NDArray[np.int64]

CHUNK = 1000
_REPORTS = 500
# A rate of thousands a second is served in bursts of what a millisecond makes due; linger.ms is longer anyway.
_WAIT_MIN_S, _WAIT_MAX_S = 0.001, 0.05
_RESEND_AFTER_NS = 100_000_000
_WARM_S, _WARM_AGAIN_S = 5.0, 0.2
_MSG_AT = 12  # of message.py's header
_JOIN_BYTES_MAX = 4096


def send(job: SendJob) -> None:
    """See ``brokers.base.SendJob``."""
    if "transactional.id" in job.sender.settings:
        from brokerproof.brokers.kafka.transactions import send_in_transactions

        send_in_transactions(job)
    elif job.sender.settings.get("counts") == "returned":
        from brokerproof.brokers.kafka.returning import Returning

        Returning(job).run()
    else:
        Sending(job).run()


class Ledger:
    """Which row of the tape belongs to a message number.

    First sends follow on from each other on the tape as their numbers do, so a row is number + shift; the shift
    changes only where rows of another kind (resends) came between.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._shifts: list[int] = []
        self.resent: dict[int, int] = {}  # number -> row of its latest resend that is unanswered

    def opened(self, first: int, row: int) -> None:
        if not self._shifts or self._shifts[-1] != row - first:
            self._starts.append(first)
            self._shifts.append(row - first)

    def rows(self, numbers: Numbers) -> Numbers:
        if len(self._shifts) == 1 and not self.resent:
            return numbers + self._shifts[0]
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        rows: Numbers = numbers + np.array(self._shifts)[which]
        for i, number in enumerate(numbers.tolist()) if self.resent else ():
            if number in self.resent:
                rows[i] = self.resent.pop(number)
        return rows


class Sending:
    def __init__(self, job: SendJob) -> None:
        self._job = job
        self._config = of_producer(job)
        self._once = not retries(self._config)
        self._producer = self._connect()
        self._ledger = Ledger()
        self._unanswered = 0
        self._done: list[Message] = []
        self._failed: list[tuple[KafkaError, Message]] = []
        self._resends: deque[tuple[int, int]] = deque()  # (number, not before this time)
        self._capped = 0
        self._fatal = False
        self._place = _placing(job)
        self._delivered = self._callback()

    def run(self) -> None:
        # What a report is made of cannot form cycles; looking for some in the lists of them costs a tenth of the rate.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._run()
        finally:
            if collecting:
                gc.enable()

    def _run(self) -> None:
        job = self._job
        job.report(client_settings=tellable(job, self._config))
        self._warm_up()
        now = job.tape.now()
        while not job.stopping() and not (job.pace.over(now) and not self._resends):
            busy = self._send_due(now)
            self._poll(0.0 if busy else self._wait_s(now))
            now = job.tape.now()
        self._finish()
        self._close()
        if self._capped:
            job.report(capped=self._capped)

    def _warm_up(self) -> None:
        """Until a probe has gone through each partition: connected to every leader, with a producer id, for which an
        idempotent producer waits up to a second. Readers pass over probes. A link that is down is not waited for."""
        missing = dict.fromkeys(range(self._job.partitions), 0.0)  # partition -> when to try (again)
        deadline = time.monotonic() + _WARM_S

        def passed(error: KafkaError | None, message: Message) -> None:
            partition = message.partition()
            if error is None and partition is not None:
                missing.pop(partition, None)
            elif partition is not None:
                missing[partition] = time.monotonic() + _WARM_AGAIN_S

        while missing and time.monotonic() < deadline and not self._job.stopping():
            for partition, due in missing.items():
                if time.monotonic() >= due:
                    missing[partition] = deadline
                    self._producer.produce(self._job.destination, PROBE_BODY, partition=partition, on_delivery=passed)
            self._producer.poll(_WAIT_MIN_S)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send_due(self, now: int) -> bool:
        """Sends what is due, as far as the cap lets it; whether there is likely more to send at once."""
        job = self._job
        self._resend_due(now)
        room = job.sender.in_flight_max - self._unanswered
        if room <= 0:
            self._capped += not job.pace.over(now)
            return False
        first = job.pace.sent
        n = job.pace.take(now, min(CHUNK, room))
        if n:
            self._send_now(first, n)
        # Fewer than a chunk, and as many as there was room for: the schedule would have had more.
        self._capped += n == room < CHUNK
        return n == CHUNK

    def _send_now(self, first: int, n: int, batch: int = -1) -> None:
        job = self._job
        keys = job.pace.keys(first, n)
        row = job.tape.open_sends(first, keys, self._place.lanes(first, n), job.pace.due_many(first, n), batch)
        self._ledger.opened(first, row)
        self._unanswered += n
        self._produce(_cut(job.bodies.make(first, keys), job.bodies.size), first, keys)

    def _produce(self, bodies: Sequence[bytes], first: int, keys: npt.NDArray[np.int32]) -> None:
        """Hands all of them to the client; waits while its queue is full, which is no outcome."""
        messages = self._place.messages(bodies, first, keys)
        if self._place.each:
            self._produce_each(messages)
            return
        while messages:
            taken = self._producer.produce_batch(
                self._job.destination, messages, self._place.partition, self._delivered
            )
            if taken == len(messages):
                return
            left = []
            for message in messages:
                error: KafkaError | None = message.pop("_error", None)
                if error is not None:
                    if error.code() == KafkaError._QUEUE_FULL:
                        left.append(message)
                    else:
                        self._refused(message["value"], error)
            messages = left
            self._poll(0.01)

    def _produce_each(self, messages: Sequence[dict[str, Any]]) -> None:
        """Where each message has a partition of its own: ``produce_batch`` takes one partition for all of them, and passes
        over what a message says (confluent-kafka 2.16)."""
        for message in messages:
            while True:
                try:
                    self._producer.produce(self._job.destination, on_delivery=self._delivered, **message)
                except BufferError:
                    self._poll(0.01)
                except KafkaException as exc:
                    self._refused(message["value"], exc.args[0])
                    break
                else:
                    break

    def _refused(self, body: bytes, error: KafkaError) -> None:
        meant = outcomes.meaning(outcomes.REFUSED, error.name())
        self._close_one(number_of(body), meant.outcome, error)
        self._fatal |= error.code() == KafkaError._FATAL

    def _resend_due(self, now: int) -> None:
        """Sends again what came to ``fail`` or ``info``, under its own number, as a row of its own."""
        job = self._job
        while self._resends and self._resends[0][1] <= now and self._unanswered < job.sender.in_flight_max:
            number, _ = self._resends.popleft()
            key = job.pace.key(number)
            lane = self._place.lanes(number, 1)
            row = job.tape.open("send", msg=number, key=key, lane=lane if isinstance(lane, int) else int(lane[0]))
            self._ledger.resent[number] = row
            self._unanswered += 1
            self._produce([job.bodies.one(number, key)], number, np.array([key], dtype=np.int32))

    # -- answers -------------------------------------------------------------------------------------------------------

    def _callback(self) -> Callable[[KafkaError | None, Message], None]:
        """Called for every single message: little more than an append.

        A poll may bring ten thousand reports. They are written down by the few hundred, while they are in the
        processor's cache, which halves what recording costs; and each gets a time of its own few hundred.
        """
        done, failed, written = self._done, self._failed, self._write_done
        keep = done.append

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                keep(message)
                if len(done) >= _REPORTS:
                    written()
            else:
                failed.append((error, message))

        return delivered

    def _write_done(self) -> None:
        batch = self._done[:]
        self._done.clear()
        self._close_ok(batch)

    def _poll(self, timeout_s: float) -> None:
        self._producer.poll(timeout_s)
        if self._done:
            self._write_done()
        if self._failed:
            failed = self._failed[:]
            self._failed.clear()
            for error, message in failed:
                meant = outcomes.sent(error.name(), once=self._once)
                self._fatal |= error.code() == KafkaError._FATAL
                self._close_one(number_of(message.value() or b""), meant.outcome, error, message.partition())
        if self._fatal:
            self._replace()

    def _close_ok(self, batch: list[Message]) -> None:
        n, job = len(batch), self._job
        numbers = _numbers(batch, job.bodies.size)
        pos = _offsets(batch)
        lanes = None
        if not self._place.known:
            lanes = np.fromiter(map(Message.partition, batch), np.int32, n) + job.lane
        job.tape.close_many(self._ledger.rows(numbers), OK, pos=pos, lanes=lanes)
        self._unanswered -= n

    def _close_one(self, number: int, outcome: str, error: KafkaError, partition: int | None = None) -> None:
        job = self._job
        row = int(self._ledger.rows(np.array([number]))[0])
        lane = job.lane + partition if partition is not None and partition >= 0 else None
        job.tape.close(row, OUTCOME[outcome], error=error.name(), lane=lane)
        self._unanswered -= 1
        if job.sender.resend:
            self._resends.append((number, job.tape.now() + _RESEND_AFTER_NS))

    def _wait_s(self, now: int) -> float:
        """How long nothing will be due: poll may wait so long for reports."""
        job = self._job
        if self._unanswered >= job.sender.in_flight_max or job.pace.over(now):
            return _WAIT_MAX_S
        due = job.pace.due_ns(job.pace.sent)
        return min(_WAIT_MAX_S, max(_WAIT_MIN_S, (due - now) / 1e9)) if due >= 0 else 0.0

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _connect(self) -> Producer:
        return Producer(self._config)

    def _replace(self) -> None:
        """After a fatal error the producer instance is of no use: its messages come back, and a new one takes over."""
        self._fatal = False
        self._replace_producer()

    def _replace_producer(self) -> None:
        self._close()
        self._producer = self._connect()
        self._job.tape.reconnected()
        self._poll(0.0)

    def _close(self) -> None:
        """Takes back what is unanswered and ends the instance: one that is merely dropped goes on sending."""
        self._producer.purge()
        self._producer.close()

    def _finish(self) -> None:
        """Waits for the answers; what has none by then stays open, and the recorder makes it ``info``."""
        job = self._job
        deadline = job.tape.now() + int(job.sender.timeout_s * 1e9)
        now = job.tape.now()
        while (self._unanswered or self._resends) and now < deadline:
            self._resend_due(now)
            self._poll(_WAIT_MAX_S)
            now = job.tape.now()


# -- where a message goes ----------------------------------------------------------------------------------------------


class _OnePartition:
    """A topic of one partition: nothing to choose."""

    known = True
    #: Whether each message has to be handed over by itself.
    each = False
    partition = 0

    def __init__(self, job: SendJob) -> None:
        self._lane = job.lane
        self._keyed = job.sender.keys > 0
        self._spare: list[dict[str, Any]] = [{} for _ in range(CHUNK)]

    def lanes(self, first: int, n: int) -> int:
        return self._lane

    def messages(self, bodies: Sequence[bytes], first: int, keys: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
        if self._keyed:
            return [{"value": b, "key": k} for b, k in zip(bodies, map(_key, keys.tolist()), strict=True)]
        if len(bodies) < CHUNK:
            return [{"value": b} for b in bodies]
        for message, body in zip(self._spare, bodies, strict=True):  # half the cost of new ones
            message["value"] = body
        return self._spare


class _RoundRobin(_OnePartition):
    """Explicit partitions, in turn by message number."""

    each = True
    partition = -1

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        self._partitions = job.partitions

    def lanes(self, first: int, n: int) -> npt.NDArray[np.int32]:  # type: ignore[override]  # one lane each
        return (self._lane + np.arange(first, first + n) % self._partitions).astype(np.int32)

    def messages(self, bodies: Sequence[bytes], first: int, keys: npt.NDArray[np.int32]) -> list[dict[str, Any]]:
        messages = super().messages(bodies, first, keys)
        for i, message in enumerate(messages, start=first):
            message["partition"] = i % self._partitions
        return messages


class _ByKey(_OnePartition):
    """The client's own partitioner places the key; the lane is known with the report."""

    known = False
    partition = -1

    def lanes(self, first: int, n: int) -> int:
        return -1


def _placing(job: SendJob) -> _OnePartition:
    if job.partitions == 1:
        return _OnePartition(job)
    return _RoundRobin(job) if job.sender.spread == "round_robin" else _ByKey(job)


@cache
def _key(key: int) -> bytes:
    return str(key).encode()


# -- bodies by the thousand --------------------------------------------------------------------------------------------


@cache
def _cutter(size: int, n: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * n)


def _cut(joined: bytes, size: int) -> Sequence[bytes]:
    """The bodies in the buffer, one by one; half the cost of slicing."""
    n = len(joined) // size
    if n == CHUNK:
        return _cutter(size, n).unpack(joined)
    return [joined[i : i + size] for i in range(0, len(joined), size)]


def _numbers(batch: list[Message], size: int) -> Numbers:
    """The message numbers in the bodies of these reports."""
    if size > _JOIN_BYTES_MAX:
        return np.fromiter((number_of(m.value() or b"") for m in batch), np.int64, len(batch))
    header = np.dtype({"names": ["msg"], "formats": ["<i8"], "offsets": [_MSG_AT], "itemsize": size})
    return np.frombuffer(b"".join(map(Message.value, batch)), header)["msg"]  # type: ignore[arg-type]  # all have one


def _offsets(batch: list[Message]) -> Numbers:
    """-1 where none is told: with acks=0, and for a duplicate that the broker recognised."""
    try:
        return np.fromiter(map(Message.offset, batch), np.int64, len(batch))
    except TypeError:
        return np.array([-1 if (pos := m.offset()) is None else pos for m in batch], np.int64)


def number_of(body: bytes) -> int:
    """The message number in a body."""
    return int.from_bytes(body[_MSG_AT : _MSG_AT + 8], "little")
