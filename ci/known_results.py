"""``ci/known-results RUN...``: what others have published of these brokers, and what was measured of it here.

A harness that does not see what is known to happen would not see anything else. Each published result names the arm that
has to show it and the arm that has to be its opposite, under the same faults: without that, the fault, or the harness, might
have done it. Figures come from ``results.json`` of run folders, the newest where several decided one cell; they are kept in
docs/known-results.json, so that ``--check`` needs no run. Writes docs/known-results.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES = DOCS / "known-results.md", DOCS / "known-results.json"
#: Of an entry of ``results.json``; nothing that depends on the machine.
_KEPT = ("broker", "version", "claim", "revision", "variant", "profile", "verdict", "reason", "deciding", "command")
_ARM = ("trials", "violated", "rate", "wilson95")


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm of a cell, and what is different in it, in the vendor's words."""

    claim: str
    variant: str
    arm: Literal["treatment", "control"]
    what: str


@dataclass(frozen=True, slots=True)
class Known:
    """A published result. shows: the arm in which it has to be seen.  clean: the arm that must not have it."""

    broker: str
    says: str
    source: str
    shows: Arm
    clean: Arm

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.shows, self.clean


_ISOLATED = "producer/kafka-acks-all", "isolate-leader"
_SHRUNK = "broker/kafka-isr-of-one", "unclean-election"
_RETRIED = "dup/broker-inner-id--client-retry", ""
_REORDERED = "order/kafka-retry-reorders", ""
_CUT = "producer/fire-and-forget-loses", ""
_MIRRORED = "cluster/mirrored-survives"
_QUORUM = "cluster/quorum-survives", "isolate-leader"
_FLUSH = "broker/rocketmq-async-flush", ""
_MASTER = "broker/rocketmq-sync-replication", "master-lost"

KNOWN = (
    Known(
        "kafka", "acks=1 loses acknowledged messages when the leader is isolated; acks=all loses none",
        "Kafka documentation, producer configuration acks",
        Arm(*_ISOLATED, "control", "acks=1"), Arm(*_ISOLATED, "treatment", "acks=all"),
    ),
    Known(
        "kafka", "acks=all loses acknowledged messages once the in-sync replicas have shrunk to one and an unclean "
        "election follows; with min.insync.replicas=2 it does not",
        "aphyr.com/posts/293-call-me-maybe-kafka; Kafka documentation, min.insync.replicas, unclean.leader.election.enable",
        Arm(*_SHRUNK, "treatment", "min.insync.replicas=1"), Arm(*_SHRUNK, "control", "min.insync.replicas=2"),
    ),
    Known(
        "kafka", "retries without idempotence double messages",
        "KIP-98",
        Arm(*_RETRIED, "control", "enable.idempotence=false"), Arm(*_RETRIED, "treatment", "enable.idempotence=true"),
    ),
    Known(
        "kafka", "retries without idempotence reorder messages, when several requests are in flight",
        "Kafka documentation, producer configuration max.in.flight.requests.per.connection; KIP-98",
        Arm(*_REORDERED, "treatment", "enable.idempotence=false"),
        Arm(*_REORDERED, "control", "enable.idempotence=true"),
    ),
    Known(
        "rabbitmq", "without confirms, messages are lost when the link is cut, and the producer does not know",
        "rabbitmq.com/docs/confirms, publisher confirms",
        Arm(*_CUT, "treatment", "no confirm"), Arm(*_CUT, "control", "confirms, and sent again"),
    ),
    Known(
        "rabbitmq", "a mirrored queue loses confirmed messages when an unsynchronised mirror is promoted",
        "rabbitmq.com/docs/3.13/ha, unsynchronised mirrors; jack-vanlightly.com/blog/2018/9/10/how-to-lose-messages-on-a-rabbitmq-cluster",
        Arm(_MIRRORED, "unsynchronised", "treatment", "ha-promote-on-failure=always"),
        Arm(f"{_MIRRORED}--when-synced", "unsynchronised", "treatment", "ha-promote-on-failure=when-synced"),
    ),
    Known(
        "rabbitmq", "a mirrored queue loses confirmed messages when autoheal ends a partition",
        "rabbitmq.com/docs/partitions, autoheal mode; jack-vanlightly.com/blog/2018/9/10/how-to-lose-messages-on-a-rabbitmq-cluster",
        Arm(_MIRRORED, "autoheal", "treatment", "cluster_partition_handling=autoheal"),
        Arm(f"{_MIRRORED}--pause-minority", "isolate-leader", "treatment", "cluster_partition_handling=pause_minority"),
    ),
    Known(
        "rabbitmq", "a quorum queue loses nothing confirmed when its leader is cut off from the majority",
        "rabbitmq.com/docs/quorum-queues, data safety",
        Arm(*_QUORUM, "control", "no confirm"), Arm(*_QUORUM, "treatment", "confirms"),
    ),
    Known(
        "rocketmq", "asynchronous flush loses acknowledged messages when the power is cut; synchronous flush does not",
        "rocketmq.apache.org/docs, deployment: flushDiskType",
        Arm(*_FLUSH, "treatment", "ASYNC_FLUSH"), Arm(*_FLUSH, "control", "SYNC_FLUSH"),
    ),
    Known(
        "rocketmq", "asynchronous replication loses acknowledged messages when the master is lost; a synchronous master "
        "does not",
        "rocketmq.apache.org/docs, deployment: brokerRole",
        Arm(*_MASTER, "control", "ASYNC_MASTER"), Arm(*_MASTER, "treatment", "SYNC_MASTER, inSyncReplicas=2"),
    ),
)  # fmt: skip

Entry = Mapping[str, Any]
#: (broker, claim, variant) -> what is kept of the newest cell that decided it.
Figures = Mapping[tuple[str, str, str], Entry]


def figures(results: Iterable[Entry]) -> Figures:
    """What the results of runs say of the cells that the table names."""
    named = {(k.broker, a.claim, a.variant) for k in KNOWN for a in k.arms}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for result in sorted(results, key=lambda r: str(r["finished"])):
        for entry in result["claims"]:
            key = (entry["broker"], entry["claim"], entry["variant"])
            if key in named and entry["verdict"] != "UNSUPPORTED":
                arms = {a: {f: entry[a][f] for f in _ARM} for a in ("treatment", "control", "sham") if entry[a]}
                found[key] = {name: entry[name] for name in _KEPT} | arms
                # What else was wrong with the cluster is the run's, and names its containers.
                found[key]["reason"] = entry["reason"].split("; besides", 1)[0]
    return found


def word(known: Known, measured: Figures) -> str:
    """``reproduced``, ``not reproduced``, ``undecided`` (evidence was missing), ``half measured`` (one arm of the two),
    ``not measured``."""
    cells = [measured.get((known.broker, a.claim, a.variant)) for a in known.arms]
    shows, clean = (cell and cell.get(a.arm) for a, cell in zip(known.arms, cells, strict=True))
    measured_arms = sum(1 for arm in (shows, clean) if arm and arm["trials"])
    if measured_arms < 2 or not shows or not clean:
        return "half measured" if measured_arms else "not measured"
    if any(cell and cell["verdict"] == "UNKNOWN" for cell in cells):
        return "undecided"
    return "reproduced" if shows["violated"] and not clean["violated"] else "not reproduced"


def _rate(arm: Arm, cell: Entry | None) -> str:
    if cell is None or not cell.get(arm.arm):
        return "not measured"
    n = cell[arm.arm]
    low, high = n["wilson95"]
    return f"{n['violated']} of {n['trials']} trials ({low:.0%} to {high:.0%})"


def page(measured: Figures) -> str:
    lines = [
        "# Known results",
        "",
        "Results that others have published of these brokers, and what this harness measured. Each has an arm that has to show",
        "it and an arm that must not, under the same faults. Rates are trials that show it, with their 95 % Wilson interval;",
        "the sham arm, with no fault, is clean wherever a cell was decided. Written by `ci/known-results`.",
        "",
        "| published | shows it | does not | |",
        "|---|---|---|---|",
    ]
    for n, known in enumerate(KNOWN, start=1):
        cells = [measured.get((known.broker, a.claim, a.variant)) for a in known.arms]
        told = [f"{a.what}: {_rate(a, cell)}" for a, cell in zip(known.arms, cells, strict=True)]
        lines.append(f"| {n}. {known.broker}: {known.says} | {told[0]} | {told[1]} | **{word(known, measured)}** |")
    for n, known in enumerate(KNOWN, start=1):
        lines += ["", f"## {n}. {known.broker}: {known.says}", "", f"Source: {known.source}.", ""]
        for claim, variant in dict.fromkeys((a.claim, a.variant) for a in known.arms):
            lines += _cell(claim, variant, measured.get((known.broker, claim, variant)))
    return "\n".join(lines) + "\n"


def _cell(claim: str, variant: str, cell: Entry | None) -> list[str]:
    name = f"`{claim}`" + (f" ({variant})" if variant else "")
    if cell is None:
        return [f"- {name}: not measured"]
    where = f"{cell['broker']} {cell['version']}, profile {cell['profile']}"
    return [f"- {name} on {where}: **{cell['verdict']}**. {cell['reason']}.", f"  Again: `{cell['command']}`"]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="ci/known-results", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page says something else")
    parser.add_argument("--keep", action="store_true", help="leave on the page what these runs did not decide")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folder")
    options = parser.parse_args(arguments)
    if not options.runs and not options.check:
        parser.error(
            "names no run folder; expected those that `brokerproof run` named at its end, e.g. runs/<utc>-<seed>"
        )
    try:
        measured: dict[tuple[str, str, str], Entry] = {}
        if options.keep or not options.runs:
            measured |= {(e["broker"], e["claim"], e["variant"]): e for e in json.loads(FIGURES.read_text())}
        measured |= figures(json.loads((run / "results.json").read_text()) for run in options.runs)
    except (OSError, ValueError) as exc:
        parser.error(f"reading figures: {exc}; a run folder that is complete holds results.json")
    kept = json.dumps([measured[key] for key in sorted(measured)], indent=1) + "\n"
    new = page(measured)
    if options.check:
        stale = [f.name for f, text in ((PAGE, new), (FIGURES, kept)) if not f.exists() or f.read_text() != text]
        for name in stale:
            print(f"docs/{name} is not what the figures say; next: ci/known-results RUN...", file=sys.stderr)
        return 1 if stale else 0
    PAGE.write_text(new)
    FIGURES.write_text(kept)
    for n, known in enumerate(KNOWN, start=1):
        print(f"{n:2} {word(known, measured):15} {known.broker}: {known.says}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
