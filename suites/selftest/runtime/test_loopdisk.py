"""A real file system on a real loop device, small: what a cut takes, what other faults do, and that all of it goes away."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokerproof.errors import HarnessError
from brokerproof.runtime import loopdisk
from brokerproof.runtime.loopdisk import LoopDisk


@pytest.fixture(scope="module", autouse=True)
def able(tmp_path_factory: pytest.TempPathFactory) -> None:
    if lacking := loopdisk.missing(tmp_path_factory.mktemp("able")):
        pytest.skip(lacking)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    made = LoopDisk(tmp_path, "c-n")
    try:
        made.make(size_mb=16)
        (made.root / "0").mkdir()
        made.sync()
        yield made
    finally:
        made.remove()
        assert loopdisk.things(tmp_path) == []
        assert not made.root.exists()


def write(disk: LoopDisk, name: str, data: bytes, *, sync: bool) -> Path:
    path = disk.root / "0" / name
    with path.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return path


def test_a_cut_takes_what_was_not_synced_and_nothing_else(disk: LoopDisk) -> None:
    kept = write(disk, "kept", b"k" * 5000, sync=True)
    gone = write(disk, "gone", b"g" * 5000, sync=False)
    disk.cut()
    assert disk.state() == "cut"
    assert disk.try_write() == "EIO"
    disk.power_on()
    assert disk.state() == "mounted"
    assert kept.read_bytes() == b"k" * 5000
    assert not gone.exists()
    assert disk.lost is not None
    assert disk.lost.canary_gone
    assert disk.lost.files == {"0/gone": (5000, -1, 8192)}
    assert "commit=600" in str(disk.lost.facts["options"])


def test_power_is_back_only_when_no_other_mount_namespace_has_the_stopped_file_system(disk: LoopDisk) -> None:
    """A container that is being made has, for a moment, all mounts of the machine."""
    kept = write(disk, "kept", b"k" * 5000, sync=True)
    disk.cut()
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo held; sleep 1"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        disk.power_on()
        assert other.poll() is not None, "it was waited for"
    assert disk.try_write() == ""
    assert kept.read_bytes() == b"k" * 5000
    assert disk.lost is not None
    assert disk.lost.canary_gone


def test_a_cut_takes_a_mapped_page_of_a_file_that_keeps_its_size(disk: LoopDisk) -> None:
    path = write(disk, "log", bytes(65536), sync=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        pages[8192:8200] = b"appended"
        disk.cut()
    disk.power_on()
    assert disk.lost is not None
    assert disk.lost.files == {"0/log": (65536, 65536, 4096)}


def test_a_cut_of_what_was_synced_takes_the_canary_only(disk: LoopDisk) -> None:
    write(disk, "kept", b"k" * 5000, sync=True)
    disk.cut()
    disk.power_on()
    assert disk.lost is not None
    assert (disk.lost.files, disk.lost.bytes, disk.lost.canary_gone) == ({}, 0, True)


def test_a_cut_that_cuts_nothing_leaves_the_canary(disk: LoopDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    write(disk, "there", b"t" * 5000, sync=False)
    monkeypatch.setattr(loopdisk.fcntl, "ioctl", lambda *_: 0)
    disk.cut()
    disk.power_on()
    assert disk.lost is not None
    assert (disk.lost.files, disk.lost.canary_gone) == ({}, False)
    # The canary that stayed is not taken for the next one.
    monkeypatch.undo()
    disk.cut()
    disk.power_on()
    assert disk.lost.canary_gone


def test_power_can_be_cut_while_the_disk_is_full(disk: LoopDisk) -> None:
    disk.fill()
    disk.sync()
    disk.cut()
    disk.power_on()
    assert disk.lost is not None
    assert disk.lost.canary_gone
    assert disk.try_write() == "ENOSPC"


def test_a_disk_that_takes_no_writes_has_nothing_to_lose(disk: LoopDisk) -> None:
    disk.fail()
    disk.cut()
    disk.power_on()
    assert disk.lost is not None
    assert not disk.lost.canary_gone


def test_power_on_without_a_cut_changes_nothing(disk: LoopDisk) -> None:
    path = write(disk, "there", b"t", sync=False)
    disk.power_on()
    assert path.read_bytes() == b"t"
    assert disk.lost is None


def test_commit_is_a_mount_option_that_a_running_node_takes(disk: LoopDisk) -> None:
    disk.commit_every(5)
    assert "commit=600" not in str(disk.facts()["options"])


def test_a_full_disk_has_no_space_until_it_is_freed(disk: LoopDisk) -> None:
    assert disk.try_write() == ""
    disk.fill()
    assert disk.try_write() == "ENOSPC"
    assert disk.facts()["free_mb"] == 0.0
    disk.free()
    disk.free()
    assert disk.try_write() == ""


def test_read_only_under_a_writer_and_back(disk: LoopDisk) -> None:
    path = write(disk, "log", b"before", sync=False)
    with path.open("ab", buffering=0) as file:
        disk.fail()
        assert (disk.state(), disk.try_write()) == ("read-only", "EROFS")
        with pytest.raises(OSError, match=r"Read-only|Input/output"):
            file.write(b"after")
    disk.repair()
    assert (disk.state(), disk.try_write(), path.read_bytes()) == ("mounted", "", b"before")


def test_a_limited_process_waits_for_the_device(disk: LoopDisk) -> None:
    parent = Path("/sys/fs/cgroup/blkio")
    if not (parent / "blkio.throttle.write_bps_device").exists():
        pytest.skip("no blkio controller of control groups version 1 to make a group in")
    group = parent / f"brokerproof-test-{os.getpid()}"
    group.mkdir()
    process = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        limited = LoopDisk(disk.image.parent, "c-n", lambda: process.pid)
        assert limited.write_ms() < 100
        limited.throttle(128 * 1024)
        assert limited.write_ms() > 250
        limited.throttle(0)
        assert limited.write_ms() < 100
    finally:
        process.kill()
        process.wait()
        group.rmdir()


def test_a_node_that_is_down_needs_no_limit_lifted(disk: LoopDisk) -> None:
    disk.throttle(0)
    with pytest.raises(HarnessError, match="no control group"):
        disk.throttle(1024)


def test_the_newest_file_with_data_in_it_is_found(disk: LoopDisk) -> None:
    old = write(disk, "00.log", b"old", sync=False)
    new = write(disk, "01.log", b"new" + bytes(9000), sync=False)
    write(disk, "02.log", bytes(4096), sync=False)
    os.utime(old, ns=(1, 1))
    assert disk.newest(["0/*.wal", "0/*.log"]) == new
    assert disk.data_end(new) == 3
    longer = write(disk, "0.log", b"longer", sync=False)
    os.utime(longer, ns=(1, 1))
    assert disk.newest(["0/*.log"], least_bytes=4) == longer
    with pytest.raises(HarnessError, match=r"no file with 1 bytes of data in it matches 0/\*.wal"):
        disk.newest(["0/*.wal"])


def test_damage_remembers_what_was_there(disk: LoopDisk) -> None:
    path = write(disk, "log", b"0123456789", sync=False)
    disk.damage(path, 2, b"xy")
    assert path.read_bytes() == b"01xy456789"
    assert disk.damaged is not None
    assert (disk.damaged.before, disk.damaged.after) == (b"23", b"xy")
    disk.damage(path, 7, b"")
    assert path.read_bytes() == b"01xy456"
    assert disk.damaged.before == b"789"


def test_the_data_of_a_node_is_seen_among_its_mounts(disk: LoopDisk) -> None:
    assert LoopDisk(disk.image.parent, "c-n", os.getpid).in_use()
    assert not LoopDisk(disk.image.parent, "c-n", lambda: 0).in_use()


def test_what_cannot_be_mounted_says_so(tmp_path: Path) -> None:
    broken = LoopDisk(tmp_path, "broken")
    broken.root.mkdir()
    broken.image.write_bytes(bytes(4096))
    with pytest.raises(HarnessError, match="running 'mount"):
        broken.mount()
    broken.remove()


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (("os", "geteuid", lambda: 1000), "only root may"),
        (("os", "access", lambda *_: False), "modprobe loop"),
        (("shutil", "which", lambda *_, **__: None), "apt-get install e2fsprogs"),
        (("fcntl", "ioctl", lambda *_: 0), "does not drop here what was not synced"),
    ],
)
def test_what_is_missing_is_named(
    breaks: tuple[str, str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, instead = breaks
    monkeypatch.setattr(getattr(loopdisk, module), name, instead)
    assert said in loopdisk.missing(tmp_path)
    assert loopdisk.things(tmp_path) == []
