"""A7: consuming, prefetch, acknowledgements, redelivery. Variants are queue types."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

from brokerproof.conformance.amqp091.scene import CAPABILITIES, AmqpScene, Channel, Event
from brokerproof.conformance.case import Line, Seen, Table, case, chan, conn, must

#: In A7.11 the other consumer is busy in every so manieth round.
_BUSY_EVERY = 20
#: Acknowledgements of a channel that may do anything: everything is sent in pieces, so that neither side waits for the other.
_AT_A_TIME = 200


def _type(scene: AmqpScene) -> dict[str, Any]:
    return {"x-queue-type": scene.variant or "classic"}


def _bodies(events: list[Event]) -> list[bytes]:
    return [e.body for e in events]


def _numbered(n: int) -> list[bytes]:
    return [b"%d" % i for i in range(n)]


def _waiting(channel: Channel) -> list[Event]:
    """The deliveries that have come and were not taken; stay there."""
    return [e for e in channel.connection.events(channel.number) if e.name == "basic.deliver"]


@case(
    "A7.01", "amqp091/consume-errors",
    requirement="Consuming a missing queue closes the channel with 404, a consumer tag in use the connection with 530; an empty tag is answered with a generated one, unique on the channel.",
    reference="basic / consume / queue, consumer-tag / 01", level="MUST", negative=True,
    accepts={"missing queue": chan(404), "tag in use": conn(530), "empty tag": must("generated tags, all different")},
)  # fmt: skip
def test_consume_errors(scene: AmqpScene) -> None:
    scene.saw("missing queue", scene.attempt("basic.consume", queue=scene.fresh("nobody")))
    channel = scene.connect().channel()
    queue = channel.queue()
    channel.consume(queue, tag="mine")
    scene.saw("tag in use", channel.attempt("basic.consume", queue=queue, consumer_tag="mine"))
    other = scene.connect().channel()
    tags = [other.consume(queue) for _ in range(3)]
    scene.require("empty tag", len({*tags, ""}) == 4, f"tags {tags}")


@case(
    "A7.02", "amqp091/consume-exclusive",
    requirement="Beside an exclusive consumer a second one is refused with 403, and so is an exclusive one where there is a consumer.",
    reference="basic / consume / exclusive / 01", level="MUST", negative=True, variants=("classic", "quorum"),
    accepts={"beside an exclusive one": chan(403), "exclusive beside another": chan(403)},
)  # fmt: skip
def test_consume_exclusive(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    first, second = (channel.queue(arguments=_type(scene)) for _ in range(2))
    channel.consume(first, exclusive=True)
    scene.saw("beside an exclusive one", scene.attempt("basic.consume", queue=first))
    channel.consume(second)
    scene.saw("exclusive beside another", scene.attempt("basic.consume", queue=second, exclusive=True))


@case(
    "A7.03", "amqp091/no-local",
    requirement="A consumer with no-local gets what other connections publish, and not what its own does.",
    reference="domain no-local", level="MUST", accepts={"": must("only the other's message comes")},
)  # fmt: skip
def test_no_local(scene: AmqpScene) -> None:
    channel, other = scene.connect().channel(), scene.connect().channel()
    queue = channel.queue()
    channel.consume(queue, no_local=True, no_ack=True)
    channel.publish("", queue, b"own")
    channel.call("basic.qos", prefetch_count=0)
    other.publish("", queue, b"other")
    came = _bodies(channel.deliveries(1))
    came += _bodies(channel.deliveries(1, seconds=2))
    scene.require("", came == [b"other"], f"{came} came")


def _prefetched(scene: AmqpScene, *, global_: bool) -> dict[str, int]:
    """Unacknowledged deliveries by consumer: two on a channel of prefetch count 5, 100 messages, nothing acknowledged."""
    channel = scene.connect().channel()
    queue = channel.queue()
    scene.put(queue, *_numbered(100))
    channel.call("basic.qos", prefetch_count=5, **{"global": global_})
    tags = [channel.consume(queue) for _ in range(2)]
    channel.connection.awaited(lambda: len(_waiting(channel)) >= 5)
    channel.connection.quiet(2)
    return {tag: sum(e["consumer_tag"] == tag for e in _waiting(channel)) for tag in tags}


@case(
    "A7.04", "amqp091/prefetch-channel",
    requirement="A prefetch count of 5 with global=false is the channel's: two consumers on it have 5 unacknowledged deliveries in all.",
    reference="basic / qos / global=false", level="MUST", accepts={"": must("5 on the channel in all")},
)  # fmt: skip
def test_prefetch_channel(scene: AmqpScene) -> None:
    had = sorted(_prefetched(scene, global_=False).values())
    scene.require("", sum(had) == 5, f"{sum(had)} on the channel: {had[0]} and {had[1]}")


@case(
    "A7.05", "amqp091/prefetch-global",
    requirement="A prefetch count of 5 with global=true is shared: two consumers on a channel have 5 unacknowledged deliveries in all.",
    reference="basic / qos / global=true (vendor's meaning: shared by the channel)", level="extension",
    accepts={"": must("5 in all")}, records=("shared by",),
)  # fmt: skip
def test_prefetch_global(scene: AmqpScene) -> None:
    had = sorted(_prefetched(scene, global_=True).values())
    scene.require("", sum(had) == 5, f"{sum(had)} on the channel: {had[0]} and {had[1]}")
    connection = scene.connect()
    channels = [connection.channel() for _ in range(2)]
    queue = channels[0].queue()
    scene.put(queue, *_numbered(100))
    channels[0].call("basic.qos", prefetch_count=5, **{"global": True})
    for channel in channels:
        channel.consume(queue)
    connection.awaited(lambda: sum(len(_waiting(c)) for c in channels) >= 5)
    connection.quiet(1)
    scene.record("shared by", "the connection" if sum(len(_waiting(c)) for c in channels) == 5 else "the channel")


@case(
    "A7.06", "amqp091/prefetch-size",
    requirement="With a prefetch size of 1,000 deliveries stop once 1,000 octets are unacknowledged, and a single larger message still comes.",
    reference="basic / qos / prefetch-size", level="MUST",
    accepts={"stops": must("10 messages of 100 octets, and no more"), "larger": must("a single message of 5,000 octets comes, and nothing beside it")},
)  # fmt: skip
def test_prefetch_size(scene: AmqpScene) -> None:
    for step, size, due in (("stops", 100, 10), ("larger", 5_000, 1)):
        channel = scene.connect().channel()
        queue = channel.queue()
        scene.put(queue, *[b"x" * size] * 20)
        seen = channel.attempt("basic.qos", prefetch_size=1_000)
        if seen.behaviour == "basic.qos-ok":
            channel.consume(queue)
            channel.connection.awaited(lambda c=channel, n=due: len(_waiting(c)) >= n)  # type: ignore[misc]  # bound early
            channel.connection.quiet(2)
        came = len(_waiting(channel))
        scene.expect(step, seen, "basic.qos-ok", came == due, f"{came} messages of {size} octets came")


@case(
    "A7.07", "amqp091/prefetch-never-exceeded",
    requirement="Whatever is acknowledged, negatively acknowledged and requeued, in whatever order, a consumer never has more unacknowledged deliveries than its prefetch count.",
    reference="basic / qos / prefetch-count / 01", level="MUST", limit_s=180.0,
    accepts={f"count {n}": must("never more unacknowledged") for n in (1, 2, 10, 300)},
)  # fmt: skip
def test_prefetch_never_exceeded(scene: AmqpScene) -> None:
    for count in (1, 2, 10, 300):
        most, done = _most_held(scene, count, messages=1_250)
        scene.require(f"count {count}", most <= count, f"{most} unacknowledged")
        if not done:
            scene.inconclusive(f"with prefetch {count} deliveries stopped before all were settled")


def _most_held(scene: AmqpScene, count: int, messages: int) -> tuple[int, bool]:
    """The most deliveries that were unacknowledged at a time, as the client saw it; whether all messages were settled."""
    seeded = random.Random(7_07 + count)
    channel = scene.connect().channel()
    queue = channel.queue()
    scene.put(queue, *_numbered(messages))
    channel.call("basic.qos", prefetch_count=count)
    channel.consume(queue)
    held: list[int] = []
    most = acked = 0
    while acked < messages:
        due = min(count, messages - acked)
        if len(held) < due:
            event = channel.take("basic.deliver")
            if event is None:
                return most, False
            held += [event.tag, *(more.tag for more in channel.deliveries(len(_waiting(channel))))]
            # As the client sees it: what it has settled counts as settled before the broker knows.
            most = max(most, len(held))
        while held and (len(held) >= due or seeded.random() < 0.7):
            at = seeded.randrange(len(held))
            how = seeded.choice(("ack", "ack", "ack all", "nack", "requeue"))
            gone = held[: at + 1] if how == "ack all" else [held[at]]
            if how.startswith("ack"):
                channel.ack(held[at], multiple=how == "ack all")
            else:
                channel.nack(held[at], requeue=how == "requeue")
            acked += 0 if how == "requeue" else len(gone)
            held = [t for t in held if t not in gone]
    return most, True


_SETTLING: Mapping[str, Mapping[str, Any]] = {
    "basic.ack": {"multiple": False}, "basic.nack": {"multiple": False, "requeue": False}, "basic.reject": {"requeue": False},
}  # fmt: skip


@case(
    "A7.08", "amqp091/ack-validation",
    requirement="multiple settles all up to the tag, and with tag 0 all; an unknown tag, one acknowledged before and one of another channel close the channel with 406, by ack, nack and reject.",
    reference="basic / ack / multiple / exists; delivery-tag / channel-local", level="MUST", negative=True,
    accepts={"multiple": must("all up to the tag are settled"), "tag 0": must("all are settled"),
             **{f"{method}: {wrong}": chan(406) for method in _SETTLING for wrong in ("unknown", "twice", "another channel's")}},
)  # fmt: skip
def test_ack_validation(scene: AmqpScene) -> None:
    for step, tag, left in (("multiple", 3, 2), ("tag 0", 0, 0)):
        channel, queue, _ = _holding(scene, 5)
        channel.ack(tag, multiple=True)
        channel.close()
        back = len(scene.connect().channel().drain(queue))
        scene.require(step, back == left, f"{back} of 5 came back")
    for method, more in _SETTLING.items():
        channel, _, _ = _holding(scene, 1)
        channel.method(method, delivery_tag=99, **more)
        scene.saw(f"{method}: unknown", channel.reaction())
        channel, _, held = _holding(scene, 1)
        for _ in range(2):
            channel.method(method, delivery_tag=held[0].tag, **more)
        scene.saw(f"{method}: twice", channel.reaction())
        channel, _, held = _holding(scene, 3)
        other = channel.connection.channel()
        other.method(method, delivery_tag=held[2].tag, **more)
        scene.saw(f"{method}: another channel's", other.reaction())


def _holding(scene: AmqpScene, n: int) -> tuple[Channel, str, list[Event]]:
    """A channel that holds so many unacknowledged messages, got one by one, and their queue."""
    channel = scene.connect().channel()
    queue = channel.queue()
    scene.put(queue, *_numbered(n))
    held = [e for _ in range(n) if (e := channel.get(queue, no_ack=False))]
    if len(held) < n:
        scene.inconclusive(f"{len(held)} of {n} messages came")
    return channel, queue, held


@case(
    "A7.09", "amqp091/delivery-tags",
    requirement="Delivery tags, of deliveries and gets, are never 0 and strictly increase on each channel from 1.",
    reference="delivery-tag / non-zero", level="MUST", accepts={"": must("1, 2, 3 ... on each channel")},
)  # fmt: skip
def test_delivery_tags(scene: AmqpScene) -> None:
    connection = scene.connect()
    channels = [connection.channel() for _ in range(2)]
    queue, gets = channels[0].queue(), channels[0].queue()
    scene.put(queue, *_numbered(4_500))
    scene.put(gets, *_numbered(500))
    tags: dict[int, list[tuple[float, int]]] = {c.number: [] for c in channels}
    for channel in channels:
        channel.call("basic.qos", prefetch_count=_AT_A_TIME)
        channel.consume(queue)
    came = 0
    while came < 4_500 and connection.awaited(lambda: any(_waiting(c) for c in channels)):
        for channel in channels:
            found = channel.deliveries(len(_waiting(channel)))
            came += len(found)
            # Gets in between, while deliveries are on their way.
            got = [event for _ in range(10) if found and (event := channel.get(gets)) is not None]
            tags[channel.number] += [(e.at, e.tag) for e in (*found, *got)]
            if found:
                channel.ack(max(e.tag for e in found), multiple=True)
    if came < 4_500:
        scene.inconclusive(f"{came} of 4,500 deliveries came")
    wrong = [
        f"channel {n}: {list(t[:3])} ..."
        for n, pairs in tags.items()
        if (t := [tag for _, tag in sorted(pairs)]) != list(range(1, len(t) + 1))
    ]
    scene.require("", not wrong, "; ".join(wrong))


_REQUEUED = Table(
    "the original order, redelivered set on the requeued ones and only on those",
    (Line("PASS", behaviour=("original order",)), Line("NONSTRICT", behaviour=("another order",))),
)


@case(
    "A7.10", "amqp091/requeue-position",
    requirement="Messages that are requeued come again in the original order, marked as redelivered, and no others are marked.",
    reference="redelivered / implementation", level="SHOULD", accepts={"": _REQUEUED},
)  # fmt: skip
def test_requeue_position(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    scene.put(queue, *_numbered(10))
    held = [e for _ in range(3) if (e := channel.get(queue, no_ack=False))]
    random.Random(7_10).shuffle(held)
    for event in held:
        channel.nack(event.tag, requeue=True)
    came = channel.drain(queue)
    again = {e.body for e in came if e["redelivered"]}
    if again != set(_numbered(3)) or len(came) != 10:
        scene.saw("", Seen("redelivered not on those three", detail=f"on {sorted(again)}, {len(came)} came"))
    else:
        in_order = _bodies(came) == _numbered(10)
        scene.saw("", Seen("original order" if in_order else "another order", detail=str(_bodies(came))))


@case(
    "A7.11", "amqp091/reject-not-to-same",
    requirement="A message that a consumer rejected with requeue never comes to it again on that channel, while another consumer is there; 200 rounds.",
    reference="basic / reject / requeue / 01", level="MUST", limit_s=180.0, accepts={"": must("never again to the same consumer")},
    records=("share that came to the same",),
)  # fmt: skip
def test_reject_not_to_same(scene: AmqpScene) -> None:
    rejecting, other = scene.connect().channel(), scene.connect().channel()
    queue = rejecting.queue()
    for channel in (rejecting, other):
        channel.call("basic.qos", prefetch_count=1)
        channel.consume(queue)
    publisher = scene.connect().channel()
    same = rejected = 0
    for n in range(200):
        publisher.publish("", queue, b"%d" % n)
        times, again, at_other = _rejected_until_other(rejecting, other)
        rejected, same = rejected + times, same + again
        if at_other is not None and n % _BUSY_EVERY == 0:
            # The other one has its hands full: where else than back could the next message go?
            publisher.publish("", queue, b"%d, the other one busy" % n)
            event = rejecting.take("basic.deliver")
            if event is not None:
                rejecting.reject(event.tag, requeue=True)
                back = rejecting.take("basic.deliver", seconds=0.5)
                rejected, same = rejected + 1, same + (back is not None)
                other.ack(at_other.tag)
                if back is not None:
                    rejecting.reject(back.tag, requeue=True)
                times, again, at_other = _rejected_until_other(rejecting, other)
                rejected, same = rejected + times, same + again
        if at_other is None:
            break
        other.ack(at_other.tag)
    if not rejected or (at_other is None and not same):
        scene.inconclusive(f"round {n}: the message came to nobody, or no message was ever rejected")
    scene.record("share that came to the same", f"{same} of {rejected} rejections")
    scene.require("", not same, "rejected messages came to the same consumer again", detail=f"{same} of {rejected}")


def _rejected_until_other(rejecting: Channel, other: Channel) -> tuple[int, int, Event | None]:
    """Rejects one message until the other consumer has it: how often, how often it had come again, and it; None: it
    came to nobody, or to and fro for ever."""
    rejected = same = 0
    while rejected < 50 and _either(rejecting, other):
        event = rejecting.take("basic.deliver", seconds=0)
        if event is None:
            return rejected, same, other.take("basic.deliver", seconds=0)
        same += rejected > 0
        rejecting.reject(event.tag, requeue=True)
        rejected += 1
    return rejected, same, None


def _either(one: Channel, two: Channel, seconds: float = 5) -> bool:
    """Whether a delivery comes to one of two channels."""
    until = max(one.scene.window(seconds), time.monotonic() + 2)
    while not (_waiting(one) or _waiting(two)):
        if time.monotonic() > until:
            return False
        for channel in (one, two):
            channel.connection.pump(time.monotonic() + 0.002)
    return True


@case(
    "A7.12", "amqp091/recover",
    requirement="recover(requeue=true) is answered, and all that is unacknowledged comes again, marked as redelivered; recover(requeue=false) brings it to the consumer that had it.",
    reference="basic / recover / 01", level="MUST", revision=2,
    accepts={"requeue": must("recover-ok, all again, redelivered"), "to the original consumer": must("recover-ok, all again to the same consumer")},
)  # fmt: skip
def test_recover(scene: AmqpScene) -> None:
    for step, requeue in (("requeue", True), ("to the original consumer", False)):
        channel = scene.connect().channel()
        queue = channel.queue()
        scene.put(queue, *_numbered(5))
        tag = channel.consume(queue)
        if len(channel.deliveries(5)) < 5:
            scene.inconclusive("not all messages came")
        other = scene.connect().channel()
        if not requeue:
            other.consume(queue)
        seen = channel.attempt("basic.recover", requeue=requeue)
        came = channel.deliveries(5) if seen.behaviour == "basic.recover-ok" else []
        came += channel.deliveries(1, seconds=1) if came else []
        good = len(came) == 5 and {(e.body, bool(e["redelivered"]), e["consumer_tag"]) for e in came} == {
            (b, True, tag) for b in _numbered(5)
        }
        scene.expect(
            step, seen, "basic.recover-ok", good, f"{len(came)} of 5 came again, {len(_waiting(other))} to another"
        )


@case(
    "A7.13", "amqp091/cancel",
    requirement="Cancelling an unknown tag is answered with cancel-ok, and so is a cancel after the queue was deleted; after cancel-ok nothing is delivered for the tag, under full load too.",
    reference="basic / cancel / 01", level="MUST", limit_s=90.0,
    accepts={"unknown tag": must("cancel-ok"), "under load": must("nothing for the tag after cancel-ok, 100 rounds"), "queue deleted": must("cancel-ok")},
)  # fmt: skip
def test_cancel(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    scene.expect("unknown tag", channel.attempt("basic.cancel", consumer_tag="nobody"), "basic.cancel-ok")
    queue = channel.queue()
    scene.put(queue, *_numbered(500))
    late = 0
    for n in range(100):
        channel.call("basic.qos", prefetch_count=50)
        channel.consume(queue, tag=f"c{n}")
        channel.take("basic.deliver", seconds=1)
        cancelled = channel.call("basic.cancel", consumer_tag=f"c{n}")
        # All goes back into the queue: whoever still takes this consumer for one gives it something.
        channel.nack(0, multiple=True, requeue=True)
        channel.call("basic.qos", prefetch_count=50)
        late = sum(e.at > cancelled.at for e in channel.deliveries(len(_waiting(channel))))
        if late:
            break
    scene.require("under load", not late, f"{late} deliveries after cancel-ok in round {n}")
    other = scene.connect().channel()
    gone = other.queue()
    other.consume(gone, tag="c")
    scene.connect().channel().call("queue.delete", queue=gone)
    scene.expect("queue deleted", other.attempt("basic.cancel", consumer_tag="c"), "basic.cancel-ok")


@case(
    "A7.14", "amqp091/server-cancel",
    requirement="A client with the capability is told by basic.cancel that its consumer's queue was deleted; one without it is told nothing.",
    reference="vendor extension consumer_cancel_notify", level="extension",
    accepts={"with the capability": must("basic.cancel with the tag"), "without": must("nothing")},
)  # fmt: skip
def test_server_cancel(scene: AmqpScene) -> None:
    without = {k: v for k, v in CAPABILITIES.items() if k != "consumer_cancel_notify"}
    told = scene.connect().channel()
    untold = scene.connect(capabilities=without).channel()
    queue = told.queue()
    for channel in (told, untold):
        channel.consume(queue, tag="c")
    scene.connect().channel().call("queue.delete", queue=queue)
    notice = told.take("basic.cancel")
    scene.require(
        "with the capability",
        notice is not None and notice["consumer_tag"] == "c",
        "nothing came" if notice is None else "another tag",
    )
    scene.require("without", untold.take("basic.cancel", seconds=scene.window_s) is None, "told too")


@case(
    "A7.15", "amqp091/fifo-one-path",
    requirement="10,000 messages by one channel, exchange, queue and consumer come in the order in which they were published, none marked as redelivered.",
    reference="section 4.7", level="MUST", limit_s=240.0, accepts={"": must("in order, none redelivered")},
)  # fmt: skip
def test_fifo_one_path(scene: AmqpScene) -> None:
    channel, publisher = scene.connect().channel(), scene.connect().channel()
    queue = channel.queue()
    channel.bind(queue, "amq.direct", "k")
    channel.call("basic.qos", prefetch_count=500)
    channel.consume(queue)
    came: list[Event] = []
    for first in range(0, 10_000, 500):
        for body in _numbered(10_000)[first : first + 500]:
            publisher.publish("amq.direct", "k", body)
        some = channel.deliveries(500)
        came += some
        if len(some) < 500:
            break
        channel.ack(some[-1].tag, multiple=True)
    wrong = next((n for n, e in enumerate(came) if e.body != b"%d" % n), None)
    again = sum(bool(e["redelivered"]) for e in came)
    good = len(came) == 10_000 and wrong is None and not again
    scene.require("", good, f"{len(came)} came, first out of order: {wrong}, {again} redelivered")


@case(
    "A7.16", "amqp091/requeue-on-loss",
    requirement="What is unacknowledged when its channel closes, its connection closes or its TCP connection is reset is there for another consumer, marked as redelivered, none twice.",
    reference="section 3.1.7; basic.ack", level="MUST",
    accepts=dict.fromkeys(("channel close", "connection close", "reset"), must("all 100, redelivered, none twice")),
)  # fmt: skip
def test_requeue_on_loss(scene: AmqpScene) -> None:
    for step in ("channel close", "connection close", "reset"):
        channel = scene.connect().channel()
        queue = channel.queue()
        scene.put(queue, *_numbered(100))
        channel.consume(queue)
        if len(channel.deliveries(100)) < 100:
            scene.inconclusive("not all messages came")
        other = scene.connect().channel()
        other.consume(queue)
        if step == "reset":
            channel.connection.reset()
        elif step == "channel close":
            channel.close()
        else:
            channel.connection.close()
        came = other.deliveries(100)
        came += other.deliveries(1, seconds=1)
        good = sorted(_bodies(came)) == sorted(_numbered(100)) and all(e["redelivered"] for e in came)
        scene.require(
            step,
            good,
            f"{len(came)} came, {len({e.body for e in came})} different, {sum(not e['redelivered'] for e in came)} not marked",
        )


@case(
    "A7.17", "amqp091/ack-timeout",
    requirement="Recorded: what becomes of a message that is held unacknowledged past the smallest timeout there is, and the timeout on an untouched configuration.",
    reference="vendor setting consumer_timeout", level="extension", tags=["slow"], limit_s=270.0,
    variants={"classic": "", "quorum": "", "stream": "rabbitmq>=3.9"}, settings={"consumer_timeout": 1},
    records=("seconds", "told", "requeued", "untouched configuration"),
)  # fmt: skip
def test_ack_timeout(scene: AmqpScene) -> None:
    scene.record("untouched configuration", scene.admin.default("consumer_timeout"))
    channel = scene.connect().channel()
    queue = channel.queue(arguments=_type(scene))
    scene.put(queue, b"x")
    channel.call("basic.qos", prefetch_count=1)
    channel.consume(queue, tag="c", arguments={"x-stream-offset": "first"} if scene.variant == "stream" else {})
    held = channel.deliveries(1)
    if not held:
        scene.inconclusive("the message did not come")
    channel.connection.awaited(
        lambda: bool(channel.connection.events(channel.number)) or channel.connection.ended(channel.number), 240
    )
    scene.record(
        "seconds", round(scene.measured(time.monotonic() - held[0].at)) if not channel.is_open else "none within 240"
    )
    told = channel.reaction(seconds=0)
    scene.record("told", told.behaviour or f"{told.scope} {told.ending} {told.code or ''}".strip())
    other = scene.connect().channel()
    other.call("basic.qos", prefetch_count=1)
    other.consume(queue, arguments={"x-stream-offset": "next"} if scene.variant == "stream" else {})
    scene.record("requeued", bool(other.deliveries(1, seconds=5)))


@case(
    "A7.18", "amqp091/get",
    requirement="Get is answered with get-empty on an empty queue, else with get-ok and the number of messages left.",
    reference="basic.get", level="MUST", accepts={"empty": must("get-empty"), "counts": must("9, 8, ... 0")},
)  # fmt: skip
def test_get(scene: AmqpScene) -> None:
    channel = scene.connect().channel()
    queue = channel.queue()
    empty = channel.call("basic.get", queue=queue)
    scene.require("empty", empty.name == "basic.get-empty", empty.name)
    scene.put(queue, *_numbered(10))
    channel.connection.quiet(1)
    counts = [e["message_count"] for _ in range(10) if (e := channel.get(queue)) is not None]
    scene.require("counts", counts == list(range(9, -1, -1)), f"counts {counts}")


@case(
    "A7.19", "amqp091/consumer-priority",
    requirement="Of two consumers with a prefetch of 5 the one of lower priority gets a message only while the other has 5 unacknowledged.",
    reference="vendor extension x-priority", level="extension", accepts={"": must("the higher one first, as far as it may have them")},
)  # fmt: skip
def test_consumer_priority(scene: AmqpScene) -> None:
    low, high = scene.connect().channel(), scene.connect().channel()
    queue = low.queue()
    for channel, priority in ((low, 0), (high, 10)):
        channel.call("basic.qos", prefetch_count=5)
        channel.consume(queue, arguments={"x-priority": priority})
    held: list[Event] = []
    wrong: list[str] = []
    for n, (to_high, to_low) in enumerate(_shares(held, high)):
        scene.put(queue, *_numbered(to_high + to_low))
        held += high.deliveries(to_high)
        came = len(low.deliveries(to_low)) if to_low else 0
        came += len(low.deliveries(1, seconds=0.5))
        if (len(held), came) != (5 if to_low else to_high, to_low):
            wrong.append(f"round {n}: {len(held)} held by the higher one, {came} more at the lower one")
    scene.require("", not wrong, "; ".join(wrong))


def _shares(held: list[Event], high: Channel) -> Iterator[tuple[int, int]]:
    """What is due in each round to the higher consumer and to the lower one; the higher one settles in between."""
    yield 3, 0
    high.ack(held[-1].tag if held else 1, multiple=True)
    held.clear()
    yield 5, 3
    high.ack(held[-1].tag if held else 1, multiple=True)
    held.clear()
    yield 4, 0
