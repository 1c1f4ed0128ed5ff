"""A blocking client of RocketMQ's remoting protocol with deadlines, on the codec of ``wire.rocketmq``.

The harness speaks it for set-up, health and the final read (a JVM command line tool costs six seconds a call), and
load processes for the one thing that the vendor's gRPC library has not: sending without a reply.
Source: docs/en/design.md "Communication Mechanism", RequestCode.java and RemotingCommand.java of apache/rocketmq.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final

from brokerproof.brokers.base import LONGER_OCTETS, Opening, framed
from brokerproof.brokers.rocketmq.access import Access, signed
from brokerproof.wire.rocketmq import Decoder, message_properties, request
from brokerproof.wire.rocketmq import Frame as Frame
from brokerproof.wire.rocketmq import ProtocolError as ProtocolError
from brokerproof.wire.rocketmq import Stored as Stored
from brokerproof.wire.rocketmq import loads as loads
from brokerproof.wire.rocketmq import properties as properties
from brokerproof.wire.rocketmq import record_around as record_around
from brokerproof.wire.rocketmq import stored as stored

# Request codes. Source: RequestCode.java.
PULL_MESSAGE: Final = 11
UPDATE_AND_CREATE_TOPIC: Final = 17
GET_ALL_TOPIC_CONFIG: Final = 21
UPDATE_BROKER_CONFIG: Final = 25
GET_BROKER_CONFIG: Final = 26
GET_BROKER_RUNTIME_INFO: Final = 28
GET_MAX_OFFSET: Final = 30
GET_MIN_OFFSET: Final = 31
GET_ROUTEINFO_BY_TOPIC: Final = 105
GET_BROKER_CLUSTER_INFO: Final = 106
UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: Final = 200
GET_ALL_SUBSCRIPTIONGROUP_CONFIG: Final = 201
GET_ALL_TOPIC_LIST_FROM_NAMESERVER: Final = 206
DELETE_SUBSCRIPTIONGROUP: Final = 207
DELETE_TOPIC_IN_BROKER: Final = 215
DELETE_TOPIC_IN_NAMESRV: Final = 216
SEND_MESSAGE_V2: Final = 310
GET_TOPIC_CONFIG: Final = 351
GET_BROKER_HA_STATUS: Final = 907

# Response codes. Source: ResponseCode.java, RemotingSysResponseCode.java.
SUCCESS: Final = 0
TOPIC_NOT_EXIST: Final = 17
PULL_NOT_FOUND: Final = 19
PULL_RETRY_IMMEDIATELY: Final = 20
PULL_OFFSET_MOVED: Final = 21

#: What a probe connection sends to a broker or name server: a request code that nobody has, which is answered.
OPENING: Opening


class RemotingError(Exception):
    """A response whose code is not SUCCESS."""

    def __init__(self, request: int, code: int, remark: str) -> None:
        super().__init__(f"request {request}: response code {code}: {remark}")
        self.code = code
        self.remark = remark


OPENING = Opening(
    Frame(code=32000, opaque=1).encode(), Frame(code=32000, opaque=1, body=bytes(LONGER_OCTETS)).encode(), framed
)  # fmt: skip


class Connection:
    """A blocking connection. Every call has a deadline; OSError and ProtocolError end it, RemotingError does not."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 3.0, access: Access = None) -> None:
        self._access = access
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = timeout_s
        self._decoder = Decoder()
        self._opaque = 0
        self._early: dict[int, Frame] = {}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, code: int, fields: Mapping[str, Any], body: bytes = b"", timeout_s: float | None = None) -> Frame:
        """The response. Raises RemotingError when its code is not SUCCESS."""
        response = self.wait(self.ask(code, fields, body), timeout_s)
        if response.code != SUCCESS:
            raise RemotingError(code, response.code, response.remark)
        return response

    def ask(self, code: int, fields: Mapping[str, Any], body: bytes = b"") -> int:
        """Sends a request without waiting; returns what ``wait`` takes."""
        self._opaque += 1
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(signed(self._access, request(code, self._opaque, fields, body)).encode())
        return self._opaque

    def tell(self, code: int, fields: Mapping[str, Any], body: bytes = b"") -> None:
        """Sends a oneway request: no answer comes, whatever happens to it."""
        self._opaque += 1
        self._socket.settimeout(self._timeout_s)
        asked = request(code, self._opaque, fields, body, oneway=True)
        self._socket.sendall(signed(self._access, asked).encode())

    def wait(self, opaque: int, timeout_s: float | None = None) -> Frame:
        """The response to one request; others that come meanwhile are kept. Raises TimeoutError."""
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while opaque not in self._early:
            self._receive(deadline)
        return self._early.pop(opaque)

    def wait_any(self, timeout_s: float | None = None) -> tuple[int, Frame]:
        """Whichever response comes next."""
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while not self._early:
            self._receive(deadline)
        return self._early.popitem()

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no response before the deadline")
        self._socket.settimeout(left)
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the connection was closed")
        for frame in self._decoder.feed(data):
            if frame.is_response:  # what a server asks of its clients is not for us
                self._early[frame.opaque] = frame


# -- requests that more than one place makes -----------------------------------------------------------------------------


def create_topic(to: Connection, topic: str, *, queues: int, message_type: str) -> None:
    """Creates or updates a topic on one broker. Source: CreateTopicRequestHeader.java; attributes: RIP-46."""
    to.call(
        UPDATE_AND_CREATE_TOPIC,
        {
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": 6,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
            "attributes": f"+message.type={message_type}",
        },
    )  # fmt: skip


def create_group(to: Connection, group: str, *, orderly: bool, retry_max: int = 16) -> None:
    """Creates or updates a consumer group on one broker. Source: SubscriptionGroupConfig.java."""
    config = {
        "groupName": group, "consumeEnable": True, "consumeFromMinEnable": True, "consumeBroadcastEnable": True,
        "consumeMessageOrderly": orderly, "retryQueueNums": 1, "retryMaxTimes": retry_max, "brokerId": 0,
        "whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": True,
    }  # fmt: skip
    to.call(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, json.dumps(config).encode())


def groups(to: Connection) -> frozenset[str]:
    """The consumer groups that a broker has. Source: SubscriptionGroupWrapper.java."""
    found = loads(to.call(GET_ALL_SUBSCRIPTIONGROUP_CONFIG, {}).body).get("subscriptionGroupTable") or {}
    return frozenset(map(str, found))


def topics_of(to: Connection) -> frozenset[str]:
    """The topics that a broker has. Source: TopicConfigSerializeWrapper.java."""
    found = loads(to.call(GET_ALL_TOPIC_CONFIG, {}).body).get("topicConfigTable") or {}
    return frozenset(map(str, found))


def topics(to: Connection) -> frozenset[str]:
    """The topics that a name server has routes for, retry and dead-letter topics too. Source: TopicList.java."""
    found = loads(to.call(GET_ALL_TOPIC_LIST_FROM_NAMESERVER, {}).body).get("topicList") or ()
    return frozenset(map(str, found))


def queues_of(to: Connection, topic: str) -> int:
    """How many read queues the broker has for the topic. Raises RemotingError TOPIC_NOT_EXIST."""
    config = loads(to.call(GET_TOPIC_CONFIG, {"topic": topic}).body)
    return int(config["readQueueNums"])


def offsets_of(to: Connection, topic: str, queues: int) -> list[tuple[int, int]]:
    """(lowest, highest + 1) of each queue."""
    asked = [
        (to.ask(GET_MIN_OFFSET, {"topic": topic, "queueId": q}), to.ask(GET_MAX_OFFSET, {"topic": topic, "queueId": q}))
        for q in range(queues)
    ]
    return [(_offset(to.wait(low)), _offset(to.wait(high))) for low, high in asked]


def _offset(response: Frame) -> int:
    if response.code != SUCCESS:
        raise RemotingError(GET_MAX_OFFSET, response.code, response.remark)
    return int(response.fields["offset"])


def role(to: Connection) -> str:
    """``brokerRole`` as the broker sees it now."""
    return properties(to.call(GET_BROKER_CONFIG, {}).body).get("brokerRole", "")


def runtime_info(to: Connection) -> dict[str, str]:
    """What the broker says about itself. Source: AdminBrokerProcessor.prepareRuntimeInfo."""
    table = loads(to.call(GET_BROKER_RUNTIME_INFO, {}).body)["table"]
    return {str(name): str(value) for name, value in table.items()}


def time_of_day(info: Mapping[str, str]) -> float:
    """The broker's time of day, give or take half a second, in seconds since 1970: it tells when it started, and for how
    many whole seconds it has run by the same clock. Source: StoreStatsService.getFormatRuntime."""
    parts = dict(zip(("days", "hours", "minutes", "seconds"), re.findall(r"-?\d+", info["runtime"]), strict=True))
    ran = timedelta(**{unit: int(n) for unit, n in parts.items()}).total_seconds()
    # Cut off towards nought; it is less than nothing after a clock was set back.
    return int(info["bootTimestamp"]) / 1000 + ran + (0.5 if ran >= 0 else -0.5)


def pull_fields(group: str, topic: str, queue: int, offset: int) -> dict[str, Any]:
    """The fields of a pull that brings its own subscription (sysFlag bit 2) and waits for nothing."""
    return {
        "consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 256,
        "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 0,
        "expressionType": "TAG",
    }  # fmt: skip


def send_fields(group: str, topic: str, queue: int, words: Mapping[str, str]) -> dict[str, Any]:
    """The fields of SEND_MESSAGE_V2, which has one letter for each. Source: SendMessageRequestHeaderV2.java."""
    text = message_properties(words)
    return {
        "a": group, "b": topic, "c": "TBW102", "d": 4, "e": queue, "f": 0, "g": int(time.time() * 1000), "h": 0,
        "i": text, "j": 0, "k": False, "m": False,
    }  # fmt: skip


def cluster_info(to: Connection) -> dict[str, dict[int, str]]:
    """Broker name -> id (0 is the master) -> host of each broker that is registered with the name server."""
    table = loads(to.call(GET_BROKER_CLUSTER_INFO, {}).body).get("brokerAddrTable") or {}
    return {
        str(name): {int(i): str(address).rpartition(":")[0] for i, address in data["brokerAddrs"].items()}
        for name, data in table.items()
    }


def mates(to: Connection, broker_name: str) -> frozenset[str]:
    """The names of the sets of brokers in the cluster of that one, itself among them, as the name server knows them; empty where it
    does not know that one."""
    table = loads(to.call(GET_BROKER_CLUSTER_INFO, {}).body).get("brokerAddrTable") or {}
    mine = table.get(broker_name, {}).get("cluster")
    return frozenset(str(name) for name, data in table.items() if mine and data.get("cluster") == mine)


def route(to: Connection, topic: str) -> dict[str, int]:
    """Broker name -> how many queues it takes messages of that topic in, as the name server tells its clients.

    Raises RemotingError TOPIC_NOT_EXIST."""
    found = loads(to.call(GET_ROUTEINFO_BY_TOPIC, {"topic": topic, "acceptStandardJsonOnly": True}).body)
    queues = {str(data["brokerName"]): int(data["writeQueueNums"]) for data in found.get("queueDatas") or ()}
    # A name without an address is of a set whose brokers are all gone.
    there = {str(data["brokerName"]) for data in found.get("brokerDatas") or () if data.get("brokerAddrs")}
    return {name: n for name, n in queues.items() if name in there}


def in_sync_slaves(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The slave connections that a master lists in GET_BROKER_HA_STATUS."""
    found: Sequence[Mapping[str, Any]] = status.get("haConnectionInfo") or ()
    return found
