"""The sender: an open loop around one channel, in confirm mode or without.

    due messages -> intents on the tape -> basic.publish, mandatory -> confirms and returns -> completions

A confirm number is the broker's and ours alike: both count the messages of a channel from 1. Completions are written
by the hundred, since a confirm may be for many (``multiple``) and the tape is cheap only in bulk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pika
from pika.channel import Channel

from brokerproof.brokers.base import SendJob
from brokerproof.brokers.rabbitmq import outcomes
from brokerproof.brokers.rabbitmq.queues import publishes_to, queue_name, rejects_when_full
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.history import FAIL, OK, OUTCOME
from brokerproof.tape import OPEN

_CHUNK = 64
#: Confirms are written down by this many at the latest, or a burst of them would all get the time of its end.
_FLUSH = 128
_WAIT_MIN_S, _WAIT_MAX_S = 0.001, 0.05
_RESEND_AFTER_NS = 100_000_000
#: Without confirms nothing but the socket holds the sender back: so many bytes may wait for it.
_UNWRITTEN_MAX = 1 << 20
_MSG_AT = 12  # of message.py's header


class Sending:
    """``mode``: ``pipelined``, or ``each``: publish, wait for the confirm, publish the next.
    ``via``: of ``Session``: ``leader``, or ``others`` for a client that is connected to another node than the leader."""

    def __init__(self, job: SendJob) -> None:
        self.job = job
        self.settings = job.sender.settings
        self.confirm = bool(self.settings.get("confirm", True))
        self.cap = 1 if self.settings.get("mode") == "each" else job.sender.in_flight_max
        self.place = Place(job)
        self.properties = Properties(self.settings)
        self.resends: deque[tuple[int, int]] = deque()  # (number, not before this time)
        self.capped = 0
        self.returned = 0
        self.session = Session(
            job.endpoint, name=f"{job.destination} {job.tape.slot}", set_up=self.set_up, lost=self.lost,
            via=str(self.settings.get("via", "leader")),
        )  # fmt: skip
        self._pending: dict[int, tuple[int, int]] = {}  # confirm number -> (row, message), oldest first
        self._sent_at: deque[tuple[int, int]] = deque()  # (when, last confirm number of the batch)
        self._given_up: set[int] = set()  # confirm numbers whose rows are closed already
        self._confirms: list[int] = []  # as they came; negative: this one and all before it
        self._next = self._low = 1
        self._nack_error = "NACK_REJECT_PUBLISH" if rejects_when_full(job.destination_settings) else "NACK"
        self._unexpected = 0
        self._late = 0

    def run(self) -> None:
        job = self.job
        with self.session.open():
            while not job.stopping() and not (job.pace.over(job.tape.now()) and not self.resends):
                now = job.tape.now()
                busy = self.session.is_ready and self.send_due(now)
                self.session.poll(0.0 if busy else self._wait_s(now))
                self.settle(now)
            deadline = job.tape.now() + int(job.sender.timeout_s * 1e9)
            while (now := job.tape.now()) < deadline and (self.unanswered() or self.resends):
                if self.session.is_ready:
                    self.resend_due(now)
                self.session.poll(_WAIT_MAX_S)
                self.settle(now)
        self.report()

    # -- what transactions do otherwise --------------------------------------------------------------------------------

    def set_up(self, channel: Channel) -> None:
        if self.session.connections > 1:
            self.job.tape.reconnected()
        channel.add_on_return_callback(self.on_return)
        self._next = self._low = 1
        if self.confirm:
            channel.confirm_delivery(self._on_confirm, callback=lambda _: self.session.ready())
        else:
            self.session.ready()

    def lost(self, error: str) -> None:
        self._flush()
        self._give_up(list(self._pending), error)
        self._sent_at.clear()
        self._given_up.clear()

    def unanswered(self) -> int:
        return len(self._pending)

    def send_due(self, now: int) -> bool:
        """Sends what is due, as far as the cap lets it; whether there is likely more to send at once."""
        job = self.job
        self.resend_due(now)
        room = self.cap - len(self._pending)
        if not self.confirm and self.session.unwritten() > _UNWRITTEN_MAX:
            room = 0
        if room <= 0:
            self.capped += not job.pace.over(now)
            return False
        first = job.pace.sent
        n = job.pace.take(now, min(_CHUNK, room))
        if n:
            self._publish(first, n)
        return n == _CHUNK

    def resend_due(self, now: int) -> None:
        """Sends again what came to ``fail`` or ``info``, under its own number, as a row of its own."""
        while self.resends and self.resends[0][1] <= now and len(self._pending) < self.cap:
            self._publish(self.resends.popleft()[0], 1, due=-1)

    def on_return(self, _channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        """A return comes before the confirm of the same message, which the broker sends nevertheless."""
        self.returned += 1
        message = int.from_bytes(body[_MSG_AT : _MSG_AT + 8], "little")
        # Those that were returned before are not among the pending any more, so the search is short.
        number = next((n for n, (_, m) in self._pending.items() if m == message), None)
        if number is not None:
            self._give_up([number], outcomes.of_code(method.reply_code))

    def settle(self, now: int) -> None:
        """Writes down what was answered, and gives up what was not in time."""
        self._flush()
        timeout = int(self.job.sender.timeout_s * 1e9)
        while self._sent_at and now - self._sent_at[0][0] > timeout:
            _, last = self._sent_at.popleft()
            self._give_up([n for n in self._pending if n <= last], "Timeout")

    def report(self) -> None:
        facts = {
            "capped": self.capped, "returned": self.returned, "connections": self.session.connections,
            "blocked": self.session.blocked, "unexpected_confirms": self._unexpected, "late_confirms": self._late,
        }  # fmt: skip
        self.job.report(**{name: n for name, n in facts.items() if n})

    # -- inside --------------------------------------------------------------------------------------------------------

    def _publish(self, first: int, n: int, due: Any = None) -> None:
        job, tape = self.job, self.job.tape
        keys = job.pace.keys(first, n)
        now = tape.now()
        number = self._next
        expirations = self.properties.expirations_ns(first, n)
        value: Any = np.arange(number, number + n) if self.confirm else -1
        row = tape.rows(
            "send", OPEN, n, start_ns=now, end_ns=-1, msg=np.arange(first, first + n), key=keys,
            lane=self.place.lanes(first, keys), due_ns=job.pace.due_many(first, n) if due is None else due,
            value=value if expirations is None else now + expirations,
        )  # fmt: skip
        sent = publish(self, first, keys)
        rows = np.arange(row, row + n)
        if sent < n:
            tape.close_many(rows[sent:], FAIL, error="NotSent")
            self._again(range(first + sent, first + n))
        if self.confirm:
            self._next += sent
            self._pending.update(
                zip(
                    range(number, number + sent),
                    zip(range(row, row + sent), range(first, first + sent), strict=True), strict=True,
                )
            )  # fmt: skip
            self._sent_at.append((now, number + sent - 1))
        else:
            tape.close_many(rows[:sent], OK)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        number = int(method.delivery_tag)
        if isinstance(method, pika.spec.Basic.Nack):
            self._flush()
            self._give_up([n for n in self._pending if n <= number] if method.multiple else [number], self._nack_error)
            return
        self._confirms.append(-number if method.multiple else number)
        if len(self._confirms) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        """Closes the rows of the confirms that came."""
        if not self._confirms:
            return
        pop, rows = self._pending.pop, []
        for confirm in self._confirms:
            for number in (confirm,) if confirm > 0 else range(self._low, 1 - confirm):
                found = pop(number, None)
                if found is not None:
                    rows.append(found[0])
                elif number in self._given_up:
                    self._given_up.discard(number)
                    self._late += 1
                elif confirm > 0 or number == -confirm:
                    self._unexpected += 1  # a second confirm, or one for a message that was never sent
            if confirm < 0:
                self._low = 1 - confirm
        self._confirms.clear()
        if rows:
            self.job.tape.close_many(np.array(rows), OK)

    def _give_up(self, numbers: Sequence[int], error: str) -> None:
        """Closes rows as the table has it; the application sends those messages again if it is one that does."""
        taken = [self._pending.pop(n) for n in numbers if n in self._pending]
        if taken:
            self._given_up.update(numbers)
            outcome = OUTCOME[outcomes.meaning(error).outcome]
            self.job.tape.close_many(np.array([row for row, _ in taken]), outcome, error=error)
            self._again(message for _, message in taken)

    def _again(self, messages: Iterable[int]) -> None:
        if self.job.sender.resend:
            at = self.job.tape.now() + _RESEND_AFTER_NS
            self.resends.extend((message, at) for message in messages)

    def _wait_s(self, now: int) -> float:
        """How long nothing will be due."""
        job = self.job
        if not self.session.is_ready or job.pace.over(now) or (self.confirm and len(self._pending) >= self.cap):
            return _WAIT_MAX_S
        due = job.pace.due_ns(job.pace.sent)
        return min(_WAIT_MAX_S, max(_WAIT_MIN_S, (due - now) / 1e9)) if due >= 0 else _WAIT_MIN_S


def publish(sending: Sending, first: int, keys: npt.NDArray[np.int32]) -> int:
    """Hands messages ``first``, … to the channel; how many it took (all, unless it is closed)."""
    job, size = sending.job, sending.job.bodies.size
    joined = job.bodies.make(first, keys)
    send, exchange = sending.session.channel.basic_publish, sending.place.exchange
    routing_keys, properties = sending.place.routing_keys(first, keys), sending.properties.of(first, len(keys))
    at = 0
    try:
        with sending.session.corked():
            for routing_key, its in zip(routing_keys, properties, strict=True):
                send(exchange, routing_key, joined[at : at + size], its, True)
                at += size
    except pika.exceptions.AMQPError:
        pass  # closed between two polls: what was not handed over was not sent
    return at // size


class Place:
    """Where a message goes: its lane, and the routing key that leads there."""

    def __init__(self, job: SendJob) -> None:
        self.exchange = publishes_to(job.destination_settings, job.destination)
        self._first = job.lane
        self._lanes = job.partitions
        self._by_key = job.sender.spread == "key"
        grows = job.sender.settings.get("grow_after")
        self._grown_from = None if grows is None else job.pace.sent + int(grows)
        given = job.sender.settings.get("routing_key")
        names = [queue_name(job.destination, p) for p in range(job.partitions)]
        self._routing_keys = [str(given)] * self._lanes if given is not None else names

    def lanes(self, first: int, keys: npt.NDArray[np.int32]) -> Any:
        return self._first if self._lanes == 1 else (self._first + self._partitions(first, keys)).astype(np.int32)

    def routing_keys(self, first: int, keys: npt.NDArray[np.int32]) -> list[str]:
        if self._lanes == 1:
            return self._routing_keys * len(keys)
        return [self._routing_keys[p] for p in self._partitions(first, keys).tolist()]

    def _partitions(self, first: int, keys: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        numbers = np.arange(first, first + len(keys))
        by = np.where(keys >= 0, keys, numbers) if self._by_key else numbers
        if self._grown_from is None:
            return by % self._lanes
        return by % np.where(numbers < self._grown_from, self._lanes - 1, self._lanes)


class Properties:
    """Message properties by the sender's settings: ``delivery_mode`` (2), ``priority``, ``expiration_ms`` (one, or a list
    to be used in turn)."""

    def __init__(self, settings: Any) -> None:
        given = settings.get("expiration_ms")
        self._expirations = [None] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
        self._made = [
            pika.BasicProperties(
                delivery_mode=int(settings.get("delivery_mode", 2)), priority=settings.get("priority"),
                expiration=None if e is None else str(int(e)),
            )
            for e in self._expirations
        ]  # fmt: skip

    def of(self, first: int, n: int) -> list[pika.BasicProperties]:
        if len(self._made) == 1:
            return self._made * n
        start = first % len(self._made)
        return list(islice(cycle(self._made), start, start + n))

    def expirations_ns(self, first: int, n: int) -> npt.NDArray[np.int64] | None:
        """How long each may live; None: for ever."""
        if self._expirations[0] is None:
            return None
        turn = np.array(self._expirations, dtype=np.float64)
        return np.asarray(turn[np.arange(first, first + n) % len(turn)] * 1e6, dtype=np.int64)
