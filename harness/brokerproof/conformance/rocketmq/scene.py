"""The scene of RocketMQ's cases: connections, fresh topics and groups, the usual requests, and how to say what came.

Times given in seconds are the broker's (``Scene.seconds``). Waiting for what has to come lasts a second of ours at
least: a reference peer's clock runs faster, this machine does not.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from brokerproof.brokers.rocketmq import access
from brokerproof.conformance.case import CUT, Case, Seen
from brokerproof.conformance.link import OutOfTime
from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.place import Address, Place
from brokerproof.conformance.rocketmq.proxy import Answer, Proxy
from brokerproof.conformance.scene import Scene
from brokerproof.errors import HarnessError
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.library import ClientLibrary

#: How long an answer may take before it is said that none came.
ANSWER_S = 10.0
#: Of our time, at least, where something is waited for that has to come.
LEAST_S = 1.0


class Remote:
    """One remoting connection. came: (seconds on the monotonic clock, request) of what the peer has asked of us.

    cuts: whether what is sent comes through in part only, and is the last."""

    def __init__(self, scene: RocketmqScene, address: Address, name: str, codec: int, cuts: bool = False) -> None:
        self.scene, self.name, self.codec, self.cuts = scene, name, codec, cuts
        self.link = scene.link(address, name)
        self.came: list[tuple[float, Frame]] = []
        #: Every response, also one that nobody waited for, or a second one to the same request.
        self.answers: list[Frame] = []
        self.broken = ""
        self._decoder = wire.Decoder()
        self._opaques = itertools.count(1)
        self._waiting: dict[int, Frame] = {}

    # -- out -----------------------------------------------------------------------------------------------------------

    def ask(
        self, code: int, fields: Mapping[str, Any] | None = None, body: bytes = b"", *, oneway: bool = False
    ) -> int:
        """Sends a request, signed where the broker asks for that; its opaque, which ``wait`` takes."""
        asked = wire.request(code, next(self._opaques), fields or {}, body, oneway=oneway, codec=self.codec)
        frame = access.signed(self.scene.place.access, asked)
        told = access.tellable(frame)
        self.raw(frame.encode(), str(told), tellable=told.encode())
        return frame.opaque

    def raw(self, octets: bytes, what: str, *, tellable: bytes | None = None) -> None:
        """tellable: the octets that the log has in their place."""
        if self.cuts:
            shown = None if tellable is None else self.scene.cut_short(tellable)
            self.link.cut(self.scene.cut_short(octets), decoded=what, tellable=shown)
        else:
            self.link.send(octets, decoded=what, tellable=tellable)

    def reply(self, to: Frame, code: int = 0, fields: Mapping[str, Any] | None = None) -> None:
        """Answers what the peer asked of us."""
        frame = wire.answer(to, code, fields)
        self.link.send(frame.encode(), decoded=str(frame))

    # -- in ------------------------------------------------------------------------------------------------------------

    def wait(self, opaque: int, within_s: float = ANSWER_S) -> Frame | None:
        """The response to a request; None: none came in time, or the connection ended."""
        until = self.scene.patience(within_s)
        while opaque not in self._waiting:
            if not self.pump(until):
                return None
        return self._waiting.pop(opaque)

    def call(
        self, code: int, fields: Mapping[str, Any] | None = None, body: bytes = b"", *, within_s: float = ANSWER_S
    ) -> Frame | None:
        return self.wait(self.ask(code, fields, body), within_s)

    def told(self, code: int, within_s: float) -> tuple[float, Frame] | None:
        """The next request of that code from the peer, which is taken from ``came``."""
        until = self.scene.patience(within_s)
        while True:
            for one in self.came:
                if one[1].code == code:
                    self.came.remove(one)
                    return one
            if not self.pump(until):
                return None

    def pump(self, until: float) -> bool:
        """Takes in what comes next; False: nothing came until then (monotonic clock), or the connection ended."""
        data = self.link.receive(until)
        if not data or self.broken:
            return False
        try:
            frames = self._decoder.feed(data)
        except wire.ProtocolError as exc:
            self.broken = str(exc)
            self.link.frame("<", f"no frame: {exc}")
            return False
        for frame in frames:
            self.link.frame("<", str(frame))
            if frame.is_response:
                self.answers.append(frame)
                self._waiting[frame.opaque] = frame
            else:
                self.came.append((time.monotonic(), frame))
        return True

    def settle(self, for_s: float) -> None:
        """Takes in what comes for so long."""
        until = self.scene.window(for_s)
        while time.monotonic() < until and not self.link.ended:
            self.pump(until)

    @property
    def whole(self) -> bool:
        """Whether everything that came was whole frames."""
        return not self.broken and self._decoder.pending == 0

    def seen(self, frame: Frame | None) -> Seen:
        """An answer, or that there is none, as an observation."""
        if frame is not None:
            return Seen("answered", code=frame.code, detail=frame.remark[:160])
        if self.link.ended:
            return Seen("no answer", ending="eof" if self.link.ended == "eof" else "reset", scope="connection")
        return Seen(self.broken or "no answer", ending="open", scope="connection")

    def reaction(self, within_s: float | None = None) -> Seen:
        """After something forbidden: answered, or how the connection ended, within the case's window."""
        until = self.scene.patience(self.scene.window_s if within_s is None else within_s)
        before = len(self.answers)
        while len(self.answers) == before and self.pump(until):
            pass
        fresh = self.answers[before:]
        if fresh:
            return Seen("answered", code=fresh[0].code, detail=fresh[0].remark[:160])
        return self.seen(None)

    def close(self) -> None:
        self.link.close()


class RocketmqScene(Scene):
    """scene.name: begins the name of every topic and group."""

    def __init__(self, case: Case, *, place: Place, **more: Any) -> None:
        super().__init__(case, **more)
        self.place = place
        self._numbers = itertools.count(1)
        self._admins: dict[str, Remote] = {}
        self._readers: dict[str, str] = {}
        self._never = threading.Event()
        #: A topic that the case itself takes away; it is not missed afterwards.
        self.spoilt = ""
        self.topics: list[str] = []
        self.groups: list[str] = []
        #: As whom the connections on which frames are cut short are members of that group.
        self.traces: list[str] = []
        self.trace_group = ""

    # -- connections ---------------------------------------------------------------------------------------------------

    def patience(self, seconds: float) -> float:
        """The end, on the monotonic clock, of waiting for what has to come."""
        return time.monotonic() + (max(self.seconds(seconds), LEAST_S if self.scale < 1 else 0.0) if seconds else 0.0)

    def broker(self, name: str = "", *, node: str = "", codec: int = wire.JSON) -> Remote:
        """A fresh connection to the master, or to that node. Where frames are cut short, what is sent by it is; before that it says
        that it is a member of a group, by which others see whether the broker still holds it."""
        made = self._remote(name or f"broker-{next(self._numbers)}", node or self.place.master(), codec)
        if self.condition == CUT:
            if not self.traces:
                self.trace_group = self.group("held")
            self.traces.append(self.fresh("trace"))
            self.done(self.heartbeat(made, self.traces[-1], group=self.trace_group), "a heartbeat")
            made.cuts = True
        return made

    def name_server(self, name: str = "", *, node: str = "", codec: int = wire.JSON) -> Remote:
        """As ``broker``, but that a name server knows no members."""
        made = self._remote(name or f"ns-{next(self._numbers)}", node or self.place.name_servers[0], codec)
        made.cuts = self.condition == CUT
        return made

    def spared(self, name: str, node: str = "") -> Remote:
        """A fresh connection to the master, or to that node, on which no frame is cut short."""
        return self._remote(name, node or self.place.master(), wire.JSON)

    def controller(self) -> Remote:
        """A fresh connection to the controller."""
        remote = Remote(self, self.place.controller(), "controller", wire.JSON)
        self.finally_(remote.close)
        return remote

    def _remote(self, name: str, node: str, codec: int) -> Remote:
        remote = Remote(self, self.place.address(node), name, codec)
        self.finally_(remote.close)
        return remote

    def proxy(self, name: str = "proxy", client_id: str | None = None) -> Proxy:
        """A fresh gRPC client. client_id: None for one of its own, "" for none."""
        made = Proxy(self, self.place.proxy(), name, f"{self.name}-{name}" if client_id is None else client_id)
        self.finally_(made.close)
        return made

    @property
    def library(self) -> ClientLibrary:
        """The client library in use, to be measured itself."""
        from brokerproof.conformance.rocketmq.library import (
            ClientLibrary,  # starts threads of its own; few cases want it
        )

        return ClientLibrary(self.place.proxy, self.hold)

    def admin(self, node: str = "") -> Remote:
        """For what a case needs and does not judge; kept open."""
        node = node or self.place.master()
        kept = self._admins.get(node)
        if kept is not None:
            kept.pump(time.monotonic())  # notices its end, if that has come meanwhile
        if kept is None or kept.link.ended:
            kept = self._admins[node] = self._remote(f"admin-{node}", node, wire.JSON)
        return kept

    def done(self, frame: Frame | None, what: str) -> Frame:
        """The answer if it is a success; otherwise nothing can be judged: the case is inconclusive."""
        if frame is None or frame.code != codes.SUCCESS:
            said = "no answer" if frame is None else f"{frame.code} {frame.remark[:160]}"
            self.inconclusive(f"{what}: {said}")
        return frame

    def done_by(self, answer: Answer, what: str) -> Answer:
        """As ``done``, for a gRPC call."""
        if not answer.ok:
            self.inconclusive(f"{what}: {answer.seen()}")
        return answer

    def left(self, until: float) -> bool:
        """Whether that moment on the monotonic clock is still to come."""
        return time.monotonic() < until

    # -- topics and groups ---------------------------------------------------------------------------------------------

    def fresh(self, what: str = "t") -> str:
        """A name that nobody has; nothing is made."""
        name = f"{self.name}-{what}{next(self._numbers)}"
        self.way.named(name)
        return name

    def topic(self, what: str = "t", *, queues: int = 1, perm: int = 6, kind: str = "NORMAL", **attributes: str) -> str:
        """A fresh topic on every broker, known to every name server. kind: its ``message.type``."""
        name = self.fresh(what)
        self.topics.append(name)
        self.finally_(lambda: self._delete_topic(name))
        self.make_topic(name, queues=queues, perm=perm, kind=kind, **attributes)
        return name

    def make_topic(self, name: str, *, queues: int = 1, perm: int = 6, kind: str = "NORMAL", **attributes: str) -> None:
        """The topic as ``topic`` makes it, or with another permission than before."""
        for node in self.place.brokers:
            self.done(self.ask_for_topic(self.admin(node), name, queues=queues, perm=perm, kind=kind, **attributes), f"creating topic {name}")  # fmt: skip
        for server in self.place.name_servers:
            self.until(lambda at=server: self.routed(name, at), 10, f"topic {name} known to the name server")  # type: ignore[misc]  # bound early

    def routed(self, topic: str, server: str = "") -> bool:
        """Whether that name server, or the first, has a route to the topic."""
        to = self.admin(server or self.place.name_servers[0])
        frame = to.call(codes.GET_ROUTEINFO_BY_TOPIC, {"topic": topic, "acceptStandardJsonOnly": True})
        return frame is not None and frame.code == codes.SUCCESS

    def ask_for_topic(
        self, to: Remote, name: str, *, queues: int = 1, perm: int = 6, kind: str = "NORMAL", **attributes: str
    ) -> Frame | None:
        self.way.named(name)
        words = {"message.type": kind, **{k.replace("_", "."): v for k, v in attributes.items()}}
        return to.call(codes.UPDATE_AND_CREATE_TOPIC, {
            "topic": name, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": perm,
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
            "attributes": ",".join(f"+{k}={v}" for k, v in words.items()),
        })  # fmt: skip

    def _delete_topic(self, name: str) -> None:
        for node in (*self.place.brokers, *self.place.name_servers):
            code = codes.DELETE_TOPIC_IN_BROKER if node in self.place.brokers else codes.DELETE_TOPIC_IN_NAMESRV
            self._tidily(node, code, {"topic": name})

    def group(self, what: str = "g", *, retry_max: int = 16, orderly: bool = False, **attributes: str) -> str:
        """A fresh consumer group on every broker."""
        name = self.fresh(what)
        self.groups.append(name)
        self.finally_(lambda: self._delete_group(name))
        for node in self.place.brokers:
            answer = self.ask_for_group(self.admin(node), name, retry_max=retry_max, orderly=orderly, **attributes)
            self.done(answer, f"creating group {name}")
        return name

    def ask_for_group(
        self, to: Remote, name: str, *, retry_max: int = 16, orderly: bool = False, **attributes: str
    ) -> Frame | None:
        self.way.named(name)
        config = {
            "groupName": name, "consumeEnable": True, "consumeFromMinEnable": True, "consumeBroadcastEnable": True,
            "consumeMessageOrderly": orderly, "retryQueueNums": 1, "retryMaxTimes": retry_max, "brokerId": 0,
            "whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": True,
            "attributes": {f"+{k.replace('_', '.')}": v for k, v in attributes.items()},
        }  # fmt: skip
        return to.call(codes.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, json.dumps(config).encode())

    def _delete_group(self, name: str) -> None:
        for node in self.place.brokers:
            self._tidily(node, codes.DELETE_SUBSCRIPTIONGROUP, {"groupName": name, "cleanOffset": True})

    def remove_later(self, *, topic: str = "", group: str = "") -> None:
        """When the case ends: what it asked for without the help of ``topic`` or ``group``, should it be there."""
        if topic:
            self.finally_(lambda: self._delete_topic(topic))
        if group:
            self.finally_(lambda: self._delete_group(group))

    def _tidily(self, node: str, code: int, fields: Mapping[str, Any], body: bytes = b"") -> None:
        """Tidying up has no verdict: what it does not reach goes with the cluster."""
        try:
            self.deadline = max(self.deadline, time.monotonic() + 5)
            with_a_limit = Remote(self, self.place.address(node), f"tidy-{node}", wire.JSON)
            with_a_limit.call(code, fields, body, within_s=3)
            with_a_limit.close()
        except (HarnessError, OutOfTime, OSError, ValueError):
            self.log.note(f"request {code} {dict(fields)} on {node} was not done")

    # -- messages ------------------------------------------------------------------------------------------------------

    def send_fields(
        self, topic: str | None, words: Mapping[str, str] | None = None, *, queue: int | None = 0, group: str = "",
        code: int = codes.SEND_MESSAGE_V2, sys_flag: int = 0, reconsumed: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """The fields of codes 10, 310 and 320. Source: SendMessageRequestHeader.java, SendMessageRequestHeaderV2.java."""
        names = {
            "producerGroup": group or f"{self.name}-producer", "topic": topic, "defaultTopic": "TBW102",
            "defaultTopicQueueNums": 4, "queueId": queue, "sysFlag": sys_flag, "bornTimestamp": int(time.time() * 1000),
            "flag": 0, "properties": wire.message_properties(words or {}), "reconsumeTimes": reconsumed,
            "unitMode": False, "batch": code == codes.SEND_BATCH_MESSAGE,
        }  # fmt: skip
        if code == codes.SEND_MESSAGE:
            return names
        return dict(zip("abcdefghijkm", names.values(), strict=True))

    def send(
        self, to: Remote, topic: str, body: bytes = b"m", words: Mapping[str, str] | None = None, **more: Any
    ) -> Frame | None:
        within_s = more.pop("within_s", ANSWER_S)
        fields = self.send_fields(topic, words, **more)
        return to.call(more.get("code", codes.SEND_MESSAGE_V2), fields, body, within_s=within_s)

    def sent(self, to: Remote, topic: str, bodies: Iterable[bytes], words: Mapping[str, str] | None = None, **more: Any) -> list[Frame]:  # fmt: skip
        """As ``send``, one after the other; the case is inconclusive where one is not taken."""
        return [self.done(self.send(to, topic, body, words, **more), f"sending to {topic}") for body in bodies]

    def pull_fields(
        self, group: str, topic: str, *, offset: int | None = 0, queue: int = 0, n: int = 32, suspend_s: float = 0.0,
        expression: str = "*", kind: str = "TAG",
    ) -> dict[str, Any]:  # fmt: skip
        """A pull that brings its own subscription (sysFlag bit 2), and waits (bit 1) if it is told to."""
        return {
            "consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": n,
            "sysFlag": 4 | (2 if suspend_s else 0), "commitOffset": 0,
            "suspendTimeoutMillis": int(self.seconds(suspend_s) * 1000), "subscription": expression,
            "subVersion": int(time.time() * 1000), "expressionType": kind,
        }  # fmt: skip

    def pull(self, to: Remote, group: str, topic: str, **more: Any) -> Frame | None:
        within_s = ANSWER_S + more.get("suspend_s", 0.0)
        return to.call(codes.PULL_MESSAGE, self.pull_fields(group, topic, **more), within_s=within_s)

    def messages(self, frame: Frame | None) -> list[Stored]:
        """Of a pull's or a pop's answer; none where that is no success."""
        return [] if frame is None or frame.code != codes.SUCCESS else list(wire.stored(frame.body))

    def read(self, topic: str, *, queues: int = 1, node: str = "", group: str = "") -> list[Stored]:
        """Everything that is in a topic now, queue by queue, from its beginning, past filters and groups."""
        to, group = self.admin(node), group or self.reader(node)
        found: list[Stored] = []
        for queue in range(queues):
            offset, n = 0, 0
            while n < 1000:
                n += 1
                frame = self.pull(to, group, topic, offset=offset, queue=queue)
                got = self.messages(frame)
                found += got
                if got:
                    offset = got[-1].offset + 1
                elif frame is not None and frame.code == codes.PULL_OFFSET_MOVED and offset == 0:
                    offset = int(frame.fields["nextBeginOffset"])
                    if offset == 0:
                        break
                else:
                    break
        return found

    def reader(self, node: str = "") -> str:
        """A group for reading that is of no account, on that broker alone: another may be down."""
        node = node or self.place.master()
        if node not in self._readers:
            name = self._readers[node] = self.fresh("reader")
            self.finally_(
                lambda: self._tidily(node, codes.DELETE_SUBSCRIPTIONGROUP, {"groupName": name, "cleanOffset": True})
            )
            self.done(self.ask_for_group(self.admin(node), name), f"creating group {name}")
        return self._readers[node]

    def appears(self, topic: str, wanted: Callable[[Stored], bool], within_s: float, *, queues: int = 1, node: str = "") -> Stored | None:  # fmt: skip
        """The first message of the topic of that kind; None: none came within the time."""
        until = self.patience(within_s)
        while True:
            for message in self.read(topic, queues=queues, node=node):
                if wanted(message):
                    return message
            if time.monotonic() >= until:
                return None
            self._again_soon(0.2)

    def end_offset(self, topic: str, queue: int = 0, node: str = "") -> int | None:
        """One more than the highest offset; None where the broker does not say."""
        frame = self.admin(node).call(codes.GET_MAX_OFFSET, {"topic": topic, "queueId": queue})
        return int(frame.fields["offset"]) if frame is not None and frame.code == codes.SUCCESS else None

    def begin_offset(self, topic: str, queue: int = 0, node: str = "") -> int | None:
        """The lowest offset that the broker's index says it has; None where it does not say."""
        frame = self.admin(node).call(codes.GET_MIN_OFFSET, {"topic": topic, "queueId": queue})
        return int(frame.fields["offset"]) if frame is not None and frame.code == codes.SUCCESS else None

    def exists(self, topic: str, node: str = "") -> bool:
        """Whether the broker has the topic."""
        frame = self.admin(node).call(codes.GET_TOPIC_CONFIG, {"topic": topic})
        return frame is not None and frame.code == codes.SUCCESS

    def group_exists(self, group: str, node: str = "") -> bool:
        frame = self.admin(node).call(codes.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": group})
        return frame is not None and frame.code == codes.SUCCESS

    # -- clients -------------------------------------------------------------------------------------------------------

    def heartbeat(
        self, to: Remote, client: str, *, group: str = "", topics: Sequence[str] = (), model: str = "CLUSTERING",
        producer: str = "",
    ) -> Frame | None:  # fmt: skip
        """Says that this connection is that client: a consumer of the group, a producer of the producer group, or both."""
        subscriptions = [
            {"topic": t, "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": int(time.time() * 1000),
             "expressionType": "TAG", "classFilterMode": False} for t in topics
        ]  # fmt: skip
        consumers = [{
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": model,
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "subscriptionDataSet": subscriptions, "unitMode": False,
        }]  # fmt: skip
        data = {
            "clientID": client, "producerDataSet": [{"groupName": producer}] if producer else [],
            "consumerDataSet": consumers if group else [], "heartbeatFingerprint": 0, "withoutSub": False,
        }  # fmt: skip
        return to.call(codes.HEART_BEAT, {}, json.dumps(data).encode())

    def members(self, group: str, node: str = "") -> list[str]:
        """Client ids of the group, as the broker lists them."""
        frame = self.admin(node).call(codes.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
        if frame is None or frame.code != codes.SUCCESS:
            return []
        return sorted(wire.loads(frame.body)["consumerIdList"])

    def config(self, node: str = "") -> dict[str, str]:
        """GET_BROKER_CONFIG, on a connection of its own that has no other answers."""
        to = self._remote(f"settings-{next(self._numbers)}", node or self.place.master(), wire.JSON)
        with to.link.unlogged("the broker's settings, among which its credentials may be"):
            frame = self.done(to.call(codes.GET_BROKER_CONFIG), "asking for the broker's configuration")
            to.close()
        return wire.properties(frame.body)

    def set_so(self, name: str, value: Any) -> None:
        """The case is SKIP where the broker, which others may have set up, has another value there."""
        if (found := self.config().get(name)) != wire.word(value):
            self.skip(f"it takes a broker with {name}={wire.word(value)}, and this one has {found}")

    def configure(self, words: Mapping[str, Any], node: str = "") -> None:
        """UPDATE_BROKER_CONFIG, for settings that are read at each use; put back when the case ends."""
        before = {name: value for name, value in self.config(node).items() if name in words}
        text = "".join(f"{name}={wire.word(value)}\n" for name, value in words.items())
        back = "".join(f"{name}={value}\n" for name, value in before.items())
        self.done(self.admin(node).call(codes.UPDATE_BROKER_CONFIG, {}, text.encode()), f"setting {dict(words)}")
        target = node or self.place.master()
        self.finally_(lambda: self._tidily(target, codes.UPDATE_BROKER_CONFIG, {}, back.encode()))

    # -- time ----------------------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Lets so much of the broker's time go by; at most until the case's own is over."""
        self.hold(self.window(seconds))

    def hold(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            if self.stop() or time.monotonic() > self.deadline:
                raise OutOfTime("the case's time is over")
            self._never.wait(min(left, 0.05))

    def ours(self, seconds: float) -> float:
        """Seconds of ours in which something of so many of the broker's has to be done."""
        return max(self.seconds(seconds), 10.0)

    def until(self, condition: Callable[[], bool], within_s: float, what: str) -> float:
        """Waits for what the case needs; the broker's seconds that it took. Otherwise the case is inconclusive."""
        took = self.within(condition, within_s)
        if took is None:
            self.inconclusive(f"{what}: not within {within_s:g} s")
        return took

    def _again_soon(self, seconds: float) -> None:
        """Between two looks: however fast a reference peer's clock is, this machine has other things to do."""
        self.hold(time.monotonic() + max(self.seconds(seconds), 0.02))

    def within(
        self, condition: Callable[[], bool], within_s: float, every_s: float = 0.1, *, no_longer: bool = False
    ) -> float | None:
        """The broker's seconds until the condition was met; None: it was not. no_longer: for what must not come."""
        began, until = time.monotonic(), self.window(within_s) if no_longer else self.patience(within_s)
        while True:
            if condition():
                return round(self.measured(time.monotonic() - began), 3)
            if time.monotonic() >= until:
                return None
            self._again_soon(every_s)
