"""The receiver without a broker: what it says to the channel, and what it writes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokerproof.brokers.base import ReceiveJob
from brokerproof.brokers.rabbitmq.receiving import Delivery, Receiving, queues_of
from brokerproof.errors import PlanError
from brokerproof.history import FAIL, F
from brokerproof.message import Bodies
from brokerproof.plan import Receiver
from brokerproof.tape import OPEN, Tape, errors_of
from brokerproof.waiting import wait_until

ENDPOINT = {"addresses": [["127.0.0.1", 1]], "user": "guest", "password": "guest", "vhost": "/", "heartbeat_s": 5}
BODIES = Bodies(trial=1, sender=0, seed=1, size=64)


class Channel:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.said.append(("ack", tag, multiple))

    def basic_nack(self, tag: int, requeue: bool) -> None:
        self.said.append(("nack", tag, requeue))

    def basic_cancel(self, tag: str, callback: Callable[[Any], None]) -> None:
        self.said.append(("cancel", tag))
        callback(None)

    def close(self) -> None:
        self.said.append(("close",))


class Stage:
    def __init__(
        self, folder: Path, settings: dict[str, Any], work: Callable[[int, int, int], None], partitions: int = 1
    ) -> None:
        (folder / "tape").mkdir()
        self.folder = folder / "tape"
        self.tape = Tape(self.folder, slot=0, slots=1, zero_ns=0)
        job = ReceiveJob(
            endpoint=ENDPOINT, destination="q", kind="queue", lane=0, partitions=partitions, tape=self.tape, seed=1, trial_number=1,
            stopping=lambda: False, report=lambda **_: None, receiver=Receiver(settings=settings, work_ms=1.0), work=work,
        )  # fmt: skip
        self.receiving = Receiving(job)
        self.channel = Channel()
        session = self.receiving._session
        session._channel, session._is_ready = self.channel, True  # type: ignore[assignment]  # as after a connect
        self.receiving._subscription._tags = ["c1"]

    def deliver(self, *messages: int) -> None:
        for msg in messages:
            self.receiving._inbox.append(Delivery(0, msg + 1, 0, BODIES.one(msg, msg % 2)))
        while self.receiving._inbox:
            self.receiving._take()

    def settles(self) -> list[tuple[int, int, str]]:
        """(message, outcome, error) of each settle row."""
        self.tape.finish()
        (segment,) = self.tape._segments
        texts = errors_of(self.folder, "0g0")
        columns = [segment.columns[c][: segment.head].tolist() for c in ("f", "msg", "outcome", "error")]
        return [
            (msg, outcome, texts[error]) for f, msg, outcome, error in zip(*columns, strict=True) if f == F["settle"]
        ]


def fails(msg: int, key: int, lane: int) -> None:
    raise ValueError("no")


Make = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Stage] = []

    def build(settings: dict[str, Any], work: Callable[[int, int, int], None] = fails, partitions: int = 1) -> Stage:
        made.append(Stage(tmp_path, settings, work, partitions))
        return made[-1]

    yield build
    for stage in made:
        loop = stage.receiving._session._loop
        loop.deactivate_poller()
        loop.close()


@pytest.mark.parametrize(
    ("on_error", "said", "error"),
    [("requeue", [("nack", 1, True)], "REQUEUED"), ("reject", [("nack", 1, False)], "REJECTED"), ("leave", [], "LEFT")],
)
def test_work_that_fails_is_given_back_rejected_or_left(on_error: str, said: list[Any], error: str, make: Make) -> None:
    stage = make({"on_error": on_error})
    stage.deliver(0)
    assert stage.channel.said == said
    assert stage.settles() == [(0, FAIL, error)]


@pytest.mark.parametrize(
    ("quit_by", "said", "left"),
    [
        ("basic.cancel", [("cancel", "c1")], False),
        ("channel.close", [("cancel", "c1"), ("close",)], True),
        ("connection.close", [], True),
    ],
)
def test_a_consumer_that_has_left_enough_goes_for_good(quit_by: str, said: list[Any], left: bool, make: Make) -> None:
    stage = make({"on_error": "leave", "quit_after": 2, "quit_by": quit_by})
    stage.deliver(0, 1, 2)
    assert stage.channel.said == said
    assert stage.settles() == [(0, FAIL, "LEFT"), (1, FAIL, "LEFT")]
    assert stage.receiving._session._left is left


@pytest.mark.parametrize("ack", ["after", "in_order"])
def test_workers_are_acknowledged_each_or_in_order(ack: str, make: Make) -> None:
    held: set[int] = {0}
    stage = make(
        {"ack": ack, "shards": 2}, lambda msg, key, lane: wait_until(lambda: msg not in held, 10, "to be let go")
    )  # fmt: skip
    shards = stage.receiving._shards
    assert shards is not None
    stage.deliver(0, 1, 2, 3)  # even ones to the worker that is held

    def taken_back(n: int) -> bool:
        stage.receiving._take_back()
        return shards.in_hand == n

    wait_until(lambda: taken_back(2), 5, "the odd ones to be done")
    odd = {("ack", 2, False), ("ack", 4, False)}
    assert set(stage.channel.said) == (odd if ack == "after" else set())
    held.clear()
    wait_until(lambda: taken_back(0), 5, "all to be done")
    if ack == "after":
        assert set(stage.channel.said) == {*odd, ("ack", 1, False), ("ack", 3, False)}
    else:
        assert stage.channel.said[-1] == ("ack", 4, True)
    assert sorted(stage.settles()) == [(msg, OPEN, "") for msg in range(4)]


def test_a_member_takes_its_part_of_the_queues(make: Make) -> None:
    stage = make({"member": (1, 2)}, partitions=4)
    assert stage.receiving._queues == {1: "q.1", 3: "q.3"}
    assert queues_of(stage.receiving._job) == {0: "q", 1: "q.1", 2: "q.2", 3: "q.3"}


def test_an_unknown_way_to_go_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"basic\.cancel, channel\.close, connection\.close"):
        Stage(tmp_path, {"quit_by": "slamming the door"}, fails)


class Asked(Channel):
    """Answers questions when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.on_empty: Any = None
        self.on_message: Any = None

    def add_callback(self, callback: Any, replies: Any, one_shot: bool) -> None:
        self.on_empty = callback

    def basic_get(self, queue: str, callback: Any, auto_ack: bool) -> None:
        self.said.append(("get", queue))
        self.on_message = callback


def test_a_consumer_that_polls_asks_again_at_once_until_there_is_nothing_and_then_waits(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"poll_every_ms": 60_000}, lambda *_: None)
    channel: Any = Asked()
    session = stage.receiving._session
    session._channel = channel
    polling = stage.receiving._polling
    assert polling is not None
    polling.begin(channel)
    polling.ask()
    polling.ask()
    assert channel.said == [("get", queues_of(stage.receiving._job)[0])], "one question at a time"
    channel.on_message(channel, SimpleNamespace(delivery_tag=1, redelivered=False), SimpleNamespace(headers=None), b"x")
    assert [d.tag for d in polling.inbox] == [1]
    polling.ask()
    channel.on_empty(None)
    polling.ask()
    assert len(channel.said) == 2, "the next question is due in a minute"
    assert polling.empty == 1
