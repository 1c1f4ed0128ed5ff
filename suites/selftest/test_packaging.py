"""The package as others get it: built, installed into an empty environment, used from an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


def call(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, text=True, capture_output=True, timeout=300,
        env={**{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}, "COLUMNS": "160", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """sdist of the checkout, and wheels of the checkout and of the unpacked sdist. Nothing is fetched: the build tools are the
    environment's own."""
    out = tmp_path_factory.mktemp("dist")

    def build(where: Path, kind: str, into: Path) -> Path:
        done = call(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            kind,
            "-d",
            into,
            cwd=where,
            SOURCE_DATE_EPOCH="1700000000",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return next(p for p in into.iterdir() if p.suffix in (".gz", ".whl"))

    sdist = build(ROOT, "sdist", out / "sdist")
    with tarfile.open(sdist) as tar:
        tar.extractall(out / "src", filter="data")
    (source,) = (out / "src").iterdir()
    return {
        "sdist": sdist,
        "wheel": build(ROOT, "wheel", out / "wheel"),
        "again": build(source, "wheel", out / "again"),
    }


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """``brokerproof`` of an environment that holds the wheel and what it asks for, in an empty folder."""
    home = tmp_path_factory.mktemp("away")
    uv = Path(sys.executable).with_name("uv")
    made = call(uv, "venv", "-q", "--python", sys.executable, home / "env", cwd=home)
    assert made.returncode == 0, made.stderr
    python = home / "env" / "bin" / "python"
    install = [uv, "pip", "install", "-q", "--python", python, "-c", ROOT / "ci" / "requirements.lock", built["again"]]
    # What ci/setup installed lies in uv's cache; where it does not, the index is asked.
    for more in (["--offline"], []):
        done = call(*install, *more, cwd=home)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    (home / "work").mkdir()

    def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return call(
            home / "env" / "bin" / "brokerproof",
            *words,
            cwd=home / "work",
            BROKERPROOF_STATE=str(home / "state"),
            **environment,
        )

    where = call(python, "-c", "import brokerproof; print(brokerproof.__file__)", cwd=home / "work")
    assert Path(where.stdout.strip()).is_relative_to(home), where.stdout
    return command


def test_the_wheel_holds_what_a_run_needs_and_nothing_else_to_import(built: dict[str, Path]) -> None:
    names = {kind: set(zipfile.ZipFile(built[kind]).namelist()) for kind in ("wheel", "again")}
    assert names["wheel"] == names["again"]
    inside = names["wheel"]
    assert {name.partition("/")[0] for name in inside} == {"brokerproof", "brokerproof-0.1.0.dist-info"}
    wanted = [
        *(f"brokerproof/_suites/{p.relative_to(ROOT / 'suites')}" for part in ("claims", "conformance", "expected")
          for p in (ROOT / "suites" / part).rglob("*") if p.suffix in (".py", ".toml", ".ini")),
        *(f"brokerproof/_reports/{p.relative_to(ROOT / 'reports')}" for part in ("templates", "styles", "scripts")
          for p in (ROOT / "reports" / part).rglob("*") if p.is_file()),
        *(f"brokerproof/{p.relative_to(ROOT / 'harness' / 'brokerproof')}" for p in (ROOT / "harness" / "brokerproof").rglob("*")
          if p.is_file() and p.suffix != ".pyc"),
    ]  # fmt: skip
    assert len(wanted) > 300
    assert not [name for name in wanted if name not in inside]
    assert not [name for name in inside if "selftest" in name or name.endswith(".pyc")]


def test_the_same_sources_give_the_same_wheel(built: dict[str, Path]) -> None:
    assert built["wheel"].read_bytes() == built["again"].read_bytes()


def test_a_journey_without_the_checkout(installed: Command, built: dict[str, Path]) -> None:
    version = installed("--version")
    assert version.stdout.startswith("brokerproof 0.1.0\n") and "_suites" not in version.stdout.splitlines()[0]
    assert "_suites" in version.stdout

    for what, least in (("claims", 100), ("cases", 200), ("faults", 20), ("brokers", 4)):
        listed = installed("list", what, "--json")
        assert listed.returncode == 0 and len(json.loads(listed.stdout)) >= least, listed.stderr
    shown = installed("conformance", "--list", "--section", "A2")
    assert "A2.03" in shown.stdout and "K2.01" not in shown.stdout

    run = installed("run", "--broker", "memory", "--select", "order", "--seed", "3", "--run-dir", "r")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "HOLDS" in run.stdout
    home = Path(run.args[0]).parents[2] / "work"  # type: ignore[index]
    page = (home / "r" / "report" / "index.html").read_text()
    assert "order/one-queue-one-consumer" in page and "<style" in page
    for file in ("junit.xml", "summary.md", "results.json"):
        assert (home / "r" / file).stat().st_size > 100

    assert installed("check", "r").returncode == 0
    assert installed("gate", "r").returncode == 0
    assert installed("bundle", "r").returncode == 0
    assert "everything agrees" in installed("verify", "r.tar.zst", "--recheck").stdout
    assert "compdef" in installed("completion", "zsh").stdout
    expected = json.loads((home / "r" / "results.json").read_text())["claims"]
    assert {c["verdict"] for c in expected} == {"HOLDS"}
