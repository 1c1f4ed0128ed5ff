"""Badges to put into somebody's README: how many claims hold, how many cases pass, for a target or one claim on it.

Each as SVG, and as the JSON that shields.io calls an endpoint badge (schemaVersion, label, message, color).
Source: https://shields.io/badges/endpoint-badge
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from brokerproof.render.html import filled
from brokerproof.site.model import Cell

_COLOURS = {"good": "0f62a8", "bad": "b13c06", "open": "745500"}


@dataclass(frozen=True, slots=True)
class Badge:
    label: str
    message: str
    color: str

    def as_json(self) -> str:
        fields = {"schemaVersion": 1, "label": self.label, "message": self.message, "color": self.color}
        return json.dumps(fields, ensure_ascii=False, sort_keys=True) + "\n"

    def as_svg(self) -> str:
        """Letters are counted, not measured: text is fitted into its part (``textLength``), so it never overflows."""
        left, right = (10 + round(6.4 * len(said)) for said in (self.label, self.message))
        return filled("site-badge.svg.j2", badge=self, left=left, right=right)


def badge(label: str, cells: Sequence[Cell]) -> Badge:
    """What these cells say together. Red wins, then what is open; what does not apply is not counted."""
    counted = [c for c in cells if c.latest.verdict not in ("UNSUPPORTED", "SKIP")]
    states = [c.standing for c in counted]
    if len(counted) == 1:
        return Badge(label, counted[0].latest.verdict, _COLOURS[states[0]])
    if not counted:
        return Badge(label, "not applicable", "56616d")
    word = "hold" if counted[0].key.what == "claim" else "pass"
    odd = sum(not c.latest.as_expected for c in counted)
    message = f"{states.count('good')} of {len(counted)} {word}" + (f", {odd} unexpected" if odd else "")
    # A promise that is not kept and is known not to be is no alarm; what nobody expected is.
    return Badge(label, message, _COLOURS["bad" if odd else "good" if "bad" not in states else "open"])
