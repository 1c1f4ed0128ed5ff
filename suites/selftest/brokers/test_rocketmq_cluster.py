"""RocketMQ for real: a master with its slave, clients recorded on a tape, nodes and links broken and healed."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brokerproof.brokers.base import Pace, ReadJob, ReceiveJob, SendJob, both_ways
from brokerproof.brokers.rocketmq import client, remoting
from brokerproof.brokers.rocketmq.cluster import BROKER, RocketmqCluster
from brokerproof.errors import ProvisionError
from brokerproof.history import FAIL, OK, F
from brokerproof.message import Bodies, mark
from brokerproof.plan import Destination, Receiver, Sender
from brokerproof.runtime import sweep
from brokerproof.runtime.node import LABEL_CLUSTER
from brokerproof.runtime.node import client as engine
from brokerproof.tape import Segment, Tape, errors_of
from brokerproof.waiting import wait_until
from brokerproof.where import Where

pytestmark = pytest.mark.container

SEED, TRIAL = 5, 77


@contextmanager
def running(topology: str, settings: dict[str, Any]) -> Iterator[RocketmqCluster]:
    name = f"bpr-{uuid.uuid4().hex[:6]}"
    cluster = BROKER.start(
        version=BROKER.versions[0], topology=topology, settings=settings, name=name, run=name, progress=print
    )
    try:
        yield cluster
    finally:
        cluster.close()
        sweep.unregister(name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RocketmqCluster]:
    with running("master-slave", {}) as started:
        yield started


@dataclass
class Stage:
    """One topic and the clients that are played on it, one tape each."""

    cluster: RocketmqCluster
    folder: Path
    destination: Destination
    name: str
    slots: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sender(
        self, *, load_s: float = 60.0, stopping: Callable[[], bool] = lambda: False, **given: Any
    ) -> Callable[[], None]:
        sender = Sender(**given)
        tape = self._tape()
        pace = Pace(
            rate_per_s=sender.rate_per_s, count=sender.count, load_ns=int(load_s * 1e9), keys=sender.keys,
            first_due_ns=tape.now(),
        )  # fmt: skip
        bodies = Bodies(trial=TRIAL, sender=tape.slot, seed=SEED, size=sender.size_bytes)
        job = SendJob(**self._common(tape, stopping, sender.link), sender=sender, pace=pace, bodies=bodies)
        return lambda: client.send(job)

    def send(self, n: int, **given: Any) -> None:
        self.sender(count=n, **given)()

    @contextmanager
    def sending(self, **given: Any) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self.sender(stopping=stop.is_set, **given))
        thread.start()
        try:
            wait_until(lambda: len(self.rows("send", OK)["msg"]) > 50, 20, "load")
            yield
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()

    def receive(self, until: Callable[[Stage], bool], work: Any = None, **given: Any) -> None:
        """Consumes until the condition holds (within 60 s)."""
        stop = threading.Event()
        tape = self._tape()
        receiver = Receiver(**given)
        job = ReceiveJob(**self._common(tape, stop.is_set, receiver.link), receiver=receiver, work=work)
        thread = threading.Thread(target=client.receive, args=(job,))
        thread.start()
        try:
            wait_until(lambda: until(self), 60, "the receiver", interval_s=0.05)
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()

    def read(self, deadline_s: float = 30.0) -> Counter[int]:
        """The final read; how often it found each message."""
        tape = self._tape()
        client.read(ReadJob(**self._common(tape, lambda: False, "admin"), deadline_s=deadline_s))
        return Counter(self.rows("receive", slot=tape.slot)["msg"].tolist())

    def rows(self, f: str, outcome: int | None = None, slot: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
        parts: list[dict[str, np.ndarray[Any, Any]]] = []
        for path in sorted(self.folder.glob(f"{'*' if slot is None else slot}g*.seg")):
            segment = Segment.open(path)
            head = segment.head  # once: a client may be writing
            columns = {name: column[:head] for name, column in segment.columns.items()}
            chosen = columns["f"] == F[f]
            if outcome is not None:
                chosen &= columns["outcome"] == outcome
            parts.append({name: column[chosen].copy() for name, column in columns.items()})
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def errors(self, slot: int, f: str = "send") -> Counter[str]:
        texts = errors_of(self.folder, f"{slot}g0")
        return Counter(texts[code] for code in self.rows(f, slot=slot)["error"].tolist())

    def said(self) -> list[str]:
        """What the final reader said of its lane."""
        return [text for slot in range(self.slots) for text in self.errors(slot, "control")]

    def _tape(self) -> Tape:
        with self.lock:
            slot = self.slots
            self.slots += 1
        return Tape(self.folder, slot=slot, slots=64, zero_ns=time.monotonic_ns())

    def _common(self, tape: Tape, stopping: Callable[[], bool], link: str) -> dict[str, Any]:
        return {
            "endpoint": self.cluster.endpoint(link, self.name), "destination": self.name, "kind": "queue", "lane": 0,
            "partitions": 1, "tape": tape, "seed": SEED, "trial_number": TRIAL, "stopping": stopping,
            "report": lambda **facts: self.reports.append(facts), "destination_settings": self.destination.settings,
        }  # fmt: skip


def staged(cluster: RocketmqCluster, folder: Path, **settings: Any) -> Stage:
    destination = Destination(name="t", kind="queue", settings=settings)
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.create(destination, name)
    return Stage(cluster, folder, destination, name)


@pytest.fixture
def stage(cluster: RocketmqCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = staged(cluster, tmp_path, **getattr(request, "param", {"message.type": "NORMAL", "queues": 4}))
    yield made
    cluster.delete(made.destination, made.name)


@pytest.mark.parametrize("send", ["async", "sync", "oneway"])
def test_what_was_sent_is_read_once(stage: Stage, send: str) -> None:
    stage.send(300, keys=7, settings={"send": send})
    sent = stage.rows("send")
    assert stage.errors(0) == {"": 300} and np.array_equal(np.sort(sent["msg"]), np.arange(300))
    assert (sent["value"] >= 0).all() if send != "oneway" else (sent["value"] == -1).all(), "the queue offset, if told"
    assert stage.read() == Counter(range(300))
    assert stage.said() == ["drained"]


@pytest.mark.parametrize(
    "settings", [{"ack": "after"}, {"ack": "first"}, {"ack": "auto"}, {"ack": "after", "consumer": "push"}]
)
def test_what_is_received_is_settled_and_worked_on(stage: Stage, settings: dict[str, Any]) -> None:
    stage.send(200, keys=5)
    effects: list[int] = []
    stage.receive(
        lambda s: len(s.rows("settle", OK)["msg"]) >= 200 and len(effects) >= 200, settings=settings,
        work=lambda msg, key, lane: effects.append(msg),
    )  # fmt: skip
    received, settled = stage.rows("receive"), stage.rows("settle")
    assert np.array_equal(np.sort(received["msg"]), np.arange(200)) and (received["key"] == received["msg"] % 5).all()
    assert (received["attempt"] == 0).all() and (received["pos"] == -1).all()
    assert np.array_equal(np.sort(settled["msg"]), np.arange(200))
    assert sorted(effects) == list(range(200))


@pytest.mark.parametrize("stage", [{"message.type": "FIFO", "queues": 4}], indirect=True)
def test_a_fifo_topic_keeps_the_order_of_each_key(stage: Stage) -> None:
    stage.send(400, keys=10)
    effects: list[tuple[int, int]] = []
    stage.receive(
        lambda s: len(effects) >= 400, work=lambda msg, key, lane: effects.append((key, msg)), settings={"ack": "after"}
    )
    assert all([m for k, m in effects if k == key] == list(range(key, 400, 10)) for key in range(10))


@pytest.mark.parametrize("stage", [{"message.type": "DELAY", "queues": 1}], indirect=True)
def test_a_delayed_message_comes_when_it_is_due(stage: Stage) -> None:
    stage.send(5, settings={"delay_s": 3})
    sent = stage.rows("send", OK)
    assert (sent["value"] - sent["start_ns"] >= 3e9).all(), "when it is due"
    started = time.monotonic()
    stage.receive(lambda s: len(s.rows("receive")["msg"]) >= 5, settings={"ack": "after"})
    assert time.monotonic() - started > 1, "not at once"


@pytest.mark.parametrize("stage", [{"message.type": "FIFO", "queues": 1}], indirect=True)
def test_a_message_of_the_wrong_type_fails_before_it_is_sent(stage: Stage) -> None:
    other = Stage(stage.cluster, stage.folder, Destination(name="t", kind="queue"), stage.name)
    other.send(3)
    assert other.rows("send")["outcome"].tolist() == [FAIL] * 3
    assert other.errors(0) == {"Rejected": 3}


def test_a_topic_that_is_gone_is_a_lost_definition(stage: Stage) -> None:
    stage.send(10)
    stage.cluster.delete(stage.destination, stage.name)
    stage.read()
    assert stage.said() == ["definition_lost"]


def test_the_slave_can_be_read_as_well(stage: Stage) -> None:
    stage.send(100)
    stage.cluster.read_from = "slave"
    try:
        assert stage.cluster.endpoint("admin")["read_from"] == ["s1"]
        assert stage.read() == Counter(range(100))
    finally:
        stage.cluster.read_from = ""
    assert stage.cluster.settings()["s1"]["slaveReadEnable"] == "false", "as it was before"


def test_observed_are_roles_replication_and_offsets(stage: Stage) -> None:
    stage.send(20)
    assert stage.cluster.leader(stage.name) == "m1"
    assert stage.cluster.replicas(stage.name) == ["m1", "s1"]
    seen = stage.cluster.observe([stage.name])
    assert seen["registered"] == {"m1": 0, "s1": 1} and len(seen["replication"]) == 1
    assert sum(high for _, high in seen["offsets"][stage.name]["m1"]) == 21, "the harness's probe was the first"


def test_a_link_that_is_down_fails_what_was_never_sent_and_comes_back(stage: Stage) -> None:
    links = list(stage.cluster.links("producer"))
    assert {link.node for link in links} == {"p1"} and len(links) == 2, "gRPC, and oneway's beside it"
    assert all(link.greet(2.0).answered for link in links)
    with stage.sending(rate_per_s=200.0):
        for link in links:
            link.disable()
        # The engine's own port proxy may accept before it finds nobody listening; no answer comes.
        assert not links[0].greet(1.0).answered
        assert stage.cluster.links("sham")[0].greet(2.0).answered
        # Three seconds of them at least: the producer is replaced after two without a good answer.
        wait_until(lambda: len(stage.rows("send", FAIL)["msg"]) > 600, 30, "sends to fail")
        before = len(stage.rows("send", OK)["msg"])
        for link in links:
            link.enable()
        wait_until(lambda: len(stage.rows("send", OK)["msg"]) > before + 50, 20, "load after the link came back")
    found = stage.read()
    assert not set(found) & set(stage.rows("send", FAIL)["msg"].tolist()), "what failed is not there"
    assert set(stage.rows("send", OK)["msg"].tolist()) <= set(found)
    assert len(set(stage.rows("send")["process"].tolist())) > 1, "another producer, another process number"


def test_lost_answers_make_the_library_send_twice(stage: Stage) -> None:
    links = list(stage.cluster.links("producer"))
    with stage.sending(rate_per_s=50.0, timeout_s=12.0):
        for link in links:
            link.add_toxic("timeout", "downstream", timeout=0)
        time.sleep(2.0)  # how long answers are lost
        for link in links:
            link.clear_toxics()
    found = stage.read()
    assert max(found.values()) > 1, "retried by the library under the cut, stored both times"
    assert set(stage.rows("send", OK)["msg"].tolist()) <= set(found)


def test_a_consumer_outlives_its_link(stage: Stage) -> None:
    links = list(stage.cluster.links("consumer"))
    stop = threading.Event()
    receiving = threading.Thread(
        target=stage.receive, args=(lambda s: stop.is_set(),), kwargs={"settings": {"ack": "after"}}
    )
    receiving.start()
    stage.send(50)
    wait_until(lambda: len(set(stage.rows("receive")["msg"].tolist())) >= 50, 30, "first messages")
    for link in links:
        link.disable()
    time.sleep(3.0)  # long enough for the client to be replaced
    for link in links:
        link.enable()
    stage.send(100)
    wait_until(lambda: len(set(stage.rows("receive")["msg"].tolist())) >= 100, 30, "messages after the link came back")
    stop.set()
    receiving.join(30)


def test_a_killed_master_takes_no_writes_and_comes_back_with_its_data(stage: Stage) -> None:
    cluster = stage.cluster
    with stage.sending(rate_per_s=100.0):
        cluster.nodes["m1"].kill()
        assert cluster.nodes["m1"].state() == "exited"
        wait_until(lambda: len(stage.rows("send")["msg"]) > len(stage.rows("send", OK)["msg"]) + 100, 20, "refusals")
        assert cluster.endpoint("admin")["read_from"] == ["s1"], "the slave is what can be read now"
        cluster.nodes["m1"].start()
        cluster.wait_healthy(60)
        before = len(stage.rows("send", OK)["msg"])
        wait_until(lambda: len(stage.rows("send", OK)["msg"]) > before + 50, 30, "load on the master again")
    assert set(stage.rows("send", OK)["msg"].tolist()) <= set(stage.read())


def test_peers_are_cut_and_the_gateway_is_spared(stage: Stage) -> None:
    cluster = stage.cluster
    assert cluster.peers is not None and set(cluster.nodes) == {"m1", "s1", "ns"}
    cluster.peers.cut(both_ways(["m1"], ["s1"]))
    try:
        reach = cluster.peers.reach()
        assert not reach["m1", "s1"] and not reach["s1", "m1"] and reach["m1", "ns"] and reach["ns", "s1"]
        stage.send(20)
        assert len(stage.rows("send", OK)["msg"]) == 20, "an asynchronous master does not wait for its slave"
    finally:
        cluster.peers.heal()
    assert all(cluster.peers.reach().values())
    cluster.wait_healthy(60)


def test_master_and_slave_say_where_their_own_logs_have_a_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TRIAL", 1001)  # the logs hold what all tests have sent
    cluster = stage.cluster
    stage.send(40)
    here, gone = mark(1001, 30), mark(1001, 40)

    def look() -> Mapping[str, Mapping[bytes, Where]]:
        marks = dict.fromkeys((here, gone), (stage.name, -1))
        return cluster.locate({stage.name: stage.destination}, marks, time.monotonic() + 30)

    wait_until(lambda: all(places[here].found for places in look().values()), 10, "the slave to have the message")
    found = look()
    assert set(found) == {"m1", "s1"}
    offsets = set()
    for places in found.values():
        (place,) = places[here].found
        assert (place["topic"], places[here].says, places[gone]) == (stage.name, "", Where(says="not there"))
        assert "beyond the end of its log" not in place
        offsets.add((place["queue"], place["queue offset"], place["commit-log offset"]))
    assert len(offsets) == 1, "a slave's log is its master's, octet for octet"


def test_another_process_can_attach(stage: Stage) -> None:
    cluster = stage.cluster
    other = BROKER.attach(
        version=cluster.version, topology=cluster.topology, settings={}, name=cluster._ground.name, run="other"
    )
    assert other.endpoint("producer") == cluster.endpoint("producer")
    assert [link.greet(2.0).answered for link in other.links("admin")] == [True] * 4
    other.sync()
    other.wait_healthy(20)


def test_settings_are_the_vendors_words_as_the_broker_has_them(cluster: RocketmqCluster) -> None:
    settings = cluster.settings()
    assert settings["m1"]["brokerRole"] == "ASYNC_MASTER" and settings["s1"]["brokerRole"] == "SLAVE"
    assert settings["m1"]["flushDiskType"] == "ASYNC_FLUSH" and settings["m1"]["brokerVersionDesc"] == "V5_5_0"
    assert settings["proxy"]["useEndpointPortFromRequest"] is True


def test_logs_are_saved(cluster: RocketmqCluster, tmp_path: Path) -> None:
    cluster.save_logs(tmp_path)
    for node, words in (
        ("m1", "boot success"),
        ("s1", "boot success"),
        ("ns", "boot success"),
        ("p1", "startup successfully"),
    ):
        assert words in (tmp_path / f"{node}.log").read_text()


def test_synchronous_replication_loses_nothing_with_its_master_and_asynchronous_does(tmp_path: Path) -> None:
    """The pair of arms that the replication claims stand on; each takes a cluster's master, so it has one of its own."""
    safe = {"brokerRole": "SYNC_MASTER", "totalReplicas": 2, "inSyncReplicas": 2}
    with running("master-slave", safe) as synchronous:
        lost, outcomes = _lost_with_the_master(synchronous, tmp_path / "sync")
        assert lost == 0 and outcomes["SLAVE_PERSISTENCE_TIMEOUT"] + outcomes["PROXY_TIMEOUT"] > 0
    with running("master-slave", {}) as asynchronous:
        lost, _ = _lost_with_the_master(asynchronous, tmp_path / "async")
    assert lost > 0


def _lost_with_the_master(cluster: RocketmqCluster, folder: Path) -> tuple[int, Counter[str]]:
    """Acknowledged messages that the slave has not, after its master died cut off from it."""
    folder.mkdir()
    stage = staged(cluster, folder, **{"message.type": "NORMAL", "queues": 4})
    assert cluster.peers is not None
    with stage.sending(rate_per_s=100.0, timeout_s=8.0, settings={"attempts": 1, "request_timeout": 6}):
        cluster.peers.cut(both_ways(["m1"], ["s1"]))
        time.sleep(4.0)  # longer than slaveTimeout, so that its answer is seen
        cluster.nodes["m1"].kill()
    found = stage.read()
    assert stage.said() == ["drained"]
    acknowledged = set(stage.rows("send", OK)["msg"].tolist())
    assert len(acknowledged) > 50
    return len(acknowledged - set(found)), stage.errors(0)


def test_with_a_controller_a_slave_takes_over_and_the_old_master_becomes_one(tmp_path: Path) -> None:
    with running("controller", {}) as controlled:
        stage = staged(controlled, tmp_path, **{"message.type": "NORMAL", "queues": 4})
        first = controlled.leader(stage.name)
        (other,) = set(controlled.brokers) - {first}
        with stage.sending(rate_per_s=30.0, resend=True, timeout_s=20.0):
            controlled.nodes[first].kill()
            wait_until(lambda: controlled.leader(stage.name) == other, 30, "another master")
            before = len(stage.rows("send", OK)["msg"])
            # The proxy goes on with the old route for 20 s.
            wait_until(lambda: len(stage.rows("send", OK)["msg"]) > before + 200, 60, "load on the new master")
            assert controlled.endpoint("admin")["read_from"] == [other]
        assert set(stage.rows("send")["msg"].tolist()) == set(stage.rows("send", OK)["msg"].tolist()), "sent again"
        stage.send(50, settings={"send": "oneway"})
        found = stage.read()
        assert len(found) > 200 and stage.said() == ["drained"]
        controlled.nodes[first].start()
        controlled.wait_healthy(90)
        assert controlled.observe([])["registered"][other] == 0 and controlled.leader(stage.name) == other


def test_sends_go_to_two_masters_and_both_are_read(tmp_path: Path) -> None:
    with running("two-masters", {}) as pair:
        stage = staged(pair, tmp_path, **{"message.type": "NORMAL", "queues": 4})
        stage.send(200)
        # On a busy machine the library sends some of them twice by itself.
        assert set(stage.read()) == set(range(200)) and stage.said() == ["drained"]
        halves = [
            sum(high for _, high in queues) for queues in pair.observe([stage.name])["offsets"][stage.name].values()
        ]
        assert len(halves) == 2 and min(halves) > 50


@pytest.mark.parametrize("stage", [{"message.type": "TRANSACTION", "queues": 4}], indirect=True)
def test_a_transaction_for_each_message(stage: Stage) -> None:
    stage.send(100, settings={"send": "transaction"})
    assert stage.errors(0) == {"": 100}
    assert stage.read() == Counter(range(100))


def test_closing_leaves_nothing_behind() -> None:
    with running("single", {}) as single:
        name = single._ground.name
        single.close()
        single.close()
        label = {"label": f"{LABEL_CLUSTER}={name}"}
        assert engine().containers.list(all=True, filters=label) == []
        assert engine().networks.list(filters=label) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listenPort": 70000}, r"exited with code"),
        ({"flushDiskType": "SOMETIMES"}, r"'flushDiskType' was given as 'SOMETIMES' and is 'ASYNC_FLUSH'"),
    ],
)
def test_a_setting_that_is_not_taken_is_named_and_nothing_is_left(settings: dict[str, Any], said: str) -> None:
    name = f"bpr-{uuid.uuid4().hex[:6]}"
    with pytest.raises(ProvisionError, match=said):
        BROKER.start(
            version=BROKER.versions[0], topology="single", settings=settings, name=name, run=name,
            progress=lambda _: None,
        ).close()  # fmt: skip
    sweep.unregister(name)
    assert engine().containers.list(all=True, filters={"label": f"{LABEL_CLUSTER}={name}"}) == []


def test_a_probe_topic_that_is_gone_is_made_again(cluster: RocketmqCluster) -> None:
    probe = "brokerproof-probe"
    for node in cluster.brokers:
        with cluster.talk(node) as to:
            to.call(remoting.DELETE_TOPIC_IN_BROKER, {"topic": probe})
    cluster.wait_healthy(90)
    with cluster.talk(cluster.master) as to:
        assert remoting.queues_of(to, probe) == 1
