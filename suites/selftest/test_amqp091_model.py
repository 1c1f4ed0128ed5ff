"""The broker core of AMQP's reference peer: what the specification asks of entities, queues and consumers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from brokerproof.conformance.amqp091 import model
from brokerproof.conformance.amqp091.channel import Channel
from brokerproof.conformance.amqp091.entities import Delivery, Refused
from brokerproof.conformance.amqp091.model import Broker, Connection
from brokerproof.conformance.amqp091.mutants import MUTANTS
from brokerproof.conformance.amqp091.routing import headers_match, kind, topic_matches
from brokerproof.wire.amqp091 import Field, plain


@dataclass
class Heard:
    """What a channel was told."""

    came: list[Delivery] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    end: list[Refused] = field(default_factory=list)

    def deliver(self, delivery: Delivery) -> None:
        self.came.append(delivery)

    def cancelled(self, consumer_tag: str) -> None:
        self.gone.append(consumer_tag)

    def closed(self, refused: Refused) -> None:
        self.end.append(refused)

    @property
    def bodies(self) -> list[bytes]:
        return [d.message.body for d in self.came]


class Peer:
    """A broker whose clock stands still until ``go``."""

    def __init__(self, *mutants: str, **more: Any) -> None:
        self.now = 0.0
        self.broker = Broker(lambda: self.now, mutants=frozenset(mutants), **more)

    def go(self, seconds: float) -> None:
        self.now += seconds
        self.broker.tick()

    def connect(self, **more: Any) -> Connection:
        return self.broker.connect("guest", "/", **more)

    def channel(self, connection: Connection | None = None) -> tuple[Channel, Heard]:
        heard = Heard()
        return (connection or self.connect()).channel(heard), heard


def consume(channel: Channel, queue: str, **more: Any) -> str:
    return channel.consume(queue, then=lambda tag: None, **more)


def qos(channel: Channel, count: int, **more: Any) -> None:
    channel.qos(prefetch_count=count, then=lambda ok: None, **more)


def put(channel: Channel, queue: str, *bodies: bytes, **properties: Any) -> None:
    for body in bodies:
        channel.publish("", queue, properties, body)


def bodies(channel: Channel, queue: str) -> list[bytes]:
    found = []
    while (one := channel.get(queue, no_ack=True)) is not None:
        found.append(one.message.body)
    return found


def refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[str, int]:
    with pytest.raises(Refused) as found:
        call(*args, **kwargs)
    return found.value.scope, found.value.code


# -- routing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key", "is_match"),
    [
        ("#", "", True), ("#", "a.b", True), ("*", "", False), ("*", "a", True), ("*", "a.b", False), ("#.#", "", True),
        ("*.#", "", False), ("*.#", "a", True), ("a.*.b", "a..b", True), ("a.*.b", "a.b", False), ("a.#.b", "a.b", True),
        ("a.#", "a", True), ("a.#", "ab", False), ("", "", True), ("", "a", False), ("a.", "a.", True), ("a.*", "a.", True),
        ("#.a.#", "b.a.c.a", True), ("a.#.b.#.c", "a.x.b.y.z.c", True),
    ],
)  # fmt: skip
def test_topics(pattern: str, key: str, is_match: bool) -> None:
    assert topic_matches(pattern, key) is is_match


@pytest.mark.parametrize(
    ("arguments", "headers", "is_match"),
    [
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 0}, True),
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": "x"}, {"a": 1}, True),
        ({"x-match": "any", "a": 1}, {"a": "1"}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": Field("V", None)}, {}, False),
        ({"x-match": Field("S", "any"), "a": Field("V", None), "b": 1}, {"a": 2}, True),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": Field("l", 1)}, True),
        ({"x-match": "all"}, {}, True),
        ({"x-match": "any"}, {"a": 1}, False),
    ],
)  # fmt: skip
def test_headers(arguments: dict[str, object], headers: dict[str, object], is_match: bool) -> None:
    assert headers_match(arguments, headers) is is_match


def test_a_tag_says_the_type() -> None:
    assert kind(Field("T", 1)) != kind(1)
    assert kind(Field("I", 1)) == kind(Field("l", 1)) == kind(1)


# -- queues and consumers ----------------------------------------------------------------------------------------------


def test_what_is_refused_is_refused_in_its_scope() -> None:
    p = Peer()
    ch, _ = p.channel()
    ch.exchange_declare("x", "direct")
    ch.queue_declare("q", durable=True)
    assert refusal(ch.exchange_declare, "x", "fanout") == ("connection", 530)
    assert refusal(ch.exchange_declare, "x", "direct", durable=True) == ("channel", 406)
    assert refusal(ch.exchange_declare, "y", "nope") == ("connection", 503)
    assert refusal(ch.queue_unbind, "q", "x", "k") == ("connection", 404)
    assert refusal(ch.queue_declare, "q") == ("channel", 406)
    assert refusal(ch.ack, 7) == ("channel", 406)
    assert refusal(p.broker.connect, "guest", "nowhere") == ("connection", 402)
    other, _ = p.channel()
    ch.queue_declare("mine", exclusive=True)
    assert refusal(other.queue_declare, "mine", durable=True) == ("channel", 405)


def test_a_queue_gets_one_copy_and_cycles_end() -> None:
    ch, _ = Peer().channel()
    ch.queue_declare("q")
    for name in ("a", "b"):
        ch.exchange_declare(name, "fanout")
    ch.exchange_bind("b", "a")
    ch.exchange_bind("a", "b")
    for key in ("1", "2"):
        ch.queue_bind("q", "a", key)
        ch.queue_bind("q", "b", key)
    ch.publish("a", "k", {}, b"x")
    assert bodies(ch, "q") == [b"x"]


def test_requeued_messages_come_back_to_their_place() -> None:
    ch, _ = Peer().channel()
    ch.queue_declare("q")
    put(ch, "q", *(b"%d" % n for n in range(6)))
    tags = [d.tag for _ in range(3) if (d := ch.get("q"))]
    for tag in (tags[1], tags[2], tags[0]):
        ch.nack(tag)
    got = [d for _ in range(6) if (d := ch.get("q"))]
    assert [d.message.body for d in got] == [b"%d" % n for n in range(6)]
    assert [d.redelivered for d in got] == [True] * 3 + [False] * 3


def test_prefetch_is_the_channels() -> None:
    ch, heard = Peer().channel()
    ch.queue_declare("q")
    qos(ch, 5)
    for _ in range(2):
        consume(ch, "q")
    put(ch, "q", *[b"x"] * 20)
    assert len(heard.came) == 5
    ch.ack(3, multiple=True)
    assert len(heard.came) == 8


def test_prefetch_by_octets_lets_one_large_message_pass() -> None:
    ch, heard = Peer().channel()
    ch.queue_declare("q")
    ch.qos(prefetch_size=1000, then=lambda ok: None)
    consume(ch, "q")
    put(ch, "q", b"x" * 5000, b"x")
    assert len(heard.came) == 1
    ch.ack(1)
    assert len(heard.came) == 2


def test_a_rejected_message_goes_to_somebody_else() -> None:
    p = Peer()
    (a, at_a), (b, at_b) = p.channel(), p.channel()
    a.queue_declare("q")
    consume(a, "q")
    put(a, "q", b"x")
    a.reject(1)
    assert len(at_a.came) == 1
    consume(b, "q")
    assert at_b.bodies == [b"x"] and at_b.came[0].redelivered


def test_recover_without_requeue_is_to_the_same_consumer() -> None:
    p = Peer()
    (a, at_a), (b, at_b) = p.channel(), p.channel()
    a.queue_declare("q")
    consume(a, "q")
    put(a, "q", b"x")
    consume(b, "q")
    a.recover(False, then=lambda ok: None)
    assert [(d.tag, d.redelivered) for d in at_a.came] == [(1, False), (2, True)] and not at_b.came


def test_a_transaction_can_put_back_what_it_took() -> None:
    ch, _ = Peer().channel()
    ch.queue_declare("q")
    put(ch, "q", b"x")
    ch.get("q")
    taken = ch.take(1, multiple=False)
    assert refusal(ch.take, 1, multiple=False) == ("channel", 406)
    ch.put_back(taken)
    ch.ack(1)


def test_what_a_lost_connection_held_is_there_again() -> None:
    p = Peer()
    connection = p.connect()
    a, _ = p.channel(connection)
    a.queue_declare("q")
    a.queue_declare("mine", exclusive=True)
    put(a, "q", b"1", b"2", b"3")
    consume(a, "q")
    connection.close()
    b, _ = p.channel()
    assert bodies(b, "q") == [b"1", b"2", b"3"]
    assert refusal(b.queue_declare, "mine", passive=True) == ("channel", 404)


def test_time_to_live_and_dead_letters() -> None:
    p = Peer()
    ch, _ = p.channel()
    ch.queue_declare("dead")
    ch.queue_declare(
        "q", arguments={"x-message-ttl": 3000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    )
    put(ch, "q", b"x", expiration="1000")
    p.go(0.9)
    assert ch.get("dead") is None
    p.go(0.2)
    found = ch.get("dead")
    assert found is not None
    headers: Any = plain(found.message.properties["headers"])
    (death,) = headers["x-death"]
    assert (death["queue"], death["reason"], death["count"], death["exchange"]) == ("q", "expired", 1, "")
    assert death["routing-keys"] == ["q"] and death["original-expiration"] == "1000"
    assert "expiration" not in found.message.properties


def test_an_unused_queue_expires() -> None:
    p = Peer()
    ch, _ = p.channel()
    ch.queue_declare("q", arguments={"x-expires": 1000})
    tag = consume(ch, "q")
    p.go(5)
    ch.cancel(tag)
    p.go(0.9)
    ch.queue_declare("q", passive=True)
    p.go(0.2)
    assert refusal(ch.queue_declare, "q", passive=True) == ("channel", 404)


def test_lengths() -> None:
    ch, _ = Peer().channel()
    ch.queue_declare("q", arguments={"x-max-length": 2})
    ch.queue_declare("r", arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    put(ch, "q", b"1", b"2", b"3")
    assert [ch.publish("", "r", {}, b).accepted for b in (b"1", b"2", b"3")] == [True, True, False]
    assert bodies(ch, "q") == [b"2", b"3"] and bodies(ch, "r") == [b"1", b"2"]


def test_a_dead_letter_does_not_circle() -> None:
    p = Peer()
    ch, _ = p.channel()
    ch.queue_declare("q", arguments={"x-message-ttl": 10, "x-dead-letter-exchange": ""})
    put(ch, "q", b"x")
    for _ in range(5):
        p.go(1)
    assert bodies(ch, "q") == []


def test_one_consumer_is_active_and_others_follow() -> None:
    p = Peer()
    a, at_a = p.channel()
    b, at_b = p.channel()
    a.queue_declare("q", arguments={"x-single-active-consumer": True})
    consume(a, "q"), consume(b, "q")
    put(a, "q", b"1", b"2")
    assert at_a.bodies == [b"1", b"2"] and not at_b.came
    a.close()
    assert at_b.bodies == [b"1", b"2"]


def test_consumers_by_priority() -> None:
    p = Peer()
    (a, at_a), (b, at_b) = p.channel(), p.channel()
    a.queue_declare("q")
    for ch, priority in ((a, 0), (b, 10)):
        qos(ch, 2)
        consume(ch, "q", arguments={"x-priority": priority})
    put(a, "q", b"1", b"2", b"3")
    assert at_b.bodies == [b"1", b"2"] and at_a.bodies == [b"3"]


def test_permissions_and_limits() -> None:
    p = Peer()
    p.broker.add_user("reader", "x")
    assert refusal(p.broker.connect, "reader", "/") == ("connection", 530)
    p.broker.set_permissions("reader", "/", configure="", write="", read=".*")
    ch = p.broker.connect("reader", "/").channel(Heard())
    assert refusal(ch.queue_declare, "q") == ("channel", 403)
    p.channel()[0].queue_declare("q")
    assert ch.get("q") is None
    assert refusal(ch.publish, "", "q", {}, b"") == ("channel", 403)
    p.broker.set_limits({"max-queues": 1}, vhost="/")
    assert refusal(p.channel()[0].queue_declare, "r") == ("channel", 406)


def test_a_delivery_held_too_long_ends_its_channel() -> None:
    p = Peer(consumer_timeout_s=10.0)
    ch, heard = p.channel()
    ch.queue_declare("q")
    consume(ch, "q")
    put(ch, "q", b"x")
    p.go(9)
    assert not heard.end
    p.go(2)
    assert [r.code for r in heard.end] == [406] and bodies(p.channel()[0], "q") == [b"x"]


def test_what_waits_for_a_place_is_placed_when_there_is_one() -> None:
    ch, _ = Peer().channel()
    ch.exchange_declare("dlx", "fanout")
    ch.queue_declare("dead", durable=True)
    ch.queue_declare(
        "q", durable=True,
        arguments={
            "x-queue-type": "quorum", "x-dead-letter-exchange": "dlx", "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )  # fmt: skip
    put(ch, "q", b"x")
    found = ch.get("q")
    assert found is not None
    ch.reject(found.tag, requeue=False)
    ch.queue_bind("dead", "dlx")
    assert bodies(ch, "dead") == [b"x"]


def test_streams_keep_what_they_deliver() -> None:
    p = Peer()
    for offset, wanted in (("first", [b"1", b"2"]), ("last", [b"2"]), ("next", []), (1, [b"2"])):
        ch, heard = p.channel()
        ch.queue_declare("s", durable=True, arguments={"x-queue-type": "stream"})
        if offset == "first":
            put(ch, "s", b"1", b"2")
        qos(ch, 10)
        consume(ch, "s", arguments={"x-stream-offset": offset})
        assert heard.bodies == wanted


def test_a_restart_keeps_what_is_durable() -> None:
    p = Peer()
    ch, _ = p.channel()
    ch.queue_declare("q", durable=True)
    ch.queue_declare("t")
    put(ch, "q", b"kept", delivery_mode=2)
    put(ch, "q", b"lost")
    p.broker.restart()
    ch, _ = p.channel()
    assert bodies(ch, "q") == [b"kept"]
    assert refusal(ch.queue_declare, "t", passive=True) == ("channel", 404)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_is_in_the_code(mutant: str) -> None:
    files = [f for f in Path(model.__file__).parent.glob("*.py") if f.name != "mutants.py"]
    assert any(f'"{mutant}"' in file.read_text(encoding="utf-8") for file in files)
