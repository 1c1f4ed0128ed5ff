"""The rows of one function, as columns that are gathered from the file when they are asked for.

A column of ten million rows is eighty megabytes that the system has to find and clear first, which costs more than
looking at it. So what can be decided in passing (a least value, a count) goes through the rows in *chunks* that stay
in the processor's cache, and only what is needed again and again is kept as a whole column.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from brokerproof.checkers.numbers import Numbers
from brokerproof.history import COLUMNS, FUNCTIONS, ROW_BYTES, Array, F, History

_T = TypeVar("_T")
_U = TypeVar("_U")
_KINDS: Mapping[str, type[np.generic]] = dict(COLUMNS)
#: Rows that are looked at together: a few columns of them fit into a cache of the second level.
CHUNK = 1 << 17
#: Histories of fewer rows are not worth a second thread.
_ALONE_ROWS = 1 << 20
#: Rows of one function in more ranges of a window than this are collected one by one.
_RUNS_MAX = 256
#: Pages of the file that may be held at once.
_HELD_BYTES = 1 << 28


#: Columns that are wanted of nearly every history, by function: taken along while its pages are at hand.
_WANTED: Mapping[str, tuple[str, ...]] = {
    "send": ("outcome", "process", "msg", "key", "lane", "pos", "batch"),
    "receive": ("outcome", "process", "msg", "lane", "pos", "attempt"),
    "settle": ("outcome", "error"),
    "effect": ("outcome", "start_ns", "end_ns", "msg", "lane", "process"),
}
#: Columns of which the least and the greatest value mostly say that there is nothing to look at.
_MEASURED: Mapping[str, tuple[str, ...]] = {"send": ("value", "start_ns", "end_ns"), "settle": ("msg",)}


class Window:
    """Some consecutive rows of a history: a part of a batch, or several small batches."""

    def __init__(self, pieces: Sequence[tuple[Mapping[str, Array], int, int]], first: int) -> None:
        self._pieces = pieces
        self.first = first
        self.size = sum(high - low for _, low, high in pieces)

    def __getitem__(self, name: str) -> Array:
        if len(self._pieces) == 1:
            part, low, high = self._pieces[0]
            return part[name][low:high]
        return np.concatenate([part[name][low:high] for part, low, high in self._pieces])

    def column(self, name: str) -> Array:
        """As ``window[name]``; ``row`` is the number of each row in the file."""
        return np.arange(self.first, self.first + self.size) if name == "row" else self[name]


def windows(history: History) -> Iterator[Window]:
    """The rows of a history in windows of at most ``CHUNK`` rows. Batches of some size are taken as they lie, since
    joining copies; many small ones are taken together."""
    pieces: list[tuple[Mapping[str, Array], int, int]] = []
    size = first = 0
    for part in history.parts:
        n = len(part["f"])
        low = 0
        while low < n:
            if size and (n >= CHUNK // 8 or size + n > CHUNK):
                yield Window(pieces, first)
                first += size
                pieces, size = [], 0
            high = min(n, low + CHUNK)
            pieces.append((part, low, high))
            size += high - low
            low = high
    if size:
        yield Window(pieces, first)


class Rows:
    """Which rows of a history are of one function: per window some ranges, or places; and some columns of them."""

    def __init__(self, history: History, f: str) -> None:
        self._history = history
        self._code = F[f]
        #: Window, number of rows in it, and of rows before it.
        self._picks: list[tuple[Window, int, int]] = []
        self._ranges: dict[int, list[slice]] = {}
        self.wanted, self.measured = _WANTED.get(f, ()), _MEASURED.get(f, ())
        self.size = 0
        #: Columns taken along, those with one value only as a view of that value.
        self.columns: dict[str, Array] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        self._held = 0

    def pick(self, window: Window, count: int) -> int:
        """The rows of the window that are of the function, ``count`` of them; returns the number of the pick."""
        self._picks.append((window, count, self.size))
        self.size += count
        return len(self._picks) - 1

    def _where(self, nth: int) -> list[slice] | Array:
        """Places are found anew each time: in fresh memory they would cost more to keep than to find."""
        kept = self._ranges.get(nth)
        if kept is not None:
            return kept
        mask = self._picks[nth][0]["f"] == self._code
        ranges = _runs(mask)
        if ranges is None:
            return np.flatnonzero(mask)
        self._ranges[nth] = ranges
        return ranges

    def reserve(self) -> None:
        """Room for the wanted columns; memory that is not written to costs nothing."""
        self.columns = {name: np.empty(self.size, dtype=_KINDS[name]) for name in self.wanted if self.size}

    def copy(self, nth: int, taken: dict[str, _Taken]) -> None:
        """Copies the wanted columns of a pick; a column that has had one value only is not copied yet."""
        window, count, at = self._picks[nth]
        where = self._where(nth)
        for name in (*self.wanted, *self.measured):
            mine = taken.get(name)
            if mine is not None and mine.written:
                values = _chosen(window[name], where, self.columns[name][at : at + count])
                mine.low, mine.high = min(mine.low, int(values.min())), max(mine.high, int(values.max()))
                continue
            values = _chosen(window[name], where)
            low, high = int(values.min()), int(values.max())
            if mine is None:
                mine = taken[name] = _Taken(at, low, high)
            same = low == high == mine.low == mine.high
            mine.low, mine.high = min(low, mine.low), max(high, mine.high)
            if same or name in self.measured:
                continue
            column = self.columns[name]
            column[mine.first : at] = mine.value
            mine.written = True
            column[at : at + count] = values

    def join(self, halves: Sequence[dict[str, _Taken]]) -> None:
        """What several threads took along, each its own picks, in order."""
        halves = [half for half in halves if half]
        for name in (*self.wanted, *self.measured) if self.size else ():
            parts = [half[name] for half in halves]
            low, high = min(p.low for p in parts), max(p.high for p in parts)
            self.spans[name] = low, high
            if name in self.measured:
                continue
            column = self.columns[name]
            if low == high:
                self.columns[name] = np.broadcast_to(np.array(low, dtype=_KINDS[name]), self.size)
                continue
            ends = [*(p.first for p in parts[1:]), self.size]
            for part, end in zip(parts, ends, strict=True):
                if not part.written:
                    column[part.first : end] = part.value

    def gather(self, name: str) -> Array:
        """The whole column; ``row`` is the number of the row in the file."""
        out = np.empty(self.size, dtype=np.int64 if name == "row" else _KINDS[name])
        at = 0
        for (values,) in self.chunks((name,)):
            out[at : at + len(values)] = values
            at += len(values)
        return out

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Array, ...]]:
        """The columns side by side, some rows at a time."""
        for nth, (window, _, _) in enumerate(self._picks):
            where = self._where(nth)
            yield tuple(_chosen(window.column(name), where) for name in names)
            self._held += sum(window.size * np.dtype(_KINDS.get(name, np.int64)).itemsize for name in names)
            if self._held > _HELD_BYTES:
                self._held = 0
                self._history.release()


class _Taken:
    """One column of the picks that one thread took along: from which row on, and what values it has had."""

    __slots__ = ("first", "high", "low", "value", "written")

    def __init__(self, first: int, low: int, high: int) -> None:
        self.first, self.low, self.high = first, low, high
        #: What the rows hold that were not copied.
        self.value = low
        self.written = False


def _runs(mask: Array) -> list[slice] | None:
    """The ranges where a mask is true, None where they are many. Whoever records writes what one client did in runs, and
    copying ranges is several times as fast as collecting rows."""
    edges = np.flatnonzero(mask[1:] != mask[:-1])
    if len(edges) > 2 * _RUNS_MAX:
        return None
    bounds = [*([0] if mask[0] else []), *(edges + 1).tolist(), *([len(mask)] if mask[-1] else [])]
    return [slice(low, high) for low, high in zip(bounds[::2], bounds[1::2], strict=True)]


def _chosen(values: Array, where: list[slice] | Array, out: Array | None = None) -> Array:
    """These rows; in ``out`` where there is one, else perhaps a view."""
    if not isinstance(where, list):
        # All places are within; looking at each again would make numpy buffer what it writes to ``out``.
        return values.take(where, out=out, mode="clip")
    if out is None:
        return values[where[0]] if len(where) == 1 else np.concatenate([values[run] for run in where])
    return np.concatenate([values[run] for run in where], out=out)


def split(history: History) -> tuple[dict[str, Rows], int, int]:
    """(rows of each function; rows in all; rows whose function is not known).

    Two passes: over one byte a row for the functions, and one over the wanted columns, window by window, so that every
    page of the file is touched once; by two threads where that is worth while, each half of the windows. O(rows).
    """
    out = {name: Rows(history, name) for name in FUNCTIONS}
    work: list[list[tuple[Rows, int]]] = []
    rows = strange = 0
    for window in windows(history):
        codes = window["f"]
        left = window.size
        rows += left
        mine: list[tuple[Rows, int]] = []
        for code, each in enumerate(out.values()):
            if not left:
                break
            count = int(np.count_nonzero(codes == code))
            if count:
                mine.append((each, each.pick(window, count)))
                left -= count
        strange += left
        work.append(mine)
    for each in out.values():
        each.reserve()
    threads = threads_for(rows)
    middle = len(work) // threads
    halves = [work[:middle], work[middle:]] if threads > 1 else [work]
    taken = side_by_side(lambda half: _take_along(history, half, threads), halves, threads)
    for each in out.values():
        each.join([half.get(id(each), {}) for half in taken])
    return out, rows, strange


def _take_along(
    history: History, work: Sequence[Sequence[tuple[Rows, int]]], threads: int
) -> dict[int, dict[str, _Taken]]:
    taken: dict[int, dict[str, _Taken]] = {}
    held = 0
    for picks in work:
        for rows, nth in picks:
            rows.copy(nth, taken.setdefault(id(rows), {}))
        held += CHUNK * ROW_BYTES
        if held > _HELD_BYTES // threads:
            held = 0
            history.release()
    return taken


def threads_for(rows: int) -> int:
    """How many threads share the work on so many rows: numpy lets others run while it works, but two keep a memory bus
    busy."""
    return 2 if rows > _ALONE_ROWS and (os.cpu_count() or 1) > 1 else 1


def side_by_side(do: Callable[[_T], _U], what: Sequence[_T], threads: int) -> list[_U]:
    """Does it with each, in order, ``threads`` at a time."""
    if threads < 2 or len(what) < 2:
        return [do(each) for each in what]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, what))


class View:
    """Some rows. ``view[column]`` gathers a column and keeps it. Besides the columns of the history there are ``row``
    (the number of the row in the file) and ``ids`` (the dense id of ``msg``; only where no ``msg`` is negative)."""

    def __init__(
        self,
        size: int,
        gather: Callable[[str], Array],
        numbers: Callable[[], Numbers],
        chunks: Callable[[Sequence[str]], Iterator[tuple[Array, ...]]] | None = None,
        columns: Mapping[str, Array] | None = None,
        spans: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._size = size
        self._gather = gather
        self._numbers = numbers
        self._chunks = chunks
        self._kept: dict[str, Array] = dict(columns or {})
        self._spans: dict[str, tuple[int, int]] = dict(spans or {})
        self._readable: View | None = None
        #: The lanes that occur in it, once somebody has looked (``Index.lanes_of``).
        self.lanes: frozenset[int] | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> Array:
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = self._gather(name)
        return kept

    @property
    def ids(self) -> Array:
        kept = self._kept.get("ids")
        if kept is None:
            kept = self._kept["ids"] = self._numbers().ids(self["msg"])
        return kept

    def column(self, name: str) -> Array:
        return self.ids if name == "ids" else self[name]

    def chunks(self, *names: str) -> Iterator[tuple[Array, ...]]:
        """The columns side by side, some rows at a time, in the order of the rows; nothing is kept."""
        passing = [] if self._chunks is None else [n for n in names if n not in self._kept and n != "ids"]
        whole = {name: self.column(name) for name in names if name not in passing}
        if self._chunks is None or not passing:
            for low in range(0, self._size, CHUNK):
                yield tuple(whole[name][low : low + CHUNK] for name in names)
            return
        low = 0
        for pieces in self._chunks(passing):
            high = low + len(pieces[0])
            here = dict(zip(passing, pieces, strict=True))
            yield tuple(here[name] if name in here else whole[name][low:high] for name in names)
            low = high

    def span(self, name: str) -> tuple[int, int]:
        """The least and the greatest value of a column; (0, -1) where there are no rows."""
        kept = self._spans.get(name)
        if kept is None:
            if not self._size:
                return 0, -1
            low, high = np.iinfo(np.int64).max, np.iinfo(np.int64).min
            for (values,) in self.chunks(name):
                low, high = min(low, int(values.min())), max(high, int(values.max()))
            kept = self._spans[name] = low, high
        return kept

    def least(self, name: str) -> int:
        return self.span(name)[0]

    def greatest(self, name: str) -> int:
        return self.span(name)[1]

    def is_one(self, name: str) -> bool:
        """Whether all rows have the same value."""
        low, high = self.span(name)
        return low >= high

    def where(self, mask: Array) -> View:
        """The rows that the mask chooses; itself where that is all of them."""
        return self if int(np.count_nonzero(mask)) == len(self) else self.take(np.flatnonzero(mask))

    def equal(self, name: str, value: int) -> View:
        """The rows with that value."""
        return self if self.span(name) == (value, value) or not self._size else self.where(self[name] == value)

    def take(self, places: Array) -> View:
        return View(len(places), lambda name: self[name][places], self._numbers)

    def none(self) -> View:
        return View(0, lambda name: np.empty(0, dtype=_KINDS.get(name, np.int64)), self._numbers)

    def override(self, name: str, values: Array) -> View:
        """The same rows with another column in place of ``name``."""
        out = View(len(self), self.__getitem__, self._numbers)
        out._kept[name] = values
        return out

    @property
    def readable(self) -> View:
        """The rows that are about a message."""
        if self._readable is None:
            self._readable = self.where(self["msg"] >= 0) if self._size and self.least("msg") < 0 else self
        return self._readable
