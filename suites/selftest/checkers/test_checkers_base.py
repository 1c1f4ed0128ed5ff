"""The contract: registration, what happens to a checker that raises, the empty and the hostile, and what stays shut."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storybook import history, nonzero, row, told

from brokerproof.checkers import base
from brokerproof.checkers.base import Checker, check, checker, checkers, describe, found, keys
from brokerproof.checkers.index import Index
from brokerproof.checkers.numbers import Numbers, distinct, packed_order
from brokerproof.errors import HarnessError
from brokerproof.finding import Count, Finding
from brokerproof.history import COLUMNS, History, Meta


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Checker]:
    checkers()
    copy = dict(base._REGISTRY)
    monkeypatch.setattr(base, "_REGISTRY", copy)
    return copy


def _compiled(source: str, file: str) -> Any:
    space: dict[str, Any] = {"checker": checker, "Finding": Finding}
    exec(compile(source, file, "exec"), space)
    return space


def test_a_name_that_is_taken_fails_and_names_both_files(registry: dict[str, Checker]) -> None:
    with pytest.raises(HarnessError, match=r"two checkers are called 'lost': .*lost\.py and elsewhere\.py"):
        _compiled("@checker(anomalies=('other',))\ndef lost(index): return Finding()", "elsewhere.py")


def test_a_key_that_is_taken_fails_and_names_both_files(registry: dict[str, Checker]) -> None:
    with pytest.raises(HarnessError, match=r"two checkers report 'lost': .*lost\.py and elsewhere\.py"):
        _compiled("@checker(anomalies=('lost',))\ndef vanished(index): return Finding()", "elsewhere.py")


def test_a_checker_that_raises_is_named_and_silences_nobody(registry: dict[str, Checker]) -> None:
    _compiled(
        "@checker(anomalies=('broken_key',))\ndef broken(index): raise ZeroDivisionError('one by none')", "broken.py"
    )
    finding = check(told("ok send a"))
    assert "checker broken raised ZeroDivisionError: one by none" in finding.missing
    assert finding.anomalies["broken_key"] == Count(details={"raised": "ZeroDivisionError: one by none"})
    assert finding.anomalies["lost"].count == 1


def test_a_checker_takes_a_bare_history() -> None:
    (lost,) = (c for c in checkers() if c.name == "lost")
    assert nonzero(lost(told("ok send a")).anomalies) == {"lost": 1}
    assert found(lost=Count()) == {"lost": Count()}


def test_what_there_is_can_be_listed() -> None:
    listed = {entry["key"]: entry for entry in describe()}
    assert listed.keys() == keys().keys()
    assert listed["lost"]["kind"] == "anomaly"
    assert listed["reordered"]["kind"] == "observation"
    assert listed["duplicated"]["means"].startswith("On a log lane: the same message at two positions")
    assert "details" not in listed["duplicated"]["means"]
    assert "O(" in " ".join(str(c.run.__doc__) for c in checkers() if c.name == "lost")
    assert all("O(" in str(c.run.__doc__) for c in checkers())


def test_checkers_bring_no_client_no_container_and_no_pytest() -> None:
    code = (
        "import sys, brokerproof.checkers.base as b; b.checkers(); "
        "bad = {'pika', 'confluent_kafka', 'rocketmq', 'docker', 'pytest', 'pandas', 'polars', 'scipy', 'grpc'}; "
        "sys.exit(','.join(bad & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": _harness()})
    assert (done.returncode, done.stderr) == (0, "")


def _harness() -> str:
    return str(Path(base.__file__).parents[2])


# -- hostile -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_noise_never_makes_a_checker_raise(seed: int) -> None:
    """Any bits in any column: codes that mean nothing, numbers and times at their limits."""
    noise = np.random.default_rng(seed)
    n = 200
    columns = {}
    for name, kind in COLUMNS:
        info = np.iinfo(kind)
        wild = noise.integers(info.min, info.max, n, dtype=kind, endpoint=True)
        tame = noise.integers(-2, 6, n).astype(kind)
        columns[name] = np.where(noise.random(n) < (0.5 if seed % 2 else 0.05), wild, tame)
    columns["f"] = noise.integers(-1, 13, n).astype(np.int8)
    columns["outcome"] = noise.integers(-1, 3, n).astype(np.int8)
    meta = Meta(
        lanes=({"name": "x", "kind": "log"}, {}), processes=("producer", "consumer", "reader"), groups=("", "a", "b"),
        routes={"0": ({"lane": 1, "must": True}, {"lane": "what"}), "x": ({"lane": 1},), "1": ({"lane": 0},)},
    )  # fmt: skip
    finding = check(History(meta, columns, ("", "drained", "definition_lost", "inject x", "heal x"), "torn"))
    assert not [s for s in finding.missing if "raised" in s or "could not" in s]
    finding.to_json()


def test_numbers_far_apart_cost_no_memory() -> None:
    lines = [
        "ok send 0",
        "ok receive 0",
        f"ok receive {2**62}",
        f"ok send {2**62 + 1} by=4",
        f"ok send {2**63 - 1} by=5",
    ]
    finding = check(history([row(line, n) for n, line in enumerate(lines)]))
    assert nonzero(finding.anomalies) == {"lost": 2, "phantom": 1}
    assert finding.anomalies["lost"].messages == (2**62 + 1, 2**63 - 1)


@pytest.mark.parametrize("values", [
    [], [0], [5, 3, 3], [10**15, 10**15 + 7], [0, 10**11, 10**11 + 1, 5], [2**62, 0, 2**63 - 1],
    list(range(0, 10**15, 10**10)), [-(2**63), 2**63 - 1, 0],
])  # fmt: skip
def test_numbers_keep_order_and_come_back(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)
    numbers = Numbers([column])
    ids = numbers.ids(column)
    assert numbers.number(ids).tolist() == values
    assert numbers.has(column).all()
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < numbers.size <= 10**6)
    order = np.argsort(column, kind="stable")
    assert (np.diff(ids[order]) >= 0).all()
    assert distinct(column).tolist() == sorted(set(values))


def test_order_of_groups_is_stable_even_where_they_do_not_fit() -> None:
    groups = np.array([2, 0, 2, 1, 0])
    for count in (3, 1 << 61):
        order, ordered = packed_order(groups, count)
        assert order.tolist() == [1, 4, 3, 0, 2]
        assert ordered.tolist() == [0, 0, 1, 2, 2]


def test_the_index_of_a_history_without_metadata() -> None:
    rows = [row("ok send a", 0), row("ok receive a", 1), row("ok send b@3 lane=4", 2)]
    index = Index(history(rows, lanes=(), roles=()))
    assert (index.lane(0).is_log, index.lane(4).is_log) == (False, True)
    assert index.role(3) == ""
    assert index.lane(4).name == "lane 4"
