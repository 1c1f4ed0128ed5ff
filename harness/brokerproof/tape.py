"""A tape: where one load process records, and where the recorder reads; packed rows in mapped memory.

    folder/<slot>-<n>.seg     header page, then one contiguous array per column of ``history.COLUMNS``

A row is opened (the intent, outcome OPEN) and later closed in place (the completion). The header counts the opened
rows and is written after them, so a reader never sees half a row. The memory is a shared mapping of a file: what was
written survives a SIGKILL of the process that wrote it, and costs no system call. Rows that are open when their
process is gone are what the recorder closes as ``info``.

Bulk calls take arrays and cost tens of nanoseconds a row; the scalar ones about a microsecond.
"""

from __future__ import annotations

import bisect
import errno
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brokerproof.errors import EnvironmentProblem, HistoryError
from brokerproof.history import COLUMNS, FAIL, INFO, INJECTOR, OK, ROW_BYTES, F

Array = npt.NDArray[Any]

#: Outcome of a row whose completion has not come.
OPEN = -1
_MAGIC = 0x31455041542D5042  # "BP-TAPE1"
_HEADER_BYTES = 4096
# The first segment is small, since most processes of a trial write little; later ones hold about 18 MB.
_ROWS_FIRST, _ROWS_NEXT = 1 << 13, 1 << 18
_ERRORS_MAX = 1000
_HIDDEN = ".new"
_BLANK = b"\xff" * (1 << 20)  # every column at -1
_H_MAGIC, _H_ROWS, _H_FIRST, _H_HEAD, _H_FINISHED, _H_PID, _H_SLOT = range(7)

__all__ = ["FAIL", "INFO", "INJECTOR", "OK", "OPEN", "Segment", "Tape", "errors_of"]


class Segment:
    """One mapped file. The same class serves the writer and the reader."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self._buffer = buffer
        self.header = np.frombuffer(buffer, dtype=np.int64, count=_HEADER_BYTES // 8)
        self.rows = int(self.header[_H_ROWS])
        self.first = int(self.header[_H_FIRST])
        self.columns: dict[str, Array] = {}
        at = _HEADER_BYTES
        for name, kind in sorted(COLUMNS, key=lambda c: -np.dtype(c[1]).itemsize):
            self.columns[name] = np.frombuffer(buffer, dtype=kind, count=self.rows, offset=at)
            at += self.rows * np.dtype(kind).itemsize
        # memoryview item assignment is three times as fast as numpy's for one element.
        self.cells = {name: memoryview(column) for name, column in self.columns.items()}  # type: ignore[arg-type]

    @classmethod
    def prepare(cls, path: Path, *, rows: int, first: int, slot: int) -> Segment:
        """A segment that readers do not see yet; ``publish`` shows it."""
        size = _HEADER_BYTES + rows * ROW_BYTES
        hidden = path.with_suffix(_HIDDEN)
        with hidden.open("w+b") as file:
            try:
                # A sparse file on a full disk would be a SIGBUS in the hot path; reserve the blocks now. Writing the
                # pages as well costs a quarter of what faulting them in one by one does, and since they are written
                # with -1 (OPEN, "none"), a row's absent columns need not be.
                os.posix_fallocate(file.fileno(), 0, size)
                at = _HEADER_BYTES  # the header stays zero
                while at < size:
                    at += os.pwrite(file.fileno(), _BLANK[: size - at], at)
            except OSError as exc:
                hidden.unlink(missing_ok=True)
                what = "the disk is full" if exc.errno == errno.ENOSPC else str(exc)
                raise EnvironmentProblem(
                    f"recording to {str(path)!r}: cannot reserve {size} bytes: {what}; free some space and run again"
                ) from exc
            buffer = mmap.mmap(file.fileno(), size)
        header = np.frombuffer(buffer, dtype=np.int64, count=_HEADER_BYTES // 8)
        header[_H_ROWS], header[_H_FIRST], header[_H_SLOT], header[_H_PID] = rows, first, slot, os.getpid()
        header[_H_MAGIC] = _MAGIC
        del header
        return cls(path, buffer)

    def publish(self) -> Segment:
        self.path.with_suffix(_HIDDEN).rename(self.path)  # the reader never sees a segment without its header
        return self

    def discard(self) -> None:
        """Of a prepared segment that is not going to be published."""
        self.path.with_suffix(_HIDDEN).unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> Segment:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _HEADER_BYTES:
                raise HistoryError(f"tape segment {str(path)!r} holds {size} bytes, less than its header")
            buffer = mmap.mmap(file.fileno(), size)
        header = np.frombuffer(buffer, dtype=np.int64, count=_HEADER_BYTES // 8)
        magic, rows = int(header[_H_MAGIC]), int(header[_H_ROWS])
        del header
        if magic != _MAGIC or size != _HEADER_BYTES + rows * ROW_BYTES:
            raise HistoryError(f"tape segment {str(path)!r} is damaged: magic {magic:#x}, {rows} rows, {size} bytes")
        return cls(path, buffer)

    @property
    def head(self) -> int:
        """How many rows have been opened."""
        return int(self.header[_H_HEAD])

    @head.setter
    def head(self, rows: int) -> None:
        self.header[_H_HEAD] = rows

    @property
    def finished(self) -> bool:
        """Whether the writer closed the tape in an orderly way."""
        return bool(self.header[_H_FINISHED])

    @property
    def pid(self) -> int:
        return int(self.header[_H_PID])

    @property
    def slot(self) -> int:
        return int(self.header[_H_SLOT])


class Tape:
    """The writing end, owned by one load process (its threads may share it).

    folder: the trial's tape folder.  slot: client slot of the plan.  slots: number of client slots.
    zero_ns: ``time.monotonic_ns()`` at the trial's start; all times on the tape count from there.
    """

    def __init__(self, folder: Path, *, slot: int, slots: int, zero_ns: int, generation: int = 0) -> None:
        self._folder = folder
        self.slot = slot
        self._slots = slots
        self.zero_ns = zero_ns
        self.process = slot + generation * slots if slot >= 0 else INJECTOR
        self._name = f"{slot}g{generation}" if slot >= 0 else "injector"
        self._lock = threading.Lock()
        self._errors: dict[str, int] = {"": 0}
        self._segments: list[Segment] = []
        self._firsts: list[int] = []
        self._next = 0
        self._ahead: _Ahead | None = None
        self._when: tuple[int, int, Callable[[], None]] | None = None
        self._when_passed: tuple[str, Callable[[], None]] | None = None
        self._add(Segment.prepare(self._path(0), rows=_ROWS_FIRST, first=0, slot=slot))

    def now(self) -> int:
        """Nanoseconds since the trial's start."""
        return time.monotonic_ns() - self.zero_ns

    def reconnected(self) -> None:
        """The connection or the producer instance was replaced: what follows is another process."""
        if self.slot >= 0:
            self.process += self._slots

    def when(self, f: str, outcome: int, act: Callable[[], None]) -> None:
        """``act`` is called, once, in the thread that next writes or closes a row of that function with that outcome,
        right after it is written."""
        self._when = (F[f], outcome, act)

    def when_passed(self, step: str, act: Callable[[], None]) -> None:
        """``act`` is called, once, in the thread that next passes that step of its work."""
        self._when_passed = (step, act)

    def passed(self, step: str) -> None:
        """A step of the work on a message is over, one that has no row of its own."""
        when = self._when_passed
        if when is not None and when[0] == step:
            self._when_passed = None
            when[1]()

    def when_not(self) -> None:
        """Takes back what ``when`` and ``when_passed`` were told."""
        self._when = self._when_passed = None

    def _met(self, f: int, outcome: int) -> None:
        when = self._when
        if when is not None and when[:2] == (f, outcome):
            self._when = None
            when[2]()

    # -- one row at a time -------------------------------------------------------------------------------------------

    def open(self, f: str, *, msg: int = -1, key: int = -1, lane: int = -1, due_ns: int = -1, batch: int = -1,
             value: int = -1, pos: int = -1, attempt: int = -1) -> int:  # fmt: skip
        """Writes an intent that starts now; returns its row number for ``close``."""
        return self._put(F[f], OPEN, self.now(), -1, due_ns, msg, key, lane, pos, attempt, batch, value, 0)

    def close(self, row: int, outcome: int, *, error: str = "", end_ns: int | None = None, lane: int | None = None,
              pos: int | None = None, value: int | None = None) -> None:  # fmt: skip
        """Closes an open row; a row that is closed already stays as it is (the first word counts)."""
        segment = self._segment_of(row)
        i, cells = row - segment.first, segment.cells
        if cells["outcome"][i] != OPEN:
            return
        cells["end_ns"][i] = self.now() if end_ns is None else end_ns
        if lane is not None:
            cells["lane"][i] = lane
        if pos is not None:
            cells["pos"][i] = pos
        if value is not None:
            cells["value"][i] = value
        if error:
            cells["error"][i] = self.error_code(error)
        cells["outcome"][i] = outcome  # last: this is what the reader looks at
        if self._when is not None:
            self._met(int(cells["f"][i]), outcome)

    def row(self, f: str, outcome: int, *, start_ns: int, end_ns: int, msg: int = -1, key: int = -1, lane: int = -1,
            pos: int = -1, attempt: int = -1, batch: int = -1, value: int = -1, error: str = "",
            due_ns: int = -1) -> int:  # fmt: skip
        """Writes a row that is complete at once."""
        code = self.error_code(error) if error else 0
        row = self._put(F[f], outcome, start_ns, end_ns, due_ns, msg, key, lane, pos, attempt, batch, value, code)
        if self._when is not None:
            self._met(F[f], outcome)
        return row

    def is_open(self, row: int) -> bool:
        segment = self._segment_of(row)
        return bool(segment.cells["outcome"][row - segment.first] == OPEN)

    # -- many rows at a time -----------------------------------------------------------------------------------------

    def open_sends(self, first_msg: int, keys: Array, lanes: Array | int, due_ns: Array | int = -1,
                   batch: int = -1) -> int:  # fmt: skip
        """Intents of messages ``first_msg``, ``first_msg + 1``, … that start now; returns the first row number."""
        n = len(keys)
        msgs = np.arange(first_msg, first_msg + n, dtype=np.int64)
        fill = {
            "process": self.process, "f": F["send"], "start_ns": self.now(), "due_ns": due_ns, "msg": msgs,
            "key": keys, "lane": lanes, "batch": batch, "error": 0,
        }  # fmt: skip
        return self._put_many(n, fill)

    def close_many(self, rows: Array, outcome: int, *, end_ns: int | None = None, lanes: Array | int | None = None,
                   pos: Array | None = None, error: str = "") -> None:  # fmt: skip
        """Closes open rows, all with one outcome; ``rows`` in any order."""
        end = self.now() if end_ns is None else end_ns
        code = self.error_code(error) if error else 0
        for segment, chosen, i in self._split(rows):
            columns = segment.columns
            columns["end_ns"][i] = end
            if lanes is not None:
                columns["lane"][i] = lanes if isinstance(lanes, int) else lanes[chosen]
            if pos is not None:
                columns["pos"][i] = pos[chosen]
            if code:
                columns["error"][i] = code
            columns["outcome"][i] = outcome
            if self._when is not None and len(written := np.unique(columns["f"][i])):
                self._met(int(written[0]), outcome)  # what is closed together is of one function

    def rows(self, f: str, outcome: int, n: int, **columns: Array | int) -> int:
        """Writes ``n`` complete rows; columns not given are -1. Returns the first row number."""
        fill = {"process": self.process, "f": F[f], "outcome": outcome, "error": 0, **columns}
        row = self._put_many(n, fill)
        if self._when is not None:
            self._met(F[f], outcome)
        return row

    # -- ends --------------------------------------------------------------------------------------------------------

    def error_code(self, text: str) -> int:
        """The code of an error class; at most a thousand of them, the rest share the last."""
        code = self._errors.get(text)
        if code is None:
            with self._lock:
                if text in self._errors:
                    return self._errors[text]
                if len(self._errors) >= _ERRORS_MAX:
                    return self._errors.setdefault("other", _ERRORS_MAX)
                code = len(self._errors)
                with (self._folder / f"{self._name}.errors").open("a") as file:
                    file.write(json.dumps(text) + "\n")
                self._errors[text] = code
        return code

    def finish(self) -> None:
        """Says that nothing more will come; open rows are closed by the recorder as ``info``."""
        with self._lock:
            if self._ahead is not None:
                self._ahead.discard()
                self._ahead = None
            for segment in self._segments:
                segment.header[_H_FINISHED] = 1

    # -- inside ------------------------------------------------------------------------------------------------------

    def _path(self, n: int) -> Path:
        return self._folder / f"{self._name}-{n}.seg"

    def _add(self, segment: Segment) -> None:
        self._segments.append(segment.publish())
        self._firsts.append(segment.first)

    def _grow(self) -> None:
        """Goes on in the next segment."""
        ahead = self._ahead or self._prepare_next()
        self._ahead = None
        self._add(ahead.result())

    def _prepare_next(self) -> _Ahead:
        last = self._segments[-1]
        return _Ahead(self._path(len(self._segments)), first=last.first + last.rows, slot=self.slot)

    def _opened(self, segment: Segment, head: int) -> None:
        """The row count is written last. Past half of a segment the next one is made by a thread of its own, so that
        the sender does not wait for the disk."""
        segment.head = head
        if 2 * head > segment.rows and self._ahead is None:
            self._ahead = self._prepare_next()

    def _segment_of(self, row: int) -> Segment:
        last = self._segments[-1]
        return last if row >= last.first else self._segments[bisect.bisect_right(self._firsts, row) - 1]

    def _put(self, f: int, outcome: int, start_ns: int, end_ns: int, due_ns: int, msg: int, key: int, lane: int,
             pos: int, attempt: int, batch: int, value: int, error: int) -> int:  # fmt: skip
        with self._lock:
            segment = self._segments[-1]
            row = self._next
            i = row - segment.first
            if i == segment.rows:
                self._grow()
                segment, i = self._segments[-1], 0
            cells = segment.cells
            cells["process"][i] = self.process
            cells["f"][i] = f
            cells["outcome"][i] = outcome
            cells["start_ns"][i] = start_ns
            cells["end_ns"][i] = end_ns
            cells["due_ns"][i] = due_ns
            cells["msg"][i] = msg
            cells["key"][i] = key
            cells["lane"][i] = lane
            cells["pos"][i] = pos
            cells["attempt"][i] = attempt
            cells["batch"][i] = batch
            cells["value"][i] = value
            cells["error"][i] = error
            self._next = row + 1
            self._opened(segment, i + 1)
            return row

    def _put_many(self, n: int, fill: Mapping[str, Array | int]) -> int:
        """Writes ``n`` rows; columns that are not given stay -1."""
        with self._lock:
            first, done = self._next, 0
            while done < n:
                segment = self._segments[-1]
                i = self._next - segment.first
                take = min(n - done, segment.rows - i)
                if take == 0:
                    self._grow()
                    continue
                for name, value in fill.items():
                    if isinstance(value, np.ndarray):
                        segment.columns[name][i : i + take] = value[done : done + take]
                    elif value != -1:  # which is what an unwritten segment holds
                        segment.columns[name][i : i + take] = value
                self._next += take
                done += take
                self._opened(segment, i + take)
            return first

    def _split(self, rows: Array) -> Iterator[tuple[Segment, Array | slice, Array | slice]]:
        """(segment, which of ``rows`` lie in it, their places in it), skipping rows that are closed already."""
        rest = np.asarray(rows)
        for segment, chosen, i in self._by_segment(rest):
            closed = segment.columns["outcome"][i] != OPEN
            if closed.any():
                kept = np.flatnonzero(~closed)
                chosen = kept + chosen.start if isinstance(chosen, slice) else chosen[kept]
                i = rest[chosen] - segment.first
            yield segment, chosen, i

    def _by_segment(self, rows: Array) -> Iterator[tuple[Segment, Array | slice, Array | slice]]:
        n = len(rows)
        if n == 0:
            return
        if int(rows[-1]) - int(rows[0]) == n - 1 and bool((rows[1:] - rows[:-1] == 1).all()):
            # Answers mostly come in the order of the sends; slices are several times as fast as lists of places.
            at = 0
            while at < n:
                segment = self._segment_of(int(rows[at]))
                i = int(rows[at]) - segment.first
                take = min(n - at, segment.rows - i)
                yield segment, slice(at, at + take), slice(i, i + take)
                at += take
            return
        which = np.searchsorted(np.array(self._firsts), rows, side="right") - 1
        for s in np.unique(which):
            chosen = np.flatnonzero(which == s)
            yield self._segments[s], chosen, rows[chosen] - self._segments[s].first


class _Ahead:
    """A segment that a thread of its own prepares while the one before it is filled."""

    def __init__(self, path: Path, *, first: int, slot: int) -> None:
        self._made: Segment | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(path, first, slot), name="tape", daemon=True)
        self._thread.start()

    def _run(self, path: Path, first: int, slot: int) -> None:
        try:
            self._made = Segment.prepare(path, rows=_ROWS_NEXT, first=first, slot=slot)
        except BaseException as exc:  # told to whoever needs the segment
            self._error = exc

    def result(self) -> Segment:
        """Raises what the preparation raised, in the thread that needs the segment."""
        self._thread.join()
        if self._made is None:
            assert self._error is not None
            raise self._error
        return self._made

    def discard(self) -> None:
        self._thread.join()
        if self._made is not None:
            self._made.discard()


def errors_of(folder: Path, name: str) -> list[str]:
    """The error texts of the tape ``name`` (file name before ``-<n>.seg``), by code."""
    texts = [""]
    try:
        lines = (folder / f"{name}.errors").read_text().splitlines()
    except FileNotFoundError:
        return texts
    for line in lines:
        try:
            texts.append(str(json.loads(line)))
        except ValueError:
            break  # a torn last line
    return texts
