"""Runs to compare, made of whole cloth: as many cells and runs as one asks for, and what hostile names look like."""

from __future__ import annotations

import datetime
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What a broker, a queue's name, an error text or a payload might say to a site.
HOSTILE = "</script><img src=x onerror=alert(1)>\"'`&amp;{{7*7}}]]>--><!--\u2028\x1b[31m\u202egnp __proto__"


def wilson(shows: int, n: int) -> list[float]:
    """95 % Wilson score interval."""
    if not n:
        return [0.0, 1.0]
    z, p = 1.959964, shows / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [
        round(max(0.0, (middle - half) / (1 + z * z / n)), 6),
        round(min(1.0, (middle + half) / (1 + z * z / n)), 6),
    ]


def arm(shows: int, n: int, trials: Sequence[str] = (), fault: str = "kill") -> dict[str, Any]:
    return {
        "trials": n, "violated": shows, "rate": shows / n if n else 0.0, "wilson95": wilson(shows, n),
        "trial_ids": list(trials), "faults": [{"fault": fault, "evidence": "took_effect"}],
    }  # fmt: skip


def recovery(fault: str, gap_s: float, n: int = 5) -> dict[str, Any]:
    spread = {"n": n, "median": gap_s, "least": round(gap_s * 0.9, 4), "most": round(gap_s * 1.1, 4)}
    figures = {"gap_s": spread, "clients_last_s": {**spread, "median": gap_s}}
    return {"fault": fault, "targets": ["n1"], "trials": n, "figures": figures}


def claim(
    id_: str = "broker/confirm-after-disk", verdict: str = "HOLDS", *, broker: str = "kafka", version: str = "4.3.1",
    variant: str = "", shows: int = 0, n: int = 20, fault: str = "kill", gap_s: float = 2.0, trials: Sequence[str] = (),
    settings: dict[str, Any] | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """An entry of ``results.json``, as expected unless ``expected`` says another word."""
    treatment = {"senders": [{"acks": "all", **(settings or {})}], "receivers": [], "destinations": [], "broker": {}}
    entry = {
        "claim": id_, "revision": 1, "kind": "promise", "broker": broker, "version": version, "variant": variant,
        "profile": "standard", "verdict": verdict, "expected": verdict, "as_expected": True, "mode": "race",
        "reason": f"{shows} of {n} trials", "sentence": "Nothing that was acknowledged is lost.", "source": "S1",
        "treatment": arm(shows, n, trials, fault), "control": arm(n, n, (), fault), "sham": arm(0, 2, (), "noop"),
        "comparison": None, "metrics": {"rto_s": gap_s}, "deciding": ["lost"], "unlisted": False,
        "configuration": {"treatment": treatment, "control": {**treatment, "senders": [{"acks": "1"}]}},
        "recovery": {"treatment": [recovery(fault, gap_s)], "control": [recovery(fault, gap_s * 2)]},
        "command": f"brokerproof run --broker {broker}={version} --select {id_}",
    }  # fmt: skip
    return entry | more


def case(id_: str = "K1.01", verdict: str = "PASS", *, broker: str = "kafka", version: str = "4.3.1", **more: Any) -> dict[str, Any]:  # fmt: skip
    entry = {
        "case": id_, "slug": "kafka/api-versions-before-auth", "revision": 1, "broker": broker, "version": version,
        "variant": "", "condition": "", "verdict": verdict, "expected": verdict, "as_expected": True,
        "observed": "as required", "path": "", "section": id_.partition(".")[0], "level": "MUST", "attempts": 1,
    }  # fmt: skip
    return entry | more


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_trial(run: Path, name: str, *, bins: int = 60, bin_s: float = 0.1, lost: int = 0) -> str:
    """A trial with its timeline and one fault; returns its id."""
    rng = random.Random(name)
    sent = [rng.randint(80, 120) for _ in range(bins)]
    end = bins * bin_s
    witness = {"anomaly": "lost", "msg": 7, "lines": [{"t_s": 0.5, "end_s": 0.6, "process": 0, "role": "producer", "f": "send", "outcome": "ok", "lane": "q", "pos": -1, "attempt": -1, "error": ""}]}  # fmt: skip
    write(run / "trials" / name / "findings.json", {
        "operations": sum(sent), "anomalies": {"lost": {"count": lost, "messages": list(range(lost))}}, "missing": [],
        "observations": {}, "exercised": {"send": {"ok": sum(sent), "fail": 0, "info": 3}}, "metrics": {"rto_s": 2.0},
        "witnesses": [witness] if lost else [],
        "timeline": {
            "bin_s": bin_s, "sent_ok": sent, "received_ok": sent[::-1], "send_p50_ms": [3.0] * bins,
            "send_p99_ms": [float(10 + i % 7) for i in range(bins)],
        },
    })  # fmt: skip
    write(run / "trials" / name / "faults.json", {"schema": 1, "injections": [{
        "fault": "kill", "target": "leader of lane 0", "targets": ["n1"], "evidence": "took_effect", "options": {},
        "injected_s": end * 0.4, "bit_s": end * 0.42, "healing_s": end * 0.6, "healed_s": end * 0.65, "in_flight": 12,
        "probes": {}, "observed": {}, "error": "",
    }]})  # fmt: skip
    return name


def with_logs(
    trial: Path, logs: Mapping[str, Sequence[tuple[float, str]]], zero: str = "2026-01-01T00:00:10.500000+00:00"
) -> None:
    """Gives a trial logs as the engine keeps them, and the time of its second 0. logs: node -> (seconds of the trial, what it wrote)."""
    began = datetime.datetime(2026, 1, 1, 0, 0, 10, 500_000, datetime.UTC)
    (trial / "logs").mkdir()
    for node, lines in logs.items():
        stamped = (
            f"{(began + datetime.timedelta(seconds=t)).strftime('%Y-%m-%dT%H:%M:%S.%f')}789Z {says}"
            for t, says in lines
        )
        (trial / "logs" / f"{node}.log").write_text("\n".join(stamped) + "\n", encoding="utf-8")
    faults = json.loads((trial / "faults.json").read_text())
    write(trial / "faults.json", {**faults, "zero": zero})


def write_run(
    path: Path, *, started: str = "2026-01-01T00:00:00Z", claims: Sequence[Any] = (), cases: Sequence[Any] = (),
    suites: str = "0.1.0", **facts: Any,
) -> Path:  # fmt: skip
    """A run folder of these results; returns it."""
    write(path / "run.json", {
        "schema": 1, "run": path.name, "tool": "0.1.0", "suites": suites, "seed": 7, "started": started,
        "command": "brokerproof run", "host": {"cores": 2, "memory_gib": 8}, "engine": {}, "images": {},
        "brokers": {"kafka-1": {"broker": "kafka", "version": "4.3.1", "topology": "three", "settings": {"broker": {"log.flush": "never"}}}},
        **facts,
    })  # fmt: skip
    write(path / "results.json", {
        "schema": 1, "run": path.name, "seed": 7, "finished": started, "errors": [], "claims": list(claims),
        "cases": list(cases), "gate": [],
    })  # fmt: skip
    return path


TARGETS = (("kafka", "3.9.2"), ("kafka", "4.3.1"), ("rabbitmq", "3.10.8"), ("rabbitmq", "4.0.5"), ("rocketmq", "5.5.0"))


def many(folder: Path, *, cells: int = 1000, runs: int = 50, trials_of: int = 20) -> list[Path]:
    """That many runs of that many cells each, two in three of them claims; the latest has trials for some."""
    out = []
    for r in range(runs):
        rng = random.Random(r)
        path = folder / f"run-{r:03d}"
        claims, cases_ = [], []
        for c in range(cells):
            broker, version = TARGETS[c % len(TARGETS)]
            n = c // len(TARGETS)
            verdict = "VIOLATED" if rng.random() < 0.1 else "UNKNOWN" if rng.random() < 0.03 else "HOLDS"
            if c % 3 == 0:
                cases_.append(
                    case(
                        f"K{n % 9}.{n:03d}", "FAIL" if verdict == "VIOLATED" else "PASS", broker=broker, version=version
                    )
                )
                continue
            trials = []
            if r == runs - 1 and len(claims) < trials_of:
                trials = [write_trial(path, f"t{c}", bins=200 if claims else 100_000, lost=3)]
            shows = rng.randint(1, 20) if verdict == "VIOLATED" else 0
            claims.append(claim(
                f"section{n % 6}/claim-number-{n:03d}", verdict, broker=broker, version=version, variant=("quorum", "classic")[n % 2],
                shows=shows, gap_s=round(rng.uniform(1, 3), 3), trials=trials,
            ))  # fmt: skip
        day = f"2026-{1 + r // 28:02d}-{1 + r % 28:02d}T00:00:00Z"
        out.append(write_run(path, started=day, claims=claims, cases=cases_))
    return out
