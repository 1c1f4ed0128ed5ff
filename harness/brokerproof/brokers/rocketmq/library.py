"""The vendor's Python library, imported without its noise.

On import it makes ``~/logs/rocketmq_python`` and writes a file there, in every process. Nothing but its module
``rocketmq.v5.log`` does that, and all it offers is a logger: a stand-in that discards takes its place.
A heartbeat that fails is raised again in a callback, where nobody can catch it, and printed with a traceback every ten
seconds: passed over. Source: rocketmq-python-client 5.1.2, rocketmq/v5/log/log_config.py, client/client.py.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import types
from collections.abc import Mapping
from typing import Any

from brokerproof.brokers.rocketmq.access import pair


def _worth_printing(record: logging.LogRecord) -> bool:
    tb = record.exc_info[2] if record.exc_info else None
    while tb is not None:
        if tb.tb_frame.f_code.co_name.endswith("__heartbeat_callback"):
            return False
        tb = tb.tb_next
    return True


if "rocketmq" not in sys.modules:
    logging.getLogger("concurrent.futures").addFilter(_worth_printing)
    _log = types.ModuleType("rocketmq.v5.log")
    _logger = logging.getLogger("rocketmq-python-client")
    _logger.addHandler(logging.NullHandler())
    _logger.setLevel(logging.CRITICAL + 1)
    _logger.propagate = False
    _log.logger = _logger  # type: ignore[attr-defined]  # a module made by hand
    sys.modules["rocketmq.v5.log"] = _log

# Only now: the stand-in has to be there first.
import rocketmq  # noqa: E402
from rocketmq import grpc_protocol  # noqa: E402

__all__ = ["configuration", "grpc_protocol", "rocketmq", "shut"]


def configuration(endpoint: Mapping[str, Any], request_timeout_s: int) -> Any:
    """The library's client configuration for the gRPC proxy of an endpoint (``Cluster.endpoint``)."""
    host, port = endpoint["grpc"]
    credentials = rocketmq.Credentials(*pair(endpoint.get("access")))
    return rocketmq.ClientConfiguration(f"{host}:{port}", credentials, request_timeout=request_timeout_s)


def shut(client: Any) -> None:
    """Ends a producer or consumer that is of no further use; None is none."""
    if client is not None:
        with contextlib.suppress(Exception):  # the library raises whatever comes
            client.shutdown()
