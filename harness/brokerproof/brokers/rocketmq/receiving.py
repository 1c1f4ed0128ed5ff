"""The receivers: the library's SimpleConsumer, polled, and its PushConsumer.

    {"ack": "after"}  work, then acknowledge           {"ack": "first"}  acknowledge, wait for the answer, then work
    {"ack": "auto"}   the library acknowledges at once: a push consumer whose listener says SUCCESS before any work
    {"consumer": "push"} with "after": the listener works and then says SUCCESS

Further settings: ``poll_every_ms`` (0: a simple consumer asks again at once, and its question waits at the broker for
``await_s``; otherwise it pauses so long after an answer that was empty; whether its question waits is then the gRPC proxy's to say, by
grpcClientConsumerMaxLongPollingTimeoutMillis), ``invisible_s`` (10; the gRPC proxy takes no less), ``await_s`` (1), ``request_timeout`` (3),
``consumption_thread_count`` (20, of a push consumer).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from concurrent.futures import Future, wait
from typing import Any

from brokerproof.brokers.base import ReceiveJob
from brokerproof.brokers.rocketmq import outcomes, remoting
from brokerproof.brokers.rocketmq.gateway import PROBE_BODY
from brokerproof.brokers.rocketmq.library import configuration, rocketmq, shut
from brokerproof.brokers.rocketmq.library import grpc_protocol as api
from brokerproof.history import FAIL, OK

_BATCH_MAX = 32  # the broker's own limit for one receive
_RETRY_S = 0.2
#: After this long without a good answer the consumer is replaced: gRPC and the telemetry stream recover later, or never.
_RENEW_AFTER_S = 2.0


def receive(job: ReceiveJob) -> None:
    """See ``brokers.base.ReceiveJob``."""
    settings = job.receiver.settings
    make_group(job)
    if settings.get("ack", "after") == "auto" or settings.get("consumer") == "push":
        _Push(job).run()
    else:
        _Simple(job).run()


def group_of(job: ReceiveJob) -> str:
    """The consumer group's name on the broker: unique to the destination."""
    return f"{job.destination}-{job.receiver.group}"


def make_group(job: ReceiveJob) -> None:
    """Groups would come by themselves, but not in order: FIFO is the group's setting as well as the topic's."""
    orderly = job.destination_settings.get("message.type") == "FIFO"
    retry_max = int(job.receiver.settings.get("retry_max_times", 16))
    for host, port in job.endpoint["setup"].values():
        # A broker that is down has the group from an earlier start, or from its master.
        with contextlib.suppress(OSError, remoting.RemotingError, remoting.ProtocolError):
            with remoting.Connection((host, port), 2.0, job.endpoint.get("access")) as to:
                remoting.create_group(to, group_of(job), orderly=orderly, retry_max=retry_max)


class _Delivery:
    """What both consumers do with a message."""

    def __init__(self, job: ReceiveJob) -> None:
        self._job = job
        self._verifier = job.verifier()

    def record(self, message: Any, batch: int) -> tuple[int, int] | None:
        """Writes the receive row; (msg, key), or None for a probe."""
        job = self._job
        body = message.body
        if body.startswith(PROBE_BODY):
            return None
        read = self._verifier.read(body)
        # The library counts deliveries from 1; 0 says that this broker does not tell.
        attempt = max(-1, int(message.delivery_attempt or 0) - 1)
        now = job.tape.now()
        job.tape.row("receive", OK, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=job.lane, attempt=attempt,
                     batch=batch)  # fmt: skip
        return read.msg, read.key

    def settling(self, msg: int, key: int, *, batch: int) -> int:
        return self._job.tape.open("settle", msg=msg, key=key, lane=self._job.lane, batch=batch)

    def settled(self, row: int, name: str) -> None:
        self._job.tape.close(row, outcomes.settled(name), error="" if name == "OK" else name)

    def works(self, msg: int, key: int, *, batch: int) -> bool:
        """Whether the work succeeds; where it does not, the message is left, and comes again after its invisible time."""
        try:
            self.work(msg, key)
        except Exception:  # whatever the work met: this is the application's own rule for it
            now = self._job.tape.now()
            self._job.tape.row("settle", FAIL, start_ns=now, end_ns=now, msg=msg, key=key, lane=self._job.lane, batch=batch,
                               error="LEFT")  # fmt: skip
            return False
        return True

    def work(self, msg: int, key: int) -> None:
        if self._job.work is not None and msg >= 0:
            self._job.work(msg, key, self._job.lane)


class _Simple:
    """Polls for a batch, works through it, acknowledges."""

    def __init__(self, job: ReceiveJob) -> None:
        settings = job.receiver.settings
        self._job = job
        self._delivery = _Delivery(job)
        self._first = settings.get("ack", "after") == "first"
        self._invisible_s = int(settings.get("invisible_s", 10))
        self._pause_s = float(settings.get("poll_every_ms", 0)) / 1000
        self._await_s = int(settings.get("await_s", job.endpoint.get("await_s", 1)))
        self._empty = 0
        self._request_timeout_s = int(settings.get("request_timeout", 3))
        self._consumer: Any = None
        self._batch = -1
        self._failing_since = 0.0
        self._renewals: Counter[str] = Counter()

    def run(self) -> None:
        job = self._job
        most = min(_BATCH_MAX, max(1, job.receiver.prefetch))
        while not job.stopping():
            if self._consumer is None:
                self._consumer = self._connect()
                job.report(connected=self._consumer is not None)
                continue
            try:
                messages = self._consumer.receive(most, self._invisible_s)
            except Exception as exc:  # the library raises whatever comes
                self._recover(exc)
                continue
            self._failing_since = 0.0
            self._batch += bool(messages)
            self._handle(messages)
            if not messages:
                self._empty += 1
                _pause(job, self._pause_s)
        shut(self._consumer)
        job.report(empty_polls=self._empty)
        if self._renewals:
            job.report(renewed=dict(self._renewals))

    def _connect(self) -> Any:
        job = self._job
        consumer = rocketmq.SimpleConsumer(
            configuration(job.endpoint, self._request_timeout_s), group_of(job),
            {job.destination: rocketmq.FilterExpression()}, await_duration=self._await_s,
        )  # fmt: skip
        try:
            consumer.startup()
        except Exception:
            _pause(self._job, _RETRY_S)
            return None
        return consumer

    def _recover(self, exc: Exception) -> None:
        """Right after start-up, and after a proxy's restart, receiving is refused until settings have been exchanged."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since > _RENEW_AFTER_S:
            self._failing_since = 0.0
            old, self._consumer = self._consumer, None
            self._job.tape.reconnected()
            self._renewals[outcomes.error_class(exc)] += 1
            shut(old)
        _pause(self._job, _RETRY_S)

    def _handle(self, messages: list[Any]) -> None:
        acks: list[Future[Any]] = []
        for message in messages:
            seen = self._delivery.record(message, self._batch)
            if seen is None:
                acks.append(self._acknowledge(message))
                continue
            if self._first:
                wait([self._ack(message, *seen)])
                self._delivery.work(*seen)
            elif self._delivery.works(*seen, batch=self._batch):
                acks.append(self._ack(message, *seen))
        wait(acks)

    def _ack(self, message: Any, msg: int, key: int) -> Future[Any]:
        row = self._delivery.settling(msg, key, batch=self._batch)
        future = self._acknowledge(message)
        recorded: Future[Any] = Future()

        def answered(f: Future[Any]) -> None:
            self._delivery.settled(row, _ack_name(f))
            recorded.set_result(None)

        future.add_done_callback(answered)
        return recorded

    def _acknowledge(self, message: Any) -> Future[Any]:
        # As the library's own ``ack`` does it, one message a request; its ``ack_async`` returns nothing to wait for.
        req = api.AckMessageRequest()
        req.group.name = group_of(self._job)
        req.topic.name = message.topic
        entry = req.entries.add()
        entry.message_id = message.message_id
        entry.receipt_handle = message.receipt_handle
        future: Future[Any] = self._consumer.rpc_client.ack_message_async(
            message.endpoints, req, metadata=self._consumer.sign(), timeout=self._request_timeout_s
        )
        return future


class _Push:
    """The library's PushConsumer; with "auto" the work is done after the acknowledgement was given away."""

    def __init__(self, job: ReceiveJob) -> None:
        self._job = job
        self._delivery = _Delivery(job)
        self._inline = job.receiver.settings.get("ack", "after") == "after"
        self._hand: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()

    def run(self) -> None:
        job = self._job
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        consumer: Any = None
        while not job.stopping():
            if consumer is None:
                consumer = self._connect()
                job.report(connected=consumer is not None)
            _pause(job, 0.05)
        shut(consumer)
        self._hand.put(None)
        worker.join()

    def _connect(self) -> Any:
        job = self._job
        settings = job.receiver.settings
        consumer = _RecordingPushConsumer(
            configuration(job.endpoint, int(settings.get("request_timeout", 3))), group_of(job),
            _Listener(self._consume), {job.destination: rocketmq.FilterExpression()},
            max_cache_message_count=max(1, job.receiver.prefetch),
            consumption_thread_count=int(settings.get("consumption_thread_count", 20)),
        )  # fmt: skip
        consumer.delivery = self._delivery
        try:
            consumer.startup()
        except Exception:
            _pause(job, _RETRY_S)
            return None
        return consumer

    def _consume(self, message: Any) -> Any:
        seen = self._delivery.record(message, -1)
        message.seen = seen
        if seen is not None and self._inline:
            self._delivery.work(*seen)
        elif seen is not None:
            self._hand.put(seen)
        return rocketmq.ConsumeResult.SUCCESS

    def _work(self) -> None:
        while (seen := self._hand.get()) is not None:
            self._delivery.work(*seen)


class _Listener(rocketmq.MessageListener):  # type: ignore[misc]  # the library has no types
    def __init__(self, consume: Any) -> None:
        self._consume = consume

    def consume(self, message: Any) -> Any:
        return self._consume(message)


class _RecordingPushConsumer(rocketmq.PushConsumer):  # type: ignore[misc]  # the library has no types
    """The library's push consumer, with each acknowledgement written down as the library gives it."""

    delivery: _Delivery

    def _ack(self, message: Any) -> None:
        if message.seen is None:
            super()._ack(message)
            return
        row = self.delivery.settling(*message.seen, batch=-1)
        try:
            super()._ack(message)
        except Exception as exc:
            self.delivery.settled(row, outcomes.error_class(exc))
            raise
        self.delivery.settled(row, "OK")


def _ack_name(future: Future[Any]) -> str:
    exc = future.exception()
    if exc is not None:
        return outcomes.error_class(exc)
    answer = future.result()
    entries = [entry.status.code for entry in answer.entries]
    return outcomes.code_name(entries[0] if entries else answer.status.code)


def _pause(job: ReceiveJob, for_s: float) -> None:
    """Waits, but not when the process was asked to stop."""
    until = time.monotonic() + for_s
    while time.monotonic() < until and not job.stopping():
        time.sleep(0.02)
