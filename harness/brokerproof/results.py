"""A run's folder and its ``results.json`` (design section 6, fixed), and the exit code that follows from it.

Each cell writes its own verdict file when it is decided, so a run that is killed keeps what it had; ``fold`` makes
``results.json`` of them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokerproof import __version__
from brokerproof.errors import EnvironmentProblem, UsageError

SCHEMA = 1
#: Exit codes (fixed), the first that applies: wrong usage, harness failed, unexpected verdict, evidence missing, all well.
EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_MISSING, EXIT_HARNESS = 0, 1, 2, 3, 4


def expectation(entry: Mapping[str, Any]) -> str:
    """What is expected of a cell or case, and that no line of the expected results says so where none does."""
    listed = entry["listed"] if "listed" in entry else not entry["unlisted"]
    return f"expected {entry['expected']}{'' if listed else ' (the default: no expected result is written for it)'}"


def interruption(results: Mapping[str, Any], folder: Path | None = None) -> str:
    """What ``interrupted`` says, in a sentence; "" where the run came to its end.

    folder: where the run lies, for who reads this on the machine of the run.
    """
    if not results.get("interrupted"):
        return ""
    then = (
        f"`brokerproof run --resume {folder or 'RUN'}` goes on with it{'' if folder else ', RUN being its folder'}"
        if results.get("resumable", False)
        else "give its command again, with another run folder"
    )  # fmt: skip
    return f"the run was interrupted or killed before all was decided; {then}"


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id(seed: int) -> str:
    """``<utc>-<seed>``, sortable."""
    return f"{datetime.datetime.now(datetime.UTC).strftime('%Y%m%dT%H%M%SZ')}-{seed}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def mark(self) -> str:
        """What its containers, networks and processes are known by: two runs may have folders of one name, in two places, and
        an engine in common."""
        return f"{self.id}-{hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:6]}"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    def trial(self, trial: str) -> Path:
        return self.trials / trial

    def create(self, *, seed: int, command: str, target: Mapping[str, Any] | None = None) -> None:
        """Makes the folder with its ``run.json``, once; several processes may call it. target: what is public of a broker that
        somebody else runs; None: there is none."""
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            (self.path / "cells").mkdir(exist_ok=True)
            (self.path / "cases").mkdir(exist_ok=True)
            facts = {
                "schema": SCHEMA, "run": self.id, "tool": __version__, "suites": __version__, "seed": seed,
                "command": command, "started": utc_now(),
                "host": {
                    "os": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count(),
                    "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                },
                "engine": {}, "images": {}, "brokers": {}, **({"target": target} if target is not None else {}),
            }  # fmt: skip
            with (self.path / "run.json").open("x") as file:
                json.dump(facts, file, indent=1)
        except FileExistsError:
            pass  # another worker of the run was first
        except OSError as exc:
            raise EnvironmentProblem(
                f"making the run folder {str(self.path)!r}: {exc}; is the disk full, or not ours?"
            ) from exc

    def note_cluster(self, slug: str, facts: Mapping[str, Any]) -> None:
        """What ``run.json`` will say of a cluster: version, settings, images."""
        folder = self.path / "clusters"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{slug}.json", facts)

    def write_cell(self, slug: str, entry: Mapping[str, Any]) -> None:
        write_json(self.path / "cells" / f"{slug}.json", entry)

    def forget_cell(self, slug: str) -> None:
        (self.path / "cells" / f"{slug}.json").unlink(missing_ok=True)

    def write_error(self, where: str, error: str) -> None:
        folder = self.path / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{where}.error.json", {"where": where, "error": error})

    def progress(self, **what: Any) -> None:
        """One line for whoever watches the run."""
        with (self.path / "progress.jsonl").open("a") as file:
            file.write(json.dumps(what) + "\n")

    def cells(self) -> list[dict[str, Any]]:
        return [
            load_json(f) for f in sorted((self.path / "cells").glob("*.json")) if not f.name.endswith(".error.json")
        ]

    def cases(self) -> list[dict[str, Any]]:
        """The entries of the protocol cases."""
        return [load_json(f) for f in sorted((self.path / "cases").glob("*.json"))]

    def write_gate(self, target: str, sentences: Sequence[str]) -> None:
        """What is wrong with a target's expected results themselves: a stale line, a changed number of cases."""
        folder = self.path / "gate"
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{target}.json", {"target": target, "says": list(sentences)})

    def _gate(self) -> list[dict[str, Any]]:
        return [g for f in sorted((self.path / "gate").glob("*.json")) if (g := load_json(f))["says"]]

    def fold(self, *, interrupted: bool | None = None) -> dict[str, Any]:
        """Writes ``results.json`` and completes ``run.json`` from what the cells left; returns the results.

        interrupted: whether the run ended before all was decided; None: as ``run.json`` has it. A run that nobody has folded yet did
        not come to its end: whoever killed it left no word.
        """
        facts = load_json(self.path / "run.json")
        if interrupted is None:
            interrupted = bool(facts.get("interrupted", "finished" not in facts))
        errors = [load_json(f) for f in sorted((self.path / "cells").glob("*.error.json"))]
        results = {
            "schema": SCHEMA, "run": self.id, "seed": facts.get("seed", 0), "finished": utc_now(), "interrupted": interrupted, "errors": errors,
            "claims": self.cells(), "cases": self.cases(), "gate": self._gate(),
        }  # fmt: skip
        if interrupted:
            results["resumable"] = str(facts.get("command", "")).startswith("brokerproof run ")
        for file in sorted((self.path / "clusters").glob("*.json")):
            cluster = load_json(file)
            facts["brokers"][file.stem] = {k: v for k, v in cluster.items() if k not in ("engine", "images")}
            facts["engine"] = cluster.get("engine") or facts["engine"]
            facts["images"].update(cluster.get("images", {}))
        facts["finished"], facts["interrupted"] = results["finished"], interrupted
        write_json(self.path / "run.json", facts)
        write_json(self.path / "results.json", results)
        return results


def open_run(path: Path) -> RunFolder:
    """An existing run. Raises UsageError with what was found instead."""
    if not (path / "run.json").exists():
        what = "does not exist" if not path.exists() else "holds no run.json"
        raise UsageError(
            f"{str(path)!r} {what}; a run folder is what `brokerproof run` names at its end, e.g. runs/<utc>-<seed>"
        )
    return RunFolder(path)


def problems_of(trial: Path) -> list[str]:
    """What the harness had to say of a trial, a sentence each: evidence that is missing."""
    file = trial / "errors.jsonl"
    if not file.exists():
        return []
    return [str(json.loads(line)["error"]) for line in file.read_text().splitlines() if line.strip()]


def exit_code(results: Mapping[str, Any]) -> int:
    """The exit code that ``results.json`` means."""
    if results["errors"]:
        return EXIT_HARNESS
    words = [(c["verdict"], c["expected"]) for c in results["claims"]]
    cases = [c["verdict"] for c in results["cases"]]
    if "HARNESS" in cases:
        return EXIT_HARNESS
    if not words and not results["cases"]:
        return EXIT_HARNESS  # a run that decided nothing proves nothing
    if any(v not in ("UNKNOWN", "UNSUPPORTED") and v != e for v, e in words):
        return EXIT_UNEXPECTED
    if any(not c["as_expected"] and c["verdict"] != "INCONCLUSIVE" for c in results["cases"]) or results.get("gate"):
        return EXIT_UNEXPECTED
    # What an interrupted run did not come to is missing.
    missing = any(v == "UNKNOWN" for v, _ in words) or "INCONCLUSIVE" in cases or results.get("interrupted")
    return EXIT_MISSING if missing else EXIT_OK


def matrix(results: Mapping[str, Any]) -> tuple[list[str], list[str], dict[tuple[str, str], list[Mapping[str, Any]]]]:
    """(claims, brokers, entries by both): the table that every surface shows."""
    table: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in results["claims"]:
        table.setdefault((entry["claim"], f"{entry['broker']} {entry['version']}"), []).append(entry)
    return sorted({c for c, _ in table}), sorted({b for _, b in table}), table


def write_json(file: Path, data: Any) -> None:
    """Written beside, then renamed: a kill leaves the old file or the new one, never half."""
    new = file.with_suffix(".new")
    try:
        new.write_text(json.dumps(data, indent=1, sort_keys=False))
        new.rename(file)
    except OSError as exc:
        raise EnvironmentProblem(f"writing {str(file)!r}: {exc}; is the disk full?") from exc


def load_json(file: Path) -> dict[str, Any]:
    """The JSON object that the file holds. Raises UsageError where it holds none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise UsageError(f"cannot read {str(file)!r}: {exc}") from exc
    if not isinstance(data, dict):
        raise UsageError(
            f"{str(file)!r}: expected a JSON object, got {json.dumps(data)[:60]}; was it edited, or cut short?"
        )
    return data


def unexpected(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [e for e in entries if not e["as_expected"]]
