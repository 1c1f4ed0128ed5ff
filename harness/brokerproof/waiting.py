"""The one polling helper: nothing else in the harness waits for a condition, and nothing sleeps blindly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from brokerproof.errors import DeadlineError

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    timeout_s: float,
    why: str,
    *,
    interval_s: float = 0.1,
    retry_on: tuple[type[BaseException], ...] = (),
    last_state: Callable[[], object] | None = None,
) -> T:
    """Call ``condition`` until it returns something true, and return that.

    why: what is waited for, as it will stand in the error ("kafka-2 back in the ISR of lane 0").
    retry_on: exceptions of ``condition`` that mean "not yet"; the last one is chained to the error.
    last_state: what to quote as the last state seen; without it, the last falsy value or exception.
    Raises DeadlineError after ``timeout_s`` seconds. ``condition`` is always tried at least once.
    """
    deadline = time.monotonic() + timeout_s
    seen: object = None
    error: BaseException | None = None
    while True:
        try:
            got = condition()
            if got:
                return got
            seen, error = got, None
        except retry_on as exc:
            seen, error = exc, exc
        if time.monotonic() >= deadline:
            state = last_state() if last_state is not None else seen
            raise DeadlineError(f"{why}: not reached after {timeout_s:g} s; last state seen: {state!r}") from error
        time.sleep(min(interval_s, max(0.0, deadline - time.monotonic())))
