"""The verdict of a case again, from its page alone: what each step showed, by the table that was in force and the vendor's
statements that stand beside it. No broker, no script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brokerproof.conformance.case import CUT, CUT_SHORT, Line, Seen, Table, Verdict
from brokerproof.conformance.ledger import Says, admitted
from brokerproof.conformance.scene import AFTERWARDS, Judged, of_steps, unreached


def verdict_again(page: Mapping[str, Any]) -> Verdict:
    """The worst of its steps, judged again. A step without a table (how everything else fared) keeps what it was. INCONCLUSIVE where not
    all was judged and nothing of it is a FAIL.
    Raises KeyError, TypeError or ValueError for what is no page of a case."""
    tables = {step: _table(table) for step, table in page["accepts"].items()}
    says = [Says(**said) for said in page["says"]]
    protocol = str(page["slug"]).partition("/")[0]
    verdicts: list[tuple[str, Verdict]] = []
    for step in page["steps"]:
        seen = Seen(**step["seen"])
        verdict: Verdict = step["verdict"]
        # Where frames are cut short one table judges what the script saw, and the page says which steps it was.
        cut = page.get("condition") == CUT and step.get("accepts") == CUT_SHORT.says
        if (table := CUT_SHORT if cut else tables.get(step["step"])) is not None:
            verdict, _ = table.judge(seen, protocol)
        judged = Judged(step["step"], seen, verdict, "", 0.0)
        if verdict == "FAIL" and judged.step != AFTERWARDS and admitted(says, judged):
            verdict = "DEV"
        verdicts.append((judged.step, verdict))
    found = of_steps(verdicts)
    unfinished = page.get("unfinished") or unreached(tables, (step for step, _ in verdicts))
    return "INCONCLUSIVE" if unfinished and found != "FAIL" else found


def _table(data: Mapping[str, Any]) -> Table:
    return Table(
        data["says"],
        tuple(
            Line(
                line["verdict"],
                *(None if line[k] is None else tuple(line[k]) for k in ("behaviour", "endings", "scopes", "codes")),
            )
            for line in data["lines"]
        ),
    )
