"""What vendors say in public of how their product treats a rule, beside what was measured.

``suites/conformance/ledger/<product>.toml``, in our own words with the address of the statement:

    [[says]]
    case = "A7.03"
    step = ""                         # only of this step; "" of the case
    variant = "*"                     # only of this variant; "*" all
    verdict = "UNIMPL"                # what the vendor's words amount to: PASS, DEV, UNIMPL, NONSTRICT, CODE
    does = ""                         # DEV: the observation that is admitted, as a part of it: only exactly this is DEV, not FAIL
    text = "no-local is not implemented"
    address = "https://…"
    version = "4.0"                   # the version of the product that the statement is about; "" all
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from brokerproof.conformance.case import NO_JUDGEMENT, Verdict
from brokerproof.conformance.scene import Judged
from brokerproof.errors import UsageError


@dataclass(frozen=True, slots=True)
class Says:
    """One public statement of a vendor."""

    case: str
    verdict: Verdict
    text: str
    address: str
    step: str = ""
    variant: str = "*"
    does: str = ""
    version: str = ""

    def of(self, case: str, version: str, variant: str = "") -> bool:
        return (
            self.case == case
            and self.variant in ("*", variant)
            and (not self.version or f"{version}.".startswith(f"{self.version}."))
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@lru_cache(maxsize=8)
def ledger(folder: Path, product: str) -> tuple[Says, ...]:
    """All statements on a product; none where there is no file. Raises UsageError for one that cannot be read as such."""
    file = folder / f"{product}.toml"
    try:
        entries = tomllib.loads(file.read_text()).get("says", [])
        found = tuple(Says(**entry) for entry in entries)
    except FileNotFoundError:
        return ()
    except (OSError, tomllib.TOMLDecodeError, TypeError) as exc:
        raise UsageError(f"ledger {str(file)!r} cannot be read: {exc}") from exc
    for says in found:
        if says.verdict not in get_args(Verdict) or not says.text or not says.address:
            raise UsageError(f"ledger {str(file)!r}: {says.case} needs a verdict, a text and an address")
        if says.verdict == "DEV" and not says.does:
            raise UsageError(f"ledger {str(file)!r}: {says.case} admits something: `does` must say what is seen then")
    return found


def admitted(says: Sequence[Says], step: Judged) -> bool:
    """Whether a statement admits that the product does exactly what this step showed."""
    shown = str(step.seen)
    return any(s.verdict == "DEV" and s.step in ("", step.step) and s.does in shown for s in says)


def drifts(says: Sequence[Says], verdict: Verdict) -> bool:
    """Whether a statement and the measurement differ; never where nothing was judged."""
    return verdict not in (*NO_JUDGEMENT, "INFO") and any(s.verdict != verdict for s in says if not s.step)
