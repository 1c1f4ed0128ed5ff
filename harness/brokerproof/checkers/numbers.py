"""Numbers that index arrays: message numbers, lanes, processes and keys as dense ids, in the same order.

A history may number its messages 0, 1, 2 …, or from some base, or in one range per sender, or hostilely (2**62).
The first three become dense by arithmetic, at a nanosecond or so a row; only the last has to be sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from brokerproof.history import Array

#: Numbers in a block that is kept when one of them is used: 4096 wastes little where ranges are far apart.
_BLOCK_BITS = 12
#: Blocks up to this number are looked up in a table (128 MB at most), beyond it they are searched.
_TABLE_BLOCKS = 1 << 24
#: Dense ids may waste this many ids for each one used, and are always fine below the floor.
_WASTE, _FLOOR = 4, 1 << 16


def distinct(values: Array) -> Array:
    """Sorted, each once. Much faster than ``numpy.unique``, which hashes."""
    if not len(values):
        return values
    ordered = np.sort(values)
    fresh = np.empty(len(ordered), dtype=bool)
    fresh[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]


def member(values: Array, of: Array) -> Array:
    """Which of ``values`` occur in ``of``, which is sorted."""
    if not len(of):
        return np.zeros(len(values), dtype=bool)
    at = np.searchsorted(of, values)
    at[at == len(of)] = 0
    found: Array = of[at] == values
    return found


class Numbers:
    """Maps the numbers in ``columns`` to ids 0 … size - 1, keeping their order; ``number`` maps back.

    Costs two passes for the least and the greatest; where they are far apart, one more for the used blocks; where the
    blocks are too many, a sort: O(n log n). Numbers that stand in no column must not be asked for.
    """

    def __init__(self, columns: Sequence[Array]) -> None:
        columns = [c for c in columns if len(c)]
        self.base = 0
        self._blocks: Array | None = None
        self._table: Array | None = None
        self._sorted: Array | None = None
        if not columns:
            self.size = 0
            return
        low, high = min(int(c.min()) for c in columns), max(int(c.max()) for c in columns)
        most = max(_WASTE * max(len(c) for c in columns), _FLOOR)
        if low >= 0 and high < most:
            self.size = high + 1
        elif high - low < most:
            self.base, self.size = low, high - low + 1
        else:
            self._sparse(columns, low, high, most)

    def _sparse(self, columns: Sequence[Array], low: int, high: int, most: int) -> None:
        last = high >> _BLOCK_BITS
        if low >= 0 and last < _TABLE_BLOCKS:
            used = np.zeros(last + 1, dtype=bool)
            for column in columns:
                used[column >> _BLOCK_BITS] = True
            blocks = np.flatnonzero(used)
        else:
            blocks = distinct(
                np.concatenate([distinct(c.astype(np.int64, copy=False) >> _BLOCK_BITS) for c in columns])
            )
        self.size = len(blocks) << _BLOCK_BITS
        if self.size > most:
            self._sorted = distinct(np.concatenate([distinct(c.astype(np.int64, copy=False)) for c in columns]))
            self.size = len(self._sorted)
            return
        self._blocks = blocks
        if low >= 0 and last < _TABLE_BLOCKS:
            self._table = np.zeros(last + 1, dtype=np.int64)
            self._table[blocks] = np.arange(len(blocks)) << _BLOCK_BITS

    def ids(self, values: Array) -> Array:
        """int64 ids; the very same array where the numbers are dense already."""
        if self._sorted is not None:
            return np.searchsorted(self._sorted, values)
        if self._blocks is None:
            wide = values.astype(np.int64, copy=False)
            return wide - self.base if self.base else wide
        blocks = values.astype(np.int64, copy=False) >> _BLOCK_BITS
        within = values.astype(np.int64, copy=False) & ((1 << _BLOCK_BITS) - 1)
        if self._table is None:
            within += np.searchsorted(self._blocks, blocks) << _BLOCK_BITS
        else:
            within += self._table[blocks]
        return within

    def has(self, values: Array) -> Array:
        """Which of the values have an id. Ids are given to whole blocks, so some of numbers that stand nowhere do."""
        out: Array
        if self._sorted is not None:
            out = member(values, self._sorted)
        elif self._blocks is not None:
            out = member(values.astype(np.int64, copy=False) >> _BLOCK_BITS, self._blocks)
        else:
            out = (values >= self.base) & (values < self.base + self.size)
        return out

    def number(self, ids: Array) -> Array:
        """The numbers of these ids."""
        if self._sorted is not None:
            return self._sorted[ids] if len(self._sorted) else ids
        if self._blocks is None:
            return ids + self.base
        out: Array = (self._blocks[ids >> _BLOCK_BITS] << _BLOCK_BITS) + (ids & ((1 << _BLOCK_BITS) - 1))
        return out


class Labels:
    """Small dense codes for lanes, processes or keys. Costs a pass for the span; sorts only what is far apart."""

    def __init__(self, columns: Sequence[Array]) -> None:
        self._numbers = Numbers(columns)
        self.size = max(1, self._numbers.size)

    def codes(self, values: Array) -> Array:
        return self._numbers.ids(values)

    def present(self, values: Array) -> Array:
        """The distinct values, sorted."""
        used = np.zeros(self.size, dtype=bool)
        used[self.codes(values)] = True
        return self._numbers.number(np.flatnonzero(used))


def bits(count: int) -> int:
    """How many bits tell ``count`` things apart."""
    return max(1, (max(count, 1) - 1).bit_length())


def holding(count: int) -> type[np.generic]:
    """The integers for values from -1 to ``count``: four bytes where that is enough. Half the memory is half the time."""
    return np.int32 if count < np.iinfo(np.int32).max else np.int64


def by_value(values: Array) -> Iterator[tuple[int, Array]]:
    """(value, where it stands) for each distinct value. O(n log n) once, however many there are."""
    if not len(values):
        return
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    for low, high in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        yield int(ordered[low]), order[low:high]


def packed_order(groups: Array, count: int) -> tuple[Array, Array]:
    """(order, groups in that order): by group, and within one as they stand. O(n) for up to 65536 groups, which numpy
    sorts digit by digit; else O(n log n), but of a plain integer sort: of (group, place) packed into one integer, which
    is several times as fast as a stable argsort.
    """
    n = len(groups)
    if count <= 1 << 16:
        order = np.argsort(groups.astype(np.uint16), kind="stable")
        return order, groups[order]
    low = bits(n)
    if bits(count) + low > 62:
        order = np.argsort(groups, kind="stable")
        return order, groups[order]
    packed = (groups.astype(np.int64, copy=False) << low) | np.arange(n, dtype=np.int64)
    packed.sort()
    return packed & ((1 << low) - 1), packed >> low
