"""The rows of one function, as columns that are gathered from the file when they are asked for.

A column of ten million rows is eighty megabytes that the system has to find and clear first, which costs more than
looking at it. So what can be decided in passing (a least value, a count) goes through the rows in *chunks* that stay
in the processor's cache, and only what is needed again and again is kept as a whole column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from brokerproof.checkers.numbers import Numbers
from brokerproof.history import COLUMNS, FUNCTIONS, Array, History

_KINDS: Mapping[str, type[np.generic]] = dict(COLUMNS)
#: Rows that are looked at together: a few columns of them fit into a cache of the second level.
CHUNK = 1 << 17
#: Pages of the file that may be held at once.
_HELD_BYTES = 1 << 28


class Rows:
    """Which rows of a history are of one function: per piece of the file all, a range, or places."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._picks: list[tuple[Mapping[str, Array], slice | Array, int, int]] = []
        self.size = 0
        self._held = 0

    def add(self, part: Mapping[str, Array], mask: Array, count: int, offset: int) -> None:
        """The rows of ``part`` that ``mask`` chooses, ``count`` of them; the piece begins at row ``offset``."""
        where: slice | Array = slice(0, count)
        if count < len(mask):
            places = np.flatnonzero(mask)
            first = int(places[0])
            if int(places[-1]) - first + 1 == count:
                where = slice(first, first + count)
            else:
                where = places.astype(np.uint16 if len(mask) <= 1 << 16 else np.uint32)
        self._picks.append((part, where, count, offset))
        self.size += count

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
        for part, where, count, offset in self._picks:
            for low in range(0, count, CHUNK):
                high = min(count, low + CHUNK)
                if isinstance(where, slice):
                    span = slice(where.start + low, where.start + high)
                    yield np.arange(span.start, span.stop) + offset if name == "row" else part[name][span]
                elif name == "row":
                    yield where[low:high].astype(np.int64) + offset
                else:
                    yield part[name].take(where[low:high])
            if name != "row":
                self._held += len(part["process"]) * np.dtype(_KINDS[name]).itemsize
                if self._held > _HELD_BYTES:
                    self._held = 0
                    self._history.release()


def split(history: History) -> tuple[dict[str, Rows], int, int]:
    """(rows of each function; rows in all; rows whose function is not known). O(rows) over one byte each."""
    out = {name: Rows(history) for name in FUNCTIONS}
    offset = strange = 0
    for part in history.parts:
        codes = part["f"]
        left = len(codes)
        for code, rows in enumerate(out.values()):
            if not left:
                break
            mask = codes == code
            count = int(np.count_nonzero(mask))
            if count:
                rows.add(part, mask, count, offset)
                left -= count
        strange += left
        offset += len(codes)
    return out, offset, strange


class View:
    """Some rows. ``view[column]`` gathers a column and keeps it. Besides the columns of the history there are ``row``
    (the number of the row in the file) and ``ids`` (the dense id of ``msg``; only where no ``msg`` is negative)."""

    def __init__(
        self,
        size: int,
        gather: Callable[[str], Array],
        numbers: Callable[[], Numbers],
        chunks: Callable[[Sequence[str]], Iterator[tuple[Array, ...]]] | None = None,
    ) -> None:
        self._size = size
        self._gather = gather
        self._numbers = numbers
        self._chunks = chunks
        self._kept: dict[str, Array] = {}
        self._spans: dict[str, tuple[int, int]] = {}
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
