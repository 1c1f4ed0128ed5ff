"""What a checker found: described, counted, witnessed, never judged. A trial's findings stand in ``findings.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: How many message numbers stand beside a count.
MESSAGES_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One class of anomaly or observation: how many, the first message numbers, and details by name."""

    count: int = 0
    messages: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"count": self.count, "messages": list(self.messages)}
        if self.details:
            out["details"] = dict(self.details)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Count:
        return cls(count=data["count"], messages=tuple(data["messages"]), details=data.get("details", {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """All that the checkers say of one history.

    operations: rows of the history that are operations (not ``fault``, not ``control``).
    anomalies, observations: by the keys of the checkers, every class listed, zero or not.
    missing: sentences, each one piece of evidence that is not there (torn tail, undrained lane, a checker that raised).
    exercised: function -> {"ok": n, "fail": n, "info": n}.
    metrics: name with unit -> number, e.g. ``rto_s``, ``rpo_count``, ``longest_gap_s``.
    timeline: what the report draws, see ``checkers/timeline.py``.
    witnesses: life lines of the first messages of each anomaly, see ``checkers/witnesses.py``.
    recovery: what each injection cost, see ``checkers/recovery.py``.
    """

    operations: int = 0
    anomalies: Mapping[str, Count] = field(default_factory=dict)
    observations: Mapping[str, Count] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    exercised: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    timeline: Mapping[str, Any] = field(default_factory=dict)
    witnesses: tuple[Mapping[str, Any], ...] = ()
    recovery: tuple[Mapping[str, Any], ...] = ()

    def shows(self, *keys: str) -> bool:
        """Whether any of these anomalies was found, or any of these observations made."""
        return any(self.of(key).count > 0 for key in keys)

    def of(self, key: str) -> Count:
        """The count of that anomaly or observation; of none, where nobody looked for it."""
        return self.anomalies.get(key) or self.observations.get(key) or Count()

    def observed(self, key: str) -> bool:
        """Whether this observation was made at least once."""
        return key in self.observations and self.observations[key].count > 0

    def to_json(self) -> dict[str, Any]:
        return {
            "operations": self.operations,
            "anomalies": {key: count.to_json() for key, count in self.anomalies.items()},
            "observations": {key: count.to_json() for key, count in self.observations.items()},
            "missing": list(self.missing),
            "exercised": {f: dict(by) for f, by in self.exercised.items()},
            "metrics": dict(self.metrics),
            "timeline": dict(self.timeline),
            "witnesses": [dict(w) for w in self.witnesses],
            "recovery": [dict(r) for r in self.recovery],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        return cls(
            operations=data["operations"],
            anomalies={key: Count.from_json(c) for key, c in data["anomalies"].items()},
            observations={key: Count.from_json(c) for key, c in data["observations"].items()},
            missing=tuple(data.get("missing", ())),
            exercised=data.get("exercised", {}),
            metrics=data.get("metrics", {}),
            timeline=data.get("timeline", {}),
            witnesses=tuple(data.get("witnesses", ())),
            recovery=tuple(data.get("recovery", ())),
        )
