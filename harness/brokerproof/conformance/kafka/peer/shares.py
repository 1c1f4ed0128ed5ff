"""Share groups of the peer (KIP-932): records are acquired for a time, acknowledged, released, rejected, renewed."""

from __future__ import annotations

from dataclasses import dataclass, field

from brokerproof.conformance.kafka.groups import ACCEPT, RELEASE, RENEW
from brokerproof.conformance.kafka.peer.cluster import Cluster, Topic
from brokerproof.conformance.kafka.peer.topics import Topics
from brokerproof.wire.kafka.frames import Request
from brokerproof.wire.kafka.schema import Fields

INVALID_GROUP, UNKNOWN_MEMBER, INVALID_STATE, NO_SESSION, WRONG_EPOCH, UNKNOWN_ID = 24, 25, 121, 122, 123, 100


@dataclass(slots=True)
class _Held:
    """One record of a group. holder: "" nobody.  done: never offered again."""

    count: int = 0
    holder: str = ""
    until_ms: float = 0.0
    done: bool = False


@dataclass(slots=True)
class _Group:
    """sessions: member -> epoch that its next request has."""

    members: dict[str, list[str]] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    held: dict[tuple[str, int], dict[int, _Held]] = field(default_factory=dict)
    begin: dict[tuple[str, int], int] = field(default_factory=dict)


class Shares:
    def __init__(self, cluster: Cluster, topics: Topics) -> None:
        self._c, self._topics = cluster, topics
        self._groups: dict[str, _Group] = {}
        self._renewed = False

    def on_share_group_heartbeat(self, request: Request, node: int) -> Fields:
        fields = request.fields
        told = {"member_id": fields["member_id"], "member_epoch": fields["member_epoch"], "heartbeat_interval": 1000}
        if not fields["group_id"]:
            return {**told, "error_code": INVALID_GROUP}
        group = self._groups.setdefault(fields["group_id"], _Group())
        if fields["member_epoch"] < 0:
            group.members.pop(fields["member_id"], None)
            return {**told, "error_code": 0, "assignment": None}
        if fields["subscribed_topic_names"] is not None:
            group.members[fields["member_id"]] = fields["subscribed_topic_names"]
        if fields["member_id"] not in group.members:
            return {**told, "error_code": UNKNOWN_MEMBER}
        found = [self._c.topics[n] for n in group.members[fields["member_id"]] if n in self._c.topics]
        for topic in found:
            for index, part in enumerate(topic.partitions):
                config = self._topics.group_config.get(fields["group_id"], {})
                start = part.log.start if config.get("share.auto.offset.reset") == "earliest" else part.log.end
                group.begin.setdefault((topic.name, index), start)
        parts = [{"topic_id": t.id, "partitions": list(range(len(t.partitions)))} for t in found]
        return {**told, "error_code": 0, "member_epoch": 1, "assignment": {"topic_partitions": parts}}

    def on_share_fetch(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group, code = self._session(fields)
        if code:
            return {"error_code": code, "responses": [], "node_endpoints": []}
        lock = int(float(self._c.config["group.share.record.lock.duration.ms"]))
        until = self._c.now_ms() + fields["max_wait"]
        acks = {
            (t["topic_id"], p["partition_index"]): self._acknowledged(group, fields, t, p)
            for t in fields["topics"] for p in t["partitions"]
        }  # fmt: skip
        while True:
            out, some = [], False
            for asked in fields["topics"]:
                topic = self._c.named(asked)
                parts = []
                for one in asked["partitions"]:
                    told = self._acquired(group, fields, topic, one["partition_index"], request.version)
                    told["acknowledge_error_code"] = acks[asked["topic_id"], one["partition_index"]]
                    some = some or bool(told["acquired_records"])
                    parts.append(told)
                out.append({"topic_id": asked["topic_id"], "partitions": parts})
            if some or self._c.now_ms() >= until or self._c.closed:
                break
            self._c.changed.wait(0.01)
        return {"error_code": 0, "acquisition_lock_timeout": lock, "responses": out, "node_endpoints": []}

    def on_share_acknowledge(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group, code = self._session(fields)
        if code:
            return {"error_code": code, "responses": [], "node_endpoints": []}
        out = []
        for asked in fields["topics"]:
            parts = [
                {"partition_index": p["partition_index"], "error_code": self._acknowledged(group, fields, asked, p),
                 "current_leader": {}}
                for p in asked["partitions"]
            ]  # fmt: skip
            out.append({"topic_id": asked["topic_id"], "partitions": parts})
        return {"error_code": 0, "responses": out, "node_endpoints": []}

    def on_describe_share_group_offsets(self, request: Request, node: int) -> Fields:
        out = []
        for asked in request.fields["groups"]:
            group = self._groups.get(asked["group_id"], _Group())
            topics = []
            for topic in asked["topics"] or []:
                parts = [
                    {"partition_index": p, "start_offset": self._start(group, (topic["topic_name"], p)), "leader_epoch": 0,
                     "lag": 0, "error_code": 0}
                    for p in topic["partitions"]
                ]  # fmt: skip
                id = self._c.topics[topic["topic_name"]].id
                topics.append({"topic_name": topic["topic_name"], "topic_id": id, "partitions": parts})
            out.append({"group_id": asked["group_id"], "topics": topics, "error_code": 0})
        return {"groups": out}

    def tick(self) -> None:
        """Locks run out."""
        now = self._c.now_ms()
        for group in self._groups.values():
            for held in (h for by_offset in group.held.values() for h in by_offset.values()):
                if held.holder and now >= held.until_ms and not self._c.wrong("lock-for-ever"):
                    self._given_back(held)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _session(self, fields: Fields) -> tuple[_Group, int]:
        group = self._groups.setdefault(fields["group_id"] or "", _Group())
        member, epoch = fields["member_id"] or "", fields["share_session_epoch"]
        if not fields["group_id"]:
            return group, INVALID_GROUP
        if epoch == 0:
            group.sessions[member] = 1
            return group, 0
        if member not in group.sessions and not self._c.wrong("any-share-session"):
            return group, NO_SESSION
        if epoch == -1:
            group.sessions.pop(member, None)
            for held in (h for by_offset in group.held.values() for h in by_offset.values() if h.holder == member):
                self._given_back(held)
            return group, 0
        if epoch != group.sessions.get(member) and not self._c.wrong("any-share-session"):
            return group, WRONG_EPOCH
        group.sessions[member] = epoch + 1
        return group, 0

    def _acquired(self, group: _Group, fields: Fields, topic: Topic | None, index: int, version: int) -> Fields:
        out: Fields = {
            "partition_index": index, "error_code": 0, "acknowledge_error_code": 0, "current_leader": {}, "records": b"",
            "acquired_records": [],
        }  # fmt: skip
        if topic is None:
            return {**out, "error_code": UNKNOWN_ID}
        copies = int(self._c.config["share.coordinator.state.topic.replication.factor"])
        lacking = copies > len(self._c.nodes) and not self._c.wrong("share-ignores-factor")
        if lacking or self._c.wrong("share-unavailable") or (self._renewed and self._c.wrong("renewed-unread")):
            return {**out, "error_code": 15}
        log, where = topic.partitions[index].log, (topic.name, index)
        by_offset = group.held.setdefault(where, {})
        most, exact = (
            fields["max_records"],
            fields.get("share_acquire_mode", 0) == 1 and not self._c.wrong("mode-ignored"),
        )
        taken: list[int] = []
        for batch in [b for b in log.batches if b.last_offset >= group.begin.get(where, 0)]:
            for record in batch.records:
                held = by_offset.setdefault(record.offset, _Held())
                if held.done or held.holder or (exact and len(taken) >= most):
                    continue
                self._hold(held, fields["member_id"])
                taken.append(record.offset)
            if len(taken) >= most:
                break
        if self._c.wrong("share-backwards"):
            taken.reverse()
        data = b"".join(b.octets for b in log.batches if any(b.base_offset <= o <= b.last_offset for o in taken))
        ranges = [{"first_offset": o, "last_offset": o, "delivery_count": by_offset[o].count} for o in taken]
        return {**out, "records": data, "acquired_records": ranges}

    def _hold(self, held: _Held, member: str) -> None:
        lock = float(self._c.config["group.share.record.lock.duration.ms"])
        held.holder = member
        held.count += 0 if self._c.wrong("count-stays") and held.count else 1
        held.until_ms = self._c.now_ms() + lock * (0.3 if self._c.wrong("lock-short") else 1)

    def _given_back(self, held: _Held) -> None:
        held.holder = ""
        limit = int(self._c.config["group.share.delivery.count.limit"])
        held.done = held.count >= limit and not self._c.wrong("no-count-limit")
        self._c.changed.notify_all()

    def _acknowledged(self, group: _Group, fields: Fields, topic: Fields, part: Fields) -> int:
        found = self._c.named(topic)
        by_offset = group.held.get((found.name if found else "", part["partition_index"]), {})
        code = 0
        for batch in part["acknowledgement_batches"]:
            for offset in range(batch["first_offset"], batch["last_offset"] + 1):
                held = by_offset.get(offset)
                if held is None or (held.holder != fields["member_id"] and not self._c.wrong("anybody-acknowledges")):
                    code = INVALID_STATE
                    continue
                self._settle(held, batch["acknowledge_types"][0])
                if batch["acknowledge_types"][0] == RENEW and self._c.wrong("renew-refused"):
                    code = INVALID_STATE
        return code

    def _settle(self, held: _Held, kind: int) -> None:
        if kind == RENEW:
            self._renewed = True
            if not self._c.wrong("renew-ignored"):
                held.until_ms = self._c.now_ms() + float(self._c.config["group.share.record.lock.duration.ms"])
        elif kind == RELEASE or (kind != ACCEPT and self._c.wrong("reject-releases")):
            self._given_back(held)
        else:
            held.holder, held.done = "", not self._c.wrong("accept-forgets")

    def _start(self, group: _Group, where: tuple[str, int]) -> int:
        begin = group.begin.get(where, 0)
        by_offset = group.held.get(where, {})
        while by_offset.get(begin) is not None and by_offset[begin].done:
            begin += 1
        return -1 if self._c.wrong("no-share-offsets") else begin
