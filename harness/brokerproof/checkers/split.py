"""Which rows of a history belong together, so that it can be judged part by part.

What the checkers compare is always about one message, about one stream (sender's slot, ordering key), or about one lane
that has positions, commits, several groups or copies that must arrive. Streams and such lanes are *nodes*; a message
links the nodes that its rows touch, and routes link lanes. What is linked lies in one part; messages without any node
are parts of their own. Parts are packed into so many as asked for; one that is too large stays whole.

    survey(history)             one pass: counts, and a *sketch*, one row for each combination that checkers ask sets about
    split = Split(..., parts)   a second pass: message -> part
    split.spill(folder)         a third pass: every part as a history in a file; as much disk as the history itself

In a part the messages are numbered anew, 0 … in the same order, so that its arrays over messages are dense.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from brokerproof.checkers.index import Index, Lane
from brokerproof.checkers.numbers import Numbers, distinct
from brokerproof.checkers.view import Window, windows
from brokerproof.history import COLUMNS, FUNCTIONS, ROW_BYTES, UNREADABLE, Array, F, History, Parts

_ABOUT_MESSAGES = tuple(F[f] for f in ("send", "receive", "settle", "effect"))
#: Rows that every part gets: they are about nobody's message, or about a process.
_FOR_ALL = tuple(F[f] for f in ("fault", "control", "assign", "revoke", "txn_begin", "txn_commit", "txn_abort"))
_NUMBERED = ("send", "receive", "effect")
#: Pages of the file that may be held at once.
_HELD_ROWS = 1 << 21
_BIG = np.iinfo(np.int64).max
_FREE_BITS = 6
#: Rows that wait in memory before they are written, over all parts, and at least for each.
_SPILL_ROWS, _SPILL_MIN = 1 << 19, 1 << 11
#: Columns so that each begins at a multiple of its width.
_BY_WIDTH = tuple(sorted(COLUMNS, key=lambda column: -np.dtype(column[1]).itemsize))


@dataclass(slots=True)
class Survey:
    """What one pass over a history tells.

    exercised: function -> outcome code -> rows.  low, high: of the message numbers that were sent, received or done.
    streams: packed (slot, key) of all sends with a key, sorted.  sketch: see above; its ``fault`` and ``control`` rows
    are the real ones.  strange: rows of unknown functions.  value_max: of the sends.
    """

    rows: int = 0
    strange: int = 0
    exercised: dict[str, list[int]] = field(default_factory=dict)
    low: int = _BIG
    high: int = -1
    value_max: int = -1
    streams: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sketch: History | None = None

    @property
    def operations(self) -> int:
        return sum(sum(by) for f, by in self.exercised.items() if f not in ("fault", "control"))


def survey(history: History) -> Survey:
    """O(rows), a window at a time."""
    out = Survey()
    n = len(history.meta.processes)
    kinds = list(
        dict.fromkeys(
            (history.meta.processes[slot], history.meta.groups[slot] if slot < len(history.meta.groups) else "")
            for slot in range(n)
        )
    )
    kind_of = np.array(
        [
            kinds.index((history.meta.processes[slot], history.meta.groups[slot] if slot < len(history.meta.groups) else ""))
            for slot in range(n)
        ]
        + [len(kinds)],
        dtype=np.int64,
    )  # fmt: skip
    combinations: list[Array] = []
    real: list[dict[str, Array]] = []
    counts = np.zeros((len(FUNCTIONS) + 1, 4), dtype=np.int64)
    for window in held(history):
        f, outcome, msg, lane = window["f"], window["outcome"], window["msg"], window["lane"]
        out.rows += window.size
        counts += np.bincount((f.astype(np.int64) + 1) * 4 + outcome + 1, minlength=counts.size).reshape(counts.shape)
        numbered = (msg >= 0) & np.isin(f, [F[name] for name in _NUMBERED])
        if numbered.any():
            out.low, out.high = min(out.low, int(msg[numbered].min())), max(out.high, int(msg[numbered].max()))
        sends = f == F["send"]
        if sends.any():
            out.value_max = max(out.value_max, int(window["value"][sends].max()))
        key = window["key"]
        keyed = np.flatnonzero(sends & (key >= 0) & (msg >= 0))
        process = window["process"]
        if len(keyed):
            here = distinct(_streams(process[keyed], key[keyed], n))
            out.streams = distinct(np.concatenate([out.streams, here]))
        shown = np.flatnonzero((f >= 0) & (f != F["fault"]) & (f != F["control"]))
        kind = kind_of[np.where(process >= 0, process % n, n)] if n else np.zeros(window.size, dtype=np.int64)
        # 32 bits of lane, then error, outcome, function, the signs of message and position, kind of client.
        code = kind[shown]
        for column, bits in (
            (np.minimum(msg[shown], 0) + 2, 2), (window["pos"][shown] >= 0, 1), (f[shown], 4), (outcome[shown] + 1, 2),
            (window["error"][shown] != 0, 1),
        ):  # fmt: skip
            code = (code << bits) | np.clip(column, 0, (1 << bits) - 1)
        combinations.append(distinct((code << 32) | (lane[shown].astype(np.int64) & 0xFFFFFFFF)))
        if len(combinations) > 64:
            combinations = [distinct(np.concatenate(combinations))]
        odd = np.flatnonzero((f == F["fault"]) | (f == F["control"]))
        if len(odd):
            real.append({name: window[name][odd] for name, _ in COLUMNS})
    out.strange = int(counts[0].sum())
    out.exercised = {name: counts[code + 1, 1:].tolist() for name, code in F.items() if counts[code + 1].any()}
    out.sketch = History(
        history.meta, Parts([*real, _sketch(combinations, kind_of)], lambda: None), history.errors, history.torn
    )
    return out


def _sketch(combinations: Sequence[Array], kind_of: Array) -> dict[str, Array]:
    """A row for each combination; columns that no set is asked about are -1."""
    code = distinct(np.concatenate(combinations)) if combinations else np.empty(0, dtype=np.int64)
    rows = {name: np.full(len(code), -1, dtype=kind) for name, kind in COLUMNS}
    rows["lane"] = (code & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    code = code >> 32
    for name, bits in (("error", 1), ("outcome", 2), ("f", 4), ("pos", 1), ("msg", 2)):
        rows[name] = (code & ((1 << bits) - 1)).astype(rows[name].dtype)
        code = code >> bits
    rows["outcome"] -= 1
    rows["pos"] -= 1
    rows["msg"] -= 2
    slots = np.array([int(np.flatnonzero(kind_of == kind)[0]) for kind in range(int(kind_of.max()) + 1)])
    no_slots = len(kind_of) == 1
    rows["process"] = np.zeros(len(code), dtype=np.int32) if no_slots else slots[code].astype(np.int32)
    if not no_slots:
        rows["process"][code == kind_of[-1]] = -1
    rows["start_ns"][:] = rows["end_ns"][:] = 0
    return rows


def held(history: History) -> Iterator[Window]:
    """The windows of a history; the pages behind them are given back."""
    rows = 0
    for window in windows(history):
        yield window
        rows += window.size
        if rows > _HELD_ROWS:
            rows = 0
            history.release()
    history.release()


def _streams(process: Array, key: Array, slots: int) -> Array:
    sender = np.where(process >= 0, process % slots, process) if slots else process
    return (sender.astype(np.int64) << 32) | key.astype(np.int64)


class PartIndex(Index):
    """The index of a part; facts about lanes are those of the whole."""

    def __init__(self, history: History, facts: Index, judged: frozenset[int]) -> None:
        super().__init__(history)
        self._facts = facts
        self.kept["lanes judged by effect"] = judged

    @cached_property
    def has_effects(self) -> bool:
        return self._facts.has_effects

    @cached_property
    def undrained_lanes(self) -> tuple[int, ...]:
        return self._facts.undrained_lanes

    @cached_property
    def logs(self) -> frozenset[int]:
        return self._facts.logs

    def lane(self, number: int) -> Lane:
        return self._facts.lane(number)


class Split:
    """Assigns every row of a history to one of ``parts`` parts (some to all)."""

    def __init__(self, history: History, seen: Survey, parts: int) -> None:
        self.history, self.parts = history, parts
        self._seen = seen
        assert seen.sketch is not None
        self.facts = Index(seen.sketch)
        self._numbers = _numbers(history, seen)
        nodes = sorted(self._lanes_with_nodes())
        self._lane_nodes = np.array(nodes, dtype=np.int64)
        self._parent: Array = np.arange(len(nodes) + len(seen.streams))
        self._part_of = self._assign()

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _lanes_with_nodes(self) -> set[int]:
        facts = self.facts
        lanes = set().union(*(facts.lanes_of(facts.view(f)) for f in FUNCTIONS if f not in ("fault", "control")))
        if facts.groups or facts.has_musts:
            return lanes
        out = (lanes & facts.logs) | set(facts.lanes_of(facts.view("commit")))
        while True:
            linked = {m for n, to in facts.routes.items() for m in (n, *to) if out & {n, *to}} & lanes
            if linked <= out:
                return out
            out |= linked

    def _node_of_lane(self, lanes: Array) -> Array:
        """The node of each lane, -1 where it has none."""
        if not len(self._lane_nodes):
            return np.full(len(lanes), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._lane_nodes, lanes), len(self._lane_nodes) - 1)
        return np.where(self._lane_nodes[at] == lanes, at, -1)

    def _root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    def _link(self, one: Array, other: Array) -> None:
        apart = np.flatnonzero(one != other)
        for pair in distinct((one[apart] << 32) | other[apart]).tolist():
            left, right = self._root(pair >> 32), self._root(pair & 0xFFFFFFFF)
            self._parent[max(left, right)] = min(left, right)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _assign(self) -> Array:
        """The part of each message, by its place among the numbers."""
        node_of = np.full(self._numbers.size, -1, dtype=np.int32)
        weight = np.zeros(len(self._parent) + 1, dtype=np.int64)
        for number, to in self.facts.routes.items():
            mine = self._node_of_lane(np.array([number, *to]))
            mine = mine[mine >= 0]
            if len(mine):
                self._link(np.full(len(mine), mine[0]), mine)
        unreadable = self._node_of_lane(np.array(sorted(self.facts.lanes_of(self.facts.unreadable)), dtype=np.int64))
        if len(unreadable):  # what cannot be read is shown in the order of its rows, so it stays together
            together = unreadable[unreadable >= 0]
            if len(together):
                self._link(np.full(len(together), together[0]), together)
        self._unreadable_node = int(unreadable.max(initial=-1))
        n = len(self.history.meta.processes)
        for window in held(self.history):
            about, ids = self._about(window)
            f = window["f"][about]
            lanes = self._node_of_lane(window["lane"][about])
            weight += np.bincount(lanes + 1, minlength=len(weight))
            self._meet(node_of, ids, lanes)
            key = window["key"][about]
            keyed = np.flatnonzero((f == F["send"]) & (key >= 0))
            if len(keyed):
                streams = _streams(window["process"][about][keyed], key[keyed], n)
                nodes = np.searchsorted(self._seen.streams, streams) + len(self._lane_nodes)
                weight[1:] += np.bincount(nodes, minlength=len(weight) - 1)
                self._meet(node_of, ids[keyed], nodes)
        self._part_of_node = self._pack(weight[1:])
        out = np.empty(len(node_of), dtype=np.int16)
        for low in range(0, len(out), 1 << 20):
            mine = node_of[low : low + (1 << 20)]
            free = (np.arange(low, low + len(mine)) >> _FREE_BITS) % self.parts
            out[low : low + len(mine)] = np.where(mine >= 0, self._part_of_node[mine], free)
        return out

    def _meet(self, node_of: Array, ids: Array, nodes: Array) -> None:
        """Messages meet nodes (-1: none); the first that a message met stands for it, all others are linked to it."""
        some = np.flatnonzero(nodes >= 0)
        ids, nodes = ids[some], nodes[some]
        new = node_of[ids] < 0
        node_of[ids[new]] = nodes[new]
        self._link(node_of[ids].astype(np.int64), nodes)

    def _pack(self, weight: Array) -> Array:
        """The part of each node: the heaviest first, each into the part that has least."""
        roots = np.array([self._root(node) for node in range(len(self._parent))], dtype=np.int64)
        total = np.bincount(roots, weights=weight, minlength=len(roots)) if len(roots) else np.empty(0)
        load = [0.0] * self.parts
        part_of_root = np.zeros(len(roots), dtype=np.int16)
        for root in np.argsort(-total, kind="stable").tolist():
            if roots[root] == root:
                least = load.index(min(load))
                part_of_root[root] = least
                load[least] += total[root] + 1
        self.heaviest = int(total.max(initial=0))
        return part_of_root[roots] if len(roots) else np.zeros(1, dtype=np.int16)

    def _about(self, window: Window) -> tuple[Array, Array]:
        """(places, ids) of rows about messages that have an id."""
        f, msg = window["f"], window["msg"]
        about = np.flatnonzero((msg >= 0) & np.isin(f, _ABOUT_MESSAGES))
        mine = msg[about]
        known = self._numbers.has(mine)
        if not known.all():
            about, mine = about[known], mine[known]
        return about, self._numbers.ids(mine)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def spill(self, folder: Path) -> Iterator[tuple[History, Array]]:
        """(a part, number of each of its messages), part after part; its file is removed behind it. O(rows)."""
        local = np.empty(self._numbers.size, dtype=np.int32)
        sizes = []
        for nth in range(self.parts):
            mine = np.flatnonzero(self._part_of == nth)
            local[mine] = np.arange(len(mine), dtype=np.int32)
            sizes.append(len(mine))
        files = [
            _Spilled(folder / f"part-{nth}", max(_SPILL_MIN, _SPILL_ROWS // self.parts)) for nth in range(self.parts)
        ]
        for window in held(self.history):
            self._deal(window, local, sizes, files)
        del local
        for nth, file in enumerate(files):
            yield file.history(self.history), self._numbers.number(np.flatnonzero(self._part_of == nth))
            file.path.unlink()

    def _deal(self, window: Window, local: Array, sizes: Sequence[int], files: Sequence[_Spilled]) -> None:
        f, msg = window["f"], window["msg"]
        lanes = self._node_of_lane(window["lane"])
        home: Array = np.where(lanes >= 0, self._part_of_node[lanes], 0)
        if self._unreadable_node >= 0:
            home[(msg == UNREADABLE) & (f == F["receive"])] = self._part_of_node[self._unreadable_node]
        about, ids = self._about(window)
        home[about] = self._part_of[ids]
        # A number without an id, which nobody sent, received or did, stays one: it lies behind all others of its part.
        renumbered = np.where(msg >= 0, np.array(sizes, dtype=np.int64)[home], msg)
        renumbered[about] = local[ids]
        columns = {name: renumbered if name == "msg" else window[name] for name, _ in COLUMNS}
        for_all = np.isin(f, _FOR_ALL)
        if for_all.any():
            chosen = [np.flatnonzero((home == nth) | for_all) for nth in range(self.parts)]
        else:
            order = np.argsort(home, kind="stable")
            chosen = np.split(order, np.searchsorted(home[order], np.arange(1, self.parts)))
        for file, rows in zip(files, chosen, strict=True):
            if len(rows):
                file.append({name: column[rows] for name, column in columns.items()})


class _Spilled:
    """The rows of a part in a file: pieces of some rows, in each of them column after column, the widest first."""

    def __init__(self, path: Path, rows_min: int) -> None:
        self.path = path
        self._rows_min = rows_min
        self._waiting: list[dict[str, Array]] = []
        self._rows = 0
        self._pieces: list[tuple[int, int]] = []
        self._end = 0
        path.touch()

    def append(self, columns: dict[str, Array]) -> None:
        self._waiting.append(columns)
        self._rows += len(columns["f"])
        if self._rows >= self._rows_min:
            self._write()

    def _write(self) -> None:
        with self.path.open("ab") as file:
            for name, kind in _BY_WIDTH:
                np.concatenate([piece[name] for piece in self._waiting]).astype(kind, copy=False).tofile(file)
            end = self._end + self._rows * ROW_BYTES
            file.write(bytes(-end % 8))
        self._pieces.append((self._end, self._rows))
        self._end, self._waiting, self._rows = end + -end % 8, [], 0

    def history(self, whole: History) -> History:
        """The part, mapped from the file."""
        if self._rows:
            self._write()
        if not self._pieces:
            return History(whole.meta, Parts([], lambda: None), whole.errors, whole.torn)
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        pieces = []
        for at, rows in self._pieces:
            columns: dict[str, Array] = {}
            for name, kind in _BY_WIDTH:
                columns[name] = np.frombuffer(mapped, dtype=kind, count=rows, offset=at)
                at += columns[name].nbytes
            pieces.append(columns)
        return History(whole.meta, Parts(pieces, lambda: mapped.madvise(mmap.MADV_DONTNEED)), whole.errors, whole.torn)


def _numbers(history: History, seen: Survey) -> Numbers:
    """As the index of the whole would number its messages."""
    ends = np.array([seen.low, seen.high], dtype=np.int64)
    if seen.high < 0:
        return Numbers([])
    rows = max(sum(seen.exercised.get(f, [0])) for f in _NUMBERED)
    if seen.high - seen.low < 4 * rows:
        return Numbers([np.broadcast_to(ends[:1], rows), ends])
    columns = []
    for f in _NUMBERED:
        mine = [distinct(w["msg"][(w["f"] == F[f]) & (w["msg"] >= 0)]) for w in held(history)]
        columns.append(distinct(np.concatenate(mine)) if mine else ends[:0])
    return Numbers(columns)
