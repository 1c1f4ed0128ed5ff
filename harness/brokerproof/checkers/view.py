"""The rows of one function, as columns that are gathered from the file when they are asked for.

A column of ten million rows is eighty megabytes that the system has to find and clear first, which costs more than
looking at it. So what can be decided in passing (a least value, a count) goes through the rows in *chunks* that stay
in the processor's cache, and only what is needed again and again is kept as a whole column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from brokerproof.checkers.numbers import Numbers
from brokerproof.history import COLUMNS, FUNCTIONS, ROW_BYTES, Array, History

_KINDS: Mapping[str, type[np.generic]] = dict(COLUMNS)
#: Rows that are looked at together: a few columns of them fit into a cache of the second level.
CHUNK = 1 << 17
#: Pages of the file that may be held at once.
_HELD_BYTES = 1 << 28


#: Columns that are wanted of nearly every history, by function: taken along while its pages are at hand.
_WANTED: Mapping[str, tuple[str, ...]] = {
    "send": ("outcome", "process", "start_ns", "end_ns", "due_ns", "msg", "key", "lane", "pos", "batch"),
    "receive": ("outcome", "process", "end_ns", "msg", "lane", "pos", "attempt"),
    "settle": ("outcome", "error"),
    "effect": ("outcome", "start_ns", "end_ns", "msg", "lane", "process"),
}
#: Columns of which the least and the greatest value mostly say that there is nothing to look at.
_MEASURED: Mapping[str, tuple[str, ...]] = {"send": ("value",), "settle": ("msg",)}


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


def windows(history: History) -> Iterator[Window]:
    """The rows of a history in windows of at most ``CHUNK`` rows, whatever the sizes of its batches."""
    pieces: list[tuple[Mapping[str, Array], int, int]] = []
    size = first = 0
    for part in history.parts:
        n = len(part["f"])
        low = 0
        while low < n:
            high = min(n, low + CHUNK - size)
            pieces.append((part, low, high))
            size += high - low
            low = high
            if size == CHUNK:
                yield Window(pieces, first)
                first += size
                pieces, size = [], 0
    if size:
        yield Window(pieces, first)


class Rows:
    """Which rows of a history are of one function: per window all, a range, or places; and some columns of them."""

    def __init__(self, history: History, f: str) -> None:
        self._history = history
        self._picks: list[tuple[Window, slice | Array, int]] = []
        self._wanted, self._measured = _WANTED.get(f, ()), _MEASURED.get(f, ())
        self.size = 0
        #: Columns taken along, those with one value only as a view of that value.
        self.columns: dict[str, Array] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        self._at = 0
        self._held = 0

    def pick(self, window: Window, mask: Array, count: int) -> None:
        """The rows of the window that the mask chooses, ``count`` of them."""
        where: slice | Array = slice(0, count)
        if count < window.size:
            places = np.flatnonzero(mask)
            first = int(places[0])
            if int(places[-1]) - first + 1 == count:
                where = slice(first, first + count)
            else:
                where = places.astype(np.uint16 if window.size <= 1 << 16 else np.uint32)
        self._picks.append((window, where, count))
        self.size += count

    def take_along(self, nth: int) -> None:
        """Copies the wanted columns of the ``nth`` pick; picks come in order."""
        window, where, count = self._picks[nth]
        for name in (*self._wanted, *self._measured):
            values = _chosen(window[name], where)
            low, high = int(values.min()), int(values.max())
            span = self.spans.get(name)
            self.spans[name] = (low, high) if span is None else (min(low, span[0]), max(high, span[1]))
            if name in self._measured:
                continue
            column = self.columns.get(name)
            if column is None:
                if span is None and low == high or span == (low, high) and low == high:
                    continue  # one value so far: nothing to copy yet
                column = self.columns[name] = np.empty(self.size, dtype=_KINDS[name])
                if span is not None:
                    column[: self._at] = span[0]
            column[self._at : self._at + count] = values
        self._at += count

    def done(self) -> None:
        """All picks have been taken along."""
        for name in self._wanted:
            if name not in self.columns and self.size:
                value = np.array(self.spans[name][0], dtype=_KINDS[name])
                self.columns[name] = np.broadcast_to(value, self.size)

    @property
    def picks(self) -> Sequence[tuple[Window, slice | Array, int]]:
        return self._picks

    def gather(self, name: str) -> Array:
        """The whole column; ``row`` is the number of the row in the file."""
        out = np.empty(self.size, dtype=np.int64 if name == "row" else _KINDS[name])
        at = 0
        for values in self._pieces(name):
            out[at : at + len(values)] = values
            at += len(values)
        return out

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[Array, ...]]:
        """The columns side by side, some rows at a time."""
        return zip(*(self._pieces(name) for name in names), strict=True)

    def _pieces(self, name: str) -> Iterator[Array]:
        for window, where, _ in self._picks:
            if name == "row":
                yield _chosen(np.arange(window.first, window.first + window.size), where)
                continue
            yield _chosen(window[name], where)
            self._held += window.size * np.dtype(_KINDS[name]).itemsize
            if self._held > _HELD_BYTES:
                self._held = 0
                self._history.release()


def _chosen(values: Array, where: slice | Array) -> Array:
    return values[where] if isinstance(where, slice) else values.take(where)


def split(history: History) -> tuple[dict[str, Rows], int, int]:
    """(rows of each function; rows in all; rows whose function is not known).

    Two passes: over one byte a row for the functions, and one over the wanted columns, window by window, so that every
    page of the file is touched once. O(rows).
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
            mask = codes == code
            count = int(np.count_nonzero(mask))
            if count:
                each.pick(window, mask, count)
                mine.append((each, len(each.picks) - 1))
                left -= count
        strange += left
        work.append(mine)
    held = 0
    for mine in work:
        for each, nth in mine:
            each.take_along(nth)
        held += CHUNK * ROW_BYTES
        if held > _HELD_BYTES:
            held = 0
            history.release()
    for each in out.values():
        each.done()
    return out, rows, strange


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
