"""The vendor's Python library, imported without its log.

On import it makes ``~/logs/rocketmq_python`` and writes a file there, in every process. Nothing but its module
``rocketmq.v5.log`` does that, and all it offers is a logger: a stand-in that discards takes its place.
Source: rocketmq-python-client 5.1.2, rocketmq/v5/log/log_config.py.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import types
from collections.abc import Mapping
from typing import Any

if "rocketmq" not in sys.modules:
    _log = types.ModuleType("rocketmq.v5.log")
    _logger = logging.getLogger("rocketmq-python-client")
    _logger.addHandler(logging.NullHandler())
    _logger.setLevel(logging.CRITICAL + 1)
    _logger.propagate = False
    _log.logger = _logger  # type: ignore[attr-defined]  # a module made by hand
    sys.modules["rocketmq.v5.log"] = _log


import rocketmq
from rocketmq import grpc_protocol

__all__ = ["configuration", "grpc_protocol", "rocketmq", "shut"]


def configuration(endpoint: Mapping[str, Any], request_timeout_s: int) -> Any:
    """The library's client configuration for the gRPC proxy of an endpoint (``Cluster.endpoint``)."""
    host, port = endpoint["grpc"]
    return rocketmq.ClientConfiguration(f"{host}:{port}", rocketmq.Credentials(), request_timeout=request_timeout_s)


def shut(client: Any) -> None:
    """Ends a producer or consumer that is of no further use; None is none."""
    if client is not None:
        with contextlib.suppress(Exception):  # the library raises whatever comes
            client.shutdown()
