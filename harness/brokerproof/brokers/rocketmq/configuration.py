"""What the processes of a RocketMQ cluster are started with: commands, files, and the settings that differ from default.

Settings are the vendor's words. A plan's settings go to every broker; ``m1.`` or ``proxy.`` before one sends it to
that node alone. Source: BrokerConfig.java, MessageStoreConfig.java, ProxyConfig.java of apache/rocketmq.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brokerproof.runtime.node import NodeSpec

CLUSTER = "brokerproof"
NAME_SERVER, GATEWAY = "ns", "p1"
NAME_SERVER_PORT, GATEWAY_PORT = 9876, 8081
BROKER_PORT, HA_PORT, CONTROLLER_PORT, RAFT_PORT = 10911, 10912, 9878, 40911
STORE = "/home/rocketmq/store"
_HOME = "/home/rocketmq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a topology is made of.

    sets: the nodes of each set of brokers that share a name, which is the first one's; that one is the master, unless
        there is a controller, which chooses, or they choose among themselves.
    controller: whether the name server has one in it, which elects another master when the one there is dies.
    raft: whether the brokers are a DLedger group, which elects its leader itself.
    """

    explained: str
    sets: tuple[tuple[str, ...], ...]
    name_servers: tuple[str, ...] = (NAME_SERVER,)
    controller: bool = False
    raft: bool = False

    @property
    def brokers(self) -> tuple[str, ...]:
        return tuple(node for nodes in self.sets for node in nodes)

    @property
    def elected(self) -> bool:
        """Whether the master may be any of its set."""
        return self.controller or self.raft

    def set_of(self, node: str) -> tuple[str, ...]:
        return next(nodes for nodes in self.sets if node in nodes)

    def complete(self, registered: Mapping[str, int]) -> bool:
        """Whether all brokers are registered, one of each set as its master; without a controller that is the first.

        registered: node -> id, as a name server has it: 0 is a master."""
        if set(registered) != set(self.brokers):
            return False
        led = [[node for node in nodes if registered[node] == 0] for nodes in self.sets]
        if self.elected:
            return all(len(masters) == 1 for masters in led)
        return led == [[nodes[0]] for nodes in self.sets]


LAYOUTS: Mapping[str, Layout] = {
    "single": Layout(explained="name server, one master broker, gRPC proxy", sets=(("b1",),)),
    "master-slave": Layout(
        explained="name server, a master and its slave (asynchronous unless brokerRole=SYNC_MASTER), gRPC proxy",
        sets=(("m1", "s1"),),
    ),
    "controller": Layout(
        explained="name server with a controller in it, two brokers of which it makes one the master, gRPC proxy",
        sets=(("b1", "b2"),), controller=True,
    ),
    "controller-three": Layout(
        explained="name server with a controller in it, three brokers of which it makes one the master, gRPC proxy",
        sets=(("b1", "b2", "b3"),), controller=True,
    ),
    "dledger": Layout(
        explained="name server, three brokers whose log is a DLedger group's and elects its leader, gRPC proxy",
        sets=(("b1", "b2", "b3"),), raft=True,
    ),
    "two-masters": Layout(
        explained="two name servers, two masters without slaves, gRPC proxy",
        sets=(("b1",), ("b2",)), name_servers=(NAME_SERVER, "ns2"),
    ),
}  # fmt: skip

_BROKER: Mapping[str, Any] = {
    "brokerClusterName": CLUSTER,
    "listenPort": BROKER_PORT,
    "haListenPort": HA_PORT,
    "storePathRootDir": STORE,
    "autoCreateTopicEnable": False,
    # 1 GB and 6 MB files, allocated ahead of use, are for servers; a trial writes a few megabytes.
    "mappedFileSizeCommitLog": 16 << 20,
    "mappedFileSizeConsumeQueue": 600_000,
    "mappedFileSizeTimerLog": 4 << 20,
    # The timer wheel compares 40 MB with its file at each flush; at the default of 1 s that alone takes 15 % of a core.
    "timerFlushIntervalMs": 5000,
    # A send that waited 200 ms for its turn is refused (SYSTEM_BUSY); six JVMs starting on two cores do that alone.
    "waitTimeMillsInSendQueue": 2000,
    # On a disk that is 85 % full the default deletes fresh messages: that would be our machine's fault, not the broker's.
    "cleanFileForciblyEnable": False,
}
#: What the replication of a running master hangs on, with the defaults; both are read for every message. Source:
#: CommitLog.java, ``needHandleHA`` and ``getInSyncReplicas``.
LIVE: Mapping[str, Any] = {"brokerRole": "ASYNC_MASTER", "inSyncReplicas": 1}
_PROXY: Mapping[str, Any] = {
    "rocketMQClusterName": CLUSTER,
    "proxyClusterName": CLUSTER,
    "proxyMode": "cluster",
    # Clients are sent back to the port they came to, which is their link's.
    "useEndpointPortFromRequest": True,
    # A consumer that is gone without a word is missed after this (default 120 s; clients send a heartbeat every 10 s), at
    # the next look, which is taken every 10 s. Until then what it holds is kept for it.
    "channelExpiredTimeout": 15000,
    # 5 s by default: a consumer that is asked to stop would sit in its poll for that long.
    "grpcClientConsumerMinLongPollingTimeoutMillis": 500,
}
# The flags of a small, quickly started JVM. A self-signed certificate, made at start for TLS that nobody uses, takes
# a second and a half of each: off. Source: TlsSystemConfig "tls.server.mode".
_OPTIONS = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto",
    "-Dtls.server.mode=disabled", f"-Drmq.logback.configurationFile={_HOME}/log.xml",
)  # fmt: skip
# The class archives (JEP 350), where the image has them, halve the start; they are used only by a process with the class
# path that they were made with, so it is spelled out, in the shell's sorted order.
_START = """\
archive={home}/{part}.jsa
[ -e "$archive" ] && set -- -XX:SharedArchiveFile="$archive" -Xlog:cds=off -Xlog:cds+dynamic=off "$@"
exec java -cp "$(printf '%s:' {home}/lib/*.jar)" "$@"
"""
# Everything to the console, where the harness finds it, of the name server each request that it gets too; but not the loggers that say the same every second; of a stack
# only the top, since the proxy writes a whole one, some thirty lines, for each request that meets a dead broker.
_LOG = """<configuration>
  <appender name="console" class="org.apache.rocketmq.logging.ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5p %c{0} %m%n%ex{3}</pattern></encoder>
  </appender>
  <logger name="RocketmqNamesrv" level="DEBUG"/>
  <logger name="RocketmqRemoting" level="WARN"/>
  <logger name="RocketmqPop" level="WARN"/>
  <logger name="RocketmqPopLite" level="WARN"/>
  <logger name="RocketmqWaterMark" level="OFF"/>
  <logger name="RocketmqNamesrvWaterMark" level="OFF"/>
  <logger name="RocketmqProxyWatermark" level="OFF"/>
  <logger name="RocketmqTraffic" level="OFF"/>
  <logger name="RocketmqStats" level="OFF"/>
  <root level="INFO"><appender-ref ref="console"/></root>
</configuration>
"""


def broker_settings(
    topology: str, node: str, addresses: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The broker's configuration file as a mapping, the plan's settings last."""
    layout = LAYOUTS[topology]
    first, *slaves = layout.set_of(node)
    made: dict[str, Any] = {
        **_BROKER, "brokerName": first, "namesrvAddr": name_servers(topology, addresses),
        "brokerIP1": addresses[node], "brokerIP2": addresses[node],
    }  # fmt: skip
    if layout.controller:
        made |= {"enableControllerMode": True, "controllerAddr": f"{addresses[NAME_SERVER]}:{CONTROLLER_PORT}"}
    elif layout.raft:
        # Source: DLedgerCommitLog.java; docs/en/dledger/deploy_guide.md.
        peers = ";".join(f"n{i}-{addresses[n]}:{RAFT_PORT}" for i, n in enumerate(layout.set_of(node)))
        made |= {
            "enableDLegerCommitLog": True, "dLegerGroup": first, "dLegerPeers": peers,
            "dLegerSelfId": f"n{layout.set_of(node).index(node)}", "sendMessageThreadPoolNums": 4,
        }  # fmt: skip
    else:
        made["brokerId"] = layout.set_of(node).index(node)
    made.update({name: value for name, value in settings.items() if "." not in name})
    if node in slaves and not layout.elected:
        # Not haMasterAddress: 5.5.0 reads it before its replication service exists, and then never connects.
        made["brokerRole"] = "SLAVE"
    made.update(_own(node, settings))
    return made


def proxy_settings(topology: str, addresses: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The gRPC proxy's configuration file as a mapping."""
    return {**_PROXY, "namesrvAddr": name_servers(topology, addresses), **_own("proxy", settings)}


def name_servers(topology: str, addresses: Mapping[str, str]) -> str:
    return ";".join(f"{addresses[name]}:{NAME_SERVER_PORT}" for name in LAYOUTS[topology].name_servers)


def name_server_settings(
    topology: str, node: str, addresses: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The name server's configuration file as a mapping; its controller's is the same file. Source: NamesrvStartup.java,
    ControllerConfig.java."""
    made: dict[str, Any] = {"listenPort": NAME_SERVER_PORT}
    if LAYOUTS[topology].controller:
        made |= {
            "enableControllerInNamesrv": True, "controllerDLegerGroup": CLUSTER, "controllerDLegerSelfId": "n0",
            "controllerDLegerPeers": f"n0-{addresses[node]}:{CONTROLLER_PORT}",
            "controllerStorePath": f"{_HOME}/controller",
            # 1 GB, written ahead of use, for an entry whenever a master changes.
            "mappedFileSize": 4 << 20,
        }  # fmt: skip
    return {**made, **_own(node, settings)}


def _own(node: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{node}.")}


def text(settings: Mapping[str, Any]) -> str:
    """A Java properties file."""
    return "".join(f"{name}={word(value)}\n" for name, value in settings.items())


def word(value: Any) -> str:
    """A value as Java writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def name_server(image: str, version: str, node: str, settings: Mapping[str, Any]) -> NodeSpec:
    path = f"{_HOME}/namesrv.conf"
    main = ["namesrv.NamesrvStartup", "-c", path]
    return _spec(node, image, version, heap_mb=96, memory_mb=400, main=main, files={path: text(settings)})


def broker(image: str, version: str, node: str, settings: Mapping[str, Any]) -> NodeSpec:
    path = f"{_HOME}/broker.conf"
    main = ["broker.BrokerStartup", "-c", path]
    files = {path: text(settings)}
    return _spec(node, image, version, heap_mb=512, memory_mb=1200, main=main, files=files, data=(STORE,))


def gateway(image: str, version: str, settings: Mapping[str, Any]) -> NodeSpec:
    path = f"{_HOME}/rmq-proxy.json"
    main = ["proxy.ProxyStartup", "-pm", "cluster", "-pc", path]
    return _spec(GATEWAY, image, version, heap_mb=256, memory_mb=700, main=main, files={path: json.dumps(settings)})


def _spec(node: str, image: str, version: str, *, heap_mb: int, memory_mb: int, main: list[str],
          files: Mapping[str, str], data: Sequence[str] = ()) -> NodeSpec:  # fmt: skip
    home = f"{_HOME}/rocketmq-{version}"
    command = [
        "sh", "-c", _START.format(home=home, part=main[0].partition(".")[0]), "java",
        *_OPTIONS, f"-Xms{heap_mb // 2}m", f"-Xmx{heap_mb}m", f"-XX:MaxDirectMemorySize={heap_mb}m",
        f"org.apache.rocketmq.{main[0]}", *main[1:],
    ]  # fmt: skip
    return NodeSpec(
        name=node, image=image, command=command, environment={"ROCKETMQ_HOME": home},
        files={f"{_HOME}/log.xml": _LOG, **files}, memory_mb=memory_mb, data=data,
    )  # fmt: skip
