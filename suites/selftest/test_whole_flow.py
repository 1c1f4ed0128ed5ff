"""The whole flow on the memory broker: command line in, verdicts and files out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def brokerproof(*arguments: str, cwd: Path, columns: int | None = None) -> subprocess.CompletedProcess[str]:
    # Readline, which pytest loads, puts a width of 80 columns behind Python's back into what is inherited, by the workers of xdist too.
    return subprocess.run(
        [sys.executable, "-m", "brokerproof.cli", *arguments], cwd=cwd, text=True, capture_output=True, timeout=400,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | ({"COLUMNS": str(columns)} if columns else {}),
    )  # fmt: skip


def run(tmp_path: Path, broker: str, *select: str) -> tuple[int, dict[str, Any]]:
    chosen = [word for name in select for word in ("--select", name)]
    done = brokerproof("run", "--broker", broker, "--seed", "5", "--run-dir", "run", *chosen, cwd=tmp_path)
    assert (tmp_path / "run" / "results.json").exists(), done.stdout + done.stderr
    return done.returncode, json.loads((tmp_path / "run" / "results.json").read_text())


def test_a_sound_broker_keeps_its_promises(tmp_path: Path, state: Path) -> None:
    code, results = run(tmp_path, "memory")
    unexpected = [(c["claim"], c["verdict"], c["reason"]) for c in results["claims"] if not c["as_expected"]]
    assert (code, unexpected, results["errors"]) == (0, [], [])
    assert {c["kind"] for c in results["claims"]} == {"promise", "hazard", "property"}
    folder = tmp_path / "run"
    for file in ("run.json", "junit.xml", "summary.md", "report/index.html"):
        assert (folder / file).stat().st_size > 100, file
    for entry in results["claims"]:
        for arm in ("treatment", "control", "sham"):
            for trial in (entry[arm] or {}).get("trial_ids", ()):
                for file in ("plan.json", "history.arrow", "faults.json", "findings.json"):
                    assert (folder / "trials" / trial / file).exists(), (trial, file)

    said = {c["claim"]: c["promises"] for c in results["claims"] if c["kind"] != "property"}
    (loss,) = [a for a in said["producer/fire-and-forget-loses"]["treatment"] if a["anomaly"] == "lost"]
    assert (loss["word"], loss["count"] > 0) == ("allowed by this configuration", True)
    assert said["producer/fire-and-forget-loses"]["control"] == said["producer/fire-and-forget-loses"]["sham"] == []
    assert {a["word"] for arm in said.values() for a in arm["treatment"]} <= {
        "allowed by this configuration",
        "not promised",
    }

    again = brokerproof("check", "run", cwd=tmp_path)
    (rechecked,) = (folder / "rechecks").glob("*/results.json")
    assert [c.get("promises") for c in json.loads(rechecked.read_text())["claims"]] == [
        c.get("promises") for c in results["claims"]
    ]
    assert again.returncode == 0, again.stdout + again.stderr
    assert "violated, as was expected: amqp/topic-star-hash (as stated it is" in again.stdout
    assert again.stdout.endswith(f"\nresults  {rechecked.relative_to(tmp_path)}\n"), "nothing else was written"

    trial = next(c for c in results["claims"] if c["claim"] == "producer/fire-and-forget-loses")["treatment"][
        "trial_ids"
    ][0]
    alone = brokerproof("check", f"run/trials/{trial}", "--json", cwd=tmp_path)
    found = json.loads(alone.stdout)
    assert alone.returncode == 1
    assert found["anomalies"]["lost"]["count"] > 0
    assert found["anomalies"]["duplicated"] == {"count": 0, "messages": []}

    replayed = brokerproof("replay", "run", "--trial", trial, cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "lost" in replayed.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("run", "--broker", "kafak"),
            "unknown broker 'kafak'; known: kafka, memory, rabbitmq, rocketmq; did you mean 'kafka'",
        ),
        (("run", "--broker", "kafka=9"), "unknown version of kafka '9'; known: 3.9.2, 4.3.1"),
        (
            ("run", "--broker", "memory", "--select", "ordre"),
            "unknown claim 'ordre'; `brokerproof list claims` names them",
        ),
        (("run", "--broker", "memory", "--select", "ordre"), "; did you mean 'order'"),
        (("run", "--broker", "memory", "--select", "same"), "did you mean 'order/same-lane'?"),
        (("conformance", "--case", "A99.01"), "unknown case 'A99.01'; `brokerproof list cases` names them"),
        (("run", "--broker", "memory", "--profile", "quik"), "unknown profile 'quik'"),
        (("run", "--broker", "memory", "--variant", "none"), "no cell matches"),
        (("run", "--broker", "memory", "--run-dir", "."), "exists"),
        (("list", "claim"), "unknown list 'claim'"),
        (("run", "--broker", "memory", "--schedule", "strom"), "unknown schedule 'strom'"),
        (("search", "--broker", "memory=sund"), "unknown version of memory 'sund'"),
        (("search", "--broker", "memory", "--select", "ordre"), "unknown claim 'ordre'"),
        (("search", "--broker", "memory", "--budget", "soon"), "expected a time like 90s, 10m or 1h"),
        (("search", "--broker", "memory", "--fault", "kil"), "did you mean 'kill'"),
        (("search", "--broker", "memory", "--fault", "partition"), "none of the faults partition can be injected"),
        (("search", "--broker", "memory", "--select", "amqp"), "no promise of amqp is decided on memory"),
        (("replay", "nowhere"), "does not exist"),
        (("run", "--no-such-option"), "No such option"),
    ],
)
def test_wrong_usage_says_what_exists_and_ends_with_2(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, state: Path
) -> None:  # fmt: skip
    done = brokerproof(*arguments, cwd=tmp_path)
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, sentence in said) == (2, True), said


@pytest.mark.parametrize("what", ["claims", "faults", "schedules", "effects", "checkers", "brokers"])
def test_lists_are_tables_and_json(what: str, tmp_path: Path) -> None:
    rows = json.loads(brokerproof("list", what, "--json", cwd=tmp_path).stdout)
    assert rows
    table = brokerproof("list", what, cwd=tmp_path)
    assert table.returncode == 0
    assert next(iter(rows[0].values()))[:8] in table.stdout


def test_a_narrow_terminal_breaks_no_name(tmp_path: Path) -> None:
    narrow = brokerproof("list", "brokers", cwd=tmp_path, columns=60).stdout
    named = [
        name
        for row in json.loads(brokerproof("list", "brokers", "--json", cwd=tmp_path).stdout)
        for name in row["capabilities"]
    ]
    assert len(named) > 10 and not [name for name in named if name not in narrow]
    assert max(map(len, narrow.splitlines())) <= 60 and "capabilities: " in narrow


def test_a_history_that_is_none_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "history.arrow").write_bytes(b"not arrow")
    done = brokerproof("check", ".", cwd=tmp_path)
    assert done.returncode == 4
    assert "history.arrow" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_history_is_checked_as_far_as_it_goes(tmp_path: Path, state: Path) -> None:
    _, results = run(tmp_path, "memory", "producer/fire-and-forget-loses")
    (entry,) = results["claims"]
    for trial in entry["treatment"]["trial_ids"]:
        file = tmp_path / "run" / "trials" / trial / "history.arrow"
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    done = brokerproof("check", "run", "--json", cwd=tmp_path)
    (again,) = json.loads(done.stdout)["claims"]
    assert (again["verdict"], done.returncode) == ("UNKNOWN", 3)
    assert "torn" in again["reason"]


def test_a_killed_run_leaves_its_verdicts(tmp_path: Path, state: Path) -> None:
    _, results = run(tmp_path, "memory", "order")
    (tmp_path / "run" / "results.json").unlink()
    done = brokerproof("check", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(c["claim"] in done.stdout for c in results["claims"])


def test_through_pytest_a_test_fails_when_its_verdict_is_not_the_expected_one(tmp_path: Path, state: Path) -> None:
    from brokerproof.suites import suites

    claims = suites() / "claims"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(claims), "-c", str(claims / "pytest.ini"), "-p", "no:cacheprovider", "-q",
         "--brokerproof-broker", "memory=reorders", "--brokerproof-broker", "memory", "-k", "one_consumer",
         "--brokerproof-seed", "5", "--brokerproof-run-dir", "run"],
        cwd=tmp_path, text=True, capture_output=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "VIOLATED, expected HOLDS (the default: no expected result is written for it)" in done.stdout
    assert "again: brokerproof run --broker memory=reorders" in done.stdout


def test_a_log_has_whole_lines_whatever_their_length(tmp_path: Path, state: Path) -> None:
    brokers = [w for bug in ("reorders", "doubles", "sound", "acks-early") for w in ("--broker", f"memory={bug}")]
    done = brokerproof("run", *brokers, "--select", "order/one-queue-one-consumer", "--seed", "5", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert (
        "  again: brokerproof run --broker memory=reorders --select order/one-queue-one-consumer --profile quick --seed 5"
        in lines
    )
    rows = [line for line in lines if line.startswith("│ order/one-queue-one-consumer ")]
    assert len(rows) == 1, done.stdout + done.stderr
    assert rows[0].count("HOLDS") == 4, "one cell each, and what was expected of the one that does not hold"


def test_one_worker_decides_all_cells_of_a_product(tmp_path: Path, state: Path) -> None:
    done = brokerproof("run", "--broker", "memory", "--broker", "memory=doubles", "--workers", "2", "--select", "amqp",
                       "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "run" / "results.json").exists(), done.stdout + done.stderr
    said = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert len({line["pid"] for line in said}) == 1


def test_faults_are_measured_when_they_are_asked_for(tmp_path: Path, state: Path) -> None:
    code, results = run(tmp_path, "memory", "faults/link-down")
    assert [(c["claim"], c["verdict"]) for c in results["claims"]] == [("faults/link-down", "HOLDS")]
    assert code == 0
    for entry in results["claims"]:
        assert [f["evidence"] for f in entry["treatment"]["faults"]] == ["took_effect"]
        assert [f["evidence"] for f in entry["control"]["faults"]] == ["no_effect"]
    down = results["claims"][0]["recovery"]["treatment"][0]["figures"]
    # Refused for that long: nobody can have sent anything in the meantime.
    for_s = json.loads((tmp_path / "run" / "trials" / entry["treatment"]["trial_ids"][0] / "plan.json").read_text())[
        "schedule"
    ][0]["for_s"]
    assert down["gap_s"]["median"] > 0.8 * for_s
    assert down["clients_first_s"]["median"] > 0.8 * for_s
    said = (tmp_path / "run" / "summary.md").read_text()
    assert "## What faults cost" in said
    assert "| link-down | memory sound | took effect |" in said
    assert "What the faults cost" in (tmp_path / "run" / "report" / "index.html").read_text()
    again = brokerproof("check", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    (rechecked,) = (tmp_path / "run" / "rechecks").glob("*/results.json")
    assert [c["recovery"] for c in json.loads(rechecked.read_text())["claims"]] == [
        c["recovery"] for c in results["claims"]
    ]


def test_promises_under_another_schedule_are_variants_of_their_own(tmp_path: Path, state: Path) -> None:
    claim = "producer/acknowledged-survives-link-cut"
    done = brokerproof("run", "--broker", "memory", "--select", "producer", "--schedule", "smoke", "--schedule",
                       "leader-hunt", "--seed", "5", "--run-dir", "run", cwd=tmp_path)  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["errors"] == [], done.stdout + done.stderr
    assert {c["kind"] for c in results["claims"]} == {"promise"}
    assert {c["variant"] for c in results["claims"]} == {"under-smoke", "under-leader-hunt"}
    assert all(c["unlisted"] for c in results["claims"])
    by = {(c["claim"], c["variant"]): c for c in results["claims"]}
    hunted = by[claim, "under-leader-hunt"]
    assert (hunted["verdict"], hunted["reason"]) == (
        "UNSUPPORTED", "schedule leader-hunt needs links between nodes, for partition",
    )  # fmt: skip
    smoke = by[claim, "under-smoke"]
    assert smoke["verdict"] == "HOLDS", smoke["reason"]
    assert "--schedule smoke" in smoke["command"]
    assert "--variant" not in smoke["command"]
    (trial,) = smoke["treatment"]["trial_ids"]
    plan = json.loads((tmp_path / "run" / "trials" / trial / "plan.json").read_text())
    assert [i["fault"] for i in plan["schedule"]] == ["reset", "black_hole", "kill"]
    assert plan["workload"]["load_s"] > max(i["at_s"] + i["for_s"] for i in plan["schedule"])
    injections = json.loads((tmp_path / "run" / "trials" / trial / "faults.json").read_text())["injections"]
    assert all(i["evidence"] == "took_effect" and i["late_ms"] is not None for i in injections)
    replayed = brokerproof("replay", "run", "--trial", trial, cwd=tmp_path)
    assert "late by" in replayed.stdout
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
