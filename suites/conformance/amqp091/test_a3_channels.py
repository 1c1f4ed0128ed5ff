"""Section A3: opening, using and closing channels; which errors close a channel and which the connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from brokerproof.conformance.amqp091.scene import AmqpScene, Channel
from brokerproof.conformance.case import Line, Seen, Table, case, conn, must
from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import HEADER, METHOD, Frame


@case(
    "A3.01", "amqp091/channel-open-twice", requirement="Opening a channel that is open ends the connection with 504.",
    reference="channel / open / state", level="MUST", negative=True, accepts={"": conn(504)},
)  # fmt: skip
def test_channel_open_twice(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.method("channel.open")
    scene.saw("", channel.reaction())


@case(
    "A3.02", "amqp091/channel-use-before-open", requirement="A method on a channel never opened ends the connection with 504.",
    reference="section 4.3", level="MUST", negative=True, accepts={"": conn(504)},
)  # fmt: skip
def test_channel_use_before_open(scene: AmqpScene) -> None:
    connection = scene.connect()
    connection.channel(1)
    connection.method(7, "queue.declare", queue=scene.fresh(), durable=True)
    scene.saw("", connection.reaction(7))


@case(
    "A3.03", "amqp091/channel-number-reuse", requirement="A channel number can be opened again as soon as its Close-Ok is there.",
    reference="section 2.3.7", level="MUST", accepts={"": must("100 times out of 100")},
)  # fmt: skip
def test_channel_number_reuse(scene: AmqpScene) -> None:
    connection = scene.connect()
    queue = connection.channel(2).queue()
    for round_ in range(100):
        connection.method(1, "channel.open")
        if connection.take("channel.open-ok", channel=1) is None:
            scene.require("", False, f"round {round_ + 1}: {connection.reaction(1, seconds=0)}")
            return
        channel = connection.opened(1)
        seen = channel.attempt("queue.declare", queue=queue, passive=True)
        if seen.behaviour != "queue.declare-ok" or not channel.close():
            scene.require("", False, f"round {round_ + 1}: {seen}")
            return
    scene.require("", True, "")


def provocations(scene: AmqpScene, taken: str) -> Mapping[str, Callable[[Channel], Seen]]:
    """Reply code that is due -> what provokes it on a channel. taken: a queue that another connection has to itself."""

    def too_large(channel: Channel) -> Seen:
        channel.publish("", taken, bytes((scene.admin.setting("max_message_size") or 2**27) + 1))
        return channel.reaction()

    def twice(channel: Channel) -> Seen:
        queue = channel.queue()
        channel.consume(queue, tag="t")
        return channel.attempt("basic.consume", queue=queue, consumer_tag="t")

    def immediate(channel: Channel) -> Seen:
        channel.publish("", channel.queue(), b"x", immediate=True)
        return channel.reaction()

    def raw(frame: Callable[[Channel], Frame], before: str = "") -> Callable[[Channel], Seen]:
        def provoke(channel: Channel) -> Seen:
            if before:
                channel.method(before)
            channel.connection.frame(frame(channel))
            return channel.reaction()

        return provoke

    def never_opened(channel: Channel) -> Seen:
        channel.connection.method(99, "basic.qos")
        return channel.connection.reaction(99)

    def unknown_tag(channel: Channel) -> Seen:
        channel.ack(4711)
        return channel.reaction()

    return {
        "311": too_large,
        "403": lambda channel: channel.attempt("exchange.declare", exchange="amq.mine", type="direct"),
        "404": lambda channel: channel.attempt("queue.declare", queue=scene.fresh("nowhere"), passive=True),
        "405": lambda channel: channel.attempt("queue.declare", queue=taken, passive=True),
        "406": unknown_tag,
        "501": raw(lambda ch: Frame(HEADER, ch.number, wire.header_payload(1, class_id=50)), before="basic.publish"),
        "502": raw(lambda ch: Frame(METHOD, ch.number, b"\x00\x32\x00\x0a\x00\x00\xc8q")),
        "503": lambda channel: channel.attempt("exchange.declare", exchange=scene.fresh("x"), type="nope"),
        "504": never_opened,
        "505": raw(lambda ch: wire.method_frame(ch.number, "basic.qos"), before="basic.publish"),
        "530": twice,
        "540": immediate,
    }


def unknown_vhost(scene: AmqpScene) -> Seen:
    connection = scene.dial()
    connection.start()
    connection.start_ok()
    connection.tune_ok()
    connection.open(f"{scene.name}-nowhere")
    return connection.reaction()


def closed_by_operator(scene: AmqpScene) -> Seen:
    """The one code that is nobody's error: the user of an open connection is deleted."""
    user = f"{scene.name}-320"
    scene.admin.add_user(user, "secret")
    scene.finally_(lambda: scene.admin.delete_user(user))
    scene.admin.permit(user, scene.vhost)
    connection = scene.connect(user=user, password="secret")
    connection.channel().call("basic.qos")
    scene.admin.delete_user(user)
    return connection.reaction()


_SCOPES = Table(
    "a soft code closes the channel, a hard one the connection",
    (
        Line("PASS", endings=("closed",), scopes=("channel",), codes=tuple(sorted(wire.SOFT_ERRORS))),
        Line("PASS", endings=("closed",), scopes=("connection",), codes=tuple(sorted(wire.HARD_ERRORS))),
        Line("CODE", endings=("closed",)), Line("CODE", endings=("eof", "reset")),
        Line("INFO", endings=("open",)),  # not provoked: nothing is shown of that code
    ),
)  # fmt: skip


@case(
    "A3.04", "amqp091/soft-and-hard-errors",
    requirement="Every soft reply code that can be provoked closes its channel and no other; every hard one closes the connection.",
    # Provoked are all that a client or its operator can. 312 and 313 are no closes but come with basic.return (A6.02, A6.03). 506 is for
    # a server that is short of something: a blocked connection (A1.27) tells of that, and no request of ours makes one short. 541 is a fault of the server's own code: whatever provokes it is a bug that a version loses once it is known.
    reference="section 4.10; constants", level="MUST", negative=True, limit_s=150, records=("provoked",), window_s=8,
    accepts={**dict.fromkeys(("311", "320", "402", "403", "404", "405", "406", "501", "502", "503", "504", "505", "530", "540"), _SCOPES),
             "siblings": must("a sibling channel declares and publishes after every soft error")},
)  # fmt: skip
def test_soft_and_hard_errors(scene: AmqpScene) -> None:
    taken = scene.connect().channel().queue(durable=False, exclusive=True)
    came, hurt = {}, []
    for code, provoke in provocations(scene, taken).items():
        connection = scene.connect()
        sibling, channel = connection.channel(), connection.channel()
        seen = provoke(channel)
        scene.saw(code, seen)
        came[code] = (
            f"{seen.scope} {seen.code}" if seen.code else "not provoked" if seen.ending == "open" else str(seen)
        )
        if seen.code in wire.SOFT_ERRORS and seen.scope == "channel":
            declared = sibling.attempt("queue.declare", queue=scene.fresh(), durable=True)
            sibling.publish("", taken, b"x")
            if declared.behaviour != "queue.declare-ok" or sibling.attempt("basic.qos").behaviour != "basic.qos-ok":
                hurt.append(code)
        if not connection.ended():
            connection.close()
    for code, whole in (("402", unknown_vhost), ("320", closed_by_operator)):
        seen = whole(scene)
        scene.saw(code, seen)
        came[code] = f"{seen.scope} {seen.code}" if seen.code else str(seen)
    scene.require("siblings", not hurt, f"hurt by {', '.join(hurt)}")
    scene.record("provoked", came)


@case(
    "A3.05", "amqp091/flow-from-client",
    requirement="channel.flow(active=false) is answered by flow-ok(active=false), and stops deliveries until active=true.",
    reference="channel / flow / initial-state", level="MAY", limit_s=90,
    accepts={"": Table("deliveries stop and go on", (Line("PASS", behaviour=("deliveries stop and go on",)),))},
)  # fmt: skip
def test_flow_from_client(scene: AmqpScene) -> None:
    connection = scene.connect()
    channel, publisher = connection.channel(), connection.channel()
    queue = channel.queue()
    channel.consume(queue, no_ack=True)
    publisher.publish("", queue, b"before")
    if not channel.deliveries(1):
        scene.inconclusive("the consumer got nothing")
    seen = channel.attempt("channel.flow", active=False)
    if seen.behaviour != "channel.flow-ok" or "active" in seen.detail:
        scene.saw("", seen)
        return
    for _ in range(5):
        publisher.publish("", queue, b"during")
    publisher.call("basic.qos")
    connection.quiet(2)
    if channel.deliveries(1, seconds=0):
        scene.saw("", Seen(behaviour="flow-ok, and deliveries go on", ending="open"))
        return
    channel.call("channel.flow", active=True)
    got = len(channel.deliveries(5))
    scene.saw(
        "", Seen(behaviour="deliveries stop and go on" if got == 5 else f"stopped, then {got} of 5 came", ending="open")
    )


@case(
    "A3.06", "amqp091/after-channel-close",
    requirement="A server that has sent Channel.Close discards what still comes on the channel but Close-Ok.",
    reference="channel / close / stability", level="MUST", negative=True,
    accepts={"": must("no answer, no queue, no message")},
)  # fmt: skip
def test_after_channel_close(scene: AmqpScene) -> None:
    connection = scene.connect()
    channel, sibling = connection.channel(), connection.channel()
    queue, new = sibling.queue(), scene.fresh()
    connection.answers = False
    channel.method("queue.declare", queue=scene.fresh("nowhere"), passive=True)
    if not connection.awaited(lambda: channel.number in connection.closes):
        scene.inconclusive("a passive declare of nothing brought no Channel.Close")
    channel.method("queue.declare", queue=new, durable=True)
    channel.publish("", queue, b"too late")
    channel.method("channel.close-ok")
    connection.answers = True
    sibling.call("basic.qos")
    connection.quiet(scene.window_s)
    came = [event.name for event in connection.events(channel.number)]
    wrong = f"answered: {', '.join(came)}" if came else ""
    if new in scene.admin.entities(scene.vhost).queues:
        wrong = "the queue was made"
    elif not wrong and sibling.get(queue) is not None:
        wrong = "the message was stored"
    scene.require("", not wrong, wrong)


@case(
    "A3.07", "amqp091/access-request", requirement="What answers access.request, which is no longer in 0-9-1.",
    reference="AMQP 0-8 class access", level="unspecified", records=("reaction",),
)  # fmt: skip
def test_access_request(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    channel.method("access.request", realm="/data", active=True, read=True, write=True)
    scene.record("reaction", str(channel.reaction()))
