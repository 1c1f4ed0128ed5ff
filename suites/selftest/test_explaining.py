"""The life of one message, told from the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_checking import write

from brokerproof.errors import UsageError
from brokerproof.explaining import explain, sentences

TALE = (
    "ok send a key=3 at=1..2", "info fault error=inject_kill_m1,m2 at=3..3", "info send b key=3 at=4 pending=1",
    "ok receive a attempt=0 at=5..5", "ok effect a at=6..7", "ok settle a at=8..9", "ok fault error=heal_kill at=10..10",
    "ok receive a attempt=2 at=11..11", "ok send c key=3 at=20..21",
)  # fmt: skip


def test_a_life_has_every_row_and_the_faults_that_fell_into_it(tmp_path: Path) -> None:
    life = explain(write(tmp_path, *TALE), 0)
    assert [line["f"] for line in life.lines] == [
        "send", "fault", "receive", "effect", "settle", "fault", "receive",
    ]  # fmt: skip
    (fault,) = life.faults
    assert (fault["fault"], fault["targets"], fault["from_s"], fault["to_s"]) == ("kill", ["m1", "m2"], 0.003, 0.01)
    assert set(life.says) == {"duplicated", "redelivered"}
    text = "\n".join(sentences(life))
    assert "sent by process 0 to queue-0, key 3" in text
    assert "consumer 1, receives it, in queue-0, ok, first delivery" in text
    assert "redelivery 2" in text
    assert text.count("during kill on m1, m2 (0.003 s to 0.010 s, unproven)") == 3
    assert "duplicated (anomaly): On a log lane" in text


def test_what_never_ended_and_what_nobody_sent(tmp_path: Path) -> None:
    folder = write(tmp_path, *TALE, "ok receive z")
    assert "never ended" in "\n".join(sentences(explain(folder, 1)))
    ghost = explain(folder, 25)
    assert "phantom" in ghost.says
    assert "nobody sent it" in "\n".join(sentences(ghost))


def test_a_class_is_named_beyond_its_first_hundred_messages(tmp_path: Path) -> None:
    folder = write(tmp_path, *(f"ok send {n}" for n in range(150)))
    assert "lost" in explain(folder, 149).says


def test_faults_json_says_more_than_the_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, *TALE)
    injection = {"fault": "kill", "targets": ["m1"], "injected_s": 0.003, "healed_s": -1.0, "evidence": "not_healed"}
    never, dry = {**injection, "injected_s": -1.0}, {**injection, "dry": True}
    (folder / "faults.json").write_text(json.dumps({"injections": [injection, never, dry]}))
    (fault,) = explain(folder, 0).faults
    assert (fault["to_s"], fault["evidence"]) == (None, "not_healed")


def test_the_nodes_say_where_they_had_it(tmp_path: Path) -> None:
    folder = write(tmp_path, *TALE)
    assert "where the nodes had it: not recorded" in list(sentences(explain(folder, 0)))
    twice = {
        "found": [{"offset": 3, "file": "t-0/0.log", "byte": 4096}, {"offset": 9}],
        "says": "not looked: it is late",
    }
    places = {"0": {"k1": twice, "k2": {"found": [], "says": "not there"}}}
    (folder / "places.json").write_text(
        json.dumps({"schema": 1, "at_s": 0.005, "says": "", "sample": 0, "messages": places})
    )
    life = explain(folder, 0)
    text = "\n".join(sentences(life))
    assert (
        "after the final read, at 0.005 s:\n  during kill on m1, m2 (0.003 s to 0.010 s, unproven)\n  k1   offset 3, t-0/0.log at byte 4,096\n       offset 9\n       not looked"
        in text
    )
    assert "  k2   not there" in text
    assert life.to_json()["places"] == places["0"]
    assert "message 0 was, of those that were kept" in "\n".join(sentences(explain(folder, 1)))


def test_errors_say_what_there_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "run" / "trials" / name, "ok send a", "ok send b")
    write(tmp_path / "run" / "trials" / "three", "ok send 7", "ok send 9")
    (tmp_path / "run" / "trials" / "four").mkdir()
    (tmp_path / "run" / "trials" / "four" / "history.arrow").write_bytes(b"junk")
    run = tmp_path / "run"
    assert explain(run, 9).lines
    assert explain(run, 1, trial="two").message == 1
    for message, trial, said in (
        (1, "", "stands in 2 trials; say which with --trial:\n  one: messages 0 to 1 were sent, 2 sends in all\n  two"),
        (5, "", "three: messages 7 to 9 were sent"),
        (-2, "", "no message -2"),
        (5, "one", "there are:\n  one: messages 0 to 1"),
        (1, "tow", "unknown trial 'tow'; known: four, one, three, two; did you mean 'two'?"),
    ):
        with pytest.raises(UsageError) as error:
            explain(run, message, trial)
        assert said in str(error.value)
    with pytest.raises(UsageError, match=r"neither a history\.arrow nor"):
        explain(tmp_path, 1)
    with pytest.raises(UsageError, match="messages 0 to 1 were sent"):
        explain(run / "trials" / "one", 5)
