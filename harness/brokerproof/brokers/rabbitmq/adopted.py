"""A RabbitMQ that somebody else runs: the same contract by AMQP alone, through proxies of our own.

What needs a hand on a node (the runtime's own view of replicas, policies, files) is not there. The leader of a queue is
where it was declared, which RabbitMQ's default locator, client-local, makes it; nobody is asked whether it has moved.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pika.exceptions

from brokerproof.brokers import tls
from brokerproof.brokers.base import (
    LINK_GROUPS,
    Inspected,
    Json,
    Link,
    Node,
    Noted,
    Opening,
    Pacing,
    PeerLinks,
    Thing,
    unpaced,
)
from brokerproof.brokers.rabbitmq import admin
from brokerproof.brokers.rabbitmq.greeting import opening
from brokerproof.brokers.rabbitmq.queues import Shape, consumer_arguments, exchange_name, queue_name, shape
from brokerproof.credentials import reveal
from brokerproof.errors import DeadlineError, EnvironmentProblem, HarnessError, PlanError, ProvisionError, UsageError
from brokerproof.plan import Destination
from brokerproof.runtime.foreign import ForeignNode, unreached
from brokerproof.runtime.front import Front, found, put
from brokerproof.runtime.ground import LinkSpec
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.proxy import greet
from brokerproof.target import Target, joined
from brokerproof.waiting import wait_until

_HEARTBEAT_S = 5
_CREATE_S, _PASS_S, _GREET_S = 20.0, 5.0, 2.0
#: A queue of a look that was cut short goes by itself.
_EXPIRES_MS = 60_000
_DOC = "https://www.rabbitmq.com/docs/access-control"


class AdoptedRabbit:
    """``brokers.base.Cluster``. Made by ``AdoptsRabbit``."""

    product = "rabbitmq"
    in_process = False
    keeps_consumed = False
    redelivery_s = 3.0
    peers: PeerLinks | None = None

    def __init__(self, target: Target, ground: Front, *, version: str, topology: str, run: str) -> None:
        self.version, self.topology = version, topology
        self._target, self._ground, self._run = target, ground, run
        self._journal = Journal(target.key)
        self._probe = f"{target.prefix}probe-{ground.name}"
        self.nodes: Mapping[str, Node] = {
            name: ForeignNode(node, partial(_answers, target, node.address)) for name, node in target.nodes.items()
        }

    # -- addresses -----------------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """As ``RabbitCluster.endpoint``, and how one is let in; see ``access``."""
        links = self._ground.links_of(group)
        return {
            "addresses": [list(link.address) for link in links],
            **_access(self._target, {link.address[1]: self._target.nodes[link.node].address[0] for link in links}),
        }

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        stream = destination.settings.get("x-queue-type") == "stream"
        if (destination.kind == "log") != stream:
            raise PlanError(f"destination {name!r}: on rabbitmq a stream is a log, and everything else a queue")
        wanted = self._shape(destination, name)
        queues = [queue_name(name, p) for p in range(destination.partitions)]
        things = [Thing("queue", queue) for queue in queues]
        things += [Thing("exchange", wanted.exchange.name)] if wanted.exchange else []
        mine = set(self._journal.left(lambda run: run == self._run))
        for thing in things:
            if thing not in mine and self._there(thing):
                raise UsageError(
                    f"target {self._target.key}: {thing.kind} {thing.name!r} is there, and is not of this run: somebody's data may "
                    f"be in it; `brokerproof clean --target {self._target.path}` removes what killed runs of ours left, or "
                    'choose another prefix: [names] prefix = "…"'
                )
        self._journal.making(self._run, things)

        def passed() -> bool:
            with self._channel() as ch:
                for queue in queues:
                    admin.declare(ch, queue, wanted)
                    if not admin.pass_through(ch, queue, _PASS_S, consumer_arguments(destination.settings)) and not (
                        {"x-message-ttl", "x-max-length", "x-max-length-bytes"} & set(wanted.arguments)
                    ):
                        return False
            return True

        try:
            wait_until(
                passed, _CREATE_S, f"a message through queue {name!r} of {self._target.key} and back", interval_s=0.2,
                retry_on=admin.NOT_YET,
            )  # fmt: skip
        except DeadlineError as exc:
            raise ProvisionError(f"{exc}; `brokerproof target check {self._target.path}` says what it may do") from exc

    def perishes(self, destination: Destination) -> bool:
        """See ``brokers.base.Perishing``."""
        made = self._shape(destination, destination.name)
        return not made.durable or (made.exchange is not None and not made.exchange.durable)

    def delete(self, destination: Destination, name: str) -> None:
        things = [Thing("queue", queue_name(name, p)) for p in range(destination.partitions)]
        things += [Thing("exchange", exchange_name(name))] if destination.settings.get("exchange") else []
        self._journal.gone(remove(self._target, things))

    def leader(self, name: str, partition: int = 0) -> str:
        return next(iter(self.nodes))

    def replicas(self, name: str) -> Sequence[str]:
        return list(self.nodes)

    # -- health --------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        for link in self._ground.links_of("admin"):
            wait_until(
                partial(self._passes, link.address), timeout_s, f"a message through {link.node} of {self._target.key} and back",
                interval_s=0.2, retry_on=admin.NOT_YET,
            )  # fmt: skip

    def sync(self) -> None:
        """What others run is not synced by us."""

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Json:
        return {
            "answering": sorted(link.node for link in self._ground.links_of("admin") if link.greet(_GREET_S).answered),
            "queues": {name: {"leader": self.leader(name), "known_by": "declared there"} for name in names},
        }

    def settings(self) -> Json:
        link = self._ground.links_of("admin")[0]
        return {
            "broker": {}, "heartbeat_s": _HEARTBEAT_S, "nodes": len(self.nodes), "target": self._target.public(), "proxy": self._ground.proxy,
            "server": admin.server(link.address, self.endpoint("admin")),
        }  # fmt: skip

    def save_logs(self, folder: Path) -> None:
        """The proxy's. The nodes' are not ours to take."""
        self._ground.save_logs(folder)

    def close(self) -> None:
        try:
            mine = self._journal.left(lambda run: run == self._run)
            self._journal.gone(remove(self._target, mine))
        finally:
            self._ground.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes the probe's queue, and passes a message through every node."""
        self.create(Destination(name=self._probe, kind="queue"), self._probe)
        self.wait_healthy(_CREATE_S)

    def _passes(self, address: tuple[str, int]) -> bool:
        with admin.channel(address, self.endpoint("admin")) as ch:
            return admin.pass_through(ch, self._probe, _PASS_S)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        endpoint = self.endpoint("admin")
        host, port = endpoint["addresses"][0]
        with admin.channel((host, port), endpoint) as ch:
            yield ch

    def _there(self, thing: Thing) -> bool:
        def look() -> list[bool]:
            with self._channel() as ch:
                return [there(ch, thing)]

        return wait_until(
            look, _CREATE_S, f"{self._target.key} to say whether {thing.kind} {thing.name!r} is there", interval_s=0.2,
            retry_on=admin.NOT_YET,
        )[0]  # fmt: skip

    def _shape(self, destination: Destination, name: str) -> Shape:
        kind = destination.settings.get("x-queue-type", "quorum" if len(self.nodes) > 1 else "classic")
        defaults: dict[str, str | int] = {"x-queue-type": kind}
        if self.version.startswith("4.") and kind == "quorum":
            defaults["x-delivery-limit"] = -1  # see ``RabbitCluster``
        return shape(destination.settings, name=name, prefix=name.removesuffix(destination.name), defaults=defaults)


class AdoptsRabbit:
    """``brokers.base.Adopts``."""

    adopted_capabilities = frozenset({"confirm", "transactions", "several_consumers_per_lane"})

    def version_of(self, target: Target) -> str:
        if target.version:
            return target.version
        with _let_in(target):
            address = next(iter(target.nodes.values())).address
            return str(admin.server(address, direct(target))["version"])

    def inspect(self, target: Target) -> Inspected:
        return Inspecting(target).run()

    def foreign(self, target: Target) -> str:
        """By AMQP nobody can list queues: each name is asked for before it is made."""
        return ""

    def adopt(self, target: Target, *, version: str, topology: str, name: str, run: str, attach: bool,
              progress: Callable[[str], None]) -> AdoptedRabbit:  # fmt: skip
        first = _opening(target)
        if attach:
            return AdoptedRabbit(
                target, found(name=name, run=run, opening=first), version=version, topology=topology, run=run
            )
        links = [
            LinkSpec(group, node.name, node.address[1], upstream=joined(node.address))
            for group in LINK_GROUPS
            for node in target.nodes.values()
        ]
        progress(f"putting a proxy in front of {', '.join(joined(n.address) for n in target.nodes.values())}")
        ground = put(target, name=name, run=run, links=links, opening=first)
        cluster = AdoptedRabbit(target, ground, version=version, topology=topology, run=run)
        try:
            cluster.open()
        except BaseException as exc:
            with contextlib.suppress(HarnessError):
                cluster.close()
            if isinstance(exc, DeadlineError):
                raise ProvisionError(f"standing on {target.key}: {exc}{unreached(target)}") from exc
            raise
        return cluster

    def remove(self, target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
        return remove(target, things, pace)


def remove(target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
    """Deletes these by the nodes' own addresses; returns those that are gone. Never raises."""
    gone: list[Thing] = []
    for node in target.nodes.values():
        left = [thing for thing in things if thing not in gone]
        if not left:
            break
        with contextlib.suppress(*admin.NOT_YET, UsageError), admin.channel(node.address, direct(target)) as ch:
            for thing, code in answers(ch, left, _delete, pace):
                # No error where it is gone already: both are idempotent since RabbitMQ 3.2; by the specification 404.
                # With another it is held by a connection that is not gone yet; the others go.
                if code in (0, 404):
                    gone.append(thing)
    return gone


def answers(
    ch: Any, things: Iterable[Thing], ask: Callable[[Any, Thing], object], pace: Pacing = unpaced
) -> Iterator[tuple[Thing, int]]:
    """Each with 0, or the code with which the broker closed the channel when it was asked; the next has a new one."""
    for thing in things:
        pace()
        code = 0
        try:
            ask(ch, thing)
        except pika.exceptions.ChannelClosedByBroker as exc:
            ch, code = ch.connection.channel(), exc.reply_code
        yield thing, code


def _delete(ch: Any, thing: Thing) -> None:
    (ch.queue_delete if thing.kind == "queue" else ch.exchange_delete)(thing.name)


def look_for(ch: Any, thing: Thing) -> None:
    """Raises ChannelClosedByBroker, with 404 where it does not exist."""
    (ch.queue_declare if thing.kind == "queue" else ch.exchange_declare)(thing.name, passive=True)


def there(ch: Any, thing: Thing) -> bool:
    """Whether it exists; the channel is closed by it where it does not."""
    try:
        look_for(ch, thing)
    except pika.exceptions.ChannelClosedByBroker as exc:
        if exc.reply_code != 404:
            raise
        return False
    return True


class Inspecting:
    """``target check``: what can be seen of a RabbitMQ by AMQP, each with what to do about it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._name = f"{target.prefix}check-{uuid.uuid4().hex[:12]}"
        self._notes: list[Noted] = []
        self._version = ""

    def run(self) -> Inspected:
        answering = [node for node in self._target.nodes.values() if self._reaches(node.name, node.address)]
        if answering:
            self._may(answering[0].address)
        self._notes.append(
            Noted("ok", "clock", "AMQP tells no time; latencies are taken on this machine's monotonic clock only")
        )
        return Inspected(self._version, tuple(self._notes))

    def _say(self, status: str, name: str, seen: str, next_step: str = "") -> None:
        self._notes.append(Noted(status, name, seen, next_step))

    def _reaches(self, name: str, address: tuple[str, int]) -> bool:
        first = greet(address, _opening(self._target).greeting, _GREET_S)
        if not first.answered:
            what = "no TCP connection" if not first.connected else "connected, and nothing answered"
            self._say(
                "missing", f"node {name}", f"{joined(address)}: {what}",
                "is the address right, the port open from here, and TLS on one side only? AMQP is 5672, AMQPS 5671",
            )  # fmt: skip
            return False
        begin = time.monotonic()
        try:
            with _let_in(self._target):
                said = admin.server(address, direct(self._target))
        except HarnessError as exc:
            text, _, step = str(exc).partition("; ")
            self._say("missing", f"node {name}", text, step)
            return False
        took_ms = (time.monotonic() - begin) * 1000
        self._version = self._version or str(said["version"])
        self._say(
            "ok", f"node {name}",
            f"{joined(address)}: {said['product']} {said['version']}, answers after {first.rtt_ms or 0.0:.1f} ms, "
            f"lets us in within {took_ms:.0f} ms",
        )  # fmt: skip
        return True

    def _may(self, address: tuple[str, int]) -> None:
        target, queue = self._target, self._name
        rules = f"'^{target.prefix}.*' '^({target.prefix}.*|amq\\.default)$' '^{target.prefix}.*'"
        step = f"rabbitmqctl set_permissions -p {target.vhost} {target.user or 'USER'} {rules}"

        def attempt(name: str, works: str, do: Callable[[Any], bool]) -> bool:
            try:
                with admin.channel(address, direct(target)) as ch:
                    fine = do(ch)
            except admin.NOT_YET as exc:
                self._say("missing", name, f"refused: {_reason(exc)}", step)
                return False
            self._say(
                "ok" if fine else "missing", name, works if fine else "no message came back", "" if fine else step
            )
            return fine

        def exclusive(ch: Any) -> bool:
            ch.queue_declare(queue, exclusive=True)
            return admin.pass_through(ch, queue, _PASS_S)

        def quorum(ch: Any) -> bool:
            ch.queue_declare(f"{queue}-q", durable=True, arguments={"x-queue-type": "quorum", "x-expires": _EXPIRES_MS})
            try:
                return admin.pass_through(ch, f"{queue}-q", _PASS_S)
            finally:
                ch.queue_delete(f"{queue}-q")

        def exchange(ch: Any) -> bool:
            ch.exchange_declare(f"{queue}.x", "fanout", auto_delete=True)
            ch.exchange_delete(f"{queue}.x")
            return True

        may = attempt(
            "permissions", f"declares, publishes to and consumes {target.prefix}… in vhost {target.vhost!r}", exclusive
        )
        if may:
            attempt("quorum queues", "one was made, used and deleted", quorum)
            attempt("exchanges", "one was made and deleted", exchange)
        if target.vhost == "/":
            self._say(
                "warning", "vhost", "the default vhost '/', where others may be",
                "rabbitmqctl add_vhost brokerproof, then vhost = \"brokerproof\" in [access]",
            )  # fmt: skip


def _reason(exc: BaseException) -> str:
    text = getattr(exc, "reply_text", "") or str(exc) or type(exc).__name__
    return str(text)


@contextlib.contextmanager
def _let_in(target: Target) -> Iterator[None]:
    """Turns what pika says into what a person can act on."""
    e = pika.exceptions
    where = f"{target.product} at {', '.join(joined(n.address) for n in target.nodes.values())}"
    try:
        yield
    except (e.ProbableAuthenticationError, e.AuthenticationError) as exc:
        raise UsageError(
            f"{where} refuses {target.access_in_words()}; check user and password, and that a user called guest may come "
            "from elsewhere than its own machine (loopback_users)"
        ) from exc
    except (e.ProbableAccessDeniedError, e.ConnectionClosedByBroker) as exc:
        raise UsageError(
            f"{where} refuses vhost {target.vhost!r}: {_reason(exc)}; rabbitmqctl add_vhost {target.vhost}, then "
            f"rabbitmqctl set_permissions -p {target.vhost} {target.user or 'USER'} …, see {_DOC}"
        ) from exc
    except admin.NOT_YET as exc:
        raise EnvironmentProblem(
            f"{where} does not answer: {_reason(exc)}; `brokerproof target check {target.path}` looks at each node"
        ) from exc


def _answers(target: Target, address: tuple[str, int]) -> bool:
    return greet(address, _opening(target).greeting, _GREET_S).answered


def _opening(target: Target) -> Opening:
    if target.tls is not None:
        return tls.opening(target.tls.server_name or next(iter(target.nodes.values())).address[0])
    return opening(target.user, reveal(target.password))


def direct(target: Target) -> dict[str, Any]:
    return _access(target, {})


def _access(target: Target, hosts: Mapping[int, str]) -> dict[str, Any]:
    """hosts: port of a proxy -> host of the node behind it, whose name is on the node's certificate."""
    own = target.tls
    wanted = {str(port): own.server_name or host for port, host in hosts.items()} if own is not None else {}
    if own is not None and own.server_name:
        wanted |= {str(node.address[1]): own.server_name for node in target.nodes.values()}
    return {
        "user": target.user, "password": target.password, "vhost": target.vhost, "heartbeat_s": _HEARTBEAT_S,
        "external": target.mechanism.upper() == "EXTERNAL",
        "tls": None if own is None else {
            "ca": own.ca, "cert": own.cert, "key": own.key, "key_password": own.key_password, "verify": own.verify,
            "server_name": wanted,
        },
    }  # fmt: skip
