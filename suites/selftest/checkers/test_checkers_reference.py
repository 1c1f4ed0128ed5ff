"""The fast checkers agree with the plain ones on whatever rows there are, sensible or not."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_reference import Reference
from storybook import MS, ROLES, chunks_of, history

from brokerproof.checkers import running, view
from brokerproof.checkers.base import check
from brokerproof.history import COLUMNS

#: Thousands were run when this was written; so many keep it honest in a few seconds.
EXAMPLES = int(os.environ.get("BROKERPROOF_EXAMPLES", "150"))
LANES = ("log", "queue")
_TEXTS = {
    "control": ("start", "drained", "definition_lost"),
    "settle": ("", "requeue"),
    "fault": ("inject x", "heal x"),
}
_FUNCTIONS = ("send",) * 4 + ("receive",) * 5 + ("settle", "effect", "effect", "control", "assign", "revoke", "commit")
_OF_TRANSACTIONS = ("send",) * 3 + ("receive",) * 4 + ("txn_commit",)
#: What a history has besides: nothing, transactions, a cache, faults.
_BESIDES = ((), ("txn_begin", "txn_commit", "txn_commit", "txn_abort", "send"), ("read", "read", "effect"), ("fault",))
#: How messages are numbered: from 0, from a base, in ranges far apart, without any system, at the end of the numbers.
NUMBERINGS = (
    lambda n: n,
    lambda n: 10**12 + n,
    lambda n: (n % 2) * 10**11 + n,
    lambda n: n * 10**15 + n,
    lambda n: 2**63 - 100 + n,
)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    number = draw(st.sampled_from(NUMBERINGS))
    besides = draw(st.sampled_from(_BESIDES))
    transactions = "txn_begin" in besides
    out = []
    for nth, f in enumerate(draw(st.lists(st.sampled_from(_FUNCTIONS + besides), max_size=24 if besides else 16))):
        start = draw(st.integers(0, 12))
        r: dict[str, Any] = {name: -1 for name, _ in COLUMNS}
        r |= {
            "f": f,
            "outcome": draw(st.sampled_from(("ok", "ok", "ok", "ok", "info", "fail"))),
            "process": draw(st.integers(0, 2 if transactions else 5)),
            "start_ns": (start if draw(st.booleans()) else nth) * MS,
            "lane": draw(st.sampled_from((0, 0, 1, 1, -1, 7))),
            "key": draw(st.sampled_from((0, 0, 1, -1))),
            "attempt": draw(st.sampled_from((-1, 0, 0, 1))),
            "error": draw(st.sampled_from(_TEXTS.get(f, ("",)))),
        }
        r["end_ns"] = r["start_ns"] + draw(st.integers(0, 3)) * MS
        if f in ("send", "receive", "settle", "effect"):
            m = draw(st.integers(-1, 4))
            r["msg"] = number(m) if m >= 0 else draw(st.sampled_from((-1, -2)))
        if f in ("send", "receive"):
            r["pos"] = draw(st.integers(-1, 4))
        if f == "send":
            r["batch"] = draw(st.sampled_from((-1, -1, -1, 3)))
        if transactions and f in ("send", "receive", "txn_begin", "txn_commit", "txn_abort"):
            r["batch"] = draw(st.sampled_from((1, 1, 2, -1)))
        if f in ("commit", "effect", "read"):
            r["value"] = draw(st.integers(-1, 4))
        out.append(r)
    return out


def random_rows(noise: random.Random) -> list[dict[str, Any]]:
    """Rows that meet more often than Hypothesis makes them: few messages, most things ``ok``, times mostly rising."""
    number = noise.choice(NUMBERINGS)
    besides = noise.choice(_BESIDES)
    transactions = "txn_begin" in besides
    lanes = noise.choice(((0,), (1,), (0, 0, 1, 1, -1, 7)))
    processes = noise.choice((2, 3)) if transactions else noise.choice((1, 2, 6))
    places, messages = noise.choice((3, 6)), noise.choice((3, 6, 12))
    out = []
    for nth in range(noise.randrange(4, 40)):
        f = noise.choice(_OF_TRANSACTIONS if transactions and noise.random() < 0.8 else _FUNCTIONS + besides)
        start = nth if noise.random() < 0.8 else noise.randrange(40)
        r: dict[str, Any] = {name: -1 for name, _ in COLUMNS}
        r |= {
            "f": f, "outcome": noise.choice(("ok",) * 8 + ("info", "fail")), "process": noise.randrange(processes),
            "start_ns": start * MS, "end_ns": (start + noise.randrange(3)) * MS, "lane": noise.choice(lanes),
            "key": noise.choice((0, 0, 0, 1, -1)), "attempt": noise.choice((-1, 0, 0, 1)),
            "error": noise.choice(_TEXTS.get(f, ("",))),
        }  # fmt: skip
        if f in ("send", "receive", "settle", "effect"):
            r["msg"] = number(noise.randrange(messages)) if noise.random() < 0.95 else noise.choice((-1, -2))
        if f in ("send", "receive"):
            r["pos"] = noise.randrange(-1, places)
        if transactions and f in ("send", "receive", "txn_begin", "txn_commit", "txn_abort"):
            r["batch"] = noise.choice((1,) * 12 + (2, -1))
        if f in ("commit", "effect", "read"):
            r["value"] = noise.randrange(-1, places)
        out.append(r)
    return out


def compare(tale: list[dict[str, Any]]) -> dict[str, Any]:
    """What the plain ones found; fails where the fast ones say something else."""
    finding = check(history(tale, lanes=LANES))
    assert not [s for s in finding.missing if "raised" in s or "could not" in s]
    counts = {**finding.anomalies, **finding.observations}
    plain = Reference(tale, LANES, ROLES).found()
    for key, expected in plain.items():
        if isinstance(expected, int):
            assert counts[key].count == expected, key
        else:
            assert (counts[key].count, set(counts[key].messages)) == (len(expected), expected), key
    return plain


def test_the_fast_and_the_plain_agree_on_thousands() -> None:
    """And the histories show something: every key that the plain ones decide is found in some of them."""
    seen: Counter[str] = Counter()
    for seed in range(10 * EXAMPLES):
        tale = random_rows(random.Random(seed))
        seen.update(key for key, found in compare(tale).items() if found)
    assert set(seen) == set(compare([])), seen


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(tale=rows())
def test_the_fast_and_the_plain_agree(tale: list[dict[str, Any]]) -> None:
    compare(tale)


@settings(
    max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(tale=rows(), chunk=st.integers(1, 5), runs=st.sampled_from([0, 1, 256]))
def test_where_chunks_end_and_how_rows_are_gathered_does_not_matter(
    tale: list[dict[str, Any]], chunk: int, runs: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, chunks_of(chunk):
        patch.setattr(view, "_RUNS_MAX", runs)
        compare(tale)


@settings(
    max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(tale=rows())
def test_threads_say_the_same(tale: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "_ALONE_ROWS", -1)
        patch.setattr(view.os, "cpu_count", lambda: 2)
        assert view.threads_for(1) == 2
        compare(tale)


@settings(
    max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 150
)
@given(tale=rows())
def test_many_groups_are_made_dense(tale: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in _with_groups():
            patch.setattr(module, "GROUPS_MAX", 1)
        compare(tale)


def _with_groups() -> list[Any]:
    from brokerproof.checkers import poll_order, reordered, send_order

    return [running, poll_order, reordered, send_order]
