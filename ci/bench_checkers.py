"""How long ``brokerproof check`` takes, against what reading the file costs anyway, and against other checkers.

Each round runs, one after the other, whole commands on the same file (a send, a receive and a settle per message; once
sane, and once, for the rivals, with a few planted losses, duplicates and phantoms):

    read     pyarrow maps the file, numpy.bincount over ``msg``     the least that any checker could do
    check    python -m brokerproof check DIR --json                 every checker, timeline, witnesses
    sets     lost, duplicated, phantom by Python sets               what one writes first
    bounded  check within --memory-limit                            the same answer, part by part
    polars   the same three by polars joins
    duckdb   the same three by SQL in DuckDB

The answers of all that count must be what was planted. What is printed is the median of the rounds and the median of the
rounds' ratios, so that a busy machine slows all of them. At the end: how the time grows with the messages, and, where Go
is installed, Porcupine on a small history.

    ci/bench checkers --messages 2000 --rounds 1                    seconds: is the benchmark itself in order?
    ci/bench checkers                                               a million and ten million messages
    ci/bench checkers --messages 1000000 10000000 33400000 --rounds 3 --rivals-max 1000000     up to 100 million rows
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from brokerproof.history import COLUMNS, HistoryWriter, Meta

ROOT = Path(__file__).resolve().parents[1]
RIVALS = ROOT / "ci" / "bench_rivals"
PAGE = ROOT / "docs" / "proofs" / "speed.md"
READ = """
import sys, numpy as np, pyarrow as pa
msg = pa.ipc.open_stream(pa.memory_map(sys.argv[1])).read_all()["msg"].to_numpy()
print(int(np.bincount(msg[msg >= 0]).sum()))
"""
COUNTED = ("lost", "duplicated", "phantom")
#: What the project promises of ten million messages and of one million.
RATIO_MAX, PEAK_MAX_MB, MILLION_MAX_S = 5.0, 3 * 1024, 1.0
#: No sets above this many messages: they would take minutes and gigabytes to say what is clear below.
SETS_MAX = 2_000_000
CONSUMERS, SENDERS, KEYS = 4, 2, 64
BATCH_MESSAGES = 20_000
STEP_NS = 2000
_TEXTS = ["", "start", "drained"]


def write(path: Path, messages: int, shape: str, *, planted: bool) -> dict[str, int]:
    """A trial of two senders, 64 keys, four consumers, half a million messages a second; rows as they would be closed.
    In a log each consumer has its own topic-partition. Returns what was planted, if anything: anomaly -> messages."""
    log = shape == "log"
    lanes = [{"name": f"{shape}-{n}", "kind": shape} for n in range(CONSUMERS if log else 1)]
    roles = ("producer",) * SENDERS + ("consumer",) * CONSUMERS
    every = max(50, min(messages // 2, 100_000)) if planted else 1 << 62
    count = {key: len(range(nth, messages, every)) for nth, key in ((7, "lost"), (11, "duplicated"), (13, "phantom"))}
    place = (7, 11, 13) if planted else (-1, -1, -1)
    if not planted:
        count = dict.fromkeys(count, 0)
    with HistoryWriter(path, Meta(lanes=tuple(lanes), processes=roles)) as writer:
        _control(writer, "start", -1, 0)
        for first in range(0, messages, BATCH_MESSAGES):
            msg = np.arange(first, min(messages, first + BATCH_MESSAGES), dtype=np.int64)
            key = msg % KEYS
            lane, pos = (key % CONSUMERS, msg // CONSUMERS) if log else (0 * msg, -1 + 0 * msg)
            by, at = SENDERS + key % CONSUMERS, msg * STEP_NS
            came = np.flatnonzero(msg % every != place[0])
            got, twice, strange = (
                msg[came],
                np.flatnonzero(msg % every == place[1]),
                np.flatnonzero(msg % every == place[2]),
            )
            parts = [
                _rows(msg, f=0, process=msg % SENDERS, key=key, lane=lane, pos=pos, start_ns=at, end_ns=at + 500_000),
                _rows(got, f=1, process=by[came], key=key[came], lane=lane[came], pos=pos[came] if log else got,
                      attempt=0, start_ns=at[came] + 600_000, end_ns=at[came] + 600_000),
                _rows(got, f=2, process=by[came], key=key[came], lane=lane[came], start_ns=at[came] + 700_000,
                      end_ns=at[came] + 710_000),
                # Once more, at a position of its own; and a number that nobody sent.
                _rows(msg[twice], f=1, process=by[twice], key=key[twice], lane=lane[twice],
                      pos=messages + msg[twice] // every, attempt=0, start_ns=at[twice] + 650_000, end_ns=at[twice] + 650_000),
                _rows(messages + msg[strange] // every, f=1, process=by[strange], key=key[strange], lane=lane[strange],
                      pos=2 * messages + msg[strange] // every, attempt=0, start_ns=at[strange] + 660_000,
                      end_ns=at[strange] + 660_000),
            ]  # fmt: skip
            columns = {name: np.concatenate([p[name] for p in parts]) for name, _ in COLUMNS}
            order = np.argsort(columns["end_ns"], kind="stable")
            writer.write({name: column[order] for name, column in columns.items()}, _TEXTS)
        for number in range(len(lanes)):
            _control(writer, "drained", number, messages * STEP_NS + 10**9)
    return count


def _rows(msg: np.ndarray, **values: object) -> dict[str, np.ndarray]:
    columns = {name: np.full(len(msg), -1, dtype=kind) for name, kind in COLUMNS}
    for name, value in {"outcome": 0, "error": 0, "msg": msg, **values}.items():
        columns[name][:] = value
    return columns


def _control(writer: HistoryWriter, text: str, lane: int, at: int) -> None:
    row = _rows(np.array([-1]), f=12, lane=lane, start_ns=at, end_ns=at, error=_TEXTS.index(text))
    writer.write(row, _TEXTS)


Run = tuple[float, float, float]


def timed(command: list[str]) -> tuple[Run, str]:
    """((seconds by the clock, seconds of processor, peak MB), what it printed) of a whole command. ``check`` ends with
    1 where there are anomalies, which there are."""
    with tempfile.TemporaryFile("w+") as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            raise SystemExit(f"bench: {' '.join(command[:4])} … ended with {process.returncode}")
        out.seek(0)
        return (took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), out.read()


def counts(name: str, said: str) -> dict[str, int]:
    """anomaly -> messages, as the command printed it."""
    found = json.loads(said)
    return {key: found["anomalies"][key]["count"] if name in ("check", "bounded") else found[key] for key in COUNTED}


def bench(folder: Path, messages: int, shape: str, rounds: int, limit: str, *, planted: bool) -> dict[str, Any]:
    """Measures one size, on a sane history against reading, on one with anomalies against the rivals as well; returns
    the medians for the table of growth."""
    file = folder / "history.arrow"
    truth = write(file, messages, shape, planted=planted)
    commands = {
        "read": [sys.executable, "-c", READ, str(file)],
        "check": [sys.executable, "-m", "brokerproof", "check", str(folder), "--json"],
    }
    if limit:
        commands["bounded"] = [*commands["check"], "--memory-limit", limit]
    if planted:
        for name, script in (("sets", "sets"), ("polars", "polars_joins"), ("duckdb", "duckdb_sql")):
            if name != "sets" or messages <= SETS_MAX:
                commands[name] = [sys.executable, str(RIVALS / f"{script}.py"), str(file), shape]
    timed(commands["read"])  # the file is in the page cache from here on
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            run, said = timed(command)
            runs[name].append(run)
            if name != "read" and counts(name, said) != truth:
                raise SystemExit(f"bench: {name} found {counts(name, said)}, planted were {truth}")
    what = f"{truth['lost']} each of lost, duplicated, phantom" if planted else "sane"
    print(f"{messages:,} messages, {shape}, {what}: {3 * messages:,} rows, {file.stat().st_size / 2**20:,.0f} MB")
    middle = {name: [statistics.median(column) for column in zip(*mine, strict=True)] for name, mine in runs.items()}
    for name, (clock, processor, peak) in middle.items():
        print(
            f"  {name:6s} {clock:8.2f} s   processor {processor:8.2f} s   peak {peak:7,.0f} MB   ({len(runs[name])} rounds)"
        )
    ratios = {}
    for name in commands:
        if name != "check":
            pairs = list(zip(runs["check"], runs[name], strict=False))
            clock, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
            print(f"  check / {name}: {clock:.2f} by the clock, {processor:.2f} of processor")
            ratios[name] = clock
    file.unlink()
    return {"messages": messages, "check_s": middle["check"][0], "peak_mb": middle["check"][2], "ratio": ratios["read"]}


def growth(shape: str, sizes: list[dict[str, Any]]) -> list[str]:
    """Prints time and memory per message; returns the targets that were missed."""
    print(f"growth, {shape}:")
    first = min(sizes, key=lambda s: s["messages"])
    for size in sizes:
        more = size["messages"] - first["messages"]
        slope = f"{(size['check_s'] - first['check_s']) / more * 1e9:6.1f} ns a message more" if more else ""
        print(f"  {size['messages']:>12,} messages {size['check_s']:8.2f} s  peak {size['peak_mb']:7,.0f} MB  {slope}")
    missed = []
    for size in sizes:
        if size["messages"] == 10_000_000:
            if size["ratio"] > RATIO_MAX:
                missed.append(
                    f"{shape}: check took {size['ratio']:.2f} times as long as reading, at most {RATIO_MAX:g}"
                )
            if size["peak_mb"] > PEAK_MAX_MB:
                missed.append(f"{shape}: check took {size['peak_mb']:,.0f} MB for ten million, at most {PEAK_MAX_MB:,}")
        if size["messages"] == 1_000_000 and size["check_s"] > MILLION_MAX_S:
            missed.append(f"{shape}: check took {size['check_s']:.2f} s for a million, at most {MILLION_MAX_S:g}")
    return missed


def operations(file: Path) -> Iterator[dict[str, int | str]]:
    """The history as operations of the model in porcupine/main.go; the final read asks for every message."""
    last, messages = 0, set()
    for batch in pa.ipc.open_stream(pa.memory_map(str(file))):
        for row in batch.to_pylist():
            last = max(last, row["end_ns"])
            if row["f"] in ("send", "receive") and row["outcome"] != "fail":
                messages.add(row["msg"])
                back = row["end_ns"] if row["outcome"] == "ok" else -1
                yield {
                    "client": row["process"],
                    "op": row["f"],
                    "msg": row["msg"],
                    "call": row["start_ns"],
                    "return": back,
                }
    for msg in sorted(messages):
        yield {"client": 0, "op": "drain", "msg": msg, "call": last + 1, "return": last + 2}


def porcupine(folder: Path, messages: int) -> None:
    """Builds the Go program and has it judge a small history: it must find as many messages wrong as ``check``."""
    if shutil.which("go") is None:
        print("porcupine: no Go here; install it to compare")
        return
    program, file = folder / "porcupine", folder / "history.arrow"
    build = [
        "go", "build", "-C", str(RIVALS / "porcupine"), "-o", str(program), ".",
    ]  # fmt: skip
    done = subprocess.run(build, capture_output=True, text=True)
    if done.returncode:
        print(f"porcupine: it could not be built: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return
    planted = write(file, messages, "queue", planted=True)
    lines = "".join(json.dumps(operation) + "\n" for operation in operations(file))
    said = json.loads(subprocess.run([str(program)], input=lines, capture_output=True, text=True, check=True).stdout)
    (took, *_), out = timed([sys.executable, "-m", "brokerproof", "check", str(folder), "--json"])
    if said["illegal"] != sum(counts("check", out).values()) or sum(planted.values()) != said["illegal"]:
        raise SystemExit(f"bench: porcupine found {said}, check {counts('check', out)}, planted were {planted}")
    print(
        f"porcupine, {messages:,} messages, three of its answers: {said['seconds']:.3f} s of search alone "
        f"({said['seconds'] / messages * 1e6:.1f} µs a message); check, all of it, {took:.3f} s; the same answers"
    )
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--shape", choices=("queue", "log"), nargs="+", default=["queue", "log"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rivals-max", type=int, default=10_000_000, help="no sets, polars, duckdb above so many messages"
    )
    parser.add_argument("--porcupine", type=int, default=20_000, metavar="MESSAGES", help="0: not at all")
    parser.add_argument("--memory-limit", default="", metavar="SIZE", help="measure check within this memory as well")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a promised figure is missed")
    parser.add_argument(
        "--page", action="store_true", help=f"write what was printed to {PAGE.relative_to(ROOT)} as well"
    )
    args = parser.parse_args()
    said = io.StringIO()
    with contextlib.redirect_stdout(_Both(sys.stdout, said)):
        missed = _measure(args)
    if args.page:
        PAGE.write_text(_page(said.getvalue()))
    raise SystemExit(1 if missed and args.strict else 0)


class _Both(io.TextIOBase):
    """Writes to both, line by line, so that long work shows as it comes."""

    def __init__(self, *outs: TextIO) -> None:
        self._outs = outs

    def write(self, text: str) -> int:
        for out in self._outs:
            out.write(text)
            out.flush()
        return len(text)


def _page(said: str) -> str:
    command = " ".join(["ci/bench checkers", *sys.argv[1:]])
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}"
    return f"""# Speed of the checkers

Written by `{command}`,
on {cores} cores and {memory:.0f} GiB, {versions}. Whole commands, start-up included; medians of interleaved rounds, so a
busy machine slows all of them. What each line measures: `ci/bench checkers --help`.

```text
{said.rstrip()}
```
"""


def _measure(args: argparse.Namespace) -> list[str]:
    """Prints the figures; returns a sentence for each promised one that was missed."""
    missed = []
    with tempfile.TemporaryDirectory(prefix="brokerproof-bench-") as folder:
        for shape in args.shape:
            sizes = [
                bench(Path(folder), n, shape, args.rounds, args.memory_limit, planted=False) for n in args.messages
            ]
            for n in args.messages:
                if n <= args.rivals_max:
                    bench(Path(folder), n, shape, args.rounds, args.memory_limit, planted=True)
            missed += growth(shape, sizes)
        if args.porcupine:
            porcupine(Path(folder), min(args.porcupine, max(args.messages)))
    for sentence in missed:
        print(f"missed: {sentence}")
    return missed


if __name__ == "__main__":
    main()
