"""What load processes run: ``send``, ``receive``, ``read``. One module each; this one only chooses.

Sender settings: ``confirm`` (true), ``mode`` (``pipelined``, ``each``, ``tx``), ``delivery_mode`` (2), ``priority``,
``expiration_ms``, ``routing_key``, ``grow_after`` (so many messages go to all of the destination's queues but the last,
those after them to all: the application adds a queue); with ``tx`` also ``batch`` and ``rollback_every``. Every publish is ``mandatory``.
Without confirms a send is ``ok`` as soon as pika took it: that is all a fire-and-forget producer can believe.
Receiver settings: ``receiving``.
"""

from __future__ import annotations

from brokerproof.brokers.base import ReadJob, ReceiveJob, SendJob
from brokerproof.brokers.rabbitmq.reading import Reading
from brokerproof.brokers.rabbitmq.receiving import Receiving
from brokerproof.brokers.rabbitmq.sending import Sending
from brokerproof.brokers.rabbitmq.transactions import Transactions


def send(job: SendJob) -> None:
    (Transactions if job.sender.settings.get("mode") == "tx" else Sending)(job).run()


def receive(job: ReceiveJob) -> None:
    Receiving(job).run()


def read(job: ReadJob) -> None:
    Reading(job).run()
