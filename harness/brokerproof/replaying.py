"""``brokerproof replay``: runs recorded plans again and sets what is found beside what was found then."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from brokerproof import run, show
from brokerproof.errors import UsageError
from brokerproof.results import EXIT_MISSING, EXIT_OK, EXIT_UNEXPECTED, RunFolder, load_json, new_run_id, open_run
from brokerproof.runtime import sweep
from brokerproof.suites import suites


def replay_run(path: Path, trials: list[str], *, recorded_targets: bool, run_dir: Path | None) -> int:
    """Exit code 0: every trial shows the same anomalies as then; 1: one differs; 3: evidence missing."""
    old = open_run(path)
    known = sorted(t.name for t in old.trials.iterdir() if (t / "plan.json").exists())
    for trial in trials:
        if trial not in known:
            raise UsageError(f"run {old.id} has no trial {trial!r}; it has: {', '.join(known) or 'none'}")
    seed = int(load_json(old.path / "run.json")["seed"])
    new = RunFolder((run_dir or Path("runs", new_run_id(seed))).absolute())
    if new.path.exists():
        raise UsageError(f"run folder {str(new.path)!r} exists; name another")
    new.create(seed=seed, command=f"brokerproof replay {path}")
    sweep.register(new.mark, folder=new.path)
    console = show.console()
    session = run.Session(
        new, expected_in=suites() / "expected",
        progress=lambda cell, what: show.say(console, f"  {cell}: {what}"),
    )  # fmt: skip
    table = Table("trial", "then", "now", "late by", title=f"replay of {old.id}", title_justify="left")
    code = EXIT_OK
    try:
        for trial in trials or known:
            (now,) = run.replay(session, old, [trial], recorded_targets=recorded_targets)
            then = load_json(old.trial(trial) / "findings.json")
            before = {k: c["count"] for k, c in then["anomalies"].items() if c["count"]}
            after = {k: c.count for k, c in now.finding.anomalies.items() if c.count}
            late = _lateness(new.trial(trial))
            table.add_row(trial, _words(before), _words(after), f"{max(late.values()):.0f} ms" if late else "-")
            for what, late_ms in late.items():
                if late_ms > run.LATE_MS:
                    show.say(
                        console,
                        f"  {trial}: {what} was issued {late_ms:.0f} ms later than planned (at most {run.LATE_MS:g} ms "
                        "on an idle machine): what was in flight may differ",
                    )
            if now.finding.missing and code == EXIT_OK:
                code = EXIT_MISSING
            # Counts depend on the interleaving; which classes appear is what a replay is about.
            if set(before) != set(after):
                code = EXIT_UNEXPECTED
    finally:
        session.close()
        sweep.clean(new.mark)
    console.print(table)
    show.say(console, f"histories of the replay: {new.path}")
    return code


def _lateness(trial: Path) -> dict[str, float]:
    """Injection -> how much later than planned it was issued, in milliseconds."""
    file = trial / "faults.json"
    injections = load_json(file)["injections"] if file.exists() else []
    return {
        f"{n + 1}. {i['fault']}": float(i["late_ms"]) for n, i in enumerate(injections) if i.get("late_ms") is not None
    }


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {key}" for key, n in counts.items()) or "clean"
