"""What each answer to a send or an acknowledgement says about it: the reviewed table.

Names are the wire's own: codes of ``apache.rocketmq.v2.Code`` in the answer, status codes of gRPC, and a few classes
for what never got so far. The library's exception classes are not used: it puts ``FLUSH_SLAVE_TIMEOUT`` (stored on the
master) and a broken proxy into the same one. What is not listed is ``info``.

Sources: apache/rocketmq-apis definition.proto; SendMessageActivity and ResponseBuilder of apache/rocketmq, which make
the broker's response codes into these; grpc/grpc doc/wait-for-ready.md and doc/statuscodes.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from brokerproof.brokers.base import Meaning
from brokerproof.history import FAIL, INFO, OK, OUTCOME

_INFO = Meaning("info", "not in the table: nothing is known about it")

SENT: Mapping[str, Meaning] = {
    "OK": Meaning("ok", "the broker stored it as its flush and replication settings demand"),
    # -- stored on the master, promise not kept in time
    "MASTER_PERSISTENCE_TIMEOUT": Meaning(
        "info", "FLUSH_DISK_TIMEOUT: in the master's memory, not known to be on disk"
    ),
    "SLAVE_PERSISTENCE_TIMEOUT": Meaning("info", "FLUSH_SLAVE_TIMEOUT: on the master, not known to be on the slave"),
    "HA_NOT_AVAILABLE": Meaning("info", "SLAVE_NOT_AVAILABLE: on the master, the slave is away or too far behind"),
    # -- may be stored or not
    "PROXY_TIMEOUT": Meaning("info", "the gRPC proxy gave up on the broker after 2 s; the broker may store it yet"),
    "INTERNAL_SERVER_ERROR": Meaning(
        "info", "the proxy puts every other broker error here, before and after the append"
    ),
    "INTERNAL_ERROR": Meaning("info", "may come after the append"),
    "DEADLINE_EXCEEDED": Meaning("info", "the request was written, no answer came in time"),
    "UNAVAILABLE": Meaning("info", "the connection broke; what was written before may have arrived"),
    "CANCELLED": Meaning("info", "the call was ended here; the broker may have had it"),
    "UNKNOWN": Meaning("info", "the stream was reset; the broker may have had it"),
    "INTERNAL": Meaning("info", "the stream broke; the broker may have had it"),
    "ConnectionLost": Meaning("info", "a oneway request may have been written in part or whole"),
    # -- refused before anything was stored
    "TOO_MANY_REQUESTS": Meaning("fail", "flow control: SYSTEM_BUSY is answered instead of handling the request"),
    "TOPIC_NOT_FOUND": Meaning("fail", "there is no route for the topic, so it went to no broker"),
    "ILLEGAL_TOPIC": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_MESSAGE_TAG": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_MESSAGE_KEY": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_MESSAGE_GROUP": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_MESSAGE_PROPERTY_KEY": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_MESSAGE_ID": Meaning("fail", "refused by validation in the proxy"),
    "ILLEGAL_DELIVERY_TIME": Meaning("fail", "refused by validation in the proxy"),
    "MESSAGE_PROPERTY_CONFLICT_WITH_TYPE": Meaning("fail", "refused by validation in the proxy"),
    "MESSAGE_CORRUPTED": Meaning("fail", "refused by validation in the proxy"),
    "MESSAGE_BODY_EMPTY": Meaning("fail", "refused by validation in the proxy"),
    "MESSAGE_BODY_TOO_LARGE": Meaning("fail", "refused by validation in the proxy"),
    "MESSAGE_PROPERTIES_TOO_LARGE": Meaning("fail", "refused by validation in the proxy"),
    "CLIENT_ID_REQUIRED": Meaning("fail", "refused before any handling"),
    "UNAUTHORIZED": Meaning("fail", "refused before any handling"),
    "FORBIDDEN": Meaning("fail", "refused before any handling"),
    # -- never left this process
    "NotConnected": Meaning("fail", "no connection could be made: gRPC fails such a call without a transport"),
    "NoRoute": Meaning("fail", "the library has no route for the topic and sent nothing"),
    "NotRunning": Meaning("fail", "the library's client was shut down and sent nothing"),
    "Rejected": Meaning("fail", "the library refused the message before it sent anything"),
}

SETTLED: Mapping[str, Meaning] = {
    "OK": Meaning("ok", "the broker answered that it has the acknowledgement"),
    "INVALID_RECEIPT_HANDLE": Meaning("fail", "the invisible time was over: the acknowledgement counts for nothing"),
    "TOPIC_NOT_FOUND": Meaning("fail", "it went to no broker"),
    "CONSUMER_GROUP_NOT_FOUND": Meaning("fail", "it went to no broker"),
    "TOO_MANY_REQUESTS": Meaning("fail", "flow control: answered instead of handled"),
    "NotConnected": Meaning("fail", "no connection could be made: gRPC fails such a call without a transport"),
    "NotRunning": Meaning("fail", "the library's client was shut down and sent nothing"),
    "PROXY_TIMEOUT": Meaning("info", "the gRPC proxy gave up on the broker; it may have the acknowledgement"),
    "DEADLINE_EXCEEDED": Meaning("info", "no answer came in time"),
    "UNAVAILABLE": Meaning("info", "the connection broke; what was written before may have arrived"),
}

#: What gRPC says when a call was failed for want of a connection, so nothing of it was ever written.
_NO_TRANSPORT = ("failed to connect to all addresses", "Connection refused")


def error_class(exc: BaseException) -> str:
    """The bounded name of an error: the wire's code where there is one."""
    status = getattr(exc, "code", None)
    if callable(status):  # grpc.aio.AioRpcError
        name = str(status().name)
        details = str(exc.details() or "")  # type: ignore[attr-defined]  # what an AioRpcError has
        return "NotConnected" if name == "UNAVAILABLE" and details.startswith(_NO_TRANSPORT) else name
    if isinstance(status, int):
        return code_name(status)
    text = str(exc)
    if text.endswith("route."):
        return "NoRoute"
    if "not running" in text:
        return "NotRunning"
    if type(exc).__name__ == "IllegalArgumentException":
        return "Rejected"
    return type(exc).__name__


def code_name(code: int) -> str:
    """The name of an ``apache.rocketmq.v2.Code``."""
    from brokerproof.brokers.rocketmq.library import grpc_protocol

    try:
        return str(grpc_protocol.Code.Name(code))
    except ValueError:
        return f"code {code}"


def sent(attempts: Iterable[str]) -> int:
    """The outcome of a send by the names of all its attempts, the library's own retries included.

    The last one decides if it is ``ok``; ``fail`` needs that none of them can have got through.
    """
    meanings = [SENT.get(name, _INFO).outcome for name in attempts]
    if meanings and meanings[-1] == "ok":
        return OK
    return FAIL if meanings and set(meanings) == {"fail"} else INFO


def settled(name: str) -> int:
    return OUTCOME[SETTLED.get(name, _INFO).outcome]
