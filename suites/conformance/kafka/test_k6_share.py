"""K6: share groups: versions, locks, delivery counts, acknowledgements, sessions. Order is promised by nobody."""

from __future__ import annotations

import time
from typing import Any

from brokerproof.conformance.case import Seen, case, error, must
from brokerproof.conformance.kafka.groups import ACCEPT, REJECT, RELEASE, RENEW, Sharing
from brokerproof.conformance.kafka.scene import GROUP, RECORDED, KafkaScene
from brokerproof.conformance.kafka.topics import Topic
from brokerproof.wire.kafka import schema

_SHARE_FETCH = 78
_INVALID_STATE, _NO_SESSION, _WRONG_EPOCH = 121, 122, 123
_FACTOR, _MIN_ISR = "share.coordinator.state.topic.replication.factor", "share.coordinator.state.topic.min.isr"


def _started(scene: KafkaScene, *values: str, members: int = 1, batched: bool = True, **config: Any) -> tuple[Topic, list[Sharing]]:  # fmt: skip
    """A topic with these values, and members of a fresh share group that reads it from the beginning."""
    topic, group = scene.topic(), scene.group()
    scene.configure(GROUP, group, share_auto_offset_reset="earliest", **config)
    for part in [values] if batched and values else [(v,) for v in values]:
        topic.fill(*part)
    found = [Sharing(scene, group, topic) for _ in range(members)]
    for member in found:
        member.join()
    return topic, found


def _lock_s(scene: KafkaScene) -> float:
    return int(scene.config("group.share.record.lock.duration.ms")) / 1000


@case(
    "K6.01", "kafka/share-fetch-versions",
    requirement="ShareFetch is advertised from v1 on and works in v1; v0 gives 35 or closes. Where v2 is advertised, the acquire "
    "mode and renewing are honoured.",
    reference="KIP-932, KIP-1206, KIP-1222", level="MUST", needs="kafka>=4.2", negative=True,
    accepts={"advertised": must("from v1"), "v1": must("records"), "v0": must("35 or closed"),
             "mode": must("no more than asked for"), "renew": must("renewed")},
)  # fmt: skip
def test_share_fetch_versions(scene: KafkaScene) -> None:
    low, high = scene.advertised.get(_SHARE_FETCH, (-1, -1))
    scene.require("advertised", low == 1, f"v{low} to v{high}")
    _, (member,) = _started(scene, "a", "b", "c")
    got = member.until(0, version=1)
    scene.require("v1", got.offsets == (0, 1, 2), f"{got.answer.seen()}: {got.offsets}")
    member.acknowledge((0, 2, ACCEPT))
    raw = scene.connect()
    raw.by_hand(_SHARE_FETCH, 0, schema.encode(schema.request(_SHARE_FETCH, 1), {})[:-2], flexible=True)
    answer = raw.payload(scene.seconds(5))
    scene.require("v0", bool(raw.ended) or (answer or b"")[9:11] == b"\0\x23", f"answered {answer!r}")
    if high < 2:
        scene.inconclusive("ShareFetch v2 is not advertised by a version that should")
    topic, (one,) = _started(scene, "a", "b", "c")
    limited = one.until(0, mode=1, records_max=1)
    scene.require("mode", limited.offsets == (0,), f"{limited.offsets} acquired")
    renewed = one.acknowledge((0, 0, RENEW), renew=True)
    scene.require("renew", renewed.ack == 0 and topic.end() == 3, f"{renewed.answer.seen()}")


@case(
    "K6.02", "kafka/acquisition-lock",
    requirement="A record that was acquired and left alone is offered again after the lock time, not sooner, with a delivery "
    "count one higher.",
    reference="KIP-932; group.share.record.lock.duration.ms", level="MUST", needs="kafka>=4.1", tags=("slow",), timing=True,
    accepts={"first": must("acquired, count 1"), "time": must("not sooner, not much later"), "count": must("2")},
)  # fmt: skip
def test_acquisition_lock(scene: KafkaScene) -> None:
    lock = _lock_s(scene)
    _, (holder, other) = _started(scene, "a", members=2)
    first = holder.until(0)
    began = time.monotonic()
    scene.require("first", first.offsets == (0,) and first.delivery == (1,), f"{first.offsets} {first.delivery}")
    again = other.until(0, seconds=4 * lock)
    took = round(scene.measured(time.monotonic() - began), 2)
    # The holder's lock began before its answer came.
    good = bool(again.offsets) and lock - 0.5 <= took <= lock + 5
    scene.require("time", good, f"after {took} s, lock {lock} s: {again.offsets}")
    scene.require("count", again.delivery == (2,), f"{again.delivery}")


@case(
    "K6.03", "kafka/delivery-count-limit",
    requirement="A record that was released as often as the limit says is not offered again; later records are. Recorded: what "
    "administration shows.",
    reference="KIP-932; group.share.delivery.count.limit", level="MUST", needs="kafka>=4.1",
    accepts={"offered": must("as often as the limit"), "then": must("the next record only")}, records=("offsets",),
)  # fmt: skip
def test_delivery_count_limit(scene: KafkaScene) -> None:
    limit = int(scene.config("group.share.delivery.count.limit"))
    topic, (member,) = _started(scene, "poison")
    counts = []
    for _ in range(limit):
        got = member.until(0)
        counts += got.delivery
        member.acknowledge((0, 0, RELEASE))
    scene.require("offered", counts == list(range(1, limit + 1)), f"delivery counts {counts}")
    topic.fill("later")
    got = member.until(1)
    scene.require("then", got.offsets == (1,), f"{got.offsets} acquired")
    asked = [{"group_id": member.group, "topics": [{"topic_name": topic.name, "partitions": [0]}]}]
    told = scene.coordinator(member.group).ask("describe_share_group_offsets", groups=asked)
    parts = [p for g in (told.fields or {}).get("groups", []) for t in g["topics"] for p in t["partitions"]]
    scene.record("offsets", [{k: p.get(k) for k in ("start_offset", "lag", "error_code")} for p in parts])


@case(
    "K6.04", "kafka/share-acknowledge",
    requirement="Accept: gone; release: offered again at once; reject: gone, not offered; renew: the lock is extended. An "
    "acknowledgement by a member that does not hold the record gives 121.",
    reference="KIP-932, KIP-1222", level="MUST", needs="kafka>=4.1", tags=("slow",), negative=True, timing=True,
    accepts={"accept": must("gone"), "release": must("offered again at once, count 2"), "reject": must("not offered"),
             "not the holder": error(_INVALID_STATE), "renew": must("longer than the lock").or_else(RECORDED)},
    revision=2,
)  # fmt: skip
def test_share_acknowledge(scene: KafkaScene) -> None:
    lock = _lock_s(scene)
    topic, (member, other) = _started(scene, "accept", "release", "reject", members=2, batched=False)
    held: set[int] = set()
    scene.eventually(lambda: bool(held.update(member.fetch().offsets) or held == {0, 1, 2}), 10)
    if held != {0, 1, 2}:
        scene.inconclusive(f"acquired {held} of three records")
    opened = other.fetch(wait_ms=0)
    if opened.code != 0:
        scene.inconclusive(f"the second member's session: {opened.answer.seen()}")
    scene.saw("not the holder", _coded(other.acknowledge((0, 0, ACCEPT))))
    settled = member.acknowledge((0, 0, ACCEPT), (1, 1, RELEASE), (2, 2, REJECT))
    began = time.monotonic()
    again = other.until(1, seconds=lock)
    took = scene.measured(time.monotonic() - began)
    good = again.offsets == (1,) and again.delivery == (2,) and took < lock / 2
    scene.require("release", good, f"{again.offsets} {again.delivery} after {took:.1f} s")
    if scene.serves("share_acknowledge", 2):
        told = []
        for _ in range(3):
            scene.hold(lock * 0.6)
            told.append(other.acknowledge((1, 1, RENEW), renew=True).ack)
        early = member.fetch(wait_ms=0)
        # Nothing is offered by a fetch that fails, either.
        scene.require(
            "renew", told == [0, 0, 0] and early.code == 0 and not early.offsets,
            f"renewing answered {told}; {early.offsets} offered after {1.8 * lock:.0f} s of it, {early.answer.seen()}",
        )  # fmt: skip
    else:
        scene.saw("renew", Seen("recorded", detail="ShareAcknowledge v2 is not served"))
    other.acknowledge((1, 1, ACCEPT))
    scene.hold(lock * 1.2)
    # What is offered of a record that is new shows that the fetches work, and that what is not offered with it is gone.
    topic.fill("new")
    left: set[int] = set()
    if not scene.eventually(lambda: bool(left.update(member.fetch(wait_ms=200).offsets) or 3 in left), 15):
        scene.inconclusive(f"a new record was not offered within 15 s, only {left}: nothing can be said of the others")
    for step, offset in (("accept", 0), ("reject", 2)):
        scene.require(
            step,
            settled.ack == 0 and offset not in left,
            f"acknowledging answered {settled.ack}; {sorted(left)} offered",
        )


def _coded(acquired: Any) -> Any:
    return acquired.answer.seen(acquired.ack)


@case(
    "K6.05", "kafka/share-session",
    requirement="A share session opens with epoch 0 and closes with −1; an unknown session gives 122, a wrong epoch 123.",
    reference="KIP-932", level="MUST", needs="kafka>=4.1", negative=True,
    accepts={"opens": error(0), "goes on": error(0), "wrong epoch": error(_WRONG_EPOCH), "closes": error(0),
             "unknown": error(_NO_SESSION)},
)  # fmt: skip
def test_share_session(scene: KafkaScene) -> None:
    _, (member,) = _started(scene, "a")
    scene.saw("opens", member.fetch().answer.seen())
    scene.saw("goes on", member.fetch().answer.seen())
    scene.saw("wrong epoch", member.fetch(session=55).answer.seen())
    scene.saw("closes", member.acknowledge(session=-1).answer.seen())
    scene.saw("unknown", member.fetch(session=5).answer.seen())


@case(
    "K6.06", "kafka/share-ordering",
    requirement="Recorded: the share of records that one and three members see out of offset order, with and without release.",
    reference="KIP-932", level="unspecified", needs="kafka>=4.1", limit_s=120,
    records=("one member", "three members", "one member, release", "three members, release"),
)  # fmt: skip
def test_share_ordering(scene: KafkaScene) -> None:
    for release in (False, True):
        for count, words in ((1, "one member"), (3, "three members")):
            _, members = _started(scene, *[f"v{i}" for i in range(60)], members=count, batched=False)
            seen = _order_seen(scene, members, 60, release=release)
            behind = sum(o < max(seen[:i], default=-1) for i, o in enumerate(seen))
            scene.record(f"{words}{', release' if release else ''}", f"{behind} of {len(seen)} out of order")


def _order_seen(scene: KafkaScene, members: list[Sharing], count: int, *, release: bool) -> list[int]:
    """Offsets as they come to all members, in time; with release every seventh is given back once."""
    seen: list[int] = []
    done: set[int] = set()
    released: set[int] = set()

    def step() -> bool:
        for member in members:
            for offset in member.fetch(wait_ms=50, records_max=5).offsets:
                seen.append(offset)
                back = release and offset % 7 == 0 and offset not in released
                released.update([offset] if back else [])
                done.update([] if back else [offset])
                member.acknowledge((offset, offset, RELEASE if back else ACCEPT))
        return len(done) >= count

    scene.eventually(step, 40)
    return seen


@case(
    "K6.07", "kafka/share-state-single-node",
    requirement="Recorded: whether a share group on one broker delivers, with the state topic's replication factor and minimum "
    "of in-sync replicas untouched, and set to 1: what error, after how long.",
    reference="share.coordinator.state.topic.*", level="unspecified", needs="kafka>=4.1", tags=("config",),
    records=("delivers", "error", "seconds"), variants=("", "untouched"),
    variant_settings={"": {_FACTOR: "1", _MIN_ISR: "1"}, "untouched": {_FACTOR: "3", _MIN_ISR: "2"}},
)  # fmt: skip
def test_share_state_single_node(scene: KafkaScene) -> None:
    topic, group = scene.topic(), scene.group()
    scene.configure(GROUP, group, share_auto_offset_reset="earliest")
    topic.fill("a")
    member = Sharing(scene, group, topic)
    began = time.monotonic()
    codes: set[int | None] = set()

    def came() -> bool:
        codes.add(member.heartbeat().code)
        if not member.told:
            return False
        got = member.fetch(wait_ms=200)
        codes.add(got.code)
        return 0 in got.offsets

    good = scene.eventually(came, 20)
    scene.record("delivers", good)
    scene.record("error", sorted(c for c in codes if c))
    scene.record("seconds", round(scene.measured(time.monotonic() - began)))
