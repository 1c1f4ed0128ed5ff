"""The final read: consumes each queue until it is empty, and says that it is.

Drained (design section 7) is a queue that has no consumer but this one, gave out nothing for a while, and gave out
everything it had: so no count of the broker's is believed. A count says 0 right after a restart while thousands of
messages are there; a *consumer* count above one, though, is reason enough to wait. Silence is no proof either: a quorum
queue whose leader has just changed was seen to say nothing for two seconds with hundreds of messages in it. So a message
of the reader's own is put at the end of the queue, and has to come back behind everything that was there. It is sent
only when nothing comes any more: a queue of limited length would drop another message for it.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from typing import Any, Literal

import pika
import pika.exceptions
from pika.channel import Channel

from brokerproof.brokers.base import ReadJob
from brokerproof.brokers.rabbitmq.access import parameters
from brokerproof.brokers.rabbitmq.queues import PROBE, consumer_arguments
from brokerproof.brokers.rabbitmq.receiving import Delivery, Subscription, queues_of, received
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.history import OK
from brokerproof.message import Verifier

NO_ANSWER = (pika.exceptions.AMQPError, OSError)
_WAIT_S = 0.05
_QUIET_S = 1.0
_LOOK_EVERY_S = 0.3
#: A queue counts as gone when it was not found for so long: a node that has just started may not know it yet.
_GONE_S = 3.0
#: A mark that did not come back by then was lost with its leader, or refused by a full queue: another is sent.
_MARK_EVERY_S = 5.0
_PREFETCH = 2000
# 404 as well, but the queue is there: its node is not.
_AWAY = re.compile(r"home node|down or inaccessible|not available|process is stopped")


class Reading:
    def __init__(self, job: ReadJob) -> None:
        self._job = job
        self._verifier = job.verifier()
        self._lanes = queues_of(job)
        self._gone_since: dict[int, float] = {}
        self._deadline = time.monotonic() + job.deadline_s

    def run(self) -> None:
        self._find()
        for lane, queue in self._lanes.items():
            if time.monotonic() < self._deadline:
                _Emptying(self._job, lane, queue, self._verifier, self._deadline).run()

    def _find(self) -> None:
        """Until every queue was found, or not found for so long that it is gone."""
        missing = dict(self._lanes)
        while missing and time.monotonic() < self._deadline:
            for lane, queue in list(missing.items()):
                seen, _ = look(self._job.endpoint, queue)
                if seen == "there":
                    del missing[lane]
                elif seen != "gone":
                    self._gone_since.pop(lane, None)
                elif time.monotonic() - self._gone_since.setdefault(lane, time.monotonic()) > _GONE_S:
                    del missing[lane], self._lanes[lane]
                    _say(self._job, lane, "definition_lost")
            if missing:
                time.sleep(_LOOK_EVERY_S)  # the interval of this loop, whose condition is looked at above


class _Emptying:
    """Empties one lane."""

    def __init__(self, job: ReadJob, lane: int, queue: str, verifier: Verifier, deadline: float) -> None:
        self._job, self._lane, self._queue = job, lane, queue
        self._verifier, self._deadline = verifier, deadline
        self._session = Session(job.endpoint, name=f"{queue} reader", set_up=self._set_up, lost=lambda _: self._lost())
        self._subscription = Subscription(
            self._session, {lane: queue}, prefetch=_PREFETCH, auto_ack=False,
            arguments=consumer_arguments(job.destination_settings),
        )  # fmt: skip
        self._quiet_since = time.monotonic()
        self._mark = PROBE + uuid.uuid4().bytes
        self._marked_at = -_MARK_EVERY_S
        self._mark_is_back = False

    def run(self) -> None:
        with self._session.open():
            while time.monotonic() < self._deadline:
                self._session.poll(_WAIT_S)
                if self._take() or not self._session.is_ready:
                    self._quiet_since = time.monotonic()
                elif time.monotonic() - self._quiet_since >= _QUIET_S:
                    if not self._mark_is_back:
                        self._send_mark()
                    elif self._alone():
                        _say(self._job, self._lane, "drained")
                        return

    def _send_mark(self) -> None:
        if time.monotonic() - self._marked_at >= _MARK_EVERY_S:
            self._marked_at = time.monotonic()
            self._session.channel.basic_publish(
                "", self._queue, self._mark, pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
            )

    def _set_up(self, channel: Channel) -> None:
        if self._session.connections > 1:
            self._job.tape.reconnected()
        # A mark that came back on an earlier connection says nothing of what was in that connection's hands.
        self._mark = PROBE + uuid.uuid4().bytes
        self._marked_at, self._mark_is_back = -_MARK_EVERY_S, False
        self._subscription.begin(channel)

    def _lost(self) -> None:
        self._subscription.inbox.clear()

    def _take(self) -> bool:
        inbox = self._subscription.inbox
        if not inbox:
            return False
        batch = list(inbox)
        inbox.clear()
        self._mark_is_back = self._mark_is_back or any(got.body == self._mark for got in batch)
        mine: list[Delivery] = [got for got in batch if not got.body.startswith(PROBE)]
        if mine:
            self._job.tape.rows("receive", OK, len(mine), **received(self._verifier, mine, self._job.tape.now()))
        if self._session.is_ready:
            self._session.channel.basic_ack(batch[-1].tag, multiple=True)
        return bool(mine)

    def _alone(self) -> bool:
        """Whether no other consumer is there, who may hold messages that come back when it goes."""
        seen, consumers = look(self._job.endpoint, self._queue)
        if seen == "there" and consumers <= 1:
            return True
        self._quiet_since = time.monotonic()
        return False


def look(endpoint: Any, queue: str) -> tuple[Literal["there", "gone", "unknown"], int]:
    """(whether the queue is there, how many consumers it has), by the first address that answers."""
    for host, port in endpoint["addresses"]:
        try:
            connection = pika.BlockingConnection(
                parameters(endpoint, host, port, socket_timeout=2, stack_timeout=3, blocked_connection_timeout=5)
            )
        except NO_ANSWER:
            continue
        try:
            declared = connection.channel().queue_declare(queue, passive=True)
            return "there", declared.method.consumer_count
        except pika.exceptions.ChannelClosedByBroker as exc:
            lost = exc.reply_code == 404 and not _AWAY.search(exc.reply_text)
            return ("gone", 0) if lost else ("unknown", 0)
        except NO_ANSWER:
            continue
        finally:
            with contextlib.suppress(*NO_ANSWER):
                connection.close()
    return "unknown", 0


def _say(job: ReadJob, lane: int, what: str) -> None:
    now = job.tape.now()
    job.tape.row("control", OK, start_ns=now, end_ns=now, lane=lane, error=what)
