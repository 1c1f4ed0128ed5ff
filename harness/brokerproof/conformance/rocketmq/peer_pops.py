"""Popped messages of the reference broker: who holds which, until when, and by which handle."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_entities import Refused
from brokerproof.conformance.rocketmq.peer_filters import matcher
from brokerproof.conformance.rocketmq.peer_sockets import Connection
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.peer_broker import Broker


@dataclass(slots=True)
class Held:
    """A popped message: whose handle is good until when, and how often it was delivered. until: monotonic; 0: to redeliver."""

    message: Stored
    token: str
    until: float
    attempts: int


@dataclass(slots=True)
class Popping:
    """What a group has popped of a topic. next: the first offset of each queue that nobody had."""

    next: dict[int, int] = field(default_factory=dict)
    held: dict[tuple[int, int], Held] = field(default_factory=dict)


class Pops:
    """popping: by topic and group."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.popping: dict[tuple[str, str], Popping] = {}

    def pop(
        self, topic: str, group: str, n: int, invisible_s: float, *, order: bool, matches: Callable[[Stored], bool] = bool,
        attempts_max: int | None = None,
    ) -> list[tuple[Stored, Held]]:  # fmt: skip
        """What a pop brings now, with handles good for so many of the broker's seconds.

        order: a queue with a message that is out is passed over.  attempts_max: past it a message goes to the dead letters.
        """
        with self._broker.lock:
            log = self._broker.readable(topic, group).queues
            popping = self.popping.setdefault((topic, group), Popping())
            got: list[tuple[Stored, Held]] = []
            for queue in range(len(log)):
                out = sorted(k for k in popping.held if k[0] == queue)
                for key in out:
                    held = popping.held[key]
                    if len(got) < n and held.until <= time.monotonic():
                        self._again(popping, key, group, got, invisible_s, attempts_max)
                        if order:
                            break
                blocked = (
                    order and any(k[0] == queue for k in popping.held) and not self._broker.is_bug("order_ignored")
                )
                others = (len(log[q]) - popping.next.get(q, 0) for q in range(len(log)) if q != queue)
                blocked = blocked and not (self._broker.is_bug("order_lapses") and not any(others))
                at = popping.next.get(queue, 0)
                while len(got) < n and at < len(log[queue]) and not blocked:
                    message = log[queue][at]
                    at += 1
                    if matches(message):
                        held = self._hold(message, invisible_s, 1)
                        popping.held[queue, message.offset] = held
                        got.append((message, held))
                        blocked = order and not self._broker.is_bug("order_ignored")
                popping.next[queue] = at
            return got

    def _again(
        self, popping: Popping, key: tuple[int, int], group: str, got: list[tuple[Stored, Held]], invisible_s: float,
        attempts_max: int | None,
    ) -> None:  # fmt: skip
        held = popping.held[key]
        if self._broker.is_bug("never_again"):
            return
        if attempts_max is not None and held.attempts >= attempts_max:
            del popping.held[key]
            self._broker.dead(group, held.message)
            return
        again = self._hold(
            held.message, invisible_s, held.attempts + (0 if self._broker.is_bug("attempts_stay") else 1)
        )
        popping.held[key] = again
        got.append((replace(held.message, reconsumed=again.attempts - 1), again))

    def _hold(self, message: Stored, invisible_s: float, attempts: int) -> Held:
        ours = 0.0 if self._broker.is_bug("stays_visible") else self._broker.s(invisible_s)
        return Held(message, uuid.uuid4().hex, time.monotonic() + ours, attempts)

    def out(self, topic: str, group: str, queue: int, offset: int, token: str) -> Held | None:
        """The popped message of a handle that is good; None for any other."""
        held = self.popping.get((topic, group), Popping()).held.get((queue, offset))
        if held is None or (held.token != token and not self._broker.is_bug("any_handle")):
            return None
        return held if held.until > time.monotonic() or self._broker.is_bug("any_handle") else None

    def ack(self, topic: str, group: str, queue: int, offset: int, token: str) -> bool:
        with self._broker.lock:
            if self.out(topic, group, queue, offset, token) is None:
                return self._broker.is_bug("any_handle")
            if not self._broker.is_bug("acks_nothing"):
                del self.popping[topic, group].held[queue, offset]
            return True

    def change(self, topic: str, group: str, queue: int, offset: int, token: str, invisible_s: float) -> Held | None:
        """The held message under its new handle; None for a handle that is not good."""
        with self._broker.lock:
            held = self.out(topic, group, queue, offset, token)
            if held is None:
                return None
            if not self._broker.is_bug("handle_stays"):
                held.token = uuid.uuid4().hex
            held.until = time.monotonic() + self._broker.s(invisible_s)
            return held

    def pop_request(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        if int(words["maxMsgNums"]) > 32 and not self._broker.is_bug("pops_many"):
            raise Refused(codes.INVALID_PARAMETER, "more than 32")
        invisible_s = int(words["invisibleTime"]) / 1000 / self._broker.scale
        matches = matcher(words.get("exp", "*"), words.get("expType", "TAG"), bug=self._broker.bug)
        got = self.pop(
            words["topic"], words["consumerGroup"], int(words["maxMsgNums"]), invisible_s, order=words["order"] == "true",
            matches=matches,
        )  # fmt: skip
        if not got:
            return wire.answer(frame, codes.POLLING_TIMEOUT, remark="nothing")
        octets = b"".join(
            wire.encode_stored(replace(m, properties={**m.properties, "POP_CK": handle(self._broker.name, m, h)}))
            for m, h in got
        )
        more = {
            "popTime": int(time.time() * 1000),
            "invisibleTime": words["invisibleTime"],
            "reviveQid": 0,
            "restNum": 0,
        }
        return wire.answer(frame, codes.SUCCESS, more, octets)

    def ack_request(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        token = words["extraInfo"].rpartition(" ")[2]
        if not self.ack(words["topic"], words["consumerGroup"], int(words["queueId"]), int(words["offset"]), token):
            raise Refused(codes.NO_MESSAGE, "no message of this handle")
        return wire.answer(frame, codes.SUCCESS)

    def change_request(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        token, invisible_s = (
            words["extraInfo"].rpartition(" ")[2],
            int(words["invisibleTime"]) / 1000 / self._broker.scale,
        )
        held = self.change(
            words["topic"], words["consumerGroup"], int(words["queueId"]), int(words["offset"]), token, invisible_s
        )
        if held is None:
            raise Refused(codes.NO_MESSAGE, "no message of this handle")
        return wire.answer(
            frame, codes.SUCCESS, {"popTime": 0, "invisibleTime": words["invisibleTime"], "reviveQid": 0}
        )


def handle(broker: str, message: Stored, held: Held) -> str:
    """A receipt handle in the shape of the vendor's; its last word is what makes it good."""
    return f"{message.offset} 0 0 0 0 {broker} {message.queue} {message.offset} {held.token}"
