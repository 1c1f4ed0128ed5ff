"""What load processes run: ``send``, ``receive``, ``read`` (``brokers.base.ClientModule``)."""

from __future__ import annotations

from brokerproof.brokers.rocketmq.reading import read
from brokerproof.brokers.rocketmq.receiving import receive
from brokerproof.brokers.rocketmq.sending import send

__all__ = ["read", "receive", "send"]
