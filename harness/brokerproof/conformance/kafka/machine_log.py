"""One topic-partition against a list: whatever is produced, repeated in sequence, skipped, deleted and read, in any order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.modelled import Machine, stand_in

_OUT_OF_RANGE, _OUT_OF_ORDER = 1, 45
_OFFSETS = st.integers(0, 30)
#: So many batches of a producer the broker remembers (KIP-98).
_REMEMBERED = 5


class Log(Machine):
    """The model: the values ever appended, and where the log begins."""

    case = stand_in("K0.01", "kafka/model-log", "A topic-partition does as a list does.")
    scene: KafkaScene

    def __init__(self) -> None:
        super().__init__()
        self.topic, self.producer = self.scene.topic(), self.scene.producer()
        self.log: list[bytes] = []
        self.start = 0
        #: (batch, base offset) of what the producer sent last.
        self.sent: list[tuple[bytes, int]] = []

    @rule(values=st.lists(st.binary(max_size=5), min_size=1, max_size=4))
    def append(self, values: list[bytes]) -> None:
        assert self.topic.fill(*values) == len(self.log), "the batch's offset"
        self.log += values

    @rule(values=st.lists(st.binary(max_size=5), min_size=1, max_size=3))
    def append_in_sequence(self, values: list[bytes]) -> None:
        data = self.producer.batch(self.topic, values)
        done = self.topic.produce(data)
        assert (done.code, done.base_offset) == (0, len(self.log)), "the batch's offset"
        self.sent = [*self.sent, (data, len(self.log))][-_REMEMBERED:]
        self.log += values

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, _REMEMBERED - 1))
    def repeat(self, which: int) -> None:
        batch, base = self.sent[which % len(self.sent)]
        # What was deleted of it stays deleted; whether the producer is still known then is nowhere said.
        if base >= self.start:
            done = self.topic.produce(batch)
            assert (done.code, done.base_offset) == (0, base), "a repeated batch's offset"

    @precondition(lambda self: self.sent and self.sent[-1][1] >= self.start)
    @rule(skipped=st.integers(1, 9))
    def skip_a_sequence(self, skipped: int) -> None:
        due = self.producer.sequence[self.topic.name, 0]
        done = self.topic.produce(self.producer.batch(self.topic, ["gap"], sequence=due + skipped))
        assert done.code == _OUT_OF_ORDER, "a gap in the sequence"

    @rule(before=_OFFSETS)
    def delete(self, before: int) -> None:
        _, code, low = self.topic.delete_records(before)
        assert code == (0 if before <= len(self.log) else _OUT_OF_RANGE), "DeleteRecords"
        if before <= len(self.log):
            self.start = max(self.start, before)
            assert low == self.start, "the low watermark"

    @rule(offset=_OFFSETS)
    def fetch(self, offset: int) -> None:
        found = self.topic.fetch(offset, max_wait_ms=0)
        if not self.start <= offset <= len(self.log):
            assert found.code == _OUT_OF_RANGE, "a fetch outside the log"
            return
        # The batch that holds the offset comes whole, records before it with it.
        came = [r.value for b in found.batches for r in b.records if r.offset >= offset]
        assert (found.code, came) == (0, self.log[offset:]), "what is fetched"

    @invariant()
    def begins_and_ends(self) -> None:
        assert (self.topic.start(), self.topic.end()) == (self.start, len(self.log)), "where the log begins and ends"
