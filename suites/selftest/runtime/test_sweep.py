"""What a run leaves is found by whoever comes next; what lives, or is another host's, is not touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import sweep


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, state: Path) -> dict[str, list[tuple[str, str, str]]]:
    """What the engine has, by kind: (name, run, owner label)."""
    has: dict[str, list[tuple[str, str, str]]] = {"container": [], "network": []}

    def labelled() -> Iterator[tuple[str, str, str, str]]:
        for kind, things in has.items():
            for name, run, owner in things:
                yield kind, name, run, owner

    def remove(kind: str, name: str) -> None:
        has[kind] = [t for t in has[kind] if t[0] != name]

    monkeypatch.setattr(sweep, "_labelled", labelled)
    monkeypatch.setattr(sweep, "_remove", remove)
    return has


def ended() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


def test_a_living_run_is_never_touched(engine: dict[str, Any]) -> None:
    sweep.register("mine")
    engine["container"].append(("c", "mine", sweep.owner_label("mine")))
    assert sweep.clean() == []
    assert engine["container"]
    assert sweep.alive("mine")


def test_another_state_folder_sees_that_a_run_lives(
    engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep.register("mine")
    engine["container"].append(("c", "mine", sweep.owner_label("mine")))
    monkeypatch.setenv("BROKERPROOF_STATE", str(tmp_path / "other"))
    assert sweep.clean() == []


def test_what_a_dead_run_left_is_removed(engine: dict[str, Any]) -> None:
    sweep.register("dead", owner=os.getpid())
    label = sweep.owner_label("dead").split(" ")
    label[3] = "1"  # the process id is in use again, by a process that started at another time
    engine["container"].append(("c", "dead", " ".join(label)))
    engine["network"].append(("n", "dead", " ".join(label)))
    assert [(item.kind, item.name) for item in sweep.clean()] == [("container", "c"), ("network", "n")]
    assert engine == {"container": [], "network": []}


def test_after_a_reboot_everything_of_this_host_is_dead(engine: dict[str, Any]) -> None:
    sweep.register("mine")
    label = sweep.owner_label("mine").split(" ")
    label[1] = "another-boot"
    engine["container"].append(("c", "mine", " ".join(label)))
    assert [item.name for item in sweep.leftovers() if item.kind == "container"] == ["c"]


@pytest.mark.parametrize("label", ["", "another-host b 1 1"])
def test_what_is_not_ours_to_judge_stays_unless_it_is_named(label: str, engine: dict[str, Any]) -> None:
    engine["container"].append(("c", "theirs", label))
    assert sweep.leftovers() == []
    assert [item.name for item in sweep.leftovers("theirs")] == ["c"]


@pytest.mark.parametrize("stopped", [False, True])
def test_load_processes_of_a_dead_run_are_ended(stopped: bool, engine: dict[str, Any]) -> None:
    owner = ended()
    sweep.register("dead", owner=owner.pid)
    load = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    if stopped:
        load.send_signal(signal.SIGSTOP)  # its harness was killed while it was paused
    sweep.register_process("dead", load.pid)
    assert [(item.kind, item.name) for item in sweep.clean()] == [("process", str(load.pid)), ("file", "dead.json")]
    assert load.wait(5) != 0
    assert sweep.clean() == []


def test_a_process_id_that_is_somebody_elses_by_now_is_left_alone(engine: dict[str, Any], state: Path) -> None:
    owner = ended()
    sweep.register("dead", owner=owner.pid)
    sweep.register_process("dead", os.getpid())
    (state / "runs" / "dead.pids" / str(os.getpid())).write_text("1")
    assert [item.kind for item in sweep.clean()] == ["file"]


def test_without_an_engine_there_is_nothing_of_it_to_find(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise EnvironmentProblem("no engine")

    monkeypatch.setattr(sweep, "client", none)
    assert sweep.leftovers() == []
