"""R2 Name server. Reference: name server design document, request codes."""

from __future__ import annotations

import itertools
import time
from typing import Any

from brokerproof.conformance.case import case, error, must
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.scene import RocketmqScene
from brokerproof.wire import rocketmq as wire

_DOCUMENT = "name server design document"


@case(
    "R2.01", "rocketmq/route-unknown-topic",
    requirement="A route query for a topic that does not exist gets 17.",
    reference="GET_ROUTEINFO_BY_TOPIC (105)", level="?", accepts={"": error(codes.TOPIC_NOT_EXIST)},
)  # fmt: skip
def test_route_unknown_topic(scene: RocketmqScene) -> None:
    server = scene.name_server()
    scene.saw("", server.seen(server.call(codes.GET_ROUTEINFO_BY_TOPIC, {"topic": scene.fresh("unknown")})))


def _there(scene: RocketmqScene, topic: str, node: str = "") -> bool | None:
    """Whether the name server's route has a broker for the topic; None where it does not answer."""
    to = scene.admin(node or scene.place.name_servers[0])
    answer = to.call(codes.GET_ROUTEINFO_BY_TOPIC, {"topic": topic, "acceptStandardJsonOnly": True})
    if answer is None:
        return None
    if answer.code != codes.SUCCESS or not answer.body:
        return False
    return any(data.get("brokerAddrs") for data in wire.loads(answer.body).get("brokerDatas") or ())


@case(
    "R2.02", "rocketmq/broker-registration",
    requirement="A broker registers at least every 30 s; when it is killed, or its packets vanish, its route is gone (for vanished "
    "packets not before 120 s and within 150 s of the last registration that came through), and back within 30 s of recovery.",
    reference=_DOCUMENT, level="MUST", tags=("slow", "destructive"), timing=True, limit_s=320,
    variants=("kill", "timeout"),
    accepts={"registers": must("every 30 s at least"), "gone": must("in its time"), "back": must("within 30 s")},
    records=("seconds between registrations", "gone after", "back after"),
)  # fmt: skip
def test_broker_registration(scene: RocketmqScene) -> None:
    topic, broker, server = scene.topic(), scene.place.brokers[0], scene.place.name_servers[0]
    since = time.time()
    scene.pause(62)
    times = scene.place.registrations(server, broker, since)
    # What lies before the first and after the last one counts too: two at once and then none would be no heartbeat.
    gaps = [scene.measured(b - a) for a, b in itertools.pairwise([since, *times, time.time()])]
    scene.record("seconds between registrations", [round(gap, 1) for gap in gaps[1:-1]])
    # 1 s for the clocks of the log lines.
    shown = f"{len(times)} in 62 s, {[round(g, 1) for g in gaps]} s apart"
    scene.require("registers", len(times) >= 2 and max(gaps) <= 31, shown)
    silent = scene.variant == "timeout"
    if silent:
        scene.finally_(scene.place.heal)
        scene.place.cut([broker], [server])
    else:
        scene.place.kill(broker)
    ended = time.time()
    gone = scene.within(lambda: _there(scene, topic) is False, 170 if silent else 30, every_s=0.5)
    # A name server counts from the last registration that reached it; what became of a broken connection it sees at once.
    last = max(scene.place.registrations(server, broker, since), default=None) if silent else ended
    if last is None:
        scene.inconclusive("no registration was seen before the packets vanished")
    after = None if gone is None else scene.measured(time.time() - last)
    shown = f"{'last registration' if silent else 'kill'}"
    scene.record("gone after", "not" if after is None else f"{after:.1f} s from the {shown}")
    in_time = after is not None and (not silent or 120 <= after <= 150)
    scene.require("gone", in_time, "never" if after is None else f"{after:.1f} s after the {shown}")
    scene.place.heal()
    if not silent:
        scene.place.start(broker)
    back = scene.within(lambda: _there(scene, topic) is True, 60, every_s=0.5)
    scene.record("back after", "not" if back is None else f"{back:.1f} s")
    scene.require("back", back is not None and back <= 30, "never" if back is None else f"after {back:.1f} s")


@case(
    "R2.03", "rocketmq/nameservers-independent",
    requirement="With two name servers of which one is cut off from a broker: what each answers to a route query over 180 s, and "
    "whether they ever talk to each other.",
    reference=_DOCUMENT, level="unspecified", tags=("cluster", "destructive"), topology="two-masters", limit_s=240,
    records=("the one cut off", "the other", "connections between them"),
)  # fmt: skip
def test_nameservers_independent(scene: RocketmqScene) -> None:
    other, cut_off = scene.place.name_servers
    broker = scene.place.brokers[0]
    scene.finally_(scene.place.heal)
    scene.place.cut([broker], [cut_off])
    began, until = time.monotonic(), scene.window(180)
    gone: dict[str, str] = {}
    talked = False
    while time.monotonic() < until:
        for server in (other, cut_off):
            if server not in gone and broker not in _registered(scene, server):
                gone[server] = f"without the broker after {scene.measured(time.monotonic() - began):.0f} s"
        talked = talked or scene.place.connected(other, cut_off)
        scene.pause(5)
    scene.record("the one cut off", gone.get(cut_off, "with the broker for 180 s"))
    scene.record("the other", gone.get(other, "with the broker for 180 s"))
    scene.record("connections between them", "seen" if talked else "none seen")


def _registered(scene: RocketmqScene, server: str) -> list[str]:
    """The names of the brokers that the name server lists; as many as it may be, where it does not answer."""
    answer = scene.admin(server).call(codes.GET_BROKER_CLUSTER_INFO)
    if answer is None or answer.code != codes.SUCCESS:
        return list(scene.place.brokers)
    table: dict[str, Any] = wire.loads(answer.body).get("brokerAddrTable") or {}
    return list(table)


@case(
    "R2.04", "rocketmq/client-route-refresh",
    requirement="How often the client library in use asks for routes, and the seconds from a new broker's registration to the "
    "first message on it.",
    reference="client configuration pollNameServerInterval", level="unspecified", tags=("slow", "cluster", "destructive"),
    topology="two-masters", limit_s=300, records=("seconds between route queries", "first message on a new broker after"),
)  # fmt: skip
def test_client_route_refresh(scene: RocketmqScene) -> None:
    if scene.scale != 1:
        scene.skip("the client library's timers cannot be made to run faster")
    scene.record("seconds between route queries", scene.library.route_queries_apart(75))
    topic, late = scene.topic(queues=2), scene.place.brokers[1]
    scene.place.kill(late)
    server = scene.place.name_servers[0]
    scene.until(lambda: late not in _registered(scene, server), 60, "the second broker gone")
    with scene.library.sending(topic):
        since = time.time()
        scene.place.start(late)
        scene.until(lambda: bool(scene.place.registrations(server, late, since)), 60, "the second broker registered")
        registered = scene.place.registrations(server, late, since)[0]
        took = scene.within(lambda: any(scene.end_offset(topic, q, late) for q in range(2)), 120)
    scene.record(
        "first message on a new broker after",
        "not within 120 s" if took is None else f"{time.time() - registered:.1f} s",
    )
