"""From the files of a trial to what the verdict is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokerproof.experiment import Experiment
from brokerproof.history import HistoryWriter
from brokerproof.plan import Destination, Workload
from brokerproof.results import load_json, write_json
from brokerproof.run import evaluate, lacking
from brokerproof.runtime import equipment


def trial(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A message that was acknowledged at 1 ms and is lost; the fault is on from 100 to 200 ms, and meets another."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "checkers"))
    told = __import__("storybook").told
    made = told("ok send a at=0..1", "ok send b at=99..101", "ok receive b at=300..301", drained=True)
    with HistoryWriter(folder / "history.arrow", made.meta) as writer:
        writer.write(made.columns, made.errors)
    injection = {"fault": fault, "evidence": "took_effect", "injected_s": 0.1, "healed_s": 0.2, "in_flight": -1}
    write_json(folder / "faults.json", {"schema": 1, "injections": [injection]})
    return folder


@pytest.mark.parametrize(("fault", "witnesses"), [("kill", 0), ("power_cut", 1), ("bit_flip", 1)])
def test_what_a_disk_took_had_been_in_its_hands_since_it_was_sent(
    fault: str, witnesses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(trial(tmp_path, fault, monkeypatch), ["lost"])
    assert result.finding.anomalies["lost"].count == 1
    assert result.witnesses_in_flight == witnesses
    assert result.faults == ((fault, "took_effect", 1),)


def test_what_lay_stored_was_in_the_hands_of_a_node_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate(trial(tmp_path, "kill", monkeypatch), ["lost"], stored=True)
    assert result.witnesses_in_flight == 1
    assert result.faults == (("kill", "took_effect", 2),)


@pytest.mark.parametrize(
    ("heard_s", "sends", "heard"),
    [
        (0.0, ["fail send b at=300..301"], True),
        (1.0, ["fail send b at=300..301", "fail send c at=5000..5001"], False),
        (1.0, ["ok send b at=150..190", "fail send c at=5000..5001"], False),
        (1.0, ["ok send b at=4500..4501", "fail send c at=5000..5001"], False),
        (1.0, ["ok send b at=3000..3001", "fail send c at=5000..5001"], True),
    ],
)
def test_senders_that_nobody_could_ask_are_no_evidence(
    heard_s: float, sends: list[str], heard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "checkers"))
    told = __import__("storybook").told
    made = told("ok send a at=0..1", "ok send z at=2..3", *sends, "ok receive a at=6000..6001", drained=True)
    with HistoryWriter(tmp_path / "history.arrow", made.meta) as writer:
        writer.write(made.columns, made.errors)
    injection = {"fault": "power_cut", "evidence": "took_effect", "injected_s": 0.1, "healed_s": 0.2, "in_flight": -1}
    write_json(tmp_path / "faults.json", {"schema": 1, "injections": [injection]})
    write_json(tmp_path / "plan.json", {"workload": {"heard_s": heard_s}})
    finding = evaluate(tmp_path, ["lost"]).finding
    assert any("nobody to ask" in sentence for sentence in finding.missing) == (not heard)
    # Lost for nobody to judge, and told all the same.
    assert (finding.of("lost").count > 0) == heard
    assert load_json(tmp_path / "findings.json")["anomalies"]["lost"]["count"] > 0


@pytest.mark.parametrize(("settled", "witnesses"), [("", 1), ("ok settle a at=8..9", 0)])
def test_what_was_not_settled_was_in_the_hands_of_the_consumer_that_died(
    settled: str, witnesses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "checkers"))
    told = __import__("storybook").told
    lines = ["ok send a at=0..1", "ok receive a at=2..3", "ok effect a at=4..5", *filter(None, [settled]),
             "ok receive a at=300..301", "ok effect a at=302..303"]  # fmt: skip
    made = told(*lines, drained=True)
    with HistoryWriter(tmp_path / "history.arrow", made.meta) as writer:
        writer.write(made.columns, made.errors)
    injection = {"fault": "client_kill", "evidence": "took_effect", "injected_s": 0.1, "healed_s": 0.2, "in_flight": -1}
    write_json(tmp_path / "faults.json", {"schema": 1, "injections": [injection]})
    result = evaluate(tmp_path, ["effect_duplicated"])
    assert result.finding.anomalies["effect_duplicated"].count == 1
    assert result.witnesses_in_flight == witnesses


@pytest.mark.parametrize(
    ("again_ms", "settled", "witnesses"), [(300, "", 1), (50, "", 0), (300, "ok settle b at=6..7", 0)]
)
def test_where_nothing_is_settled_a_message_is_on_its_way_until_its_last_effect(
    again_ms: int, settled: str, witnesses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application tells what it was asked for and what the world shows, and no more."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "checkers"))
    told = __import__("storybook").told
    lines = ["ok send a at=0..1", "ok send b at=2..3", "ok effect b at=4..5", *filter(None, [settled]),
             "ok effect a at=40..41", f"ok effect a at={again_ms}..{again_ms + 1}"]  # fmt: skip
    made = told(*lines, drained=True)
    with HistoryWriter(tmp_path / "history.arrow", made.meta) as writer:
        writer.write(made.columns, made.errors)
    injection = {"fault": "reset", "evidence": "took_effect", "injected_s": 0.1, "healed_s": 0.2, "in_flight": -1}
    write_json(tmp_path / "faults.json", {"schema": 1, "injections": [injection]})
    result = evaluate(tmp_path, ["effect_duplicated"])
    assert result.finding.anomalies["effect_duplicated"].count == 1
    assert result.witnesses_in_flight == witnesses


def test_what_the_machine_lacks_for_any_arm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kind:
        def __init__(self, name: str) -> None:
            self.name = name

        def missing(self) -> str:
            return f"no {self.name} here"

    monkeypatch.setattr(equipment, "kind", Kind)
    arm = Workload(destinations=(Destination(name="q", kind="queue"),), senders=())
    assert lacking(Experiment(topology="single", treatment=arm, control=arm), "memory") == ""
    needs = Experiment(
        topology="single", treatment=arm, control=arm, equipment=("disk",), control_equipment=("disk", "fsync_void")
    )
    assert lacking(needs, "memory") == "no disk here; no fsync_void here"
