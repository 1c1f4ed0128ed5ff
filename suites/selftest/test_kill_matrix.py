"""Every bug of the memory broker turns every claim that forbids it red, and docs/proofs/kill-matrix.md says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from brokerproof.brokers.memory.cluster import BUGS, SOUND
from brokerproof.claims import declared
from brokerproof.suites import suites

sys.path.insert(0, str(Path(__file__).parents[2] / "ci"))
from proofs_kill_matrix import FORBIDS, KILLED, PAGE, SOUND_AND_HOLDS, WRONG_AS_STATED, decide, wrong


def test_every_bug_is_forbidden_by_some_claim() -> None:
    assert set(FORBIDS) == set(BUGS)
    assert all(FORBIDS.values())


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_every_bug_turns_the_claims_that_forbid_it_red(bug: str, tmp_path: Path, state: Path) -> None:
    words = decide(bug, tmp_path, *sorted(FORBIDS[bug]))
    assert words == dict.fromkeys(FORBIDS[bug], "VIOLATED")


def _page() -> dict[str, dict[str, str]]:
    """version -> claim -> cell, as the page has it."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    start = next(n for n, row in enumerate(rows) if row[0] == "claim")
    return {
        version: {row[0]: row[n + 1] for row in rows[start + 1 :]} for n, version in enumerate(rows[start][1:])
    }  # fmt: skip


def test_the_page_is_of_these_bugs_and_claims_and_says_what_the_matrix_has_to_say() -> None:
    said = _page()
    assert list(said) == [SOUND, *BUGS]
    here = [d for d in declared(suites() / "claims") if "memory" in d.brokers and not d.on_request]
    quick = {d.claim.id for d in here if "quick" in d.profiles}
    for version, cells in said.items():
        assert set(cells) == quick
        assert {c for c, sign in cells.items() if sign == KILLED} == FORBIDS.get(version, frozenset())
        assert {c for c, sign in cells.items() if sign == "✗"} <= WRONG_AS_STATED
    assert {c for c, sign in said[SOUND].items() if sign != SOUND_AND_HOLDS} == WRONG_AS_STATED


def test_a_bug_that_nothing_notices_is_noticed() -> None:
    sound = dict.fromkeys(FORBIDS["doubles"], "HOLDS")
    assert wrong("doubles", sound) == ["doubles should violate broker/kept-until-consumed, which is HOLDS"]
    other = {**dict.fromkeys(FORBIDS["acks-early"], "VIOLATED"), "amqp/fanout-all": "VIOLATED"}
    assert wrong("acks-early", other) == ["acks-early violates amqp/fanout-all, which does not forbid it"]
    assert wrong(SOUND, {"amqp/direct-exact": "UNKNOWN"}) == ["sound should keep amqp/direct-exact, which is UNKNOWN"]
