"""The group coordinator of the peer: classic groups, groups of KIP-848, and groups that have members of both.

One table of members for all. Of a group with a member of the new protocol the coordinator makes the assignment itself; a
partition is given to a member only when nobody else owns it any more.
"""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import dataclass, field
from typing import Literal

from brokerproof.conformance.kafka.groups import assigned, assignment
from brokerproof.conformance.kafka.peer.cluster import Cluster
from brokerproof.wire.kafka import octets
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.frames import Request
from brokerproof.wire.kafka.schema import Fields

METADATA_TOO_LARGE, ILLEGAL_GENERATION, INCONSISTENT, UNKNOWN_MEMBER, BAD_SESSION, REBALANCING = 12, 22, 23, 25, 26, 27
NON_EMPTY, NOT_FOUND, MEMBER_ID, FENCED_INSTANCE, SUBSCRIBED, UNSTABLE = 68, 69, 79, 82, 86, 88
FENCED_EPOCH, UNRELEASED, NO_ASSIGNOR, STALE_EPOCH, BAD_REGEX, INVALID_GROUP = 110, 111, 112, 113, 128, 24
Part = tuple[str, int]


@dataclass(slots=True)
class Member:
    """owned: what it may have.  epoch: its own, or a classic member's generation.  waits: in JoinGroup."""

    id: str
    classic: bool
    instance: str | None
    session_ms: float
    topics: list[str]
    regex: str | None = None
    metadata: bytes = b""
    epoch: int = 0
    owned: set[Part] = field(default_factory=set)
    waits: bool = False
    seen_ms: float = 0.0


@dataclass(slots=True)
class Group:
    """epoch: its generation.  told: what the last target was made from."""

    name: str
    members: dict[str, Member] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    state: Literal["empty", "preparing", "completing", "stable"] = "empty"
    epoch: int = 0
    leader: str = ""
    protocol: str = ""
    told: object = None
    offsets: dict[Part, tuple[int, str | None]] = field(default_factory=dict)
    #: producer id -> offsets of its open transaction
    open: dict[int, dict[Part, tuple[int, str | None]]] = field(default_factory=dict)

    @property
    def served(self) -> bool:
        """Whether the coordinator makes its assignment."""
        return any(not m.classic for m in self.members.values())


class Groups:
    def __init__(self, cluster: Cluster) -> None:
        self._c = cluster
        self._groups: dict[str, Group] = {}
        self._ids = itertools.count(1)

    # -- joining the classic way ---------------------------------------------------------------------------------------

    def on_join_group(self, request: Request, node: int) -> Fields:
        fields, none = request.fields, {"leader": "", "member_id": "", "members": [], "generation_id": -1}
        low, high = (float(self._c.config[f"group.{w}.session.timeout.ms"]) for w in ("min", "max"))
        if not fields["group_id"]:
            return {**none, "error_code": INVALID_GROUP}
        if not low <= fields["session_timeout"] <= high:
            return {**none, "error_code": BAD_SESSION}
        group = self._group(fields["group_id"])
        if group.members and group.protocol not in ("", fields["protocol_type"]):
            return {**none, "error_code": INCONSISTENT}
        id, instance = fields["member_id"], fields.get("group_instance_id")
        old = self._static(group, instance) if instance and not id else None
        if old is not None:
            return {**none, **self._replaced(group, old)}
        if not id and not instance and request.version >= 4 and not self._c.wrong("admits-at-once"):
            fresh = f"member-{next(self._ids)}"
            group.pending.add(fresh)
            return {**none, "error_code": MEMBER_ID, "member_id": fresh}
        if id and id not in group.members and id not in group.pending:
            return {**none, "error_code": UNKNOWN_MEMBER}
        member = self._joined(group, fields, id or f"member-{next(self._ids)}")
        return self._wait_for_others(group, member, fields)

    def _joined(self, group: Group, fields: Fields, id: str) -> Member:
        group.pending.discard(id)
        chosen = fields["protocols"][0]
        member = group.members.get(id)
        if member is None:
            member = group.members[id] = Member(id, True, fields.get("group_instance_id"), 0.0, [])
        member.session_ms, member.metadata = float(fields["session_timeout"]), chosen["metadata"]
        member.topics = _subscribed(member.metadata)
        member.owned = set()
        member.seen_ms = self._c.now_ms()
        group.protocol = fields["protocol_type"]
        return member

    def _wait_for_others(self, group: Group, member: Member, fields: Fields) -> Fields:
        if not group.served:
            group.state, member.waits = "preparing", True
            until = self._c.now_ms() + max(fields.get("rebalance_timeout", -1), 3000)
            self._complete(group)
            while member.waits and not group.served and not self._c.closed and group.members.get(member.id) is member:
                if self._c.now_ms() > until:
                    for late in [m for m in group.members.values() if not m.waits]:
                        del group.members[late.id]
                    group.state = "preparing"
                    self._complete(group)
                    break
                self._c.changed.wait(0.02)
        member.waits = False
        if group.served:
            self._target(group)
            member.epoch = group.epoch
        leader = group.leader if not group.served else "the coordinator"
        listed = [
            {"member_id": m.id, "group_instance_id": m.instance, "metadata": m.metadata} for m in group.members.values()
        ] if leader == member.id else []  # fmt: skip
        return {
            "error_code": 0, "generation_id": member.epoch, "protocol_type": group.protocol,
            "protocol_name": fields["protocols"][0]["name"], "leader": leader, "member_id": member.id, "members": listed,
        }  # fmt: skip

    def _complete(self, group: Group) -> None:
        """Ends the join when all are in."""
        if group.state != "preparing" or not group.members or not all(m.waits for m in group.members.values()):
            return
        group.epoch += 1
        group.state = "completing"
        if group.leader not in group.members:
            group.leader = next(iter(group.members))
        for member in group.members.values():
            member.waits, member.epoch = False, group.epoch
        self._c.changed.notify_all()

    def on_sync_group(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group = self._group(fields["group_id"])
        member, code = self._member(group, fields["member_id"], fields["generation_id"])
        if member is None or code:
            return {"error_code": code, "assignment": b""}
        if group.served:
            member.owned = self._allowed(group, member)
            return {"error_code": 0, "assignment": assignment(_listed(member.owned))}
        if fields["assignments"]:
            for one in fields["assignments"]:
                parts = assigned(one["assignment"])
                group.members[one["member_id"]].owned = {(n, p) for n, ps in parts.items() for p in ps}
            group.state = "stable"
            self._c.changed.notify_all()
        while group.state == "completing" and not self._c.closed:
            self._c.changed.wait(0.02)
        if group.state != "stable":
            return {"error_code": REBALANCING, "assignment": b""}
        return {"error_code": 0, "assignment": assignment(_listed(member.owned))}

    def on_heartbeat(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group = self._group(fields["group_id"])
        member, code = self._member(group, fields["member_id"], fields["generation_id"])
        if member is not None:
            member.seen_ms = self._c.now_ms()
        if code == 0 and group.served and member is not None:
            self._target(group)
            again = member.epoch != group.epoch or member.owned != self._allowed(group, member)
            return {"error_code": REBALANCING if again else 0}
        if code == ILLEGAL_GENERATION and group.served:
            code = REBALANCING
        preparing = group.state == "preparing" and not self._c.wrong("no-rebalance-told")
        return {"error_code": code or (REBALANCING if preparing else 0)}

    def on_leave_group(self, request: Request, node: int) -> Fields:
        group = self._group(request.fields["group_id"])
        asked = request.fields.get("members") or [{"member_id": request.fields.get("member_id", "")}]
        out = []
        for one in asked:
            gone = group.members.pop(one["member_id"], None)
            out.append({"member_id": one["member_id"], "error_code": 0 if gone else UNKNOWN_MEMBER})
        self._left(group)
        return {"error_code": 0, "members": out}

    # -- the new way ---------------------------------------------------------------------------------------------------

    def on_consumer_group_heartbeat(self, request: Request, node: int) -> Fields:
        fields = request.fields
        none = {"member_id": fields["member_id"], "member_epoch": 0, "heartbeat_interval": 1000, "assignment": None}
        if not fields["group_id"]:
            return {**none, "error_code": INVALID_GROUP}
        group = self._group(fields["group_id"])
        epoch, member = fields["member_epoch"], group.members.get(fields["member_id"])
        if epoch < 0:
            group.members.pop(fields["member_id"], None)
            self._left(group)
            stays = self._c.wrong("leave-ignored") and member is not None
            if member is not None and stays:
                group.members[member.id] = member
            return {**none, "error_code": 0, "member_epoch": epoch}
        if epoch == 0:
            code = self._refused(group, fields)
            if code:
                return {**none, "error_code": code}
            member = self._enrolled(group, fields)
        if member is None:
            return {**none, "error_code": UNKNOWN_MEMBER}
        if epoch not in (0, member.epoch) and not self._c.wrong("any-member-epoch"):
            return {**none, "error_code": FENCED_EPOCH}
        return {**none, **self._beat(group, member, fields)}

    def _refused(self, group: Group, fields: Fields) -> int:
        if fields["server_assignor"] not in (None, "uniform", "range"):
            return NO_ASSIGNOR
        other = self._static(group, fields["instance_id"])
        if other is not None and other.id != fields["member_id"]:
            return UNRELEASED
        try:
            re.compile(fields.get("subscribed_topic_regex") or "")
        except re.error:
            return BAD_REGEX
        return 0

    def _enrolled(self, group: Group, fields: Fields) -> Member:
        id = fields["member_id"] or str(uuid.uuid4())
        if not group.served and self._c.wrong("migration-forgets"):
            group.offsets.clear()
        member = group.members.get(id)
        if member is None:
            member = group.members[id] = Member(id, False, fields["instance_id"], 6000.0, [])
        member.topics = fields["subscribed_topic_names"] or []
        member.regex = fields.get("subscribed_topic_regex")
        self._c.changed.notify_all()  # classic members that wait for others do so no longer
        return member

    def _beat(self, group: Group, member: Member, fields: Fields) -> Fields:
        member.seen_ms = self._c.now_ms()
        self._target(group)
        if fields["topic_partitions"] is not None:
            names = {t.id: t.name for t in self._c.topics.values()}
            member.owned = {
                (names.get(t["topic_id"], ""), p) for t in fields["topic_partitions"] for p in t["partitions"]
            }
        told = self._allowed(group, member)
        member.owned |= told
        member.epoch = group.epoch
        ids = {t.name: t.id for t in self._c.topics.values()}
        listed = [{"topic_id": ids[n], "partitions": p} for n, p in _listed(told).items()]
        return {
            "error_code": 0, "member_id": member.id, "member_epoch": member.epoch,
            "assignment": {"topic_partitions": [] if self._c.wrong("assigns-nothing") else listed},
        }  # fmt: skip

    # -- offsets -------------------------------------------------------------------------------------------------------

    def on_offset_commit(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group = self._group(fields["group_id"])
        id, generation = fields["member_id"], fields["generation_id_or_member_epoch"]
        member, code = None, 0
        if id or group.members:
            member, code = self._member(group, id, generation)
        if member is not None and not member.classic:
            code = 0 if generation == member.epoch or self._c.wrong("any-member-epoch") else STALE_EPOCH
        elif code == 0 and member is not None and group.state == "preparing" and not group.served:
            code = REBALANCING
        return {"topics": self._taken(fields, group.offsets, code)}

    def on_txn_offset_commit(self, request: Request, node: int) -> Fields:
        fields = request.fields
        group = self._group(fields["group_id"])
        open_ = group.open.setdefault(fields["producer_id"], {})
        return {"topics": self._taken(fields, group.offsets if self._c.wrong("pending-visible") else open_, 0)}

    def ended(self, name: str, pid: int, commit: bool) -> None:
        """A transaction with offsets of this group."""
        open_ = self._group(name).open
        found = open_.get(pid, {}) if not commit and self._c.wrong("abort-stays-pending") else open_.pop(pid, {})
        if commit or self._c.wrong("abort-commits"):
            self._group(name).offsets |= found

    def on_offset_fetch(self, request: Request, node: int) -> Fields:
        fields = request.fields
        asked = fields.get("groups") or [{"group_id": fields.get("group_id", ""), "topics": fields.get("topics")}]
        out = []
        for one in asked:
            group = self._groups.get(one["group_id"]) or Group(one["group_id"])
            topics = one["topics"]
            if topics is None:
                topics = [{"name": n, "partition_indexes": p} for n, p in _listed(set(group.offsets)).items()]
            listed = [self._offsets(group, t, fields.get("require_stable", False)) for t in topics]
            out.append({"group_id": group.name, "topics": listed, "error_code": 0})
        return {"groups": out, "topics": out[0]["topics"] if out else [], "error_code": 0}

    def on_offset_delete(self, request: Request, node: int) -> Fields:
        group = self._groups.get(request.fields["group_id"])
        if group is None:
            return {"error_code": NOT_FOUND, "topics": []}
        out = []
        for topic in request.fields["topics"]:
            used = any(topic["name"] in m.topics for m in group.members.values())
            code = SUBSCRIBED if used else 0
            for part in topic["partitions"] if not code or self._c.wrong("deletes-anyway") else []:
                group.offsets.pop((topic["name"], part["partition_index"]), None)
            parts = [{"partition_index": p["partition_index"], "error_code": code} for p in topic["partitions"]]
            out.append({"name": topic["name"], "partitions": parts})
        return {"error_code": 0, "topics": out}

    def on_delete_groups(self, request: Request, node: int) -> Fields:
        out = []
        for name in request.fields["groups_names"]:
            group = self._groups.get(name)
            code = NOT_FOUND if group is None else NON_EMPTY if group.members else 0
            if not code or (group is not None and self._c.wrong("deletes-anyway")):
                del self._groups[name]
            out.append({"group_id": name, "error_code": code})
        return {"results": out}

    def on_find_coordinator(self, request: Request, node: int) -> Fields:
        chosen = self._c.nodes[min(self._c.nodes)]
        told = {"node_id": chosen.id, "host": "127.0.0.1", "port": chosen.port, "error_code": 0, "error_message": None}
        keys = request.fields.get("coordinator_keys", [])
        return {**told, "coordinators": [{"key": k, **told} for k in keys]}

    def tick(self) -> None:
        """Members that were not heard of for their session's time are out."""
        now = self._c.now_ms()
        for group in self._groups.values():
            gone = [m for m in group.members.values() if not m.waits and now - m.seen_ms > m.session_ms]
            for member in gone:
                del group.members[member.id]
            if gone:
                self._left(group)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group(name))

    def _member(self, group: Group, id: str, generation: int) -> tuple[Member | None, int]:
        if id in group.fenced:
            return None, FENCED_INSTANCE
        member = group.members.get(id)
        if member is None:
            return None, UNKNOWN_MEMBER
        wrong = generation != member.epoch and member.classic and not self._c.wrong("any-generation")
        return member, ILLEGAL_GENERATION if wrong else 0

    def _static(self, group: Group, instance: str | None) -> Member | None:
        found = (m for m in group.members.values() if instance and m.instance == instance)
        return next(found, None)

    def _replaced(self, group: Group, old: Member) -> Fields:
        """A new member in the place of a static one, under a new id."""
        del group.members[old.id]
        if not self._c.wrong("old-static-lives"):
            group.fenced.add(old.id)
        was_leader = group.leader == old.id
        old.id = f"member-{next(self._ids)}"
        group.members[old.id] = old
        if was_leader:
            group.leader = old.id
        if self._c.wrong("static-rebalances"):
            group.state = "preparing"
        listed = [
            {"member_id": m.id, "group_instance_id": m.instance, "metadata": m.metadata} for m in group.members.values()
        ]
        return {
            "error_code": 0, "generation_id": group.epoch, "protocol_type": group.protocol, "protocol_name": "range",
            "leader": group.leader, "member_id": old.id, "skip_assignment": True, "members": listed if was_leader else [],
        }  # fmt: skip

    def _left(self, group: Group) -> None:
        if not group.members:
            group.state = "empty"
        elif not group.served:
            group.state = "preparing"
            self._complete(group)
        self._c.changed.notify_all()

    def _target(self, group: Group) -> dict[str, set[Part]]:
        """Who is to own what; the group's epoch goes up when that changes."""
        wanted: dict[str, list[Part]] = {}
        for member in group.members.values():
            fits = [
                n for n in self._c.topics
                if n in member.topics or (member.regex and re.fullmatch(member.regex, n) and not self._c.wrong("regex-off"))
            ]  # fmt: skip
            if self._c.wrong("regex-once") and member.regex and member.epoch:
                fits = fits[:1]
            wanted[member.id] = [(n, i) for n in sorted(fits) for i in range(len(self._c.topics[n].partitions))]
        target: dict[str, set[Part]] = {id: set() for id in wanted}
        for i, part in enumerate(sorted({p for parts in wanted.values() for p in parts})):
            takers = [id for id, parts in wanted.items() if part in parts]
            target[takers[i % len(takers)]].add(part)
        if group.told != target:
            group.told = target
            group.epoch += 1
        return target

    def _allowed(self, group: Group, member: Member) -> set[Part]:
        """Of its target, what nobody else owns."""
        others: set[Part] = set()
        if not self._c.wrong("two-owners"):
            others = {p for m in group.members.values() if m is not member for p in m.owned}
        return self._target(group)[member.id] - others

    def _taken(self, fields: Fields, offsets: dict[Part, tuple[int, str | None]], code: int) -> list[Fields]:
        limit = int(self._c.config["offset.metadata.max.bytes"])
        out = []
        for asked in fields["topics"]:
            topic = self._c.named(asked)
            parts = []
            for part in asked["partitions"]:
                metadata = part["committed_metadata"]
                too_large = len(metadata or "") > limit
                own = code or (METADATA_TOO_LARGE if too_large else 0)
                if not own or self._c.wrong("commits-anyway"):
                    name = topic.name if topic else asked.get("name", "")
                    offsets[name, part["partition_index"]] = (part["committed_offset"], metadata)
                parts.append({"partition_index": part["partition_index"], "error_code": own})
            out.append({"name": asked.get("name"), "topic_id": asked.get("topic_id"), "partitions": parts})
        return out

    def _offsets(self, group: Group, asked: Fields, stable: bool) -> Fields:
        topic = self._c.named(asked)
        name = topic.name if topic else asked.get("name", "")
        parts = []
        for index in asked["partition_indexes"]:
            pending = any((name, index) in o for o in group.open.values())
            offset, metadata = group.offsets.get((name, index), (-1, ""))
            code = UNSTABLE if pending and stable and not self._c.wrong("never-unstable") else 0
            parts.append(
                {
                    "partition_index": index,
                    "committed_offset": -1 if code else offset,
                    "metadata": metadata,
                    "error_code": code,
                }
            )
        return {"name": name, "topic_id": asked.get("topic_id"), "partitions": parts}


def _subscribed(metadata: bytes) -> list[str]:
    """The topics of a subscription; none where it cannot be read."""
    try:
        reader = octets.Reader(metadata)
        reader.take(2)
        return [n or "" for n in reader.array(False, lambda: reader.string(flexible=False)) or []]
    except WireError:
        return []


def _listed(parts: set[Part]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for name, index in sorted(parts):
        out.setdefault(name, []).append(index)
    return out
