"""A channel of the reference peer: methods and their content in, answers and deliveries out; confirms and transactions.

state: open, closing (Close sent: everything is discarded until Close-Ok), closed. What comes unasked from the broker is queued with
its lock held, so it stands behind the answer that let it happen.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from brokerproof.conformance.amqp091.entities import Delivery, Held, Published, Refused
from brokerproof.conformance.amqp091.model import Connection
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import Frame, Header, Method, WireError

if TYPE_CHECKING:
    from brokerproof.conformance.amqp091.peer import Session

#: Section 4.2.5.5, with the ``-`` and ``.`` that everybody's own names have.
_FIELD_NAME = re.compile(r"[A-Za-z$#][^\x00-\x1f]{0,127}")


@dataclass(slots=True)
class _Content:
    """A publish whose content is on its way."""

    publish: Method
    header: Header | None = None
    body: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Transaction:
    """What waits for the commit: publishes, and settled deliveries with how."""

    publishes: list[_Content] = field(default_factory=list)
    settled: list[tuple[Sequence[Held], Literal["ack", "requeue", "reject", "discard"]]] = field(default_factory=list)


class PeerChannel:
    """``model.Sink`` as well."""

    def __init__(self, session: Session, number: int, connection: Connection) -> None:
        self.session, self.number = session, number
        self.state = "open"
        self.model = connection.channel(self)
        self._content: _Content | None = None
        self._confirms = False
        self._published = 0
        self._transaction: _Transaction | None = None

    # -- model.Sink ----------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        self._send_content(
            "basic.deliver", delivery, consumer_tag=delivery.consumer_tag, delivery_tag=delivery.tag,
            redelivered=delivery.redelivered, exchange=delivery.message.exchange, routing_key=delivery.message.key,
        )  # fmt: skip

    def cancelled(self, consumer_tag: str) -> None:
        can = "consumer_cancel_notify" in self.model.connection.capabilities
        late = self._is("notice-to-all-late") and not can
        self._after(3 if late else 0, lambda: self._answer("basic.cancel", consumer_tag=consumer_tag, nowait=True))

    def closed(self, refused: Refused) -> None:
        self.session.refuse(refused, self.number)

    # -- for the session -----------------------------------------------------------------------------------------------

    def close(self, refused: Refused) -> None:
        """With a Close of ours."""
        if self.state == "open":
            self.state = "closing"
            self._answer("channel.close", reply_code=refused.code, reply_text=f"{refused.code} {refused.text}"[:250])
            if not self._is("serves-after-close"):
                self.model.close()

    def frame(self, frame: Frame) -> None:
        """A frame of this channel, which is open or closing."""
        if self.state == "closing" and self._while_closing(frame):
            return
        if frame.type == wire.METHOD:
            if self._content is not None:
                self.session.wrong(505, "a method where content was announced", self.number)
                if not self._is("accepts"):
                    return
            method = self.session.decoded(frame)
            if method is not None:
                self._method(method)
        elif frame.type == wire.HEADER:
            self._header(frame)
        else:
            self._body(frame)

    # -- methods -------------------------------------------------------------------------------------------------------

    def _while_closing(self, frame: Frame) -> bool:
        """Whether the frame is dealt with: it is discarded, unless it ends the channel (channel.close, rule stability)."""
        name = wire.NAMES.get((int.from_bytes(frame.payload[:2], "big"), int.from_bytes(frame.payload[2:4], "big")))
        if frame.type == wire.METHOD and name == "channel.close-ok":
            self._gone()
        elif frame.type == wire.METHOD and name == "channel.close":
            self._answer("channel.close-ok")
        else:
            if name == "queue.declare" and self._is("serves-after-close-late"):
                self._after(2, lambda: self._answer("queue.declare-ok", queue="", message_count=0, consumer_count=0))
            return not self._is("serves-after-close")
        return True

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        """At once for 0; later: a mutant's. In seconds of the broker's."""
        if not seconds:
            call()
            return
        timer = threading.Timer(seconds * self.session.peer.scale, call)
        timer.daemon = True
        timer.start()

    def _method(self, method: Method) -> None:
        if method.name == "basic.publish":
            self._content = _Content(method)
            return
        serve = _SERVED.get(method.name)
        if serve is None:
            code = 504 if method.name == "channel.open" else 503
            self.session.wrong(code, f"{method.name} on an open channel", self.number)
            return
        self._guarded(lambda: serve(self, method))

    def _guarded(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Refused as refused:
            self.session.refuse(refused, self.number)

    def _refused(self, code: int, text: str) -> Refused:
        return self.session.broker.mutated(Refused(code, "channel", text))

    def _ok(self, method: Method, **arguments: Any) -> None:
        if not method.arguments.get("nowait"):
            self._answer(f"{method.name}-ok", **arguments)

    def _close(self, method: Method) -> None:
        self.model.close()
        self._answer("channel.close-ok")
        self._gone()

    def _flow(self, method: Method) -> None:
        active = bool(method["active"])
        if self._is("flow-ignored"):
            self._ok(method, active=active)
        elif active:
            self._ok(method, active=True)
            self.model.flow(True)
        else:
            self.model.flow(False)
            self._ok(method, active=False)

    def _access_request(self, method: Method) -> None:
        if self._is("other-records"):
            self.session.refuse(Refused(540, "connection", "no such class"))
        else:
            self._answer("access.request-ok", ticket=1)

    def _exchange(self, method: Method) -> None:
        act = getattr(self.model, method.name.replace(".", "_"))
        act(**_arguments(method))
        self._ok(method)

    def _queue_declare(self, method: Method) -> None:
        found = self.model.queue_declare(**_arguments(method))
        if found is None:  # the mutant that accepts whatever must be refused
            self._ok(method, queue=method["queue"])
        else:
            self._ok(method, queue=found.name, message_count=found.messages, consumer_count=found.consumers)

    def _queue(self, method: Method) -> None:
        answer = getattr(self.model, method.name.replace(".", "_"))(**_arguments(method))
        self._ok(method, **({"message_count": answer or 0} if method.name in ("queue.purge", "queue.delete") else {}))

    def _qos(self, method: Method) -> None:
        self.model.qos(
            method["prefetch_size"], method["prefetch_count"], method["global"], then=lambda _: self._ok(method)
        )

    def _consume(self, method: Method) -> None:
        self.model.consume(**_arguments(method), then=lambda tag: self._ok(method, consumer_tag=tag))

    def _cancel(self, method: Method) -> None:
        self.model.cancel(method["consumer_tag"])
        self._ok(method, consumer_tag=method["consumer_tag"])

    def _get(self, method: Method) -> None:
        with self.session.broker.lock:
            found = self.model.get(**_arguments(method))
            if found is None:
                self._answer("basic.get-empty")
                return
            self._send_content(
                "basic.get-ok", found, delivery_tag=found.tag, redelivered=found.redelivered,
                exchange=found.message.exchange, routing_key=found.message.key, message_count=found.left,
            )  # fmt: skip

    def _recover(self, method: Method) -> None:
        answer = method.name == "basic.recover"
        self.model.recover(bool(method["requeue"]), then=lambda _: self._ok(method) if answer else None)

    def _settle(self, method: Method) -> None:
        kind = method.name.partition(".")[2]
        multiple = bool(method.arguments.get("multiple"))
        if self._transaction is None or self._is("tx-acks-at-once"):
            more = {} if kind == "reject" else {"multiple": multiple}
            if kind != "ack":
                more["requeue"] = bool(method["requeue"])
            getattr(self.model, kind)(method["delivery_tag"], **more)
            return
        held = self.model.take(method["delivery_tag"], multiple=multiple)
        back: Literal["requeue", "reject"] = "reject" if kind == "reject" else "requeue"
        self._transaction.settled.append((held, "ack" if kind == "ack" else back if method["requeue"] else "discard"))

    def _confirm_select(self, method: Method) -> None:
        if self._transaction is not None and not self._is("accepts"):
            raise self._refused(406, "the channel is transactional")
        self._confirms = True
        self._ok(method)

    def _tx_select(self, method: Method) -> None:
        if self._confirms and not self._is("accepts"):
            raise self._refused(406, "the channel confirms")
        self._transaction = self._transaction or _Transaction()
        self._ok(method)

    def _tx_end(self, method: Method) -> None:
        """All of it under the broker's lock: nobody sees half of a transaction."""
        if self._transaction is None:
            if self._is("accepts"):
                self._ok(method)
                return
            raise self._refused(406, "the channel is not transactional")
        ended, self._transaction = self._transaction, _Transaction()
        commits = method.name == "tx.commit"
        with self.session.broker.lock:
            if commits or self._is("tx-rollback-publishes"):
                for content in ended.publishes:
                    self._publish(content)
            for held, how in ended.settled:
                if commits:
                    self.model.finish(held, how)
                else:
                    self.model.put_back(held)
            self._ok(method)

    # -- content in ----------------------------------------------------------------------------------------------------

    def _header(self, frame: Frame) -> None:
        content = self._content
        if content is None or content.header is not None:
            self.session.wrong(505, "a content header where none was due", self.number)
            return
        try:
            header = wire.read_header(frame.payload, grammar=not self._is("reads-s-as-number"))
        except WireError as exc:
            try:
                header = wire.read_header(frame.payload)
            except WireError:
                self.session.wrong(502, str(exc), self.number)
                return
        content.header = header
        if header.class_id != 60 or header.weight:
            self._content = None if not self._is("accepts") else content
            self.session.wrong(501, f"content of class {header.class_id}, weight {header.weight}", self.number)
        elif not self._is("any-field-name") and not all(_FIELD_NAME.fullmatch(n) for n in _headers(header)):
            self._content = None if not self._is("accepts") else content
            self.session.wrong(503, "the name of a header is none", self.number)
        elif header.body_size > self.session.peer.message_max and not self._is("no-message-limit"):
            self._content = None if not self._is("accepts") else content
            if self._is("other-records"):
                self.session.wrong(501, f"a body of {header.body_size} octets")
            else:
                self.session.wrong(311, f"a body of {header.body_size} octets", self.number)
        self._complete()

    def _body(self, frame: Frame) -> None:
        content = self._content
        if content is None or content.header is None:
            self.session.wrong(505, "a body where none was due", self.number)
            return
        content.body += frame.payload
        if len(content.body) > content.header.body_size:
            if not self._is("accepts"):
                self._content = None
            else:
                del content.body[content.header.body_size :]
            self.session.wrong(505, "a body longer than was announced", self.number)
        self._complete()

    def _complete(self) -> None:
        content = self._content
        if content is None or content.header is None or len(content.body) < content.header.body_size:
            return
        self._content = None
        if self.state == "open" or self._is("serves-after-close"):
            if self._transaction is not None and not self._is("tx-visible"):
                self._transaction.publishes.append(content)
            else:
                self._guarded(lambda: self._publish(content))

    def _publish(self, content: _Content) -> None:
        publish, header, body = content.publish, content.header, bytes(content.body)
        assert header is not None
        self.session.has_published = True
        exchange, key, properties = publish["exchange"], publish["routing_key"], dict(header.properties)
        if self._is("cuts-bodies") and len(body) > self.session.frame_max - wire.FRAME_OVERHEAD:
            body = body[:-1]
        if (
            publish["immediate"]
            and not self._is("immediate-ignored")
            and not self._reaches_consumer(exchange, key, properties)
        ):
            self._return(313, "nobody consumes", publish, properties, body)
            self._confirm(True)
            return
        found = self.model.publish(exchange, key, properties, body)
        if found is None:  # the mutant that accepts whatever must be refused
            found = Published(routed=True, accepted=True)
        returned = publish["mandatory"] and not found.routed and not self._is("never-returns")
        if returned and not self._is("return-after-confirm"):
            self._return(312, "no queue", publish, properties, body)
        self._confirm(found.accepted and (found.routed or not self._is("unroutable-nacked")))
        if returned and self._is("return-after-confirm"):
            self._return(312, "no queue", publish, properties, body)
        if self.session.peer.is_alarmed:
            self.session.alarm(True, False)

    def _reaches_consumer(self, exchange: str, key: str, properties: Mapping[str, Any]) -> bool:
        broker, vhost = self.session.broker, self.model.connection.vhost
        with broker.lock:
            source = vhost.exchanges.get(exchange)
            if source is None:
                return True  # which publish refuses
            headers = wire.plain(properties.get("headers") or {})
            return any(broker.consumers_of(queue) for queue in broker.route(vhost, source, [key], headers))

    def _return(self, code: int, text: str, publish: Method, properties: Mapping[str, Any], body: bytes) -> None:
        method = wire.method_frame(
            self.number, "basic.return", reply_code=code, reply_text=text, exchange=publish["exchange"],
            routing_key=publish["routing_key"],
        )  # fmt: skip
        self.session.send([method, *self._content_frames(properties, body)])

    def _confirm(self, accepted: bool) -> None:
        if not self._confirms:
            return
        self._published += 1
        odd = self._published % 100 == 0
        if not (odd and self._is("confirms-with-holes")):
            for _ in range(2 if odd and self._is("confirms-twice") else 1):
                self._answer("basic.ack" if accepted else "basic.nack", delivery_tag=self._published)
        if self._published % 100 == 1 and self._published > 1 and self._is("confirms-again"):
            self._answer("basic.ack", delivery_tag=self._published - 1, multiple=True)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _send_content(self, name: str, delivery: Delivery, **arguments: Any) -> None:
        if self.state == "closed":
            return
        method = wire.method_frame(self.number, name, **arguments)
        self.session.send([method, *self._content_frames(delivery.message.properties, delivery.message.body)])

    def _content_frames(self, properties: Mapping[str, Any], body: bytes) -> Sequence[Frame]:
        given = {k: v for k, v in properties.items() if not (k == "user_id" and self._is("drops-user-id"))}
        if self._is("drops-field-types") and "headers" in given:
            given["headers"] = {k: str(wire.plain(v)) for k, v in given["headers"].items()}
        largest = 0 if self._is("ignores-peer-frame-max") else self.session.frame_max
        return list(wire.content_frames(self.number, body, given, frame_max=largest))

    def _answer(self, name: str, **arguments: Any) -> None:
        self.session.method(self.number, name, **arguments)

    def _gone(self) -> None:
        self.state = "closed"
        if not self._is("number-stays-busy"):
            self.session.channels.pop(self.number, None)

    def _is(self, mutant: str) -> bool:
        return self.session.is_mutant(mutant)


def _headers(header: Header) -> Mapping[str, Any]:
    found: Mapping[str, Any] = header.properties.get("headers") or {}
    return found


def _arguments(method: Method) -> dict[str, Any]:
    """As the model's methods take them."""
    return {k: v for k, v in method.arguments.items() if k not in ("ticket", "nowait")}


_SERVED: Mapping[str, Callable[[PeerChannel, Method], None]] = {
    "channel.close": PeerChannel._close,
    "channel.close-ok": lambda channel, method: None,
    "channel.flow": PeerChannel._flow,
    "channel.flow-ok": lambda channel, method: None,
    "access.request": PeerChannel._access_request,
    **dict.fromkeys(("exchange.declare", "exchange.delete", "exchange.bind", "exchange.unbind"), PeerChannel._exchange),
    "queue.declare": PeerChannel._queue_declare,
    **dict.fromkeys(("queue.bind", "queue.unbind", "queue.purge", "queue.delete"), PeerChannel._queue),
    "basic.qos": PeerChannel._qos,
    "basic.consume": PeerChannel._consume,
    "basic.cancel": PeerChannel._cancel,
    "basic.get": PeerChannel._get,
    "basic.recover": PeerChannel._recover,
    "basic.recover-async": PeerChannel._recover,
    **dict.fromkeys(("basic.ack", "basic.nack", "basic.reject"), PeerChannel._settle),
    "confirm.select": PeerChannel._confirm_select,
    "tx.select": PeerChannel._tx_select,
    "tx.commit": PeerChannel._tx_end,
    "tx.rollback": PeerChannel._tx_end,
}
