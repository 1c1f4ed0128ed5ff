"""Where AMQP cases are run on a real RabbitMQ cluster: a vhost and a user for each case, connections through its proxy.

Ordinary cases go by the ``consumer`` links, those in one-octet segments by a ``sham`` link that is made so by the first of them. A
black hole, and a case that sends so much that its segments must follow each other at once, has the ``producer`` link for itself, one
case at a time. What looks after a negative case goes by ``admin``.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import Link as ProxyLink
from brokerproof.conformance.amqp091.aftermath import aftermath, sentry
from brokerproof.conformance.amqp091.rabbit import RabbitAdministration
from brokerproof.conformance.amqp091.scene import AmqpScene, OwnLink, Place
from brokerproof.conformance.case import Case
from brokerproof.conformance.link import SLICER
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog

#: Cases that send megabytes: with a delay they would take a quarter of an hour.
_WITHOUT_DELAY = ("A2.13",)
_LOG_S = 20.0


def on_cluster(cluster: Any) -> RabbitGround:
    """cluster: a running ``RabbitCluster``."""
    return RabbitGround(cluster)


class RabbitGround:
    """``conformance.scene.Ground``."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.product, self.version = cluster.product, cluster.version
        self.admin = RabbitAdministration(cluster)
        self._own = threading.Lock()
        self._slicing = threading.Lock()
        self._sliced = False
        self._numbers = itertools.count(1)
        self._prefix = f"bp-{time.time_ns() // 1_000_000 % 10**9}"

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        name = f"{self._prefix}-{case.id}-{next(self._numbers)}"
        self.admin.prepare(name, name, name)
        try:
            with contextlib.ExitStack() as held:
                place = self._place(name, "consumer")
                own = _Own(self, name, held)
                scene = AmqpScene(
                    case, variant=variant, condition=condition, product=self.product, version=self.version, name=name,
                    log=log, place=self._sliced_place(name, case, own) if condition == "slicer" else place, admin=self.admin, stop=stop,
                    own=own.leased,
                )  # fmt: skip
                if case.watched(condition):
                    sentry(scene)
                yield scene
        finally:
            self.admin.remove(name, name)

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, AmqpScene)
        return aftermath(scene, self._place(scene.name, "admin"))

    def logs(self) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            self._cluster.save_logs(Path(folder))
            return {file.stem: file.read_text(errors="replace") for file in Path(folder).glob("*.log")}

    def close(self) -> None:
        """The cluster is its owner's; the link that was made to slice passes on what comes again."""
        with self._slicing:
            if self._sliced:
                self._cluster.links("sham")[0].clear_toxics()
                self._sliced = False

    def _sliced_place(self, name: str, case: Case, own: _Own) -> Place:
        if case.id in _WITHOUT_DELAY:
            return Place([own.sliced()], name, name, name)
        link: ProxyLink = self._cluster.links("sham")[0]
        with self._slicing:
            if not self._sliced:
                _slice(link, SLICER)
                self._sliced = True
        return Place([link.address], name, name, name)

    def _place(self, name: str, group: str) -> Place:
        return Place([link.address for link in self._cluster.links(group)], name, name, name)


class _Own:
    """A link of its own for one scene: waited for, and put right when the scene ends."""

    def __init__(self, ground: RabbitGround, name: str, held: contextlib.ExitStack) -> None:
        self._ground, self._name, self._held = ground, name, held
        self._taken = False

    def leased(self) -> OwnLink:
        link = self._take()

        return OwnLink(link.address, link.silence)

    def sliced(self) -> tuple[str, int]:
        """Its address, as soon as it is: segments of one octet, as close to each other as they get."""
        link = self._take()
        _slice(link, {**SLICER, "delay": 0})
        return link.address

    def _take(self) -> ProxyLink:
        link: ProxyLink = self._ground._cluster.links("producer")[0]
        if not self._taken:
            self._held.enter_context(self._ground._own)
            self._taken = True
            self._held.callback(link.clear_toxics)
            self._held.callback(link.unsilence)
        return link


def _slice(link: ProxyLink, attributes: Mapping[str, int]) -> None:
    for stream in ("upstream", "downstream"):
        link.add_toxic("slicer", stream, **attributes)
