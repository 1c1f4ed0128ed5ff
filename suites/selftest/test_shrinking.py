"""The smallest plan that still reproduces: the search alone, and with a broker that has a bug."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerproof.errors import UsageError
from brokerproof.plan import Destination, Injection, Plan, Receiver, Sender, Workload
from brokerproof.shrinking import RATE_MIN_PER_S, Rate, shrink, shrink_run, smaller

PLAN = Plan(
    product="memory", version="doubles", topology="single",
    workload=Workload(
        destinations=(Destination(name="q", kind="queue", partitions=4),),
        senders=(Sender(rate_per_s=1000.0, keys=8, size_bytes=1000), Sender(rate_per_s=500.0, count=400)),
        receivers=(Receiver(work_ms=1.0), Receiver()), load_s=8.0,
    ),
    schedule=(Injection(fault="kill", at_s=2.0, for_s=3.0), Injection(fault="reset", at_s=1.0, for_s=1.0)),
)  # fmt: skip


def test_every_step_is_one_thing_less_and_a_valid_plan() -> None:
    for what, plan in smaller(PLAN):
        plan.validate()
        assert plan != PLAN, what
        assert all(i.at_s < plan.workload.load_s for i in plan.schedule), what


def test_what_nothing_depends_on_goes() -> None:
    least = shrink(PLAN, lambda what, plan: True)
    assert least.schedule == ()
    assert (len(least.workload.senders), least.workload.receivers) == (1, ())
    assert least.workload.load_s < 0.2
    assert least.workload.senders[0].rate_per_s is not None
    assert least.workload.senders[0].rate_per_s < 2 * RATE_MIN_PER_S
    assert len(least.workload.lanes) == 1


def test_what_it_depends_on_stays() -> None:
    def needs_kill_and_two_seconds(_: str, plan: Plan) -> bool:
        return any(i.fault == "kill" for i in plan.schedule) and plan.workload.load_s >= 2

    least = shrink(PLAN, needs_kill_and_two_seconds)
    assert [i.fault for i in least.schedule] == ["kill"]
    assert least.workload.load_s == 2.0
    assert not any(needs_kill_and_two_seconds("", plan) for _, plan in smaller(least))


def test_it_ends_when_there_are_no_more_tries() -> None:
    left = iter([True, True, False])
    least = shrink(PLAN, lambda what, plan: True, again=lambda: next(left))
    assert least.workload.load_s == 4.0
    assert least.schedule == ()


@given(trials=st.integers(1, 6), share=st.floats(0.01, 1.0), shows=st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_rate_is_decided_as_soon_as_it_is_clear(trials: int, share: float, shows: list[bool]) -> None:
    rate = Rate(trials=trials, share=share)
    reached, shown, ran = rate.reached(lambda n: shows[n])
    assert reached == (sum(shows[:trials]) / trials >= share - 1e-9)
    assert (shown, ran <= trials) == (sum(shows[:ran]), True)


def brokerproof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, capture_output=True, timeout=240
    )


def test_a_violation_of_a_broker_with_a_bug_needs_no_fault_and_little_load(tmp_path: Path, state: Path) -> None:
    claim = "producer/acknowledged-survives-link-cut"
    ran = brokerproof(
        "run", "--broker", "memory=corrupts", "--select", claim, "--seed", "5", "--run-dir", "run", cwd=tmp_path
    )
    assert ran.returncode in (1, 3), ran.stdout + ran.stderr
    done = brokerproof("shrink", "run", claim, "--trials", "2", "--run-dir", "shrinking", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "run" / "shrunk").glob("*.json")
    least = Plan.from_json(json.loads(file.read_text()))
    old = Plan.from_json(json.loads(next((tmp_path / "run" / "trials").glob("*treatment-0/plan.json")).read_text()))
    assert old.schedule
    assert least.schedule == ()
    assert least.workload.load_s < old.workload.load_s
    # Every 37th message is corrupted, so as many have to be sent.
    assert 37 <= (least.workload.senders[0].rate_per_s or 0) * least.workload.load_s < 4 * 37
    said = " ".join(done.stdout.split())
    assert "as it was: 2 of 2 trials show it" in said
    assert "✔ no " in said
    assert "✔ on a fresh cluster: " in said
    assert "· " in said


def test_errors_say_which_cells_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        shrink_run(tmp_path / "no", "", trials=1, rate=1, tries=1, out=None, run_dir=None)
    with pytest.raises(UsageError, match="a rate above 0"):
        shrink_run(tmp_path, "", trials=1, rate=0, tries=1, out=None, run_dir=None)


def test_a_plan_that_does_not_reproduce_is_said_so(tmp_path: Path, state: Path) -> None:
    ran = brokerproof("run", "--broker", "memory=doubles", "--select", "producer/resend-duplicates", "--seed", "5",
                      "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    assert ran.returncode in (1, 3)
    file = next((tmp_path / "run" / "trials").glob("*treatment-0/plan.json"))
    plan = Plan.from_json(json.loads(file.read_text()))
    none = replace(plan, version="sound", schedule=())
    file.write_text(none.dumps())
    done = brokerproof("shrink", "run", "--trials", "1", "--run-dir", "shrinking", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "it does not reproduce in 1 of 1 trials" in " ".join(done.stdout.split())
