"""The load processes of one harness process: started fresh, kept warm between trials, ended with it.

A worker that did its part in good order serves the next trial; one that was killed or failed is replaced.
For a cluster that lives in this process (memory) a worker is a thread with the same life.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from brokerproof.brokers.base import client
from brokerproof.errors import HarnessError
from brokerproof.history import Meta
from brokerproof.loadprocess import LoadSpec, die_after, perform
from brokerproof.recorder import PERIOD_S, Recorder
from brokerproof.tape import Tape
from brokerproof.waiting import wait_until

#: How long a load process may take to import its client library. One that ends instead is noticed at once; what is only slow (a
#: machine with ten times the work it has cores for took more than 30 s) must not cost a cell of many minutes.
READY_S = 120.0
#: How long a worker may take to end its part after it was asked to.
STOP_S = 75.0
#: How long a process may take from its last words to its end, and they to be heard.
LAST_WORDS_S = 2.0


class Worker(Protocol):
    """One load process. ``facts`` collects what it reported; ``failed`` is its error, or empty."""

    pid: int
    facts: dict[str, Any]
    failed: str

    def assign(self, spec: LoadSpec) -> None: ...
    def go(self, start_ns: int) -> None:
        """The load of a sender starts at ``start_ns`` of the trial's clock."""

    def stop(self) -> None:
        """Asks it to end its part; returns at once."""

    def kill(self) -> None:
        """SIGKILL."""

    def kill_after(self, step: str) -> None:
        """It kills itself right after its next such step, see ``loadprocess.die_after``."""

    def spare(self) -> None:
        """Takes that back."""

    def pause(self) -> None:
        """SIGSTOP."""

    def resume(self) -> None:
        """SIGCONT; safe to call twice."""

    def state(self) -> str:
        """The kernel's letter for the process (``T``: stopped); "" when it is gone."""

    @property
    def busy(self) -> bool: ...

    @property
    def usable(self) -> bool:
        """Whether it may serve another part."""

    def close(self) -> None: ...


def wait_idle(worker: Worker, timeout_s: float, why: str) -> None:
    """Until the worker has ended its part. Raises DeadlineError."""
    wait_until(lambda: not worker.busy, timeout_s, why, interval_s=0.02)


class ProcessWorker:
    """A load process of its own."""

    def __init__(self, product: str, log: IO[bytes], registered: Callable[[int], None]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "brokerproof.loadprocess", product],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.pid = self._process.pid
        registered(self.pid)
        self.facts: dict[str, Any] = {}
        self.failed = ""
        self._busy = False
        self._ready = threading.Event()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # torn by a kill
            if "ready" in said:
                self._ready.set()
            elif "report" in said:
                self.facts.update(said["report"])
            else:
                self.failed = str(said.get("failed", ""))
                self._busy = False
        # A process that is ending closes its pipes first: what is told of it is told when it is gone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_WORDS_S)
        if self._busy and not self.failed:
            self.failed = "its process ended in the middle of its part"
        self._busy = False
        self._ready.set()

    def assign(self, spec: LoadSpec) -> None:
        if not self._ready.wait(READY_S):
            raise HarnessError(
                f"load process {self.pid} did not get ready in {READY_S:g} s; see its log in the run folder"
            )
        self.facts, self.failed, self._busy = {}, "", True
        self._say(spec.to_json())

    def go(self, start_ns: int) -> None:
        self._say({"go": start_ns})

    def stop(self) -> None:
        self._say({"stop": True})

    def kill(self) -> None:
        self._process.kill()  # unless it has ended: its number may be another process's by now
        self._process.wait()
        self.failed = "killed"

    def kill_after(self, step: str) -> None:
        self._say({"kill_after": step})

    def spare(self) -> None:
        self._say({"spare": True})

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def state(self) -> str:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return ""
        letter = stat.rpartition(")")[2].split()[0]
        return "" if letter in "ZX" else letter

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # a dead process is found by ``busy`` and ``usable``
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()

    @property
    def busy(self) -> bool:
        if self._busy and self._process.poll() is not None:
            # Its last words are heard, and its end is put down, before it counts as ended.
            self._listening.join(LAST_WORDS_S)
        return self._busy and self._process.poll() is None

    @property
    def usable(self) -> bool:
        return self._process.poll() is None and not self._busy and not self.failed

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Killed(BaseException):
    """Ends the thread of a killed worker where it next looks; not an Exception, so no client catches it."""


class ThreadWorker:
    """A load "process" of the memory broker. ``kill`` ends it where it next looks, before its next effect."""

    def __init__(self, product: str) -> None:
        self._module = client(product)
        self.pid = 0
        self.facts: dict[str, Any] = {}
        self.failed = ""
        self._stop, self._killed = threading.Event(), threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._parked = False
        self._starts: list[int] = []
        self._tape: Tape | None = None
        self._thread: threading.Thread | None = None

    def assign(self, spec: LoadSpec) -> None:
        self.facts, self.failed = {}, ""
        self._stop, self._killed = stop, killed = threading.Event(), threading.Event()
        starts: list[int] = []
        self._starts = starts

        def still_alive() -> None:
            if not self._running.is_set():
                self._parked = True
                self._running.wait()
                self._parked = False
            if killed.is_set():
                raise _Killed

        def begun(tape: Tape) -> None:
            self._tape = tape

        def stopping() -> bool:
            still_alive()
            return stop.is_set()

        def run() -> None:
            try:
                perform(
                    spec, self._module, stopping, self.facts.update, lambda: starts[0] if starts else None, still_alive,
                    begun,
                )  # fmt: skip
            except _Killed:
                pass
            except Exception as exc:  # as in a process: reported, not raised
                self.failed = f"{type(exc).__name__}: {exc}"

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def go(self, start_ns: int) -> None:
        self._starts.append(start_ns)

    def stop(self) -> None:
        self._stop.set()

    def kill_after(self, step: str) -> None:
        def die() -> None:
            self.failed = "killed"
            self._killed.set()  # for the threads that work for it
            raise _Killed

        assert self._tape is not None
        die_after(self._tape, step, die)

    def spare(self) -> None:
        if self._tape is not None:
            self._tape.when_not()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def state(self) -> str:
        """T once the thread has come to where it stops."""
        if not self.busy:
            return ""
        return "T" if self._parked else "S"

    def kill(self) -> None:
        self._killed.set()
        self._stop.set()
        self._running.set()
        if self._thread is not None:
            self._thread.join(5)
        self.failed = "killed"

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def usable(self) -> bool:
        return not self.busy and not self.failed

    def close(self) -> None:
        self._stop.set()


class Crew:
    """Hands out workers and takes them back. ``registered`` is told every process id, for the sweeper."""

    def __init__(self, logs: Path, registered: Callable[[int], None]) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._log = (logs / f"load-{os.getpid()}.log").open("ab")
        self._registered = registered
        self._idle: dict[str, list[Worker]] = {}
        self._all: list[Worker] = []

    def warm(self, product: str, n: int) -> None:
        """Has ``n`` load processes of the product ready, so that a trial does not wait for imports."""
        idle = self._idle.setdefault(product, [])
        while len(idle) < n:
            idle.append(self._new(product, in_process=False))

    def take(self, product: str, *, in_process: bool) -> Worker:
        idle = self._idle.setdefault(product, [])
        while idle:
            worker = idle.pop()
            if worker.usable:
                return worker
        return self._new(product, in_process=in_process)

    def give_back(self, product: str, worker: Worker) -> None:
        if worker.usable:
            self._idle.setdefault(product, []).append(worker)
        else:
            worker.kill()
            self._all.remove(worker)

    def retire(self, product: str) -> None:
        """Ends the idle workers of the product: what their client library remembers is of a cluster that is gone."""
        for worker in self._idle.pop(product, []):
            worker.close()
            self._all.remove(worker)

    def _new(self, product: str, *, in_process: bool) -> Worker:
        worker: Worker = ThreadWorker(product) if in_process else ProcessWorker(product, self._log, self._registered)
        self._all.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._all:
            worker.close()
        self._all.clear()
        self._log.close()


class Scribe(Protocol):
    """Whoever records trials."""

    def open(self, folder: Path, meta: Meta) -> None: ...
    def finish(self, folder: Path) -> int:
        """Ends the history of the trial in ``folder``; returns its rows. Raises HarnessError."""

    def close(self) -> None: ...


class ProcessScribe:
    """The recorder process."""

    def __init__(self, log: Path, registered: Callable[[int], None]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        # A session of its own: it has to outlive a harness whose process group is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "brokerproof.recorder"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("ab"), text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip
        registered(self._process.pid)
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._answer("ready", 30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put({"failed": "", "error": "the recorder process ended"})

    def _answer(self, wanted: str, timeout_s: float) -> dict[str, Any]:
        try:
            said = self._said.get(timeout=timeout_s)
        except queue.Empty:
            raise HarnessError(
                f"the recorder did not answer within {timeout_s:g} s; see recorder.log in the run folder"
            ) from None
        if wanted not in said:
            raise HarnessError(f"the recorder failed on {said.get('failed')!r}: {said.get('error')}")
        return said

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise HarnessError(f"the recorder process is gone: {exc}; see recorder.log in the run folder") from exc

    def open(self, folder: Path, meta: Meta) -> None:
        self._say({"open": str(folder), "meta": meta.to_json()})
        self._answer("opened", 30)

    def finish(self, folder: Path) -> int:
        self._say({"finish": str(folder)})
        return int(self._answer("finished", 120)["rows"])

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


class ThreadScribe:
    """A recorder in this process, for the memory broker."""

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="recorder", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        while not self._end.wait(PERIOD_S):
            with self._lock:
                self._recorder.pump()

    def open(self, folder: Path, meta: Meta) -> None:
        with self._lock:
            self._recorder.open(folder, meta)

    def finish(self, folder: Path) -> int:
        with self._lock:
            return self._recorder.finish(folder)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._recorder.finish_all(0)
