"""A claim: one sentence that a source, a vendor or a specification promises, and what decides it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from brokerproof.errors import PlanError

Kind = Literal["promise", "hazard", "comparison", "property", "measurement"]
KINDS: tuple[Kind, ...] = ("promise", "hazard", "comparison", "property", "measurement")
_ID = re.compile(r"[a-z0-9]+/[a-z0-9]+(-[a-z0-9]+)*(--[a-z0-9]+(-[a-z0-9]+)*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Ids are for ever: never reused; what changes a verdict raises ``revision``.

    deciding: keys of the anomalies, or observations, that break (promise) or show (hazard) it.
    always: for a hazard, whether the source says that it happens every time (else it says that it can).
    sharpens: id of the claim that this one states more exactly.  control: what the control arm takes away.
    """

    id: str
    revision: int
    kind: Kind
    sentence: str
    source: str
    deciding: tuple[str, ...] = ()
    control: str = ""
    always: bool = False
    sharpens: str = ""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise PlanError(
                f"claim id {self.id!r}: expected '<section>/<slug>', a sharpened one with '--<slug>' behind"
            )
        if self.kind not in KINDS:
            raise PlanError(f"claim {self.id}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.kind in ("promise", "hazard") and not self.deciding:
            raise PlanError(f"claim {self.id}: a {self.kind} needs the anomalies that decide it")

    @property
    def section(self) -> str:
        return self.id.split("/", 1)[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "revision": self.revision, "kind": self.kind, "sentence": self.sentence,
            "source": self.source, "deciding": list(self.deciding), "control": self.control,
            "always": self.always, "sharpens": self.sharpens,
        }  # fmt: skip
