"""What must be as it was after something forbidden was sent.

a sibling channel works, unless the connection had to go
a connection that was open before works
a fresh connection works: it publishes and gets
a connection whose last frame was cut short is given up: its exclusive queue is gone
queues and exchanges are those that the script made, and none that it made is gone
"""

from __future__ import annotations

import time

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel, Connection, Place
from brokerproof.conformance.scene import Inconclusive
from brokerproof.errors import EnvironmentProblem

_SENTRY = "sentry"
#: A busy machine gives a peer in the same process no processor for a while.
_GIVEN_UP_S = 1.0


def sentry(scene: AmqpScene) -> None:
    """Opens the connection that must not notice anything, before the script runs."""
    scene.sentry = scene.connect(_SENTRY).channel().queue(scene.fresh("sentry"))


def aftermath(scene: AmqpScene, probe: Place) -> str:
    """What is not as before, in a sentence; empty: all is. probe: a way that the case does not use."""
    try:
        return _siblings(scene) or _sentry(scene) or _fresh(scene, probe) or _held(scene) or _entities(scene)
    except EnvironmentProblem as exc:  # that the case's time is over is nobody's verdict
        return f"afterwards: {exc}"


def _siblings(scene: AmqpScene) -> str:
    for connection in scene.connections:
        if connection.tuned is None or connection.ended() or connection.link.name == _SENTRY:
            continue
        open_ = [c for c in connection.channels.values() if c.is_open]
        try:
            for channel in open_[:1]:
                channel.call("queue.declare", queue=scene.sentry, passive=True)
            _works(connection.channel())  # one of its own: the script's may be transactional
        except Inconclusive as exc:
            if connection.closed is None:
                return f"a sibling channel of connection {connection.link.name} does not work: {exc}"
    return ""


def _sentry(scene: AmqpScene) -> str:
    for connection in scene.connections:
        if connection.link.name == _SENTRY:
            try:
                _works(connection.channels[1])
            except Inconclusive as exc:
                return f"a second connection does not work any more: {exc}"
    return ""


def _held(scene: AmqpScene) -> str:
    """Within the window of a reaction: a broker hears of a link's end when it reads, and cleans up after that."""
    left = {c.trace: c.link.name for c in scene.connections if c.trace and c.link.ended and c.link.name != _SENTRY}
    until = max(scene.window(), time.monotonic() + _GIVEN_UP_S)
    while left and time.monotonic() < until:
        there = scene.admin.entities(scene.vhost).queues
        left = {queue: name for queue, name in left.items() if queue in there}
    return f"still held after their end: connections {', '.join(left.values())}" if left else ""


def _fresh(scene: AmqpScene, probe: Place) -> str:
    connection = Connection(scene, scene.link(probe.addresses[0], "probe"))
    try:
        connection.start()
        connection.start_ok()
        connection.tune_ok()
        connection.open()
        connection.must("connection.open-ok")
        _works(connection.channel())
    except Inconclusive as exc:
        return f"a fresh connection does not work: {exc}"
    finally:
        connection.drop()
    return ""


def _works(channel: Channel) -> None:
    """Publishes to the sentry's queue and gets. Raises Inconclusive."""
    queue = channel.connection.scene.sentry
    channel.publish("", queue, b"are you there")
    if not channel.connection.awaited(lambda: channel.get(queue) is not None):
        raise Inconclusive("what was published does not arrive")


def _entities(scene: AmqpScene) -> str:
    found = scene.admin.entities(scene.vhost)
    there = {("queue", q) for q in found.queues} | {("exchange", x) for x in found.exchanges}
    known = {*scene.made, ("queue", scene.sentry)}
    if extra := sorted(there - known):
        return "made by what was refused: " + ", ".join(f"{kind} {name!r}" for kind, name in extra)
    if gone := sorted({entity for entity, stays in scene.made.items() if stays} - there):
        return "gone: " + ", ".join(f"{kind} {name!r}" for kind, name in gone)
    return ""
