"""What many self-tests share: finished runs on the memory broker, and a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine; `ci/setup --browser` installs one."""
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


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
