"""Clients of the memory broker: the same loops as the real ones', in threads."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from typing import Any

from brokerproof.brokers.base import ReadJob, ReceiveJob, SendJob
from brokerproof.brokers.shards import Shards
from brokerproof.history import FAIL, INFO, OK
from brokerproof.message import Read, Verifier

#: (partition, tag, what it says)
_Taken = tuple[int, int, Read]
_consumers = itertools.count(1)
_IDLE_S = 0.0005


def send(job: SendJob) -> None:
    """settings: ``confirm`` (default true): without it a send is ``ok`` when it was handed to the link; ``grow_after``: so
    many messages go to all partitions but the last, those after them to all."""
    cluster, tape = job.endpoint["cluster"], job.tape
    link = cluster.link(job.endpoint["group"])
    confirm = bool(job.sender.settings.get("confirm", True))
    timeout_ns = int(job.sender.timeout_s * 1e9)
    epoch = link.epoch
    grown_from = job.pace.sent + int(job.sender.settings.get("grow_after", 0))
    retries: list[tuple[int, int]] = []  # (when, message) that the application will send again

    def lane_of(msg: int, key: int) -> int:
        by = key if job.sender.spread == "key" and key >= 0 else msg
        return by % (job.partitions - (msg < grown_from))

    def attempt(msg: int, due: int) -> None:
        nonlocal epoch
        key = job.pace.key(msg)
        partition = lane_of(msg, key)
        lane = job.lane + partition
        if link.epoch != epoch:
            epoch = link.epoch
            if not confirm:
                # As with TCP, the first write to a connection that is dead succeeds, and only the next one says so.
                tape.close(tape.open("send", msg=msg, key=key, lane=lane, due_ns=due), OK)
                tape.reconnected()
                return
            tape.reconnected()
        body = job.bodies.one(msg, key)
        row = tape.open("send", msg=msg, key=key, lane=lane, due_ns=due)
        passage = link.passage(len(body))

        def act() -> None:
            position = cluster.store(job.destination, partition, body)
            tape.close(row, OK, pos=position if job.kind == "log" else -1)

        if passage == "passes":
            act()
        elif not confirm and passage != "refused":
            tape.close(row, OK)  # written to the socket: that is all it knows
            if passage in ("unanswered", "answered_late"):
                cluster.store(job.destination, partition, body)
            elif passage == "held":
                link.hold(lambda: cluster.store(job.destination, partition, body))
        elif passage == "refused":
            tape.close(row, FAIL, error="ConnectionRefused")
        elif passage == "reset":
            tape.close(row, INFO, error="ConnectionReset")
        elif passage == "held":
            link.hold(act)
        elif passage == "answered_late":
            position = cluster.store(job.destination, partition, body)
            link.hold(lambda: tape.close(row, OK, pos=position if job.kind == "log" else -1))
        elif passage == "unanswered":
            cluster.store(job.destination, partition, body)
        if job.sender.resend and tape.now() and passage not in ("passes", "held", "answered_late"):
            heapq.heappush(
                retries, (tape.now() + (timeout_ns if passage in ("unanswered", "swallowed") else 10_000_000), msg)
            )

    while not job.stopping():
        now = tape.now()
        first = job.pace.sent
        due = job.pace.take(now, 64)
        for msg in range(first, first + due):
            attempt(msg, job.pace.due_ns(msg))
        while retries and retries[0][0] <= now:
            attempt(heapq.heappop(retries)[1], -1)
        if not due:
            if job.pace.over(now) and not retries:
                break
            time.sleep(_IDLE_S)


def receive(job: ReceiveJob) -> None:
    """settings: ``ack`` = ``after``, ``first`` or ``auto``; ``member`` = (number, of how many) where the partitions are
    divided among consumers; ``on_error`` = ``requeue`` or ``leave``, when the work fails; ``shards`` and ``shard_by`` of
    ``brokers/shards.py``. Holds up to ``prefetch`` messages in hand."""
    cluster, tape = job.endpoint["cluster"], job.tape
    link = cluster.link(job.endpoint["group"])
    verifier = job.verifier()
    mode = job.receiver.settings.get("ack", "after")
    me = next(_consumers)
    epoch = link.epoch
    job.report(connected=True)
    hand: deque[_Taken] = deque()
    left: list[_Taken] = []  # unacknowledged, for good
    shards: Shards[_Taken] | None = None
    if "shards" in job.receiver.settings:
        shards = Shards(job.receiver.settings, lambda taken: _work(job, taken))
    try:
        while not job.stopping():
            if link.epoch != epoch:
                epoch = link.epoch
                cluster.release(me)
                hand.clear()
                left.clear()
                me = next(_consumers)
                tape.reconnected()
            for taken, failed in shards.done() if shards is not None else ():
                _ended(job, cluster, taken, failed, left)
            if link.passage() == "passes":
                room = job.receiver.prefetch - len(left) - (shards.in_hand if shards is not None else 0)
                _fill(job, cluster, verifier, hand, me, room, settle_now=mode == "auto")
            if not hand:
                time.sleep(_IDLE_S)
                continue
            taken = hand.popleft()
            if mode == "first":
                _settle(job, cluster, *taken)
            if shards is not None:
                shards.put(taken, taken[2].key)
                continue
            try:
                _work(job, taken)
            except Exception as exc:  # whatever the work met: this is the application's own rule for it
                _ended(job, cluster, taken, exc, left)
            else:
                _ended(job, cluster, taken, None, left)
        if shards is not None:
            shards.close()
            for taken, failed in shards.done():
                _ended(job, cluster, taken, failed, left)
    finally:
        cluster.release(me)  # a closed connection, or a killed consumer: the broker gives its messages to others


def _work(job: ReceiveJob, taken: _Taken) -> None:
    partition, _, read = taken
    if job.work is not None:
        job.work(read.msg, read.key, job.lane + partition)


def _ended(job: ReceiveJob, cluster: Any, taken: _Taken, failed: Exception | None, left: list[_Taken]) -> None:
    """Acknowledges what was worked on, and does what is to be done with what failed."""
    if job.receiver.settings.get("ack", "after") != "after":
        return
    partition, tag, read = taken
    if failed is None:
        _settle(job, cluster, *taken)
        return
    leaves = job.receiver.settings.get("on_error", "requeue") == "leave"
    if leaves:
        left.append(taken)
    else:
        cluster.requeue(job.destination, partition, tag)
    now = job.tape.now()
    job.tape.row("settle", FAIL, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=job.lane + partition, pos=tag,
                 error="LEFT" if leaves else "REQUEUED")  # fmt: skip


def _fill(
    job: ReceiveJob, cluster: Any, verifier: Verifier, hand: deque[_Taken], me: int, room: int, *, settle_now: bool
) -> None:  # fmt: skip
    tape = job.tape
    member, of = job.receiver.settings.get("member", (0, 1))
    for partition in range(member, job.partitions, of):
        while len(hand) < room and (got := cluster.fetch(job.destination, partition, me)) is not None:
            tag, message = got
            read = verifier.read(message.body)
            now = tape.now()
            tape.row("receive", OK, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=job.lane + partition,
                     attempt=message.attempt, pos=tag if job.kind == "queue" else -1, error=read.problem)  # fmt: skip
            if settle_now:
                _settle(job, cluster, partition, tag, read)
            hand.append((partition, tag, read))


def _settle(job: ReceiveJob, cluster: Any, partition: int, tag: int, read: Read) -> None:
    row = job.tape.open("settle", msg=read.msg, key=read.key, lane=job.lane + partition, pos=tag)
    job.tape.close(row, OK if cluster.settle(job.destination, partition, tag) else FAIL)


def read(job: ReadJob) -> None:
    """Everything that is still there; a lane that is gone is *definition_lost*."""
    cluster, tape, verifier = job.endpoint["cluster"], job.tape, job.verifier()
    me = next(_consumers)
    for partition in range(job.partitions):
        lane = job.lane + partition
        if (job.destination, partition) not in cluster.lanes:
            now = tape.now()
            tape.row("control", OK, start_ns=now, end_ns=now, lane=lane, error="definition_lost")
            continue
        while (got := cluster.fetch(job.destination, partition, me)) is not None:
            tag, message = got
            read = verifier.read(message.body)
            now = tape.now()
            tape.row("receive", OK, start_ns=now, end_ns=now, msg=read.msg, key=read.key, lane=lane,
                     attempt=message.attempt, pos=tag if job.kind == "queue" else -1, error=read.problem)  # fmt: skip
            cluster.settle(job.destination, partition, tag)
        now = tape.now()
        tape.row("control", OK, start_ns=now, end_ns=now, lane=lane, error="drained")
