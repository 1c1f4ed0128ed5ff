"""Where one broker node has one message: what was found in its files, or why nothing was."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

NOT_THERE = "not there"


@dataclass(frozen=True, slots=True)
class Where:
    """found: one mapping for each copy, in the vendor's words (``partition``, ``offset``, ``epoch`` …); ``file`` and
    ``byte`` say where its body begins in the node's data.
    says: ``not there`` where everything was looked through; ``not looked: …`` with the reason where it was not, which
    may stand beside what was found until then; anything else is a remark of the product.
    """

    found: tuple[Mapping[str, Any], ...] = ()
    says: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"found": [dict(place) for place in self.found], "says": self.says}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Where:
        return cls(tuple(data["found"]), data["says"])

    def lines(self) -> list[str]:
        """In words: a line for each copy, then what else is said."""
        return [*(_place(place) for place in self.found), *([self.says] if self.says else [])]


def not_looked(marks: Collection[bytes], why: str) -> dict[bytes, Where]:
    """The same answer for every message."""
    return dict.fromkeys(marks, Where(says=f"not looked: {why}"))


def _place(place: Mapping[str, Any]) -> str:
    facts = [f"{name} {value}" for name, value in place.items() if name not in ("file", "byte")]
    if "file" in place:
        facts.append(f"{place['file']} at byte {place['byte']:,}")
    return ", ".join(facts)
