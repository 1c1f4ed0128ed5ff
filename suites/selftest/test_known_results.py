"""docs/known-results.md: made from figures alone, and no published result is called reproduced that was not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from brokerproof.claims import declared
from brokerproof.suites import suites

sys.path.insert(0, str(Path(__file__).parents[2] / "ci"))
import known_results
from known_results import FIGURES, KNOWN, PAGE, Known, figures, main, page, word


def arm(violated: int, trials: int = 3) -> dict[str, Any]:
    return {"trials": trials, "violated": violated, "rate": violated / trials, "wilson95": [0.0, 0.56], "trial_ids": []}


def result(
    known: Known, *, shows: int = 3, clean: int = 0, verdict: str = "HOLDS", finished: str = "1"
) -> dict[str, Any]:
    """What a run that decided the cells of a published result leaves."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for a, violated in zip(known.arms, (shows, clean), strict=True):
        cell = cells.setdefault((a.claim, a.variant), {
            "broker": known.broker, "version": "1.0", "claim": a.claim, "revision": 1, "variant": a.variant,
            "profile": "standard", "verdict": verdict, "reason": "3 of 3 trials", "deciding": ["lost"],
            "command": f"brokerproof run --select {a.claim}", "treatment": arm(0), "control": arm(3), "sham": None,
        })  # fmt: skip
        cell[a.arm] = arm(violated)
    return {"finished": finished, "claims": list(cells.values())}


def test_every_result_names_cells_that_there_are() -> None:
    there = {(p, d.claim.id, v) for d in declared(suites() / "claims") for p, vs in d.brokers.items() for v in vs}
    assert {(k.broker, a.claim, a.variant) for k in KNOWN for a in k.arms} <= there
    assert all(k.shows != k.clean for k in KNOWN)


@pytest.mark.parametrize("known", KNOWN, ids=lambda k: k.shows.claim)
def test_a_result_is_reproduced_where_one_arm_shows_it_and_the_other_does_not(known: Known) -> None:
    assert word(known, {}) == "not measured"
    assert word(known, figures([result(known)])) == "reproduced"
    assert word(known, figures([result(known, clean=1)])) == "not reproduced"
    assert word(known, figures([result(known, shows=0)])) == "not reproduced"
    assert word(known, figures([result(known, verdict="UNKNOWN")])) == "undecided"
    assert word(known, figures([result(known, verdict="UNSUPPORTED")])) == "not measured"


def test_one_arm_without_its_opposite_reproduces_nothing() -> None:
    known = next(k for k in KNOWN if k.shows.claim != k.clean.claim)
    alone = result(known, verdict="VIOLATED")
    alone["claims"] = [c for c in alone["claims"] if c["claim"] == known.shows.claim]
    assert word(known, figures([alone])) == "half measured"


def test_the_newest_run_counts_and_what_none_decided_is_said_so() -> None:
    old, new = result(KNOWN[0], shows=0, finished="1"), result(KNOWN[0], finished="2")
    text = page(figures([new, old]))
    assert "acks=1: 3 of 3 trials (0% to 56%)" in text
    assert text.count("**reproduced**") == 1 and text.count("**not measured**") == len(KNOWN) - 1


def test_a_page_by_hand_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_results, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(known_results, "FIGURES", tmp_path / "figures.json")
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(result(KNOWN[0])))
    assert main(["--check", str(run)]) == 1  # nothing there yet
    assert main([str(run)]) == 0
    assert main(["--check"]) == main(["--check", str(run)]) == 0
    (tmp_path / "page.md").write_text((tmp_path / "page.md").read_text().replace("3 of 3", "4 of 4"))
    assert main(["--check"]) == 1


def test_a_later_run_leaves_what_it_did_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_results, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(known_results, "FIGURES", tmp_path / "figures.json")
    for n in (0, 1):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "results.json").write_text(json.dumps(result(KNOWN[n])))
    assert main([str(tmp_path / "0")]) == main(["--keep", str(tmp_path / "1")]) == 0
    assert (tmp_path / "page.md").read_text().count("**reproduced**") == 2
    assert main([str(tmp_path / "1")]) == 0
    assert (tmp_path / "page.md").read_text().count("**reproduced**") == 1


def test_without_runs_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "names no run folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["/nowhere"])
    assert "results.json" in capsys.readouterr().err


def test_the_page_is_what_the_figures_say() -> None:
    assert PAGE.exists() and FIGURES.exists()
    assert main(["--check"]) == 0
