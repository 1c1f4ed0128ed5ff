"""A4: exchanges and routing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from brokerproof.conformance.amqp091.routing import headers_match, topic_matches
from brokerproof.conformance.amqp091.scene import AmqpScene, Channel
from brokerproof.conformance.case import Line, Table, case, chan, conn, must
from brokerproof.versions import applies

_PREDECLARED = {
    "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers", "amq.match": "headers",
}  # fmt: skip
#: The longest key there can be, and what a careless comparison takes for another's.
_KEYS = ("key", "Key", "ke", "key.", "", "k" * 255, "schlüssel.鍵", "schlussel.鍵")


def _bodies(channel: Channel, queues: Sequence[str]) -> dict[str, list[bytes]]:
    return {queue: [e.body for e in events] for queue, events in channel.collect(queues).items()}


@case(
    "A4.01", "amqp091/exchange-predeclared",
    requirement="A fresh vhost has amq.direct, amq.fanout, amq.topic, amq.headers and amq.match, and the default exchange routes by queue name.",
    reference="exchange / required-instances, default-exchange", level="MUST",
    accepts={"predeclared": must("each answers a passive declare"), "default exchange": must("it routes by queue name")},
    records=("durable",),
)  # fmt: skip
def test_exchange_predeclared(scene: AmqpScene) -> None:
    asked = {n: scene.attempt("exchange.declare", exchange=n, type=t, passive=True) for n, t in _PREDECLARED.items()}
    missing = [n for n, seen in asked.items() if seen.behaviour != "exchange.declare-ok"]
    scene.require("predeclared", not missing, f"missing: {', '.join(missing)}")
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.publish("", queue, b"x")
    scene.require("default exchange", _bodies(channel, [queue]) == {queue: [b"x"]}, "not routed by the queue's name")
    again = {n: scene.attempt("exchange.declare", exchange=n, type=t, durable=True) for n, t in _PREDECLARED.items()}
    scene.record("durable", {n: seen.behaviour == "exchange.declare-ok" for n, seen in again.items()})


@case(
    "A4.02", "amqp091/exchange-unknown-type", requirement="Declaring an exchange of an unknown type ends the connection with 503.",
    reference="exchange / declare / type / support", level="MUST", negative=True, accepts={"": conn(503)},
)  # fmt: skip
def test_exchange_unknown_type(scene: AmqpScene) -> None:
    scene.saw("", scene.attempt("exchange.declare", exchange=scene.fresh("x"), type="nope"))


@case(
    "A4.03", "amqp091/exchange-passive-missing",
    requirement="A passive declare of an exchange that does not exist closes the channel with 404.",
    reference="exchange / declare / passive / not-found", level="MUST", negative=True, accepts={"": chan(404)},
)  # fmt: skip
def test_exchange_passive_missing(scene: AmqpScene) -> None:
    scene.saw("", scene.attempt("exchange.declare", exchange=scene.fresh("nobody"), type="direct", passive=True))


@case(
    "A4.04", "amqp091/exchange-redeclare-other-type",
    requirement="Redeclaring a direct exchange as fanout ends the connection with 530, and the exchange keeps its type.",
    reference="exchange / declare / type / typed", level="MUST", negative=True,
    accepts={"redeclare": conn(530), "type kept": must("it is still direct")},
)  # fmt: skip
def test_exchange_redeclare_other_type(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    exchange, queue = channel.exchange("direct"), channel.queue()
    channel.bind(queue, exchange, "right")
    scene.saw("redeclare", scene.attempt("exchange.declare", exchange=exchange, type="fanout", durable=True))
    channel.publish(exchange, "wrong", b"wrong")
    channel.publish(exchange, "right", b"right")
    came = _bodies(channel, [queue])[queue]
    scene.require("type kept", came == [b"right"], f"routed {came}")


@case(
    "A4.05", "amqp091/exchange-redeclare-not-equivalent",
    requirement="Redeclaring an exchange with another durable, auto-delete, internal or arguments closes the channel with 406; with the same it is declare-ok.",
    reference="exchange / declare / passive / equivalent", level="MUST", negative=True,
    accepts={"durable": chan(406), "auto-delete": chan(406), "internal": chan(406), "arguments": chan(406), "same": must("declare-ok")},
)  # fmt: skip
def test_exchange_redeclare_not_equivalent(scene: AmqpScene) -> None:
    same: dict[str, Any] = {"exchange": scene.connect().channel().exchange("direct"), "type": "direct", "durable": True}
    for step, other in (
        ("durable", {"durable": False}), ("auto-delete", {"auto_delete": True}), ("internal", {"internal": True}),
        ("arguments", {"arguments": {"alternate-exchange": "amq.fanout"}}),
    ):  # fmt: skip
        scene.saw(step, scene.attempt("exchange.declare", **{**same, **other}))
    scene.expect("same", scene.attempt("exchange.declare", **same), "exchange.declare-ok")


@case(
    "A4.06", "amqp091/exchange-reserved-name", requirement="Declaring a new exchange amq.mine closes the channel with 403.",
    reference="exchange / declare / exchange / reserved", level="MUST", negative=True, accepts={"": chan(403)},
    records=("name with CR and LF",),
)  # fmt: skip
def test_exchange_reserved_name(scene: AmqpScene) -> None:
    scene.saw("", scene.attempt("exchange.declare", exchange="amq.mine", type="direct", durable=True))
    broken = scene.fresh("broken\r\nname")
    mended = broken.replace("\r\n", "")
    scene.way.named(mended)
    seen = scene.attempt("exchange.declare", exchange=broken, type="direct", durable=True)
    there = {n: scene.attempt("exchange.declare", exchange=n, type="direct", passive=True).behaviour == "exchange.declare-ok"
             for n in (broken, mended)}  # fmt: skip
    scene.record("name with CR and LF", f"{seen}; then there: {[n for n, is_there in there.items() if is_there]}")
    for name in (n for n, is_there in there.items() if is_there):
        scene.attempt("exchange.delete", exchange=name)


@case(
    "A4.07", "amqp091/default-exchange-access",
    requirement="Declaring and deleting the default exchange close the channel with 403; binding a queue to it with a second key works, and the key routes.",
    reference="exchange / default-access; queue / bind / exchange / default-exchange", level="MUST", negative=True,
    accepts={"declare": chan(403), "delete": chan(403), "bind": must("bind-ok, and the key routes")},
)  # fmt: skip
def test_default_exchange_access(scene: AmqpScene) -> None:
    scene.saw("declare", scene.attempt("exchange.declare", exchange="", type="direct", durable=True))
    scene.saw("delete", scene.attempt("exchange.delete", exchange=""))
    channel = scene.connect().channel()
    queue = channel.queue()
    bound = scene.attempt("queue.bind", queue=queue, exchange="", routing_key="second")
    channel.publish("", "second", b"x")
    came = _bodies(channel, [queue])[queue]
    scene.expect("bind", bound, "queue.bind-ok", came == [b"x"], "bound, but the key does not route")


@case(
    "A4.08", "amqp091/exchange-delete-missing",
    requirement="Deleting an exchange that does not exist closes the channel with 404.",
    reference="exchange / delete / exchange / exists", level="MUST", negative=True, accepts={"": chan(404)},
)  # fmt: skip
def test_exchange_delete_missing(scene: AmqpScene) -> None:
    scene.saw("", scene.attempt("exchange.delete", exchange=scene.fresh("nobody")))


@case(
    "A4.09", "amqp091/exchange-delete-in-use",
    requirement="Deleting with if-unused an exchange that has a binding closes the channel with 406, deleting amq.direct with 403; both are still there.",
    reference="exchange / delete / if-unused / in-use", level="MUST", negative=True,
    accepts={"in use": chan(406), "amq.direct": chan(403), "still there": must("both answer a passive declare")},
)  # fmt: skip
def test_exchange_delete_in_use(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    exchange = channel.exchange("direct")
    channel.bind(channel.queue(), exchange, "k")
    scene.saw("in use", scene.attempt("exchange.delete", exchange=exchange, if_unused=True))
    scene.saw("amq.direct", scene.attempt("exchange.delete", exchange="amq.direct"))
    gone = [n for n in (exchange, "amq.direct") if not scene.has("exchange", n)]
    scene.require("still there", not gone, f"gone: {', '.join(gone)}")


@case(
    "A4.10", "amqp091/exchange-auto-delete",
    requirement="An auto-delete exchange goes with the last binding from it; it stays when only bindings to it go, and when it never had one.",
    reference="exchange.declare auto-delete (bit restored by vendors)", level="extension",
    accepts={"bindings left": must("stays"), "last binding from it": must("goes"), "binding to it": must("stays"), "never had one": must("stays")},
)  # fmt: skip
def test_exchange_auto_delete(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    exchange, never, queue = (
        channel.exchange("direct", auto_delete=True),
        channel.exchange("direct", auto_delete=True),
        channel.queue(),
    )
    for key in ("1", "2"):
        channel.bind(queue, exchange, key)
    for destination in (exchange, never):
        channel.call("exchange.bind", destination=destination, source="amq.direct", routing_key="k")
        channel.call("exchange.unbind", destination=destination, source="amq.direct", routing_key="k")
    scene.require("binding to it", scene.has("exchange", exchange), "gone")
    scene.require("never had one", scene.has("exchange", never), "gone")
    channel.method("queue.unbind", queue=queue, exchange=exchange, routing_key="1")
    channel.take("queue.unbind-ok")
    scene.require("bindings left", scene.has("exchange", exchange), "gone")
    channel.method("queue.unbind", queue=queue, exchange=exchange, routing_key="2")
    channel.take("queue.unbind-ok")
    scene.require("last binding from it", not scene.has("exchange", exchange), "still there")


@case(
    "A4.11", "amqp091/publish-internal", requirement="Publishing to an internal exchange closes the channel with 403.",
    reference="basic / publish / exchange / 02", level="MUST", negative=True, accepts={"": chan(403)},
)  # fmt: skip
def test_publish_internal(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    exchange = channel.exchange("fanout", internal=True)
    channel.publish(exchange, "k", b"x")
    scene.saw("", channel.reaction())


@case(
    "A4.12", "amqp091/route-direct-fanout",
    requirement="A direct exchange routes by the equal key and no other; a fanout exchange to every queue whatever the key.",
    reference="sections 3.1.3.1, 3.1.3.2", level="MUST",
    accepts={"direct": must("each key to its queue only, once"), "fanout": must("each message to each queue, once")},
)  # fmt: skip
def test_route_direct_fanout(scene: AmqpScene) -> None:
    for type_ in ("direct", "fanout"):
        channel = scene.connect().channel()
        exchange = channel.exchange(type_)
        queues = {channel.queue(): key for key in _KEYS}
        for queue, key in queues.items():
            channel.bind(queue, exchange, key)
        for key in _KEYS:
            channel.publish(exchange, key, key.encode())
        came = _bodies(channel, list(queues))
        all_ = [k.encode() for k in _KEYS]
        wrong = [(k, came[q]) for q, k in queues.items() if came[q] != (all_ if type_ == "fanout" else [k.encode()])]
        scene.require(
            type_, not wrong, "".join(f"bound with {k[:20]!r}: got {[b[:20] for b in got]}" for k, got in wrong[:1])
        )


_TOPIC_CORNERS = (
    "", "#", "*", "#.#", "*.#", "#.*", "*.*", "a", "a.b", "a.#", "#.b", "a.*.b", "a.#.b", "*.a.#", "#.a.#", "a.", ".a", ".", "..",
    "a..b", "*.", ".#", "#.", "a.#.#.b", "#.#.#",
)  # fmt: skip
_KEY_CORNERS = (
    "",
    "a",
    "b",
    "a.b",
    "a..b",
    "a.",
    ".a",
    ".",
    "..",
    "a.b.a",
    "b.a",
    "a.x.b",
    "a.x.y.b",
    "A.b",
    "ab",
    "a.bb",
    "#",
    "*",
    "a.#",
)


@case(
    "A4.13", "amqp091/route-topic",
    requirement="A topic exchange routes by words: * is exactly one, # zero or more, whatever the pattern and key.",
    reference="section 3.1.3.3", level="SHOULD", accepts={"": must("each pair of pattern and key routes as the model says")},
)  # fmt: skip
def test_route_topic(scene: AmqpScene) -> None:
    seeded = random.Random(4_13)
    patterns = list(
        dict.fromkeys((*_TOPIC_CORNERS, *(_phrase(seeded, ("a", "b", "c", "", "*", "#", "#")) for _ in range(40))))
    )
    keys = list(dict.fromkeys((*_KEY_CORNERS, *(_phrase(seeded, ("a", "b", "c", "")) for _ in range(60)))))
    channel = scene.connect().channel()
    exchange = channel.exchange("topic")
    queues = {channel.queue(): pattern for pattern in patterns}
    for queue, pattern in queues.items():
        channel.bind(queue, exchange, pattern)
    for n, key in enumerate(keys):
        channel.publish(exchange, key, b"%d" % n)
    came = _bodies(channel, list(queues))
    wrong = [
        (len(pattern) + len(key), pattern, key, copies)
        for (queue, pattern), (n, key) in itertools.product(queues.items(), enumerate(keys))
        if (copies := came[queue].count(b"%d" % n)) != topic_matches(pattern, key)
    ]
    scene.require("", not wrong, _smallest(wrong))


def _phrase(seeded: random.Random, words: Sequence[str]) -> str:
    return ".".join(seeded.choice(words) for _ in range(seeded.randint(1, 5)))


def _smallest(wrong: Sequence[tuple[int, str, str, int]]) -> str:
    if not wrong:
        return ""
    _, binding, message, copies = min(wrong)
    return f"{len(wrong)} pairs differ, the smallest: {binding!r} and {message!r}: {copies} copies"


#: One value of each of some types, and what could be taken for it.
_VALUES: tuple[Any, ...] = (1, 2, "1", True, "true", 1.0, "", {"n": 1}, [1])


@case(
    "A4.14", "amqp091/route-headers",
    requirement="A headers exchange matches all or any of a binding's arguments by type and value, a void one by presence, and skips x- names, but not with all-with-x and any-with-x; an unknown x-match is refused.",
    reference="section 3.1.3.4", level="SHOULD", negative=True,
    accepts={
        "routing": must("each pair of binding and message routes as the model says"),
        "unknown x-match": Table("refused", (Line("PASS", endings=("closed",)), Line("CODE", endings=("eof", "reset")))),
    },
)  # fmt: skip
def test_route_headers(scene: AmqpScene) -> None:
    modes: list[str] = ["all", "any"]
    if applies("rabbitmq>=3.10", scene.product, scene.version):
        modes += ["all-with-x", "any-with-x"]
    seeded = random.Random(4_14)
    asked: list[dict[str, Any]] = [{}, {"a": None}, {"a": 1, "b": "1"}]
    asked += [
        {"x-match": m, **more}
        for m in modes
        for more in ({}, {"a": None}, {"x-a": 1}, {"a": 1, "x-a": 1}, {"a": 1, "b": None})
    ]
    asked += [{"x-match": seeded.choice(modes), **_headers(seeded, void=True)} for _ in range(40)]
    sent: list[dict[str, Any]] = [{}, *({"a": v} for v in _VALUES), {"x-a": 1}, {"a": 1, "x-a": 1}]
    sent += [_headers(seeded, void=False) for _ in range(50)]
    channel = scene.connect().channel()
    exchange = channel.exchange("headers")
    queues = [(channel.queue(), arguments) for arguments in asked]
    for queue, arguments in queues:
        channel.bind(queue, exchange, "", arguments)
    for n, headers in enumerate(sent):
        channel.publish(exchange, "", b"%d" % n, {"headers": headers})
    came = _bodies(channel, [queue for queue, _ in queues])
    wrong = [
        (len(str(arguments)) + len(str(headers)), str(arguments), str(headers), copies)
        for (queue, arguments), (n, headers) in itertools.product(queues, enumerate(sent))
        if (copies := came[queue].count(b"%d" % n)) != headers_match(arguments, headers)
    ]
    scene.require("routing", not wrong, _smallest(wrong))
    scene.saw("unknown x-match", scene.attempt(
        "queue.bind", queue=queues[0][0], exchange=exchange, arguments={"x-match": "most", "a": 1}
    ))  # fmt: skip


def _headers(seeded: random.Random, *, void: bool) -> dict[str, Any]:
    names = seeded.sample(["a", "b", "c", "x-a", "x-b"], seeded.randint(1, 3))
    return {n: None if void and seeded.random() < 0.25 else seeded.choice(_VALUES) for n in names}


@case(
    "A4.15", "amqp091/one-copy-per-queue",
    requirement="A queue gets exactly one copy, however many bindings match and however many ways through other exchanges lead to it; cycles end.",
    reference="queue / bind / unique", level="MUST", accepts={"": must("exactly one copy, and routing ends")},
)  # fmt: skip
def test_one_copy_per_queue(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    first, left, right = channel.exchange("topic"), channel.exchange("fanout"), channel.exchange("fanout")
    queue = channel.queue()
    for pattern in ("#", "a.#", "*.b", "a.*", "a.b"):
        channel.bind(queue, first, pattern)
    for source, destination in ((first, left), (first, right), (right, first)):
        channel.call("exchange.bind", destination=destination, source=source, routing_key="a.b")
    far = channel.queue()
    for exchange in (left, right):
        channel.bind(queue, exchange)
    channel.bind(far, right)
    channel.publish(first, "a.b", b"x")
    came = _bodies(channel, [queue, far])
    scene.require(
        "", came == {queue: [b"x"], far: [b"x"]}, f"{len(came[queue])} copies, and {len(came[far])} by the longer way"
    )


@case(
    "A4.16", "amqp091/alternate-exchange",
    requirement="An unroutable message goes to the alternate exchange once; chains work and cycles end; a declared one beats a policy; a mandatory message is returned only if the alternate has no route either.",
    reference="vendor extension alternate-exchange", level="extension", revision=2,
    accepts={
        "once": must("one copy in the alternate's queue, none where it is routed"),
        "chain and cycle": must("the end of a chain gets it, a cycle ends"),
        "argument before policy": must("it goes where the declaration says"),
        "mandatory": must("returned only without a route anywhere"),
    },
)  # fmt: skip
def test_alternate_exchange(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    last, other = channel.exchange("fanout"), channel.exchange("fanout")
    by_declaration, by_policy, routed = channel.queue(), channel.queue(), channel.queue()
    channel.bind(by_declaration, last)
    channel.bind(by_policy, other)
    middle = channel.exchange("direct", arguments={"alternate-exchange": last})
    top = channel.exchange("direct", name="declared", arguments={"alternate-exchange": middle})
    channel.exchange("direct", name="circle-1", arguments={"alternate-exchange": "circle-2"})
    channel.exchange("direct", name="circle-2", arguments={"alternate-exchange": "circle-1"})
    channel.bind(routed, middle, "known")
    # The policy is in force: an exchange that declares nothing else follows it.
    bare = channel.exchange("direct", name="bare")
    scene.admin.set_policy(scene.vhost, "alternate", "^(declared|bare)$", {"alternate-exchange": other}, "exchanges")

    channel.publish(middle, "unknown", b"once")
    channel.publish(middle, "known", b"known")
    channel.publish(top, "unknown", b"chain")
    channel.publish(bare, "unknown", b"by policy")
    came = _bodies(channel, [by_declaration, by_policy, routed])
    scene.require("once", came[by_declaration].count(b"once") == 1 and came[routed] == [b"known"], f"got {came}")
    if b"by policy" not in came[by_policy]:
        scene.inconclusive(f"the policy has no effect where it stands alone: its alternate got {came[by_policy]}")
    scene.require(
        "argument before policy", came[by_policy] == [b"by policy"], f"the policy's alternate got {came[by_policy]}"
    )

    again = scene.connect().channel()
    again.publish("circle-1", "unknown", b"circle", mandatory=True)
    returned = again.take("basic.return")
    again.publish(middle, "unknown", b"mandatory", mandatory=True)
    again.call("basic.qos", prefetch_count=0)
    needless = again.take("basic.return", seconds=0.5)
    ended = returned is not None and again.is_open and came[by_declaration].count(b"chain") == 1
    scene.require("chain and cycle", ended, f"chain: {came[by_declaration]}; circle: {returned and returned.name}")
    scene.require("mandatory", returned is not None and needless is None,
                  "returned although the alternate routes" if needless else "not returned")  # fmt: skip


@case(
    "A4.17", "amqp091/duplicate-bind-missing-unbind",
    requirement="Binding twice with the same arguments is bind-ok twice and one copy; unbinding what was never bound ends the connection with 404.",
    reference="queue / bind / duplicates; queue / unbind / 01, must-exist", level="MUST", negative=True,
    accepts={"bound twice": must("two bind-ok, one copy"), "unbind": conn(404)},
)  # fmt: skip
def test_duplicate_bind_missing_unbind(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    for _ in range(2):
        channel.bind(queue, "amq.direct", "k")
    channel.publish("amq.direct", "k", b"x")
    came = _bodies(channel, [queue])[queue]
    scene.require("bound twice", came == [b"x"], f"{len(came)} copies")
    scene.saw("unbind", scene.attempt("queue.unbind", queue=queue, exchange="amq.direct", routing_key="never"))


@case(
    "A4.18", "amqp091/cc-bcc",
    requirement="A message with the headers CC and BCC goes to their queues too, one copy each, and is delivered with CC and without BCC.",
    reference="vendor extension sender-selected distribution", level="extension",
    accepts={"copies": must("one in each queue"), "headers": must("CC is delivered and BCC is not")},
    records=("CC that is no array",),
)  # fmt: skip
def test_cc_bcc(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queues = [channel.queue() for _ in range(3)]
    channel.publish("", queues[0], b"x", {"headers": {"CC": [queues[1]], "BCC": [queues[2]]}})
    came = channel.collect(queues)
    scene.require(
        "copies",
        all([e.body for e in got] == [b"x"] for got in came.values()),
        f"{[len(g) for g in came.values()]} copies",
    )
    headers = [e.properties.get("headers", {}) for got in came.values() for e in got]
    wrong = [h for h in headers if h.get("CC") != [queues[1]] or "BCC" in h]
    scene.require("headers", not wrong, f"delivered with {wrong[:1]}")
    again = scene.connect().channel()
    again.publish("", queues[0], b"x", {"headers": {"CC": queues[1]}})
    scene.record("CC that is no array", str(again.reaction(seconds=2)))
