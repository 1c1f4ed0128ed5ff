"""A classic consumer group against a set of members and a table of offsets: who joins, leaves, falls silent and commits, in any order.

The model: who is a member, the generation, and the offset committed for each partition. After every change of members all that are
left join again, as clients do when they are told of a rebalance; then each partition has exactly one owner.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from brokerproof.conformance.kafka.groups import REBALANCE_IN_PROGRESS, UNKNOWN_MEMBER_ID, Classic, commit, together
from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.modelled import Machine, stand_in
from brokerproof.conformance.scene import Inconclusive

_ILLEGAL_GENERATION, _NON_EMPTY = 22, 68
_PARTITIONS, _MEMBERS_MAX = 4, 3
#: The shortest that a broker takes; a reference peer's second is over before a busy machine has done much.
_SESSION_MS, _SESSION_FAST_MS = 6000, 20_000
_WHICH = st.integers(0, _MEMBERS_MAX - 1)
_PARTITION, _OFFSET = st.integers(0, _PARTITIONS - 1), st.integers(0, 1000)


class Groups(Machine):
    """members: as far as the model knows. generation: of the last time that they came together; it never falls."""

    case = stand_in("K0.02", "kafka/model-groups", "A classic group does as the model does.")
    scene: KafkaScene

    def __init__(self) -> None:
        super().__init__()
        self.topic, self.group = self.scene.topic(partitions=_PARTITIONS), self.scene.group()
        self.members: list[Classic] = []
        self.generation = 0
        self.session_ms = _SESSION_FAST_MS if self.scene.scale < 1 else _SESSION_MS
        self.committed = dict.fromkeys(range(_PARTITIONS), -1)

    # -- members -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.members) < _MEMBERS_MAX)
    @rule()
    def join(self) -> None:
        self.members.append(Classic(self.scene, self.group, [self.topic], session_ms=self.session_ms))
        self._come_together()

    @precondition(lambda self: self.members)
    @rule(which=_WHICH)
    def leave(self, which: int) -> None:
        gone = self._out(which)
        assert gone.leave().code == 0, "LeaveGroup"
        assert gone.heartbeat().code == UNKNOWN_MEMBER_ID, "a heartbeat of one that left"
        self._come_together()

    @precondition(lambda self: len(self.members) > 1)
    @rule(which=_WHICH)
    def fall_silent(self, which: int) -> None:
        gone = self._out(which)

        # Asked of every one each time: whoever is not asked falls silent too.
        def everybody() -> bool:
            answers = [self._is_told(m) for m in self.members]
            return all(answers)

        told = self.scene.eventually(everybody, 3 * self.session_ms / 1000)
        assert told, "nobody was told that a member's session is over"
        self._come_together()
        assert gone.heartbeat().code == UNKNOWN_MEMBER_ID, "a heartbeat of one whose session is over"

    @precondition(lambda self: self.members)
    @rule(which=_WHICH)
    def beat_as_of_old(self, which: int) -> None:
        member = self._member(which)
        assert member.heartbeat(generation=self.generation - 1).code == _ILLEGAL_GENERATION, (
            "an old generation's heartbeat"
        )

    # -- offsets -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.members)
    @rule(which=_WHICH, partition=_PARTITION, offset=_OFFSET)
    def commit(self, which: int, partition: int, offset: int) -> None:
        assert self._member(which).commit(self.topic, offset, partition).code == 0, "a member's commit"
        self.committed[partition] = offset

    @precondition(lambda self: self.members)
    @rule(which=_WHICH, partition=_PARTITION, offset=_OFFSET)
    def commit_as_of_old(self, which: int, partition: int, offset: int) -> None:
        answer = self._member(which).commit(self.topic, offset, partition, generation=self.generation - 1)
        assert answer.code == _ILLEGAL_GENERATION, "an old generation's commit"

    @rule(partition=_PARTITION, offset=_OFFSET)
    def commit_of_nobody(self, partition: int, offset: int) -> None:
        """As a tool does, or a consumer that assigns itself: taken while the group has no members."""
        answer = commit(self.scene.coordinator(self.group), self.group, self.topic, offset, partition)
        assert answer.code == (UNKNOWN_MEMBER_ID if self.members else 0), "a commit of nobody's"
        if not self.members:
            self.committed[partition] = offset

    @precondition(lambda self: self.members or max(self.committed.values()) >= 0)
    @rule()
    def delete_the_group(self) -> None:
        answer = self.scene.coordinator(self.group).ask("delete_groups", groups_names=[self.group])
        assert answer.code == (_NON_EMPTY if self.members else 0), "DeleteGroups"
        if not self.members:
            self.generation, self.committed = 0, dict.fromkeys(range(_PARTITIONS), -1)

    # -- what holds after every step -----------------------------------------------------------------------------------

    @invariant()
    def every_member_is_one(self) -> None:
        for member in self.members:
            assert member.heartbeat().code == 0, "a member's heartbeat"

    @invariant()
    def offsets_are_as_committed(self) -> None:
        to = self.scene.coordinator(self.group)
        asked = [{"name": self.topic.name, "partition_indexes": list(range(_PARTITIONS))}]
        answer = to.ask(
            "offset_fetch", to.best("offset_fetch", most=9), require_stable=False,
            groups=[{"group_id": self.group, "topics": asked}],
        ).need()  # fmt: skip
        told = answer["groups"][0]["topics"][0]["partitions"]
        assert {p["partition_index"]: p["committed_offset"] for p in told} == self.committed, "committed offsets"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _member(self, which: int) -> Classic:
        return self.members[which % len(self.members)]

    def _out(self, which: int) -> Classic:
        return self.members.pop(which % len(self.members))

    @staticmethod
    def _is_told(member: Classic) -> bool:
        code = member.heartbeat().code
        assert code in (0, REBALANCE_IN_PROGRESS), f"a heartbeat while another member is silent: {code}"
        return code == REBALANCE_IN_PROGRESS

    def _come_together(self) -> None:
        if not self.members:
            return
        try:
            together(*self.members)
        except Inconclusive as exc:
            raise AssertionError(f"{len(self.members)} members and no group: {exc}") from exc
        generations = {m.generation for m in self.members}
        assert len(generations) == 1 and max(generations) > self.generation, (
            f"generations {generations} after {self.generation}"
        )
        self.generation = max(generations)
        leaders = [m for m in self.members if m.leader]
        assert [sorted(m.members) for m in leaders] == [sorted(m.id for m in self.members)], "one leader, who knows all"
        owned = sorted(p for m in self.members for p in m.parts.get(self.topic.name, []))
        assert owned == list(range(_PARTITIONS)), f"owned partitions {owned}"
