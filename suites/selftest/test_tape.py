"""The tape: what is written is read, one row or thousands, across segments, after a SIGKILL, on a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brokerproof import tape as tape_module
from brokerproof.errors import EnvironmentProblem, HistoryError
from brokerproof.history import COLUMNS, FAIL, INFO, OK, F
from brokerproof.tape import OPEN, Segment, Tape, errors_of

Columns = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test crosses their borders in a few rows."""
    monkeypatch.setattr(tape_module, "_ROWS_FIRST", 10)
    monkeypatch.setattr(tape_module, "_ROWS_NEXT", 25)


@pytest.fixture
def tape(tmp_path: Path) -> Tape:
    return Tape(tmp_path, slot=2, slots=5, zero_ns=time.monotonic_ns())


def read(folder: Path) -> Columns:
    """What a reader sees: the opened rows of the published segments, in order."""
    segments = sorted((Segment.open(p) for p in folder.glob("*.seg")), key=lambda s: s.first)
    return {name: np.concatenate([s.columns[name][: s.head] for s in segments]) for name, _ in COLUMNS}


def keys(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n, dtype=np.int32) % 3


# -- rows ----------------------------------------------------------------------------------------------------------------


def test_an_open_row_says_who_and_what_and_nothing_of_the_end(tape: Tape, tmp_path: Path) -> None:
    tape.open("send", msg=7, key=1, lane=3, due_ns=11)
    row = {name: column[0] for name, column in read(tmp_path).items()}
    assert row["process"] == 2 and row["f"] == F["send"] and row["outcome"] == OPEN
    assert (row["msg"], row["key"], row["lane"], row["due_ns"]) == (7, 1, 3, 11)
    assert row["start_ns"] >= 0 and row["end_ns"] == -1 and row["error"] == 0
    assert (row["pos"], row["attempt"], row["batch"], row["value"]) == (-1, -1, -1, -1)


def test_closing_fills_in_what_is_given_and_leaves_the_rest(tape: Tape, tmp_path: Path) -> None:
    row = tape.open("send", msg=7, lane=3)
    tape.close(row, OK, pos=40, value=2)
    seen = read(tmp_path)
    assert seen["outcome"][0] == OK and seen["pos"][0] == 40 and seen["value"][0] == 2 and seen["lane"][0] == 3
    assert seen["end_ns"][0] >= seen["start_ns"][0]


def test_the_first_word_counts(tape: Tape, tmp_path: Path) -> None:
    row = tape.open("send", msg=1)
    tape.close(row, INFO, error="Timeout", end_ns=5)
    tape.close(row, OK, pos=9, end_ns=6)
    tape.close_many(np.array([row]), OK, pos=np.array([9]))
    seen = read(tmp_path)
    assert (seen["outcome"][0], seen["pos"][0], seen["end_ns"][0]) == (INFO, -1, 5)
    assert not tape.is_open(row)


def test_of_many_only_the_open_ones_are_closed(tape: Tape, tmp_path: Path) -> None:
    first = tape.open_sends(0, keys(8), 0)
    tape.close(first + 3, FAIL, error="NACK")
    tape.close_many(np.arange(first, first + 8), OK, pos=np.arange(100, 108), lanes=np.arange(8, dtype=np.int32))
    seen = read(tmp_path)
    assert seen["outcome"].tolist() == [OK, OK, OK, FAIL, OK, OK, OK, OK]
    assert seen["pos"].tolist() == [100, 101, 102, -1, 104, 105, 106, 107]
    assert seen["lane"].tolist() == [0, 1, 2, 0, 4, 5, 6, 7]


def test_a_complete_row_is_complete(tape: Tape, tmp_path: Path) -> None:
    tape.row("receive", OK, start_ns=1, end_ns=2, msg=3, key=4, lane=5, pos=6, attempt=7, batch=8, value=9, due_ns=10)
    row = {name: int(column[0]) for name, column in read(tmp_path).items()}
    assert row == {
        "process": 2, "f": F["receive"], "outcome": OK, "start_ns": 1, "end_ns": 2, "due_ns": 10, "msg": 3, "key": 4,
        "lane": 5, "pos": 6, "attempt": 7, "batch": 8, "value": 9, "error": 0,
    }  # fmt: skip


# -- many rows, and the borders of segments ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 9, 10, 11, 24, 25, 26, 35, 36, 100])
def test_bulk_intents_cross_segments(tape: Tape, tmp_path: Path, size: int) -> None:
    tape.open("control")
    first = tape.open_sends(1000, keys(size), np.arange(size, dtype=np.int32), np.arange(size) * 10, batch=4)
    assert first == 1
    seen = {name: column[1:] for name, column in read(tmp_path).items()}
    assert seen["msg"].tolist() == list(range(1000, 1000 + size))
    assert seen["key"].tolist() == keys(size).tolist() and seen["lane"].tolist() == list(range(size))
    assert seen["due_ns"].tolist() == [i * 10 for i in range(size)]
    assert set(seen["outcome"]) == {OPEN} and set(seen["batch"]) == {4} and set(seen["error"]) == {0}
    assert set(seen["end_ns"]) == set(seen["pos"]) == set(seen["attempt"]) == set(seen["value"]) == {-1}
    assert len(set(seen["start_ns"])) == 1 and set(seen["process"]) == {2}


@pytest.mark.parametrize("order", ["as sent", "backwards", "shuffled", "every second"])
def test_bulk_completions_cross_segments_in_any_order(tape: Tape, tmp_path: Path, order: str) -> None:
    first = tape.open_sends(0, keys(80), 0)
    rows = np.arange(first, first + 80)
    if order == "backwards":
        rows = rows[::-1]
    elif order == "shuffled":
        rows = np.random.default_rng(1).permutation(rows)
    elif order == "every second":
        rows = rows[::2]
    tape.close_many(rows, OK, end_ns=5, pos=rows * 2, lanes=(rows % 7).astype(np.int32))
    seen = read(tmp_path)
    closed = np.zeros(80, bool)
    closed[rows] = True
    assert np.array_equal(seen["outcome"] == OK, closed)
    assert np.array_equal(seen["pos"], np.where(closed, np.arange(80) * 2, -1))
    assert np.array_equal(seen["lane"], np.where(closed, np.arange(80) % 7, 0))
    assert np.array_equal(seen["end_ns"], np.where(closed, 5, -1))


def test_closing_some_across_a_border_where_some_are_closed(tape: Tape, tmp_path: Path) -> None:
    first = tape.open_sends(0, keys(40), 0)
    tape.close_many(np.array([9, 10, 34]), FAIL)
    tape.close_many(np.arange(first, first + 40), OK, pos=np.arange(40))
    seen = read(tmp_path)
    assert np.flatnonzero(seen["outcome"] == FAIL).tolist() == [9, 10, 34]
    assert np.array_equal(seen["pos"], np.where(np.isin(np.arange(40), [9, 10, 34]), -1, np.arange(40)))


def test_closing_nothing_is_nothing(tape: Tape, tmp_path: Path) -> None:
    tape.open_sends(0, keys(3), 0)
    tape.close_many(np.array([], dtype=np.int64), OK, pos=np.array([], dtype=np.int64))
    assert set(read(tmp_path)["outcome"]) == {OPEN}


def test_the_same_row_twice_in_one_call(tape: Tape, tmp_path: Path) -> None:
    tape.open_sends(0, keys(2), 0)
    tape.close_many(np.array([1, 1]), OK, pos=np.array([5, 5]))
    assert read(tmp_path)["pos"].tolist() == [-1, 5]


def test_scalar_rows_cross_segments(tape: Tape, tmp_path: Path) -> None:
    rows = [tape.open("send", msg=i) for i in range(60)]
    for row in rows:
        tape.close(row, OK, pos=row)
    seen = read(tmp_path)
    assert seen["msg"].tolist() == list(range(60)) == seen["pos"].tolist()


def test_many_complete_rows_at_once(tape: Tape, tmp_path: Path) -> None:
    error = tape.error_code("Gone")
    tape.rows("settle", INFO, 30, start_ns=1, end_ns=2, msg=np.arange(30), lane=1, error=error)
    seen = read(tmp_path)
    assert seen["msg"].tolist() == list(range(30)) and set(seen["error"]) == {error} and set(seen["outcome"]) == {INFO}
    assert set(seen["key"]) == {-1} and set(seen["lane"]) == {1} and set(seen["f"]) == {F["settle"]}


def test_scalar_and_bulk_rows_share_one_numbering(tape: Tape, tmp_path: Path) -> None:
    assert tape.open("send", msg=0) == 0
    assert tape.open_sends(1, keys(12), 0) == 1
    assert tape.open("send", msg=13) == 13
    assert read(tmp_path)["msg"].tolist() == list(range(14))


# -- who -----------------------------------------------------------------------------------------------------------------


def test_a_new_connection_is_another_process_of_the_same_slot(tape: Tape, tmp_path: Path) -> None:
    tape.open("send", msg=0)
    tape.reconnected()
    tape.open("send", msg=1)
    tape.open_sends(2, keys(1), 0)
    assert read(tmp_path)["process"].tolist() == [2, 7, 7]


def test_a_restarted_process_starts_where_its_generation_says(tmp_path: Path) -> None:
    tape = Tape(tmp_path, slot=2, slots=5, zero_ns=0, generation=3)
    tape.open("send", msg=0)
    assert read(tmp_path)["process"].tolist() == [17]


def test_the_injector_is_no_slot(tmp_path: Path) -> None:
    tape = Tape(tmp_path, slot=-1, slots=5, zero_ns=0)
    tape.reconnected()
    tape.row("fault", OK, start_ns=0, end_ns=0, error="kill k1")
    assert read(tmp_path)["process"].tolist() == [-1]
    assert errors_of(tmp_path, "injector") == ["", "kill k1"]


# -- errors --------------------------------------------------------------------------------------------------------------


def test_error_texts_are_found_by_code(tape: Tape, tmp_path: Path) -> None:
    row = tape.open("send", msg=0)
    tape.close(row, INFO, error="Timeout")
    assert tape.error_code("NACK") == 2 and tape.error_code("Timeout") == 1 and tape.error_code("") == 0
    assert errors_of(tmp_path, "2g0") == ["", "Timeout", "NACK"]
    assert read(tmp_path)["error"].tolist() == [1]


def test_there_are_at_most_a_thousand_error_classes(tape: Tape, tmp_path: Path) -> None:
    codes = [tape.error_code(f"e{i}") for i in range(1500)]
    assert codes[:999] == list(range(1, 1000)) and set(codes[999:]) == {1000}
    assert max(codes) < np.iinfo(np.int16).max


def test_a_torn_last_error_line_is_left_out(tape: Tape, tmp_path: Path) -> None:
    tape.error_code("Timeout")
    with (tmp_path / "2g0.errors").open("a") as file:
        file.write('"Connect')
    assert errors_of(tmp_path, "2g0") == ["", "Timeout"]


# -- threads -------------------------------------------------------------------------------------------------------------


def test_threads_may_share_a_tape(tape: Tape, tmp_path: Path) -> None:
    def some(thread: int) -> None:
        for i in range(200):
            number = thread * 1000 + i
            if i % 2:
                first = tape.open_sends(number * 10, keys(5), thread)
                tape.close_many(np.arange(first, first + 5), OK, pos=np.arange(5))
            else:
                tape.close(tape.open("send", msg=number * 10, lane=thread), OK, error=f"e{i % 7}")

    threads = [threading.Thread(target=some, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = read(tmp_path)
    assert len(seen["msg"]) == 4 * (100 + 500) and len(np.unique(seen["msg"])) == len(seen["msg"])
    assert (seen["outcome"] == OK).all()
    assert np.array_equal(seen["msg"] // 10_000, seen["lane"])


def test_a_reader_beside_the_writer_never_sees_half_a_row(tape: Tape, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 20_000:
            tape.open_sends(number, keys(7), 0)
            number += 7

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while thread.is_alive():
            for path in sorted(tmp_path.glob("*.seg"), key=lambda p: p.stat().st_mtime)[-2:]:
                segment = Segment.open(path)
                head = segment.head
                assert segment.columns["msg"][:head].tolist() == list(range(segment.first, segment.first + head))
                assert (segment.columns["process"][:head] == 2).all() and (segment.columns["error"][:head] == 0).all()
    finally:
        stop.set()
        thread.join()


# -- ends ----------------------------------------------------------------------------------------------------------------


def test_an_orderly_end_is_told_in_every_segment_and_leaves_no_spare_file(tape: Tape, tmp_path: Path) -> None:
    tape.open_sends(0, keys(30), 0)  # past half of the second segment: a third is being made
    tape.finish()
    segments = [Segment.open(p) for p in tmp_path.glob("*.seg")]
    assert len(segments) == 2 and all(s.finished for s in segments)
    assert {s.slot for s in segments} == {2} and {s.pid for s in segments} == {os.getpid()}
    assert list(tmp_path.glob("*.new")) == []


def test_what_a_killed_process_wrote_can_be_read(tmp_path: Path) -> None:
    code = (
        "import sys, time, numpy as np; from pathlib import Path; from brokerproof.tape import Tape\n"
        "t = Tape(Path(sys.argv[1]), slot=0, slots=1, zero_ns=0)\n"
        "n = 0\n"
        "while True:\n"
        "    first = t.open_sends(n, np.zeros(1000, np.int32), 0); t.close_many(np.arange(first, first + 900), 0)\n"
        "    n += 1000\n"
        "    if n == 20000: print('far', flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "far\n"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    seen = read(tmp_path)
    n = len(seen["msg"])
    assert n >= 20_000 and n % 1000 == 0
    assert np.array_equal(seen["msg"], np.arange(n))
    for start in range(0, n - 1000, 1000):  # all but the call that was cut short
        assert (seen["outcome"][start : start + 900] == OK).all()
        assert (seen["outcome"][start + 900 : start + 1000] == OPEN).all()
    assert not any(Segment.open(p).finished for p in tmp_path.glob("*.seg"))


# -- bad ground ----------------------------------------------------------------------------------------------------------


def _full(fd: int, at: int, size: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_an_error_that_says_so_and_no_bus_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _full)
    with pytest.raises(EnvironmentProblem, match=r"cannot reserve \d+ bytes: the disk is full; free some space"):
        Tape(tmp_path, slot=0, slots=1, zero_ns=0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_later_is_told_to_the_sender(
    tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _full)
    tape.open_sends(0, keys(10), 0)  # the first segment is full, the second cannot be made
    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        tape.open("send", msg=10)
    assert read(tmp_path)["msg"].tolist() == list(range(10)), "what was written stays"
    monkeypatch.undo()
    tape.open("send", msg=10)
    assert read(tmp_path)["msg"].tolist() == list(range(11)), "and it goes on when there is room again"


def test_a_reservation_that_fails_for_another_reason_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, at: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with pytest.raises(EnvironmentProblem, match=r"cannot reserve .* Operation not supported"):
        Tape(tmp_path, slot=0, slots=1, zero_ns=0)


@pytest.mark.parametrize("damage", ["short", "magic", "cut"])
def test_a_damaged_segment_is_refused(tape: Tape, tmp_path: Path, damage: str) -> None:
    tape.open("send", msg=0)
    path = next(tmp_path.glob("*.seg"))
    raw = path.read_bytes()
    path.write_bytes({"short": raw[:100], "magic": b"\0" * 8 + raw[8:], "cut": raw[:-1]}[damage])
    with pytest.raises(HistoryError, match="tape segment"):
        Segment.open(path)
