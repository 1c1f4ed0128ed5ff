"""The worked examples of the documentation, as a reader runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_first_one_needs_no_container(tmp_path: Path, state: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--brokerproof-run-dir", "run",
         "--rootdir", str(EXAMPLES), "-c", "/dev/null", str(EXAMPLES / "first")],
        cwd=tmp_path, text=True, capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (entry,) = json.loads((tmp_path / "run" / "results.json").read_text())["claims"]
    assert (entry["claim"], entry["verdict"]) == ("shop/answered-orders-are-queued", "HOLDS")
    assert [entry[arm]["violated"] for arm in ("sham", "control", "treatment")] == [0, 1, 0]


@pytest.mark.container
def test_the_order_service_keeps_both_promises_and_its_controls_do_not(tmp_path: Path, state: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--brokerproof-run-dir", "run",
         "--rootdir", str(EXAMPLES), "-c", "/dev/null", str(EXAMPLES / "orders")],
        cwd=tmp_path, text=True, capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    claims = json.loads((tmp_path / "run" / "results.json").read_text())["claims"]
    assert [(c["claim"], c["verdict"]) for c in claims] == [
        ("shop/answered-orders-are-written", "HOLDS"), ("shop/orders-are-written-once", "HOLDS"),
    ]  # fmt: skip
    for entry in claims:
        assert [entry[arm]["violated"] for arm in ("sham", "control", "treatment")] == [0, 1, 0]
