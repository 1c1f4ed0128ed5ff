"""R6 gRPC proxy. Reference: apache.rocketmq.v2 service.proto, definition.proto (Code), settings of the proxy."""

from __future__ import annotations

from typing import Any

from brokerproof.conformance.case import Line, Seen, Table, among, case, must
from brokerproof.conformance.rocketmq.proxy import OK, Answer, Proxy, definition, service
from brokerproof.conformance.rocketmq.scene import RocketmqScene
from brokerproof.conformance.rocketmq.tables import status

_DAY_S = 86_400.0
_UNIMPLEMENTED = Table(
    "gRPC UNIMPLEMENTED",
    (
        Line("PASS", behaviour=("UNIMPLEMENTED",)),
        Line("FAIL", behaviour=("RPC error DEADLINE_EXCEEDED",)),
        Line("CODE", behaviour=("answered", "RPC error*")),
    ),
)


@case(
    "R6.01", "rocketmq/grpc-client-id",
    requirement="Any call without x-mq-client-id metadata gets 40017.",
    reference="apache.rocketmq.v2 service; Code", level="?", negative=True,
    accepts={name: status(40017) for name in (
        "QueryRoute", "SendMessage", "ReceiveMessage", "AckMessage", "ChangeInvisibleDuration", "EndTransaction", "Heartbeat",
    )},
)  # fmt: skip
def test_grpc_client_id(scene: RocketmqScene) -> None:
    topic, group = scene.topic(), scene.group()
    proxy = scene.proxy(client_id="")
    for step, answer in {
        "QueryRoute": proxy.query_route(topic),
        "SendMessage": proxy.send(proxy.message(topic)),
        "ReceiveMessage": proxy.receive(topic, group),
        "AckMessage": proxy.ack(topic, group, "id", "handle"),
        "ChangeInvisibleDuration": proxy.change_invisible(topic, group, "id", "handle", 20),
        "EndTransaction": proxy.end_transaction(topic, "id", "transaction", "COMMIT"),
        "Heartbeat": proxy.heartbeat(group),
    }.items():
        scene.saw(step, answer.seen())


@case(
    "R6.02", "rocketmq/grpc-not-found",
    requirement="A route query of an unknown topic gets 40402, a receive by an unknown group (creation off) 40403, empty or "
    "malformed endpoints 40001.",
    reference="Code", level="MUST", negative=True, settings={"autoCreateSubscriptionGroup": False},
    accepts={"topic": status(40402), "group": status(40403), "no endpoints": status(40001), "malformed endpoints": status(40001)},
)  # fmt: skip
def test_grpc_not_found(scene: RocketmqScene) -> None:
    topic, proxy = scene.topic(), scene.proxy()
    scene.saw("topic", proxy.query_route(scene.fresh("unknown")).seen())
    # Introduced as a group that there is: of one that there is not the proxy takes no settings, and says so to nobody.
    proxy.introduce(topics=[topic], group=scene.group())
    scene.saw("group", proxy.receive(topic, scene.fresh("unknown-group")).seen())
    scene.saw("no endpoints", proxy.query_route(topic, definition.Endpoints()).seen())
    malformed = definition.Endpoints()
    malformed.scheme = definition.AddressScheme.IPv4
    where = malformed.addresses.add()
    where.host, where.port = "no.such.address.300.1.2", -5
    scene.saw("malformed endpoints", proxy.query_route(topic, malformed).seen())


@case(
    "R6.03", "rocketmq/grpc-telemetry-settings",
    requirement="Client settings sent over Telemetry are answered by the server's own (retry policy, batch size, body limit), "
    "whatever the client asked; receiving before that is refused with an error status.",
    reference="service.proto Telemetry", level="MUST", revision=2,
    accepts={
        "producer": must("the server's own values"), "consumer": must("the server's own values"),
        "receiving before": among("refused with an error status", refused="PASS", served_without_settings="NONSTRICT"),
    },
    records=("the server's values",),
)  # fmt: skip
def test_grpc_telemetry_settings(scene: RocketmqScene) -> None:
    topic, group = scene.topic(), scene.group()
    sender = scene.proxy("sender")
    asked = sender.settings(topics=[topic])
    asked.backoff_policy.max_attempts, asked.publishing.max_body_size = 77, 1
    _, told = sender.introduce(settings=asked)
    own = told is not None and told.backoff_policy.max_attempts not in (0, 77) and told.publishing.max_body_size > 1
    scene.require("producer", own, "no settings" if told is None else f"{told.backoff_policy.max_attempts} attempts, {told.publishing.max_body_size} octets")  # fmt: skip
    values: dict[str, Any] = {}
    if told is not None:
        values |= {"attempts of a producer": told.backoff_policy.max_attempts, "body": told.publishing.max_body_size}
    sender.send(sender.message(topic))
    early = scene.proxy("early").receive(topic, group)
    served = bool(early.messages) or (early.ok and not early.rpc) or early.code == 40401
    # Who is left waiting has not been refused.
    told_so = "no answer" if early.rpc == "DEADLINE_EXCEEDED" else "refused"
    scene.saw(
        "receiving before", Seen("served without settings" if served else told_so, code=early.code, detail=early.text)
    )
    consumer = scene.proxy("consumer")
    asked = consumer.settings(topics=[topic], group=group)
    asked.backoff_policy.max_attempts, asked.subscription.receive_batch_size = 77, 77
    _, told = consumer.introduce(settings=asked)
    own = told is not None and told.backoff_policy.max_attempts not in (0, 77) and told.subscription.receive_batch_size not in (0, 77)  # fmt: skip
    scene.require("consumer", own, "no settings" if told is None else f"{told.backoff_policy.max_attempts} attempts, batches of {told.subscription.receive_batch_size}")  # fmt: skip
    if told is not None:
        values |= {
            "attempts of a consumer": told.backoff_policy.max_attempts, "batch": told.subscription.receive_batch_size,
        }  # fmt: skip
    scene.record("the server's values", values)


@case(
    "R6.04", "rocketmq/grpc-send-limits",
    requirement="An empty message id gets 40009, an empty body 41302, one above 4 MiB 41301, more than 16 KiB or 128 user "
    "properties 43101, a reserved property key 40007, a message group above 64 characters 40006, several topics in one call "
    "40016; nothing is stored.",
    reference="Code; proxy limits", level="?", negative=True,
    accepts={
        "empty message id": status(40009), "empty body": status(41302), "body above 4 MiB": status(41301),
        "properties above 16 KiB": status(43101), "129 properties": status(43101), "reserved key": status(40007),
        "message group of 65": status(40006), "several topics": status(40016), "stored": must("nothing"),
    },
)  # fmt: skip
def test_grpc_send_limits(scene: RocketmqScene) -> None:
    topic, other, ordered, proxy = scene.topic(), scene.topic("other"), scene.topic(kind="FIFO"), scene.proxy()
    made = proxy.message
    for step, messages in {
        "empty message id": [made(topic, id="")],
        "empty body": [made(topic, b"")],
        "body above 4 MiB": [made(topic, bytes((4 << 20) + 1))],
        "properties above 16 KiB": [made(topic, words={"k": "v" * (16 << 10)})],
        "129 properties": [made(topic, words={f"k{i}": "v" for i in range(129)})],
        "reserved key": [made(topic, words={"UNIQ_KEY": "v"})],
        "message group of 65": [made(ordered, kind="FIFO", group="g" * 65)],
        "several topics": [made(topic), made(other)],
    }.items():
        scene.saw(step, proxy.send(*messages).seen())
    ends = [scene.end_offset(t) for t in (topic, other, ordered)]
    if None in ends:
        scene.inconclusive(f"the broker does not say where the topics end: {ends}")
    scene.require("stored", not any(ends), f"messages in the topics: {ends}")


@case(
    "R6.05", "rocketmq/grpc-message-type",
    requirement="A message whose type is not its topic's gets 40014.",
    reference="topic type validation", level="MUST", negative=True,
    accepts={f"{m} to {t}": status(40014) for t, m in (
        ("NORMAL", "FIFO"), ("NORMAL", "DELAY"), ("NORMAL", "TRANSACTION"), ("FIFO", "NORMAL"), ("DELAY", "NORMAL"),
        ("TRANSACTION", "NORMAL"),
    )},
    records=("by remoting",),
)  # fmt: skip
def test_grpc_message_type(scene: RocketmqScene) -> None:
    proxy = scene.proxy()
    topics = {kind: scene.topic(kind.lower(), kind=kind) for kind in ("NORMAL", "FIFO", "DELAY", "TRANSACTION")}
    for step in scene.case.accepts:
        kind, _, of = step.partition(" to ")
        message = proxy.message(
            topics[of], kind=kind, group="g" if kind == "FIFO" else "", deliver_in_s=5 if kind == "DELAY" else None
        )
        scene.saw(step, proxy.send(message).seen())
    broker = scene.broker()
    taken = {
        "DELAY to NORMAL": scene.send(broker, topics["NORMAL"], b"m", {"DELAY": "1"}),
        "FIFO to NORMAL": scene.send(broker, topics["NORMAL"], b"m", {"__SHARDINGKEY": "g"}),
        "NORMAL to FIFO": scene.send(broker, topics["FIFO"], b"m"),
    }
    scene.record("by remoting", {name: None if a is None else a.code for name, a in taken.items()})


@case(
    "R6.06", "rocketmq/grpc-delay-ceiling",
    requirement="A delivery time beyond the proxy's maximum delay (24 h) gets 40012; one just under it is accepted.",
    reference="Code ILLEGAL_DELIVERY_TIME", level="?", negative=True,
    accepts={"beyond": status(40012), "just under": status(OK).or_else(Line("PASS", behaviour=("answered",), codes=(OK,)))},
)  # fmt: skip
def test_grpc_delay_ceiling(scene: RocketmqScene) -> None:
    topic, proxy = scene.topic(kind="DELAY"), scene.proxy()
    scene.saw("beyond", proxy.send(proxy.message(topic, kind="DELAY", deliver_in_s=_DAY_S + 300)).seen())
    scene.saw("just under", proxy.send(proxy.message(topic, kind="DELAY", deliver_in_s=_DAY_S - 300)).seen())


@case(
    "R6.07", "rocketmq/grpc-receive-limits",
    requirement="An invisible duration under 10 s or above 12 h gets 40011, a bad filter expression 40010, a long-polling time "
    "outside its bounds 40018.",
    reference="Code", level="?", negative=True,
    accepts={
        "invisible for 9 s": status(40011), "invisible for 12 h and 1 s": status(40011), "bad expression": status(40010),
        "polling for 0 s": status(40018), "polling for an hour": status(40018),
    },
)  # fmt: skip
def test_grpc_receive_limits(scene: RocketmqScene) -> None:
    topic, group, proxy = scene.topic(), scene.group(), scene.proxy()
    proxy.introduce(topics=[topic], group=group)
    scene.saw("invisible for 9 s", proxy.receive(topic, group, invisible_s=9).seen())
    scene.saw("invisible for 12 h and 1 s", proxy.receive(topic, group, invisible_s=_DAY_S / 2 + 1).seen())
    scene.saw("bad expression", proxy.receive(topic, group, expression="a >", kind="SQL").seen())
    # Were they clamped, the answer would come after the longest polling time.
    scene.saw("polling for 0 s", proxy.receive(topic, group, poll_s=0, within_s=30).seen())
    scene.saw("polling for an hour", proxy.receive(topic, group, poll_s=3600, within_s=30).seen())


@case(
    "R6.08", "rocketmq/grpc-receive-empty",
    requirement="A receive on an empty queue ends, at the end of the stream, with status OK and no message.",
    reference="service.proto ReceiveMessage", level="MUST",
    accepts={"": Table("status OK, no message", (
        Line("PASS", behaviour=("no message",), codes=(OK,)), Line("CODE", behaviour=("no message",)),
    ))},
)  # fmt: skip
def test_grpc_receive_empty(scene: RocketmqScene) -> None:
    topic, group, proxy = scene.topic(), scene.group(), scene.proxy()
    proxy.introduce(topics=[topic], group=group)
    answer = proxy.receive(topic, group)
    if answer.rpc:
        scene.saw("", answer.seen())
    else:
        scene.saw("", Seen("messages" if answer.messages else "no message", code=answer.code, detail=answer.text))


def _one(scene: RocketmqScene, proxy: Proxy, topic: str, group: str) -> Any:
    """One message received; the case is inconclusive without."""
    got = proxy.received(topic, group, 20)
    if not got:
        scene.inconclusive("the message was not received within 20 s")
    return got[0].system_properties


@case(
    "R6.09", "rocketmq/grpc-receipt-handle",
    requirement="An ack with a forged and with an expired handle gets 40013; ChangeInvisibleDuration gives a new handle, the old "
    "one is dead (40013), the new one works.",
    reference="Code INVALID_RECEIPT_HANDLE", level="MUST", tags=("slow",), timing=True, limit_s=90,
    accepts={
        "forged": status(40013), "expired": status(40013), "new handle": must("another one"), "old handle": status(40013),
        "new handle works": must("acknowledged"),
    },
)  # fmt: skip
def test_grpc_receipt_handle(scene: RocketmqScene) -> None:
    topic, group, proxy = scene.topic(), scene.group(), scene.proxy()
    proxy.introduce(topics=[topic], group=group)
    proxy.send(proxy.message(topic, b"first"))
    first = _one(scene, proxy, topic, group)
    scene.saw("forged", proxy.ack(topic, group, first.message_id, "a forged handle").seen())
    scene.pause(11)
    scene.saw("expired", proxy.ack(topic, group, first.message_id, first.receipt_handle).seen())
    proxy.send(proxy.message(topic, b"second"))
    second = _one(scene, proxy, topic, group)
    old = second.receipt_handle
    changed = proxy.change_invisible(topic, group, second.message_id, old, 30)
    new = changed.response.receipt_handle if changed.response is not None else ""
    scene.require("new handle", changed.ok and bool(new) and new != old, f"{changed.seen()}: {'the same' if new == old else 'none'}")  # fmt: skip
    scene.saw("old handle", proxy.ack(topic, group, second.message_id, old).seen())
    works = proxy.ack(topic, group, second.message_id, new)
    scene.require("new handle works", works.ok, str(works.seen()))


@case(
    "R6.10", "rocketmq/grpc-fifo",
    requirement="The next message of a message group is not delivered before the last is acknowledged; other message groups go "
    "on; the order is kept over redelivery.",
    reference="service.proto; FIFO topics", level="MUST", revision=2, tags=("slow",), timing=True, limit_s=120,
    accepts={
        "held back": must("not before the ack"), "others go on": must("delivered"), "redelivered": must("the same first"),
        "order": must("one after the other"),
    },
)  # fmt: skip
def test_grpc_fifo(scene: RocketmqScene) -> None:
    topic, group, proxy = scene.topic(kind="FIFO", queues=8), scene.group(orderly=True), scene.proxy()
    proxy.introduce(topics=[topic], group=group)
    for body in (b"A0", b"A1", b"A2", b"B0", b"C0"):
        scene.done_by(proxy.send(proxy.message(topic, body, kind="FIFO", group=body[:1].decode())), "sending")
    got: dict[bytes, Any] = {}
    early: list[bytes] = []
    until = scene.patience(8)
    while scene.left(until) and len(got) < 3:
        for message in proxy.receive(topic, group, n=1).messages:
            body = bytes(message.body)
            got.setdefault(body, message)
            early += [body] if body in (b"A1", b"A2") else []
    # The others are there, so the next of A's would have its turn now.
    for message in proxy.received(topic, group, scene.window_s, n=8, no_longer=True):
        body = bytes(message.body)
        got[body] = message  # of the others only its newest handle is good
        early += [body] if body in (b"A1", b"A2") else []
    scene.require("held back", b"A0" in got and not early, f"{early or 'A0 not'} delivered")
    others = sorted(b for b in got if not b.startswith(b"A"))
    scene.require("others go on", others == [b"B0", b"C0"], f"{others} delivered")
    for body in others:
        proxy.acked(topic, group, got[body])
    again = proxy.received(topic, group, 40)
    bodies = [bytes(m.body) for m in again]
    scene.require("redelivered", bodies == [b"A0"], f"{bodies}")
    order: list[bytes] = []
    while again and len(order) < 3:
        order.append(bytes(again[0].body))
        proxy.acked(topic, group, again[0])
        again = proxy.received(topic, group, 15)
    scene.require("order", order == [b"A0", b"A1", b"A2"], f"{order}")


@case(
    "R6.11", "rocketmq/grpc-delivery-attempt",
    requirement="delivery_attempt is 1 at first and one more at each redelivery; the maximum follows the settings' retry policy; "
    "afterwards the message is in the dead-letter topic.",
    reference="definition.proto", level="MUST", tags=("slow",), timing=True, limit_s=180,
    accepts={
        "policy": must("of the group"), "attempts": must("1, 2, 3"), "no more": must("not delivered again"),
        "dead letter": must("in the dead-letter topic"),
    },
    records=("backoff of the settings", "seconds between attempts"),
)  # fmt: skip
def test_grpc_delivery_attempt(scene: RocketmqScene) -> None:
    topic, group, proxy = scene.topic(), scene.group(retry_max=2), scene.proxy()
    _, told = proxy.introduce(topics=[topic], group=group)
    policy = None if told is None else told.backoff_policy
    scene.require(
        "policy", policy is not None and policy.max_attempts == 3, f"{policy and policy.max_attempts} attempts"
    )
    scene.record("backoff of the settings", " ".join(str(policy).split())[:200])
    proxy.send(proxy.message(topic, b"fails"))
    attempts: list[int] = []
    seconds: list[float] = []
    for _ in range(3):
        before = scene.log.elapsed()
        for message in proxy.received(topic, group, 45):
            attempts.append(message.system_properties.delivery_attempt)
            seconds.append(round(scene.measured(scene.log.elapsed() - before), 1))
    scene.record("seconds between attempts", seconds)
    scene.require("attempts", attempts == [1, 2, 3], f"{attempts}")
    more = proxy.received(topic, group, 20)
    scene.require("no more", not more, f"attempt {more[0].system_properties.delivery_attempt}" if more else "")
    dead = scene.appears(f"%DLQ%{group}", lambda m: m.body == b"fails", 20)
    scene.require("dead letter", dead is not None, "not there")


@case(
    "R6.12", "rocketmq/grpc-orphaned-transaction",
    requirement="An undecided transaction is put over Telemetry to a live producer of the topic within the check time + 60 s, "
    "and its EndTransaction decides it.",
    reference="service.proto RecoverOrphanedTransactionCommand", level="MUST", tags=("slow",), limit_s=150,
    accepts={"asked": must("within the time"), "decided": must("visible once")},
    records=("asked after",),
)  # fmt: skip
def test_grpc_orphaned_transaction(scene: RocketmqScene) -> None:
    topic, proxy = scene.topic(kind="TRANSACTION"), scene.proxy("producer")
    stream, _ = proxy.introduce(topics=[topic])
    proxy.heartbeat()
    began = scene.log.elapsed()
    scene.done_by(proxy.send(proxy.message(topic, b"orphan", kind="TRANSACTION")), "sending")
    # transactionTimeOut 6 s, transactionCheckInterval 30 s.
    asked = stream.next(6 + 30 + 60, "recover_orphaned_transaction_command")
    took = scene.measured(scene.log.elapsed() - began)
    scene.record("asked after", f"{took:.1f} s" if asked else "never")
    if not scene.require("asked", asked is not None, "never") or asked is None:
        scene.require("decided", False, "never asked")
        return
    command = asked[1].recover_orphaned_transaction_command
    id = command.message.system_properties.message_id
    answer = proxy.end_transaction(topic, id, command.transaction_id, "COMMIT", checked=True)
    scene.appears(topic, lambda m: m.body == b"orphan", 10)
    scene.pause(1)
    times = sum(m.body == b"orphan" for m in scene.read(topic))
    scene.require("decided", times == 1, f"{times} times; {answer.seen()}")


@case(
    "R6.14", "rocketmq/grpc-unknown-rpc",
    requirement="A method that the proxy's version does not have, and one that no version has, get gRPC UNIMPLEMENTED.",
    reference="gRPC status codes", level="MUST", negative=True,
    accepts={"of another version": _UNIMPLEMENTED, "of no version": _UNIMPLEMENTED},
)  # fmt: skip
def test_grpc_unknown_rpc(scene: RocketmqScene) -> None:
    proxy = scene.proxy()
    request = service.QueryRouteRequest()
    # QueryOffset is in the proto files since 5.2; the proxy of 5.3 and 5.5 has no such method.
    for step, name in (("of another version", "QueryOffset"), ("of no version", "NoSuchMethod")):
        answer: Answer = proxy.call(name, request, service.QueryRouteResponse)
        scene.saw(step, answer.seen())


@case(
    "R6.13", "rocketmq/grpc-store-timeouts",
    requirement="The status that a client gets when the master's flush, or the slave, is too late, or there is no slave; and "
    "whether the message is readable.",
    reference="Code", level="unspecified", tags=("cluster", "destructive"), topology="master-slave",
    settings={"brokerRole": "SYNC_MASTER", "totalReplicas": 2, "inSyncReplicas": 2, "flushDiskType": "SYNC_FLUSH"}, limit_s=200, equipment=("disk",),
    records=("master's flush too late", "slave too late", "no slave"),
)  # fmt: skip
def test_grpc_store_timeouts(scene: RocketmqScene) -> None:
    topic, proxy, master = scene.topic(), scene.proxy(), scene.place.master()
    slave = next(node for node in scene.place.brokers if node != master)
    scene.reader(master)  # a group is written to the disk that is about to be slow

    def fate(body: bytes) -> str:
        answer = proxy.send(proxy.message(topic, body), within_s=20)
        readable = scene.appears(topic, lambda m: m.body == body, 2, node=master) is not None
        return f"{answer.seen()}, {'readable' if readable else 'not readable'}"

    if scene.place.slow_disk(master):
        scene.finally_(lambda: scene.place.quick_disk(master))
        scene.record("master's flush too late", fate(b"slow"))
        scene.place.quick_disk(master)
    else:
        scene.configure({"syncFlushTimeout": 0}, master)
        scene.record(
            "master's flush too late", f"{fate(b'slow')} (no disk here that can be slowed: syncFlushTimeout=0)"
        )
        scene.configure({"syncFlushTimeout": int(scene.seconds(5) * 1000)}, master)
    scene.until(
        lambda: proxy.send(proxy.message(topic, b"as before"), within_s=20).ok, 60, "the disk as quick as before"
    )
    scene.finally_(scene.place.heal)
    scene.place.cut([master], [slave])
    scene.record("slave too late", fate(b"stalled"))
    scene.place.heal()
    scene.place.kill(slave)
    scene.finally_(lambda: scene.place.start(slave))
    scene.record("no slave", fate(b"stopped"))
