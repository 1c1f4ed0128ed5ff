"""Members of groups, request by request: classic, new (KIP-848) and share (KIP-932) protocol.

Each has a connection of its own, because JoinGroup and SyncGroup may wait for others: what waits is sent first and received
later. Source for the formats inside: the vendor's ConsumerProtocolSubscription and ConsumerProtocolAssignment schemas.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brokerproof.conformance.kafka.connection import Answer
from brokerproof.conformance.kafka.topics import Topic
from brokerproof.conformance.scene import Inconclusive
from brokerproof.wire.kafka import octets, records
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.records import Batch

if TYPE_CHECKING:
    from brokerproof.conformance.kafka.scene import KafkaScene

MEMBER_ID_REQUIRED, REBALANCE_IN_PROGRESS, UNKNOWN_MEMBER_ID = 79, 27, 25
#: Acknowledgement types of share groups.
ACCEPT, RELEASE, REJECT, RENEW = 1, 2, 3, 4
#: Topic name -> partitions.
Parts = dict[str, list[int]]


def subscription(topics: Iterable[str]) -> bytes:
    names = list(topics)
    listed = octets.fixed("int32", len(names)) + b"".join(octets.string(n, flexible=False) for n in names)
    return octets.fixed("int16", 0) + listed + octets.octets(None, flexible=False)


def assignment(parts: Mapping[str, Sequence[int]]) -> bytes:
    out = octets.fixed("int16", 0) + octets.fixed("int32", len(parts))
    for name, indexes in parts.items():
        out += octets.string(name, flexible=False) + octets.fixed("int32", len(indexes))
        out += b"".join(octets.fixed("int32", i) for i in indexes)
    return out + octets.octets(None, flexible=False)


def assigned(data: bytes) -> Parts:
    """Raises WireError."""
    if not data:
        return {}
    reader = octets.Reader(data)
    reader.take(2)

    def one() -> tuple[str, list[int]]:
        name = reader.string(flexible=False) or ""
        return name, reader.array(False, lambda: int(reader.fixed("int32"))) or []

    return dict(reader.array(False, one) or [])


class Classic:
    """A member of a classic group. id, generation: as the coordinator gave them."""

    def __init__(self, scene: KafkaScene, group: str, topics: Sequence[Topic], *, instance: str | None = None, session_ms: int = 10_000) -> None:  # fmt: skip
        self.group, self.topics, self.instance, self.session_ms = group, list(topics), instance, session_ms
        self.id, self.generation, self.leader = "", -1, False
        self.parts: Parts = {}
        self.members: list[str] = []
        self.scene = scene
        scene.coordinator(group)  # waits until there is one
        self.connection = scene.connect()

    # -- joining -------------------------------------------------------------------------------------------------------

    def join_fields(self, **more: Any) -> dict[str, Any]:
        names = [t.name for t in self.topics]
        return {
            "group_id": self.group, "session_timeout": self.session_ms, "rebalance_timeout": 10_000,
            "member_id": self.id, "group_instance_id": self.instance, "protocol_type": "consumer",
            "protocols": [{"name": "range", "metadata": subscription(names)}], **more,
        }  # fmt: skip

    def ask_join(self, **more: Any) -> Answer:
        """JoinGroup, once. more: fields that are to be others."""
        return self.took(self.connection.ask("join_group", **self.join_fields(**more)))

    def send_join(self) -> None:
        """For ``receive_join``: with an id the answer may wait for the others."""
        if not self.id and self.instance is None:
            first = self.ask_join()
            if first.code == 0:
                raise Inconclusive("admitted without a member id")
        self.connection.send("join_group", **self.join_fields())

    def receive_join(self) -> Answer:
        return self.took(self.connection.receive())

    def took(self, answer: Answer) -> Answer:
        found = answer.fields
        if found is not None and answer.code in (0, MEMBER_ID_REQUIRED):
            self.id = found["member_id"]
        if found is not None and answer.code == 0:
            self.generation, self.leader = found["generation_id"], found["leader"] == found["member_id"]
            self.members = [m["member_id"] for m in found["members"]]
        return answer

    def sync_fields(self) -> dict[str, Any]:
        given: list[dict[str, Any]] = []
        if self.leader:
            every = [(t.name, p) for t in self.topics for p in range(t.partitions)]
            for i, id in enumerate(self.members):
                mine: Parts = {}
                for name, index in every[i :: len(self.members)]:
                    mine.setdefault(name, []).append(index)
                given.append({"member_id": id, "assignment": assignment(mine)})
        return {
            "group_id": self.group, "generation_id": self.generation, "member_id": self.id,
            "group_instance_id": self.instance, "protocol_type": "consumer", "protocol_name": "range", "assignments": given,
        }  # fmt: skip

    def send_sync(self) -> None:
        self.connection.send("sync_group", **self.sync_fields())

    def receive_sync(self) -> Answer:
        return self.took_sync(self.connection.receive())

    def took_sync(self, answer: Answer) -> Answer:
        if answer.code == 0:
            try:
                self.parts = assigned(answer.need()["assignment"])
            except WireError as exc:
                raise Inconclusive(f"an assignment that cannot be read: {exc}") from exc
        return answer

    # -- being one -----------------------------------------------------------------------------------------------------

    def heartbeat(self, *, generation: int | None = None, id: str | None = None) -> Answer:
        return self.connection.ask(
            "heartbeat", group_id=self.group, generation_id=self.generation if generation is None else generation,
            member_id=self.id if id is None else id, group_instance_id=self.instance,
        )  # fmt: skip

    def commit(self, topic: Topic, offset: int, partition: int = 0, *, generation: int | None = None, id: str | None = None, metadata: str = "") -> Answer:  # fmt: skip
        return commit(
            self.connection, self.group, topic, offset, partition, metadata=metadata, instance=self.instance,
            generation=self.generation if generation is None else generation, id=self.id if id is None else id,
        )  # fmt: skip

    def leave(self) -> Answer:
        one = {"member_id": self.id, "group_instance_id": self.instance}
        return self.connection.ask("leave_group", group_id=self.group, member_id=self.id, members=[one])


def together(*members: Classic) -> None:
    """Joins and syncs these, which are all of their group. Raises Inconclusive."""
    waiting = list(members)
    for member in members:
        member.send_join()

    def joined() -> bool:
        for member in members:
            if member in waiting:
                found = member.connection.soon(0.02)
                if found is not None and found.code == UNKNOWN_MEMBER_ID:
                    # Kafka 3.9 forgets a group without members whenever some topic is deleted: as a client does, anew.
                    member.id = ""
                    member.send_join()
                elif found is not None:
                    waiting.remove(member)
                    _good(member.took(found), "JoinGroup")
            elif member.heartbeat().code == REBALANCE_IN_PROGRESS:
                # It was let in before another one came: all join again, with their ids.
                member.send_join()
                waiting.append(member)
        return not waiting and len({m.generation for m in members}) == 1

    if not members[0].scene.eventually(joined, 40):
        raise Inconclusive("the members did not come together within 40 s")
    for member in members:
        member.send_sync()
    for member in members:
        _good(member.receive_sync(), "SyncGroup")


def commit(connection: Any, group: str, topic: Topic, offset: int, partition: int = 0, *, generation: int = -1, id: str = "", instance: str | None = None, metadata: str = "") -> Answer:  # fmt: skip
    """OffsetCommit by the topic's name; generation −1: of nobody's."""
    part = {
        "partition_index": partition, "committed_offset": offset, "committed_leader_epoch": -1, "committed_metadata": metadata,
    }  # fmt: skip
    answer: Answer = connection.ask(
        "offset_commit", connection.best("offset_commit", most=9), group_id=group, generation_id_or_member_epoch=generation,
        member_id=id, group_instance_id=instance, topics=[{"name": topic.name, "partitions": [part]}],
    )  # fmt: skip
    return answer


def committed(scene: KafkaScene, group: str, topic: Topic, partition: int = 0, *, stable: bool = False) -> tuple[int | None, int]:  # fmt: skip
    """(error code, committed offset) of a partition; −1: none. stable: only what no transaction can still change."""
    to = scene.coordinator(group)
    answer = to.ask(
        "offset_fetch", to.best("offset_fetch", most=9), require_stable=stable,
        groups=[{"group_id": group, "topics": [{"name": topic.name, "partition_indexes": [partition]}]}],
    )  # fmt: skip
    found = answer.need()["groups"][0]["topics"]
    return answer.code, int(found[0]["partitions"][0]["committed_offset"]) if found else -1


def _good(answer: Answer, what: str) -> None:
    if answer.code != 0:
        raise Inconclusive(f"{what}: {answer.seen()}")


class Modern:
    """A member of a group of the new consumer protocol. parts: what it was last told to own; it owns it at once."""

    def __init__(self, scene: KafkaScene, group: str, topics: Sequence[Topic], *, instance: str | None = None, regex: str | None = None) -> None:  # fmt: skip
        self.group, self.topics, self.instance, self.regex = group, list(topics), instance, regex
        self.id, self.epoch = str(uuid.uuid4()), 0
        self.parts: Parts = {}
        self._names = {t.id: t.name for t in topics}
        scene.coordinator(group)
        self.connection = scene.connect()

    def heartbeat(self, **more: Any) -> Answer:
        """Joins with epoch 0. more: fields that are to be others. What the answer says is taken over."""
        joining = self.epoch == 0
        own = [{"topic_id": self._id(n), "partitions": p} for n, p in self.parts.items()]
        names = None if self.regex else [t.name for t in self.topics]
        fields = {
            "group_id": self.group, "member_id": self.id, "member_epoch": self.epoch, "instance_id": self.instance,
            "rebalance_timeout": 10_000 if joining else -1, "subscribed_topic_names": names if joining else None,
            "subscribed_topic_regex": self.regex if joining else None, "topic_partitions": own, "server_assignor": None,
        }  # fmt: skip
        answer = self.connection.ask("consumer_group_heartbeat", **{**fields, **more})
        if answer.code == 0 and not more:
            found = answer.need()
            self.epoch = found["member_epoch"]
            if found["assignment"] is not None:
                told = found["assignment"]["topic_partitions"]
                self.parts = {self._names.get(t["topic_id"], str(t["topic_id"])): sorted(t["partitions"]) for t in told}
        return answer

    def knows(self, topic: Topic) -> None:
        """So that it is called by its name in ``parts``."""
        self._names[topic.id] = topic.name

    def leave(self) -> Answer:
        answer = self.heartbeat(member_epoch=-1 if self.instance is None else -2)
        self.parts = {}
        return answer

    def commit(self, topic: Topic, offset: int, partition: int = 0, *, epoch: int | None = None) -> Answer:
        return commit(
            self.connection, self.group, topic, offset, partition, id=self.id,
            generation=self.epoch if epoch is None else epoch,
        )  # fmt: skip

    def _id(self, name: str) -> uuid.UUID:
        return next((id for id, n in self._names.items() if n == name), None) or uuid.UUID(name)


@dataclass(frozen=True, slots=True)
class Acquired:
    """delivery: count.  top: error of the answer.  code: of the partition's records.  ack: of its acknowledgements."""

    answer: Answer
    top: int | None = None
    code: int | None = None
    ack: int | None = None
    offsets: tuple[int, ...] = ()
    delivery: tuple[int, ...] = ()
    batches: tuple[Batch, ...] = ()


class Sharing:
    """A member of a share group of one topic-partition. session: epoch of its next request."""

    def __init__(self, scene: KafkaScene, group: str, topic: Topic) -> None:
        self.group, self.topic = group, topic
        self.id, self.epoch, self.session = str(uuid.uuid4()), 0, 0
        self.told: list[int] = []
        self._scene = scene
        scene.coordinator(group)
        self.connection = scene.connect()
        #: Of its own, so that a fetch that waits holds nothing up.
        self.fetching = scene.connect()

    def heartbeat(self, **more: Any) -> Answer:
        answer = self.connection.ask(
            "share_group_heartbeat", **{
                "group_id": self.group, "member_id": self.id, "member_epoch": self.epoch,
                "subscribed_topic_names": [self.topic.name] if self.epoch == 0 else None, **more,
            },
        )  # fmt: skip
        if answer.code == 0:
            found = answer.need()
            self.epoch = found["member_epoch"]
            if found["assignment"] is not None:
                self.told = [p for t in found["assignment"]["topic_partitions"] for p in t["partitions"]]
        return answer

    def join(self) -> Sharing:
        """Until it is assigned the partition. Raises Inconclusive."""
        if not self._scene.eventually(lambda: self.heartbeat().code == 0 and bool(self.told), 20):
            raise Inconclusive(f"the share group {self.group} assigned nothing within 20 s")
        return self

    def fetch(
        self, *acks: tuple[int, int, int], version: int | None = None, wait_ms: int = 500, records_max: int = 500,
        mode: int = 0, session: int | None = None, renew: bool = False,
    ) -> Acquired:  # fmt: skip
        """acks: (first offset, last offset, acknowledgement type). mode: 0 whole batches, 1 no more than records_max."""
        chosen = self.session if session is None else session
        answer = self.fetching.ask(
            "share_fetch", version, group_id=self.group, member_id=self.id, share_session_epoch=chosen, max_wait=wait_ms,
            min_bytes=1, max_bytes=1 << 20, max_records=records_max, batch_size=records_max, share_acquire_mode=mode,
            is_renew_ack=renew, topics=self._topics(acks, closing=chosen == -1),
        )  # fmt: skip
        self._moved(answer, chosen)
        return _acquired(answer)

    def acknowledge(self, *acks: tuple[int, int, int], session: int | None = None, renew: bool = False) -> Acquired:
        chosen = self.session if session is None else session
        answer = self.fetching.ask(
            "share_acknowledge", group_id=self.group, member_id=self.id, share_session_epoch=chosen, is_renew_ack=renew,
            topics=self._topics(acks, closing=not acks),
        )  # fmt: skip
        self._moved(answer, chosen)
        return _acquired(answer)

    def until(self, wanted: int, seconds: float = 15, **more: Any) -> Acquired:
        """Fetches until that offset is acquired, or an empty one when it is not in that time."""
        last: list[Acquired] = []

        def came() -> bool:
            last.append(self.fetch(wait_ms=200, **more))
            return wanted in last[-1].offsets

        self._scene.eventually(came, seconds)
        return last[-1]

    def _topics(self, acks: Sequence[tuple[int, int, int]], *, closing: bool) -> list[dict[str, Any]]:
        given = [{"first_offset": a, "last_offset": b, "acknowledge_types": [kind]} for a, b, kind in acks]
        part = {"partition_index": 0, "partition_max_bytes": 1 << 20, "acknowledgement_batches": given}
        return [] if closing and not acks else [{"topic_id": self.topic.id, "partitions": [part]}]

    def _moved(self, answer: Answer, session: int) -> None:
        if answer.fields is not None and not answer.fields["error_code"] and session == self.session:
            self.session += 1


def _acquired(answer: Answer) -> Acquired:
    if answer.fields is None:
        return Acquired(answer)
    top = answer.fields["error_code"]
    parts = [p for t in answer.fields["responses"] for p in t["partitions"]]
    if not parts:
        return Acquired(answer, top, top, top)
    one = parts[0]
    ranges = one.get("acquired_records", [])
    offsets = tuple(o for r in ranges for o in range(r["first_offset"], r["last_offset"] + 1))
    counts = tuple(r["delivery_count"] for r in ranges for _ in range(r["first_offset"], r["last_offset"] + 1))
    ack = one.get("acknowledge_error_code", one["error_code"])
    return Acquired(
        answer,
        top,
        top or one["error_code"],
        top or ack,
        offsets,
        counts,
        tuple(records.batches(one.get("records") or b"")),
    )
