"""R4 Consuming. Reference: request code, broker setting or document of apache/rocketmq."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from brokerproof.conformance.case import Line, Seen, Table, case, error, must
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

#: Delay levels 3 and 4, in seconds. Source: MessageStoreConfig.java, ``messageDelayLevel``.
_LEVEL_3, _LEVEL_4, _LEVEL_5 = 10, 30, 60


@case(
    "R4.01", "rocketmq/pull",
    requirement="Pulls answer 0 with what is there, 19 at the end, 20 when all is filtered away, 21 with the next offset below "
    "the minimum and far above the maximum; with suspend at the end they are held and answered at once when a message comes.",
    reference="PULL_MESSAGE (11)", level="MUST", timing=True,
    accepts={
        "messages there": must("all of them"), "at the end": error(codes.PULL_NOT_FOUND),
        "filtered away": error(codes.PULL_RETRY_IMMEDIATELY), "below the minimum": error(codes.PULL_OFFSET_MOVED),
        "above the maximum": error(codes.PULL_OFFSET_MOVED), "next offset": must("inside the queue"),
        "suspended": must("held, then answered at once"),
    },
)  # fmt: skip
def test_pull(scene: RocketmqScene) -> None:
    topic, group, broker = scene.topic(), scene.group(), scene.broker()
    scene.sent(broker, topic, [b"0", b"1", b"2"], {"TAGS": "A"})
    scene.until(lambda: scene.end_offset(topic) == 3, 10, "three messages")
    bodies = [m.body for m in scene.messages(scene.pull(broker, group, topic))]
    scene.require("messages there", bodies == [b"0", b"1", b"2"], f"{bodies}")
    scene.saw("at the end", broker.seen(scene.pull(broker, group, topic, offset=3)))
    scene.saw("filtered away", broker.seen(scene.pull(broker, group, topic, expression="B")))
    low, high = scene.pull(broker, group, topic, offset=-1), scene.pull(broker, group, topic, offset=1000)
    scene.saw("below the minimum", broker.seen(low))
    scene.saw("above the maximum", broker.seen(high))
    told = [f.fields.get("nextBeginOffset") if f is not None else None for f in (low, high)]
    scene.require("next offset", all(o is not None and 0 <= int(o) <= 3 for o in told), f"{told}")
    held = broker.ask(codes.PULL_MESSAGE, scene.pull_fields(group, topic, offset=3, suspend_s=5))
    early = broker.wait(held, 1) if scene.scale == 1 else None
    scene.pause(1)
    scene.sent(scene.admin(), topic, [b"3"], {"TAGS": "A"})
    sent_at = time.monotonic()
    answer = broker.wait(held, 10)
    took = scene.measured(time.monotonic() - sent_at)
    good = early is None and [m.body for m in scene.messages(answer)] == [b"3"] and (took <= 1 or (scene.scale < 1 and time.monotonic() - sent_at < 0.5))  # fmt: skip
    scene.require("suspended", good, "answered before" if early else f"{broker.seen(answer)} after {took:.1f} s")


@case(
    "R4.02", "rocketmq/unknown-group",
    requirement="A pull by an unknown group gets 26 with autoCreateSubscriptionGroup=false; with true it is served and the "
    "group exists afterwards.",
    reference="autoCreateSubscriptionGroup", level="?", tags=("config",), variants=("off", "on"),
    variant_settings={"off": {"autoCreateSubscriptionGroup": False}},
    accepts={"": Table("off: 26, no group; on: served, the group exists", (
        Line("PASS", behaviour=("off: refused, no group",), codes=(codes.SUBSCRIPTION_GROUP_NOT_EXIST,)),
        Line("CODE", behaviour=("off: refused, no group",)), Line("PASS", behaviour=("on: served, the group exists",)),
    ))},
)  # fmt: skip
def test_unknown_group(scene: RocketmqScene) -> None:
    scene.set_so("autoCreateSubscriptionGroup", scene.variant == "on")
    topic, group, broker = scene.topic(), scene.fresh("unknown"), scene.broker()
    scene.sent(broker, topic, [b"m"])
    scene.until(lambda: scene.end_offset(topic) == 1, 10, "a message")
    answer = scene.pull(broker, group, topic)
    scene.remove_later(group=group)
    exists = "the group exists" if scene.group_exists(group) else "no group"
    served = "served" if scene.messages(answer) else "no answer" if answer is None else "refused"
    code = answer.code if answer is not None and answer.code else None
    scene.saw("", Seen(f"{scene.variant}: {served}, {exists}", code=code))


@case(
    "R4.03", "rocketmq/tag-filter-hash",
    requirement="Whether a raw pull for one of two tags of equal String.hashCode (Aa, BB) also brings messages of the other.",
    reference="filtering design document", level="unspecified",
    records=("a raw pull for Aa brings", "a receive through the proxy for Aa brings"),
)  # fmt: skip
def test_tag_filter_hash(scene: RocketmqScene) -> None:
    topic, group, broker = scene.topic(), scene.group(), scene.broker()
    scene.sent(broker, topic, [b"Aa"], {"TAGS": "Aa"})
    scene.sent(broker, topic, [b"BB"], {"TAGS": "BB"})
    scene.until(lambda: scene.end_offset(topic) == 2, 10, "two messages")
    pulled = scene.messages(scene.pull(broker, group, topic, expression="Aa"))
    scene.record("a raw pull for Aa brings", sorted(m.body.decode() for m in pulled))
    proxy, by_proxy = scene.proxy(), scene.group()
    proxy.introduce(topics=[topic], group=by_proxy)
    got = proxy.received(topic, by_proxy, 5, n=8, wanted=2, expression="Aa")
    scene.record("a receive through the proxy for Aa brings", sorted({bytes(m.body).decode() for m in got}))


@case(
    "R4.04", "rocketmq/sql-filter",
    requirement="A subscription by SQL92 brings exactly the matching messages, and a bad expression gets 23; a broker without "
    "the filter refuses by an explicit error.",
    reference="SQL92 filter; enablePropertyFilter", level="extension", variants=("default", "enabled"),
    variant_settings={"enabled": {"enablePropertyFilter": True}},
    accepts={
        "filter": Table("exactly the matching messages, or an explicit refusal", (
            Line("PASS", behaviour=("exactly the matching",)), Line("UNIMPL", behaviour=("refused",)),
        )),
        "bad expression": Table("23", (
            Line("PASS", behaviour=("answered",), codes=(codes.SUBSCRIPTION_PARSE_FAILED,)),
            Line("FAIL", behaviour=("answered",), codes=(codes.SUCCESS, codes.PULL_NOT_FOUND, codes.PULL_RETRY_IMMEDIATELY)),
            Line("UNIMPL", behaviour=("answered",), codes=(codes.SYSTEM_ERROR,)), Line("CODE", behaviour=("answered",)),
        )),
    },
)  # fmt: skip
def test_sql_filter(scene: RocketmqScene) -> None:
    topic, group, broker = scene.topic(), scene.group(), scene.broker()
    for i in range(6):
        scene.sent(broker, topic, [b"%d" % i], {"a": str(i), "TAGS": "T"})
    scene.until(lambda: scene.end_offset(topic) == 6, 10, "six messages")
    answer = scene.pull(broker, group, topic, expression="a IS NOT NULL AND a > 3", kind="SQL92")
    bodies = [m.body for m in scene.messages(answer)]
    if answer is not None and answer.code not in (codes.SUCCESS, codes.PULL_RETRY_IMMEDIATELY):
        scene.saw("filter", Seen("refused", code=answer.code, detail=answer.remark[:120]))
    else:
        good = bodies == [b"4", b"5"]
        scene.saw("filter", Seen("exactly the matching" if good else "no answer" if answer is None else "others", detail=f"{bodies}"))  # fmt: skip
    scene.saw("bad expression", broker.seen(scene.pull(broker, group, topic, expression="a >", kind="SQL92")))


@case(
    "R4.05", "rocketmq/clustering-broadcasting",
    requirement="In clustering mode each message goes to one of three consumers; in broadcasting mode to all three, with no "
    "retry after a failure, and offsets kept by the clients.",
    reference="consumption documents", level="MUST", tags=("slow",), limit_s=120, revision=2,
    accepts={
        "clustering": must("each message to one"), "broadcasting": must("each message to all three"),
        "retry": must("a failure in clustering mode is tried again"), "no retry": must("one in broadcasting mode is not"),
        "offsets": must("the broker keeps none"),
    },
    records=("sent back in broadcasting mode",),
)  # fmt: skip
def test_clustering_broadcasting(scene: RocketmqScene) -> None:
    topic = scene.topic(queues=6)
    for queue in range(6):
        scene.sent(scene.admin(), topic, [b"%d" % queue], queue=queue)
    scene.until(lambda: all(scene.end_offset(topic, q) == 1 for q in range(6)), 10, "six messages")
    shared, _ = _consumed(scene, "clustering", topic, 1)
    group, members = _consumed(scene, "broadcasting", topic, 3)
    # A client in clustering mode says a failure by sending back; that it comes again here shows that it would be seen there.
    failed = scene.read(topic, queues=6)[0]
    _back(scene, scene.admin(), failed, topic, shared, 1)
    again = scene.appears(f"%RETRY%{shared}", lambda m: m.body == failed.body, 10)
    scene.require("retry", again is not None, "nothing to retry within 10 s")
    # One in broadcasting mode says nothing, or goes with all that it took; the first retry would be at level 3.
    members[0].link.abort()
    again_s = scene.within(lambda: _retried(scene, topic, group), _LEVEL_3 + 5, no_longer=True)
    scene.require("no retry", again_s is None, f"tried again after {again_s} s")
    kept = {queue: _offset(scene, topic, group, queue) for queue in range(6)}
    scene.require("offsets", set(kept.values()) == {None}, f"kept: {kept}")
    answer = scene.admin().call(codes.CONSUMER_SEND_MSG_BACK, _back_fields(failed, topic, group, 1))
    came = scene.within(lambda: _retried(scene, topic, group), 5) is not None
    scene.record("sent back in broadcasting mode", f"{scene.admin().seen(answer)}, {'tried again' if came else 'not tried again'}")  # fmt: skip


def _consumed(scene: RocketmqScene, mode: str, topic: str, times: int) -> tuple[str, list[Remote]]:
    """A fresh group of three, each of whom pulls what it is given; times: how often each message must come. Group and members."""
    group, model = scene.group(mode), mode.upper()
    members = {scene.fresh(f"client-{i}-"): scene.broker(f"{mode}-{i}") for i in range(3)}
    for client, to in members.items():
        scene.done(scene.heartbeat(to, client, group=group, topics=[topic], model=model), "heartbeat")
    scene.until(lambda: set(scene.members(group)) == set(members), 10, "three members")
    got: list[bytes] = []
    for client, to in members.items():
        for queue in _assigned(scene, to, topic, group, client, model):
            # Each with the subscription of its heartbeat, as clients do.
            got += [m.body for m in scene.messages(scene.pull(to, group, topic, queue=queue))]
    scene.require(mode, sorted(got) == sorted([b"%d" % q for q in range(6)] * times), f"{sorted(got)}"[:200])
    return group, list(members.values())


def _retried(scene: RocketmqScene, topic: str, group: str) -> bool:
    """Whether anything is there to be consumed once more: in the group's retry topic, or behind the six messages."""
    return bool(scene.read(f"%RETRY%{group}")) or any(scene.end_offset(topic, queue) != 1 for queue in range(6))


def _offset(scene: RocketmqScene, topic: str, group: str, queue: int) -> str | None:
    """What the broker answers for the group's offset; None: that it has none."""
    asked = {"consumerGroup": group, "topic": topic, "queueId": queue, "setZeroIfNotFound": False}
    answer = scene.admin().call(codes.QUERY_CONSUMER_OFFSET, asked)
    if answer is not None and answer.code == codes.QUERY_NOT_FOUND:
        return None
    return str(scene.admin().seen(answer)) if answer is None or answer.code else answer.fields.get("offset", "")


def _assigned(scene: RocketmqScene, to: Remote, topic: str, group: str, client: str, model: str) -> list[int]:
    """The queues that the broker gives to that client. Source: QueryAssignmentProcessor.java."""
    asked = {"topic": topic, "consumerGroup": group, "clientId": client, "strategyName": "AVG", "messageModel": model}
    found: list[int] = []

    def told() -> bool:
        answer = to.call(codes.QUERY_ASSIGNMENT, {}, json.dumps(asked).encode())
        body = wire.loads(answer.body) if answer is not None and answer.body else {}
        found[:] = sorted(int(a["messageQueue"]["queueId"]) for a in body.get("messageQueueAssignments") or ())
        return bool(found)

    # A broker learns of a new topic's queues from the name server.
    scene.within(told, 40)
    return found


@case(
    "R4.06", "rocketmq/send-back",
    requirement="A message sent back with delay level 0 comes again on %RETRY%group at level 3 + reconsume count; past the "
    "group's maximum it lands in %DLQ%group; with a level below 0 at once.",
    reference="CONSUMER_SEND_MSG_BACK (36)", level="MUST", tags=("slow",), timing=True, limit_s=150,
    accepts={
        "first retry": must("after level 3"), "second retry": must("after level 4"), "reconsumed": must("counted"),
        "past the maximum": must("in the dead-letter topic"), "level below 0": must("in the dead-letter topic at once"),
    },
)  # fmt: skip
def test_send_back(scene: RocketmqScene) -> None:
    topic, group, few = scene.topic(), scene.group(), scene.group("few", retry_max=2)
    broker = scene.broker()
    scene.sent(broker, topic, [b"slow", b"dead", b"now"])
    slow, dead, now = _first(scene, topic, 3)
    _back(scene, broker, now, topic, group, -1)
    at_once = scene.appears(f"%DLQ%{group}", lambda m: m.body == b"now", 5)
    scene.require("level below 0", at_once is not None, "not there within 5 s")
    message: Stored | None = dead
    for times in range(1, 4):
        assert message is not None
        _back(scene, broker, message, topic, few, 1)
        where = f"%RETRY%{few}" if times < 3 else f"%DLQ%{few}"
        message = scene.appears(where, lambda m, n=times: m.body == b"dead" and m.reconsumed >= n, 15)  # type: ignore[misc]  # bound early
        if message is None:
            break
    scene.require("past the maximum", message is not None, f"not in {where} after {times} times")
    counted = []
    for step, least, most in (("first retry", _LEVEL_3, _LEVEL_4), ("second retry", _LEVEL_4, _LEVEL_5)):
        sent_at = time.monotonic()
        _back(scene, broker, slow, topic, group, 0)
        n = slow.reconsumed + 1
        again = scene.appears(f"%RETRY%{group}", lambda m, n=n: m.body == b"slow" and m.reconsumed == n, most + 5)  # type: ignore[misc]  # bound early
        took = scene.measured(time.monotonic() - sent_at)
        scene.require(step, again is not None and least <= took < most, f"after {took:.1f} s" if again else "never")
        if again is None:
            break
        counted.append(again.reconsumed)
        slow = again
    scene.require("reconsumed", counted == [1, 2], f"{counted}")


def _first(scene: RocketmqScene, topic: str, n: int) -> list[Stored]:
    scene.until(lambda: len(scene.read(topic)) >= n, 10, f"{n} messages in {topic}")
    return scene.read(topic)[:n]


def _back(scene: RocketmqScene, to: Remote, message: Stored, topic: str, group: str, level: int) -> None:
    scene.done(to.call(codes.CONSUMER_SEND_MSG_BACK, _back_fields(message, topic, group, level)), f"sending back at level {level}")  # fmt: skip


def _back_fields(message: Stored, topic: str, group: str, level: int) -> dict[str, Any]:
    return {
        "offset": message.position, "group": group, "delayLevel": level, "originMsgId": "", "originTopic": topic,
        "unitMode": False,
    }  # fmt: skip


@case(
    "R4.07", "rocketmq/orderly",
    requirement="A second client gets no lock on a queue that a first one holds, and gets it within lease (60 s) + 10 s of the "
    "first one's death; a queue whose listener fails stops about 1 s and repeats the same message, in order.",
    reference="LOCK_BATCH_MQ (41), UNLOCK (42)", level="MUST", tags=("slow",), timing=True, limit_s=150,
    accepts={
        "held": must("no lock for the second"), "unlocked": must("the next gets it at once"),
        "after the lease": must("within 70 s"), "stopped": must("nothing else meanwhile"),
        "repeated": must("the same after about 1 s"), "order": must("the next after it"),
    },
)  # fmt: skip
def test_orderly(scene: RocketmqScene) -> None:
    topic, group = scene.topic(kind="FIFO"), scene.group(orderly=True)
    first, second = scene.broker("first"), scene.broker("second")
    scene.require(
        "held", _lock(scene, first, topic, group, "c1") and not _lock(scene, second, topic, group, "c2"), "locked"
    )
    _lock(scene, first, topic, group, "c1", codes.UNLOCK_BATCH_MQ)
    freed = _lock(scene, second, topic, group, "c2")
    scene.require("unlocked", freed, "not free after the unlock")
    second.link.abort()
    took = scene.within(lambda: _lock(scene, first, topic, group, "c1"), 70, every_s=1)
    scene.require("after the lease", took is not None, "never within 70 s")
    # A listener that fails: the client library makes the message invisible for 1 s (suspendCurrentQueueTimeMillis).
    scene.sent(scene.admin(), topic, [b"0", b"1"], {"__SHARDINGKEY": "k"})
    pop = scene.group("pop", orderly=True)
    taken, frame = _popped(scene, first, topic, pop)
    if [m.body for m in taken] != [b"0"]:
        scene.require("stopped", False, f"at first {[m.body for m in taken]}")
        scene.require("repeated", False, "no first message")
        scene.require("order", False, "no first message")
        return
    assert frame is not None
    # Invisible for so long from the request on, not from its answer.
    asked_at = time.monotonic()
    scene.done(first.call(codes.CHANGE_MESSAGE_INVISIBLETIME, {
        **_handle(scene, frame, taken[0], pop, topic), "invisibleTime": int(scene.seconds(1) * 1000),
    }), "making it invisible for 1 s")  # fmt: skip
    meanwhile, last = _popped(scene, first, topic, pop, within_s=0)
    soon = scene.measured(time.monotonic() - asked_at)
    scene.require("stopped", not meanwhile or soon > 1, f"{[m.body for m in meanwhile]} meanwhile")
    again, frame = (meanwhile, last) if meanwhile else _popped(scene, first, topic, pop, within_s=10)
    took = scene.measured(time.monotonic() - asked_at)
    scene.require(
        "repeated", [m.body for m in again] == [b"0"] and took < 5, f"{[m.body for m in again]} after {took:.1f} s"
    )
    if frame is not None and again:
        first.call(codes.ACK_MESSAGE, _handle(scene, frame, again[0], pop, topic))
    after, _ = _popped(scene, first, topic, pop, within_s=10)
    scene.require("order", [m.body for m in after] == [b"1"], f"{[m.body for m in after]}")


def _lock(
    scene: RocketmqScene, to: Remote, topic: str, group: str, client: str, code: int = codes.LOCK_BATCH_MQ
) -> bool:
    """Whether the client got the lock of queue 0."""
    queue = {"topic": topic, "brokerName": scene.place.broker_name, "queueId": 0}
    body = {"consumerGroup": group, "clientId": client, "mqSet": [queue], "onlyThisBroker": True}
    answer = to.call(code, {}, json.dumps(body).encode())
    return bool(answer is not None and answer.body and wire.loads(answer.body).get("lockOKMQSet"))


def _popped(
    scene: RocketmqScene, to: Remote, topic: str, group: str, *, n: int = 1, invisible_s: float = 30.0, order: bool = True,
    within_s: float = 10.0, wanted: int = 1, no_longer: bool = False,
) -> tuple[list[Stored], Frame | None]:  # fmt: skip
    """What one pop brings, tried again until there is something or the time is over."""
    got: list[Stored] = []
    last: Frame | None = None

    def some() -> bool:
        nonlocal last
        last = to.call(codes.POP_MESSAGE, {
            "consumerGroup": group, "topic": topic, "queueId": 0, "maxMsgNums": n,
            "invisibleTime": int(scene.seconds(invisible_s) * 1000), "pollTime": 0,
            "bornTime": int(time.time() * 1000), "initMode": 0, "expType": "TAG", "exp": "*", "order": order,
        })  # fmt: skip
        got.extend(scene.messages(last))
        return len(got) >= wanted

    scene.within(some, within_s, no_longer=no_longer)
    return got, last


def _handle(scene: RocketmqScene, frame: Frame, message: Stored, group: str, topic: str) -> dict[str, Any]:
    """Fields by which a popped message is acknowledged. Source: ExtraInfoUtil.java, PopMessageResponseHeader.java."""
    own = message.properties.get("POP_CK")
    starts = {
        tuple(one.split(" ")[:2]): one.split(" ")[2]
        for one in frame.fields.get("startOffsetInfo", "").split(";")
        if one
    }
    start = starts.get(("0", str(message.queue)), str(message.offset))
    words = frame.fields
    made = f"{start} {words.get('popTime')} {words.get('invisibleTime')} {words.get('reviveQid')} 0 {scene.place.broker_name} {message.queue}"
    return {
        "consumerGroup": group, "topic": topic, "queueId": message.queue, "offset": message.offset,
        "extraInfo": own or made,
    }  # fmt: skip


@case(
    "R4.08", "rocketmq/membership-notice",
    requirement="Whether and when the members of a group are told of one that joins, leaves and dies; seconds until all queues "
    "have an owner again, and duplicates meanwhile.",
    reference="NOTIFY_CONSUMER_IDS_CHANGED (40)", level="unspecified", tags=("slow",), limit_s=120,
    records=("told of a joining", "told of a leaving", "told of a death", "all queues owned after a death", "duplicates after a death"),
)  # fmt: skip
def test_membership_notice(scene: RocketmqScene) -> None:
    topic, group = scene.topic(queues=4), scene.group()
    for queue in range(4):
        scene.sent(scene.admin(), topic, [b"%d" % queue], queue=queue)
    old, ids = scene.broker("old"), {name: scene.fresh(f"{name}-") for name in ("old", "joining", "dying")}
    scene.heartbeat(old, ids["old"], group=group, topics=[topic])
    old.settle(1)

    def told(name: str, act: Any) -> None:
        old.came.clear()
        began = time.monotonic()
        act()
        notice = old.told(codes.NOTIFY_CONSUMER_IDS_CHANGED, 30)
        scene.record(name, f"after {scene.measured(notice[0] - began):.1f} s" if notice else "not within 30 s")

    joining, dying = scene.broker("joining"), scene.broker("dying")
    told("told of a joining", lambda: scene.heartbeat(joining, ids["joining"], group=group, topics=[topic]))
    told("told of a leaving", lambda: joining.call(codes.UNREGISTER_CLIENT, {"clientID": ids["joining"], "consumerGroup": group}))  # fmt: skip
    scene.heartbeat(dying, ids["dying"], group=group, topics=[topic])
    old.settle(1)
    held = _assigned(scene, dying, topic, group, ids["dying"], "CLUSTERING")
    before = [m.body for q in held for m in scene.messages(scene.pull(dying, group, topic, queue=q))]
    began = time.monotonic()
    told("told of a death", dying.link.abort)
    owned = scene.within(lambda: len(_assigned(scene, old, topic, group, ids["old"], "CLUSTERING")) == 4, 40)
    scene.record("all queues owned after a death", "not within 40 s" if owned is None else f"after {scene.measured(time.monotonic() - began):.1f} s")  # fmt: skip
    # Nothing was committed, so whoever has the queues now begins where the group's offset is: the beginning.
    again = [m.body for q in held for m in scene.messages(scene.pull(old, group, topic, queue=q))]
    scene.record(
        "duplicates after a death", f"{len(set(before) & set(again))} of {len(before)} taken and not committed"
    )


@case(
    "R4.09", "rocketmq/consumer-offset",
    requirement="A query for a group without offset gets 22; after an update (oneway) the new value; it survives a clean restart "
    "of the broker.",
    reference="QUERY_CONSUMER_OFFSET (14), UPDATE_CONSUMER_OFFSET (15)", level="?", tags=("destructive",), limit_s=150,
    accepts={
        "without offset": error(codes.QUERY_NOT_FOUND), "updated": must("the new value"),
        "after a restart": must("the same value"),
    },
)  # fmt: skip
def test_consumer_offset(scene: RocketmqScene) -> None:
    topic, group, broker = scene.topic(), scene.group(), scene.broker()
    scene.sent(broker, topic, [b"0", b"1", b"2"])
    asked = {"consumerGroup": group, "topic": topic, "queueId": 0}
    scene.saw("without offset", broker.seen(broker.call(codes.QUERY_CONSUMER_OFFSET, asked)))
    broker.ask(codes.UPDATE_CONSUMER_OFFSET, {**asked, "commitOffset": 2}, oneway=True)

    def value(node: str = "") -> str:
        answer = scene.admin(node).call(codes.QUERY_CONSUMER_OFFSET, asked)
        return "no answer" if answer is None else answer.fields.get("offset", f"code {answer.code}")

    scene.require("updated", scene.within(lambda: value() == "2", 5) is not None, value())
    node = scene.place.master()
    scene.place.stop(node)
    scene.place.start(node)
    scene.place.wait_healthy(90)
    kept = value(node)
    scene.require("after a restart", kept == "2", kept)


@case(
    "R4.10", "rocketmq/offset-by-time",
    requirement="A search by time gives the first offset stored at or after it, at, before and after the messages' times; a "
    "running group that is reset to a time consumes again from there.",
    reference="SEARCH_OFFSET_BY_TIMESTAMP (29); reset (222)", level="?",
    accepts={
        "at": must("the first at that time"), "between": must("the next one"), "before": must("the first"),
        "after": must("the end"), "reset": must("consumes again from there"),
    },
)  # fmt: skip
def test_offset_by_time(scene: RocketmqScene) -> None:
    topic, group, member = scene.topic(), scene.group(), scene.broker("member")
    for body in (b"0", b"1", b"2"):
        scene.sent(scene.admin(), topic, [body])
        scene.hold(time.monotonic() + 0.3)
    times = [m.stored_ms for m in _first(scene, topic, 3)]
    for step, at_ms, right in (
        ("at", times[1], 1), ("between", times[1] + 100, 2), ("before", times[0] - 60_000, 0), ("after", times[2] + 100, 3),
    ):  # fmt: skip
        answer = member.call(codes.SEARCH_OFFSET_BY_TIMESTAMP, {"topic": topic, "queueId": 0, "timestamp": at_ms})
        got = "no answer" if answer is None else answer.fields.get("offset", f"code {answer.code}")
        scene.require(step, got == str(right), f"offset {got}, not {right}")
    scene.done(scene.heartbeat(member, scene.fresh("client"), group=group, topics=[topic]), "heartbeat")
    scene.pull(member, group, topic)
    member.call(codes.UPDATE_CONSUMER_OFFSET, {"consumerGroup": group, "topic": topic, "queueId": 0, "commitOffset": 3})
    reset = scene.admin().call(codes.INVOKE_BROKER_TO_RESET_OFFSET, {"topic": topic, "group": group, "timestamp": times[1], "isForce": True, "queueId": -1})  # fmt: skip
    if reset is None or reset.code != codes.SUCCESS:
        scene.require("reset", False, f"reset: {scene.admin().seen(reset)}")
        return
    at = _after_reset(scene, member, topic, group)
    again = [m.body for m in scene.messages(scene.pull(member, group, topic, offset=at))]
    scene.require("reset", again == [b"1", b"2"], f"from {at}: {again}")


def _after_reset(scene: RocketmqScene, member: Remote, topic: str, group: str) -> int:
    """Where a client that follows the protocol goes on: where the broker's push (220) or the answer to its next pull (21)
    sends it."""
    answer = scene.pull(member, group, topic, offset=3)
    if answer is not None and answer.code == codes.PULL_OFFSET_MOVED:
        return int(answer.fields["nextBeginOffset"])
    pushed = member.told(codes.RESET_CONSUMER_CLIENT_OFFSET, 10)
    if pushed is None:
        return 3
    table: dict[str, Any] = wire.loads(pushed[1].body).get("offsetTable") or {}
    return int(next(iter(table.values()), 3))


@case(
    "R4.11", "rocketmq/pop",
    requirement="A pop of more than 32 gets 29; popped messages are invisible until acknowledged or their time is over, then "
    "come again; acknowledged ones never; an expired or forged handle gets 208 or 13.",
    reference="POP_MESSAGE (200050), ACK (200051)", level="MUST", needs="rocketmq>=5.0", timing=True, limit_s=120,
    accepts={
        "33 asked": error(codes.INVALID_PARAMETER), "popped": must("both messages"), "invisible": must("nothing meanwhile"),
        "again": must("the one not acknowledged"), "acknowledged": must("never again"),
        "expired handle": error(codes.NO_MESSAGE, codes.MESSAGE_ILLEGAL),
        "forged handle": error(codes.NO_MESSAGE, codes.MESSAGE_ILLEGAL),
    },
)  # fmt: skip
def test_pop(scene: RocketmqScene) -> None:
    topic, group, broker = scene.topic(), scene.group(), scene.broker()
    scene.sent(broker, topic, [b"kept", b"acked"])
    scene.until(lambda: scene.end_offset(topic) == 2, 10, "two messages")
    _, many = _popped(scene, broker, topic, group, n=33, order=False, within_s=0)
    scene.saw("33 asked", broker.seen(many))
    got, frame = _popped(scene, broker, topic, group, n=32, order=False, invisible_s=10, wanted=2)
    scene.require("popped", _bodies(got) == [b"acked", b"kept"], f"{_bodies(got)}")
    if frame is None or len(got) != 2:
        return
    handles = {m.body: _handle(scene, frame, m, group, topic) for m in got}
    scene.done(broker.call(codes.ACK_MESSAGE, handles[b"acked"]), "acknowledging")
    meanwhile, _ = _popped(scene, broker, topic, group, n=32, order=False, within_s=4, no_longer=True)
    scene.require("invisible", not meanwhile, f"{_bodies(meanwhile)} within 4 s")
    again, _ = _popped(scene, broker, topic, group, n=32, order=False, within_s=60)
    scene.require("again", b"kept" in _bodies(again), f"{_bodies(again)} within 60 s")
    more, _ = _popped(scene, broker, topic, group, n=32, order=False, within_s=5, wanted=32, no_longer=True)
    scene.require("acknowledged", b"acked" not in _bodies([*again, *more]), "came again")
    scene.saw("expired handle", broker.seen(broker.call(codes.ACK_MESSAGE, handles[b"kept"])))
    forged = {**handles[b"kept"], "offset": 4711}
    scene.saw("forged handle", broker.seen(broker.call(codes.ACK_MESSAGE, forged)))


def _bodies(messages: Sequence[Stored]) -> list[bytes]:
    return sorted(m.body for m in messages)
