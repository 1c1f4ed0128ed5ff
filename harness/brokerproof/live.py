"""A trial that is judged while it runs, by the same checkers.

    snapshot(folder)    the history as far as it is written, with the sends that are on their way
    caught_up(folder)   once all that has ended by now is written
    Watch(...)          looks again and again: counts for whoever watches, and the first promise that is broken

What the recorder has written is a prefix, and not of everything alike: a message may have been received before the row
of its send is there. So sends are also taken from the tapes, as they stand. What is lost can be said only after the
drain; the classes of ``EARLY`` can be said at once, since nothing that comes later takes them back. A look costs a pass
over what there is; the next one waits ten times as long as it took, so that watching costs a tenth of a core at most.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from brokerproof.checkers.base import check
from brokerproof.errors import HistoryError
from brokerproof.finding import Finding
from brokerproof.history import COLUMNS, INFO, Array, F, History, Parts, read_history
from brokerproof.recorder import TAPES
from brokerproof.tape import OPEN, Segment
from brokerproof.waiting import wait_until

#: Anomalies that no later row takes back.
EARLY = ("duplicated", "phantom", "corrupted", "misrouted", "failed_but_seen", "effect_out_of_order")
#: The least time between looks, and how many times as long as a look takes.
PERIOD_S, PATIENCE = 0.25, 10
_Send = np.dtype([("process", np.int32), ("msg", np.int64), ("start_ns", np.int64)])


def snapshot(folder: Path) -> History:
    """Every row that is written, and every send that was begun before the last of them. Raises HistoryError where the
    recorder has not begun."""
    history = read_history(folder / "history.arrow")
    waiting = _sends_on_tapes(folder)
    # What was on a tape that has been worked off since stands in the file by now.
    later = read_history(folder / "history.arrow")
    known = len(history)
    fresh = {name: later[name][known:] for name, _ in COLUMNS}
    sends = [{name: column[fresh["f"] == F["send"]] for name, column in fresh.items()}, *waiting]
    more = {name: np.concatenate([rows[name] for rows in sends]) for name, _ in COLUMNS}
    mine = history["f"] == F["send"]
    had = _identity({name: history[name][mine] for name in _Send.names or ()})
    ids, first = np.unique(_identity(more), return_index=True)
    chosen = np.sort(first[~np.isin(ids, had)])
    more = {name: column[chosen] for name, column in more.items()}
    return History(
        history.meta, Parts([*history.parts, more] if len(chosen) else history.parts, history.release), later.errors,
        history.torn,
    )  # fmt: skip


def caught_up(folder: Path, timeout_s: float) -> None:
    """Waits until the recorder has written what is closed on the tapes now. Raises DeadlineError."""
    want = 0
    for path in (folder / TAPES).glob("*.seg"):
        with contextlib.suppress(HistoryError, OSError):
            segment = Segment.open(path)
            want = max(want, int(segment.columns["end_ns"][: segment.head].max(initial=0)))
    wait_until(
        lambda: int(read_history(folder / "history.arrow")["end_ns"].max(initial=0)) >= want, timeout_s,
        f"the recorder of {folder.name} to write what is on the tapes", interval_s=0.05,
    )  # fmt: skip


def _sends_on_tapes(folder: Path) -> list[dict[str, Array]]:
    out = []
    for path in sorted((folder / TAPES).glob("*.seg")):
        with contextlib.suppress(HistoryError, OSError):  # worked off in this moment, or not complete
            segment = Segment.open(path)
            head = segment.head
            rows = {name: segment.columns[name][:head].copy() for name, _ in COLUMNS}
            rows = {name: column[rows["f"] == F["send"]] for name, column in rows.items()}
            rows["error"][:] = 0  # codes of a tape are its own
            rows["end_ns"][rows["outcome"] == OPEN] = -1
            rows["outcome"][rows["outcome"] == OPEN] = INFO
            out.append(rows)
    return out


def _identity(rows: Mapping[str, Array]) -> Array:
    """One value per send: its process, message and beginning."""
    out = np.empty(len(rows["msg"]), dtype=_Send)
    for name in _Send.names or ():
        out[name] = rows[name]
    return out


class Watch:
    """Looks at trials while they run. ``broken`` is a sentence once a promise is, else empty.

    trials: folder -> anomalies that break its promise (none: it is only counted).
    """

    def __init__(self, trials: Mapping[Path, Sequence[str]], say: Callable[[str], None]) -> None:
        self._trials = {folder: tuple(key for key in keys if key in EARLY) for folder, keys in trials.items()}
        self._say = say
        self._said: dict[Path, str] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)
        self.broken = ""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)

    def _follow(self) -> None:
        rest_s = PERIOD_S
        while not self._end.wait(rest_s):
            began = time.monotonic()
            for folder, keys in self._trials.items():
                try:
                    self._look(folder, keys)
                except HistoryError:
                    continue  # not begun
                except Exception as exc:  # watching must never harm what is watched
                    self._say(f"live: could not look at {folder.name}: {type(exc).__name__}: {exc}")
            rest_s = max(PERIOD_S, PATIENCE * (time.monotonic() - began))

    def _look(self, folder: Path, keys: Sequence[str]) -> None:
        finding = check(snapshot(folder))
        words = counts(finding)
        if self._said.get(folder) != words:
            self._said[folder] = words
            self._say(f"live: {folder.name}: {words}")
        shown = [(key, finding.anomalies[key]) for key in keys if finding.shows(key)]
        if shown and not self.broken:
            said = [f"{c.count} {key} (first message {c.messages[0] if c.messages else '-'})" for key, c in shown]
            self.broken = f"{', '.join(said)} in {folder.name}"


def counts(finding: Finding) -> str:
    """What has happened so far, in words."""
    done = {f: by["ok"] for f, by in finding.exercised.items()}
    words = [f"{done[f]:,} {name}" for f, name in (("send", "acknowledged"), ("receive", "received"), ("effect", "effects"))
             if f in done]  # fmt: skip
    words += [f"{finding.anomalies[key].count:,} {key}" for key in EARLY if finding.shows(key)]
    return ", ".join(words) or "nothing yet"
