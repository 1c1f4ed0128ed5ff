"""Which experiments fit a broker that somebody else runs, and how gently it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from brokerproof.adopting import NODE_NEEDS, Adoption
from brokerproof.experiment import ComparisonExperiment, Experiment, PropertyExperiment
from brokerproof.faults.base import faults, plane
from brokerproof.plan import Destination, Injection, Plan, Receiver, Sender, Workload
from brokerproof.target import Target, TargetNode
from brokerproof.targeting import dry_run, look

NODE = TargetNode(name="r1", address=("10.1.2.3", 5672))
TARGET = Target(path=Path("mine.toml"), product="rabbitmq", nodes={"r1": NODE}, user="u", prefix="proof-")
LOAD = Workload(
    destinations=(Destination(name="q", kind="queue"),),
    senders=(Sender(rate_per_s=400, keys=1),),
    receivers=(Receiver(),),
)


def under(*injections: str, **more: object) -> Experiment:
    schedule = tuple(Injection(fault=name, target="all") for name in injections)
    return Experiment(topology="cluster", treatment=LOAD, control=LOAD, schedule=schedule, **more)  # type: ignore[arg-type]  # one of its fields


@pytest.mark.parametrize("fault", ["reset", "black_hole", "latency", "slicer", "lost_ack", "half_open", "client_kill"])
def test_faults_of_clients_are_possible(fault: str) -> None:
    assert Adoption(TARGET, "4.0.5").lacking(under(fault)) == ""


def test_every_fault_that_touches_a_node_is_refused_until_it_is_allowed() -> None:
    for name in (f for f in faults() if plane(f) not in ("link", "load", "store", "none")):
        assert Adoption(TARGET, "").lacking(under(name)), name
        commands = replace(NODE, container="c", commands={"kill": "true", "start": "true"})
        given = replace(TARGET, nodes={"r1": commands})
        assert Adoption(given, "").lacking(under(name)), name
        assert (Adoption(given, "", destructive=True).lacking(under(name)) == "") == (name in NODE_NEEDS), name


def test_what_is_allowed_still_needs_a_way() -> None:
    said = Adoption(TARGET, "", destructive=True).lacking(under("kill"))
    assert (
        said
        == 'kill of r1: the target file gives no way; write kill = "…" and start = "…", or container = "…", in [nodes.r1]'
    )
    half = replace(TARGET, nodes={"r1": replace(NODE, commands={"kill": "true"})})
    assert "gives no way" in Adoption(half, "", destructive=True).lacking(under("kill"))


def test_packets_are_not_dropped_in_this_machines_own_network() -> None:
    near = replace(TARGET, nodes={"r1": replace(NODE, address=("127.0.0.1", 5672))})
    assert "on loopback" in Adoption(near, "").lacking(under("half_open"))
    assert Adoption(near, "").lacking(under("black_hole")) == ""
    process = replace(TARGET, toxiproxy="local")
    assert "the proxy is a process" in Adoption(process, "").lacking(under("half_open"))
    assert Adoption(process, "").lacking(under("black_hole")) == ""


def test_what_a_running_broker_is_not_given() -> None:
    adoption = Adoption(TARGET, "")
    assert "it sets x of the broker" in adoption.lacking(under(settings={"x": 1}))
    assert "it sets y of the broker" in adoption.lacking(under(control_settings={"y": 1}))
    assert "nodes started with disk" in adoption.lacking(under(equipment=("disk",)))
    homed = replace(LOAD, destinations=(Destination(name="q", kind="queue", settings={"node": "r2"}),))
    assert "a hand on the nodes" in adoption.lacking(replace(under(), control=homed))
    counted = replace(LOAD, senders=(Sender(count=5),), receivers=())
    assert "speeds are not compared" in adoption.lacking(
        ComparisonExperiment(topology="single", treatment=counted, control=counted)
    )
    assert "generated cases" in adoption.lacking(PropertyExperiment(topology="single", check=lambda *_: None))  # type: ignore[arg-type,return-value]  # never called
    assert adoption.lacks(("confirm",)) == ""
    assert "no peers" in adoption.lacks(("peers",))


def test_no_more_copies_are_asked_for_than_there_are_brokers() -> None:
    topic = Destination(name="t", kind="log", settings={"replication.factor": "3", "min.insync.replicas": "2"})
    experiment = under("black_hole")
    experiment = replace(experiment, treatment=replace(LOAD, destinations=(topic,)), control=LOAD)
    one, two = (
        replace(TARGET, nodes={f"r{n}": replace(NODE, name=f"r{n}", container="c") for n in range(count)})
        for count in (1, 2)
    )
    fitted = Adoption(one, "").within(experiment)
    assert fitted.treatment.destinations[0].settings == {"replication.factor": "1", "min.insync.replicas": "1"}
    assert fitted.control == experiment.control
    assert Adoption(two, "").within(experiment).treatment.destinations[0].settings["replication.factor"] == "2"
    killed = replace(experiment, schedule=(Injection(fault="kill", target="leader"),))
    assert "from 3 copies, and the target file names 2" in Adoption(two, "", destructive=True).lacking(killed)
    assert Adoption(two, "").within(killed) == killed
    assert Adoption(one, "").lacking(experiment) == ""


def test_load_is_capped_over_all_arms_and_names_are_under_the_prefix() -> None:
    counted = replace(LOAD, senders=(Sender(count=600),), load_s=1.0)
    plans = [
        Plan(product="rabbitmq", version="4.0.5", topology="cluster", workload=w, trial=str(n))
        for n, w in enumerate((LOAD, counted, replace(LOAD, senders=(Sender(rate_per_s=20),))))
    ]
    fitted = Adoption(TARGET, "").fitted(plans)
    assert [p.workload.senders[0].rate_per_s for p in fitted] == [100, 100, 20]
    assert sum(s.rate_per_s or 1e9 for p in fitted for s in p.workload.senders) <= TARGET.messages_per_s
    assert [p.workload.load_s for p in fitted] == [LOAD.load_s, 7.6, LOAD.load_s]  # 6 s, a tenth more, and one
    assert all(p.destination_name(0).startswith("proof-") for p in fitted)
    assert Plan.from_json(fitted[0].to_json()) == fitted[0]


def test_a_dry_run_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it connected"))
    lines = dry_run(Adoption(TARGET, ""), select=["producer"], profile="quick", variant=[], seed=7)
    text = "\n".join(lines)
    assert "r1 10.1.2.3:5672" in text and "proof-<16 hex digits>" in text and "at most 300 messages/s" in text
    assert "black_hole on all" in text and "left out" in text


def test_check_of_a_broker_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = replace(TARGET, nodes={"r1": replace(NODE, address=("127.0.0.1", 1))})
    notes = look(nobody)
    missing = [n for n in notes if n.status == "missing"]
    assert [n.name for n in missing] == ["node r1"]
    assert "no TCP connection" in missing[0].seen and "5671" in missing[0].next_step
