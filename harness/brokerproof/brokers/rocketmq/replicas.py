"""Who answers reads and writes: each broker asked by itself, by the remoting protocol, past the gateway."""

from __future__ import annotations

import contextlib

from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.cluster import RocketmqCluster
from brokerproof.errors import DeadlineError
from brokerproof.plan import Destination
from brokerproof.waiting import wait_until

_TOPIC = "bp-case-replicas"
_GROUP = "bp-case"
_COPIED_S = 10.0


def refuses(cluster: RocketmqCluster, broker: str, *, slave_reads: bool) -> dict[str, str]:
    """What that broker says to a write, and to a read from the beginning of a topic that has a message: "refused" with its code,
    or "served".

    slave_reads: whether ``slaveReadEnable`` is on at that broker meanwhile; off, the default, afterwards.
    """
    destination = Destination(name="t", kind="queue", settings={"message.type": "NORMAL", "queues": 1})
    cluster.create(destination, _TOPIC)
    try:
        with cluster.talk(broker) as to:
            to.call(remoting.UPDATE_BROKER_CONFIG, {}, f"slaveReadEnable={str(slave_reads).lower()}\n".encode())
            try:
                return {"read": _read(to), "write": _write(to)}
            finally:
                to.call(remoting.UPDATE_BROKER_CONFIG, {}, b"slaveReadEnable=false\n")
    finally:
        cluster.delete(destination, _TOPIC)


def _read(to: remoting.Connection) -> str:
    def end() -> tuple[int, int]:
        return remoting.offsets_of(to, _TOPIC, 1)[0]

    # The copy may come a moment later; and what is refused is told by the pull, not by this.
    with contextlib.suppress(DeadlineError):
        wait_until(
            lambda: end()[1] > end()[0], _COPIED_S, "the message to be copied", retry_on=(remoting.RemotingError,)
        )
    try:
        low, high = end()
        answer = to.call(remoting.PULL_MESSAGE, remoting.pull_fields(_GROUP, _TOPIC, 0, low))
    except remoting.RemotingError as exc:
        return f"refused, code {exc.code}"
    return "served" if high > low and list(remoting.stored(answer.body)) else "nothing there"


def _write(to: remoting.Connection) -> str:
    try:
        to.call(remoting.SEND_MESSAGE_V2, remoting.send_fields(_GROUP, _TOPIC, 0, {}), b"brokerproof-probe")
    except remoting.RemotingError as exc:
        return f"refused, code {exc.code}"
    return "served"
