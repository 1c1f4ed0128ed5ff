"""What a node is started with: its properties, its log configuration, its start script. Pure.

Every property that differs from the vendor's default stands in ``BASE`` or ``REPLICATED``, with the reason; a plan's
``settings`` go on top, and ``Cluster.settings`` reports the sum.
Source: https://kafka.apache.org/documentation/#brokerconfigs
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

DATA = "/var/lib/kafka/data"
PROPERTIES = "/opt/brokerproof/node.properties"
START = "/opt/brokerproof/start.sh"
LOGGING = {True: "/opt/brokerproof/log4j2.properties", False: "/opt/brokerproof/log4j.properties"}

#: Container port of each client group's listener. A client is told the address of the listener it came in by, so a
#: group that is to have a link of its own needs a listener of its own.
PORTS = {"producer": 19091, "consumer": 19092, "sham": 19093, "admin": 19094}
_PEERS, _CONTROLLERS = 9092, 9093
#: Client group, and container port, of the listener that asks for authentication: there only where settings name it.
SASL, SASL_PORT = "sasl", 19095

BASE: Mapping[str, str] = {
    # Creation on first use would hide a lane that was lost.
    "auto.create.topics.enable": "false",
    # Nothing may leave a log but what a fault takes.
    "log.retention.ms": "-1",
    # A dead or isolated broker is fenced, and its partitions get new leaders, after the session times out (default
    # 9000); a restarted one waits for its old session as well. The heartbeat (default 2000) has to fit in often.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    # After a network partition is healed, nodes hold on to connections and attempts of before it, whose packets TCP
    # sends again at ever longer intervals: give up and connect anew soon (defaults 10000, 30000, 30000, 30000).
    "socket.connection.setup.timeout.ms": "1000",
    "socket.connection.setup.timeout.max.ms": "2000",
    "controller.socket.timeout.ms": "3000",
    "replica.socket.timeout.ms": "3000",
    # How long a follower that does not fetch stays in the ISR while its broker's session lives (default 30000).
    "replica.lag.time.max.ms": "10000",
    # Leaders move by faults only, not by a check every five minutes.
    "auto.leader.rebalance.enable": "false",
    # A group's first member need not wait for others (default 3000).
    "group.initial.rebalance.delay.ms": "0",
    # Killed members are missed after 6 s, as in the classic protocol's minimum (default 45000), in all protocols.
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.share.session.timeout.ms": "6000",
    "group.share.min.session.timeout.ms": "6000",
    "group.share.heartbeat.interval.ms": "1000",
    "group.share.min.heartbeat.interval.ms": "1000",
    # A killed share consumer's records are given to another after this (default 30000).
    "group.share.record.lock.duration.ms": "5000",
    "group.share.min.record.lock.duration.ms": "1000",
    # An abandoned transaction is aborted within about a second of its timeout (default 10000).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # The default 50 partitions of each internal topic make their first use slow and prove nothing more.
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.num.partitions": "3",
}

_INTERNAL = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")


def with_sasl(settings: Mapping[str, Any]) -> bool:
    """Whether there is a listener SASL: where a setting is about it."""
    return any(key.startswith("listener.name.sasl.") for key in settings)


def node_ids(names: Sequence[str]) -> dict[str, int]:
    """Node id of each node: k1 is 1."""
    return {name: i + 1 for i, name in enumerate(names)}


def changed(nodes: int, settings: Mapping[str, Any]) -> dict[str, str]:
    """The properties that differ from the vendor's defaults, the plan's on top."""
    copies = min(3, nodes)
    internal = {f"{topic}.replication.factor": str(copies) for topic in _INTERNAL}
    internal |= {f"{topic}.min.isr": str(max(1, copies - 1)) for topic in _INTERNAL[1:]}
    return {**BASE, "default.replication.factor": str(copies), **internal, **{k: str(v) for k, v in settings.items()}}


def properties(
    node: str, nodes: Sequence[str], advertised: Mapping[str, tuple[str, int]], settings: Mapping[str, Any]
) -> str:
    """server.properties of one node. advertised: client group -> address of its link to this node."""
    ids = node_ids(nodes)
    listeners = {group.upper(): port for group, port in PORTS.items()}
    if with_sasl(settings):
        listeners[SASL.upper()] = SASL_PORT
    inside = {"PEERS": _PEERS, "CONTROLLERS": _CONTROLLERS}
    told = {group.upper(): f"{host}:{port}" for group, (host, port) in advertised.items()}
    lines = {
        # Brokers and controllers in one process: three nodes, and any one can be isolated while the other two keep a
        # quorum. That a lane's leader is not the active controller is seen to when the topic is made.
        "process.roles": "broker,controller",
        "node.id": str(ids[node]),
        "controller.quorum.voters": ",".join(f"{i}@{name}:{_CONTROLLERS}" for name, i in ids.items()),
        "listeners": ",".join(f"{name}://:{port}" for name, port in (listeners | inside).items()),
        "advertised.listeners": ",".join(f"{n}://{a}" for n, a in (told | {"PEERS": f"{node}:{_PEERS}"}).items()),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'SASL_PLAINTEXT' if name == SASL.upper() else 'PLAINTEXT'}" for name in listeners | inside
        ),
        "inter.broker.listener.name": "PEERS",
        "controller.listener.names": "CONTROLLERS",
        "log.dirs": DATA,
        **changed(len(nodes), settings),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def cluster_id(name: str) -> str:
    """A cluster id that every node can work out by itself; 16 bytes, as the storage tool makes them."""
    digest = hashlib.sha256(name.encode()).digest()
    return "b" + base64.urlsafe_b64encode(digest).decode()[1:22]


def files(version: str, props: str, name: str, heap_mb: int) -> dict[str, str]:
    """What is put into the container before it starts."""
    log4j2 = int(version.split(".")[0]) >= 4
    logging = LOGGING[log4j2]
    option = f"-Dlog4j2.configurationFile={logging}" if log4j2 else f"-Dlog4j.configuration=file:{logging}"
    start = _SCRIPT.format(heap_mb=heap_mb, logging=option, data=DATA, properties=PROPERTIES, id=cluster_id(name))
    return {PROPERTIES: props, START: start, logging: _LOG4J2 if log4j2 else _LOG4J}


# The serial collector and the first compiler only: on a small machine a node is ready in half the time and a third
# of the memory. The class archives (JEP 350), where the image has them, save another half of the start; they are used
# only by a process with the class path that they were made with, so it is spelled out, in the shell's sorted order.
_SCRIPT = """\
set -e
cp=$(printf '%s:' /opt/kafka/libs/*.jar)
java_with() {{
    archive=/opt/kafka/$1.jsa; shift
    [ -e "$archive" ] && archive="-XX:SharedArchiveFile=$archive -Xlog:cds=off -Xlog:cds+dynamic=off" || archive=
    exec java -Xmx{heap_mb}m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError \\
        $archive {logging} -cp "$cp" "$@"
}}
if [ ! -e {data}/meta.properties ]; then
    (java_with storage kafka.tools.StorageTool format --ignore-formatted -t {id} -c {properties})
fi
java_with kafka kafka.Kafka {properties}
"""

_LOG4J2 = """\
status = warn
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = OUT
# Every property of every client and broker, at each start: a thousand lines that Cluster.settings tells in ten.
logger.values.name = org.apache.kafka.common.config.AbstractConfig
logger.values.level = WARN
logger.own.name = kafka.server.KafkaConfig
logger.own.level = WARN
"""

_LOG4J = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
log4j.logger.org.apache.kafka.common.config.AbstractConfig=WARN
log4j.logger.kafka.server.KafkaConfig=WARN
"""
