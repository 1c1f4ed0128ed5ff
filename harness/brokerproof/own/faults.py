"""The faults of an experiment: for as long as a block runs, or on time in the background; each with its evidence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from brokerproof.errors import HarnessError
from brokerproof.faults.base import Applied, Scene, apply, make
from brokerproof.own.recording import Recording

#: How long a cluster may take to be whole again after the last fault.
HEALTHY_S = 70.0


class Faults:
    """Faults of the arm that runs; ``brokerproof list faults`` names them, their targets and options.

    with faults("kill", target="one"):      on while the block runs
        ...
    faults.at(1.0, "kill", for_s=3.0)       on from then on, in the background
    faults.over()                                until all are healed and the broker is whole again

    In the sham arm the same calls inject nothing. A fault whose evidence says that it did not bite makes the verdict
    UNKNOWN.
    """

    def __init__(self, history: Recording) -> None:
        self._history = history
        self._scene: Callable[[], Scene] | None = None
        self._sham = False
        self._records: list[Applied] = []
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []
        self._over = threading.Event()
        self._looked, self.unrecovered = False, ""

    def __call__(self, fault: str, target: str = "all", **options: Any) -> AbstractContextManager[Applied]:
        """Raises UsageError for a fault or an option that does not exist, PlanError for a target that it does not take."""
        return self._on(fault, target, options)

    def at(self, at_s: float, fault: str, target: str = "all", *, for_s: float, **options: Any) -> None:
        """at_s: seconds from the beginning of the arm.  for_s: how long."""
        make(fault, options)  # what is misspelt is said here, and not in a thread

        def run() -> None:
            try:
                if not self._over.wait(max(0.0, at_s - self._history.now_s())):
                    with self._on(fault, target, options) as record:
                        self._over.wait(for_s * 0.75)
                        record.confirm()
                        self._over.wait(for_s * 0.25)
            except BaseException as exc:
                self._failed.append(exc)

        thread = threading.Thread(target=run, name=f"inject {fault}")
        self._threads.append(thread)
        thread.start()

    def over(self) -> None:
        """Waits until every fault is healed, then until the broker is healthy; raises what injecting one raised."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._failed:
            raise self._failed[0]
        self._look()

    def _look(self) -> None:
        """Whether the cluster is whole again after what was injected."""
        if self._records and not self._sham and self._scene is not None:
            self._looked = True
            try:
                self._scene().cluster.wait_healthy(HEALTHY_S)
            except HarnessError as exc:
                self.unrecovered = f"the cluster did not come back healthy: {exc}"

    # -- for the stage -------------------------------------------------------------------------------------------------

    def begin(self, scene: Callable[[], Scene], *, sham: bool) -> None:
        self._scene, self._sham = scene, sham
        self._records, self._threads, self._failed = [], [], []
        self._over.clear()
        self._looked, self.unrecovered = False, ""

    def end(self) -> list[Applied]:
        """Heals what is still on; returns the records of the arm's faults."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for record in self._records:
            record.settle()
        if not self._looked:
            self._look()
        self._threads, self._scene = [], None
        if self._failed:
            raise self._failed[0]
        return self._records

    @contextmanager
    def _on(self, fault: str, target: str, options: dict[str, Any]) -> Iterator[Applied]:
        if self._scene is None:
            raise HarnessError("faults are for the arms of an experiment; mark the test with @experiment(...)")
        made = make(fault, options)
        if self._sham:
            record = Applied("noop", target, {}, evidence="no_effect")
            self._records.append(record)
            yield record
            return
        with apply(made, self._scene(), target, now_s=self._history.now_s, options=options) as record:
            self._records.append(record)
            self._history.note("fault", f"inject {fault} {','.join(record.targets)}", record.injected_s)
            try:
                yield record
            finally:
                self._history.note("fault", f"heal {fault}", self._history.now_s())
