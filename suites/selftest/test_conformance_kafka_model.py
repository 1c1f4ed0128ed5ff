"""One topic-partition of the reference peer against a list: whatever is produced, repeated, deleted and read, in any order."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brokerproof.conformance.case import Case, must
from brokerproof.conformance.case import case as declared
from brokerproof.conformance.kafka.reference import on_reference
from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.wirelog import WireLog

_OUT_OF_RANGE, _OUT_OF_ORDER = 1, 45


def _case() -> Case:
    """Made here, so that nobody collects it as a case of the suites."""

    @declared(
        "K9.99", "kafka/model", requirement="None.", reference="none", level="MUST", accepts={"": must()}, limit_s=600
    )
    def script(scene: KafkaScene) -> None:
        """The machine plays."""

    made: Case = script.brokerproof_case  # type: ignore[attr-defined]  # as ``case`` marks a function
    return made


class Partition(RuleBasedStateMachine):
    """The model: the values ever appended, and where the log begins."""

    def __init__(self) -> None:
        super().__init__()
        self._open = contextlib.ExitStack()
        ground: Any = on_reference()
        self.scene: KafkaScene = self._open.enter_context(
            ground.scene(_case(), variant="", condition="", log=WireLog(), stop=lambda: False)
        )
        self.topic, self.producer = self.scene.topic(), self.scene.producer()
        self.log: list[bytes] = []
        self.start = 0
        #: (batch, base offset) of what the producer sent last.
        self.sent: list[tuple[bytes, int]] = []

    def teardown(self) -> None:
        self._open.close()

    @rule(values=st.lists(st.binary(max_size=5), min_size=1, max_size=4))
    def append(self, values: list[bytes]) -> None:
        assert self.topic.fill(*values) == len(self.log)
        self.log += values

    @rule(values=st.lists(st.binary(max_size=5), min_size=1, max_size=3))
    def append_in_sequence(self, values: list[bytes]) -> None:
        data = self.producer.batch(self.topic, values)
        done = self.topic.produce(data)
        assert (done.code, done.base_offset) == (0, len(self.log))
        self.sent = [*self.sent, (data, len(self.log))][-5:]
        self.log += values

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        batch, base = data.draw(st.sampled_from(self.sent))
        done = self.topic.produce(batch)
        assert (done.code, done.base_offset) == (0, base)

    @precondition(lambda self: self.sent)
    @rule(skipped=st.integers(1, 9))
    def skip_a_sequence(self, skipped: int) -> None:
        due = self.producer.sequence[self.topic.name, 0]
        assert (
            self.topic.produce(self.producer.batch(self.topic, ["gap"], sequence=due + skipped)).code == _OUT_OF_ORDER
        )

    @rule(before=st.integers(0, 30))
    def delete(self, before: int) -> None:
        _, code, _ = self.topic.delete_records(before)
        assert code == (0 if before <= len(self.log) else _OUT_OF_RANGE)
        if before <= len(self.log):
            self.start = before

    @rule(offset=st.integers(0, 30))
    def fetch(self, offset: int) -> None:
        found = self.topic.fetch(offset, max_wait_ms=0)
        if not self.start <= offset <= len(self.log):
            assert found.code == _OUT_OF_RANGE
            return
        # The batch that holds the offset comes whole, records before it with it.
        came = [r.value for b in found.batches for r in b.records if r.offset >= offset]
        assert (found.code, came) == (0, self.log[offset:])

    @invariant()
    def ends(self) -> None:
        assert (self.topic.start(), self.topic.end()) == (self.start, len(self.log))


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
