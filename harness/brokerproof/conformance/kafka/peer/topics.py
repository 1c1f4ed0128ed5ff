"""Topics: made, told of, written to, read from, configured. One method for each API, named ``on_<api>``.

Each takes the request and gives the fields of the response (of any version: what a version does not have is left out), or
None where none is due.
"""

from __future__ import annotations

import itertools
import uuid
from typing import Any

from brokerproof.conformance.kafka.peer.cluster import TOPIC_CONFIG, Cluster, Partition, Topic
from brokerproof.conformance.kafka.peer.log import NO_ZSTD, Log
from brokerproof.conformance.kafka.peer.transactions import Transactions
from brokerproof.wire.kafka import records
from brokerproof.wire.kafka.frames import Request
from brokerproof.wire.kafka.schema import NO_ID, Fields

OUT_OF_RANGE, UNKNOWN_TOPIC, NOT_LEADER, TIMED_OUT, NOT_ENOUGH, NOT_ENOUGH_AFTER, BAD_ACKS, EXISTS = (
    1,
    3,
    6,
    7,
    19,
    20,
    21,
    36,
)
NO_SESSION, WRONG_SESSION, FENCED_EPOCH, UNKNOWN_EPOCH, UNKNOWN_ID = 70, 71, 74, 75, 100
_TOPIC, _BROKER, _GROUP = 2, 4, 32


class ClosesConnection(Exception):
    """The broker ends the connection instead of answering."""


class Topics:
    def __init__(self, cluster: Cluster, transactions: Transactions) -> None:
        self._c, self._transactions = cluster, transactions
        #: session id -> [next epoch, (topic, partition) -> (fetch offset, what was told last)]
        #: Whether the next Fetch fails: a mutant's.
        self._spoilt = False
        self._sessions: dict[int, list[Any]] = {}
        self._session_ids = itertools.count(1001)
        self.group_config: dict[str, dict[str, str]] = {}

    # -- making and telling --------------------------------------------------------------------------------------------

    def on_create_topics(self, request: Request, node: int) -> Fields:
        out = []
        for asked in request.fields["topics"]:
            name = asked["name"]
            code = EXISTS if name in self._c.topics else 0
            if not code:
                self._make(asked)
            out.append({"name": name, "error_code": code, "topic_id": self._c.topics[name].id})
        return {"topics": out}

    def on_delete_topics(self, request: Request, node: int) -> Fields:
        names = request.fields.get("topic_names") or [t["name"] for t in request.fields.get("topics", [])]
        codes = [(n, 0 if self._c.topics.pop(n, None) else UNKNOWN_TOPIC) for n in names]
        return {"responses": [{"name": n, "error_code": c} for n, c in codes]}

    def on_metadata(self, request: Request, node: int) -> Fields:
        asked = request.fields["topics"]
        if asked is None or (not asked and request.version == 0):
            names = list(self._c.topics)
        else:
            names = [t["name"] for t in asked]
        if self._c.wrong("empty-means-all") and not asked:
            names = list(self._c.topics)
        up = [n for n in self._c.nodes.values() if n.state == "up"]
        return {
            "brokers": [{"node_id": n.id, "host": "127.0.0.1", "port": n.port, "rack": None} for n in up],
            "cluster_id": "reference", "controller_id": min(self._c.nodes), "topics": [self._told(n) for n in names],
        }  # fmt: skip

    def on_describe_configs(self, request: Request, node: int) -> Fields:
        return {"results": [self._configured(r) for r in request.fields["resources"]]}

    def on_incremental_alter_configs(self, request: Request, node: int) -> Fields:
        out = []
        for asked in request.fields["resources"]:
            kind, name = asked["resource_type"], asked["resource_name"]
            target: dict[str, str] = {}
            if kind == _TOPIC:
                target = self._c.topics[name].config
            elif kind == _BROKER:
                target = self._c.own_config[int(name)]
            elif kind == _GROUP:
                target = self.group_config.setdefault(name, {})
            target.update({c["name"]: c["value"] for c in asked["configs"]})
            out.append({"error_code": 0, "error_message": None, "resource_type": kind, "resource_name": name})
        return {"responses": out}

    # -- writing -------------------------------------------------------------------------------------------------------

    def on_produce(self, request: Request, node: int) -> Fields | None:
        acks = request.fields["acks"]
        failed = False
        hints: dict[int, Fields] = {}
        waiting: list[tuple[Fields, Partition, int]] = []
        out = []
        for asked in request.fields["topic_data"]:
            topic = self._c.named(asked)
            parts = []
            for part in asked["partition_data"]:
                told = self._append(request, topic, part, node, acks, waiting)
                if told["error_code"] == NOT_LEADER and topic is not None and not self._c.wrong("no-leader-hint"):
                    leader = topic.partitions[part["index"]]
                    told["current_leader"] = {"leader_id": leader.leader, "leader_epoch": leader.epoch}
                    port = self._c.nodes[leader.leader].port
                    hints[leader.leader] = {"node_id": leader.leader, "host": "127.0.0.1", "port": port, "rack": None}
                failed = failed or told["error_code"] != 0
                parts.append(told)
            out.append({"name": asked.get("name"), "topic_id": asked.get("topic_id"), "partition_responses": parts})
        self._replicated(waiting, request.fields["timeout"])
        if acks == 0 and not self._c.wrong("acks-0-answered"):
            if failed and not self._c.wrong("acks-0-left-open"):
                raise ClosesConnection
            return None
        return {"responses": out, **({"node_endpoints": list(hints.values())} if hints else {})}

    def _append(self, request: Request, topic: Topic | None, asked: Fields, node: int, acks: int, waiting: list[Any]) -> Fields:  # fmt: skip
        index, code = asked["index"], 0
        out: Fields = {
            "index": index,
            "error_code": 0,
            "base_offset": -1,
            "log_append_time": -1,
            "log_start_offset": -1,
        }
        if topic is None or index >= len(topic.partitions):
            by_id = request.version >= 13 and not self._c.wrong("unknown-id-is-3")
            return {**out, "error_code": UNKNOWN_ID if by_id and topic is None else UNKNOWN_TOPIC}
        part = topic.partitions[index]
        if acks not in (-1, 0, 1) and not self._c.wrong("any-acks"):
            code = BAD_ACKS
        elif part.leader != node and not self._c.wrong("follower-takes"):
            code = NOT_LEADER
        elif (
            acks == -1 and len(part.isr) < int(topic.config["min.insync.replicas"]) and not self._c.wrong("min-isr-off")
        ):
            code = NOT_ENOUGH
        if part.epoch and self._c.wrong("unwritten-after-election"):
            code = NOT_LEADER
        late = code or self._transactions.may_produce(request, topic.name, index, asked["records"] or b"")
        self._spoilt |= late != code and self._c.wrong("late-write-spoils")
        code = late
        if code:
            self._refused(part, request)
            return {**out, "error_code": code}
        done = part.log.append(asked["records"] or b"", version=request.version, leader_epoch=part.epoch)
        if done.code:
            self._refused(part, request)
        if done.code == 0:
            part.ends[part.leader] = part.log.end
            self._c.tick()
            self._c.changed.notify_all()
            if acks == -1:
                waiting.append((out, part, part.log.end))
        out |= {
            "error_code": done.code, "base_offset": done.base_offset, "log_append_time": done.time_ms,
            "log_start_offset": part.log.start,
            "record_errors": [{"batch_index": i, "batch_index_error_message": None} for i in done.record_errors],
        }  # fmt: skip
        return out

    def _refused(self, part: Partition, request: Request) -> None:
        if self._c.wrong("refused-appended"):
            part.log.append(
                records.batch([records.Record(b"refused", b"key")]), version=request.version, leader_epoch=part.epoch
            )
            part.ends = dict.fromkeys(part.ends, part.log.end)

    def _replicated(self, waiting: list[tuple[Fields, Partition, int]], timeout_ms: int) -> None:
        """Until all replicas in sync have it; what was appended and then could not be, says so."""
        until = self._c.now_ms() + timeout_ms
        for told, part, end in () if self._c.wrong("acks-all-early") else waiting:
            while part.high_watermark < end and self._c.now_ms() < until and not self._c.closed:
                self._c.changed.wait(0.02)
            if part.high_watermark < end:
                told["error_code"] = TIMED_OUT
            elif len(part.isr) < 2 and len(part.replicas) > 2:
                told["error_code"] = NOT_ENOUGH_AFTER

    # -- reading -------------------------------------------------------------------------------------------------------

    def on_fetch(self, request: Request, node: int) -> Fields:
        fields = request.fields
        session, epoch = fields.get("session_id", 0), fields.get("session_epoch", -1)
        if session and (session not in self._sessions or self._c.wrong("no-sessions")):
            return {"error_code": NO_SESSION, "session_id": 0, "responses": []}
        if session and epoch != self._sessions[session][0]:
            return {"error_code": WRONG_SESSION, "session_id": session, "responses": []}
        wanted = {
            (t.get("topic") or "", t.get("topic_id") or NO_ID, p["partition"]): p
            for t in fields["topics"] for p in t["partitions"]
        }  # fmt: skip
        if session:
            kept = self._sessions[session]
            kept[0] += 1
            kept[1].update(wanted)
            wanted = kept[1]
        until = self._c.now_ms() + fields["max_wait"] * (2 if self._c.wrong("waits-twice") else 1)
        while True:
            out, size, failed = self._read_all(request, wanted, node)
            enough = size >= fields["min_bytes"] or failed or not wanted
            if enough and not (self._c.wrong("waits-for-nothing") and not failed):
                break
            if self._c.now_ms() >= until or self._c.closed:
                break
            if self._c.wrong("never-waits"):
                break
            self._c.changed.wait(0.01)
        if epoch == 0 and not session:
            session = next(self._session_ids)
            self._sessions[session] = [1, wanted, {}]
        return {"error_code": 0, "session_id": session, "responses": self._listed(out, session, epoch)}

    def _read_all(self, request: Request, wanted: dict[Any, Fields], node: int) -> tuple[list[Any], int, bool]:
        out, left, failed, size = [], request.fields["max_bytes"], False, 0
        for (name, id, index), asked in wanted.items():
            topic = self._c.named({"name": name, "topic_id": id})
            told = self._read(request, topic, index, asked, node, left)
            octets = len(told["records"] or b"")
            size, left = size + octets, max(0, left - octets)
            failed = failed or told["error_code"] != 0
            out.append((name, id, told))
        return out, size, failed

    def _listed(self, found: list[Any], session: int, epoch: int) -> list[Fields]:
        """By topic; of a session only what is new."""
        if session and epoch > 0 and not self._c.wrong("session-tells-all"):
            found = [f for f in found if f[2]["records"] or f[2]["error_code"]]
        grouped: dict[Any, list[Fields]] = {}
        for name, id, told in found:
            grouped.setdefault((name, id), []).append(told)
        return [{"topic": name, "topic_id": id, "partitions": parts} for (name, id), parts in grouped.items()]

    def _read(self, request: Request, topic: Topic | None, index: int, asked: Fields, node: int, limit: int) -> Fields:
        out: Fields = {
            "partition_index": index, "error_code": 0, "high_watermark": -1, "last_stable_offset": -1,
            "log_start_offset": -1, "aborted_transactions": None, "records": b"",
        }  # fmt: skip
        if topic is None or index >= len(topic.partitions):
            by_id = request.version >= 13 and not self._c.wrong("unknown-id-is-3")
            return {**out, "error_code": UNKNOWN_ID if by_id and topic is None else UNKNOWN_TOPIC}
        part = topic.partitions[index]
        log = part.log
        code = self._epoch_error(part, asked.get("current_leader_epoch", -1)) or (
            NOT_LEADER if part.leader != node else 0
        )
        if self._spoilt or (part.epoch and self._c.wrong("unread-after-election")):
            code, self._spoilt = NOT_LEADER, False
        offset = asked["fetch_offset"]
        if not code and not log.start <= offset <= log.end:
            code = OUT_OF_RANGE
        if code:
            return {**out, "error_code": code}
        high = part.log.end if self._c.wrong("above-high-watermark") else part.high_watermark
        stable = high if self._c.wrong("unstable-read") else min(high, log.last_stable)
        committed = request.fields["isolation_level"] == 1
        bound = stable if committed else high
        if self._c.wrong("uncommitted-hidden"):
            bound = min(high, log.last_stable)
        data = log.read(offset, min(limit, asked["partition_max_bytes"]), bound)
        if request.version < 10 and self._packed_by_zstd(log) and not self._c.wrong("zstd-to-all"):
            return {**out, "error_code": NO_ZSTD}
        if self._c.wrong("unwraps") and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        ranges = log.ranges(offset, bound) if committed and not self._c.wrong("no-aborted-list") else []
        return {
            **out, "high_watermark": high, "last_stable_offset": min(high, log.last_stable), "log_start_offset": log.start,
            "records": data,
            "aborted_transactions": [{"producer_id": p, "first_offset": f} for p, f in ranges] if committed else None,
        }  # fmt: skip

    def on_list_offsets(self, request: Request, node: int) -> Fields:
        def one(topic: Topic | None, asked: Fields) -> Fields:
            index = asked["partition_index"]
            out: Fields = {"partition_index": index, "error_code": 0, "timestamp": -1, "offset": -1}
            if topic is None or index >= len(topic.partitions):
                return {**out, "error_code": UNKNOWN_TOPIC}
            part = topic.partitions[index]
            code = self._epoch_error(part, asked.get("current_leader_epoch", -1))
            code = code or (NOT_LEADER if part.leader != node else 0)
            if code:
                return {**out, "error_code": code}
            offset, stamp = self._offset(part, asked["timestamp"], request.fields.get("isolation_level", 0))
            return {**out, "offset": offset, "timestamp": stamp, "leader_epoch": part.epoch}

        return {
            "topics": [
                {"name": t["name"], "partitions": [one(self._c.named(t), p) for p in t["partitions"]]}
                for t in request.fields["topics"]
            ]
        }

    def on_offset_for_leader_epoch(self, request: Request, node: int) -> Fields:
        def one(topic: Topic | None, asked: Fields) -> Fields:
            if topic is None:
                return {"partition": asked["partition"], "error_code": UNKNOWN_TOPIC}
            log, wanted = topic.partitions[asked["partition"]].log, asked["leader_epoch"]
            later = [start for epoch, start in log.epochs if epoch > wanted]
            end = later[0] if later and not self._c.wrong("epoch-end-now") else log.end
            return {"partition": asked["partition"], "error_code": 0, "leader_epoch": wanted, "end_offset": end}

        return {
            "topics": [
                {"topic": t["topic"], "partitions": [one(self._c.named(t), p) for p in t["partitions"]]}
                for t in request.fields["topics"]
            ]
        }

    def on_delete_records(self, request: Request, node: int) -> Fields:
        def one(topic: Topic | None, asked: Fields) -> Fields:
            index = asked["partition_index"]
            if topic is None:
                return {"partition_index": index, "low_watermark": -1, "error_code": UNKNOWN_TOPIC}
            part = topic.partitions[index]
            before = part.high_watermark if asked["offset"] == -1 else asked["offset"]
            if not 0 <= before <= part.high_watermark:
                return {"partition_index": index, "low_watermark": -1, "error_code": OUT_OF_RANGE}
            part.log.delete_before(before - (1 if self._c.wrong("deletes-one-less") else 0))
            return {"partition_index": index, "low_watermark": part.log.start, "error_code": 0}

        return {
            "topics": [
                {"name": t["name"], "partitions": [one(self._c.named(t), p) for p in t["partitions"]]}
                for t in request.fields["topics"]
            ]
        }

    def tick(self) -> None:
        """Compaction."""
        if self._c.wrong("never-compacts"):
            return
        for topic in self._c.topics.values():
            if "compact" not in topic.config["cleanup.policy"]:
                continue
            age = self._c.now_ms() - topic.made_ms
            for part in topic.partitions:
                if len(part.log.batches) > 1:
                    gone = age > float(topic.config["delete.retention.ms"]) and not self._c.wrong("tombstones-stay")
                    part.log.compact(tombstones=gone)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _make(self, asked: Fields) -> None:
        config = {**TOPIC_CONFIG, **{c["name"]: c["value"] for c in asked["configs"]}}
        given = [a["broker_ids"] for a in asked["assignments"]]
        every = sorted(self._c.nodes)
        copies = max(1, asked["replication_factor"])
        replicas = given or [
            [every[(i + k) % len(every)] for k in range(copies)] for i in range(asked["num_partitions"])
        ]
        parts = [
            Partition(list(ids), list(ids), ids[0], Log(config, self._c.wrong), ends=dict.fromkeys(ids, 0))
            for ids in replicas
        ]
        self._c.topics[asked["name"]] = Topic(asked["name"], uuid.uuid4(), parts, config, self._c.now_ms())

    def _told(self, name: str | None) -> Fields:
        topic = self._c.topics.get(name or "")
        if topic is None:
            return {"error_code": UNKNOWN_TOPIC, "name": name, "partitions": []}
        parts = [
            {"error_code": 0, "partition_index": i, "leader_id": p.leader, "leader_epoch": p.epoch,
             "replica_nodes": p.replicas, "isr_nodes": p.isr, "offline_replicas": []}
            for i, p in enumerate(topic.partitions)
        ]  # fmt: skip
        return {"error_code": 0, "name": name, "topic_id": topic.id, "is_internal": False, "partitions": parts}

    def _configured(self, asked: Fields) -> Fields:
        kind, name = asked["resource_type"], asked["resource_name"]
        found: dict[str, str] = dict(self._c.config)
        if kind == _TOPIC:
            topic = self._c.topics.get(name)
            found = topic.config if topic is not None else {}
        elif kind == _GROUP:
            found = self.group_config.get(name, {})
        if self._c.wrong("config-hidden"):
            found = {k: str(int(v) * 2) if v.isdigit() else v for k, v in found.items()}
        keys = asked["configuration_keys"]
        listed = [
            {"name": k, "value": v, "read_only": False, "config_source": 5, "is_sensitive": False, "synonyms": []}
            for k, v in found.items() if keys is None or k in keys
        ]  # fmt: skip
        return {"error_code": 0, "error_message": None, "resource_type": kind, "resource_name": name, "configs": listed}

    def _epoch_error(self, part: Partition, given: int) -> int:
        if given < 0 or given == part.epoch:
            return 0
        return FENCED_EPOCH if given < part.epoch else UNKNOWN_EPOCH

    def _offset(self, part: Partition, asked: int, isolation: int) -> tuple[int, int]:
        log = part.log
        if asked == -1:
            return (min(part.high_watermark, log.last_stable) if isolation else part.high_watermark), -1
        if asked in (-2, -4):
            return log.start, -1
        if asked == -3:
            return log.largest()
        return (-1, -1) if asked == -5 else log.at_time(asked)

    @staticmethod
    def _packed_by_zstd(log: Log) -> bool:
        return any(b.compression == "zstd" for b in log.batches)
