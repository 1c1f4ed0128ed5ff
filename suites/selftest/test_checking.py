"""``check DIR``: what it prints, how it ends, and what it does not have to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from brokerproof.__main__ import _plain_check
from brokerproof.checking import memory_bytes

CHECKERS = Path(__file__).parent / "checkers"


def write(folder: Path, *tale: str) -> Path:
    """A history file told in words (see ``checkers/storybook.py``)."""
    sys.path.insert(0, str(CHECKERS))
    from storybook import told

    from brokerproof.history import HistoryWriter

    made = told(*tale, drained=True)
    folder.mkdir(parents=True, exist_ok=True)
    with HistoryWriter(folder / "history.arrow", made.meta) as writer:
        writer.write(made.columns, made.errors)
    return folder


def check(*arguments: str, module: str = "brokerproof") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, "check", *arguments], text=True, capture_output=True)


def test_the_short_way_says_what_the_long_one_says(tmp_path: Path) -> None:
    folder = str(write(tmp_path, "ok send a", "ok send b", "ok receive a"))
    short, long = check(folder, "--json"), check(folder, "--json", module="brokerproof.cli")
    assert (short.returncode, short.stdout) == (long.returncode, long.stdout)
    assert short.returncode == 1
    assert json.loads(short.stdout)["anomalies"]["lost"]["messages"] == [1]


def test_the_short_way_loads_no_parser_no_colours_no_client(tmp_path: Path) -> None:
    folder = write(tmp_path, "ok send a", "ok receive a")
    code = (
        "import sys; from brokerproof.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'typer', 'rich', 'pydantic', 'pytest', 'docker', 'pika'} "
        "& set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(folder), "--json"], text=True, capture_output=True, check=True
    )
    assert done.stderr == "0 []\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["check"],
        ["check", "--json"],
        ["check", "a"],
        ["check", "a", "b", "--json"],
        ["check", "a", "--jsn"],
    ],
)
def test_everything_else_is_the_command_lines(arguments: list[str]) -> None:
    assert _plain_check(arguments) is None


def test_a_run_folder_is_the_command_lines(tmp_path: Path) -> None:
    assert _plain_check(["check", str(tmp_path), "--json"]) == tmp_path
    (tmp_path / "run.json").write_text("{}")
    assert _plain_check(["check", str(tmp_path), "--json"]) is None


@pytest.mark.parametrize(
    ("tale", "code"),
    [(["ok send a", "ok receive a"], 0), (["ok send a"], 1), ([], 3), (["info send a"], 3)],
)
def test_exit_codes(tale: list[str], code: int, tmp_path: Path) -> None:
    folder = str(write(tmp_path, *tale))
    assert (check(folder, "--json").returncode, check(folder).returncode) == (code, code)


def test_a_memory_limit_changes_nothing_of_the_answer(tmp_path: Path) -> None:
    folder = str(write(tmp_path, "ok send a", "ok send b", "ok receive a"))
    whole = check(folder, "--json")
    for limit in ("1KiB", "100 MB", "4GiB"):
        parts = check(folder, "--json", "--memory-limit", limit)
        assert (parts.returncode, json.loads(parts.stdout)) == (1, json.loads(whole.stdout))
    wrong = check(folder, "--memory-limit", "much")
    assert (wrong.returncode, "expected a number and a unit" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(("size", "number"), [("1GiB", 1 << 30), ("1.5 kB", 1500), ("2mib", 2 << 20)])
def test_sizes(size: str, number: int) -> None:
    assert memory_bytes(size) == number
