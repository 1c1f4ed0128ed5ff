"""What all parts of the reference broker know: a topic, and a request that is refused."""

from __future__ import annotations

from dataclasses import dataclass

from brokerproof.wire.rocketmq import Stored


@dataclass(slots=True)
class Topic:
    queues: list[list[Stored]]
    perm: int = 6
    kind: str = "NORMAL"


class Refused(Exception):
    """A request that is answered with an error code."""

    def __init__(self, code: int, remark: str) -> None:
        super().__init__(remark)
        self.code, self.remark = code, remark
