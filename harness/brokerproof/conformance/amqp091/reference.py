"""Where AMQP cases are run without a broker: a reference peer in this process, fresh for each case."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from brokerproof.conformance.amqp091 import model, mutants, peer
from brokerproof.conformance.amqp091.administration import Entities
from brokerproof.conformance.amqp091.aftermath import aftermath, sentry
from brokerproof.conformance.amqp091.peer import Peer
from brokerproof.conformance.amqp091.scene import AmqpScene, OwnLink, Place
from brokerproof.conformance.case import Case
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import unknown

MUTANTS: Mapping[str, str] = {**mutants.MUTANTS, **peer.MUTANTS}
#: A second of the broker's in seconds of ours; more for cases that are about time, or a busy machine would be seen as a slow peer.
SCALE, SCALE_SLOW, SCALE_TIMING = 0.02, 0.05, 0.2
#: A condition makes the way longer, and not the clock.
_SCALE_OF: Mapping[str, float] = {"slicer": 0.2, "black-hole": SCALE_TIMING}


def on_reference(mutant: str = "") -> ReferenceGround:
    """Raises UsageError for a mutant that does not exist."""
    if mutant and mutant not in MUTANTS:
        raise unknown("mutant", mutant, MUTANTS)
    return ReferenceGround(mutant)


class ReferenceGround:
    """``conformance.scene.Ground``."""

    product, version = "reference", "1"

    def __init__(self, mutant: str = "") -> None:
        self.mutant = mutant
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        shortened = SCALE_TIMING if case.timing else SCALE_SLOW if "slow" in case.tags else SCALE
        scale = _SCALE_OF.get(condition, shortened)
        settings = case.settings_of(variant, self.product, self.version)
        timeout_ms = settings.get("consumer_timeout")
        broker = model.Broker(
            lambda: time.monotonic() / scale, mutants=frozenset({self.mutant} - {""}),
            consumer_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
            channel_consumers_max=settings.get("consumer_max_per_channel", 0),
        )  # fmt: skip
        served = Peer(broker, scale)
        served.slices = condition == "slicer"
        name = f"v{next(self._numbers)}"
        broker.add_vhost(name)
        broker.add_user(name, name)
        broker.set_permissions(name, name)
        scene = AmqpScene(
            case, variant=variant, condition=condition, product=self.product, version=self.version, name=name, log=log,
            place=Place([served.address], name, name, name), admin=ReferenceAdministration(broker, served), scale=scale,
            stop=stop, own=lambda: OwnLink(served.own_address, served.swallows.set),
        )  # fmt: skip
        try:
            if case.watched(condition):
                sentry(scene)
            yield scene
        finally:
            scene.close()
            served.close()

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, AmqpScene)
        return aftermath(scene, scene.place)

    def logs(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Each case's peer ends with it."""


class ReferenceAdministration:
    """``administration.Administration``."""

    def __init__(self, broker: model.Broker, served: Peer) -> None:
        self._broker, self._peer = broker, served

    def add_vhost(self, vhost: str) -> None:
        self._broker.add_vhost(vhost)

    def delete_vhost(self, vhost: str) -> None:
        self._broker.delete_vhost(vhost)

    def add_user(self, user: str, password: str) -> None:
        self._broker.add_user(user, password)

    def delete_user(self, user: str) -> None:
        self._broker.delete_user(user)

    def permit(self, user: str, vhost: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        self._broker.set_permissions(user, vhost, configure=configure, write=write, read=read)

    def forbid(self, user: str, vhost: str) -> None:
        self._broker.clear_permissions(user, vhost)

    def permit_topics(self, user: str, vhost: str, exchange: str, *, write: str = ".*", read: str = ".*") -> None:
        self._broker.set_topic_permissions(user, vhost, exchange, write, read)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, Any], apply_to: str = "all"
    ) -> None:
        self._broker.set_policy(vhost, name, pattern, definition, apply_to)

    def clear_policy(self, vhost: str, name: str) -> None:
        self._broker.delete_policy(vhost, name)

    def limit_vhost(self, vhost: str, limits: Mapping[str, int]) -> None:
        self._broker.set_limits(limits, vhost=vhost)

    def limit_user(self, user: str, limits: Mapping[str, int]) -> None:
        self._broker.set_limits(limits, user=user)

    def entities(self, vhost: str) -> Entities:
        return self._broker.entities(vhost)

    def queue(self, vhost: str, name: str) -> Mapping[str, Any] | None:
        return self._broker.queue(vhost, name)

    def setting(self, name: str) -> Any:
        return {"max_message_size": self._peer.message_max}.get(name)

    def default(self, name: str) -> Any:
        return self.setting(name)

    def memory(self) -> int:
        return self._peer.kept

    def raise_alarm(self) -> None:
        self._peer.alarm(True)

    def clear_alarm(self) -> None:
        self._peer.alarm(False)

    def restart(self, how: Literal["stop", "kill"], node: int = 0) -> None:
        self.down(how, node)
        self.up(node)

    def down(self, how: Literal["stop", "kill"], node: int = 0) -> None:
        self._peer.end_sessions()
        self._broker.restart()

    def up(self, node: int = 0) -> None:
        """It never went."""

    def nodes(self) -> Sequence[str]:
        return ("reference",)
