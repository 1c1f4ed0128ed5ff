"""What load processes run: ``send``, ``receive``, ``read`` (``brokers.base.ClientModule``)."""

from __future__ import annotations

from brokerproof.brokers.base import ReadJob, ReceiveJob
from brokerproof.brokers.kafka.sending import send

__all__ = ["read", "receive", "send"]


def receive(job: ReceiveJob) -> None:
    """See ``brokers.base.ReceiveJob``."""
    from brokerproof.brokers.kafka import receiving, sharing

    if "forward_to" in job.receiver.settings:
        from brokerproof.brokers.kafka import forwarding

        forwarding.receive(job)
    elif job.receiver.settings.get("group.protocol") == "share":
        sharing.receive(job)
    else:
        receiving.receive(job)


def read(job: ReadJob) -> None:
    """See ``brokers.base.ReadJob``."""
    from brokerproof.brokers.kafka import reading

    reading.read(job)
