"""The receiver as a member of a share group (KIP-932): several consumers on one partition, record by record.

    ack "after"   poll, work, accept each record     what is not accepted within the lock is given to another consumer
    ack "first"   poll, accept, work
    ack "auto"    the library accepts a poll's records with the next poll (share.acknowledgement.mode implicit)

Needs brokers of 4.1 or newer with ``share.version`` 1, which is the default from 4.2 on. Positions are told, and a
delivery count; there is no committed offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, ShareConsumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though its stubs do not say so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from brokerproof.brokers.base import ReceiveJob
from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.receiving import Batch, Rows, commits_each, do_work, group_of
from brokerproof.brokers.kafka.settings import common, of_share_consumer, tellable
from brokerproof.history import OK, OUTCOME

_POLL_S = 0.2
_ACCEPT_S = 10.0


def receive(job: ReceiveJob) -> None:
    """See ``brokers.base.ReceiveJob``."""
    _Sharing(job).run()


def start_at_earliest(job: ReceiveJob, group: str) -> None:
    """A share group's start is set on the group at the broker, and is the end of the log by default."""
    entry = ConfigEntry("share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=[entry])
    admin = AdminClient(common(job))  # kept until the answer is here: it takes its requests with it
    while not job.stopping():
        try:
            for future in admin.incremental_alter_configs([resource], request_timeout=_ACCEPT_S).values():
                future.result(timeout=_ACCEPT_S + 1)
            return
        except (KafkaException, TimeoutError):
            admin.poll(_POLL_S)


class _Sharing:
    def __init__(self, job: ReceiveJob) -> None:
        self._job = job
        self._rows = Rows(job)
        self._ack = str(job.receiver.settings.get("ack", "after"))
        self._each = commits_each(job)
        self._handed: dict[tuple[int, int], tuple[int, int, int]] = {}  # (partition, offset) -> (msg, key, batch)
        group = group_of(job)
        start_at_earliest(job, group)
        config = of_share_consumer(job, group)
        config["share.acknowledgement.mode"] = "implicit" if self._ack == "auto" else "explicit"
        job.report(client_settings=tellable(job, config))
        self._consumer = ShareConsumer(config)
        if self._ack == "auto":
            self._consumer.set_acknowledgement_commit_callback(self._accepted_by_library)
        self._consumer.subscribe([job.destination])
        job.report(connected=True)

    def run(self) -> None:
        job = self._job
        try:
            while not job.stopping():
                start = job.tape.now()
                try:
                    messages = list(self._consumer.poll(_POLL_S))
                except KafkaException:
                    continue  # a connection that is down; the library goes on by itself
                if messages:
                    self._handle(messages, start)
        finally:
            self._consumer.close()

    def _handle(self, messages: Sequence[Message], start: int) -> None:
        batch, kept = self._rows.write(messages, start, attempts=True)
        if self._ack == "auto":
            for i, message in enumerate(kept):
                told = int(batch.msg[i]), int(batch.key[i]), batch.number
                self._handed[message.partition() or 0, message.offset() or 0] = told
            do_work(self._job, batch)
            return
        # Every record of a poll has to be answered before the next, the harness's own probes too.
        others = (
            [m for m in messages if m.error() is None and not any(m is k for k in kept)]
            if len(kept) < len(messages)
            else []
        )
        if others:
            self._accept(others, batch.part(slice(0, 0)))
        size = 1 if self._each else max(1, len(batch))
        for at in range(0, len(batch), size):
            part, records = batch.part(slice(at, at + size)), kept[at : at + size]
            if self._ack == "first":
                self._accept(records, part)
                do_work(self._job, part)
            else:
                do_work(self._job, part)
                self._accept(records, part)

    def _accept(self, records: Sequence[Message], batch: Batch) -> None:
        start = self._job.tape.now()
        errors: dict[int, str] = {}
        error_of_all = ""
        try:
            for record in records:
                self._consumer.acknowledge(record)
            for place, exception in self._consumer.commit_sync(_ACCEPT_S).items():
                if exception is not None:
                    errors[place.partition] = exception.args[0].name()
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            error_of_all = error.name()
        for lane in np.unique(batch.lane).tolist():
            part = batch.part(np.flatnonzero(batch.lane == lane))
            self._settled(part, lane, errors.get(lane - self._job.lane, error_of_all), start)

    def _settled(self, batch: Batch, lane: int, error: str, start: int) -> None:
        tape = self._job.tape
        outcome = OUTCOME[outcomes.meaning(outcomes.ACCEPTED, error).outcome] if error else OK
        tape.rows(
            "settle", outcome, len(batch), start_ns=start, end_ns=tape.now(), msg=batch.msg, key=batch.key, lane=lane,
            pos=batch.pos, batch=batch.number, error=tape.error_code(error),
        )  # fmt: skip

    def _accepted_by_library(
        self, offsets: Mapping[TopicPartition, set[int]], exception: KafkaException | None
    ) -> None:
        now = self._job.tape.now()
        error = "" if exception is None else exception.args[0].name()
        for place, accepted in offsets.items():
            pos = [p for p in sorted(accepted) if (place.partition, p) in self._handed]
            told = [self._handed.pop((place.partition, p)) for p in pos]
            if not told:
                continue
            lane = self._job.lane + place.partition
            batch = Batch(
                told[-1][2], np.array([t[0] for t in told]), np.array([t[1] for t in told], np.int32),
                np.full(len(told), lane, np.int32), np.array(pos),
            )  # fmt: skip
            self._settled(batch, lane, error, now)
