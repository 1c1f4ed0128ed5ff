"""The gRPC half of a RocketMQ scene: calls on the vendor's stubs with raw metadata, logged, and what came of them.

Source: apache/rocketmq-apis, apache/rocketmq/v2/service.proto and definition.proto.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from brokerproof.brokers.rocketmq import access, gateway
from brokerproof.brokers.rocketmq.library import grpc_protocol
from brokerproof.conformance.case import Seen
from brokerproof.conformance.rocketmq.place import Address

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.scene import RocketmqScene

service, definition = grpc_protocol.service_pb2, grpc_protocol.definition_pb2
#: Source: definition.proto, enum Code.
OK = 20000
_SERVICE = "/apache.rocketmq.v2.MessagingService"
_SHOWN = 600
_BEAT_S = 4.0


@dataclass(slots=True)
class Answer:
    """What one call brought. code: of the response's own status, the last one of a stream; None where there is none.

    rpc: name of the gRPC status where that is not OK.  messages: of ReceiveMessage.
    """

    code: int | None = None
    text: str = ""
    rpc: str = ""
    response: Any = None
    messages: list[Any] = field(default_factory=list)

    def seen(self) -> Seen:
        if self.rpc == "UNIMPLEMENTED":
            return Seen("UNIMPLEMENTED", detail=self.text)
        if self.rpc:
            return Seen(f"RPC error {self.rpc}", detail=self.text)
        return Seen("answered", code=self.code, detail=self.text)

    @property
    def ok(self) -> bool:
        return not self.rpc and self.code == OK


class Telemetry:
    """One Telemetry stream, open until it or its client is closed. Commands come in by a thread of gRPC's."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._came: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.rpc = ""
        call = proxy.method("Telemetry", service.TelemetryCommand, service.TelemetryCommand, ins=True, outs=True)
        self._call = call(iter(self._out.get, None), metadata=proxy.metadata())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, command: Any) -> None:
        self._proxy.scene.way.pace()
        self._proxy.log(">", "Telemetry", command)
        self._out.put(command)

    def next(self, within_s: float, kind: str = "") -> tuple[float, Any] | None:
        """The next command (of that kind; others are passed over), and when it came; None: none came."""
        until = self._proxy.scene.patience(within_s)
        while (left := until - time.monotonic()) > 0:
            self._proxy.scene.hold(0)
            try:
                at, command = self._came.get(timeout=min(left, 0.1))
            except queue.Empty:
                if self.rpc:
                    return None
                continue
            if not kind or command.WhichOneof("command") == kind:
                return at, command
        return None

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for command in self._call:
                self._proxy.log("<", "Telemetry", command)
                self._came.put((time.monotonic(), command))
            self.rpc = "OK"
        except grpc.RpcError as exc:
            self.rpc = exc.code().name


class Proxy:
    """One gRPC client with a channel of its own. client_id: "" to send no ``x-mq-client-id``."""

    def __init__(self, scene: RocketmqScene, address: Address, name: str, client_id: str) -> None:
        self.scene, self.name, self.client_id = scene, name, client_id
        self.address = address
        self._channel = grpc.insecure_channel(
            gateway.dialled(address),
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
        )
        self._streams: list[Telemetry] = []
        #: What it has introduced itself as, for heartbeats: (group, client type); and when the last one was.
        self._role = ("", "")
        self._beat = 0.0
        self._numbers = itertools.count(1)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._channel.close()

    def log(self, direction: Any, name: str, message: Any) -> None:
        data = message.SerializeToString() if message is not None else b""
        shown = " ".join(str(message).split())[:_SHOWN]
        self.scene.log.add(direction, "method", data, conn=self.name, decoded=f"{name} {shown}")

    def metadata(self) -> list[tuple[str, str]]:
        """With who asks and a signature where the proxy asks for that; no log has it."""
        words = [
            ("x-mq-language", "PYTHON"), ("x-mq-protocol", "v2"), ("x-mq-client-version", "5.0.0"),
            ("x-mq-request-id", uuid.uuid4().hex), *access.metadata(self.scene.place.access),
        ]  # fmt: skip
        return [("x-mq-client-id", self.client_id), *words] if self.client_id else words

    def method(self, name: str, request: Any, response: Any, *, ins: bool = False, outs: bool = False) -> Any:
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, True): "stream_stream"}
        make = getattr(self._channel, kinds[ins, outs])
        path = name if name.startswith("/") else f"{_SERVICE}/{name}"
        return make(path, request_serializer=_octets, response_deserializer=response.FromString)

    def call(self, name: str, request: Any, response: Any, *, within_s: float = 10.0) -> Answer:
        """One request, one response with a status."""
        self.scene.way.pace()
        self.log(">", name, request)
        try:
            got = self.method(name, type(request), response)(
                request, metadata=self.metadata(), timeout=self._timeout(within_s)
            )
        except grpc.RpcError as exc:
            return self._failed(name, exc)
        self.log("<", name, got)
        status = getattr(got, "status", None)
        return Answer(None if status is None else int(status.code), "" if status is None else status.message, "", got)

    def _timeout(self, within_s: float) -> float:
        return max(0.05, self.scene.patience(within_s) - time.monotonic())

    def _failed(self, name: str, exc: Any) -> Answer:
        text = f"{exc.code().name}: {exc.details()}"
        self.scene.log.add("<", "method", conn=self.name, decoded=f"{name}: RPC error {text}")
        return Answer(rpc=exc.code().name, text=str(exc.details())[:160])

    # -- the calls -----------------------------------------------------------------------------------------------------

    def query_route(self, topic: str, endpoints: Any = None) -> Answer:
        req = service.QueryRouteRequest()
        req.topic.name = topic
        req.endpoints.CopyFrom(gateway.endpoints(self.address) if endpoints is None else endpoints)
        return self.call("QueryRoute", req, service.QueryRouteResponse)

    def message(
        self, topic: str, body: bytes = b"m", *, kind: str = "NORMAL", id: str | None = None, group: str = "",
        tag: str = "", words: Mapping[str, str] | None = None, deliver_in_s: float | None = None,
        recover_in_s: float = 0,
    ) -> Any:  # fmt: skip
        """deliver_in_s: the broker's seconds from now.  recover_in_s: orphaned_transaction_recovery_duration."""
        made = definition.Message()
        made.topic.name, made.body = topic, body
        system = made.system_properties
        system.message_id = f"01{uuid.uuid4().hex.upper()}" if id is None else id
        system.message_type = definition.MessageType.Value(kind)
        system.body_encoding = definition.Encoding.IDENTITY
        system.born_timestamp.GetCurrentTime()
        system.born_host = "127.0.0.1"
        if group:
            system.message_group = group
        if tag:
            system.tag = tag
        if deliver_in_s is not None:
            at_ms = int((time.time() + self.scene.seconds(deliver_in_s)) * 1000)
            system.delivery_timestamp.seconds, system.delivery_timestamp.nanos = at_ms // 1000, at_ms % 1000 * 1000000
        if recover_in_s:
            system.orphaned_transaction_recovery_duration.seconds = int(recover_in_s)
        made.user_properties.update(words or {})
        return made

    def send(self, *messages: Any, within_s: float = 10.0) -> Answer:
        """The code is of the first entry where the whole has none of its own."""
        req = service.SendMessageRequest()
        for message in messages:
            req.messages.add().CopyFrom(message)
        answer = self.call("SendMessage", req, service.SendMessageResponse, within_s=within_s)
        entries = [] if answer.response is None else list(answer.response.entries)
        if answer.ok and entries and entries[0].status.code != OK:
            answer.code, answer.text = int(entries[0].status.code), entries[0].status.message
        return answer

    def introduce(
        self,
        *,
        topics: Sequence[str] = (),
        group: str = "",
        kind: str = "",
        settings: Any = None,
        within_s: float = 10.0,
    ) -> tuple[Telemetry, Any]:
        """Opens a telemetry stream and sends settings; with it the server's settings, None where none came."""
        stream = Telemetry(self)
        self._streams.append(stream)
        command = service.TelemetryCommand()
        command.settings.CopyFrom(settings or self.settings(topics=topics, group=group, kind=kind))
        stream.send(command)
        got = stream.next(within_s, "settings")
        sent = command.settings
        self._role = (sent.subscription.group.name, definition.ClientType.Name(sent.client_type))
        self._alive()
        return stream, None if got is None else got[1].settings

    def _alive(self) -> None:
        """A client that sends no heartbeat is forgotten after ``channelExpiredTimeout``, its settings too."""
        if self._role[1] and time.monotonic() - self._beat > _BEAT_S:
            self._beat = time.monotonic()
            self.heartbeat(self._role[0], kind=self._role[1])

    def settings(self, *, topics: Sequence[str] = (), group: str = "", kind: str = "") -> Any:
        """A client's settings: of a simple consumer where there is a group, else of a producer."""
        made = definition.Settings()
        made.client_type = definition.ClientType.Value(kind or ("SIMPLE_CONSUMER" if group else "PRODUCER"))
        made.access_point.CopyFrom(gateway.endpoints(self.address))
        made.request_timeout.seconds = 3
        made.user_agent.language, made.user_agent.version = definition.Language.PYTHON, "5.0.0"
        if group:
            made.subscription.group.name = group
            for topic in topics:
                entry = made.subscription.subscriptions.add()
                entry.topic.name = topic
                entry.expression.type, entry.expression.expression = definition.FilterType.TAG, "*"
        else:
            for topic in topics:
                made.publishing.topics.add().name = topic
        return made

    def receive(
        self, topic: str, group: str, *, n: int = 32, invisible_s: float = 10.0, poll_s: float | None = 1.0,
        expression: str = "*", kind: str = "TAG", within_s: float | None = None,
    ) -> Answer:  # fmt: skip
        """poll_s: long-polling time, None to say none.  invisible_s: as it is sent, in the broker's seconds."""
        self._alive()
        req = service.ReceiveMessageRequest()
        req.group.name = group
        req.message_queue.topic.name = topic
        req.message_queue.broker.name = self.scene.place.broker_name
        req.filter_expression.type = definition.FilterType.Value(kind)
        req.filter_expression.expression = expression
        req.batch_size = n
        req.invisible_duration.FromMilliseconds(int(invisible_s * 1000))
        if poll_s is not None:
            req.long_polling_timeout.FromMilliseconds(int(poll_s * 1000))
        self.scene.way.pace()
        self.log(">", "ReceiveMessage", req)
        answer = Answer()
        call = self.method("ReceiveMessage", service.ReceiveMessageRequest, service.ReceiveMessageResponse, outs=True)
        within_s = (poll_s or 0) + 10 if within_s is None else within_s
        try:
            for part in call(req, metadata=self.metadata(), timeout=self._timeout(within_s)):
                self.log("<", "ReceiveMessage", part)
                if part.HasField("message"):
                    answer.messages.append(part.message)
                elif part.HasField("status"):
                    answer.code, answer.text = int(part.status.code), part.status.message
        except grpc.RpcError as exc:
            failed = self._failed("ReceiveMessage", exc)
            answer.rpc, answer.text = failed.rpc, failed.text
        return answer

    def received(
        self,
        topic: str,
        group: str,
        within_s: float,
        *,
        n: int = 1,
        wanted: int = 1,
        no_longer: bool = False,
        **more: Any,
    ) -> list[Any]:
        """Receives until there are so many messages, or the time is over."""
        got: list[Any] = []
        self.scene.within(lambda: self._take(got, topic, group, n, more) >= wanted, within_s, no_longer=no_longer)
        return got

    def _take(self, got: list[Any], topic: str, group: str, n: int, more: Mapping[str, Any]) -> int:
        got += self.receive(topic, group, n=n, **more).messages
        return len(got)

    def ack(self, topic: str, group: str, message_id: str, handle: str) -> Answer:
        """The code is of the entry where the whole has none of its own, or the whole is OK."""
        req = service.AckMessageRequest()
        req.group.name, req.topic.name = group, topic
        entry = req.entries.add()
        entry.message_id, entry.receipt_handle = message_id, handle
        answer = self.call("AckMessage", req, service.AckMessageResponse)
        entries = [] if answer.response is None else list(answer.response.entries)
        if entries and entries[0].status.code != OK and answer.code in (OK, None):
            answer.code, answer.text = int(entries[0].status.code), entries[0].status.message
        return answer

    def acked(self, topic: str, group: str, message: Any) -> Answer:
        system = message.system_properties
        return self.ack(topic, group, system.message_id, system.receipt_handle)

    def change_invisible(self, topic: str, group: str, message_id: str, handle: str, invisible_s: float) -> Answer:
        req = service.ChangeInvisibleDurationRequest()
        req.group.name, req.topic.name = group, topic
        req.receipt_handle, req.message_id = handle, message_id
        req.invisible_duration.FromMilliseconds(int(invisible_s * 1000))
        return self.call("ChangeInvisibleDuration", req, service.ChangeInvisibleDurationResponse)

    def end_transaction(self, topic: str, message_id: str, transaction_id: str, resolution: str, *, checked: bool = False) -> Answer:  # fmt: skip
        req = service.EndTransactionRequest()
        req.topic.name = topic
        req.message_id, req.transaction_id = message_id, transaction_id
        req.resolution = definition.TransactionResolution.Value(resolution)
        req.source = (
            definition.TransactionSource.SOURCE_SERVER_CHECK if checked else definition.TransactionSource.SOURCE_CLIENT
        )
        return self.call("EndTransaction", req, service.EndTransactionResponse)

    def subscribe_lite(self, topic: str, group: str, lite_topics: Sequence[str]) -> Answer:
        req = service.SyncLiteSubscriptionRequest()
        req.action = definition.LiteSubscriptionAction.Value("PARTIAL_ADD")
        req.topic.name, req.group.name = topic, group
        req.lite_topic_set.extend(lite_topics)
        return self.call("SyncLiteSubscription", req, service.SyncLiteSubscriptionResponse)

    def heartbeat(self, group: str = "", *, kind: str = "") -> Answer:
        req = service.HeartbeatRequest()
        if group:
            req.group.name = group
        req.client_type = definition.ClientType.Value(kind or ("SIMPLE_CONSUMER" if group else "PRODUCER"))
        return self.call("Heartbeat", req, service.HeartbeatResponse)


def _octets(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
