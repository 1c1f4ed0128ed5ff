from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.results import RunFolder, exit_code, load_json, open_run, write_json


def results(*cells: tuple[str, str], errors: int = 0) -> dict[str, object]:
    return {
        "errors": [{"where": "x", "error": "y"}] * errors,
        "claims": [{"verdict": v, "expected": e} for v, e in cells],
        "cases": [],
    }


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (results(("HOLDS", "HOLDS"), ("VIOLATED", "VIOLATED"), ("UNSUPPORTED", "HOLDS")), 0),
        (results(("HOLDS", "VIOLATED")), 1),
        (results(("UNKNOWN", "HOLDS"), ("VIOLATED", "HOLDS")), 1),
        (results(("UNKNOWN", "HOLDS"), ("HOLDS", "HOLDS")), 3),
        (results(("VIOLATED", "HOLDS"), errors=1), 4),
        (results(), 4),
    ],
)
def test_exit_codes_come_in_their_fixed_order(made: dict[str, object], code: int) -> None:
    assert exit_code(made) == code


def test_what_an_interrupted_run_did_not_come_to_is_missing() -> None:
    assert exit_code(results(("HOLDS", "HOLDS")) | {"interrupted": True}) == 3
    assert exit_code(results(("VIOLATED", "HOLDS")) | {"interrupted": True}) == 1
    assert exit_code(results(("HOLDS", "HOLDS")) | {"interrupted": False}) == 0


def test_how_a_run_ended_stays_with_it(tmp_path: Path) -> None:
    """Nobody folds a run that was killed; whoever does it later says so, and is not believed to have ended it."""
    folder = RunFolder(tmp_path / "r")
    folder.create(seed=1, command="c")
    folder.write_cell("a", {"claim": "a"})
    assert folder.fold()["interrupted"] is True  # `check` of what a kill left
    assert folder.fold()["interrupted"] is True  # and again
    assert folder.fold(interrupted=False)["interrupted"] is False  # it was gone on with, to its end
    assert folder.fold()["interrupted"] is False
    assert json.loads((folder.path / "results.json").read_text())["interrupted"] is False
    facts = json.loads((folder.path / "run.json").read_text())
    del facts["interrupted"]  # of an earlier version, which wrote results at the end only
    write_json(folder.path / "run.json", facts)
    assert folder.fold()["interrupted"] is False


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "[" * 100_000, "\xff"])
def test_what_is_no_object_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"x\.json"):
        load_json(tmp_path / "x.json")


def test_a_folder_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "r")
    folder.create(seed=1, command="first")
    folder.create(seed=2, command="second")
    assert json.loads((folder.path / "run.json").read_text())["command"] == "first"


def test_what_cells_left_is_folded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.create(seed=1, command="c")
    folder.write_cell("b", {"claim": "b"})
    folder.write_cell("a", {"claim": "a"})
    folder.write_error("c", "broke")
    folder.note_cluster(
        "k", {"broker": "kafka", "settings": {"x": 1}, "engine": {"version": "1"}, "images": {"i": "sha"}}
    )
    folded = folder.fold()
    assert [c["claim"] for c in folded["claims"]] == ["a", "b"]
    assert folded["errors"] == [{"where": "c", "error": "broke"}]
    facts = json.loads((folder.path / "run.json").read_text())
    assert facts["brokers"] == {"k": {"broker": "kafka", "settings": {"x": 1}}}
    assert (facts["engine"], facts["images"]) == ({"version": "1"}, {"i": "sha"})


def test_what_is_no_run_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        open_run(tmp_path)


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EnvironmentProblem, match="is the disk full"):
        write_json(tmp_path / "x.json", {})
