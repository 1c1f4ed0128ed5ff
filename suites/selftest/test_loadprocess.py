"""What a load process does besides its client's loops: work that takes its time, and work that fails as planned."""

from __future__ import annotations

import pytest

from brokerproof.loadprocess import WorkFailed, _unevenness, failing


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
