"""What a run leaves is found by whoever comes next; what lives, or is another host's, is not touched."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from brokerproof.errors import EnvironmentProblem
from brokerproof.results import RunFolder
from brokerproof.runtime import loopdisk, sweep
from brokerproof.runtime.loopdisk import LoopDisk


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


# -- disks of nodes ----------------------------------------------------------------------------------------------------

_MAKES_A_DISK = """
import os, signal, sys
from brokerproof.runtime import loopdisk, sweep
from brokerproof.runtime.loopdisk import LoopDisk
from brokerproof.runtime.loopdisk import LoopDisk
sweep.register("dead")
LoopDisk(sweep.disks_of("dead"), "c1-n1").make(size_mb=16)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def loops(tmp_path: Path) -> None:
    if lacking := loopdisk.missing(tmp_path / "able"):
        pytest.skip(lacking)


def test_the_disk_of_a_killed_harness_is_removed(engine: dict[str, Any], loops: None, state: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _MAKES_A_DISK]).returncode == -9
    image = state / "disks" / "dead" / "c1-n1.img"
    assert str(image.with_suffix("")) in Path("/proc/self/mountinfo").read_text()
    said: list[str] = []
    assert [item.kind for item in sweep.clean(progress=said.append)] == ["mount", "disk", "file"]
    assert said[0] == f"removed mount {image.with_suffix('')} of run dead"
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    assert not any(str(state) in file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file"))
    assert list((state / "disks").iterdir()) == []
    assert sweep.clean() == []


def test_a_loop_device_that_was_never_mounted_is_removed(engine: dict[str, Any], loops: None, state: Path) -> None:
    sweep.register("dead", owner=ended().pid)
    folder = sweep.disks_of("dead")
    (folder / "owner").unlink()  # killed before it was written
    (folder / "c1-n1.img").write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "-f", str(folder / "c1-n1.img")], check=True)
    assert [item.kind for item in sweep.clean()] == ["loop device", "disk", "file"]
    assert not any(str(state) in file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file"))


def test_the_disk_of_a_living_run_stays_until_its_cluster_goes(engine: dict[str, Any], loops: None) -> None:
    sweep.register("mine")
    disks = [LoopDisk(sweep.disks_of("mine"), name) for name in ("c1-n1", "c2-n1")]
    for disk in disks:
        disk.make(size_mb=16)
    try:
        assert sweep.clean() == []
        sweep.remove_disks("c1-")
        assert [disk.mounted for disk in disks] == [False, True]
        assert [item.kind for item in sweep.leftovers("mine")] == ["mount", "disk", "file"]
    finally:
        sweep.remove_disks("c")
    assert not any(disk.mounted or disk.image.exists() for disk in disks)


def test_without_an_engine_there_is_nothing_of_it_to_find(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise EnvironmentProblem("no engine")

    monkeypatch.setattr(sweep, "client", none)
    assert sweep.leftovers() == []


def test_two_runs_in_folders_of_one_name_are_told_apart(tmp_path: Path, state: Path) -> None:
    """As two pipelines on one machine have them: the one that ends first must not take the other's containers along."""
    one, other = (RunFolder(tmp_path / place / "runs" / "ci") for place in ("here", "there"))
    assert (one.id, one.id) == (other.id, "ci")
    sweep.register(one.mark, folder=one.path)
    sweep.register(other.mark, folder=other.path)
    sweep.clean(one.mark)
    assert sweep.alive(other.mark) and not sweep.alive(one.mark)
    assert [item.run for item in sweep.leftovers("ci") if item.kind == "file"] == [other.mark]  # by the folder's name


def test_no_container_is_made_without_saying_whose_it_is() -> None:
    """Also one that is never started: whoever is killed in that moment leaves it. Options that are handed on (``**``) are made of
    labels where they are put together."""
    made = []
    for file in Path(sweep.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                (".containers.create", ".containers.run")
            ):
                made.append(f"{file.name}:{node.lineno}")
                assert {k.arg for k in node.keywords} & {"labels", None}, made[-1]
    assert len(made) >= 6, "the pattern still finds them"


def test_many_may_register_a_run_at_one_moment_and_the_first_word_counts(state: Path) -> None:
    met = threading.Barrier(8)

    def one(_: int) -> None:
        met.wait()
        sweep.register("bp-many", owner=os.getpid())

    for _ in range(20):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, range(8)))
        assert [f.name for f in (sweep.state_folder() / "runs").iterdir()] == ["bp-many.json"]
        sweep.unregister("bp-many")


def test_what_a_process_left_that_was_killed_as_it_registered_goes_with_the_run(state: Path) -> None:
    sweep.register("bp-killed", owner=os.getpid())
    (sweep.state_folder() / "runs" / "bp-killed.json.17-18.new").write_text("{")
    sweep.unregister("bp-killed")
    assert list((sweep.state_folder() / "runs").iterdir()) == []
