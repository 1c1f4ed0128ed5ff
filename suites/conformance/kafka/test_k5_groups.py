"""K5: groups: joining, errors of the classic protocol, static members, the new protocol, migration between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from brokerproof.conformance.case import Line, Seen, Table, case, error, must
from brokerproof.conformance.kafka.groups import Classic, Modern, commit, committed, together
from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.kafka.topics import Topic
from brokerproof.conformance.scene import Inconclusive

_ILLEGAL_GENERATION, _UNKNOWN_MEMBER, _REBALANCING, _INCONSISTENT = 22, 25, 27, 23


def _committed(scene: KafkaScene, group: str, topic: Topic, partition: int = 0) -> int:
    """Offset of a partition; −1: none. Raises Inconclusive for an error."""
    code, offset = committed(scene, group, topic, partition)
    if code != 0:
        raise Inconclusive(f"the committed offset of {topic.name}-{partition}: error {code}")
    return offset


@case(
    "K5.01", "kafka/member-id-required",
    requirement="JoinGroup v4 and newer with an empty member id gives 79 and an id; joining again with it works.",
    reference="KIP-394; JoinGroup", level="MUST",
    accepts={"": Table("79 and an id", (
        Line("PASS", behaviour=("an id",), codes=(79,)), Line("NONSTRICT", behaviour=("admitted",), codes=(0,)),
    )), "again": error(0)},
)  # fmt: skip
def test_member_id_required(scene: KafkaScene) -> None:
    member = Classic(scene, scene.group(), [scene.topic()])
    first = member.ask_join()
    scene.saw("", Seen("admitted" if first.code == 0 else "an id" if member.id else "no id", code=first.code))
    scene.saw("again", member.ask_join().seen())


@case(
    "K5.02", "kafka/classic-errors",
    requirement="An old generation gives 22 to Heartbeat and OffsetCommit, an unknown member 25, a rebalance 27, a join with "
    "another protocol type 23.",
    reference="classic group protocol", level="MUST", negative=True, revision=2,
    accepts={
        "rebalancing": error(_REBALANCING), "heartbeat, old generation": error(_ILLEGAL_GENERATION),
        "commit, old generation": error(_ILLEGAL_GENERATION), "heartbeat, unknown": error(_UNKNOWN_MEMBER),
        "commit, unknown": error(_UNKNOWN_MEMBER), "other protocol type": error(_INCONSISTENT),
        "committed": must("nothing of what was refused"),
    },
)  # fmt: skip
def test_classic_errors(scene: KafkaScene) -> None:
    group, topic = scene.group(), scene.topic(partitions=2)
    a, b = (Classic(scene, group, [topic]) for _ in range(2))
    together(a)
    old = a.generation
    b.send_join()
    scene.saw("rebalancing", scene.settled(a.heartbeat, unless=(0,)).seen())
    a.send_join()
    for member in (a, b):
        if member.receive_join().code:
            scene.inconclusive("the rebalance did not complete")
    for member in (a, b):
        member.send_sync()
    for member in (a, b):
        member.receive_sync()
    scene.saw("heartbeat, old generation", a.heartbeat(generation=old).seen())
    scene.saw("commit, old generation", a.commit(topic, 1, generation=old).seen())
    scene.saw("heartbeat, unknown", a.heartbeat(id="nobody").seen())
    scene.saw("commit, unknown", a.commit(topic, 1, id="nobody").seen())
    other = Classic(scene, group, [topic])
    scene.saw("other protocol type", other.ask_join(protocol_type="connect").seen())
    offset = _committed(scene, group, topic)
    scene.require("committed", offset == -1, f"offset {offset}")


@case(
    "K5.03", "kafka/session-timeout-bounds",
    requirement="A session timeout 1 ms below the broker's minimum or above its maximum gives 26; at the bounds it is accepted.",
    reference="group.min.session.timeout.ms, group.max.session.timeout.ms", level="MUST", negative=True,
    accepts={"below": error(26), "above": error(26), "at the minimum": error(0), "at the maximum": error(0)},
)  # fmt: skip
def test_session_timeout_bounds(scene: KafkaScene) -> None:
    low, high = (int(scene.config(f"group.{which}.session.timeout.ms")) for which in ("min", "max"))
    topic = scene.topic()
    for step, session in (("below", low - 1), ("above", high + 1), ("at the minimum", low), ("at the maximum", high)):
        member = Classic(scene, scene.group(), [topic], session_ms=session)
        answer = member.ask_join()
        scene.saw(step, (member.ask_join() if answer.code == 79 else answer).seen())


@case(
    "K5.04", "kafka/static-member",
    requirement="A second member with the same group.instance.id takes the place without a rebalance; the older one is told 82 "
    "at its next call.",
    reference="KIP-345", level="MUST", negative=True,
    accepts={"joins": error(0), "no rebalance": must("the same generation, and no 27"), "older": error(82)},
)  # fmt: skip
def test_static_member(scene: KafkaScene) -> None:
    group, topic = scene.group(), scene.topic(partitions=2)
    plain, old = Classic(scene, group, [topic]), Classic(scene, group, [topic], instance="static")
    together(plain, old)
    new = Classic(scene, group, [topic], instance="static")
    scene.saw("joins", new.ask_join().seen())
    beat = plain.heartbeat()
    same = new.generation == old.generation and beat.code == 0
    scene.require("no rebalance", same, f"generation {new.generation} after {old.generation}, heartbeat {beat.seen()}")
    scene.saw("older", old.heartbeat().seen())


@case(
    "K5.05", "kafka/commit-metadata-size",
    requirement="OffsetCommit with metadata one octet above offset.metadata.max.bytes gives 12 and commits nothing; exactly at "
    "it, it is accepted.",
    reference="offset.metadata.max.bytes", level="?", negative=True, revision=2,
    accepts={"one more": error(12), "nothing": must("committed nothing"), "exactly": error(0), "then": must("committed")},
)  # fmt: skip
def test_commit_metadata_size(scene: KafkaScene) -> None:
    limit = int(scene.config("offset.metadata.max.bytes"))
    group, topic = scene.group(), scene.topic()
    to = scene.coordinator(group)
    scene.saw("one more", scene.settled(lambda: commit(to, group, topic, 5, metadata="x" * (limit + 1))).seen())
    scene.require("nothing", _committed(scene, group, topic) == -1, f"offset {_committed(scene, group, topic)}")
    scene.saw("exactly", commit(to, group, topic, 6, metadata="x" * limit).seen())
    scene.require("then", _committed(scene, group, topic) == 6, f"offset {_committed(scene, group, topic)}")


@case(
    "K5.06", "kafka/consumer-group-heartbeat",
    requirement="Epoch 0 joins and gets an assignment, −1 leaves; a wrong epoch gives 110, OffsetCommit with a stale one 113, "
    "an instance id in use 111, an unknown assignor 112.",
    reference="KIP-848", level="MUST", needs="kafka>=4.0", negative=True, revision=2,
    accepts={"joins": must("an assignment of every partition"), "wrong epoch": error(110), "stale commit": error(113),
             "committed": must("nothing of what was refused"),
             "instance in use": error(111), "assignor": error(112), "leaves": must("epoch −1, and gone")},
)  # fmt: skip
def test_consumer_group_heartbeat(scene: KafkaScene) -> None:
    group, topic = scene.group(), scene.topic(partitions=2)
    member = Modern(scene, group, [topic], instance="one")
    joined = scene.eventually(lambda: member.heartbeat().code == 0 and member.parts == {topic.name: [0, 1]}, 15)
    scene.require("joins", joined, f"{member.parts}, epoch {member.epoch}")
    old = member.epoch
    taken = Modern(scene, group, [topic], instance="one")
    scene.saw("instance in use", taken.heartbeat().seen())
    scene.saw("assignor", Modern(scene, group, [topic]).heartbeat(server_assignor="nothing").seen())
    other = Modern(scene, group, [topic])
    # What the second one gets, the first one has given up: it may not be committed with the epoch of before.
    _settle(scene, [member, other], [topic])
    given = next(iter(other.parts[topic.name]), 0)
    scene.saw("stale commit", member.commit(topic, 1, given, epoch=old).seen())
    offset = _committed(scene, group, topic, given)
    scene.require("committed", offset == -1, f"offset {offset}")
    scene.saw("wrong epoch", other.heartbeat(member_epoch=other.epoch + 50).seen())
    left = other.leave()
    gone = (left.fields or {}).get("member_epoch") == -1 and other.heartbeat(member_epoch=other.epoch).code == 25
    scene.require("leaves", gone, f"{left.seen()} {left.fields}")


def _settle(scene: KafkaScene, members: Sequence[Modern], topics: Sequence[Topic]) -> None:
    """Heartbeats until each partition has one owner, and every member something."""
    wanted = sorted((t.name, p) for t in topics for p in range(t.partitions))

    def so() -> bool:
        codes = [m.heartbeat().code for m in members]
        owned = sorted((n, p) for m in members for n, ps in m.parts.items() for p in ps)
        return not any(codes) and owned == wanted and all(any(m.parts.values()) for m in members)

    if not scene.eventually(so, 30):
        scene.inconclusive(f"the group did not settle: {[m.parts for m in members]}")


@case(
    "K5.07", "kafka/group-migration",
    requirement="A classic group of three is replaced member by member by members of the new protocol, and back, under load: "
    "each topic-partition has at most one owner at every moment, exactly one in the end, whoever takes it over finds the offset that was "
    "committed, and nothing stays unread from there on.",
    reference="KIP-848", level="MUST", needs="kafka>=4.0", tags=("slow",), limit_s=180, revision=2,
    accepts={"owners": must("at most one at every moment"), "end": must("exactly one each"),
             "offsets": must("kept whoever owns the partition"), "read": must("everything")},
)  # fmt: skip
def test_group_migration(scene: KafkaScene) -> None:
    topic, group = scene.topic(partitions=6), scene.group()
    crowd = _Crowd(scene, group, topic)
    for _ in range(3):
        crowd.add(Classic(scene, group, [topic]))
    crowd.settle()
    for kind in (Modern, Modern, Modern, Classic, Classic, Classic):
        crowd.remove()
        crowd.settle()
        crowd.add(kind(scene, group, [topic]))
        crowd.settle()
    scene.require("owners", not crowd.twice, f"{crowd.twice[:3]}")
    owned = sorted(p for m in crowd.members for p in m.parts.get(topic.name, []))
    scene.require("end", owned == list(range(6)), f"{owned}")
    crowd.read()
    crowd.look_for_offsets(range(6))
    if not all(crowd.offsets.values()):
        scene.inconclusive(
            f"offsets that were committed, by partition: {crowd.offsets}; of those without nothing can be said"
        )
    scene.require("offsets", not crowd.lost, "; ".join(crowd.lost[:3]))
    scene.require("read", crowd.unread() == 0, f"{crowd.unread()} of {crowd.sent} records unread")


class _Crowd:
    """Members of both protocols, driven heartbeat by heartbeat; each reads what it owns, and commits how far. A classic member gives
    up all that it owns before it joins again (the eager way), a new one as soon as it is told.

    offsets: by partition, the last that the coordinator took.  lost: where the coordinator says another."""

    def __init__(self, scene: KafkaScene, group: str, topic: Topic) -> None:
        self.members: list[Classic | Modern] = []
        self.twice: list[str] = []
        self.sent = 0
        self._scene, self._group, self._topic = scene, group, topic
        self._joining: dict[int, str] = {}  # what a classic member waits for
        self._at = dict.fromkeys(range(topic.partitions), 0)
        self._read: set[bytes | None] = set()
        self._owners: dict[int, int] = {}  # id of a partition's last owner
        self.offsets = dict.fromkeys(range(topic.partitions), 0)
        self.lost: list[str] = []

    def add(self, member: Classic | Modern) -> None:
        self.members.append(member)
        if isinstance(member, Classic):
            member.send_join()
            self._joining[id(member)] = "join"

    def remove(self) -> None:
        """The oldest one leaves."""
        self.members.pop(0).leave()

    def settle(self) -> None:
        """Until every partition has an owner and nobody waits. Records are written and read meanwhile."""

        def so() -> bool:
            for member in self.members:
                self._step(member)
                self._look()
            self._load()
            owned = sorted(p for m in self.members for p in m.parts.get(self._topic.name, []))
            return not self._joining and owned == list(range(self._topic.partitions))

        if not self._scene.eventually(so, 45):
            owned_by = [(type(m).__name__, m.parts) for m in self.members]
            raise Inconclusive(f"the group did not settle within 45 s: {owned_by}")

    def read(self) -> None:
        for _ in range(3):
            self._consume()

    def unread(self) -> int:
        return self.sent - len(self._read)

    def look_for_offsets(self, partitions: Iterable[int]) -> None:
        """What was committed is what the coordinator says, or it is lost; who reads on reads on from there."""
        for partition in partitions:
            found, due = _committed(self._scene, self._group, self._topic, partition), self.offsets[partition]
            if found < due:  # more may be there: a commit whose answer did not come
                self.lost.append(f"partition {partition}: {due} committed, {found} found")
            self.offsets[partition] = max(found, 0)
            self._at[partition] = max(found, 0)

    def _step(self, member: Classic | Modern) -> None:
        if isinstance(member, Modern):
            member.heartbeat()
            return
        waits = self._joining.get(id(member))
        if waits is None:
            told = member.heartbeat().code
            if told in (_REBALANCING, _ILLEGAL_GENERATION, _UNKNOWN_MEMBER):
                self._join(member, told)
            return
        found = member.connection.soon(self._scene.seconds(0.1))
        if found is None:
            return
        if waits == "join":
            if member.took(found).code != 0:
                self._join(member, found.code)
                return
            member.send_sync()
            self._joining[id(member)] = "sync"
        else:
            del self._joining[id(member)]
            if member.took_sync(found).code != 0:
                self._join(member, found.code)

    def _join(self, member: Classic, told: int | None) -> None:
        """Again, with nothing; as somebody new where the coordinator knows it no longer."""
        member.parts = {}
        member.id = "" if told == _UNKNOWN_MEMBER else member.id
        member.send_join()
        self._joining[id(member)] = "join"

    def _look(self) -> None:
        owners: dict[int, int] = {}
        for number, member in enumerate(self.members):
            for partition in member.parts.get(self._topic.name, []):
                if partition in owners:
                    self.twice.append(f"partition {partition} owned by members {owners[partition]} and {number}")
                owners[partition] = number
        now = {p: id(self.members[number]) for p, number in owners.items()}
        taken_over = [p for p, owner in now.items() if self._owners.get(p, owner) != owner]
        self._owners |= now
        self.look_for_offsets(taken_over)

    def _load(self) -> None:
        partition = self.sent % self._topic.partitions
        self._topic.fill(f"{self.sent}", partition=partition)
        self.sent += 1
        self._consume()

    def _consume(self) -> None:
        for member in self.members:
            for partition in member.parts.get(self._topic.name, []):
                found = self._topic.fetch(self._at[partition], partition, max_wait_ms=0, min_bytes=0)
                self._read.update(found.values)
                self._at[partition] = at = max([self._at[partition], *(b.last_offset + 1 for b in found.batches)])
                # Refused while the group changes: whoever owns it next reads it again.
                if at > self.offsets[partition] and member.commit(self._topic, at, partition).code == 0:
                    self.offsets[partition] = at


@case(
    "K5.08", "kafka/subscribed-regex",
    requirement="A subscription by an invalid regular expression gives 128; a valid one subscribes the matching topics, and a "
    "new matching topic is picked up.",
    reference="KIP-848", level="MUST", needs="kafka>=4.0", negative=True, limit_s=90,
    accepts={"invalid": error(128), "matching": must("assigned"), "new topic": must("picked up")},
)  # fmt: skip
def test_subscribed_regex(scene: KafkaScene) -> None:
    if not scene.serves("consumer_group_heartbeat", 1):
        scene.inconclusive("ConsumerGroupHeartbeat v1 is not served by a version that should")
    # A coordinator that has just become one says so first.
    scene.saw("invalid", scene.settled(Modern(scene, scene.group(), [], regex="[unclosed").heartbeat).seen())
    scene.topic(name=f"{scene.name}-other")
    first = scene.topic(name=f"{scene.name}-match-1")
    member = Modern(scene, scene.group(), [first], regex=f"{scene.name}-match-.*")

    def owns(*topics: Topic) -> bool:
        return member.heartbeat().code == 0 and set(member.parts) == {t.name for t in topics}

    good = scene.eventually(lambda: owns(first), 20)
    scene.require("matching", good, f"{member.parts}")
    second = scene.topic(name=f"{scene.name}-match-2")
    member.knows(second)
    good = scene.eventually(lambda: owns(first, second), 30)
    scene.require("new topic", good, f"{member.parts}")


@case(
    "K5.09", "kafka/delete-group-guards",
    requirement="DeleteGroups of a group with members gives 68, OffsetDelete of a topic to which a member subscribes 86; both "
    "work once the group is empty.",
    reference="DeleteGroups; OffsetDelete", level="MUST", negative=True, revision=2,
    accepts={"delete": error(68), "offset delete": error(86), "kept": must("the group and its offsets"),
             "then offset delete": error(0), "then delete": error(0), "gone": must("the offset, then the other one")},
)  # fmt: skip
def test_delete_group_guards(scene: KafkaScene) -> None:
    group, topic = scene.group(), scene.topic(partitions=2)
    member = Classic(scene, group, [topic], session_ms=30_000)
    together(member)
    # The offset of the other partition stays: an empty group without any is gone by itself on some versions.
    for partition in (0, 1):
        member.commit(topic, 3, partition)
    to = scene.coordinator(group)
    asked = [{"name": topic.name, "partitions": [{"partition_index": 0}]}]
    scene.saw("delete", to.ask("delete_groups", groups_names=[group]).seen())
    scene.saw("offset delete", to.ask("offset_delete", group_id=group, topics=asked).seen())
    kept, beat = [_committed(scene, group, topic, p) for p in (0, 1)], member.heartbeat()
    scene.require("kept", kept == [3, 3] and beat.code == 0, f"offsets {kept}, heartbeat {beat.seen()}")
    member.leave()
    scene.saw("then offset delete", to.ask("offset_delete", group_id=group, topics=asked).seen())
    left = [_committed(scene, group, topic, p) for p in (0, 1)]
    scene.saw("then delete", to.ask("delete_groups", groups_names=[group]).seen())
    gone = _committed(scene, group, topic, 1)
    scene.require("gone", (left, gone) == ([-1, 3], -1), f"offsets {left}, then {gone}")
