"""How a RocketMQ client is let in: an access key says who it is, a secret key signs what it asks.

An endpoint says ``access``: None where nobody is asked, else ``key``, and ``secret``: where that is found (``credentials``).
Source: AclClientRPCHook.java and AclUtils.java of apache/rocketmq (remoting); DefaultAuthenticationContextBuilder.java (gRPC).
"""

from __future__ import annotations

import hmac
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brokerproof.credentials import reveal
from brokerproof.target import Target
from brokerproof.wire.rocketmq import Frame

#: As it stands in an endpoint.
Access = Mapping[str, Any] | None


def of(target: Target) -> Access:
    return {"key": target.user, "secret": target.password} if target.user else None


def pair(access: Access) -> tuple[str, str]:
    """Access key and secret key, both empty where nobody is asked. Raises UsageError where the secret is not there."""
    return (str(access["key"]), reveal(access["secret"])) if access else ("", "")


def signed(access: Access, frame: Frame) -> Frame:
    """The request with who asks and the signature: of all fields' values in the order of their names, and the body."""
    if not access:
        return frame
    key, secret = pair(access)
    fields = {**frame.fields, "AccessKey": key}
    content = "".join(value for _, value in sorted(fields.items())).encode() + frame.body
    signature = b64encode(hmac.digest(secret.encode(), content, "sha1")).decode()
    return replace(frame, fields={**fields, "Signature": signature})


def tellable(frame: Frame) -> Frame:
    """The request as a log may have it, octet for octet as long: from a signature and what was signed a weak secret can be guessed at
    leisure."""
    signature = frame.fields.get("Signature")
    return replace(frame, fields={**frame.fields, "Signature": "*" * len(signature)}) if signature else frame


def metadata(access: Access) -> list[tuple[str, str]]:
    """What a gRPC call says besides: the time of day is what is signed."""
    if not access:
        return []
    key, secret = pair(access)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signature = hmac.digest(secret.encode(), now.encode(), "sha1").hex()
    words = f"MQv2-HMAC-SHA1 Credential={key}, SignedHeaders=x-mq-date-time, Signature={signature}"
    return [("x-mq-date-time", now), ("authorization", words)]
