from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.results import RunFolder, exit_code, open_run, write_json


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
