"""R3 Sending and storing. Reference: request code, broker setting or document of apache/rocketmq."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from brokerproof.conformance.case import Line, Seen, Table, case, error, must
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import LEAST_S, RocketmqScene
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

_REFUSED = Table(
    "refused with an error code and a remark, and nothing made",
    (Line("PASS", behaviour=("refused, nothing made",)), Line("CODE", behaviour=("refused without a remark",))),
)


def _stored(to: Frame | None, offset: int) -> str:
    """What is wrong with a send's answer; empty where nothing is."""
    if to is None or to.code != codes.SUCCESS:
        return "no answer" if to is None else f"refused with {to.code}"
    missing = [name for name in ("msgId", "queueId", "queueOffset") if not to.fields.get(name)]
    if missing:
        return f"without {', '.join(missing)}"
    return "" if int(to.fields["queueOffset"]) == offset else f"offset {to.fields['queueOffset']}, not {offset}"


@case(
    "R3.01", "rocketmq/send",
    requirement="Codes 10, 310 and a batch by 320 succeed with message id, queue id and queue offset; offsets rise by one in a "
    "queue, by a batch's size for a batch.",
    reference="SEND_MESSAGE (10, 310, 320)", level="MUST",
    accepts={"310": must("stored at 0"), "10": must("stored at 1"), "320": must("stored at 2"), "after the batch": must("stored at 5")},
)  # fmt: skip
def test_send(scene: RocketmqScene) -> None:
    topic, broker = scene.topic(), scene.broker()
    for step, offset, code, body in (
        ("310", 0, codes.SEND_MESSAGE_V2, b"a"),
        ("10", 1, codes.SEND_MESSAGE, b"b"),
        ("320", 2, codes.SEND_BATCH_MESSAGE, wire.batch([(b"c", {}), (b"d", {"k": "v"}), (b"e", {})])),
        ("after the batch", 5, codes.SEND_MESSAGE_V2, b"f"),
    ):
        wrong = _stored(scene.send(broker, topic, body, code=code), offset)
        scene.require(step, not wrong, wrong)


@case(
    "R3.02", "rocketmq/topic-auto-create",
    requirement="A send to a new topic gets 17 and makes nothing with autoCreateTopicEnable=false; with true and default topic "
    "TBW102 it is made and the message stored.",
    reference="autoCreateTopicEnable", level="?", tags=("config",), variants=("off", "on"),
    variant_settings={"on": {"autoCreateTopicEnable": True}},
    accepts={"": Table("off: 17, nothing made; on: created and stored", (
        Line("PASS", behaviour=("off: refused, nothing made",), codes=(codes.TOPIC_NOT_EXIST,)),
        Line("CODE", behaviour=("off: refused, nothing made",)),
        Line("PASS", behaviour=("on: created and stored",)),
    ))},
)  # fmt: skip
def test_topic_auto_create(scene: RocketmqScene) -> None:
    scene.set_so("autoCreateTopicEnable", scene.variant == "on")
    topic = scene.fresh("new")
    answer = scene.send(scene.broker(), topic, b"first")
    if answer is None:
        scene.saw("", Seen(f"{scene.variant}: no answer"))
        return
    scene.remove_later(topic=topic)
    made = scene.exists(topic)
    stored = made and scene.appears(topic, lambda m: m.body == b"first", 5 if answer.code == 0 else 0, queues=4)
    what = "created and stored" if stored else "created" if made else "nothing made"
    if answer.code != codes.SUCCESS:
        what = f"refused, {what}"
    scene.saw("", Seen(f"{scene.variant}: {what}", code=answer.code or None, detail=answer.remark[:100]))


@case(
    "R3.03", "rocketmq/illegal-names",
    requirement="A topic with an illegal character, blank, longer than 127 or a reserved system topic, and a group longer than "
    "120, are refused with an error code and a remark, and not made; 127 and 120 are accepted.",
    reference="topic validation", level="?", negative=True,
    accepts={
        "illegal character": _REFUSED, "blank": _REFUSED, "128 characters": _REFUSED, "system topic": _REFUSED,
        "group of 121": _REFUSED, "127 characters": must("made"), "group of 120": must("made"),
    },
)  # fmt: skip
def test_illegal_names(scene: RocketmqScene) -> None:
    base, admin = scene.fresh("n"), scene.admin()
    # RMQ_SYS_TRANS_HALF_TOPIC is there: what must not be made of it is one with 3 queues.
    for step, name in {
        "illegal character": f"{base}.$x", "blank": " ", "128 characters": base.ljust(128, "x"),
        "system topic": "RMQ_SYS_TRANS_HALF_TOPIC", "127 characters": base.ljust(127, "y"),
    }.items():  # fmt: skip
        answer = scene.ask_for_topic(admin, name, queues=3)
        kept = admin.call(codes.GET_TOPIC_CONFIG, {"topic": name})
        made = kept is not None and kept.code == 0 and int(wire.loads(kept.body).get("readQueueNums", 0)) == 3
        if made:
            scene.remove_later(topic=name if step != "system topic" else "")
        _name(scene, step, answer, made)
    for step, size in (("group of 121", 121), ("group of 120", 120)):
        name = base.ljust(size, "g")
        answer = scene.ask_for_group(admin, name)
        made = scene.group_exists(name)
        if made:
            scene.remove_later(group=name)
        _name(scene, step, answer, made)


def _name(scene: RocketmqScene, step: str, answer: Frame | None, made: bool) -> None:
    if "127" in step or "120" in step:
        scene.require(step, made, "refused" if answer is not None and answer.code else "not made")
    elif answer is None or answer.code == codes.SUCCESS:
        scene.saw(step, Seen("no answer" if answer is None else "accepted", detail="made" if made else "not made"))
    else:
        what = "refused, yet made" if made else "refused, nothing made" if answer.remark else "refused without a remark"
        scene.saw(step, Seen(what, code=answer.code, detail=answer.remark[:120]))


@case(
    "R3.04", "rocketmq/message-too-large",
    requirement="A body of maxMessageSize + 1 octets and properties of 32,768 octets get 13 and are not stored; at the limits "
    "they are stored.",
    reference="maxMessageSize; properties length", level="?", negative=True,
    accepts={
        "body above": error(codes.MESSAGE_ILLEGAL), "properties above": error(codes.MESSAGE_ILLEGAL),
        "nothing stored": must("nothing stored"), "body at the limit": must("stored"),
        "properties at the limit": must("stored"),
    },
    records=("longest properties taken",),
)  # fmt: skip
def test_message_too_large(scene: RocketmqScene) -> None:
    topic, broker = scene.topic(queues=2), scene.broker()
    limit = int(scene.config()["maxMessageSize"])
    scene.saw("body above", broker.seen(scene.send(broker, topic, bytes(limit + 1))))
    scene.saw("properties above", broker.seen(scene.send(broker, topic, b"m", _properties(32768))))
    scene.require("nothing stored", scene.end_offset(topic, 0) == 0, "something is in the queue")
    whole = scene.send(broker, topic, bytes(limit), queue=1)
    scene.require("body at the limit", whole is not None and whole.code == 0, str(broker.seen(whole)))
    taken = 0
    for size in (32767, 32700, 32600, 32400, 32000, 31000):
        answer = scene.send(broker, topic, b"m", _properties(size), queue=1)
        if size == 32767:
            good = answer is not None and answer.code == 0
            scene.require("properties at the limit", good, str(broker.seen(answer)))
        if answer is not None and answer.code == 0:
            taken = size
            break
    scene.record("longest properties taken", f"{taken} octets of those tried")


def _properties(size: int) -> dict[str, str]:
    """One property whose text on the wire has so many octets."""
    return {"k": "v" * (size - len("k\x01\x02"))}


@case(
    "R3.05", "rocketmq/no-write-permission",
    requirement="A send to a topic of perm 4 and a pull from one of perm 2 get 16.",
    reference="topic perm", level="?", negative=True,
    accepts={"send": error(codes.NO_PERMISSION), "pull": error(codes.NO_PERMISSION)},
)  # fmt: skip
def test_no_write_permission(scene: RocketmqScene) -> None:
    unwritable, unreadable, broker = scene.topic(perm=4), scene.topic(perm=2), scene.broker()
    scene.saw("send", broker.seen(scene.send(broker, unwritable)))
    scene.saw("pull", broker.seen(scene.pull(broker, scene.group(), unreadable)))


@case(
    "R3.09", "rocketmq/store-defaults",
    requirement="What GET_BROKER_CONFIG of an untouched broker says of replication and flushing.",
    reference="broker configuration", level="unspecified",
    records=(
        "brokerRole", "flushDiskType", "flushIntervalCommitLog", "flushCommitLogLeastPages", "totalReplicas", "inSyncReplicas",
    ),
)  # fmt: skip
def test_store_defaults(scene: RocketmqScene) -> None:
    config = scene.config()
    for name in scene.case.records:
        scene.record(name, config.get(name, "not there"))


#: A delayed message is as late as this at most, where it comes in time.
_LATE_S = 10.0


@case(
    "R3.10", "rocketmq/recall",
    requirement="On an untouched configuration a message delayed by 60 s that is recalled with success never comes, and one that is "
    "not recalled does; where the broker says that it does not recall, it comes in time.",
    reference="RECALL_MESSAGE (370)", level="extension", tags=("slow",), needs="rocketmq>=5.3", limit_s=120, revision=2,
    accepts={
        "": Table("recalled and never come, or refused in words and come in time", (
            Line("PASS", behaviour=("recalled",)), Line("UNIMPL", behaviour=("refused in words, in time",)),
        )),
        "not recalled": must("comes in time"),
    },
)  # fmt: skip
def test_recall(scene: RocketmqScene) -> None:
    topic, broker = scene.topic(kind="DELAY"), scene.broker()
    due_ms = int((time.time() + scene.seconds(60)) * 1000)
    began = time.monotonic()
    sent = {
        body: scene.done(scene.send(broker, topic, body, {"TIMER_DELIVER_MS": str(due_ms), "UNIQ_KEY": scene.fresh("K")}), "sending")
        for body in (b"recalled", b"kept")
    }  # fmt: skip
    handle = sent[b"recalled"].fields.get("recallHandle", "none-given")
    answer = broker.call(codes.RECALL_MESSAGE, {"producerGroup": "p", "topic": topic, "recallHandle": handle})
    # As long as a message may take that is as late as one may be; whoever waits shorter takes a late one for a recalled one.
    while (left := 60 + _LATE_S - scene.measured(time.monotonic() - began)) > 0 and len(scene.read(topic)) < 2:
        scene.pause(min(left, 1.0))
    came = {m.body: _came(scene, m, due_ms) for m in scene.read(topic)}
    kept, recalled = came.get(b"kept", "never"), came.get(b"recalled", "never")
    scene.require("not recalled", kept == "in time", kept)
    detail = str(broker.seen(answer))
    if answer is None:
        scene.saw("", Seen("no answer", detail=detail))
    elif answer.code == codes.SUCCESS:
        scene.saw("", Seen("recalled" if recalled == "never" else f"recalled, yet it came {recalled}", detail=detail))
    else:
        scene.saw("", Seen(f"refused {'in words' if answer.remark else 'without a word'}, {recalled}", detail=detail))


def _came(scene: RocketmqScene, message: Stored, due_ms: int) -> str:
    """When a message came that was due then. Early by a second is within what timers promise."""
    late_s = message.stored_ms / 1000 - due_ms / 1000
    if late_s < -scene.seconds(1):
        return f"{scene.measured(-late_s):.0f} s early"
    return "in time" if late_s <= max(scene.seconds(_LATE_S), LEAST_S) else f"{scene.measured(late_s):.0f} s late"


# -- with a slave ------------------------------------------------------------------------------------------------------

_SYNC = {"brokerRole": "SYNC_MASTER"}
_TWO = {**_SYNC, "totalReplicas": 2, "inSyncReplicas": 2}


def _slave(scene: RocketmqScene) -> str:
    return next(node for node in scene.place.brokers if node != scene.place.master())


def _fate(scene: RocketmqScene, topic: str, body: bytes) -> str:
    """What a send comes to: its code, and whether the message can be read from the master."""
    answer = scene.send(scene.broker(), topic, body, within_s=20)
    readable = scene.appears(topic, lambda m: m.body == body, 2, node=scene.place.master()) is not None
    code = "no answer" if answer is None else f"code {answer.code}"
    return f"{code}, {'readable' if readable else 'not readable'}"


def _taken(scene: RocketmqScene, topic: str) -> bool:
    answer = scene.send(scene.admin(), topic, b"as before", within_s=20)
    return answer is not None and answer.code == codes.SUCCESS


@case(
    "R3.06", "rocketmq/indeterminate-store",
    requirement="What a send is answered, and whether its message is readable afterwards, when the disk is slow, when the slave is "
    "stopped, and when its link is stalled.",
    reference="response codes FLUSH_DISK_TIMEOUT 10, SLAVE_NOT_AVAILABLE 11, FLUSH_SLAVE_TIMEOUT 12", level="unspecified",
    tags=("cluster", "destructive"), topology="master-slave", settings={**_TWO, "flushDiskType": "SYNC_FLUSH"}, limit_s=200, equipment=("disk",),
    records=("slow disk", "slave's link stalled", "slave stopped"),
)  # fmt: skip
def test_indeterminate_store(scene: RocketmqScene) -> None:
    topic, master, slave = scene.topic(), scene.place.master(), _slave(scene)
    scene.reader(master)  # a group is written to the disk that is about to be slow
    if scene.place.slow_disk(master):
        scene.finally_(lambda: scene.place.quick_disk(master))
        scene.record("slow disk", _fate(scene, topic, b"slow"))
        scene.place.quick_disk(master)
    else:
        # The broker's own patience taken away, where its disk cannot be made slow.
        scene.configure({"syncFlushTimeout": 0}, master)
        scene.record(
            "slow disk", f"{_fate(scene, topic, b'slow')} (no disk here that can be slowed: syncFlushTimeout=0)"
        )
        scene.configure({"syncFlushTimeout": int(scene.seconds(5) * 1000)}, master)
    scene.until(lambda: _taken(scene, topic), 60, "the disk as quick as before")
    scene.finally_(scene.place.heal)
    scene.place.cut([master], [slave])
    scene.record("slave's link stalled", _fate(scene, topic, b"stalled"))
    scene.place.heal()
    scene.place.kill(slave)
    scene.finally_(lambda: scene.place.start(slave))
    scene.record("slave stopped", _fate(scene, topic, b"stopped"))


@case(
    "R3.07", "rocketmq/sync-master-waits",
    requirement="With the slave of a SYNC_MASTER stopped, a send is answered with anything but plain success.",
    reference="replication documents; brokerRole=SYNC_MASTER", level="MUST", tags=("cluster", "destructive"),
    topology="master-slave", variants=("default", "two"), variant_settings={"default": _SYNC, "two": _TWO}, limit_s=150,
    accepts={"": Table("anything but success", (
        Line("FAIL", behaviour=("answered",), codes=(codes.SUCCESS,)), Line("PASS", behaviour=("answered",)),
    ))},
)  # fmt: skip
def test_sync_master_waits(scene: RocketmqScene) -> None:
    topic, slave = scene.topic(), _slave(scene)
    scene.done(scene.send(scene.broker(), topic, b"with the slave", within_s=20), "a send with the slave there")
    scene.place.kill(slave)
    scene.finally_(lambda: scene.place.start(slave))
    scene.pause(2)
    broker = scene.broker("sender")
    scene.saw("", broker.seen(scene.send(broker, topic, b"without it", within_s=30)))


#: A master answers with these what it has stored and waits in vain for others to store.
_WAITING = (codes.FLUSH_SLAVE_TIMEOUT, codes.SLAVE_NOT_AVAILABLE, codes.FLUSH_DISK_TIMEOUT)
#: What sends get for other reasons as well, so that a client cannot tell.
_SHARED = (
    *_WAITING, codes.SYSTEM_ERROR, codes.SYSTEM_BUSY, codes.SERVICE_NOT_AVAILABLE, codes.MESSAGE_ILLEGAL, codes.NO_PERMISSION,
    codes.TOPIC_NOT_EXIST,
)  # fmt: skip


@case(
    "R3.08", "rocketmq/in-sync-too-few",
    requirement="With fewer in-sync replicas than demanded a send is refused with a code of its own, and not stored: not found then, "
    "nor when enough are in sync again.",
    reference="inSyncReplicas", level="?", tags=("cluster", "destructive"), topology="controller",
    settings={"inSyncReplicas": 2, "minInSyncReplicas": 2, "totalReplicas": 2}, limit_s=300, revision=2,
    accepts={
        "refused": Table("refused with a code of its own", (
            Line("FAIL", codes=(codes.SUCCESS,)),
            Line("CODE", behaviour=("refused, the cause is named",), codes=_SHARED), Line("FAIL", codes=_SHARED),
            Line("PASS", behaviour=("refused, the cause is named", "refused")),
        )),
        "stored": must("not stored"), "stored, in sync again": must("not stored"),
    },
)  # fmt: skip
def test_in_sync_too_few(scene: RocketmqScene) -> None:
    topic, slave = scene.topic(), _slave(scene)
    scene.done(scene.send(scene.broker(), topic, b"two in sync", within_s=20), "a send with two in sync")
    scene.place.kill(slave)
    scene.finally_(lambda: scene.place.start(slave))
    broker = scene.broker("sender")
    # A master waits in vain for the slave until that has left the set of those in sync: within 15 s and a bit.
    until, number, answer = scene.patience(60), 0, None
    while scene.left(until):
        number += 1
        answer = scene.send(broker, topic, b"too few %d" % number, within_s=20)
        if answer is None or answer.code not in _WAITING:
            break
    seen = broker.seen(answer)
    if answer is not None and answer.code != codes.SUCCESS:
        named = re.search(r"in.?sync|replica", answer.remark, re.IGNORECASE)
        seen = replace(seen, behaviour="refused, the cause is named" if named else "refused")
    scene.saw("refused", seen)
    last = b"too few %d" % number
    scene.pause(2)
    scene.require("stored", not any(m.body == last for m in scene.read(topic)), "stored")
    # A message above what all in sync have is there and not shown: it would be, as soon as they have it.
    scene.place.start(slave)
    scene.until(lambda: _taken(scene, topic), 120, "enough in sync again")
    scene.pause(2)
    scene.require("stored, in sync again", not any(m.body == last for m in scene.read(topic)), "stored")
