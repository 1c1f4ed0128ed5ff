"""The receiver: a member of a consumer group that works on what it gets and commits offsets.

    ack "after"   poll, work, commit what was worked on        a kill in between delivers again
    ack "first"   poll, commit, work                           a kill in between loses
    poll_every_ms  it asks so often, and waits for nothing; otherwise it waits in its poll
    ack "auto"    the library commits what it handed out, every ``auto.commit.interval.ms``

A commit is one number per partition: every message below it is settled by it. Commits are synchronous, so their
outcome is known; one per poll, or one per message where the work on a message takes a while (or ``commit`` says so).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from brokerproof.brokers.base import ReceiveJob
from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.probe import PROBE_BODY
from brokerproof.brokers.kafka.settings import of_consumer, tellable
from brokerproof.history import OK, OUTCOME

_POLL_S = 0.1
#: From this much work on a message on, each is committed by itself: a kill then costs one message and not a poll's.
_SLOW_WORK_MS = 1.0
_AUTO_COMMIT_MS = 200


@dataclass(slots=True)
class Batch:
    """Messages of one poll, as columns."""

    number: int
    msg: npt.NDArray[np.int64]
    key: npt.NDArray[np.int32]
    lane: npt.NDArray[np.int32]
    pos: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.msg)

    def part(self, chosen: slice | npt.NDArray[Any]) -> Batch:
        return Batch(self.number, self.msg[chosen], self.key[chosen], self.lane[chosen], self.pos[chosen])


def receive(job: ReceiveJob) -> None:
    """See ``brokers.base.ReceiveJob``."""
    _Receiving(job).run()


def group_of(job: ReceiveJob) -> str:
    """Unique to the trial, since the destination's name is."""
    return f"{job.destination}-{job.receiver.group}"


class Rows:
    """Turns messages into receive rows. Probes of the harness, and what is no message at all, are passed over."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._verifier = job.verifier()
        self._polls = 0

    def write(self, messages: Sequence[Message], start_ns: int, attempts: bool = False) -> tuple[Batch, list[Message]]:
        """The batch, and the messages that it was made of, in the same order."""
        job = self._job
        kept = [m for m in messages if m.error() is None and not (m.value() or b"").startswith(PROBE_BODY)]
        n, self._polls = len(kept), self._polls + 1
        msg, key = self._verifier.read_many([m.value() or b"" for m in kept])
        lane = np.fromiter(map(Message.partition, kept), np.int32, n) + np.int32(job.lane)
        pos = np.fromiter(map(Message.offset, kept), np.int64, n)
        batch = Batch(self._polls, msg, key, lane, pos)
        told = job.destination_settings.get("effects")
        if n and told == "elsewhere":
            pass  # copies, which nobody asks for
        elif n and told:
            # Another topic than the message was sent to: its being here is what became of it.
            now = job.tape.now()
            job.tape.rows(
                "effect", OK, n, start_ns=start_ns, end_ns=now, msg=msg, key=key, lane=-1, pos=pos, batch=self._polls
            )
        elif n:
            more = {"attempt": np.array([_attempt(m) for m in kept], np.int16)} if attempts else {}
            job.tape.rows(
                "receive", OK, n, start_ns=start_ns, end_ns=job.tape.now(), msg=msg, key=key, lane=lane, pos=pos,
                batch=self._polls, **more,
            )  # fmt: skip
        return batch, kept


def _attempt(message: Message) -> int:
    # A share group counts the first delivery as 1; attempt 0 is the first.
    count = message.delivery_count()
    return -1 if count is None else count - 1


def do_work(job: ReceiveJob, batch: Batch) -> None:
    if job.work is not None:
        for msg, key, lane in zip(batch.msg.tolist(), batch.key.tolist(), batch.lane.tolist(), strict=True):
            if msg >= 0:
                job.work(msg, key, lane)


def commits_each(job: ReceiveJob) -> bool:
    """Whether every message is committed by itself."""
    slow = job.work is not None and (job.receiver.work_ms or 0) >= _SLOW_WORK_MS
    return bool(job.receiver.settings.get("commit", "message" if slow else "poll") == "message")


class _Receiving:
    def __init__(self, job: ReceiveJob) -> None:
        self._job = job
        self._rows = Rows(job)
        self._ack = str(job.receiver.settings.get("ack", "after"))
        self._each = commits_each(job)
        self._handed: list[Batch] = []
        config = of_consumer(job, group_of(job))
        config["enable.auto.commit"] = self._ack == "auto"
        if self._ack == "auto":
            config.setdefault("auto.commit.interval.ms", _AUTO_COMMIT_MS)
        job.report(client_settings=tellable(job, config))
        self._consumer = Consumer({**config, "on_commit": self._committed})
        self._consumer.subscribe(
            [job.destination], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def run(self) -> None:
        job = self._job
        every_s = float(job.receiver.settings.get("poll_every_ms", 0)) / 1000
        empty = 0
        try:
            while not job.stopping():
                start = job.tape.now()
                timeout_s = 0.0 if every_s else _POLL_S
                messages = self._consumer.consume(num_messages=max(1, job.receiver.prefetch), timeout=timeout_s)
                if messages:
                    batch, _ = self._rows.write(messages, start)
                    if len(batch):
                        self._handle(batch)
                elif every_s:
                    empty += 1
                    time.sleep(every_s)
        finally:
            self._consumer.close()
        if every_s:
            job.report(empty_polls=empty)

    def _handle(self, batch: Batch) -> None:
        if self._ack == "auto":
            self._handed.append(batch)
            do_work(self._job, batch)
            return
        size = 1 if self._each else len(batch)
        for at in range(0, len(batch), size):
            part = batch.part(slice(at, at + size))
            if self._ack == "first":
                self._commit(part)
                do_work(self._job, part)
            else:
                do_work(self._job, part)
                self._commit(part)

    # -- commits -------------------------------------------------------------------------------------------------------

    def _commit(self, batch: Batch) -> None:
        job, start = self._job, self._job.tape.now()
        wanted = [TopicPartition(job.destination, lane - job.lane, pos + 1) for lane, pos in _ends(batch).items()]
        try:
            done = self._consumer.commit(offsets=wanted, asynchronous=False) or []
            errors = {p.partition: p.error.name() for p in done if p.error is not None}
            error_of_all = ""
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            errors, error_of_all = {}, error.name()
        for p in wanted:
            self._settled(batch, p.partition, p.offset, errors.get(p.partition, error_of_all), start)

    def _settled(self, batch: Batch, partition: int, offset: int, error: str, start: int) -> None:
        """The commit's row, and one for each message of the batch that it covers."""
        tape, lane = self._job.tape, self._job.lane + partition
        outcome = OUTCOME[outcomes.meaning(outcomes.COMMITTED, error).outcome] if error else OK
        end = tape.now()
        tape.row(
            "commit", outcome, start_ns=start, end_ns=end, lane=lane, batch=batch.number, value=offset, error=error
        )
        covered = np.flatnonzero((batch.lane == lane) & (batch.pos < offset))
        if len(covered):
            tape.rows(
                "settle", outcome, len(covered), start_ns=start, end_ns=end, msg=batch.msg[covered],
                key=batch.key[covered], lane=lane, pos=batch.pos[covered], batch=batch.number,
                error=tape.error_code(error),
            )  # fmt: skip

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """The library has committed by itself (auto); our own commits are recorded where they are made."""
        if self._ack != "auto":
            return
        now = self._job.tape.now()
        for p in partitions:
            if p.offset < 0:
                continue
            name = (p.error or error).name() if (p.error or error) else ""  # type: ignore[union-attr]  # one is there
            lane = self._job.lane + p.partition
            left: list[Batch] = []
            parts = []
            for batch in self._handed:
                covered = (batch.lane == lane) & (batch.pos < p.offset)
                if covered.any():
                    parts.append(batch.part(covered))
                    if name:
                        left.append(batch)  # another commit may cover it yet
                    elif not covered.all():
                        left.append(batch.part(~covered))
                else:
                    left.append(batch)
            self._handed = left
            whole = _joined(parts)
            self._settled(whole, p.partition, p.offset, name, now)

    # -- the group -----------------------------------------------------------------------------------------------------

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._told("assign", partitions)
        self._job.report(connected=True)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._told("revoke", partitions)

    def _told(self, f: str, partitions: list[TopicPartition]) -> None:
        now = self._job.tape.now()
        for p in partitions:
            self._job.tape.row(f, OK, start_ns=now, end_ns=now, lane=self._job.lane + p.partition)


def _ends(batch: Batch) -> dict[int, int]:
    """Highest position of each lane."""
    return {int(lane): int(batch.pos[batch.lane == lane].max()) for lane in np.unique(batch.lane)}


def _joined(parts: Sequence[Batch]) -> Batch:
    if not parts:
        return Batch(-1, *_NOTHING)
    return Batch(
        parts[-1].number, np.concatenate([p.msg for p in parts]), np.concatenate([p.key for p in parts]),
        np.concatenate([p.lane for p in parts]), np.concatenate([p.pos for p in parts]),
    )  # fmt: skip


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
