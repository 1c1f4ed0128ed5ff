"""Many runs as one table: what is one cell, what is its latest result, what is left out, in whatever order runs are named."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import pytest
from site_sample import case, claim, write, write_run

from brokerproof.errors import UsageError
from brokerproof.site.model import read, standing


def test_a_cell_keeps_every_run_and_shows_the_latest(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"r{i}", started=f"2026-01-0{i}T00:00:00Z", claims=[claim(verdict=word, shows=i)])
        for i, word in ((1, "HOLDS"), (2, "VIOLATED"), (3, "HOLDS"))
    ]
    for order in permutations(runs):
        model = read(order)
        (cell,) = model.cells
        assert [r.id for r in model.runs] == ["r1", "r2", "r3"]
        assert [(r.run, r.verdict, r.shows, r.trials) for r in cell.history] == [
            (0, "HOLDS", 1, 20),
            (1, "VIOLATED", 2, 20),
            (2, "HOLDS", 3, 20),
        ]
        assert cell.latest.run == 2 and cell.changes == 2
        assert [(f.value, f.low, f.high) for f in cell.latest.figures if f.name == "rate"] == [
            (0.15, 0.052369, 0.360419)
        ]


def test_variant_version_product_and_durability_each_make_another_cell(tmp_path: Path) -> None:
    claims = [
        claim(),
        claim(variant="one node"),
        claim(version="3.9.2"),
        claim(broker="memory", version="sound"),
        claim(settings={"acks": "1"}),
        claim(
            settings={"linger.ms": "5"}, metrics={"rto_s": 9}
        ),  # decides nothing about durability: the first cell again
    ]
    model = read([write_run(tmp_path / "r", claims=claims)])
    assert len(model.cells) == 5
    assert [("acks", "1") in c.settings for c in model.cells if c.key.target == ("kafka", "4.3.1")].count(True) == 1
    assert len(model.notes) == 1 and "stands there twice" in model.notes[0]


def test_rows_differ_where_verdicts_do_and_not_where_nothing_applies(tmp_path: Path) -> None:
    claims = [
        claim("a/same"), claim("a/same", version="3.9.2"), claim("a/same", "UNSUPPORTED", broker="rocketmq"),
        claim("a/other"), claim("a/other", "VIOLATED", version="3.9.2"),
    ]  # fmt: skip
    model = read([write_run(tmp_path / "r", claims=claims, cases=[case("K1.10"), case("K1.9")])])
    assert {r.id: r.differs for r in model.of("claim")} == {"a/same": False, "a/other": True}
    assert [r.id for r in model.of("case")] == ["K1.9", "K1.10"]
    assert model.targets == (("kafka", "3.9.2"), ("kafka", "4.3.1"), ("rocketmq", "4.3.1"))


def test_a_run_named_twice_counts_once_and_a_broken_one_is_named(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", claims=[claim()])
    broken = write_run(tmp_path / "broken", claims=[claim()])
    (broken / "results.json").write_text('{"claims": [')
    model = read([good, good, broken])
    assert [r.id for r in model.runs] == ["good"]
    assert model.notes == (
        "run broken is left out: results.json cannot be read: JSONDecodeError",
        "run good was named 2 times, or has copies; it counts once",
    )


def test_nothing_to_compare_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder was named"):
        read([])
    with pytest.raises(UsageError, match="does not exist"):
        read([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no decided cell"):
        read([write_run(tmp_path / "empty")])


def test_damaged_entries_are_cells_all_the_same(tmp_path: Path) -> None:
    odd = [
        {"claim": "a/b", "verdict": "PERHAPS", "treatment": "none", "recovery": [1], "configuration": {"treatment": {"senders": "x"}}},
        "no object",
        {"verdict": "HOLDS"},
    ]  # fmt: skip
    model = read([write_run(tmp_path / "r", claims=odd, cases=[{"case": "A1.01", "verdict": 7}])])
    assert [(c.key.id, c.latest.verdict) for c in model.cells] == [("a/b", "UNKNOWN"), ("A1.01", "INCONCLUSIVE")]


@pytest.mark.parametrize(
    ("what", "word", "is_"),
    [("claim", "HOLDS", "good"), ("claim", "VIOLATED", "bad"), ("claim", "UNSUPPORTED", "open"), ("case", "NONSTRICT", "good"), ("case", "UNIMPL", "bad"), ("case", "SKIP", "open")],
)  # fmt: skip
def test_standing(what: str, word: str, is_: str) -> None:
    assert standing("claim" if what == "claim" else "case", word) == is_


def test_a_run_without_start_is_first(tmp_path: Path) -> None:
    late = write_run(tmp_path / "a", claims=[claim()])
    early = write_run(tmp_path / "z", claims=[claim(verdict="VIOLATED")])
    write(early / "run.json", {"schema": 1})
    assert read([late, early]).cells[0].latest.verdict == "HOLDS"


def test_results_can_be_held_against_the_lines_of_today(tmp_path: Path) -> None:
    known, surprising, unlisted = (
        claim("a/known", "VIOLATED"),
        claim("a/worse", "VIOLATED"),
        claim("a/none", "VIOLATED"),
    )
    absent = claim("a/absent", "UNSUPPORTED", expected="HOLDS")
    claims = [entry | {"expected": "HOLDS", "as_expected": False} for entry in (known, surprising, unlisted)]
    broken = case("K1.02", "CODE", expected="PASS", as_expected=False)
    run = write_run(tmp_path / "r", claims=[*claims, absent], cases=[case("K1.01"), broken, case("K1.03", "INFO")])
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "kafka-4.3.1.toml").write_text(
        '[[cell]]\nclaim = "a/known"\nverdict = "VIOLATED"\nreason = "seen"\n'
        '[[cell]]\nclaim = "a/worse"\nverdict = "HOLDS"\nreason = "seen"\n'
        '[[case]]\ncase = "K1.01"\nverdict = "CODE"\nreason = "seen"\n'
        '[[case]]\ncase = "K1.02"\nverdict = "CODE"\nreason = "seen"\n'
    )
    of_the_day = {c.key.id: (c.latest.verdict, c.latest.as_expected) for c in read([run]).cells}
    today = {c.key.id: (c.latest.verdict, c.latest.expected, c.latest.as_expected) for c in read([run], lines).cells}
    assert not any(of_the_day[id_][1] for id_ in ("a/known", "a/worse", "a/none", "K1.02"))
    assert today == {
        "a/known": ("VIOLATED", "VIOLATED", True), "a/worse": ("VIOLATED", "HOLDS", False),
        "a/none": ("VIOLATED", "HOLDS", False), "a/absent": ("UNSUPPORTED", "HOLDS", True),
        "K1.01": ("PASS", "CODE", False), "K1.02": ("CODE", "CODE", True), "K1.03": ("INFO", "INFO", True),
    }  # fmt: skip


def test_of_copies_of_a_run_the_same_one_is_taken_in_any_order(tmp_path: Path) -> None:
    """A bundle that was unpacked is redacted and may hold less; a run that was judged again has other results. It is one run."""
    first = write_run(tmp_path / "a" / "r", claims=[claim(reason="as it was")])
    full = Path(shutil.copytree(first, tmp_path / "b" / "r"))
    (full / "more.txt").write_text("x")
    redacted = Path(shutil.copytree(first, tmp_path / "c" / "r"))
    results = redacted / "results.json"
    results.write_text(results.read_text().replace("as it was", "[redacted]"))
    other = write_run(tmp_path / "d" / "r", started="2026-02-01T00:00:00Z", claims=[claim()])
    sites = set()
    for n, order in enumerate(permutations([first, full, redacted, first, other])):
        model = read(order)
        assert len(model.runs) == 2 and len(model.cells[0].history) == 2
        assert [note for note in model.notes if "named 4 times" in note] == list(model.notes)
        sites.add((model.runs[0].read.path, model.cells[0].history[0].reason, model.runs[0].file))
        if n == 30:
            break
    assert [path for path, _, _ in sites] == [full]
