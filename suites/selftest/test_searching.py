"""The search finds what a broker with a bug breaks only under a fault, makes it small, and finds nothing in a sound one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from brokerproof import searching
from brokerproof.errors import EnvironmentProblem, ProvisionError, UsageError
from brokerproof.plan import Plan
from brokerproof.results import RunFolder
from brokerproof.schedules import Limits, Schedule
from brokerproof.searching import Arm, Found, Hunt, drawn, in_words, seconds
from brokerproof.waiting import wait_until

CHOICES = [("kill", "leader"), ("pause", "leader"), ("reset", "all"), ("stall", "all"), ("partition", "follower")]


def brokerproof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, capture_output=True, timeout=240
    )


def least(run: Path) -> Plan:
    (trial,) = (run / "trials").iterdir()
    return Plan.from_json(json.loads((trial / "plan.json").read_text()))


@pytest.mark.parametrize("bug", ["forgets-on-restart", "acks-early"])
def test_a_bug_that_only_a_fault_shows_is_found_made_small_and_replayed(bug: str, tmp_path: Path, state: Path) -> None:
    done = brokerproof("search", "--broker", f"memory={bug}", "--select", "producer", "--budget", "25s", "--seed", "3",
                       "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    said = " ".join(done.stdout.split())
    assert done.returncode == 1, done.stdout + done.stderr
    plan = least(tmp_path / "run")
    assert [i.fault for i in plan.schedule] == ["kill"]
    assert plan.workload.load_s < 0.9
    assert plan.schedule[0].for_s < 0.6
    assert "broken: " in said
    assert "lost (first message" in said
    assert "kill leader = m1, from" in said
    assert "sure: on a fresh cluster" in said
    assert "again: brokerproof replay run --trial least" in said
    # The plan is repeated, not the interleaving: what was in flight at the kill differs from one replay to the next.
    for _ in range(4):
        again = brokerproof("replay", "run", "--trial", "least", cwd=tmp_path)
        if again.returncode == 0:
            break
    assert again.returncode == 0, again.stdout + again.stderr
    assert "lost" in again.stdout
    checked = brokerproof("check", "run", cwd=tmp_path)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "a search found" in " ".join(checked.stdout.split())


def test_a_bug_that_needs_no_fault_ends_without_one(tmp_path: Path, state: Path) -> None:
    done = brokerproof("search", "--broker", "memory=corrupts", "--select", "broker/kept-until-consumed", "--budget", "20s",
                       "--seed", "3", "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert least(tmp_path / "run").schedule == ()
    assert "under:  no fault" in done.stdout


def test_in_a_sound_broker_nothing_is_found_and_it_says_how_much_was_tried(tmp_path: Path, state: Path) -> None:
    done = brokerproof(
        "search", "--broker", "memory", "--budget", "60s", "--schedules", "8", "--seed", "3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 schedules in" in done.stdout
    assert " injections: " in done.stdout
    assert " kill" in done.stdout
    assert "proves nothing beyond what was tried" in done.stdout


def test_the_setting_without_the_guarantee_is_found_when_it_is_asked_for(tmp_path: Path, state: Path) -> None:
    done = brokerproof("search", "--broker", "memory", "--select", "producer/acknowledged-survives-link-cut", "--arm",
                       "control", "--budget", "25s", "--seed", "3", "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "in its control arm (no confirm" in done.stdout


def test_an_interrupt_reports_the_best_so_far_and_leaves_nothing(tmp_path: Path, state: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        going = subprocess.Popen(
            [sys.executable, "-u", "-m", "brokerproof", "search", "--broker", "memory=acks-early", "--select", "producer",
             "--budget", "60s", "--seed", "3", "--run-dir", "run"],
            cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        wait_until(lambda: "making it smaller" in out.read_text(), 60, "the search to find something")
        going.send_signal(signal.SIGINT)
        code = going.wait(60)
    said = out.read_text()
    assert code == 1, said
    assert "; interrupted" in said
    assert "broken: " in said
    assert "Traceback" not in said
    assert least(tmp_path / "run").schedule


# -- the search alone --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), nodes=st.sampled_from([1, 3, 5]))
def test_what_is_drawn_stays_within_the_limits(data: st.DataObject, nodes: int) -> None:
    limits = Limits(nodes=nodes)
    schedule = data.draw(drawn(CHOICES, limits, 1.0))
    assert limits.beyond(schedule) == ""
    assert 1 <= len(schedule) <= searching.FAULTS_MAX


class Scripted(Hunt):
    """A search whose trials are decided by a rule."""

    def __init__(self, folder: RunFolder, rule: Any, **more: Any) -> None:
        super().__init__(folder, Console(quiet=True), **{
            "seed": 1, "budget_s": 20.0, "schedules_max": 300, "only": (), "arm": "treatment", **more,
        })  # fmt: skip
        self.rule, self.ran = rule, 0

    def _breaks(self, plans: Any, arms: Any, *, name: str = "") -> bool:
        self.ran += 1
        if not self.rule(plans[0].schedule):
            return False
        self._found.append(Found(plans[0], arms[0], arms[0].cells[0], arms[0].experiments[0], "broken"))
        return True


def arms() -> list[Arm]:
    return searching._arms("memory", "sound", ["producer/acknowledged-survives-link-cut"], "treatment", 1, ())


def hunt(tmp_path: Path, rule: Any, **more: Any) -> Scripted:
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=1, command="")
    return Scripted(folder, rule, **more)


def test_hypothesis_shrinks_to_the_faults_that_matter(tmp_path: Path, state: Path) -> None:
    def rule(schedule: Schedule) -> bool:
        return {"stall", "latency"} <= {i.fault for i in schedule}

    search = hunt(tmp_path, rule)
    search._draw(arms(), until=search._until, at_most=300)
    search.close()
    best = search._best()
    assert sorted(i.fault for i in best.plan.schedule) == ["latency", "stall"], in_words(best.plan.schedule)


def test_the_budget_bounds_schedules_and_time(tmp_path: Path, state: Path) -> None:
    search = hunt(tmp_path, lambda schedule: False, schedules_max=7)
    search.go(arms())
    search.close()
    assert search.ran == 7
    late = hunt(tmp_path / "late", lambda schedule: False, budget_s=1e-6)
    late.go(arms())
    late.close()
    assert late.ran == 0


def test_a_search_of_which_nothing_can_be_said_ends_with_3(tmp_path: Path, state: Path) -> None:
    search = hunt(tmp_path, lambda schedule: False, schedules_max=2)
    search.go(arms())
    search.close()
    search._n = 2
    assert search.report() == 3


def test_schedules_that_cannot_be_run_end_it(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def fails(*_: Any, **__: Any) -> None:
        raise ProvisionError("no broker today")

    monkeypatch.setattr(searching.run, "run_block", fails)
    folder = RunFolder(tmp_path / "run")
    folder.create(seed=1, command="")
    search = Hunt(folder, Console(quiet=True), seed=1, budget_s=20, schedules_max=50, only=(), arm="treatment")
    with pytest.raises(EnvironmentProblem, match=r"3 schedules in a row .* no broker today"):
        search.go(arms())
    search.close()


@pytest.mark.parametrize(("text", "s"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets_are_times(text: str, s: float) -> None:
    assert seconds(text) == s


@pytest.mark.parametrize("text", ["", "soon", "0", "-3m", "3d"])
def test_what_is_no_time_is_said_so(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time like"):
        seconds(text)
