"""What this repository's own suites need; options, markers and the cells of claims live in the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A register of runs of the test's own, so that no test sees or sweeps what belongs to somebody's run."""
    folder = tmp_path / "state"
    monkeypatch.setenv("BROKERPROOF_STATE", str(folder))
    return folder
