"""A harness that was killed (SIGKILL) at any moment of any fault: the next one removes all of it, and nothing of another run.

All faults at once, in one process, each on a container of its own (peer faults share three): every one is held when it
has come to the phase, then the process is killed. So one run of it stands for one phase of all faults.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brokerproof.brokers.base import LONGER_OCTETS, Opening
from brokerproof.errors import DeadlineError
from brokerproof.faults.base import Scene, apply, faults, look, make, missing, plane
from brokerproof.runtime import images, sweep
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import LABEL_RUN, NodeSpec, client
from brokerproof.waiting import wait_until

#: Looked, and nothing done yet; its first command given; in force; the first command of its heal given; healed.
PHASES = ("before", "injecting", "on", "healing", "after")
#: What a fault does to the world goes through one of these.
_ACTS = frozenset({"http.client.send", "subprocess.Popen", "os.kill", "os.truncate", "fcntl.ioctl"})
_PORT, _ANSWER, _DATA = 7000, 400, "/var/tmp"
# Answers each line, a process for each connection, and writes to its disk all the time.
_NODE = f"""
use IO::Socket::INET; use IO::Handle; $SIG{{CHLD}} = "IGNORE"; $SIG{{TERM}} = sub {{ exit 0 }};
if (fork == 0) {{
    open(my $log, ">>", "{_DATA}/segment") or die $!; $log->autoflush(1);
    while (1) {{ print $log "x" x 512; select(undef, undef, undef, 0.01) }}
}}
my $server = IO::Socket::INET->new(LocalPort => {_PORT}, Listen => 50, ReuseAddr => 1) or die $!;
while (1) {{
    my $client = $server->accept or next;
    next if fork;
    while (<$client>) {{ print $client "a" x {_ANSWER}; $client->flush }}
    exit 0;
}}
"""
_OPENING = Opening(b"hello\n", b"." * (LONGER_OCTETS - 1) + b"\n", lambda answer: len(answer) >= _ANSWER)


# -- the harness that is killed ----------------------------------------------------------------------------------------


class Plain:
    """What a fault needs of a cluster, of which it sees its own nodes."""

    product, topology, in_process = "plain", "nodes without a broker", False

    def __init__(self, ground: Ground, names: Sequence[str], peers: Any = None) -> None:
        self.nodes = {name: ground.nodes[name] for name in names}
        self.peers = peers
        self._links = [link for link in ground.links if link.node in names]

    def links(self, group: str) -> Sequence[Any]:
        return [link for link in self._links if link.group == group]

    def leader(self, name: str, partition: int = 0) -> str:
        return next(iter(self.nodes))

    def observe(self, names: Sequence[str]) -> Mapping[str, Any]:
        return {}

    def segments(self, node: str, name: str) -> Sequence[str]:
        return ("0/segment",)

    def wait_healthy(self, timeout_s: float) -> None:
        for link in self._links:
            wait_until(lambda link=link: link.greet(1.0).answered, timeout_s, f"{link.name} to answer")  # type: ignore[misc]


class Clients:
    """Load processes that do nothing, but are real and registered."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._process = self._start()
        self._killed: list[str] = []

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "1000"])
        sweep.register_process(self._run, process.pid)
        return process

    def kill(self, role: str, step: str = "", which: str = "") -> Sequence[int]:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._killed.append(role)
        return [self._process.pid]

    def replace(self, role: str) -> None:
        if self._killed:
            self._process = self._start()
            self._killed.clear()

    def killed(self, role: str) -> Sequence[str]:
        return list(self._killed)

    def last_steps(self, role: str) -> Mapping[str, str]:
        return {}

    def in_hand(self, role: str) -> Mapping[str, int]:
        return {}

    def pause(self, role: str) -> Sequence[int]:
        os.kill(self._process.pid, signal.SIGSTOP)
        return [self._process.pid]

    def resume(self, role: str) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def states(self, role: str) -> Mapping[str, str]:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return {role: stat.rpartition(") ")[2].split()[0]}


class Held:
    """Where each fault is; a thread that has come to the phase does not come back from ``at``."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        #: The phase that a fault is in, or how it ended; and those that stand still there.
        self.where: dict[str, str] = {}
        self.there: set[str] = set()
        #: The fault on whose behalf this thread works.
        self.fault: contextvars.ContextVar[str] = contextvars.ContextVar("fault", default="")
        self._commands: dict[str, int] = {}

    def at(self, fault: str, phase: str) -> None:
        self.fault.set(fault)
        self.where[fault] = phase
        if phase == self._phase and phase not in ("injecting", "healing"):
            self.there.add(fault)
            threading.Event().wait()

    def end(self, fault: str, how: str) -> None:
        self.where[fault] = how
        self.there.add(fault)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Holds the thread at the second command of an injection or a heal: the first one is done by then."""
        fault = self.fault.get()
        if event in _ACTS and self.where.get(fault) == self._phase in ("injecting", "healing"):
            self._commands[fault] = self._commands.get(fault, 0) + 1
            if self._commands[fault] > 1:
                self.there.add(fault)
                threading.Event().wait()


class Following(ThreadPoolExecutor):
    """A pool whose threads know on whose behalf they work."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


class Stepwise:
    """A fault that says where it is."""

    def __init__(self, fault: Any, held: Held) -> None:
        self._fault, self._held = fault, held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fault, name)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        name = self._fault.name
        self._held.at(name, "before")
        self._held.at(name, "injecting")
        with self._fault.inject(scene, targets):
            self._held.at(name, "on")
            yield
            self._held.at(name, "healing")
        self._held.at(name, "after")


def target_of(name: str) -> str:
    if plane(name) == "peer":
        return "p1"
    return {"load": "consumer", "none": "all"}.get(plane(name), node_of(name))


def node_of(name: str) -> str:
    return f"n-{name.replace('_', '-')}"


def harness(run: str, phase: str, wanted: Sequence[str]) -> None:
    """Opens a cluster, applies every fault, says on stdout how far each came, and kills itself."""
    single = [name for name in wanted if plane(name) not in ("peer", "load", "none")]
    peers = ["p1", "p2", "p3"]
    nodes = [node_of(name) for name in single] + peers
    links = [LinkSpec("producer", node, _PORT) for node in nodes]
    equipment = sorted({kind for name in wanted for kind in make(name).needs})
    ground = Ground.open(name=run, run=run, nodes=nodes, links=links, opening=_OPENING, equipment=equipment)
    image = images.ensure("side").tag
    equipped = {node_of(name) for name in single if make(name).needs}

    def launch(node: str) -> None:
        data = (_DATA,) if node in equipped else ()
        ground.launch(NodeSpec(name=node, image=image, command=["perl", "-e", _NODE], memory_mb=64, data=data))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launch, nodes))
    Plain(ground, nodes).wait_healthy(90)
    for node in equipped:
        disk = ground.nodes[node].disk
        assert disk is not None
        written = disk.root / "0" / "segment"
        wait_until(lambda written=written: written.stat().st_size > 10_000, 60, f"{node} to write")  # type: ignore[misc]
        ground.nodes[node].sync(_DATA)
    links_between = ground.peers(peers)
    held = Held(phase)
    for of in ("links", "nodes", "clocks", "disks"):
        importlib.import_module(f"brokerproof.faults.planes.{of}").ThreadPoolExecutor = Following  # type: ignore[attr-defined]
    sys.addaudithook(held.audit)

    def one(name: str) -> None:
        try:
            mine = peers if plane(name) == "peer" else [node_of(name)] if name in single else []
            # Each with a connection to the proxy of its own: whoever waits for one that is held comes nowhere.
            own = ground if plane(name) == "peer" else Ground.attach(name=run, run=run, opening=_OPENING)
            cluster: Any = Plain(own, mine, links_between if plane(name) == "peer" else None)
            clients = Clients(run) if plane(name) == "load" else None
            scene = Scene(cluster=cluster, destinations=("q",), clients=clients)
            fault: Any = Stepwise(make(name), held)
            before = look(fault, scene, target_of(name))
            with apply(fault, scene, target_of(name), now_s=time.monotonic, before=before) as record:
                pass
            held.end(name, f"ended: {record.evidence}")
        except BaseException as exc:
            held.end(name, f"ended: {type(exc).__name__}: {exc}")

    for name in wanted:
        threading.Thread(target=one, args=(name,), daemon=True).start()
    # Whoever waits for one that is held, as peer faults do for each other, is where it is, too.
    last, since = dict(held.where), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        if held.where != last:
            last, since = dict(held.where), time.monotonic()
        everywhere = all(name in held.there or held.where.get(name) == phase for name in wanted)
        # Some are past the phase for good, since they need no second command: then only the quiet tells.
        return len(held.there) == len(wanted) or time.monotonic() - since > (5 if everywhere else 40)

    with contextlib.suppress(DeadlineError):
        wait_until(still, 240, f"all faults to be {phase}")
    print(json.dumps({name: held.where.get(name, "not begun") for name in wanted}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


# -- the test ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bystander(state: Path) -> Iterator[str]:
    """Another run, that lives: a container, a network, a load process, a disk."""
    run = f"bp-bystander-{uuid.uuid4().hex[:6]}"
    ground = Ground.open(name=run, run=run, nodes=["n1"], links=[], opening=_OPENING, equipment=["disk"])
    process = subprocess.Popen(["sleep", "1000"])
    try:
        ground.launch(NodeSpec(name="n1", image=images.ensure("side").tag, command=["sleep", "1000"], data=(_DATA,)))
        sweep.register_process(run, process.pid)
        before = things(run)
        assert sorted(before["container"].values()) == ["running"] * 3
        assert len(before["network"]) == 1
        yield run
        assert things(run) == before
        assert process.poll() is None
        disk = ground.nodes["n1"].disk
        assert disk is not None
        assert disk.in_use()
    finally:
        ground.close()
        process.kill()
        process.wait()
        sweep.unregister(run)


def things(run: str) -> dict[str, dict[str, str]]:
    """What the engine has of a run, and in which state."""
    label = {"label": f"{LABEL_RUN}={run}"}
    containers = client().containers.list(all=True, filters=label, ignore_removed=True)
    return {
        "container": {c.name: c.status for c in containers},
        "network": {n.name: n.id for n in client().networks.list(filters=label)},
    }


@pytest.mark.container
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_remains_of_a_harness_that_was_killed_in_a_fault(phase: str, bystander: str, state: Path) -> None:
    wanted = [name for name in faults() if not missing(name)]
    run = f"bp-killed-{uuid.uuid4().hex[:6]}"
    said = state / "said"
    try:
        with said.open("wb") as out:
            done = subprocess.run([sys.executable, __file__, run, phase, *wanted], stdout=out, timeout=500)
        assert done.returncode == -signal.SIGKILL
        came = json.loads(said.read_text())
        # What needs no second command is past the phase by then, no-op needs none at all, and of the client links some
        # wait for one that is held: there is one connection to a proxy.
        elsewhere = {name: how for name, how in came.items() if how != phase}
        assert len(elsewhere) <= len(wanted) // 3, elsewhere
        left = sweep.leftovers(run)
        assert {"container", "network", "process", "file", "mount", "disk"} <= {item.kind for item in left}
        mine = [int(item.name) for item in left if item.kind == "process"]
        devices = {str(path) for path in (state / "disks" / run).iterdir()}
        assert len(devices) > 3
        assert {item.run for item in sweep.clean()} == {run}
    finally:
        sweep.clean(run)
    assert things(run) == {"container": {}, "network": {}}
    assert [pid for pid in mine if sweep._started(pid)] == []
    mounts = Path("/proc/self/mountinfo").read_text()
    backing = "".join(file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file"))
    assert [path for path in devices if path in mounts or path in backing or Path(path).exists()] == []
    assert sweep.leftovers(run) == []


if __name__ == "__main__":
    harness(sys.argv[1], sys.argv[2], sys.argv[3:])
