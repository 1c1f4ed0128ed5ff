"""What many self-tests share: finished runs on the memory broker, and a real browser."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from without_browser import without_browser

CLAIMS = ("broker/kept-until-consumed", "producer/acknowledged-survives-link-cut")

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


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for what it starts in the background, and so would every harness that a test starts to interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What some thousand collected tests consist of stays until the end: the garbage collector, which the checkers call after each
    part of a history, need not go through it every time (100 ms)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine; `ci/setup --browser` installs one."""
    try:
        from playwright import sync_api as api
    except ModuleNotFoundError:
        without_browser("the playwright package is not installed: ci/setup --no-images", os.environ)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        without_browser(
            "no Chromium on this machine: ci/setup --no-images --browser, or apt-get install chromium", os.environ
        )
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


def made(folder: Path, broker: str) -> Path:
    """A run of two claims on that broker, both decided: on a busy machine a load process may miss its moment, and then another
    seed has to do."""
    env = {**os.environ, "BROKERPROOF_STATE": str(folder / "state")}
    said = ""
    for seed in (5, 6, 7):
        run = folder / f"20261122T000000Z-{seed}"
        chosen = [word for claim in CLAIMS for word in ("--select", claim)]
        command = [
            sys.executable,
            "-m",
            "brokerproof",
            "run",
            "--broker",
            broker,
            "--seed",
            str(seed),
            "--run-dir",
            str(run),
        ]
        done = subprocess.run([*command, *chosen], cwd=folder, env=env, text=True, capture_output=True, timeout=180)
        said += done.stdout + done.stderr
        if (run / "results.json").exists():
            entries = json.loads((run / "results.json").read_text())["claims"]
            if len(entries) == len(CLAIMS) and all(e["verdict"] != "UNKNOWN" for e in entries):
                return run
    raise AssertionError(said)


def made_once(factory: pytest.TempPathFactory, name: str, broker: str) -> Path:
    """As ``made``, for all workers of pytest-xdist together: the first makes it, the others wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            done.write_text(str(made(folder, broker)))
    return Path(done.read_text())


@pytest.fixture(scope="session")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All as expected. To be copied by whoever changes something in it."""
    return made_once(tmp_path_factory, "sound", "memory")


@pytest.fixture(scope="session")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same claims on a broker that delivers some messages twice: the first is VIOLATED."""
    return made_once(tmp_path_factory, "broken", "memory=doubles")
