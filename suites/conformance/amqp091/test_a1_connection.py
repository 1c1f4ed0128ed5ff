"""Section A1: protocol header, handshake, tuning, opening, closing, heartbeats, and the vendor's methods of class connection."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from brokerproof.conformance.amqp091.scene import CAPABILITIES, AmqpScene, Channel, Connection
from brokerproof.conformance.case import NOT_ASKED, Line, Seen, Table, among, case, chan, conn, must, should, silent
from brokerproof.wire.amqp091 import PROTOCOL_HEADER

HEADER_BACK, OTHER_BACK = "header 0-0-9-1, then closed", "another header, then closed"


def header(*numbers: int) -> bytes:
    return b"AMQP" + bytes(numbers)


def answer(connection: Connection, octets: bytes) -> str:
    """What answers these first octets."""
    connection.send(octets, decoded="first octets")
    connection.awaited(lambda: bool(connection.link.ended or connection.events()), connection.scene.window_s)
    got = bytes(connection.octets)
    if connection.events():
        start = connection.events()[0]
        return f"{start.name} {start['version_major']}-{start['version_minor']}"
    ending = "then closed" if connection.link.ended else "left open"
    if not got:
        return f"nothing, {ending}"
    if len(got) == 8 and got.startswith(b"AMQP"):
        return f"{'header 0-0-9-1' if got == PROTOCOL_HEADER else 'another header'}, {ending}"
    return f"other octets, {ending}"


@case(
    "A1.01", "amqp091/header-0-9-1",
    requirement="The header AMQP 0-0-9-1 is answered by Connection.Start of version 0-9, with a mechanism and the locale en_US.",
    reference="section 4.2.2; start / locales / required-support", level="MUST", accepts={"": must("Start 0-9 with a mechanism and en_US")},
    conditions=("slicer",),
)  # fmt: skip
def test_header_0_9_1(scene: AmqpScene) -> None:
    connection = scene.dial()
    came = answer(connection, PROTOCOL_HEADER)
    if came == "connection.start 0-9":
        start = connection.must("connection.start")
        if not str(start["mechanisms"]).split():
            came = "no mechanism"
        if "en_US" not in str(start["locales"]).split():
            came = "no locale en_US"
    scene.require("", came == "connection.start 0-9", came)


@case(
    "A1.02", "amqp091/header-unknown",
    requirement="First octets that are no header the peer knows are answered by a well-formed protocol header, and the end.",
    reference="section 4.2.2; start / protocol-name", level="MUST", negative=True, records=("octets",),
    accepts=dict.fromkeys(
        ("XMQP 0-0-9-1", "eight zeros", "AMQP 9-9-9-9"),
        Table("a protocol header, then closed", (Line("PASS", behaviour=(HEADER_BACK, OTHER_BACK)),)),
    ),
    conditions=("slicer",),
)  # fmt: skip
def test_header_unknown(scene: AmqpScene) -> None:
    came = {}
    for step, octets in (
        ("XMQP 0-0-9-1", b"XMQP\x00\x00\x09\x01"), ("eight zeros", bytes(8)), ("AMQP 9-9-9-9", header(9, 9, 9, 9)),
    ):  # fmt: skip
        connection = scene.dial()
        scene.saw(step, Seen(behaviour=answer(connection, octets)))
        came[step] = bytes(connection.octets[:64]).hex(" ")
    scene.record("octets", came)


@case(
    "A1.03", "amqp091/header-future-version",
    requirement="A header of a version not supported is answered by exactly AMQP 0-0-9-1, and the end.",
    reference="section 4.2.2; start / server-support", level="MUST", negative=True,
    accepts=dict.fromkeys(
        ("AMQP 0-0-9-2", "AMQP 0-0-10-0"),
        Table(
            "AMQP 0-0-9-1, then closed", (Line("PASS", behaviour=(HEADER_BACK,)), Line("CODE", behaviour=(OTHER_BACK,)))
        ),
    ),
    conditions=("slicer",),
)  # fmt: skip
def test_header_future_version(scene: AmqpScene) -> None:
    scene.saw("AMQP 0-0-9-2", Seen(behaviour=answer(scene.dial(), header(0, 0, 9, 2))))
    scene.saw("AMQP 0-0-10-0", Seen(behaviour=answer(scene.dial(), header(0, 0, 10, 0))))


@case(
    "A1.04", "amqp091/header-0-8", requirement="What answers the headers of 0-8: AMQP 1-1-8-0 and 1-1-9-1.",
    reference="AMQP 0-8 protocol header", level="unspecified", records=("1-1-8-0", "1-1-9-1"),
)  # fmt: skip
def test_header_0_8(scene: AmqpScene) -> None:
    scene.record("1-1-8-0", answer(scene.dial(), header(1, 1, 8, 0)))
    scene.record("1-1-9-1", answer(scene.dial(), header(1, 1, 9, 1)))


@case(
    "A1.05", "amqp091/header-0-9",
    requirement="What answers the header of 0-9, AMQP 1-1-0-9, and whether a 0-9-1 handshake can follow.",
    reference="AMQP 0-9 protocol header", level="unspecified", records=("answer", "handshake"),
)  # fmt: skip
def test_header_0_9(scene: AmqpScene) -> None:
    connection = scene.dial()
    came = answer(connection, header(1, 1, 0, 9))
    scene.record("answer", came)
    handshake = "not tried"
    if came.startswith("connection.start"):
        connection.take("connection.start")
        connection.start_ok()
        if connection.take("connection.tune"):
            connection.method(0, "connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
            connection.open()
        handshake = str(connection.reaction())
    scene.record("handshake", handshake)


@case(
    "A1.06", "amqp091/header-1-0", requirement="What answers the header of AMQP 1.0 without SASL.",
    reference="AMQP 1.0 part 2 section 2.2", level="unspecified", records=("answer", "octets"),
)  # fmt: skip
def test_header_1_0(scene: AmqpScene) -> None:
    connection = scene.dial()
    scene.record("answer", answer(connection, header(0, 1, 0, 0)))
    scene.record("octets", bytes(connection.octets[:64]).hex(" "))


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="broker").do_handshake()
    return outgoing.read()


@case(
    "A1.07", "amqp091/non-amqp-bytes",
    requirement="A client that speaks HTTP or TLS to the plain port is cut off within the window.",
    reference="section 4.2.2", level="MUST", negative=True, records=("answers",),
    accepts=dict.fromkeys(("http", "tls"), Table("ended", (Line("PASS", endings=("eof", "reset")),))),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_non_amqp_bytes(scene: AmqpScene) -> None:
    answers = {}
    for step, octets in (("http", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"), ("tls", client_hello())):
        connection = scene.dial()
        connection.send(octets, decoded=step)
        scene.saw(step, connection.end())
        answers[step] = bytes(connection.octets[:64]).hex(" ") or "nothing"
    scene.record("answers", answers)


@case(
    "A1.08", "amqp091/handshake-timeout",
    requirement="How long a socket lives that sends nothing (a), or the protocol header and nothing more (b).",
    reference="vendor configuration", level="unspecified", records=("nothing", "header only"), tags=["slow"], limit_s=120,
)  # fmt: skip
def test_handshake_timeout(scene: AmqpScene) -> None:
    both = {"nothing": scene.dial(), "header only": scene.dial()}
    both["header only"].send(PROTOCOL_HEADER, decoded="protocol header")
    began, until = time.monotonic(), scene.window(60)
    ended: dict[str, str] = {}
    while len(ended) < 2 and time.monotonic() < until:
        for name, connection in both.items():
            connection.pump(time.monotonic() + scene.seconds(0.1))
            if connection.link.ended and name not in ended:
                after_s = round(scene.measured(time.monotonic() - began))
                ended[name] = f"{connection.link.ended} after {after_s} s"
    for name in both:
        scene.record(name, ended.get(name, "still open after 60 s"))


@case(
    "A1.09", "amqp091/server-properties",
    requirement="Start's server-properties hold product, version, platform, copyright, information and host, none empty.",
    reference="start / server-properties / required-fields", level="SHOULD", accepts={"": should("all six are there")},
)  # fmt: skip
def test_server_properties(scene: AmqpScene) -> None:
    found = scene.dial().start()["server_properties"]
    wanted = ("product", "version", "platform", "copyright", "information", "host")
    missing = [name for name in wanted if not found.get(name)]
    scene.require("", not missing, f"without {', '.join(missing)}")


@case(
    "A1.10", "amqp091/server-capabilities", requirement="The capabilities that the server lists in its properties.",
    reference="vendor extension capabilities", level="extension", records=("capabilities",),
)  # fmt: skip
def test_server_capabilities(scene: AmqpScene) -> None:
    scene.record("capabilities", scene.dial().start()["server_properties"].get("capabilities"))


def started(scene: AmqpScene) -> Connection:
    connection = scene.dial()
    connection.start()
    return connection


@case(
    "A1.11", "amqp091/mechanism-not-offered", requirement="A mechanism that was not offered ends the connection without a word.",
    reference="start-ok / mechanism / validity", level="MUST", negative=True, accepts={"": silent()}, window_s=8,
)  # fmt: skip
def test_mechanism_not_offered(scene: AmqpScene) -> None:
    connection = started(scene)
    connection.start_ok(mechanism="X-NOPE")
    scene.saw("", connection.reaction())


@case(
    "A1.12", "amqp091/bad-password",
    requirement="A wrong password ends the connection without a word, where the client does not ask for a Close.",
    reference="section 2.2.4", level="MUST", negative=True, accepts={"": silent()}, window_s=8,
)  # fmt: skip
def test_bad_password(scene: AmqpScene) -> None:
    connection = started(scene)
    connection.start_ok(password="wrong", capabilities={"authentication_failure_close": False})
    scene.saw("", connection.reaction())


@case(
    "A1.13", "amqp091/bad-password-close",
    requirement="A wrong password brings Connection.Close 403 before the end, where the client asks for it.",
    reference="vendor extension authentication_failure_close", level="extension", negative=True, window_s=8,
    accepts={"": conn(403).or_else(Line("FAIL", endings=("eof", "reset")))}, needs="rabbitmq>=2.8",
)  # fmt: skip
def test_bad_password_close(scene: AmqpScene) -> None:
    connection = scene.dial()
    offered = connection.start()["server_properties"].get("capabilities") or {}
    if not offered.get("authentication_failure_close"):
        scene.skip("the server does not list authentication_failure_close")
    connection.start_ok(password="wrong", capabilities={"authentication_failure_close": True})
    scene.saw("", connection.reaction())


def tuned(scene: AmqpScene) -> tuple[Connection, int, int]:
    """A connection whose Tune awaits its answer; channel-max and frame-max that it offers."""
    connection = started(scene)
    connection.start_ok()
    tune = connection.tuned = connection.must("connection.tune")
    return connection, int(tune["channel_max"]), int(tune["frame_max"])


def tune_ok(connection: Connection, channel_max: int, frame_max: int) -> Seen:
    """What becomes of this answer to Tune, and Connection.Open behind it."""
    connection.method(0, "connection.tune-ok", channel_max=channel_max, frame_max=frame_max, heartbeat=0)
    connection.open()
    return connection.reaction()


@case(
    "A1.14", "amqp091/tune-proposal", requirement="What Connection.Tune proposes on an untouched configuration.",
    reference="section 2.3.3", level="unspecified", records=("channel-max", "frame-max", "heartbeat"),
)  # fmt: skip
def test_tune_proposal(scene: AmqpScene) -> None:
    connection, channel_max, frame_max = tuned(scene)
    assert connection.tuned is not None
    scene.record("channel-max", channel_max)
    scene.record("frame-max", frame_max)
    scene.record("heartbeat", connection.tuned["heartbeat"])


@case(
    "A1.15", "amqp091/frame-max-minimum",
    requirement="A client may ask for frames of 4096 octets, and a message of 20 KiB then goes round.",
    reference="tune-ok / frame-max / minimum; constant frame-min-size", level="MUST", accepts={"": must("Open-Ok, and the message goes round")},
)  # fmt: skip
def test_frame_max_minimum(scene: AmqpScene) -> None:
    connection, channel_max, _ = tuned(scene)
    seen = tune_ok(connection, channel_max, 4096)
    if seen.behaviour != "connection.open-ok":
        scene.require("", False, str(seen))
        return
    connection.frame_max = 4096
    channel = connection.channel()
    queue = channel.queue()
    channel.publish("", queue, b"0123456789abcdef" * 1280)
    got = channel.get(queue)
    scene.require("", got is not None and got.body == b"0123456789abcdef" * 1280, "the message did not come back")


@case(
    "A1.16", "amqp091/frame-max-above-offer", requirement="A frame-max above the one offered ends the connection without a word.",
    reference="tune-ok / frame-max / upper-limit", level="MUST", negative=True, accepts={"": silent()},
)  # fmt: skip
def test_frame_max_above_offer(scene: AmqpScene) -> None:
    connection, channel_max, frame_max = tuned(scene)
    if not frame_max:
        scene.skip("the server offers frames without a limit")
    scene.saw("", tune_ok(connection, channel_max, frame_max + 1))


@case(
    "A1.17", "amqp091/channel-max-above-offer",
    requirement="A channel-max above the one offered ends the connection without a word.",
    reference="tune-ok / channel-max / upper-limit", level="MUST", negative=True, accepts={"": silent()},
)  # fmt: skip
def test_channel_max_above_offer(scene: AmqpScene) -> None:
    connection, channel_max, frame_max = tuned(scene)
    if not channel_max or channel_max == 0xFFFF:
        scene.skip("the server offers channels without a limit")
    scene.saw("", tune_ok(connection, channel_max + 1, frame_max))


@case(
    "A1.18", "amqp091/tune-ok-zero",
    requirement="What becomes of a Tune-Ok that asks for no limit of channels, or of frames, where one was offered.",
    reference="tune / channel-max, frame-max", level="unspecified", records=("channel-max 0", "frame-max 0"),
)  # fmt: skip
def test_tune_ok_zero(scene: AmqpScene) -> None:
    connection, _, frame_max = tuned(scene)
    scene.record("channel-max 0", str(tune_ok(connection, 0, frame_max)))
    connection, channel_max, _ = tuned(scene)
    scene.record("frame-max 0", str(tune_ok(connection, channel_max, 0)))


@case(
    "A1.19", "amqp091/channel-number-above-max",
    requirement="Opening a channel whose number is above the agreed channel-max is refused, as the only channel too.",
    reference="tune / channel-max; section 4.3", level="MUST", negative=True, accepts={"": conn(530, 504)},
)  # fmt: skip
def test_channel_number_above_max(scene: AmqpScene) -> None:
    connection = scene.connect(channel_max=10)
    connection.method(11, "channel.open")
    scene.saw("", connection.reaction(11))


@case(
    "A1.20", "amqp091/one-channel-too-many", requirement="One channel more than agreed is refused with 530.",
    reference="section 4.3", level="MUST", negative=True, accepts={"": conn(530)},
)  # fmt: skip
def test_one_channel_too_many(scene: AmqpScene) -> None:
    connection = scene.connect(channel_max=10)
    for number in range(1, 11):
        connection.channel(number)
    connection.method(11, "channel.open")
    scene.saw("", connection.reaction(11))


@case(
    "A1.21", "amqp091/open-unknown-vhost", requirement="Opening a vhost that does not exist is refused with 402.",
    reference="constant invalid-path", level="MUST", negative=True, accepts={"": conn(402)},
)  # fmt: skip
def test_open_unknown_vhost(scene: AmqpScene) -> None:
    connection = started(scene)
    connection.start_ok()
    connection.tune_ok()
    connection.open(f"{scene.name}-nowhere")
    scene.saw("", connection.reaction())


@case(
    "A1.22", "amqp091/open-forbidden-vhost", requirement="Opening a vhost where the user may nothing is refused.",
    reference="open / virtual-host / security", level="SHOULD", negative=True, records=("reaction",),
    accepts={
        "": Table(
            "refused, whatever the code",
            (Line("PASS", endings=("closed", "eof", "reset")), Line("NONSTRICT", behaviour=("connection.open-ok",))),
        )
    },
)  # fmt: skip
def test_open_forbidden_vhost(scene: AmqpScene) -> None:
    other = f"{scene.name}-other"
    scene.admin.add_vhost(other)
    scene.finally_(lambda: scene.admin.delete_vhost(other))
    connection = started(scene)
    connection.start_ok()
    connection.tune_ok()
    connection.open(other)
    seen = connection.reaction()
    scene.saw("", seen)
    scene.record("reaction", str(seen))


@case(
    "A1.23", "amqp091/method-before-open",
    requirement="Connection.Open in answer to Start ends the connection without a word.",
    reference="section 2.2.4", level="MUST", negative=True, accepts={"": silent()}, window_s=12,
)  # fmt: skip
def test_method_before_open(scene: AmqpScene) -> None:
    connection = started(scene)
    connection.open()
    scene.saw("", connection.reaction())


@case(
    "A1.24", "amqp091/after-server-close",
    requirement="A server that has sent Connection.Close discards all that comes but the close handshake, and answers that.",
    reference="connection / close / stability", level="MUST", negative=True, accepts={"": must("nothing but Close-Ok comes, and nothing was done")},
)  # fmt: skip
def test_after_server_close(scene: AmqpScene) -> None:
    connection, queue = scene.connect(), scene.fresh()
    connection.answers = False
    connection.channel(1)
    connection.method(7, "queue.declare", queue=scene.fresh())
    if not connection.awaited(lambda: connection.closed is not None):
        scene.inconclusive("using a channel never opened brought no Connection.Close")
    connection.method(1, "queue.declare", queue=queue, durable=True)
    connection.method(0, "connection.close", reply_code=200)
    connection.end()
    came = [event.name for number in (0, 1, 7) for event in connection.events(number)]
    made = queue in scene.admin.entities(scene.vhost).queues
    scene.require(
        "", came == ["connection.close-ok"] and not made, "the queue was made" if made else f"came: {came or 'nothing'}"
    )


HEARTBEAT_S = 4


@case(
    "A1.25", "amqp091/heartbeat-dead-peer",
    requirement="With heartbeats agreed every h seconds the server is never silent for more than h + 1, and ends a silent client's"
    " connection after h to 4 h; also one whose packets are lost without notice.",
    reference="section 4.2.7", level="SHOULD", revision=2, tags=["slow"], variants=("", "timeout"), timing=True, limit_s=90,
    accepts={"gaps": must("no gap above h + 1 s").or_else(NOT_ASKED), "silent client": must("ended h to 4 h after its last octet")},
)  # fmt: skip
def test_heartbeat_dead_peer(scene: AmqpScene) -> None:
    if scene.variant == "timeout":
        scene.saw("gaps", Seen("not asked", detail="behind a black hole nothing of them is seen"))
        dead_behind_black_hole(scene)
        return
    connection = scene.connect(heartbeat=HEARTBEAT_S)
    connection.heard[:] = [time.monotonic()]
    until = scene.window(30)
    while time.monotonic() < until and not connection.link.ended:
        connection.send(b"\x08\x00\x00\x00\x00\x00\x00\xce", decoded="heartbeat")
        last = time.monotonic()
        connection.quiet(1)
    heard = [*connection.heard, time.monotonic()]
    longest = scene.measured(max(b - a for a, b in itertools.pairwise(heard)))
    alive = not connection.link.ended
    scene.require(
        "gaps", alive and longest <= HEARTBEAT_S + 1, f"gap of {longest:.1f} s" if alive else "the connection was ended"
    )
    connection.end(seconds=30)
    judge_end(scene, scene.measured(time.monotonic() - last) if connection.link.ended else None)


def dead_behind_black_hole(scene: AmqpScene) -> None:
    """Nothing of the connection itself can be seen: its exclusive queue tells another one how long it lives."""
    own = scene.own_link()
    connection = scene.connect(by=own, heartbeat=HEARTBEAT_S)
    queue = connection.channel().queue(durable=False, exclusive=True)
    watcher = scene.connect()
    connection.send(b"\x08\x00\x00\x00\x00\x00\x00\xce", decoded="heartbeat")
    last = time.monotonic()
    own.black_hole()
    judge_end(scene, held_until(scene, watcher, queue, last))


def held_until(
    scene: AmqpScene, watcher: Connection, queue: str, last: float, meanwhile: Callable[[], object] = lambda: None
) -> float | None:
    """Seconds from ``last`` until the exclusive queue, and so its connection, is gone; None: it is there after 30 s."""
    until = scene.window(30)
    while time.monotonic() < until:
        if watcher.channel().attempt("queue.declare", queue=queue, passive=True).code == 404:
            return scene.measured(time.monotonic() - last)
        watcher.quiet(0.25)
        meanwhile()
    return None


def judge_end(scene: AmqpScene, after_s: float | None) -> None:
    """Half a second of slack below: the clocks of two machines, and of a scheduler."""
    good = after_s is not None and HEARTBEAT_S - 0.5 <= after_s <= 4 * HEARTBEAT_S
    shown = "still open after 30 s" if after_s is None else f"ended after {after_s:.1f} s"
    scene.require("silent client", good, shown)


@case(
    "A1.26", "amqp091/heartbeat-any-traffic",
    requirement="Any frame stands for a heartbeat: a client that declares every second and sends no heartbeat is not cut off. "
    "Behind a black hole, into which it goes on declaring, it is, h to 4 h after the last octet that came through.",
    reference="section 4.2.7", level="MUST", tags=["slow"], accepts={"": must("the connection lives for 24 s")}, limit_s=90,
    conditions={"black-hole": {"silent client": must("ended h to 4 h after its last octet")}},
)  # fmt: skip
def test_heartbeat_any_traffic(scene: AmqpScene) -> None:
    own = scene.own_link() if scene.condition else None
    connection, watcher = scene.connect(by=own, heartbeat=HEARTBEAT_S), scene.connect()
    channel = connection.channel()
    queue = channel.queue(durable=False, exclusive=True)
    until = scene.window(24)
    while time.monotonic() < until and not connection.link.ended:
        declare_for_a_second(channel, queue)
    scene.require("", not connection.link.ended, "the connection was ended")
    if own is not None:
        last = time.monotonic()
        own.black_hole()
        judge_end(scene, held_until(scene, watcher, queue, last, lambda: declare_for_a_second(channel, queue)))


def declare_for_a_second(channel: Channel, queue: str) -> None:
    channel.method("queue.declare", queue=queue, passive=True)
    channel.connection.quiet(1)
    channel.take("queue.declare-ok", seconds=0)


@case(
    "A1.27", "amqp091/blocked-unblocked",
    requirement="A publishing client with the capability is told once that a memory alarm blocks it, and once that it is over.",
    reference="vendor extension connection.blocked", level="extension", tags=["destructive"], limit_s=90,
    accepts={"set": must("exactly one connection.blocked"), "cleared": must("exactly one connection.unblocked")},
)  # fmt: skip
def test_blocked_unblocked(scene: AmqpScene) -> None:
    connection = scene.connect(capabilities={**CAPABILITIES, "connection.blocked": True})
    channel = connection.channel()
    queue = channel.queue()
    channel.publish("", queue, b"before")
    channel.call("basic.qos")
    scene.finally_(scene.admin.clear_alarm)
    scene.admin.raise_alarm()
    channel.publish("", queue, b"during")
    connection.awaited(lambda: bool(connection.events()), 15)
    scene.admin.raise_alarm()
    channel.publish("", queue, b"again")
    connection.quiet(5)
    told = [event.name for event in connection.events()]
    scene.require("set", told == ["connection.blocked"], f"told: {', '.join(told) or 'nothing'}")
    connection.take("connection.blocked", seconds=0)
    scene.admin.clear_alarm()
    connection.awaited(lambda: bool(connection.events()), 15)
    connection.quiet(3)
    told = [event.name for event in connection.events()]
    scene.require("cleared", told == ["connection.unblocked"], f"told: {', '.join(told) or 'nothing'}")


@case(
    "A1.28", "amqp091/update-secret",
    requirement="After connection.update-secret permissions are looked up again: what was taken away is refused with 403.",
    reference="vendor extension connection.update-secret", level="extension", records=("running consumer",),
    accepts={
        "update-secret": among("update-secret-ok", **{"connection.update-secret-ok": "PASS"}),  # type: ignore[arg-type]  # the key is one name
        "publish without the right": chan(403),
    },
)  # fmt: skip
def test_update_secret(scene: AmqpScene) -> None:
    user = f"{scene.name}-u"
    scene.admin.add_user(user, "secret")
    scene.finally_(lambda: scene.admin.delete_user(user))
    scene.admin.permit(user, scene.vhost)
    connection = scene.connect(user=user, password="secret")
    channel, consuming, other = connection.channel(), connection.channel(), scene.connect().channel()
    queue = channel.queue()
    channel.bind(queue, "amq.direct", queue)
    consuming.consume(queue, no_ack=True)
    channel.publish("amq.direct", queue, b"one")
    if not consuming.deliveries(1):
        scene.inconclusive("the consumer got nothing")
    with ThreadPoolExecutor(1) as aside:
        taken = aside.submit(scene.admin.permit, user, scene.vhost, configure="", write="^$", read="^$")
        # A channel that rests may forget what it has looked up by itself: this one does not rest.
        while wait([taken], timeout=scene.seconds(0.1)).not_done:
            channel.publish("amq.direct", "nowhere", b"busy")
        taken.result()
    channel.publish("amq.direct", "nowhere", b"busy")
    connection.method(0, "connection.update-secret", new_secret="secret", reason="renewed")
    scene.saw("update-secret", connection.reaction())
    channel.publish("amq.direct", queue, b"two")
    scene.saw("publish without the right", channel.reaction())
    other.publish("amq.direct", queue, b"three")
    going_on = consuming.deliveries(1, seconds=2)
    scene.record("running consumer", "goes on" if going_on else str(consuming.reaction(seconds=0)))
