"""Help, completion and version: every command has its page, and what a page names exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from brokerproof import completing, listing
from brokerproof.cli import app
from brokerproof.errors import HarnessError
from brokerproof.experiment import PROFILES
from brokerproof.manual import PAGES, page

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[tuple[str, typer.models.CommandInfo]]:
    for info in app.registered_commands:
        yield info.name or info.callback.__name__, info  # type: ignore[union-attr]  # a command has a function
    for group in app.registered_groups:
        for info in group.typer_instance.registered_commands:  # type: ignore[union-attr]
            yield f"{group.name} {info.name or info.callback.__name__}", info  # type: ignore[union-attr]


def brokerproof(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], text=True, capture_output=True, timeout=60,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1", **environment},
    )  # fmt: skip


def shown_help(command: str) -> str:
    """As ``brokerproof COMMAND --help`` prints it, without a process for each."""
    arguments = [*command.split(), "--help"]
    done = CliRunner().invoke(app, arguments, prog_name="brokerproof", env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert done.exit_code == 0, (command, done.output)
    return done.output


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    found = dict(commands())
    assert set(found) == set(PAGES)
    for name, info in found.items():
        assert info.epilog == page(name), name
        assert PAGES[name].examples and PAGES[name].exits, name


def test_every_example_has_options_that_exist() -> None:
    known = {name: shown_help(name) for name in PAGES}
    for name, told in PAGES.items():
        for example in told.examples:
            words = shlex.split(example.partition(" > ")[0])
            assert words[0] == "brokerproof" and " ".join(words[1:]).startswith(name), example
            for option in (word for word in words if word.startswith("--")):
                assert re.search(rf"(?<!\S){option}\b", known[name]), (example, option)
    shown = known["run"]
    for part in (
        "Examples",
        "Exit codes",
        "Environment",
        "Files",
        "runs/<utc>-<seed>/",
        "3  evidence missing",
        "BROKERPROOF_IMAGES",
    ):
        assert part in shown, part


def test_no_word_of_an_option_is_taken_for_markup() -> None:
    """``<word>`` in the help of an option, which is rendered as Markdown, is an element, and not shown."""
    hints = [get_type_hints(info.callback, include_extras=True) for _, info in commands() if info.callback]
    helps = [told.help or "" for of in hints for hint in of.values() for told in getattr(hint, "__metadata__", ())]
    assert "Default: ./RUN.tar.zst." in " ".join(helps)
    assert not [told for told in helps if "<" in told]


def test_what_is_listed_is_prose() -> None:
    for rows in (listing.faults, listing.effects, listing.schedules, listing.checkers):
        for row in rows():
            assert row["what"], row
            assert "``" not in repr(row)


def test_every_variable_that_is_read_is_told() -> None:
    told = " ".join(name for entry in PAGES.values() for name in entry.environment)
    read = set()
    for file in (ROOT / "harness" / "brokerproof").rglob("*.py"):
        read |= set(re.findall(r"environ(?:\.get\(|\[)\s*\"([A-Z_]+)\"", file.read_text()))
    ours = {name for name in read if name.startswith(("BROKERPROOF_", "GITHUB_", "GITLAB_"))}
    assert {"BROKERPROOF_STATE", "BROKERPROOF_IMAGES"} <= ours
    assert not [name for name in ours if name not in told]


def test_version_says_what_answers_depend_on() -> None:
    lines = brokerproof("--version").stdout.splitlines()
    assert re.fullmatch(r"brokerproof \d+\.\d+\.\d+", lines[0])
    said = "\n".join(lines[1:])
    for part in ("suites", "results    schema 1", "python", "pika ", "confluent-kafka ", "pyarrow "):
        assert part in said, part


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("co", {"conformance", "completion"}),
        ("run --broker mem", {"memory", "memory=sound", "memory=doubles"}),
        ("run --select order/one", {"order/one-queue-one-consumer"}),
        ("run --profile ", {"quick", "standard", "thorough"}),
        ("conformance --case A2.03", {"A2.03", "A2.03a"}),
        ("list fa", {"faults"}),
        ("search --fault link", {"link_down"}),
        ("completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_names_are_completed(typed: str, offered: set[str]) -> None:
    words = f"brokerproof {typed}"
    done = brokerproof(
        _BROKERPROOF_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")),
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert offered <= set(done.stdout.split()), done.stdout


@pytest.mark.parametrize("name", ["brokers", "claims", "cases", "schedules", "faults", "profiles"])
def test_a_tab_prints_no_error_where_names_cannot_be_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[object]:
        raise HarnessError("a suite that cannot be read")

    for module, known in (
        ("listing", "brokers"),
        ("listing", "claims"),
        ("listing", "cases"),
        ("schedules", "schedules"),
        ("faults.base", "faults"),
    ):
        monkeypatch.setattr(f"brokerproof.{module}.{known}", broken)
    assert list(getattr(completing, name)("")) == (list(PROFILES) if name == "profiles" else [])


def test_bash_takes_the_script(tmp_path: Path) -> None:
    script = brokerproof("completion", "bash")
    assert script.returncode == 0
    (tmp_path / "brokerproof").write_text(f'#!/bin/sh\nexec {sys.executable} -m brokerproof "$@"\n')
    (tmp_path / "brokerproof").chmod(0o755)
    asked = script.stdout + (
        '\nCOMP_WORDS=(brokerproof list c); COMP_CWORD=2; _brokerproof_completion brokerproof; echo "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", asked], text=True, capture_output=True, timeout=60, env=env)
    assert done.stdout.split() == ["claims", "cases", "checkers"], done.stderr


def test_other_shells_get_theirs_and_unknown_ones_a_sentence() -> None:
    assert "#compdef brokerproof" in brokerproof("completion", "zsh").stdout
    assert "complete --command brokerproof" in brokerproof("completion", "fish").stdout
    wrong = brokerproof("completion", "tcsh")
    assert wrong.returncode == 2 and "bash, fish, zsh" in wrong.stderr
