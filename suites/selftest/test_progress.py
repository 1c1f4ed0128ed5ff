"""What clients have come to, while the recorder takes their tapes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokerproof import tape as tapes
from brokerproof.history import FAIL, INFO, OK, Meta
from brokerproof.recorder import TAPES, Recorder
from brokerproof.tape import Tape
from brokerproof.workloads.progress import Progress

ROLES = {"producer": {0}, "consumer": {1}}


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapes, "_ROWS_FIRST", 8)
    monkeypatch.setattr(tapes, "_ROWS_NEXT", 8)


def test_what_was_on_a_tape_that_is_worked_off_still_counts(tmp_path: Path, small_segments: None) -> None:
    (tmp_path / TAPES).mkdir()
    recorder, meta = Recorder(), Meta(processes=("producer", "consumer"))
    recorder.open(tmp_path, meta)
    producer = Tape(tmp_path / TAPES, slot=0, slots=2, zero_ns=0)
    consumer = Tape(tmp_path / TAPES, slot=1, slots=2, zero_ns=0)
    progress = Progress(tmp_path, 2, lambda role: ROLES[role])
    outcomes = {30: FAIL, 31: INFO}
    for msg in range(40):
        producer.row("send", outcomes.get(msg, OK), start_ns=msg, end_ns=msg + 1, msg=msg)
        if msg % 10 == 9:
            recorder.pump()
    for msg in range(20):
        consumer.row("receive", OK, start_ns=100 + msg, end_ns=100 + msg, msg=msg)
        recorder.pump()
        if msg < 15:
            consumer.row("settle", OK, start_ns=200 + msg, end_ns=200 + msg, msg=msg)
    recorder.pump()
    left = sum(segment.head for segment in progress.segments("producer"))
    assert left < 40, "the test is about tapes that are gone"

    assert list(progress.messages("producer", ("send",), sure=False)) == [m for m in range(40) if m != 30]
    assert 31 not in progress.messages("producer", ("send",))
    assert list(progress.messages("consumer", ("receive",))) == list(range(20))
    assert list(progress.messages("consumer", ("effect", "settle"))) == list(range(15))
    assert progress.last_ns("consumer") == 214
    assert progress.pending_ns(20) == 119  # of what is not worked off
    assert progress.pending_ns(21) == 214  # something has not come at all

    consumer.row("effect", OK, start_ns=300, end_ns=301, msg=19)
    assert progress.last_ns("consumer") == 301
    assert 19 in progress.messages("consumer", ("effect",))
    for tape in (producer, consumer):
        tape.finish()
    recorder.finish(tmp_path)
    assert len(progress.messages("producer", ("send",), sure=False)) == 39


def test_nothing_was_written_yet(tmp_path: Path) -> None:
    (tmp_path / TAPES).mkdir()
    progress = Progress(tmp_path, 2, lambda role: ROLES[role])
    assert len(progress.messages("consumer", ("receive",))) == 0
    assert (progress.last_ns("consumer"), progress.pending_ns(0)) == (0, 0)
