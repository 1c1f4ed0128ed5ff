"""What the reference peer's broker is made of: entities, and the values that go in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from brokerproof.conformance.amqp091.access import Policies
from brokerproof.conformance.amqp091.queues import Message, Queue, Stored
from brokerproof.wire.amqp091 import HARD_ERRORS

if TYPE_CHECKING:
    from brokerproof.conformance.amqp091.channel import Channel

Table = Mapping[str, object]
#: Name -> type; "" is the default exchange.
PREDECLARED: Mapping[str, str] = {
    "": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers",
    "amq.match": "headers",
}  # fmt: skip


class Refused(Exception):
    """What the peer must be told before its channel or connection is closed. text: for people, without the code's name."""

    def __init__(self, code: int, scope: Literal["channel", "connection"], text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code, self.scope, self.text = code, scope, text


@dataclass(frozen=True, slots=True)
class Delivery:
    """consumer_tag: empty for a get; left: how many are ready after it, for a get."""

    tag: int
    consumer_tag: str
    redelivered: bool
    message: Message
    left: int = 0


@dataclass(frozen=True, slots=True)
class Published:
    """routed: some queue matched. accepted: no queue refused it: what a confirm says; of a queue at its length, it is not."""

    routed: bool
    accepted: bool


@dataclass(frozen=True, slots=True)
class Declared:
    name: str
    messages: int
    consumers: int


class Sink(Protocol):
    """Where a channel's events go. Called with the broker's lock held: must not block."""

    def deliver(self, delivery: Delivery) -> None: ...

    def cancelled(self, consumer_tag: str) -> None: ...

    def closed(self, refused: Refused) -> None:
        """The broker has closed the channel of itself, or with it the connection."""


@dataclass(eq=False, slots=True)
class Exchange:
    """had: whether it was ever the source of a binding."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Table = field(default_factory=dict)
    had: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue or to another exchange. arguments: plain, comparable with ==."""

    source: str
    to: Literal["queue", "exchange"]
    destination: str
    key: str
    arguments: Table


@dataclass(slots=True)
class Vhost:
    name: str
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)
    policies: Policies = field(default_factory=Policies)
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Consumer:
    """position: the next of a stream's log; again: what comes before it, returned by this consumer."""

    number: int
    tag: str
    channel: Channel
    queue: Queue
    no_ack: bool
    no_local: bool
    exclusive: bool
    priority: int
    in_flight: int = 0
    position: int = 0
    again: list[Stored] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Held:
    """A delivery that awaits its acknowledgement. consumer: None for a get.  since: on the broker's clock."""

    tag: int
    queue: Queue
    stored: Stored
    consumer: Consumer | None
    since: float


def refusing(code: int, text: str) -> Refused:
    return Refused(code, "connection" if code in HARD_ERRORS else "channel", text)
