"""Results beside the expected lines of today, instead of those of the day of the run.

A cell that was run first, and whose line was written from what it showed, is no surprise any more. Verdicts stay as they are:
only what was expected changes, and whether this is it.
"""

from __future__ import annotations

from pathlib import Path

from brokerproof.conformance.manifest import manifest
from brokerproof.expected import expected
from brokerproof.render.folder import Json, text, verdict


def rejudged_claim(entry: Json, folder: Path) -> Json:
    """The entry of a claim with the expectation that ``folder`` holds for its cell. Raises UsageError as ``expected``."""
    want = expected(
        folder, broker=text(entry.get("broker")), version=text(entry.get("version")), claim=text(entry.get("claim")),
        variant=text(entry.get("variant")), profile=text(entry.get("profile")),
    )  # fmt: skip
    return {
        **entry, "expected": want.verdict, "expected_because": want.reason, "unlisted": want.unlisted,
        "as_expected": verdict(entry) in (want.verdict, "UNSUPPORTED"),
    }  # fmt: skip


def rejudged_case(entry: Json, folder: Path) -> Json:
    """The same of a protocol case. Without a line, then or now, the run's own word stands: it knew what the case judges."""
    name = text(entry.get("case"))
    line = manifest(folder, text(entry.get("broker")), text(entry.get("version"))).line(
        name, text(entry.get("variant"))
    )
    if line is None:
        return entry
    return {
        **entry, "expected": line["verdict"], "listed": True, "reason": line["reason"],
        "as_expected": entry.get("verdict") == line["verdict"],
    }  # fmt: skip
