"""``check`` within a given memory: part by part, the same answer.

    check_within(history, memory_bytes)      whole where it fits, else in as many parts as it takes

What adds up is judged in every part and merged (``partial.py``). What is about times over all messages (pauses,
latencies) is judged once, from the times alone, which lie on disk until then. What neither adds up nor is about times
stays whole; where that does not fit either, it is not judged, and ``missing`` says so: the answer is then UNKNOWN. What
single injections cost (``recovery.py``) is for the trials of a run, and left out in parts.
"""

from __future__ import annotations

import gc
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from brokerproof.checkers.base import check, checkers, judge
from brokerproof.checkers.effect_lost import judged_lanes
from brokerproof.checkers.index import Index, Lane
from brokerproof.checkers.lost import places
from brokerproof.checkers.numbers import Numbers
from brokerproof.checkers.partial import Partial, merge
from brokerproof.checkers.split import PartIndex, Split, Survey, survey
from brokerproof.checkers.timeline import timeline
from brokerproof.checkers.unavailable import lost_span
from brokerproof.checkers.view import CHUNK, View
from brokerproof.checkers.witnesses import witnesses
from brokerproof.finding import Count, Finding
from brokerproof.history import OUTCOMES, Array, History

#: What a row costs while it is judged, by measurement: the index's columns, arrays over ids.
ROW_COST_BYTES = 90
#: What the interpreter and its libraries take.
BASE_BYTES = 110 << 20
#: Parts are not made smaller than this: each costs a fraction of a second.
PART_ROWS_MIN = 100_000
#: Arrays over all messages while parts are made.
MESSAGE_COST_BYTES = 10
#: Checkers whose classes add up over parts that ``split.py`` makes.
ADD_UP = frozenset(
    ("commit_order", "corrupted", "definition_lost", "duplicated", "effect_duplicated", "effect_lost", "effect_of_nobody",
     "effect_out_of_order", "failed_but_seen", "given_up", "inconsistent_positions", "late", "lost", "misrouted", "phantom",
     "poll_order", "recovered", "redelivered", "reordered", "resent", "send_order", "settled_but_lost", "transactions",
     "undrained", "zombie_effect")
)  # fmt: skip
#: Checkers that need only the times of sends.
OF_TIMES = ("unavailable",)
#: Checker -> functions without whose rows it has nothing to say, whatever else there is.
_SILENT_WITHOUT = {
    "g0": ("txn_begin", "txn_commit", "txn_abort"),
    "g1c": ("txn_begin", "txn_commit", "txn_abort"),
    "stale_read": ("read",),
}
_TIMES = (("start_ns", np.int64), ("end_ns", np.int64), ("due_ns", np.int64), ("outcome", np.int8))


def check_within(history: History, memory_bytes: int, note: Callable[[str], None] = lambda _: None) -> Finding:
    """Everything that all checkers say, in about that much memory; the same as ``check`` says.

    note: is told where rows hang together that do not fit; they are judged all the same, in more memory.

    Costs three passes over the history and one over a copy of it, for which there has to be temporary disk.
    """
    rows = len(history)
    if BASE_BYTES + rows * ROW_COST_BYTES <= memory_bytes:
        return check(history)
    seen = survey(history)
    left = memory_bytes - BASE_BYTES - MESSAGE_COST_BYTES * max(0, seen.high - seen.low + 1)
    if left <= 0:
        note(f"a limit of {memory_bytes:,} bytes is less than the {memory_bytes - left:,} that any check of it takes")
    wanted = -(-rows * ROW_COST_BYTES // max(left, 1))
    parts = max(2, min(wanted, rows // PART_ROWS_MIN))
    rows_max = max(0, memory_bytes - BASE_BYTES) // ROW_COST_BYTES
    return check_in_parts(history, parts, seen=seen, whole_rows_max=rows_max, note=note)


def check_in_parts(
    history: History, parts: int, *, seen: Survey | None = None, whole_rows_max: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Finding:  # fmt: skip
    """parts: how many at most.  whole_rows_max: what stays whole is judged up to so many rows; None: always."""
    seen = survey(history) if seen is None else seen
    split = Split(history, seen, parts)
    if whole_rows_max is not None and split.heaviest > whole_rows_max:
        note(
            f"{split.heaviest:,} rows of {seen.rows:,} hang together (by one ordering key, or one log) and are judged at "
            f"once; that takes about {(BASE_BYTES + split.heaviest * ROW_COST_BYTES) / 2**30:.1f} GiB"
        )
    facts = split.facts
    judged = judged_lanes(facts)
    sum_ = Partial()
    with tempfile.TemporaryDirectory(prefix="brokerproof-check-") as folder:
        sends, receives = _Strip(Path(folder) / "sends"), _Strip(Path(folder) / "receives")
        for part, numbers in split.spill(Path(folder)):
            index = PartIndex(part, facts, judged)
            sum_ = merge(sum_, partial(index).renumbered(numbers))
            sends.append(index.sends)
            receives.append(index.ok("receive"))
            part.release()
            del part, index, numbers
            gc.collect()  # an index and its views refer to each other; until they are found, two parts are in memory
        whole = _Times(facts.history, sends.view(), receives.view())
        whole.kept["lost span"] = sum_.span
        timed = judge(whole, [each for each in checkers() if each.name in OF_TIMES])
        drawn = timeline(whole)
    rest = _rest(history, seen, whole_rows_max)
    found = sum_.to_finding()
    said_of_all = _Sentences(seen, facts)
    return replace(
        found,
        operations=seen.operations,
        anomalies=dict(sorted({**found.anomalies, **timed.anomalies, **rest.anomalies}.items())),
        observations=dict(sorted({**found.observations, **timed.observations, **rest.observations}.items())),
        missing=(*said_of_all.missing(), *found.missing, *timed.missing, *rest.missing),
        exercised=said_of_all.exercised,
        metrics={**timed.metrics, **rest.metrics},
        timeline=drawn,
        witnesses=tuple(sorted((*found.witnesses, *rest.witnesses), key=lambda w: str(w["anomaly"]))),
    )


def partial(index: Index) -> Partial:
    """What adds up, of one part."""
    said = judge(index, [each for each in checkers() if each.name in ADD_UP])
    return Partial(
        anomalies=said.anomalies, observations=said.observations, missing=said.missing,
        witnesses=witnesses(index, said.anomalies), places=places(index), span=lost_span(index),
    )  # fmt: skip


def _rest(history: History, seen: Survey, rows_max: int | None) -> Finding:
    """Checkers that neither add up nor are about times: those that have nothing to say here say so; others stay whole."""
    anomalies: dict[str, Count] = {}
    observations: dict[str, Count] = {}
    missing: list[str] = []
    whole = []
    for each in checkers():
        if each.name in ADD_UP or each.name in OF_TIMES:
            continue
        if _silent(each.name, seen):
            for key, kind in each.keys.items():
                (anomalies if kind == "anomaly" else observations)[key] = Count()
        elif rows_max is None or seen.rows <= rows_max:
            whole.append(each)
        else:
            missing.append(
                f"{', '.join(each.keys)} can not be judged in parts, and {seen.rows:,} rows do not fit into the memory "
                f"limit at once; give about {(BASE_BYTES + seen.rows * ROW_COST_BYTES) / 2**30:.1f} GiB"
            )
    said = Finding()
    if whole:
        index = Index(history)
        said = judge(index, whole)
        said = replace(said, witnesses=witnesses(index, said.anomalies))
    return replace(
        said, anomalies={**anomalies, **said.anomalies}, observations={**observations, **said.observations},
        missing=(*missing, *said.missing),
    )  # fmt: skip


def _silent(name: str, seen: Survey) -> bool:
    if name == "delays":
        # As in ``due_times``: ``value`` of the sends holds nothing but confirm numbers.
        return seen.value_max <= max(2 * sum(seen.exercised.get("send", [0])), 1_000_000)
    return name in _SILENT_WITHOUT and not any(f in seen.exercised for f in _SILENT_WITHOUT[name])


def _no_numbers() -> Numbers:
    """Times are nobody's message."""
    return Numbers([])


class _Strip:
    """The times of some rows, on disk."""

    def __init__(self, stem: Path) -> None:
        self._files = {name: stem.with_suffix(f".{name}") for name, _ in _TIMES}
        for file in self._files.values():
            file.touch()
        self._size = 0

    def append(self, view: View) -> None:
        for name, kind in _TIMES:
            with self._files[name].open("ab") as file:
                for (values,) in view.chunks(name):
                    np.ascontiguousarray(values, dtype=kind).tofile(file)
        self._size += len(view)

    def view(self) -> View:
        """A chunk at a time these rows take no memory; a whole column takes what it takes."""
        columns: dict[str, Array] = {}
        maps: list[mmap.mmap] = []
        for name, kind in _TIMES:
            if not self._size:
                columns[name] = np.empty(0, dtype=kind)
                continue
            with self._files[name].open("rb") as file:
                maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            columns[name] = np.frombuffer(maps[-1], dtype=kind)

        def chunks(names: Sequence[str]) -> Iterator[tuple[Array, ...]]:
            for low in range(0, self._size, CHUNK):
                yield tuple(columns[name][low : low + CHUNK] for name in names)
                if low // CHUNK % 16 == 15:
                    for each in maps:
                        each.madvise(mmap.MADV_DONTNEED)

        return View(self._size, lambda name: columns[name], _no_numbers, chunks)


class _Times(Index):
    """The whole history as far as its times go; faults and lanes are those of the sketch."""

    def __init__(self, sketch: History, sends: View, receives: View) -> None:
        super().__init__(sketch)
        self._send_times, self._receive_times = sends, receives

    @cached_property
    def sends(self) -> View:
        return self._send_times

    def ok(self, f: str) -> View:
        return self._receive_times if f == "receive" else super().ok(f)


class _Sentences(Index):
    """What the whole says of missing evidence: counts from the survey, sets from the sketch."""

    def __init__(self, seen: Survey, facts: Index) -> None:
        super().__init__(facts.history)
        self._seen, self._facts = seen, facts

    @cached_property
    def exercised(self) -> dict[str, dict[str, int]]:
        return {
            f: dict(zip(OUTCOMES, by, strict=True))
            for f, by in self._seen.exercised.items()
            if f not in ("fault", "control")
        }

    @cached_property
    def operations(self) -> int:
        return self._seen.operations

    @cached_property
    def undrained_lanes(self) -> tuple[int, ...]:
        return self._facts.undrained_lanes

    def lane(self, number: int) -> Lane:
        return self._facts.lane(number)

    def per_group(self, view: View) -> Iterable[tuple[str, View, frozenset[int]]]:
        return self._facts.per_group(view)
