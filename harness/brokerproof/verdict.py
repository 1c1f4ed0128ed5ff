"""From findings to a verdict: one rule per kind of claim, and every reason in a sentence (design sections 2 and 7).

    VIOLATED > UNKNOWN > HOLDS     the worst of what was seen; UNSUPPORTED stands outside

Pure: nothing here reads a file, and the same findings give the same verdict on any machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from brokerproof.claim import Claim
from brokerproof.experiment import Mode, PropertyResult
from brokerproof.finding import Finding

Word = Literal["HOLDS", "VIOLATED", "UNKNOWN", "UNSUPPORTED"]
SEPARATED_P = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One trial as the verdict sees it.

    faults: (fault, evidence, in_flight) of each injection; in_flight: operations open while it was on, -1 not counted.
    witnesses_in_flight: of the deciding anomaly's messages, how many had an operation open during a fault.
    unrecovered: what was wrong with the cluster when the faults were healed and it had had its time; empty: nothing.
    """

    trial: str
    finding: Finding
    faults: tuple[tuple[str, str, int], ...] = ()
    witnesses_in_flight: int = 0
    unrecovered: str = ""

    def shows(self, claim: Claim) -> bool:
        return self.finding.shows(*claim.deciding)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """All trials of one arm."""

    trials: tuple[TrialResult, ...] = ()

    def violated(self, claim: Claim) -> int:
        return sum(t.shows(claim) for t in self.trials)

    def to_json(self, claim: Claim) -> dict[str, Any]:
        n, k = len(self.trials), self.violated(claim)
        worst: dict[str, str] = {}
        for trial in self.trials:
            for fault, evidence, _ in trial.faults:
                if worst.get(fault, "took_effect") == "took_effect":
                    worst[fault] = evidence
        return {
            "trials": n,
            "violated": k,
            "rate": k / n if n else None,
            "wilson95": list(wilson95(k, n)),
            "trial_ids": [t.trial for t in self.trials],
            "faults": [{"fault": f, "evidence": e} for f, e in sorted(worst.items())],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """word and reason; ``p`` is Fisher's one-sided p where arms were compared."""

    word: Word
    reason: str
    p: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def wilson95(k: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of k successes in n trials; (0, 1) for none.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209; z = 1.959964.
    """
    if n == 0:
        return (0.0, 1.0)
    z = 1.959963984540054
    p = k / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / denominator
    # At the ends the bound is exact; floating point would leave 1e-17 there.
    low = 0.0 if k == 0 else centre - half
    high = 1.0 if k == n else centre + half
    return (round(low, 6), round(high, 6))


def fisher_one_sided(control: tuple[int, int], treatment: tuple[int, int]) -> float:
    """P(the control shows it at least this much more often | it makes no difference), arms as (shown, trials).

    Source: Fisher's exact test, hypergeometric upper tail.
    """
    a, n1 = control
    b, n2 = treatment
    shown, total = a + b, n1 + n2
    if total == 0:
        return 1.0
    ways = math.comb(total, shown)
    return sum(math.comb(n1, i) * math.comb(n2, shown - i) for i in range(a, min(n1, shown) + 1)) / ways


def judge(claim: Claim, mode: Mode, arms: Mapping[str, ArmResult], *, has_faults: bool) -> Verdict:
    """The verdict of a promise, a hazard or a measurement. arms: ``treatment``, ``control`` and, with faults, ``sham``."""
    treatment = arms.get("treatment", ArmResult())
    control = arms.get("control", ArmResult())
    sham = arms.get("sham", ArmResult())
    words = " or ".join(claim.deciding)
    if not treatment.trials or not control.trials:
        return Verdict(word="UNKNOWN", reason="no trial of the treatment or of the control was completed")
    if claim.kind == "measurement":
        return _measurement(treatment, control)
    if sham.violated(claim):
        return Verdict(
            word="UNKNOWN",
            reason=f"the sham arm, without any fault, shows {words} too: nothing can be said of the fault (is the drain at fault?)",
        )
    p = fisher_one_sided(
        (control.violated(claim), len(control.trials)), (treatment.violated(claim), len(treatment.trials))
    )
    problem = _problem((*treatment.trials, *control.trials, *sham.trials))
    rule = _promise if claim.kind == "promise" else _hazard
    verdict = rule(claim, mode, treatment, control, problem, p, has_faults)
    reason = verdict.reason + _unrecovered((*treatment.trials, *control.trials))
    return Verdict(word=verdict.word, reason=reason, p=p, metrics=_metrics(treatment))


def _unrecovered(trials: Sequence[TrialResult]) -> str:
    """A cluster that stays ill is a finding of its own. It does not touch what the claim says, as long as every lane was
    read to its end: a lane that was not is *undrained*, and the verdict UNKNOWN."""
    ill = [t.unrecovered for t in trials if t.unrecovered]
    return f"; besides, after {len(ill)} of {len(trials)} trials {ill[0]}" if ill else ""


def _promise(
    claim: Claim, mode: Mode, treatment: ArmResult, control: ArmResult, problem: str, p: float, has_faults: bool
) -> Verdict:  # fmt: skip
    words = " or ".join(claim.deciding)
    k, n = treatment.violated(claim), len(treatment.trials)
    if k:
        trial = next(t for t in treatment.trials if t.shows(claim))
        also = f"; besides: {problem}" if problem else ""
        return Verdict(word="VIOLATED", reason=f"{k} of {n} trials show {words}: {_counts(claim, trial.finding)}{also}")
    if problem:
        return Verdict(word="UNKNOWN", reason=problem)
    shown, m = control.violated(claim), len(control.trials)
    if shown == 0:
        return Verdict(word="UNKNOWN", reason=f"arms not separated: the control shows no {words} either ({m} trials)")
    if has_faults and not any(t.witnesses_in_flight for t in control.trials if t.shows(claim)):
        return Verdict(
            word="UNKNOWN", reason=f"arms not separated: no {words} of the control was in flight during the fault"
        )
    if mode == "deterministic" and shown == m:
        why = "the control shows it in every trial"
    elif p < SEPARATED_P:
        why = f"the control shows it in {shown} of {m} trials (Fisher p = {p:.3g})"
    else:
        return Verdict(
            word="UNKNOWN",
            reason=f"arms not separated: the control shows {words} in {shown} of {m} trials, the treatment in 0 of {n} "
            f"(Fisher p = {p:.2g}, needs < {SEPARATED_P})",
        )
    first = next(t for t in control.trials if t.shows(claim))
    return Verdict(word="HOLDS", reason=f"no {words} in {n} trials; {why}: {_counts(claim, first.finding)}")


def _hazard(
    claim: Claim, mode: Mode, treatment: ArmResult, control: ArmResult, problem: str, p: float, has_faults: bool
) -> Verdict:  # fmt: skip
    words = " or ".join(claim.deciding)
    k, n = treatment.violated(claim), len(treatment.trials)
    safe = control.violated(claim)
    if safe:
        return Verdict(
            word="UNKNOWN",
            reason=f"the safe arm shows {words} too, in {safe} of {len(control.trials)} trials: the fault is too strong to tell",
        )
    if problem:
        return Verdict(word="UNKNOWN", reason=problem)
    if k:
        trial = next(t for t in treatment.trials if t.shows(claim))
        if has_faults and not any(t.witnesses_in_flight for t in treatment.trials if t.shows(claim)):
            return Verdict(word="UNKNOWN", reason=f"no {words} was in flight during the fault")
        return Verdict(
            word="HOLDS",
            reason=f"{k} of {n} trials show {words}: {_counts(claim, trial.finding)}; the safe arm stays clean",
        )
    if claim.always:
        return Verdict(word="VIOLATED", reason=f"it is said to happen every time, and none of {n} trials shows {words}")
    return Verdict(word="UNKNOWN", reason=f"no witness: none of {n} trials shows {words}")


def _measurement(treatment: ArmResult, control: ArmResult) -> Verdict:
    """What was measured counts where every fault bit and was healed, and its evidence said so of no dry injection."""
    metrics = _metrics(treatment)
    if problem := _problem(treatment.trials):
        return Verdict(word="UNKNOWN", reason=problem, metrics=metrics)
    for trial in control.trials:
        for fault, evidence, _ in trial.faults:
            if evidence != "no_effect":
                reason = f"the evidence of {fault} says {evidence} where nothing was injected, in trial {trial.trial}"
                return Verdict(word="UNKNOWN", reason=reason, metrics=metrics)
    told = [_cost(figures) for figures in recovery(treatment)]
    n = len(treatment.trials)
    return Verdict(
        word="HOLDS", metrics=metrics,
        reason=f"took effect and was healed in {n} of {n} trials, and no dry run of it did; {'; '.join(told)}",
    )  # fmt: skip


#: Figures of ``checkers/recovery.py`` that are followed over trials, by the path to them.
_FIGURES = {
    "detection_s": ("detection_s",), "gap_s": ("gap_s",), "rto_s": ("rto_s",),
    "clients_first_s": ("clients", "first_s"), "clients_median_s": ("clients", "median_s"),
    "clients_last_s": ("clients", "last_s"), "clients_never": ("clients", "never"),
    "lanes_first_s": ("lanes", "first_s"), "lanes_median_s": ("lanes", "median_s"),
    "lanes_last_s": ("lanes", "last_s"), "lanes_never": ("lanes", "never"),
    "rpo_messages": ("rpo", "messages"), "rpo_s": ("rpo", "seconds"),
    **{f"{when}_{q}_ms": ("latency_ms", when, q)
       for when in ("before", "during", "after") for q in ("p50", "p95", "p99", "p999")},
    "duplicates_ratio": ("duplicates", "ratio"),
}  # fmt: skip


def recovery(arm: ArmResult) -> list[dict[str, Any]]:
    """Of each injection of the plan ``{"fault", "targets": [of each trial], "trials", "figures": {name: {"n", "median",
    "least", "most"}}}`` over the arm's trials; a figure that no trial has is left out, ``n`` is how many have it."""
    out = []
    for injections in zip(*(t.finding.recovery for t in arm.trials if t.finding.recovery), strict=False):
        figures = {}
        for name, path in _FIGURES.items():
            values = [v for i in injections if isinstance(v := _at(i, path), (int, float))]
            if values:
                figures[name] = {
                    "n": len(values), "median": statistics.median(values), "least": min(values), "most": max(values),
                }  # fmt: skip
        out.append(
            {"fault": injections[0]["fault"], "targets": [i["targets"] for i in injections],
             "trials": len(injections), "figures": figures}
        )  # fmt: skip
    return out


def _at(figures: Any, path: Sequence[str]) -> Any:
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return figures


def _cost(injection: Mapping[str, Any]) -> str:
    """One injection's cost in a sentence, by medians."""
    median = {name: f["median"] for name, f in injection["figures"].items()}
    parts = [
        f"{word} {median[name]:.3g}{unit}"
        for name, word, unit in (
            ("detection_s", "noticed after", " s"), ("gap_s", "longest gap", " s"), ("rto_s", "back after", " s"),
            ("rpo_messages", "lost", " messages"), ("during_p99_ms", "p99 during", " ms"),
            ("duplicates_ratio", "twice", " of 1"),
        )
        if name in median
    ]  # fmt: skip
    return f"{injection['fault']}: {', '.join(parts) or 'nobody sent anything'}"


def judge_property(claim: Claim, real: PropertyResult, mutant: str, on_mutant: PropertyResult) -> Verdict:
    """The verdict of a property; the memory broker with the bug ``mutant`` (empty: the control) must fail it, or it could not
    go red."""
    other, kind = (
        (f"the memory broker {mutant!r}", "generated case") if mutant else (f"the control ({claim.control})", "case")
    )
    if on_mutant.counterexample is None:
        return Verdict(
            word="UNKNOWN", reason=f"the check could not go red: {other} passed all {on_mutant.cases} cases"
        )  # fmt: skip
    if real.counterexample is not None:
        found = f"shrunk to {_brief(real.counterexample)}" if mutant else _brief(real.counterexample)
        return Verdict(word="VIOLATED", reason=f"a {kind} disagrees with the claim, {found}")
    if real.cases == 0:
        return Verdict(word="UNKNOWN", reason="no case was run")
    return Verdict(
        word="HOLDS",
        reason=f"all {real.cases} {kind}s agree; {other} fails it with {_brief(on_mutant.counterexample)}",
    )


#: Two-sided 95 % quantile of Student's t by degrees of freedom; beyond the last, that of the one before.
_T95 = {9: 2.262, 10: 2.228, 12: 2.179, 15: 2.131, 20: 2.086, 25: 2.060, 29: 2.045, 40: 2.021, 60: 2.000, 120: 1.980}
PAIRS_MIN = 10


def ratio_of_pairs(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """(ratio, low, high): the geometric mean of first / second and its 95 % interval, by Student's t over the logarithms.
    At least ``PAIRS_MIN`` pairs of positive numbers."""
    logs = [math.log(a / b) for a, b in pairs]
    mean, spread = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    t = _T95[max(freedom for freedom in _T95 if freedom <= len(logs) - 1)]
    return math.exp(mean), math.exp(mean - t * spread), math.exp(mean + t * spread)


def judge_comparison(
    claim: Claim,
    margin: float,
    pairs: Sequence[tuple[float, float]],
    missing: str,
    counted: str = "messages/s acknowledged",
) -> tuple[Verdict, dict[str, Any] | None]:
    """The verdict, and ``comparison`` of ``results.json``. pairs: figures (of the treatment, of the control), more is better.
    missing: what is not as it has to be in some trial; empty: nothing.  counted: their unit."""
    if missing:
        return Verdict(word="UNKNOWN", reason=missing), None
    if len(pairs) < PAIRS_MIN:
        return Verdict(word="UNKNOWN", reason=f"{len(pairs)} pairs; at least {PAIRS_MIN} are needed"), None
    ratio, low, high = ratio_of_pairs(pairs)
    word: Word = "HOLDS" if low > margin else "VIOLATED" if high < 1 / margin else "UNKNOWN"
    rates = [statistics.median(side) for side in zip(*pairs, strict=True)]
    said = (
        f"{ratio:.3g} times as fast over {len(pairs)} pairs (95 % interval {low:.3g} to {high:.3g}, margin {margin:g}): "
        f"median {rates[0]:,.0f} against {rates[1]:,.0f} {counted} ({claim.control})"
    )
    if word == "UNKNOWN" and 1 / margin <= low and high <= margin:
        # More pairs would not decide it: they have shown that there is next to nothing to decide.
        said += "; the two differ by less than the margin, whichever is the faster"
    return Verdict(word=word, reason=said), {
        "ratio": round(ratio, 4), "ci95": [round(low, 4), round(high, 4)], "pairs": len(pairs), "margin": margin,
        "median_per_s": [round(rate, 1) for rate in rates],
    }  # fmt: skip


def _problem(trials: Sequence[TrialResult]) -> str:
    """The first reason why the evidence is not complete, or nothing."""
    for trial in trials:
        if trial.finding.missing:
            return f"evidence missing in trial {trial.trial}: {trial.finding.missing[0]}"
        for fault, evidence, in_flight in trial.faults:
            if fault == "noop":
                continue
            if evidence != "took_effect":
                sentence = {
                    "no_effect": "did not bite", "not_healed": "was not healed", "unproven": "has no evidence that it bit",
                }[evidence]  # fmt: skip
                return f"fault {fault} {sentence} in trial {trial.trial}"
            if in_flight == 0:
                return f"fault {fault} bit nothing in flight in trial {trial.trial}"
        if trial.finding.operations == 0:
            return f"trial {trial.trial} has an empty history"
    return ""


def _counts(claim: Claim, finding: Finding) -> str:
    shown = [(key, finding.of(key)) for key in claim.deciding if finding.shows(key)]
    first = [f"{c.count} {key} (first message {c.messages[0] if c.messages else '-'})" for key, c in shown]
    sent = finding.exercised.get("send", {})
    return f"{', '.join(first)} of {sent.get('ok', 0)} acknowledged"


def _metrics(arm: ArmResult) -> dict[str, float]:
    """The worst of each figure over the arm's trials."""
    out: dict[str, float] = {}
    for trial in arm.trials:
        for name, value in trial.finding.metrics.items():
            out[name] = max(out.get(name, value), value)
    return out


def _brief(example: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in example.items())
