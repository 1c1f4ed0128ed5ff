"""``brokerproof verify BUNDLE|RUN``: whether a run is whole, unchanged, and says what follows from its histories.

files      a bundle, or a folder unpacked from one: every file is the one that the list names, and there is no other
results    every verdict has what it rests on: trials with plan, readable history, faults and finding, all of the same trial;
           counts and words agree; every case has its page
verdicts   with ``recheck``: histories judged again give the same words and counts; a case's steps, by the table that was in
           force, the same verdict
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof import __version__
from brokerproof.bundling import MANIFEST
from brokerproof.errors import HarnessError, HistoryError, UsageError
from brokerproof.history import F, read_history
from brokerproof.results import EXIT_OK, EXIT_UNEXPECTED, SCHEMA, RunFolder, load_json, open_run
from brokerproof.unpacking import BundleRefused, Limits, members_of, unpack
from brokerproof.verdict import wilson95

ARMS = ("treatment", "control", "sham")
#: What a trial has to hold for its cell to rest on it.
TRIAL_FILES = ("plan.json", "history.arrow", "faults.json", "findings.json")
_SHOWN_MAX = 20


@dataclass(slots=True)
class Report:
    """looked: what was compared, and how much of it.  wrong: a sentence each.  notes: what could not be compared, and why."""

    looked: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, n: int = 1) -> None:
        self.looked[what] = self.looked.get(what, 0) + n

    def must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


def verify(run: Path, *, recheck: bool = False, listed: bool = False) -> Report:
    """Verifies a folder. listed: its files were compared with the list already, while they were unpacked."""
    folder = open_run(run)
    report = Report()
    if not listed:
        _files(run, report)
    if not (run / "results.json").exists():
        report.wrong.append("results.json is missing: the run has not ended, or somebody took it")
        return report
    results = load_json(run / "results.json")
    if results.get("schema") != SCHEMA:
        report.wrong.append(f"results.json is of schema {results.get('schema')!r}; this version reads {SCHEMA}")
        return report
    _results(folder, results, report)
    if recheck and not report.wrong:
        _recheck(folder, results, report)
    elif recheck:
        report.notes.append("histories were not judged again: what they would be compared with is not in order")
    return report


# -- files -------------------------------------------------------------------------------------------------------------


def _files(run: Path, report: Report) -> None:
    if not (run / MANIFEST).exists():
        report.notes.append(
            f"no {MANIFEST} in it, so whether files were changed is not known; `brokerproof bundle` makes one"
        )
        return
    members = members_of(load_json(run / MANIFEST), repr(str(run)))
    for path, member in sorted(members.items()):
        file = run / path
        if not file.is_file() or file.is_symlink():
            report.wrong.append(f"{path} is missing")
            continue
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        report.must(digest == member.sha256, f"{path} was changed: SHA-256 {digest}, the list says {member.sha256}")
        report.count("files by SHA-256")
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        if not file.is_dir() and name not in members and name != MANIFEST and not name.startswith("rechecks/"):
            report.wrong.append(f"{name} is not in the list")


# -- results -----------------------------------------------------------------------------------------------------------


def _results(folder: RunFolder, results: Mapping[str, Any], report: Report) -> None:
    for part in ("claims", "cases", "errors"):
        if not isinstance(results.get(part), list):
            report.wrong.append(f"results.json has no list of {part}")
            return
    for what, on_disk, listed in (
        ("cell", {cell.get("slug") for cell in folder.cells()}, {_slug(e, "slug") for e in results["claims"]}),
        ("case", {_of_case(case) for case in folder.cases()}, {_of_case(e) for e in results["cases"]}),
    ):
        for name in sorted(map(str, on_disk ^ listed)):
            report.wrong.append(f"{what} {name} stands in only one of {what}s/ and results.json")
    seen: set[str] = set()
    for entry in results["claims"]:
        name = _name(entry)
        report.count("verdicts")
        report.must(name not in seen, f"{name} stands in results.json twice")
        seen.add(name)
        _guarded(report, name, lambda entry=entry, name=name: _claim(folder, entry, name, report))  # type: ignore[misc]
    for entry in results["cases"]:
        name = (
            f"case {entry.get('case')} on {entry.get('broker')} {entry.get('version')} {entry.get('variant')}".rstrip()
        )
        report.count("cases")
        report.must(name not in seen, f"{name} stands in results.json twice")
        seen.add(name)
        _guarded(report, name, lambda entry=entry, name=name: _case(folder, entry, name, report))  # type: ignore[misc]
    if not seen and not results["errors"]:
        report.wrong.append("results.json holds no verdict")


def _guarded(report: Report, name: str, look: Callable[[], None]) -> None:
    """Whatever is not of the shape that it should be is a sentence, and not the end."""
    try:
        look()
    except HarnessError as exc:
        report.wrong.append(f"{name}: {exc}")
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as exc:
        report.wrong.append(f"{name}: its entry is not of the form it should be: {type(exc).__name__} {exc}")


def _name(entry: Mapping[str, Any]) -> str:
    return " ".join(str(entry.get(k, "")) for k in ("claim", "broker", "version", "variant")).strip()


def _claim(folder: RunFolder, entry: Mapping[str, Any], name: str, report: Report) -> None:
    own = folder.path / "cells" / f"{_plain(entry['slug'])}.json"
    report.must(own.exists(), f"{name}: its verdict file cells/{own.name} is missing")
    if own.exists():
        report.must(load_json(own) == entry, f"{name}: results.json and cells/{own.name} differ")
    report.must(entry["as_expected"] is (entry["verdict"] == entry["expected"] or entry["verdict"] == "UNSUPPORTED"),
                f"{name}: {entry['verdict']}, expected {entry['expected']}, and said to be as expected: {entry['as_expected']}")  # fmt: skip
    if entry["verdict"] in ("HOLDS", "VIOLATED") and entry["kind"] in ("promise", "hazard", "measurement"):
        report.must(bool((entry["treatment"] or {}).get("trial_ids")), f"{name}: {entry['verdict']} without a trial")
    for arm in ARMS:
        found = entry.get(arm)
        if found is None:
            continue
        ids, n, k = found["trial_ids"], found["trials"], found["violated"]
        if not entry.get("undecided"):
            report.must(len(ids) == n, f"{name}: {arm} of {n} trials names {len(ids)}")
        report.must(0 <= k <= n, f"{name}: {arm} is violated in {k} of {n} trials")
        report.must(
            list(found["wilson95"]) == list(wilson95(k, n)),
            f"{name}: {arm}: {found['wilson95']} is not the interval of {k} of {n}",
        )
        for trial in ids:
            _trial(folder, trial, entry, f"{name}: {arm}", report)


def _trial(folder: RunFolder, trial: str, entry: Mapping[str, Any], name: str, report: Report) -> None:
    where = folder.trial(_plain(trial))
    if not where.is_dir():
        report.must(bool(entry.get("undecided")) or entry["verdict"] == "UNKNOWN", f"{name}: trial {trial} is missing")
        return
    absent = [file for file in TRIAL_FILES if not (where / file).is_file()]
    if absent:
        report.wrong.append(f"{name}: trial {trial} lacks {', '.join(absent)}")
        return
    report.count("histories")
    try:
        history = read_history(where / "history.arrow")
    except HistoryError as exc:
        report.wrong.append(f"{name}: trial {trial}: {exc}")
        return
    plan, finding = load_json(where / "plan.json"), load_json(where / "findings.json")
    for what, said in (("its history", history.meta.trial), ("its plan", plan.get("trial"))):
        report.must(said == trial, f"{name}: trial {trial}: {what} is of {said!r}")
    target = (entry["broker"], entry["version"])
    report.must((history.meta.broker, history.meta.version) == target,
                f"{name}: trial {trial}: its history is of {history.meta.broker} {history.meta.version}")  # fmt: skip
    if history.torn:
        report.notes.append(f"{name}: trial {trial}: its history ends torn: {history.torn}")
    operations = len(history) - int(np.isin(history["f"], (F["fault"], F["control"])).sum())
    report.must(
        operations == finding.get("operations"),
        f"{name}: trial {trial}: its history has {operations:,} operations, its finding {finding.get('operations')!r}",
    )


def _case(folder: RunFolder, entry: Mapping[str, Any], name: str, report: Report) -> None:
    path = Path(entry["path"])
    if path.is_absolute() or ".." in path.parts:
        report.wrong.append(f"{name}: its path {entry['path']!r} is outside the run")
        return
    if not (folder.path / path).is_file():
        report.wrong.append(f"{name}: {entry['path']} is missing")
        return
    page = load_json(folder.path / path)
    differ = [
        k
        for k in ("case", "broker", "version", "variant", "verdict", "expected", "observed")
        if page.get(k) != entry[k]
    ]
    report.must(not differ, f"{name}: results.json and {entry['path']} differ in {', '.join(differ)}")


def _plain(name: object) -> str:
    """A name that stays where it is put. Raises UsageError."""
    if not isinstance(name, str) or not name or "/" in name or "\0" in name or name in (".", ".."):
        raise UsageError(f"{name!r} is no name of a trial or a cell")
    return name


# -- verdicts ----------------------------------------------------------------------------------------------------------


def _recheck(folder: RunFolder, results: Mapping[str, Any], report: Report) -> None:
    tool = load_json(folder.path / "run.json").get("tool")
    if tool != __version__:
        report.notes.append(
            f"the run was judged by version {tool}, this is {__version__}: where they differ, the changelog says why"
        )
    with tempfile.TemporaryDirectory(prefix="brokerproof-verify-") as scratch:
        # What is judged again writes its findings anew; the run that is verified stays as it is.
        again = RunFolder(_copied(folder.path, Path(scratch) / folder.id))
        from brokerproof.run import recheck

        for new, old in zip(recheck(again), _in_order(folder, results), strict=True):
            name = _name(old)
            if old["treatment"] is None:
                report.count("verdicts without a history (counted cases, comparisons)")
                continue
            report.count("verdicts judged again")
            report.must(
                new["verdict"] == old["verdict"],
                f"{name}: says {old['verdict']}; its histories say {new['verdict']}: {new['reason']}",
            )
            for arm in ARMS:
                then, now = old.get(arm) or {}, new.get(arm) or {}
                differ = [k for k in ("trials", "violated", "faults") if then.get(k) != now.get(k)]
                report.must(
                    not differ,
                    f"{name}: {arm}: " + ", ".join(f"{k} {then.get(k)}, judged again {now.get(k)}" for k in differ),
                )
    for entry in results["cases"]:
        _case_again(folder, entry, report)


def _slug(entry: Any, name: str) -> str:
    return str(entry.get(name)) if isinstance(entry, Mapping) else "?"


def _of_case(entry: Any) -> str:
    return " ".join(_slug(entry, name) for name in ("case", "variant", "broker", "version"))


def _in_order(folder: RunFolder, results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    by_slug = {entry["slug"]: entry for entry in results["claims"]}
    return [by_slug[cell["slug"]] for cell in folder.cells() if cell["slug"] in by_slug]


def _copied(source: Path, target: Path) -> Path:
    target.mkdir()
    if (source / "cells").is_dir():  # an archive has no empty folders
        shutil.copytree(source / "cells", target / "cells")
    else:
        (target / "cells").mkdir()
    # Links where the disk has them: whoever writes here writes beside and renames.
    for trial in (source / "trials").iterdir() if (source / "trials").is_dir() else ():
        for file in trial.iterdir():
            if file.is_file() and not file.is_symlink():
                where = target / "trials" / trial.name / file.name
                where.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".arrow":
                    with suppress(OSError):
                        os.link(file, where)
                        continue
                shutil.copyfile(file, where)
    return target


def _case_again(folder: RunFolder, entry: Mapping[str, Any], report: Report) -> None:
    from brokerproof.conformance.case import WORST_FIRST
    from brokerproof.conformance.replayed import verdict_again

    if entry["verdict"] not in (*WORST_FIRST, "INFO"):
        report.count("cases without a judgement (skipped, not decided)")
        return
    report.count("cases judged again")
    name = f"case {entry['case']} on {entry['broker']} {entry['version']} {entry['variant']}".rstrip()

    def look() -> None:
        again = verdict_again(load_json(folder.path / entry["path"]))
        report.must(again == entry["verdict"], f"{name}: says {entry['verdict']}; its steps say {again}")

    _guarded(report, name, look)


# -- the command -------------------------------------------------------------------------------------------------------


def show(path: Path, *, recheck: bool, unpack_to: Path | None, octets_max: int | None) -> int:
    """Verifies a bundle or a run and says what was found. Exit code: 0 all agrees, 1 something does not."""
    if not path.exists():
        raise UsageError(f"{str(path)!r} does not exist; expected a bundle or a run folder")
    if path.is_dir():
        if unpack_to is not None:
            raise UsageError("--unpack is for a bundle; this is a folder already")
        report = verify(path, recheck=recheck)
    else:
        limits = Limits() if octets_max is None else Limits(octets=octets_max)
        # Beside the place where it is to lie, so that moving it there is one step.
        with (
            _made(unpack_to),
            tempfile.TemporaryDirectory(prefix=".brokerproof-verify-", dir=unpack_to) as scratch,
        ):
            folder, manifest = unpack(path, Path(scratch), limits)
            report = verify(folder, recheck=recheck, listed=True)
            report.looked = {"files by SHA-256": len(manifest["files"]), **report.looked}
            redacted = sum(bool(entry.get("redacted")) for entry in manifest["files"])
            if redacted:
                report.notes.append(
                    f"{redacted} files were redacted before they were packed; {MANIFEST} says which, and of what"
                )
            if unpack_to is not None and not report.wrong:
                home = unpack_to / folder.name
                if home.exists():
                    raise UsageError(f"{str(home)!r} exists; unpack elsewhere")
                folder.rename(home)
                report.notes.append(f"unpacked: {home}")
    for line in _told(path, report):
        print(line)
    return EXIT_UNEXPECTED if report.wrong else EXIT_OK


@contextmanager
def _made(folder: Path | None) -> Iterator[None]:
    """The folder is there meanwhile. What was made for it and holds nothing at the end is removed again."""
    made = [p for p in (folder, *folder.parents) if not p.exists()] if folder is not None else []
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"--unpack {str(folder)!r} cannot be made: {exc}; name another place") from exc
    try:
        yield
    finally:
        with suppress(OSError):  # the first that holds something stays, and all above it
            for path in made:
                path.rmdir()


def _told(path: Path, report: Report) -> Iterator[str]:
    yield f"{path}: " + (f"{len(report.wrong)} things do not agree" if report.wrong else "everything agrees")
    yield "compared: " + (", ".join(f"{n:,} {what}" for what, n in report.looked.items()) or "nothing")
    for sentence in report.wrong[:_SHOWN_MAX]:
        yield f"  ✘ {sentence}"
    if len(report.wrong) > _SHOWN_MAX:
        yield f"  … and {len(report.wrong) - _SHOWN_MAX} more"
    for sentence in report.notes:
        yield f"  note: {sentence}"


__all__ = ["BundleRefused", "Report", "show", "verify"]
