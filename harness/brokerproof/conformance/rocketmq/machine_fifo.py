"""A FIFO group, by the gRPC proxy, against a list for each message group: what is sent, received, acknowledged and left, in any order.

The model: of each message group the next message is the first that is not acknowledged, and nothing behind it may come. How message
groups are spread over queues is the proxy's business, so nothing is said of when one has to come before the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from brokerproof.conformance.modelled import Machine, stand_in
from brokerproof.conformance.rocketmq.scene import RocketmqScene

_GROUPS = st.sampled_from(("A", "B", "C"))
#: The shortest invisible time that a proxy takes; a reference peer's second is over before this machine has done much.
_INVISIBLE_S, _INVISIBLE_FAST_S = 10.0, 40.0
#: Of ours, before the end of an invisible time: an acknowledgement that late may be too late.
_MARGIN_S = 0.5
_END_S = 60.0


@dataclass(slots=True)
class _Out:
    """A message that was received. sent_at, until: on the monotonic clock, when it was asked for and when its time is over at the latest."""

    message: Any
    sent_at: float
    until: float


class Fifo(Machine):
    """sent: message group -> how many. acked: how many of these are acknowledged. out: by message group."""

    case = stand_in("R0.01", "rocketmq/model-fifo", "A FIFO group does as the model does.")
    scene: RocketmqScene

    def __init__(self) -> None:
        super().__init__()
        self.topic, self.group = self.scene.topic(kind="FIFO", queues=4), self.scene.group(orderly=True)
        self.proxy = self.scene.proxy()
        self.proxy.introduce(topics=[self.topic], group=self.group)
        self.sent: dict[str, int] = {}
        self.acked: dict[str, int] = {}
        self.out: dict[str, _Out] = {}
        self.invisible_s = _INVISIBLE_FAST_S if self.scene.scale < 1 else _INVISIBLE_S

    @rule(group=_GROUPS, n=st.integers(1, 3))
    def send(self, group: str, n: int) -> None:
        for _ in range(n):
            number = self.sent.get(group, 0)
            made = self.proxy.message(self.topic, f"{group}{number}".encode(), kind="FIFO", group=group)
            self.scene.done_by(self.proxy.send(made), "sending")
            self.sent[group] = number + 1

    @precondition(lambda self: self.sent)
    @rule()
    def receive(self) -> None:
        began = time.monotonic()
        answer = self.proxy.receive(self.topic, self.group, n=1, invisible_s=self.invisible_s)
        assert not answer.rpc, f"a receive: {answer.seen()}"
        for message in answer.messages:
            body = bytes(message.body).decode()
            group, number = body[:1], int(body[1:])
            assert group in self.sent and number == self.acked.get(group, 0), (
                f"{body} before {group}{self.acked.get(group, 0)}"
            )
            out = self.out.get(group)
            came = time.monotonic()
            assert out is None or came >= out.sent_at + self.scene.seconds(self.invisible_s), (
                f"{body} while it is invisible"
            )
            self.out[group] = _Out(message, began, came + self.scene.seconds(self.invisible_s))

    @precondition(lambda self: self.out)
    @rule(group=_GROUPS)
    def acknowledge(self, group: str) -> None:
        out = self.out.get(group)
        # Certain to be in time: counted from before it was asked for.
        if out is None or time.monotonic() > out.sent_at + self.scene.seconds(self.invisible_s) - _MARGIN_S:
            return
        answer = self.proxy.acked(self.topic, self.group, out.message)
        assert answer.ok, f"an acknowledgement in time: {answer.seen()}"
        del self.out[group]
        self.acked[group] = self.acked.get(group, 0) + 1

    @precondition(lambda self: self.out)
    @rule()
    def leave_them_until_their_time_is_over(self) -> None:
        self.scene.hold(max(out.until for out in self.out.values()))

    @invariant()
    def nothing_is_acknowledged_that_was_not_sent(self) -> None:
        assert all(self.acked.get(g, 0) <= n for g, n in self.sent.items())

    def ends(self) -> None:
        """Everything comes, group by group in its order."""
        until = time.monotonic() + max(self.scene.seconds(_END_S), 10.0)
        while self.acked != self.sent and time.monotonic() < until:
            self.receive()
            for group in list(self.out):
                self.acknowledge(group)
        assert self.acked == self.sent, f"acknowledged {self.acked} of {self.sent}"
