"""What a load process does besides its client's loops: work that takes its time, and work that fails as planned."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from brokerproof.errors import DeadlineError, PlanError
from brokerproof.loadprocess import WorkFailed, _connect, _unevenness, failing


def test_the_first_messages_fail_so_often_and_then_are_worked_on() -> None:
    worked: list[int] = []
    work = failing(lambda msg, key, lane: worked.append(msg), first=2, times=2)
    outcomes = []
    for msg in (7, 8, 9, 7, 8, 7, 8):
        try:
            work(msg, 0, 0)
            outcomes.append((msg, True))
        except WorkFailed:
            outcomes.append((msg, False))
    assert outcomes == [(7, False), (8, False), (9, True), (7, False), (8, False), (7, True), (8, True)]
    assert worked == [9, 7, 8]


def test_uneven_work_takes_as_long_on_average_and_the_same_each_time() -> None:
    times = [_unevenness(msg) for msg in range(1000)]
    assert times == [_unevenness(msg) for msg in range(1000)]
    assert 0 <= min(times) < 0.05
    assert 1.95 < max(times) <= 2
    assert sum(times) / 1000 == pytest.approx(1.0, abs=0.02)


class _Late:
    """A world whose database does not answer at first."""

    def __init__(self, refusals: int, error: Exception) -> None:
        self.left, self.error = refusals, error

    def connect(self, needs: Sequence[str]) -> None:
        self.left -= 1
        if self.left >= 0:
            raise self.error


def test_a_consumer_asks_again_for_a_database_that_is_being_started() -> None:
    world = _Late(2, ConnectionRefusedError("nobody there"))
    _connect(world, ("sql",))  # type: ignore[arg-type]
    assert world.left == -1


def test_a_database_that_never_answers_is_said_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brokerproof.loadprocess.DATABASE_S", 0.3)
    with pytest.raises(DeadlineError, match="nobody there"):
        _connect(_Late(1000, ConnectionRefusedError("nobody there")), ("sql",))  # type: ignore[arg-type]


def test_a_world_without_the_database_is_not_waited_for() -> None:
    with pytest.raises(PlanError, match="has redis"):
        _connect(_Late(1, PlanError("the world has redis")), ("sql",))  # type: ignore[arg-type]
