"""Consumers as processes of their own, which can be killed and held between the steps of a guard."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from brokerproof.effects.base import Message, World, make
from brokerproof.effects.store import Store

#: How long anything may take that has to come.
DEADLINE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One message.  die_at, hold_at: the step after which the process kills itself, or waits to be told to go on."""

    stores: Sequence[Store]
    guard: str
    options: Mapping[str, Any]
    message: Message
    die_at: str = ""
    hold_at: str = ""


def main() -> None:
    """Forks a process for each message: it has the drivers already, and no thread and no connection to inherit."""
    for driver in ("psycopg", "pymysql", "redis"):
        importlib.import_module(driver)
    pipe = Connection(int(sys.argv[1]))
    with suppress(EOFError):
        while True:
            job: Job = pipe.recv()
            pid = os.fork()
            if pid == 0:
                _serve(job, pipe)
            pipe.send(f"exit code {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _serve(job: Job, pipe: Connection) -> NoReturn:
    """One message: a word for each step, then what happened."""

    def step(name: str) -> None:
        pipe.send(name)
        if name == job.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == job.hold_at:
            pipe.recv()

    try:
        pipe.send(f"= {make(job.guard, job.options).apply(job.message, World(job.stores), step)}")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Consumer:
    """steps: those it has come to.  happened: what its guard said.  ended: how its process did; both empty until then."""

    def __init__(self, pipe: Connection, job: Job) -> None:
        self.steps: list[str] = []
        self.happened = self.ended = ""
        self._pipe = pipe
        pipe.send(job)

    def hears(self, timeout_s: float) -> bool:
        """Takes the next word; whether one came. After the end there is none."""
        if self.ended or not self._pipe.poll(timeout_s):
            return False
        word = self._pipe.recv()
        if word.startswith("exit code "):
            self.ended = word
        elif word.startswith("= "):
            self.happened = word[2:]
        else:
            self.steps.append(word)
        return True

    def comes_to(self, step: str) -> None:
        while step not in self.steps:
            assert self.hears(DEADLINE_S), f"it did not come to {step!r}; it came to {self.steps}, {self.ended}"

    def goes_on(self) -> None:
        self._pipe.send("go")

    def ends(self) -> str:
        """Waits for the end; what happened, or how the process ended."""
        while self.hears(DEADLINE_S):
            pass
        assert self.ended, f"it did not end; it came to {self.steps}"
        return self.happened or self.ended


class Crew:
    """Two places for consumers; each is served by a fresh process for each message."""

    def __init__(self) -> None:
        self._pipes: list[Connection] = []
        self._parents: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            ours, theirs = Pipe()
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._parents.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
            theirs.close()
            self._pipes.append(ours)

    def send(
        self, stores: Sequence[Store], guard: str, options: Mapping[str, Any], message: Message, *, place: int = 0,
        die_at: str = "", hold_at: str = "",
    ) -> Consumer:  # fmt: skip
        """A consumer that is given the message."""
        job = Job(
            stores=stores, guard=guard, options=options, message=message, die_at=die_at, hold_at=hold_at,
        )  # fmt: skip
        return Consumer(self._pipes[place], job)

    def close(self) -> None:
        for pipe, parent in zip(self._pipes, self._parents, strict=True):
            pipe.close()
            parent.wait(DEADLINE_S)


if __name__ == "__main__":
    main()
