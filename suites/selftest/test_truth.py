"""What databases show, set against what consumers told: the history gets the effects that nobody lived to tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from brokerproof.checkers.base import check
from brokerproof.finding import Finding
from brokerproof.history import FAIL, INJECTOR, OK, Meta, read_history
from brokerproof.recorder import TAPES, Recording
from brokerproof.tape import Tape
from brokerproof.workloads import truth

META = Meta(trial="t", lanes=({"name": "q", "kind": "queue"},), processes=("producer", "consumer", "reader"))


def told(folder: Path, shown: Mapping[int, int]) -> tuple[Finding, str]:
    """Messages 0 to 3 are sent and received; 0 has its effect, 1 is refused, of 2 nobody tells, 3 is told twice."""
    recording = Recording(folder, META)
    zero = time.monotonic_ns()
    sender, consumer, injector = (Tape(folder / TAPES, slot=s, slots=3, zero_ns=zero) for s in (0, 1, INJECTOR))
    for msg in range(4):
        sender.row("send", OK, start_ns=msg, end_ns=msg, msg=msg, lane=0)
        consumer.row("receive", OK, start_ns=10 + msg, end_ns=10 + msg, msg=msg, lane=0)
    for msg, outcome in ((0, OK), (1, FAIL), (3, OK), (3, OK)):
        consumer.row("effect", outcome, start_ns=20, end_ns=30, msg=msg, lane=0)
    over = threading.Event()

    def pump() -> None:
        while not over.wait(0.01):
            recording.pump()

    recorder = threading.Thread(target=pump)
    recorder.start()
    try:
        problem = truth.tell(folder, shown, injector)
    finally:
        over.set()
        recorder.join()
    for tape in (sender, consumer, injector):
        tape.finish()
    recording.finish()
    history = read_history(folder / "history.arrow")
    return check(history), problem


@pytest.mark.parametrize(
    ("shown", "doubled", "gone"),
    [
        ({0: 1, 1: 1, 2: 1, 3: 2}, (3,), ""),
        ({0: 2, 1: 1, 2: 3, 3: 2}, (0, 2, 3), ""),
        ({0: 1, 1: 1, 2: 1, 3: 1}, (3,), "1 messages had more effects than the world shows, the first is 3"),
        ({1: 1, 2: 1, 3: 2}, (3,), "1 messages had more effects than the world shows, the first is 0"),
    ],
)
def test_effects_that_nobody_told_of(
    shown: Mapping[int, int], doubled: tuple[int, ...], gone: str, tmp_path: Path
) -> None:  # fmt: skip
    finding, problem = told(tmp_path, shown)
    assert finding.anomalies["effect_duplicated"].messages == doubled
    assert problem.startswith(gone) and bool(problem) == bool(gone)
