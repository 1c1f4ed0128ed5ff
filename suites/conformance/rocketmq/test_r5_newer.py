"""R5 Delay, transactions, newer kinds. Reference: broker setting, request code or document of apache/rocketmq."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from brokerproof.conformance.case import Seen, among, case, error, must
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

_DOCUMENT = "transaction design document"
#: Transaction bits of a message's sysFlag. Source: MessageSysFlag.java.
_PREPARED, _COMMIT, _ROLLBACK = 4, 8, 12
#: Milliseconds by which the broker's clock and this one may be read apart.
_READ_MS = 5


def _lateness(scene: RocketmqScene, messages: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    return {name: f"{scene.measured(came - due):.2f} s" for name, (due, came) in messages.items()}


@case(
    "R5.01", "rocketmq/delay-levels",
    requirement="Messages of delay level 1 to 4 (1, 5, 10, 30 s) are never early and never lost; a level above 18 is treated "
    "as 18; level 0 is immediate.",
    reference="messageDelayLevel", level="MUST", tags=("slow",), limit_s=90,
    accepts={"levels": must("never early, none lost"), "above 18": must("stored at level 18"), "level 0": must("immediate")},
    records=("lateness",),
)  # fmt: skip
def test_delay_levels(scene: RocketmqScene) -> None:
    topic, broker = scene.topic(), scene.broker()
    delays = {"1": 1, "2": 5, "3": 10, "4": 30}
    # Stamped before the send: what is stored before stamp + delay is early for certain.
    sent = {level: time.time() for level in delays}
    for level in delays:
        sent[level] = time.time()
        scene.sent(broker, topic, [level.encode()], {"DELAY": level})
    scene.sent(broker, topic, [b"now"], {"DELAY": "0"})
    scene.require("level 0", scene.appears(topic, lambda m: m.body == b"now", 2) is not None, "not there within 2 s")
    marker = scene.fresh("19").encode()
    scene.sent(broker, topic, [marker], {"DELAY": "19"})
    kept = scene.appears("SCHEDULE_TOPIC_XXXX", lambda m: m.body == marker, 5, queues=18)
    scene.require(
        "above 18", kept is not None and kept.queue == 17, "nowhere" if kept is None else f"queue {kept.queue}"
    )
    found = _all(scene, topic, set(delays), 40)
    _judge(scene, "levels", {k: (sent[k] + scene.seconds(delays[k]), found.get(k)) for k in delays}, 0)


def _all(scene: RocketmqScene, topic: str, bodies: set[str], within_s: float) -> dict[str, Stored]:
    """The first message of each of these bodies, as far as they come."""
    found: dict[str, Stored] = {}

    def complete() -> bool:
        for message in scene.read(topic):
            found.setdefault(message.body.decode(), message)
        return bodies <= found.keys()

    scene.within(complete, within_s, every_s=0.3)
    return found


def _judge(
    scene: RocketmqScene, step: str, messages: Mapping[str, tuple[float, Stored | None]], early_s: float
) -> None:
    """messages: name -> (when it was due at the earliest, in seconds since 1970, and what came)."""
    lost = [name for name, (_, m) in messages.items() if m is None]
    came = {name: (due, m.stored_ms / 1000) for name, (due, m) in messages.items() if m is not None}
    early = [n for n, (due, at) in came.items() if at < due - scene.seconds(early_s) - _READ_MS / 1000]
    scene.record("lateness", _lateness(scene, came))
    scene.require(
        step, not lost and not early, f"lost: {', '.join(lost) or 'none'}; early: {', '.join(early) or 'none'}"
    )


@case(
    "R5.02", "rocketmq/arbitrary-delay",
    requirement="Delays of 1 to 20 s in ms are never early by more than the precision of 1 s; beyond the ceiling (3 days) a "
    "message gets 13.",
    reference="timer messages", level="MUST", tags=("slow",), needs="rocketmq>=5.0", limit_s=90,
    accepts={"delays": must("never early, none lost"), "beyond the ceiling": error(codes.MESSAGE_ILLEGAL)},
    records=("lateness",),
)  # fmt: skip
def test_arbitrary_delay(scene: RocketmqScene) -> None:
    topic, broker = scene.topic(kind="DELAY"), scene.broker()
    due: dict[str, float] = {}
    for delay_s in (1.0, 2.345, 5.5, 9.999, 14.2, 20.0):
        due[f"{delay_s}"] = time.time() + scene.seconds(delay_s)
        words = {"TIMER_DELIVER_MS": str(int(due[f"{delay_s}"] * 1000))}
        scene.sent(broker, topic, [f"{delay_s}".encode()], words)
    # timerMaxDelaySec is three days.
    beyond = int((time.time() + scene.seconds(3 * 86400 + 3600)) * 1000)
    scene.saw("beyond the ceiling", broker.seen(scene.send(broker, topic, b"never", {"TIMER_DELIVER_MS": str(beyond)})))
    found = _all(scene, topic, set(due), 40)
    _judge(scene, "delays", {k: (at, found.get(k)) for k, at in due.items()}, 1)


# -- transactions ------------------------------------------------------------------------------------------------------


def _half(scene: RocketmqScene, to: Remote, topic: str, body: bytes, group: str) -> tuple[Frame, dict[str, Any]]:
    """Sends a half message; its answer, and what END_TRANSACTION says of it."""
    key = scene.fresh("K")
    words = {"TRAN_MSG": "true", "PGROUP": group, "UNIQ_KEY": key}
    sent = scene.done(scene.send(to, topic, body, words, group=group, sys_flag=_PREPARED), "sending a half message")
    # The message id is address, port and physical offset in hexadecimal. Source: MessageDecoder.createMessageId.
    position = int(sent.fields["msgId"][-16:], 16)
    return sent, {
        "topic": topic, "producerGroup": group, "tranStateTableOffset": int(sent.fields["queueOffset"]),
        "commitLogOffset": position, "msgId": key, "transactionId": sent.fields.get("transactionId") or key,
        "fromTransactionCheck": False,
    }  # fmt: skip


def _count(scene: RocketmqScene, topic: str, body: bytes) -> int:
    return sum(m.body == body for m in scene.read(topic))


@case(
    "R5.03", "rocketmq/half-message",
    requirement="A half message is not visible before its commit, once after it, and never after a rollback.",
    reference=f"{_DOCUMENT}; END_TRANSACTION (37)", level="MUST",
    accepts={
        "before commit": must("not visible"), "after commit": must("visible once"), "after rollback": must("never visible"),
    },
)  # fmt: skip
def test_half_message(scene: RocketmqScene) -> None:
    topic, broker, group = scene.topic(kind="TRANSACTION"), scene.broker(), scene.fresh("producers")
    _, kept = _half(scene, broker, topic, b"kept", group)
    _, dropped = _half(scene, broker, topic, b"dropped", group)
    scene.pause(scene.window_s)
    scene.require("before commit", not scene.read(topic), "visible")
    scene.done(broker.call(codes.END_TRANSACTION, {**kept, "commitOrRollback": _COMMIT}), "committing")
    scene.done(broker.call(codes.END_TRANSACTION, {**dropped, "commitOrRollback": _ROLLBACK}), "rolling back")
    scene.appears(topic, lambda m: m.body == b"kept", 5)
    scene.pause(scene.window_s)
    scene.require("after commit", _count(scene, topic, b"kept") == 1, f"{_count(scene, topic, b'kept')} times")
    scene.require("after rollback", _count(scene, topic, b"dropped") == 0, "visible")


def _lower(scene: RocketmqScene, timeout_s: float, interval_s: float, most: int) -> dict[str, str]:
    """Sets the three words lower, live; what they were."""
    before = scene.config()
    words = ("transactionTimeOut", "transactionCheckInterval", "transactionCheckMax")
    lower = (int(scene.seconds(timeout_s) * 1000), int(scene.seconds(interval_s) * 1000), most)
    scene.configure(dict(zip(words, lower, strict=True)))
    return {name: before.get(name, "not there") for name in words}


def _checks(scene: RocketmqScene, to: Remote, key: str, wanted: int, within_s: float) -> list[float]:
    """When the broker asked for the fate of that message, on the monotonic clock; others' are left undecided too."""
    times: list[float] = []
    until = scene.patience(within_s)
    while len(times) < wanted and time.monotonic() < until:
        asked = to.told(codes.CHECK_TRANSACTION_STATE, scene.measured(until - time.monotonic()))
        if asked is None:
            break
        if key in (asked[1].fields.get("msgId"), asked[1].fields.get("transactionId")):
            times.append(asked[0])
    return times


@case(
    "R5.04", "rocketmq/transaction-check",
    requirement="An undecided half message is checked (39) not before transactionTimeOut, then a transactionCheckInterval apart "
    "(20 % more or less), and never more than transactionCheckMax times.",
    reference="transactionTimeOut, transactionCheckInterval, transactionCheckMax", level="?",
    tags=("slow", "config", "destructive"), timing=True, limit_s=180,
    accepts={"first": must("not before the timeout"), "apart": must("an interval"), "most": must("the maximum, no more")},
    records=("untouched values", "seconds of the checks"),
)  # fmt: skip
def test_transaction_check(scene: RocketmqScene) -> None:
    scene.record("untouched values", _lower(scene, 6, 8, 3))
    topic, broker, group = scene.topic(kind="TRANSACTION"), scene.broker("producer"), scene.fresh("producers")
    scene.heartbeat(broker, scene.fresh("client"), producer=group)
    # The interval that is being waited out was begun with the former value.
    began = time.monotonic()
    _, words = _half(scene, broker, topic, b"undecided", group)
    times = _checks(scene, broker, words["msgId"], 4, 80)
    apart = [scene.measured(b - a) for a, b in itertools.pairwise(times)]
    scene.record("seconds of the checks", [round(scene.measured(at - began), 1) for at in times])
    scene.require("first", bool(times) and scene.measured(times[0] - began) >= 6, "no check" if not times else f"{scene.measured(times[0] - began):.1f} s")  # fmt: skip
    scene.require(
        "apart", len(apart) >= 2 and all(6.4 <= s <= 9.6 for s in apart), f"{[round(s, 1) for s in apart]} s, not 8"
    )
    scene.require("most", len(times) == 3, f"{len(times)} checks, not 3")


@case(
    "R5.05", "rocketmq/transaction-check-exhausted",
    requirement="A half message that is never decided is rolled back when its checks are used up: neither delivered nor kept in "
    "any topic of the broker.",
    reference=_DOCUMENT, level="?", tags=("slow", "config", "destructive"), limit_s=150,
    accepts={"delivered": must("never"), "kept": must("in no topic")},
)  # fmt: skip
def test_transaction_check_exhausted(scene: RocketmqScene) -> None:
    _lower(scene, 2, 3, 2)
    topic, broker, group = scene.topic(kind="TRANSACTION"), scene.broker("producer"), scene.fresh("producers")
    scene.heartbeat(broker, scene.fresh("client"), producer=group)
    body = scene.fresh("exhausted").encode()
    _, words = _half(scene, broker, topic, body, group)
    _checks(scene, broker, words["msgId"], 2, 60)
    scene.pause(12)
    scene.require("delivered", _count(scene, topic, body) == 0, "delivered")
    found = [name for name, queues in _system_topics(scene).items() if _holds(scene, name, queues, body)]
    scene.require("kept", not found, f"found in {', '.join(found)}")


def _system_topics(scene: RocketmqScene) -> dict[str, int]:
    """The topics that are nobody's, and how many queues they have."""
    answer = scene.done(scene.admin().call(codes.GET_ALL_TOPIC_CONFIG), "asking for all topics")
    table = wire.loads(answer.body)["topicConfigTable"]
    mine = scene.place.broker_name
    return {
        str(name): int(config["readQueueNums"]) for name, config in table.items()
        if (name.isupper() and name != mine) or name.startswith("rmq_sys_")
    }  # fmt: skip


def _holds(scene: RocketmqScene, topic: str, queues: int, body: bytes) -> bool:
    """Whether the message is in a topic. The half topic is a log: what its own reader has passed is done with."""
    done = 0
    if topic == "RMQ_SYS_TRANS_HALF_TOPIC":
        asked = {"consumerGroup": "CID_RMQ_SYS_TRANS", "topic": topic, "queueId": 0}
        answer = scene.admin().call(codes.QUERY_CONSUMER_OFFSET, asked)
        done = int(answer.fields.get("offset", 0)) if answer is not None else 0
    return any(m.body == body and m.offset >= done for m in scene.read(topic, queues=queues))


@case(
    "R5.06", "rocketmq/end-transaction-errors",
    requirement="END_TRANSACTION with another producer group or wrong offsets gets 1 and leaves the message undecided; sent to a "
    "slave it gets 11.",
    reference="END_TRANSACTION (37)", level="?", tags=("cluster",), topology="master-slave", limit_s=90,
    accepts={
        "another group": error(codes.SYSTEM_ERROR), "wrong offset": error(codes.SYSTEM_ERROR),
        "undecided": must("undecided still"), "slave": error(codes.SLAVE_NOT_AVAILABLE),
    },
)  # fmt: skip
def test_end_transaction_errors(scene: RocketmqScene) -> None:
    topic, broker, group = scene.topic(kind="TRANSACTION"), scene.broker(), scene.fresh("producers")
    _, words = _half(scene, broker, topic, b"half", group)
    commit = {**words, "commitOrRollback": _COMMIT}
    other = broker.call(codes.END_TRANSACTION, {**commit, "producerGroup": scene.fresh("others")})
    scene.saw("another group", broker.seen(other))
    wrong = broker.call(codes.END_TRANSACTION, {**commit, "tranStateTableOffset": words["tranStateTableOffset"] + 7})
    scene.saw("wrong offset", broker.seen(wrong))
    slave = next(node for node in scene.place.brokers if node != scene.place.master())
    there = scene.broker("slave", node=slave)
    scene.saw("slave", there.seen(there.call(codes.END_TRANSACTION, commit)))
    scene.pause(2)
    hidden = not scene.read(topic)
    decided = broker.call(codes.END_TRANSACTION, commit)
    visible = scene.appears(topic, lambda m: m.body == b"half", 5) is not None
    scene.require("undecided", hidden and visible, f"{'hidden' if hidden else 'visible'} before; right commit {broker.seen(decided)}")  # fmt: skip


@case(
    "R5.07", "rocketmq/transaction-producer-killed",
    requirement="When a producer dies after its half message, the check goes to another member of its group, whose commit makes "
    "the message visible once.",
    reference=_DOCUMENT, level="MUST", tags=("destructive", "slow"), limit_s=150,
    accepts={"asked": must("the other member"), "visible": must("once")},
)  # fmt: skip
def test_transaction_producer_killed(scene: RocketmqScene) -> None:
    topic, group = scene.topic(kind="TRANSACTION"), scene.fresh("producers")
    dying, other = scene.broker("dying"), scene.broker("other")
    scene.heartbeat(dying, scene.fresh("dying-"), producer=group)
    scene.heartbeat(other, scene.fresh("other-"), producer=group)
    _, words = _half(scene, dying, topic, b"orphan", group)
    dying.link.abort()
    asked = other.told(codes.CHECK_TRANSACTION_STATE, 100)
    if not scene.require("asked", asked is not None, "nobody within 100 s") or asked is None:
        scene.require("visible", False, "never decided")
        return
    fields = asked[1].fields
    other.call(codes.END_TRANSACTION, {
        **words, "tranStateTableOffset": fields["tranStateTableOffset"], "commitLogOffset": fields["commitLogOffset"],
        "fromTransactionCheck": True, "commitOrRollback": _COMMIT,
    })  # fmt: skip
    scene.appears(topic, lambda m: m.body == b"orphan", 10)
    scene.pause(2)
    scene.require("visible", _count(scene, topic, b"orphan") == 1, f"{_count(scene, topic, b'orphan')} times")


# -- newer kinds -------------------------------------------------------------------------------------------------------


@case(
    "R5.08", "rocketmq/newer-kinds",
    requirement="A topic of the type is made, and sends and receives work: priorities are respected, lite topics keep apart.",
    reference="RIP-80, RIP-82, RIP-83", level="extension", needs="rocketmq>=5.4",
    variants={"priority": "rocketmq>=5.4", "lite": "rocketmq>=5.5"},
    # Lite topics are queues of the light message queue (RIP-28), which is off by default.
    variant_settings={"lite": {"enableLmq": True, "enableMultiDispatch": True}},
    accepts={"": among("respected, or refused by name", respected="PASS", refused="UNIMPL")},
)  # fmt: skip
def test_newer_kinds(scene: RocketmqScene) -> None:
    name = scene.fresh("kind")
    scene.remove_later(topic=name)
    kind = scene.variant.upper()
    made = scene.ask_for_topic(scene.admin(), name, queues=10 if kind == "PRIORITY" else 1, kind=kind)
    if made is None or made.code != codes.SUCCESS:
        scene.saw(
            "", Seen("no answer" if made is None else "refused", detail="" if made is None else made.remark[:160])
        )
        return
    scene.until(lambda: scene.routed(name), 10, "the topic's route")
    scene.saw("", _priorities(scene, name) if kind == "PRIORITY" else _apart(scene, name))


def _priorities(scene: RocketmqScene, topic: str) -> Seen:
    """Five messages of priority 0, then one of 9, received one by one."""
    proxy, group = scene.proxy(), scene.group()
    proxy.introduce(topics=[topic], group=group)
    for i, priority in enumerate((0, 0, 0, 0, 0, 9)):
        message = proxy.message(topic, b"%d" % priority, kind="PRIORITY")
        message.system_properties.priority = priority
        answer = proxy.send(message)
        if not answer.ok:
            return Seen("refused" if i == 0 else "not taken", code=answer.code, detail=answer.text)
    # A busy proxy took more than 20 s for the last of six.
    got = [bytes(m.body) for m in proxy.received(topic, group, 45, n=1, wanted=6)]
    return Seen("respected" if got[:1] == [b"9"] and len(got) == 6 else "not respected", detail=f"{got}")


def _apart(scene: RocketmqScene, topic: str) -> Seen:
    """Messages on two lite topics; a consumer of one of them gets its own only."""
    proxy, group = scene.proxy(), scene.group(lite_bind_topic=topic)
    # First the subscription: a new one begins at the end.
    proxy.introduce(topics=[topic], group=group, kind="LITE_PUSH_CONSUMER")
    subscribed = proxy.subscribe_lite(topic, group, ["a"])
    if not subscribed.ok:
        return Seen("refused", code=subscribed.code, detail=subscribed.text or subscribed.rpc)
    for lite in ("a", "b"):
        message = proxy.message(topic, lite.encode(), kind="LITE")
        message.system_properties.lite_topic = lite
        answer = proxy.send(message)
        if not answer.ok:
            return Seen("refused", code=answer.code, detail=answer.text)
    first = proxy.received(topic, group, 15, n=8)
    for message in first:
        proxy.acked(topic, group, message)
    got = [bytes(m.body) for m in [*first, *proxy.received(topic, group, 3, n=8, no_longer=True)]]
    return Seen("respected" if got == [b"a"] else "not respected", detail=f"{got}")
