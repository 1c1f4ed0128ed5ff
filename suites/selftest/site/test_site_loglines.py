"""Log lines beside a timeline: on the trial's clock, the telling ones first, without credentials."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from site_sample import HOSTILE, claim, with_logs, write_run, write_trial

from brokerproof.site import build
from brokerproof.site.loglines import CHARS_MAX, LINES_MAX, MARKS_MAX, LogLines, log_lines


def lines_of(
    tmp_path: Path,
    *logs: tuple[float, str],
    zero: str = "2026-01-01T00:00:10.500000+00:00",
    facts: dict[str, object] | None = None,
) -> LogLines | None:
    trial = tmp_path / "trials" / write_trial(tmp_path, "t")
    with_logs(trial, {"n1": logs}, zero=zero)
    return log_lines(trial, 6.0, [{"injected_s": 2.4, "healed_s": 3.9}], facts or {})


def test_lines_are_on_the_clock_of_the_trial(tmp_path: Path) -> None:
    found = lines_of(
        tmp_path,
        (-600, "[info] long before"),
        (-0.5, "[info] just before"),
        (2.25, "2026 [error] <0.1.0> broke"),
        (5, "INFO x WARN y"),
        (60, "later"),
    )
    assert found is not None and found.left_out == 0
    assert [(line.t_s, line.node, line.level) for line in found.lines] == [
        (-0.5, "n1", 0),
        (2.25, "n1", 2),
        (5.0, "n1", 1),
    ]
    assert found.overview(6.0) == {"marks": [[0.0125, 0], [2.2625, 2], [5.0125, 1]], "lines": 3, "left_out": 0}


@pytest.mark.parametrize("zero", ["", "yesterday", "2026-01-01T00:00:10"])
def test_without_a_clock_there_are_none(tmp_path: Path, zero: str) -> None:
    assert lines_of(tmp_path, (1, "x"), zero=zero) is None


def test_of_many_lines_the_telling_ones_stay(tmp_path: Path) -> None:
    logs = [(n / 10_000 * 6, f"[info] line {n}") for n in range(10_000)] + [
        (0.1, "[error] far from any fault"),
        (5.9, "[warning] so is this"),
    ]
    found = lines_of(tmp_path, *logs)
    assert found is not None and len(found.lines) == LINES_MAX and found.left_out == 10_002 - LINES_MAX
    says = [line.says for line in found.lines]
    assert "[error] far from any fault" in says and "[warning] so is this" in says
    others = [line.t_s for line in found.lines if not line.level]
    assert others == sorted(others) and all(min(abs(t - 2.4), abs(t - 3.9)) < 0.1 for t in others)
    assert len(found.overview(6.0)["marks"]) <= MARKS_MAX


def test_lines_are_redacted_cut_and_cleaned(tmp_path: Path) -> None:
    secret = "hunter2-Tr0ub4dor"
    found = lines_of(
        tmp_path, (1, f"[info] password={secret}"), (2, f"[info] logged in with {secret}"), (3, "x" * 230 + f" token={secret}"), (4, "\x1b[31mred\u202e"),
        (5, "of the settings: Gr0ss-geheim"), facts={"brokers": {"k": {"settings": {"sasl.password": "Gr0ss-geheim"}}}},
    )  # fmt: skip
    assert found is not None
    text = json.dumps(found.rows())
    assert (
        secret not in text and "Gr0ss-geheim" not in text and secret[:6] not in text and text.count("[redacted]") >= 3
    )
    assert "\\\\x1b" in text and "\\\\u202e" in text
    assert all(len(line.says) <= CHARS_MAX + 2 for line in found.lines)


def test_a_site_holds_them_apart_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    run = tmp_path / "r"
    with_logs(
        run / "trials" / write_trial(run, "t"),
        {HOSTILE.replace("/", "").replace("\\", "")[:40]: [(1.0, f"[error] {HOSTILE}")]},
    )
    write_run(run, claims=[claim("a/x", trials=["t"])])
    build([run], tmp_path / "site")
    (chunk,) = (tmp_path / "site" / "details").rglob("*-log.js")
    assert "</script" not in chunk.read_text() and "onerror=alert" in chunk.read_text()
    assert not any("onerror=alert" in page.read_text() for page in (tmp_path / "site" / "cells").glob("*.html"))


def test_a_run_says_when_second_0_of_its_trials_was(sound_run: Path) -> None:
    facts = json.loads((sound_run / "run.json").read_text())
    times = [datetime.datetime.fromisoformat(facts[name]) for name in ("started", "finished")]
    files = list(sound_run.glob("trials/*/faults.json"))
    assert files
    for file in files:
        zero = datetime.datetime.fromisoformat(json.loads(file.read_text())["zero"])
        # The run's own times are in whole seconds, cut off.
        assert times[0] <= zero < times[1] + datetime.timedelta(seconds=1)
