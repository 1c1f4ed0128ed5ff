"""A run whose harness and recorder were killed (SIGKILL): what was recorded until then is judged, the rest is UNKNOWN."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from brokerproof import run
from brokerproof.claims import declared
from brokerproof.errors import HistoryError
from brokerproof.experiment import Cell
from brokerproof.history import INFO, INJECTOR, OK, F, read_history
from brokerproof.recorder import rescue
from brokerproof.results import RunFolder
from brokerproof.suites import suites
from brokerproof.tape import Segment
from brokerproof.waiting import wait_until

CLAIM = "producer/acknowledged-survives-link-cut"


def sent(trial: Path) -> int:
    rows = 0
    for path in (trial / "tape").glob("0g0-*.seg"):
        try:
            rows += Segment.open(path).head
        except (OSError, HistoryError):
            continue  # the recorder was done with it, or it is being made
    return rows


def started(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    chosen = [word for claim in (CLAIM, *more) for word in ("--select", claim)]
    return subprocess.Popen(
        [sys.executable, "-m", "brokerproof", "run", "--broker", "memory", *chosen, "--seed", "5", "--run-dir", str(folder)],
        cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def on_its_way(folder: Path) -> None:
    wait_until(
        lambda: any(sent(trial) > 100 for trial in folder.glob("trials/*-treatment-0")), 60, "the load to be on its way",
        interval_s=0.005,
    )  # fmt: skip


def killed(tmp_path: Path) -> Path:
    """A run on the memory broker, where harness, load and recorder are one process, killed in the middle of its load."""
    folder = tmp_path / "run"
    harness = started(folder)
    try:
        on_its_way(folder)
        with pytest.raises(HistoryError, match=f"still being recorded by process {harness.pid}"):
            rescue(next(folder.glob("trials/*-treatment-0")))
    finally:
        os.killpg(harness.pid, signal.SIGKILL)
        harness.wait()
    assert not (folder / "results.json").exists()
    return folder


def brokerproof(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "brokerproof", *arguments], text=True, capture_output=True, timeout=60)


def test_check_makes_a_killed_run_readable_and_unknown(tmp_path: Path, state: Path) -> None:
    folder = killed(tmp_path)
    done = brokerproof("check", str(folder), "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    (entry,) = json.loads(done.stdout)["claims"]
    assert (entry["claim"], entry["verdict"]) == (CLAIM, "UNKNOWN")
    trial = folder / "trials" / entry["treatment"]["trial_ids"][0]
    assert not (trial / "tape").exists()
    history = read_history(trial / "history.arrow")
    assert history.torn == ""
    sends = history["f"] == F["send"]
    assert sends.sum() > 50
    assert (history["outcome"][sends] == OK).any()
    opened = (history["end_ns"] < 0) & (history["process"] != INJECTOR)
    assert (history["outcome"][opened] == INFO).all()
    finding = json.loads((trial / "findings.json").read_text())
    assert any("the run was killed" in sentence for sentence in finding["missing"])
    assert any("was not drained" in sentence for sentence in finding["missing"])
    assert finding["anomalies"]["lost"]["count"] == 0
    # Whoever folds it says that it did not come to its end, in all that is made of it; and no gate opens on it.
    assert json.loads((folder / "results.json").read_text())["interrupted"] is True
    gated = brokerproof("gate", str(folder))
    assert gated.returncode == 4 and "interrupted or killed" in gated.stdout
    # Again, and of the trial alone: the same answer from what is there now.
    assert brokerproof("check", str(folder)).returncode == 3
    alone = brokerproof("check", str(trial), "--json")
    assert alone.returncode == 3
    assert any("the run was killed" in sentence for sentence in json.loads(alone.stdout)["missing"])


def test_check_of_one_killed_trial_salvages_it(tmp_path: Path, state: Path) -> None:
    trial = next(killed(tmp_path).glob("trials/*-treatment-0"))
    done = brokerproof("check", str(trial), "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert json.loads(done.stdout)["operations"] > 50
    assert not (trial / "tape").exists()


def test_clean_salvages_what_a_killed_run_recorded(tmp_path: Path, state: Path) -> None:
    folder = killed(tmp_path)
    done = brokerproof("clean")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows were salvaged" in done.stdout
    assert not list(folder.glob("trials/*/tape"))
    assert all(len(read_history(file)) for file in folder.glob("trials/*/history.arrow"))


def test_a_killed_run_is_gone_on_with(tmp_path: Path, state: Path) -> None:
    folder = killed(tmp_path)
    done = brokerproof("run", "--resume", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    (entry,) = results["claims"]
    assert results["interrupted"] is False
    assert (entry["claim"], entry["verdict"], entry.get("undecided")) == (CLAIM, "HOLDS", None)


def test_a_run_that_ended_is_left_alone(tmp_path: Path) -> None:
    assert rescue(tmp_path) == ""


def test_a_cell_that_ends_with_an_error_is_not_taken_for_a_killed_one(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=1, command="test")
    claim = next(d for d in declared(suites() / "claims") if d.claim.id == CLAIM)
    cell = Cell(claim=claim.claim, broker="memory", version="sound", seed=1)
    session = run.Session(folder, expected_in=suites() / "expected", progress=lambda *_: None)

    def fails(*_: object) -> None:
        (entry,) = folder.cells()  # what a kill in this moment would leave
        assert (entry["verdict"], len(entry["treatment"]["trial_ids"])) == ("UNKNOWN", 1)
        raise HistoryError("no disk")

    monkeypatch.setattr(run, "_run_trials", fails)
    with pytest.raises(HistoryError, match="no disk"):
        run.decide(session, cell, claim.decide(cell))
    session.close()
    assert folder.cells() == []


def test_an_interrupted_run_says_so_everywhere(tmp_path: Path, state: Path) -> None:
    """One claim is decided, the next is on its way when somebody presses Ctrl-C: all that is there holds, and it is no whole run."""
    folder = tmp_path / "run"
    harness = started(folder, "broker/kept-until-consumed")
    try:
        wait_until(lambda: _decided(folder) == 1, 60, "one of two claims to be decided", interval_s=0.005)
        harness.send_signal(signal.SIGINT)
        assert harness.wait(30) == 130
    finally:
        if harness.poll() is None:
            os.killpg(harness.pid, signal.SIGKILL)
            harness.wait()
    results = json.loads((folder / "results.json").read_text())
    assert (results["interrupted"], len(results["claims"])) == (True, 1)
    for file in ("summary.md", "junit.xml", "report/index.html"):
        assert "the run was interrupted or killed" in (folder / file).read_text(), file
    assert brokerproof("gate", str(folder)).returncode == 4
    resumed = brokerproof("run", "--resume", str(folder))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert json.loads((folder / "results.json").read_text())["interrupted"] is False
    assert brokerproof("gate", str(folder)).returncode == 0


def _decided(folder: Path) -> int:
    entries = [json.loads(f.read_text()) for f in folder.glob("cells/*.json") if not f.name.endswith(".error.json")]
    return sum(not entry.get("undecided") for entry in entries)


def test_a_second_interrupt_does_not_keep_the_process(tmp_path: Path, state: Path) -> None:
    """Impatient people press Ctrl-C twice; the second one comes while the injections of the first are being ended."""
    folder = tmp_path / "run"
    harness = started(folder)
    try:
        on_its_way(folder)
        harness.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            harness.wait(0.05)
        harness.send_signal(signal.SIGINT)
        assert harness.wait(30) != 0
    finally:
        if harness.poll() is None:
            os.killpg(harness.pid, signal.SIGKILL)
            harness.wait()
