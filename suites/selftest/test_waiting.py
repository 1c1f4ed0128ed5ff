from __future__ import annotations

import pytest

from brokerproof.errors import DeadlineError
from brokerproof.waiting import wait_until


def test_returns_what_the_condition_returned() -> None:
    seen = iter([0, 0, 7])
    assert wait_until(lambda: next(seen), 1, "a seven", interval_s=0) == 7


def test_says_what_it_waited_for_and_the_last_state_seen() -> None:
    with pytest.raises(DeadlineError, match=r"the moon: not reached after 0.01 s; last state seen: 'half'"):
        wait_until(lambda: "", 0.01, "the moon", interval_s=0.001, last_state=lambda: "half")


def test_is_tried_at_least_once() -> None:
    assert wait_until(lambda: True, 0, "now")


def test_chains_the_last_exception_that_meant_not_yet() -> None:
    def fails() -> bool:
        raise ConnectionError("refused")

    with pytest.raises(DeadlineError) as caught:
        wait_until(fails, 0.01, "the broker", interval_s=0.001, retry_on=(OSError,))
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_other_exceptions_travel() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0, 1, "nothing", retry_on=(OSError,))
