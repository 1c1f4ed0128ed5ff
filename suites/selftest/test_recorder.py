from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brokerproof.errors import HistoryError
from brokerproof.history import FAIL, INFO, INJECTOR, OK, F, Meta, read_history
from brokerproof.recorder import TAPES, Recorder, Recording, salvage
from brokerproof.tape import Tape
from brokerproof.waiting import wait_until

META = Meta(trial="t", lanes=({"name": "q", "kind": "queue"},), processes=("producer", "reader"))


def tape(folder: Path, slot: int = 0) -> Tape:
    return Tape(folder / TAPES, slot=slot, slots=2, zero_ns=time.monotonic_ns())


def test_the_first_row_says_start_and_open_intents_end_as_info(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    one = tape(tmp_path)
    done, _left = one.open("send", msg=0, lane=0), one.open("send", msg=1, lane=0)
    one.close(done, OK, pos=4)
    recording.finish()
    history = read_history(tmp_path / "history.arrow")
    assert history.meta == META
    assert history["f"].tolist() == [F["control"], F["send"], F["send"]]
    assert history["process"].tolist() == [INJECTOR, 0, 0]
    assert history["outcome"].tolist() == [OK, OK, INFO]
    assert [history.errors[code] for code in history["error"]] == ["start", "", "no_completion"]
    assert history["end_ns"].tolist()[2] == -1
    assert history["pos"].tolist()[1] == 4
    assert not (tmp_path / TAPES).exists()


def test_rows_stand_in_the_order_in_which_they_were_closed(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    one = tape(tmp_path)
    rows = [one.open("send", msg=m) for m in range(3)]
    for row in (rows[2], rows[0]):
        one.close(row, OK)
    recording.pump()
    one.close(rows[1], FAIL, error="NACK")
    recording.finish()
    assert read_history(tmp_path / "history.arrow")["msg"].tolist() == [-1, 2, 0, 1]


def test_error_texts_of_several_tapes_are_one_dictionary(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    one, other = tape(tmp_path, 0), tape(tmp_path, 1)
    one.close(one.open("send", msg=0), FAIL, error="NACK")
    other.close(other.open("send", msg=1), INFO, error="Timeout")
    recording.pump()
    other.close(other.open("send", msg=2), FAIL, error="NACK")
    recording.finish()
    history = read_history(tmp_path / "history.arrow")
    by_msg = {m: history.errors[e] for m, e in zip(history["msg"].tolist(), history["error"].tolist(), strict=True)}
    assert by_msg == {-1: "start", 0: "NACK", 1: "Timeout", 2: "NACK"}


def test_many_rows_over_segment_borders_are_all_there_once(tmp_path: Path) -> None:
    recording = Recording(tmp_path, META)
    one = tape(tmp_path)
    n = 300_000
    for first in range(0, n, 1000):
        row = one.open_sends(first, np.full(1000, -1, dtype=np.int32), 0)
        one.close_many(np.arange(row, row + 1000), OK, pos=np.arange(first, first + 1000))
        if first % 50_000 == 0:
            recording.pump()
    assert recording.finish() == n + 1
    history = read_history(tmp_path / "history.arrow")
    assert np.array_equal(np.sort(history["msg"][1:]), np.arange(n))
    assert np.array_equal(history["pos"][1:], history["msg"][1:])


def test_the_recorder_process_ends_histories_when_the_harness_is_killed(tmp_path: Path) -> None:
    harness = subprocess.Popen(
        [sys.executable, "-c", _HARNESS, str(tmp_path)], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert harness.stdout is not None
    recorder = int(harness.stdout.readline())
    harness.kill()
    harness.wait()
    wait_until(lambda: not Path(f"/proc/{recorder}").exists() or _zombie(recorder), 20, "the recorder to end by itself")
    history = read_history(tmp_path / "trial" / "history.arrow")
    assert history.torn == ""
    assert history["msg"].tolist() == [-1, 0, 1]
    assert history["outcome"].tolist() == [OK, OK, INFO]


#: A harness that starts the recorder, writes one finished and one unfinished send, and waits to be killed.
_HARNESS = """
import json, subprocess, sys, time
from pathlib import Path
from brokerproof.history import OK, Meta
from brokerproof.tape import Tape
trial = Path(sys.argv[1]) / "trial"
recorder = subprocess.Popen([sys.executable, "-m", "brokerproof.recorder"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, start_new_session=True)
recorder.stdout.readline()
recorder.stdin.write(json.dumps({"open": str(trial), "meta": Meta(trial="t").to_json()}) + "\\n")
recorder.stdin.flush()
recorder.stdout.readline()
tape = Tape(trial / "tape", slot=0, slots=1, zero_ns=time.monotonic_ns())
row, _ = tape.open("send", msg=0), tape.open("send", msg=1)
tape.close(row, OK)
print(recorder.pid, flush=True)
time.sleep(60)
"""


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_killed_recorder_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from brokerproof.recorder import Recording; "
        "from brokerproof.history import Meta; r = Recording(Path(sys.argv[1]), Meta(trial='t')); "
        "print('open', flush=True); [sys.stdin.readline() and (r.pump(), print('pumped', flush=True)) for _ in range(9)]"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    one = tape(tmp_path)
    first = one.open("send", msg=0)
    one.close(first, OK, error="NACK")
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()
    one.close(one.open("send", msg=1), OK)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert salvage(tmp_path) >= 1
    history = read_history(tmp_path / "history.arrow")
    assert history["msg"].tolist() == [-1, 0, 1]
    assert history.errors[history["error"][1]] == "NACK"


def test_there_is_nothing_to_salvage_without_tapes(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="nothing to salvage"):
        salvage(tmp_path)


def test_the_recorder_in_process_serves_several_trials(tmp_path: Path) -> None:
    recorder = Recorder()
    for name in ("a", "b"):
        recorder.open(tmp_path / name, META)
        one = tape(tmp_path / name)
        one.close(one.open("send", msg=ord(name)), OK)
    recorder.pump()
    assert recorder.finish(tmp_path / "a") == 2
    recorder.finish_all(0)
    assert read_history(tmp_path / "b" / "history.arrow")["msg"].tolist() == [-1, ord("b")]


def test_the_recorder_says_what_failed(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "brokerproof.recorder"], text=True, capture_output=True, timeout=30,
        input=json.dumps({"finish": str(tmp_path)}) + "\n",
    )  # fmt: skip
    answers = [json.loads(line) for line in process.stdout.splitlines()]
    assert answers[1]["failed"] == str(tmp_path)
    assert process.returncode == 0
