"""What stops a pipeline: three ways against what is expected, only what is worse against a baseline; and where it is shown."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brokerproof import annotating
from brokerproof.errors import UsageError
from brokerproof.gating import Gate, Note, against_baseline, against_expected, results_of, write_expected
from brokerproof.verdict import wilson95

Json = dict[str, Any]


def claim(name: str = "order/a", verdict: str = "HOLDS", expected: str = "HOLDS", **more: Any) -> Json:
    return {
        "claim": name, "broker": "kafka", "version": "4.3.1", "variant": "", "profile": "standard", "revision": 1, "kind": "promise",
        "verdict": verdict, "expected": expected, "as_expected": verdict in (expected, "UNSUPPORTED"), "reason": "as measured",
        "command": f"brokerproof run --select {name}", "treatment": arm(0, 20), "comparison": None, "recovery": {}, **more,
    }  # fmt: skip


def case(id: str = "K1.01", verdict: str = "PASS", expected: str = "PASS", **more: Any) -> Json:
    return {
        "case": id, "slug": "kafka/x", "broker": "kafka", "version": "4.3.1", "variant": "", "revision": 1, "verdict": verdict,
        "expected": expected, "as_expected": verdict == expected, "observed": "what came", **more,
    }  # fmt: skip


def arm(violated: int, trials: int) -> Json:
    return {"violated": violated, "trials": trials, "wilson95": list(wilson95(violated, trials))}


def results(*entries: Json, errors: tuple[Json, ...] = (), gate: tuple[Json, ...] = ()) -> Json:
    parts = {"claims": [e for e in entries if "claim" in e], "cases": [e for e in entries if "case" in e]}
    return {"schema": 1, "run": "r", "errors": list(errors), "gate": list(gate), **parts}


def whats(gate: Gate) -> list[tuple[str, str]]:
    return [(note.what, note.where.split()[0]) for note in gate.notes]


def written(folder: Path, text: str, name: str = "expected.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


# -- three ways --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "what", "code"),
    [
        (claim(), None, 0),
        (claim(verdict="VIOLATED"), "new violation", 1),
        (claim(verdict="VIOLATED", expected="VIOLATED"), None, 0),
        (claim(verdict="HOLDS", expected="VIOLATED"), "unexpected pass", 1),
        (claim(verdict="UNKNOWN"), "evidence missing", 3),
        (claim(verdict="UNSUPPORTED"), None, 0),
        (case(), None, 0),
        (case(verdict="FAIL"), "new violation", 1),
        (case(verdict="PASS", expected="UNIMPL"), "unexpected pass", 1),
        (case(verdict="FAIL", expected="DEV"), "new violation", 1),
        (case(verdict="CODE", expected="FAIL"), "unexpected pass", 1),
        (case(verdict="INCONCLUSIVE"), "evidence missing", 3),
        (case(verdict="HARNESS"), "harness error", 4),
    ],
)
def test_a_verdict_against_what_its_run_expected(entry: Json, what: str | None, code: int) -> None:
    gate = against_expected(results(entry))
    assert ([note.what for note in gate.notes], gate.exit_code()) == ([what] if what else [], code)
    if what in ("new violation", "unexpected pass"):
        assert gate.notes[0].again


def test_the_first_that_applies_is_the_exit_code() -> None:
    bad, unknown = claim(verdict="VIOLATED"), claim("order/b", "UNKNOWN")
    assert against_expected(results(bad, unknown)).exit_code() == 1
    assert against_expected(results(bad, unknown, errors=({"where": "x", "error": "no engine"},))).exit_code() == 4
    assert against_expected(results()).exit_code() == 4
    assert against_expected(results(case(), gate=({"target": "kafka-4.3.1", "says": ["stale line"]},))).exit_code() == 1


LINES = """\
[gate]
cells = 2
cases = 1

[[cell]]
claim = "order/a"
verdict = "VIOLATED"
reason = "measured"

[[case]]
case = "K1.01"
variant = ""
verdict = "UNIMPL"
reason = "measured"
"""


def test_a_file_says_what_is_expected_and_how_many(tmp_path: Path) -> None:
    file = written(tmp_path, LINES)
    a, b, k = claim(verdict="VIOLATED"), claim("order/b"), case(verdict="UNIMPL")
    assert against_expected(results(a, b, k), file).notes == []
    assert whats(against_expected(results(claim(), b, k), file)) == [("unexpected pass", "order/a")]
    assert whats(against_expected(results(a, claim("order/b", "VIOLATED"), k), file)) == [("new violation", "order/b")]
    assert whats(against_expected(results(a, b, case(verdict="FAIL")), file)) == [("new violation", "K1.01")]
    assert whats(against_expected(results(a, b, case()), file)) == [("unexpected pass", "K1.01")]
    gate = against_expected(results(a, k), file)
    assert (
        whats(gate) == [("changed count", "kafka")]
        and "1 cells were decided, and expected.toml says 2" in gate.notes[0].says
    )
    more = against_expected(results(a, b, claim("order/c"), k, case("K1.02")), file)
    assert whats(more) == [("changed count", "kafka")] * 2
    assert against_expected(results(b, claim("order/c"), k), file).beside == [
        "expected.toml has a line for order/a, which this run did not decide"
    ]


def test_a_note_names_the_line_that_is_stale(tmp_path: Path) -> None:
    file = written(tmp_path, LINES)
    (note,) = against_expected(results(claim(), claim("order/b"), case(verdict="UNIMPL")), file).notes
    assert file.read_text().splitlines()[note.line - 1] == 'claim = "order/a"'


def test_of_several_lines_of_a_claim_the_one_that_is_stale_is_named(tmp_path: Path) -> None:
    lines = "".join(
        f'[[cell]]\nverdict = "VIOLATED"\nclaim = "order/a"\nvariant = "{v}"\nreason = "measured"\n\n'
        for v in ("classic", "quorum")
    )
    file = written(
        tmp_path,
        lines + '[[ case ]] # x\ncase = "K1.01"\nvariant = "v"\nverdict = "FAIL"\nreason = """\n[[case]]\n"""\n',
    )
    stale = [claim(variant=v) for v in ("classic", "quorum")]
    notes = against_expected(results(*stale), file).notes
    assert [note.line for note in notes] == [3, 9]
    # Tables that cannot be told apart by their heads have no line of their own.
    (note,) = against_expected(results(case(variant="v")), file).notes
    assert (note.file, note.line) == (str(file), 0)


def test_a_folder_has_a_file_for_each_target_and_a_target_without_one_is_said(tmp_path: Path) -> None:
    written(tmp_path, LINES.replace("cells = 2\ncases = 1", ""), "kafka-4.3.1.toml")
    other = claim() | {"broker": "rabbitmq", "version": "4.0.5"}
    gate = against_expected(results(claim(verdict="VIOLATED"), other), tmp_path)
    assert gate.notes == [] and "no expected results of rabbitmq 4.0.5" in gate.beside[0]
    own = against_expected(results(other | {"verdict": "VIOLATED"}), tmp_path / "kafka-4.3.1.toml")
    assert whats(own) == [("new violation", "order/a")]


def test_nonstrict_needs_a_line_with_strict_only(tmp_path: Path) -> None:
    file = written(tmp_path, "")
    run = results(case(verdict="NONSTRICT"))
    assert against_expected(run, file).notes == []
    assert whats(against_expected(run, file, strict=True)) == [("new violation", "K1.01")]


@pytest.mark.parametrize(
    ("text", "said"),
    [("[gate]\ncells = 'x'", "a number each"), ("[gate]\nclaims = 3", "cells and cases"), ("[[cell]]\nclaim = 'a'", "a measured reason"),
     ("][", "cannot be read")],
)  # fmt: skip
def test_a_file_that_says_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        against_expected(results(claim()), written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"do not exist.*--write"):
        against_expected(results(claim()), tmp_path / "none.toml")


def test_what_a_run_showed_is_what_is_expected_of_the_next(tmp_path: Path) -> None:
    run = results(
        claim(verdict="VIOLATED", reason='a "quoted"\nreason \x7f'), claim("order/b"), claim("order/c", "UNKNOWN"), case(verdict="DEV"),
        case("K1.02", "INFO", "INFO"), case("K1.03", "SKIP"),
    )  # fmt: skip
    left = write_expected(run, tmp_path / "new" / "e.toml", "2026-11-22")
    assert left == ["order/c on kafka 4.3.1: UNKNOWN: as measured"]
    gate = against_expected(run, tmp_path / "new" / "e.toml")
    assert whats(gate) == [("evidence missing", "order/c")]
    with pytest.raises(UsageError, match="exists"):
        write_expected(run, tmp_path / "new" / "e.toml", "")
    with pytest.raises(UsageError, match="2 targets"):
        write_expected(results(claim(), claim() | {"version": "3.9.2"}), tmp_path / "two.toml", "")


#: (what the line says, what the run shows) -> the note; "" is no line.
TRANSITIONS = {
    ("", "HOLDS"): None, ("", "VIOLATED"): "new violation", ("", "UNKNOWN"): "evidence missing", ("", "UNSUPPORTED"): None,
    ("HOLDS", "HOLDS"): None, ("HOLDS", "VIOLATED"): "new violation", ("HOLDS", "UNKNOWN"): "evidence missing",
    ("HOLDS", "UNSUPPORTED"): "changed count",
    ("VIOLATED", "HOLDS"): "unexpected pass", ("VIOLATED", "VIOLATED"): None, ("VIOLATED", "UNKNOWN"): "evidence missing",
    ("VIOLATED", "UNSUPPORTED"): "changed count",
    ("UNSUPPORTED", "HOLDS"): "unexpected pass", ("UNSUPPORTED", "VIOLATED"): "new violation",
    ("UNSUPPORTED", "UNKNOWN"): "evidence missing", ("UNSUPPORTED", "UNSUPPORTED"): None,
}  # fmt: skip
CASE_TRANSITIONS = {
    ("", "PASS"): None, ("", "NONSTRICT"): None, ("", "INFO"): None, ("", "SKIP"): None, ("", "FAIL"): "new violation",
    ("", "UNIMPL"): "new violation", ("", "INCONCLUSIVE"): "evidence missing",
    ("PASS", "NONSTRICT"): "new violation", ("PASS", "SKIP"): "changed count",
    ("NONSTRICT", "NONSTRICT"): None, ("NONSTRICT", "PASS"): "unexpected pass", ("NONSTRICT", "FAIL"): "new violation",
    ("UNIMPL", "UNIMPL"): None, ("UNIMPL", "PASS"): "unexpected pass", ("UNIMPL", "CODE"): "new violation", ("UNIMPL", "SKIP"): "changed count",
    ("FAIL", "DEV"): "unexpected pass", ("FAIL", "SKIP"): "changed count", ("FAIL", "INCONCLUSIVE"): "evidence missing",
    ("SKIP", "SKIP"): None, ("SKIP", "PASS"): "unexpected pass", ("SKIP", "FAIL"): "new violation",
}  # fmt: skip


@pytest.mark.parametrize(("line", "shows"), TRANSITIONS)
def test_every_transition_of_a_claim(line: str, shows: str, tmp_path: Path) -> None:
    """The table of the module's text, with a file and with what the run itself was compared with."""
    text = f'[[cell]]\nclaim = "order/a"\nverdict = "{line}"\nreason = "measured"\n' if line else ""
    wanted = [what] if (what := TRANSITIONS[line, shows]) else []
    file = written(tmp_path, text)
    by_file = against_expected(results(claim(verdict=shows)), file)
    own = claim(verdict=shows, expected=line or "HOLDS", unlisted=not line)
    by_run = against_expected(results(own))
    assert [[note.what for note in gate.notes] for gate in (by_file, by_run)] == [wanted, wanted]


@pytest.mark.parametrize(("line", "shows"), CASE_TRANSITIONS)
def test_every_transition_of_a_case(line: str, shows: str, tmp_path: Path) -> None:
    text = f'[[case]]\ncase = "K1.01"\nverdict = "{line}"\nreason = "measured"\n' if line else ""
    wanted = [what] if (what := CASE_TRANSITIONS[line, shows]) else []
    by_file = against_expected(results(case(verdict=shows)), written(tmp_path, text))
    word = line or ("INFO" if shows == "INFO" else "PASS")
    fine = shows == word or (not line and shows in ("SKIP", "NONSTRICT"))
    by_run = against_expected(results(case(verdict=shows, expected=word, listed=bool(line), as_expected=fine)))
    assert [[note.what for note in gate.notes] for gate in (by_file, by_run)] == [wanted, wanted]


def test_what_is_not_decided_does_not_count(tmp_path: Path) -> None:
    """A cell that turns UNSUPPORTED is one less, also where no line is about it; one that is decided at last is one more."""
    file = written(tmp_path, "[gate]\ncells = 2\ncases = 1\n")
    both, skipped = (claim(), claim("order/b")), case("K1.02", "SKIP")
    assert against_expected(results(*both, case(), skipped, claim("order/c", "UNSUPPORTED")), file).notes == []
    (note,) = against_expected(results(claim(), claim("order/b", "UNSUPPORTED"), case(), skipped), file).notes
    assert (
        note.what == "changed count" and "1 cells were decided" in note.says and "order/b is UNSUPPORTED" in note.says
    )
    assert whats(against_expected(results(*both, case(), case("K1.02")), file)) == [("changed count", "kafka")]


def test_strict_is_about_what_the_run_expected_too(tmp_path: Path) -> None:
    loose, listed = case(verdict="NONSTRICT", as_expected=True), case("K1.02", "NONSTRICT", "NONSTRICT", listed=True)
    run = results(loose, listed)
    assert against_expected(run).notes == []
    assert whats(against_expected(run, strict=True)) == [("new violation", "K1.01")]
    # A run that was strict itself has said so.
    assert whats(against_expected(results(case(verdict="NONSTRICT")))) == [("new violation", "K1.01")]
    for strict, noted in ((False, ["new violation"] * 2), (True, [])):
        file = tmp_path / f"{strict}.toml"
        write_expected(run, file, "2026-11-22", strict=strict)
        assert [note.what for note in against_expected(run, file, strict=True).notes] == noted


def test_an_interrupted_run_proves_nothing(tmp_path: Path) -> None:
    cut = results(claim(), case()) | {"interrupted": True, "resumable": True}
    for gate in (
        against_expected(cut),
        against_baseline(cut, results(claim(), case())),
        against_expected(cut, written(tmp_path, "")),
    ):
        assert gate.exit_code() == 4 and gate.notes[0].what == "harness error" and "--resume" in gate.notes[0].says
    with pytest.raises(UsageError, match="interrupted"):
        write_expected(cut, tmp_path / "e.toml", "")
    assert against_expected(cut | {"interrupted": False}).exit_code() == 0


# -- what is malformed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[cell]\nclaim = "a"', r"one table, where \[\[cell\]\] is due"),
        ('[case]\ncase = "a"', r"one table, where \[\[case\]\] is due"),
        ("cell = 7", r"expected tables \[\[cell\]\]"),
        ("case = [1]", r"expected tables \[\[case\]\]"),
        ('[[cell]]\nclaim = 7\nverdict = "HOLDS"\nreason = "x"', "a measured reason"),
        ('[[case]]\ncase = ["K"]\nverdict = "FAIL"\nreason = "x"', "a measured reason"),
        ('[[case]]\ncase = "K"\nverdict = ["FAIL"]\nreason = "x"', "a measured reason"),
        ("conformance = []", "may have cases, a number"),
        ("[conformance]\ncases = 'x'", "may have cases, a number"),
        ("gate = []", "a number each"),
    ],
)
def test_expected_lines_of_another_form_are_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        against_expected(results(claim(), case()), written(tmp_path, text))


def test_expected_lines_that_are_no_utf_8_are_said(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_bytes("# größer\n[gate]\ncells = 1\n".encode("latin-1"))
    for run in (results(claim()), results(case())):
        with pytest.raises(UsageError, match=r"octet 4 is no UTF-8 \(0xf6\); save it as UTF-8"):
            against_expected(run, tmp_path / "e.toml")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "expected a JSON object"),
        ({"schema": 1, "claims": {}, "cases": [], "errors": []}, "claims: expected a list"),
        (results() | {"claims": [[]]}, r"claims\[0\]: expected an object"),
        (results(claim(verdict=7)), r"claims\[0\].verdict: expected a text"),
        (results(claim(profile=None)), r"claims\[0\].profile: expected a text"),
        (results(claim(treatment=[])), "treatment: expected an object or null"),
        (results(claim(treatment={"wilson95": [0.1], "violated": 1, "trials": 2})), "wilson95: expected two numbers"),
        (
            results(claim(treatment={"wilson95": [0.1, 0.2], "violated": "1", "trials": 2})),
            "violated: expected a number",
        ),
        (results(claim(comparison=[1])), "comparison: expected an object"),
        (results(claim(comparison={"ratio": 2})), "ci95: expected two numbers"),
        (results(claim(recovery={"treatment": {}})), "recovery.treatment: expected a list of objects"),
        (results(claim(recovery={"treatment": [{"fault": "kill", "figures": []}]})), "figures: expected an object"),
        (results(claim(recovery={"treatment": [{"fault": "kill", "figures": {"rto_s": 3}}]})), "n, least and most"),
        (results(case(observed=["x"])), r"cases\[0\].observed: expected a text"),
        (results(errors=([],)), r"errors\[0\]: expected an object"),  # type: ignore[arg-type]  # that is the point
        (results(gate=({"target": "k", "says": "x"},)), r"gate\[0\].says: expected a list of texts"),
    ],
)
def test_results_of_another_form_are_said(tmp_path: Path, made: Any, said: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(made))
    with pytest.raises(UsageError, match=said) as refused:
        results_of(file)
    assert str(file) in str(refused.value) and refused.value.exit_code == 2


def test_half_a_surrogate_is_written_out_in_a_reason_and_refused_in_a_name(tmp_path: Path) -> None:
    broken = "half \ud800 of it"
    run = results(claim(verdict="VIOLATED", reason=broken), case(verdict="FAIL", observed=broken))
    write_expected(run, tmp_path / "e.toml", "2026-11-22")
    assert "half \\\\ud800 of it" in (tmp_path / "e.toml").read_text(encoding="utf-8")
    assert against_expected(run, tmp_path / "e.toml").notes == []
    with pytest.raises(UsageError, match="half a surrogate"):
        write_expected(results(claim(broken, "VIOLATED")), tmp_path / "n.toml", "")
    assert not (tmp_path / "n.toml").exists()


# -- against a baseline ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now", "what", "code"),
    [
        ("HOLDS", "HOLDS", None, 0),
        ("HOLDS", "VIOLATED", "worse", 1),
        ("VIOLATED", "VIOLATED", None, 0),
        ("VIOLATED", "HOLDS", None, 0),
        ("HOLDS", "UNKNOWN", "evidence missing", 3),
        ("UNKNOWN", "UNKNOWN", None, 0),
        ("UNKNOWN", "VIOLATED", "worse", 1),
        ("UNKNOWN", "HOLDS", None, 0),
        ("HOLDS", "UNSUPPORTED", "worse", 1),
        ("UNSUPPORTED", "HOLDS", None, 0),
    ],
)
def test_only_a_verdict_that_got_worse_counts(then: str, now: str, what: str | None, code: int) -> None:
    gate = against_baseline(results(claim(verdict=now)), results(claim(verdict=then)))
    assert ([note.what for note in gate.notes], gate.exit_code()) == ([what] if what else [], code)


@pytest.mark.parametrize(
    ("then", "now", "what"),
    [("PASS", "FAIL", "worse"), ("FAIL", "DEV", None), ("CODE", "DEV", "worse"), ("INFO", "INFO", None), ("PASS", "NONSTRICT", "worse"),
     ("PASS", "INCONCLUSIVE", "evidence missing"), ("PASS", "SKIP", "worse"), ("SKIP", "PASS", None)],
)  # fmt: skip
def test_only_a_case_that_got_worse_counts(then: str, now: str, what: str | None) -> None:
    gate = against_baseline(results(case(verdict=now)), results(case(verdict=then)))
    assert [note.what for note in gate.notes] == ([what] if what else [])


def test_what_is_gone_is_worse_and_what_is_new_or_another_experiment_is_said() -> None:
    a, b = claim(), claim("order/b", "VIOLATED")
    gone = against_baseline(results(a), results(a, b))
    assert whats(gone) == [("worse", "order/b")] and "not decided any more" in gone.notes[0].says
    new = against_baseline(results(a, b), results(a))
    assert (new.notes, new.beside) == ([], ["order/b on kafka 4.3.1: not in the baseline; VIOLATED"])
    other = against_baseline(results(claim(verdict="VIOLATED", revision=2)), results(a))
    assert other.notes == [] and "not the same experiment" in other.beside[0]


def test_a_new_version_is_compared_with_the_old_one() -> None:
    new = claim(verdict="VIOLATED") | {"version": "4.4.0"}
    gate = against_baseline(results(new), results(claim()))
    assert whats(gate) == [("worse", "order/a")]
    assert gate.beside == ["kafka: 4.4.0 is compared with 4.3.1 of the baseline"]
    two = against_baseline(results(new), results(claim(), claim() | {"version": "3.9.2"}))
    assert [note.says for note in two.notes] == ["was HOLDS, and is not decided any more"] * 2


@pytest.mark.parametrize(
    ("now", "then", "worse"), [((15, 20), (1, 20), True), ((4, 20), (1, 20), False), ((1, 20), (15, 20), False)]
)
def test_rates_are_compared_by_their_intervals(now: tuple[int, int], then: tuple[int, int], worse: bool) -> None:
    gate = against_baseline(
        results(claim(verdict="VIOLATED", treatment=arm(*now))),
        results(claim(verdict="VIOLATED", treatment=arm(*then))),
    )
    assert bool(gate.notes) is worse


def recovery(n: int, least: float, most: float, fault: str = "kill") -> Json:
    figure = {"n": n, "least": least, "most": most, "median": (least + most) / 2}
    return {"treatment": [{"fault": fault, "targets": [], "trials": n, "figures": {"rto_s": figure}}]}


@pytest.mark.parametrize(
    ("now", "then", "worse"),
    [
        (recovery(5, 9.0, 12.0), recovery(5, 3.0, 5.0), True),
        (recovery(5, 4.9, 12.0), recovery(5, 3.0, 5.0), False),
        (recovery(5, 1.0, 2.0), recovery(5, 3.0, 5.0), False),
        (recovery(1, 90.0, 90.0), recovery(5, 3.0, 5.0), False),
        (recovery(5, 9.0, 12.0, "stop"), recovery(5, 3.0, 5.0), False),
        ({}, recovery(5, 3.0, 5.0), False),
    ],
)
def test_figures_are_compared_by_their_spread(now: Json, then: Json, worse: bool) -> None:
    gate = against_baseline(results(claim(recovery=now)), results(claim(recovery=then)))
    assert [note.what for note in gate.notes] == (["worse"] if worse else [])
    if worse:
        assert "rto_s after kill: 9 to 12 s in 5 trials, in the baseline 3 to 5 in 5" in gate.notes[0].says


def test_ratios_are_compared_by_their_intervals() -> None:
    def of(low: float, high: float) -> Json:
        return results(claim(comparison={"ratio": (low + high) / 2, "ci95": [low, high], "pairs": 12}))

    assert whats(against_baseline(of(1.1, 1.3), of(1.5, 1.9))) == [("worse", "order/a")]
    assert against_baseline(of(1.1, 1.6), of(1.5, 1.9)).notes == []
    assert against_baseline(of(2.5, 2.9), of(1.5, 1.9)).notes == []


# -- real runs, by the command -----------------------------------------------------------------------------------------


def command(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "GITLAB_"))}
    return subprocess.run(
        [sys.executable, "-m", "brokerproof", "gate", *map(str, arguments)], cwd=cwd, env=clean | environment, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip


def test_real_runs_pass_and_stop(sound_run: Path, broken_run: Path, tmp_path: Path) -> None:
    assert command(sound_run, cwd=tmp_path).returncode == 0
    stopped = command(broken_run, cwd=tmp_path)
    assert stopped.returncode == 1 and "new violation: broker/kept-until-consumed" in stopped.stdout
    assert "again: brokerproof run --broker memory=doubles --select broker/kept-until-consumed" in stopped.stdout

    worse = command(broken_run, "--baseline", sound_run, cwd=tmp_path)
    assert (
        worse.returncode == 1
        and "worse: broker/kept-until-consumed" in worse.stdout
        and "was HOLDS, is VIOLATED" in worse.stdout
    )
    assert command(sound_run, "--baseline", broken_run, cwd=tmp_path).returncode == 0
    assert command(sound_run, "--baseline", sound_run, cwd=tmp_path).returncode == 0

    adopted = command(broken_run, "--expected", "own.toml", "--write", cwd=tmp_path)
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert command(broken_run, "--expected", "own.toml", cwd=tmp_path).returncode == 0
    mended = command(sound_run, "--expected", "own.toml", cwd=tmp_path)
    assert mended.returncode == 1 and "unexpected pass: broker/kept-until-consumed" in mended.stdout
    assert "its line: own.toml:" in mended.stdout


def test_wrong_usage_is_said(sound_run: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ([tmp_path / "none"], "does not exist"),
        ([sound_run, "--annotations", "jenkins"], "known: auto, github, gitlab, none"),
        ([sound_run, "--write"], "--expected names"),
        ([sound_run, "--strict", "--baseline", sound_run], "leave it away"),
        ([sound_run, "--expected", sound_run, "--baseline", sound_run], "two questions"),
    ):
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_github_gets_annotations_and_a_summary(broken_run: Path, tmp_path: Path) -> None:
    of_job = tmp_path / "step.md"
    of_job.write_text("before\n")
    done = command(broken_run, cwd=tmp_path, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(of_job))
    assert "::error title=brokerproof%3A new violation::broker/kept-until-consumed on memory doubles" in done.stdout
    text = of_job.read_text()
    assert (
        text.startswith("before\n## brokerproof: not as expected")
        and "| new violation | broker/kept-until-consumed" in text
    )
    own = command(broken_run, "--summary", "s/own.md", "--annotations", "none", cwd=tmp_path, GITHUB_ACTIONS="true")
    assert "::error" not in own.stdout and "## brokerproof" in (tmp_path / "s" / "own.md").read_text()


def test_gitlab_gets_a_code_quality_report(broken_run: Path, tmp_path: Path) -> None:
    done = command(broken_run, cwd=tmp_path, GITLAB_CI="true")
    assert done.returncode == 1
    first, *_ = report = json.loads((tmp_path / annotating.GITLAB_REPORT).read_text())
    assert set(first) == {"description", "check_name", "fingerprint", "severity", "location"}
    assert len({entry["fingerprint"] for entry in report}) == len(report)


def test_findings_of_one_claim_keep_apart_and_keep_their_names(tmp_path: Path) -> None:
    """What a merge request tracks: as many as there are, the same in the next pipeline though a figure in the text differs."""

    def fingerprints(figure: str, folder: str) -> list[str]:
        notes = [Note("worse", "order/a", f"rate {figure}", about="standard rate"), Note("worse", "order/a", figure, about="standard rto_s"),
                 Note("worse", "order/a", figure, about="standard rto_s"), Note("worse", "order/\ud800", figure)]  # fmt: skip
        (tmp_path / folder).mkdir()
        annotating.annotate(Gate(1, notes), "gitlab", io.StringIO(), tmp_path / folder)
        return [
            entry["fingerprint"] for entry in json.loads((tmp_path / folder / annotating.GITLAB_REPORT).read_text())
        ]

    one, two = fingerprints("3 s", "a"), fingerprints("4 s", "b")
    assert one == two and len(set(one)) == 4


# -- hostile texts -----------------------------------------------------------------------------------------------------


EVIL = "line 1\n::set-output name=x::y\r100%, a:b | <script>alert(1)</script> `x` \x1b[31m\u202e"


def test_a_text_of_a_broker_cannot_speak_for_the_pipeline() -> None:
    gate = Gate(1, [Note("new violation", EVIL, EVIL, EVIL, "a,b:c.toml", 3)])
    out = io.StringIO()
    annotating.annotate(gate, "github", out)
    (line,) = out.getvalue().splitlines()
    assert line.startswith(
        "::error file=a%2Cb%3Ac.toml,line=3,title=brokerproof%3A new violation::line 1%0A%3A%3A"[:70]
    )
    assert "\x1b" not in line and "\u202e" not in line and line.count("\n") == 0
    text = annotating.summary(gate, "r", "what")
    (row,) = [row for row in text.splitlines() if row.startswith("| new")]
    assert "<script" not in text and "\x1b" not in text
    assert len([c for n, c in enumerate(row) if c == "|" and row[n - 1] != "\\"]) == 4


def test_a_flood_is_cut_and_counted() -> None:
    gate = Gate(50_000, [Note("new violation", f"claim/{n}", "x" * 400) for n in range(50_000)])
    assert len(annotating.summary(gate, "r", "w").encode()) < 1_000_000
    assert "more |" in annotating.summary(gate, "r", "w")
    lines = list(annotating.github(gate.notes))
    assert len(lines) == 11 and "49990 more" in lines[-1]
    assert sum(1 for _ in annotating.told(gate, "r", "w")) < 200


def test_nothing_in_the_run_is_changed(sound_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in sound_run.rglob("*")}
    loaded = results_of(sound_run)
    kept = copy.deepcopy(loaded)
    against_expected(loaded)
    against_baseline(loaded, loaded)
    assert loaded == kept and {p: p.stat().st_mtime_ns for p in sound_run.rglob("*")} == before
