"""What is on this machine and what is missing, each with the next step: ``brokerproof doctor``.

Looks at everything at once and answers within three seconds: a look that takes longer, or fails, is a warning of its
own. Never raises, changes nothing, and needs nothing to be there: not the engine, not even its Python library.

    ok        there
    warning   the harness runs without it, but less of it, or worse
    missing   the harness cannot run on real brokers
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import docker

Status = Literal["ok", "warning", "missing"]

_DEADLINE_S = 2.7
_PYTHON_MIN = (3, 11)
# Three Kafka nodes, their side and proxy: 3 x 512 MB heap and as much again; a quick run of all brokers writes 2 GB.
_MEMORY_MIN_GB, _DISK_MIN_GB, _CORES_MIN = 6, 10, 2
# Runnable tasks per core. What an ended run leaves in the average of a minute is less than this.
_BUSY = 2.0
_LIBRARIES = (
    "confluent-kafka",
    "docker",
    "hypothesis",
    "numpy",
    "pika",
    "pyarrow",
    "pytest",
    "pytest-xdist",
    "rocketmq-python-client",
    "testcontainers",
    "toxiproxy-python",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``next_step`` is empty when all is well."""

    name: str
    status: Status
    seen: str
    next_step: str = ""


def diagnose(more: Mapping[str, Callable[[], Iterable[Check]]] = MappingProxyType({})) -> list[Check]:
    """All checks, in the order of a first set-up, and then those of ``more``: looks by parts that this one does not know."""
    looks = {**_LOOKS, **more}
    answers: queue.SimpleQueue[tuple[str, list[Check]]] = queue.SimpleQueue()
    for name, look in looks.items():
        # Daemons: a look that hangs (a registry that swallows packets) must not hold up the end of the process.
        threading.Thread(target=lambda n=name, f=look: answers.put((n, _safely(n, f))), daemon=True).start()
    found: dict[str, list[Check]] = {}
    stop_at = time.monotonic() + _DEADLINE_S
    while len(found) < len(looks) and (left_s := stop_at - time.monotonic()) > 0:
        try:
            name, checks = answers.get(timeout=left_s)
        except queue.Empty:
            break
        found[name] = checks
    return [check for name in looks for check in (found[name] if name in found else [_too_slow(name)])]


def _safely(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(look())
    except Exception as exc:
        return [
            Check(name, "warning", f"could not look: {type(exc).__name__}: {exc}", "report it: a look must not fail")
        ]


def _too_slow(name: str) -> Check:
    return Check(name, "warning", f"no answer within {_DEADLINE_S:g} s", "look again; if it stays so, something hangs")


# -- the machine -------------------------------------------------------------------------------------------------------


def _python() -> Iterable[Check]:
    seen = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < _PYTHON_MIN:
        yield Check("python", "missing", seen, f"install Python {'.'.join(map(str, _PYTHON_MIN))} or newer")
    else:
        yield Check("python", "ok", seen)


def _libraries() -> Iterable[Check]:
    for name in _LIBRARIES:
        try:
            yield Check(f"library {name}", "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                f"library {name}",
                "missing",
                "not installed",
                "run ci/setup, or install brokerproof again: `pip install .` in its checkout",
            )


def _disk() -> Iterable[Check]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    enough = free_gb >= _DISK_MIN_GB
    step = "" if enough else f"free {_DISK_MIN_GB} GB: runs, images and the file systems of power cuts need it"
    yield Check("disk", "ok" if enough else "warning", f"{free_gb:.0f} GB free here", step)


def _memory() -> Iterable[Check]:
    page, pages, free = (os.sysconf(n) for n in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    total_gb = page * pages / 1e9
    enough = total_gb >= _MEMORY_MIN_GB
    step = "" if enough else f"three-node clusters want {_MEMORY_MIN_GB} GB; run one broker at a time (--broker)"
    yield Check("memory", "ok" if enough else "warning", f"{total_gb:.0f} GB, {page * free / 1e9:.0f} GB unused", step)


def _cores() -> Iterable[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    seen, step = f"{cores}, load {load:.1f} in the last minute", ""
    if cores < _CORES_MIN:
        step = "start-up will be slow, and times measured here say little"
    elif load > cores * _BUSY:
        # Deadlines are for a machine of one's own: what it is too busy to show comes out as UNKNOWN.
        step = "others are at work here: wait for them, or expect UNKNOWN, and ratios with wide intervals"
    yield Check("cores", "warning" if step else "ok", seen, step)


def _root() -> Iterable[Check]:
    if os.geteuid() == 0:
        yield Check("root", "ok", "this is root")
    else:
        step = "disk faults on loop devices need root; all else needs membership of the engine's group only"
        yield Check("root", "warning", f"user {os.geteuid()}", step)


def _loop_devices() -> Iterable[Check]:
    if os.access("/dev/loop-control", os.R_OK | os.W_OK):
        yield Check("loop devices", "ok", "/dev/loop-control can be opened")
        return
    seen = "not for this user" if os.path.exists("/dev/loop-control") else "no /dev/loop-control"
    yield Check(
        "loop devices", "warning", seen, "`modprobe loop`, and root: without them no power cut and no full disk"
    )


def _mkfs() -> Iterable[Check]:
    path = shutil.which("mkfs.ext4", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if path:
        yield Check("mkfs.ext4", "ok", path)
    else:
        yield Check("mkfs.ext4", "warning", "not found", "`apt-get install e2fsprogs`: disk faults need it")


def _chromium() -> Iterable[Check]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path:
        yield Check("chromium", "ok", path)
    else:
        step = "nothing, unless the self-tests that look at reports in a browser shall run: `apt-get install chromium`"
        yield Check("chromium", "warning", "not found", step)


# -- the engine --------------------------------------------------------------------------------------------------------


def _engine() -> Iterable[Check]:
    client = _client()
    if client is None:
        from brokerproof.runtime import engine

        command = engine.client_command()
        hint = f"; {command} is there, which is a client only" if command else ""
        yield Check("engine", "missing", f"none answers{hint}", engine.next_step())
        return
    info = client.info()
    seen = (
        f"{info.get('ServerVersion')}, storage {info.get('Driver')}, cgroup v{info.get('CgroupVersion', '1')} "
        f"({info.get('CgroupDriver')}), {info.get('NCPU')} cores, {int(info.get('MemTotal', 0)) / 1e9:.0f} GB"
    )
    if info.get("Driver") == "vfs":
        step = "the storage driver vfs copies every image for every container: use overlay2"
        yield Check("engine", "warning", seen, step)
    else:
        yield Check("engine", "ok", seen)


def _toxiproxy() -> Iterable[Check]:
    """Only targets stand behind such a process, and only where there is no engine."""
    from brokerproof.errors import EnvironmentProblem

    try:
        from brokerproof.runtime import localproxy

        found = localproxy.server()
    except ImportError:
        return
    except EnvironmentProblem as exc:
        if _client() is None:
            seen, _, step = str(exc).partition("; ")
            yield Check("toxiproxy", "warning", f"{seen}: without an engine no target can be run on either", step)
        return
    yield Check("toxiproxy", "ok", f"{found.path} {found.version}: a target can be run on without an engine")


def _registry() -> Iterable[Check]:
    if _client() is None:
        return
    from brokerproof.runtime import registry

    if registry.answers():
        yield Check("registry", "ok", "answers: official images can be pulled")
    else:
        yield Check("registry", "ok", "does not answer: images are built from packages")


def _images() -> Iterable[Check]:
    if _client() is None:
        return
    from brokerproof.runtime import images

    for row in images.list_images():
        if not row["default"]:
            continue
        name = f"image {row['product']} {row['version']}"
        if row["image_id"]:
            yield Check(name, "ok", f"{row['tag']}, {row['size_mb']} MB")
        else:
            step = f"nothing to do: the first run gets it; or now: `brokerproof images build {row['product']}`"
            yield Check(name, "warning", "not here yet", step)


def _abilities() -> Iterable[Check]:
    if _client() is None:
        return
    from brokerproof.runtime import abilities

    for name in abilities.ABILITIES:
        seen, _, step = abilities.missing(name).partition("; next: ")
        if seen:
            yield Check(name, "warning", seen, step)
        elif abilities.tried(name):
            yield Check(name, "ok", "there")
        else:
            yield Check(name, "ok", "not tried: the side container's image is not here yet")


def _leftovers() -> Iterable[Check]:
    if _client() is None:
        return
    from brokerproof.runtime import sweep

    left = sweep.leftovers()
    if left:
        some = ", ".join(f"{item.kind} {item.name}" for item in left[:3])
        seen = f"{len(left)} of {len({item.run for item in left})} dead run(s): {some}{', …' if len(left) > 3 else ''}"
        yield Check("leftovers", "warning", seen, "`brokerproof clean` removes them; the next run does as well")
    else:
        yield Check("leftovers", "ok", "none of earlier runs")


def _client() -> docker.DockerClient | None:
    """The engine that answers, if one does; a Python without the engine's library is said by ``_libraries``."""
    try:
        from brokerproof.errors import EnvironmentProblem
        from brokerproof.runtime import engine
    except ImportError:
        return None
    try:
        return engine.connect(timeout_s=3)
    except EnvironmentProblem:
        return None


_LOOKS: dict[str, Callable[[], Iterable[Any]]] = {
    "python": _python,
    "libraries": _libraries,
    "cores": _cores,
    "memory": _memory,
    "disk": _disk,
    "root": _root,
    "engine": _engine,
    "toxiproxy": _toxiproxy,
    "registry": _registry,
    "images": _images,
    "abilities": _abilities,
    "loop devices": _loop_devices,
    "mkfs.ext4": _mkfs,
    "chromium": _chromium,
    "leftovers": _leftovers,
}
