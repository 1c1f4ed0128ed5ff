"""A client that does not come to connect: replaced before the load, never in the middle of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokerproof.errors import DeadlineError
from brokerproof.history import Meta
from brokerproof.loadprocess import LoadSpec
from brokerproof.plan import Destination, Plan, Receiver, Sender, Workload
from brokerproof.recorder import TAPES
from brokerproof.workloads import stream
from brokerproof.workloads.stream import Block


class _Worker:
    """A load process that connects at once, or never."""

    def __init__(self, pid: int, *, stuck: bool) -> None:
        self.pid, self.stuck = pid, stuck
        self.facts: dict[str, Any] = {}
        self.failed = ""
        self.parts: list[LoadSpec] = []
        self.killed = False

    def assign(self, spec: LoadSpec) -> None:
        self.parts.append(spec)
        self.facts = {} if self.stuck else {"connected": True}

    def go(self, start_ns: int) -> None:
        self.started_ns = start_ns

    def stop(self) -> None: ...

    def kill(self) -> None:
        self.killed, self.failed = True, "killed"

    def close(self) -> None: ...

    @property
    def busy(self) -> bool:
        return not self.killed

    @property
    def usable(self) -> bool:
        return not self.killed


class _Crew:
    """Hands out these workers in turn."""

    def __init__(self, *stuck: bool) -> None:
        self.workers = [_Worker(n, stuck=s) for n, s in enumerate(stuck)]
        self.taken: list[_Worker] = []

    def take(self, product: str, *, in_process: bool) -> _Worker:
        self.taken.append(self.workers[len(self.taken)])
        return self.taken[-1]

    def give_back(self, product: str, worker: _Worker) -> None: ...


class _Scribe:
    def open(self, folder: Path, meta: Meta) -> None:
        (folder / TAPES).mkdir()

    def finish(self, folder: Path) -> int:
        return 0

    def close(self) -> None: ...


PLAN = Plan(
    product="memory", version="correct", topology="single",
    workload=Workload(destinations=(Destination(name="q", kind="queue"),), senders=(Sender(),), receivers=(Receiver(),)),
    schedule=(), settings={}, seed=1, claim="c", variant="", arm="treatment", trial="t",
)  # fmt: skip
CLUSTER: Any = SimpleNamespace(
    in_process=False, keeps_consumed=False, redelivery_s=1.0, endpoint=lambda group, name=None: {}
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STUCK_S", 0.05)
    monkeypatch.setattr(stream, "CONNECT_S", 0.05)


def _start(tmp_path: Path, *stuck: bool) -> tuple[Block, _Crew]:
    crew = _Crew(*stuck)
    block = Block([PLAN], CLUSTER, lambda plan: tmp_path / plan.trial, crew, _Scribe())  # type: ignore[arg-type]
    block.start()
    return block, crew


def test_clients_that_connect_are_left_alone(tmp_path: Path) -> None:
    block, crew = _start(tmp_path, False, False)
    assert len(crew.taken) == 2
    assert block.trials[0].problems == []
    assert "restarted_before_load" not in str(block.trials[0].facts)


def test_a_stuck_client_is_replaced_before_the_load_and_the_trial_says_so(tmp_path: Path) -> None:
    block, crew = _start(tmp_path, True, False, False)
    stuck, sender, fresh = crew.taken
    assert stuck.killed and not sender.killed and not fresh.killed
    assert (stuck.parts[0].slot, stuck.parts[0].generation) == (1, 0)
    assert (fresh.parts[0].slot, fresh.parts[0].generation) == (1, 1)
    assert fresh.parts[0].do == "receive"
    assert block.trials[0].facts["1"]["restarted_before_load"] == 1
    assert block.trials[0].problems == []


def test_a_client_that_is_stuck_twice_leaves_evidence_missing(tmp_path: Path) -> None:
    block, crew = _start(tmp_path, True, False, True)
    assert len(crew.taken) == 3
    [problem] = block.trials[0].problems
    assert problem.startswith("consumers of t to connect")


@pytest.mark.parametrize(
    ("worked_off", "problem"),
    [
        ([1, 2, 3, 4], ""),  # slower than the senders, and done in the end
        ([1, 1], "receivers to go quiet: not reached after 0.05 s; last state seen: False; 1 of 4 messages were worked off"),
        ([1, 2, 2], "2 of 4 messages were worked off"),
        ([1, 1.1, 1.2, 1.3, 1.4, 1.5], "receivers work on, 1.4 of 4 messages, after 5 times the drain's deadline"),
    ],
)  # fmt: skip
def test_receivers_are_waited_for_as_long_as_they_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worked_off: list[float], problem: str
) -> None:
    block, _ = _start(tmp_path, False, False)
    trial = block.trials[0]
    trial.plan = replace(PLAN, workload=replace(PLAN.workload, drain_s=0.05))
    deadlines = iter(worked_off)
    done = 0.0

    def passed(condition: Callable[[], bool], timeout_s: float, why: str, **_: object) -> bool:
        nonlocal done
        done = next(deadlines)
        if condition():
            return True
        raise DeadlineError(f"{why}: not reached after {timeout_s:g} s; last state seen: False")

    monkeypatch.setattr(stream, "wait_until", passed)
    monkeypatch.setattr(trial, "_come_to", lambda *_: done)
    monkeypatch.setattr(trial, "_acknowledged", lambda: 4)
    monkeypatch.setattr(trial, "connected", lambda role: False)
    trial.quiet(0)
    assert "; ".join(trial.problems).endswith(problem)
    assert bool(trial.problems) is bool(problem)


def test_a_database_that_is_gone_is_a_problem_of_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = _start(tmp_path, False, False)
    trial = block.trials[0]
    closed: list[bool] = []

    def shown(world: object) -> dict[int, int]:
        raise ConnectionError("refused")

    guard, world = SimpleNamespace(shown=shown), SimpleNamespace(close=lambda: closed.append(True))
    monkeypatch.setattr(trial, "_guards", lambda: [(guard, world)])
    trial.tell_effects()
    assert closed == [True]
    assert ["did not tell the effects: ConnectionError: refused" in p for p in trial.problems] == [True]


def test_senders_share_no_numbers(tmp_path: Path, state: Path) -> None:
    """Three senders to one queue, one of them with a successor: every message is its own."""
    from brokerproof.brokers.base import Pace
    from brokerproof.loadprocess import NUMBERS_EACH

    paces = [
        Pace(rate_per_s=1000.0, count=50, load_ns=10**9, keys=3, first=process * NUMBERS_EACH)
        for process in (0, 1, 2, 4)
    ]
    numbers = []
    for pace in paces:
        first = pace.sent
        assert pace.due_ns(first) == 10**6
        assert list(pace.due_many(first + 1, 2)) == [2 * 10**6, 3 * 10**6]
        assert pace.take(5 * 10**6, 100) == 5
        assert pace.take(10**9, 100) == 45
        assert pace.over(10**9)
        numbers += range(first, pace.sent)
    assert len(set(numbers)) == 200
