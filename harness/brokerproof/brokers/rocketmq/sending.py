"""The sender: an open loop around the library's asynchronous send, which makes about 1,700 messages a second.

The library tries a message three times by itself, at once and without telling. Every attempt is watched where it
leaves, so that a failure is ``fail`` only when each attempt is known to have come to nothing.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from brokerproof.brokers.base import SendJob
from brokerproof.brokers.rocketmq import outcomes, remoting
from brokerproof.brokers.rocketmq.library import configuration, rocketmq, shut
from brokerproof.brokers.rocketmq.library import grpc_protocol as api
from brokerproof.history import FAIL, INFO, OK

_CHUNK = 50
_WAIT_MAX_S = 0.005
_RESEND_AFTER_NS = 100_000_000
_RECONNECT_S = 0.2
#: gRPC waits longer and longer between its own attempts to connect (up to 120 s); past this a new producer is made.
_RENEW_AFTER_S = 1.0
#: The library has transactions only one by one, and each is two round trips.
_TRANSACTIONS_AT_ONCE = 16


def send(job: SendJob) -> None:
    """See ``brokers.base.SendJob``. Sender settings: ``send`` ("async", "sync", "oneway", "transaction": each message is
    one, committed at once, for a TRANSACTION topic), ``attempts`` (3), ``request_timeout`` (3 s, of one attempt),
    ``delay_s`` (for a DELAY topic)."""
    how = job.sender.settings.get("send", "async")
    kinds: Mapping[str, type[_Sending]] = {
        "async": _Async, "sync": _Sync, "oneway": _Oneway, "transaction": _Transactions
    }  # fmt: skip
    sending = kinds[how](job)
    sending.run()


class _Sending:
    """The schedule, the cap, resends; how a message leaves is the subclasses' part."""

    #: How many intents are written at once, right before their messages are sent.
    _chunk = _CHUNK

    def __init__(self, job: SendJob) -> None:
        self._job = job
        self._fifo = job.destination_settings.get("message.type") == "FIFO"
        self._in_turn = job.sender.spread == "round_robin"
        self._lock = Lock()
        self._unanswered = 0
        self._capped = 0
        self._resends: deque[tuple[int, int]] = deque()  # (number, not before this time)
        self._line = _Lines() if self._serial(job) else None

    @staticmethod
    def _serial(job: SendJob) -> bool:
        """Whether a message waits for the answer to the one before it of its group."""
        return False

    def open(self) -> None:
        """Connects, for as long as it takes."""
        raise NotImplementedError

    def post(self, row: int, number: int, key: int, body: bytes) -> None:
        """Sends one message whose intent is written; ``done`` is called with what came of it, now or later."""
        raise NotImplementedError

    def tend(self) -> bool:
        """Looks after the connection; whether sending makes sense now."""
        return True

    def close(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        job = self._job
        self.open()
        now = job.tape.now()
        while not job.stopping() and not (job.pace.over(now) and not self._pending()):
            able = self.tend()
            if not (able and self._send_due(now)):
                time.sleep(self._wait_s(now))
            now = job.tape.now()
        self._finish()
        self.close()
        if self._capped:
            job.report(capped=self._capped)

    def _send_due(self, now: int) -> bool:
        """Sends what is due, as far as the cap lets it; whether there is likely more to send at once."""
        job, line = self._job, self._line
        self._resend_due(now)
        room = job.sender.in_flight_max - self._unanswered - (line.waiting if line else 0)
        if room <= 0:
            self._capped += not job.pace.over(now)
        first = job.pace.sent
        n = job.pace.take(now, min(self._chunk, room)) if room > 0 else 0
        keys = job.pace.keys(first, n)
        if line is not None:
            line.join(first, keys.tolist())
            return self._send_first_in_line()
        if n == 0:
            return False
        buffer = job.bodies.make(first, keys)
        size = job.bodies.size
        row = job.tape.open_sends(first, keys, job.lane, job.pace.due_many(first, n))
        with self._lock:
            self._unanswered += n
        for i, key in enumerate(keys.tolist()):
            self.post(row + i, first + i, key, buffer[i * size : (i + 1) * size])
        return True

    def _send_first_in_line(self) -> bool:
        """One message of each group that has none under way."""
        assert self._line is not None
        ready = self._line.ready()
        for number, key in ready:
            self._send_one(number, key, self._job.pace.due_ns(number))
        return bool(ready)

    def _send_one(self, number: int, key: int, due_ns: int) -> None:
        job = self._job
        row = job.tape.open("send", msg=number, key=key, lane=job.lane, due_ns=due_ns)
        with self._lock:
            self._unanswered += 1
        self.post(row, number, key, job.bodies.one(number, key))

    def _resend_due(self, now: int) -> None:
        """Sends again what came to ``fail`` or ``info``, under its own number, as a row of its own."""
        job = self._job
        while self._resends and self._resends[0][1] <= now and self._unanswered < job.sender.in_flight_max:
            number, _ = self._resends.popleft()
            self._send_one(number, job.pace.key(number), -1)

    def done(self, row: int, number: int, outcome: int, error: str, value: int | None = None) -> None:
        """May be called by any thread."""
        job = self._job
        job.tape.close(row, outcome, error=error, value=value)
        with self._lock:
            self._unanswered -= 1
        if outcome != OK and job.sender.resend:
            self._resends.append((number, job.tape.now() + _RESEND_AFTER_NS))
        elif self._line is not None:
            self._line.free(job.pace.key(number))

    def _wait_s(self, now: int) -> float:
        due = self._job.pace.due_ns(self._job.pace.sent)
        return min(_WAIT_MAX_S, max(0.0002, (due - now) / 1e9)) if due >= 0 else 0.001

    def _pending(self) -> bool:
        """Whether something is left to send although no more is due."""
        return bool(self._resends or (self._line is not None and self._line.waiting))

    def _finish(self) -> None:
        """Waits for the answers; what has none by then stays open, and the recorder makes it ``info``."""
        job = self._job
        deadline = job.tape.now() + int(job.sender.timeout_s * 1e9)
        now = job.tape.now()
        while (self._unanswered or self._resends) and now < deadline:
            if self.tend():
                self._resend_due(now)
            time.sleep(_WAIT_MAX_S)
            now = job.tape.now()


class _Lines:
    """The messages of each group, first come first served, one under way at a time.

    Order is promised to messages of a group that one producer sends one after the other; sent at once, a third of them
    came out of order here. Source: RocketMQ documentation, "Ordered Message", order of production.
    """

    def __init__(self) -> None:
        self._lines: dict[int, deque[int]] = {}
        self._freed: deque[int] = deque()  # appended to by any thread
        self.waiting = 0

    def join(self, first: int, keys: list[int]) -> None:
        for number, key in enumerate(keys, first):
            if key not in self._lines:
                self._lines[key] = deque()
                self._freed.append(key)
            self._lines[key].append(number)
        self.waiting += len(keys)

    def free(self, key: int) -> None:
        """The group's message was answered."""
        self._freed.append(key)

    def ready(self) -> list[tuple[int, int]]:
        """(number, key) of messages that may go now."""
        out = []
        for _ in range(len(self._freed)):
            key = self._freed.popleft()
            if self._lines[key]:
                out.append((self._lines[key].popleft(), key))
            else:
                del self._lines[key]
        self.waiting -= len(out)
        return out


@dataclass(frozen=True, slots=True)
class _Sent:
    row: int
    number: int
    message: Any
    due_ns: int


class _Async(_Sending):
    """The library's ``send_async``."""

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        settings = job.sender.settings
        self._attempts_max = int(settings.get("attempts", 3))
        self._request_timeout_s = int(settings.get("request_timeout", 3))
        self._delay_s = float(settings.get("delay_s", 0))
        self._attempts: dict[str, list[Future[Any]]] = {}
        self._failing_since = 0.0
        self._renewed = 0.0
        self._producer: Any = None

    @staticmethod
    def _serial(job: SendJob) -> bool:
        return job.destination_settings.get("message.type") == "FIFO"

    def open(self) -> None:
        self._producer = self._connect()

    def tend(self) -> bool:
        now = time.monotonic()
        if not self._failing_since:
            return True
        if now - self._failing_since > _RENEW_AFTER_S and now - self._renewed > _RENEW_AFTER_S:
            self._renewed = now
            old, self._producer = self._producer, self._connect()
            self._job.tape.reconnected()
            shut(old)
        # Without a rate a link that is down would be tried thousands of times a second.
        return self._job.sender.rate_per_s is not None or int(now / 0.05) != int((now - 0.001) / 0.05)

    def post(self, row: int, number: int, key: int, body: bytes) -> None:
        sent = _Sent(row, number, *self._message(number, key, body))
        try:
            future = self._producer.send_async(sent.message)
        except Exception as exc:  # the library raises bare Exception
            self._failed(sent, exc)
        else:
            future.add_done_callback(lambda f: self._answered(sent, f))

    def _message(self, number: int, key: int, body: bytes) -> tuple[Any, int]:
        """The library's message, and when it is due on the tape's clock (-1: not delayed)."""
        message = rocketmq.Message()
        message.topic = self._job.destination
        message.body = body
        if self._fifo:
            # The group chooses the queue; a group of its own for each message sends them to all queues in turn.
            message.message_group = str(number if self._in_turn else key)
        if not self._delay_s:
            return message, -1
        # The library takes whole seconds; the next whole one is when it is due.
        due_s = math.ceil(time.time() + self._delay_s)
        message.delivery_timestamp = due_s
        return message, self._job.tape.now() + int((due_s - time.time()) * 1e9)

    def _answered(self, sent: _Sent, future: Future[Any]) -> None:
        exc = future.exception()
        if exc is None:
            self._stored(sent, future.result())
        else:
            self._failed(sent, exc)

    def _stored(self, sent: _Sent, receipt: Any) -> None:
        self._attempts.pop(sent.message.message_id, None)
        self._failing_since = 0.0
        self.done(sent.row, sent.number, OK, "", sent.due_ns if self._delay_s else int(receipt.offset))

    def _failed(self, sent: _Sent, exc: BaseException) -> None:
        attempts = self._attempts.pop(sent.message.message_id, [])
        last = outcomes.error_class(exc)
        if last in ("NotConnected", "UNAVAILABLE", "NoRoute") and not self._failing_since:
            self._failing_since = time.monotonic()
        names = [*(self._name(attempt) for attempt in attempts[:-1]), last]
        self.done(sent.row, sent.number, outcomes.sent(names), last, sent.due_ns if self._delay_s else None)

    @staticmethod
    def _name(attempt: Future[Any]) -> str:
        exc = attempt.exception(timeout=0) if attempt.done() else None
        if exc is not None:
            return outcomes.error_class(exc)
        return outcomes.code_name(attempt.result().status.code) if attempt.done() else "unanswered"

    def _connect(self) -> Any:
        rocketmq.Producer.DEFAULT_MAX_SEND_ATTEMPTS = self._attempts_max
        producer = _Producer(
            configuration(self._job.endpoint, self._request_timeout_s), [self._job.destination], checker=_Commits()
        )
        producer.attempts_max = self._attempts_max
        producer.startup()
        send_message = producer.rpc_client.send_message_async

        def watched(endpoints: Any, request: Any, metadata: Any, timeout: float = 3) -> Future[Any]:
            future: Future[Any] = send_message(endpoints, request, metadata, timeout=timeout)
            self._attempts.setdefault(request.messages[0].system_properties.message_id, []).append(future)
            return future

        producer.rpc_client.send_message_async = watched
        return producer

    def close(self) -> None:
        shut(self._producer)


class _Sync(_Async):
    """The library's ``send``: one message at a time."""

    _chunk = 1

    @staticmethod
    def _serial(job: SendJob) -> bool:
        return False

    def post(self, row: int, number: int, key: int, body: bytes) -> None:
        sent = _Sent(row, number, *self._message(number, key, body))
        try:
            receipt = self._producer.send(sent.message)
        except Exception as exc:  # the library raises bare Exception
            self._failed(sent, exc)
        else:
            self._stored(sent, receipt)


class _Transactions(_Async):
    """Each message a transaction of its own, committed as soon as the broker has it."""

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        self._pool = ThreadPoolExecutor(_TRANSACTIONS_AT_ONCE)

    def post(self, row: int, number: int, key: int, body: bytes) -> None:
        self._pool.submit(self._commit, _Sent(row, number, *self._message(number, key, body)))

    def _commit(self, sent: _Sent) -> None:
        try:
            transaction = self._producer.begin_transaction()
            receipt = self._producer.send(sent.message, transaction)
        except Exception as exc:  # the library raises bare Exception
            self._failed(sent, exc)
            return
        try:
            transaction.commit()
        except Exception as exc:  # whatever it is, the broker may have heard, and if not it asks later
            self._attempts.pop(sent.message.message_id, None)
            self.done(sent.row, sent.number, INFO, outcomes.error_class(exc))
        else:
            self._stored(sent, receipt)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


class _Commits(rocketmq.TransactionChecker):  # type: ignore[misc]  # the library has no types
    """What the broker is told when it asks after a transaction that it has heard nothing of."""

    def check(self, message: Any) -> Any:
        return api.TransactionResolution.COMMIT


class _Producer(rocketmq.Producer):  # type: ignore[misc]  # the library has no types
    """The library's producer, with a number of attempts that the server's settings do not overrule."""

    attempts_max = 3

    def reset_setting(self, settings: Any) -> None:
        settings.backoff_policy.max_attempts = self.attempts_max
        super().reset_setting(settings)


class _Oneway(_Sending):
    """The remoting protocol's oneway request, which gRPC has not: ``ok`` is what the sender believes, no reply comes."""

    def __init__(self, job: SendJob) -> None:
        super().__init__(job)
        self._queues = int(job.destination_settings.get("queues", 4))
        self._addresses = [(str(host), int(port)) for host, port in job.endpoint["brokers"].values()]
        self._connection: remoting.Connection | None = None
        self._tried = 0.0

    def open(self) -> None:
        self.tend()

    def tend(self) -> bool:
        now = time.monotonic()
        if self._connection is None and now - self._tried > _RECONNECT_S:
            if self._tried:
                self._job.tape.reconnected()
            self._tried = now
            self._connection = self._connect()
        return self._connection is not None or self._job.sender.rate_per_s is not None

    def _connect(self) -> remoting.Connection | None:
        """To the first broker that takes messages; where there is only one, nobody has to be asked."""
        for address in self._addresses:
            with contextlib.suppress(OSError, remoting.ProtocolError, remoting.RemotingError):
                connection = remoting.Connection(address, 1.0, self._job.endpoint.get("access"))
                if len(self._addresses) == 1 or remoting.role(connection) != "SLAVE":
                    return connection
                connection.close()
        return None

    def post(self, row: int, number: int, key: int, body: bytes) -> None:
        if self._connection is None:
            self.done(row, number, FAIL, "NotConnected")
            return
        words = {"WAIT": "true", **({"__SHARDINGKEY": str(key)} if self._fifo else {})}
        queue = (key if self._fifo else number) % self._queues
        fields = remoting.send_fields("brokerproof", self._job.destination, queue, words)
        try:
            self._connection.tell(remoting.SEND_MESSAGE_V2, fields, body)
        except OSError:
            self._connection.close()
            self._connection = None
            self.done(row, number, INFO, "ConnectionLost")
        else:
            self.done(row, number, OK, "")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
