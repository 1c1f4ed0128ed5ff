"""What name servers are told and tell: registrations, heartbeats, routes, connections; and how sends spread over them.

    beats                 when a broker registered with a name server, by that one's own log
    gone_after            how long until the routes of every name server are without a broker that something happened to
    spread                how many messages each queue of each broker got
    connections           how many connections a broker has to each name server, by the kernel's table
    starts_without_routes whether a client that starts while all name servers are down can send

Only for clusters that are this process' own; each leaves the cluster as healthy as it found it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from brokerproof.brokers.base import both_ways
from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.cluster import RocketmqCluster
from brokerproof.brokers.rocketmq.configuration import NAME_SERVER_PORT
from brokerproof.brokers.rocketmq.gateway import Gateway, GatewayError
from brokerproof.errors import DeadlineError, HarnessError
from brokerproof.plan import Destination
from brokerproof.runtime.node import ContainerNode
from brokerproof.waiting import wait_until

#: RocketMQ's own number of a registration, in the name server's log line "receive request, 103 address". Source:
#: RequestCode.java, DefaultRequestProcessor.java.
_REGISTER = re.compile(r"^(\S+?)(\d{9})Z .*receive request, 103 /?([\d.]+):\d+ ", re.MULTILINE)
_PROBE_TOPIC = "brokerproof-probe"
_NOT_YET = (OSError, remoting.RemotingError, remoting.ProtocolError, GatewayError)
_HEALTHY_S = 120.0


def registrations(log: str) -> list[tuple[float, str]]:
    """(seconds since 1970, address) of each registration in a name server's log, with the engine's time stamps."""
    return [
        (datetime.fromisoformat(f"{second}+00:00".replace(".+", "+")).timestamp() + int(nanos) / 1e9, address)
        for second, nanos, address in _REGISTER.findall(log)
    ]


def beats(cluster: RocketmqCluster, name_server: str, broker: str, since: float) -> list[float]:
    """When that broker registered with that name server, from a moment in seconds since 1970 on."""
    address = _node(cluster, broker).address
    log = _node(cluster, name_server).logs()
    return [at for at, sender in registrations(log) if sender == address and at >= since]


def gaps_over(cluster: RocketmqCluster, broker: str, for_s: float) -> dict[str, list[float]]:
    """Name server -> seconds between that broker's registrations with it, watched for so long."""
    since = time.time()
    wait_until(lambda: time.time() - since >= for_s, for_s + 5, "heartbeats to be counted", interval_s=0.2)
    found = {name: beats(cluster, name, broker, since) for name in cluster.name_servers}
    return {name: [round(b - a, 2) for a, b in itertools.pairwise(times)] for name, times in found.items()}


def gone_after(cluster: RocketmqCluster, what: Mapping[str, str], limit_s: float) -> dict[str, float | None]:
    """Broker -> seconds until no name server's route led to it; None: some did at the end of the limit.

    what: broker -> what happens to it: ``kill``, ``pause``, ``partition`` (from the name servers), ``nothing``. Healed
    afterwards.
    """
    found: dict[str, float | None] = dict.fromkeys(what)
    with contextlib.ExitStack() as healing:
        healing.callback(cluster.wait_healthy, _HEALTHY_S)
        for broker, how in what.items():
            healing.enter_context(_happening(cluster, broker, how))
        start = time.monotonic()

        def all_gone() -> bool:
            routed = {name for server in cluster.name_servers for name in _route(cluster, server)}
            for broker in what:
                if broker not in routed and found[broker] is None:
                    found[broker] = round(time.monotonic() - start, 2)
            return None not in found.values()

        with contextlib.suppress(DeadlineError):
            wait_until(all_gone, limit_s, "the routes to change", interval_s=0.1, retry_on=_NOT_YET)
    return found


def _happening(cluster: RocketmqCluster, broker: str, how: str) -> AbstractContextManager[Any]:
    node = cluster.nodes[broker]
    if how == "kill":
        return _between(node.kill, node.start)
    if how == "pause":
        return _between(node.pause, node.unpause)
    if how == "partition":
        peers = cluster.peers
        assert peers is not None
        cut = both_ways([broker], list(cluster.name_servers))
        return _between(lambda: peers.cut(cut), peers.heal)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _between(begin: Callable[[], None], end: Callable[[], None]) -> Any:
    try:
        begin()
        yield
    finally:
        end()


def _route(cluster: RocketmqCluster, name_server: str, topic: str = _PROBE_TOPIC) -> Mapping[str, int]:
    try:
        with cluster.talk(name_server) as to:
            return remoting.route(to, topic)
    except remoting.RemotingError as exc:
        if exc.code == remoting.TOPIC_NOT_EXIST:
            return {}
        raise


def spread(
    cluster: RocketmqCluster, *, messages: int, ordered: bool = False, down: Sequence[str] = (), patience_s: float = 0.0
) -> dict[str, list[int]]:
    """Broker -> how many of so many messages each of its queues got, of the brokers that are up; all were acknowledged.

    ordered: one message group, whose messages go to one queue.  down: nodes that are dead meanwhile, for ``patience_s``
    before the first send: until then the client has asked for the routes again.  Raises HarnessError where a send failed.
    """
    from brokerproof.brokers.rocketmq import library  # the client library

    kind = "FIFO" if ordered else "NORMAL"
    destination = Destination(name="spread", kind="queue", settings={"message.type": kind, "queues": 4})
    topic = f"brokerproof-spread-{time.monotonic_ns():x}"
    cluster.create(destination, topic)
    with contextlib.ExitStack() as healing:
        healing.callback(cluster.wait_healthy, _HEALTHY_S)
        for name in down:
            healing.enter_context(_between(cluster.nodes[name].kill, cluster.nodes[name].start))
        start = time.monotonic()
        wait_until(
            lambda: time.monotonic() - start >= patience_s, patience_s + 5, "routes to be asked for", interval_s=0.2
        )
        up = [broker for broker in cluster.brokers if broker not in down]
        before = {broker: _ends(cluster, broker, topic) for broker in up}
        producer = library.rocketmq.Producer(library.configuration(cluster.endpoint("admin"), 3), [topic])
        producer.startup()
        try:
            for number in range(messages):
                message = library.rocketmq.Message()
                message.topic, message.body = topic, b"%d" % number
                if ordered:
                    message.message_group = "one"
                producer.send(message)
        except Exception as exc:  # the library raises bare Exception
            raise HarnessError(f"sending message {number} of {messages} to {topic!r}: {exc}") from exc
        finally:
            library.shut(producer)
        after = {broker: _ends(cluster, broker, topic) for broker in up}
    cluster.delete(destination, topic)
    return {b: [high - low for low, high in zip(before[b], after[b], strict=True)] for b in up}


def _ends(cluster: RocketmqCluster, broker: str, topic: str) -> list[int]:
    with cluster.talk(broker) as to:
        return [high for _, high in remoting.offsets_of(to, topic, remoting.queues_of(to, topic))]


def connections(cluster: RocketmqCluster, broker: str) -> dict[str, int]:
    """Name server -> how many connections the broker has to it."""
    code, table = _node(cluster, broker).execute(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
    if code:
        raise HarnessError(f"reading the connections of {broker!r}: exit code {code}, {table[:200]!r}")
    peers = established(table)
    return {name: peers.count((_node(cluster, name).address, NAME_SERVER_PORT)) for name in cluster.name_servers}


def established(table: str) -> list[tuple[str, int]]:
    """(IPv4 address, port) at the other end of each established connection of a ``/proc/net/tcp`` or ``tcp6``.

    Source: docs.kernel.org/networking/proc_net_tcp.html; state 01, addresses as words in the host's order."""
    found = []
    for line in table.splitlines():
        words = line.split()
        if len(words) < 4 or words[3] != "01":
            continue
        host, _, port = words[2].partition(":")
        raw = b"".join(struct.pack("=I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8))
        found.append((str(ip_address(raw[-4:])), int(port, 16)))
    return found


def starts_without_routes(cluster: RocketmqCluster, for_s: float, *, name_servers_down: bool = True) -> float | None:
    """Seconds until a message passed through a client that was started anew, the gRPC proxy; None: none did in that time."""
    passed: float | None = None
    with contextlib.ExitStack() as healing:
        healing.callback(cluster.wait_healthy, _HEALTHY_S)
        healing.callback(cluster.renew_gateway)
        for name in cluster.name_servers if name_servers_down else ():
            healing.enter_context(_between(cluster.nodes[name].kill, cluster.nodes[name].start))
        cluster.gateway.kill()
        cluster.gateway.start()
        start = time.monotonic()

        def passes() -> bool:
            with Gateway(cluster.gateway_address) as gateway:
                gateway.pass_through(_PROBE_TOPIC, "NORMAL", _PROBE_TOPIC)
            return True

        with contextlib.suppress(DeadlineError):
            wait_until(passes, for_s, "a message to pass", interval_s=0.2, retry_on=_NOT_YET)
            passed = round(time.monotonic() - start, 2)
    return passed


def _node(cluster: RocketmqCluster, name: str) -> ContainerNode:
    node = cluster.nodes[name]
    assert isinstance(node, ContainerNode)
    return node
