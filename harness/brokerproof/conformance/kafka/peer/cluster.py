"""What the parts of the peer share: its nodes and their states, topics and their replicas, time, the mutant."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from brokerproof.conformance.kafka.peer.log import Log

#: Topic configuration and its defaults.
TOPIC_CONFIG: Mapping[str, str] = {
    "max.message.bytes": "1048588", "cleanup.policy": "delete", "compression.type": "producer",
    "message.timestamp.type": "CreateTime", "min.insync.replicas": "1", "delete.retention.ms": "86400000",
    "follower.replication.throttled.replicas": "",
}  # fmt: skip
#: Broker configuration and its defaults: the vendor's, but what is not waited for in tests as ``brokers.kafka.config`` sets it.
BROKER_CONFIG: Mapping[str, str] = {
    "socket.request.max.bytes": "104857600", "connections.max.idle.ms": "600000", "replica.lag.time.max.ms": "10000",
    "transaction.max.timeout.ms": "900000", "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000", "offset.metadata.max.bytes": "4096",
    "group.share.record.lock.duration.ms": "5000", "group.share.delivery.count.limit": "5",
    "share.coordinator.state.topic.replication.factor": "1",
}  # fmt: skip
_SESSION_MS = 4000.0
State = Literal["up", "stopped", "down"]


@dataclass(slots=True)
class Node:
    id: int
    port: int = 0
    state: State = "up"
    since_ms: float = 0.0


@dataclass(slots=True)
class Partition:
    """ends: what each replica has."""

    replicas: list[int]
    isr: list[int]
    leader: int
    log: Log
    epoch: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    @property
    def high_watermark(self) -> int:
        return min(self.ends.get(i, 0) for i in self.isr)


@dataclass(slots=True)
class Topic:
    name: str
    id: uuid.UUID
    partitions: list[Partition]
    config: dict[str, str]
    made_ms: float = 0.0


class Cluster:
    """Everything is read and changed under ``changed``, which also tells who waits. settings: of the brokers."""

    def __init__(self, *, nodes: int, settings: Mapping[str, Any], scale: float, mutant: str) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.scale, self.mutant = scale, mutant
        self.nodes = {i: Node(i) for i in range(1, nodes + 1)}
        self.topics: dict[str, Topic] = {}
        self.config = {**BROKER_CONFIG, **{k: str(v) for k, v in settings.items()}}
        self.own_config: dict[int, dict[str, str]] = {i: {} for i in self.nodes}
        self.closed = False

    def wrong(self, what: str) -> bool:
        return self.mutant == what

    def now_ms(self) -> float:
        """The broker's clock, for timers."""
        return time.monotonic() * 1000 / self.scale

    def named(self, asked: Mapping[str, Any]) -> Topic | None:
        """By ``name`` or ``topic``, or where that is empty by ``topic_id``."""
        name = asked.get("name") or asked.get("topic")
        if name:
            return self.topics.get(name)
        return next((t for t in self.topics.values() if t.id == asked.get("topic_id")), None)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def becomes(self, id: int, state: State) -> None:
        with self.changed:
            self.nodes[id].state, self.nodes[id].since_ms = state, self.now_ms()
            if state == "down" and self.wrong("acks-lost"):
                for topic in self.topics.values():
                    for part in topic.partitions:
                        if part.leader == id and part.log.end > 1:
                            part.log.truncate(part.log.end - 1)
                            part.ends = {i: min(e, part.log.end) for i, e in part.ends.items()}
            self.changed.notify_all()

    def quorum(self) -> bool:
        return sum(n.state == "up" for n in self.nodes.values()) * 2 > len(self.nodes)

    def tick(self) -> None:
        """Replicas catch up, or leave the in-sync set; leaders that are gone are replaced."""
        for topic in self.topics.values():
            for part in topic.partitions:
                self._replicate(topic, part)

    def _replicate(self, topic: Topic, part: Partition) -> None:
        led = self.nodes[part.leader].state == "up" if part.leader > 0 else False
        for id in part.replicas:
            node = self.nodes[id]
            if led and node.state == "up" and not self._throttled(topic, part, id):
                part.ends[id] = part.log.end
                if id not in part.isr and self.quorum():
                    part.isr.append(id)
                    self.changed.notify_all()
        if not self.quorum():
            return
        lag = max(_SESSION_MS, float(self.config["replica.lag.time.max.ms"]) * (2 if self.wrong("lag-twice") else 0))
        gone = [i for i in part.isr if self.nodes[i].state != "up" and self.now_ms() - self.nodes[i].since_ms > lag]
        if gone and set(part.isr) - set(gone):
            part.isr = [i for i in part.isr if i not in gone]
            if part.leader in gone:
                self._elect(part)
            self.changed.notify_all()

    def _elect(self, part: Partition) -> None:
        part.leader = next(i for i in part.isr if self.nodes[i].state == "up")
        part.epoch += 1
        end = part.ends.get(part.leader, 0)
        part.log.truncate(end)
        part.log.epochs.append((part.epoch, end))
        part.ends = {i: min(e, end) for i, e in part.ends.items()}

    def _throttled(self, topic: Topic, part: Partition, id: int) -> bool:
        """The reference peer's throttle is a stop: enough for a replica that is not to come back."""
        rate = int(self.own_config[id].get("follower.replication.throttled.rate", 10**9))
        return id not in part.isr and topic.config["follower.replication.throttled.replicas"] == "*" and rate < 1000
