"""The recorder: turns the tapes of a trial into its ``history.arrow`` while the trial runs.

    python -m brokerproof.recorder        one process for all trials of a harness process

    stdin   {"open": FOLDER, "meta": {...}}    start recording the trial in that folder
            {"finish": FOLDER}                 the load processes are done: close what is open, write the end
    stdout  {"finished": FOLDER, "rows": n}    or {"failed": FOLDER, "error": text}

It outlives a killed harness: when stdin ends it goes on until the load processes are gone, closes every open intent
as ``info``, ends the histories and exits. What a killed recorder had not yet turned stays on the tapes, which
``salvage`` reads; ``rescue`` is what ``check`` and ``clean`` call.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof.errors import HistoryError
from brokerproof.history import COLUMNS, INFO, INJECTOR, OK, Array, F, History, HistoryWriter, Meta, read_history
from brokerproof.tape import OPEN, Segment, errors_of

#: How often tapes are looked at; a batch is due every 200 ms.
PERIOD_S = 0.1
#: How long load processes may outlive the harness before their histories are ended anyway.
ORPHAN_S = 60.0
TAPES = "tape"
_NO_COMPLETION = "no_completion"
_NAME = re.compile(r"(?P<tape>[a-z0-9]+)-(?P<n>\d+)\.seg")


class _Reading:
    """One segment that is being read: which of its rows have been taken."""

    def __init__(self, segment: Segment, tape: str) -> None:
        self.segment = segment
        self.tape = tape
        self.low = 0  # all rows before are taken
        self.taken = np.zeros(segment.rows, dtype=bool)

    def take(self, *, close_open: bool) -> dict[str, Array] | None:
        """The rows closed since the last call, as columns in the order in which they were closed."""
        head = self.segment.head
        if self.low >= head:
            return None
        window = slice(self.low, head)
        columns = self.segment.columns
        outcome = columns["outcome"][window]
        ready = ~self.taken[window]
        if not close_open:
            ready &= outcome != OPEN
        chosen = np.flatnonzero(ready) + self.low
        if not len(chosen):
            return None
        self.taken[chosen] = True
        rest = np.flatnonzero(~self.taken[window])
        self.low = head if not len(rest) else self.low + int(rest[0])
        rows = {name: columns[name][chosen] for name, _ in COLUMNS}
        order = np.argsort(rows["end_ns"], kind="stable")
        if (np.diff(order) < 0).any():
            rows = {name: column[order] for name, column in rows.items()}
        return rows

    @property
    def done(self) -> bool:
        return self.low >= self.segment.rows


class Recording:
    """One trial that is being recorded."""

    def __init__(self, folder: Path, meta: Meta, earlier: History | None = None) -> None:
        """earlier: what a dead recorder of the same trial had written; its rows are kept and not taken twice."""
        self.folder = folder
        self._tapes = folder / TAPES
        self._tapes.mkdir(parents=True, exist_ok=True)
        (self._tapes / "meta.json").write_text(json.dumps({**meta.to_json(), "recorder": os.getpid()}))
        self._writer = HistoryWriter(folder / "history.arrow", meta)
        self._readings: dict[str, _Reading] = {}
        self._errors: dict[str, int] = {"": 0, "start": 1}
        self._seen: set[str] = set()
        self._had: Array | None = None
        if earlier is not None:
            for text in earlier.errors:
                self._code(text)
            codes = np.array([self._code(text) for text in earlier.errors], dtype=np.int16)
            rows = {**earlier.columns, "error": codes[earlier["error"]]}
            self._write(rows)
            self._had = _packed(rows)
            return
        start = {name: np.full(1, -1, dtype=kind) for name, kind in COLUMNS}
        start["process"][0], start["f"][0], start["outcome"][0] = INJECTOR, F["control"], OK
        start["start_ns"][0] = start["end_ns"][0] = 0
        start["error"][0] = 1
        self._write(start)

    def pump(self, *, close_open: bool = False) -> None:
        """Moves what was closed since the last call into the history."""
        parts: list[dict[str, Array]] = []
        for name in sorted(os.listdir(self._tapes)):
            match = _NAME.fullmatch(name)
            if match and name not in self._seen:
                self._seen.add(name)
                self._readings[name] = _Reading(Segment.open(self._tapes / name), match["tape"])
        for reading in self._readings.values():
            rows = reading.take(close_open=close_open)
            if rows is not None:
                if close_open:
                    self._close(rows)
                self._translate(rows, reading.tape)
                parts.append(rows)
        if parts:
            self._write({name: np.concatenate([p[name] for p in parts]) for name, _ in COLUMNS})
        for name, reading in list(self._readings.items()):
            if reading.done:  # only now: what a segment held is in the file
                del self._readings[name]
                reading.segment.path.unlink(missing_ok=True)

    def finish(self) -> int:
        """Closes what is open as ``info``, ends the file, removes the tapes; returns the number of rows."""
        self.pump()
        self.pump(close_open=True)
        self._writer.close()
        self._readings.clear()
        for path in self._tapes.iterdir():
            path.unlink()
        self._tapes.rmdir()
        return self._writer.rows

    def writers_alive(self) -> bool:
        """Whether a load process of the trial may still write."""
        return any(
            not r.segment.finished and r.segment.pid != os.getpid() and Path(f"/proc/{r.segment.pid}").exists()
            for r in self._readings.values()
        )

    def _close(self, rows: dict[str, Array]) -> None:
        open_rows = rows["outcome"] == OPEN
        if open_rows.any():
            rows["outcome"][open_rows] = INFO
            rows["end_ns"][open_rows] = -1
            rows["error"][open_rows] = -1  # a mark for _translate: this text is the recorder's own

    def _translate(self, rows: dict[str, Array], tape: str) -> None:
        codes = rows["error"]
        if not codes.any():
            return
        texts = errors_of(self._tapes, tape)
        table = [self._code(text) for text in texts]
        unknown = self._code("unknown")
        marked = codes == -1
        known = (codes >= 0) & (codes < len(table))
        rows["error"] = np.where(known, np.array(table, dtype=np.int16)[np.where(known, codes, 0)], unknown).astype(
            np.int16
        )
        rows["error"][marked] = self._code(_NO_COMPLETION)

    def _code(self, text: str) -> int:
        return self._errors.setdefault(text, len(self._errors))

    def _write(self, columns: Mapping[str, Array]) -> None:
        if self._had is not None:
            new = ~np.isin(_packed(columns), self._had)
            columns = {name: column[new] for name, column in columns.items()}
        self._writer.write(columns, list(self._errors))


def salvage(folder: Path) -> int:
    """Ends a trial whose recorder was killed: what it had written, plus what is still on the tapes.

    A segment is removed only after its rows are in the file, so nothing is missing; rows that are in both are equal
    in every column and are taken once. Returns the number of rows. Raises HistoryError when there are no tapes.
    """
    try:
        meta = Meta.from_json(json.loads((folder / TAPES / "meta.json").read_text()))
    except (OSError, ValueError) as exc:
        raise HistoryError(f"nothing to salvage in {str(folder)!r}: {exc}") from exc
    written = folder / "history.arrow"
    earlier = None
    with contextlib.suppress(HistoryError):
        earlier = read_history(written)
    if written.exists():
        written.rename(folder / "history.partial.arrow")
    rows = Recording(folder, meta, earlier).finish()
    (folder / "history.partial.arrow").unlink(missing_ok=True)
    return rows


def rescue(folder: Path) -> str:
    """Salvages a trial if its recorder was killed; returns a sentence about it, or "" where there was nothing to do.

    The sentence also goes into the trial's ``errors.jsonl``, so that every later verdict knows that evidence is missing.
    Raises HistoryError while somebody still records.
    """
    try:
        recorder = int(json.loads((folder / TAPES / "meta.json").read_text())["recorder"])
    except (OSError, ValueError, KeyError):
        return ""
    writers = {recorder}
    for path in (folder / TAPES).glob("*.seg"):
        with contextlib.suppress(HistoryError, OSError):
            segment = Segment.open(path)
            writers |= set() if segment.finished else {segment.pid}
    alive = sorted(pid for pid in writers if _lives(pid))
    if alive:
        raise HistoryError(
            f"trial {folder.name!r} is still being recorded by process {', '.join(map(str, alive))}; "
            "a killed run's load processes and recorder end by themselves within a minute"
        )
    rows = salvage(folder)
    said = f"the run was killed: {rows} rows were salvaged from the tapes, what was open then is info"
    with (folder / "errors.jsonl").open("a") as file:
        file.write(json.dumps({"trial": folder.name, "error": said}) + "\n")
    return said


def _lives(pid: int) -> bool:
    """Whether the process is there and ours; process ids are used again."""
    try:
        return pid != os.getpid() and b"brokerproof" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _packed(columns: Mapping[str, Array]) -> Array:
    """One opaque value per row, equal if and only if all columns are."""
    kinds = np.dtype([(name, kind) for name, kind in COLUMNS])
    rows = np.empty(len(columns["process"]), dtype=kinds)
    for name, _ in COLUMNS:
        rows[name] = columns[name]
    return rows.view(f"V{kinds.itemsize}")


class Recorder:
    """All trials of one harness process. Used in-process by the memory broker, and by ``main``."""

    def __init__(self) -> None:
        self._open: dict[str, Recording] = {}

    def open(self, folder: Path, meta: Meta) -> None:
        self._open[str(folder)] = Recording(folder, meta)

    def pump(self) -> None:
        for recording in self._open.values():
            recording.pump()

    def finish(self, folder: Path) -> int:
        return self._open.pop(str(folder)).finish()

    def finish_all(self, patience_s: float) -> None:
        """The harness is gone: wait for the load processes, then end every history."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(r.writers_alive() for r in self._open.values()):
            self.pump()
            time.sleep(PERIOD_S)
        for folder in list(self._open):
            self.finish(Path(folder))


def main() -> None:
    """Serves stdin until it ends."""
    commands: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    # Ctrl-C goes to the whole foreground group; the harness then asks for an orderly end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: commands.put(None))
    threading.Thread(target=listen, daemon=True).start()
    recorder = Recorder()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    while True:
        try:
            command = commands.get(timeout=PERIOD_S)
        except queue.Empty:
            recorder.pump()
            continue
        if command is None:
            recorder.finish_all(ORPHAN_S)
            return
        folder = str(command.get("open") or command.get("finish"))
        answer: dict[str, Any]
        try:
            if "open" in command:
                recorder.open(Path(folder), Meta.from_json(command["meta"]))
                answer = {"opened": folder}
            else:
                answer = {"finished": folder, "rows": recorder.finish(Path(folder))}
        except Exception as exc:  # the harness must hear of it, whatever it is
            answer = {"failed": folder, "error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
