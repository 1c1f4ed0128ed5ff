"""What the promise table says of an arm's anomalies stands beside them, in the page and in the summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from render_sample import claim

from brokerproof.render import html, markdown
from brokerproof.render.folder import read_run

SAID = {
    "anomaly": "lost", "count": 12, "word": "allowed by this configuration",
    "because": "acks=0: no guarantee", "source": "https://kafka.apache.org/documentation/#producerconfigs_acks",
}  # fmt: skip


def test_the_words_stand_in_page_and_summary(make_run: Callable[..., Path]) -> None:
    run = make_run([claim("a/b", promises={"treatment": [SAID], "control": [{**SAID, "word": "broken promise"}]})])
    page, summary = html.page(read_run(run)), markdown.render(run).read_text(encoding="utf-8")
    assert "What the configuration promises" in page
    for word in ("allowed by this configuration", "broken promise", "acks=0: no guarantee", SAID["source"]):
        assert str(word) in page
    row = next(line for line in summary.splitlines() if "12 lost" in line)
    assert "allowed by this configuration" in row
    assert "broken promise" not in summary  # of the control, where it is what was wanted


@pytest.mark.parametrize("promises", [None, 3, [], {"treatment": 3}, {"treatment": [3, None, {}]}, {"x": [SAID]}])
def test_damaged_promises_are_no_crash(make_run: Callable[..., Path], promises: Any) -> None:
    run = make_run([claim("a/b", promises=promises)])
    assert "a/b" in html.page(read_run(run))
    assert "a/b" in markdown.render(run).read_text(encoding="utf-8")


def test_nothing_is_said_where_nothing_was_found(make_run: Callable[..., Path]) -> None:
    run = make_run([claim(promises={"treatment": [], "control": []})])
    assert "What the configuration promises" not in html.page(read_run(run))
