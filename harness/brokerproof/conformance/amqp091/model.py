"""The broker behind the reference peer: AMQP 0-9-1's entities as a state machine, thread-safe and sans-IO.

    broker = Broker(clock)                       vhosts, users, policies, limits: the administration
    connection = broker.connect(user, vhost)     402, 530: refused
    channel = connection.channel(sink)           every method of the classes exchange, queue, basic

A method returns what its -ok says or raises ``Refused``; whoever speaks the wire closes what ``Refused.scope`` says, and calls
``Channel.close`` or ``Connection.close``. What comes unasked (deliveries, cancels, a close) goes to the channel's ``Sink``, called with the
broker's lock held: it must only queue. ``then`` arguments are called with the reply before what follows from it is delivered.
Confirms, returns and transactions are the connection layer's, made of ``Published`` and of ``take`` / ``finish`` / ``put_back``.
Time passes only in ``Broker.tick``; ``due`` says when the next is needed.

Where vendors and the specification differ it does what the specification demands, since every case must pass on it;
``MUTANTS`` get one thing wrong each, so that every case can be shown to see it.
"""

from __future__ import annotations

import datetime
import itertools
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from brokerproof.conformance.amqp091.access import Permissions, Policies, Policy, User
from brokerproof.conformance.amqp091.administration import Entities
from brokerproof.conformance.amqp091.queues import DELIVERY_LIMIT, NO_LIMIT, Message, Queue, Stored
from brokerproof.conformance.amqp091.routing import X_MATCHES, headers_match, topic_matches
from brokerproof.wire.amqp091 import HARD_ERRORS, Field, plain

_P = ParamSpec("_P")
_T = TypeVar("_T")
Table = Mapping[str, object]

PREDECLARED: Mapping[str, str] = {
    "": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers",
    "amq.match": "headers",
}  # fmt: skip
EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")
QUEUE_TYPES = ("classic", "quorum", "stream")
OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
REPLY_TO = "amq.rabbitmq.reply-to"

#: What each mutant gets wrong.
MUTANTS: Mapping[str, str] = {
    "wrong-code": "refuses with another reply code of the same scope",
    "wrong-scope": "closes the connection where the channel would do, and the channel where the connection must go",
    "accepts": "answers -ok to whatever must be refused, and does nothing",
    "predeclared-missing": "a fresh vhost has no amq.match",
    "declare-changes": "a declare with other properties is accepted, and changes what is there",
    "keeps-auto-delete": "auto-delete exchanges and queues stay",
    "hasty-auto-delete": "auto-delete exchanges go with any binding, auto-delete queues with the first consumer or get",
    "refuses-transient": "queues that are not durable cannot be declared",
    "keeps-exclusive": "an exclusive queue outlives its connection",
    "shares-exclusive": "others may use an exclusive queue",
    "one-generated-name": "every queue without a name gets the same one",
    "forgets-current-queue": "an empty queue name means the first queue declared on the channel",
    "direct-by-prefix": "a direct exchange routes by the first octets of the key",
    "direct-ignores-case": "a direct exchange ignores the case of the key",
    "fanout-by-key": "a fanout exchange looks at the key",
    "topic-hash-needs-a-word": "# in a pattern matches one word or more",
    "topic-star-takes-none": "* in a pattern matches no word as well",
    "headers-any-is-all": "x-match any asks for every header",
    "headers-untyped": "headers are compared as texts",
    "headers-compares-x": "names with x- are compared by all and any too",
    "copy-per-binding": "a queue gets a copy for each binding that matches",
    "no-bindings-between-exchanges": "bindings of exchanges to exchanges are ignored",
    "no-alternate": "alternate exchanges are ignored",
    "alternate-by-policy": "a policy's alternate exchange beats the declared one",
    "bcc-shown": "the header BCC is delivered",
    "cc-ignored": "CC and BCC do not route",
    "reorders": "every tenth message goes before the one that came before it",
    "drops-redelivered": "the redelivered flag is never set",
    "always-redelivered": "the redelivered flag is always set",
    "extra-copy": "every tenth message is stored twice",
    "loses": "every tenth message is not stored",
    "requeue-at-tail": "what is requeued goes behind everything else",
    "loses-unacked": "what was not acknowledged is dropped when its channel closes",
    "purge-all": "a purge takes what is not acknowledged too",
    "ignores-prefetch": "delivers without a limit",
    "prefetch-per-consumer": "each consumer of a channel gets the whole prefetch count",
    "prefetch-one-more": "delivers one more than the prefetch count",
    "ignores-prefetch-size": "the prefetch size is ignored",
    "ack-all": "any acknowledgement settles everything",
    "ack-one": "multiple is ignored",
    "tags-from-zero": "delivery tags begin with 0",
    "tags-per-connection": "delivery tags count over all channels of a connection",
    "rejected-to-same": "a rejected message may come back to who rejected it",
    "recover-drops": "what recover should bring again is dropped",
    "recover-to-others": "recover without requeue gives messages to anybody",
    "no-local-ignored": "consumers get what their own connection published",
    "delivers-after-cancel": "a consumer is still there after its cancel",
    "no-cancel-notice": "nobody is told that a consumer's queue was deleted",
    "notice-to-all": "clients without the capability are told too",
    "ignores-exclusive-consumer": "consumers may join an exclusive one",
    "ignores-priority": "messages in order of arrival whatever their priority",
    "priority-by-luck": "a message of higher priority passes only half of those before it",
    "ignores-consumer-priority": "consumers take turns whatever their priority",
    "wrong-count": "message counts are one too high",
    "never-expires": "no time to live, and no expiry of queues",
    "expires-late": "everything lives three times as long",
    "ignores-length": "queues have no maximum length",
    "drops-tail": "a full queue drops what came last",
    "accepts-when-full": "reject-publish does nothing",
    "no-dead-letters": "dead messages are gone",
    "death-wrong": "x-death names the wrong reason, and never counts",
    "dead-letters-circle": "dead messages may go round for ever",
    "dead-letter-forgets": "at-least-once is not: dead messages that find no place are gone",
    "expiry-dead-letters": "a queue that expires dead-letters its messages",
    "many-active": "a single active consumer is not alone",
    "no-hand-over": "when the single active consumer goes nobody follows",
    "ignores-permissions": "everybody may everything",
    "ignores-topic-permissions": "every key is allowed",
    "ignores-dead-letter-permissions": "the dead-letter and the alternate exchange need no right",
    "vhosts-leak": "a message is routed in all vhosts",
    "forgets-at-restart": "a restart empties durable queues",
    "doubles-at-restart": "a restart doubles messages",
    "timeout-none": "deliveries may stay unacknowledged for ever",
    "other-records": "another choice wherever nothing is specified",
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


def _refusing(code: int, text: str) -> Refused:
    return Refused(code, "connection" if code in HARD_ERRORS else "channel", text)


def _operation(
    neutral: _T,
) -> Callable[[Callable[Concatenate[Channel, _P], _T]], Callable[Concatenate[Channel, _P], _T]]:
    """A method of the protocol: under the lock, after what time has brought, and with refusals as the mutants have them.

    neutral: what is answered to what should have been refused, by the mutant that refuses nothing.
    """

    def wrap(method: Callable[Concatenate[Channel, _P], _T]) -> Callable[Concatenate[Channel, _P], _T]:
        @wraps(method)
        def served(self: Channel, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
            broker = self.connection.broker
            with broker.lock:
                broker.tick()
                try:
                    return method(self, *args, **kwargs)
                except Refused as refused:
                    if broker.is_mutant("accepts"):
                        then: Any = kwargs.get("then")
                        if then is not None:
                            then(neutral)
                        return neutral
                    raise broker.mutated(refused) from None

        return served

    return wrap


class Broker:
    """clock: seconds, of the broker's; only differences count.  consumer_timeout_s: how long a delivery may be held; None: for ever.

    channel_consumers_max: consumers on one channel; 0: no limit.
    """

    def __init__(
        self, clock: Callable[[], float], *, mutants: frozenset[str] = frozenset(), consumer_timeout_s: float | None = None,
        channel_consumers_max: int = 0,
    ) -> None:  # fmt: skip
        self.lock = threading.RLock()
        self.clock, self.mutants = clock, mutants
        self.consumer_timeout_s, self.channel_consumers_max = consumer_timeout_s, channel_consumers_max
        self.vhosts: dict[str, Vhost] = {}
        self.users: dict[str, User] = {}
        self.connections: dict[int, Connection] = {}
        self._consumers: dict[Queue, list[Consumer]] = {}
        self._numbers = itertools.count(1)
        self._stored = itertools.count(1)
        self._due = float("inf")
        self._actives: dict[Queue, int] = {}
        self.add_vhost("/")
        self.add_user("guest", "guest")
        self.set_permissions("guest", "/")

    # -- administration ------------------------------------------------------------------------------------------------

    def is_mutant(self, name: str) -> bool:
        return name in self.mutants

    def add_vhost(self, name: str) -> None:
        with self.lock:
            vhost = self.vhosts[name] = Vhost(name)
            for exchange, type_ in PREDECLARED.items():
                if not (exchange == "amq.match" and self.is_mutant("predeclared-missing")):
                    vhost.exchanges[exchange] = Exchange(exchange, type_)

    def delete_vhost(self, name: str) -> None:
        """Its connections are closed. No error when it is gone."""
        with self.lock:
            gone = self.vhosts.pop(name, None)
            if gone is None:
                return
            for connection in [c for c in self.connections.values() if c.vhost.name == name]:
                connection.closed_by_broker(_refusing(320, f"vhost {name!r} is deleted"))
            for queue in list(gone.queues.values()):
                self._consumers.pop(queue, None)

    def add_user(self, name: str, password: str) -> None:
        with self.lock:
            self.users[name] = User(name, password)

    def delete_user(self, name: str) -> None:
        with self.lock:
            self.users.pop(name, None)
            for connection in [c for c in self.connections.values() if c.user.name == name]:
                connection.closed_by_broker(_refusing(320, f"user {name!r} is deleted"))

    def authenticate(self, name: str, password: str) -> bool:
        with self.lock:
            user = self.users.get(name)
            return user is not None and user.password == password

    def set_permissions(
        self, user: str, vhost: str, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        with self.lock:
            self.users[user].permissions[vhost] = Permissions(configure, write, read)

    def clear_permissions(self, user: str, vhost: str) -> None:
        with self.lock:
            self.users[user].permissions.pop(vhost, None)

    def set_topic_permissions(self, user: str, vhost: str, exchange: str, write: str, read: str) -> None:
        """write, read: regular expressions on the routing key."""
        with self.lock:
            self.users[user].topics[vhost, exchange] = (write, read)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Table, apply_to: str = "all", priority: int = 0
    ) -> None:
        with self.lock:
            self.vhosts[vhost].policies.of[name] = Policy(pattern, dict(definition), apply_to, priority)

    def delete_policy(self, vhost: str, name: str) -> None:
        with self.lock:
            self.vhosts[vhost].policies.of.pop(name, None)

    def set_limits(self, limits: Mapping[str, int], *, vhost: str = "", user: str = "") -> None:
        """Of a vhost (max-connections, max-queues) or of a user (max-connections, max-channels); empty: none."""
        with self.lock:
            if vhost:
                self.vhosts[vhost].limits = dict(limits)
            else:
                self.users[user].limits = dict(limits)

    def entities(self, vhost: str) -> Entities:
        with self.lock:
            of = self.vhosts[vhost]
            return Entities(
                frozenset(of.queues), frozenset(of.exchanges) - frozenset(PREDECLARED),
                frozenset((b.source, f"{b.to} {b.destination}", b.key) for b in of.bindings if b.source),
            )  # fmt: skip

    def queue(self, vhost: str, name: str) -> dict[str, Any] | None:
        """As administration shows it; None: no such queue."""
        with self.lock:
            queue = self.vhosts[vhost].queues.get(name)
            return None if queue is None else {
                "durable": queue.durable, "exclusive": queue.owner != 0, "auto_delete": queue.auto_delete,
                "arguments": dict(queue.arguments),
            }  # fmt: skip

    def set_down(self, vhost: str, queue: str, down: bool) -> None:
        """As if the node of the queue had been stopped, or started again."""
        with self.lock:
            found = self.vhosts[vhost].queues[queue]
            found.down = down
            self._pump(self.vhosts[vhost], found)
            self._place_waiting()

    def restart(self) -> None:
        """The node ends and comes back: connections are gone, and so is all that is not durable."""
        with self.lock:
            for connection in list(self.connections.values()):
                connection.closed_by_broker(_refusing(320, "the node is shut down"))
            for vhost in self.vhosts.values():
                for queue in list(vhost.queues.values()):
                    if not queue.durable:
                        self.delete_queue(vhost, queue)
                        continue
                    kept = [s for s in queue.ready if queue.kind != "classic" or _persistent(s.message)]
                    if self.is_mutant("forgets-at-restart"):
                        kept = []
                    queue.purge()
                    for stored in kept:
                        queue.give_back(stored, returned=False)
                        stored.redelivered = False
                        if self.is_mutant("doubles-at-restart"):
                            queue.store(stored.message, stored.expires)
                for exchange in [e for e in vhost.exchanges.values() if not e.durable]:
                    self.delete_exchange(vhost, exchange)

    # -- time ----------------------------------------------------------------------------------------------------------

    def due(self) -> float:
        """When ``tick`` has something to do, on the broker's clock; infinity for never."""
        with self.lock:
            return self._due

    def tick(self) -> None:
        """Does what time has brought: messages and queues expire, deliveries held too long end their channel."""
        with self.lock:
            now = self.clock()
            if now < self._due:
                return
            self._due = float("inf")
            for vhost in list(self.vhosts.values()):
                for queue in list(vhost.queues.values()):
                    self._expire(vhost, queue, now)
            self._place_waiting()
            if not self.is_mutant("timeout-none"):
                for connection in list(self.connections.values()):
                    for channel in list(connection.channels):
                        channel.end_if_held_too_long(now)

    def held_at_most(self, vhost: Vhost, queue: Queue) -> float:
        """Seconds that a delivery from the queue may await its acknowledgement; infinity for ever."""
        ms = self.setting(vhost, queue, "consumer-timeout")
        if isinstance(ms, int):
            return ms / 1000
        return float("inf") if self.consumer_timeout_s is None else self.consumer_timeout_s

    def wake_at(self, when: float) -> None:
        self._due = min(self._due, when)

    def _expire(self, vhost: Vhost, queue: Queue, now: float) -> None:
        if self.is_mutant("never-expires"):
            return
        soonest = queue.soonest()
        if soonest is not None and soonest <= now:
            for stored in [s for s in queue.ready if s.expires is not None and s.expires <= now]:
                queue.take(stored)
                self._dead_letter(vhost, queue, stored, "expired")
            soonest = queue.soonest()
        if soonest is not None:
            self.wake_at(soonest)
        expires = self.setting(vhost, queue, "expires")
        if isinstance(expires, int) and not self.consumers_of(queue):
            at = queue.last_used + self._lifetime(expires)
            if at <= now:
                if self.is_mutant("expiry-dead-letters"):
                    for stored in list(queue.ready):
                        self._dead_letter(vhost, queue, stored, "expired")
                self.delete_queue(vhost, queue)
            else:
                self.wake_at(at)

    def _lifetime(self, ms: int) -> float:
        return ms / 1000 * (3 if self.is_mutant("expires-late") else 1)

    # -- connections ---------------------------------------------------------------------------------------------------

    def connect(
        self, user: str, vhost: str, *, capabilities: frozenset[str] = frozenset(),
        closed: Callable[[Refused], None] = lambda refused: None,
    ) -> Connection:  # fmt: skip
        """After authentication, at Connection.Open. capabilities: the client's that are true.

        closed: told when the broker ends it. Raises Refused.
        """
        with self.lock:
            try:
                return self._connect(user, vhost, capabilities, closed)
            except Refused as refused:
                raise self.mutated(refused) from None

    def _connect(
        self, user: str, vhost: str, capabilities: frozenset[str], closed: Callable[[Refused], None]
    ) -> Connection:
        of, account = self.vhosts.get(vhost), self.users[user]
        if of is None:
            raise _refusing(402, f"no vhost {vhost!r}")
        if vhost not in account.permissions and not self.is_mutant("ignores-permissions"):
            raise _refusing(530, f"access to vhost {vhost!r} refused for user {user!r}")
        for limits, mine in (
            (of.limits, [c for c in self.connections.values() if c.vhost is of]),
            (account.limits, [c for c in self.connections.values() if c.user is account]),
        ):
            if len(mine) >= limits.get("max-connections", NO_LIMIT):
                raise _refusing(530, f"connection limit ({limits['max-connections']}) is reached")
        connection = Connection(self, next(self._numbers), account, of, capabilities, closed)
        self.connections[connection.number] = connection
        return connection

    def mutated(self, refused: Refused) -> Refused:
        """As the mutants would refuse."""
        soft = refused.scope == "channel"
        if self.is_mutant("wrong-code"):
            code = (406 if refused.code == 404 else 404) if soft else (541 if refused.code != 541 else 503)
            return Refused(code, refused.scope, refused.text)
        if self.is_mutant("wrong-scope"):
            return Refused(refused.code, "connection" if soft else "channel", refused.text)
        return refused

    # -- what is there -------------------------------------------------------------------------------------------------

    def consumers_of(self, queue: Queue) -> list[Consumer]:
        """In the order in which they came."""
        return self._consumers.get(queue, [])

    def setting(self, vhost: Vhost, of: Queue | Exchange, name: str) -> Any:
        """A declared argument or a policy's: of two numbers the smaller one, else what was declared."""
        is_queue = isinstance(of, Queue)
        declared = of.arguments.get(f"x-{name}" if is_queue else name)
        by_policy = vhost.policies.setting("queues" if is_queue else "exchanges", of.name, name)
        if isinstance(declared, int) and isinstance(by_policy, int):
            return min(declared, by_policy)
        if name == "alternate-exchange" and self.is_mutant("alternate-by-policy"):
            return declared if by_policy is None else by_policy
        return by_policy if declared is None else declared

    def delete_queue(self, vhost: Vhost, queue: Queue) -> int:
        """How many messages went with it. Its consumers are told if they can be."""
        if vhost.queues.get(queue.name) is not queue:
            return 0
        del vhost.queues[queue.name]
        for consumer in list(self.consumers_of(queue)):
            consumer.channel.forget(consumer)
            can = "consumer_cancel_notify" in consumer.channel.connection.capabilities
            if (can or self.is_mutant("notice-to-all")) and not self.is_mutant("no-cancel-notice"):
                consumer.channel.sink.cancelled(consumer.tag)
        self._consumers.pop(queue, None)
        self.unbind(vhost, [b for b in vhost.bindings if b.to == "queue" and b.destination == queue.name])
        return queue.purge()

    def delete_exchange(self, vhost: Vhost, exchange: Exchange) -> None:
        if vhost.exchanges.get(exchange.name) is not exchange:
            return
        del vhost.exchanges[exchange.name]
        self.unbind(
            vhost,
            [b for b in vhost.bindings if exchange.name in (b.source, b.destination if b.to == "exchange" else None)],
        )

    def unbind(self, vhost: Vhost, bindings: Sequence[Binding]) -> None:
        """Removes them, and auto-delete exchanges that lose the last one from them."""
        for binding in bindings:
            if binding not in vhost.bindings:
                continue
            vhost.bindings.remove(binding)
            for name in (
                (binding.source, binding.destination) if self.is_mutant("hasty-auto-delete") else (binding.source,)
            ):
                self._auto_delete(vhost, vhost.exchanges.get(name))

    def _auto_delete(self, vhost: Vhost, exchange: Exchange | None) -> None:
        if exchange is None or not exchange.auto_delete or self.is_mutant("keeps-auto-delete"):
            return
        in_use = any(b.source == exchange.name for b in vhost.bindings)
        if self.is_mutant("hasty-auto-delete") or (exchange.had and not in_use):
            self.delete_exchange(vhost, exchange)

    # -- routing -------------------------------------------------------------------------------------------------------

    def route(self, vhost: Vhost, exchange: Exchange, keys: Sequence[str], headers: Table) -> list[Queue]:
        """The queues, each once, in the order in which they were found. Cycles end: an exchange is visited once."""
        found: list[Queue] = []
        visited: set[str] = set()
        todo = [exchange]
        while todo:
            at = todo.pop(0)
            if at.name in visited:
                continue
            visited.add(at.name)
            matched = False
            for queue in [vhost.queues[k] for k in dict.fromkeys(keys) if at.name == "" and k in vhost.queues]:
                found.append(queue)
                matched = True
            for binding in vhost.bindings:
                if binding.source != at.name or not any(self._matches(at, binding, key, headers) for key in keys):
                    continue
                if binding.to == "queue":
                    found.append(vhost.queues[binding.destination])
                elif self.is_mutant("no-bindings-between-exchanges"):
                    continue
                else:
                    todo.append(vhost.exchanges[binding.destination])
                matched = True
            alternate = self.setting(vhost, at, "alternate-exchange")
            if not matched and alternate in vhost.exchanges and not self.is_mutant("no-alternate"):
                todo.append(vhost.exchanges[alternate])
        return found if self.is_mutant("copy-per-binding") else list(dict.fromkeys(found))

    def _matches(self, exchange: Exchange, binding: Binding, key: str, headers: Table) -> bool:
        if exchange.type == "fanout":
            return not self.is_mutant("fanout-by-key") or binding.key == key
        if exchange.type == "topic":
            pattern = binding.key
            if self.is_mutant("topic-hash-needs-a-word"):
                return topic_matches(".".join("*.#" if w == "#" else w for w in pattern.split(".")), key)
            if self.is_mutant("topic-star-takes-none") and topic_matches(pattern.replace("*", "#"), key):
                return key.count(".") <= pattern.count(".")
            return topic_matches(pattern, key)
        if exchange.type == "headers":
            return self._headers_match(dict(binding.arguments), headers)
        if self.is_mutant("direct-by-prefix") and binding.key and key.startswith(binding.key):
            return True
        if self.is_mutant("direct-ignores-case"):
            return binding.key.lower() == key.lower()
        return binding.key == key

    def _headers_match(self, arguments: dict[str, object], headers: Table) -> bool:
        mode = str(plain(arguments.get("x-match", "all")))
        if self.is_mutant("headers-any-is-all"):
            arguments["x-match"] = mode = mode.replace("any", "all")
        if self.is_mutant("headers-compares-x") and not mode.endswith("-with-x"):
            mode += "-with-x"
        if self.is_mutant("headers-untyped"):
            arguments = {n: None if plain(v) is None else str(plain(v)) for n, v in arguments.items()}
            headers = {n: str(plain(v)) for n, v in headers.items()}
        return headers_match({**arguments, "x-match": mode}, headers)

    # -- storing -------------------------------------------------------------------------------------------------------

    def publish(self, vhost: Vhost, exchange: Exchange, message: Message) -> Published:
        """Routes and stores."""
        queues: list[tuple[Vhost, Queue]] = []
        headers = dict(message.headers)
        keys = [message.key]
        for name in ("CC", "BCC"):
            more = plain(headers.get(name))
            if more is not None and not self.is_mutant("cc-ignored"):
                if not isinstance(more, list) or not all(isinstance(k, str) for k in more):
                    raise _refusing(406, f"the header {name} is not an array of strings")
                keys += more
        if "BCC" in headers and not self.is_mutant("bcc-shown"):
            del headers["BCC"]
            message = replace(message, properties={**message.properties, "headers": headers})
        for of in self.vhosts.values() if self.is_mutant("vhosts-leak") else (vhost,):
            at = of.exchanges.get(exchange.name)
            if at is not None:
                queues += [(of, q) for q in self.route(of, at, keys, message.headers)]
        accepted = [self.store(of, queue, message) for of, queue in queues]
        return Published(routed=bool(queues), accepted=all(accepted))

    def store(self, vhost: Vhost, queue: Queue, message: Message) -> bool:
        """Whether the queue took it."""
        overflow = self.setting(vhost, queue, "overflow") or "drop-head"
        is_full = self._over(vhost, queue, extra=message)
        if is_full and str(overflow).startswith("reject-publish") and not self.is_mutant("accepts-when-full"):
            if overflow == "reject-publish-dlx":
                self._dead_letter(vhost, queue, Stored(message, (0, 0)), "maxlen")
            return False
        n = next(self._stored)
        if n % 10 == 0 and self.is_mutant("loses"):
            return True
        stored = self._store(vhost, queue, message)
        if n % 10 == 0 and self.is_mutant("extra-copy"):
            self._store(vhost, queue, message)
        if self.is_mutant("reorders") and n % 10 == 0 and len(queue.ready) > 1:
            queue.ready[-1], queue.ready[-2] = queue.ready[-2], queue.ready[-1]
            queue.ready[-1].order, queue.ready[-2].order = queue.ready[-2].order, queue.ready[-1].order
        self._pump(vhost, queue)
        if stored.expires is not None and stored.expires <= self.clock():
            self._expire(vhost, queue, self.clock())
        while self._over(vhost, queue) and queue.ready:
            head = queue.ready[-1 if self.is_mutant("drops-tail") else 0]
            queue.take(head)
            self._dead_letter(vhost, queue, head, "maxlen")
        return True

    def _store(self, vhost: Vhost, queue: Queue, message: Message) -> Stored:
        lives = [self.setting(vhost, queue, "message-ttl")]
        if "expiration" in message.properties:
            lives.append(int(str(message.properties["expiration"])))
        ms = min((x for x in lives if isinstance(x, int)), default=None)
        expires = None if ms is None else self.clock() + self._lifetime(ms)
        if expires is not None:
            self.wake_at(expires)
        ranked = message
        if self.is_mutant("ignores-priority") or (
            self.is_mutant("priority-by-luck") and "priority" in message.properties
        ):
            ranked = replace(message, properties={**message.properties, "priority": 0})
        stored = queue.store(ranked, expires)
        stored.message = message
        if self.is_mutant("priority-by-luck") and message.properties.get("priority") and len(queue.ready) > 1:
            queue.ready.insert(len(queue.ready) // 2, queue.ready.pop())
            for position, one in enumerate(queue.ready):
                one.order = (0, position)
        return stored

    def _over(self, vhost: Vhost, queue: Queue, extra: Message | None = None) -> bool:
        """Whether a queue is longer than it may be, or would be with one more."""
        if self.is_mutant("ignores-length"):
            return False
        length, octets = self.setting(vhost, queue, "max-length"), self.setting(vhost, queue, "max-length-bytes")
        return (isinstance(length, int) and len(queue.ready) + (extra is not None) > length) or (
            isinstance(octets, int) and queue.octets + (len(extra.body) if extra else 0) > octets
        )

    # -- the dead ------------------------------------------------------------------------------------------------------

    def _dead_letter(self, vhost: Vhost, queue: Queue, stored: Stored, reason: str) -> None:
        """Moves a message that is in no queue any more to the dead-letter exchange, or drops it."""
        name = self.setting(vhost, queue, "dead-letter-exchange")
        if name is None or self.is_mutant("no-dead-letters"):
            return
        at_least_once = queue.kind == "quorum" and self.setting(vhost, queue, "dead-letter-strategy") == "at-least-once"
        stored = replace(stored, message=self._dead(vhost, queue, stored.message, reason))
        if not self._place(vhost, queue, stored, name) and at_least_once and not self.is_mutant("dead-letter-forgets"):
            queue.waiting.append(stored)

    def _place(self, vhost: Vhost, queue: Queue, stored: Stored, name: str) -> bool:
        """Whether a dead message has come to rest where it was sent: in every queue that it was routed to."""
        exchange = vhost.exchanges.get(name)
        if exchange is None:
            return False
        keys = [stored.message.key, *_texts(stored.message.headers.get("CC"))]
        targets = self.route(vhost, exchange, keys, stored.message.headers)
        if any(t.down for t in targets):
            return False
        deaths = _deaths(stored.message.headers)
        for target in targets:
            names = [d["queue"] for d in deaths]
            reasons = [d["reason"] for d in deaths]
            circles = target.name in names and "rejected" not in reasons[: names.index(target.name) + 1]
            if not circles or self.is_mutant("dead-letters-circle"):
                self.store(vhost, target, replace(stored.message, exchange=name))
        return bool(targets)

    def _place_waiting(self) -> None:
        """Tries again what found no place."""
        for vhost in list(self.vhosts.values()):
            for queue in [q for q in vhost.queues.values() if q.waiting]:
                name = self.setting(vhost, queue, "dead-letter-exchange")
                queue.waiting = [s for s in queue.waiting if not self._place(vhost, queue, s, str(name))]

    def _dead(self, vhost: Vhost, queue: Queue, message: Message, reason: str) -> Message:
        """The message as it goes to the dead-letter exchange: key, expiration, and x-death with its last death first."""
        if self.is_mutant("death-wrong"):
            reason = "rejected" if reason == "expired" else "expired"
        headers = dict(message.headers)
        deaths = _deaths(headers)
        routing_keys = [message.key, *_texts(headers.pop("CC", None))]
        mine = [d for d in deaths if (d["queue"], d["reason"]) == (queue.name, reason)]
        count = 1 + (mine[0]["count"] if mine and not self.is_mutant("death-wrong") else 0)
        now = Field("T", int(datetime.datetime.now(datetime.UTC).timestamp()))
        death: dict[str, Any] = {
            "count": Field("l", count), "reason": reason, "queue": queue.name, "time": now, "exchange": message.exchange,
            "routing-keys": routing_keys,
        }  # fmt: skip
        properties = dict(message.properties)
        if "expiration" in properties:
            death["original-expiration"] = properties.pop("expiration")
        kept = [{**d, "count": Field("l", d["count"]), "time": Field("T", d["time"])} for d in deaths if d not in mine]
        headers["x-death"] = [death, *kept]
        for which, value in (("queue", queue.name), ("reason", reason), ("exchange", message.exchange)):
            headers.setdefault(f"x-first-death-{which}", value)
            headers[f"x-last-death-{which}"] = value
        properties["headers"] = headers
        key = self.setting(vhost, queue, "dead-letter-routing-key")
        return replace(message, key=message.key if key is None else str(key), properties=properties, publisher=0)

    # -- giving out ----------------------------------------------------------------------------------------------------

    def pump(self, vhost: Vhost, queue: Queue) -> None:
        with self.lock:
            self._pump(vhost, queue)

    def _pump(self, vhost: Vhost, queue: Queue) -> None:
        """Gives out what can be given: the first message that some consumer may have, to the one whose turn it is."""
        consumers = self._consumers.get(queue)
        if not consumers or queue.down or vhost.queues.get(queue.name) is not queue:
            return
        if queue.kind == "stream":
            for consumer in consumers:
                self._pump_stream(queue, consumer)
            return
        at = 0
        while at < len(queue.ready):
            willing = [c for c in self._in_turn(vhost, queue) if c.channel.has_credit(c)]
            if not willing:
                return
            stored = queue.ready[at]
            taker = next((c for c in willing if self._may_have(c, stored)), None)
            if taker is None:
                at += 1
                continue
            queue.take(stored)
            consumers.remove(taker)
            consumers.append(taker)
            taker.channel.hand_out(taker, stored)

    def _in_turn(self, vhost: Vhost, queue: Queue) -> list[Consumer]:
        consumers = self._consumers.get(queue, [])
        if queue.arguments.get("x-single-active-consumer") is True and not self.is_mutant("many-active"):
            first = min(consumers, key=lambda c: c.number)
            if self.is_mutant("no-hand-over") and first.number != self._actives.setdefault(queue, first.number):
                return []
            return [first]
        if self.is_mutant("ignores-consumer-priority"):
            return list(consumers)
        return sorted(consumers, key=lambda c: -c.priority)

    def _may_have(self, consumer: Consumer, stored: Stored) -> bool:
        own = stored.message.publisher == consumer.channel.connection.number
        if consumer.no_local and own and not self.is_mutant("no-local-ignored"):
            return False
        return consumer.number not in stored.rejected_by and consumer.channel.has_room(stored)

    def _pump_stream(self, queue: Queue, consumer: Consumer) -> None:
        while consumer.channel.has_credit(consumer):
            if consumer.again:
                stored = consumer.again.pop(0)
            elif consumer.position < len(queue.log):
                stored = queue.log[consumer.position]
                consumer.position += 1
            else:
                return
            consumer.channel.hand_out(consumer, stored)


def _texts(value: object) -> list[str]:
    found = plain(value)
    return [str(v) for v in found] if isinstance(found, list) else []


def _deaths(headers: Table) -> list[dict[str, Any]]:
    """The entries of x-death, plain; what a publisher sent under that name and is no such entry is left out."""
    found = plain(headers.get("x-death"))
    wanted = {"queue", "reason", "count", "time"}
    return [d for d in found if isinstance(d, dict) and wanted <= set(d)] if isinstance(found, list) else []


def _persistent(message: Message) -> bool:
    return message.properties.get("delivery_mode") == 2


class Connection:
    """number: never reused; it owns exclusive queues and is a message's publisher.

    prefetch: what qos with global=true allows all channels together; 0: no limit.
    """

    def __init__(
        self, broker: Broker, number: int, user: User, vhost: Vhost, capabilities: frozenset[str],
        closed: Callable[[Refused], None],
    ) -> None:  # fmt: skip
        self.broker, self.number, self.user, self.vhost = broker, number, user, vhost
        self.capabilities = capabilities
        self.channels: list[Channel] = []
        self.prefetch = 0
        self.tags = itertools.count(1)
        self._closed = closed

    def channel(self, sink: Sink) -> Channel:
        with self.broker.lock:
            channel = Channel(self, sink)
            self.channels.append(channel)
            return channel

    def close(self) -> None:
        """Channels go, and exclusive queues. Safe to call twice."""
        with self.broker.lock:
            if self.broker.connections.pop(self.number, None) is None:
                return
            for channel in list(self.channels):
                channel.close()
            for queue in [q for q in self.vhost.queues.values() if q.owner == self.number]:
                if not self.broker.is_mutant("keeps-exclusive"):
                    self.broker.delete_queue(self.vhost, queue)

    def closed_by_broker(self, refused: Refused) -> None:
        self.close()
        self._closed(refused)


_NOTHING: Delivery | None = None
_NONE_HELD: Sequence[Held] = ()


class Channel:
    """The methods of exchange, queue and basic, in their specification's words; arguments of field tables may bear tags.

    held: by delivery tag.  current: the queue declared last.
    """

    def __init__(self, connection: Connection, sink: Sink) -> None:
        self.connection, self.sink = connection, sink
        self.number = next(connection.broker._numbers)
        self.held: dict[int, Held] = {}
        self.consumers: dict[str, Consumer] = {}
        self.current = ""
        self.prefetch = self.prefetch_octets = 0
        self.in_flight = self.octets_in_flight = 0
        self.is_active = True
        self._tags = itertools.count(0 if connection.broker.is_mutant("tags-from-zero") else 1)
        self._is_open = True

    # -- exchanges -----------------------------------------------------------------------------------------------------

    @_operation(None)
    def exchange_declare(
        self, exchange: str, type: str = "direct", *, passive: bool = False, durable: bool = False,
        auto_delete: bool = False, internal: bool = False, arguments: Table | None = None,
    ) -> None:  # fmt: skip
        given: Table = plain(arguments or {})
        there = self._vhost.exchanges.get(exchange)
        if passive:
            if there is None:
                raise _refusing(404, f"no exchange {exchange!r}")
            return
        if exchange == "":
            raise _refusing(403, "the default exchange cannot be declared")
        self._may("configure", exchange)
        if type not in EXCHANGE_TYPES:
            raise _refusing(503, f"unknown exchange type {type!r}")
        if there is not None:
            self._must_be_equivalent(there, type, durable, auto_delete, internal, given)
            return
        if exchange.startswith("amq."):
            raise _refusing(403, f"exchange name {exchange!r} is reserved")
        alternate = given.get("alternate-exchange")
        if isinstance(alternate, str) and not self._is("ignores-dead-letter-permissions"):
            self._may("read", exchange)
            self._may("write", alternate)
        self._vhost.exchanges[exchange] = Exchange(exchange, type, durable, auto_delete, internal, given)

    def _must_be_equivalent(
        self, there: Exchange, type: str, durable: bool, auto_delete: bool, internal: bool, arguments: Table
    ) -> None:
        if self._is("declare-changes"):
            there.type, there.durable, there.arguments = type, durable, arguments
            return
        if there.type != type:
            raise _refusing(530, f"exchange {there.name!r} is of type {there.type!r}, not {type!r}")
        if (there.durable, there.auto_delete, there.internal, there.arguments) != (
            durable,
            auto_delete,
            internal,
            arguments,
        ):
            raise _refusing(406, f"exchange {there.name!r} has other properties")

    @_operation(None)
    def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None:
        if exchange == "" or exchange in PREDECLARED:
            raise _refusing(403, f"exchange {exchange!r} cannot be deleted")
        self._may("configure", exchange)
        there = self._exchange(exchange)
        if if_unused and any(b.source == exchange for b in self._vhost.bindings):
            raise _refusing(406, f"exchange {exchange!r} is in use")
        self._broker.delete_exchange(self._vhost, there)

    @_operation(None)
    def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        self._bind("exchange", destination, source, routing_key, arguments)

    @_operation(None)
    def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        self._unbind("exchange", destination, source, routing_key, arguments)

    @_operation(None)
    def queue_bind(self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None) -> None:
        if queue == "" and routing_key == "":
            routing_key = self._named(queue)
        self._bind("queue", self._named(queue), exchange, routing_key, arguments)

    @_operation(None)
    def queue_unbind(self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None) -> None:
        if queue == "" and routing_key == "":
            routing_key = self._named(queue)
        self._unbind("queue", self._named(queue), exchange, routing_key, arguments)

    def _bind(
        self, to: Literal["queue", "exchange"], destination: str, source: str, key: str, arguments: Table | None
    ) -> None:
        of = self._source_of(to, destination, source, key)
        mode = plain((arguments or {}).get("x-match", "all"))
        if of.type == "headers" and mode not in X_MATCHES:
            raise _refusing(406, f"x-match is one of {', '.join(X_MATCHES)}, not {mode!r}")
        of.had = True
        binding = Binding(source, to, destination, key, dict(arguments or {}))
        if binding not in self._vhost.bindings:
            self._vhost.bindings.append(binding)
        self._broker._place_waiting()

    def _unbind(
        self, to: Literal["queue", "exchange"], destination: str, source: str, key: str, arguments: Table | None
    ) -> None:
        self._source_of(to, destination, source, key)
        binding = Binding(source, to, destination, key, dict(arguments or {}))
        if binding not in self._vhost.bindings:
            # The rule asks for an exception of the connection, with a code that elsewhere is a channel's.
            raise Refused(404, "connection", f"no such binding of {source!r} to {destination!r}")
        self._broker.unbind(self._vhost, [binding])

    def _source_of(self, to: str, destination: str, source: str, key: str) -> Exchange:
        self._may("write", destination)
        self._may("read", source)
        if to == "queue":
            self._queue(destination)
        else:
            self._exchange(destination)
        of = self._exchange(source)
        self._may_use_key("read", of, key)
        return of

    # -- queues --------------------------------------------------------------------------------------------------------

    @_operation(Declared("", 0, 0))
    def queue_declare(
        self, queue: str = "", *, passive: bool = False, durable: bool = False, exclusive: bool = False,
        auto_delete: bool = False, arguments: Table | None = None,
    ) -> Declared:  # fmt: skip
        given: dict[str, object] = plain(arguments or {})
        there = self._vhost.queues.get(queue)
        if passive:
            there = self._queue(self._named(queue))
            return self._declared(there)
        if there is not None and self._is_locked(there):
            raise _refusing(405, f"queue {queue!r} is exclusive to another connection")
        self._may("configure", queue or "amq.gen-")
        if there is not None:
            self._must_be_same(there, durable, exclusive, auto_delete, given)
            there.last_used = self._broker.clock()
            return self._declared(there)
        if queue.startswith("amq."):
            raise _refusing(403, f"queue name {queue!r} is reserved")
        if self._is("refuses-transient") and not durable:
            raise _refusing(541, "transient queues are not permitted")
        self._check_arguments(queue, given, durable=durable, exclusive=exclusive)
        target = given.get("x-dead-letter-exchange")
        if isinstance(target, str) and not self._is("ignores-dead-letter-permissions"):
            self._may("read", queue)
            self._may("write", target)
        if len(self._vhost.queues) >= self._vhost.limits.get("max-queues", NO_LIMIT):
            raise _refusing(406, f"queue limit in vhost {self._vhost.name!r} is reached")
        if not queue:
            queue = "amq.gen-same" if self._is("one-generated-name") else f"amq.gen-{uuid.uuid4().hex}"
        made = Queue(
            queue, str(given.get("x-queue-type", "classic")), durable, self.connection.number if exclusive else 0,
            auto_delete, given, last_used=self._broker.clock(),
        )  # fmt: skip
        self._vhost.queues[queue] = made
        expires = self._broker.setting(self._vhost, made, "expires")
        if isinstance(expires, int):
            self._broker.wake_at(made.last_used + self._broker._lifetime(expires))
        return self._declared(made)

    def _declared(self, queue: Queue) -> Declared:
        if not (self._is("forgets-current-queue") and self.current):
            self.current = queue.name
        return Declared(queue.name, queue.length() + self._is("wrong-count"), len(self._broker.consumers_of(queue)))

    def _must_be_same(self, there: Queue, durable: bool, exclusive: bool, auto_delete: bool, arguments: Table) -> None:
        if self._is("declare-changes"):
            there.durable, there.auto_delete, there.arguments = durable, auto_delete, arguments
        elif (there.durable, there.owner != 0, there.auto_delete, there.arguments) != (
            durable, exclusive, auto_delete, arguments,
        ):  # fmt: skip
            raise _refusing(406, f"queue {there.name!r} has other properties")

    def _check_arguments(self, queue: str, given: Table, *, durable: bool, exclusive: bool) -> None:
        kind = given.get("x-queue-type", "classic")
        if kind not in QUEUE_TYPES:
            raise _refusing(406, f"x-queue-type is one of {', '.join(QUEUE_TYPES)}, not {kind!r}")
        if kind != "classic" and (not durable or exclusive or not queue) and not self._is("other-records"):
            raise _refusing(406, f"a {kind} queue is durable, shared and has a name")
        for name, least in (
            ("message-ttl", 0), ("expires", 1), ("max-length", 0), ("max-length-bytes", 0), ("max-priority", 0),
        ):  # fmt: skip
            value = given.get(f"x-{name}")
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise _refusing(406, f"x-{name} is a number of at least {least}, not {value!r}")
        if given.get("x-overflow", "drop-head") not in OVERFLOWS:
            raise _refusing(406, f"x-overflow is one of {', '.join(OVERFLOWS)}, not {given['x-overflow']!r}")
        if "x-dead-letter-routing-key" in given and "x-dead-letter-exchange" not in given:
            raise _refusing(406, "x-dead-letter-routing-key without x-dead-letter-exchange")
        if self._is("other-records") and ("x-queue-mode" in given or "x-queue-version" in given):
            raise _refusing(406, "x-queue-mode and x-queue-version are gone")

    @_operation(0)
    def queue_purge(self, queue: str = "") -> int:
        self._may("read", self._named(queue))
        there = self._queue(self._named(queue))
        extra = 0
        if self._is("purge-all"):
            for channel in [c for n in self._broker.connections.values() for c in n.channels]:
                for held in [h for h in channel.held.values() if h.queue is there]:
                    channel.release(held)
                    extra += 1
        if there.kind == "stream":
            given = max((c.position for c in self._broker.consumers_of(there)), default=0)
            count = len(there.log) - given
            del there.log[given:]
            return count + extra
        return there.purge() + extra + self._is("wrong-count")

    @_operation(0)
    def queue_delete(self, queue: str = "", *, if_unused: bool = False, if_empty: bool = False) -> int:
        self._may("configure", self._named(queue))
        there = self._queue(self._named(queue))
        if if_unused and self._broker.consumers_of(there):
            raise _refusing(406, f"queue {there.name!r} is in use")
        if if_empty and there.length():
            raise _refusing(406, f"queue {there.name!r} is not empty")
        return self._broker.delete_queue(self._vhost, there)

    # -- publishing and getting ----------------------------------------------------------------------------------------

    @_operation(Published(routed=True, accepted=True))
    def publish(self, exchange: str, routing_key: str, properties: Mapping[str, object], body: bytes) -> Published:
        self._may("write", exchange)
        if exchange == "" and routing_key.startswith(f"{REPLY_TO}."):
            return self._reply(routing_key, properties, body)
        there = self._exchange(exchange)
        if there.internal:
            raise _refusing(403, f"exchange {exchange!r} is internal")
        self._may_use_key("write", there, routing_key)
        user_id = properties.get("user_id")
        if user_id is not None and user_id != self.connection.user.name:
            raise _refusing(406, f"user-id {user_id!r} is not who is logged in: {self.connection.user.name!r}")
        expiration = properties.get("expiration")
        if expiration is not None and not re.fullmatch(r"[0-9]+", str(expiration)):
            raise _refusing(406, f"expiration is milliseconds in digits, not {expiration!r}")
        if properties.get("reply_to") == REPLY_TO:
            if not any(c.queue.name == REPLY_TO for c in self.consumers.values()):
                raise _refusing(406, "nobody consumes from the pseudo-queue for replies here")
            properties = {**properties, "reply_to": f"{REPLY_TO}.{self.number}"}
        message = Message(exchange, routing_key, dict(properties), bytes(body), self.connection.number)
        return self._broker.publish(self._vhost, there, message)

    def _reply(self, key: str, properties: Mapping[str, object], body: bytes) -> Published:
        """Direct reply-to: to the channel that the key names, if it still consumes."""
        for channel in [c for n in self._broker.connections.values() for c in n.channels]:
            for consumer in list(channel.consumers.values()):
                if f"{REPLY_TO}.{channel.number}" == key and consumer.queue.name == REPLY_TO:
                    message = Message("", key, dict(properties), bytes(body), self.connection.number)
                    channel.hand_out(consumer, Stored(message, (0, 0)))
                    return Published(routed=True, accepted=True)
        return Published(routed=False, accepted=True)

    @_operation(_NOTHING)
    def get(self, queue: str = "", *, no_ack: bool = False) -> Delivery | None:
        """The message, or None: the queue is empty."""
        self._may("read", self._named(queue))
        there = self._queue(self._named(queue))
        if there.kind == "stream":
            raise _refusing(540, "basic.get from a stream")
        if there.kind == "quorum" and there.arguments.get("x-single-active-consumer") is True:
            raise _refusing(405, f"queue {there.name!r} has a single active consumer")
        there.last_used = self._broker.clock()
        if self._is("hasty-auto-delete") and there.auto_delete:
            self._broker.delete_queue(self._vhost, there)
        if not there.ready or there.down:
            return None
        stored = there.ready[0]
        there.take(stored)
        held = Held(self._next_tag(), there, stored, None, self._broker.clock())
        if not no_ack:
            self._hold(held)
        return self._delivery(held, "", left=len(there.ready) + self._is("wrong-count"))

    # -- consuming -----------------------------------------------------------------------------------------------------

    @_operation(None)
    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, global_: bool = False, *, then: Callable[[None], None]
    ) -> None:
        """global_ false: for this channel, true: for all of the connection's together."""
        if global_:
            self.connection.prefetch = prefetch_count
        else:
            self.prefetch, self.prefetch_octets = prefetch_count, prefetch_size
        then(None)
        for channel in self.connection.channels if global_ else [self]:
            channel.pump()

    @_operation("")
    def consume(
        self, queue: str = "", consumer_tag: str = "", *, no_local: bool = False, no_ack: bool = False,
        exclusive: bool = False, arguments: Table | None = None, then: Callable[[str], None],
    ) -> str:  # fmt: skip
        """then: called with the consumer's tag before the first delivery."""
        given: Table = plain(arguments or {})
        name = self._named(queue)
        if name == REPLY_TO:
            there = self._reply_queue(no_ack)
        else:
            self._may("read", name)
            there = self._queue(name)
        if consumer_tag in self.consumers:
            raise _refusing(530, f"consumer tag {consumer_tag!r} is in use on this channel")
        most = self._broker.channel_consumers_max
        if most and len(self.consumers) >= most:
            raise _refusing(530, f"consumer limit of a channel ({most}) is reached")
        others = self._broker.consumers_of(there)
        if others and (exclusive or any(c.exclusive for c in others)) and not self._is("ignores-exclusive-consumer"):
            raise _refusing(403, f"queue {name!r} has a consumer, or an exclusive one")
        if there.kind == "stream":
            self._check_stream(no_ack)
        priority = given.get("x-priority", 0)
        consumer = Consumer(
            next(self._broker._numbers), consumer_tag or f"amq.ctag-{uuid.uuid4().hex}", self, there, no_ack, no_local,
            exclusive, priority if isinstance(priority, int) else 0,
            position=_first_position(there, given.get("x-stream-offset", "next")) if there.kind == "stream" else 0,
        )  # fmt: skip
        self.consumers[consumer.tag] = consumer
        self._broker._consumers.setdefault(there, []).append(consumer)
        there.had_consumer, there.last_used = True, self._broker.clock()
        then(consumer.tag)
        self._broker.pump(self._vhost, there)
        return consumer.tag

    def _reply_queue(self, no_ack: bool) -> Queue:
        if not no_ack:
            raise _refusing(406, "replies are consumed without acknowledgement")
        if any(c.queue.name == REPLY_TO for c in self.consumers.values()):
            raise _refusing(406, "this channel consumes replies already")
        return Queue(REPLY_TO, "classic", False, 0, False, {})

    def _check_stream(self, no_ack: bool) -> None:
        if self._is("other-records"):
            raise _refusing(540, "streams are not for this protocol")
        if not self.prefetch:
            raise _refusing(406, "a stream is consumed with a prefetch count")
        if no_ack:
            raise _refusing(540, "a stream is consumed with acknowledgements")

    @_operation(None)
    def cancel(self, consumer_tag: str) -> None:
        """An unknown tag is no error. What the consumer holds stays held."""
        consumer = self.consumers.get(consumer_tag)
        if consumer is not None and not self._is("delivers-after-cancel"):
            self._leave(consumer)

    @_operation(None)
    def flow(self, active: bool) -> None:
        self.is_active = active
        self.pump()

    # -- settling ------------------------------------------------------------------------------------------------------

    @_operation(None)
    def ack(self, delivery_tag: int = 0, *, multiple: bool = False) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "ack")

    @_operation(None)
    def nack(self, delivery_tag: int = 0, *, multiple: bool = False, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=multiple), "requeue" if requeue else "discard")

    @_operation(None)
    def reject(self, delivery_tag: int, *, requeue: bool = True) -> None:
        self.finish(self.take(delivery_tag, multiple=False), "reject" if requeue else "discard")

    @_operation(_NONE_HELD)
    def take(self, delivery_tag: int, *, multiple: bool) -> Sequence[Held]:
        """What a tag stands for, no longer held; ``finish`` or ``put_back`` is next: a transaction does that at its end."""
        if self._is("ack-one"):
            multiple = False
        if self._is("ack-all") or (multiple and delivery_tag == 0):
            tags = list(self.held)
        elif delivery_tag not in self.held:
            raise _refusing(406, f"unknown delivery tag {delivery_tag}")
        else:
            tags = [t for t in self.held if t <= delivery_tag] if multiple else [delivery_tag]
        return [self.held.pop(t) for t in tags]

    def put_back(self, taken: Sequence[Held]) -> None:
        """Holds again what ``take`` took: a transaction was rolled back."""
        with self._broker.lock:
            self.held = {h.tag: h for h in sorted([*self.held.values(), *taken], key=lambda h: h.tag)}

    def finish(self, taken: Sequence[Held], how: Literal["ack", "requeue", "reject", "discard"]) -> None:
        """ack: done. requeue, reject: back into the queue, by reject not to the same consumer. discard: dead."""
        with self._broker.lock:
            for held in taken:
                self._lighten(held)
                if how == "discard":
                    self._broker._dead_letter(self._vhost, held.queue, held.stored, "rejected")
                elif how != "ack":
                    if how == "reject" and held.consumer is not None and not self._is("rejected-to-same"):
                        held.stored.rejected_by.add(held.consumer.number)
                    self._give_back(held)
            self.pump({h.queue for h in taken})

    @_operation(None)
    def recover(self, requeue: bool, *, then: Callable[[None], None]) -> None:
        """then: called before what is held comes again."""
        then(None)
        taken = list(self.held.values())
        self.held.clear()
        if self._is("recover-drops"):
            return
        mine = [h for h in taken if h.consumer is not None and self.consumers.get(h.consumer.tag) is h.consumer]
        if requeue or self._is("recover-to-others"):
            mine = []
        for held in taken:
            self._lighten(held)
            if held not in mine:
                self._give_back(held)
        for held in mine:
            assert held.consumer is not None
            held.stored.redelivered = True
            self.hand_out(held.consumer, held.stored)
        self.pump({h.queue for h in taken})

    def close(self) -> None:
        """What is held goes back to its queue, consumers go. Safe to call twice."""
        with self._broker.lock:
            if not self._is_open:
                return
            self._is_open = False
            self.connection.channels.remove(self)
            taken = list(self.held.values())
            self.held.clear()
            consumers = list(self.consumers.values())
            for consumer in consumers:
                self.forget(consumer)
            for held in taken:
                if not self._is("loses-unacked"):
                    self._give_back(held)
            for consumer in consumers:
                self._auto_delete(consumer.queue)
            for queue in {h.queue for h in taken} | {c.queue for c in consumers}:
                self._broker.pump(self._vhost, queue)

    # -- for the broker ------------------------------------------------------------------------------------------------

    def has_credit(self, consumer: Consumer) -> bool:
        """Whether a consumer of this channel may get any more."""
        if not self.is_active:
            return False
        if consumer.no_ack or self._is("ignores-prefetch"):
            return True
        in_flight = consumer.in_flight if self._is("prefetch-per-consumer") else self.in_flight
        most = self.prefetch + self._is("prefetch-one-more")
        if self.prefetch and in_flight >= most:
            return False
        if self.connection.prefetch:
            all_ = sum(c.in_flight for c in self.connection.channels)
            in_flight = consumer.in_flight if self._is("prefetch-per-consumer") else all_
            return in_flight < self.connection.prefetch + self._is("prefetch-one-more")
        return True

    def has_room(self, stored: Stored) -> bool:
        """Whether the message fits below the prefetch size; one that is larger fits when nothing is held."""
        if not self.prefetch_octets or self._is("ignores-prefetch-size") or not self.in_flight:
            return True
        return self.octets_in_flight + len(stored.message.body) <= self.prefetch_octets

    def hand_out(self, consumer: Consumer, stored: Stored) -> None:
        held = Held(self._next_tag(), consumer.queue, stored, consumer, self._broker.clock())
        if not consumer.no_ack:
            self._hold(held)
            self.in_flight += 1
            consumer.in_flight += 1
            self.octets_in_flight += len(stored.message.body)
            self._broker.wake_at(held.since + self._broker.held_at_most(self._vhost, held.queue))
        self.sink.deliver(self._delivery(held, consumer.tag))

    def pump(self, queues: Iterable[Queue] = ()) -> None:
        """Gives out what now can be: from these queues and those that are consumed here."""
        for queue in dict.fromkeys([*queues, *(c.queue for c in list(self.consumers.values()))]):
            self._broker.pump(self._vhost, queue)

    def release(self, held: Held) -> None:
        """Forgets a delivery as if it had been acknowledged."""
        if self.held.pop(held.tag, None) is not None:
            self._lighten(held)

    def forget(self, consumer: Consumer) -> None:
        """The consumer is none any more."""
        self.consumers.pop(consumer.tag, None)
        others = self._broker._consumers.get(consumer.queue, [])
        if consumer in others:
            others.remove(consumer)
        consumer.queue.last_used = self._broker.clock()
        expires = self._broker.setting(self._vhost, consumer.queue, "expires")
        if isinstance(expires, int):
            self._broker.wake_at(consumer.queue.last_used + self._broker._lifetime(expires))

    def end_if_held_too_long(self, now: float) -> None:
        """Closes the channel if one of its deliveries is."""
        ends = [h.since + self._broker.held_at_most(self._vhost, h.queue) for h in self.held.values()]
        soonest = min(ends, default=float("inf"))
        if soonest <= now:
            self.close()
            self.sink.closed(self._broker.mutated(_refusing(406, "delivery acknowledgement timed out")))
        elif ends:
            self._broker.wake_at(soonest)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _broker(self) -> Broker:
        return self.connection.broker

    @property
    def _vhost(self) -> Vhost:
        return self.connection.vhost

    def _is(self, mutant: str) -> bool:
        return self.connection.broker.is_mutant(mutant)

    def _may(self, right: str, name: str) -> None:
        allowed = self.connection.user.may(right, self._vhost.name, name)
        if not allowed and not self._is("ignores-permissions"):
            raise _refusing(403, f"{right} access to {name!r} refused for user {self.connection.user.name!r}")

    def _may_use_key(self, right: str, exchange: Exchange, key: str) -> None:
        allowed = self.connection.user.may_use_key(right, self._vhost.name, exchange.name, key)
        if exchange.type == "topic" and not allowed and not self._is("ignores-topic-permissions"):
            raise _refusing(403, f"{right} access to topic {key!r} in exchange {exchange.name!r} refused")

    def _named(self, queue: str) -> str:
        """The queue that a name means: the empty one the last that was declared on this channel."""
        if queue or self.current:
            return queue or self.current
        raise _refusing(404, "no queue was declared on this channel")

    def _exchange(self, name: str) -> Exchange:
        there = self._vhost.exchanges.get(name)
        if there is None:
            raise _refusing(404, f"no exchange {name!r}")
        return there

    def _queue(self, name: str) -> Queue:
        there = self._vhost.queues.get(name)
        if there is None:
            raise _refusing(404, f"no queue {name!r}")
        if self._is_locked(there):
            raise _refusing(405, f"queue {name!r} is exclusive to another connection")
        return there

    def _is_locked(self, queue: Queue) -> bool:
        return queue.owner not in (0, self.connection.number) and not self._is("shares-exclusive")

    def _next_tag(self) -> int:
        return next(self.connection.tags if self._is("tags-per-connection") else self._tags)

    def _hold(self, held: Held) -> None:
        self.held[held.tag] = held

    def _lighten(self, held: Held) -> None:
        if held.consumer is not None:
            self.in_flight -= 1
            held.consumer.in_flight -= 1
            self.octets_in_flight -= len(held.stored.message.body)

    def _give_back(self, held: Held) -> None:
        """Requeues, or gives up what was returned too often."""
        queue, stored = held.queue, held.stored
        if self._vhost.queues.get(queue.name) is not queue:
            return
        if queue.kind == "stream":
            stored.redelivered = True
            if held.consumer is not None:
                held.consumer.again.append(stored)
                held.consumer.again.sort(key=lambda s: s.order)
            return
        limit = self._broker.setting(self._vhost, queue, "delivery-limit")
        most = limit if isinstance(limit, int) else DELIVERY_LIMIT
        if queue.kind == "quorum" and stored.returned >= most:
            self._broker._dead_letter(self._vhost, queue, stored, "delivery_limit")
            return
        if self._is("requeue-at-tail"):
            stored.order = (stored.order[0], queue.tail())
        queue.give_back(stored)
        if stored.expires is not None:
            self._broker.wake_at(stored.expires)

    def _delivery(self, held: Held, consumer_tag: str, left: int = 0) -> Delivery:
        message, extra = held.stored.message, {}
        if held.queue.kind == "stream":
            extra["x-stream-offset"] = Field("l", held.queue.log.index(held.stored))
        elif held.queue.kind == "quorum" and held.stored.returned:
            extra["x-delivery-count"] = Field("l", held.stored.returned)
        if extra:
            message = replace(message, properties={**message.properties, "headers": {**message.headers, **extra}})
        flag = held.stored.redelivered and not self._is("drops-redelivered")
        redelivered = flag or self._is("always-redelivered")
        return Delivery(held.tag, consumer_tag, redelivered, message, left)

    def _leave(self, consumer: Consumer) -> None:
        self.forget(consumer)
        self._auto_delete(consumer.queue)
        self._broker.pump(self._vhost, consumer.queue)

    def _auto_delete(self, queue: Queue) -> None:
        unused = self._is("hasty-auto-delete") or not self._broker.consumers_of(queue)
        if queue.auto_delete and unused and not self._is("keeps-auto-delete"):
            self._broker.delete_queue(self._vhost, queue)


def _first_position(stream: Queue, offset: object) -> int:
    """Of a stream's log; offset: first, last, next, a number; a timestamp or an interval: from the first on, which is before them."""
    if offset == "last":
        return max(0, len(stream.log) - 1)
    if offset == "next":
        return len(stream.log)
    return min(offset, len(stream.log)) if isinstance(offset, int) and offset < 10**9 else 0
