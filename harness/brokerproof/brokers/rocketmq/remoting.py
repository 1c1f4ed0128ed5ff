"""RocketMQ's remoting protocol: a sans-IO codec, a blocking client with deadlines, and the stored message's format.

    frame     int32 length of what follows | int32 codec << 24 | header length | header | body
    header    JSON: code, flag, opaque, remark, extFields (all values strings); flag bit 0 response, bit 1 oneway

The harness speaks it for set-up, health and the final read (a JVM command line tool costs six seconds a call), and
load processes for the one thing that the vendor's gRPC library has not: sending without a reply.
Source: docs/en/design.md "Communication Mechanism", RequestCode.java and RemotingCommand.java of apache/rocketmq.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Final

from brokerproof.brokers.base import LONGER_OCTETS, Opening, framed

# Request codes. Source: RequestCode.java.
PULL_MESSAGE: Final = 11
UPDATE_AND_CREATE_TOPIC: Final = 17
UPDATE_BROKER_CONFIG: Final = 25
GET_BROKER_CONFIG: Final = 26
GET_BROKER_RUNTIME_INFO: Final = 28
GET_MAX_OFFSET: Final = 30
GET_MIN_OFFSET: Final = 31
GET_ROUTEINFO_BY_TOPIC: Final = 105
GET_BROKER_CLUSTER_INFO: Final = 106
UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: Final = 200
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

_RESPONSE, _ONEWAY = 1, 2
# Source: NettySystemConfig "com.rocketmq.remoting.frameMaxLength".
_FRAME_MAX = 16 * 1024 * 1024
_LENGTHS = struct.Struct(">iI")

#: What a probe connection sends to a broker or name server: a request code that nobody has, which is answered.
OPENING: Opening


class RemotingError(Exception):
    """A response whose code is not SUCCESS."""

    def __init__(self, request: int, code: int, remark: str) -> None:
        super().__init__(f"request {request}: response code {code}: {remark}")
        self.code = code
        self.remark = remark


class ProtocolError(Exception):
    """Bytes that are not a frame of this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One command, either way. fields: ``extFields``."""

    code: int
    opaque: int
    flag: int = 0
    remark: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def is_response(self) -> bool:
        return bool(self.flag & _RESPONSE)

    def encode(self) -> bytes:
        header: dict[str, Any] = {
            "code": self.code, "language": "PYTHON", "version": 0, "opaque": self.opaque, "flag": self.flag,
            "extFields": self.fields,
        }  # fmt: skip
        if self.remark:
            header["remark"] = self.remark
        text = json.dumps(header, separators=(",", ":")).encode()
        # Codec 0 (JSON) is the zero in the first octet of the second word.
        return _LENGTHS.pack(4 + len(text) + len(self.body), len(text)) + text + self.body


def request(code: int, opaque: int, fields: Mapping[str, Any], body: bytes = b"", *, oneway: bool = False) -> Frame:
    """A request; values become strings as the protocol wants them, None is left out."""
    words = {name: _word(value) for name, value in fields.items() if value is not None}
    return Frame(code=code, opaque=opaque, flag=_ONEWAY if oneway else 0, fields=words, body=body)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


OPENING = Opening(
    Frame(code=32000, opaque=1).encode(), Frame(code=32000, opaque=1, body=bytes(LONGER_OCTETS)).encode(), framed
)  # fmt: skip


class Decoder:
    """Bytes in, frames out. Raises ProtocolError for what cannot be a frame; it is of no use afterwards."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < 8:
            return None
        length, second = _LENGTHS.unpack_from(self._buffer)
        codec, header_length = second >> 24, second & 0xFFFFFF
        if not 4 <= length <= _FRAME_MAX or header_length > length - 4:
            raise ProtocolError(f"frame of length {length} with a header of {header_length}")
        if codec != 0:
            raise ProtocolError(f"header codec {codec}; only JSON (0) was asked for")
        if len(self._buffer) < 4 + length:
            return None
        text = bytes(self._buffer[8 : 8 + header_length])
        body = bytes(self._buffer[8 + header_length : 4 + length])
        del self._buffer[: 4 + length]
        return _frame(text, body)


def _frame(text: bytes, body: bytes) -> Frame:
    try:
        header = json.loads(text)
        return Frame(
            code=int(header["code"]), opaque=int(header["opaque"]), flag=int(header.get("flag", 0)),
            remark=str(header.get("remark") or ""), fields=dict(header.get("extFields") or {}), body=body,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ProtocolError(f"header is not a remoting command: {text[:80]!r}") from exc


class Connection:
    """A blocking connection. Every call has a deadline; OSError and ProtocolError end it, RemotingError does not."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 3.0) -> None:
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
        self._socket.sendall(request(code, self._opaque, fields, body).encode())
        return self._opaque

    def tell(self, code: int, fields: Mapping[str, Any], body: bytes = b"") -> None:
        """Sends a oneway request: no answer comes, whatever happens to it."""
        self._opaque += 1
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(request(code, self._opaque, fields, body, oneway=True).encode())

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


# -- bodies ------------------------------------------------------------------------------------------------------------


def loads(body: bytes) -> Any:
    """JSON as fastjson writes it: object keys may be bare numbers (``{0:"host"}``)."""
    text = body.decode()
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(re.sub(r"([{,])(\d+):", r'\1"\2":', text))


def properties(body: bytes) -> dict[str, str]:
    """A Java properties text, as GET_BROKER_CONFIG answers it."""
    lines = (line.partition("=") for line in body.decode().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in the log."""

    queue: int
    offset: int
    flag: int
    sys_flag: int
    reconsumed: int
    body: bytes
    topic: str
    properties: Mapping[str, str]


# total size, magic, body CRC, queue, flag, queue offset, physical offset, system flag, born time
_HEAD = struct.Struct(">iiIiiqqiq")
# Source: MessageVersion.java: the second has a topic longer than 127 octets, with a 16-bit length.
_MAGIC_V1, _MAGIC_V2 = -626843481, -626843477
# Source: MessageSysFlag.java.
_BORN_V6, _STORE_V6 = 1 << 4, 1 << 5


def stored(data: bytes) -> Iterator[Stored]:
    """The messages of a PULL_MESSAGE body, end to end. Source: MessageDecoder.decode."""
    at = 0
    while at < len(data):
        size, magic, _, queue, flag, offset, _, sys_flag, _ = _HEAD.unpack_from(data, at)
        if magic not in (_MAGIC_V1, _MAGIC_V2) or not _HEAD.size < size <= len(data) - at:
            raise ProtocolError(f"no stored message at {at}: magic {magic}, size {size} of {len(data) - at}")
        i = at + _HEAD.size + (20 if sys_flag & _BORN_V6 else 8) + 8 + (20 if sys_flag & _STORE_V6 else 8)
        # reconsume times, offset of the prepared transaction, body length
        reconsumed, _, body_length = struct.unpack_from(">iqi", data, i)
        i += 16
        body = bytes(data[i : i + body_length])
        i += body_length
        wide = magic == _MAGIC_V2
        (topic_length,) = struct.unpack_from(">H" if wide else ">B", data, i)
        i += 2 if wide else 1
        topic = data[i : i + topic_length].decode()
        i += topic_length
        (properties_length,) = struct.unpack_from(">h", data, i)
        text = data[i + 2 : i + 2 + properties_length].decode(errors="replace")
        pairs = (pair.partition("\x01") for pair in text.split("\x02") if pair)
        words = {name: value for name, _, value in pairs}
        yield Stored(queue, offset, flag, sys_flag, reconsumed, body, topic, words)
        at += size


#: From a record's begin to its body: with IPv4 and IPv6 addresses of sender and store. Source: MessageDecoder.java.
_BODY_AT = (_HEAD.size + 8 + 8 + 8 + 16, _HEAD.size + 8 + 8 + 20 + 16, _HEAD.size + 20 + 8 + 20 + 16)


def record_around(data: bytes, body: int) -> tuple[int, Stored] | None:
    """(begin, message) of the record in a commit log whose body begins at ``body``; None where there is none."""
    for before in _BODY_AT:
        begin = body - before
        if begin < 0:
            continue
        size, magic = struct.unpack_from(">ii", data, begin)
        if magic in (_MAGIC_V1, _MAGIC_V2) and before < size <= len(data) - begin:
            try:
                (message,) = stored(data[begin : begin + size])
            except (ProtocolError, ValueError, struct.error):
                continue
            if message.body == data[body : body + len(message.body)]:
                return begin, message
    return None


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


def send_fields(group: str, topic: str, queue: int, message_properties: Mapping[str, str]) -> dict[str, Any]:
    """The fields of SEND_MESSAGE_V2, which has one letter for each. Source: SendMessageRequestHeaderV2.java."""
    text = "".join(f"{name}\x01{value}\x02" for name, value in message_properties.items())
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
