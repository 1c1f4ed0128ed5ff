"""Experiments of one's own, as somebody writes them who has only installed the package: on the memory broker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brokerproof.errors import PlanError
from brokerproof.own import experiment

#: A small order service. ``confirm``: it answers once the broker has the order; else it answers at once, whatever happens.
SERVICE = """
from brokerproof.brokers.memory.cluster import Stored
from brokerproof.own import experiment
from brokerproof.plan import Destination


class Shop:
    def __init__(self, memory, confirm):
        self.cluster, self.name, self.confirm = memory.cluster, memory.name("orders"), confirm
        self.cluster.create(Destination(name="orders", kind="queue"), self.name)

    def order(self, number):
        try:
            if self.cluster.nodes["m1"].state() != "running":
                raise ConnectionError("the broker is down")
            self.cluster.store(self.name, 0, b"order %d" % number)
        except ConnectionError:
            if self.confirm:
                raise

    def orders(self):
        return [int(body.split()[1]) for body in self.cluster.lanes[self.name, 0].log]


def take(shop, history, faults, fault="kill"):
    for number in range(10):
        with history.sending(number):
            shop.order(number)
    with faults(fault, target="all"):
        for number in range(10, 20):
            try:
                with history.sending(number, refused=(ConnectionError,)):
                    shop.order(number)
            except ConnectionError:
                pass
    faults.over()
"""
EXPERIMENT = """
@experiment("shop/no-order-is-lost", sentence="An order that was answered is there.", control="nobody waits for an answer")
def test_orders(arm, memory, history, faults):
    shop = Shop(memory, confirm=arm.of(treatment=True, control=False))
    take(shop, history, faults)
    history.world(shop.orders())
"""


def run(tmp_path: Path, body: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    (tmp_path / "test_shop.py").write_text(SERVICE + body)
    plugin = [] if installed() else ["-p", "brokerproof.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "--brokerproof-run-dir", "run",
         "--brokerproof-seed", "3", *arguments,
         "test_shop.py"],
        cwd=tmp_path, text=True, capture_output=True, timeout=400,
    )  # fmt: skip
    results = tmp_path / "run" / "results.json"
    return done, json.loads(results.read_text()) if results.exists() else {}


def installed() -> bool:
    from importlib.metadata import entry_points

    return any(p.value == "brokerproof.pytest_plugin" for p in entry_points(group="pytest11"))


def test_a_service_that_waits_for_confirms_holds_and_its_control_went_red(tmp_path: Path, state: Path) -> None:
    done, results = run(tmp_path, EXPERIMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = results["claims"]
    assert (entry["verdict"], entry["kind"], entry["broker"]) == ("HOLDS", "promise", "memory")
    assert (entry["treatment"]["violated"], entry["control"]["violated"], entry["sham"]["violated"]) == (0, 1, 0)
    assert entry["treatment"]["faults"] == [{"fault": "kill", "evidence": "took_effect"}]
    assert entry["sham"]["faults"] == [{"fault": "noop", "evidence": "no_effect"}]
    assert "10 lost" in entry["reason"]
    trial = tmp_path / "run" / "trials" / entry["control"]["trial_ids"][0]
    for file in ("history.arrow", "faults.json", "findings.json", "messages.json"):
        assert (trial / file).stat().st_size, file
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size
    assert entry["command"] == "pytest test_shop.py::test_orders"


def test_a_service_that_loses_is_violated_and_the_test_fails(tmp_path: Path, state: Path) -> None:
    done, results = run(tmp_path, EXPERIMENT.replace("treatment=True", "treatment=False"))
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "VIOLATED")
    assert "shop/no-order-is-lost on memory sound: VIOLATED, expected HOLDS" in done.stdout


def test_without_a_control_that_goes_red_nothing_is_said(tmp_path: Path, state: Path) -> None:
    done, results = run(tmp_path, EXPERIMENT.replace("control=False", "control=True"))
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "UNKNOWN")
    assert "the control shows no lost or effect_duplicated either" in done.stdout


def test_a_fault_that_does_not_bite_leaves_it_open(tmp_path: Path, state: Path) -> None:
    done, results = run(tmp_path, EXPERIMENT.replace("history, faults)\n", 'history, faults, "noop")\n', 1))
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "UNKNOWN")


def test_a_test_that_never_tells_the_truth_leaves_it_open(tmp_path: Path, state: Path) -> None:
    done, results = run(tmp_path, EXPERIMENT.replace("    history.world(shop.orders())\n", ""))
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "UNKNOWN")
    findings = json.loads(next((tmp_path / "run" / "trials").glob("*treatment*/findings.json")).read_text())
    assert any("history.world" in said for said in findings["missing"])


def test_a_doubled_effect_is_seen_in_the_world(tmp_path: Path, state: Path) -> None:
    twice = EXPERIMENT.replace("history.world(shop.orders())", "history.world(shop.orders() * 2)")
    done, results = run(tmp_path, twice)
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "UNKNOWN")  # the sham shows it, too
    assert "the sham arm, without any fault, shows" in done.stdout


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def test_bare(memory, history):\n    pass\n", "mark it with @experiment"),
        (EXPERIMENT.replace("arm, memory, history, faults", "memory, history, faults").replace(
            "arm.of(treatment=True, control=False)", "True"), "does not take arm"),
        (EXPERIMENT.replace("arm, memory, history, faults", "arm, history, faults").replace("Shop(memory", "Shop(None"),
         "asks for a broker"),
        (EXPERIMENT.replace('faults)\n    history', 'faults, "kil")\n    history'), "did you mean 'kill'"),
        (EXPERIMENT.replace("shop/no-order-is-lost", "no-order"), "expected '<section>/<slug>'"),
        ("@pytest.mark.broker(topologie='single')".join(["import pytest\n", EXPERIMENT]), "not topologie"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_to_do(tmp_path: Path, state: Path, body: str, said: str) -> None:
    done, _ = run(tmp_path, body)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr, done.stdout + done.stderr


def test_background_faults_start_on_time_and_are_over_when_asked(tmp_path: Path, state: Path) -> None:
    body = """
import time
from brokerproof.waiting import wait_until

@experiment("shop/no-order-is-lost", sentence="An order that was answered is there.", control="nobody waits for an answer")
def test_orders(arm, memory, history, faults):
    shop = Shop(memory, confirm=arm.of(treatment=True, control=False))
    faults.at(0.2, "kill", for_s=0.5)
    since, number = time.monotonic(), 0
    while time.monotonic() - since < 1.2:
        number += 1
        try:
            with history.sending(number, refused=(ConnectionError,)):
                shop.order(number)
        except ConnectionError:
            pass
        time.sleep(0.01)
    faults.over()
    history.world(shop.orders())
"""
    done, results = run(tmp_path, body)
    (entry,) = results["claims"]
    assert (done.returncode, entry["verdict"]) == (0, "HOLDS"), done.stdout + done.stderr
    faults = json.loads((tmp_path / "run" / "trials" / entry["treatment"]["trial_ids"][0] / "faults.json").read_text())
    (injection,) = faults["injections"]
    assert 0.2 <= injection["injected_s"] < injection["healing_s"]
    assert injection["healing_s"] - injection["injected_s"] >= 0.5


def test_only_the_world_says_what_is_there(tmp_path: Path, state: Path) -> None:
    """Told by the consumer, and not there in the end: lost, whatever anybody saw happen."""
    gone = EXPERIMENT.replace(
        "    history.world(shop.orders())\n",
        "    for number in shop.orders():\n        history.effect(number)\n    history.world(shop.orders()[1:])\n",
    )
    done, results = run(tmp_path, gone)
    assert (done.returncode, results["claims"][0]["verdict"]) == (1, "UNKNOWN")  # the sham shows it, too
    trial = next((tmp_path / "run" / "trials").glob("*treatment*"))
    findings = json.loads((trial / "findings.json").read_text())
    assert findings["anomalies"]["lost"]["messages"] == [0]
    assert any("more effects, as the test told, than the world shows" in said for said in findings["missing"])


def test_what_the_test_saw_happen_has_its_time(tmp_path: Path, state: Path) -> None:
    seen = EXPERIMENT.replace(
        "    history.world(shop.orders())\n",
        "    for number in shop.orders():\n        history.effect(number)\n    history.world(shop.orders())\n",
    )
    done, results = run(tmp_path, seen)
    assert (done.returncode, results["claims"][0]["verdict"]) == (0, "HOLDS"), done.stdout + done.stderr


def test_parameters_make_an_experiment_each(tmp_path: Path, state: Path) -> None:
    both = "import pytest\n@pytest.mark.parametrize('n', [1, 2])" + EXPERIMENT.replace("(arm, ", "(n, arm, ", 1)
    done, results = run(tmp_path, both)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(e["variant"], e["verdict"]) for e in results["claims"]] == [("1", "HOLDS"), ("2", "HOLDS")]


def test_two_tests_are_not_one_experiment(tmp_path: Path, state: Path) -> None:
    twin = EXPERIMENT + EXPERIMENT.replace("def test_orders", "def test_orders_again")
    done, _ = run(tmp_path, twin)
    assert done.returncode != 0
    assert "ids are unique on a broker" in done.stdout + done.stderr


def test_faults_at_once_do_not_heal_each_other(tmp_path: Path, state: Path) -> None:
    nested = EXPERIMENT.replace(
        "    take(shop, history, faults)\n",
        """
    for number in range(10):
        with history.sending(number):
            shop.order(number)
    with faults("kill", target="all"):
        with faults("link_down", target="all"):
            pass
        for number in range(10, 20):
            try:
                with history.sending(number, refused=(ConnectionError,)):
                    shop.order(number)
            except ConnectionError:
                pass
""",
    )
    done, results = run(tmp_path, nested)
    (entry,) = results["claims"]
    assert entry["verdict"] in ("HOLDS", "UNKNOWN"), done.stdout + done.stderr
    faults = json.loads((tmp_path / "run" / "trials" / entry["control"]["trial_ids"][0] / "faults.json").read_text())
    by_fault = {i["fault"]: i for i in faults["injections"]}
    assert by_fault["kill"]["evidence"] == "took_effect"
    assert by_fault["link_down"]["overlapped"]
    assert entry["control"]["violated"] == 1  # the node stayed down though the link was healed


def test_trials_of_one_profile_serve_every_profile() -> None:
    def trials(given: Any) -> dict[str, int]:
        @experiment("own/x", sentence="s", control="c", trials=given)
        def test() -> None: ...

        return dict(test.brokerproof_own.trials)  # type: ignore[attr-defined]  # the decorator sets it

    assert trials({"quick": 2}) == {"quick": 2, "standard": 2, "thorough": 2}
    assert trials({"standard": 5}) == {"quick": 5, "standard": 5, "thorough": 5}
    assert trials({"quick": 1, "thorough": 20}) == {"quick": 1, "standard": 1, "thorough": 20}
    assert trials(3) == {"quick": 3, "standard": 3, "thorough": 3}
    for wrong in ({}, {"fast": 1}, {"quick": 0}, 0, {"quick": True}):
        with pytest.raises(PlanError, match="a number from 1, or one for each of quick"):
            trials(wrong)


def test_options_have_names_of_their_own_beside_those_of_other_plugins(tmp_path: Path, state: Path) -> None:
    """Plugins that order tests have a --seed, those of applications a --broker or a --target: both sides keep theirs."""
    theirs = [
        "--seed",
        "--broker",
        "--target",
        "--profile",
        "--case",
        "--tag",
        "--level",
        "--live",
        "--expected",
        "--resume",
    ]
    (tmp_path / "others.py").write_text(
        "def pytest_addoption(parser):\n"
        f"    for name in {theirs!r}:\n"
        "        parser.addoption(name, default='theirs')\n"
        "def pytest_configure(config):\n"
        "    assert config.option.seed == 'theirs' == config.option.target\n"
    )
    plugin = [] if installed() else ["-p", "brokerproof.pytest_plugin"]
    helped = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "others", "--help"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert helped.returncode == 0, helped.stderr
    group = helped.stdout.partition("brokerproof: which delivery promises")[2].partition("\n\n")[0]
    ours = re.findall(r"^  (--[a-z-]+)", group, re.MULTILINE)
    assert len(ours) == 18 and all(name.startswith("--brokerproof-") for name in ours)
