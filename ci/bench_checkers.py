"""How long ``brokerproof check`` takes, against what reading the file costs anyway.

Each round runs, one after the other, whole commands on the same file (a send, a receive and a settle per message):

    check   python -m brokerproof.cli check DIR --json          every checker, timeline, witnesses
    read    pyarrow maps the file, numpy.bincount over ``msg``  the least that any checker could do
    sets    loss by two Python sets, over lists of numbers      what one writes first

What is printed is the median of the rounds and the median of the rounds' ratios, so that a busy machine slows all three.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from brokerproof.history import COLUMNS, HistoryWriter, Meta

READ = """
import sys, numpy as np, pyarrow as pa
msg = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()["msg"].to_numpy()
print(int(np.bincount(msg[msg >= 0]).sum()))
"""
SETS = """
import sys, pyarrow as pa
sent, got = set(), set()
for batch in pa.ipc.open_stream(pa.memory_map(sys.argv[1])):
    rows = zip(batch["f"].to_pylist(), batch["outcome"].to_pylist(), batch["msg"].to_pylist())
    for f, outcome, msg in rows:
        if outcome == "ok":
            if f == "send":
                sent.add(msg)
            elif f == "receive":
                got.add(msg)
print(len(sent - got))
"""
#: Above this many messages the sets are run once; they take a minute and gigabytes.
SETS_OFTEN_MAX = 2_000_000
CONSUMERS, SENDERS, KEYS = 4, 2, 64
BATCH_MESSAGES = 20_000


def write(path: Path, messages: int, shape: str) -> None:
    """A sane trial: two senders, 64 keys, four consumers, half a million messages a second; rows as they would be
    closed. In a log each consumer has its own topic-partition."""
    log = shape == "log"
    lanes = [{"name": f"{shape}-{n}", "kind": shape} for n in range(CONSUMERS if log else 1)]
    roles = ("producer",) * SENDERS + ("consumer",) * CONSUMERS
    with HistoryWriter(path, Meta(lanes=tuple(lanes), processes=roles)) as writer:
        _control(writer, "start", -1, 0)
        for first in range(0, messages, BATCH_MESSAGES):
            msg = np.arange(first, min(messages, first + BATCH_MESSAGES), dtype=np.int64)
            key = msg % KEYS
            lane, pos = (key % CONSUMERS, msg // CONSUMERS) if log else (0, -1)
            by, at = SENDERS + key % CONSUMERS, msg * 2000
            parts = [
                _rows(msg, f=0, process=msg % SENDERS, key=key, lane=lane, pos=pos, start_ns=at, end_ns=at + 500_000),
                _rows(msg, f=1, process=by, key=key, lane=lane, pos=pos if log else msg, attempt=0,
                      start_ns=at + 600_000, end_ns=at + 600_000),
                _rows(msg, f=2, process=by, key=key, lane=lane, start_ns=at + 700_000, end_ns=at + 710_000),
            ]  # fmt: skip
            columns = {name: np.concatenate([p[name] for p in parts]) for name, _ in COLUMNS}
            order = np.argsort(columns["end_ns"], kind="stable")
            writer.write({name: column[order] for name, column in columns.items()}, _TEXTS)
        for number in range(len(lanes)):
            _control(writer, "drained", number, messages * 2000 + 10**9)


_TEXTS = ["", "start", "drained"]


def _rows(msg: np.ndarray, **values: object) -> dict[str, np.ndarray]:
    columns = {name: np.full(len(msg), -1, dtype=kind) for name, kind in COLUMNS}
    for name, value in {"outcome": 0, "error": 0, "msg": msg, **values}.items():
        columns[name][:] = value
    return columns


def _control(writer: HistoryWriter, text: str, lane: int, at: int) -> None:
    row = _rows(np.array([-1]), f=12, lane=lane, start_ns=at, end_ns=at, error=_TEXTS.index(text))
    writer.write(row, _TEXTS)


def timed(command: list[str]) -> tuple[float, float, float]:
    """(seconds by the clock, seconds of processor, peak MB) of a whole command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(command[:4])} … ended with {process.returncode}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def bench(folder: Path, messages: int, shape: str, rounds: int) -> None:
    file = folder / "history.arrow"
    write(file, messages, shape)
    commands = {
        "read": [sys.executable, "-c", READ, str(file)],
        "check": [sys.executable, "-m", "brokerproof.cli", "check", str(folder), "--json"],
        "sets": [sys.executable, "-c", SETS, str(file)],
    }
    timed(commands["read"])  # the file is in the page cache from here on
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for nth in range(rounds):
        for name, command in commands.items():
            if name != "sets" or nth == 0 or messages <= SETS_OFTEN_MAX:
                runs[name].append(timed(command))
    print(f"{messages:,} messages, {shape}: {3 * messages:,} rows, {file.stat().st_size / 2**20:,.0f} MB")
    for name, mine in runs.items():
        clock, processor, peak = (statistics.median(column) for column in zip(*mine, strict=True))
        print(
            f"  {name:6s} {clock:8.2f} s   processor {processor:8.2f} s   peak {peak:7,.0f} MB   ({len(mine)} rounds)"
        )
    for other in ("read", "sets"):
        pairs = list(zip(runs["check"], runs[other], strict=False))
        clock, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        print(f"  check / {other}: {clock:.2f} by the clock, {processor:.2f} of processor")
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--shape", choices=("queue", "log"), nargs="+", default=["queue", "log"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for shape in args.shape:
        for messages in args.messages:
            with tempfile.TemporaryDirectory(prefix="brokerproof-bench-") as folder:
                bench(Path(folder), messages, shape, args.rounds)


if __name__ == "__main__":
    main()
