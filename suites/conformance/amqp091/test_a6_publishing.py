"""Section A6: publishing, returns, confirms, transactions, and what becomes of properties."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel, Event
from brokerproof.conformance.case import Line, Seen, Table, case, chan, must
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import Field, Raw

SEED = 92
_NOT_FOUND = 404


@case(
    "A6.01", "amqp091/publish-missing-exchange",
    requirement="Publishing to an exchange that does not exist closes the channel with 404; sibling channels live.",
    reference="basic / publish / exchange / must-exist", level="MUST", negative=True, accepts={"": chan(404)},
)  # fmt: skip
def test_publish_missing_exchange(scene: AmqpScene) -> None:
    connection = scene.connect()
    connection.channel()
    channel = connection.channel()
    channel.publish("nowhere", "key", b"x")
    scene.saw("", channel.reaction())


@case(
    "A6.02", "amqp091/mandatory-return",
    requirement="An unroutable mandatory message on a confirm channel is returned whole with 312, before its confirm.",
    reference="basic / publish / mandatory / 01", level="SHOULD",
    accepts={
        "": Table(
            "returned whole with 312, then confirmed",
            (
                Line("PASS", behaviour=("returned whole, then confirmed",), codes=(312,)),
                Line("CODE", behaviour=("returned whole, then confirmed",)),
                Line("NONSTRICT", behaviour=("not returned",)),
            ),
        )
    },
)  # fmt: skip
def test_mandatory_return(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.call("confirm.select")
    properties = {
        "delivery_mode": 1,
        "content_type": "text/plain",
        "headers": {"a": Field("S", "b")},
        "message_id": "m",
    }
    channel.publish("amq.direct", "nobody", b"0123456789" * 1000, properties, mandatory=True)
    came: list[Event] = []
    while not any(e.name in ("basic.ack", "basic.nack") for e in came) or not any(
        e.name == "basic.return" for e in came
    ):
        event = channel.take("basic.return", "basic.ack", "basic.nack", seconds=5)
        if event is None:
            break
        came.append(event)
    returned = next((e for e in came if e.name == "basic.return"), None)
    code = int(returned["reply_code"]) if returned else None
    names = [e.name for e in came]
    whole = returned is not None and returned.header is not None and (
        (returned["exchange"], returned["routing_key"], returned.body, dict(returned.header.properties))
        == ("amq.direct", "nobody", b"0123456789" * 1000, properties)
    )  # fmt: skip
    if returned is None:
        behaviour = "not returned" if names else "neither returned nor confirmed"
    elif not whole:
        behaviour = "returned, and not as it was sent"
    elif names != ["basic.return", "basic.ack"]:
        behaviour = f"came: {', '.join(names)}"
    else:
        behaviour = "returned whole, then confirmed"
    scene.saw("", Seen(behaviour=behaviour, code=code, ending="open"))


@case(
    "A6.03", "amqp091/immediate", requirement="An immediate message for a queue without consumer is returned with 313.",
    reference="basic / publish / immediate / 01", level="SHOULD",
    accepts={
        "": Table(
            "returned with 313",
            (
                Line("PASS", behaviour=("basic.return",), codes=(313,)), Line("CODE", behaviour=("basic.return",)),
                Line("NONSTRICT", behaviour=("ignored",)),
            ),
        )
    },
)  # fmt: skip
def test_immediate(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.publish("", queue, b"x", immediate=True)
    returned = channel.take("basic.return", seconds=5)
    if returned is not None:
        scene.saw("", Seen(behaviour="basic.return", code=int(returned["reply_code"]), ending="open"))
        return
    seen = channel.reaction(seconds=0)
    scene.saw("", Seen(behaviour="ignored", ending="open") if seen.ending == "open" else seen)


PUBLISHES = 10_000


@case(
    "A6.04", "amqp091/confirms",
    requirement="Of 10,000 publishes on a confirm channel every one, counted from 1, is covered exactly once by an ack or a nack.",
    reference="vendor extension confirm.select", level="extension", revision=2, accepts={"": must("every number once")}, limit_s=240,
)  # fmt: skip
def test_confirms(scene: AmqpScene) -> None:
    connection = scene.connect()
    channel, rng = connection.channel(), random.Random(SEED)
    queues = [channel.queue(), channel.queue(durable=False, exclusive=True), channel.queue(), "nobody"]
    channel.call("confirm.select")
    for number in range(PUBLISHES):
        size = rng.choice((0, 1, 10, 100, 1000)) if number % 500 else 100_000
        channel.publish("", rng.choice(queues), bytes(size), {"delivery_mode": rng.choice((1, 2))})
        if number % 200 == 0:
            connection.pump(time.monotonic())
    covered: list[int] = []
    outstanding = set(range(1, PUBLISHES + 1))
    for event in channel.confirms(PUBLISHES, seconds=20):
        # A multiple one may pass over what was confirmed before, but its own number is new.
        numbers = {event.tag} | ({n for n in outstanding if n <= event.tag} if event["multiple"] else set())
        covered += numbers
        outstanding -= numbers
    connection.quiet(1)
    more = [e.tag for e in connection.events(channel.number) if e.name in ("basic.ack", "basic.nack")]
    wrong = [f"{len(outstanding)} never confirmed, the first {min(outstanding)}"] if outstanding else []
    strange = sorted({n for n in covered if not 1 <= n <= PUBLISHES})
    twice = len(covered) - len(set(covered)) + len(more)
    wrong += [f"{twice} confirmed twice"] * bool(twice) + [f"never sent: {strange[:5]}"] * bool(strange)
    scene.require("", not wrong, "; ".join(wrong))


@case(
    "A6.05", "amqp091/confirm-unroutable",
    requirement="An unroutable message that is not mandatory is acked on a confirm channel.",
    reference="vendor extension confirm.select", level="extension", accepts={"": Table("acked", (Line("PASS", behaviour=("basic.ack",)),))},
)  # fmt: skip
def test_confirm_unroutable(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.call("confirm.select")
    channel.publish("amq.direct", "nobody", b"x")
    scene.saw("", channel.reaction())


@case(
    "A6.06", "amqp091/confirm-and-tx", requirement="A channel cannot confirm and be transactional: asking for both closes it with 406.",
    reference="vendor extension confirm.select", level="extension", negative=True,
    accepts=dict.fromkeys(("confirm on tx", "tx on confirm"), chan(406)),
)  # fmt: skip
def test_confirm_and_tx(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.call("tx.select")
    scene.saw("confirm on tx", channel.attempt("confirm.select"))
    channel = scene.connect().channel()
    channel.call("confirm.select")
    scene.saw("tx on confirm", channel.attempt("tx.select"))


ROUNDS, BATCH = 10, 500


@case(
    "A6.07", "amqp091/tx-semantics",
    requirement="Publishes and acknowledgements of a transaction take effect at the commit, and never after a rollback; returns come before"
    " Commit-Ok; of a commit that the node dies in, all or nothing is there.",
    reference="class tx", level="MUST", revision=2, tags=("destructive", "slow"), limit_s=600, records=("rounds",),
    accepts={
        "publishes": must("invisible until Commit-Ok, gone after rollback"),
        "returns": must("before Commit-Ok"),
        "acknowledgements": must("undone by rollback, done by commit"),
        "killed in the commit": must("all or none of the 500 are there"),
    },
)  # fmt: skip
def test_tx_semantics(scene: AmqpScene) -> None:
    tx_publishes(scene)
    tx_returns(scene)
    tx_acknowledgements(scene)
    # Towards the moment at which the kill and the commit meet: where all came, the next commit is later, where nothing came, earlier.
    rounds: list[int | None] = []
    early, late = 0.0, 0.6
    while len(rounds) < ROUNDS:
        after_s = (early + late) / 2
        rounds.append(killed_in_commit(scene, after_s))
        if rounds[-1] is not None:
            early, late = (after_s, late) if rounds[-1] else (early, after_s)
    scene.record("rounds", ["the queue is gone" if n is None else n for n in rounds])
    found = [n for n in rounds if n is not None]
    if not found:
        scene.inconclusive("in no round the queue was there again")
    partial = [n for n in found if n not in (0, BATCH)]
    scene.require("killed in the commit", not partial, f"parts of a commit: {partial}")


def tx_publishes(scene: AmqpScene) -> None:
    connection = scene.connect()
    channel, other = connection.channel(), connection.channel()
    queue = other.queue()
    channel.call("tx.select")
    channel.publish("", queue, b"committed")
    channel.call("basic.qos")
    early = other.get(queue) is not None
    channel.call("tx.commit")
    committed = [e.body for e in other.drain(queue)]
    channel.publish("", queue, b"rolled back")
    channel.call("tx.rollback")
    channel.call("tx.commit")
    left = other.drain(queue)
    wrong = (
        "visible before the commit" if early else "" if committed == [b"committed"] else "not there after the commit"
    )
    scene.require("publishes", not wrong and not left, wrong or "there after the rollback")


def tx_returns(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.call("tx.select")
    channel.publish("amq.direct", "nobody", b"x", mandatory=True)
    channel.method("tx.commit")
    came: list[str] = []
    while (event := channel.take(seconds=None if not came else 1)) is not None:
        came.append(event.name)
    scene.require("returns", came == ["basic.return", "tx.commit-ok"], f"came: {', '.join(came)}")


def tx_acknowledgements(scene: AmqpScene) -> None:
    """Two messages got; one acknowledged and one rejected; first rolled back, then committed."""
    connection = scene.connect()
    channel, other = connection.channel(), connection.channel()
    queue = other.queue()
    for body in (b"1", b"2"):
        other.publish("", queue, body)
    other.call("basic.qos")
    channel.call("tx.select")
    got = [event for _ in range(2) if (event := channel.get(queue, no_ack=False))]
    if len(got) < 2:
        scene.inconclusive("the messages could not be got")

    def settle() -> None:
        channel.ack(got[0].tag)
        channel.reject(got[1].tag)

    settle()
    channel.call("tx.rollback")
    early = other.get(queue) is not None
    settle()
    if channel.attempt("basic.qos").ending != "open":
        scene.require("acknowledgements", False, "settled in spite of the rollback")
        return
    early = early or other.get(queue) is not None
    channel.call("tx.commit")
    back = [e.body for e in other.drain(queue)]
    channel.close()
    left = [e.body for e in other.drain(queue)]
    good = not early and back == [b"2"] and not left
    scene.require(
        "acknowledgements", good, f"{'before the commit; ' * early}after it {back}, after the channel's end {left}"
    )


def killed_in_commit(scene: AmqpScene, after_s: float) -> int | None:
    """How many of a transaction's messages are there after the node was killed in its commit, or near it. after_s: from asking for
    the kill to the commit.

    None: the queue itself is gone. One that was declared, and answered, a moment before the kill may not be there again (seen on
    3.10.8 and 4.0.5, which then recover one queue fewer than there were); of the commit that says nothing.
    """
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.call("tx.select")
    for _ in range(BATCH):
        channel.publish("", queue, bytes(100))
    channel.call("basic.qos")
    killing = threading.Thread(target=scene.admin.down, args=("kill",))
    killing.start()
    channel.connection.quiet(after_s)
    channel.method("tx.commit")
    channel.connection.awaited(lambda: bool(channel.connection.link.ended), 20)
    killing.join()
    channel.connection.drop()
    scene.admin.up()
    again = scene.connect()
    there = again.channel().attempt("queue.declare", queue=queue, passive=True).code != _NOT_FOUND
    found = len(again.channel().drain(queue)) if there else None
    again.close()
    return found


_SERVED_OR_504 = Table(
    "served after Commit-Ok, or connection closed with 504",
    (
        Line("PASS", behaviour=("served after Commit-Ok",)), Line("PASS", endings=("closed",), scopes=("connection",), codes=(504,)),
        Line("CODE", endings=("closed",)),
    ),
)  # fmt: skip


@case(
    "A6.08", "amqp091/tx-without-select",
    requirement="Commit and rollback without tx.select close the channel with 406. A method sent while Commit-Ok is awaited is served after"
    " it, or ends the connection with 504.",
    reference="tx / commit, rollback / transacted", level="MUST", negative=True,
    accepts={"commit": chan(406), "rollback": chan(406), "method while committing": _SERVED_OR_504},
)  # fmt: skip
def test_tx_without_select(scene: AmqpScene) -> None:
    scene.saw("commit", scene.connect().channel().attempt("tx.commit"))
    scene.saw("rollback", scene.connect().channel().attempt("tx.rollback"))
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.call("tx.select")
    for _ in range(200):
        channel.publish("", queue, bytes(100))
    commit, declare = (wire.method_frame(channel.number, "tx.commit"), wire.method_frame(channel.number, "queue.declare", queue=queue, passive=True))  # fmt: skip
    channel.connection.send(commit.encode() + declare.encode(), decoded="tx.commit, queue.declare")
    first = channel.take()
    second = channel.take() if first else None
    if first is None or second is None:
        scene.saw("method while committing", channel.reaction(seconds=0))
    else:
        order = (first.name, second.name) == ("tx.commit-ok", "queue.declare-ok")
        behaviour = "served after Commit-Ok" if order else f"came: {first.name}, {second.name}"
        scene.saw("method while committing", Seen(behaviour=behaviour, ending="open"))


@case(
    "A6.09", "amqp091/user-id",
    requirement="A user-id that is who is logged in is delivered; another one closes the channel with 406.",
    reference="vendor extension validated user-id", level="extension", negative=True,
    accepts={"own": must("delivered with it"), "another's": chan(406)},
)  # fmt: skip
def test_user_id(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.publish("", queue, b"x", {"user_id": scene.user})
    got = channel.get(queue) if channel.is_open else None
    shown = "not delivered" if got is None else f"delivered with {got.properties.get('user_id')!r}"
    scene.require("own", shown == f"delivered with {scene.user!r}", shown)
    channel.publish("", queue, b"x", {"user_id": "somebody-else"})
    scene.saw("another's", channel.reaction())


REPLY_TO = "amq.rabbitmq.reply-to"


@case(
    "A6.10", "amqp091/direct-reply-to",
    requirement="The pseudo-queue for replies is consumed without acknowledgements, once per channel, before a request names it; then a request"
    " and its reply cross two connections.",
    reference="vendor extension amq.rabbitmq.reply-to", level="extension", negative=True,
    accepts={
        "with acknowledgements": chan(406), "second consumer": chan(406), "request without consumer": chan(406),
        "request and reply": must("the reply arrives"),
    },
)  # fmt: skip
def test_direct_reply_to(scene: AmqpScene) -> None:
    connection = scene.connect()
    queue = connection.channel().queue()
    scene.saw("with acknowledgements", connection.channel().attempt("basic.consume", queue=REPLY_TO, no_ack=False))
    channel = connection.channel()
    channel.consume(REPLY_TO, no_ack=True)
    scene.saw("second consumer", channel.attempt("basic.consume", queue=REPLY_TO, no_ack=True))
    channel = connection.channel()
    channel.publish("", queue, b"request", {"reply_to": REPLY_TO})
    scene.saw("request without consumer", channel.reaction())
    asking, answering = scene.connect().channel(), scene.connect().channel()
    asking.consume(REPLY_TO, no_ack=True)
    asking.publish("", queue, b"request", {"reply_to": REPLY_TO})
    asking.call("basic.qos")
    request = answering.get(queue)
    if request is None or request.body != b"request":
        scene.require("request and reply", False, "the request did not arrive")
        return
    answering.publish("", str(request.properties.get("reply_to")), b"reply")
    replies = [e.body for e in asking.deliveries(1)]
    scene.require("request and reply", replies == [b"reply"], f"replies: {replies}")


LARGE = "x" * 65536
#: Every type of the grammar but s and l, and x: those are A2.17's. U is nobody's but the grammar's.
FIELDS: Mapping[str, Field] = {
    "t": Field("t", True), "b": Field("b", -128), "B": Field("B", 255), "U": Field("U", Raw(struct.pack(">h", -32768))),
    "u": Field("u", 65535), "I": Field("I", -(2**31)), "i": Field("i", 2**32 - 1), "L": Field("L", -(2**63)),
    "f": Field("f", 0.5), "d": Field("d", 1e300), "D": Field("D", Decimal("3.14159")), "S": Field("S", "schlüssel"),
    "A": Field("A", [Field("I", 1), Field("S", "two"), Field("A", [Field("t", False)]), Field("F", {"n": Field("V", None)})]),
    "T": Field("T", 1_700_000_000), "F": Field("F", {"n": Field("F", {"m": Field("A", [])}), "e": Field("S", "")}),
    "V": Field("V", None), "empty S": Field("S", ""), "empty A": Field("A", []), "empty F": Field("F", {}), "64 KiB": Field("S", LARGE),
}  # fmt: skip


def properties(scene: AmqpScene) -> Mapping[str, Any]:
    return {
        "content_type": "text/plain", "content_encoding": "utf-8", "headers": {"h": Field("S", "v")}, "delivery_mode": 2,
        "priority": 5, "correlation_id": "c" * 255, "reply_to": "r", "expiration": "600000", "message_id": "m",
        "timestamp": 1_700_000_000, "type": "t", "user_id": scene.user, "app_id": "", "cluster_id": "k",
    }  # fmt: skip


def came_back(channel: Channel, queue: str, sent: Mapping[str, Any], how: str) -> str:
    """What is different about the properties of a message that goes to the queue and back; empty: nothing."""
    if how == "deliver":
        tag = channel.consume(queue, no_ack=True)
    channel.publish("", queue, b"x", sent)
    if how == "deliver":
        event = channel.take("basic.deliver")
    else:
        channel.method("basic.get", queue=queue, no_ack=True)
        event = channel.take("basic.get-ok", "basic.get-empty")
    if event is None or event.header is None:
        return str(channel.reaction(seconds=0)) if event is None else "the message is not there"
    if how == "deliver":
        channel.call("basic.cancel", consumer_tag=tag)
    if wire.header_payload(1, sent)[12:] == event.header.raw:
        return ""
    changed = [n for n in sent if event.header.properties.get(n) != sent[n]]
    more = event.header.properties.keys() - sent.keys()
    # Other octets for the same types and values: a table has no order.
    return f"changed or dropped: {', '.join(changed)}; more: {', '.join(more)}" if changed or more else ""


@case(
    "A6.11", "amqp091/properties-round-trip",
    requirement="All 14 properties, and headers of every field type, nested, empty and of 64 KiB, come back with type and value.",
    reference="section 3.1.1", level="MUST", limit_s=120,
    accepts=dict.fromkeys(("properties", "header types"), must("as they were sent")),
)  # fmt: skip
def test_properties_round_trip(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    wrong = [
        f"by {how}: {found}"
        for how in ("deliver", "get")
        if (found := came_back(channel, queue, properties(scene), how))
    ]
    scene.require("properties", not wrong, "; ".join(wrong))
    wrong = []
    for name, value in FIELDS.items():
        for how in ("deliver", "get"):
            if not channel.is_open:
                channel = scene.connect().channel()
            found = came_back(channel, queue, {"delivery_mode": 2, "headers": {"h": value}}, how)
            wrong += [f"{name} by {how}: {found}"] if found else []
    scene.require("header types", not wrong, "; ".join(wrong))
