"""One container of a cluster, addressed by its name, so that any process of the run can take hold of it."""

from __future__ import annotations

import contextlib
import io
import os.path
import signal
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import IO, Any, cast

import docker
import docker.errors
import requests

from brokerproof.brokers.base import MemoryUse, Throttled
from brokerproof.errors import EnvironmentProblem, ProvisionError
from brokerproof.runtime import clockwork, engine, limits
from brokerproof.runtime.loopdisk import LoopDisk
from brokerproof.waiting import wait_until

#: Labels by which everything of a run is found again.
LABEL_RUN, LABEL_CLUSTER, LABEL_OWNER = "brokerproof.run", "brokerproof.cluster", "brokerproof.owner"
#: What a node's memory is limited to when nothing presses it; the engine forgets that when the limit is changed.
LABEL_MEMORY = "brokerproof.memory_mb"
STOP_GRACE_S = 20
#: How long a node may take to freeze.
FREEZE_S = 15.0
_CHUNK = 1 << 20
_LIMIT_STEP_MB = 2


@lru_cache(maxsize=1)
def client() -> docker.DockerClient:
    """The one engine connection of this process."""
    return engine.connect()


@contextlib.contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turns the engine's own errors into one that says what was being done."""
    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as exc:
        raise EnvironmentProblem(
            f"{doing}: the container engine says: {exc}; `brokerproof doctor` shows its state"
        ) from exc


class _Chunks:
    """An archive that comes in pieces, as a file that is read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        """The next piece, however long; empty at the end."""
        return next(self._chunks, b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a container is started with.

    files: path in the container -> content, put there before it starts (an engine elsewhere works too).
    memory_mb: hard limit, so that one broker cannot take the machine.
    data: paths in the container that hold what has to outlive the process; none: a node without state of its own.
    """

    name: str
    image: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    memory_mb: int = 1024
    user: str | None = None
    entrypoint: Sequence[str] | None = None
    data: Sequence[str] = ()


class ContainerNode:
    """A broker node (or gateway) as ``brokers.base.Node``."""

    def __init__(self, *, cluster: str, name: str, address: str) -> None:
        self.name = name
        self.container_name = f"{cluster}-{name}"
        self.address = address
        #: Called with the node's name when it was started again: its network namespace is a new one.
        self.after_start: list[Callable[[str], None]] = []
        #: Its file system, where equipment gave it one: see ``disk``.
        self.own_disk: LoopDisk | None = None

    @property
    def disk(self) -> LoopDisk | None:
        """See ``brokers.base.Node``. A node without data has been given none."""
        return self.own_disk if self.own_disk is not None and self.own_disk.image.exists() else None

    def container(self) -> Any:
        with engine_errors(f"looking for container {self.container_name!r}"):
            return client().containers.get(self.container_name)

    def kill(self) -> None:
        with engine_errors(f"killing {self.container_name!r}"):
            container = self.container()
            if self.own_disk is not None and container.status == "paused":
                # The engine thaws what it kills, and init dies first. No other process may answer a client meanwhile, whose
                # answer would come after the power cut.
                for row in container.top()["Processes"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(row[1]), signal.SIGKILL)
            container.kill(signal="KILL")
        self._wait_state("exited")

    def stop(self) -> None:
        with engine_errors(f"stopping {self.container_name!r}"):
            self.container().stop(timeout=STOP_GRACE_S)
        self._wait_state("exited")

    def start(self) -> None:
        with engine_errors(f"starting {self.container_name!r}"):
            self.container().start()
        self._wait_state("running")
        for act in self.after_start:
            act(self.name)

    def pause(self) -> None:
        """The kernel freezes processes one by one, and the engine gives up, and thaws them, where a busy node makes new
        threads as fast ("unable to freeze"): so it is tried again for a while."""

        def frozen() -> bool:
            with engine_errors(f"pausing {self.container_name!r}"):
                try:
                    self.container().pause()
                except docker.errors.APIError as exc:
                    if "unable to freeze" not in str(exc):
                        raise
                    return False
            return True

        wait_until(frozen, FREEZE_S, f"{self.container_name!r} to freeze", last_state=lambda: "the engine is unable to")

    def unpause(self) -> None:
        with engine_errors(f"unpausing {self.container_name!r}"):
            if self.state() == "paused":
                self.container().unpause()

    def state(self) -> str:
        return str(self.container().status)

    def pid(self) -> int:
        """Process id of the container's first process as the engine's host sees it; 0 when it is down."""
        return int(self.container().attrs["State"]["Pid"])

    def logs(self, tail: int | str = "all") -> str:
        with engine_errors(f"reading the log of {self.container_name!r}"):
            raw: bytes = self.container().logs(tail=tail, timestamps=True)
            return raw.decode(errors="replace")

    def logs_after(self, stamp: str) -> str:
        """The lines after that time stamp, as the engine writes it (UTC, RFC 3339, nanoseconds); empty: all."""
        if not stamp:
            return self.logs()
        # The engine is asked in seconds as a float, which is not exact: a little earlier, and the rest is cut off here.
        since = datetime.fromisoformat(f"{stamp[:26]}+00:00").timestamp() - 0.001
        with engine_errors(f"reading the log of {self.container_name!r}"):
            raw: bytes = self.container().logs(since=since, timestamps=True)
        lines = raw.decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if line[: len(stamp)] > stamp)

    def logs_between(self, began: float, ended: float) -> str:
        """What was logged between these two moments (UTC, seconds since 1970)."""
        with engine_errors(f"reading the log of {self.container_name!r}"):
            raw: bytes = self.container().logs(since=began, until=ended + 0.2, timestamps=True)
            return raw.decode(errors="replace")

    def execute(self, command: Sequence[str], *, user: str = "") -> tuple[int, str]:
        """(exit code, output) of a command inside."""
        with engine_errors(f"running {command[0]!r} in {self.container_name!r}"):
            code, output = self.container().exec_run(list(command), user=user)
            return int(code), output.decode(errors="replace")

    def files(self, folder: str) -> Iterator[tuple[str, int, IO[bytes]]]:
        """(path, size in bytes, content) of each file below a folder inside; nothing where there is no such folder. Also
        of a container that is stopped or paused. The content is to be read before the next file is asked for."""
        container = self.container()
        with engine_errors(f"reading {folder!r} in {self.container_name!r}"):
            try:
                chunks, _ = container.get_archive(folder, chunk_size=_CHUNK)
            except docker.errors.NotFound:
                return
            try:
                # A stream is only ever asked to read(size), whatever the type says.
                stream = cast("IO[bytes]", _Chunks(chunks))
                with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:
                    for member in archive:
                        content = archive.extractfile(member) if member.isfile() else None
                        if content is not None:
                            yield member.name, member.size, content
            except tarfile.TarError as exc:
                raise EnvironmentProblem(f"reading {folder!r} in {self.container_name!r}: {exc}") from exc

    # -- brokers.base.Limited ------------------------------------------------------------------------------------------

    def limit_cores(self, cores: float | None) -> None:
        quota = -1 if cores is None else round(cores * limits.PERIOD_US)
        with engine_errors(f"limiting the processor of {self.container_name!r}"):
            self.container().update(cpu_period=limits.PERIOD_US, cpu_quota=quota)

    def throttled(self) -> Throttled:
        return limits.throttled(self._stats(), self.container_name)

    def limit_memory(self, headroom_mb: int | None) -> None:
        configured = int(self.container().labels[LABEL_MEMORY])
        if headroom_mb is None:
            self._limit_memory(configured)
            return
        use = self.memory()
        least = round(use.own_mb) + headroom_mb
        # Under cgroup v1 the kernel refuses a limit below what it cannot take back, its own memory for the node included.
        for wanted in range(least, max(least, round(use.used_mb)) + 1, _LIMIT_STEP_MB):
            try:
                self._limit_memory(min(wanted, configured))
                return
            except EnvironmentProblem as exc:
                refused = exc
        raise EnvironmentProblem(
            f"limiting the memory of {self.container_name!r}, which uses {use.used_mb:.0f} MB: refused from {least} MB on, "
            f"last by: {refused}"
        ) from refused

    def _limit_memory(self, limit_mb: int) -> None:
        with engine_errors(f"limiting the memory of {self.container_name!r} to {limit_mb} MB"):
            # Without swap, as at the start: what does not fit has to go.
            self.container().update(mem_limit=f"{limit_mb}m", memswap_limit=f"{limit_mb}m")

    def memory(self) -> MemoryUse:
        return limits.memory(self._stats(), float(self.container().labels[LABEL_MEMORY]), self.container_name)

    def killed(self) -> str:
        # The engine keeps the word over a start, until the container ends the next time.
        state = self.container().attrs["State"]
        return str(state["FinishedAt"]) if state["OOMKilled"] else ""

    def _stats(self) -> Any:
        with engine_errors(f"asking what {self.container_name!r} uses"):
            return client().api.stats(self.container_name, stream=False, one_shot=True)

    # -- brokers.base.Clocked ------------------------------------------------------------------------------------------

    def clock_moves(self) -> bool:
        return any(line.startswith(f"{clockwork.VARIABLE}=") for line in self.container().attrs["Config"]["Env"])

    def move_clock(self, offset_s: float, drift: float = 0.0) -> None:
        still = offset_s == 0 and drift == 0
        content = clockwork.TRUE if still else clockwork.record(time.time_ns(), offset_s, drift)
        if self.state() != "running":
            self._put(clockwork.RECORD, content)  # another file: nobody has the one before mapped
            return
        code, output = self.execute(["sh", "-c", clockwork.write(content)], user="0")
        if code:
            raise EnvironmentProblem(
                f"moving the clock of {self.container_name!r}: exit code {code}: {output.strip()[-300:]!r}; was the node "
                "started with the equipment clock?"
            )

    def clock_ahead(self) -> tuple[float, float]:
        code, output = self.execute(["sh", "-c", clockwork.ASK])
        try:
            seen = clockwork.ahead(output)
        except ValueError as exc:
            raise EnvironmentProblem(
                f"asking {self.container_name!r} for its date: exit code {code}, {output.strip()[-300:]!r}"
            ) from exc
        return seen.ahead_s, seen.error_s

    def _put(self, path: str, content: bytes) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo(os.path.basename(path))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
        with engine_errors(f"writing {path} of {self.container_name!r}"):
            self.container().put_archive(os.path.dirname(path), packed.getvalue())

    def sync(self, path: str) -> None:
        """syncfs of the file system of that path inside, never a global sync; nothing where the node does not run.

        Without ``LD_PRELOAD``: a node whose syncs are void (equipment ``fsync_void``) has its lanes made durable all the
        same.
        """
        if self.state() == "running":
            code, output = self.execute(["env", "-u", "LD_PRELOAD", "sync", "-f", path])
            if code:
                raise EnvironmentProblem(f"sync of {path} on {self.name}: exit code {code}: {output.strip()!r}")

    def ensure_running(self, doing: str) -> None:
        """Raises ProvisionError with the last log lines when the container has exited."""
        if self.state() == "exited":
            tail = "\n    ".join(self.logs(tail=15).splitlines())
            code = self.container().attrs["State"]["ExitCode"]
            raise ProvisionError(
                f"{doing}: container {self.container_name!r} exited with code {code}; its last log lines:\n    {tail}"
            )

    def _wait_state(self, state: str) -> None:
        wait_until(lambda: self.state() == state, 30, f"{self.container_name!r} {state}", interval_s=0.05,
                   last_state=self.state)  # fmt: skip
