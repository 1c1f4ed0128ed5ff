"""Judged in parts, a history gives the very same finding as judged at once; and partial results merge in any way."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storybook import history, told
from test_checkers_reference import EXAMPLES, rows

from brokerproof.checkers import bounded, numbers
from brokerproof.checkers.base import check, checkers
from brokerproof.checkers.bounded import check_in_parts, check_within, partial
from brokerproof.checkers.effect_lost import judged_lanes
from brokerproof.checkers.partial import Partial, merge
from brokerproof.checkers.split import PartIndex, Split, survey
from brokerproof.history import COLUMNS, History

ROUTES: tuple[Any, ...] = (
    {},
    {"1": [{"lane": 0, "must": False}]},
    {"0": [{"lane": 0, "must": True}, {"lane": 1, "must": True}]},
    {"0": [{"lane": 1, "must": True}]},
)
GROUPS = ((), ("", "g", "h", ""), ("", "g", "g", ""))
KINDS = (("log", "queue"), ("queue", "queue"), ("log", "log"))


@st.composite
def histories(draw: st.DrawFn) -> History:
    tale = draw(rows())
    for nth in range(draw(st.integers(0, 2))):
        what = draw(st.sampled_from(("inject kill m1", "heal kill", "unhealthy")))
        tale.insert(min(nth, len(tale)), _row("fault", "ok", draw(st.integers(0, 12)), error=what))
    if draw(st.booleans()):  # the sends with batch 3 are of transactions then
        f = draw(st.sampled_from(("txn_begin", "txn_commit", "txn_abort")))
        outcome = draw(st.sampled_from(("ok", "fail", "info")))
        tale.append(_row(f, outcome, draw(st.integers(0, 12)), process=draw(st.integers(0, 1)), batch=3))
    return history(
        tale,
        lanes=draw(st.sampled_from(KINDS)),
        routes=draw(st.sampled_from(ROUTES)),
        groups=draw(st.sampled_from(GROUPS)),
    )


def _row(f: str, outcome: str, at_ms: int, **values: Any) -> dict[str, Any]:
    base: dict[str, Any] = {name: -1 for name, _ in COLUMNS}
    at = at_ms * 1_000_000
    return {**base, "f": f, "outcome": outcome, "start_ns": at, "end_ns": at, "error": "", **values}


def same(told_: History, parts: int) -> None:
    whole, in_parts = check(told_).to_json(), check_in_parts(told_, parts).to_json()
    # What injections cost is worked out for the trials of a run, which are small; in parts it is left out.
    assert in_parts.pop("recovery") == []
    del whole["recovery"]
    for key in whole:
        assert in_parts[key] == whole[key], key
    assert json.dumps(in_parts, sort_keys=True) == json.dumps(whole, sort_keys=True)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(told_=histories(), parts=st.integers(1, 5))
def test_judged_in_parts_it_is_the_same_finding(told_: History, parts: int) -> None:
    same(told_, parts)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(told_=histories(), order=st.permutations(range(4)), cut=st.integers(0, 4))
def test_partial_results_merge_in_any_grouping(told_: History, order: list[int], cut: int) -> None:
    split = Split(told_, survey(told_), 4)
    judged = judged_lanes(split.facts)
    with TemporaryDirectory() as folder:
        made = [partial(PartIndex(part, split.facts, judged)).renumbered(n) for part, n in split.spill(Path(folder))]
    parts = [made[n] for n in order]
    left = reduce(merge, parts, Partial())
    grouped = merge(reduce(merge, parts[:cut], Partial()), reduce(merge, parts[cut:], Partial()))
    assert left.to_finding().to_json() == grouped.to_finding().to_json()
    assert left.span == grouped.span


def lively(messages: int, kind: str, keys: int) -> History:
    """Senders, consumers and every message lost, doubled or reordered now and then."""
    tale = []
    for n in range(messages):
        key = n % keys
        tale.append(f"ok send {n}@{n if kind == 'log' else -1} by={n % 2} key={key}")
        if n % 7:
            tale.append(f"ok receive {n + 1 if n % 11 == 0 else n}@{n} key={key} attempt=0")
        if n % 13 == 0:
            tale.append(f"ok receive {n}@{n} key={key} attempt=0")
        if n % 5:
            tale.append(f"ok effect {n} key={key}")
    return told(*tale, kind=kind, drained=True)


@pytest.mark.parametrize(("kind", "keys"), [("queue", 1), ("queue", 16), ("log", 4)])
def test_a_history_with_many_anomalies_is_the_same_in_parts(kind: str, keys: int) -> None:
    made = lively(600, kind, keys)
    assert len([c for c in check(made).anomalies.values() if c.count]) >= 3
    for parts in (2, 7):
        same(made, parts)


def test_a_message_that_turns_up_in_another_log_ties_the_two_together() -> None:
    tale = [f"ok send {n}@{n} lane={n % 2}" for n in range(40)]
    # The consumer of its own log passes it over, and it lies where message 5 lies in the other.
    tale += [f"ok receive {n}@{n} lane={n % 2}" for n in range(40) if n != 2]
    tale.append("ok receive 2@5 lane=1")
    made = told(*tale, lanes=("log", "log"), drained=True)
    found = check(made).anomalies
    assert (found["poll_skip"].count, found["inconsistent_positions"].count) == (1, 1)
    same(made, 2)


def test_a_sender_that_came_back_is_the_same_in_parts() -> None:
    # Slot 0, then its next generation; what it sent second has its effect first.
    tale = [f"ok send {n} key=1 by={4 * (n % 2)}" for n in range(30)]
    tale += [f"ok effect {n ^ 1 if n < 2 else n} key=1" for n in range(30)]
    made = told(*tale, drained=True)
    assert check(made).anomalies["effect_out_of_order"].count
    same(made, 2)


def test_commits_go_with_their_lane() -> None:
    tale = [f"ok send {n}@{n} lane={int(n > 2)} key={int(n > 2)}" for n in range(40)]
    tale += [f"ok receive {n}@{n} lane={int(n > 2)} key={int(n > 2)}" for n in range(40)]
    tale += ["ok commit - lane=0 value=3", *(f"ok effect {n} lane=0 key=0" for n in range(3))]
    made = told(*tale, lanes=("log", "log"), drained=True)
    assert check(made).anomalies["commit_ahead_of_work"].count == 3
    same(made, 2)


def test_numbers_that_lie_far_apart_are_numbered_as_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_FLOOR", 1)
    # Ten messages over 35 to 54 numbers: around the border from which on numbers are not dense enough.
    for last in range(34, 54):
        ids = [*range(9), last]
        tale = [f"ok send {n} key={n % 3}" for n in ids] + [f"ok receive {n} key={n % 3}" for n in ids if n % 4]
        same(told(*tale, drained=True), 2)


def sizes_of(made: History, folder: Path) -> list[int]:
    return [len(part) for part, _ in Split(made, survey(made), 4).spill(folder)]


def test_the_parts_are_parts_where_there_are_many_keys(tmp_path: Path) -> None:
    made = lively(600, "queue", 16)
    sizes = sizes_of(made, tmp_path)
    assert max(sizes) < 0.4 * len(made)
    assert sum(sizes) >= len(made)


def test_what_hangs_together_stays_whole_and_that_is_told(tmp_path: Path) -> None:
    made = lively(600, "log", 4)
    assert max(sizes_of(made, tmp_path)) >= len(made) - 4
    assert not list(tmp_path.iterdir())
    told_so: list[str] = []
    finding = check_within(made, bounded.BASE_BYTES + 1000, note=told_so.append)
    assert finding.to_json() == check(made).to_json()
    assert any("hang together" in sentence for sentence in told_so)
    assert any("less than the" in sentence for sentence in told_so)
    told_so.clear()
    fine = bounded.BASE_BYTES + 600 * bounded.MESSAGE_COST_BYTES + 300 * bounded.ROW_COST_BYTES
    check_within(lively(600, "queue", 16), fine, note=told_so.append)
    assert told_so == []


def test_a_history_that_fits_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "survey", None)
    assert check_within(told("ok send a"), 1 << 30).shows("lost")


def test_what_can_not_be_split_and_does_not_fit_is_said() -> None:
    # Due times make ``delays`` look at percentiles over all messages.
    made = told(*(f"ok send {n} value={10**10}" for n in range(50)), *(f"ok receive {n}" for n in range(50)))
    whole = check(made)
    assert whole.anomalies["delivered_early"].count
    finding = check_within(made, bounded.BASE_BYTES + 1000)
    assert "delivered_early" not in finding.anomalies
    (sentence,) = finding.missing
    assert "delivered_early" in sentence
    assert "GiB" in sentence
    assert check_in_parts(made, 3).to_json() == whole.to_json()


def test_every_checker_is_either_known_to_add_up_or_not() -> None:
    names = {each.name for each in checkers()}
    assert set(bounded.ADD_UP) <= names
    assert set(bounded.OF_TIMES) <= names
