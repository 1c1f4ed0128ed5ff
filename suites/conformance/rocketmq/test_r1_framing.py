"""R1 Remoting: framing and dispatch. Reference: docs/en/design.md "Communication Mechanism" of apache/rocketmq."""

from __future__ import annotations

import time

from brokerproof.conformance.case import AS_REQUIRED, CUT, NOT_ASKED, Line, Seen, Table, case, error, must
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.wire import rocketmq as wire

_DOCUMENT = "remoting design document"
_CLOSED = Table(
    "the connection is closed",
    (
        Line("PASS", endings=("eof", "reset")),
        Line("FAIL", behaviour=("answered",), codes=(codes.SUCCESS,)),
        Line("NONSTRICT", behaviour=("answered",)),
    ),
)
_ERROR = Table(
    "an error response",
    (
        Line("FAIL", behaviour=("answered",), codes=(codes.SUCCESS,)),
        Line("PASS", behaviour=("answered",)),
        Line("CODE", endings=("eof", "reset")),
    ),
)
_BOUNDED = Table("memory stays bounded", (Line("PASS", behaviour=(AS_REQUIRED,)), NOT_ASKED))
#: Of frames that are too large so many at a time, of each its beginning; half of that kept in every one of some rounds is too much.
_MANY, _ROUNDS = 64, 5
_BEGINNING = wire.illegal(b"", bytes(4 * 2**20), length=wire.FRAME_MAX + 1)
_KEPT_MB = _MANY * len(_BEGINNING) / 2**20 / 2


@case(
    "R1.01", "rocketmq/frame-layout",
    requirement="A route query to the name server and a heartbeat to the broker, framed as length, codec and header "
    "length, header, body, are answered by frames of the same layout with exact lengths.",
    reference=_DOCUMENT, level="MUST",
    accepts={"name server": must("a whole frame, exactly"), "broker": must("a whole frame, exactly")},
    conditions={"slicer": {}, "cut": {"stored": must("half of a send is not stored")}},
)  # fmt: skip
def test_frame_layout(scene: RocketmqScene) -> None:
    topic, group = scene.topic(), scene.group()
    server, broker = scene.name_server(), scene.broker()
    if scene.condition == CUT:
        server.ask(codes.GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
        scene.saw("name server", server.reaction())
        broker.ask(codes.SEND_MESSAGE_V2, scene.send_fields(topic), b"half a message")
        scene.saw("broker", broker.reaction())
        scene.require("stored", scene.end_offset(topic) == 0, "half of a send was stored")
        return
    route = server.call(codes.GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
    _exact(scene, "name server", server, route is not None and route.code == codes.SUCCESS)
    beat = scene.heartbeat(broker, scene.fresh("client"), group=group, topics=[topic])
    _exact(scene, "broker", broker, beat is not None and beat.code == codes.SUCCESS)


def _exact(scene: RocketmqScene, step: str, to: Remote, answered: bool) -> None:
    to.settle(0.5)
    otherwise = "no answer" if not answered else to.broken or "octets that belong to no frame"
    scene.require(step, answered and to.whole, otherwise)


@case(
    "R1.02", "rocketmq/header-codecs",
    requirement="The same request with a JSON header and with the compact one gets the same response code and body.",
    reference="remoting design document; header codecs", level="MUST",
    accepts={"name server": must("the same answer"), "broker": must("the same answer")}, records=("codec of the answer",),
    conditions=("slicer",),
)  # fmt: skip
def test_header_codecs(scene: RocketmqScene) -> None:
    topic = scene.topic()
    codecs = {}
    for step, code, connect in (
        ("name server", codes.GET_ROUTEINFO_BY_TOPIC, scene.name_server),
        ("broker", codes.GET_TOPIC_CONFIG, scene.broker),
    ):
        got = {}
        for codec in (wire.JSON, wire.COMPACT):
            answer = connect(codec=codec).call(code, {"topic": topic, "acceptStandardJsonOnly": True})
            got[codec] = None if answer is None else (answer.code, wire.loads(answer.body) if answer.body else None)
            codecs[f"{step}, asked in {codec}"] = None if answer is None else answer.codec
        scene.require(step, None not in got.values() and got[0] == got[1], f"JSON {got[0]}, compact {got[1]}"[:300])
    scene.record("codec of the answer", codecs)


@case(
    "R1.03", "rocketmq/bad-header",
    requirement="A frame of codec 7, with a header longer than itself, of negative length or with JSON that does not parse "
    "ends its connection, and only that one.",
    reference="remoting decoder", level="?", negative=True,
    accepts={"codec 7": _CLOSED, "header beyond the frame": _CLOSED, "negative length": _CLOSED, "not JSON": _CLOSED},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_bad_header(scene: RocketmqScene) -> None:
    header = wire.request(codes.GET_BROKER_RUNTIME_INFO, 1, {}).encode()[8:]
    for step, octets in {
        "codec 7": wire.illegal(header, codec=7),
        "header beyond the frame": wire.illegal(header, header_length=len(header) + 100),
        "negative length": wire.illegal(header, length=-8),
        "not JSON": wire.illegal(b'{"code":26,"opaque":'),
    }.items():
        broker = scene.broker(step.replace(" ", "-"))
        broker.raw(octets, step)
        scene.saw(step, broker.reaction())


@case(
    "R1.04", "rocketmq/frame-too-large",
    requirement="A frame announced with 16 MiB + 1 is not read: its connection is closed, and no other; however many are announced, the "
    "node's memory stays bounded.",
    reference="frame limit 16 MiB (remoting configuration)", level="?", negative=True, limit_s=180, revision=2,
    accepts={"broker": _CLOSED, "name server": _CLOSED, "broker's memory": _BOUNDED, "name server's memory": _BOUNDED},
    records=("memory",),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_frame_too_large(scene: RocketmqScene) -> None:
    for step, to in (("broker", scene.broker()), ("name server", scene.name_server())):
        came = bytes(1 << (10 if scene.condition == "slicer" else 20))
        to.raw(
            wire.illegal(b"", came, length=wire.FRAME_MAX + 1), f"a frame of 16 MiB + 1, its first {len(came)} octets"
        )
        scene.saw(step, to.reaction())
    grown = {}
    for step, node in (("broker", scene.place.master()), ("name server", scene.place.name_servers[0])):
        if scene.condition:
            # Octet by octet, or cut short, so much would take for ever.
            scene.require(f"{step}'s memory", False, "not asked")
            continue
        more = grown[step] = _grows(scene, node)
        scene.require(f"{step}'s memory", more <= _KEPT_MB, f"{more:.0f} MiB more, round after round")
    scene.record("memory", {step: f"{more:+.0f} MiB" for step, more in grown.items()})


def _grows(scene: RocketmqScene, node: str) -> float:
    """MiB by which the node's own memory grows when frames are announced that are too large, in the round in which it grows least: a
    heap that is filled for the first time grows as well, but not every time."""
    least = float("inf")
    for number in range(_ROUNDS):
        before = scene.place.memory(node)
        flood = [scene.spared(f"flood-{node}-{number}-{i}", node) for i in range(_MANY)]
        for to in flood:
            to.link.send(_BEGINNING, decoded=f"a frame of 16 MiB + 1, its first {len(_BEGINNING)} octets")
        least = min(least, scene.place.memory(node) - before)
        for to in flood:
            to.close()
        if least <= _KEPT_MB:
            break
    return least


@case(
    "R1.05", "rocketmq/unknown-request-code",
    requirement="Request code 32000 is answered with code 3 and the same opaque, by name server and broker; the connection "
    "stays usable.",
    reference="response code REQUEST_CODE_NOT_SUPPORTED", level="MUST", negative=True,
    accepts={
        "name server": error(codes.REQUEST_CODE_NOT_SUPPORTED), "broker": error(codes.REQUEST_CODE_NOT_SUPPORTED),
        "usable": must("the connection answers on"),
    },
    conditions=("slicer",),
)  # fmt: skip
def test_unknown_request_code(scene: RocketmqScene) -> None:
    server, broker = scene.name_server(), scene.broker()
    for step, to in (("name server", server), ("broker", broker)):
        scene.saw(step, to.seen(to.call(codes.UNKNOWN, {"a": "b"})))
    known = [server.call(codes.GET_BROKER_CLUSTER_INFO), broker.call(codes.GET_BROKER_RUNTIME_INFO)]
    scene.require("usable", all(f is not None and f.code == codes.SUCCESS for f in known), "a request after it fails")


@case(
    "R1.06", "rocketmq/opaque-and-flags",
    requirement="Of 100 requests at once on one connection each opaque is answered exactly once, with the response bit; a "
    "oneway request has its effect and no answer.",
    reference=_DOCUMENT, level="MUST",
    accepts={"answers": must("each exactly once"), "own answer": must("each its own"), "oneway": must("stored, no answer")},
)  # fmt: skip
def test_opaque_and_flags(scene: RocketmqScene) -> None:
    topic = scene.topic(queues=4)
    scene.sent(scene.admin(), topic, [b"x"] * 3, queue=2)
    broker = scene.broker()
    asked = {broker.ask(codes.GET_MAX_OFFSET, {"topic": topic, "queueId": i % 4}): i % 4 for i in range(100)}
    until = scene.patience(30)
    while len(broker.answers) < 100 and broker.pump(until):
        pass
    broker.settle(1)
    opaques = sorted(f.opaque for f in broker.answers)
    flagged = not broker.came
    scene.require("answers", opaques == sorted(asked) and flagged, f"{len(opaques)} answers to {len(set(opaques))} of 100, {len(broker.came)} without the response bit")  # fmt: skip
    wrong = [f.opaque for f in broker.answers if f.fields.get("offset") != ("3" if asked.get(f.opaque) == 2 else "0")]
    scene.require("own answer", not wrong, f"{len(wrong)} answers of another request")
    fields = scene.send_fields(topic, queue=1)
    oneway = broker.ask(codes.SEND_MESSAGE_V2, fields, b"oneway", oneway=True)
    stored = scene.within(lambda: scene.end_offset(topic, 1) == 1, 10) is not None
    broker.settle(1)
    answered = any(f.opaque == oneway for f in broker.answers)
    scene.require("oneway", stored and not answered, "answered" if answered else "not stored")


@case(
    "R1.07", "rocketmq/ext-fields",
    requirement="Unknown extFields change no answer; a send without topic or queueId and a pull without offset get an error "
    "response.",
    reference=_DOCUMENT, level="?", negative=True,
    accepts={
        "unknown field": must("the same answer"), "send without topic": _ERROR, "send without queueId": _ERROR,
        "pull without offset": _ERROR,
    },
    conditions=("slicer",),
)  # fmt: skip
def test_ext_fields(scene: RocketmqScene) -> None:
    topic, group = scene.topic(), scene.group()
    broker = scene.broker()
    plain = broker.call(codes.GET_MAX_OFFSET, {"topic": topic, "queueId": 0})
    extra = broker.call(codes.GET_MAX_OFFSET, {"topic": topic, "queueId": 0, "brokerproofField": "1"})
    same = plain is not None and extra is not None and (plain.code, plain.fields) == (extra.code, extra.fields)
    same = same and plain is not None and plain.code == codes.SUCCESS
    scene.require("unknown field", same, f"without {broker.seen(plain)}, with {broker.seen(extra)}")
    for step, code, fields in (
        ("send without topic", codes.SEND_MESSAGE_V2, scene.send_fields(None)),
        ("send without queueId", codes.SEND_MESSAGE_V2, scene.send_fields(topic, queue=None)),
        ("pull without offset", codes.PULL_MESSAGE, scene.pull_fields(group, topic, offset=None)),
    ):
        to = scene.broker(step.replace(" ", "-"))
        scene.saw(step, to.seen(to.call(code, fields, b"m")))


@case(
    "R1.08", "rocketmq/idle-channel",
    requirement="Seconds until broker and name server end an idle connection, and until a client that stopped its heartbeats "
    "is gone from its group's member list.",
    reference="server channel idle time, client entry expiry", level="unspecified", tags=("slow",),
    records=("broker ends it after", "name server ends it after", "member gone after"), limit_s=230,
)  # fmt: skip
def test_idle_channel(scene: RocketmqScene) -> None:
    topic, group, client = scene.topic(), scene.group(), scene.fresh("client")
    idle = {"broker ends it after": scene.broker("idle"), "name server ends it after": scene.name_server("idle-ns")}
    for to in idle.values():
        to.call(codes.UNKNOWN)
    member = scene.broker("member")
    scene.done(scene.heartbeat(member, client, group=group, topics=[topic]), "the only heartbeat")
    began, found = time.monotonic(), dict.fromkeys([*idle, "member gone after"], "more than 180")
    until = scene.window(180)
    while time.monotonic() < until and "more than 180" in found.values():
        for name, to in idle.items():
            to.pump(time.monotonic())
            if to.link.ended and found[name] == "more than 180":
                found[name] = f"{scene.measured(time.monotonic() - began):.0f}"
        # Its connection is busy all the while: what ends is the client's entry, not the connection.
        member.call(codes.GET_MAX_OFFSET, {"topic": topic, "queueId": 0})
        if client not in scene.members(group) and found["member gone after"] == "more than 180":
            found["member gone after"] = f"{scene.measured(time.monotonic() - began):.0f}"
        scene.pause(2)
    for name, seconds in found.items():
        scene.record(name, f"{seconds} s")


@case(
    "R1.09", "rocketmq/overload-answered",
    requirement="Under a flood of sends to a broker with a small send queue every request is answered within 30 s, and what is "
    "refused with code 2.",
    reference="flow control documents; SYSTEM_BUSY", level="MUST", tags=("slow", "config"),
    settings={"sendThreadPoolQueueCapacity": 10, "sendMessageThreadPoolNums": 1}, limit_s=90,
    accepts={"": Table("every one answered, with 0 or 2", (
        Line("PASS", behaviour=("answered",), codes=(codes.SUCCESS, codes.SYSTEM_BUSY)), Line("CODE", behaviour=("answered",)),
    ))},
    records=("answers",),
)  # fmt: skip
def test_overload_answered(scene: RocketmqScene) -> None:
    topic = scene.topic(queues=4)
    senders = [scene.broker(f"flood-{i}") for i in range(4)]
    for i in range(400):
        for sender in senders:
            sender.ask(codes.SEND_MESSAGE_V2, scene.send_fields(topic, queue=i % 4), bytes(1024))
    until = scene.patience(30)
    for sender in senders:
        while len(sender.answers) < 400 and sender.pump(until):
            pass
    got = [f.code for sender in senders for f in sender.answers]
    counts = {code: got.count(code) for code in sorted(set(got))}
    scene.record("answers", counts)
    if len(got) < 1600:
        scene.saw("", Seen("unanswered", detail=f"{1600 - len(got)} of 1600"))
    else:
        worst = max(counts, key=lambda code: code not in (codes.SUCCESS, codes.SYSTEM_BUSY))
        scene.saw("", Seen("answered", code=worst, detail=str(counts)))
