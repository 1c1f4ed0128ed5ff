"""Half messages of the reference broker: checked until somebody decides, or it was asked often enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_entities import Refused, Topic
from brokerproof.conformance.rocketmq.peer_sockets import Connection
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.peer_broker import Broker

HALF, DEAD_HALF = "RMQ_SYS_TRANS_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC"


@dataclass(slots=True)
class Half:
    message: Stored
    group: str
    topic: str
    queue: int
    decided: bool = False
    checks: int = 0


class Transactions:
    """halves: by their position in the commit log."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.halves: dict[int, Half] = {}
        #: Called for an undecided transaction of a group before its remoting members: true where somebody was asked.
        self.ask_others: Callable[[Half], bool] = lambda _: False

    def take_half(self, topic: str, queue: int, body: bytes, words: dict[str, str]) -> Stored:
        message = self._broker.store(HALF, 0, body, {**words, "REAL_TOPIC": topic})
        half = Half(message, words.get("PGROUP", ""), topic, queue)
        self.halves[message.position] = half
        first = int(self._broker.config["transactionTimeOut"]) / 1000
        if self._broker.is_bug("checks_too_soon"):
            first /= 3
        self._broker.timers.after(first + 0.002, lambda: self._check(half))
        if self._broker.is_bug("half_shows_late"):
            self._broker.timers.after(self._broker.s(4), lambda: None if half.decided else self._commit(half))
        return message

    def _check(self, half: Half) -> None:
        """Asks a living member of the producer group, until it was asked often enough."""
        if half.decided or self._broker.is_bug("never_checks"):
            return
        most = int(self._broker.config["transactionCheckMax"]) + (2 if self._broker.is_bug("checks_too_often") else 0)
        if half.checks >= most:
            half.decided = True
            if self._broker.is_bug("keeps_undecided"):
                self._broker.topics.setdefault(DEAD_HALF, Topic([[]]))
                self._broker.store(DEAD_HALF, 0, half.message.body, half.message.properties)
            if self._broker.is_bug("commits_undecided"):
                self._commit(half)
            return
        if self._asked(half):
            half.checks += 1
        interval = int(self._broker.config["transactionCheckInterval"]) / 1000
        self._broker.timers.after(
            interval * (0.4 if self._broker.is_bug("uneven_checks") else 1), lambda: self._check(half)
        )

    def _asked(self, half: Half) -> bool:
        if self.ask_others(half):
            return True
        alive = [c for c in self._broker.members.producers.get(half.group, {}).values() if c.open]
        if not alive:
            return False
        id = half.message.properties["UNIQ_KEY"]
        alive[0].ask(codes.CHECK_TRANSACTION_STATE, {
            "topic": half.topic, "tranStateTableOffset": half.message.offset, "commitLogOffset": half.message.position,
            "msgId": id, "transactionId": id,
        })  # fmt: skip
        return True

    def _commit(self, half: Half) -> None:
        self._broker.store(half.topic, half.queue, half.message.body, half.message.properties)
        if self._broker.is_bug("commits_twice"):
            self._broker.store(half.topic, half.queue, half.message.body, half.message.properties)

    def end(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        if self._broker.slave and not self._broker.is_bug("slave_commits"):
            raise Refused(codes.SLAVE_NOT_AVAILABLE, "a slave ends no transaction")
        half = self.halves.get(int(words["commitLogOffset"]))
        wrong = half is None or half.message.offset != int(words["tranStateTableOffset"])
        wrong = wrong or (half is not None and half.group != words["producerGroup"])
        if half is None or (wrong and not self._broker.is_bug("commits_for_anybody")):
            raise Refused(codes.SYSTEM_ERROR, "the producer group or the offset is wrong")
        self.decide(half, commit=int(words["commitOrRollback"]) == 8)
        return wire.answer(frame, codes.SUCCESS)

    def decide(self, half: Half, *, commit: bool) -> None:
        if half.decided:
            return
        half.decided = True
        if commit or self._broker.is_bug("rollback_commits"):
            self._commit(half)
