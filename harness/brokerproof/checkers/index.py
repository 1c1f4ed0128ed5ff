"""What checkers share: the columns of a history by function, and one array per fact about a message.

Everything is computed when it is first asked for, in passes over whole columns, and kept. A *view* is the rows of one
function (or some of them). Messages have dense *ids* in the order of their numbers (``numbers.py``); a fact about
messages is an array over ids, e.g. ``acknowledged[id]``. Memory is bounded by the rows of one function at a time: the
pages of the file are given back as soon as a column has been gathered from it.

Several checkers may ask at once, each in a thread of its own: what is computed does not change, so the worst that can
happen is that something small is computed twice; what is large goes through ``Index.once``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from brokerproof.checkers.numbers import Labels, Numbers, by_value, distinct, member
from brokerproof.checkers.view import Rows, View, split
from brokerproof.finding import MESSAGES_MAX, Count
from brokerproof.history import COLUMNS, FAIL, FUNCTIONS, INFO, OK, OUTCOMES, UNREADABLE, Array, History, Meta

_T = TypeVar("_T")
_KINDS: Mapping[str, type[np.generic]] = dict(COLUMNS)
_NOT_OPERATIONS = ("fault", "control")


@dataclass(frozen=True, slots=True)
class Lane:
    """closure: the lanes that its messages may be found in, itself included. musts: those that each have to get them."""

    number: int
    name: str
    is_log: bool
    closure: frozenset[int]
    musts: frozenset[int]
    drained: bool
    gone: bool


class Index:
    """Shared facts about one history. Every array over messages has ``size`` entries."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.meta: Meta = history.meta
        self._scratch = threading.local()
        self._ok: dict[str, View] = {}
        self._tables: dict[str, Array] = {}
        self._lanes: dict[int, Lane] = {}
        self._views: dict[str, View] = {}
        #: What ``once`` keeps; whoever judges a part of a history lays in what is known of the whole.
        self.kept: dict[str, Any] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` makes, made when it is first asked for. name: unique among all that share the index."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            if name not in self.kept:
                self.kept[name] = make()
            kept: _T = self.kept[name]
            return kept

    # -- rows by function ----------------------------------------------------------------------------------------------

    @cached_property
    def _split(self) -> tuple[dict[str, Rows], int, int]:
        return split(self.history)

    @property
    def rows(self) -> int:
        return self._split[1]

    def view(self, f: str) -> View:
        """All rows of the function ``f``."""
        kept = self._views.get(f)
        if kept is None:
            rows = self._split[0][f]
            kept = self._views[f] = View(
                rows.size, rows.gather, lambda: self.numbers, rows.chunks, rows.columns, rows.spans
            )
        return kept

    @cached_property
    def exercised(self) -> dict[str, dict[str, int]]:
        """function -> outcome -> rows, for operations that occur at all."""
        out = {}
        for f in FUNCTIONS:
            view = self.view(f)
            if len(view) and f not in _NOT_OPERATIONS:
                counts = dict.fromkeys(OUTCOMES, 0)
                low, high = view.span("outcome")
                for code, name in enumerate(OUTCOMES):
                    if low == high == code:
                        counts[name] = len(view)
                    elif low <= code <= high:
                        counts[name] = sum(int(np.count_nonzero(o == code)) for (o,) in view.chunks("outcome"))
                out[f] = counts
        return out

    @cached_property
    def operations(self) -> int:
        return sum(len(self.view(f)) for f in FUNCTIONS if f not in _NOT_OPERATIONS)

    def ok(self, f: str) -> View:
        """The rows of ``f`` that happened."""
        kept = self._ok.get(f)
        if kept is None:
            view = self.view(f)
            every = self.exercised.get(f, {}).get("ok") == len(view)
            kept = self._ok[f] = view if every or not len(view) else view.where(view["outcome"] == OK)
        return kept

    # -- sends ---------------------------------------------------------------------------------------------------------

    @cached_property
    def sends(self) -> View:
        """Every attempt to send a numbered message; a send in a transaction has the transaction's outcome."""
        return self._in_transactions(self.view("send").readable)

    @cached_property
    def acknowledgements(self) -> View:
        """Sends that are ``ok``."""
        sends = self.sends
        if sends is self.view("send") and self.exercised.get("send", {}).get("ok") == len(sends):
            return sends
        return sends.where(sends["outcome"] == OK)

    def transactions(self, *outcomes: tuple[str, int]) -> Array:
        """Sorted codes of (process, batch) of the transactions that have such a row, e.g. ("txn_abort", OK)."""
        codes = [np.empty(0, dtype=np.int64)]
        for f, outcome in outcomes:
            view = self.view(f)
            if len(view):
                codes.append(batch_codes(view)[view["outcome"] == outcome])
        return distinct(np.concatenate(codes))

    @cached_property
    def aborted(self) -> Array:
        """Transactions that were aborted for certain."""
        gone = self.transactions(("txn_abort", OK))
        return gone[~member(gone, self.transactions(("txn_commit", OK), ("txn_commit", INFO)))]

    @cached_property
    def has_transactions(self) -> bool:
        return any(len(self.view(f)) for f in ("txn_begin", "txn_commit", "txn_abort"))

    def _in_transactions(self, view: View) -> View:
        if not self.has_transactions or view.greatest("batch") < 0:
            return view
        codes = batch_codes(view)
        inside = view["batch"] >= 0
        known = self.transactions(*((f, o) for f in ("txn_begin", "txn_commit", "txn_abort") for o in (OK, FAIL, INFO)))
        outcome = view["outcome"].copy()
        inside &= member(codes, known)
        committed = member(codes, self.transactions(("txn_commit", OK)))
        outcome[inside & ~committed & (outcome == OK)] = INFO
        outcome[inside & member(codes, self.aborted)] = FAIL
        return view.override("outcome", outcome)

    # -- messages ------------------------------------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> Numbers:
        """The ids of all message numbers that were sent, received or had an effect."""
        return Numbers([self.view(f).readable["msg"] for f in ("send", "receive", "effect") if len(self.view(f))])

    @property
    def size(self) -> int:
        return self.numbers.size

    def flags(self, ids: Array) -> Array:
        """An array over messages that is true for these."""
        # Not ``zeros``: that memory comes in small pages, one fault for each.
        out = np.empty(self.size, dtype=bool)
        out.fill(False)
        out[ids] = True
        return out

    def scratch(self, size: int, value: int, kind: type[np.generic] = np.int64) -> Array:
        """An array of integers filled with one value, in memory that all checkers of a thread use in turn: only until
        the next call."""
        kept: Array | None = getattr(self._scratch, "memory", None)
        needed = size * np.dtype(kind).itemsize
        if kept is None or len(kept) < needed:
            kept = self._scratch.memory = np.empty(needed, dtype=np.uint8)
        out = kept[:needed].view(kind)
        out.fill(value)
        return out

    def count(self, ids: Array, **details: Any) -> Count:
        """A count of these messages (ids, each once), with the first of their numbers."""
        first = self.numbers.number(np.sort(ids)[:MESSAGES_MAX])
        return Count(count=len(ids), messages=tuple(int(n) for n in first), details=details)

    @cached_property
    def sent(self) -> Array:
        """Whether somebody tried to send the message."""
        return self.flags(self.sends.ids)

    @cached_property
    def acknowledged(self) -> Array:
        return self.sent if self.acknowledgements is self.sends else self.flags(self.acknowledgements.ids)

    @cached_property
    def maybe(self) -> Array:
        """No send of the message is ``ok``, and one is ``info``."""
        unknown = self.sends["outcome"] == INFO
        return self.flags(self.sends.ids[unknown]) & ~self.acknowledged

    @cached_property
    def refused(self) -> Array:
        """Every send of the message definitely failed."""
        if self.acknowledgements is self.sends:
            return np.zeros(self.size, dtype=bool)
        return self.sent & ~self.acknowledged & ~self.maybe

    @cached_property
    def resends(self) -> View:
        """All send rows of messages that were sent more than once."""
        if not len(self.sends) or int(np.count_nonzero(self.sent)) == len(self.sends):
            return self.sends.none()
        ids = self.sends.ids
        place = np.empty(self.size, dtype=np.int64)
        place[ids] = np.arange(len(ids))
        again = self.flags(ids[place[ids] != np.arange(len(ids))])
        return self.sends.where(again[ids])

    @cached_property
    def resent(self) -> Array:
        """Whether the application sent the message more than once."""
        return self.flags(self.resends.ids)

    @cached_property
    def first_sends(self) -> View:
        """The first attempt of each message; it says sender, key and place."""
        if not len(self.resends):
            return self.sends
        again = self.resends
        order = np.lexsort((again["row"], again["start_ns"], again.ids))
        ids = again.ids[order]
        later = np.concatenate([[False], ids[1:] == ids[:-1]])
        # A first attempt that came to nothing known may not say its lane; the next one that does, does.
        lanes = again["lane"][order]
        lane_of = dict(zip(ids[::-1][lanes[::-1] >= 0].tolist(), lanes[::-1][lanes[::-1] >= 0].tolist(), strict=True))
        keep = np.ones(len(self.sends), dtype=bool)
        keep[np.searchsorted(self.sends["row"], again["row"][order[later]])] = False
        firsts = self.sends.where(keep)
        nowhere = (firsts["lane"] < 0) & self.resent[firsts.ids]
        if nowhere.any():
            filled = firsts["lane"].copy()
            filled[nowhere] = [lane_of.get(i, -1) for i in firsts.ids[nowhere].tolist()]
            firsts = firsts.override("lane", filled)
        return firsts

    @cached_property
    def _in_order(self) -> bool:
        """Whether the first sends are all messages, in order: then a column of them is an array over messages."""
        ids = self.first_sends.ids
        return len(ids) == self.size and bool(self.size) and bool((ids[1:] > ids[:-1]).all())

    def of_message(self, column: str) -> Array:
        """A column of the first send, over messages; -1 where nobody sent the message."""
        kept = self._tables.get(column)
        if kept is None:
            firsts = self.first_sends
            if self._in_order:
                kept = firsts[column]
            else:
                kept = np.full(self.size, -1, dtype=_KINDS[column])
                kept[firsts.ids] = firsts[column]
            self._tables[column] = kept
        return kept

    # -- receives ------------------------------------------------------------------------------------------------------

    @cached_property
    def receives(self) -> View:
        """``ok`` receives of readable messages, wherever."""
        return self.ok("receive").readable

    @cached_property
    def misrouted(self) -> Array:
        """Places in ``receives`` of messages in a lane that the routes do not allow."""
        view = self.receives
        if not len(view) or not len(self.sends):
            return np.empty(0, dtype=np.int64)
        if view.is_one("lane") and view.span("lane") == self.first_sends.span("lane"):
            return np.empty(0, dtype=np.int64)
        lane_of = self.of_message("lane")
        suspects, offset = [], 0
        for ids, there in view.chunks("ids", "lane"):
            came = lane_of[ids]
            suspects.append(np.flatnonzero((came != there) & (came >= 0) & (there >= 0)) + offset)
            offset += len(ids)
        wrong = np.concatenate(suspects)
        there = view["lane"] if len(wrong) else wrong
        if len(wrong):
            wrong = wrong[~self._allowed(lane_of[view.ids[wrong]], there[wrong])]
        if len(wrong) and len(self.resends):
            # A later attempt may have gone to another lane.
            again = self.resends
            ids = view.ids[wrong]
            fine = np.zeros(len(wrong), dtype=bool)
            for lane, places in by_value(again["lane"]):
                to = distinct(again.ids[places])
                mine = np.flatnonzero(member(ids, to))
                fine[mine] |= (lane < 0) | self._allowed(np.full(len(mine), lane), there[wrong[mine]])
            wrong = wrong[~fine]
        return wrong

    def _allowed(self, sent_to: Array, found_in: Array) -> Array:
        fine: Array = sent_to == found_in
        for lane, places in by_value(sent_to):
            closure = self.lane(lane).closure
            if len(closure) > 1:
                fine[places] |= np.isin(found_in[places], list(closure))
        return fine

    @cached_property
    def arrivals(self) -> View:
        """``receives`` without what was misrouted: those that count against loss."""
        if not len(self.misrouted):
            return self.receives
        mask = np.ones(len(self.receives), dtype=bool)
        mask[self.misrouted] = False
        return self.receives.where(mask)

    @cached_property
    def got(self) -> Array:
        """Whether anybody received the message where it was routed to."""
        return self.flags(self.arrivals.ids)

    @cached_property
    def seen(self) -> Array:
        """Whether anybody received the message anywhere."""
        return self.got if self.arrivals is self.receives else self.flags(self.receives.ids)

    @cached_property
    def settles(self) -> View:
        """Settles that say "done": ``ok``, and no text beside it that says that the message was given back."""
        view = self.ok("settle").readable
        if len(view) and view.greatest("error") > 0:
            view = view.where(view["error"] == 0)
        # What nobody sent, received or did has no id, and there is nothing to say about it.
        return view.where(self.numbers.has(view["msg"])) if len(view) else view

    # -- effects -------------------------------------------------------------------------------------------------------

    @cached_property
    def has_effects(self) -> bool:
        return len(self.view("effect")) > 0

    @cached_property
    def effects(self) -> View:
        """``ok`` effects of numbered messages."""
        return self.ok("effect").readable

    @cached_property
    def perhaps_effects(self) -> Array:
        """Whether an effect of the message is ``info``: it may have happened, so nobody may say that it did not."""
        view = self.view("effect").readable
        return self.flags(view.ids[view["outcome"] == INFO])

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def lane(self, number: int) -> Lane:
        kept = self._lanes.get(number)
        if kept is None:
            kept = self._lanes[number] = self._describe(number)
        return kept

    @cached_property
    def routes(self) -> dict[int, dict[int, Mapping[str, Any]]]:
        """lane -> lane -> what the plan says about it; what cannot be understood is left out."""
        out: dict[int, dict[int, Mapping[str, Any]]] = {}
        for source, entries in self.meta.routes.items():
            for entry in entries:
                try:
                    out.setdefault(int(source), {})[int(entry["lane"])] = entry
                except (KeyError, TypeError, ValueError):
                    continue
        return out

    def _describe(self, number: int) -> Lane:
        known = self.meta.lanes[number] if 0 <= number < len(self.meta.lanes) else {}
        out = self.routes.get(number, {})
        musts = {lane for lane, entry in out.items() if entry.get("must")}
        if musts and number not in out and number in self.lanes_of(self.ok("receive")):
            musts.add(number)
        name = str(known.get("name") or (f"lane {number}" if number >= 0 else ""))
        return Lane(
            number, name, number in self.logs, frozenset({number, *out}), frozenset(musts),
            self._is_drained(number), number in self._controls["definition_lost"],
        )  # fmt: skip

    @cached_property
    def logs(self) -> frozenset[int]:
        """The lanes that are logs: described as such, or, where nobody described them, with positions."""
        described = [str(lane.get("kind") or "") for lane in self.meta.lanes]
        unknown = {n for n in self._lanes_with_positions if not (0 <= n < len(described) and described[n])}
        return frozenset(unknown.union(n for n, kind in enumerate(described) if kind == "log"))

    @cached_property
    def _lanes_with_positions(self) -> frozenset[int]:
        """Only logs tell the sender a position; that is how a lane that nobody described is known for a log."""
        view = self.acknowledgements
        if view.greatest("pos") < 0:
            return frozenset()
        return frozenset(distinct(view["lane"][view["pos"] >= 0]).tolist())

    def lanes_of(self, view: View) -> frozenset[int]:
        """The lanes that occur in a view."""
        if view.lanes is None:
            view.lanes = frozenset(self._lanes_in(view).tolist())
        return view.lanes

    @staticmethod
    def _lanes_in(view: View) -> Array:
        if not len(view):
            return np.empty(0, dtype=np.int64)
        low, high = view.span("lane")
        if high - low > 1 << 20:
            return distinct(view["lane"])
        used = np.zeros(high - low + 1, dtype=bool)
        if low < high:
            for (lanes,) in view.chunks("lane"):
                used[lanes - low] = True
        else:
            used[0] = True
        return np.flatnonzero(used) + low

    @cached_property
    def _controls(self) -> dict[str, frozenset[int]]:
        """What control rows say of lanes: word -> lanes."""
        out: dict[str, frozenset[int]] = {"drained": frozenset(), "definition_lost": frozenset()}
        view = self.view("control")
        for code in distinct(view["error"]).tolist():
            text = self.error(code).split(" ", 1)[0]
            if text in out:
                rows = (view["error"] == code) & (view["outcome"] == OK)
                out[text] |= frozenset(distinct(view["lane"][rows]).tolist())
        return out

    def _is_drained(self, number: int) -> bool:
        if not len(self.view("control")):
            # A foreign file is judged as drained; but not one whose end is missing.
            return not self.history.torn
        if number < 0:
            return bool(self._controls["drained"]) and not self.undrained_lanes
        return number in self._controls["drained"]

    @cached_property
    def undrained_lanes(self) -> tuple[int, ...]:
        """Lanes that messages were sent to, or may have gone to, and that nobody has emptied; in order."""
        sent_to = self.lanes_of(self.sends)
        # In whole sets where that is possible: there may be a million lanes.
        numbers = sent_to.union(*(to for lane, to in self.routes.items() if lane in sent_to and lane >= 0))
        if not len(self.view("control")):
            numbers = numbers if self.history.torn else frozenset()
        left = numbers - self._controls["drained"] - self._controls["definition_lost"]
        return tuple(sorted(n for n in left if n >= 0))

    @property
    def gone_lanes(self) -> tuple[Lane, ...]:
        return tuple(self.lane(n) for n in sorted(self._controls["definition_lost"]))

    def on(self, view: View, *, logs: bool) -> View:
        """The rows of a view on log lanes, or on the others."""
        lanes = self.lanes_of(view)
        mine = lanes & self.logs if logs else lanes - self.logs
        if len(mine) == len(lanes):
            return view
        if not mine:
            return view.none()
        labels = Labels([view["lane"]])
        table = np.zeros(labels.size, dtype=bool)
        table[labels.codes(np.array(sorted(mine), dtype=np.int64))] = True
        return view.where(table[labels.codes(view["lane"])])

    def one_place(self, lanes: Array) -> Array:
        """Lanes as numbers that are equal where lanes stand in for each other, so that a message is due in one of them:
        the topic-partitions, or queues, that a client chooses between. Their routes name each other, and, to tell a
        choice from a retry queue and back, those of queues also themselves."""
        out = lanes.astype(np.int64)
        for number, places in by_value(lanes):
            log = self.lane(number).is_log
            twins = {
                other
                for other, entry in self.routes.get(number, {}).items()
                if not entry.get("must")
                and number in self.routes.get(other, {})
                and self.lane(other).is_log is log
                and (log or (number in self.routes[number] and other in self.routes[other]))
            }
            out[places] = min({number, *twins})
        return out

    @cached_property
    def has_musts(self) -> bool:
        return any(entry.get("must") for entries in self.routes.values() for entry in entries.values())

    # -- processes -----------------------------------------------------------------------------------------------------

    def slot(self, processes: Array) -> Array:
        """The client slot of each process; without a list of slots each process is its own."""
        n = len(self.meta.processes)
        return np.where(processes >= 0, processes % n, processes) if n else processes

    def role(self, process: int) -> str:
        n = len(self.meta.processes)
        if process < 0:
            return "injector"
        return self.meta.processes[process % n] if n else ""

    def by_role(self, view: View, role: str) -> Array:
        """Which rows of a view are by clients of this role."""
        return self._by_slot(view["process"], lambda slot: self.meta.processes[slot] == role)

    def _by_slot(self, processes: Array, test: Callable[[int], bool]) -> Array:
        n = len(self.meta.processes)
        if not n:
            return np.zeros(len(processes), dtype=bool)
        table: Array = np.array([test(slot) for slot in range(n)] + [False])
        return table[np.where(processes >= 0, processes % n, n)]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Consumer groups, where there are several: then each has to get its messages. Readers belong to none."""
        names = {
            group
            for slot, group in enumerate(self.meta.groups[: len(self.meta.processes)])
            if group and self.meta.processes[slot] != "reader"
        }
        return tuple(sorted(names)) if len(names) > 1 else ()

    def group_codes(self, view: View) -> Array:
        """The number of the group of each row in ``groups``; -1 for clients of none, whose rows count for every group."""
        return self._group_of(view["process"], self.groups)

    def named_group(self, processes: Array) -> Array:
        """The number of the consumer group of each process, -1 for none; also where there is only one."""
        return self._group_of(processes, tuple(dict.fromkeys(self.meta.groups)))

    def _group_of(self, processes: Array, groups: Sequence[str]) -> Array:
        n = len(self.meta.processes)
        table = np.full(n + 1, -1, dtype=np.int64)
        for slot, group in enumerate(self.meta.groups[:n]):
            if group and group in groups and self.meta.processes[slot] != "reader":
                table[slot] = groups.index(group)
        return table[np.where(processes >= 0, processes % n, n)] if n else np.full(len(processes), -1, dtype=np.int64)

    def per_group(self, view: View) -> Iterable[tuple[str, View, frozenset[int]]]:
        """(group, the rows of a view that count for it, the lanes it takes part in); one nameless group if not several."""
        if not self.groups:
            yield "", view, frozenset()
            return
        codes = self.group_codes(view)
        for code, name in enumerate(self.groups):
            own = view.where(codes == code)
            yield name, view.where((codes == code) | (codes == -1)), self.lanes_of(own)

    def deliveries(self, view: View) -> Iterable[View]:
        """The rows of a view, but those of readers that are a group of their own apart: where what was consumed stays, to
        read it once more is no second delivery."""
        n = len(self.meta.processes)
        own = [bool(g) and self.meta.processes[slot] == "reader" for slot, g in enumerate(self.meta.groups[:n])]
        if not any(own):
            yield view
            return
        own += [False] * (n - len(own))
        apart = self._by_slot(view["process"], lambda slot: own[slot])
        yield view.where(~apart)
        yield view.where(apart)

    # -- what is missing -----------------------------------------------------------------------------------------------

    def error(self, code: int) -> str:
        texts = self.history.errors
        return texts[code] if 0 <= code < len(texts) else ""

    def missing(self) -> Iterable[str]:
        """Sentences about evidence that is not there."""
        if self.history.torn:
            yield self.history.torn
        if not self.operations:
            yield "the history is empty: it holds no operation"
            return
        if self._split[2]:
            yield f"{self._split[2]} rows are of a function that this version does not know; they were left out"
        for f, by in self.exercised.items():
            if not by["ok"]:
                yield f"no {f} ever succeeded ({by['fail']} fail, {by['info']} info)"
        for number in self.undrained_lanes[:20]:
            yield f"lane {self.lane(number).name!r} was not drained: what is missing from it is undrained, not lost"
        if len(self.undrained_lanes) > 20:
            yield f"{len(self.undrained_lanes) - 20} further lanes were not drained"
        for name, _, lanes in self.per_group(self.view("receive")):
            if name and not lanes:
                yield f"consumer group {name!r} received nothing"

    @cached_property
    def unreadable(self) -> View:
        """``ok`` receives of bodies that could not be read."""
        view = self.ok("receive")
        return view.where(view["msg"] == UNREADABLE) if view.least("msg") <= UNREADABLE else view.none()


def batch_codes(view: View) -> Array:
    """(process, batch) of each row as one integer."""
    return (view["process"].astype(np.int64) << 32) | (view["batch"].astype(np.int64) & 0xFFFFFFFF)
