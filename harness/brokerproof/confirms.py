"""Publisher confirms as values: the frames on a channel, and what numbers they answer.

Source: https://www.rabbitmq.com/docs/confirms, publisher confirms: messages of a channel are counted from 1; a frame that is
``multiple`` answers its number and all before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confirm:
    """One frame. word: ``ack`` or ``nack``."""

    number: int
    multiple: bool
    word: str


def confirmed(frames: Sequence[Confirm]) -> frozenset[int]:
    """The numbers that these frames answer, whatever they say."""
    return frozenset(n for f in frames for n in (range(1, f.number + 1) if f.multiple else (f.number,)))


def misnumbered(frames: Sequence[Confirm], messages: int) -> dict[int, int]:
    """Number -> how often it is answered, of those that are not answered exactly once, and of those that nobody sent.

    A frame that is ``multiple`` answers, of the numbers before its own, those that no frame before it has answered.
    """
    times: Counter[int] = Counter()
    for frame in frames:
        before = range(1, frame.number) if frame.multiple else ()
        times.update(n for n in before if not times[n])
        times[frame.number] += 1
    return {n: times[n] for n in sorted({*range(1, messages + 1), *times}) if times[n] != int(1 <= n <= messages)}
