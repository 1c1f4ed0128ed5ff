"""An ext4 file system on a loop device, and what can be done to it: cut off, fill, slow down, make read-only.

    <folder>/<run>/<cluster>-<node>.img      sparse image file, on a loop device while it is mounted
    <folder>/<run>/<cluster>-<node>/         where it is mounted on the engine's host
    <folder>/<run>/owner                     whose it is, in the words of ``sweep.owner_label``

The loop device is made by ``mount`` and goes with the mount, so what a killed harness leaves is a mount and two paths, and
all of it can be found by the folder alone.

A cut stops the file system by ``EXT4_IOC_SHUTDOWN`` with NOLOGFLUSH: from that moment nothing reaches the device, neither
pages nor journal. Unmounting then drops what was in memory, and the next mount shows what a power cut would have left.
Source: Linux, include/uapi/linux/ext4.h (``EXT4_IOC_SHUTDOWN`` is ``_IOR('X', 125, __u32)``,
``EXT4_GOING_FLAGS_NOLOGFLUSH`` is 2) and fs/ext4/ioctl.c, ``ext4_force_shutdown``.

Nothing here syncs the file system, or a file on it, but ``sync`` and ``fail``: one fsync would commit the whole journal.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brokerproof.brokers.base import Damage, Lost
from brokerproof.errors import EnvironmentProblem, HarnessError
from brokerproof.waiting import wait_until

_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2
SIZE_MB = 1024
#: The journal is committed when somebody syncs, and not by itself every five seconds: a yes/no question of durability
#: must not hang on where in those five seconds the cut came.
COMMIT_S = 600
# errors=remount-ro is what ``fail`` needs, and what distributions mount with.
_OPTIONS = "errors=remount-ro,noinit_itable"
_PAGE = 4096
_CHUNK = 1 << 20
_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_UNMOUNT_S = 15.0


#: What disks consist of, in the order of removal; ``disk`` is the image file.
KINDS = ("mount", "loop device", "disk")


@dataclass(frozen=True, slots=True)
class Thing:
    """Something of a run that stands on the host: its kind, one of ``KINDS``, and its path."""

    kind: str
    path: str


class LoopDisk:
    """The disk of one node, as ``brokers.base.Disk``. Made from its place alone; ``make`` creates it.

    pid: the node's first process, 0 while there is none.
    """

    def __init__(self, folder: Path, name: str, pid: Callable[[], int] = lambda: 0) -> None:
        self._pid = pid
        folder = folder.resolve()  # as the mount table has it
        self.image = folder / f"{name}.img"
        self.root = folder / name
        self._cut: _Picture | None = None
        #: What the last cut took; None: there was none.
        self.lost: Lost | None = None
        self.damaged: Damage | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def make(self, size_mb: int = SIZE_MB) -> None:
        """Image, file system, mount. Raises EnvironmentProblem with what the machine said."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(size_mb << 20)
        # Tables and journal are written now: the kernel would fill them in behind our back, and under our load.
        layout = ("-m", "0", "-i", "65536", "-E", "lazy_itable_init=0,lazy_journal_init=0")
        _run("mkfs.ext4", "-q", "-F", *layout, str(self.image))
        self.mount()
        # Laid out before any load, so that writing to them again needs no space and no journal.
        (self.root / "ruler").write_bytes(os.urandom(1 << 20))
        (self.root / "canary").write_bytes(bytes(_PAGE))
        self.sync()

    def mount(self, commit_s: int = COMMIT_S) -> None:
        if not self.mounted:
            _run("mount", "-t", "ext4", "-o", f"loop,{_OPTIONS},commit={commit_s}", str(self.image), str(self.root))

    def commit_every(self, commit_s: int) -> None:
        """Sets the mount option ``commit`` while the file system is in use; 5 is the kernel's default."""
        _run("mount", "-o", f"remount,commit={commit_s}", str(self.root))

    def unmount(self) -> None:
        """Nobody may be using it. Drops what a cut has kept in memory."""
        mounted = self._mountinfo()
        if mounted is not None:
            loop = mounted[1].rpartition("/")[2]
            # A container that has just died lets go of its files a moment later.
            wait_until(
                lambda: _umount(self.root), _UNMOUNT_S, f"unmounting {str(self.root)!r}", interval_s=0.05,
                retry_on=(EnvironmentProblem,),
            )  # fmt: skip
            # A container that is being made, any on the machine, has a copy of all mounts for a moment. As long as one is
            # left it is the same file system, stopped as it is, that would be mounted again.
            wait_until(
                lambda: not self._held(loop), _UNMOUNT_S, f"other mount namespaces to let go of {str(self.root)!r} ({loop})",
                interval_s=0.02,
            )  # fmt: skip

    def _held(self, loop: str) -> bool:
        """Whether the kernel still has a file system of this image, on that loop device. A device that is free is soon another
        image's."""
        backing = _text(Path(f"/sys/block/{loop}/loop/backing_file"))
        return Path(f"/sys/fs/ext4/{loop}").exists() and backing == str(self.image)

    def remove(self) -> None:
        """Everything; safe to call twice, and after anything."""
        self.free()
        self.unmount()
        self.image.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.root.rmdir()

    # -- looks ---------------------------------------------------------------------------------------------------------

    @property
    def mounted(self) -> bool:
        return self._mountinfo() is not None

    @property
    def device(self) -> str:
        """``major:minor`` of the loop device; empty while it is not mounted."""
        return (self._mountinfo() or ("", "", ""))[0]

    def in_use(self) -> bool:
        """Whether the node's process has this file system among its mounts."""
        return any(device == self.device for device, _, _ in _mounts(f"/proc/{self._pid()}/mountinfo"))

    def state(self) -> str:
        """``mounted``, ``read-only``, ``cut`` (stopped), ``unmounted``."""
        mounted = self._mountinfo()
        if mounted is None:
            return "unmounted"
        if self._cut is not None:
            return "cut"
        options = mounted[2].split(",")
        return "read-only" if "ro" in options or "emergency_ro" in options or self.try_write() == "EROFS" else "mounted"

    def facts(self) -> Mapping[str, object]:
        """Mount options, space, and how much is waiting for the device: what is recorded with every fault."""
        _, source, options = self._mountinfo() or ("", "", "unmounted")
        found: dict[str, object] = {"options": options, "device": source}
        with contextlib.suppress(OSError):
            space = os.statvfs(self.root)
            found |= {"used_mb": round((space.f_blocks - space.f_bfree) * space.f_frsize / 1e6, 1),
                      "free_mb": round(space.f_bavail * space.f_frsize / 1e6, 1)}  # fmt: skip
        with contextlib.suppress(OSError, ValueError):
            waiting = Path(f"/sys/fs/ext4/{source.rpartition('/')[2]}/delayed_allocation_blocks").read_text()
            found["unallocated_kb"] = int(waiting) * _PAGE // 1024
        return found

    def try_write(self) -> str:
        """The error that a new file of 64 KiB meets (``ENOSPC``, ``EROFS``, ``EIO``), empty when it can be written."""
        path = self.root / "probe"
        try:
            with path.open("wb", buffering=0) as file:
                written = file.write(b"\xa5" * 65536)
            return "" if written == 65536 else "ENOSPC"
        except OSError as exc:
            return errno.errorcode.get(exc.errno or 0, str(exc.errno))
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def write_ms(self) -> float:
        """How long the node would wait for 64 KiB on the device: written past the page cache, into blocks that are there
        already, by a process in the node's control group. No sync, no journal."""
        group, file = _control_group(self._pid()), self.root / "ruler"
        # dd, since a process has to be in the group before it opens the file; it says itself how long the writing took.
        script = f"echo $$ > {group}/cgroup.procs && exec dd if=/dev/zero of='{file}' bs=64k count=1 oflag=direct conv=notrunc"
        said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, env=_environment())
        took = re.search(r"copied, ([0-9.e+-]+) s", said.stderr)
        if said.returncode != 0 or took is None:
            raise EnvironmentProblem(
                f"writing to {str(file)!r} as a process of {str(group)!r} would: {said.stderr.strip()!r}"
            )
        return float(took[1]) * 1000

    # -- power ---------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """syncfs of this file system alone."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(fd):
                raise EnvironmentProblem(f"syncfs of {str(self.root)!r}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(fd)

    def cut(self) -> None:
        """Stops the file system at this moment. Whoever writes to it must be frozen, so that the pictures of before and
        after differ by the cut alone. A canary is written, and not synced: unless it is gone afterwards, no power was
        cut."""
        # Another at each cut: one that survived must not be taken for the next one's. A file system that takes no writes
        # has none, and nothing that could be lost.
        with contextlib.suppress(OSError), (self.root / "canary").open("r+b") as file:
            file.write(os.urandom(_PAGE))
        self.lost, self.damaged = None, None
        self._cut = _Picture.of(self.root, self.facts())
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Unmounts, mounts what is on the device, and looks what is gone. Whoever used it must be down; does nothing when
        there was no cut."""
        if self._cut is None:
            self.mount()
            return
        self.unmount()
        self.mount()
        self.lost = self._cut.compare(_Picture.of(self.root, {}))
        self._cut = None

    # -- other faults --------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Takes all free space. No block of it is written."""
        with (self.root / "ballast").open("ab") as file:
            step, end = 1 << 30, 0
            while step >= _PAGE:
                try:
                    os.posix_fallocate(file.fileno(), end, step)
                    end += step
                except OSError as exc:
                    if exc.errno not in (errno.ENOSPC, errno.EFBIG):
                        raise
                    step //= 2

    def free(self) -> None:
        with contextlib.suppress(OSError):
            (self.root / "ballast").unlink(missing_ok=True)

    def fail(self) -> None:
        """Makes the file system read-only under its users, as ext4 does on an error of its device. ``mount -o remount,ro``
        refuses while files are open for writing; like it, this flushes first, so nothing that was written is lost."""
        self.sync()
        name = (self._mountinfo() or ("", "", ""))[1].rpartition("/")[2]
        switch = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
        try:
            switch.write_text("brokerproof")
        except OSError as exc:
            raise EnvironmentProblem(f"making {str(self.root)!r} read-only by {str(switch)!r}: {exc}") from exc

    def repair(self) -> None:
        """Unmounts, checks, mounts again. Whoever used it must be down."""
        self.unmount()
        _run("e2fsck", "-p", str(self.image), good=(0, 1))
        self.mount()

    def throttle(self, bytes_per_s: int) -> None:
        """Limits what the node writes to the device; 0: no limit. Writes that are waited for (fsync, msync, direct) are held
        up; those that the kernel makes later on its own are not, with control groups of version 1. A node that starts anew
        has no limit."""
        if bytes_per_s == 0 and self._pid() == 0:
            return
        group = _control_group(self._pid())
        try:
            if (group / "blkio.throttle.write_bps_device").exists():
                (group / "blkio.throttle.write_bps_device").write_text(f"{self.device} {bytes_per_s}")
            else:
                (group / "io.max").write_text(f"{self.device} wbps={bytes_per_s or 'max'}")
        except OSError as exc:
            raise EnvironmentProblem(
                f"limiting writes to {self.device} in {str(group)!r}: {exc}; needs the control group controller blkio or io"
            ) from exc

    def newest(self, patterns: Sequence[str], least_bytes: int = 1) -> Path:
        """The file that was written last, of those that match (globs from the file system's root) and have so much data.
        The first pattern that any such file matches counts."""
        for pattern in patterns:
            files = [p for p in self.root.glob(pattern) if p.is_file() and _data_end(p) >= least_bytes]
            if files:
                return max(files, key=lambda p: (p.stat().st_mtime_ns, p.name))
        raise HarnessError(
            f"no file with {least_bytes} bytes of data in it matches {', '.join(patterns)} on {str(self.root)!r}"
        )

    def data_end(self, path: Path) -> int:
        """Where the last byte of a file is that is not zero, plus one: files are laid out longer than what is in them."""
        return _data_end(path)

    def damage(self, path: Path, at: int, data: bytes) -> None:
        """See ``brokers.base.Disk``."""
        with path.open("r+b") as file:
            file.seek(at)
            before = file.read(len(data) or -1)
            file.seek(at)
            file.write(data)
            if not data:
                file.truncate(at)
        self.damaged = Damage(path, at, before, data)

    def _mountinfo(self) -> tuple[str, str, str] | None:
        """(major:minor, source, options) of the mount."""
        at = str(self.root)
        found = [(device, source, options) for device, source, options in _mounts("/proc/self/mountinfo", at)]
        return found[-1] if found else None


# -- what dead runs left -----------------------------------------------------------------------------------------------


def things(folder: Path, prefix: str = "") -> list[Thing]:
    """What stands in the folder of a run under names that begin so, in the order of removal."""
    begin = f"{folder}/{prefix}"
    mounts = [Thing("mount", point) for point in _mount_points() if point.startswith(begin)]
    held = {source for mount in mounts for _, source, _ in _mounts("/proc/self/mountinfo", mount.path)}
    # One without a mount: the harness was killed between the two.
    loops = [
        Thing("loop device", f"/dev/{file.parent.parent.name}")
        for file in Path("/sys/block").glob("loop*/loop/backing_file")
        if _text(file).startswith(begin) and f"/dev/{file.parent.parent.name}" not in held
    ]
    return [*mounts, *loops, *(Thing("disk", str(path)) for path in sorted(folder.glob(f"{prefix}*.img")))]


def sweep_away(thing: Thing) -> None:
    """Removes one of them. Raises EnvironmentProblem for what will not go."""
    if thing.kind == "mount":
        wait_until(
            lambda: _umount(Path(thing.path)), _UNMOUNT_S, f"unmounting {thing.path!r}", interval_s=0.05,
            retry_on=(EnvironmentProblem,),
        )  # fmt: skip
    elif thing.kind == "loop device":
        if _text(Path(f"/sys/block/{Path(thing.path).name}/loop/backing_file")):
            _run("losetup", "-d", thing.path)
    else:
        path = Path(thing.path)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.with_suffix("").rmdir()


def missing(folder: Path) -> str:
    """What this machine lacks, with the next step; empty when a small one can be made in that folder, cut off, and
    removed again."""
    if os.geteuid() != 0:
        return "disk faults mount file systems of their own, which only root may: run as root"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "disk faults need loop devices, and /dev/loop-control cannot be opened: `modprobe loop`"
    for tool, package in (
        ("mkfs.ext4", "e2fsprogs"),
        ("e2fsck", "e2fsprogs"),
        ("mount", "mount"),
        ("losetup", "mount"),
    ):
        if shutil.which(tool, path=_SBIN) is None:
            return f"disk faults need {tool}: `apt-get install {package}`"
    trial = LoopDisk(folder, folder.name)
    try:
        trial.make(size_mb=16)
        trial.cut()
        trial.power_on()
    except (HarnessError, OSError) as exc:
        return f"a file system on a loop device cannot be made and cut off here: {exc}"
    finally:
        with contextlib.suppress(HarnessError, OSError):
            trial.remove()
    if trial.lost is None or not trial.lost.canary_gone:
        return "EXT4_IOC_SHUTDOWN does not drop here what was not synced: no power cut can be made"
    return ""


# -- inside ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Picture:
    """What is in a file system: of each file its size and, of each page that is not empty, its place and checksum."""

    facts: Mapping[str, object]
    sizes: Mapping[str, int]
    pages: Mapping[str, Mapping[int, int]]
    canary: bytes

    @classmethod
    def of(cls, root: Path, facts: Mapping[str, object]) -> _Picture:
        """Reads what the page cache has, and brings nothing to the device. Costs about a second per GB that is in use."""
        sizes: dict[str, int] = {}
        pages: dict[str, dict[int, int]] = {}
        for folder, _, names in os.walk(root):
            for path in (Path(folder) / name for name in names):
                if path.is_file() and not path.is_symlink() and folder != str(root):
                    name = str(path.relative_to(root))
                    sizes[name] = path.stat().st_size
                    pages[name] = _checksums(path)
        return cls(facts, sizes, pages, (root / "canary").read_bytes())

    def compare(self, after: _Picture) -> Lost:
        files: dict[str, tuple[int, int, int]] = {}
        for name, size in self.sizes.items():
            then, now = self.pages[name], after.pages.get(name, {})
            differ = sum(now.get(at) != then.get(at) for at in then.keys() | now.keys())
            left = after.sizes.get(name, -1)
            if differ or left != size:
                files[name] = (size, left, differ * _PAGE)
        return Lost(
            files=files, bytes=sum(lost for _, _, lost in files.values()), canary_gone=self.canary != after.canary,
            facts=self.facts,
        )  # fmt: skip


def _checksums(path: Path) -> dict[int, int]:
    """Place -> checksum of each page with something in it; holes, and pages of zeros, are left out."""
    found: dict[int, int] = {}
    empty = bytes(_PAGE)
    with path.open("rb", buffering=0) as file:
        for start, end in _extents(file.fileno()):
            at = start - start % _PAGE
            while at < end:
                chunk = os.pread(file.fileno(), _CHUNK, at)
                if not chunk:
                    break
                for offset in range(0, len(chunk), _PAGE):
                    page = chunk[offset : offset + _PAGE]
                    if page != empty[: len(page)]:
                        found[at + offset] = zlib.crc32(page)
                at += len(chunk)
    return found


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is in a file, holes left out."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _data_end(path: Path) -> int:
    size = path.stat().st_size
    if size == 0:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        end = size
        while end > 0:
            start = max(0, end - _CHUNK)
            tail = data[start:end].rstrip(b"\0")
            if tail:
                return start + len(tail)
            end = start
    return 0


def _mounts(table: str, at: str | None = None) -> Iterator[tuple[str, str, str]]:
    """(major:minor, source, options of the mount and of the file system) of each mount, or of those at that path."""
    for line in _text(Path(table)).splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if at is None or _plain(fields[4]) == at:
            yield fields[2], more[1], f"{fields[5]},{more[2]}"


def _mount_points() -> list[str]:
    return [_plain(line.split()[4]) for line in _text(Path("/proc/self/mountinfo")).splitlines()]


def _plain(path: str) -> str:
    """A path as the mount table writes it, blanks as ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)


def _umount(root: Path) -> bool:
    if str(root) in _mount_points():
        _run("umount", str(root))
    return str(root) not in _mount_points()


def _control_group(pid: int) -> Path:
    """The folder of the control group that limits what process ``pid`` writes."""
    groups = [line.split(":", 2) for line in _text(Path(f"/proc/{pid}/cgroup")).splitlines()]
    for _, controllers, path in groups:
        if "blkio" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/blkio{path}")
    for _, controllers, path in groups:
        if not controllers:
            return Path(f"/sys/fs/cgroup{path}")
    raise EnvironmentProblem(f"process {pid} is in no control group that could limit its writing")


def _text(path: Path) -> str:
    try:
        return path.read_text().rstrip("\n")
    except OSError:
        return ""


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _SBIN, "LC_ALL": "C"}


def _run(*command: str, good: Sequence[int] = (0,)) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_environment())
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EnvironmentProblem(f"running {' '.join(command)!r}: {exc}") from exc
    if done.returncode not in good:
        raise EnvironmentProblem(f"running {' '.join(command)!r}: exit code {done.returncode}: {done.stderr.strip()!r}")
