"""The few gRPC calls that set-up and health need, straight on the vendor's stubs: send one message, take it back.

The library's producer and consumer bring a dozen threads and schedulers; a probe wants one call and its status.
Source: apache/rocketmq-apis, apache/rocketmq/v2/service.proto.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc

from brokerproof.brokers.base import LONGER_OCTETS, Opening
from brokerproof.brokers.rocketmq.access import Access, metadata
from brokerproof.brokers.rocketmq.library import grpc_protocol as api

#: Bodies of probe messages start so; receivers and readers pass them over.
PROBE_BODY = b"brokerproof-probe"
#: HTTP/2's connection preface and an empty SETTINGS frame (RFC 9113 section 3.4); a server answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_PING, _ACK = 6, 1


def _http2_frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload


def _ponged(answer: bytes) -> bool:
    """Whether a PING's acknowledgement is among these frames."""
    at = 0
    while at + 9 <= len(answer):
        end = at + 9 + int.from_bytes(answer[at : at + 3], "big")
        if answer[at + 3] == _PING and answer[at + 4] & _ACK and end <= len(answer):
            return True
        at = end
    return False


#: The longer one has a frame of a type that nobody knows, which has to be passed over (RFC 9113 section 4.1), and a PING.
OPENING = Opening(
    _GREETING, _GREETING + _http2_frame(0xBE, bytes(LONGER_OCTETS)) + _http2_frame(_PING, b"brkproof"), _ponged
)  # fmt: skip


class GatewayError(Exception):
    """The gRPC proxy answered with a status that is not OK, or not at all."""


class Gateway:
    """A connection to the gRPC proxy. Raises GatewayError."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 3.0, access: Access = None) -> None:
        self._address = address
        self._access = access
        self._timeout_s = timeout_s
        self._id = f"brokerproof@{uuid.uuid4().hex}"
        # A channel of its own subchannel pool: one that failed a moment ago is not waited for.
        self._channel = grpc.insecure_channel(dialled(address), options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = api.MessagingServiceStub(self._channel)
        self._commands: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.put(None)
        self._channel.close()

    def pass_through(self, topic: str, message_type: str, group: str, tag: bytes = b"") -> None:
        """Sends one probe message to the topic and receives it again as ``group``; acknowledges what it receives."""
        body = PROBE_BODY + b"-" + uuid.uuid4().hex.encode() + tag
        brokers = self._route(topic)
        self.introduce(topic, group)
        self.send(topic, body, message_type)
        deadline = time.monotonic() + self._timeout_s + 5
        while time.monotonic() < deadline:
            if any(body in self.receive(topic, group, broker) for broker in brokers):
                return
        raise GatewayError(f"a probe message sent to {topic!r} was not received")

    def _route(self, topic: str) -> list[str]:
        """The names of the brokers that have the topic."""
        req = api.QueryRouteRequest()
        req.topic.name = topic
        req.endpoints.CopyFrom(endpoints(self._address))
        answer = self._call(self._stub.QueryRoute, req)
        return sorted({str(queue.broker.name) for queue in answer.message_queues})

    def told(self, topic: str, asked: tuple[str, int]) -> set[tuple[str, int]]:
        """Where the proxy sends a client that says it came by the address ``asked``."""
        req = api.QueryRouteRequest()
        req.topic.name = topic
        req.endpoints.CopyFrom(endpoints(asked))
        queues = self._call(self._stub.QueryRoute, req).message_queues
        return {(str(a.host), int(a.port)) for queue in queues for a in queue.broker.endpoints.addresses}

    def introduce(self, topic: str, group: str) -> None:
        """Says that this is a consumer of that group, and on a stream that stays open."""
        # Without settings from the telemetry stream the proxy refuses to receive (50001).
        command = api.TelemetryCommand()
        command.settings.client_type = api.ClientType.SIMPLE_CONSUMER
        command.settings.access_point.CopyFrom(endpoints(self._address))
        command.settings.request_timeout.seconds = int(self._timeout_s)
        command.settings.subscription.group.name = group
        entry = command.settings.subscription.subscriptions.add()
        entry.topic.name = topic
        entry.expression.type = api.FilterType.TAG
        entry.expression.expression = "*"
        command.settings.user_agent.language = api.Language.PYTHON
        command.settings.user_agent.version = "5.0.0"
        self._commands.put(command)
        try:
            stream = self._stub.Telemetry(iter(self._commands.get, None), metadata=self._metadata(), timeout=60)
            next(iter(stream))
        except (grpc.RpcError, StopIteration) as exc:
            raise GatewayError(f"telemetry: {_short(exc)}") from exc

    def send(self, topic: str, body: bytes, message_type: str) -> None:
        """Waits for the answer; a transaction is committed."""
        req = api.SendMessageRequest()
        message = req.messages.add()
        message.topic.name = topic
        message.body = body
        words = message.system_properties
        words.message_id = f"01{uuid.uuid4().hex.upper()}"
        words.message_type = api.MessageType.Value(message_type)
        words.body_encoding = api.Encoding.IDENTITY
        words.born_timestamp.GetCurrentTime()
        words.born_host = "127.0.0.1"
        if message_type == "FIFO":
            words.message_group = "probe"
        if message_type == "DELAY":
            words.delivery_timestamp.GetCurrentTime()
        answer = self._call(self._stub.SendMessage, req)
        if message_type == "TRANSACTION":
            self._commit(topic, words.message_id, answer.entries[0].transaction_id)

    def _commit(self, topic: str, message_id: str, transaction_id: str) -> None:
        req = api.EndTransactionRequest()
        req.topic.name = topic
        req.message_id = message_id
        req.transaction_id = transaction_id
        req.resolution = api.TransactionResolution.COMMIT
        req.source = api.TransactionSource.SOURCE_CLIENT
        self._call(self._stub.EndTransaction, req)

    def receive(self, topic: str, group: str, broker: str) -> list[bytes]:
        """Asks once for messages, and acknowledges them; their bodies."""
        req = api.ReceiveMessageRequest()
        req.group.name = group
        req.message_queue.topic.name = topic
        req.message_queue.broker.name = broker
        req.filter_expression.type = api.FilterType.TAG
        req.filter_expression.expression = "*"
        req.batch_size = 32
        req.invisible_duration.seconds = 10
        req.long_polling_timeout.seconds = 1
        bodies = []
        try:
            for answer in self._stub.ReceiveMessage(req, metadata=self._metadata(), timeout=self._timeout_s + 5):
                if answer.HasField("message"):
                    bodies.append(bytes(answer.message.body))
                    self._ack(topic, group, answer.message.system_properties)
                elif answer.HasField("status"):
                    _check("ReceiveMessage", answer.status, api.Code.MESSAGE_NOT_FOUND)
        except grpc.RpcError as exc:
            raise GatewayError(f"ReceiveMessage: {_short(exc)}") from exc
        return bodies

    def _ack(self, topic: str, group: str, words: Any) -> None:
        req = api.AckMessageRequest()
        req.group.name = group
        req.topic.name = topic
        entry = req.entries.add()
        entry.message_id = words.message_id
        entry.receipt_handle = words.receipt_handle
        self._call(self._stub.AckMessage, req)

    def _call(self, method: Any, req: Any) -> Any:
        name = type(req).__name__.removesuffix("Request")
        try:
            answer = method(req, metadata=self._metadata(), timeout=self._timeout_s)
        except grpc.RpcError as exc:
            raise GatewayError(f"{name}: {_short(exc)}") from exc
        _check(name, answer.status)
        return answer

    def _metadata(self) -> Iterator[tuple[str, str]] | list[tuple[str, str]]:
        return [
            ("x-mq-client-id", self._id), ("x-mq-language", "PYTHON"), ("x-mq-protocol", "v2"),
            ("x-mq-client-version", "5.0.0"), ("x-mq-request-id", uuid.uuid4().hex), *metadata(self._access),
        ]  # fmt: skip


def dialled(address: tuple[str, int]) -> str:
    """The address as a gRPC channel is told it."""
    return f"{'ipv4' if _is_ipv4(address[0]) else 'dns'}:{address[0]}:{address[1]}"


def endpoints(of: tuple[str, int]) -> Any:
    """The address as messages of the protocol name it: ``Endpoints``."""
    made = api.Endpoints()
    made.scheme = api.AddressScheme.IPv4 if _is_ipv4(of[0]) else api.AddressScheme.DOMAIN_NAME
    address = made.addresses.add()
    address.host, address.port = of
    return made


def _is_ipv4(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _check(call: str, status: Any, *also: int) -> None:
    if status.code not in (api.Code.OK, *also):
        raise GatewayError(f"{call}: code {status.code} {status.message}")


def _short(exc: BaseException) -> str:
    code = getattr(exc, "code", None)
    return f"{code().name}: {exc.details()}" if callable(code) else str(exc)  # type: ignore[attr-defined]  # an RpcError
