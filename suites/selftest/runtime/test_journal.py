"""What was made on a target is known after a kill."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from brokerproof.brokers.base import Thing
from brokerproof.runtime import sweep
from brokerproof.runtime.journal import Journal

Q, X = Thing("queue", "bp-1-q"), Thing("exchange", "bp-1-q.x")


@pytest.fixture(autouse=True)
def _own(state: Path) -> None:
    """A register of the test's own."""


def test_what_is_made_is_left_until_it_is_gone() -> None:
    Journal("k").making("run-1", [Q, X])
    assert Journal("k").left() == [Q, X]
    Journal("k").gone([Q])
    assert Journal("k").left() == [X]
    assert Journal("other").left() == []
    Journal("k").gone([X])
    assert Journal("k").path.read_text() == ""


def test_a_living_runs_things_are_not_the_deads() -> None:
    sweep.register("living", os.getpid())
    Journal("k").making("living", [Q])
    Journal("k").making("dead", [X])
    assert Journal("k").left_by_the_dead() == [X]
    assert Journal("k").left(lambda run: run == "living") == [Q]


def test_a_line_that_was_torn_by_a_kill_loses_no_other() -> None:
    journal = Journal("k")
    journal.making("run", [Q])
    with journal.path.open("a") as file:
        file.write('{"run": "run", "kind": "que')
    journal.making("run", [X])
    assert journal.left() == [Q, X]
