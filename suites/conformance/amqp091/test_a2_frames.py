"""Section A2: frames, content, and the octets of arguments."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Mapping

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel, Connection
from brokerproof.conformance.case import Line, Seen, Table, case, chan, conn, must, silent
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import BODY, FRAME_OVERHEAD, HEADER, HEARTBEAT, METHOD, Field, Frame, Raw

SEED = 91


def declare_frame(channel: int, queue: str, *, end: int = wire.FRAME_END, type: int = METHOD) -> Frame:
    return Frame(type, channel, wire.method_payload("queue.declare", {"queue": queue, "durable": True}), end)


def begin_content(channel: Channel, key: str, *, size: int, class_id: int = 60, weight: int = 0) -> None:
    """basic.publish to the default exchange, and a content header; no body."""
    channel.method("basic.publish", routing_key=key)
    channel.connection.frame(Frame(HEADER, channel.number, wire.header_payload(size, class_id=class_id, weight=weight)))


def body(channel: Channel, octets: bytes) -> None:
    channel.connection.frame(Frame(BODY, channel.number, octets))


def nothing_there(scene: AmqpScene, queue: str) -> None:
    scene.require("delivered", scene.connect().channel().get(queue) is None, "the message was stored")


NOTHING = must("no message is stored")


def octets(scene: AmqpScene, usually: int) -> int | None:
    """The frame-max to ask for; 0: what is offered. In segments of one octet the least there is: each takes a millisecond."""
    return wire.FRAME_MIN_SIZE if scene.condition == "slicer" else usually or None


@case(
    "A2.01", "amqp091/bad-frame-end", requirement="A frame that does not end with 0xCE ends the connection without a word.",
    reference="section 4.2.3", level="MUST", negative=True, accepts={"": silent()},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_bad_frame_end(scene: AmqpScene) -> None:
    connection = scene.connect()
    connection.channel(1)
    connection.frame(declare_frame(1, scene.fresh(), end=0))
    scene.saw("", connection.reaction(1))


@case(
    "A2.02", "amqp091/unknown-frame-type", requirement="A frame of an unknown type ends the connection without a word.",
    reference="section 4.2.3", level="MUST", negative=True, accepts=dict.fromkeys(("type 5", "type 99"), silent()),
    records=("type 4",),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_unknown_frame_type(scene: AmqpScene) -> None:
    def reaction(type: int) -> Seen:
        connection = scene.connect()
        connection.channel(1)
        connection.frame(Frame(type, 1, b"\x00\x00\x00\x00"))
        return connection.reaction(1)

    scene.saw("type 5", reaction(5))
    scene.saw("type 99", reaction(99))
    scene.record("type 4", str(reaction(4)))


@case(
    "A2.03", "amqp091/frame-oversize", requirement="A body frame of 1024 octets more than frame-max ends the connection with 501.",
    reference="section 4.2.3", level="MUST", negative=True, accepts={"": conn(501), "delivered": NOTHING},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_frame_oversize(scene: AmqpScene) -> None:
    channel = scene.connect(frame_max=octets(scene, 0)).channel()
    queue = channel.queue()
    size = channel.connection.frame_max + 1024 - FRAME_OVERHEAD
    begin_content(channel, queue, size=size)
    body(channel, bytes(size))
    scene.saw("", channel.reaction())
    nothing_there(scene, queue)


@case(
    "A2.03a", "amqp091/frame-oversize-by-overhead",
    requirement="Frames of one to eight octets more than frame-max, so that the payload alone keeps to it, end the connection with 501.",
    reference="section 4.2.3", level="MUST", negative=True, limit_s=120, records=("smallest excess refused",),
    accepts={
        "": Table(
            "all eight refused with 501",
            (
                Line("PASS", behaviour=("all refused with 501",)), Line("NONSTRICT", behaviour=("accepted: *",)),
                Line("CODE", behaviour=("refused otherwise: *",)),
            ),
        )
    },
    conditions=("slicer",),
)  # fmt: skip
def test_frame_oversize_by_overhead(scene: AmqpScene) -> None:
    accepted, otherwise, refused = [], [], []
    for excess in range(1, FRAME_OVERHEAD + 1):
        channel = scene.connect(frame_max=octets(scene, 8192)).channel()
        queue = channel.queue(durable=False, exclusive=True)
        size = channel.connection.frame_max + excess - FRAME_OVERHEAD
        begin_content(channel, queue, size=size)
        body(channel, bytes(size))
        seen = channel.attempt("basic.qos")
        if seen.behaviour == "basic.qos-ok":
            accepted.append(excess)
        else:
            refused.append(excess)
            if (seen.scope, seen.code) != ("connection", 501):
                otherwise.append(f"{excess} more: {seen}")
        channel.connection.close()
    behaviour = f"accepted: {accepted}" if accepted else "all refused with 501"
    scene.saw("", Seen(behaviour=f"refused otherwise: {'; '.join(otherwise)}" if otherwise else behaviour))
    scene.record("smallest excess refused", min(refused, default=None))


def padded_start_ok(scene: AmqpScene, size: int) -> bytes:
    """A Start-Ok frame of so many octets."""
    credentials = {"mechanism": "PLAIN", "response": f"\0{scene.user}\0{scene.password}", "locale": "en_US"}

    def frame(pad: int) -> bytes:
        payload = wire.method_payload("connection.start-ok", {"client_properties": {"pad": "x" * pad}, **credentials})
        return Frame(METHOD, 0, payload).encode()

    return frame(size - len(frame(0)))


@case(
    "A2.04", "amqp091/frame-min-size-before-tune", requirement="Before tuning a frame of 4096 octets is accepted.",
    reference="tune / frame-max / minimum", level="MUST", accepts={"": must("the handshake goes on")},
    records=("largest accepted",),
    conditions=("slicer",),
)  # fmt: skip
def test_frame_min_size_before_tune(scene: AmqpScene) -> None:
    def goes_on(size: int) -> Seen:
        connection = scene.dial()
        connection.start()
        connection.send(padded_start_ok(scene, size), decoded=f"connection.start-ok of {size} octets")
        return connection.reaction()

    seen = goes_on(4096)
    scene.require("", seen.behaviour == "connection.tune", str(seen))
    largest = 4096 if seen.behaviour == "connection.tune" else 0
    for size in (4097, 8192, 16384, 32768, 65536, 131072)[: 2 if scene.condition else None]:
        if goes_on(size).behaviour != "connection.tune":
            break
        largest = size
    scene.record("largest accepted", largest)


@case(
    "A2.05", "amqp091/content-class-mismatch",
    requirement="A content header of another class than the method before it ends the connection with 501.",
    reference="section 4.2.6.1", level="MUST", negative=True, accepts={"": conn(501)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_content_class_mismatch(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    begin_content(channel, channel.queue(), size=4, class_id=50)
    scene.saw("", channel.reaction())


@case(
    "A2.06", "amqp091/content-on-channel-0", requirement="A content header frame on channel 0 ends the connection with 504.",
    reference="section 4.2.6.1", level="MUST", negative=True, accepts={"": conn(504)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_content_on_channel_0(scene: AmqpScene) -> None:
    connection = scene.connect()
    connection.channel()
    connection.frame(Frame(HEADER, 0, wire.header_payload(4)))
    scene.saw("", connection.reaction())


@case(
    "A2.07", "amqp091/heartbeat-on-channel", requirement="A heartbeat frame on an open channel ends the connection with 503.",
    reference="section 4.2.3", level="MUST", negative=True, accepts={"": conn(503)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_heartbeat_on_channel(scene: AmqpScene) -> None:
    channel = scene.connect().channel(1)
    channel.connection.frame(Frame(HEARTBEAT, 1))
    scene.saw("", channel.reaction())


@case(
    "A2.08", "amqp091/method-inside-content",
    requirement="A method where a content header, or a body, is due ends the connection with 505.",
    reference="section 4.2.6", level="MUST", negative=True, accepts=dict.fromkeys(("for the header", "for the body"), conn(505)),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_method_inside_content(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.method("basic.publish", routing_key=queue)
    channel.connection.frame(declare_frame(channel.number, scene.fresh()))
    scene.saw("for the header", channel.reaction())
    channel = scene.connect().channel()
    begin_content(channel, queue, size=10)
    channel.connection.frame(declare_frame(channel.number, scene.fresh()))
    scene.saw("for the body", channel.reaction())


@case(
    "A2.09", "amqp091/content-weight", requirement="A content header whose weight is not zero ends the connection.",
    reference="section 4.2.6.1", level="MUST", negative=True, accepts={"": conn(501, 502, 505)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_content_weight(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    begin_content(channel, channel.queue(), size=4, weight=1)
    if scene.condition != "cut":  # the header is what this is about
        body(channel, b"body")
    scene.saw("", channel.reaction())


@case(
    "A2.10", "amqp091/body-longer-than-announced", requirement="A body longer than its header says ends the connection with 505.",
    reference="section 4.2.6", level="MUST", negative=True, accepts={"": conn(505), "delivered": NOTHING},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_body_longer_than_announced(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    begin_content(channel, queue, size=4)
    body(channel, b"12345")
    scene.saw("", channel.reaction())
    nothing_there(scene, queue)


@case(
    "A2.11", "amqp091/body-size-huge", requirement="What becomes of a header that announces 512 MiB and an octet, and when.",
    reference="content header body-size", level="unspecified", records=("reaction",), limit_s=90,
)  # fmt: skip
def test_body_size_huge(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    begin_content(channel, channel.queue(), size=512 * 2**20 + 1)
    seen, moment = channel.reaction(), "after the header"
    if seen.ending == "open":
        for _ in range(3):
            body(channel, bytes(4096 - FRAME_OVERHEAD))
        seen, moment = channel.reaction(), "after three body frames"
    scene.record("reaction", f"{seen}, {moment}")


@case(
    "A2.12", "amqp091/message-too-large",
    requirement="A message of exactly the largest size is accepted; one octet more closes the channel with 311.",
    reference="constant content-too-large (311)", level="MUST", negative=True, limit_s=120, window_s=15,
    needs="rabbitmq>=3.8", accepts={"the limit": must("accepted"), "one more": chan(311)},
)  # fmt: skip
def test_message_too_large(scene: AmqpScene) -> None:
    limit = scene.admin.setting("max_message_size")
    if limit is None:
        scene.inconclusive("a version that limits the size of messages has no such setting")
    channel = scene.connect().channel()
    queue = channel.queue(durable=False, exclusive=True)
    channel.publish("", queue, bytes(limit))
    seen = channel.attempt("queue.purge", queue=queue)
    scene.require("the limit", seen.detail == "queue.purge-ok message_count=1", str(seen))
    channel.publish("", queue, bytes(limit + 1))
    scene.saw("one more", channel.reaction())
    channel.connection.close()


def pieces(rng: random.Random, size: int, largest: int) -> list[int]:
    """Sizes of frames that make up a body of so many octets, none empty."""
    found: list[int] = []
    while sum(found) < size:
        found.append(min(rng.randint(1, largest), size - sum(found)))
    return found


@case(
    "A2.13", "amqp091/body-chunks",
    requirement="Bodies of every kind of size, cut into frames at random, are delivered octet by octet the same.",
    reference="section 4.2.6.2", level="MUST", accepts={"": must("every body as it was sent")}, limit_s=400, window_s=90,
    conditions={"slicer": {}, "cut": {"delivered": NOTHING}},
)  # fmt: skip
def test_body_chunks(scene: AmqpScene) -> None:
    channel = scene.connect(frame_max=65536).channel()
    queue, largest, rng = channel.queue(), 65536 - FRAME_OVERHEAD, random.Random(SEED)
    if scene.condition == "cut":
        channel.publish("", queue, rng.randbytes(largest + 1))
        scene.saw("", channel.reaction())
        nothing_there(scene, queue)
        return
    wrong = []
    for size in (0, 1, largest - 1, largest, largest + 1, 2**20):
        sent = rng.randbytes(size)
        channel.publish("", queue, sent, pieces=pieces(rng, size, largest))
        got = channel.get(queue)
        if got is None or got.body != sent:
            wrong.append(f"{size} octets came back as {'nothing' if got is None else f'{len(got.body)} octets'}")
    scene.require("", not wrong, "; ".join(wrong))


@case(
    "A2.14", "amqp091/reframing-for-consumer",
    requirement="A consumer with a smaller frame-max than the publisher gets no body frame that is longer.",
    reference="section 4.2.6.2", level="MUST", accepts={"": must("frames of 8192 octets at most, content as sent")},
)  # fmt: skip
def test_reframing_for_consumer(scene: AmqpScene) -> None:
    publisher, consumer = scene.connect(frame_max=131072).channel(), scene.connect(frame_max=8192).channel()
    queue, sent = publisher.queue(), random.Random(SEED).randbytes(100 * 1024)
    consumer.consume(queue)
    publisher.publish("", queue, sent)
    got = consumer.deliveries(1)
    if not got or got[0].body != sent:
        scene.require("", False, "the content is not as it was sent" if got else "nothing was delivered")
    else:
        scene.require("", max(got[0].sizes) <= 8192, f"a frame of {max(got[0].sizes)} octets")


@case(
    "A2.15", "amqp091/unknown-method", requirement="A method, or a class, that does not exist ends the connection with 503 or 540.",
    reference="constants command-invalid, not-implemented", level="MUST", negative=True,
    accepts=dict.fromkeys(("class 99", "class 50 method 99"), conn(503, 540)),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_unknown_method(scene: AmqpScene) -> None:
    for step, number in (("class 99", (99, 10)), ("class 50 method 99", (50, 99))):
        channel = scene.connect().channel()
        channel.connection.frame(Frame(METHOD, channel.number, struct.pack(">HH", *number) + bytes(8)))
        scene.saw(step, channel.reaction())


def malformed(queue: str) -> Mapping[str, bytes]:
    """Payloads of queue.declare, exclusive, whose arguments cannot be read; the last one can."""
    start = struct.pack(">HHH", 50, 10, 0)
    name, bits = wire.short_string(queue), b"\x04"
    deep = wire.table({})
    for _ in range(500):
        deep = wire.table({"a": Field("F", Raw(deep))})
    return {
        "cut short": start + name,
        "short string beyond the frame": start + b"\xc8" + queue.encode(),
        "table beyond the frame": start + name + bits + struct.pack(">I", 1000) + b"\x01aS",
        "array beyond the table": start + name + bits + wire.long_string(b"\x01aA" + struct.pack(">I", 1000) + b"I"),
        "nested 500 deep": start + name + bits + deep,
    }


#: How often each malformed frame is sent, and how much more memory may be in use after that: cases beside this one use some.
AGAIN, KEPT_MAX = 10, 128 * 2**20
_HARMLESS = Table("the sender's connection ends; nothing else suffers", (Line("PASS", endings=("closed", "eof", "reset")), Line("NONSTRICT")))  # fmt: skip


@case(
    "A2.16", "amqp091/malformed-arguments",
    requirement="Arguments that cannot be read end the sender's connection at most: other connections and the node are unharmed, and it "
    "keeps no memory for them.",
    reference="section 4.2.5", level="MUST", negative=True, limit_s=120, records=("memory",),
    accepts={**dict.fromkeys([step for step in malformed("q") if step != "nested 500 deep"], _HARMLESS),
             "nested 500 deep": Table("nothing else suffers", (Line("PASS"),)),
             "memory": must("what many more of them take is given back")},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_malformed_arguments(scene: AmqpScene) -> None:
    before = scene.admin.memory()
    for step, payload in malformed(scene.fresh()).items():
        connection = scene.connect()
        connection.frame(Frame(METHOD, connection.channel().number, payload))
        scene.saw(step, connection.reaction(1))
        if not connection.ended():
            connection.close()
    times = 1 if scene.condition else AGAIN
    for _ in range(times - 1):
        for payload in malformed(scene.fresh()).values():
            connection = scene.connect()
            connection.frame(Frame(METHOD, connection.channel().number, payload))
            connection.drop()
    more, until = scene.admin.memory() - before, scene.window(20)
    while more > KEPT_MAX and time.monotonic() < until:
        watcher = scene.connect()
        watcher.quiet(1)
        watcher.close()
        more = scene.admin.memory() - before
    scene.record("memory", f"{more / 2**20:+.1f} MiB after {times} of each")
    scene.require("memory", more <= KEPT_MAX, f"{more / 2**20:.0f} MiB more, 20 s after {times} of each")


GRAMMAR: Mapping[str, Field] = {
    "s": Field("s", Raw(wire.short_string("a short string"))),
    "l": Field("l", Raw(struct.pack(">Q", 2**63 + 91))),
    "x": Field("x", b"not in the grammar"),
}


def header_back(scene: AmqpScene, value: Field) -> str:
    """What becomes of a header with this value."""
    channel = scene.connect().channel()
    queue = channel.queue(durable=False, exclusive=True)
    headers = {"h": value}
    channel.publish("", queue, b"x", {"headers": headers})
    channel.method("basic.get", queue=queue, no_ack=True)
    got = channel.take("basic.get-ok", "basic.get-empty")
    if got is None:
        return f"refused: {channel.reaction(seconds=0)}"
    if got.header is None:
        return "the message is not there"
    return "as sent" if wire.table(headers) in got.header.raw else f"changed: {got.header.raw.hex(' ')}"


@case(
    "A2.17", "amqp091/field-type-tags",
    requirement="Header values with the grammar's tags s (short string) and l (unsigned 64 bits) come back as they were.",
    reference="section 4.2.1, grammar, field-value", level="MUST", records=("x",),
    accepts={"s": must("as sent"), "l": must("as sent")},
    conditions=("slicer",),
)  # fmt: skip
def test_field_type_tags(scene: AmqpScene) -> None:
    for step in ("s", "l"):
        found = header_back(scene, GRAMMAR[step])
        scene.require(step, found == "as sent", found)
    scene.record("x", header_back(scene, GRAMMAR["x"]))


@case(
    "A2.18", "amqp091/field-name-syntax",
    requirement="A header whose name begins with a digit, or holds a control character, ends the connection with 503.",
    reference="section 4.2.5.5", level="SHOULD", negative=True,
    accepts=dict.fromkeys(
        ("1abc", "control character"), conn(503).or_else(Line("NONSTRICT", behaviour=("accepted and passed on",)))
    ),
    conditions=("slicer",),
)  # fmt: skip
def test_field_name_syntax(scene: AmqpScene) -> None:
    for step, name in (("1abc", "1abc"), ("control character", "a\x01b")):
        channel = scene.connect().channel()
        queue = channel.queue(durable=False, exclusive=True)
        channel.publish("", queue, b"x", {"headers": {name: "value"}})
        channel.method("basic.get", queue=queue, no_ack=True)
        got = channel.take("basic.get-ok", "basic.get-empty")
        if got is None:
            scene.saw(step, channel.reaction(seconds=0))
        else:
            passed_on = name in (got.properties.get("headers") or {})
            scene.saw(
                step, Seen(behaviour="accepted and passed on" if passed_on else "accepted and dropped", ending="open")
            )
        if not channel.connection.ended():
            channel.connection.close()


@case(
    "A2.19", "amqp091/heartbeat-with-payload", requirement="A heartbeat frame with a payload ends the connection with 501.",
    reference="section 4.2.7", level="MUST", negative=True, accepts={"": conn(501)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_heartbeat_with_payload(scene: AmqpScene) -> None:
    connection: Connection = scene.connect()
    connection.channel()
    connection.frame(Frame(HEARTBEAT, 0, b"\x00"))
    scene.saw("", connection.reaction())
