"""What a node is started with: ``rabbitmq.conf``, environment, plugins.

Broker settings of a plan are keys of ``rabbitmq.conf`` in the vendor's words. Three forms go elsewhere: a key in
CAPITALS is an environment variable (``LD_PRELOAD``, ``RABBITMQ_...``), ``advanced.config`` is that file's text, and
``enabled_plugins`` a list of plugins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

AMQP_PORT = 5672
DATA = "/var/lib/rabbitmq"
MEMORY_MB = 1024

# The official image no longer writes RABBITMQ_ERLANG_COOKIE to the file that erl_call and the command-line tools read,
# so the file is written here; the entry point of either image gives it to the rabbitmq user.
START = """
cookie=/var/lib/rabbitmq/.erlang.cookie
[ -e "$cookie" ] || { printf '%s' "$BROKERPROOF_COOKIE" > "$cookie"; chmod 600 "$cookie"; }
exec docker-entrypoint.sh rabbitmq-server
"""

_EVERYWHERE = {
    "loopback_users": "none",
    "log.console": "true",
    # RabbitMQ 4.0 sizes this by the machine's memory and does not see the container's limit.
    "vm_memory_high_watermark.absolute": f"{MEMORY_MB * 6 // 10}MiB",
    # The write-ahead log of quorum queues is held in memory as well, 512 MiB by default: too much for the limit above.
    # Source: https://www.rabbitmq.com/docs/quorum-queues#resource-use
    "raft.wal_max_size_bytes": str(64 * 1024 * 1024),
}
_CLUSTER = {
    # 60 s by default: a shorter partition would pass unseen. https://www.rabbitmq.com/docs/nettick
    "net_ticktime": "15",
    # What the vendor recommends for three nodes in one place. https://www.rabbitmq.com/docs/partitions#options
    "cluster_partition_handling": "pause_minority",
    "cluster_formation.peer_discovery_backend": "classic_config",
}
# Schedulers that spin while they wait take the processor from the other nodes on a small machine; six of them made the
# start of a cluster a fifth slower. https://www.rabbitmq.com/docs/runtime#thread-stats
_ENVIRONMENT = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"}
_ELSEWHERE = frozenset({"advanced.config", "enabled_plugins"})


def changed(nodes: Sequence[str], settings: Json) -> dict[str, str]:
    """``rabbitmq.conf`` as far as it differs from the defaults."""
    lines = dict(_EVERYWHERE)
    if len(nodes) > 1:
        lines |= _CLUSTER
        lines |= {f"cluster_formation.classic_config.nodes.{i}": f"rabbit@{n}" for i, n in enumerate(nodes, start=1)}
    return lines | {k: _text(v) for k, v in settings.items() if k not in _ELSEWHERE and not k.isupper()}


def files(nodes: Sequence[str], settings: Json) -> dict[str, str]:
    lines = "".join(f"{key} = {value}\n" for key, value in changed(nodes, settings).items())
    found = {"/etc/rabbitmq/rabbitmq.conf": lines}
    if "advanced.config" in settings:
        found["/etc/rabbitmq/advanced.config"] = str(settings["advanced.config"])
    if "enabled_plugins" in settings:
        found["/etc/rabbitmq/enabled_plugins"] = f"[{','.join(settings['enabled_plugins'])}].\n"
    return found


def environment(node: str, cluster: str, settings: Json) -> dict[str, str]:
    # Anything will do as a cookie: only this cluster's own network reaches its nodes.
    cookie = hashlib.sha256(cluster.encode()).hexdigest()[:20].upper()
    own = {"RABBITMQ_NODENAME": f"rabbit@{node}", "BROKERPROOF_COOKIE": cookie}
    return {**_ENVIRONMENT, **own, **{k: _text(v) for k, v in settings.items() if k.isupper()}}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
