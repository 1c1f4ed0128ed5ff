"""A user who submits the same things again, and what a guard measured, on the memory broker."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokerproof import run
from brokerproof.finding import Finding
from brokerproof.history import F, History, read_history
from brokerproof.plan import Destination, Plan, Receiver, Sender, Workload
from brokerproof.results import RunFolder
from brokerproof.runtime.pool import ClusterKey
from brokerproof.workloads.stream import LiveTrial

USER = Sender(settings={"confirm": True}, rate_per_s=100.0, count=20)
PLAN = Plan(
    product="memory", version="sound", topology="single", trial="t",
    workload=Workload(
        destinations=(Destination(name="q", kind="queue"),), receivers=(Receiver(work_ms=0.0),), load_s=5.0,
        senders=(USER, Sender(settings={"confirm": True}, rate_per_s=100.0, count=20, again_of=0, again_ms=50.0)),
    ),
)  # fmt: skip


@pytest.fixture
def session(tmp_path: Path, state: Path) -> Any:
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=0, command="")
    session = run.Session(folder, expected_in=tmp_path, progress=lambda *_: None)
    yield session
    session.close()


def tried(session: run.Session) -> tuple[Finding, History]:
    run.run_block(session, "c", [PLAN], ClusterKey.of_plan(PLAN), link_groups=("producer",))
    folder = session.folder.trial(PLAN.trial)
    return run.evaluate(folder, ()).finding, read_history(folder / "history.arrow")


def test_what_is_submitted_again_is_the_same_message(session: run.Session) -> None:
    finding, history = tried(session)
    sends = history["f"] == F["send"]
    by = {slot: history["msg"][sends & (history["process"] == slot)].tolist() for slot in (0, 1)}
    assert sorted(by[0]) == sorted(by[1]) == list(range(20))
    due = {slot: history["due_ns"][sends & (history["process"] == slot) & (history["msg"] == 7)][0] for slot in (0, 1)}
    assert due[1] - due[0] == 50_000_000
    # No guard: each has its effect as often as it was submitted, and nothing is taken for something else.
    assert (finding.of("effect_duplicated").count, finding.of("effect_duplicated").details["extra"]) == (20, 20)
    assert not finding.shows("lost", "effect_lost", "corrupted", "phantom", "effect_of_nobody")
    assert not finding.missing


def test_what_a_guard_measured_stands_with_the_finding(session: run.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Measuring(SimpleNamespace):
        def figures(self, world: object) -> dict[str, float]:
            return {"lock_wait_max_ms": 12.0}

    told = LiveTrial.tell_effects

    def with_a_guard(self: LiveTrial) -> None:
        shown = dict.fromkeys(range(20), 2)
        guard, world = Measuring(shown=lambda world: shown), SimpleNamespace(close=lambda: None)
        self._guards = lambda: [(guard, world)]  # type: ignore[method-assign,assignment,return-value]
        told(self)

    monkeypatch.setattr(LiveTrial, "tell_effects", with_a_guard)
    finding, _ = tried(session)
    assert finding.metrics["lock_wait_max_ms"] == 12.0
    assert not finding.missing
    written = json.loads((session.folder.trial(PLAN.trial) / "findings.json").read_text())
    assert written["metrics"]["lock_wait_max_ms"] == 12.0
