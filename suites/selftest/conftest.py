"""Finished runs on the memory broker, made once per process: for whatever reads a run's folder and leaves it as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def made(folder: Path, broker: str) -> Path:
    """A run of two claims on that broker."""
    env = {**os.environ, "BROKERPROOF_STATE": str(folder / "state")}
    done = subprocess.run(
        [
            sys.executable, "-m", "brokerproof", "run", "--broker", broker, "--seed", "5", "--run-dir", str(folder / "run"),
            "--select", "order/one-queue-one-consumer", "--select", "producer/acknowledged-survives-link-cut",
        ],
        cwd=folder, env=env, text=True, capture_output=True, timeout=180,
    )  # fmt: skip
    assert (folder / "run" / "results.json").exists(), done.stdout + done.stderr
    return folder / "run"


@pytest.fixture(scope="session")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All as expected. To be copied by whoever changes something in it."""
    return made(tmp_path_factory.mktemp("sound"), "memory")


@pytest.fixture(scope="session")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same claims on a broker that mixes up the order."""
    return made(tmp_path_factory.mktemp("broken"), "memory=reorders")
