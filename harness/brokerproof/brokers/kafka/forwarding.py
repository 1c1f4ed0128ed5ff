"""The receiver that reads, processes and writes: each message goes on to another topic of the trial (KIP-98).

    begin, produce, (processing), send offsets to the transaction, commit        with ``transactional.id``
    produce and flush, (processing), commit the offset                          without

Settings: ``forward_to`` the destination's name in the plan, ``hold_ms`` (40) how long processing takes once the message has been
written; ``transactional.id``, the same for whoever takes over. What arrives there is the effect: the final read of that
destination tells it (setting ``effects`` of the destination), since the forwarder does not live to tell what became of it.
Source: KIP-98, transactional guarantees; KIP-447, fencing by the consumer group's metadata.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from brokerproof.brokers.base import ReceiveJob
from brokerproof.brokers.kafka import outcomes
from brokerproof.brokers.kafka.receiving import Batch, Rows, do_work, group_of
from brokerproof.brokers.kafka.settings import common, of_consumer
from brokerproof.history import OK, OUTCOME

_POLL_S = 0.1
_CALL_S = 10.0
_HOLD_MS = 40.0
#: Of a transaction that nobody ends; a successor with the same id ends it sooner.
_TRANSACTION_TIMEOUT_MS = 10_000


def receive(job: ReceiveJob) -> None:
    """See ``brokers.base.ReceiveJob``."""
    _Forwarding(job).run()


class _Forwarding:
    def __init__(self, job: ReceiveJob) -> None:
        settings = job.receiver.settings
        self._job = job
        self._rows = Rows(job)
        self._target = job.prefix + str(settings["forward_to"])
        self._hold_s = float(settings.get("hold_ms", _HOLD_MS)) / 1000
        self._id = str(settings.get("transactional.id", ""))
        own = {**common(job), "enable.idempotence": True, "linger.ms": 0}
        if self._id:
            own |= {"transactional.id": job.prefix + self._id, "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS}
        self._config = own
        self._producer = self._connect()
        self._consumer = Consumer(
            {**of_consumer(job, group_of(job)), "enable.auto.commit": False, "isolation.level": "read_committed"}
        )
        self._consumer.subscribe([job.destination], on_assign=lambda *_: job.report(connected=True))

    def _connect(self) -> Producer:
        producer = Producer(self._config)
        if self._id:
            producer.init_transactions(_CALL_S)
        return producer

    def run(self) -> None:
        job = self._job
        try:
            while not job.stopping():
                start = job.tape.now()
                messages = self._consumer.consume(num_messages=1, timeout=_POLL_S)
                batch, kept = self._rows.write(messages, start)
                for at, message in enumerate(kept):
                    self._forward(batch.part(slice(at, at + 1)), message)
        finally:
            self._consumer.close()

    def _forward(self, batch: Batch, message: Message) -> None:
        """One message; where that comes to nothing, it is read again."""
        tape, start = self._job.tape, self._job.tape.now()
        partition, offset = message.partition() or 0, message.offset() or 0
        done = [TopicPartition(self._job.destination, partition, offset + 1)]
        error = ""
        lane, msg, key = self._job.lane + partition, int(batch.msg[0]), int(batch.key[0])
        # Open from here: until the offset is committed, with the transaction or by itself, the message is in hand.
        row = tape.open("settle", msg=msg, key=key, lane=lane, pos=offset, batch=batch.number)
        try:
            if self._id:
                self._producer.begin_transaction()
            self._producer.produce(self._target, message.value() or b"", key=message.key())
            self._producer.flush(_CALL_S)
            do_work(self._job, batch)  # what the plan wants done outside of Kafka as well
            time.sleep(self._hold_s)  # the processing: this is load, nothing is waited for
            if self._id:
                self._producer.send_offsets_to_transaction(done, self._consumer.consumer_group_metadata(), _CALL_S)
                self._producer.commit_transaction(_CALL_S)
            else:
                self._consumer.commit(offsets=done, asynchronous=False)
        except KafkaException as exc:
            error = exc.args[0].name()
            self._undo(TopicPartition(self._job.destination, partition, offset))
        outcome = OUTCOME[outcomes.meaning(outcomes.COMMITTED, error).outcome] if error else OK
        tape.row(
            "commit", outcome, start_ns=start, end_ns=tape.now(), lane=lane, batch=batch.number, value=offset + 1, error=error
        )  # fmt: skip
        tape.close(row, outcome, error=error)

    def _undo(self, back_to: TopicPartition) -> None:
        """Aborts; a producer that cannot even do that is of no more use."""
        if self._id:
            try:
                self._producer.abort_transaction(_CALL_S)
            except KafkaException:
                self._producer = self._connect()
        self._consumer.seek(back_to)
