"""A run that did not come to its end, gone on with: what was decided stays as it is, what was not is decided."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from brokerproof.brokers.base import Thing
from brokerproof.brokers.rabbitmq import admin
from brokerproof.brokers.rabbitmq.adopted import direct
from brokerproof.conformance.amqp091.model import Broker
from brokerproof.conformance.amqp091.peer import Peer
from brokerproof.errors import UsageError
from brokerproof.results import RunFolder, interruption, load_json, write_json
from brokerproof.resuming import prepare
from brokerproof.runtime import sweep
from brokerproof.runtime.journal import Journal
from brokerproof.target import load

HAZARD, PROMISE = "producer/fire-and-forget-loses", "producer/acknowledged-survives-link-cut"


def brokerproof(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], capture_output=True, text=True, timeout=400, check=False
    )


def a_run(folder: Path, entries: dict[str, list[str]], trials: list[str], command: str = "") -> RunFolder:
    """cell -> the trials that its verdict rests on; and the trial folders there are."""
    run = RunFolder(folder)
    run.create(
        seed=7, command=command or "brokerproof run --profile standard --seed 7 --broker memory=sound --select order"
    )
    for slug, used in entries.items():
        run.write_cell(slug, {"slug": slug, "treatment": {"trial_ids": used}, "control": None, "sham": None})
    for trial in trials:
        run.trial(trial).mkdir()
    return run


def test_what_was_decided_stays_and_the_rest_is_decided_again(tmp_path: Path, state: Path) -> None:
    folder = tmp_path / "run"
    first = brokerproof(
        "run",
        "--broker",
        "memory=sound",
        "--select",
        HAZARD,
        "--select",
        PROMISE,
        "--seed",
        "5",
        "--run-dir",
        str(folder),
    )
    assert first.returncode == 0, first.stdout + first.stderr
    run = RunFolder(folder)
    kept, lost = sorted(run.cells(), key=lambda e: e["claim"] != HAZARD)
    assert (kept["claim"], lost["claim"]) == (HAZARD, PROMISE)
    run.forget_cell(lost["slug"])
    run.write_error(lost["slug"], "killed")
    mark: dict[str, Any] = {**kept, "reason": "as it was"}
    run.write_cell(kept["slug"], mark)
    again = brokerproof("run", "--resume", str(folder))
    assert again.returncode == 0, again.stdout + again.stderr
    results = {c["claim"]: c for c in load_json(folder / "results.json")["claims"]}
    assert results[HAZARD]["reason"] == "as it was", "it is not decided twice"
    assert results[PROMISE]["verdict"] == "HOLDS"
    assert load_json(folder / "results.json")["errors"] == []


def test_halves_go_and_with_them_verdicts_that_rest_on_them(tmp_path: Path, state: Path) -> None:
    # Cell "b" shares a trial that is named after "a"; "a" was never decided, so that name is going to be used again.
    run = a_run(
        tmp_path / "run",
        {"b": ["a-control-0", "b-treatment-0"], "c": ["c-treatment-0"]},
        ["a-control-0", "a-treatment-0", "b-treatment-0", "c-treatment-0", "c-control-1"],
    )
    (run.path / "pool").mkdir()
    _, asked = prepare(run.path)
    assert [entry["slug"] for entry in run.cells()] == ["c"]
    assert sorted(t.name for t in run.trials.iterdir()) == ["c-control-1", "c-treatment-0"]
    assert not (run.path / "pool").exists()
    assert asked == {
        "profile": "standard", "seed": "7", "broker": ["memory=sound"], "select": ["order"], "variant": [], "schedule": []
    }  # fmt: skip


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, state: Path) -> None:
    run = a_run(tmp_path / "run", {}, ["a-treatment-0"])
    sweep.register(run.mark, owner=os.getpid(), folder=run.path)
    with pytest.raises(UsageError, match="still goes on"):
        prepare(run.path)
    assert run.trial("a-treatment-0").is_dir()


def test_what_was_not_started_by_our_own_command_cannot_be_asked_for_again(tmp_path: Path, state: Path) -> None:
    run = a_run(tmp_path / "run", {}, [], command="pytest suites/claims -k order")
    with pytest.raises(UsageError, match="was not started by `brokerproof run`"):
        prepare(run.path)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("brokerproof run --profile quick --seed 7 --frobnicate 1", "cannot be asked for again"),
        ("brokerproof run --profile quick --seed", "cannot be asked for again"),
        ("brokerproof run --profile quick", "says no seed"),
    ],
)
def test_a_command_that_cannot_be_read_is_told_and_nothing_is_removed(
    tmp_path: Path, state: Path, command: str, why: str
) -> None:
    run = a_run(tmp_path / "run", {}, ["a-treatment-0"], command=command)
    with pytest.raises(UsageError, match=why):
        prepare(run.path)
    assert run.trial("a-treatment-0").is_dir()


def test_other_options_have_no_place_beside_it(tmp_path: Path, state: Path) -> None:
    run = a_run(tmp_path / "run", {}, [])
    said = brokerproof("run", "--resume", str(run.path), "--seed", "8")
    assert said.returncode == 2
    assert "leave the other options away" in said.stderr + said.stdout
    assert json.loads((run.path / "run.json").read_text())["seed"] == 7


def test_a_run_on_a_target_goes_on_once_what_it_left_there_is_gone(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_PASSWORD", "proof-of-it")
    broker = Broker(time.monotonic)
    broker.add_vhost("proof")
    broker.add_user("proof", "proof-of-it")
    broker.set_permissions("proof", "proof")
    with closing(Peer(broker, 1.0)) as peer:
        file = tmp_path / "mine.toml"
        file.write_text(
            f'product = "rabbitmq"\n[nodes.r1]\naddress = "127.0.0.1:{peer.address[1]}"\n'
            '[access]\nuser = "proof"\npassword_env = "PROOF_PASSWORD"\nvhost = "proof"\n'
        )
        target, run = load(file), RunFolder(tmp_path / "run")
        run.create(
            seed=7, command=f"brokerproof run --profile quick --seed 7 --target {file} --allow-destructive --select order",
            target=target.identity("1"),
        )  # fmt: skip
        left = Thing("queue", "bp-left")
        Journal(target.key).making(run.mark, [left])
        with admin.channel(peer.address, direct(target)) as ch:
            ch.queue_declare("bp-left", durable=True)
            ch.queue_declare("theirs", durable=True)
        text = file.read_text()
        file.write_text(f'{text}[names]\nprefix = "other-"\n')
        with pytest.raises(UsageError, match="says other prefix than when it began"):
            prepare(run.path)
        file.write_text(text.replace("[access]", 'kill = "true"\nstart = "true"\n[access]'))
        with pytest.raises(UsageError, match="says other ways_to_break_nodes than when it began"):
            prepare(run.path)
        file.write_text(text)
        facts = load_json(run.path / "run.json")
        write_json(run.path / "run.json", facts | {"target": target.identity("0.9")})
        with pytest.raises(UsageError, match=r"began on rabbitmq 0\.9, and the broker says 1 now"):
            prepare(run.path)
        assert broker.entities("proof").queues == {"bp-left", "theirs"}
        before_versions = facts | {"target": target.public()}
        write_json(run.path / "run.json", before_versions)
        _, asked = prepare(run.path)
        assert (asked["target"], asked["allow-destructive"], asked["select"]) == (str(file), True, ["order"])
        assert broker.entities("proof").queues == {"theirs"}
        assert Journal(target.key).left() == []


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [("brokerproof run --seed 7", True), ("brokerproof conformance --seed 7", False), ("pytest -k order", False)],
)
def test_only_a_run_that_can_be_gone_on_with_is_said_to_be(tmp_path: Path, command: str, goes_on: bool) -> None:
    run = RunFolder(tmp_path / "run")
    run.create(seed=7, command=command)
    said = interruption(run.fold(interrupted=True), Path("runs/its-folder"))
    assert ("--resume runs/its-folder" in said) == goes_on and ("give its command again" in said) != goes_on
    assert ("RUN being its folder" in interruption(run.fold(interrupted=True))) == goes_on
    assert interruption(run.fold(interrupted=False)) == ""
