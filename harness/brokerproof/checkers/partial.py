"""What the checkers say of a part of a history, so that the parts' results can be put together.

    whole = merge(merge(a, b), c) = merge(a, merge(b, c))          for parts as ``split.py`` makes them

A message, a stream of an ordering key and the positions of a log lie in one part with everything that is about them, so
that classes of anomalies add up. What does not add up (times between successes, percentiles) is not in here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from brokerproof.checkers.lost import Places
from brokerproof.checkers.unavailable import LostSpan
from brokerproof.checkers.witnesses import MESSAGES
from brokerproof.finding import MESSAGES_MAX, Count, Finding
from brokerproof.history import Array

#: Names in a list of details, as everywhere.
_NAMES_MAX = 100
#: Classes that count lanes, which every part knows of, and not messages.
_OF_LANES = ("definition_lost",)
_COUNTED = re.compile(r"(\d+) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """anomalies, observations, missing, witnesses: as in a ``Finding``; ``missing`` only what checkers said.

    places: where what was lost would have been, to tell prefix, middle and tail.  span: when it was acknowledged.
    """

    anomalies: Mapping[str, Count] = field(default_factory=dict)
    observations: Mapping[str, Count] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    witnesses: tuple[Mapping[str, Any], ...] = ()
    places: Places = field(default_factory=Places)
    span: LostSpan = field(default_factory=LostSpan)

    def renumbered(self, numbers: Array) -> Partial:
        """With numbers[n] for each message n; ``numbers`` ascends."""

        def named(counts: Mapping[str, Count]) -> dict[str, Count]:
            return {
                key: Count(count=c.count, messages=tuple(int(numbers[n]) for n in c.messages), details=c.details)
                for key, c in counts.items()
            }

        return Partial(
            anomalies=named(self.anomalies), observations=named(self.observations), missing=self.missing,
            witnesses=tuple(w if w["msg"] < 0 else {**w, "msg": int(numbers[w["msg"]])} for w in self.witnesses),
            places=self.places.renumbered(numbers), span=self.span,
        )  # fmt: skip

    def to_finding(self) -> Finding:
        """As the checkers would have said it of all the rows at once."""
        anomalies = dict(sorted(self.anomalies.items()))
        if "lost" in anomalies and anomalies["lost"].count:
            lost = anomalies["lost"]
            details = {**lost.details, **self.places.details()}
            anomalies["lost"] = Count(count=lost.count, messages=lost.messages, details=details)
        return Finding(
            anomalies=anomalies,
            observations=dict(sorted(self.observations.items())),
            missing=self.missing,
            witnesses=tuple(_shown(anomalies, self.witnesses)),
        )


def merge(one: Partial, other: Partial) -> Partial:
    """Associative; ``Partial()`` is neutral."""
    return Partial(
        anomalies=_counts(one.anomalies, other.anomalies),
        observations=_counts(one.observations, other.observations),
        missing=_sentences(one.missing, other.missing),
        witnesses=one.witnesses + other.witnesses,
        places=one.places.merge(other.places),
        span=one.span.merge(other.span),
    )


def _counts(one: Mapping[str, Count], other: Mapping[str, Count]) -> dict[str, Count]:
    out = dict(one)
    for key, count in other.items():
        out[key] = _add(key, out[key], count) if key in out else count
    return out


def _add(key: str, one: Count, other: Count) -> Count:
    messages = tuple(sorted({*one.messages, *other.messages})[:MESSAGES_MAX])
    number = max(one.count, other.count) if key in _OF_LANES else one.count + other.count
    return Count(count=number, messages=messages, details=_details(one.details, other.details))


def _details(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers add up, lists of names are united, what stands in one only is taken over."""
    out = dict(one)
    for name, value in other.items():
        if name not in out:
            out[name] = value
        elif isinstance(value, Mapping):
            out[name] = _details(out[name], value)
        elif isinstance(value, list):
            if out[name] != value:  # what all parts know stands in all of them alike, in its own order
                out[name] = sorted({*out[name], *value})[:_NAMES_MAX]
        elif isinstance(value, int | float):
            out[name] += value
    return out


def _sentences(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    """Sentences that begin with a number and go on alike become one, with the sum."""
    out: dict[str, int | None] = {}
    for sentence in (*one, *other):
        counted = _COUNTED.fullmatch(sentence)
        text, number = (counted[2], int(counted[1])) if counted else (sentence, None)
        before = out.get(text)
        out[text] = number if before is None or number is None else before + number
    return tuple(text if number is None else f"{number} {text}" for text, number in out.items())


def _shown(anomalies: Mapping[str, Count], witnesses: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Of all parts' witnesses those that the whole would have shown. Unreadable bodies lie in one part, in their order."""
    by_key: dict[str, dict[int, Mapping[str, Any]]] = {}
    unreadable = []
    for witness in witnesses:
        if witness["msg"] < 0:
            unreadable.append(witness)
        else:
            by_key.setdefault(witness["anomaly"], {})[witness["msg"]] = witness
    for key, count in anomalies.items():
        mine = by_key.get(key, {})
        yield from (mine[n] for n in count.messages[:MESSAGES] if n in mine)
        if key == "corrupted":
            yield from unreadable
