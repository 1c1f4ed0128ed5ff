"""The broker behind the reference peer: AMQP 0-9-1's entities as a state machine, thread-safe and sans-IO.

    broker = Broker(clock)                       vhosts, users, policies, limits: the administration
    connection = broker.connect(user, vhost)     402, 530: refused
    channel = connection.channel(sink)           every method of the classes exchange, queue, basic

A method returns what its -ok says or raises ``entities.Refused``; whoever speaks the wire closes what ``Refused.scope`` says, and calls
``Channel.close`` or ``Connection.close``. What comes unasked (deliveries, cancels, a close) goes to the channel's ``entities.Sink``, called with the
broker's lock held: it must only queue. ``then`` arguments are called with the reply before what follows from it is delivered.
Confirms, returns and transactions are the connection layer's, made of ``Published`` and of ``take`` / ``finish`` / ``put_back``.
Time passes only in ``Broker.tick``; ``due`` says when the next is needed.

Where vendors and the specification differ it does what the specification demands, since every case must pass on it;
``mutants.MUTANTS`` get one thing wrong each, so that every case can be shown to see it.
"""

from __future__ import annotations

import datetime
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from brokerproof.conformance.amqp091.access import Permissions, Policy, User
from brokerproof.conformance.amqp091.administration import Entities
from brokerproof.conformance.amqp091.channel import Channel
from brokerproof.conformance.amqp091.entities import (
    PREDECLARED,
    Binding,
    Consumer,
    Exchange,
    Published,
    Refused,
    Sink,
    Table,
    Vhost,
    refusing,
)
from brokerproof.conformance.amqp091.queues import NO_LIMIT, Message, Queue, Stored
from brokerproof.conformance.amqp091.routing import headers_match, topic_matches
from brokerproof.wire.amqp091 import Field, plain


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
                connection.closed_by_broker(refusing(320, f"vhost {name!r} is deleted"))
            for queue in list(gone.queues.values()):
                self._consumers.pop(queue, None)

    def add_user(self, name: str, password: str) -> None:
        with self.lock:
            self.users[name] = User(name, password)

    def delete_user(self, name: str) -> None:
        with self.lock:
            self.users.pop(name, None)
            for connection in [c for c in self.connections.values() if c.user.name == name]:
                connection.closed_by_broker(refusing(320, f"user {name!r} is deleted"))

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
                connection.closed_by_broker(refusing(320, "the node is shut down"))
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
            raise refusing(402, f"no vhost {vhost!r}")
        if vhost not in account.permissions and not self.is_mutant("ignores-permissions"):
            raise refusing(530, f"access to vhost {vhost!r} refused for user {user!r}")
        for limits, mine in (
            (of.limits, [c for c in self.connections.values() if c.vhost is of]),
            (account.limits, [c for c in self.connections.values() if c.user is account]),
        ):
            if len(mine) >= limits.get("max-connections", NO_LIMIT):
                raise refusing(530, f"connection limit ({limits['max-connections']}) is reached")
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
        if self.is_mutant("policies-ignored"):
            return declared
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
            all_ = self.is_mutant("notice-to-all") or self.is_mutant("notice-to-all-late")
            if (can or all_) and not self.is_mutant("no-cancel-notice"):
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
                    raise refusing(406, f"the header {name} is not an array of strings")
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
            if self.is_mutant("keeps-one-refused") and not self._over(vhost, queue):
                self._store(vhost, queue, message)
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
