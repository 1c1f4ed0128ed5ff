"""A small finished run, made of whole cloth: every kind of claim and every verdict, on three products, two versions."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

RABBIT, RABBIT_OLD, KAFKA, ROCKET = (
    ("rabbitmq", "4.0.5"),
    ("rabbitmq", "3.13.7"),
    ("kafka", "4.3.1"),
    ("rocketmq", "5.3.2"),
)
NOTES = "notes on message queues, S0 and S2"
#: What a broker, a target file or a client might say to a report.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&amp;{{7*7}}]]>--><!--\x1b[31m\u202egnp"


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def claim(id_: str = "broker/confirm-after-disk", verdict: str = "HOLDS", **more: Any) -> dict[str, Any]:
    """An entry of ``results.json`` that is as expected unless ``expected`` says another word."""
    entry = {
        "claim": id_,
        "revision": 1,
        "kind": "promise",
        "broker": "rabbitmq",
        "version": "4.0.5",
        "variant": "",
        "profile": "standard",
        "verdict": verdict,
        "expected": verdict,
        "reason": "it is so",
        "sentence": "it is so",
        "source": NOTES,
        "treatment": None,
        "control": None,
        "sham": None,
        "comparison": None,
        "metrics": {},
        **more,
    }
    entry.setdefault("as_expected", entry["verdict"] == entry["expected"])
    return entry


def wilson(violated: int, trials: int) -> list[float]:
    z, p = 1.959964, violated / trials
    middle, spread = p + z * z / 2 / trials, z * math.sqrt(p * (1 - p) / trials + z * z / 4 / trials / trials)
    return [
        round(max(0.0, (middle - spread) / (1 + z * z / trials)), 3),
        round((middle + spread) / (1 + z * z / trials), 3),
    ]


def timeline(
    rng: random.Random, fault_s: tuple[float, float] | None, rate: float = 480, end_s: float = 14.0
) -> dict[str, Any]:
    """Load for 10 s, then the drain; in between a fault that stops the senders and some time to come back."""
    bin_s, sent, received, p50, p99 = 0.1, [], [], [], []
    for i in range(int(end_s / bin_s)):
        t = i * bin_s
        down = fault_s is not None and fault_s[0] <= t < fault_s[1] + 1.2
        after = fault_s is not None and fault_s[1] + 1.2 <= t < fault_s[1] + 3
        n = 0 if down or t > 10 else int(rng.gauss(rate * bin_s, 3) * (1.25 if after else 1))
        sent.append(max(0, n))
        late = 0 if down else int(rng.gauss(rate * bin_s, 4) * (1.5 if after else 1))
        received.append(max(0, late if t < 10.6 else 0))
        slow = 6.0 if after else 1.0
        p50.append(round(rng.gauss(3.1, 0.2) * slow, 2) if n else None)
        p99.append(round(abs(rng.gauss(14, 4)) * slow + 4, 2) if n else None)
    return {"bin_s": bin_s, "sent_ok": sent, "received_ok": received, "send_p50_ms": p50, "send_p99_ms": p99}


def injection(fault: str, target: str, node: str, start: float, end: float) -> dict[str, Any]:
    return {
        "fault": fault,
        "target": target,
        "options": {},
        "targets": [node],
        "evidence": "took_effect",
        "injected_s": start,
        "bit_s": start + 0.21,
        "healing_s": end,
        "healed_s": end + 1.13,
        "in_flight": 143,
        "error": "",
        "probes": {
            "before": {"bites": False, "seen": f"connect to {node} through its proxy: open after 1.8 ms"},
            "during": {"bites": True, "seen": f"{node}: process gone, port refused"},
            "after": {"bites": False, "seen": f"{node}: publish and consume through the proxy after 0.9 s"},
        },
        "observed": {"before": {"leader": node, "in_sync": 3}, "during": {"leader": "none", "in_sync": 2}},
    }


def witness(start: float, msg: int, anomaly: str = "lost") -> dict[str, Any]:
    line = {"lane": 0, "pos": None, "attempt": None, "error": ""}
    lines = [
        {**line, "t_s": start, "end_s": start + 0.0031, "process": 0, "role": "producer", "f": "send", "outcome": "ok"},
        {
            **line,
            "t_s": start + 0.61,
            "end_s": start + 2.61,
            "process": 2,
            "role": "consumer",
            "f": "receive",
            "outcome": "info",
            "error": "ConnectionReset",
        },
        {
            **line,
            "t_s": start + 4.4,
            "end_s": start + 5.9,
            "process": 4,
            "role": "reader",
            "f": "receive",
            "outcome": "fail",
            "error": "Empty",
        },
    ]
    if anomaly == "duplicated":
        lines[1] |= {"outcome": "ok", "end_s": start + 0.64, "attempt": 0, "pos": 11, "error": ""}
        lines[2] |= {"outcome": "ok", "attempt": 0, "pos": 212, "error": ""}
    if anomaly == "lost":
        fault = {"process": -1, "role": "injector", "f": "fault", "outcome": "ok", "error": "inject power_cut node-2"}
        lines.append({**line, **fault, "t_s": start + 0.4, "end_s": start + 0.41})
    lines.append(
        {**line, "t_s": start + 4.1, "end_s": None, "process": 7, "role": "consumer", "f": "settle", "outcome": "info"}
    )
    return {"anomaly": anomaly, "msg": msg, "lines": sorted(lines, key=lambda entry: entry["t_s"])}


def trial(run: Path, name: str, rng: random.Random, *, fault: str | None, anomaly: str = "", count: int = 0) -> str:
    start = round(rng.uniform(2.4, 3.6), 2)
    classes = ("lost", "duplicated", "phantom", "corrupted", "misrouted", "failed_but_seen", "effect_lost")
    found = {key: {"count": 0, "messages": []} for key in classes}
    if count:
        found[anomaly] = {
            "count": count,
            "messages": list(range(1311, 1311 + min(count, 100))),
            "details": {"tail": count},
        }
    where = run / "trials" / name
    injections = [injection(fault, "leader of lane 0", "node-2", start, start + 3)] if fault else []
    write(where / "plan.json", {"schema": 1, "trial": name})
    write(where / "faults.json", {"schema": 1, "injections": injections})
    write(
        where / "findings.json",
        {
            "operations": 14211,
            "anomalies": found,
            "missing": [],
            "observations": {
                "redelivered": {"count": 37, "messages": [1290, 1291]},
                "late": {"count": 12, "messages": []},
                "undrained": {"count": 0, "messages": []},
            },
            "exercised": {
                "send": {"ok": 4702, "fail": 0, "info": 143},
                "receive": {"ok": 4689, "fail": 0, "info": 2},
                "settle": {"ok": 4651, "fail": 0, "info": 38},
            },
            "metrics": {"rto_s": 4.2, "rpo_count": count, "longest_gap_s": 4.31},
            "timeline": timeline(rng, (start, start + 3) if fault else None),
            "witnesses": [witness(start - 0.4, 1311 + i, anomaly) for i in range(2)] if count else [],
        },
    )
    there = {"found": [{"partition": 0, "offset": 1290, "file": "t-0/0.log", "byte": 81920}], "says": ""}
    nodes = {"node-1": there, "node-2": {"found": [], "says": "not there"}}
    write(where / "places.json", {"schema": 1, "says": "", "sample": None, "messages": {"1311": nodes}})
    (where / "history.arrow").write_bytes(b"")
    (where / "logs").mkdir()
    (where / "logs" / "node-2.log").write_text("started\n")
    (where / "errors.jsonl").write_text(
        '{"t_s": 3.12, "error": "ConnectionReset", "text": "peer closed the connection"}\n'
    )
    return name


def arm(
    run: Path, cell: str, name: str, n: int, shows: int, fault: str | None, anomaly: str = "lost"
) -> dict[str, Any]:
    rng, shows = random.Random(f"{cell}/{name}"), min(shows, n)
    ids = [
        trial(
            run,
            f"{cell}-{name}-{i:02d}",
            rng,
            fault=fault,
            anomaly=anomaly,
            count=rng.randint(5, 90) if i < shows else 0,
        )
        for i in range(n)
    ]
    faults = [{"fault": fault, "evidence": "took_effect"}] * n if fault else []
    return {
        "trials": n,
        "violated": shows,
        "rate": shows / n,
        "wilson95": wilson(shows, n),
        "trial_ids": ids,
        "faults": faults,
    }


def write_sample(run: Path, *, trials: int = 3) -> Path:
    """Writes the whole run folder and returns it."""
    cells: list[dict[str, Any]] = []

    def add(
        id_: str,
        on: tuple[str, str],
        verdict: str,
        sentence: str,
        *,
        variant: str = "",
        treated: int = 0,
        controlled: int = trials,
        fault: str = "power_cut",
        anomaly: str = "lost",
        **more: Any,
    ) -> None:
        n = len(cells)
        entry = claim(
            id_,
            verdict,
            broker=on[0],
            version=on[1],
            variant=variant,
            sentence=sentence,
            mode="race",
            deciding=[anomaly],
            started="2025-07-14T09:31:00+00:00",
            duration_s=212.4 + n,
            unlisted=False,
        )
        target = f"{on[0]}-{on[1]}" + (f"-{variant}" if variant else "")
        entry["cell"] = f"suites/claims/test_{id_.split('/')[0]}.py::test_claim[{id_.split('/')[1]}-{target}]"
        entry["command"] = f"brokerproof run --broker {on[0]}={on[1]} --select {id_} --profile standard --seed 42"
        if verdict != "UNSUPPORTED" and more.get("kind") not in ("comparison", "property"):
            key = f"t{n:02d}"
            entry["treatment"] = arm(run, key, "treatment", trials, treated, fault, anomaly)
            entry["control"] = arm(run, key, "control", trials, controlled, fault, anomaly)
            entry["sham"] = arm(run, key, "sham", 1, 0, None, anomaly)
            entry["metrics"] = {"rto_s": 4.2, "rpo_count": 0}
            same = {"x-queue-type": variant or "classic", "durable": True, "prefetch": 50, "delivery_mode": 2}
            entry["configuration"] = {
                "treatment": {**same, "confirm": True},
                "control": {**same, "confirm": False},
                "sham": {**same, "confirm": False},
                "broker": {"net_ticktime": 15, "cluster_partition_handling": "pause_minority"},
            }
            entry["control_is"] = "publisher confirms: nobody waits for the broker's answer"
        if more.get("kind") in ("comparison", "property"):
            entry["deciding"] = []
        cells.append(entry | more)

    disk = "A confirmed, persistent message on a durable queue is on disk: it outlives the power of its node."
    clean = "No trial of the treatment lost a message; the control lost some in every trial, with messages in flight."
    for on in (RABBIT_OLD, RABBIT):
        add("broker/confirm-after-disk", on, "HOLDS", disk, variant="quorum", reason=clean)
    add(
        "broker/confirm-after-disk",
        RABBIT,
        "VIOLATED",
        disk,
        variant="classic",
        treated=2,
        expected="HOLDS",
        as_expected=False,
        reason="2 of 3 treatment trials lost confirmed messages (22 and 61, all of them the tail of a sender).",
    )
    add(
        "broker/confirm-after-disk",
        KAFKA,
        "VIOLATED",
        disk,
        treated=trials,
        reason="acks=all answers before anything is "
        "flushed: with the power of all replicas gone at once, every trial lost acknowledged messages.",
    )
    add(
        "broker/confirm-after-disk--flush-each",
        KAFKA,
        "HOLDS",
        "With flush.messages=1 an acknowledged message outlives the power of all its replicas.",
        reason=clean,
        sharpens="broker/confirm-after-disk",
    )
    add(
        "broker/confirm-after-disk",
        ROCKET,
        "UNKNOWN",
        disk,
        variant="SYNC_FLUSH",
        controlled=0,
        expected="HOLDS",
        as_expected=False,
        reason="Arms not separated: neither arm lost anything (Fisher p = 1.0); the cut may have come after the flush.",
    )
    forget = "With fire-and-forget publishing, messages are lost when the link fails, and the producer does not know."
    for on, variant in ((RABBIT_OLD, ""), (RABBIT, ""), (KAFKA, "acks=0"), (ROCKET, "oneway")):
        add(
            "producer/fire-and-forget-loses",
            on,
            "HOLDS",
            forget,
            variant=variant,
            kind="hazard",
            treated=trials,
            controlled=0,
            fault="reset",
            reason="Every treatment trial lost messages without an error; the safe arm stayed clean.",
        )
    add(
        "producer/kafka-acks-all",
        KAFKA,
        "HOLDS",
        "acks=all loses none that was acknowledged.",
        variant="leader kill",
        fault="kill",
        reason=clean,
    )
    double = "Resending after a lost acknowledgement doubles the message."
    for on in (RABBIT, KAFKA, ROCKET):
        add(
            "producer/resend-duplicates",
            on,
            "HOLDS",
            double,
            kind="hazard",
            treated=trials,
            controlled=0,
            fault="lost_ack",
            anomaly="duplicated",
            mode="deterministic",
            reason="Every trial has the message twice.",
            unlisted=on is ROCKET,
        )
    for on in (RABBIT_OLD, RABBIT):
        add(
            "producer/tx-is-synchronous-and-slow",
            on,
            "HOLDS",
            "Confirms are faster than transactions.",
            kind="comparison",
            comparison={"ratio": 38.2, "ci95": [31.0, 47.5], "pairs": 10},
            reason="38 times as many messages per second.",
        )
        add(
            "routing/topic-hash-one-or-more",
            on,
            "VIOLATED",
            "In a topic binding, # matches one or more words.",
            kind="property",
            mode="property",
            reason="# matches no word as well: counter-example below, shrunk.",
            property={
                "cases": 214,
                "counterexample": {"binding": "a.#", "key": "a"},
                "mutant": {"name": "hash-needs-a-word", "failed": True},
            },
        )
    add(
        "routing/topic-hash-one-or-more",
        KAFKA,
        "UNSUPPORTED",
        "In a topic binding, # matches one or more words.",
        reason="kafka has no routing by patterns (capability topic_exchange)",
    )
    cases = [
        {
            "case": f"A1.{i:02d}",
            "slug": f"amqp091/{slug}",
            "revision": 1,
            "broker": "rabbitmq",
            "version": "4.0.5",
            "variant": "",
            "verdict": verdict,
            "expected": "PASS",
            "observed": "Connection.Start 0-9, PLAIN AMQPLAIN, en_US",
            "path": "",
        }
        for i, (slug, verdict) in enumerate(
            (("header-0-9-1", "PASS"), ("header-unknown", "PASS"), ("server-properties", "CODE")), 1
        )
    ]
    # What a crash leaves behind: a trial without findings, and one whose folder never came to be.
    (run / "trials" / cells[1]["control"]["trial_ids"][-1] / "findings.json").write_text('{"operations": 12')
    cells[1]["control"]["trial_ids"].append("never-started")
    write(
        run / "run.json",
        {
            "schema": 1,
            "run": run.name,
            "seed": 42,
            "profile": "standard",
            "tool_version": "0.1.0",
            "suite_version": "0.1.0",
            "started": "2025-07-14T09:30:00+00:00",
            "finished": "2025-07-14T10:41:17+00:00",
            "command": "brokerproof run --broker rabbitmq=4.0.5,3.13.7 --broker kafka=4.3.1 --broker rocketmq=5.3.2 --seed 42",
            "host": {"cores": 16, "memory_bytes": 64 * 2**30, "system": "Linux 6.1", "machine": "x86_64"},
            "engine": {"name": "docker", "version": "28.3.2"},
            "images": {
                f"{b}:{v}": f"sha256:{i:064x}" for i, (b, v) in enumerate((RABBIT_OLD, RABBIT, KAFKA, ROCKET), 11**40)
            },
            "brokers": {"kafka 4.3.1": {"min.insync.replicas": "2", "auto.create.topics.enable": "false"}},
        },
    )
    write(
        run / "results.json",
        {
            "schema": 1,
            "run": run.name,
            "seed": 42,
            "finished": "2025-07-14T10:41:17+00:00",
            "claims": cells,
            "cases": cases,
            "errors": [
                {
                    "cell": "suites/claims/test_order.py::test_claim[one-queue-one-consumer-rocketmq-5.3.2]",
                    "message": "rocketmq name server on port 9876: no answer after 60.0 s; its log is in logs/namesrv.log",
                }
            ],
        },
    )
    return run


def make_hostile(run: Path) -> None:
    """Adds ``HOSTILE`` to every text in every file of this run, but for the words that steer."""

    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            steering = ("verdict", "expected", "trial_ids", "kind", "evidence", "deciding", "anomaly")
            return {k: v if k in steering else spoilt(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(v) for v in value]
        return f"{value} {HOSTILE}" if isinstance(value, str) else value

    for path in [*run.glob("*.json"), *run.glob("trials/*/f*.json")]:
        try:
            write(path, spoilt(json.loads(path.read_text())))
        except ValueError:
            continue  # the sample's torn file
    for path in run.glob("trials/*/errors.jsonl"):
        path.write_text(HOSTILE + "\n", encoding="utf-8")
