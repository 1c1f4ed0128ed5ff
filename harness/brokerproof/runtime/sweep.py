"""Finding and removing what runs left behind: by label for the engine, by a registry file for everything else.

Disks of nodes (``loopdisk``: mounts, loop devices, image files) lie in one folder for each run, ``disks/<run>``, beside
the registry; a file in it says whose they are in the words of the containers' label.

Each run registers itself before it makes anything, and every container and network carries a label that says which
process, of which host and boot, it belongs to. When that process is gone the run is *dead*: what it left is swept by
the next run and by ``brokerproof clean``. A living run is never touched, nor what another host has on a shared engine.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import platformdirs

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import loopdisk
from brokerproof.runtime.node import LABEL_CLUSTER, LABEL_OWNER, LABEL_RUN, client, engine_errors


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that a dead run left: kind (container, network, process, mount, loop device, disk, file), its name, and
    the run."""

    kind: str
    name: str
    run: str


def state_folder() -> Path:
    """Where runs register; one per user."""
    folder = Path(os.environ.get("BROKERPROOF_STATE", "") or platformdirs.user_state_path("brokerproof"))
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    return folder


def register(run: str, owner: int | None = None, folder: Path | None = None) -> None:
    """Says that the process ``owner`` (this one by default) lives for ``run``, which writes to ``folder``; the first
    word counts."""
    file = state_folder() / "runs" / f"{run}.json"
    if not file.exists():
        owner = os.getpid() if owner is None else owner
        _write_once(
            file,
            {
                "run": run,
                "owner": owner,
                "started": _started(owner),
                "folder": str(folder.absolute()) if folder else "",
            },
        )


def register_process(run: str, pid: int) -> None:
    """A load process, recorder or proxy of the run, to be ended with it."""
    file_of(run, str(pid)).write_text(_started(pid))


def file_of(run: str, name: str) -> Path:
    """What processes of the run tell each other of one of them. It goes with the registration; a name that is a number is a
    process."""
    register(run)
    folder = state_folder() / "runs" / f"{run}.pids"
    folder.mkdir(exist_ok=True)
    return folder / name


def end_process(run: str, pid: int) -> None:
    """Ends a registered process before the run ends; nothing where it has ended by itself."""
    if pid in _living(run):
        _end_process(pid)
    file_of(run, str(pid)).unlink(missing_ok=True)


def unregister(run: str) -> None:
    """After an orderly end, when nothing is left."""
    base = state_folder() / "runs"
    (base / f"{run}.json").unlink(missing_ok=True)
    for unfinished in base.glob(f"{glob.escape(run)}.json.*.new"):  # of a process that was killed as it registered
        unfinished.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for file in (base / f"{run}.pids").iterdir():
            file.unlink(missing_ok=True)
        (base / f"{run}.pids").rmdir()


def owner_label(run: str) -> str:
    """``<host> <boot> <pid> <start>`` of the process that owns the run: what the label of its containers says."""
    data = _registered(run)
    owner = int(data.get("owner", os.getpid()))
    return f"{socket.gethostname()} {_boot()} {owner} {data.get('started', _started(owner))}"


def labels_of_a_moment() -> dict[str, str]:
    """Labels of a container that lives for a moment, of no run but of this process: what a kill in that moment leaves is swept like
    anything else."""
    probe = f"probe-{os.getpid()}"
    return {LABEL_RUN: probe, LABEL_OWNER: owner_label(probe)}


def disks_of(run: str, *, make: bool = True) -> Path:
    """The folder of the run's disks; with ``make`` it is there, and says whose it is."""
    folder = (state_folder() / "disks" / run).resolve()
    if make and not (folder / "owner").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "owner").write_text(owner_label(run))
    return folder


def remove_disks(prefix: str) -> None:
    """Removes the disks whose names begin so, of whatever run. Raises EnvironmentProblem for what will not go."""
    for folder in _disk_folders():
        for thing in loopdisk.things(folder, prefix):
            loopdisk.sweep_away(thing)
        _forget_disks(folder)


def _disk_folders() -> list[Path]:
    return sorted((state_folder() / "disks").resolve().glob("*/"))


def _forget_disks(folder: Path) -> None:
    """The folder of a run, once it has no disk any more."""
    if not loopdisk.things(folder):
        (folder / "owner").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _disks() -> Iterator[tuple[str, str, str, bool]]:
    """(kind, path, run, whether its owner has ended) of what disks consist of, in the order of removal."""
    for folder in _disk_folders():
        try:
            gone = _owner_gone((folder / "owner").read_text())
        except OSError:
            gone = not alive(folder.name)  # killed between making the folder and saying whose it is
        for thing in loopdisk.things(folder):
            yield thing.kind, thing.path, folder.name, gone


def _owner_gone(label: str) -> bool:
    """Whether the process that the label names has ended. What is not ours to judge has not."""
    host, boot, pid, started = ([*label.split(" "), "", "", "", ""])[:4]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    return boot != _boot() or not started or _started(int(pid)) != started


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _registered(run: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((state_folder() / "runs" / f"{run}.json").read_text())
        return data
    except (OSError, ValueError):
        return {}


def alive(run: str) -> bool:
    """Whether the harness process that owns the run still lives. A run that nobody registered is dead."""
    data = _registered(run)
    try:
        return bool(_started(int(data["owner"])) == data["started"] != "")
    except (ValueError, KeyError, TypeError):
        return False


def _is(mark: str, run: str) -> bool:
    """Whether that is the mark of the run that is meant: by its mark, or by its folder's name."""
    return mark == run or re.fullmatch(rf"{re.escape(run)}-[0-9a-f]{{6}}", mark) is not None


def leftovers(run: str | None = None) -> list[Leftover]:
    """What dead runs left (with ``run``: that one's, dead or alive). Needs no engine: without one, none is there."""
    found: list[Leftover] = []
    with contextlib.suppress(EnvironmentProblem):
        for kind, name, of_run, owner in _labelled():
            if _is(of_run, run) if run is not None else _owner_gone(owner):
                found.append(Leftover(kind, name, of_run))
    for kind, name, of_run, gone in _disks():
        if _is(of_run, run) if run is not None else gone:
            found.append(Leftover(kind, name, of_run))
    for file in sorted((state_folder() / "runs").glob("*.json")):
        if _is(file.stem, run) if run is not None else not alive(file.stem):
            found += [Leftover("process", str(pid), file.stem) for pid in _living(file.stem)]
            found.append(Leftover("file", file.name, file.stem))
    return found


def folders(run: str | None = None) -> list[Path]:
    """The folders of dead runs (with ``run``: that one's) that nobody has cleaned up after."""
    names = [file.stem for file in sorted((state_folder() / "runs").glob("*.json"))]
    dead = [name for name in names if (_is(name, run) if run is not None else not alive(name))]
    said = [str(_registered(name).get("folder", "")) for name in dead]
    return [Path(folder) for folder in said if folder and Path(folder).is_dir()]


def clean(run: str | None = None, *, progress: Callable[[str], None] = lambda _: None) -> list[Leftover]:
    """Removes what ``leftovers`` lists, and says what it removed. Raises EnvironmentProblem for what will not go."""
    found = leftovers(run)
    for item in [i for i in found if i.kind == "process"]:
        _end_process(int(item.name))
        progress(f"ended process {item.name} of run {item.run}")
    for kind in ("container", "network"):
        for item in [i for i in found if i.kind == kind]:
            _remove(item.kind, item.name)
            progress(f"removed {item.kind} {item.name} of run {item.run}")
    # After the containers, which hold the mounts; a mount goes with its loop device.
    for item in [i for i in found if i.kind in loopdisk.KINDS]:
        loopdisk.sweep_away(loopdisk.Thing(item.kind, item.name))
        progress(f"removed {item.kind} {item.name} of run {item.run}")
    for of_run in {i.run for i in found if i.kind in loopdisk.KINDS}:
        _forget_disks(disks_of(of_run, make=False))
    for item in [i for i in found if i.kind == "file"]:
        unregister(item.run)
    return found


def remove(*, cluster: str) -> None:
    """Removes the containers, the network and the disks of one cluster."""
    with engine_errors(f"removing cluster {cluster!r}"):
        every: dict[str, Any] = {"label": f"{LABEL_CLUSTER}={cluster}"}
        for container in client().containers.list(all=True, filters=every, ignore_removed=True):
            _remove("container", str(container.name))
        for network in client().networks.list(filters=every):
            _remove("network", str(network.name))
    remove_disks(f"{cluster}-")


def _labelled() -> Iterator[tuple[str, str, str, str]]:
    """(kind, name, run, owner label) of everything of ours that the engine has."""
    with engine_errors("looking for what earlier runs left"):
        for container in client().containers.list(all=True, filters={"label": LABEL_RUN}, ignore_removed=True):
            yield "container", str(container.name), container.labels[LABEL_RUN], container.labels.get(LABEL_OWNER, "")
        for network in client().networks.list(filters={"label": LABEL_RUN}):
            yield (
                "network",
                str(network.name),
                network.attrs["Labels"][LABEL_RUN],
                network.attrs["Labels"].get(LABEL_OWNER, ""),
            )


def _remove(kind: str, name: str) -> None:
    with engine_errors(f"removing {kind} {name!r}"), contextlib.suppress(docker.errors.NotFound):
        try:
            if kind == "container":
                container: Any = client().containers.get(name)
                container.remove(force=True, v=True)
            else:
                client().networks.get(name).remove()
        except docker.errors.APIError as exc:
            # "removal already in progress" is what we want.
            if exc.status_code != 409:
                raise


def _living(run: str) -> list[int]:
    folder = state_folder() / "runs" / f"{run}.pids"
    pids = []
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError, ValueError):
                # A process id is used again one day; the start time tells whose it is.
                if file.read_text() == _started(int(file.name)) != "":
                    pids.append(int(file.name))
    return pids


def _end_process(pid: int) -> None:
    started = _started(pid)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.kill(pid, sig)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if _started(pid) != started:
                return
            time.sleep(0.05)


def _started(pid: int) -> str:
    """The start time of a process in kernel ticks, empty when there is none (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rsplit(")", 1)[1].split()
    return "" if fields[0] == "Z" else fields[19]


def _write_once(file: Path, data: dict[str, Any]) -> None:
    """Whole or not at all; who comes second, at the same moment even, changes nothing."""
    new = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        new.write_text(json.dumps(data))
        os.link(new, file)
    except FileExistsError:
        pass
    finally:
        new.unlink(missing_ok=True)
