"""Exchanges, queues and bindings made one by one, messages sent one by one, and what the broker answers to each.

For claims that a handful of cases decide: what is returned, refused, confirmed, where copies are, what a restart leaves.
Names are the case's own words; on the broker they have a prefix that nobody else uses, and all of it is deleted at the end.
A string argument that begins with ``@`` stands for such a name: ``{"alternate-exchange": "@backup"}``.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from brokerproof.brokers.base import Json, Link, Node, Publish, Sent
from brokerproof.brokers.rabbitmq import admin
from brokerproof.brokers.rabbitmq.outcomes import classify
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.confirms import Confirm, confirmed
from brokerproof.errors import EnvironmentProblem
from brokerproof.waiting import wait_until

#: A broker that answers does so in milliseconds; that one does not is known after so long.
_ANSWER_S = 4.0
_CONNECT_S = 15.0
_WAIT_S = 0.05
_HEALTHY_S = 70.0


class _Cluster(Protocol):
    nodes: Mapping[str, Node]

    def endpoint(self, group: str, name: str | None = None) -> Json: ...
    def links(self, group: str) -> Sequence[Link]: ...
    def wait_healthy(self, timeout_s: float) -> None: ...
    def raise_memory_alarm(self, node: str) -> None: ...
    def clear_memory_alarm(self, node: str) -> None: ...
    def memory_alarm(self, node: str) -> tuple[bool, str]: ...


class Wiring:
    """``brokers.base.Wiring``."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._prefix = f"bp-wiring-{uuid.uuid4().hex}-"
        self._exchanges: list[str] = []
        self._queues: list[str] = []
        self._session: Session | None = None
        self._lost = ""

    def __enter__(self) -> Wiring:
        return self

    def __exit__(self, *error: object) -> None:
        self._hang_up()
        with contextlib.suppress(*admin.NOT_YET), admin.channel(self._address) as ch:
            for queue in self._queues:
                ch.queue_delete(self._name(queue))
            for exchange in self._exchanges:
                ch.exchange_delete(self._name(exchange))

    # -- what there is -------------------------------------------------------------------------------------------------

    def exchange(self, name: str, type: str = "direct", *, durable: bool = True, arguments: Json | None = None) -> None:
        with admin.channel(self._address) as ch:
            ch.exchange_declare(self._name(name), type, durable=durable, arguments=self._referred(arguments))
        self._exchanges.append(name)

    def queue(self, name: str, *, durable: bool = True, arguments: Json | None = None) -> None:
        with admin.channel(self._address) as ch:
            ch.queue_declare(self._name(name), durable=durable, arguments=self._referred(arguments))
        self._queues.append(name)

    def bind(self, queue: str, exchange: str, key: str = "") -> None:
        with admin.channel(self._address) as ch:
            ch.queue_bind(self._name(queue), self._name(exchange), key)

    def delete_queue(self, name: str) -> None:
        with admin.channel(self._address) as ch:
            ch.queue_delete(self._name(name))

    def there(self, name: str) -> bool:
        return self._asked(lambda ch: ch.exchange_declare(self._name(name), passive=True))

    def take(self, queue: str) -> list[str] | None:
        took: list[str] = []

        def empty(ch: Any) -> None:
            while (got := ch.basic_get(self._name(queue), auto_ack=True))[0] is not None:
                took.append(got[2].decode())

        return took if self._asked(empty) else None

    # -- messages ------------------------------------------------------------------------------------------------------

    def send(self, messages: Sequence[Publish], *, confirm: bool = True) -> Sent:
        session = self._connected()
        confirms: list[Confirm] = []
        returned: list[str] = []
        ended: list[str] = []

        def on_confirm(frame: Any) -> None:
            word = "nack" if isinstance(frame.method, pika.spec.Basic.Nack) else "ack"
            confirms.append(Confirm(int(frame.method.delivery_tag), bool(frame.method.multiple), word))

        def answered() -> bool:
            return bool(ended) or confirmed(confirms) >= frozenset(range(1, len(messages) + 1))

        channel = self._channel(session)
        channel.add_on_return_callback(lambda _ch, _method, _properties, body: returned.append(body.decode()))
        channel.add_on_close_callback(lambda _, reason: ended.append(classify(reason)))
        if confirm:
            selected: list[Any] = []
            channel.confirm_delivery(on_confirm, callback=selected.append)
            self._poll(lambda: bool(selected or ended), "confirm.select-ok")
        before = session.blocked
        with session.corked():
            for m in messages:
                channel.basic_publish(
                    self._name(m.exchange) if m.exchange else "", m.key if m.exchange else self._name(m.key),
                    m.body.encode(), pika.BasicProperties(delivery_mode=2 if m.persistent else 1), m.mandatory,
                )  # fmt: skip
        until = time.monotonic() + _ANSWER_S
        while not answered() and time.monotonic() < until:
            session.poll(_WAIT_S)
        complete = answered()
        if complete and not ended:
            # A channel is served in order: behind this answer no second confirm of what came before it is on its way.
            behind: list[Any] = []
            channel.basic_qos(prefetch_count=0, callback=behind.append)
            self._poll(lambda: bool(behind or ended), "the answer to a method behind the messages")
        blocked = session.blocked > before
        if not complete:
            # What was not answered may be later, and would be taken for the answer to the next.
            self._hang_up()
        elif not ended:
            channel.close()
        return Sent(tuple(confirms), tuple(returned), ended[0] if ended else "", blocked)

    # -- what becomes of the nodes -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def memory_alarm(self) -> Iterator[None]:
        try:
            for node in self._cluster.nodes:
                self._cluster.raise_memory_alarm(node)
            wait_until(
                lambda: all(self._cluster.memory_alarm(node)[0] for node in self._cluster.nodes), _ANSWER_S,
                "the memory alarm of every node",
            )  # fmt: skip
            yield
        finally:
            for node in self._cluster.nodes:
                self._cluster.clear_memory_alarm(node)

    @contextlib.contextmanager
    def minority(self) -> Iterator[None]:
        here = self._cluster.links("admin")[0].node
        others = [node for name, node in self._cluster.nodes.items() if name != here]
        if not others:
            raise EnvironmentProblem(f"{here} is the only node: it cannot be a minority; three nodes are needed")
        try:
            for node in others:
                node.pause()
            yield
        finally:
            for node in others:
                node.unpause()
            self._cluster.wait_healthy(_HEALTHY_S)

    def restart(self, how: str) -> None:
        self._hang_up()
        for node in self._cluster.nodes.values():
            node.kill() if how == "kill" else node.stop()
        down = {name: node.state() for name, node in self._cluster.nodes.items()}
        if set(down.values()) != {"exited"}:
            raise EnvironmentProblem(f"restarting nodes by {how}: expected all of them down, the engine says {down}")
        for node in self._cluster.nodes.values():
            node.start()
        self._cluster.wait_healthy(_HEALTHY_S)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _address(self) -> tuple[str, int]:
        host, port = self._cluster.endpoint("admin")["addresses"][0]
        return str(host), int(port)

    def _name(self, name: str) -> str:
        return self._prefix + name

    def _referred(self, arguments: Json | None) -> dict[str, Any]:
        return {
            key: self._name(value[1:]) if isinstance(value, str) and value.startswith("@") else value
            for key, value in (arguments or {}).items()
        }

    def _asked(self, ask: Callable[[BlockingChannel], object]) -> bool:
        """False where the broker says that it has nothing of that name."""
        try:
            with admin.channel(self._address) as ch:
                ask(ch)
        except pika.exceptions.ChannelClosedByBroker as exc:
            if exc.reply_code != 404:
                raise
            return False
        return True

    def _connected(self) -> Session:
        if self._session is None:
            self._lost = ""
            self._session = Session(
                self._cluster.endpoint("admin"), name="brokerproof-wiring", set_up=self._is_open, lost=self._is_lost
            )
            self._poll(lambda: self._session is not None and self._session.is_ready, "a connection")
        return self._session

    def _channel(self, session: Session) -> Channel:
        """A channel that nothing was sent on."""
        opened: list[Channel] = []
        session.channel.connection.channel(on_open_callback=opened.append)
        self._poll(lambda: bool(opened), "a channel")
        return opened[0]

    def _is_open(self, _: Channel) -> None:
        if self._session is not None:
            self._session.ready()

    def _is_lost(self, error: str) -> None:
        self._lost = error

    def _poll(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _CONNECT_S
        while not done():
            if self._session is None or self._lost or time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"wiring: expected {what} within {_CONNECT_S:g} s, {self._lost or 'nothing came'}; is the node up?"
                )
            self._session.poll(_WAIT_S)

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
