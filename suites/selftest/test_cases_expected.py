"""The protocol cases of the suites, and their expected results: nothing stale, nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.ledger import ledger
from brokerproof.conformance.manifest import manifest, stale
from brokerproof.conformance.protocols import PROTOCOLS
from brokerproof.conformance.running import jobs_of
from brokerproof.suites import suites

EXPECTED = suites() / "expected"
#: How many cases each protocol has. An id is for ever: a case that goes leaves its id unused.
CASES = {"amqp091": 133, "kafka": 69, "rocketmq": 60}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return cases_of(suites() / "conformance")


def test_no_case_is_lost(cases: list[Case]) -> None:
    assert Counter(c.protocol for c in cases) == CASES
    assert len({c.slug for c in cases}) == len(cases)


def test_every_case_says_what_is_required_and_where_it_stands(cases: list[Case]) -> None:
    assert [c.id for c in cases if not c.requirement.rstrip(")").endswith(".") or not c.reference] == []


@pytest.mark.parametrize("file", sorted(EXPECTED.glob("*-*.toml")), ids=lambda f: f.stem)
def test_no_expected_line_is_stale_and_no_case_uncounted(cases: list[Case], file: Path) -> None:
    product, _, version = file.stem.partition("-")
    if product not in PROTOCOLS:
        return
    lines = manifest(EXPECTED, product, version)
    known = {(j.id, j.variant) for j in jobs_of(c for c in cases if c.protocol == PROTOCOLS[product])}
    assert stale(lines, known, whole=True) == []
    assert lines.count is not None or not lines.lines, "lines, and no [conformance] cases = …"


@pytest.mark.parametrize("product", PROTOCOLS)
def test_every_statement_is_about_a_case_and_a_step_that_there_are(cases: list[Case], product: str) -> None:
    steps = {c.id: set(c.accepts) for c in cases}
    wrong = [
        s for s in ledger(suites() / "conformance" / "ledger", product)
        if s.case not in steps or (s.step and s.step not in steps[s.case])
    ]  # fmt: skip
    assert wrong == []
