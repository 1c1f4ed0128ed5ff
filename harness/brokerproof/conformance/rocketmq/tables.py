"""Tables that only RocketMQ's cases need."""

from __future__ import annotations

from brokerproof.conformance.case import Line, Table
from brokerproof.conformance.rocketmq.proxy import OK


def status(*codes: int) -> Table:
    """gRPC: answered with one of these codes in the response's status. A gRPC error in its place is another error."""
    return Table(
        f"status {' or '.join(str(c) for c in codes)}",
        (
            Line("PASS", behaviour=("answered",), codes=codes),
            Line("FAIL", behaviour=("answered",), codes=(OK,)),
            Line("UNIMPL", behaviour=("UNIMPLEMENTED",)),
            Line("CODE", behaviour=("answered",)),
            Line("CODE", behaviour=("RPC error*",)),
        ),
    )


def refused(says: str) -> Table:
    """Remoting: answered with any error code."""
    return Table(says, (Line("FAIL", behaviour=("answered",), codes=(0,)), Line("PASS", behaviour=("answered",))))
