"""Kafka for real: a cluster of three, its clients recorded on a tape, its nodes and links broken and healed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import ElectionType, TopicPartition

from brokerproof.brokers.base import Pace, ReadJob, ReceiveJob, SendJob, both_ways
from brokerproof.brokers.kafka import ask, client
from brokerproof.brokers.kafka.cluster import BROKER, KafkaCluster
from brokerproof.history import FAIL, OK, F
from brokerproof.message import Bodies, mark
from brokerproof.plan import Destination, Receiver, Sender
from brokerproof.runtime import sweep
from brokerproof.runtime.node import LABEL_CLUSTER
from brokerproof.runtime.node import client as engine
from brokerproof.tape import OPEN, Segment, Tape, errors_of
from brokerproof.waiting import wait_until
from brokerproof.where import Where

pytestmark = pytest.mark.container

SEED, TRIAL = 5, 77


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    name = f"bpk-{uuid.uuid4().hex[:6]}"
    started = BROKER.start(
        version=BROKER.versions[0], topology="cluster", settings={}, name=name, run=name, progress=print
    )
    try:
        yield started
    finally:
        started.close()
        sweep.unregister(name)


@dataclass
class Stage:
    """One topic and the clients that are played on it, one tape each."""

    cluster: KafkaCluster
    folder: Path
    destination: Destination
    name: str
    slots: int = 0
    tapes: list[Tape] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, n: int, **sender: Any) -> None:
        self.sender(count=n, **sender)()

    def sender(
        self, *, load_s: float = 60.0, stopping: Callable[[], bool] = lambda: False, **given: Any
    ) -> Callable[[], None]:
        sender = Sender(**given)
        tape = self._tape()
        pace = Pace(
            rate_per_s=sender.rate_per_s, count=sender.count, load_ns=int(load_s * 1e9), keys=sender.keys,
            gate=tape.now,  # the load starts when the client is connected
        )  # fmt: skip
        bodies = Bodies(trial=TRIAL, sender=tape.slot, seed=SEED, size=sender.size_bytes)
        job = SendJob(**self._common(tape, stopping, sender.link), sender=sender, pace=pace, bodies=bodies)
        return lambda: client.send(job)

    def receive(self, until: Callable[[Stage], bool], work: Any = None, **given: Any) -> None:
        """Consumes until the condition holds (within 30 s)."""
        stop = threading.Event()
        tape = self._tape()
        receiver = Receiver(**given)
        job = ReceiveJob(**self._common(tape, stop.is_set, receiver.link), receiver=receiver, work=work)
        thread = threading.Thread(target=client.receive, args=(job,))
        thread.start()
        try:
            wait_until(lambda: until(self), 30, "the receiver", interval_s=0.05)
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()

    def read(self, deadline_s: float = 30.0) -> None:
        tape = self._tape()
        client.read(ReadJob(**self._common(tape, lambda: False, "admin"), deadline_s=deadline_s))

    def rows(self, f: str, outcome: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
        parts: list[dict[str, np.ndarray[Any, Any]]] = []
        for path in sorted(self.folder.glob("*.seg")):
            segment = Segment.open(path)
            head = segment.head  # once: a client may be writing
            columns = {name: column[:head] for name, column in segment.columns.items()}
            chosen = columns["f"] == F[f]
            if outcome is not None:
                chosen &= columns["outcome"] == outcome
            parts.append({name: column[chosen].copy() for name, column in columns.items()})
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def said(self, what: str) -> list[int]:
        """Lanes of the control rows that say it."""
        lanes = []
        for tape in self.tapes:
            texts = errors_of(self.folder, f"{tape.slot}g0")
            for segment in tape._segments:
                columns = {name: column[: segment.head] for name, column in segment.columns.items()}
                for i in np.flatnonzero(columns["f"] == F["control"]):
                    if texts[columns["error"][i]] == what:
                        lanes.append(int(columns["lane"][i]))
        return sorted(lanes)

    def _tape(self) -> Tape:
        with self.lock:
            tape = Tape(self.folder, slot=self.slots, slots=64, zero_ns=time.monotonic_ns())
            self.slots += 1
            self.tapes.append(tape)
            return tape

    def _common(self, tape: Tape, stopping: Callable[[], bool], link: str) -> dict[str, Any]:
        return {
            "endpoint": self.cluster.endpoint(link, self.name), "destination": self.name, "kind": "log", "lane": 0,
            "partitions": self.destination.partitions, "tape": tape, "seed": SEED, "trial_number": TRIAL,
            "stopping": stopping, "report": lambda **facts: self.reports.append(facts),
            "destination_settings": self.destination.settings,
        }  # fmt: skip


@pytest.fixture
def stage(cluster: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    settings = {"min.insync.replicas": "2", **getattr(request, "param", {})}
    partitions = int(settings.pop("partitions", 1))
    destination = Destination(name="t", kind="log", partitions=partitions, settings=settings)
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.create(destination, name)
    yield Stage(cluster, tmp_path, destination, name)
    cluster.delete(destination, name)


def test_what_was_sent_is_received_settled_and_read(stage: Stage) -> None:
    stage.send(2500, keys=7)
    sent = stage.rows("send")
    assert (sent["outcome"] == OK).all() and len(sent["msg"]) == 2500
    assert np.array_equal(np.sort(sent["pos"]), np.arange(2, 2502)), "after two of the harness's probes"
    effects: list[int] = []
    stage.receive(
        lambda s: len(s.rows("settle", OK)["msg"]) >= 2500, work=lambda msg, key, lane: effects.append(msg),
        settings={"ack": "after"}, prefetch=500,
    )  # fmt: skip
    received = stage.rows("receive")
    assert np.array_equal(received["msg"], np.arange(2500)) and np.array_equal(received["key"], np.arange(2500) % 7)
    assert effects == list(range(2500))
    assert stage.rows("commit", OK)["value"].max() == 2502
    assert stage.rows("assign")["lane"].tolist() == [0] == stage.rows("revoke")["lane"].tolist()
    stage.read()
    assert len(stage.rows("receive")["msg"]) == 5000
    assert stage.said("drained") == [0]


@pytest.mark.parametrize("stage", [{"partitions": 3}], indirect=True)
def test_keys_are_placed_by_the_client_and_the_lane_is_learnt(stage: Stage) -> None:
    stage.send(300, keys=30)
    sent = stage.rows("send", OK)
    assert len(sent["msg"]) == 300 and set(sent["lane"]) == {0, 1, 2}
    assert all(len(set(sent["lane"][sent["key"] == key])) == 1 for key in range(30))
    stage.read()
    received = stage.rows("receive")
    where = dict(zip(sent["msg"].tolist(), zip(sent["lane"].tolist(), sent["pos"].tolist(), strict=True), strict=True))
    assert {
        m: (lane, p)
        for m, lane, p in zip(
            received["msg"].tolist(), received["lane"].tolist(), received["pos"].tolist(), strict=True
        )
    } == where
    assert stage.said("drained") == [0, 1, 2]


@pytest.mark.parametrize("stage", [{"partitions": 2}], indirect=True)
def test_round_robin_is_explicit(stage: Stage) -> None:
    stage.send(1001, spread="round_robin")
    sent = stage.rows("send", OK)
    assert np.array_equal(sent["lane"], sent["msg"] % 2)


@pytest.mark.parametrize(("acks", "told"), [("0", False), ("1", True)])
def test_fewer_acks(stage: Stage, acks: str, told: bool) -> None:
    stage.send(500, settings={"acks": acks})
    sent = stage.rows("send", OK)
    assert len(sent["msg"]) == 500, "with acks=0 `ok` is what the sender believes"
    assert (sent["pos"] >= 0).all() if told else (sent["pos"] == -1).all()
    stage.read()
    assert len(np.unique(stage.rows("receive")["msg"])) == 500


def test_a_rate_is_a_schedule_and_an_answer_is_not_kept_for_the_next(stage: Stage) -> None:
    stage.send(600, rate_per_s=100.0, settings={"linger.ms": 0})
    sent = stage.rows("send", OK)
    assert len(sent["msg"]) == 600
    assert set(np.diff(np.sort(sent["due_ns"])).tolist()) == {10_000_000}, "one is due every 10 ms, whatever happens"
    assert (sent["start_ns"] >= sent["due_ns"]).all()
    # Answers are written down as they come, each at its time: not in one go when the sender gets round to it.
    assert len(np.unique(sent["end_ns"])) > 20


@pytest.mark.parametrize("ack", ["first", "auto"])
def test_other_ways_to_acknowledge(stage: Stage, ack: str) -> None:
    stage.send(300)
    order: list[str] = []
    stage.receive(
        lambda s: len(s.rows("settle", OK)["msg"]) >= 300 and len(order) >= 300,
        work=lambda msg, key, lane: order.append("work"), settings={"ack": ack, "commit": "message"}, prefetch=50,
    )  # fmt: skip
    assert len(order) == 300
    assert np.array_equal(np.sort(stage.rows("settle", OK)["msg"]), np.arange(300))


def test_several_consumers_of_a_share_group_serve_one_partition(stage: Stage) -> None:
    counts = [0, 0]

    def worker(i: int) -> Callable[[int, int, int], None]:
        def work(msg: int, key: int, lane: int) -> None:
            counts[i] += 1
            time.sleep(0.002)

        return work

    def both(s: Stage) -> bool:
        return len(s.rows("settle", OK)["msg"]) >= 600

    settings = {"group.protocol": "share", "ack": "after", "commit": "poll"}
    threads = [
        threading.Thread(target=stage.receive, args=(both, worker(i)), kwargs={"settings": settings, "prefetch": 20})
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    # The broker hands out whole batches as the producer made them: one large one would go to one consumer.
    stage.send(600, rate_per_s=300.0, settings={"linger.ms": 0})
    for thread in threads:
        thread.join(60)
    received = stage.rows("receive")
    assert np.array_equal(np.sort(received["msg"]), np.arange(600)), "each once, since nobody died"
    assert min(counts) > 100, counts
    assert (received["attempt"] == 0).all()


def test_transactions_decide_what_is_read(stage: Stage) -> None:
    stage.send(100, settings={"transactional.id": stage.name, "transaction.messages": 10, "transaction.abort.every": 2})
    assert len(stage.rows("txn_begin", OK)["batch"]) == 10
    committed, aborted = stage.rows("txn_commit", OK)["batch"], stage.rows("txn_abort", OK)["batch"]
    assert committed.tolist() == [1, 3, 5, 7, 9] and aborted.tolist() == [2, 4, 6, 8, 10]
    sent = stage.rows("send")
    stage.read()
    assert sorted(stage.rows("receive")["msg"].tolist()) == sorted(
        sent["msg"][np.isin(sent["batch"], committed)].tolist()
    )
    assert stage.said("drained") == [0]


def test_a_topic_that_is_gone_is_a_lost_definition(stage: Stage) -> None:
    stage.send(10)
    stage.cluster.delete(stage.destination, stage.name)
    stage.read()
    assert stage.said("definition_lost") == [0] and stage.said("drained") == []


def test_a_message_that_is_too_large_fails_and_others_do_not(stage: Stage) -> None:
    stage.send(3, size_bytes=2_000_000)
    assert stage.rows("send")["outcome"].tolist() == [FAIL] * 3
    stage.send(3)
    assert len(stage.rows("send", OK)["msg"]) == 3


def test_the_leader_is_not_the_active_controller(stage: Stage) -> None:
    seen = stage.cluster.observe([stage.name])
    assert seen["controller"] in stage.cluster.nodes
    assert seen["partitions"][stage.name]["0"]["leader"] == stage.cluster.leader(stage.name) != seen["controller"]
    copies = stage.cluster.replicas(stage.name)
    assert copies[0] == stage.cluster.leader(stage.name) and copies[-1] == seen["controller"] and len(copies) == 3
    assert seen["partitions"][stage.name]["0"]["believes"] == [stage.cluster.leader(stage.name)]
    assert sorted(seen["partitions"][stage.name]["0"]["isr"]) == ["k1", "k2", "k3"]
    assert set(seen["coordinators"]["__consumer_offsets"]) == {"0", "1", "2"}


def test_leaders_are_led_away_from_the_active_controller(stage: Stage) -> None:
    cluster = stage.cluster
    active = cluster.controller()
    ids = {name: i for i, name in enumerate(cluster.nodes, start=1)}
    order = [ids[active], *(i for i in ids.values() if i != ids[active])]
    ask.reassign(cluster.links("admin")[0].address, 5, {stage.name: {0: order}})
    cluster._admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(stage.name, 0)]).result(timeout=10)
    wait_until(lambda: cluster.leader(stage.name) == active, 10, "the controller leading")
    cluster.wait_healthy(20)
    assert cluster.leader(stage.name) != cluster.controller()


def test_settings_say_what_differs_from_the_defaults(cluster: KafkaCluster) -> None:
    settings = cluster.settings()
    assert settings["broker"]["broker.session.timeout.ms"] == "4000"
    assert settings["eligible_leader_replicas"] is True and settings["features"]["metadata.version"] > 0


def test_a_broken_link_is_outlived_and_the_others_do_not_feel_it(stage: Stage) -> None:
    stop = threading.Event()
    run = stage.sender(rate_per_s=500.0, stopping=stop.is_set, in_flight_max=100_000)
    thread = threading.Thread(target=run)
    thread.start()
    links = list(stage.cluster.links("producer"))
    wait_until(lambda: len(stage.rows("send", OK)["msg"]) > 100, 10, "load")
    for link in links:
        link.disable()
    # The engine's own port proxy may accept before it finds nobody listening; no answer comes.
    assert not links[0].greet(1.0).answered
    assert stage.cluster.links("sham")[0].greet(2.0).answered
    time.sleep(1.0)  # how long the link stays broken
    before = len(stage.rows("send", OK)["msg"])
    for link in links:
        link.enable()
    wait_until(lambda: len(stage.rows("send", OK)["msg"]) > before + 200, 10, "load after the link came back")
    stop.set()
    thread.join(20)
    stage.read()
    sent = stage.rows("send", OK)["msg"]
    received = stage.rows("receive")["msg"]
    assert len(sent) == len(stage.rows("send")["msg"]), "idempotent and patient: all came through"
    assert np.array_equal(np.sort(received), np.sort(sent)), "nothing lost, nothing twice"


def test_what_has_no_answer_stays_open_and_is_not_sent_later(stage: Stage) -> None:
    links = list(stage.cluster.links("producer"))
    stop = threading.Event()
    thread = threading.Thread(
        target=stage.sender(rate_per_s=200.0, stopping=stop.is_set, in_flight_max=50, timeout_s=1.0)
    )
    thread.start()
    wait_until(lambda: len(stage.rows("send", OK)["msg"]) > 50, 10, "load")
    for link in links:
        link.disable()
    before = int(stage.rows("send")["msg"].max())
    wait_until(lambda: len(stage.rows("send", OPEN)["msg"]) >= 50, 10, "the cap reached")
    stop.set()
    begin = time.monotonic()
    thread.join(20)
    assert time.monotonic() - begin < 5, "a second for answers, then a clean end"
    for link in links:
        link.enable()
    assert len(stage.rows("send", OPEN)["msg"]) == 50
    assert any(report.get("capped") for report in stage.reports)
    time.sleep(1.0)  # in which a producer that lived on would have connected again
    stage.read()
    received = set(stage.rows("receive")["msg"].tolist())
    assert set(stage.rows("send", OK)["msg"].tolist()) <= received
    assert max(received) <= before, "what was taken back never arrived; at the cut, only answers were lost"


def test_a_killed_leader_is_replaced_and_comes_back(stage: Stage) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stage.sender(rate_per_s=500.0, stopping=stop.is_set, in_flight_max=100_000))
    thread.start()
    wait_until(lambda: len(stage.rows("send", OK)["msg"]) > 100, 10, "load")
    leader = stage.cluster.leader(stage.name)
    stage.cluster.nodes[leader].kill()
    wait_until(lambda: stage.cluster.leader(stage.name) != leader, 20, "another leader")
    before = len(stage.rows("send", OK)["msg"])
    wait_until(lambda: len(stage.rows("send", OK)["msg"]) > before + 200, 20, "load on the new leader")
    stage.cluster.nodes[leader].start()
    stage.cluster.wait_healthy(40)
    stop.set()
    thread.join(20)
    stage.read()
    assert set(stage.rows("send", OK)["msg"]) <= set(stage.rows("receive")["msg"])


def test_an_isolated_leader_goes_on_believing_and_the_others_elect(stage: Stage) -> None:
    cluster = stage.cluster
    assert cluster.peers is not None
    leader = cluster.leader(stage.name)
    others = [n for n in cluster.nodes if n != leader]
    cluster.peers.cut(both_ways([leader], others))
    try:
        reach = cluster.peers.reach()
        assert not reach[leader, others[0]] and not reach[others[1], leader] and reach[others[0], others[1]]
        wait_until(lambda: cluster.leader(stage.name) != leader, 20, "another leader")
        seen = cluster.observe([stage.name])["partitions"][stage.name]["0"]
        assert leader in seen["believes"] and seen["leader"] in others and seen["leader"] in seen["believes"]
    finally:
        cluster.peers.heal()
    cluster.wait_healthy(40)
    assert all(cluster.peers.reach().values())


def test_each_node_says_where_its_own_replica_has_a_message(stage: Stage) -> None:
    cluster = stage.cluster
    stage.send(50, settings={"linger.ms": 0}, in_flight_max=5)
    sent = dict(zip(*(stage.rows("send", OK)[c].tolist() for c in ("msg", "pos")), strict=True))
    marks = {mark(TRIAL, n): (stage.name, 0) for n in (0, 49, 10_000)}
    killed = next(n for n in cluster.nodes if n not in (cluster.leader(stage.name), cluster.controller()))

    def look() -> dict[str, dict[int, Where]]:
        found = cluster.locate({stage.name: stage.destination}, marks, time.monotonic() + 30)
        return {node: dict(zip((0, 49, 10_000), places.values(), strict=True)) for node, places in found.items()}

    def followed() -> bool:
        return all(len(where[49].found) == 1 for where in look().values())

    wait_until(followed, 10, "the followers to have the last message")
    cluster.nodes[killed].kill()
    try:
        for node, where in look().items():
            for n in (0, 49):
                (place,) = where[n].found
                assert (place["partition"], place["offset"], where[n].says) == (0, sent[n], ""), (node, n)
            assert where[10_000] == Where(says="not there")
    finally:
        cluster.nodes[killed].start()
        cluster.wait_healthy(60)


def test_another_process_can_attach(stage: Stage) -> None:
    cluster = stage.cluster
    other = BROKER.attach(
        version=cluster.version, topology=cluster.topology, settings={}, name=cluster._ground.name, run="other"
    )
    assert other.leader(stage.name) == cluster.leader(stage.name)
    assert other.endpoint("producer") == cluster.endpoint("producer")
    other.sync()
    other.wait_healthy(20)


def test_logs_are_saved(cluster: KafkaCluster, tmp_path: Path) -> None:
    cluster.save_logs(tmp_path)
    for node in cluster.nodes:
        assert "Kafka Server started" in (tmp_path / f"{node}.log").read_text()
    # From then on, only what is new.
    cluster.save_logs(tmp_path / "later")
    for node in (*cluster.nodes, "toxiproxy"):
        before = (tmp_path / f"{node}.log").read_text().splitlines()
        assert before and not set(before) & set((tmp_path / "later" / f"{node}.log").read_text().splitlines())


def test_closing_leaves_nothing_behind() -> None:
    name = f"bpk-{uuid.uuid4().hex[:6]}"
    single = BROKER.start(
        version=BROKER.versions[0], topology="single", settings={}, name=name, run=name, progress=lambda _: None
    )
    single.close()
    single.close()
    sweep.unregister(name)
    label = {"label": f"{LABEL_CLUSTER}={name}"}
    assert engine().containers.list(all=True, filters=label) == []
    assert engine().networks.list(filters=label) == []


def test_a_node_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    name = f"bpk-{uuid.uuid4().hex[:6]}"
    with pytest.raises(Exception, match=r"exited with code(.|\n)*num\.network\.threads"):
        BROKER.start(
            version=BROKER.versions[0], topology="single", settings={"num.network.threads": "0"}, name=name, run=name,
            progress=lambda _: None,
        )  # fmt: skip
    sweep.unregister(name)
    assert engine().containers.list(all=True, filters={"label": f"{LABEL_CLUSTER}={name}"}) == []
