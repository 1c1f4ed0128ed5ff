"""RabbitMQ for real: a cluster of three, its clients recorded on a tape, its nodes and links broken and healed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brokerproof.brokers.base import Pace, ReadJob, ReceiveJob, SendJob, both_ways
from brokerproof.brokers.rabbitmq import client
from brokerproof.brokers.rabbitmq.cluster import BROKER, RabbitCluster
from brokerproof.brokers.rabbitmq.routing import Router, route
from brokerproof.errors import EnvironmentProblem, PlanError, ProvisionError
from brokerproof.faults.base import Scene, apply, make
from brokerproof.history import FAIL, OK, F, read_history
from brokerproof.message import Bodies, mark
from brokerproof.plan import Destination, Plan, Receiver, Sender, Workload
from brokerproof.runtime import sweep
from brokerproof.runtime.node import LABEL_CLUSTER
from brokerproof.runtime.node import client as engine
from brokerproof.tape import Segment, Tape, errors_of
from brokerproof.waiting import wait_until
from brokerproof.where import Where
from brokerproof.workloads.crew import Crew, ThreadScribe
from brokerproof.workloads.stream import Block

pytestmark = pytest.mark.container

SEED, TRIAL, SLOTS = 5, 77, 64


@pytest.fixture(scope="module")
def cluster() -> Iterator[RabbitCluster]:
    name = f"bpr-{uuid.uuid4().hex[:6]}"
    started = BROKER.start(
        version=BROKER.versions[0], topology="cluster", settings={}, name=name, run=name, progress=print
    )
    try:
        yield started
    finally:
        started.close()
        sweep.unregister(name)


class Stage:
    """One destination and the clients that are played on it, one tape each."""

    def __init__(self, cluster: RabbitCluster, folder: Path, destination: Destination) -> None:
        self.cluster, self.folder, self.destination = cluster, folder, destination
        self.name = f"bp-{uuid.uuid4().hex[:16]}-{destination.name}"
        self.tapes: list[Tape] = []
        self.reports: list[dict[str, Any]] = []
        cluster.create(destination, self.name)

    def send(self, n: int, **sender: Any) -> None:
        self.sender(count=n, **sender)()

    def sender(
        self, *, load_s: float = 60.0, stopping: Callable[[], bool] = lambda: False, **given: Any
    ) -> Callable[[], None]:  # fmt: skip
        sender, tape = Sender(**given), self._tape()
        pace = Pace(
            rate_per_s=sender.rate_per_s, count=sender.count, load_ns=int(load_s * 1e9), keys=sender.keys,
            first_due_ns=tape.now(),
        )  # fmt: skip
        bodies = Bodies(trial=TRIAL, sender=tape.slot, seed=SEED, size=sender.size_bytes)
        job = SendJob(**self._common(tape, stopping, sender.link), sender=sender, pace=pace, bodies=bodies)
        return lambda: client.send(job)

    def receive(self, until: Callable[[], bool], work: Any = None, during: Callable[[], None] | None = None,
                **given: Any) -> None:  # fmt: skip
        """Consumes until the condition holds (within 40 s)."""
        stop, tape = threading.Event(), self._tape()
        receiver = Receiver(**given)
        job = ReceiveJob(**self._common(tape, stop.is_set, receiver.link), receiver=receiver, work=work)
        with running(lambda: client.receive(job)):
            try:
                if during is not None:
                    during()
                wait_until(until, 40, "the receiver", interval_s=0.05)
            finally:
                stop.set()

    def read(self, deadline_s: float = 30.0) -> None:
        job = ReadJob(**self._common(self._tape(), lambda: False, "admin"), deadline_s=deadline_s)
        client.read(job)

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

    def errors(self, f: str) -> set[str]:
        found = set()
        for tape in self.tapes:
            texts = errors_of(self.folder, f"{tape.slot}g0")
            for segment in tape._segments:
                chosen = segment.columns["f"][: segment.head] == F[f]
                found |= {texts[code] for code in segment.columns["error"][: segment.head][chosen]}
        return found - {""}

    def messages(self, f: str, outcome: int | None = OK) -> set[int]:
        return set(self.rows(f, outcome)["msg"].tolist())

    def close(self) -> None:
        for tape in self.tapes:
            tape.finish()
        self.cluster.delete(self.destination, self.name)

    def _tape(self) -> Tape:
        tape = Tape(self.folder, slot=len(self.tapes), slots=SLOTS, zero_ns=time.monotonic_ns())
        self.tapes.append(tape)
        return tape

    def _common(self, tape: Tape, stopping: Callable[[], bool], link: str) -> dict[str, Any]:
        return {
            "endpoint": self.cluster.endpoint(link, self.name), "destination": self.name, "kind": "queue", "lane": 0,
            "partitions": self.destination.partitions, "tape": tape, "seed": SEED, "trial_number": TRIAL,
            "stopping": stopping, "report": lambda **facts: self.reports.append(facts),
            "destination_settings": self.destination.settings,
        }  # fmt: skip


class running:
    """Runs a client beside the test; its error is the test's."""

    def __init__(self, part: Callable[[], None]) -> None:
        self._part = part
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._part()
        except BaseException as exc:
            self._error.append(exc)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive(), "the client did not end"
        if self._error:
            raise self._error[0]


@pytest.fixture
def stages(cluster: RabbitCluster, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(partitions: int = 1, **settings: Any) -> Stage:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        settings = {k.replace("_", "-") if k.startswith("x_") else k: v for k, v in settings.items()}
        made.append(
            Stage(cluster, folder, Destination(name="q", kind="queue", partitions=partitions, settings=settings))
        )
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def nothing_left(name: str) -> bool:
    label = f"{LABEL_CLUSTER}={name}"
    containers = engine().containers.list(all=True, filters={"label": label})
    return not containers and not engine().networks.list(filters={"label": label})


def everything(stage: Stage) -> Callable[[], bool]:
    return lambda: stage.messages("receive") >= stage.messages("send")


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_is_sent_is_received_settled_and_read_as_drained(stages: Callable[..., Stage], kind: str) -> None:
    stage = stages(x_queue_type=kind)
    stage.send(500, keys=3)
    sends = stage.rows("send", OK)
    assert sends["msg"].tolist() == list(range(500))
    assert sends["value"].tolist() == list(range(1, 501))  # confirm numbers
    assert (sends["end_ns"] > sends["start_ns"]).all()
    stage.receive(everything(stage))
    receives = stage.rows("receive", OK)
    assert sorted(receives["msg"].tolist()) == list(range(500))
    assert (receives["attempt"] == 0).all()
    assert (receives["key"] == receives["msg"] % 3).all()
    assert (stage.rows("settle")["outcome"] == OK).all()
    assert len(stage.rows("settle")["msg"]) == 500
    stage.read()
    assert stage.errors("control") == {"drained"}
    assert len(stage.rows("receive", OK)["msg"]) == 500


def test_the_final_read_finds_what_nobody_consumed(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.send(3000, in_flight_max=500)
    stage.read()
    assert stage.messages("receive") == set(range(3000))
    assert stage.errors("control") == {"drained"}


def test_a_queue_that_is_gone_is_said_to_be(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.cluster.delete(stage.destination, stage.name)
    stage.read()
    assert stage.errors("control") == {"definition_lost"}


def test_several_lanes_are_queues_of_their_own(stages: Callable[..., Stage]) -> None:
    stage = stages(partitions=3)
    stage.send(90, spread="round_robin")
    assert set(stage.rows("send", OK)["lane"].tolist()) == {0, 1, 2}
    stage.receive(everything(stage))
    receives = stage.rows("receive", OK)
    assert (receives["lane"] == receives["msg"] % 3).all()
    stage.read()
    assert sorted(stage.rows("control")["lane"].tolist()) == [0, 1, 2]


def test_an_unroutable_message_is_returned_and_failed(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.send(5, settings={"routing_key": "nowhere"})
    assert (stage.rows("send")["outcome"] == FAIL).all()
    assert stage.errors("send") == {"UNROUTABLE"}


def test_a_full_queue_that_rejects_fails_what_it_did_not_take(stages: Callable[..., Stage]) -> None:
    stage = stages(x_queue_type="classic", x_max_length=10, x_overflow="reject-publish")
    stage.send(30, in_flight_max=1)
    assert len(stage.messages("send", OK)) == 10
    assert stage.errors("send") == {"NACK_REJECT_PUBLISH"}
    stage.read()
    assert stage.messages("receive") == stage.messages("send", OK)


def test_transactions_share_their_outcome_and_what_is_rolled_back_is_not_there(stages: Callable[..., Stage]) -> None:
    stage = stages(x_queue_type="classic")
    stage.send(60, settings={"mode": "tx", "batch": 10, "rollback_every": 3})
    assert len(stage.rows("txn_commit", OK)["batch"]) == 4
    assert len(stage.rows("txn_abort", OK)["batch"]) == 2
    sends = stage.rows("send")
    by_batch = {int(b): set(sends["outcome"][sends["batch"] == b].tolist()) for b in np.unique(sends["batch"])}
    assert by_batch == {1: {OK}, 2: {OK}, 3: {FAIL}, 4: {OK}, 5: {OK}, 6: {FAIL}}
    stage.read()
    assert stage.messages("receive") == stage.messages("send", OK)


def test_a_publish_through_an_exchange_reaches_its_queue(stages: Callable[..., Stage]) -> None:
    stage = stages(exchange="topic", bindings=["a.#"])
    stage.send(5, settings={"routing_key": "a.b"})
    stage.send(5, settings={"routing_key": "b"})
    assert sorted(stage.rows("send")["outcome"].tolist()) == [OK] * 5 + [FAIL] * 5


# -- acknowledgements --------------------------------------------------------------------------------------------------


def test_work_comes_between_receive_and_settle_or_after_it(stages: Callable[..., Stage]) -> None:
    for ack in ("after", "first", "auto"):
        stage = stages()
        stage.send(20)
        moments: list[int] = []
        stage.receive(
            lambda: len(moments) == 20,  # noqa: B023  # used before the loop goes on
            work=lambda msg, key, lane: moments.append(time.monotonic_ns()),  # noqa: B023
            settings={"ack": ack},
        )  # fmt: skip
        settles = stage.rows("settle", OK)
        assert len(settles["msg"]) == 20, ack
        started = settles["start_ns"] + stage.tapes[-1].zero_ns
        assert ((started > np.array(moments)) == (ack == "after")).all(), ack


def test_work_that_fails_gives_the_message_back(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.send(1)
    done: list[int] = []

    def work(msg: int, key: int, lane: int) -> None:
        done.append(msg)
        if len(done) < 4:
            raise RuntimeError("the database is away")

    stage.receive(lambda: len(stage.rows("settle", OK)["msg"]) == 1, work=work)
    assert stage.rows("receive", OK)["attempt"].tolist() == [0, 1, 2, 3]
    assert stage.errors("settle") == {"REQUEUED"}


def test_messages_not_acknowledged_come_back_flagged(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.send(10)
    stage.receive(everything(stage), settings={"ack": "never"})
    stage.read()
    receives = stage.rows("receive", OK)
    assert sorted(receives["attempt"].tolist()) == [0] * 10 + [1] * 10


# -- faults ------------------------------------------------------------------------------------------------------------


def test_clients_reconnect_after_their_link_was_down(cluster: RabbitCluster, stages: Callable[..., Stage]) -> None:
    stage = stages()
    part = stage.sender(load_s=4, rate_per_s=300, resend=True, settings={})
    with running(part):
        time.sleep(1)  # load before the fault
        try:
            for link in cluster.links("producer"):
                link.disable()
            assert not cluster.links("producer")[0].greet(1).answered
            assert cluster.links("consumer")[0].greet(1).answered
            time.sleep(0.5)  # the fault lasts
        finally:
            for link in cluster.links("producer"):
                link.enable()
    stage.read()
    sends = stage.rows("send")
    assert len(np.unique(sends["process"])) >= 2
    assert stage.messages("send", OK) == set(range(1200))
    assert stage.messages("receive") == set(range(1200))


def test_a_killed_node_comes_back_with_its_messages_and_leads_again(
    cluster: RabbitCluster, stages: Callable[..., Stage]
) -> None:  # fmt: skip
    stage = stages()
    home = cluster.leader(stage.name)
    assert cluster.endpoint("producer", stage.name)["addresses"][0] == list(
        next(link for link in cluster.links("producer") if link.node == home).address
    )
    with running(stage.sender(load_s=6, rate_per_s=300, resend=True)):
        time.sleep(1)  # load before the fault
        cluster.nodes[home].kill()
        wait_until(lambda: cluster.leader(stage.name) != home, 20, "another leader", retry_on=(EnvironmentProblem,))
        cluster.nodes[home].start()
    cluster.wait_healthy(60)
    assert cluster.leader(stage.name) == home
    seen = cluster.observe([stage.name])
    assert seen["answering"] == ["r1", "r2", "r3"]
    assert seen["queues"][stage.name]["leader"] == home
    assert {r["state"] for r in seen["queues"][stage.name]["replicas"].values()} == {"leader", "follower"}
    stage.read()
    assert stage.messages("send", OK) == set(range(1800))
    assert stage.messages("receive") >= stage.messages("send", OK)


def test_an_isolated_leader_loses_its_lead_but_not_its_clients(
    cluster: RabbitCluster, stages: Callable[..., Stage]
) -> None:  # fmt: skip
    assert cluster.peers is not None
    stage = stages()
    home = cluster.leader(stage.name)
    rest = [name for name in cluster.nodes if name != home]
    try:
        cluster.peers.cut(both_ways([home], rest))
        reach = cluster.peers.reach()
        assert {pair for pair, arrives in reach.items() if not arrives} == {
            *((home, name) for name in rest), *((name, home) for name in rest)
        }  # fmt: skip
        wait_until(lambda: cluster.leader(stage.name) != home, 30, "a new leader", retry_on=(EnvironmentProblem,))
        assert home in cluster.observe([stage.name])["queues"][stage.name]["believes"]
        link = next(link for link in cluster.links("producer") if link.node == home)
        assert link.greet(2).answered
        assert cluster.endpoint("producer", stage.name)["addresses"][0] != list(link.address)
        stage.send(5, timeout_s=25.0)  # to the majority, whose leader comes first now
        assert stage.messages("send", OK) == set(range(5))
    finally:
        cluster.peers.heal()
        # Here, not after: a queue that is deleted while the nodes disagree comes back half, and stays so.
        cluster.wait_healthy(90)
    assert all(cluster.peers.reach().values())
    assert cluster.leader(stage.name) == home


@pytest.mark.parametrize(("step", "last"), [("receive", "receive"), ("effect", "effect"), ("ack", "settle")])
def test_a_load_process_kills_itself_right_after_its_step(
    step: str, last: str, cluster: RabbitCluster, tmp_path: Path
) -> None:  # fmt: skip
    plan = Plan(
        product="rabbitmq", version=cluster.version, topology="cluster", trial=f"step-{step}-{uuid.uuid4().hex[:6]}",
        workload=Workload(
            destinations=(Destination(name="q", kind="queue"),), senders=(Sender(rate_per_s=100.0),),
            receivers=(Receiver(work_ms=5.0),), load_s=30.0,
        ),
    )  # fmt: skip
    cluster.create(plan.workload.destinations[0], plan.destination_name(0))
    crew, scribe = Crew(tmp_path / "logs", lambda pid: None), ThreadScribe()
    block = Block([plan], cluster, lambda _: tmp_path / "t", crew, scribe)
    scene = Scene(cluster=cluster, destinations=(plan.destination_name(0),), clients=block)
    try:
        block.start()
        # Whoever is killed at the first message has nothing settled that could come again.
        (live,) = block.trials
        wait_until(lambda: live._come_to("settle") > 5, 30, "the consumer to settle some messages")
        with apply(make("client_kill", {"step": step}), scene, "consumer", now_s=block.now_s) as record:
            assert record.probes["during"]["seen"].endswith(f"last in the history: {last}")
        assert record.evidence == "took_effect", record.probes
        with apply(make("client_pause"), scene, "consumer", now_s=block.now_s) as record:
            pass
        assert record.evidence == "took_effect", record.probes
        block.stop_senders()
        block.drain()
        block.finish()
    finally:
        crew.close()
        scribe.close()
        cluster.delete(plan.workload.destinations[0], plan.destination_name(0))
    history = read_history(tmp_path / "t" / "history.arrow")
    # What the dead client had an answer for never comes again; what it had in hand does.
    f, msg = history["f"], history["msg"]
    killed = np.flatnonzero((history["process"] == 1) & (history["outcome"] == OK))
    again = set(msg[(history["process"] > 2) & (f == F["receive"])].tolist())
    settled = set(msg[killed[f[killed] == F["settle"]]].tolist())
    assert settled and not settled & again
    in_hand = int(msg[killed[np.argmax(history["end_ns"][killed])]])
    assert step == "ack" or in_hand in again


def test_a_node_can_be_paused(cluster: RabbitCluster) -> None:
    node = cluster.nodes["r3"]
    node.pause()
    try:
        assert node.state() == "paused"
        assert "r3" not in cluster.observe([])["answering"]
    finally:
        node.unpause()
    cluster.wait_healthy(60)


def test_faults_that_overlap_do_not_heal_each_other(cluster: RabbitCluster, stages: Callable[..., Stage]) -> None:
    assert cluster.peers is not None
    stage = stages()
    scene = Scene(cluster=cluster, destinations=(stage.name,))
    link = next(link for link in cluster.links("producer") if link.node == "r2")
    try:
        with ExitStack() as hole, ExitStack() as stall:
            black = hole.enter_context(apply(make("black_hole"), scene, "r2", now_s=time.monotonic))
            held = stall.enter_context(apply(make("stall"), scene, "r2", now_s=time.monotonic))
            hole.close()
            assert not link.greet(0.5).answered
            held.confirm()
        assert link.greet(2).answered
        black.settle()
        assert (black.evidence, held.evidence) == ("took_effect", "took_effect")

        with ExitStack() as first, ExitStack() as second:
            one = first.enter_context(apply(make("partition"), scene, "r1", now_s=time.monotonic))
            two = second.enter_context(apply(make("partition"), scene, "r2", now_s=time.monotonic))
            first.close()
            dead = {pair for pair, arrives in cluster.peers.reach().items() if not arrives}
            assert dead == {("r2", "r1"), ("r2", "r3"), ("r1", "r2"), ("r3", "r2")}
        assert all(cluster.peers.reach().values())
        one.settle()
        assert (one.evidence, two.evidence) == ("took_effect", "took_effect")

        with ExitStack() as frozen, ExitStack() as dead_:
            pause = frozen.enter_context(apply(make("pause"), scene, "r3", now_s=time.monotonic))
            kill = dead_.enter_context(apply(make("kill"), scene, "r3", now_s=time.monotonic))
            frozen.close()
            assert cluster.nodes["r3"].state() == "exited"
        assert cluster.nodes["r3"].state() == "running"
        pause.settle()
        assert (pause.evidence, kill.evidence) == ("took_effect", "took_effect")
    finally:
        cluster.peers.heal()
        cluster.wait_healthy(90)


# -- the rest of the contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_each_node_says_where_its_files_have_a_message(
    cluster: RabbitCluster, stages: Callable[..., Stage], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = {"quorum": 1001, "classic": 1002}[kind]  # the files of all tests' queues are looked through
    monkeypatch.setitem(globals(), "TRIAL", trial)
    stage = stages(x_queue_type=kind)
    stage.send(100)
    here, gone = mark(trial, 60), mark(trial, 100)

    def look() -> Mapping[str, Mapping[bytes, Where]]:
        marks = dict.fromkeys((here, gone), (stage.name, 0))
        return cluster.locate({stage.name: stage.destination}, marks, time.monotonic() + 30)

    holders = sorted(cluster.nodes) if kind == "quorum" else [cluster.leader(stage.name)]
    wait_until(lambda: all(look()[node][here].found for node in holders), 10, "the message on disk")
    for node, places in look().items():
        assert places[gone].says.startswith("not there") and not places[gone].found
        assert bool(places[here].found) == (node in holders)
        if kind == "quorum":
            assert {p["term"] > 0 and p["index"] > 60 for p in places[here].found} == {True}
            role = "leader" if node == cluster.leader(stage.name) else "follower"
            assert places[here].says.startswith(f"{role} of the queue at term")
        else:
            assert ("no member of the queue" in places[here].says) == (node not in holders)


def test_another_process_attaches_by_name(cluster: RabbitCluster, stages: Callable[..., Stage]) -> None:
    stage = stages()
    other = BROKER.attach(
        version=cluster.version,
        topology=cluster.topology,
        settings={},
        name=cluster._ground.name,
        run=cluster._ground.run,
    )
    assert other.leader(stage.name) == cluster.leader(stage.name)
    assert other.endpoint("admin") == cluster.endpoint("admin")
    other.wait_healthy(20)
    other.sync()


def test_settings_are_in_the_vendors_words(cluster: RabbitCluster) -> None:
    said = cluster.settings()
    assert said["broker"]["net_ticktime"] == "15"
    assert said["server"]["version"] == cluster.version
    assert said["nodes"] == 3


def test_logs_are_saved_for_every_container(cluster: RabbitCluster, tmp_path: Path) -> None:
    cluster.save_logs(tmp_path)
    assert {p.stem for p in tmp_path.iterdir()} >= {"r1", "r2", "r3"}
    assert "Server startup complete" in (tmp_path / "r1.log").read_text()


def test_a_destination_that_rabbitmq_has_not_is_refused(cluster: RabbitCluster) -> None:
    with pytest.raises(PlanError, match="log"):
        cluster.create(Destination(name="s", kind="log"), "s")


def test_a_queue_can_be_led_by_a_chosen_node(stages: Callable[..., Stage]) -> None:
    stage = stages(node="r2")
    assert stage.cluster.leader(stage.name) == "r2"
    assert stage.cluster.replicas(stage.name) == ["r2", "r1", "r3"]
    stage.cluster.wait_healthy(30)
    assert stage.cluster.leader(stage.name) == "r2"


def test_exchanges_route_as_the_broker_does(cluster: RabbitCluster) -> None:
    assert route(cluster, "direct", ["a", "a", "b"], ["a", "b", "c"]) == [{0, 1}, {2}, set()]
    assert route(cluster, "fanout", ["", "x"], ["anything"]) == [{0, 1}]
    with Router(cluster, "topic") as router:
        for _ in range(20):
            assert router.route(["*.b", "a.#"], ["a", "a.b", "b"]) == [{1}, {0, 1}, set()]


def test_a_version_that_cannot_start_says_why_and_leaves_nothing() -> None:
    name = f"bpr-{uuid.uuid4().hex[:6]}"
    try:
        with pytest.raises(ProvisionError, match="nonsense"):
            BROKER.start(
                version=BROKER.versions[0], topology="single", settings={"nonsense": "1"}, name=name, run=name,
                progress=lambda _: None,
            )  # fmt: skip
    finally:
        sweep.unregister(name)
    assert nothing_left(name)


def test_closing_leaves_no_container_and_no_network() -> None:
    name = f"bpr-{uuid.uuid4().hex[:6]}"
    single = BROKER.start(
        version=BROKER.versions[0], topology="single", settings={}, name=name, run=name, progress=lambda _: None
    )
    try:
        assert single.leader("brokerproof-probe") == "r1"
        assert single.replicas("brokerproof-probe") == ["r1"], "a classic queue, and no mirrors in 4.x"
        assert single.peers is None
    finally:
        single.close()
        single.close()
        sweep.unregister(name)
    assert nothing_left(name)
