"""The reference gRPC proxy: in front of one reference broker, with the limits of the vendor's."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_entities import Refused, Topic
from brokerproof.conformance.rocketmq.peer_filters import matcher
from brokerproof.conformance.rocketmq.peer_pops import Held, handle
from brokerproof.conformance.rocketmq.peer_transactions import Half
from brokerproof.conformance.rocketmq.proxy import OK, definition, service
from brokerproof.wire.rocketmq import Stored

_NOT_FOUND, _GROUP_NOT_FOUND, _TOPIC_NOT_FOUND = 40401, 40403, 40402
_KINDS = ("NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE")
#: Of the broker's response codes. Source: ResponseBuilder.java.
_STATUS = {
    codes.TOPIC_NOT_EXIST: _TOPIC_NOT_FOUND, codes.SUBSCRIPTION_GROUP_NOT_EXIST: _GROUP_NOT_FOUND,
    codes.MESSAGE_ILLEGAL: 40016, codes.SUBSCRIPTION_PARSE_FAILED: 40010, codes.FLUSH_DISK_TIMEOUT: 50401,
    codes.FLUSH_SLAVE_TIMEOUT: 50402, codes.SLAVE_NOT_AVAILABLE: 50002,
}  # fmt: skip


class Failed(Exception):
    """A call that is answered with a status that is not OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class ReferenceProxy:
    """Made on a free port of 127.0.0.1; ``close`` ends it."""

    def __init__(self, broker: Broker, brokers: Callable[[], Broker]) -> None:
        #: The master now.
        self._broker = brokers
        self.bug, self.scale = broker.bug, broker.scale
        self._introduced: dict[str, Any] = {}
        self._streams: dict[str, queue.SimpleQueue[Any]] = {}
        self._lite: dict[tuple[str, str], set[str]] = {}
        self._over = threading.Event()
        #: When routes were asked for, on the monotonic clock.
        self.asked_for_routes: list[float] = []
        for one in (broker,):
            one.transactions.ask_others = self._ask_producer
        names: dict[str, Any] = {
            "QueryRoute": self._query_route, "SendMessage": self._send, "AckMessage": self._ack,
            "ChangeInvisibleDuration": self._change, "EndTransaction": self._end, "Heartbeat": self._heartbeat,
            "SyncLiteSubscription": self._subscribe_lite,
        }  # fmt: skip
        handlers = {name: self._unary(name, call) for name, call in names.items()}
        handlers["ReceiveMessage"] = grpc.unary_stream_rpc_method_handler(
            self._receive, service.ReceiveMessageRequest.FromString, _octets
        )
        handlers["Telemetry"] = grpc.stream_stream_rpc_method_handler(
            self._telemetry, service.TelemetryCommand.FromString, _octets
        )
        if self.bug == "answers_unknown_rpc":
            for name in ("QueryOffset", "NoSuchMethod"):
                handlers[name] = self._unary("QueryRoute", lambda r, c: service.QueryRouteResponse())
        self._server = grpc.server(ThreadPoolExecutor(12), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("apache.rocketmq.v2.MessagingService", handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self._over.set()
        for stream in self._streams.values():
            stream.put(None)
        self._server.stop(0)

    def _is(self, bug: str) -> bool:
        return self.bug == bug

    def _unary(self, name: str, call: Callable[[Any, str], Any]) -> Any:
        request, response = getattr(service, f"{name}Request"), getattr(service, f"{name}Response")

        def answer(asked: Any, context: Any) -> Any:
            try:
                made = call(asked, self._client(context))
            except (Failed, Refused) as exc:
                made = response()
                made.status.code, made.status.message = _code(exc), str(exc)
                return made
            if not made.status.code:
                made.status.code = OK
            return made

        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, _octets)

    def _client(self, context: Any) -> str:
        for name, value in context.invocation_metadata():
            if name == "x-mq-client-id" and value:
                return str(value)
        if self._is("needs_no_client_id"):
            return "anybody"
        raise Failed(40017, "client id cannot be empty")

    def _topic(self, name: str) -> Topic:
        found = self._broker().topics.get(name)
        if found is None:
            raise Failed(_NOT_FOUND if self._is("wrong_not_found") else _TOPIC_NOT_FOUND, "no such topic")
        return found

    # -- sending -------------------------------------------------------------------------------------------------------

    def _query_route(self, asked: Any, client: str) -> Any:
        self.asked_for_routes.append(time.monotonic())
        bad = not asked.endpoints.addresses or any(
            not 0 < a.port < 65536 or "." not in a.host for a in asked.endpoints.addresses
        )
        if bad and not self._is("any_endpoints"):
            raise Failed(40001, "endpoints")
        topic = self._topic(asked.topic.name)
        made = service.QueryRouteResponse()
        for number in range(len(topic.queues)):
            entry = made.message_queues.add()
            entry.topic.name, entry.id, entry.broker.name = asked.topic.name, number, self._broker().name
            entry.permission = definition.Permission.Value("READ_WRITE")
            entry.accept_message_types.append(definition.MessageType.Value(topic.kind))
            entry.broker.endpoints.CopyFrom(asked.endpoints)
        return made

    def _send(self, asked: Any, client: str) -> Any:
        made = service.SendMessageResponse()
        first = asked.messages[0].topic.name
        for message in asked.messages:
            if message.topic.name != first:
                raise Failed(40016, "several topics")
            self._check(message)
        for message in asked.messages:
            entry = made.entries.add()
            entry.status.code = OK
            entry.message_id = message.system_properties.message_id
            self._store(message, entry)
        return made

    def _check(self, message: Any) -> None:
        if self._is("no_limits"):
            return
        system, words = message.system_properties, message.user_properties
        topic = self._topic(message.topic.name)
        if not message.body:
            raise Failed(41302, "body empty")
        if len(message.body) > 4 << 20:
            raise Failed(41301, "body too large")
        if len(words) > 128 or sum(len(k) + len(v) for k, v in words.items()) > 16 << 10:
            raise Failed(43101, "properties too large")
        if not system.message_id:
            raise Failed(40009, "message id empty")
        if "UNIQ_KEY" in words:
            raise Failed(40007, "reserved key")
        if len(system.message_group) > 64:
            raise Failed(40006, "message group too long")
        if definition.MessageType.Name(system.message_type) != topic.kind and not self._is("any_type"):
            raise Failed(40014, "another type than its topic's")
        due = system.delivery_timestamp.seconds + system.delivery_timestamp.nanos / 1e9
        ceiling = 0.5 if self._is("low_ceiling") else 1
        if due - time.time() > self._broker().s(86400) * ceiling and not self._is("no_ceiling"):
            raise Failed(40012, "delivery time")

    def _store(self, message: Any, entry: Any) -> None:
        broker, system, name = self._broker(), message.system_properties, message.topic.name
        broker.admit()
        words = {**message.user_properties, "UNIQ_KEY": system.message_id}
        if system.tag:
            words["TAGS"] = system.tag
        number = 0
        n = len(self._topic(name).queues)
        kind = definition.MessageType.Name(system.message_type)
        if kind == "FIFO":
            words["__SHARDINGKEY"] = system.message_group
            number = sum(system.message_group.encode()) % n
        if kind == "PRIORITY":
            # The highest first: queue 0.
            number = n - 1 - system.priority if not self._is("no_priorities") else 0
        if kind == "LITE":
            words["__LITE_TOPIC"] = system.lite_topic
        if kind == "DELAY":
            due_ms = system.delivery_timestamp.seconds * 1000 + system.delivery_timestamp.nanos // 1_000_000
            words["TIMER_DELIVER_MS"] = str(due_ms)
        if kind == "TRANSACTION":
            words |= {"TRAN_MSG": "true", "PGROUP": name}
        stored, more = broker.take(name, number, message.body, words)
        entry.offset = stored.offset
        entry.transaction_id = more.get("transactionId", "")
        code = broker.copied(stored)
        if code:
            entry.status.code, entry.status.message = _STATUS.get(code, 50001), f"code {code}"

    def _end(self, asked: Any, client: str) -> Any:
        for half in self._broker().transactions.halves.values():
            if half.message.properties["UNIQ_KEY"] == asked.transaction_id and not half.decided:
                commit = asked.resolution == definition.TransactionResolution.Value("COMMIT")
                self._broker().transactions.decide(half, commit=commit)
        return service.EndTransactionResponse()

    def _ask_producer(self, half: Half) -> bool:
        """Puts an undecided transaction to a producer of the topic, if one is connected."""
        for client, settings in list(self._introduced.items()):
            if half.topic not in [t.name for t in settings.publishing.topics] or self._is("no_recovery"):
                continue
            command = service.TelemetryCommand()
            wanted = command.recover_orphaned_transaction_command
            wanted.transaction_id = half.message.properties["UNIQ_KEY"]
            wanted.message.topic.name, wanted.message.body = half.topic, half.message.body
            wanted.message.system_properties.message_id = half.message.properties["UNIQ_KEY"]
            self._streams[client].put(command)
            return True
        return False

    # -- telemetry -----------------------------------------------------------------------------------------------------

    def _telemetry(self, commands: Iterator[Any], context: Any) -> Iterator[Any]:
        client = self._client(context)
        out = self._streams.setdefault(client, queue.SimpleQueue())
        context.add_callback(lambda: out.put(None))

        def take() -> None:
            try:
                for command in commands:
                    if command.WhichOneof("command") == "settings":
                        out.put(self._settle(client, command))
            except (grpc.RpcError, ValueError):
                out.put(None)

        threading.Thread(target=take, daemon=True).start()
        while (command := out.get()) is not None and not self._over.is_set():
            yield command

    def _settle(self, client: str, command: Any) -> Any:
        """The server's own values in place of the client's."""
        settings = command.settings
        if self._is("takes_client_settings"):
            self._introduced[client] = settings
            return command
        group = self._broker().groups.get(settings.subscription.group.name, {})
        settings.backoff_policy.max_attempts = int(group.get("retryMaxTimes", 2)) + 1
        if settings.WhichOneof("pub_sub") == "subscription":
            settings.subscription.receive_batch_size = 32
            settings.subscription.fifo = bool(group.get("consumeMessageOrderly"))
        else:
            settings.publishing.max_body_size = 4 << 20
        self._introduced[client] = settings
        command.status.code = OK
        return command

    def _heartbeat(self, asked: Any, client: str) -> Any:
        return service.HeartbeatResponse()

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _receive(self, asked: Any, context: Any) -> Iterator[Any]:
        try:
            client = self._client(context)
            settings = self._introduced.get(client)
            if settings is None and self._is("strangers_wait"):
                over = threading.Event()
                context.add_callback(over.set)
                over.wait()
            if settings is None and not self._is("serves_strangers"):
                raise Failed(50001, "no settings")
            got = self._take(asked, client)
        except (Failed, Refused) as exc:
            yield _part(_code(exc), str(exc))
            return
        for message, held in got:
            yield self._delivery(asked, message, held)
        if self._is("empty_is_an_rpc_error") and not got:
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
        empty = _NOT_FOUND if self._is("empty_is_not_found") else OK
        yield _part(OK if got else empty, "")

    def _take(self, asked: Any, client: str) -> list[tuple[Stored, Held]]:
        invisible_s = asked.invisible_duration.ToMilliseconds() / 1000
        polling_s = asked.long_polling_timeout.ToMilliseconds() / 1000
        if not self._is("any_limits"):
            if not 10 <= invisible_s <= 43200:
                raise Failed(40011, "invisible duration")
            if asked.HasField("long_polling_timeout") and not 0.5 <= polling_s <= 20:
                raise Failed(40018, "polling time")
        broker, topic, group = self._broker(), asked.message_queue.topic.name, asked.group.name
        matches = self._matches(asked, client, topic)
        config = broker.groups.get(group, {})
        order = bool(config.get("consumeMessageOrderly"))
        most = int(config.get("retryMaxTimes", 16)) + (2 if self._is("retries_more") else 1)
        until = time.monotonic() + broker.s(polling_s)
        while True:
            got = broker.pops.pop(
                topic, group, asked.batch_size, invisible_s, order=order, matches=matches, attempts_max=most
            )
            left = until - time.monotonic()
            if got or left <= 0 or self._over.is_set():
                return got
            with broker.lock:
                broker.arrived.wait(min(left, 0.02))

    def _matches(self, asked: Any, client: str, topic: str) -> Callable[[Stored], bool]:
        lite = self._lite.get((asked.group.name, topic))
        if lite is not None and not self._is("lite_mixed"):
            return lambda m: m.properties.get("__LITE_TOPIC") in lite
        expression = asked.filter_expression
        kind = "SQL92" if expression.type == definition.FilterType.Value("SQL") else "TAG"
        matches = matcher(
            expression.expression, kind, bug="exact_tags" if kind == "TAG" and self.bug != "loose_tags" else self.bug
        )
        return matches

    def _delivery(self, asked: Any, message: Stored, held: Held) -> Any:
        part = service.ReceiveMessageResponse()
        made, system = part.message, part.message.system_properties
        made.topic.name, made.body = asked.message_queue.topic.name, message.body
        system.message_id = message.properties["UNIQ_KEY"]
        system.body_encoding = definition.Encoding.Value("IDENTITY")
        system.receipt_handle = handle(self._broker().name, message, held)
        system.delivery_attempt = held.attempts
        system.message_group = message.properties.get("__SHARDINGKEY", "")
        return part

    def _ack(self, asked: Any, client: str) -> Any:
        made = service.AckMessageResponse()
        for entry in asked.entries:
            result = made.entries.add()
            result.message_id, result.receipt_handle = entry.message_id, entry.receipt_handle
            queue_, offset, token = _read(entry.receipt_handle, self._is("any_handle"))
            good = self._broker().pops.ack(asked.topic.name, asked.group.name, queue_, offset, token)
            result.status.code = OK if good else 40013
            made.status.code = result.status.code
        return made

    def _change(self, asked: Any, client: str) -> Any:
        queue_, offset, token = _read(asked.receipt_handle)
        invisible_s = asked.invisible_duration.ToMilliseconds() / 1000
        held = self._broker().pops.change(asked.topic.name, asked.group.name, queue_, offset, token, invisible_s)
        if held is None:
            raise Failed(40013, "no message of this handle")
        made = service.ChangeInvisibleDurationResponse()
        made.receipt_handle = handle(self._broker().name, held.message, held)
        return made

    def _subscribe_lite(self, asked: Any, client: str) -> Any:
        self._lite[asked.group.name, asked.topic.name] = set(asked.lite_topic_set)
        return service.SyncLiteSubscriptionResponse()


def _read(text: str, anything: bool = False) -> tuple[int, int, str]:
    """Queue, offset and token of a handle. Raises Failed for what is none."""
    words = text.split(" ")
    if len(words) != 9 or not words[6].isdigit() or not words[7].isdigit():
        if anything:
            return 0, 0, ""
        raise Failed(40013, "no handle")
    return int(words[6]), int(words[7]), words[8]


def _part(code: int, text: str) -> Any:
    made = service.ReceiveMessageResponse()
    made.status.code, made.status.message = code, text
    return made


def _code(exc: Failed | Refused) -> int:
    return exc.code if isinstance(exc, Failed) else _STATUS.get(exc.code, 50001)


def _octets(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
