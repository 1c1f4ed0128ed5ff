"""The summary of a job: a table that stays a table, and what one has to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from render_sample import claim

from brokerproof.render import markdown


def test_matrix_has_a_column_per_target_and_marks_the_unexpected_by_a_word(sample_run: Path) -> None:
    lines = markdown.render(sample_run).read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| claim | kafka 4.3.1 | rabbitmq 3.13.7 | rabbitmq 4.0.5 | rocketmq 5.3.2 |"
    disk = next(line for line in table if line.startswith("| broker/confirm-after-disk |"))
    assert disk == (
        "| broker/confirm-after-disk | ✗ VIOLATED | ✓ HOLDS quorum | "
        "✓ HOLDS quorum<br>**✗ VIOLATED (unexpected)** classic | **? UNKNOWN (unexpected)** SYNC\\_FLUSH |"
    )


def test_unexpected_verdicts_come_with_reason_and_command(sample_run: Path) -> None:
    text = markdown.render(sample_run).read_text(encoding="utf-8")
    assert "19 verdicts, 2 not as expected; seed 42; profile standard." in text
    part = text[text.index("## Not as expected") :]
    assert "on rabbitmq 4.0.5 classic: VIOLATED, expected HOLDS" in part
    assert "2 of 3 treatment trials lost confirmed messages" in part
    assert "repeat: `brokerproof run --broker rabbitmq=4.0.5 --select broker/confirm-after-disk" in part
    assert "## Harness errors" in part


def test_hostile_text_makes_no_markup(make_run: Callable[..., Path]) -> None:
    hostile = "a|b\n# x <script>`code` [l](u) **b** \x1b"
    run = make_run([claim("a/b", "VIOLATED", expected="HOLDS", reason=hostile, variant=hostile, command="x ``y`` z")])
    text = markdown.render(run).read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| a/b"))
    assert row.replace("\\|", "").count("|") == 3
    assert "<script>" not in text
    assert "\n# x" not in text
    assert "\\`code\\` \\[l\\](u) \\*\\*b\\*\\*" in text
    assert "repeat: ``` x ``y`` z ```" in text


def test_all_as_expected_is_short(make_run: Callable[..., Path]) -> None:
    text = markdown.render(make_run([claim()])).read_text(encoding="utf-8")
    assert "1 verdicts, 0 not as expected" in text
    assert "## " not in text
