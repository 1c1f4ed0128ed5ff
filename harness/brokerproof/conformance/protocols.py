"""Which protocol a product speaks, and where its cases are run. Each protocol is a package here that offers

ground.py     on_cluster(cluster: Cluster) -> Ground
adopted.py    on_target(adoption: Adoption, run: str) -> Ground      of what somebody else runs
reference.py  on_reference(mutant: str = "") -> Ground      an in-process peer; ``MUTANTS`` says what each mutant gets wrong
              MUTANTS: Mapping[str, str]
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Cluster
from brokerproof.conformance.scene import Ground
from brokerproof.errors import unknown

PROTOCOLS: Mapping[str, str] = {"rabbitmq": "amqp091", "kafka": "kafka", "rocketmq": "rocketmq"}
#: What a case can be repeated through. A condition is a suffix of its id: ``A2.13@slicer``.
CONDITIONS: Mapping[str, str] = {
    "slicer": "every octet in a TCP segment of its own",
    "cut": "the frame that each step is about comes in part, and its connection ends",
    "black-hole": "every packet of the connection is dropped, both ways, and nobody is told",
}


def protocol_of(product: str) -> str:
    """Raises UsageError for a product without cases."""
    if product not in PROTOCOLS:
        raise unknown("product with protocol cases", product, PROTOCOLS)
    return PROTOCOLS[product]


def on_cluster(cluster: Cluster) -> Ground:
    found: Ground = _module(protocol_of(cluster.product), "ground").on_cluster(cluster)
    return found


def on_target(adoption: Adoption, run: str) -> Ground:
    """run: its mark, for what is written down of what is made. Raises UsageError for a target that cases cannot be run on."""
    found: Ground = _module(protocol_of(adoption.product), "adopted").on_target(adoption, run)
    return found


def on_reference(protocol: str, mutant: str = "") -> Ground:
    found: Ground = _module(protocol, "reference").on_reference(mutant)
    return found


def mutants(protocol: str) -> Mapping[str, str]:
    """What each mutant of the reference peer gets wrong, by its name."""
    found: Mapping[str, str] = _module(protocol, "reference").MUTANTS
    return found


def _module(protocol: str, part: str) -> Any:
    return importlib.import_module(f"brokerproof.conformance.{protocol}.{part}")
