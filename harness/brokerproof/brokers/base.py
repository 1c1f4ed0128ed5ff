"""What a broker is to the rest: a product that provides clusters, and clients that run in load processes.

A broker is one package ``brokers/<product>/`` that offers two modules:

    cluster.py    BROKER: Broker          start, stop, address, health, leaders (runs in the harness)
    client.py     send, receive, read     the loops of the load processes (runs in processes of its own)

and is found by its folder's name: nothing else lists the products. A cluster is only ever addressed through its
links; its nodes are the engine's containers (or, for ``memory``, threads).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from brokerproof.confirms import Confirm
from brokerproof.errors import UsageError, unknown
from brokerproof.message import Bodies, Verifier
from brokerproof.plan import Destination, Receiver, Sender
from brokerproof.tape import Tape
from brokerproof.target import Target
from brokerproof.versions import applies
from brokerproof.where import Where

Json = Mapping[str, Any]

#: The client groups, each with links of its own: a fault on one is not felt by the others.
#: ``admin`` (set-up, health, final read) and ``sham`` are never broken.
LINK_GROUPS = ("producer", "consumer", "sham", "admin")


# -- what faults act on ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lost:
    """What a power cut took.

    files: name -> (size before, size after or -1 where it is gone, bytes of pages that differ); what is whole is left out.
    bytes: sum of the last.  canary_gone: what was written just before the cut, unsynced, is gone: power was cut.
    facts: of the file system at the cut: mount options, space, what had no place on the device yet.
    """

    files: Mapping[str, tuple[int, int, int]]
    bytes: int
    canary_gone: bool
    facts: Json

    def to_json(self) -> dict[str, Any]:
        return {"files": {n: list(f) for n, f in self.files.items()}, "bytes": self.bytes,
                "canary_gone": self.canary_gone, **self.facts}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done to a file while its node was down: from ``at`` on it had ``before`` and was given ``after`` (empty: the
    file was cut off there)."""

    path: Path
    at: int
    before: bytes
    after: bytes


class Disk(Protocol):
    """The file system that holds a node's data and nothing else, on a device of its own.

    None of the looks syncs anything: one fsync would bring everybody's data to the device.
    """

    #: Where it can be read and written from outside, under paths that ``Segmented.segments`` gives.
    root: Path
    #: What the last cut took; None: there was none, or power is not back yet.
    lost: Lost | None
    #: What ``damage`` did last.
    damaged: Damage | None

    def state(self) -> str:
        """``mounted``, ``read-only``, ``cut`` (stopped, and power is not back), ``unmounted``."""

    def in_use(self) -> bool:
        """Whether the node, which runs, has its data there."""

    def facts(self) -> Json:
        """Mount options, space …: recorded with every fault."""

    def try_write(self) -> str:
        """The error (``ENOSPC``, ``EROFS``, ``EIO``) that somebody who writes 64 KiB meets now; empty: none."""

    def write_ms(self) -> float:
        """How long the node would wait now for 64 KiB on the device."""

    def commit_every(self, commit_s: int) -> None:
        """How often the journal is committed without anybody asking (mount option ``commit``)."""

    def cut(self) -> None:
        """Stops it at this moment: what is not on the device by now never will be. The node must be frozen."""

    def power_on(self) -> None:
        """Mounts what is on the device, and sees what is ``lost``. The node must be down. No cut: nothing to do."""

    def fill(self) -> None:
        """Takes all free space."""

    def free(self) -> None:
        """Gives it back; safe to call twice."""

    def fail(self) -> None:
        """Makes it read-only under the node, as a device error does; what was written before is kept."""

    def repair(self) -> None:
        """Makes it writable again. The node must be down."""

    def throttle(self, bytes_per_s: int) -> None:
        """Limits what the node writes; 0: no limit."""

    def newest(self, patterns: Sequence[str], least_bytes: int = 1) -> Path:
        """The file with so much data in it that was written last, of those that match the first pattern that any such
        matches."""

    def data_end(self, path: Path) -> int:
        """Where data ends in a file that may be laid out longer than what is in it."""

    def damage(self, path: Path, at: int, data: bytes) -> None:
        """Writes over what stands there; nothing: cuts the file off there. The node must be down."""


class Node(Protocol):
    """One broker node. Every method returns when it is done; deadlines are the node's own."""

    name: str

    @property
    def disk(self) -> Disk | None:
        """Its file system, where it was started with equipment ``disk`` and keeps data."""

    def kill(self) -> None:
        """SIGKILL."""

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after a grace time."""

    def start(self) -> None:
        """Starts a node that is down, on the data it had; does not wait for health."""

    def pause(self) -> None: ...
    def unpause(self) -> None: ...

    def state(self) -> str:
        """``running``, ``paused`` or ``exited`` as the engine says."""

    def logs(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Throttled:
    """What the kernel has counted of a node since it started: periods of a limited processor, how many of them ended with
    the node waiting for the next, and how long it waited in all, over its threads."""

    periods: int
    throttled: int
    throttled_ms: float


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """A node's memory as the kernel counts it. own_mb: what it cannot give back, files are not in it.

    limit_mb: in force now. configured_mb: what it was started with. major_faults: since it started, pages that had to be
    fetched from the disk.
    """

    used_mb: float
    own_mb: float
    limit_mb: float
    configured_mb: float
    major_faults: int


@runtime_checkable
class Limited(Protocol):
    """A node whose processor and memory the engine can limit while it runs. The counters raise EnvironmentProblem where
    the engine does not tell them, or the node is down."""

    def limit_cores(self, cores: float | None) -> None:
        """None: no limit. Not an error on a node that is down."""

    def throttled(self) -> Throttled: ...

    def limit_memory(self, headroom_mb: int | None) -> None:
        """So that it has so much left beyond ``own_mb``; None: what it was started with. The kernel may kill the node."""

    def memory(self) -> MemoryUse: ...

    def killed(self) -> str:
        """When the kernel last killed it for want of memory, also when it was started again since; "" never."""


@runtime_checkable
class Clocked(Protocol):
    """A node whose wall clock can be moved while it runs, if it was started with the equipment ``clock``. Its monotonic
    clock goes on as it did."""

    def clock_moves(self) -> bool:
        """Whether it was started with that."""

    def move_clock(self, offset_s: float, drift: float = 0.0) -> None:
        """It jumps by so much, and gains so many seconds per second from now on; 0, 0: the true time. Works on a node
        that is down, too."""

    def clock_ahead(self) -> tuple[float, float]:
        """How far a fresh process on the node sees its date ahead of the true one, and the error of that, in seconds.
        Raises EnvironmentProblem where it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """What a fresh connection through a link saw.

    connected: the TCP connection was accepted. answered: the broker's protocol answered the greeting.
    ended: the connection was "refused", closed ("fin") or reset ("rst") before the deadline, else "".
    rtt_ms: until the answer. sent: octets of the greeting. octets: of the answer, as far as it came. pieces: how many
    reads they came in. whole_ms: until the last of them. After a longer greeting (``Link.exchange``) answered means all
    of the answer.
    """

    connected: bool
    answered: bool
    ended: str
    rtt_ms: float | None
    sent: int = 0
    octets: int = 0
    pieces: int = 0
    whole_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """The first words of a protocol, as probes speak them.

    greeting: its first octets, which a node answers.
    longer: a greeting of some ``LONGER_OCTETS``: a node has answered all of it only after its last octet has arrived.
    whole: whether these octets are the whole answer to that.
    """

    greeting: bytes
    longer: bytes = field(repr=False)  # it may let somebody in
    whole: Callable[[bytes], bool]


#: Long enough to be timed and to be cut in its middle, short enough for what a node takes from a stranger.
LONGER_OCTETS = 2000


def framed(answer: bytes) -> bool:
    """Whether this is a whole frame that starts with its length in four octets (Kafka, RocketMQ's remoting)."""
    return len(answer) >= 4 and len(answer) >= 4 + int.from_bytes(answer[:4], "big")


class Link(Protocol):
    """One client link: a proxy between one client group and one node (or gateway). Through Toxiproxy, or memory's own."""

    name: str  # "<group>-<node>"
    group: str
    node: str
    address: tuple[str, int]

    def disable(self) -> None:
        """Refuses new connections, closes those that are there."""

    def enable(self) -> None: ...

    def add_toxic(self, kind: str, stream: str, **attributes: int) -> str:
        """kind and attributes as in Toxiproxy; stream: ``upstream`` (client to broker) or ``downstream``. Returns the
        toxic's name, which no other has: several of a kind can be on one link."""

    def remove_toxic(self, name: str) -> None:
        """Takes that one away; no error when it is gone."""

    def clear_toxics(self) -> None:
        """Takes all away, whoever added them."""

    def silence(self) -> None:
        """Drops every packet of the link, both ways, for connections that are there and new ones; nobody is told."""

    def unsilence(self) -> None:
        """Ends that; safe to call twice."""

    def greet(self, timeout_s: float) -> Greeted:
        """Opens a fresh connection through the link and speaks the protocol's first words. Never raises."""

    def exchange(self, timeout_s: float) -> Greeted:
        """As ``greet``, with a longer greeting, and reads its whole answer. Never raises."""


#: What can be done to the links between nodes; each is healed on its own.
PeerTrouble = Literal["cut", "loss", "rate"]
#: (source, destination)
Direction = tuple[str, str]


def both_ways(left: Collection[str], right: Collection[str]) -> frozenset[Direction]:
    """All directions between these two groups of nodes."""
    return frozenset({*product(left, right), *product(right, left)})


class PeerLinks(Protocol):
    """The network between the nodes of a cluster. What clients send and are sent is not touched."""

    #: Those of its nodes that keep copies of messages; others (a name server) only help.
    replicas: Sequence[str]

    def cut(self, directions: Collection[Direction], name: str = "") -> None:
        """Drops every packet of these. name: by which this one is healed; what two have in common is dropped until both
        are. So with the others; they do not add up."""

    def lose(self, directions: Collection[Direction], percent: int, name: str = "") -> None:
        """Drops that share of the packets of these, at random."""

    def slow(self, directions: Collection[Direction], rate_kb_s: int, name: str = "") -> None:
        """Lets no more through than so many kilobytes (1000 octets) a second in each of these. Raises EnvironmentProblem
        while another one is on: a node has one queue."""

    def heal(self, trouble: PeerTrouble = "cut", name: str = "") -> None:
        """Removes that one, without a name every one of these; safe to call twice, and on nodes that are down."""

    def ordered(self, trouble: PeerTrouble) -> frozenset[Direction]:
        """The directions that were given and not healed: what was ordered, not what is."""

    def reach(self) -> Mapping[Direction, bool]:
        """Whether a packet of the source arrives (not: whether an answer comes back)."""

    def arriving(self, datagrams: int) -> Mapping[Direction, float]:
        """Share of so many datagrams that arrives."""

    def throughput(self, octets: int, timeout_s: float) -> Mapping[Direction, float]:
        """At how many kB/s a transfer of so many octets arrives, in all directions at once; 0 for nothing."""


@runtime_checkable
class Cluster(Protocol):
    """A running cluster. Kept by the pool; any process of the run can attach to it by name."""

    product: str
    version: str
    topology: str
    nodes: Mapping[str, Node]
    peers: PeerLinks | None
    #: True when clients run as threads of this process (memory).
    in_process: bool
    #: Whether the final read finds what consumers have settled, too: then it is a consumer group of its own.
    keeps_consumed: bool
    #: How long it takes at most until an unsettled message of a dead consumer is given to another.
    redelivery_s: float

    def links(self, group: str) -> Sequence[Link]:
        """The links of a client group, one per node (or one, for a gateway)."""

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """What a load process of the group needs to connect, as JSON; with the name of a destination, its
        leader's address first. Never holds a direct address of a node."""

    def create(self, destination: Destination, name: str) -> None:
        """Declares the destination and waits until a message went through it and came back, through the proxy."""

    def delete(self, destination: Destination, name: str) -> None:
        """Deletes it; no error when it is gone or the broker is."""

    def leader(self, name: str, partition: int = 0) -> str:
        """The node that leads the destination now."""

    def replicas(self, name: str) -> Sequence[str]:
        """The nodes that are to hold a copy of the destination's first partition, in sync or not, the leader first."""

    def wait_healthy(self, timeout_s: float) -> None:
        """Until every node is in, replicas are in sync, and a message went through the proxy and came back.
        Raises DeadlineError with the last state seen."""

    def sync(self) -> None:
        """syncfs of the nodes' data, never a global sync (lane age, design section 5)."""

    def observe(self, names: Sequence[str]) -> Json:
        """Leaders, controller, in-sync replicas …: recorded with every fault."""

    def settings(self) -> Json:
        """The settings that differ from the product's defaults, in the vendor's words, and version facts."""

    def save_logs(self, folder: Path) -> None:
        """What every container has logged since the last time, one file each."""

    def close(self) -> None:
        """Removes everything; safe to call twice."""


class Router(Protocol):
    """Routes messages through one exchange type of a real broker, for claims over generated cases."""

    def route(self, binding_keys: Sequence[str], routing_keys: Sequence[str]) -> list[set[int]]:
        """For each routing key the indices of the binding keys whose queue got a copy."""


class SupportsRouting(Protocol):
    """What a cluster with the capability ``exchanges`` offers as well."""

    def router(self, exchange_type: str) -> AbstractContextManager[Router]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One message of a case. exchange "" is the default one; key is then the queue's name."""

    exchange: str
    key: str = ""
    body: str
    persistent: bool = True
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """What came back on the channel of some messages. returned: bodies.  ended: error class of what closed the channel; ""
    nothing did.  blocked: the broker said that it takes nothing from this connection now."""

    confirms: tuple[Confirm, ...] = ()
    returned: tuple[str, ...] = ()
    ended: str = ""
    blocked: bool = False

    @property
    def answer(self) -> str:
        """To a single message: the words that came, in order; ``nothing`` where none did."""
        words = ["returned"] * len(self.returned) + [frame.word for frame in self.confirms]
        return " and ".join(words + ["blocked"] * self.blocked + ([self.ended] if self.ended else [])) or "nothing"


class Wiring(Protocol):
    """Exchanges, queues and bindings of a case, under names of its own; deleted with the case. A string argument that begins
    with ``@`` stands for such a name."""

    def exchange(
        self, name: str, type: str = "direct", *, durable: bool = True, arguments: Json | None = None
    ) -> None: ...
    def queue(self, name: str, *, durable: bool = True, arguments: Json | None = None) -> None: ...
    def bind(self, queue: str, exchange: str, key: str = "") -> None: ...
    def delete_queue(self, name: str) -> None: ...

    def there(self, exchange: str) -> bool:
        """Whether the broker has that exchange."""

    def send(self, messages: Sequence[Publish], *, confirm: bool = True) -> Sent:
        """On a channel that nothing was sent on before, in one write; waits until all are answered, or for some seconds."""

    def take(self, queue: str) -> list[str] | None:
        """The bodies that are in the queue at this moment, which has none of them afterwards; None: there is no such queue."""

    def memory_alarm(self) -> AbstractContextManager[None]:
        """Every node's alarm is on in this block."""

    def minority(self) -> AbstractContextManager[None]:
        """In this block all nodes stand still but the one that this talks to. Raises EnvironmentProblem where it is alone."""

    def restart(self, how: str) -> None:
        """Takes all nodes down, by ``kill`` or ``stop``, and starts them again; healthy when it returns."""


class SupportsWiring(Protocol):
    """What a cluster offers whose parts can be used one by one: exchanges and queues by a ``Wiring``, others by their own."""

    def wiring(self) -> AbstractContextManager[Any]: ...


@runtime_checkable
class Adjustable(Protocol):
    """What the cluster of a product with ``live_settings`` offers as well."""

    def adjust(self, settings: Json) -> None:
        """Puts these of the live settings into force, and the defaults of the others; returns when the nodes say so.
        Raises ProvisionError when one does not."""


@runtime_checkable
class Perishing(Protocol):
    """What a cluster offers that has destinations which are gone when their node's process is."""

    def perishes(self, destination: Destination) -> bool:
        """Whether this is one of them. It is made for its own trial only: not ahead, with other trials' faults before it."""


@runtime_checkable
class Locates(Protocol):
    """What a cluster offers whose nodes can be asked, each by itself, which messages they have."""

    def locate(
        self, lanes: Mapping[str, Destination], marks: Mapping[bytes, tuple[str, int]], deadline: float
    ) -> Mapping[str, Mapping[bytes, Where]]:
        """Node -> mark -> where. Nodes that are down are looked into as well, as far as that can be done.

        lanes: the destinations by their names on the broker.
        marks: of ``message.mark``, with the destination's name and the partition it was sent to, -1 where not known.
        deadline: of ``time.monotonic``; what was not looked at by then says so.
        """


@runtime_checkable
class MemoryAlarmed(Protocol):
    """What the cluster of a product that watches its own memory, and raises an alarm, offers as well."""

    def raise_memory_alarm(self, node: str) -> None:
        """Lets the node take so little memory that it raises its alarm, by the product's own setting."""

    def clear_memory_alarm(self, node: str) -> None:
        """Gives back what the node was configured with; no error when it is down, it then starts with that."""

    def memory_alarm(self, node: str) -> tuple[bool, str]:
        """Whether the node says that its alarm is on, and what else it says. Raises EnvironmentProblem."""


@runtime_checkable
class TellsTime(Protocol):
    """What the cluster of a product that tells a broker's own time offers as well."""

    def own_clock(self, node: str) -> tuple[float, float, str] | None:
        """How far the broker on that node sees its time of day ahead of this process', the error of that, both in
        seconds, and what was asked; None where it has no way to tell now. Raises EnvironmentProblem without an answer."""


@runtime_checkable
class Segmented(Protocol):
    """What a cluster whose nodes keep messages in files offers as well."""

    def segments(self, node: str, name: str) -> Sequence[str]:
        """Where that node keeps the messages of a destination: globs from the root of its disk, the best one first."""


class Broker(Protocol):
    """A product. ``BROKER`` in ``cluster.py`` of its package."""

    product: str
    #: Versions it is tested with, the default first.
    versions: tuple[str, ...]
    #: topology name -> one line that explains it; the default first.
    topologies: Mapping[str, str]
    #: What claims and faults may ask for, e.g. "peers", "three_nodes" (that keep messages), "dedup", "transactions",
    #: "several_consumers_per_lane".
    capabilities: frozenset[str]
    #: Capability -> the versions that have it, as ``versions.applies`` reads them; all have what is not named.
    capability_versions: Mapping[str, str]
    #: Settings that a running cluster takes: plans that differ in these alone share a cluster.
    live_settings: frozenset[str]

    def start(self, *, version: str, topology: str, settings: Json, name: str, run: str,
              progress: Callable[[str], None], equipment: Sequence[str] = ()) -> Cluster:  # fmt: skip
        """Starts a cluster called ``name`` (container prefix) labelled with ``run``; ready when it returns.
        equipment: see ``Plan.equipment``; a product that cannot have it raises UsageError.
        Raises ProvisionError with the last log lines of what did not start, and leaves nothing behind."""

    def attach(self, *, version: str, topology: str, settings: Json, name: str, run: str) -> Cluster:
        """A handle on a cluster of that name that another process started."""


@dataclass(frozen=True, slots=True)
class Noted:
    """One line of a look at a target. status: ``ok``, ``warning`` or ``missing``. next_step: "" where nothing is to do."""

    status: str
    name: str
    seen: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a target says of itself. version: "" where nobody answered."""

    version: str
    notes: tuple[Noted, ...]


class Thing(NamedTuple):
    """Something that was made on a target. kind: ``queue``, ``exchange``, ``topic``, ``group``."""

    kind: str
    name: str


#: Called before each request; returns when it may be sent.
Pacing = Callable[[], object]


def unpaced() -> None:
    """At once."""


@runtime_checkable
class Adopts(Protocol):
    """What a product offers that can stand on a cluster which somebody else runs, see ``target``."""

    #: Those of the product's capabilities that need no hand on a node.
    adopted_capabilities: frozenset[str]

    def version_of(self, target: Target) -> str:
        """As the broker says. Raises EnvironmentProblem where nobody answers, UsageError where it lets us not in."""

    def inspect(self, target: Target) -> Inspected:
        """Connects to each node, directly; makes something under our prefix, and removes it again. Never raises."""

    def foreign(self, target: Target) -> str:
        """What others have under our prefix, in a sentence; "" nothing that can be seen."""

    def adopt(self, target: Target, *, version: str, topology: str, name: str, run: str, attach: bool,
              progress: Callable[[str], None]) -> Cluster:  # fmt: skip
        """A cluster by way of proxies of our own. attach: to proxies of that name that another process started."""

    def remove(self, target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
        """Deletes these, directly; returns those that are gone now, also those that had been."""


def adopting(product: str) -> Adopts:
    """Raises UsageError where the product cannot stand on a cluster that somebody else runs."""
    found = broker(product)
    if not isinstance(found, Adopts):
        raise UsageError(f"{product} cannot be a target; `brokerproof run --broker {product}` starts one of our own")
    return found


def without(product: str, version: str, needs: Sequence[str]) -> list[str]:
    """Which of these capabilities that version of the product has not."""
    found = broker(product)
    where = found.capability_versions
    return sorted(
        need
        for need in needs
        if need not in found.capabilities or (need in where and not applies(where[need], product, version))
    )


def products() -> tuple[str, ...]:
    """The products there are: the folders beside this file."""
    here = [str(Path(__file__).parent)]
    return tuple(sorted(m.name for m in pkgutil.iter_modules(here) if m.ispkg))


def broker(product: str) -> Broker:
    """Imports the product's cluster module. Raises UsageError, naming what exists, when there is none."""
    if product not in products():
        raise unknown("broker", product, products())
    module = importlib.import_module(f"brokerproof.brokers.{product}.cluster")
    found: Broker = module.BROKER
    return found


def parse_target(text: str) -> tuple[str, str]:
    """``PRODUCT[=VERSION]`` as product and version, its newest tested one by default. Raises UsageError for what does not
    exist."""
    product, _, version = text.partition("=")
    versions = broker(product).versions
    if version and version not in versions:
        raise unknown(f"version of {product}", version, versions)
    return product, version or versions[0]


# -- what load processes run ---------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Job:
    """What every load process is given.

    endpoint: of ``Cluster.endpoint``.  destination: its name on the broker.  lane: number of its first lane.
    partitions: how many lanes it has.  stopping: true once the process was asked to end its part.
    report: hands one JSON-able fact to the harness, e.g. ``report(connected=True)``.
    prefix: what the names of all destinations of the trial begin with.
    """

    endpoint: Json
    destination: str
    kind: str
    lane: int
    partitions: int
    tape: Tape
    seed: int
    trial_number: int
    stopping: Callable[[], bool]
    report: Callable[..., None]
    destination_settings: Json = field(default_factory=dict)
    prefix: str = ""

    def verifier(self) -> Verifier:
        return Verifier(trial=self.trial_number, seed=self.seed)


@dataclass(slots=True, kw_only=True)
class SendJob(Job):
    """``send(job)``: sends until ``pace`` is over or ``stopping()``, waits ``sender.timeout_s`` for answers, returns."""

    sender: Sender
    pace: Pace
    bodies: Bodies


@dataclass(slots=True, kw_only=True)
class ReceiveJob(Job):
    """``receive(job)``: consumes until ``stopping()``, then finishes what is in hand and returns. Reports
    ``connected=True`` as soon as messages can come.

    work: does the work on one message and has its effect: called with (msg, key, lane); writes the ``effect`` row.
    None: the receiver has no effect.
    """

    receiver: Receiver
    work: Callable[[int, int, int], None] | None


@dataclass(slots=True, kw_only=True)
class ReadJob(Job):
    """``read(job)``: the final read, by a fresh client, until the product's own rule says drained (design section 7).

    Writes ``receive`` rows, and ``control`` rows "drained" with the lane for every lane that was emptied; a lane that
    is gone gets a ``control`` row "definition_lost". Returns at ``deadline_s`` at the latest.
    """

    deadline_s: float


#: A time that does not come: the start of a schedule whose gate is closed.
_NOT_YET = 1 << 62


class Pace:
    """The open-loop schedule of one sender: which messages are due. It never waits for answers.

    first: the number of its first message; no other sender of the trial has numbers from it on.
    first_due_ns: when that message is due, on the tape's clock.
    gate: where the start is not known yet, asked on every call until it returns ``first_due_ns``: a client that asks
        for messages is connected, and all clients of a trial start together, however long one took to connect.
    """

    def __init__(
        self, *, rate_per_s: float | None, count: int | None, load_ns: int, keys: int, first: int = 0,
        first_due_ns: int = 0,
        gate: Callable[[], int | None] | None = None,
    ):  # fmt: skip
        self._rate = rate_per_s
        self._count = count
        self._load_ns = load_ns
        self._gate = gate
        self._begin = first
        self._first = _NOT_YET if gate is not None else first_due_ns
        self._end_ns = self._first + load_ns
        self._keys = keys
        #: The number of the next message.
        self.sent = first

    def _started(self) -> bool:
        if self._gate is not None:
            first = self._gate()
            if first is None:
                return False
            self._gate, self._first, self._end_ns = None, first, first + self._load_ns
        return True

    @property
    def _so_far(self) -> int:
        return self.sent - self._begin

    def take(self, now_ns: int, at_most: int) -> int:
        """How many further messages are due at ``now_ns``, at most ``at_most``; the caller must send them.
        Their numbers follow on from ``sent`` before the call."""
        if not self._started():
            return 0
        if self._rate is None:
            due = at_most if self._first <= now_ns < self._end_ns else 0
        else:
            until = min(now_ns, self._end_ns) - self._first
            due = min(at_most, max(0, int(until * self._rate / 1e9) - self._so_far))
        if self._count is not None:
            due = min(due, self._count - self._so_far)
        self.sent += due
        return due

    def over(self, now_ns: int) -> bool:
        """Whether no further message will be due."""
        if self._count is not None and self._so_far >= self._count:
            return True
        if self._rate is None:
            return now_ns >= self._end_ns
        return self._so_far >= int((self._end_ns - self._first) * self._rate / 1e9) and now_ns >= self._end_ns

    def due_ns(self, msg: int) -> int:
        """When message ``msg`` was due; -1 without a rate."""
        return -1 if self._rate is None else self._first + int((msg - self._begin + 1) * 1e9 / self._rate)

    def due_many(self, first: int, n: int) -> npt.NDArray[np.int64] | int:
        if self._rate is None:
            return -1
        nth = first - self._begin + 1
        return self._first + (np.arange(nth, nth + n) * (1e9 / self._rate)).astype(np.int64)

    def key(self, msg: int) -> int:
        return msg % self._keys if self._keys else -1

    def keys(self, first: int, n: int) -> npt.NDArray[np.int32]:
        if not self._keys:
            return np.full(n, -1, dtype=np.int32)
        return (np.arange(first, first + n) % self._keys).astype(np.int32)


class ClientModule(Protocol):
    """``brokers/<product>/client.py``."""

    def send(self, job: SendJob) -> None: ...
    def receive(self, job: ReceiveJob) -> None: ...
    def read(self, job: ReadJob) -> None: ...


def client(product: str) -> ClientModule:
    """Imports the product's client module; only load processes do that."""
    module: Any = importlib.import_module(f"brokerproof.brokers.{product}.client")
    found: ClientModule = module
    return found


@dataclass(frozen=True, slots=True)
class Meaning:
    """One line of a broker's outcome table: what a client error says about the operation, and why.

    outcome: ``fail`` only where the operation definitely did not happen; what is not in the table is ``info``.
    """

    outcome: str
    because: str


# -- what safe and unsafe mean for a product ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Configurations:
    """``brokers/<product>/configurations.py``: the settings that claims speak of, in the product's own words.

    A claim that names no setting of one product ("an acknowledged message survives") is written once, and takes what
    is meant from here: ``CONFIGURATIONS``.

    topology: the one whose nodes faults break.  destination: the safest queue or topic it offers.
    confirmed: a sender that hears of each message.  unconfirmed: fire and forget, one setting different.
    dedup: what the product offers so that a message sent twice is kept once; equal to ``confirmed`` where nothing is.
    no_dedup: the same sender without it.
    ordered_destination, ordered_sender: what the product needs to keep order at all.
    ack_after, ack_first, ack_auto: receivers that acknowledge after the work, before it, or not themselves.
    several: what is laid over destination, senders and receivers so that several consumers serve one queue.
    slow_ms: work of a consumer that is too slow for two messages of one key at the rate of ``ordered_sender``.
    rate_per_s: a load that one client can hold without effort.  pace: factor on every duration of a plan.
    """

    topology: str
    destination: Destination
    confirmed: Json
    unconfirmed: Json
    dedup: Json
    no_dedup: Json
    ordered_destination: Destination
    ordered_sender: Json
    ack_after: Json
    ack_first: Json
    ack_auto: Json
    several: Json
    rate_per_s: float
    pace: float = 1.0
    slow_ms: float = 40.0


def configurations(product: str) -> Configurations:
    """Imports the product's configurations; no client library and no engine comes with them."""
    if product not in products():
        raise unknown("broker", product, products())
    module: Any = importlib.import_module(f"brokerproof.brokers.{product}.configurations")
    found: Configurations = module.CONFIGURATIONS
    return found
