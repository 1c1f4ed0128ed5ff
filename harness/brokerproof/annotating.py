"""Where a pipeline shows what its gate found: annotations of its host, and a summary in Markdown.

github  workflow commands on standard output (docs.github.com, "Workflow commands"): a mark on the line of the expected results
gitlab  a Code Quality report (docs.gitlab.com, "Code Quality"), an artefact that a merge request shows
none    nothing; the text is the same everywhere
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TextIO

from brokerproof.errors import UsageError, unknown
from brokerproof.gating import Gate, Note
from brokerproof.render.folder import clean
from brokerproof.render.markdown import escape
from brokerproof.results import EXIT_HARNESS, EXIT_MISSING, EXIT_OK, EXIT_UNEXPECTED

Host = Literal["github", "gitlab", "none"]
HOSTS: tuple[Host, ...] = ("github", "gitlab", "none")
GITLAB_REPORT = "gl-code-quality-report.json"
#: GitHub shows ten errors of a step, and takes a summary of a mebibyte.
GITHUB_MAX, SUMMARY_OCTETS_MAX = 10, 900_000
_SHOWN_MAX = 50
_WORDS = {
    EXIT_OK: "nothing new", EXIT_UNEXPECTED: "not as expected", EXIT_MISSING: "evidence missing",
    EXIT_HARNESS: "the run failed, or decided nothing",
}  # fmt: skip


def host(asked: str, environment: Mapping[str, str]) -> Host:
    """Whose annotations; ``auto`` asks the environment. Raises UsageError."""
    if asked == "auto":
        return (
            "github"
            if environment.get("GITHUB_ACTIONS") == "true"
            else "gitlab"
            if environment.get("GITLAB_CI")
            else "none"
        )
    for known in HOSTS:
        if asked == known:
            return known
    raise unknown("kind of annotations", asked, ("auto", *HOSTS))


def annotate(gate: Gate, kind: Host, out: TextIO = sys.stdout, folder: Path | None = None) -> None:
    """Writes the annotations. folder: of GitLab's report; default the working folder."""
    if kind == "github":
        for line in github(gate.notes):
            print(line, file=out)
    elif kind == "gitlab":
        file = (folder or Path.cwd()) / GITLAB_REPORT
        seen: Counter[str] = Counter()
        file.write_text(json.dumps([_quality(note, seen) for note in gate.notes], indent=1))
        print(f"annotations: {file}", file=out)


def github(notes: Sequence[Note]) -> Iterator[str]:
    """A workflow command for each, errors first; what is over the limit is counted in the last."""
    ordered = sorted(notes, key=lambda note: note.what == "evidence missing")
    for note in ordered[:GITHUB_MAX]:
        level = "warning" if note.what == "evidence missing" else "error"
        place = {"file": note.file, "line": str(note.line)} if note.file and note.line else {}
        settings = ",".join(f"{k}={_property(v)}" for k, v in {**place, "title": f"brokerproof: {note.what}"}.items())
        yield f"::{level} {settings}::{_data(_sentence(note))}"
    if len(notes) > GITHUB_MAX:
        yield f"::notice title=brokerproof::{len(notes) - GITHUB_MAX} more; the job summary has all of them"


def _data(text: str) -> str:
    return str(clean(text)).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _quality(note: Note, seen: Counter[str]) -> dict[str, object]:
    """seen: how many of a name there were before this one; it is counted."""
    severity = "minor" if note.what == "evidence missing" else "blocker" if note.what == "harness error" else "critical"
    # The same finding in the next pipeline is the same finding: figures in its text are not part of what it is.
    same = "\0".join((note.what, note.where, note.about))
    seen[same] += 1
    name = hashlib.sha256(f"{same}\0{seen[same]}".encode("utf-8", "backslashreplace")).hexdigest()
    return {
        "description": clean(_sentence(note)), "check_name": note.what, "fingerprint": name, "severity": severity,
        "location": {"path": note.file or "results.json", "lines": {"begin": max(1, note.line)}},
    }  # fmt: skip


def _sentence(note: Note) -> str:
    return f"{note.where}: {note.says}" + (f" (again: {note.again})" if note.again else "")


def _line(said: str) -> str:
    """In one line: a broker's words may hold more, and a line of its own may be a command to whoever reads the log."""
    return " ".join(str(clean(said)).split())


def told(gate: Gate, run: str, against: str) -> Iterator[str]:
    """For people, line by line."""
    code = gate.exit_code()
    yield f"gate of {run} against {against}: {_WORDS[code]}; {gate.decided} verdicts, {len(gate.notes)} of them stop it"
    for note in gate.notes[:_SHOWN_MAX]:
        yield f"\n{note.what}: {_line(note.where)}"
        yield f"  {_line(note.says)}"
        if note.file and note.line:
            yield f"  its line: {note.file}:{note.line}"
        if note.again:
            yield f"  again: {_line(note.again)}"
    if len(gate.notes) > _SHOWN_MAX:
        yield f"… and {len(gate.notes) - _SHOWN_MAX} more"
    for sentence in gate.beside:
        yield f"besides: {_line(sentence)}"
    yield f"exit {code}"


def summary(gate: Gate, run: str, against: str) -> str:
    """The same in Markdown."""
    code = gate.exit_code()
    out = [
        f"## brokerproof: {_WORDS[code]}", "",
        f"{gate.decided} verdicts of `{escape(run)}` against {escape(against)}; {len(gate.notes)} stop the pipeline (exit {code}).", "",
    ]  # fmt: skip
    if gate.notes:
        out += ["| what | where | says |", "|---|---|---|"]
    size = sum(len(line.encode()) + 1 for line in out)
    for n, note in enumerate(gate.notes):
        line = f"| {note.what} | {escape(str(clean(note.where)))} | {escape(str(clean(note.says)))} |"
        size += len(line.encode()) + 1
        if size > SUMMARY_OCTETS_MAX:
            out.append(f"| … | {len(gate.notes) - n} more | they stand in `results.json` |")
            break
        out.append(line)
    if gate.beside and size < SUMMARY_OCTETS_MAX:
        out += [
            "",
            "<details><summary>Besides</summary>",
            "",
            *(f"- {escape(str(clean(s)))}" for s in gate.beside[:200]),
            "",
            "</details>",
        ]
    return "\n".join(out) + "\n"


def write_summary(text: str, asked: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Where it went: the file that was asked for, anew; else added to the job's, where there is one."""
    if asked is not None:
        try:
            asked.parent.mkdir(parents=True, exist_ok=True)
            asked.write_text(text)
        except OSError as exc:
            raise UsageError(f"--summary {str(asked)!r} cannot be written: {exc}") from exc
        return asked
    of_job = environment.get("GITHUB_STEP_SUMMARY", "")
    if not of_job:
        return None
    with open(of_job, "a") as file:
        file.write(text)
    return Path(of_job)


def show(
    run: Path,
    *,
    expected: Path | None,
    baseline: Path | None,
    write: bool,
    annotations: str,
    to: Path | None,
    strict: bool,
) -> int:
    """The command: judges, prints, annotates, summarises; returns the exit code."""
    from brokerproof.gating import against_baseline, against_expected, results_of, write_expected

    kind = host(annotations, os.environ)
    if strict and baseline is not None:
        raise UsageError(
            "--strict is about what is expected; against --baseline NONSTRICT after PASS is worse anyhow: leave it away"
        )
    results = results_of(run)
    if write:
        if expected is None or baseline is not None:
            raise UsageError("--write makes the file that --expected names; leave --baseline away")
        left = write_expected(results, expected, str(results.get("finished", ""))[:10], strict=strict)
        print(f"{expected}: what {run} showed; read it, and say why where a reason is only a figure")
        for sentence in left:
            print(f"no line: {sentence}")
        return EXIT_MISSING if left else EXIT_OK
    if baseline is not None:
        if expected is not None:
            raise UsageError("--expected and --baseline are two questions: ask them one after the other")
        gate, against = against_baseline(results, results_of(baseline)), f"baseline {baseline}"
    else:
        gate = against_expected(results, expected, strict=strict)
        against = f"{expected}" if expected else "what the run was compared with"
    for line in told(gate, str(run), against):
        print(line)
    annotate(gate, kind)
    where = write_summary(summary(gate, str(run), against), to, os.environ)
    if where is not None:
        print(f"summary: {where}")
    return gate.exit_code()
