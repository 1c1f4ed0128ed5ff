"""An idempotent or transactional producer, request by request: what a client library would hide.

Source: KIP-98, KIP-360, KIP-588, KIP-890.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from brokerproof.conformance.kafka.connection import Answer, Connection
from brokerproof.conformance.kafka.topics import Produced, Topic
from brokerproof.conformance.scene import Inconclusive
from brokerproof.wire.kafka import records
from brokerproof.wire.kafka.records import Record

if TYPE_CHECKING:
    from brokerproof.conformance.kafka.scene import KafkaScene

_OF_TRANSACTION = 1
_CONCURRENT = 51
#: Where a broker adds a partition by itself with the first Produce (transaction.version 2).
PRODUCE_ADDS, END_RAISES = 12, 5


class Producer:
    """sequence: of the next record, for each topic-partition.  id: transactional, or None."""

    def __init__(self, scene: KafkaScene, id: str | None, timeout_ms: int) -> None:
        self._scene = scene
        self.id, self.timeout_ms = id, timeout_ms
        self.pid, self.epoch = -1, -1
        self.sequence: dict[tuple[str, int], int] = {}
        self._added: set[tuple[str, int]] = set()

    # -- becoming one --------------------------------------------------------------------------------------------------

    def ask_id(self, **more: Any) -> Answer:
        """InitProducerId, once."""
        return self.to().ask(
            "init_producer_id", transactional_id=self.id, transaction_timeout=self.timeout_ms,
            **{"producer_id": -1, "producer_epoch": -1, **more},
        )  # fmt: skip

    def initialize(self) -> Answer:
        """Takes an id and an epoch; waits while the last transaction is being ended. Raises Inconclusive when refused."""
        from brokerproof.conformance.kafka.scene import NOT_YET

        answer = self._scene.settled(self.ask_id, unless=(*NOT_YET, _CONCURRENT))
        if answer.code != 0:
            raise Inconclusive(f"InitProducerId for {self.id!r}: {answer.seen()}")
        self.pid, self.epoch = answer.need()["producer_id"], answer.need()["producer_epoch"]
        self.sequence.clear()
        return answer

    def to(self) -> Connection:
        """The transaction coordinator's connection, or any node's for a producer that is only idempotent."""
        return self._scene.main() if self.id is None else self._scene.coordinator(self.id, _OF_TRANSACTION)

    # -- sending -------------------------------------------------------------------------------------------------------

    def batch(self, topic: Topic, values: Sequence[str | bytes], partition: int = 0, *, sequence: int | None = None, epoch: int | None = None) -> bytes:  # fmt: skip
        """The next batch for the partition; the sequence goes on where none is given."""
        where = (topic.name, partition)
        first = self.sequence.get(where, 0) if sequence is None else sequence
        if sequence is None:
            self.sequence[where] = (first + len(values)) % 2**31
        now = self._scene.now_ms()
        made = [Record(v.encode() if isinstance(v, str) else v, timestamp=now) for v in values]
        return records.batch(
            made, producer_id=self.pid, producer_epoch=self.epoch if epoch is None else epoch, base_sequence=first,
            attributes=0 if self.id is None else records.TRANSACTIONAL,
        )  # fmt: skip

    def send(self, topic: Topic, *values: str | bytes, partition: int = 0, version: int | None = None, add: bool = True) -> Produced:  # fmt: skip
        """Values in one batch; a transactional producer adds the partition to its transaction before. Waits while the last
        transaction is being ended."""
        if self.id is not None and add and (topic.name, partition) not in self._added:
            done = self._scene.settled(lambda: self.add(topic, partition), unless=(_CONCURRENT,))
            if done.code != 0:
                raise Inconclusive(f"AddPartitionsToTxn of {self.id}: {done.seen()}")
            self._added.add((topic.name, partition))
        chosen = version
        if version is None and self.id is not None and add:
            chosen = min(PRODUCE_ADDS - 1, self._scene.main().best("produce"))
        return self.send_batch(topic, self.batch(topic, values, partition), partition, version=chosen)

    def send_batch(self, topic: Topic, data: bytes, partition: int = 0, *, version: int | None = None) -> Produced:
        return topic.produce(data, partition, version=version, transactional=self.id)

    # -- a transaction -------------------------------------------------------------------------------------------------

    def add(self, topic: Topic, partition: int = 0, *, version: int | None = None, epoch: int | None = None) -> Answer:
        """AddPartitionsToTxn in a version for clients: from 4 on it is for brokers."""
        to = self.to()
        chosen = to.best("add_partitions_to_txn", most=3) if version is None else version
        epoch = self.epoch if epoch is None else epoch
        topics = [{"name": topic.name, "partitions": [partition]}]
        own: dict[str, Any] = {"transactional_id": self.id, "producer_id": self.pid, "producer_epoch": epoch}
        old: dict[str, Any] = {f"v3_and_below_{k}": v for k, v in {**own, "topics": topics}.items()}
        return to.ask(
            "add_partitions_to_txn", chosen, **own, **old, topics=topics,
            transactions=[{**own, "verify_only": False, "topics": topics}],
        )  # fmt: skip

    def end(self, commit: bool, *, version: int | None = None, epoch: int | None = None) -> Answer:
        """EndTxn, once. From version 5 on the answer has a new epoch, which is taken over. Default: version 4, the same epoch."""
        to = self.to()
        chosen = to.best("end_txn", most=END_RAISES - 1) if version is None else version
        answer = to.ask(
            "end_txn", chosen, transactional_id=self.id, producer_id=self.pid,
            producer_epoch=self.epoch if epoch is None else epoch, committed=commit,
        )  # fmt: skip
        if answer.code == 0:
            self._added.clear()
            if chosen >= END_RAISES:
                self.pid, self.epoch = answer.need()["producer_id"], answer.need()["producer_epoch"]
                self.sequence.clear()
        return answer

    def finish(self, commit: bool) -> Answer:
        """``end``, and again while the coordinator is not ready. Raises Inconclusive when it is refused."""
        answer = self._scene.settled(lambda: self.end(commit), unless=(14, 15, 16, _CONCURRENT))
        if answer.code != 0:
            raise Inconclusive(f"EndTxn of {self.id}: {answer.seen()}")
        return answer
