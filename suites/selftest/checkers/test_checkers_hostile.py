"""Hostile histories: numbers, times and positions at their limits, a hundred thousand lanes, metadata that overflows. No crash,
no hang, and what is right is still said."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from storybook import columns, history, nonzero, row, told

from brokerproof.checkers.base import check
from brokerproof.errors import HistoryError
from brokerproof.finding import Finding
from brokerproof.history import COLUMNS, F, History, HistoryWriter, Meta, arrow_schema, read_history

MOST = 2**63 - 1
#: A check of a few rows that takes longer than this hangs, however busy the machine.
_PATIENCE_S = 30


def look(tale: History) -> Finding:
    began = time.monotonic()
    finding = check(tale)
    assert time.monotonic() - began < _PATIENCE_S
    assert not [s for s in finding.missing if "raised" in s or "could not" in s]
    json.dumps(finding.to_json(), allow_nan=False)
    return finding


@pytest.mark.parametrize("kind", ["queue", "log"])
def test_a_message_number_of_two_to_the_62(kind: str) -> None:
    numbers = (0, 2**31, 2**62, 2**62 + 1, MOST)
    sends = [f"ok send {n}@{place}" if kind == "log" else f"ok send {n}" for place, n in enumerate(numbers)]
    got = [line.replace("send", "receive") for line in sends]
    assert nonzero(look(told(*sends, *got, kind=kind)).anomalies) == {}
    finding = look(told(*sends, *got[:2], *got[3:], kind=kind))
    assert set(nonzero(finding.anomalies)) == ({"lost"} if kind == "queue" else {"lost", "poll_skip"})
    assert finding.anomalies["lost"].messages == (2**62,)


def test_positions_at_the_end_of_the_numbers() -> None:
    lines = ("ok send a@0", f"ok send b@{MOST - 1}", f"ok send c@{MOST}")
    got = [line.replace("send", "receive") for line in lines]
    assert nonzero(look(told(*lines, *got, kind="log")).anomalies) == {}
    assert nonzero(look(told(*lines, got[0], got[2], kind="log")).anomalies) == {"lost": 1, "poll_skip": 1}
    apart = (*lines, f"ok send d@{MOST} lane=1 key=1")
    got = [line.replace("send", "receive") for line in apart]
    assert nonzero(look(told(*apart, *got, lanes=("log", "log"))).anomalies) == {}


@pytest.mark.parametrize("column", ["start_ns", "end_ns", "due_ns", "value"])
@pytest.mark.parametrize("value", [-MOST - 1, -2, MOST])
def test_times_and_values_that_overflow(column: str, value: int) -> None:
    lines = ("ok send a value=1", "ok send b value=2", "ok receive a", "ok receive b", "ok effect a value=1", "ok effect b value=2",
             "ok read - key=0 value=2", "ok commit - value=2", "ok settle a", "ok settle b")  # fmt: skip
    for hit in range(len(lines)):
        tale = [row(line, n) for n, line in enumerate(lines)]
        tale[hit][column] = value
        finding = look(history(tale))
        assert finding.anomalies["lost"].count == finding.anomalies["phantom"].count == 0


def test_every_lane_process_and_key_at_its_limit() -> None:
    tale = [row(line, n) for n, line in enumerate(("ok send a", "ok send b", "ok receive a", "ok receive b"))]
    for name in ("lane", "process", "key", "batch"):
        for value in (2**31 - 1, -(2**31)):
            finding = look(history([{**r, name: value} for r in tale], lanes=(), roles=()))
            assert finding.anomalies["lost"].count == 0


def test_a_hundred_thousand_lanes() -> None:
    """One message each, a hundred of them lost; nothing in the metadata describes the lanes."""
    n, lost = 100_000, 100
    cols: dict[str, Any] = {name: np.full(2 * n, -1, dtype=kind) for name, kind in COLUMNS}
    cols["f"] = np.repeat(np.array([F["send"], F["receive"]], dtype=np.int8), n)
    for name in ("outcome", "error", "key"):
        cols[name][:] = 0
    cols["process"] = np.repeat(np.array([0, 1], dtype=np.int32), n)
    cols["msg"] = np.tile(np.arange(n), 2)
    cols["lane"] = np.tile(np.arange(n, dtype=np.int32), 2)
    cols["start_ns"] = np.arange(2 * n) * 1000
    cols["end_ns"] = cols["start_ns"] + 500
    cut = {name: values[: 2 * n - lost] for name, values in cols.items()}
    began = time.monotonic()
    finding = check(History(Meta(processes=("producer", "consumer")), cut, ("",)))
    assert time.monotonic() - began < 10 * _PATIENCE_S
    assert nonzero(finding.anomalies) == {"lost": lost}
    assert finding.anomalies["lost"].messages[0] == n - lost


def test_lanes_that_are_described_and_lead_in_circles() -> None:
    ring = {str(n): ({"lane": (n + 1) % 50, "must": False},) for n in range(50)}
    lines = [f"ok send {n} lane={n}" for n in range(50)] + [f"ok receive {n} lane={n} attempt=0" for n in range(50)]
    assert nonzero(look(told(*lines, lanes=("queue",) * 50, routes=ring)).anomalies) == {}


@pytest.mark.parametrize("meta", [
    {"lanes": [{"name": 3, "kind": "pipe"}]}, {"routes": {"0": [{"lane": 10**30, "must": True}]}}, {"routes": {"-5": [{"lane": -7}]}},
    {"processes": ["producer"] * 3, "groups": ["g"] * 1000}, {"routes": {"0": [{"lane": 0, "copies": 10**30}]}}, {"groups": ["g"]},
    {"routes": {"0": [{"lane": 0, "copies": "x", "must": "yes"}]}}, {"seed": 10**40}, {"lanes": [{}] * 1000},
])  # fmt: skip
def test_metadata_that_no_plan_would_write(meta: dict[str, Any]) -> None:
    tale = [
        row(line, n)
        for n, line in enumerate(("ok send a", "ok receive a", "ok receive a lane=1", "ok send b", "ok effect a"))
    ]
    cols, texts = columns(tale)
    look(History(Meta.from_json(meta), cols, texts))


@pytest.mark.parametrize("schema", [2, 10**30, "2", None, True, -1, 1.5])
def test_a_history_of_the_future_is_refused_and_nothing_else(tmp_path: Path, schema: Any) -> None:
    path = tmp_path / "history.arrow"
    text = json.dumps({"schema": schema}).encode()
    with path.open("wb") as file, pa.ipc.new_stream(file, arrow_schema(Meta()).with_metadata({"brokerproof": text})):
        pass
    if isinstance(schema, int) and schema <= 1:
        assert len(read_history(path)) == 0
    else:
        with pytest.raises(HistoryError, match="newer"):
            read_history(path)


def test_cut_between_and_inside_batches_never_adds_an_anomaly(tmp_path: Path) -> None:
    """Whatever the tail that is missing: what is left of a sane history with ``control`` rows stays sane."""
    path = tmp_path / "history.arrow"
    sane = [
        "ok control - error=start",
        *(f"ok {f} {m}" for m in range(6) for f in ("send", "receive", "effect", "settle")),
    ]
    tale = [row(line, n) for n, line in enumerate([*sane, "ok control - error=drained lane=0"])]
    with HistoryWriter(
        path, Meta(lanes=({"name": "q", "kind": "queue"},), processes=("producer", "consumer"))
    ) as writer:
        for low in range(0, len(tale), 5):
            writer.write(*columns(tale[low : low + 5]))
    whole = path.read_bytes()
    for size in range(len(whole), 0, -211):
        path.write_bytes(whole[:size])
        try:
            finding = look(read_history(path))
        except HistoryError:
            continue
        assert nonzero(finding.anomalies) == {}
