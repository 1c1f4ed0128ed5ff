"""Clients that are killed at a step of their work, or stopped: on the memory broker, and real load processes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brokerproof.brokers.base import broker
from brokerproof.errors import PlanError, UsageError
from brokerproof.faults.base import Scene, apply, make
from brokerproof.history import OK, F, read_history
from brokerproof.loadprocess import die_after
from brokerproof.plan import Destination, Plan, Receiver, Sender, Workload
from brokerproof.recorder import TAPES
from brokerproof.tape import Tape
from brokerproof.waiting import wait_until
from brokerproof.workloads import stream
from brokerproof.workloads.crew import Crew, ThreadScribe
from brokerproof.workloads.stream import Block

NAMES = {code: name for name, code in F.items()}


def plan(work_ms: float | None = 1.0, ack: str = "after") -> Plan:
    return Plan(
        product="memory", version="sound", topology="single", trial="t",
        workload=Workload(
            destinations=(Destination(name="q", kind="queue"),), senders=(Sender(rate_per_s=200.0),),
            receivers=(Receiver(work_ms=work_ms, settings={"ack": ack}),), load_s=1.0,
        ),
    )  # fmt: skip


class Stage:
    """A trial on the memory broker, and a scene for faults on its clients."""

    def __init__(self, folder: Path, of: Plan) -> None:
        self.plan, self.folder = of, folder / "t"
        self.cluster: Any = broker("memory").start(
            version="sound", topology="single", settings={}, name=f"steps-{id(self)}", run="r", progress=lambda _: None
        )
        self.cluster.create(of.workload.destinations[0], of.destination_name(0))
        self.crew, self.scribe = Crew(folder / "logs", lambda pid: None), ThreadScribe()
        self.block = Block([of], self.cluster, lambda _: self.folder, self.crew, self.scribe)
        self.scene = Scene(cluster=self.cluster, destinations=(of.destination_name(0),), clients=self.block)

    def end(self) -> Any:
        self.block.stop_senders()
        self.block.drain()
        self.block.finish()
        return read_history(self.folder / "history.arrow")

    def close(self) -> None:
        self.crew.close()
        self.scribe.close()
        self.cluster.close()


@pytest.mark.parametrize(("step", "last"), [("receive", "receive"), ("effect", "effect"), ("ack", "settle")])
def test_a_consumer_dies_right_after_its_step(step: str, last: str, tmp_path: Path) -> None:
    of = plan()
    one = replace(of.workload.receivers[0], prefetch=1)
    stage = Stage(tmp_path, replace(of, workload=replace(of.workload, receivers=(one,))))
    try:
        stage.block.start()
        with apply(make("client_kill", {"step": step}), stage.scene, "consumer", now_s=stage.block.now_s) as record:
            assert record.probes["during"]["seen"].endswith(f"last in the history: {last}")
            # Handed one at a time: only one that died before its effect still owes it.
            assert stage.block.in_hand("consumer") == {"consumer 1 of t": int(step == "receive")}
        assert record.evidence == "took_effect", record.probes
        history = stage.end()
    finally:
        stage.close()
    killed = history["process"] == 1
    assert NAMES[int(history["f"][killed][-1])] == last
    mine = history["msg"][killed][-1]
    done = {NAMES[int(f)] for f, msg in zip(history["f"][killed], history["msg"][killed], strict=True) if msg == mine}
    assert done == {"receive": {"receive"}, "effect": {"receive", "effect"}}.get(step, {"receive", "effect", "settle"})
    # Its successor is handed what it did not acknowledge.
    again = mine in history["msg"][(history["process"] > 2) & (history["f"] == F["receive"])]
    assert again is (step != "ack")
    assert stage.block.trials[0].problems == []


@pytest.mark.parametrize(("which", "dies"), [("1", 2), ("active", 1)])
@pytest.mark.parametrize("step", ["", "effect"])
def test_one_of_several_consumers_dies(which: str, dies: int, step: str, tmp_path: Path) -> None:
    of = plan()
    first = replace(of.workload.receivers[0], settings={"ack": "after", "member": (0, 2)})
    # The second serves a partition in which nothing lies.
    second = replace(first, settings={"ack": "after", "member": (1, 2)})
    if which == "1":
        first, second = second, first
    workload = replace(
        of.workload, receivers=(first, second), destinations=(Destination(name="q", kind="queue", partitions=2),),
        senders=(replace(of.workload.senders[0], keys=1),),
    )  # fmt: skip
    stage = Stage(tmp_path, replace(of, workload=workload))
    try:
        stage.block.start()
        fault = make("client_kill", {"which": which, "step": step})
        with apply(fault, stage.scene, "consumer", now_s=stage.block.now_s) as record:
            assert f"consumer {dies} of t" in record.probes["during"]["seen"]
            assert f"consumer {3 - dies} of t" not in record.probes["during"]["seen"]
        assert record.evidence == "took_effect", record.probes
        # The whole load: a successor that is given nothing leaves no trace.
        wait_until(lambda: stage.block.now_s() > stage.plan.workload.load_s, 5, "the load to be over", interval_s=0.01)
        history = stage.end()
    finally:
        stage.close()
    # Four client slots: only the one that died has a successor.
    assert set(np.unique(history["process"][history["process"] >= 4]).tolist()) == {4 + dies}


def test_which_client_is_a_number_or_the_active_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path, plan())
    try:
        with pytest.raises(PlanError, match="expected a number, 'active'"):
            make("client_kill", {"which": "the best"}).resolve(stage.scene, "consumer")
    finally:
        stage.close()


def test_a_consumer_that_never_comes_to_the_step_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IN_WORK_S", 0.2)
    monkeypatch.setattr(type(make("client_kill")), "bite_s", 0.05)
    stage = Stage(tmp_path, plan(work_ms=None))  # without work there is no effect
    try:
        stage.block.start()
        with apply(
            make("client_kill", {"step": "effect"}), stage.scene, "consumer", now_s=itertools.count().__next__
        ) as record:
            pass
        assert record.evidence == "no_effect"
        history = stage.end()
    finally:
        stage.close()
    assert int(history["process"].max()) == 2  # nobody was replaced: sender, receiver, final reader


@pytest.mark.parametrize("role", ["consumer", "producer"])
def test_clients_stop_and_go_on(role: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, plan())
    try:
        stage.block.start()
        with apply(make("client_pause"), stage.scene, role, now_s=stage.block.now_s) as record:
            assert record.probes["during"]["seen"].endswith(": T")
        assert record.evidence == "took_effect", record.probes
        history = stage.end()
    finally:
        stage.close()
    mine = history["start_ns"][history["process"] == (0 if role == "producer" else 1)] / 1e9
    assert not ((mine > record.bit_s) & (mine < record.healing_s)).any()
    assert (mine > record.healing_s).any()


def test_a_load_process_is_stopped_as_the_kernel_says(tmp_path: Path) -> None:
    crew = Crew(tmp_path / "logs", lambda pid: None)
    try:
        worker = crew.take("memory", in_process=False)
        wait_until(lambda: worker.state() in ("S", "R"), 20, "the load process to be there")
        worker.pause()
        wait_until(lambda: worker.state() == "T", 5, "the load process to stop")
        worker.resume()
        wait_until(lambda: worker.state() in ("S", "R"), 5, "the load process to go on")
        worker.pause()
        worker.kill()
        assert worker.state() == ""
    finally:
        crew.close()


def test_a_tape_says_when_a_row_is_written_or_closed_once(tmp_path: Path) -> None:
    (tmp_path / TAPES).mkdir()
    tape = Tape(tmp_path / TAPES, slot=0, slots=2, zero_ns=0)
    seen: list[str] = []
    ok = OK
    for how in ("row", "rows", "close", "close_many"):
        tape.when("settle", ok, lambda how=how: seen.append(how))  # type: ignore[misc]
        tape.row("receive", ok, start_ns=1, end_ns=1, msg=1)
        row = tape.open("settle", msg=1)
        assert seen[-1:] != [how]
        if how == "row":
            tape.row("settle", ok, start_ns=1, end_ns=1, msg=1)
        elif how == "rows":
            tape.rows("settle", ok, 2, start_ns=1, end_ns=1)
        elif how == "close":
            tape.close(row, ok)
        else:
            tape.close_many(np.array([row]), ok)
        tape.row("settle", ok, start_ns=1, end_ns=1, msg=1)
    tape.when("settle", ok, lambda: seen.append("never"))
    tape.when_not()
    tape.row("settle", ok, start_ns=1, end_ns=1, msg=1)
    tape.finish()
    assert seen == ["row", "rows", "close", "close_many"]


def test_a_consumer_dies_within_its_effect_once_and_only_at_the_step_that_was_named(tmp_path: Path) -> None:
    (tmp_path / TAPES).mkdir()
    tape = Tape(tmp_path / TAPES, slot=0, slots=2, zero_ns=0)
    died: list[str] = []
    flow = ("stock acted", "stock committed", "stock committed")
    die_after(tape, "effect:stock committed", lambda: died.append("within"))
    tape.passed(flow[0])
    assert died == []
    for step in flow[1:]:
        tape.passed(step)
    assert died == ["within"]
    die_after(tape, "effect:stock committed", lambda: died.append("never"))
    tape.when_not()
    tape.passed(flow[1])
    die_after(tape, "effect", lambda: died.append("after it"))
    tape.row("effect", OK, start_ns=1, end_ns=1, msg=1)
    tape.finish()
    assert died == ["within", "after it"]


def test_a_step_of_the_effect_is_named_with_its_prefix(tmp_path: Path) -> None:
    stage = Stage(tmp_path, plan())
    try:
        fault = make("client_kill", {"step": "effect:stock acted"})
        assert fault.resolve(stage.scene, "consumer") == ("consumer",)
        with pytest.raises(UsageError, match="effect:STEP"):
            make("client_kill", {"step": "stock acted"}).resolve(stage.scene, "consumer")
    finally:
        stage.close()
