"""``junit.xml``: one test case per cell and per conformance case, for the test tab of a CI system.

failure  a verdict that is not the expected one; its type is the verdict (UNKNOWN: evidence is missing)
error    the harness or its environment failed: no verdict on the broker
skipped  UNSUPPORTED by declared capability, and conformance cases that do not apply
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from brokerproof.render.folder import (
    Json,
    Run,
    as_expected,
    case_as_expected,
    error_of,
    number,
    read_run,
    text,
    verdict,
    where,
)

#: Verdicts of a conformance case that count neither for nor against a broker.
_NOT_APPLICABLE = ("SKIP", "UNSUPPORTED")


def render(run: Path) -> Path:
    """Writes the file and returns its path."""
    out = run / "junit.xml"
    tree = ET.ElementTree(suites(read_run(run)))
    ET.indent(tree)
    tree.write(out, encoding="utf-8", xml_declaration=True)
    return out


def suites(run: Run) -> ET.Element:
    """The whole document: a suite per broker and version, and one for the harness where that failed."""
    root = ET.Element("testsuites", name=f"brokerproof {run.name}")
    by_target: dict[str, list[ET.Element]] = {}
    for entry in run.claims:
        by_target.setdefault(f"claims {_target(entry)}", []).append(_claim(entry))
    for entry in run.cases:
        by_target.setdefault(f"conformance {_target(entry)}", []).append(_conformance(entry))
    errors = [error_of(e) for e in run.errors] + [("results", reason) for reason in run.alerts]
    if errors:
        by_target["harness"] = [_error(i, at, what) for i, (at, what) in enumerate(errors, start=1)]
    for name, cases in by_target.items():
        suite = ET.SubElement(root, "testsuite", name=name, timestamp=text(run.facts.get("started")))
        _count(suite, cases)
        suite.extend(cases)
    _count(root, [case for cases in by_target.values() for case in cases])
    return root


def _target(entry: Json) -> str:
    return f"{text(entry.get('broker'))} {text(entry.get('version'))}"


def _count(element: ET.Element, cases: Sequence[ET.Element]) -> None:
    element.set("tests", str(len(cases)))
    for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(plural, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _claim(entry: Json) -> ET.Element:
    section, _, slug = text(entry.get("claim")).partition("/")
    case = ET.Element("testcase", classname=f"claims.{section}", name=f"{slug}[{where(entry).replace(' ', '-')}]")
    case.set("time", f"{number(entry.get('duration_s')) or 0:.3f}")
    properties = ET.SubElement(case, "properties")
    for key in ("cell", "kind", "profile", "verdict", "expected", "unlisted"):
        if key in entry:
            ET.SubElement(properties, "property", name=key, value=text(entry[key]))
    said, reason = verdict(entry), text(entry.get("reason"))
    if said == "UNSUPPORTED":
        ET.SubElement(case, "skipped", message=reason)
    elif not as_expected(entry):
        message = f"{said}, expected {text(entry.get('expected')) or 'nothing else'}: {reason}"
        failure = ET.SubElement(case, "failure", type=said, message=message)
        lines = (text(entry.get("sentence")), message, _repeat(entry))
        failure.text = "\n".join(line for line in lines if line)
    return case


def _conformance(entry: Json) -> ET.Element:
    said, expected = text(entry.get("verdict")), text(entry.get("expected"))
    name = f"{text(entry.get('case'))} {text(entry.get('slug'))}[{where(entry).replace(' ', '-')}]"
    case = ET.Element("testcase", classname="conformance", name=name)
    case.set("time", f"{number(entry.get('took_s')) or 0:.3f}")
    observed = text(entry.get("observed"))
    if said in _NOT_APPLICABLE:
        ET.SubElement(case, "skipped", message=observed)
    elif said == "HARNESS":
        ET.SubElement(case, "error", type=said, message=observed)
    elif not case_as_expected(entry):
        ET.SubElement(case, "failure", type=said, message=f"{said}, expected {expected}: {observed}")
    return case


def _error(i: int, at: str, what: str) -> ET.Element:
    case = ET.Element("testcase", classname="harness", name=at or f"error {i}", time="0")
    ET.SubElement(case, "error", type="HarnessError", message=what.split("\n", 1)[0]).text = what
    return case


def _repeat(entry: Json) -> str:
    command = text(entry.get("command"))
    return f"repeat: {command}" if command else ""
