"""AMQP cases on a RabbitMQ that somebody else runs: in the one vhost that its file names, as the one user.

There is no administration: a case that asks for some is SKIP. What exists is asked for by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pika.exceptions

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Pacing, Thing
from brokerproof.brokers.rabbitmq import admin
from brokerproof.brokers.rabbitmq.adopted import answers, direct, look_for
from brokerproof.conformance.adopted import Belongings, not_given
from brokerproof.conformance.amqp091.administration import Entities
from brokerproof.conformance.amqp091.aftermath import aftermath, sentry
from brokerproof.conformance.amqp091.scene import AmqpScene, Place
from brokerproof.conformance.case import Case
from brokerproof.conformance.scene import Scene, Skip
from brokerproof.conformance.wirelog import WireLog
from brokerproof.credentials import reveal
from brokerproof.errors import UsageError
from brokerproof.target import Target

#: Names that the broker gives itself, to queues without one; all others of ``amq.`` it keeps for itself.
_GIVEN = "amq.gen"


class AdoptedGround:
    """``conformance.scene.Ground``."""

    product = "rabbitmq"

    def __init__(self, adoption: Adoption, run: str) -> None:
        """Raises UsageError for a target whose cases would meet others', or whose user they cannot log in as."""
        target = adoption.target
        if target.vhost == "/":
            raise UsageError(
                f"{target.path}: protocol cases bind queues to the exchanges that every vhost has (amq.fanout and so on), and "
                "publish to them; they want a vhost of their own: rabbitmqctl add_vhost brokerproof, then "
                'vhost = "brokerproof" in [access]'
            )
        if target.mechanism.upper() == "EXTERNAL":
            raise UsageError(
                f"{target.path}: protocol cases log in by PLAIN; give user and password in [access], not EXTERNAL"
            )
        self.version = adoption.version
        self._target, self._belongings = target, Belongings(adoption, run)
        self._password = reveal(target.password)
        self._admitted()

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        log.hides = (self._password,) if self._password else ()
        name = self._belongings.name()
        things: list[Thing] = []
        scene = AmqpScene(
            case, variant=variant, condition=condition, product=self.product, version=self.version, name=name, log=log,
            place=self._place(name), admin=_NoAdministration(self._target, things, self._belongings.pace), stop=stop,
            way=self._belongings.way(lambda name: self._named(things, name)),
        )  # fmt: skip
        try:
            if case.watched(condition):
                sentry(scene)
            yield scene
        finally:
            scene.close()
            self._belongings.remove(things)

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, AmqpScene)
        return aftermath(scene, scene.place)

    def close(self) -> None:
        self._belongings.close()

    def _admitted(self) -> None:
        """Raises UsageError where the user may not do what cases do: a refusal would be counted against the broker."""
        target = self._target
        try:
            with admin.channel(next(iter(target.nodes.values())).address, direct(target)) as ch:
                queue = ch.queue_declare("", exclusive=True).method.queue
                ch.queue_bind(queue, "amq.fanout", "")
        except pika.exceptions.ChannelClosedByBroker as exc:
            if exc.reply_code != 403:
                raise
            raise UsageError(
                f"{target.path}: protocol cases bind queues that the broker names to the exchanges that it has, and user {target.user!r} "
                f"may not ({exc.reply_text}): rabbitmqctl set_permissions -p {target.vhost} {target.user} '.*' '.*' '.*'"
            ) from exc

    def _place(self, name: str) -> Place:
        addresses = [node.address for node in self._target.nodes.values()]
        return Place(addresses, self._target.vhost, self._target.user, self._password, stem=f"{name}-")

    def _named(self, things: list[Thing], name: str) -> None:
        given = name.startswith(_GIVEN)
        if name.startswith("amq.") and not given:
            return  # the broker's own: it can neither be made nor deleted
        if not given and not self._belongings.ours(name):
            raise Skip(f"it makes {name[:60]!r}, a name without the target's prefix")
        # A given name is a queue's, and of an exchange the broker refuses to delete what begins with ``amq.``.
        things_named = [Thing("queue", name)] if given else [Thing("queue", name), Thing("exchange", name)]
        fresh = [t for t in things_named if t not in things]
        if fresh:
            self._belongings.making(fresh)
            things += fresh


class _NoAdministration:
    """As much of ``administration.Administration`` as AMQP can do. things: what the case may have made."""

    def __init__(self, target: Target, things: Sequence[Thing], pace: Pacing) -> None:
        self._target, self._things, self._pace = target, things, pace

    def entities(self, vhost: str) -> Entities:
        node = next(iter(self._target.nodes.values()))
        found: dict[str, set[str]] = {"queue": set(), "exchange": set()}
        with admin.channel(node.address, direct(self._target)) as ch:
            for thing, code in answers(ch, list(self._things), look_for, self._pace):
                if code != 404:
                    found[thing.kind].add(thing.name)
        return Entities(frozenset(found["queue"]), frozenset(found["exchange"]))

    def __getattr__(self, name: str) -> Any:
        raise not_given(f"a hand on the broker's administration ({name})", "rabbitmq")


def on_target(adoption: Adoption, run: str) -> AdoptedGround:
    return AdoptedGround(adoption, run)
