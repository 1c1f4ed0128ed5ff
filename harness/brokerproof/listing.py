"""What there is, as rows: for ``brokerproof list``. Never imports pytest, an engine or a client library."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from brokerproof.brokers.base import broker, products
from brokerproof.checkers.base import checkers as all_checkers
from brokerproof.claims import declared
from brokerproof.faults.base import faults as fault_names
from brokerproof.faults.base import make
from brokerproof.suites import suites


def claims() -> list[dict[str, Any]]:
    """Id, kind, brokers with variants, profiles, sentence and source of every claim."""
    return [
        {
            "claim": d.claim.id, "kind": d.claim.kind,
            "brokers": [b + (f" ({', '.join(v)})" if any(v) else "") for b, v in d.brokers.items()],
            "profiles": list(d.profiles), "sentence": d.claim.sentence, "source": d.claim.source,
        }
        for d in declared(suites() / "claims")
    ]  # fmt: skip


def faults() -> list[dict[str, Any]]:
    """Name, plane, settings with defaults, and what each fault does."""
    rows = []
    for name in fault_names():
        made: Any = make(name)
        settings = [f"{f.name}={getattr(made, f.name)!r}" for f in fields(made)]
        doc = (sys.modules[type(made).__module__].__doc__ or "").strip().splitlines()[0]
        rows.append({"fault": name, "plane": made.plane, "settings": settings, "what": doc.split(": ", 1)[-1]})
    return rows


def checkers() -> list[dict[str, Any]]:
    """Key, kind and contradiction of every class of anomaly and observation."""
    return [{"key": key, "kind": kind, "what": c.prose} for c in all_checkers() for key, kind in sorted(c.keys.items())]


def brokers() -> list[dict[str, Any]]:
    """Product, versions, topologies, capabilities."""
    return [
        {
            "broker": p, "versions": list(broker(p).versions),
            "topologies": [f"{name}: {what}" for name, what in broker(p).topologies.items()],
            "capabilities": sorted(broker(p).capabilities),
        }
        for p in products()
    ]  # fmt: skip
