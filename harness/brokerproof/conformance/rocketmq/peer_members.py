"""Clients of the reference broker: producers, members of groups, what each member is given, and the queues that they lock."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_entities import Refused
from brokerproof.conformance.rocketmq.peer_sockets import Connection
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.peer_broker import Broker

_LEASE_S, _EXPIRY_S = 60.0, 120.0


class Members:
    """of: group -> client id -> its connection, and when it was last heard of. producers: group -> client id -> its connection."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.of: dict[str, dict[str, tuple[Connection, float]]] = {}
        self.producers: dict[str, dict[str, Connection]] = {}
        #: Topics of the broadcasting groups.
        self.broadcasting: dict[str, list[str]] = {}
        self.locks: dict[tuple[str, str, int], tuple[str, float]] = {}

    def heartbeat(self, connection: Connection, frame: Frame) -> Frame:
        data = wire.loads(frame.body)
        client = str(data["clientID"])
        for producer in data.get("producerDataSet") or ():
            self.producers.setdefault(str(producer["groupName"]), {})[client] = connection
        for consumer in data.get("consumerDataSet") or ():
            group = str(consumer["groupName"])
            members = self.of.setdefault(group, {})
            if consumer.get("messageModel") == "BROADCASTING":
                self.broadcasting[group] = [str(s["topic"]) for s in consumer.get("subscriptionDataSet") or ()]
            new = client not in members
            beat = time.monotonic()
            members[client] = (connection, beat)
            if new:
                self._tell(group)
            expiry = self._broker.s(_EXPIRY_S * (2 if self._broker.is_bug("slow_expiry") else 1))
            self._broker.timers.after(expiry, lambda g=group, b=beat: self._expire(g, client, b))  # type: ignore[misc]  # bound early
        return wire.answer(frame, codes.SUCCESS)

    def _expire(self, group: str, client: str, beat: float) -> None:
        if self.of.get(group, {}).get(client, (None, 0.0))[1] == beat:
            del self.of[group][client]
            self._tell(group)

    def _tell(self, group: str) -> None:
        if not self._broker.is_bug("nobody_told"):
            for connection, _ in list(self.of.get(group, {}).values()):
                connection.ask(codes.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": group})

    def unregister(self, connection: Connection, frame: Frame) -> Frame:
        group = frame.fields.get("consumerGroup", "")
        if self.of.get(group, {}).pop(frame.fields["clientID"], None):
            self._tell(group)
        return wire.answer(frame, codes.SUCCESS)

    def gone(self, connection: Connection) -> None:
        for group, members in list(self.of.items()):
            lost = [client for client, (theirs, _) in list(members.items()) if theirs is connection]
            for client in lost:
                members.pop(client, None)
            if lost:
                self._tell(group)
            if lost and self._broker.is_bug("retries_broadcast"):
                for topic in self.broadcasting.get(group, ()):
                    for queue in self._broker.topics[topic].queues:
                        for message in queue:
                            self._broker.retry(group, message, 3)

    def listed(self, connection: Connection, frame: Frame) -> Frame:
        ids = sorted(self.of.get(frame.fields["consumerGroup"], {}))
        if not ids:
            raise Refused(codes.SYSTEM_ERROR, "no consumer of this group")
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"consumerIdList": ids}).encode())

    def assign(self, connection: Connection, frame: Frame) -> Frame:
        asked = wire.loads(frame.body)
        queues = list(range(len(self._broker.topics[asked["topic"]].queues)))
        members = sorted(self.of.get(asked["consumerGroup"], {}))
        if asked["messageModel"] == "CLUSTERING" and not self._broker.is_bug("shares_nothing"):
            mine = members.index(asked["clientId"])
            queues = queues[mine * len(queues) // len(members) : (mine + 1) * len(queues) // len(members)]
        given = [
            {"messageQueue": {"topic": asked["topic"], "brokerName": self._broker.name, "queueId": q}, "mode": "PULL"}
            for q in queues
        ]
        if self._broker.is_bug("keeps_broadcast_offsets"):
            self._broker.offsets.update({(asked["consumerGroup"], asked["topic"], q): 0 for q in queues})
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"messageQueueAssignments": given}).encode())

    def lock(self, connection: Connection, frame: Frame) -> Frame:
        asked = wire.loads(frame.body)
        got = []
        for queue in asked["mqSet"]:
            key = (asked["consumerGroup"], queue["topic"], int(queue["queueId"]))
            owner, until = self.locks.get(key, ("", 0.0))
            free = owner in ("", asked["clientId"]) or until < time.monotonic()
            if free or self._broker.is_bug("locks_for_all"):
                lease = self._broker.s(_LEASE_S * (3 if self._broker.is_bug("long_lease") else 1))
                self.locks[key] = (asked["clientId"], time.monotonic() + lease)
                got.append(queue)
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"lockOKMQSet": got}).encode())

    def unlock(self, connection: Connection, frame: Frame) -> Frame:
        asked = wire.loads(frame.body)
        for queue in asked["mqSet"]:
            self.locks.pop((asked["consumerGroup"], queue["topic"], int(queue["queueId"])), None)
        return wire.answer(frame, codes.SUCCESS)
