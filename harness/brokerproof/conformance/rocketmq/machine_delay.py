"""Delayed messages against a table of due times: by level, by a time of delivery, and without delay, sent and looked for in any order.

The model: a message is there once, not before it is due, and in the end it is. How late it may be is nowhere said.
"""

from __future__ import annotations

import time

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from brokerproof.conformance.modelled import Machine, stand_in
from brokerproof.conformance.rocketmq.scene import RocketmqScene

#: Seconds of the levels 1 to 3. Source: messageDelayLevel.
_LEVELS_S = {1: 1.0, 2: 5.0, 3: 10.0}
#: A time of delivery is kept to a second (timerPrecisionMs); a level is not early at all.
_PRECISION_S = 1.0
#: By which the broker's clock and this one may be read apart.
_READ_S = 0.005
_END_S = 60.0


class Delay(Machine):
    """earliest: body -> seconds since 1970 before which it must not be stored where it is read."""

    case = stand_in("R0.02", "rocketmq/model-delay", "Delayed messages do as the model does.")
    scene: RocketmqScene

    def __init__(self) -> None:
        super().__init__()
        self.topic, self.broker = self.scene.topic(kind="DELAY"), self.scene.broker()
        self.earliest: dict[bytes, float] = {}
        self.seen: set[bytes] = set()

    @rule(level=st.sampled_from(tuple(_LEVELS_S)), n=st.integers(1, 3))
    def send_by_level(self, level: int, n: int) -> None:
        for _ in range(n):
            self._send({"DELAY": str(level)}, time.time() + self.scene.seconds(_LEVELS_S[level]))

    @rule(delay_ms=st.integers(0, 12_000))
    def send_by_time(self, delay_ms: int) -> None:
        due = time.time() + self.scene.seconds(delay_ms / 1000)
        self._send({"TIMER_DELIVER_MS": str(int(due * 1000))}, due - self.scene.seconds(_PRECISION_S))

    @rule()
    def send(self) -> None:
        self._send({}, time.time())

    @precondition(lambda self: self.earliest)
    @rule(seconds=st.sampled_from((0.0, 0.5, 2.0, 4.0)))
    def look(self, seconds: float) -> None:
        self.scene.pause(seconds)
        found = self.scene.read(self.topic)
        bodies = [m.body for m in found]
        assert len(set(bodies)) == len(bodies), "a message is there twice"
        assert set(bodies) <= self.earliest.keys(), "a message that nobody sent"
        early = [m.body.decode() for m in found if m.stored_ms / 1000 < self.earliest[m.body] - _READ_S]
        assert not early, f"early: {', '.join(early)}"
        assert self.seen <= set(bodies), "a message is no longer there"
        self.seen = set(bodies)

    def ends(self) -> None:
        """Everything comes."""
        until = time.monotonic() + max(self.scene.seconds(_END_S), 10.0)
        while self.earliest and self.seen != self.earliest.keys() and time.monotonic() < until:
            self.look(0.5)
        assert self.seen == self.earliest.keys(), f"lost: {sorted(self.earliest.keys() - self.seen)}"

    def _send(self, words: dict[str, str], earliest: float) -> None:
        body = b"%d" % len(self.earliest)
        self.scene.sent(self.broker, self.topic, [body], words)
        self.earliest[body] = earliest
