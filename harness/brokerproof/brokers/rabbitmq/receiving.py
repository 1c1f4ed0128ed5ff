"""The receiver: takes deliveries from one channel, does the work, acknowledges, and learns that it was heard.

``basic.ack`` has no reply. A ``basic.qos`` with the value it has anyway has one, and a channel handles what it is sent
in order: its reply proves that every acknowledgement before it has arrived. That is asked about ten times a second;
settles that no reply covers stay ``info``.

Settings: ``ack`` is ``after`` (the work), ``first``, ``auto`` or ``never``; ``on_error``, when the work fails:
``requeue``, ``reject`` (without requeue) or ``leave`` (unacknowledged); ``arguments`` of the consumer. Besides:

    member      (number, of how many): it consumes from that part of the destination's queues only
    shards      ``brokers/shards.py``; with ``ack`` "in_order" what is done is acknowledged once everything before it is
    quit_after  once it has left so many unacknowledged, it does ``quit_by``, for good: "basic.cancel",
                "channel.close" (after a cancel) or "connection.close"
    poll_every_ms   it asks by ``basic.get`` so often, and then until there is nothing, in place of being delivered to

Source: https://www.rabbitmq.com/docs/confirms#acknowledgement-modes
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pika.channel import Channel
from pika.spec import Basic

from brokerproof.brokers.base import Job, ReceiveJob
from brokerproof.brokers.rabbitmq import outcomes
from brokerproof.brokers.rabbitmq.queues import PROBE, queue_name
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.brokers.shards import Shards
from brokerproof.errors import PlanError
from brokerproof.history import FAIL, OK, OUTCOME
from brokerproof.tape import OPEN

_WAIT_S = 0.05
#: Work goes on for so long before the connection is served again: heartbeats, and acknowledgements on their way out.
_SLICE_S = 0.005
_PROVE_EVERY_S, _PROVE_EVERY_N = 0.1, 500
_END_S = 2.0
#: How soon what a worker has done is acknowledged.
_DONE_S = 0.005
_QUIT_BY = ("basic.cancel", "channel.close", "connection.close")


class Delivery(NamedTuple):
    lane: int
    tag: int
    attempt: int
    body: bytes


def delivery(lane: int, method: Any, properties: Any, body: bytes) -> Delivery:
    """attempt: quorum queues count, in a header that a first delivery does not have; others flag a redelivery."""
    headers = properties.headers
    count = int(headers.get("x-delivery-count", 0)) if headers else 0
    return Delivery(lane, method.delivery_tag, max(count, int(method.redelivered)), body)


class _Taken(NamedTuple):
    """A delivery in a worker's hands."""

    got: Delivery
    msg: int
    key: int


def queues_of(job: Job, member: tuple[int, int] = (0, 1)) -> dict[int, str]:
    """lane -> queue, of the destination's, or of every so many of them"""
    first, step = member
    return {job.lane + p: queue_name(job.destination, p) for p in range(first, job.partitions, step)}


class Subscription:
    """Consumers on some queues, and what they were delivered. queues: lane -> queue."""

    def __init__(
        self, session: Session, queues: Mapping[int, str], *, prefetch: int, auto_ack: bool, arguments: Any = None
    ) -> None:  # fmt: skip
        self.inbox: deque[Delivery] = deque()
        self._session, self._queues = session, queues
        self._prefetch, self._auto_ack, self._arguments = prefetch, auto_ack, arguments
        self._tags: list[str] = []

    def begin(self, channel: Channel) -> None:
        self._tags.clear()
        channel.add_on_cancel_callback(lambda _: self._session.drop("ConsumerCancelled"))
        channel.basic_qos(prefetch_count=self._prefetch)
        waiting = len(self._queues)

        def consuming(_: Any) -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                self._session.ready()

        for lane, queue in self._queues.items():
            tag = channel.basic_consume(
                queue, self._on_message(lane), auto_ack=self._auto_ack, arguments=self._arguments, callback=consuming,
            )  # fmt: skip
            self._tags.append(tag)

    def prove(self, channel: Channel, proved: Any) -> None:
        """``proved`` is called when the broker has handled everything that was sent on the channel before."""
        channel.basic_qos(prefetch_count=self._prefetch, callback=proved)

    def cancel(self, channel: Channel, cancelled: Any) -> int:
        """How often ``cancelled`` is going to be called."""
        tags, self._tags = self._tags, []
        for tag in tags:
            channel.basic_cancel(tag, callback=cancelled)
        return len(tags)

    def _on_message(self, lane: int) -> Any:
        put = self.inbox.append

        def on_message(_channel: Channel, method: Any, properties: Any, body: bytes) -> None:
            put(delivery(lane, method, properties, body))

        return on_message


class Polling(Subscription):
    """Asks each queue every so often, in place of consuming from it."""

    def __init__(self, session: Session, queues: Mapping[int, str], *, every_s: float, auto_ack: bool) -> None:
        super().__init__(session, queues, prefetch=0, auto_ack=auto_ack)
        self.every_s = every_s
        self.empty = 0
        self._due: dict[int, float] = {}
        self._asked = -1  # the lane whose answer is awaited

    def begin(self, channel: Channel) -> None:
        self._asked, self._due = -1, dict.fromkeys(self._queues, 0.0)
        channel.add_callback(self._none, [Basic.GetEmpty], one_shot=False)
        self._session.ready()

    def ask(self) -> None:
        """The next question that is due, if no answer is awaited: they come in order, and do not say to which question."""
        now = time.monotonic()
        lane = next((lane for lane, due in self._due.items() if due <= now), None)
        if self._asked < 0 and lane is not None and self._session.is_ready:
            self._asked = lane
            self._session.channel.basic_get(self._queues[lane], self._got, auto_ack=self._auto_ack)

    def _got(self, _channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        lane, self._asked = self._asked, -1
        self.inbox.append(delivery(lane, method, properties, body))

    def _none(self, _: Any) -> None:
        lane, self._asked = self._asked, -1
        self.empty += 1
        self._due[lane] = time.monotonic() + self.every_s


class Receiving:
    def __init__(self, job: ReceiveJob) -> None:
        self._job = job
        settings = job.receiver.settings
        self._ack = str(settings.get("ack", "after"))
        self._on_error = str(settings.get("on_error", "requeue"))
        self._verifier = job.verifier()
        self._session = Session(
            job.endpoint, name=f"{job.destination} {job.tape.slot}", set_up=self._set_up, lost=self._lost
        )
        member = settings.get("member", (0, 1))
        self._queues = queues_of(job, (int(member[0]), int(member[1])))
        auto = self._ack == "auto"
        self._polling: Polling | None = None
        if "poll_every_ms" in settings:
            every_s = float(settings["poll_every_ms"]) / 1000
            self._polling = Polling(self._session, self._queues, every_s=every_s, auto_ack=auto)
        self._subscription = self._polling or Subscription(
            self._session,
            self._queues,
            prefetch=job.receiver.prefetch,
            auto_ack=auto,
            arguments=settings.get("arguments"),
        )
        self._inbox = self._subscription.inbox
        self._unproven: list[int] = []  # rows of settles that no reply covers yet
        self._asked: list[int] | None = None  # those that the reply on its way will cover
        self._asked_at = 0.0
        self._failed_work = 0
        self._left = 0
        self._quit_after = int(settings.get("quit_after", 0))
        self._quit_by = str(settings.get("quit_by", _QUIT_BY[0]))
        if self._quit_by not in _QUIT_BY:
            raise PlanError(f"quit_by {self._quit_by!r}: a consumer goes by one of {', '.join(_QUIT_BY)}")
        self._shards: Shards[_Taken] | None = None
        if "shards" in settings and job.work is not None:
            self._shards = Shards(settings, self._work_on)
        self._line: deque[_Taken] = deque()  # what the workers have, in the order it came
        self._worked: set[int] = set()  # tags of those in the line that are done

    def run(self) -> None:
        job, session = self._job, self._session
        with session.open():
            told = False
            while not job.stopping():
                if not told and session.is_ready:
                    told = True
                    job.report(connected=True)
                if self._polling is not None:
                    self._polling.ask()
                session.poll(0.0 if self._inbox else _DONE_S if self._busy or self._polling else _WAIT_S)
                self._take_back()
                self._take()
                self._prove()
            self._finish()
        facts = {"connections": session.connections, "failed_work": self._failed_work}
        if self._polling is not None:
            facts["empty_polls"] = self._polling.empty
        job.report(**{name: n for name, n in facts.items() if n})

    # -- the connection ------------------------------------------------------------------------------------------------

    def _set_up(self, channel: Channel) -> None:
        if self._session.connections > 1:
            self._job.tape.reconnected()
        self._subscription.begin(channel)

    def _lost(self, error: str) -> None:
        rows = (self._asked or []) + self._unproven
        if rows:
            self._job.tape.close_many(np.array(rows), OUTCOME[outcomes.meaning(error).outcome], error=error)
        self._asked, self._unproven = None, []
        if self._ack != "auto":
            self._inbox.clear()  # the broker gives them to somebody else; an acknowledgement would be refused
            # What the workers have, they work off. The broker would refuse these tags.
            self._line.clear()
            self._worked.clear()

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        if not self._inbox:
            return
        if self._job.work is None:
            self._take_all()
            return
        until = time.monotonic() + _SLICE_S
        while self._inbox and time.monotonic() < until and not self._job.stopping():
            self._take_one(self._inbox.popleft())
            if self._quit_after and self._left >= self._quit_after:
                self._quit()

    def _take_one(self, got: Delivery) -> None:
        """One message that is worked on. It counts as received when the client takes it in hand, not while it lies in
        its buffer: what a kill finds there was never received."""
        tape = self._job.tape
        if got.body.startswith(PROBE):
            self._pass_over(got)
            return
        read = self._verifier.read(got.body)
        now = tape.now()
        tape.row("receive", OK, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=got.lane, pos=got.tag,
                 attempt=got.attempt, error=read.problem)  # fmt: skip
        if self._ack == "auto":
            tape.row("settle", OK, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=got.lane, pos=got.tag)
        if self._ack == "first":
            self._settle(got, read.msg, read.key)
            self._session.flush()  # on its way before the work begins, or a kill in the work would find it here
        taken = _Taken(got, read.msg, read.key)
        if self._shards is not None:
            self._line.append(taken)
            self._shards.put(taken, read.key)
            return
        try:
            self._work_on(taken)
        except Exception:  # whatever the work met: this is the application's own rule for it
            self._refuse(taken)
            return
        if self._ack == "after":
            self._settle(got, read.msg, read.key)

    def _work_on(self, taken: _Taken) -> None:
        assert self._job.work is not None
        self._job.work(taken.msg, taken.key, taken.got.lane)

    @property
    def _busy(self) -> bool:
        return self._shards is not None and self._shards.in_hand > 0

    def _take_back(self) -> None:
        """Acknowledges what the workers have done, if the connection that it came on is still there."""
        if self._shards is None:
            return
        for taken, failed in self._shards.done():
            if taken not in self._line:
                continue
            if self._ack == "in_order" and failed is None:
                self._worked.add(taken.got.tag)
                continue
            self._line.remove(taken)
            if failed is not None:
                self._refuse(taken)
            elif self._ack == "after":
                self._settle(taken.got, taken.msg, taken.key)
        self._settle_line()

    def _settle_line(self) -> None:
        """One acknowledgement for everything up to the first message that is not done."""
        done = []
        while self._line and self._line[0].got.tag in self._worked:
            done.append(self._line.popleft())
            self._worked.discard(done[-1].got.tag)
        for taken in done:
            row = self._job.tape.open("settle", msg=taken.msg, key=taken.key, lane=taken.got.lane, pos=taken.got.tag)
            self._unproven.append(row)
        if done and self._session.is_ready:
            self._session.channel.basic_ack(done[-1].got.tag, multiple=True)

    def _take_all(self) -> None:
        """Everything that has come, at once: there is no work that a kill could interrupt."""
        tape = self._job.tape
        batch = [got for got in self._inbox if not got.body.startswith(PROBE)]
        for got in self._inbox:
            if got.body.startswith(PROBE):
                self._pass_over(got)
        self._inbox.clear()
        if not batch:
            return
        now = tape.now()
        columns = received(self._verifier, batch, now)
        n = len(batch)
        tape.rows("receive", OK, n, **columns)
        if self._ack == "never":
            return
        settles = {name: columns[name] for name in ("start_ns", "msg", "key", "lane", "pos")}
        if self._ack == "auto":
            tape.rows("settle", OK, n, end_ns=now, **settles)
            return
        row = tape.rows("settle", OPEN, n, end_ns=-1, **settles)
        self._unproven.extend(range(row, row + n))
        if self._session.is_ready:
            ack = self._session.channel.basic_ack
            with self._session.corked():
                for got in batch:
                    ack(got.tag)

    def _settle(self, got: Delivery, msg: int, key: int) -> None:
        row = self._job.tape.open("settle", msg=msg, key=key, lane=got.lane, pos=got.tag)
        self._unproven.append(row)
        if self._session.is_ready:
            self._session.channel.basic_ack(got.tag)

    def _refuse(self, taken: _Taken) -> None:
        """The work failed: says so to the broker, or does not."""
        self._failed_work += 1
        if self._ack not in ("after", "never", "in_order") or not self._session.is_ready:
            return
        tag, leaves, requeue = taken.got.tag, self._on_error == "leave", self._on_error == "requeue"
        row = self._job.tape.open("settle", msg=taken.msg, key=taken.key, lane=taken.got.lane, pos=tag)
        if not leaves:
            self._session.channel.basic_nack(tag, requeue=requeue)
        self._left += leaves
        # "Was acknowledged" is what a settle says, and this was not.
        self._job.tape.close(row, FAIL, error="LEFT" if leaves else "REQUEUED" if requeue else "REJECTED")

    def _cancel(self, deadline: float) -> None:
        """Until the broker has said that no more will come."""
        if not self._session.is_ready:
            return
        answers: list[Any] = []
        due = self._subscription.cancel(self._session.channel, answers.append)
        while self._session.is_ready and len(answers) < due and time.monotonic() < deadline:
            self._session.poll(_WAIT_S)

    def _quit(self) -> None:
        """Takes no more, and keeps what it has not acknowledged in so far as what it does lets it."""
        self._quit_after = 0
        self._inbox.clear()
        if not self._session.is_ready:
            return
        if self._quit_by == "connection.close":
            self._session.leave("connection")
            return
        self._cancel(time.monotonic() + _END_S)
        if self._quit_by == "channel.close":
            self._session.leave("channel")

    def _pass_over(self, got: Delivery) -> None:
        if self._ack != "auto" and self._session.is_ready:
            self._session.channel.basic_ack(got.tag)

    # -- proof of acknowledgements -------------------------------------------------------------------------------------

    def _prove(self, at_once: bool = False) -> None:
        now = time.monotonic()
        due = at_once or len(self._unproven) >= _PROVE_EVERY_N or now - self._asked_at >= _PROVE_EVERY_S
        if self._unproven and self._asked is None and due and self._session.is_ready:
            self._asked, self._unproven, self._asked_at = self._unproven, [], now
            self._subscription.prove(self._session.channel, self._proved)

    def _proved(self, _: Any) -> None:
        if self._asked:
            self._job.tape.close_many(np.array(self._asked), OK)
        self._asked = None

    def _finish(self) -> None:
        """No new deliveries; what the broker holds as delivered for good (auto) is worked off, the rest goes back."""
        session, deadline = self._session, time.monotonic() + _END_S
        self._cancel(deadline)
        while self._inbox and self._ack == "auto":
            if self._job.work is None:
                self._take_all()
            else:
                self._take_one(self._inbox.popleft())
        if self._shards is not None:
            self._shards.close()
            self._take_back()
        while session.is_ready and (self._unproven or self._asked) and time.monotonic() < deadline:
            self._prove(at_once=True)
            session.poll(_WAIT_S)


def received(verifier: Any, batch: list[Delivery], now: int) -> dict[str, Any]:
    """The columns of ``receive`` rows."""
    n = len(batch)
    msg, key = verifier.read_many([got.body for got in batch])
    return {
        "start_ns": now, "end_ns": now, "msg": msg, "key": key,
        "lane": np.fromiter((got.lane for got in batch), np.int32, n),
        "pos": np.fromiter((got.tag for got in batch), np.int64, n),
        "attempt": np.fromiter((got.attempt for got in batch), np.int16, n),
    }  # fmt: skip
