"""A5: queues. Variants are queue types, by the argument x-queue-type."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel, Event
from brokerproof.conformance.case import NOT_ASKED, Line, Seen, Table, among, case, chan, must
from brokerproof.versions import applies

_REFUSED_SOMEHOW = (Line("CODE", endings=("closed",)), Line("CODE", endings=("eof", "reset")))


def _type(scene: AmqpScene, **more: Any) -> dict[str, Any]:
    """The arguments of a queue of the variant's type. more: with ``_`` for ``-``, without ``x-``."""
    return {
        "x-queue-type": scene.variant.partition("-")[0] or "classic",
        **{f"x-{k.replace('_', '-')}": v for k, v in more.items()},
    }


def _bodies(events: list[Event]) -> list[bytes]:
    return [e.body for e in events]


def _numbered(first: int, behind: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, behind)]


def _deaths(event: Event) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = event.properties.get("headers", {}).get("x-death", [])
    return found


@case(
    "A5.01", "amqp091/queue-generated-name",
    requirement="Queues declared with an empty name get different names; the empty name then means the one declared last on the channel.",
    reference="queue / declare / queue / default-name", level="MUST",
    accepts={"names": must("three different names"), "bind": must(), "get": must(), "purge": must(), "consume": must()},
)  # fmt: skip
def test_queue_generated_name(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    names = [channel.queue("") for _ in range(3)]
    scene.require("names", len({*names, ""}) == 4, f"names: {names}")
    bound = channel.attempt("queue.bind", queue="", exchange="amq.fanout", routing_key="k")
    channel.publish("amq.fanout", "k", b"1")
    counts = {name: channel.call("queue.declare", queue=name, passive=True) for name in names[:2]}
    none = all(event["message_count"] == 0 for event in counts.values())
    last = channel.call("queue.declare", queue=names[2], passive=True)
    scene.expect("bind", bound, "queue.bind-ok", none and last["message_count"] == 1, "another queue was bound")
    channel.method("basic.get", queue="", no_ack=True)
    got = channel.take("basic.get-ok", "basic.get-empty")
    scene.require("get", got is not None and got.body == b"1", f"got {got and got.name}")
    channel.publish("", names[2], b"2")
    purged = channel.attempt("queue.purge", queue="")
    scene.expect("purge", purged, "queue.purge-ok", not channel.drain(names[2]), "another queue was purged")
    consumed = channel.attempt("basic.consume", queue="", consumer_tag="c", no_ack=True)
    channel.publish("", names[2], b"3")
    scene.expect(
        "consume", consumed, "basic.consume-ok", _bodies(channel.deliveries(1)) == [b"3"], "nothing came from it"
    )


_NO_CURRENT = Table(
    "connection closed with 502, or channel closed with 404",
    (
        Line("PASS", endings=("closed",), scopes=("connection",), codes=(502,)),
        Line("PASS", endings=("closed",), scopes=("channel",), codes=(404,)), *_REFUSED_SOMEHOW,
    ),
)  # fmt: skip


@case(
    "A5.02", "amqp091/queue-no-current",
    requirement="Where no queue was declared on the channel an empty queue name is refused, with 502 for the connection or 404 for the channel.",
    reference="domain queue-name; queue / bind / queue / queue-known", level="MUST", negative=True,
    accepts=dict.fromkeys(("bind", "purge", "delete", "consume", "get"), _NO_CURRENT), records=("refusals",),
)  # fmt: skip
def test_queue_no_current(scene: AmqpScene) -> None:
    seen = {
        "bind": scene.attempt("queue.bind", queue="", exchange="amq.direct", routing_key="k"),
        "purge": scene.attempt("queue.purge", queue=""), "delete": scene.attempt("queue.delete", queue=""),
        "consume": scene.attempt("basic.consume", queue=""), "get": scene.attempt("basic.get", queue=""),
    }  # fmt: skip
    for step, one in seen.items():
        scene.saw(step, one)
    scene.record("refusals", {step: f"{one.scope} {one.code}" for step, one in seen.items()})


@case(
    "A5.03", "amqp091/queue-redeclare-not-equivalent",
    requirement="Redeclaring a queue with another durable, auto-delete or argument closes the channel with 406; the same again is declare-ok, and the queue keeps its properties.",
    reference="queue / declare / passive / equivalent", level="MUST", negative=True,
    accepts={"durable": chan(406), "auto-delete": chan(406), "arguments": chan(406), "same": must("declare-ok")},
)  # fmt: skip
def test_queue_redeclare_not_equivalent(scene: AmqpScene) -> None:
    same: dict[str, Any] = {"queue": scene.connect().channel().queue(), "durable": True}
    for step, other in (
        ("durable", {"durable": False}),
        ("auto-delete", {"auto_delete": True}),
        ("arguments", {"arguments": {"x-max-length": 9}}),
    ):
        scene.saw(step, scene.attempt("queue.declare", **{**same, **other}))
    scene.expect("same", scene.attempt("queue.declare", **same), "queue.declare-ok")


@case(
    "A5.04", "amqp091/queue-exclusive-locked",
    requirement="Whatever another connection tries on an exclusive queue closes its channel with 405, also where another error would apply too.",
    reference="queue / declare / exclusive / exclusive", level="MUST", negative=True, records=("unbind of no binding",),
    accepts=dict.fromkeys(
        ("declare", "declare otherwise", "passive declare", "bind", "unbind", "purge", "delete", "consume", "get"), chan(405)
    ),
)  # fmt: skip
def test_queue_exclusive_locked(scene: AmqpScene) -> None:
    owner = scene.connect().channel()
    mine = owner.queue(exclusive=True)
    owner.bind(mine, "amq.direct", "k")
    binding: dict[str, Any] = {"queue": mine, "exchange": "amq.direct", "routing_key": "k"}
    attempts: Mapping[str, tuple[str, dict[str, Any]]] = {
        "declare": ("queue.declare", {"queue": mine, "durable": True, "exclusive": True}),
        "declare otherwise": ("queue.declare", {"queue": mine, "durable": True, "arguments": {"x-max-length": 9}}),
        "passive declare": ("queue.declare", {"queue": mine, "passive": True}),
        "bind": ("queue.bind", binding), "unbind": ("queue.unbind", binding), "purge": ("queue.purge", {"queue": mine}),
        "delete": ("queue.delete", {"queue": mine}), "consume": ("basic.consume", {"queue": mine}),
        "get": ("basic.get", {"queue": mine}),
    }  # fmt: skip
    for step, (method, arguments) in attempts.items():
        scene.saw(step, scene.attempt(method, **arguments))
    # Two rules apply, and no text says which goes first: the queue is locked (405), and there is no such binding (404, A4.17).
    seen = scene.attempt("queue.unbind", queue=mine, exchange="amq.direct", routing_key="nobody's")
    scene.record("unbind of no binding", str(seen))


@case(
    "A5.05", "amqp091/queue-exclusive-gone",
    requirement="When its owner has closed its connection with a handshake, an exclusive queue is gone as soon as Close-Ok has come.",
    reference="queue / declare / exclusive", level="MUST",
    accepts={"": among("gone at the first look, 50 times", gone_at_once="PASS", gone_within_5_s="NONSTRICT")},
)  # fmt: skip
def test_queue_exclusive_gone(scene: AmqpScene) -> None:
    looker = scene.connect()
    late = 0
    for _ in range(50):
        owner = scene.connect()
        mine = owner.channel().queue(exclusive=True)
        owner.close()
        until = scene.window(5)
        tries = 0
        while (seen := looker.channel().attempt("queue.declare", queue=mine, passive=True)).code != 404:
            tries += 1
            if time.monotonic() > until or looker.ended():
                scene.saw("", Seen("still there", detail=f"after 5 s: {seen}"))
                return
        late += tries > 0
    scene.saw("", Seen("gone within 5 s" if late else "gone at once", detail=f"late in {late} of 50 rounds"))


@case(
    "A5.06", "amqp091/queue-durable-exclusive",
    requirement="Recorded: what becomes of a queue that is declared durable and exclusive.",
    reference="queue.declare durable + exclusive", level="unspecified", tags=["destructive"], limit_s=180.0,
    records=("reply", "durable as administration shows it", "outlives its connection", "outlives a restart"),
)  # fmt: skip
def test_queue_durable_exclusive(scene: AmqpScene) -> None:
    owner = scene.connect()
    channel = owner.channel()
    scene.record("reply", str(channel.attempt("queue.declare", queue="both", durable=True, exclusive=True)))
    shown = scene.admin.queue(scene.vhost, "both")
    scene.record("durable as administration shows it", None if shown is None else shown["durable"])
    owner.close()
    scene.record("outlives its connection", scene.has("queue", "both"))
    scene.connect().channel().attempt("queue.declare", queue="again", durable=True, exclusive=True)
    scene.admin.restart("stop")
    scene.record("outlives a restart", scene.has("queue", "again"))


@case(
    "A5.07", "amqp091/queue-transient-shared",
    requirement="A queue that is neither durable nor exclusive nor auto-delete can be declared, published to and read.",
    reference="queue / declare / durable / types", level="MUST", accepts={"": must("declare-ok, and a message goes through")},
    records=("reply",),
)  # fmt: skip
def test_queue_transient_shared(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    transient = scene.fresh("transient")
    seen = channel.attempt("queue.declare", queue=transient, durable=False)
    scene.record("reply", str(seen))
    # Whatever the refusal, even one in the words for "not supported": the rule asks for both types of queue.
    refused = seen.behaviour != "queue.declare-ok"
    if refused:
        scene.require("", False, f"refused: {seen}")
        return
    channel.publish("", transient, b"x")
    scene.require("", _bodies(channel.collect([transient])[transient]) == [b"x"], "the message did not go through")


@case(
    "A5.08", "amqp091/queue-auto-delete",
    requirement="An auto-delete queue goes with its last consumer, cancelled or with its channel; it stays if it never had one, and a get is none.",
    reference="queue.declare auto-delete", level="MUST", revision=2,
    accepts={"one of two is left": must("stays"), "last one cancelled": must("goes"), "last one's channel closed": must("goes"),
             "never had one": must("stays"), "get": must("stays")},
)  # fmt: skip
def test_queue_auto_delete(scene: AmqpScene) -> None:
    channel, second = scene.connect().channel(), scene.connect().channel()
    cancelled, closed, got = (channel.queue(auto_delete=True) for _ in range(3))
    for queue in (cancelled, closed):
        channel.consume(queue, tag=f"1-{queue}")
        second.consume(queue, tag=f"2-{queue}")
    channel.call("basic.cancel", consumer_tag=f"1-{cancelled}")
    channel.call("basic.cancel", consumer_tag=f"1-{closed}")
    scene.require("one of two is left", not _gone(scene, cancelled, seconds=1) and scene.has("queue", closed), "gone")
    second.call("basic.cancel", consumer_tag=f"2-{cancelled}")
    scene.require("last one cancelled", _gone(scene, cancelled), "still there")
    second.close()
    scene.require("last one's channel closed", _gone(scene, closed), "still there")
    # Whoever takes a get, or the declaring, for a consumer deletes when that channel closes, with the message on it.
    getter = scene.connect().channel()
    never = getter.queue(auto_delete=True)
    getter.publish("", got, b"x")
    came = getter.get(got, no_ack=False) is not None
    getter.close()
    scene.require("never had one", not _gone(scene, never, seconds=1), "gone")
    scene.require("get", came and scene.has("queue", got), "gone" if came else "the message did not come")


def _gone(scene: AmqpScene, queue: str, seconds: float = 5) -> bool:
    """Whether the queue is gone within so long."""
    until = scene.window(seconds)
    while scene.has("queue", queue):
        if time.monotonic() > until:
            return False
    return True


@case(
    "A5.09", "amqp091/queue-delete-guards",
    requirement="Deleting a queue that has a consumer with if-unused, or one with messages with if-empty, closes the channel with 406; queue and messages are still there.",
    reference="queue / delete / if-unused / in-use, if-empty / not-empty", level="MUST", negative=True,
    variants=("classic", "quorum"),
    accepts={"if-unused": chan(406), "if-empty": chan(406), "still there": must("queue and messages are there")},
)  # fmt: skip
def test_queue_delete_guards(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    used, full = (channel.queue(arguments=_type(scene)) for _ in range(2))
    channel.consume(used)
    scene.put(full, b"x")
    scene.saw("if-unused", scene.attempt("queue.delete", queue=used, if_unused=True))
    scene.saw("if-empty", scene.attempt("queue.delete", queue=full, if_empty=True))
    gone = [q for q in (used, full) if not scene.has("queue", q)]
    left = [] if full in gone else _bodies(channel.drain(full))
    scene.require("still there", not gone and left == [b"x"], f"gone: {gone}; messages: {left}")


@case(
    "A5.10", "amqp091/queue-delete-purge-missing",
    requirement="Deleting and purging a queue that does not exist each close the channel with 404.",
    reference="queue / delete, purge / queue / must-exist", level="MUST", negative=True,
    accepts={"delete": chan(404), "purge": chan(404)},
)  # fmt: skip
def test_queue_delete_purge_missing(scene: AmqpScene) -> None:
    scene.saw("delete", scene.attempt("queue.delete", queue=scene.fresh("nobody")))
    scene.saw("purge", scene.attempt("queue.purge", queue=scene.fresh("nobody")))


@case(
    "A5.11", "amqp091/purge-keeps-unacked",
    requirement="A purge takes the messages that are ready, says how many, and leaves those that await an acknowledgement: requeued, these come back and nothing else.",
    reference="queue / purge / 02", level="MUST", variants={"classic": "", "quorum": "", "stream": "rabbitmq>=3.9"},
    accepts={"": must("purge-ok(7), and the 3 come back")},
)  # fmt: skip
def test_purge_keeps_unacked(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue(arguments=_type(scene))
    scene.put(queue, *_numbered(0, 10))
    channel.call("basic.qos", prefetch_count=3)
    channel.consume(queue, arguments={"x-stream-offset": "first"} if scene.variant == "stream" else {})
    held = channel.deliveries(3)
    if len(held) < 3:
        scene.inconclusive(f"{len(held)} of 3 deliveries came")
    seen = scene.attempt("queue.purge", queue=queue)
    if seen.behaviour != "queue.purge-ok":
        scene.saw("", seen)
        return
    channel.nack(held[-1].tag, multiple=True, requeue=True)
    back = channel.deliveries(4, seconds=2)
    counted = "message_count=7" in seen.detail
    scene.require("", counted and _bodies(back) == _bodies(held), f"{seen.detail}; then {_bodies(back)} came")


@case(
    "A5.12", "amqp091/survives-restart",
    requirement="A durable exchange, queue and binding survive a restart of the node, and so does each of 1,000 persistent confirmed messages, once. (The page cache survives too: this does not decide whether they were synced to disk.)",
    reference="queue / declare / durable / persistence; queue / bind / durable-exchange; basic / 01", level="MUST",
    tags=["destructive"], variants=("stop", "kill"), limit_s=180.0,
    accepts={"messages": must("each once"), "routing": must("the binding routes")},
)  # fmt: skip
def test_survives_restart(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    exchange, queue = channel.exchange("direct"), channel.queue()
    channel.bind(queue, exchange, "k")
    scene.put("k", *_numbered(0, 1000), exchange=exchange)
    scene.admin.restart("kill" if scene.variant == "kill" else "stop")
    again = scene.connect().channel()
    came = _bodies(again.drain(queue))
    lost, twice = sorted(set(_numbered(0, 1000)) - set(came)), len(came) - len(set(came))
    scene.require("messages", not lost and not twice, f"{len(lost)} lost, {twice} twice")
    again.publish(exchange, "k", b"after")
    scene.require("routing", _bodies(again.collect([queue])[queue]) == [b"after"], "the message did not arrive")


@case(
    "A5.13", "amqp091/message-ttl",
    requirement="A message lives as long as the shorter of its queue's time and its own; expiration abc closes the channel with 406; with no time at all it goes to a waiting consumer or is gone at once.",
    reference="vendor extension x-message-ttl, expiration", level="extension", timing=True,
    variants={"classic": "", "quorum": "rabbitmq>=3.10"},
    accepts={"queue 3 s, message 1 s": must("gone between 1 and 2 s"), "queue 1 s, message 3 s": must("gone between 1 and 2 s"),
             "abc": chan(406), "0, consumer waits": must("delivered"), "0, nobody waits": must("gone at once")},
)  # fmt: skip
def test_message_ttl(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    dead = channel.queue()
    channel.consume(dead, tag="dead", no_ack=True)
    for queue_s, message_s in ((3, 1), (1, 3)):
        queue = channel.queue(arguments=_dying(scene, dead, message_ttl=queue_s * 1000))
        began = time.monotonic()
        channel.publish("", queue, b"x", {"expiration": str(message_s * 1000)})
        came = channel.deliveries(1, seconds=5)
        took = scene.measured(came[0].at - began) if came else 0.0
        good = 1 <= took <= 2
        scene.require(
            f"queue {queue_s} s, message {message_s} s", good, f"after {took:.2f} s" if came else "not within 5 s"
        )
    other = scene.connect().channel()
    other.publish("", dead, b"x", {"expiration": "abc"})
    scene.saw("abc", other.reaction())
    none = channel.queue(arguments=_dying(scene, dead))
    channel.publish("", none, b"nobody", {"expiration": "0"})
    gone = _bodies(channel.deliveries(1, seconds=2))
    scene.require("0, nobody waits", gone == [b"nobody"] and channel.get(none) is None, "still there")
    waiting = scene.connect().channel()
    waiting.consume(none, no_ack=True)
    channel.publish("", none, b"waited for", {"expiration": "0"})
    scene.require("0, consumer waits", _bodies(waiting.deliveries(1, seconds=2)) == [b"waited for"], "not delivered")


def _dying(scene: AmqpScene, dead: str, **more: Any) -> dict[str, Any]:
    """Arguments of a queue of the variant's type whose dead messages go to the queue ``dead``."""
    return _type(scene, dead_letter_exchange="", dead_letter_routing_key=dead, **more)


@case(
    "A5.14", "amqp091/queue-expiry",
    requirement="x-expires 0 and -1 are refused with 406; an unused queue is gone within 5 s of its second, with its messages and without dead letters; a consumer keeps it.",
    reference="vendor extension x-expires", level="extension", timing=True, negative=True,
    accepts={"0": chan(406), "-1": chan(406), "unused": must("gone within 5 s"), "dead letters": must("none"), "with a consumer": must("stays")},
)  # fmt: skip
def test_queue_expiry(scene: AmqpScene) -> None:
    for value in (0, -1):
        seen = scene.attempt(
            "queue.declare", queue=scene.fresh("refused"), durable=True, arguments={"x-expires": value}
        )
        scene.saw(str(value), seen)
    channel = scene.connect().channel()
    dead = channel.queue()
    used, unused = (channel.queue(arguments=_dying(scene, dead, expires=1000)) for _ in range(2))
    channel.consume(used)
    channel.publish("", unused, b"x")
    channel.connection.quiet(6)
    there = scene.admin.entities(scene.vhost).queues  # a declare would be a use
    scene.require("unused", unused not in there, "still there")
    scene.require("dead letters", channel.get(dead) is None, "its message was dead-lettered")
    scene.require("with a consumer", used in there, "gone")


@case(
    "A5.15", "amqp091/max-length",
    requirement="A queue at its length drops from its head: of the ready messages the last 5 stay, in order, and those that await an acknowledgement do not count and can be settled.",
    reference="vendor extension x-max-length", level="extension", variants=("classic", "quorum"),
    accepts={"ready": must("the last 5, in order"), "unacknowledged": must("settled")},
)  # fmt: skip
def test_max_length(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue(arguments=_type(scene, max_length=5))
    channel.call("basic.qos", prefetch_count=3)
    channel.consume(queue)
    scene.put(queue, *_numbered(0, 3))
    held = channel.deliveries(3)
    scene.put(queue, *_numbered(3, 13))
    other = scene.connect().channel()
    ready = _bodies(other.drain(queue))
    scene.require("ready", ready == _numbered(8, 13), f"ready: {ready}")
    channel.ack(held[-1].tag if held else 1, multiple=True)
    answered = channel.attempt("basic.qos", prefetch_count=3)
    left = _bodies(other.drain(queue))
    scene.expect(
        "unacknowledged", answered, "basic.qos-ok", len(held) == 3 and not left, f"{len(held)} held, {left} came again"
    )


@case(
    "A5.16", "amqp091/overflow-reject",
    requirement="A full reject-publish queue makes every publish nacked and does not grow, while an open queue of the same exchange gets them all; with reject-publish-dlx (classic) they are dead-lettered too.",
    reference="vendor extension x-overflow", level="extension", revision=2, variants={"classic": "", "quorum": "rabbitmq>=3.8.10"},
    accepts={"nacked": must("every publish once it was full for 1 s"), "open queue": must("gets all"),
             "full queue": must("does not grow"),
             "dead letters": must("each that was refused, once (classic)").or_else(NOT_ASKED)},
    records=("lengths",),
)  # fmt: skip
def test_overflow_reject(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    dead, open_ = channel.queue(), channel.queue()
    full = channel.queue(arguments=_type(scene, max_length=5, overflow="reject-publish"))
    exchange = channel.exchange("fanout")
    for queue in (full, open_):
        channel.bind(queue, exchange)
    channel.call("confirm.select")
    filling = [_confirmed(channel, exchange, "", b"%d" % n) for n in range(10)]
    channel.connection.quiet(1)
    later = [_confirmed(channel, exchange, "", b"%d" % n) for n in range(10, 30)]
    scene.require("nacked", set(later) == {"basic.nack"}, f"{later.count('basic.ack')} of {len(later)} were acked")
    accepted = [b"%d" % n for n, reply in enumerate(filling) if reply == "basic.ack"]
    in_open, in_full = _bodies(channel.drain(open_)), _bodies(channel.drain(full))
    scene.record(
        "lengths", {"acked while it filled": len(accepted), "full queue": len(in_full), "open queue": len(in_open)}
    )
    scene.require("open queue", in_open == _numbered(0, 30), f"it has {len(in_open)} of 30")
    # How far it fills before it refuses is the broker's; once it was full nothing more gets in.
    grown = [body for body in in_full if body not in accepted]
    scene.require(
        "full queue", not grown and in_full[:5] == _numbered(0, 5), f"it has {len(in_full)}, of those refused {grown}"
    )
    if scene.variant == "classic":
        both = channel.queue(arguments=_dying(scene, dead, max_length=2, overflow="reject-publish-dlx"))
        replies = [_confirmed(channel, "", both, b"%d" % n) for n in range(6)]
        refused = [b"%d" % n for n, reply in enumerate(replies) if reply == "basic.nack"]
        there = _bodies(channel.drain(dead))
        scene.require("dead letters", bool(refused) and there == refused, f"refused {refused}, dead-lettered {there}")
    else:
        scene.saw("dead letters", Seen("not asked", detail="reject-publish-dlx is for classic queues"))


def _confirmed(channel: Channel, exchange: str, key: str, body: bytes) -> str:
    """Publishes one, and awaits its confirm: the name of it; empty: none."""
    channel.publish(exchange, key, body)
    found = channel.take("basic.ack", "basic.nack")
    return "" if found is None else found.name


def _rejected(scene: AmqpScene, channel: Channel, dead: str) -> str:
    queue = channel.queue(arguments=_dying(scene, dead))
    channel.publish("", queue, b"x")
    event = channel.get(queue, no_ack=False)
    if event is not None:
        channel.reject(event.tag, requeue=False)
    return queue


def _expired(scene: AmqpScene, channel: Channel, dead: str) -> str:
    queue = channel.queue(arguments=_dying(scene, dead, message_ttl=50))
    channel.publish("", queue, b"x")
    return queue


def _too_many(scene: AmqpScene, channel: Channel, dead: str) -> str:
    queue = channel.queue(arguments=_dying(scene, dead, max_length=1))
    channel.publish("", queue, b"x")
    channel.publish("", queue, b"y")
    return queue


def _returned_too_often(scene: AmqpScene, channel: Channel, dead: str) -> str:
    arguments = {**_dying(scene, dead, delivery_limit=1), "x-queue-type": "quorum"}
    queue = channel.queue(arguments=arguments)
    scene.put(queue, b"x")
    for _ in range(2):
        # A quorum queue has it again when its members agree on that, not as soon as it is told.
        event = _awaited(channel, queue)
        if event is not None:
            channel.nack(event.tag, requeue=True)
    return queue


_WAYS_TO_DIE: Mapping[str, Callable[[AmqpScene, Channel, str], str]] = {
    "rejected": _rejected, "expired": _expired, "maxlen": _too_many, "delivery_limit": _returned_too_often,
}  # fmt: skip


@case(
    "A5.17", "amqp091/dead-letter-reasons",
    requirement="A message that is rejected, expires, is dropped for length or returned too often is dead-lettered once, with the right queue, reason, count, time, exchange and routing-keys in x-death; a second round raises the count.",
    reference="vendor extension x-dead-letter-exchange", level="extension",
    accepts={**dict.fromkeys(_WAYS_TO_DIE, must("one copy with the right x-death")), "second round": must("its count is 2")},
    records=("x-first-death, x-last-death", "x-death from a publisher"),
)  # fmt: skip
def test_dead_letter_reasons(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    for reason, die in _WAYS_TO_DIE.items():
        dead = channel.queue()
        queue = die(scene, channel, dead)
        came = _dead_ones(channel, dead)
        wrong = f"{len(came)} copies" if len(came) != 1 else _wrong_death(came[0], queue, reason)
        scene.require(reason, not wrong, wrong)
        if reason == "rejected" and came:
            headers = came[0].properties.get("headers", {})
            scene.record(
                "x-first-death, x-last-death", {k: v for k, v in headers.items() if k.startswith(("x-first", "x-last"))}
            )
    _second_round(scene)
    queue = channel.queue(arguments=_dying(scene, dead := channel.queue()))
    forged = [{"queue": queue, "reason": "rejected", "count": 41, "exchange": "forged", "routing-keys": ["forged"]}]
    channel.publish("", queue, b"x", {"headers": {"x-death": forged}})
    event = channel.get(queue, no_ack=False)
    if event is not None:
        channel.reject(event.tag, requeue=False)
    found = _dead_ones(channel, dead)
    scene.record(
        "x-death from a publisher",
        [[d.get("count"), d.get("reason"), d.get("exchange")] for e in found for d in _deaths(e)],
    )


def _second_round(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    first, second = "first", "second"
    for mine, other in ((first, second), (second, first)):
        channel.queue(mine, arguments=_dying(scene, other))
    channel.publish("", first, b"x")
    for queue in (first, second, first):
        event = _awaited(channel, queue)
        if event is not None:
            channel.reject(event.tag, requeue=False)
    last = _awaited(channel, second)
    counts = [(d.get("queue"), d.get("count")) for d in _deaths(last)] if last else []
    scene.require("second round", counts[:1] == [(first, 2)], f"x-death counts {counts}")


def _awaited(channel: Channel, queue: str) -> Event | None:
    """What a get finds in the queue, as soon as there is something."""
    found: list[Event] = []

    def look() -> bool:
        event = channel.get(queue, no_ack=False)
        found.extend([event] if event else [])
        return bool(found)

    return found[0] if channel.until(look) else None


def _dead_ones(channel: Channel, dead: str) -> list[Event]:
    """What has come to a queue of dead messages, half a second after the first."""
    channel.until(lambda: channel.call("queue.declare", queue=dead, passive=True)["message_count"] > 0)
    channel.connection.quiet(0.5)
    return channel.drain(dead)


def _wrong_death(event: Event, queue: str, reason: str) -> str:
    """What is wrong in the x-death of a message that died once; empty: nothing."""
    deaths = _deaths(event)
    if len(deaths) != 1:
        return f"x-death has {len(deaths)} entries"
    death = deaths[0]
    due = {"queue": queue, "reason": reason, "count": 1, "exchange": "", "routing-keys": [queue]}
    wrong = {k: death.get(k) for k, v in due.items() if death.get(k) != v}
    at = death.get("time")
    if not isinstance(at, int) or abs(at - time.time()) > 600:
        wrong["time"] = at
    return f"x-death has {wrong}" if wrong else ""


@case(
    "A5.18", "amqp091/dead-letter-cycle",
    requirement="A message that expires back into its own queue without being rejected is dropped and does not circle; where the dead-letter exchange does not exist it is dropped, and the channel stays open.",
    reference="vendor extension x-dead-letter-exchange", level="extension",
    accepts={"cycle": must("dropped"), "no such exchange": must("dropped, channel open")},
)  # fmt: skip
def test_dead_letter_cycle(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    name = scene.fresh("circle")
    circle = channel.queue(name, arguments=_dying(scene, name, message_ttl=100))
    channel.publish("", circle, b"x")
    channel.connection.quiet(2)
    held = channel.get(circle)
    scene.require("cycle", held is None, "it is still there after 2 s of a life of 0.1 s")
    queue = channel.queue(arguments=_type(scene, dead_letter_exchange=scene.fresh("nobody")))
    channel.publish("", queue, b"x")
    event = channel.get(queue, no_ack=False)
    if event is None:
        scene.inconclusive("the message did not arrive")
    channel.reject(event.tag, requeue=False)
    answered = channel.attempt("queue.declare", queue=queue, passive=True)
    scene.expect("no such exchange", answered, "queue.declare-ok", channel.get(queue) is None, "it is still there")


#: What found no place is tried again after three minutes by default; the vendor documents no setting, so the application's own.
#: Source: rabbit.app, dead_letter_worker_publisher_confirm_timeout, 180000 ms.
_RETRIES_SOON = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n"


@case(
    "A5.19", "amqp091/dead-letter-at-least-once",
    requirement="With the strategy at-least-once no message that dies in a quorum queue is lost while its target cannot take it: neither without a binding nor while the target queue's node is stopped.",
    reference="vendor extension dead-letter-strategy", level="extension", tags=["destructive", "cluster", "config"], topology="cluster",
    settings={"advanced.config": _RETRIES_SOON}, needs="rabbitmq>=3.10", limit_s=240.0,
    accepts={"no binding": must("all 500 arrive once there is one"), "target's node stopped": must("all 500 arrive once it is back")},
    records=("duplicates",),
)  # fmt: skip
def test_dead_letter_at_least_once(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "dlx", "x-dead-letter-strategy": "at-least-once",
                 "x-overflow": "reject-publish", "x-message-ttl": 100}  # fmt: skip
    channel.exchange("direct", "dlx")
    source = channel.queue(arguments={**arguments, "x-dead-letter-routing-key": "unbound"})
    scene.put(source, *_numbered(0, 500))
    channel.connection.quiet(5)
    target = channel.queue()
    channel.bind(target, "dlx", "unbound")
    came = _arrived(channel, target, 500)
    scene.require("no binding", len(set(came)) == 500, f"{500 - len(set(came))} of 500 lost")
    duplicates = len(came) - len(set(came))

    last = len(scene.admin.nodes()) - 1
    # Classic queues know the argument by its newer name since 4.0.
    which = "leader" if applies("rabbitmq>=4.0", scene.product, scene.version) else "master"
    there = scene.connect(node=last).channel().queue(arguments={f"x-queue-{which}-locator": "client-local"})
    channel.bind(there, "dlx", "stopped")
    source = channel.queue(arguments={**arguments, "x-dead-letter-routing-key": "stopped"})
    scene.admin.down("stop", last)
    scene.put(source, *_numbered(0, 500))
    channel.connection.quiet(5)
    scene.admin.up(last)
    again = scene.connect().channel()
    came = _arrived(again, there, 500)
    scene.require("target's node stopped", len(set(came)) == 500, f"{500 - len(set(came))} of 500 lost")
    scene.record("duplicates", duplicates + len(came) - len(set(came)))


def _arrived(channel: Channel, queue: str, n: int, seconds: float = 60) -> list[bytes]:
    """What comes to a queue until it has been so many different ones, or for so long."""
    found: list[bytes] = []

    def look() -> bool:
        found.extend(_bodies(channel.drain(queue)))
        return len(set(found)) >= n

    channel.until(look, seconds=seconds)
    return found


_PRIORITY = Table(
    "the message of priority 9 comes first",
    (Line("PASS", behaviour=("first",)), Line("NONSTRICT", behaviour=("ahead of most",))),
)


@case(
    "A5.20", "amqp091/priority-two-levels",
    requirement="Of ten messages of priority 0 and a later one of priority 9 the latter comes first: at least two levels are told apart.",
    reference="basic / 06", level="MUST", variants=("classic", "classic-max-priority", "quorum"), accepts={"": _PRIORITY},
)  # fmt: skip
def test_priority_two_levels(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue(
        arguments=_type(scene, **({"max_priority": 10} if scene.variant.endswith("max-priority") else {}))
    )
    scene.put(queue, *_numbered(0, 10), properties={"priority": 0})
    scene.put(queue, b"urgent", properties={"priority": 9})
    came = _bodies(channel.drain(queue))
    if sorted(came) != sorted([*_numbered(0, 10), b"urgent"]):
        scene.saw("", Seen("not each message once", detail=f"{came}"))
        return
    at = came.index(b"urgent")
    scene.saw(
        "",
        Seen(
            "first" if at == 0 else "ahead of most" if at < 5 else "in order of arrival",
            detail=f"at place {at + 1} of 11",
        ),
    )


@case(
    "A5.21", "amqp091/single-active-consumer",
    requirement="Of three consumers only the first gets messages; cancel, channel close and connection loss each hand over to one other, in order and without loss; a quorum queue refuses basic.get with 405.",
    reference="vendor extension x-single-active-consumer", level="extension", revision=2, variants=("classic", "quorum"),
    accepts={"first": must("only the first gets messages"), "cancel": must("one other takes over"),
             "channel close": must("one other takes over"), "connection loss": must("one other takes over"),
             "get": chan(405).or_else(NOT_ASKED)},
    records=("consumer priority",),
)  # fmt: skip
def test_single_active_consumer(scene: AmqpScene) -> None:
    queue = scene.connect().channel().queue(arguments=_type(scene, single_active_consumer=True))
    consumers = [scene.connect().channel() for _ in range(3)]
    for channel in consumers:
        channel.consume(queue, tag="c")
    a, b, c = consumers
    scene.put(queue, *_numbered(0, 5))
    settled = _given(consumers, _numbered(0, 5))
    scene.require(
        "first",
        settled == [a],
        f"{len(settled)} consumers got messages, not only the first" if settled else "not in order",
    )
    a.ack(0, multiple=True)
    a.call("basic.cancel", consumer_tag="c")
    scene.put(queue, *_numbered(5, 10))
    settled = _given(consumers, _numbered(5, 10))
    scene.require("cancel", len(settled) == 1 and settled != [a], f"{len(settled)} took over")
    second = settled[0] if settled else b
    a.consume(queue, tag="c")
    second.close()
    rest = [x for x in consumers if x is not second]
    settled = _given(rest, _numbered(5, 10))
    scene.require("channel close", len(settled) == 1, f"{len(settled)} took over, or not all came in order")
    third = settled[0] if settled else c
    third.connection.reset()
    settled = _given([x for x in rest if x is not third], _numbered(5, 10))
    scene.require("connection loss", len(settled) == 1, f"{len(settled)} took over, or not all came in order")
    quorum = scene.variant == "quorum"
    scene.saw("get", scene.attempt("basic.get", queue=queue) if quorum else Seen("not asked"))
    scene.record("consumer priority", _with_priority(scene))


def _given(consumers: list[Channel], wanted: list[bytes]) -> list[Channel]:
    """Who got something, if one of them got just these in order; else none or several."""
    until = consumers[0].scene.window(5)
    came: dict[Channel, list[bytes]] = {c: [] for c in consumers}
    while sum(map(len, came.values())) < len(wanted) and time.monotonic() < until:
        for channel in consumers:
            came[channel] += _bodies(channel.deliveries(len(wanted), seconds=0.2))
    for channel in consumers:
        came[channel] += _bodies(channel.deliveries(len(wanted), seconds=0.2))
    got = [c for c, bodies in came.items() if bodies]
    return [] if len(got) == 1 and came[got[0]] != wanted else got


def _with_priority(scene: AmqpScene) -> str:
    queue = scene.connect().channel().queue(arguments=_type(scene, single_active_consumer=True))
    low, high = scene.connect().channel(), scene.connect().channel()
    low.consume(queue, tag="low", arguments={"x-priority": 1})
    high.consume(queue, tag="high", arguments={"x-priority": 10})
    scene.put(queue, b"x")
    by_high = bool(high.deliveries(1, seconds=1))
    return "a later consumer of higher priority takes over" if by_high else "the first one stays active"


@case(
    "A5.22", "amqp091/quorum-refusals",
    requirement="Recorded: what a quorum queue says to being not durable, exclusive, without a name; and whether an exclusive consumer keeps a second out.",
    reference="vendor documents on quorum queues", level="extension",
    records=("not durable", "exclusive", "empty name", "second consumer beside an exclusive one"),
)  # fmt: skip
def test_quorum_refusals(scene: AmqpScene) -> None:
    quorum = {"x-queue-type": "quorum"}
    for name, queue, more in (
        ("not durable", "q1", {"durable": False}), ("exclusive", "q2", {"durable": True, "exclusive": True}),
        ("empty name", "", {"durable": True}),
    ):  # fmt: skip
        scene.record(name, _short(scene.attempt("queue.declare", queue=queue, arguments=quorum, **more)))
    channel = scene.connect().channel()
    queue = channel.queue(arguments=quorum)
    channel.consume(queue, exclusive=True)
    scene.record("second consumer beside an exclusive one", _short(scene.attempt("basic.consume", queue=queue)))


def _short(seen: Seen) -> str:
    """Without what is fresh in each run."""
    return seen.behaviour or f"{seen.scope} {seen.ending} {seen.code or ''}".strip()


def _nack(channel: Channel, event: Event) -> None:
    _alone(channel, event)
    channel.nack(event.tag, requeue=True)
    channel.call("basic.qos")


def _reject(channel: Channel, event: Event) -> None:
    _alone(channel, event)
    channel.reject(event.tag, requeue=True)
    channel.call("basic.qos")


def _lose(channel: Channel, event: Event) -> None:
    channel.connection.reset()


def _cancel(channel: Channel, event: Event) -> None:
    """What a cancelled consumer holds stays held: the channel is closed after it."""
    _alone(channel, event)
    channel.close()


def _alone(channel: Channel, event: Event) -> None:
    """Without the consumer, which would get the message again at once."""
    channel.call("basic.cancel", consumer_tag=str(event["consumer_tag"]))


@case(
    "A5.23", "amqp091/delivery-limit",
    requirement="Recorded: the delivery limit of a quorum queue declared without one, and which ways of returning a message count.",
    reference="vendor extension x-delivery-limit", level="extension", tags=["slow"], limit_s=240.0,
    records=("limit", "deliveries with a limit of 3", "counted after a consumer timeout"),
)  # fmt: skip
def test_delivery_limit(scene: AmqpScene) -> None:
    scene.record("limit", _deliveries_until_gone(scene, {}, _nack, 60) - 1)
    ways = {"reject": _reject, "nack": _nack, "connection loss": _lose, "cancel, then channel close": _cancel}
    scene.record("deliveries with a limit of 3", {
        name: _deliveries_until_gone(scene, {"x-delivery-limit": 3}, way, 8) for name, way in ways.items()
    })  # fmt: skip
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-consumer-timeout": 10_000}
    queue = scene.connect().channel().queue(arguments=arguments)
    scene.put(queue, b"x")
    channel = _holding(scene, queue)
    if channel is None:
        scene.inconclusive("the message did not come")
    channel.connection.awaited(lambda: channel.connection.ended(channel.number), 150)
    told = _short(channel.reaction(seconds=0))
    again = scene.connect().channel()
    again.consume(queue)
    found = again.deliveries(1, seconds=5)
    headers = found[0].properties.get("headers", {}) if found else {}
    counts = {k: v for k, v in headers.items() if k in ("x-delivery-count", "x-acquired-count")}
    scene.record("counted after a consumer timeout", {"told": told, "came again": bool(found), **counts})


def _holding(scene: AmqpScene, queue: str) -> Channel | None:
    """A channel of its own with a consumer that holds one message."""
    channel = scene.connect().channel()
    channel.consume(queue)
    return channel if channel.deliveries(1) else None


def _deliveries_until_gone(
    scene: AmqpScene, arguments: Mapping[str, Any], way: Callable[[Channel, Event], None], most: int
) -> int:
    """How often one message comes when each delivery is returned this way; most: no more are tried."""
    queue = scene.connect().channel().queue(arguments={"x-queue-type": "quorum", **arguments})
    scene.put(queue, b"x")
    for n in range(most):
        # A consumer of its own for each delivery: what was rejected need not come again to who rejected it.
        channel = scene.connect().channel()
        channel.consume(queue)
        event = channel.take("basic.deliver", seconds=2)
        if event is None:
            return n
        way(channel, event)
    return most


@case(
    "A5.24", "amqp091/stream-rules",
    requirement="Recorded: what a stream says to consuming without prefetch, without acknowledgements, to basic.get; and where each x-stream-offset begins.",
    reference="vendor documents on streams", level="extension", needs="rabbitmq>=3.9",
    records=("consume without prefetch", "consume with no-ack", "basic.get", "offsets"),
)  # fmt: skip
def test_stream_rules(scene: AmqpScene) -> None:
    queue = scene.connect().channel().queue(arguments={"x-queue-type": "stream"})
    scene.put(queue, *_numbered(0, 5))
    scene.record("consume without prefetch", _short(scene.attempt("basic.consume", queue=queue)))
    channel = scene.connect().channel()
    channel.call("basic.qos", prefetch_count=10)
    scene.record("consume with no-ack", _short(channel.attempt("basic.consume", queue=queue, no_ack=True)))
    scene.record("basic.get", _short(scene.attempt("basic.get", queue=queue)))
    scene.put(queue, *_numbered(5, 10))
    offsets: dict[str, Any] = {
        "first": "first", "last": "last", "next": "next", "number 3": 3, "timestamp, a day ago": scene.timestamp(time.time() - 86_400),
        "interval 1h": "1h",
    }  # fmt: skip
    scene.record("offsets", {name: _first_of(scene, queue, offset) for name, offset in offsets.items()})


def _first_of(scene: AmqpScene, queue: str, offset: Any) -> str:
    """The first message that a consumer with this offset gets, or how it is refused."""
    channel = scene.connect().channel()
    channel.call("basic.qos", prefetch_count=1)
    seen = channel.attempt("basic.consume", queue=queue, arguments={"x-stream-offset": offset})
    if seen.behaviour != "basic.consume-ok":
        return _short(seen)
    came = channel.deliveries(1, seconds=2)
    return f"message {came[0].body.decode()}" if came else "nothing"


@case(
    "A5.25", "amqp091/legacy-queue-arguments",
    requirement="Recorded: the reaction to x-queue-mode lazy and to x-queue-version 1 and 2.",
    reference="vendor arguments x-queue-mode, x-queue-version", level="extension",
    records=("x-queue-mode lazy", "x-queue-version 1", "x-queue-version 2"),
)  # fmt: skip
def test_legacy_queue_arguments(scene: AmqpScene) -> None:
    for name, arguments in (
        ("x-queue-mode lazy", {"x-queue-mode": "lazy"}), ("x-queue-version 1", {"x-queue-version": 1}),
        ("x-queue-version 2", {"x-queue-version": 2}),
    ):  # fmt: skip
        seen = scene.attempt("queue.declare", queue=scene.fresh(), durable=True, arguments=arguments)
        scene.record(name, _short(seen))


@case(
    "A5.26", "amqp091/dead-letter-key-alone",
    requirement="Declaring a queue with a dead-letter routing key and no dead-letter exchange closes the channel with 406.",
    reference="vendor extension x-dead-letter-routing-key", level="extension", negative=True, accepts={"": chan(406)},
)  # fmt: skip
def test_dead_letter_key_alone(scene: AmqpScene) -> None:
    arguments = {"x-dead-letter-routing-key": "k"}
    scene.saw("", scene.attempt("queue.declare", queue=scene.fresh("refused"), durable=True, arguments=arguments))
