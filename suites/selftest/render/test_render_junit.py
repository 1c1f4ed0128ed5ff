"""What a CI system counts: failures are verdicts, errors are ours, skipped is what a broker does not have."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from render_sample import claim

from brokerproof.render import junit


def parsed(run: Path) -> ET.Element:
    return ET.parse(junit.render(run)).getroot()


def test_failure_error_and_skipped_are_told_apart(make_run: Callable[..., Path]) -> None:
    root = parsed(
        make_run(
            [
                claim("a/holds"),
                claim("a/known-violated", "VIOLATED"),
                claim("a/violated", "VIOLATED", expected="HOLDS", reason="3 lost", command="brokerproof run --seed 1"),
                claim("a/unknown", "UNKNOWN", expected="UNKNOWN", as_expected=False),
                claim("a/unsupported", "UNSUPPORTED", reason="no streams"),
            ],
            errors=[{"cell": "x::y", "message": "no engine"}, "disk is full"],
        )
    )
    cases = {case.get("name"): case for case in root.iter("testcase")}
    told = {name: [child.tag for child in case if child.tag != "properties"] for name, case in cases.items()}
    assert told == {
        "holds[rabbitmq-4.0.5]": [],
        "known-violated[rabbitmq-4.0.5]": [],
        "violated[rabbitmq-4.0.5]": ["failure"],
        "unknown[rabbitmq-4.0.5]": ["failure"],
        "unsupported[rabbitmq-4.0.5]": ["skipped"],
        "x::y": ["error"],
        "error 2": ["error"],
    }
    failure = cases["violated[rabbitmq-4.0.5]"].find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("VIOLATED", "VIOLATED, expected HOLDS: 3 lost")
    assert "repeat: brokerproof run --seed 1" in (failure.text or "")
    unknown = cases["unknown[rabbitmq-4.0.5]"].find("failure")
    assert unknown is not None
    assert unknown.get("type") == "UNKNOWN"
    assert {k: root.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7",
        "failures": "2",
        "errors": "2",
        "skipped": "1",
    }


def test_a_suite_per_target_with_its_own_counts_and_time(sample_run: Path) -> None:
    root = parsed(sample_run)
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == [
        "claims rabbitmq 3.13.7",
        "claims rabbitmq 4.0.5",
        "claims kafka 4.3.1",
        "claims rocketmq 5.3.2",
        "conformance rabbitmq 4.0.5",
        "harness",
    ]
    for suite in suites.values():
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
    assert sum(float(suite.get("time", "")) for suite in root) > 4000
    assert suites["conformance rabbitmq 4.0.5"].get("failures") == "1"


def test_control_characters_and_markup_make_well_formed_xml(make_run: Callable[..., Path]) -> None:
    hostile = "\x00\x1b[31m<failure>\"'&]]>\ud800\ufffe\n\u202e"
    root = parsed(
        make_run(
            [claim("a/b", "VIOLATED", expected="HOLDS", reason=hostile, variant=hostile, sentence=hostile)],
            errors=[hostile, {"cell": hostile, "message": hostile}],
        )
    )
    failure = root.find(".//failure")
    assert failure is not None
    assert "\\x00\\x1b[31m<failure>\"'&]]>\\ud800\\ufffe" in failure.get("message", "")


def test_missing_results_are_an_error_and_not_a_green_run(tmp_path: Path) -> None:
    root = parsed(tmp_path)
    assert root.get("errors") == "2"
    messages = [error.get("message") for error in root.iter("error")]
    assert "results.json is missing" in messages
