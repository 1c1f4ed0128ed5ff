"""Runs to render: a whole one, made up, and ones of given results only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from render_sample import write, write_sample


@pytest.fixture
def sample_run(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "runs" / "20250714T093000Z-42")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run of these results only, without any trial."""

    def make(claims: Any = (), cases: Any = (), errors: Any = (), **facts: Any) -> Path:
        run = tmp_path / "run"
        write(run / "run.json", {"schema": 1, "seed": 7, **facts})
        write(
            run / "results.json",
            {
                "schema": 1,
                "run": "run",
                "seed": 7,
                "errors": list(errors),
                "claims": list(claims),
                "cases": list(cases),
            },
        )
        return run

    return make
