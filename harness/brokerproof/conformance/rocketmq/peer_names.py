"""The reference name server: registrations that expire, routes, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_sockets import Connection, Server
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame

#: A broker registers so often, and is forgotten after so long without.
BEAT_S, EXPIRY_S = 30.0, 120.0


class NameServer:
    """beats: (seconds since 1970, node) of each registration."""

    def __init__(self, node: str, *, scale: float, bug: str, idle_s: float) -> None:
        self.node, self.scale, self.bug = node, scale, bug
        self.beats: list[tuple[float, str]] = []
        #: What its controller says, by name of the set.
        self.sync_state: Callable[[], dict[str, Any]] = dict
        self._known: dict[str, tuple[Broker, float]] = {}
        self.server = Server(self._handle, idle_s=idle_s, bug=bug)

    def register(self, broker: Broker) -> None:
        self._known[broker.node] = (broker, time.monotonic())
        self.beats.append((time.time(), broker.node))

    def drop(self, node: str) -> None:
        """Its connection ended."""
        if self.bug != "keeps_dead_routes":
            self._known.pop(node, None)

    def there(self) -> list[Broker]:
        """Those whose registration is not too old."""
        if self.bug == "keeps_dead_routes":
            return [broker for broker, _ in self._known.values()]
        expiry_s = {"forgets_early": EXPIRY_S - 25, "forgets_late": EXPIRY_S + 40}.get(self.bug, EXPIRY_S)
        oldest = time.monotonic() - self.scale * expiry_s
        return [broker for broker, at in self._known.values() if at >= oldest]

    def _handle(self, connection: Connection, frame: Frame) -> Frame | None:
        handlers: dict[int, Callable[[Frame], Frame]] = {
            codes.GET_ROUTEINFO_BY_TOPIC: self._route, codes.GET_BROKER_CLUSTER_INFO: self._cluster,
            codes.CONTROLLER_GET_SYNC_STATE_DATA: self._sync_state,
            codes.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self._topics,
            codes.DELETE_TOPIC_IN_NAMESRV: lambda f: wire.answer(f, codes.SUCCESS),
        }  # fmt: skip
        found = handlers.get(frame.code)
        if found is None:
            if self.bug == "unknown_unanswered":
                return None
            code = codes.SYSTEM_ERROR if self.bug == "unknown_wrong_code" else codes.REQUEST_CODE_NOT_SUPPORTED
            return wire.answer(frame, code, remark="request type not supported")
        if self.bug == "json_only" and frame.codec != wire.JSON:
            return wire.answer(frame, codes.SYSTEM_ERROR, remark="only JSON")
        return found(frame)

    def _route(self, frame: Frame) -> Frame:
        name = frame.fields["topic"]
        having = [broker for broker in self.there() if name in broker.topics]
        if not having:
            code = codes.SYSTEM_ERROR if self.bug == "wrong_route_code" else codes.TOPIC_NOT_EXIST
            if self.bug == "empty_route":
                code = codes.SUCCESS
            return wire.answer(frame, code, remark="no route")
        queues = [
            {"brokerName": n, "readQueueNums": q, "writeQueueNums": q, "perm": 6, "topicSysFlag": 0}
            for n, q in {b.name: len(b.topics[name].queues) for b in having}.items()
        ]
        body = {"queueDatas": queues, "brokerDatas": list(self._addresses(having).values())}
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps(body).encode())

    def _topics(self, frame: Frame) -> Frame:
        found = sorted({topic for broker in self.there() for topic in broker.topics})
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"topicList": found}).encode())

    def _sync_state(self, frame: Frame) -> Frame:
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"replicasInfoTable": self.sync_state()}).encode())

    def _cluster(self, frame: Frame) -> Frame:
        body = {"brokerAddrTable": self._addresses(self.there()), "clusterAddrTable": {}}
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps(body).encode())

    @staticmethod
    def _addresses(brokers: list[Broker]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for broker in brokers:
            entry = table.setdefault(
                broker.name, {"brokerName": broker.name, "cluster": "reference", "brokerAddrs": {}}
            )
            id = 0 if not broker.slave else int("".join(c for c in broker.node if c.isdigit()) or 1)
            entry["brokerAddrs"][str(id)] = f"127.0.0.1:{broker.server.port}"
        return table
