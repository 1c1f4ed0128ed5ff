"""The sender without a broker: what it writes down for confirms, returns, refusals and silence."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pika
import pytest

from brokerproof.brokers.base import Pace, SendJob
from brokerproof.brokers.rabbitmq.cluster import RabbitCluster
from brokerproof.brokers.rabbitmq.queues import queue_name, rejects_when_full, shape
from brokerproof.brokers.rabbitmq.sending import Sending
from brokerproof.brokers.rabbitmq.session import Session
from brokerproof.errors import PlanError
from brokerproof.history import FAIL, INFO, OK
from brokerproof.message import Bodies
from brokerproof.plan import Destination, Sender
from brokerproof.tape import OPEN, Tape, errors_of
from brokerproof.waiting import wait_until

ENDPOINT = {"addresses": [["127.0.0.1", 1]], "user": "guest", "password": "guest", "vhost": "/", "heartbeat_s": 5}


class Channel:
    """Takes what is published, and lets a test answer as the broker."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, bytes]] = []
        self.on_confirm: Callable[[Any], None] = lambda _: None
        self.open = True

    def add_on_return_callback(self, callback: Any) -> None:
        self.on_return = callback

    def confirm_delivery(self, on_confirm: Any, callback: Any) -> None:
        self.on_confirm = on_confirm
        callback(None)

    def basic_publish(self, exchange: str, routing_key: str, body: bytes, properties: Any, mandatory: bool) -> None:
        if not self.open:
            raise pika.exceptions.ChannelWrongStateError("closed")
        assert mandatory
        assert properties.delivery_mode == 2
        self.published.append((exchange, routing_key, body))

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.on_confirm(SimpleNamespace(method=pika.spec.Basic.Ack(tag, multiple)))

    def nack(self, tag: int, multiple: bool = False) -> None:
        self.on_confirm(SimpleNamespace(method=pika.spec.Basic.Nack(tag, multiple)))

    def give_back(self, body: bytes) -> None:
        self.on_return(self, SimpleNamespace(reply_code=312), None, body)


class Play:
    """A sender that has sent ``n`` messages over a channel that the test holds."""

    def __init__(self, folder: Path, n: int, destination: dict[str, Any] | None = None, **sender: Any) -> None:
        self.folder = folder
        self.tape = Tape(folder, slot=0, slots=4, zero_ns=time.monotonic_ns())
        given = Sender(count=n, **sender)
        self.job = SendJob(
            endpoint=ENDPOINT, destination="q", kind="queue", lane=0, partitions=1, tape=self.tape, seed=1,
            trial_number=9, stopping=lambda: False, report=lambda **_: None, sender=given,
            pace=Pace(rate_per_s=None, count=n, load_ns=10**12, keys=0), destination_settings=destination or {},
            bodies=Bodies(trial=9, sender=0, seed=1, size=64),
        )  # fmt: skip
        self.sending = Sending(self.job)
        self.connect()
        while self.sending.send_due(self.tape.now()):
            pass

    def connect(self) -> None:
        self.channel = Channel()
        session = self.sending.session
        session._channel = self.channel  # in place of a connection's
        session.connections += 1
        self.sending.set_up(self.channel)

    def column(self, name: str) -> list[int]:
        self.sending.settle(self.tape.now())
        segment = self.tape._segments[0]
        return [int(v) for v in segment.columns[name][: segment.head]]

    def errors(self) -> list[str]:
        texts = errors_of(self.folder, "0g0")
        return [texts[code] for code in self.column("error")]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Play]]:
    made: list[Play] = []

    def make(n: int, destination: dict[str, Any] | None = None, **sender: Any) -> Play:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Play(folder, n, destination, **sender))
        return made[-1]

    yield make
    for each in made:
        each.sending.session.close()


def test_confirm_numbers_count_from_one_and_stand_in_the_row(play: Callable[..., Play]) -> None:
    it = play(5)
    assert it.column("value") == [1, 2, 3, 4, 5]
    assert it.column("outcome") == [OPEN] * 5


def test_confirms_close_their_rows_in_any_order(play: Callable[..., Play]) -> None:
    it = play(5)
    it.channel.ack(4)
    it.channel.ack(2)
    assert it.column("outcome") == [OPEN, OK, OPEN, OK, OPEN]


def test_a_confirm_for_many_closes_all_before_it_and_no_other(play: Callable[..., Play]) -> None:
    it = play(300)
    it.channel.ack(3)
    it.channel.ack(200, multiple=True)
    assert it.column("outcome") == [OK] * 200 + [OPEN] * 100
    it.channel.ack(300, multiple=True)
    assert set(it.column("outcome")) == {OK}
    assert it.sending._unexpected == 0


def test_a_second_confirm_of_a_number_is_noticed(play: Callable[..., Play]) -> None:
    it = play(3)
    it.channel.ack(2)
    it.channel.ack(2)
    it.channel.ack(99)
    it.column("outcome")
    assert it.sending._unexpected == 2


def test_a_returned_message_failed_whatever_its_confirm_says(play: Callable[..., Play]) -> None:
    it = play(3)
    it.channel.give_back(it.channel.published[1][2])
    it.channel.ack(3, multiple=True)
    assert it.column("outcome") == [OK, FAIL, OK]
    assert it.errors() == ["", "UNROUTABLE", ""]
    assert it.sending._unexpected == 0


def test_a_refusal_is_unknown_but_for_one_queue_that_rejects_when_full(play: Callable[..., Play]) -> None:
    some = play(2)
    some.channel.nack(2, multiple=True)
    assert some.column("outcome") == [INFO, INFO]
    one = play(1, {"x-max-length": 1, "x-overflow": "reject-publish"})
    one.channel.nack(1)
    assert one.errors() == ["NACK_REJECT_PUBLISH"]
    assert one.column("outcome") == [FAIL]


def test_what_is_not_answered_in_time_is_unknown_and_its_late_confirm_changes_nothing(
    play: Callable[..., Play],
) -> None:
    it = play(2, timeout_s=0.0)
    assert it.column("outcome") == [INFO, INFO]
    assert it.errors() == ["Timeout", "Timeout"]
    it.channel.ack(2, multiple=True)
    assert it.column("outcome") == [INFO, INFO]
    assert (it.sending._late, it.sending._unexpected) == (2, 0)


def test_a_lost_connection_makes_all_in_flight_unknown_and_the_next_one_counts_anew(play: Callable[..., Play]) -> None:
    it = play(3, resend=True)
    it.channel.ack(1)
    it.sending.lost("ConnectionReset")
    assert it.column("outcome") == [OK, INFO, INFO]
    it.connect()
    it.sending.resend_due(it.tape.now() + 10**9)
    assert it.column("msg") == [0, 1, 2, 1, 2]
    assert it.column("value") == [1, 2, 3, 1, 2]
    assert it.column("process") == [0, 0, 0, 4, 4]
    it.channel.ack(2, multiple=True)
    assert it.column("outcome") == [OK, INFO, INFO, OK, OK]


def test_without_resend_nothing_is_sent_twice(play: Callable[..., Play]) -> None:
    it = play(2)
    it.sending.lost("ConnectionReset")
    assert not it.sending.resends


def test_without_confirms_a_send_is_believed_as_soon_as_it_was_handed_over(play: Callable[..., Play]) -> None:
    it = play(3, settings={"confirm": False})
    assert it.column("outcome") == [OK] * 3
    assert it.column("value") == [-1] * 3


def test_what_a_closed_channel_did_not_take_failed(play: Callable[..., Play]) -> None:
    it = play(2)
    it.channel.open = False
    it.sending._publish(2, 2)
    assert it.errors() == ["", "", "NotSent", "NotSent"]
    assert it.column("outcome") == [OPEN, OPEN, FAIL, FAIL]


def test_one_at_a_time_waits_for_each_confirm(play: Callable[..., Play]) -> None:
    it = play(3, settings={"mode": "each"})
    assert len(it.channel.published) == 1
    it.channel.ack(1)
    it.sending.settle(it.tape.now())
    it.sending.send_due(it.tape.now())
    assert len(it.channel.published) == 2


def test_an_expiring_message_says_when_it_is_due(play: Callable[..., Play]) -> None:
    it = play(4, settings={"expiration_ms": [1000, 50]})
    waits = np.array(it.column("value")) - np.array(it.column("start_ns"))
    assert waits.tolist() == [10**9, 5 * 10**7, 10**9, 5 * 10**7]


def test_settings_keep_the_vendors_words_and_refer_to_siblings() -> None:
    given = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead", "x-queue-type": "classic", "durable": False,
             "exchange": {"type": "topic", "arguments": {"alternate-exchange": "@x:other"}}}  # fmt: skip
    made = shape(given, name="bp-1-q", prefix="bp-1-", defaults={"x-queue-type": "quorum", "x-delivery-limit": -1})
    assert made.arguments == {
        "x-queue-type": "classic", "x-delivery-limit": -1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "bp-1-dead"
    }  # fmt: skip
    assert made.durable is False
    assert made.exchange is not None
    assert (made.exchange.name, made.exchange.type) == ("bp-1-q.x", "topic")
    assert made.exchange.arguments == {"alternate-exchange": "bp-1-other.x"}


def test_a_setting_nobody_knows_is_an_error_that_names_it() -> None:
    with pytest.raises(PlanError, match="min_insync"):
        shape({"min_insync": 2}, name="q", prefix="", defaults={})


def test_lanes_of_a_destination_are_queues_of_their_own() -> None:
    assert [queue_name("q", p) for p in range(3)] == ["q", "q.1", "q.2"]


def test_a_queue_behind_an_exchange_may_be_one_of_several() -> None:
    assert rejects_when_full({"x-overflow": "reject-publish-dlx"})
    assert not rejects_when_full({"x-overflow": "reject-publish", "exchange": "fanout"})
    assert not rejects_when_full({})


def test_a_client_ends_while_its_connection_is_being_opened() -> None:
    """A node that is down behind a proxy accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        session = Session(
            {**ENDPOINT, "addresses": [silent.getsockname()]}, name="c", set_up=lambda _: None, lost=lambda _: None
        )
        silent.settimeout(0.0)
        with contextlib.ExitStack() as accepted:
            peers: list[socket.socket] = []

            def greeted() -> bytes:
                session.poll(0.01)
                with contextlib.suppress(BlockingIOError):
                    if not peers:
                        peers.append(accepted.enter_context(silent.accept()[0]))
                        peers[0].setblocking(False)
                    return peers[0].recv(8)
                return b""

            said = wait_until(greeted, 5, "the client to greet the silent node")
            session.close()
        assert said[:4] == b"AMQP"
        assert session.connections == 0


def session(via: str) -> Session:
    endpoint = {**ENDPOINT, "addresses": [["leading", 1], ["second", 1], ["third", 1]]}
    return Session(endpoint, name="n", set_up=lambda _: None, lost=lambda _: None, via=via)


@pytest.mark.parametrize(("via", "first"), [("leader", "leading"), ("others", "second")])
def test_a_client_tries_the_leader_first_or_last(via: str, first: str) -> None:
    with session(via).open() as made:
        assert made.addresses[0] == (first, 1) and len(set(made.addresses)) == 3


def test_a_way_in_that_there_is_not_is_refused() -> None:
    with pytest.raises(PlanError, match=r"via 'r2'.*leader, others"):
        session("r2")


@pytest.mark.parametrize(
    ("settings", "perishes"),
    [
        ({}, False),
        ({"durable": False}, True),
        ({"exchange": "direct"}, False),
        ({"exchange": {"type": "direct", "durable": False}}, True),
    ],
)
def test_what_perishes_with_its_node_is_known_before(settings: dict[str, Any], perishes: bool) -> None:
    ground: Any = SimpleNamespace(nodes={})
    cluster = RabbitCluster(ground, version="4.0.5", topology="single", settings={})
    assert cluster.perishes(Destination(name="q", kind="queue", settings=settings)) is perishes
