"""After a negative case: what is not as before. The same questions to a cluster and to the reference."""

from __future__ import annotations

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.errors import HarnessError


def unlike_before(scene: RocketmqScene, bystander: Remote | None) -> str:
    """What is wrong now, in a sentence; empty where nothing is.

    bystander: a connection to the broker that was open and idle all the while."""
    topics, groups = [t for t in scene.topics if t != scene.spoilt], list(scene.groups)
    if bystander is not None:
        frame = bystander.call(codes.GET_BROKER_RUNTIME_INFO)
        if frame is None or frame.code != codes.SUCCESS:
            return f"another connection to the broker, open all the while: {bystander.seen(frame)}"
    try:
        server = scene.spared("second-ns", scene.place.name_servers[0])
        frame = server.call(codes.GET_BROKER_CLUSTER_INFO)
        if frame is None or frame.code != codes.SUCCESS:
            return f"a new connection to the name server: {server.seen(frame)}"
        second = scene.spared("second")
    except HarnessError as exc:
        return f"a new connection: {exc}"
    probe = scene.topic("probe")
    frame = scene.send(second, probe, b"probe")
    if frame is None or frame.code != codes.SUCCESS:
        return f"a new connection sends a probe: {second.seen(frame)}"
    if scene.appears(probe, lambda m: m.body == b"probe", 10) is None:
        return "a probe message was taken and is not there"
    if scene.traces and scene.within(lambda: not set(scene.traces) & set(scene.members(scene.trace_group)), 10) is None:
        return "connections that ended in the middle of a frame are still held: their members are listed"
    gone = [t for t in topics if not scene.exists(t)] + [g for g in groups if not scene.group_exists(g)]
    return f"no longer there: {', '.join(gone)}" if gone else ""
