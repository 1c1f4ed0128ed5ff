"""What there is, as rows: for ``brokerproof list``. Never imports pytest, an engine or a client library."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from brokerproof import schedules as all_schedules
from brokerproof.brokers.base import broker, products
from brokerproof.checkers.base import checkers as all_checkers
from brokerproof.claims import declared
from brokerproof.conformance.case import cases_of
from brokerproof.effects.base import guards
from brokerproof.effects.base import make as guard
from brokerproof.faults.base import faults as fault_names
from brokerproof.faults.base import make, missing, plane
from brokerproof.runtime.doctor import Check
from brokerproof.suites import suites


def _prose(doc: str | None) -> str:
    """A docstring, or a part of one, as running text for a terminal."""
    return " ".join((doc or "").replace("``", "`").split())


def _headline(module: str) -> str:
    """What the first line of a module's docstring says of the part that it names before the colon."""
    return _prose((sys.modules[module].__doc__ or "").strip().splitlines()[0].split(": ", 1)[-1])


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


def cases() -> list[dict[str, Any]]:
    """Id, slug, section, level, tags, variants, conditions, requirement and reference of every protocol case."""
    return [
        {
            "case": c.id, "slug": c.slug, "section": c.section, "level": c.level, "tags": sorted(c.tags),
            "variants": [v for v in c.variants if v], "conditions": list(c.conditions), "requirement": c.requirement,
            "reference": c.reference,
        }
        for c in cases_of(suites() / "conformance")
    ]  # fmt: skip


def faults() -> list[dict[str, Any]]:
    """Name, plane, targets, settings with units and defaults, evidence, what it needs, and what each fault does."""
    rows = []
    for name in fault_names():
        made: Any = make(name)
        cls = type(made)
        settings = [f"{f.name}={getattr(made, f.name)!r}" for f in dataclasses.fields(made)]
        # In prose, and once: where the class says it, or the class of its plane.
        told = next((d for c in cls.__mro__ if "Evidence:" in (d := c.__doc__ or "")), "")
        rows.append(
            {
                "fault": name, "plane": made.plane, "targets": list(made.roles), "settings": settings,
                "evidence": _prose(told.partition("Evidence:")[2].partition("\n\n")[0]),
                "needs": [*(f"equipment {kind}" for kind in made.needs), *made.abilities, *made.asks],
                "what": _headline(cls.__module__),
            }
        )  # fmt: skip
    return rows


def abilities() -> list[Check]:
    """Each fault that this machine cannot do, with what is missing; for ``brokerproof doctor``."""
    lacks = {name: what for name in fault_names() if (what := missing(name))}
    if not lacks:
        return [Check("faults", "ok", f"all {len(fault_names())} can be done here, as far as this can be seen")]
    found = []
    for name, what in lacks.items():
        seen, _, step = what.partition("; next: ")
        found.append(Check(f"fault {name}", "warning", seen, step or "see the other lines"))
    return found


def schedules() -> list[dict[str, Any]]:
    """Name, faults, length, what it needs and what each named schedule does."""
    rows = []
    for name in all_schedules.schedules():
        made = all_schedules.named(name)
        lacks = all_schedules.missing_faults(made)
        needs = [] if lacks else [*all_schedules.equipment(made)]
        needs += ["peers"] if any(i.fault not in lacks and plane(i.fault) == "peer" for i in made) else []
        rows.append({
            "schedule": name, "faults": list(dict.fromkeys(i.fault for i in made)), "seconds": round(all_schedules.end_s(made)),
            "needs": needs, "missing": list(lacks), "what": all_schedules.prose(name),
        })  # fmt: skip
    return rows


def effects() -> list[dict[str, Any]]:
    """Name, databases, settings with defaults, steps, weakness, and what each guard of effects does."""
    rows = []
    for name in guards():
        made: Any = guard(name)
        cls = type(made)
        what, _, weakness = _prose(cls.__doc__).partition(" Weakness: ")
        settings = [f"{f.name}={getattr(made, f.name)!r}" for f in dataclasses.fields(made)]
        rows.append({
            "guard": name, "needs": list(made.needs), "settings": settings, "steps": list(made.steps), "weakness": weakness,
            "what": f"{_headline(cls.__module__)} {what}",
        })  # fmt: skip
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
