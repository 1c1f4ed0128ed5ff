"""Runs on a RocketMQ that we did not start, with access keys, and rights under the prefix only: the reference peers, and a real one."""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Pace, ReadJob, ReceiveJob, SendJob, Thing
from brokerproof.brokers.rocketmq import access, adopted, client, configuration, remoting
from brokerproof.brokers.rocketmq import gateway as grpc_gateway
from brokerproof.brokers.rocketmq.cluster import BROKER
from brokerproof.brokers.rocketmq.configuration import GATEWAY
from brokerproof.conformance import way
from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.link import Link
from brokerproof.conformance.protocols import on_target
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_entities import Topic
from brokerproof.conformance.rocketmq.peer_proxy import Failed, ReferenceProxy
from brokerproof.conformance.rocketmq.peer_sockets import Connection, Handler
from brokerproof.conformance.rocketmq.reference import ReferencePlace
from brokerproof.conformance.rocketmq.scene import Remote
from brokerproof.conformance.scene import Skip, play
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem, ProvisionError, UsageError
from brokerproof.experiment import Experiment
from brokerproof.history import OK, F
from brokerproof.message import Bodies
from brokerproof.plan import Destination, Injection, Receiver, Sender, Workload
from brokerproof.runtime import images, sweep
from brokerproof.runtime.ground import Ground as RealGround
from brokerproof.runtime.ground import LinkSpec
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.proxy import greet
from brokerproof.suites import suites
from brokerproof.tape import Segment, Tape
from brokerproof.target import Target, joined, load
from brokerproof.targeting import clean, dry_run, look, template
from brokerproof.waiting import wait_until
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame

CANARY = f"cAnary-{secrets.token_hex(12)}"
TOPIC = Destination(name="t", kind="queue", settings={"message.type": "NORMAL", "queues": 2})
#: Fields of requests that name a topic or a group.
_NAMING = ("topic", "b", "consumerGroup", "groupName", "group")


def digest(content: bytes) -> bytes:
    return hmac.new(CANARY.encode(), content, sha1).digest()


class Proxy(ReferenceProxy):
    """One that asks who calls. tells: the port that it sends clients to, 0: the one that they came to."""

    tells = 0

    def _client(self, context: Any) -> str:
        said = dict(context.invocation_metadata())
        signature = digest(said.get("x-mq-date-time", "").encode()).hex()
        if f"Credential=proof, SignedHeaders=x-mq-date-time, Signature={signature}" not in said.get(
            "authorization", ""
        ):
            raise Failed(40100, "check signature failed")
        return super()._client(context)

    def _query_route(self, asked: Any, client: str) -> Any:
        made = super()._query_route(asked, client)
        for queue in made.message_queues if self.tells else ():
            queue.broker.endpoints.addresses[0].port = self.tells
        return made


class Theirs:
    """A RocketMQ of somebody else: its access key ``proof`` may touch names under ``bp-``, and groups do not come by themselves."""

    def __init__(self) -> None:
        self.place = ReferencePlace("single", {"autoCreateSubscriptionGroup": False}, "", 1.0, 600.0)
        self.broker: Broker = self.place.nodes["b1"]
        self.broker.server._handle = self._guarded(self.broker.server._handle)
        self.proxy = Proxy(self.broker, lambda: self.broker)
        self.broker.topics["theirs"] = Topic([[]])
        self.broker.groups["theirs"] = {"groupName": "theirs"}
        self.before = self.state()

    def file(self, folder: Path, *, more: str = "useEndpointPortFromRequest = true", prefix: str = "bp-") -> Path:
        file = folder / "mine.toml"
        file.write_text(
            f'product = "rocketmq"\n[nodes.b1]\naddress = "{joined(self.place.address("b1"))}"\n'
            f'[rocketmq]\nproxy = "127.0.0.1:{self.proxy.port}"\nname_servers = ["{joined(self.place.address("ns"))}"]\n{more}\n'
            f'[access]\nuser = "proof"\npassword_env = "PROOF_CANARY"\n[names]\nprefix = "{prefix}"\n'
        )
        return file

    def state(self) -> tuple[set[str], set[str]]:
        return set(self.broker.topics), set(self.broker.groups)

    def close(self) -> None:
        self.proxy.close()
        self.place.close()

    def _guarded(self, handle: Handler) -> Handler:
        def guarded(connection: Connection, frame: Frame) -> Frame | None:
            said = dict(frame.fields)
            signature = said.pop("Signature", "")
            content = "".join(said[name] for name in sorted(said)).encode() + frame.body
            if said.get("AccessKey") != "proof" or base64.b64decode(signature) != digest(content):
                return wire.answer(frame, codes.NO_PERMISSION, remark="check signature failed.\njava.lang.Throwable")
            named = [said[name] for name in _NAMING if name in said]
            if frame.code == codes.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP:
                named.append(json.loads(frame.body)["groupName"])
            if any(not re.match("(%RETRY%|%DLQ%)?bp-", name) for name in named):
                return wire.answer(frame, codes.NO_PERMISSION, remark="no acl policies")
            return handle(connection, frame)

        return guarded


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch, state: Path) -> Iterator[Theirs]:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    with closing(Theirs()) as made:
        yield made


class Ground:
    """As much of ``runtime.Ground`` as a cluster asks of it. to: where its links lead, nothing in between."""

    name = "bp-ground"
    proxy = "nothing"

    def __init__(self, *links: tuple[str, str, tuple[str, int]]) -> None:
        self.links = [SimpleNamespace(group=g, node=n, address=a, name=f"{g}-{n}", opening=None) for g, n, a in links]

    def links_of(self, group: str) -> list[Any]:
        return [link for link in self.links if link.group == group]

    def close(self) -> None:
        """Nothing was started."""


def standing(target: Target, run: str = "a-run", ground: Ground | None = None) -> adopted.AdoptedRocketmq:
    given: Any = ground or Ground()
    return adopted.AdoptedRocketmq(target, given, version="5.5.0", topology="single", run=run)


class Clients:
    """Load processes' loops, on a topic of an adopted cluster."""

    def __init__(self, cluster: adopted.AdoptedRocketmq, name: str, folder: Path) -> None:
        self._cluster, self._name, self.folder, self._slots = cluster, name, folder, 0

    def job(self, group: str) -> dict[str, Any]:
        tape = Tape(self.folder, slot=self._slots, slots=8, zero_ns=time.monotonic_ns())
        self._slots += 1
        return {
            "endpoint": json.loads(json.dumps(self._cluster.endpoint(group, self._name))), "destination": self._name, "kind": "queue",
            "lane": 0, "partitions": 1, "tape": tape, "seed": 5, "trial_number": 77, "stopping": lambda: False,
            "report": lambda **_: None, "destination_settings": TOPIC.settings,
        }  # fmt: skip

    def send(self, n: int, how: str) -> None:
        job = self.job("producer")
        sender = Sender(count=n, settings={"send": how})
        pace = Pace(rate_per_s=None, count=n, load_ns=10**10, keys=0, first_due_ns=job["tape"].now())
        client.send(SendJob(**job, sender=sender, pace=pace, bodies=Bodies(trial=77, sender=0, seed=5, size=100)))

    def receive(self, n: int) -> None:
        """Until so many have come."""
        stop, job = threading.Event(), self.job("consumer")
        asked = ReceiveJob(**{**job, "stopping": stop.is_set}, receiver=Receiver(group="g"), work=None)
        thread = threading.Thread(target=client.receive, args=(asked,))
        thread.start()
        try:
            wait_until(lambda: self.came(job["tape"].slot).total() >= n, 30, "what was sent")
        finally:
            stop.set()
            thread.join(20)

    def read(self) -> Counter[int]:
        job = self.job("admin")
        client.read(ReadJob(**job, deadline_s=20))
        return self.came(job["tape"].slot)

    def came(self, slot: int, f: str = "receive") -> Counter[int]:
        found: Counter[int] = Counter()
        for path in self.folder.glob(f"{slot}g*.seg"):
            segment = Segment.open(path)
            head = segment.head
            chosen = (segment.columns["f"][:head] == F[f]) & (segment.columns["outcome"][:head] == OK)
            found.update(segment.columns["msg"][:head][chosen].tolist())
        return found


def test_clients_are_let_in_and_nothing_is_left(theirs: Theirs, tmp_path: Path, state: Path) -> None:
    target = load(theirs.file(tmp_path))
    cluster = standing(target)
    cluster.open()
    cluster.create(TOPIC, "bp-1-t")
    assert {"bp-1-t", "bp-probe-bp-ground"} <= set(theirs.broker.topics)
    (tmp_path / "tapes").mkdir()
    clients = Clients(cluster, "bp-1-t", tmp_path / "tapes")
    clients.send(20, "async")
    clients.send(20, "oneway")
    clients.receive(40)
    assert clients.read() == dict.fromkeys(range(20), 2)
    assert "bp-1-t-g" in theirs.broker.groups and "bp-1-t-reader" in theirs.broker.groups
    cluster.wait_healthy(10)
    assert cluster.observe(["bp-1-t"])["answering"] == ["b1"]
    assert cluster.settings()["broker"]["b1"]["flushDiskType"] == "ASYNC_FLUSH"
    theirs.broker.topics |= {"%RETRY%bp-1-t-g": Topic([[]]), "%DLQ%bp-1-t-g": Topic([[]])}
    said = json.dumps([cluster.endpoint("producer", "bp-1-t"), cluster.settings()])
    cluster.close()
    assert theirs.state() == theirs.before
    assert Journal(target.key).left() == []
    files = [f for f in (*state.rglob("*"), *clients.folder.rglob("*"), tmp_path / "mine.toml") if f.is_file()]
    assert len(files) > 4 and CANARY not in said
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == []


def test_what_is_made_is_in_the_journal_before(theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load(theirs.file(tmp_path))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(adopted, "make", killed)
        with pytest.raises(KeyboardInterrupt):
            standing(target).create(TOPIC, "bp-1-t")
    assert Journal(target.key).left() == [Thing("topic", "bp-1-t")]
    standing(target).create(TOPIC, "bp-1-t")  # its own, which it had begun to make
    standing(target).create(TOPIC, "bp-1-tt")
    assert "bp-1-t-probe" in theirs.broker.groups
    assert clean(target, dry_run=True) == [f"topic bp-1-t{more} on {target.key}" for more in ("", "t")]
    assert theirs.state() != theirs.before
    adopted.remove(target, [Thing("topic", "bp-1-t")])
    assert {"bp-1-tt", "theirs"} <= set(theirs.broker.topics) and "bp-1-tt-probe" in theirs.broker.groups
    assert len(clean(target)) == 2
    assert theirs.state() == theirs.before and clean(target) == []


def test_what_is_not_gone_stays_in_the_journal(theirs: Theirs, tmp_path: Path) -> None:
    target = load(theirs.file(tmp_path))
    standing(target).create(TOPIC, "bp-1-t")
    theirs.broker.server.stop()
    assert BROKER.remove(target, Journal(target.key).left()) == []
    theirs.broker.server.start()
    refused = theirs.broker._handlers
    refused[codes.DELETE_TOPIC_IN_BROKER] = lambda c, f: wire.answer(f, codes.SUCCESS)  # says so, and keeps it
    assert BROKER.remove(target, Journal(target.key).left()) == []
    standing(target).close()
    assert Journal(target.key).left() == [Thing("topic", "bp-1-t")]


def test_what_a_broker_has_not_told_the_name_servers_yet_is_removed(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry topic of a group that pops, half a minute long."""
    target = load(theirs.file(tmp_path))
    standing(target).create(TOPIC, "bp-1-t")
    theirs.broker.topics |= {"%RETRY%bp-1-t-g_bp-1-t": Topic([[]])}
    known = adopted.known_topics
    monkeypatch.setattr(adopted, "known_topics", lambda of: {t for t in known(of) if "%RETRY%" not in t})
    standing(target).close()
    assert theirs.state() == theirs.before and Journal(target.key).left() == []


def test_what_others_have_under_our_names_is_not_touched(theirs: Theirs, tmp_path: Path) -> None:
    target = load(theirs.file(tmp_path))
    assert BROKER.foreign(target) == ""
    standing(target).create(TOPIC, "bp-1-t")
    assert BROKER.foreign(target) == "", "it is a run's of ours"
    theirs.broker.topics |= {"bp-orders": Topic([[]]), "%RETRY%bp-billing": Topic([[]])}
    said = BROKER.foreign(target)
    assert "%RETRY%bp-billing, bp-orders;" in said and "choose another prefix" in said
    with pytest.raises(UsageError, match="not of a run of ours"):
        standing(target).create(TOPIC, "bp-orders")
    standing(target).close()
    assert {"bp-orders", "%RETRY%bp-billing"} <= set(theirs.broker.topics)
    assert [n for n in look(target) if n.name == "names" and n.status == "missing"]


def noted(target: Target) -> dict[str, tuple[str, str, str]]:
    return {n.name: (n.status, n.seen, n.next_step) for n in look(target) if n.name != "faults"}


def test_check_tells_what_is_there_and_leaves_nothing(theirs: Theirs, tmp_path: Path) -> None:
    target = load(theirs.file(tmp_path))
    found = noted(target)
    assert {status for status, *_ in found.values()} == {"ok"}, found
    assert "RocketMQ 5.5.0, ASYNC_MASTER" in found["node b1"][1]
    assert "link faults are possible" in found["links"][1]
    assert BROKER.version_of(target) == "5.5.0"
    assert theirs.state() == theirs.before and Journal(target.key).left() == []


def test_check_says_what_the_proxy_tells_clients(theirs: Theirs, tmp_path: Path) -> None:
    bare = load(theirs.file(tmp_path, more=""))
    status, seen, step = noted(bare)["links"]
    assert status == "warning" and "does not say so" in seen and "useEndpointPortFromRequest = true" in step
    theirs.proxy.tells = theirs.proxy.port
    status, seen, step = noted(bare)["links"]
    assert status == "warning" and "past proxies of ours" in seen and '"useEndpointPortFromRequest": true' in step
    status, seen, step = noted(load(theirs.file(tmp_path)))["links"]
    assert status == "missing" and f"told 127.0.0.1:{theirs.proxy.port}" in seen and "mqproxy" in step
    theirs.proxy.tells = 1
    assert "told 127.0.0.1:1, where nothing answers" in noted(bare)["links"][1]
    with pytest.raises(ProvisionError, match="target check"):
        standing(bare).open()


def test_check_says_who_is_not_let_in_and_what_may_not_be_done(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = load(theirs.file(tmp_path, prefix="other-"))
    status, seen, step = noted(outside)["permissions"]
    assert status == "missing" and "Topic:other-*,Topic:%DLQ%other-*,Group:other-*" in step, seen
    target = load(theirs.file(tmp_path))
    monkeypatch.setenv("PROOF_CANARY", "wrong")
    status, seen, step = noted(target)["node b1"]
    assert (status, "permissions" in noted(target)) == ("missing", False)
    assert "check signature failed" in seen and "java" not in seen and "secret key" in step
    with pytest.raises(UsageError, match="refuses as proof"):
        BROKER.version_of(target)


def test_check_says_who_does_not_answer(theirs: Theirs, tmp_path: Path) -> None:
    file = theirs.file(tmp_path)
    target = load(file)
    theirs.proxy.close()
    assert "8081 by default" in noted(target)["gRPC proxy"][2]
    theirs.broker.config["brokerRole"] = "SLAVE"
    assert noted(target)["node b1"][::2] == ("missing", "it takes no messages: name its master")
    with pytest.raises(UsageError, match="name the masters"):
        BROKER.version_of(target)
    theirs.place.servers["ns"].server.stop()
    assert noted(target)["name server"][0] == "missing"
    with pytest.raises(EnvironmentProblem, match=r"does not answer.*target check"):
        BROKER.foreign(target)


def test_links_are_those_of_the_proxy_and_of_oneway_sends(theirs: Theirs, tmp_path: Path) -> None:
    target = load(theirs.file(tmp_path))
    specs = adopted._links(target)
    assert {(s.group, s.node) for s in specs} == {
        ("producer", GATEWAY), ("consumer", GATEWAY), ("sham", GATEWAY), ("producer", "b1"), ("sham", "b1"),
    }  # fmt: skip
    at = {spec: ("127.0.0.1", 20000 + n) for n, spec in enumerate(specs)}
    cluster = standing(target, ground=Ground(*((s.group, s.node, at[s]) for s in specs)))
    by_name = {(s.group, s.node): list(a) for s, a in at.items()}
    endpoint = cluster.endpoint("producer", "bp-1-t")
    assert endpoint["grpc"] == by_name["producer", GATEWAY] and endpoint["brokers"] == {"b1": by_name["producer", "b1"]}
    assert cluster.endpoint("admin")["grpc"] == ["127.0.0.1", theirs.proxy.port]
    assert {link.node for link in cluster.links("producer")} == {GATEWAY}, "broken together"
    assert [link.opening for link in cluster.links("producer")] == [None, remoting.OPENING]
    assert adopted._links(load(theirs.file(tmp_path, more=""))) == []


def test_links_are_broken_only_where_clients_are_sent_back(theirs: Theirs, tmp_path: Path) -> None:
    load_ = Workload(destinations=(TOPIC,), senders=(Sender(rate_per_s=50),), receivers=(Receiver(),))
    experiment = Experiment(
        topology="single", treatment=load_, control=load_, schedule=(Injection(fault="reset", target="all"),)
    )
    sent_back, not_so = (load(theirs.file(tmp_path, more=more)) for more in ("useEndpointPortFromRequest = true", ""))
    assert Adoption(sent_back, "5.5.0").lacking(experiment) == ""
    assert "do not go through proxies of ours" in Adoption(not_so, "5.5.0").lacking(experiment)


def test_a_dry_run_connects_to_nothing(theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load(theirs.file(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it connected"))
    text = "\n".join(dry_run(Adoption(target, ""), select=["producer"], profile="quick", variant=[], seed=7))
    assert "as proof, password from environment PROOF_CANARY" in text and "proxied: producer, consumer, sham" in text
    assert "cell     producer/" in text and CANARY not in text


# -- protocol cases ----------------------------------------------------------------------------------------------------


def of_the_commands(run: Path) -> dict[str, dict[str, Any]]:
    """Entries of a run's cases, by id and variant."""
    entries = json.loads((run / "results.json").read_text())["cases"]
    return {c["case"] + (f"-{c['variant']}" if c["variant"] else ""): c for c in entries}


def wire_of(run: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / entry["path"]).read_text())["wire"]
    return found


def test_protocol_cases_pass_and_nothing_is_left(theirs: Theirs, tmp_path: Path, state: Path) -> None:
    """By remoting and through the gRPC proxy, signed; neither the secret key nor a signature is in any file."""
    chosen = [
        "R1.01",
        "R1.02",
        "R1.04",
        "R1.05",
        "R2.01",
        "R3.01",
        "R3.02",
        "R3.03",
        "R3.07",
        "R4.02",
        "R4.03",
        "R4.09",
        "R5.01",
        "R6.05",
    ]
    code, said = finished(
        "conformance",
        "--target",
        str(theirs.file(tmp_path)),
        "--run-dir",
        "run",
        *(f"--case={id}" for id in chosen),
        cwd=tmp_path,
    )
    assert code == 0, said
    run = tmp_path / "run"
    entries = of_the_commands(run)
    assert {slug: c["verdict"] for slug, c in entries.items()} == {
        "R1.01": "PASS", "R1.01@slicer": "SKIP", "R1.01@cut": "PASS", "R1.02": "PASS", "R1.02@slicer": "SKIP",
        "R1.04": "SKIP", "R1.04@slicer": "SKIP", "R1.04@cut": "PASS", "R1.05": "PASS", "R1.05@slicer": "SKIP", "R2.01": "PASS",
        "R3.01": "PASS", "R3.02-off": "PASS", "R3.02-on": "SKIP", "R3.03": "SKIP", "R3.07-default": "SKIP", "R3.07-two": "SKIP",
        "R4.02-off": "SKIP", "R4.02-on": "SKIP", "R4.03": "INFO", "R4.09": "SKIP", "R5.01": "SKIP", "R6.05": "PASS",
    }  # fmt: skip
    for slug, says in {
        "R1.01@slicer": "through a proxy", "R1.04": "a hand on the nodes (memory)", "R3.02-on": "it sets autoCreateTopicEnable",
        "R3.03": "without the target's prefix", "R3.07-two": "others on the broker would feel it", "R4.02-off": "it sets",
        "R4.02-on": "autoCreateSubscriptionGroup=true, and this one has false", "R4.09": "others on the broker would feel it",
        "R5.01": "the delayed messages of everybody",
    }.items():  # fmt: skip
        assert says in entries[slug]["observed"], slug
    assert all(c["as_expected"] for c in entries.values())
    assert theirs.state() == theirs.before and Journal(load(tmp_path / "mine.toml").key).left() == []
    logged = "".join(bytes.fromhex(e["hex"]).decode(errors="replace") for e in wire_of(run, entries["R3.01"]))
    assert set(re.findall('"Signature":"([^"]*)"', logged)) == {"*" * 28} and '"AccessKey":"proof"' in logged
    cut = [e["decoded"] for e in wire_of(run, entries["R1.01@cut"]) if e["decoded"].startswith("the first")]
    assert cut and all("'Signature': '****" in text for text in cut)
    files = [f for f in (*run.rglob("*"), *state.rglob("*")) if f.is_file()]
    secret = CANARY.encode()
    assert [
        f for f in files if any(s in f.read_bytes() for s in (secret, secret.hex().encode()))
    ] == [] and CANARY not in said


class Listening:
    """A connection's other end, that keeps what is sent to it."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with self.server.accept()[0] as sock:
            while data := sock.recv(1 << 16):
                self.came += data

    def close(self) -> None:
        self._thread.join(10)
        self.server.close()


@pytest.mark.parametrize("codec", [wire.JSON, wire.COMPACT])
@pytest.mark.parametrize("cuts", [False, True])
def test_what_is_signed_is_sent_and_what_is_told_is_not(
    codec: int, cuts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    log, key = WireLog(), {"key": "proof", "secret": {"env": "PROOF_CANARY"}}
    with closing(Listening()) as peer:
        scene: Any = SimpleNamespace(
            place=SimpleNamespace(access=key), cut_short=lambda octets: octets[: len(octets) - 9],
            link=lambda at, name: Link(at, log=log, name=name, deadline=time.monotonic() + 20),
        )  # fmt: skip
        remote = Remote(scene, peer.server.getsockname(), "b", codec, cuts)
        remote.ask(codes.GET_MAX_OFFSET, {"topic": "bp-t"}, b"body of it")
        remote.close()
    frame = wire.request(codes.GET_MAX_OFFSET, 1, {"topic": "bp-t"}, b"body of it", codec=codec)
    signed = access.signed(key, frame)
    whole = signed.encode()
    signature = signed.fields["Signature"]
    assert bytes(peer.came) == (whole[:-9] if cuts else whole) and len(signature) == 28
    (sent,) = [e for e in log.entries() if e["dir"] == ">"]
    assert bytes.fromhex(sent["hex"]) == bytes(peer.came).replace(signature.encode(), b"*" * 28)
    assert signature not in json.dumps(log.entries()) and "bp-t" in sent["decoded"]


def case_of(id: str) -> Case:
    (found,) = [c for c in cases_of(suites() / "conformance" / "rocketmq") if c.id == id]
    return found


def test_a_brokers_own_credentials_are_in_no_log(theirs: Theirs, tmp_path: Path) -> None:
    """They are among the settings that it tells whoever may ask."""
    told = secrets.token_hex(300)
    theirs.broker.config = {"innerClientAuthenticationCredentials": told, **theirs.broker.config}
    ground = on_target(Adoption(load(theirs.file(tmp_path)), "5.5.0"), "a-run")
    with closing(ground):
        for id in ("R1.05", "R3.09"):
            outcome = play(ground, case_of(id))
            assert outcome.verdict in ("PASS", "INFO"), outcome.observed
            text = "".join(
                bytes.fromhex(e["hex"]).decode(errors="replace") + e["decoded"] for e in outcome.log.entries()
            )
            assert told[:16] not in text and ("response" in text) == (id == "R1.05")
            silent = [e["note"] for e in outcome.log.entries() if "credentials may be" in e["note"]]
            assert len(silent) == (id == "R3.09")


def test_what_is_sent_and_removed_keeps_the_pace(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Any] = []
    monkeypatch.setattr(way.Pace, "__call__", lambda self: turns.append(self))
    with closing(on_target(Adoption(load(theirs.file(tmp_path)), "5.5.0"), "a-run")) as ground:
        outcome = play(ground, case_of("R6.05"))
    assert outcome.verdict == "PASS", outcome.observed
    sent = [e for e in outcome.log.entries() if e["dir"] == ">"]
    assert {e["layer"] for e in sent} == {"frame", "method"}
    # Four topics of the case's, one of looking afterwards and the stem of the names are then removed here and at the name server.
    assert len(turns) >= len(sent) + 2 * 6 and theirs.state() == theirs.before


def test_what_a_killed_runs_case_left_is_known_by_name(theirs: Theirs, tmp_path: Path) -> None:
    target = load(theirs.file(tmp_path))
    with closing(on_target(Adoption(target, "5.5.0"), "gone-run")) as ground:
        with ground.scene(case_of("R4.06"), variant="", condition="", log=WireLog(), stop=lambda: False) as made:
            scene: Any = made
            topic, group = scene.topic(), scene.group()
            theirs.broker.topics |= {f"%RETRY%{group}": Topic([[]]), f"%DLQ%{scene.name}-more": Topic([[]])}
            left = Journal(target.key).left(lambda run: run == "gone-run")
            assert {Thing("topic", name) for name in (scene.name, topic, group)} <= set(left)
            with pytest.raises(Skip, match="without the target's prefix"):
                scene.ask_for_topic(scene.admin(), "orders")
            # As a kill would leave it.
            undone = scene._cleaning.pop_all()
            assert clean(target) and theirs.state() == theirs.before
            undone.close()
    assert Journal(target.key).left() == []


def test_protocol_cases_need_no_access_keys(tmp_path: Path, state: Path) -> None:
    place = ReferencePlace("single", {}, "", 1.0, 600.0)
    with closing(place):
        (tmp_path / "mine.toml").write_text(
            f'product = "rocketmq"\n[nodes.b1]\naddress = "{joined(place.address("b1"))}"\n'
            f'[rocketmq]\nproxy = "localhost:{place.proxy()[1]}"\nname_servers = ["{joined(place.address("ns"))}"]\n'
        )
        with closing(on_target(Adoption(load(tmp_path / "mine.toml"), "5.5.0"), "a-run")) as ground:
            found = {id: play(ground, case_of(id)) for id in ("R3.01", "R6.04")}
        assert {id: o.verdict for id, o in found.items()} == {"R3.01": "PASS", "R6.04": "PASS"}, found
        assert "Signature" not in json.dumps(found["R3.01"].log.entries())
        assert not [t for t in place.nodes["b1"].topics if "bp-" in t]


def test_protocol_cases_want_a_broker_that_is_alone_and_lets_them_in(
    theirs: Theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = theirs.file(tmp_path)
    more = file.read_text().replace(
        "[rocketmq]", f'[nodes.b2]\naddress = "{joined(theirs.place.address("b1"))}"\n[rocketmq]'
    )
    (tmp_path / "two.toml").write_text(more)
    with pytest.raises(UsageError, match="spoken to one broker"):
        on_target(Adoption(load(tmp_path / "two.toml"), "5.5.0"), "a-run")
    theirs.broker.config["brokerName"] = "elsewhere"
    with pytest.raises(EnvironmentProblem, match="does not know elsewhere"):
        on_target(Adoption(load(file), "5.5.0"), "a-run")
    monkeypatch.setenv("PROOF_CANARY", "wrong")
    code, said = finished("conformance", "--target", "mine.toml", "--case", "R3.01", cwd=tmp_path)
    assert code == 2 and "check signature failed" in said and "secret key" in said, said
    assert not (tmp_path / "runs").exists()


def test_a_set_of_brokers_beside_it_is_seen() -> None:
    place = ReferencePlace("two-masters", {}, "", 1.0, 600.0)
    with closing(place), remoting.Connection(place.address("ns")) as to:
        assert remoting.mates(to, "b1") == {"b1", "b2"} and remoting.mates(to, "b3") == frozenset()


def test_protocol_cases_are_listed_without_connecting(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'product = "rocketmq"\n[nodes.b1]\naddress = "192.0.2.1"\n[rocketmq]\nproxy = "192.0.2.2"\nname_servers = ["192.0.2.3"]\n'
    )
    code, dry = finished("conformance", "--target", "mine.toml", "--dry-run", cwd=tmp_path)
    assert code == 0 and "nothing was done" in dry and "bp-<16 hex digits>" in dry and "300 requests/s" in dry, dry
    code, listed = finished("conformance", "--target", "mine.toml", "--list", "--section", "R6", cwd=tmp_path)
    assert code == 0 and "case     R6.01 " in listed and "case     R6.13 " not in listed, listed
    assert "left out R6.06: it needs a broker whose timer may keep a message for a day" in listed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[access]", "[tls]\n[access]"), "takes no certificates"),
        (("[access]", '[access]\nvhost = "x"'), "access.vhost is not RocketMQ's"),
        (("proxy = ", "proxies = "), "did you mean 'proxy'"),
        (('proxy = "proxy-1.example.com:8081"', ""), "gRPC proxy; write proxy"),
        (("proxy-1.example.com", "[::1]"), "takes no IPv6 address"),
        (('["names-1.example.com:9876"]', '"names-1.example.com:9876"'), "all of them"),
        (("# useEndpointPortFromRequest = true", "useEndpointPortFromRequest = 1"), "expected true or false"),
        (('user = "brokerproof" ', f'secretKey = "{CANARY}" '), "holds a credential"),
    ],
)
def test_what_is_wrong_in_the_file_is_said(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    text = template("rocketmq")
    assert change[0] in text
    (tmp_path / "mine.toml").write_text(text.replace(*change))
    with pytest.raises(UsageError, match=says) as raised:
        load(tmp_path / "mine.toml")
    assert CANARY not in str(raised.value)


# -- a real one --------------------------------------------------------------------------------------------------------

ADMIN = {"key": "admin", "secret": secrets.token_hex(8)}
_AUTH = "org.apache.rocketmq.auth"
#: ACL 2.0 of brokers, and of the gRPC proxy, which asks them. Source: AuthConfig.java, ProxyAuthenticationMetadataProvider.java.
ACL: dict[str, Any] = {
    "authenticationEnabled": True,
    "authenticationProvider": f"{_AUTH}.authentication.provider.DefaultAuthenticationProvider",
    "authenticationMetadataProvider": f"{_AUTH}.authentication.provider.LocalAuthenticationMetadataProvider",
    "authorizationEnabled": True,
    "authorizationProvider": f"{_AUTH}.authorization.provider.DefaultAuthorizationProvider",
    "authorizationMetadataProvider": f"{_AUTH}.authorization.provider.LocalAuthorizationMetadataProvider",
    "initAuthenticationUser": json.dumps({"username": ADMIN["key"], "password": ADMIN["secret"]}),
    "innerClientAuthenticationCredentials": json.dumps({"accessKey": ADMIN["key"], "secretKey": ADMIN["secret"]}),
}
PROXY_ACL = {
    **ACL,
    "enableAclRpcHookForClusterMode": True,
    "authenticationMetadataProvider": "org.apache.rocketmq.proxy.auth.ProxyAuthenticationMetadataProvider",
    "authorizationMetadataProvider": "org.apache.rocketmq.proxy.auth.ProxyAuthorizationMetadataProvider",
}
AUTH_CREATE_USER, AUTH_CREATE_ACL = 3001, 3006  # RequestCode.java


@pytest.fixture(scope="module")
def rocketmq() -> Iterator[str]:
    """A RocketMQ with ACL that lets ``proof`` do with names under ``bp-`` what docs/target.md says; the text of its target file."""
    run, version = f"target-{os.getpid()}", BROKER.versions[0]
    ports = {"ns": configuration.NAME_SERVER_PORT, "b1": configuration.BROKER_PORT, GATEWAY: configuration.GATEWAY_PORT}
    ground = RealGround.open(
        name=f"bp-target-rocketmq-{os.getpid()}", run=run, nodes=list(ports), opening=remoting.OPENING,
        links=[LinkSpec("admin", node, port) for node, port in ports.items()],
    )  # fmt: skip
    at = {node: ground.link("admin", node).address for node in ports}
    try:
        image, addresses = images.ensure("rocketmq", version).tag, {n: node.address for n, node in ground.nodes.items()}
        given = configuration.name_server_settings("single", "ns", addresses, {})
        ground.launch(configuration.name_server(image, version, "ns", given))
        given = configuration.broker_settings("single", "b1", addresses, {})
        ground.launch(configuration.broker(image, version, "b1", {**given, **ACL}))

        def registered() -> bool:
            with remoting.Connection(at["ns"]) as to:
                return "b1" in remoting.cluster_info(to)

        not_yet = (OSError, remoting.RemotingError, remoting.ProtocolError)
        logs = ground.nodes["b1"].logs
        wait_until(registered, 240, "the RocketMQ of somebody else", retry_on=not_yet, last_state=lambda: logs(tail=15))
        with remoting.Connection(at["b1"], 20, ADMIN) as to:
            user = {"username": "proof", "password": CANARY, "userType": "Normal", "userStatus": "enable"}
            to.call(AUTH_CREATE_USER, {"username": "proof"}, json.dumps(user).encode())
            entries = [
                {"resource": resource, "actions": ["All"], "sourceIps": [], "decision": "Allow"}
                for resource in ("Topic:bp-*", "Topic:%DLQ%bp-*", "Group:bp-*")
            ]
            acl = {"subject": "User:proof", "policies": [{"policyType": "Custom", "entries": entries}]}
            to.call(AUTH_CREATE_ACL, {"subject": "User:proof"}, json.dumps(acl).encode())
        given = {**configuration.proxy_settings("single", addresses, {}), **PROXY_ACL}
        ground.launch(configuration.gateway(image, version, given))
        greeting, said = grpc_gateway.OPENING.greeting, ground.nodes[GATEWAY].logs
        wait_until(
            lambda: greet(at[GATEWAY], greeting, 1.0).answered, 240, "its gRPC proxy", last_state=lambda: said(tail=15)
        )
        yield (
            f'product = "rocketmq"\n[nodes.b1]\naddress = "{joined(at["b1"])}"\n[rocketmq]\nproxy = "{joined(at[GATEWAY])}"\n'
            f'name_servers = ["{joined(at["ns"])}"]\nuseEndpointPortFromRequest = true\n'
            '[access]\nuser = "proof"\npassword_env = "PROOF_CANARY"\n'
        )
    finally:
        ground.close()
        sweep.unregister(run)


def finished(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.container
def test_a_claim_is_decided_with_links_broken_and_nothing_is_left(
    rocketmq: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    (tmp_path / "mine.toml").write_text(rocketmq)
    target = load(tmp_path / "mine.toml")
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 0 and "link faults are possible" in said and "RocketMQ 5.5.0" in said, said
    assert "sends, receives, reads and deletes them" in said
    code, said = finished(
        "run", "--target", "mine.toml", "--select", "producer/acknowledged-survives-link-cut", "--seed", "7", "--run-dir", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert code == 0 and "HOLDS" in said, said
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert len(files) > 20
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == [] and CANARY not in said
    assert not [t for t in adopted.known_topics(target) if "bp-" in t] and Journal(target.key).left() == []
    with adopted.talk(target, target.nodes["b1"].address) as to:
        assert not [group for group in remoting.groups(to) if "bp-" in group]


@pytest.mark.container
def test_protocol_cases_on_a_real_one_leave_nothing(
    rocketmq: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    (tmp_path / "mine.toml").write_text(rocketmq)
    target = load(tmp_path / "mine.toml")
    sections = ("R1", "R2", "R3", "R6")
    code, said = finished(
        "conformance", "--target", "mine.toml", "--tag", "no-slow", "--run-dir", "run", *(f"--section={s}" for s in sections),
        cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, said
    entries = of_the_commands(tmp_path / "run")
    verdicts = Counter(c["verdict"] for c in entries.values())
    assert verdicts["PASS"] > 10 and not {"HARNESS", "INCONCLUSIVE"} & set(verdicts), verdicts
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    secret = CANARY.encode()
    assert [f for f in files if any(s in f.read_bytes() for s in (secret, secret.hex().encode()))] == []
    assert CANARY not in said and ADMIN["secret"] not in said
    assert [f for f in files if ADMIN["secret"].encode() in f.read_bytes()] == []
    assert not [t for t in adopted.known_topics(target) if "bp-" in t] and Journal(target.key).left() == []
    with adopted.talk(target, target.nodes["b1"].address) as to:
        assert not [group for group in remoting.groups(to) if "bp-" in group]


@pytest.mark.container
def test_who_is_not_let_in_by_a_real_one_is_told(
    rocketmq: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(rocketmq)
    monkeypatch.setenv("PROOF_CANARY", "wrong")
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "the secret key" in said, said
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    (tmp_path / "mine.toml").write_text(rocketmq + '[names]\nprefix = "other-"\n')
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "Topic:other-*" in said, said
