"""Claims over listed cases: the check stops at the first that disagrees, and the control is the same on other cases."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from brokerproof.brokers.base import Sent
from brokerproof.cases import Case, by_cases, over
from brokerproof.confirms import Confirm, confirmed, misnumbered


class Bench:
    """A cluster whose wirings are counted."""

    def __init__(self) -> None:
        self.wired = 0

    def wiring(self) -> AbstractContextManager[Any]:
        self.wired += 1
        return nullcontext(self)


def cases(*found: Any) -> list[Case]:
    return [lambda _, what=what: what for what in found]  # type: ignore[misc]


def test_all_cases_are_tried_each_with_a_wiring_of_its_own() -> None:
    bench = Bench()
    assert over(lambda: cases(None, None, None))(bench, 0, 0).to_json() == {"cases": 3, "counterexample": None}
    assert bench.wired == 3


def test_the_first_case_that_disagrees_is_the_counter_example() -> None:
    bench = Bench()
    result = over(lambda: cases(None, {"answer": "ack"}, {"answer": "nack"}))(bench, 0, 0)
    assert result.to_json() == {"cases": 2, "counterexample": {"answer": "ack"}}
    assert bench.wired == 2


def test_the_control_has_cases_of_its_own() -> None:
    experiment = by_cases(lambda: cases(None), lambda: cases({"answer": "ack"}))
    assert experiment.control is not None
    assert experiment.check(Bench(), 0, 0).counterexample is None
    assert experiment.control(Bench(), 0, 0).counterexample == {"answer": "ack"}


def ack(number: int, *, multiple: bool = False) -> Confirm:
    return Confirm(number, multiple, "ack")


@pytest.mark.parametrize(
    ("frames", "messages", "wrong"),
    [
        ([], 0, {}),
        ([ack(1), ack(2)], 2, {}),
        ([ack(2), ack(1)], 2, {}),
        ([ack(3, multiple=True)], 3, {}),
        ([ack(2), ack(3, multiple=True)], 3, {}),
        ([ack(1)], 2, {2: 0}),
        ([ack(1), ack(1)], 1, {1: 2}),
        ([ack(2, multiple=True), ack(2, multiple=True)], 2, {2: 2}),
        ([ack(2, multiple=True), ack(1)], 2, {1: 2}),
        ([ack(1), ack(2)], 1, {2: 1}),
        ([ack(0)], 0, {0: 1}),
    ],
)
def test_numbers_that_are_not_answered_once(frames: list[Confirm], messages: int, wrong: dict[int, int]) -> None:
    assert misnumbered(frames, messages) == wrong


def test_what_frames_answer() -> None:
    assert confirmed([ack(3, multiple=True), ack(5)]) == {1, 2, 3, 5}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (Sent(), "nothing"),
        (Sent((ack(1),)), "ack"),
        (Sent((ack(1),), ("m",)), "returned and ack"),
        (Sent(ended="NOT_FOUND"), "NOT_FOUND"),
        (Sent(blocked=True), "blocked"),
    ],
)
def test_an_answer_in_words(sent: Sent, words: str) -> None:
    assert sent.answer == words
