"""The reference broker: as much of a RocketMQ broker as the cases ask for, in this process, correct unless a mutant says no.

Its seconds are ``scale`` of ours. Configuration words in milliseconds are in ours: what a case reads it can set again.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_entities import Refused, Topic
from brokerproof.conformance.rocketmq.peer_filters import matcher
from brokerproof.conformance.rocketmq.peer_members import Members
from brokerproof.conformance.rocketmq.peer_pops import Pops
from brokerproof.conformance.rocketmq.peer_sockets import Connection, Server, Timers
from brokerproof.conformance.rocketmq.peer_transactions import DEAD_HALF, HALF, Transactions
from brokerproof.wire import rocketmq as wire
from brokerproof.wire.rocketmq import Frame, Stored

#: Source: MessageStoreConfig.java, ``messageDelayLevel``.
LEVELS_S = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
SCHEDULE = "SCHEDULE_TOPIC_XXXX"
_CEILING_S = 3 * 86400
_NAME = re.compile(r"[%|a-zA-Z0-9_-]+")
_DEFAULTS: Mapping[str, Any] = {
    "brokerRole": "ASYNC_MASTER", "flushDiskType": "ASYNC_FLUSH", "flushIntervalCommitLog": 500,
    "flushCommitLogLeastPages": 4, "totalReplicas": 1, "inSyncReplicas": 1, "maxMessageSize": 4 << 20,
    "autoCreateTopicEnable": False, "autoCreateSubscriptionGroup": True, "transactionCheckMax": 15,
    "syncFlushTimeout": 5000,
}  # fmt: skip


class Broker:
    """name: of its set; node: its own.  bug: the mutant's name, empty for none.

    routes: told when a topic is there or gone.  copies: called with every message stored; a code that is not 0 is the
    send's answer, and the message stays.
    """

    def __init__(
        self, node: str, name: str, *, scale: float, bug: str, settings: Mapping[str, Any], timers: Timers,
        idle_s: float, routes: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self.node, self.name, self.scale, self.bug, self.timers = node, name, scale, bug, timers
        self.routes = routes
        self.lock = threading.RLock()
        self.arrived = threading.Condition(self.lock)
        ours = {"transactionTimeOut": int(6000 * scale), "transactionCheckInterval": int(30000 * scale)}
        self.config: dict[str, str] = {
            k: wire.word(v) for k, v in {**_DEFAULTS, "brokerName": name, **ours, **settings}.items()
        }
        self.topics: dict[str, Topic] = {
            SCHEDULE: Topic([[] for _ in LEVELS_S]), HALF: Topic([[]]), "TBW102": Topic([[]]),
        }  # fmt: skip
        self.groups: dict[str, dict[str, Any]] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.members, self.pops, self.transactions = Members(self), Pops(self), Transactions(self)
        self.recalled: set[str] = set()
        self.slave = False
        #: Before a message is stored: raises Refused where it must not be.
        self.admit: Callable[[], None] = lambda: None
        #: After it was stored: the response code that replication comes to.
        self.copied: Callable[[Stored], int] = lambda _: codes.SUCCESS
        self._position = 1000
        self.epochs: dict[int, int] = {1: 0}
        self._busy = 0
        self._handlers: dict[int, Callable[[Connection, Frame], Frame | None]] = self._table()
        self.server = Server(
            self.handle, gone=self.members.gone, idle_s=idle_s,
            bug=bug,
        )  # fmt: skip

    def is_bug(self, name: str) -> bool:
        return self.bug == name

    def s(self, seconds: float) -> float:
        """The broker's seconds in ours."""
        return seconds * self.scale

    # -- requests ------------------------------------------------------------------------------------------------------

    def _table(self) -> dict[int, Callable[[Connection, Frame], Frame | None]]:
        return {
            codes.SEND_MESSAGE: self._send, codes.SEND_MESSAGE_V2: self._send, codes.SEND_BATCH_MESSAGE: self._send,
            codes.PULL_MESSAGE: self._pull, codes.QUERY_CONSUMER_OFFSET: self._query_offset,
            codes.UPDATE_CONSUMER_OFFSET: self._update_offset, codes.UPDATE_AND_CREATE_TOPIC: self._make_topic,
            codes.GET_ALL_TOPIC_CONFIG: self._all_topics, codes.UPDATE_BROKER_CONFIG: self._configure,
            codes.GET_BROKER_CONFIG: self._get_config, codes.SEARCH_OFFSET_BY_TIMESTAMP: self._search,
            codes.GET_MAX_OFFSET: self._max_offset, codes.GET_MIN_OFFSET: lambda c, f: wire.answer(f, 0, {"offset": 0}),
            codes.HEART_BEAT: self.members.heartbeat, codes.UNREGISTER_CLIENT: self.members.unregister,
            codes.CONSUMER_SEND_MSG_BACK: self._send_back, codes.END_TRANSACTION: self.transactions.end,
            codes.GET_CONSUMER_LIST_BY_GROUP: self.members.listed, codes.LOCK_BATCH_MQ: self.members.lock,
            codes.UNLOCK_BATCH_MQ: self.members.unlock, codes.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: self._make_group,
            codes.DELETE_SUBSCRIPTIONGROUP: self._delete_group, codes.DELETE_TOPIC_IN_BROKER: self._delete_topic,
            codes.INVOKE_BROKER_TO_RESET_OFFSET: self._reset, codes.GET_TOPIC_CONFIG: self._get_topic,
            codes.GET_SUBSCRIPTIONGROUP_CONFIG: self._get_group, codes.RECALL_MESSAGE: self._recall,
            codes.QUERY_ASSIGNMENT: self.members.assign, codes.POP_MESSAGE: self.pops.pop_request, codes.ACK_MESSAGE: self.pops.ack_request,
            codes.CHANGE_MESSAGE_INVISIBLETIME: self.pops.change_request, codes.GET_BROKER_EPOCH_CACHE: self._epoch_cache,
            codes.GET_BROKER_RUNTIME_INFO: self._runtime_info, codes.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: self._all_groups,
        }  # fmt: skip

    def handle(self, connection: Connection, frame: Frame) -> Frame | None:
        if frame.is_response:
            return None
        if self.is_bug("json_only") and frame.codec != wire.JSON:
            return wire.answer(frame, codes.SYSTEM_ERROR, remark="only JSON")
        handler = self._handlers.get(frame.code)
        try:
            if handler is None:
                if self.is_bug("unknown_unanswered"):
                    return None
                code = codes.SYSTEM_ERROR if self.is_bug("unknown_wrong_code") else codes.REQUEST_CODE_NOT_SUPPORTED
                answer: Frame | None = wire.answer(frame, code, remark="request type not supported")
            else:
                answer = handler(connection, frame)
        except Refused as exc:
            answer = wire.answer(frame, exc.code, remark=exc.remark)
        except (KeyError, ValueError, TypeError, IndexError, wire.ProtocolError) as exc:
            if self.is_bug("closes_on_missing_field"):
                connection.close()
                return None
            answer = wire.answer(frame, codes.SYSTEM_ERROR, remark=f"{type(exc).__name__}: {exc}")
        return self._bent(connection, frame, answer)

    def _bent(self, connection: Connection, frame: Frame, answer: Frame | None) -> Frame | None:
        """The answer as the mutant makes it."""
        if answer is None:
            return None
        if self.is_bug("wrong_opaque") and frame.opaque % 50 == 7:
            return replace(answer, opaque=answer.opaque + 1)
        if self.is_bug("answers_oneway") and frame.is_oneway:
            connection.send(answer)
        if self.is_bug("trailing_octets") and frame.code == codes.HEART_BEAT:
            connection.send(answer.encode() + b"\0\0")
            return None
        return answer

    # -- storing -------------------------------------------------------------------------------------------------------

    def store(
        self, topic: str, queue: int, body: bytes, words: Mapping[str, str], *, reconsumed: int = 0, sys_flag: int = 0,
        quietly: bool = False,
    ) -> Stored:  # fmt: skip
        """Appends a message and wakes those who wait for one. quietly: it is not to be copied."""
        with self.lock:
            log = self.topics[topic].queues[queue]
            self._position += 1
            offset = len(log) + (1 if self.is_bug("skips_offsets") and len(log) > 0 else 0)
            message = Stored(
                queue,
                offset,
                0,
                sys_flag,
                reconsumed,
                body,
                topic,
                dict(words),
                self._position,
                int(time.time() * 1000),
            )
            log.append(message)
            self.arrived.notify_all()
        return message

    def _send(self, connection: Connection, frame: Frame) -> Frame | None:
        words = self._send_words(frame)
        topic, queue = words["topic"], int(words["queueId"])
        if self._overloaded():
            if self.is_bug("overload_unanswered"):
                return None
            raise Refused(codes.SYSTEM_ERROR if self.is_bug("overload_wrong_code") else codes.SYSTEM_BUSY, "too busy")
        if self.slave:
            raise Refused(codes.SERVICE_NOT_AVAILABLE, "a slave takes no messages")
        self._check_topic_of_send(topic, len(frame.body), words.get("properties", ""))
        self.admit()
        bodies = [(frame.body, wire.read_message_properties(words.get("properties", "")))]
        if frame.code == codes.SEND_BATCH_MESSAGE:
            bodies = [(b, w) for b, w in wire.read_batch(frame.body)]
        return self._stored_all(frame, topic, queue, bodies)

    def _stored_all(
        self, frame: Frame, topic: str, queue: int, bodies: Sequence[tuple[bytes, dict[str, str]]]
    ) -> Frame:
        first: Stored | None = None
        more: dict[str, Any] = {}
        code = codes.SUCCESS
        for body, words in bodies:
            message, more = self.take(topic, queue, body, words)
            first = first or message
            code = max(code, self.copied(message))
        assert first is not None
        # Address and port, then the position. Source: MessageDecoder.createMessageId.
        id = f"7F00000100002A9F{first.position:016X}"
        if self.is_bug("batch_counts_one") and len(bodies) > 1:
            del self.topics[topic].queues[queue][-1]
        return wire.answer(frame, code, {"msgId": id, "queueId": queue, "queueOffset": first.offset, **more})

    def _send_words(self, frame: Frame) -> dict[str, str]:
        names = (
            "producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp",
            "flag", "properties", "reconsumeTimes",
        )  # fmt: skip
        words = dict(frame.fields)
        if frame.code != codes.SEND_MESSAGE:
            words = {
                long: frame.fields[short]
                for short, long in zip("abcdefghij", names, strict=True)
                if short in frame.fields
            }
        if self.is_bug("missing_field_defaults"):
            words.setdefault("topic", SCHEDULE)
            words.setdefault("queueId", "0")
        return words

    def _overloaded(self) -> bool:
        """With the small queue of R1.09 every third send finds it full."""
        if "sendThreadPoolQueueCapacity" not in self.config:
            return False
        self._busy += 1
        return self._busy % 3 == 0

    def _check_topic_of_send(self, topic: str, size: int, properties: str) -> None:
        if topic not in self.topics:
            if self.config["autoCreateTopicEnable"] != "true" or self.is_bug("never_makes_topics"):
                if self.is_bug("makes_topics"):
                    self.topics[topic] = Topic([[] for _ in range(4)])
                raise Refused(
                    codes.SYSTEM_ERROR if self.is_bug("wrong_topic_code") else codes.TOPIC_NOT_EXIST, "no such topic"
                )
            self.topics[topic] = Topic([[] for _ in range(4)])
            self.routes()
        if not self.topics[topic].perm & 2 and not self.is_bug("ignores_perm"):
            raise Refused(codes.NO_PERMISSION, "not writeable")
        if self.is_bug("takes_oversize"):
            return
        if size > int(self.config["maxMessageSize"]) or len(properties.encode()) > 32767:
            raise Refused(codes.MESSAGE_ILLEGAL, "the message is too large")

    def take(self, topic: str, queue: int, body: bytes, words: dict[str, str]) -> tuple[Stored, dict[str, Any]]:
        """Stores a message of whichever kind; what else its answer says. Raises Refused."""
        id = words.setdefault("UNIQ_KEY", uuid.uuid4().hex.upper())
        if words.get("TRAN_MSG") == "true" and not self.is_bug("half_visible"):
            return self.transactions.take_half(topic, queue, body, words), {"transactionId": id}
        level = min(int(words.get("DELAY", 0)), 99 if self.is_bug("level_not_capped") else len(LEVELS_S))
        if level > 0:
            kept = self.store(SCHEDULE, min(level, 18) - 1 if level <= 18 else 0, body, {**words, "REAL_TOPIC": topic})
            self._later(LEVELS_S[min(level, 18) - 1], topic, queue, body, words)
            return kept, {}
        if "TIMER_DELIVER_MS" in words:
            return self._take_timed(topic, queue, body, words, id)
        return self.store(topic, queue, body, words), {}

    def _take_timed(
        self, topic: str, queue: int, body: bytes, words: dict[str, str], id: str
    ) -> tuple[Stored, dict[str, Any]]:
        left = int(words["TIMER_DELIVER_MS"]) / 1000 - time.time()
        if left > self.s(_CEILING_S) and not self.is_bug("no_ceiling"):
            raise Refused(codes.MESSAGE_ILLEGAL, "beyond the ceiling")
        kept = self.store(SCHEDULE, 17, body, {**words, "REAL_TOPIC": topic})
        self._later(left / self.scale, topic, queue, body, words)
        return kept, {"recallHandle": id}

    def _later(self, seconds: float, topic: str, queue: int, body: bytes, words: Mapping[str, str], reconsumed: int = 0) -> None:  # fmt: skip
        """Delivers it after so long, and never a moment earlier."""
        if self.is_bug("loses_delayed"):
            return
        ours = self.s(seconds) * (0.3 if self.is_bug("delivers_early") else 1) + 0.002

        def deliver() -> None:
            all_of_them = self.recalled and self.is_bug("recall_takes_all")
            if words.get("UNIQ_KEY") not in self.recalled and not all_of_them and topic in self.topics:
                self.store(topic, queue, body, words, reconsumed=reconsumed)

        self.timers.after(max(0.0, ours), deliver)

    def _recall(self, connection: Connection, frame: Frame) -> Frame:
        id = frame.fields["recallHandle"]
        if self.is_bug("recall_unsaid"):
            raise Refused(codes.SYSTEM_ERROR, "")
        if self.is_bug("recall_hurries"):
            message = next(m for m in self.topics[SCHEDULE].queues[17] if m.properties.get("UNIQ_KEY") == id)
            self.store(frame.fields["topic"], 0, message.body, message.properties)
        if not self.is_bug("recall_does_nothing") and not self.is_bug("recall_forbidden"):
            self.recalled.add(id)
        if self.bug in ("recall_forbidden", "recall_loses", "recall_hurries"):
            raise Refused(codes.NO_PERMISSION, "recall is forbidden")
        return wire.answer(frame, codes.SUCCESS, {"msgId": id})

    # -- pulling -------------------------------------------------------------------------------------------------------

    def group_known(self, group: str) -> bool:
        """Made at once where that is allowed."""
        if group not in self.groups:
            allowed = self.config["autoCreateSubscriptionGroup"] == "true" and not self.is_bug("never_makes_groups")
            if not allowed and not self.is_bug("makes_groups"):
                return False
            self.groups[group] = {"groupName": group, "retryMaxTimes": 16}
        return True

    def readable(self, topic: str, group: str) -> Topic:
        """Raises Refused."""
        if not self.group_known(group):
            raise Refused(codes.SUBSCRIPTION_GROUP_NOT_EXIST, "no such group")
        found = self.topics.get(topic)
        if found is None:
            raise Refused(codes.TOPIC_NOT_EXIST, "no such topic")
        if not found.perm & 4 and not self.is_bug("ignores_perm"):
            raise Refused(codes.NO_PERMISSION, "not readable")
        return found

    def _pull(self, connection: Connection, frame: Frame) -> Frame | None:
        words = frame.fields
        topic = self.readable(words["topic"], words["consumerGroup"])
        log, offset = topic.queues[int(words["queueId"])], int(words["queueOffset"])
        matches = matcher(words.get("subscription", "*"), words.get("expressionType", "TAG"), bug=self.bug)
        held = int(words["sysFlag"]) & 2
        if held and offset == len(log):
            until = time.monotonic() + int(words["suspendTimeoutMillis"]) / 1000
            if self.is_bug("never_suspends"):
                until = 0
            if self.is_bug("sleeps_through"):
                self.timers.after(
                    max(0.0, until - time.monotonic()), lambda: connection.send(self._pulled(frame, log, matches))
                )
                return None
            threading.Thread(target=self._hold, args=(connection, frame, log, matches, until), daemon=True).start()
            return None
        return self._pulled(frame, log, matches)

    def _hold(self, connection: Connection, frame: Frame, log: list[Stored], matches: Any, until: float) -> None:
        offset = int(frame.fields["queueOffset"])
        with self.lock:
            while len(log) <= offset and time.monotonic() < until and connection.open:
                self.arrived.wait(max(0.0, until - time.monotonic()))
        connection.send(self._pulled(frame, log, matches))

    def _pulled(self, frame: Frame, log: list[Stored], matches: Callable[[Stored], bool]) -> Frame:
        offset, n = int(frame.fields["queueOffset"]), int(frame.fields["maxMsgNums"])
        more: dict[str, Any] = {"suggestWhichBrokerId": 0, "minOffset": 0, "maxOffset": len(log)}
        end = len(log)
        if offset < 0 or offset > end:
            inside = 0 if offset < 0 else end
            if self.is_bug("offset_outside"):
                return wire.answer(frame, codes.PULL_NOT_FOUND, {**more, "nextBeginOffset": offset})
            return wire.answer(frame, codes.PULL_OFFSET_MOVED, {**more, "nextBeginOffset": inside}, remark="moved")
        if offset == end:
            code = codes.PULL_RETRY_IMMEDIATELY if self.is_bug("wrong_pull_code") else codes.PULL_NOT_FOUND
            return wire.answer(frame, code, {**more, "nextBeginOffset": end}, remark="at the end")
        part = log[offset : offset + n]
        found = [m for m in part if matches(m)]
        next_ = offset + len(part)
        if not found:
            return wire.answer(
                frame, codes.PULL_RETRY_IMMEDIATELY, {**more, "nextBeginOffset": next_}, remark="filtered"
            )
        octets = b"".join(wire.encode_stored(m) for m in found)
        return wire.answer(frame, codes.SUCCESS, {**more, "nextBeginOffset": next_}, octets)

    def _query_offset(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        key = (words["consumerGroup"], words["topic"], int(words["queueId"]))
        if key[1] == HALF:
            return wire.answer(frame, 0, {"offset": len(self.topics[HALF].queues[0])})
        if key not in self.offsets:
            if self.is_bug("offset_zero"):
                return wire.answer(frame, codes.SUCCESS, {"offset": 0})
            raise Refused(codes.QUERY_NOT_FOUND, "no offset")
        return wire.answer(frame, codes.SUCCESS, {"offset": self.offsets[key]})

    def _update_offset(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        self.offsets[words["consumerGroup"], words["topic"], int(words["queueId"])] = int(words["commitOffset"])
        return wire.answer(frame, codes.SUCCESS)

    def _max_offset(self, connection: Connection, frame: Frame) -> Frame:
        if self.is_bug("ends_untold"):
            raise Refused(codes.SYSTEM_ERROR, "not told")
        if self.is_bug("trips_over_unknown") and "brokerproofField" in frame.fields:
            raise Refused(codes.SYSTEM_ERROR, "unknown field")
        topic = self.topics.get(frame.fields["topic"])
        if topic is None:
            raise Refused(codes.TOPIC_NOT_EXIST, "no such topic")
        return wire.answer(frame, codes.SUCCESS, {"offset": len(topic.queues[int(frame.fields["queueId"])])})

    def _search(self, connection: Connection, frame: Frame) -> Frame:
        at_ms = int(frame.fields["timestamp"])
        log = self.topics[frame.fields["topic"]].queues[int(frame.fields["queueId"])]
        found = next((i for i, m in enumerate(log) if m.stored_ms >= at_ms), len(log))
        if self.is_bug("search_before") and found:
            found -= 1
        return wire.answer(frame, codes.SUCCESS, {"offset": found})

    def _reset(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        table: dict[str, int] = {}
        for queue, log in enumerate(self.topics[words["topic"]].queues):
            offset = next((i for i, m in enumerate(log) if m.stored_ms >= int(words["timestamp"])), len(log))
            key = {"topic": words["topic"], "brokerName": self.name, "queueId": queue}
            table[json.dumps(key)] = offset
        body = json.dumps({"offsetTable": table}).encode()
        if not self.is_bug("reset_forgotten"):
            for member, _ in self.members.of.get(words["group"], {}).values():
                member.ask(codes.RESET_CONSUMER_CLIENT_OFFSET, {"topic": words["topic"], "group": words["group"]}, body)
        return wire.answer(frame, codes.SUCCESS, {}, body)

    # -- sending back --------------------------------------------------------------------------------------------------

    def _send_back(self, connection: Connection, frame: Frame) -> Frame:
        words = frame.fields
        found = next(m for t in self.topics.values() for q in t.queues for m in q if m.position == int(words["offset"]))
        level, most = int(words["delayLevel"]), int(self.groups[words["group"]].get("retryMaxTimes", 16))
        if level < 0 or (found.reconsumed >= most and not self.is_bug("retries_for_ever")):
            self.dead(words["group"], replace(found, reconsumed=found.reconsumed + 1))
            return wire.answer(frame, codes.SUCCESS)
        self.retry(words["group"], found, level or (3 if self.is_bug("same_level") else 3 + found.reconsumed))
        return wire.answer(frame, codes.SUCCESS)

    def retry(self, group: str, message: Stored, level: int) -> None:
        """Puts it into the group's retry topic when the level's time is over."""
        self.topics.setdefault(f"%RETRY%{group}", Topic([[]]))
        times = message.reconsumed + (0 if self.is_bug("not_counted") else 1)
        words = {**message.properties, "RETRY_TOPIC": message.topic}
        self._later(LEVELS_S[level - 1], f"%RETRY%{group}", 0, message.body, words, times)

    def dead(self, group: str, message: Stored) -> None:
        """Puts it into the group's dead-letter topic."""
        if not self.is_bug("no_dead_letters"):
            self.topics.setdefault(f"%DLQ%{group}", Topic([[]]))
            self.store(f"%DLQ%{group}", 0, message.body, message.properties, reconsumed=message.reconsumed)

    # -- administration ------------------------------------------------------------------------------------------------

    def _make_topic(self, connection: Connection, frame: Frame) -> Frame:
        name = frame.fields["topic"]
        if not self.is_bug("any_name"):
            if not _NAME.fullmatch(name) or len(name) > 127:
                raise Refused(codes.INVALID_PARAMETER, "an illegal name")
            if name in (SCHEDULE, HALF, DEAD_HALF, "TBW102"):
                raise Refused(codes.INVALID_PARAMETER, "a system topic")
        words = dict(pair.lstrip("+").split("=") for pair in frame.fields.get("attributes", "").split(",") if pair)
        if words.get("message.type") == "PRIORITY" and self.is_bug("no_newer_kinds"):
            raise Refused(codes.INVALID_PARAMETER, "no such type")
        old = self.topics.get(name)
        queues = old.queues if old else []
        queues += [[] for _ in range(int(frame.fields["readQueueNums"]) - len(queues))]
        self.topics[name] = Topic(queues, int(frame.fields["perm"]), words.get("message.type", "NORMAL"))
        self.routes()
        return wire.answer(frame, codes.SUCCESS)

    def _delete_topic(self, connection: Connection, frame: Frame) -> Frame:
        self.topics.pop(frame.fields["topic"], None)
        return wire.answer(frame, codes.SUCCESS)

    def _get_topic(self, connection: Connection, frame: Frame) -> Frame:
        name = frame.fields["topic"]
        topic = self.topics.get(name)
        if topic is None:
            raise Refused(codes.TOPIC_NOT_EXIST, "no such topic")
        n = len(topic.queues)
        config = {"topicName": name, "readQueueNums": n, "writeQueueNums": n, "perm": topic.perm}
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps(config).encode())

    def _all_topics(self, connection: Connection, frame: Frame) -> Frame:
        table = {name: {"topicName": name, "readQueueNums": len(t.queues)} for name, t in self.topics.items()}
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"topicConfigTable": table}).encode())

    def _make_group(self, connection: Connection, frame: Frame) -> Frame:
        config = wire.loads(frame.body)
        name = str(config["groupName"])
        if (len(name) > 120 or not _NAME.fullmatch(name)) and not self.is_bug("any_name"):
            raise Refused(codes.INVALID_PARAMETER, "an illegal group")
        self.groups[name] = config
        return wire.answer(frame, codes.SUCCESS)

    def _delete_group(self, connection: Connection, frame: Frame) -> Frame:
        self.groups.pop(frame.fields["groupName"], None)
        return wire.answer(frame, codes.SUCCESS)

    def _get_group(self, connection: Connection, frame: Frame) -> Frame:
        if frame.fields["group"] not in self.groups:
            raise Refused(codes.SUBSCRIPTION_GROUP_NOT_EXIST, "no such group")
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps(self.groups[frame.fields["group"]]).encode())

    def _all_groups(self, connection: Connection, frame: Frame) -> Frame:
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"subscriptionGroupTable": self.groups}).encode())

    def _runtime_info(self, connection: Connection, frame: Frame) -> Frame:
        """It always started just now."""
        table = {
            "brokerVersionDesc": "V5_5_0", "bootTimestamp": str(int(time.time() * 1000)), "dispatchBehindBytes": "0",
            "runtime": "[ 0 days, 0 hours, 0 minutes, 0 seconds ]",
        }  # fmt: skip
        return wire.answer(frame, codes.SUCCESS, {}, json.dumps({"table": table}).encode())

    def _get_config(self, connection: Connection, frame: Frame) -> Frame:
        config = dict(self.config)
        if self.is_bug("other_defaults"):
            config["flushDiskType"] = "SYNC_FLUSH"
        return wire.answer(frame, codes.SUCCESS, {}, "".join(f"{k}={v}\n" for k, v in config.items()).encode())

    def _configure(self, connection: Connection, frame: Frame) -> Frame:
        self.config.update(wire.properties(frame.body))
        return wire.answer(frame, codes.SUCCESS)

    def _epoch_cache(self, connection: Connection, frame: Frame) -> Frame:
        entries = [{"epoch": epoch, "startOffset": start} for epoch, start in sorted(self.epochs.items())]
        return wire.answer(
            frame, codes.SUCCESS, {}, json.dumps({"epochList": entries, "maxOffset": self._position}).encode()
        )

    # -- copies --------------------------------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The position of the last message."""
        return self._position

    def follow(self, message: Stored) -> None:
        """Appends a copy of the master's, at the same place."""
        with self.lock:
            self.topics.setdefault(message.topic, Topic([]))
            queues = self.topics[message.topic].queues
            queues += [[] for _ in range(message.queue + 1 - len(queues))]
            queues[message.queue].append(message)
            self._position = message.position
            self.arrived.notify_all()

    def cut_to(self, master: Broker) -> None:
        """Becomes a copy of the master: what it has beyond is gone."""
        with self.lock, master.lock:
            self.topics = {
                name: Topic([list(queue) for queue in topic.queues], topic.perm, topic.kind)
                for name, topic in master.topics.items()
            }
            self.epochs = dict(master.epochs)
            self._position = master.end

    # -- life ----------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """What a clean restart keeps: everything but connections."""
        if self.is_bug("forgets_offsets"):
            self.offsets.clear()
        self.server.start()
