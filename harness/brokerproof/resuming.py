"""Going on with a run that was killed or interrupted: what was decided stays, everything else is decided anew.

``run --resume RUN`` asks again for what the run was asked for, under the same seed; nothing else can be given.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import adopting
from brokerproof.errors import UsageError
from brokerproof.results import RunFolder, load_json, open_run, write_json
from brokerproof.runtime import sweep
from brokerproof.target import Target, load
from brokerproof.targeting import clean

_ARMS = ("treatment", "control", "sham")
_TRIAL = re.compile(r"(?P<cell>.*)-(?:treatment|control|sham)-\d+")
#: Options of ``brokerproof run`` that its command in ``run.json`` may have, each with a value; whether it is repeatable.
_OPTIONS = {
    "profile": False,
    "seed": False,
    "broker": True,
    "select": True,
    "variant": True,
    "schedule": True,
    "expected": False,
    "target": False,
}
#: Those without one.
_FLAGS = ("allow-destructive",)
_BY_HAND = "give its command again, with another run folder"


def prepare(path: Path) -> tuple[RunFolder, Mapping[str, Any]]:
    """The run, ready to be gone on with, and what it was asked for, by option. What it left outside of its folder is removed.

    Raises UsageError where there is no such run, it still goes on, or it was not started by ``brokerproof run``.
    """
    folder = open_run(path)
    asked = _asked(folder)
    if sweep.alive(folder.mark):
        raise UsageError(f"run {folder.id} still goes on; `brokerproof run --resume` is for one that has ended")
    target = _same_target(folder, Path(asked["target"])) if "target" in asked else None
    sweep.clean(folder.mark)
    sweep.unregister(folder.mark)
    if target is not None:
        # What it left there bears names that it is going to use again.
        clean(target)
    shutil.rmtree(folder.path / "pool", ignore_errors=True)
    for entry in folder.cells():
        if entry.get("undecided"):  # it stood for the cell that was being decided
            folder.forget_cell(entry["slug"])
    for file in (*folder.path.glob("cells/*.error.json"), folder.path / "results.json"):
        file.unlink(missing_ok=True)
    # It goes on: how it ended the last time is not how it ends.
    facts = load_json(folder.path / "run.json")
    write_json(folder.path / "run.json", {k: v for k, v in facts.items() if k not in ("finished", "interrupted")})
    _forget_halves(folder)
    return folder, asked


def _asked(folder: RunFolder) -> Mapping[str, Any]:
    words = shlex.split(str(load_json(folder.path / "run.json").get("command", "")))
    if words[:2] != ["brokerproof", "run"]:
        raise UsageError(
            f"run {folder.id} was not started by `brokerproof run` ({' '.join(words) or 'nothing is known of it'}): {_BY_HAND}"
        )
    asked: dict[str, Any] = {name: [] for name, several in _OPTIONS.items() if several}
    left = iter(words[2:])
    for option in left:
        name = option.removeprefix("--")
        if name in _FLAGS:
            asked[name] = True
            continue
        value = next(left, None)
        if name not in _OPTIONS or value is None:
            raise UsageError(
                f"run {folder.id}: its command has {option!r}, which cannot be asked for again; {_BY_HAND}"
            )
        if _OPTIONS[name]:
            asked[name].append(value)
        else:
            asked[name] = value
    if missing := {"profile", "seed"} - set(asked):
        raise UsageError(f"run {folder.id}: its command says no {' and no '.join(sorted(missing))}; {_BY_HAND}")
    return asked


def _same_target(folder: RunFolder, file: Path) -> Target:
    """Raises UsageError where the file says another broker, access, load, prefix or way to break nodes than when the run began, or
    the broker another version: one run is about one. EnvironmentProblem where the broker does not answer."""
    target = load(file)
    before, now = load_json(folder.path / "run.json").get("target", {}), target.identity("")
    del now["version"]
    # A run of before they were kept says neither of ``later``.
    later = () if "version" in before else ("ways_to_break_nodes",)
    if others := sorted(key for key in now if key not in later and now[key] != before.get(key)):
        raise UsageError(
            f"run {folder.id}: {str(file)!r} says other {', '.join(others)} than when it began; put them back, or {_BY_HAND}"
        )
    said = adopting(target.product).version_of(target)
    if said != before.get("version", said):
        raise UsageError(
            f"run {folder.id} began on {target.product} {before['version']}, and the broker says {said} now: what was decided is of "
            f"the one and the rest would be of the other; {_BY_HAND}"
        )
    return target


def _forget_halves(folder: RunFolder) -> None:
    """Trials of cells without a verdict go. So does a verdict that rests on one of those: cells share trials, and the name is
    going to be another trial's."""
    while True:
        entries = {entry["slug"]: entry for entry in folder.cells()}
        used = {slug: _trials_of(entry) for slug, entry in entries.items()}
        torn = [slug for slug, trials in used.items() if any(_owner(t) not in entries for t in trials)]
        for slug in torn:
            folder.forget_cell(slug)
        if not torn:
            break
    kept = {trial for trials in used.values() for trial in trials}
    for trial in folder.trials.iterdir():
        if trial.name not in kept and _owner(trial.name) not in entries:
            shutil.rmtree(trial)


def _trials_of(entry: Mapping[str, Any]) -> list[str]:
    arms = [entry[arm]["trial_ids"] for arm in _ARMS if entry.get(arm)]
    compared = (entry.get("compared") or {}).get("trial_ids", {})
    return [trial for trials in (*arms, *compared.values()) for trial in trials]


def _owner(trial: str) -> str:
    """The cell that a trial is named after."""
    found = _TRIAL.fullmatch(trial)
    return found["cell"] if found else trial
