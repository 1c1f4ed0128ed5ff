"""Judged while it runs: what a snapshot holds, that it cries no wolf, and that a broken promise ends the trial."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brokerproof import run
from brokerproof.brokers.base import configurations
from brokerproof.checkers.base import check
from brokerproof.claim import Claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.history import INFO, OK, Meta
from brokerproof.live import EARLY, snapshot
from brokerproof.plan import Receiver, Sender, Workload
from brokerproof.recorder import TAPES, Recording
from brokerproof.results import RunFolder
from brokerproof.tape import Tape

META = Meta(trial="t", lanes=({"name": "q", "kind": "queue"},), processes=("producer", "consumer"))


def tape(folder: Path, slot: int) -> Tape:
    return Tape(folder / TAPES, slot=slot, slots=2, zero_ns=time.monotonic_ns())


def test_a_send_on_its_way_is_no_phantom(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    sender, receiver = tape(tmp_path, 0), tape(tmp_path, 1)
    row = sender.open("send", msg=0, lane=0)
    receiver.row("receive", OK, start_ns=1, end_ns=1, msg=0, lane=0, attempt=0)
    receiver.row("receive", OK, start_ns=2, end_ns=2, msg=9, lane=0, attempt=0)
    recording.pump()
    history = snapshot(tmp_path)
    finding = check(history)
    assert (finding.anomalies["phantom"].messages, finding.exercised["send"]["info"]) == ((9,), 1)
    sender.close(row, OK)
    recording.pump()
    assert check(snapshot(tmp_path)).exercised["send"] == {"ok": 1, "fail": 0, "info": 0}
    recording.finish()
    assert check(snapshot(tmp_path)).exercised["send"] == {"ok": 1, "fail": 0, "info": 0}


def test_a_send_is_there_once_over_segment_borders(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    sender = tape(tmp_path, 0)
    for first in range(0, 20_000, 1000):
        row = sender.open_sends(first, np.full(1000, -1, dtype=np.int32), 0)
        if first % 3000 == 0:
            sender.close_many(np.arange(row, row + 1000), OK)
            recording.pump()
    history = snapshot(tmp_path)
    sent = history["msg"][history["msg"] >= 0]
    assert np.array_equal(np.sort(sent), np.arange(20_000))
    assert (history["outcome"] == INFO).sum() == 13_000
    recording.finish()


@pytest.fixture
def order(tmp_path: Path, state: Path) -> tuple[Path, Claim, Experiment]:
    """A promise about order with a load of twenty seconds."""
    c = configurations("memory")
    load = Workload(
        destinations=(c.ordered_destination,), senders=(Sender(settings=c.ordered_sender, rate_per_s=200.0, keys=2),),
        receivers=(Receiver(settings=c.ack_after, work_ms=0.1),), load_s=20.0,
    )  # fmt: skip
    claim = Claim(
        id="order/test", revision=1, kind="promise", sentence="s", source="t", deciding=("effect_out_of_order",)
    )
    return tmp_path / "run", claim, Experiment(topology="single", treatment=load, control=load, sham_s=0)


def decide(
    order: tuple[Path, Claim, Experiment], version: str, load_s: float, *, fail_fast: bool
) -> tuple[dict[str, object], list[str]]:
    from dataclasses import replace

    path, claim, experiment = order
    folder, said = RunFolder(path), list[str]()
    folder.create(seed=1, command="test")
    experiment = replace(
        experiment, treatment=replace(experiment.treatment, load_s=load_s),
        control=replace(experiment.control, load_s=load_s),
    )  # fmt: skip
    session = run.Session(
        folder, expected_in=path, progress=lambda _, what: said.append(what), live=True, fail_fast=fail_fast
    )
    try:
        return run.decide(session, Cell(claim=claim, broker="memory", version=version, seed=1), experiment), said
    finally:
        session.close()


def test_a_broken_promise_ends_the_trial_before_the_drain(order: tuple[Path, Claim, Experiment]) -> None:
    began = time.monotonic()
    entry, said = decide(order, "reorders", 20.0, fail_fast=True)
    assert time.monotonic() - began < 12
    assert entry["verdict"] == "VIOLATED"
    assert "stopped before the drain, on the first broken promise" in str(entry["reason"])
    assert "effect_out_of_order (first message" in str(entry["reason"])
    assert any(line.startswith("live: ") and "effect_out_of_order" in line for line in said)
    trial = next((order[0] / "trials").glob("*-treatment-0"))
    finding = json.loads((trial / "findings.json").read_text())
    assert finding["exercised"]["send"]["ok"] < 3000
    assert any("was not drained" in sentence for sentence in finding["missing"])
    (again,) = run.recheck(RunFolder(order[0]))
    assert (again["verdict"], again["reason"]) == ("VIOLATED", entry["reason"])


def test_without_fail_fast_it_goes_on_to_its_end(order: tuple[Path, Claim, Experiment]) -> None:
    entry, said = decide(order, "reorders", 1.5, fail_fast=False)
    assert entry["verdict"] == "VIOLATED"
    assert "stopped" not in str(entry["reason"])
    assert any(line.startswith("live: ") for line in said)
    assert "draining, final read" in said


def test_a_sound_broker_is_never_accused(order: tuple[Path, Claim, Experiment]) -> None:
    entry, said = decide(order, "sound", 2.0, fail_fast=True)
    lines = [line for line in said if line.startswith("live: ")]
    assert len(lines) >= 3
    assert not [line for line in lines for key in EARLY if key in line]
    assert "arms not separated" in str(entry["reason"])


def test_fail_fast_ends_the_run(tmp_path: Path, state: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", "run", "--broker", "memory=reorders", "--select", "order", "--select", "producer", "--fail-fast",
         "--live", "--seed", "5", "--run-dir", "run"],
        cwd=tmp_path, text=True, capture_output=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    claims = json.loads((tmp_path / "run" / "results.json").read_text())["claims"]
    assert [c["as_expected"] for c in claims].count(False) == 1
    assert {c["claim"].split("/")[0] for c in claims} == {"order"}
    assert "live: " in done.stdout
