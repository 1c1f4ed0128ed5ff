"""Work with the engine that takes its time: told every few seconds, and done by one process at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import docker.errors
import requests
import urllib3.exceptions

from brokerproof.runtime import engine
from brokerproof.waiting import wait_until

#: Called with a line on what goes on and for how long: after two seconds, then every ten. From several threads.
Progress = Callable[[str], None]
#: All that a call to the engine raises; the last is what a stream that falls silent ends with.
ENGINE_TROUBLE = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError)
#: What one job may take: the longest seen, on a busy two-core machine, was 90 s.
JOB_TIMEOUT_S = 1200

T = TypeVar("T")


class Ticks:
    """When to say that something goes on: after two seconds, then every ten."""

    def __init__(self, doing: str, progress: Progress) -> None:
        self._doing, self._progress = doing, progress
        self._began = time.monotonic()
        self._due_s = 2.0

    def tell(self) -> None:
        elapsed_s = time.monotonic() - self._began
        if elapsed_s >= self._due_s:
            self._due_s = 10.0 * (elapsed_s // 10 + 1)
            self._progress(f"{self._doing}: {elapsed_s:.0f} s")


def with_ticks(work: Callable[[], T], doing: str, progress: Progress) -> T:
    """``work()`` in a thread, while ``progress`` hears that it goes on."""
    ticks = Ticks(doing, progress)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as pool:
        future: Future[T] = pool.submit(work)
        while not future.done():
            concurrent.futures.wait([future], timeout=0.5)
            ticks.tell()
        return future.result()


@contextlib.contextmanager
def locked(tag: str, waiting_for: str, progress: Progress) -> Iterator[None]:
    """One process, and one thread of it, at a time per tag; the kernel frees the lock of a process that died."""
    ticks = Ticks(waiting_for, progress)

    def taken() -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ticks.tell()
            return False
        return True

    with engine.lock_file(tag.replace("/", "_").replace(":", "_")).open("w") as file:
        wait_until(taken, 2 * JOB_TIMEOUT_S, waiting_for, interval_s=0.2)
        yield
