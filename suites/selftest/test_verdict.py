from __future__ import annotations

import math
from dataclasses import replace

import pytest

from brokerproof.claim import Claim
from brokerproof.experiment import Mode, PropertyResult
from brokerproof.finding import Count, Finding
from brokerproof.verdict import (
    ArmResult,
    TrialResult,
    fisher_one_sided,
    judge,
    judge_comparison,
    judge_property,
    ratio_of_pairs,
    recovery,
    wilson95,
)

PROMISE = Claim(id="t/promise", revision=1, kind="promise", sentence="s", source="s", deciding=("lost",))
HAZARD = Claim(id="t/hazard", revision=1, kind="hazard", sentence="s", source="s", deciding=("lost",))
ALWAYS = Claim(id="t/always", revision=1, kind="hazard", sentence="s", source="s", deciding=("lost",), always=True)


def trial(lost: int = 0, *, evidence: str = "took_effect", in_flight: int = 5, missing: tuple[str, ...] = (),
          witnesses: int | None = None, fault: str = "kill", operations: int = 10) -> TrialResult:  # fmt: skip
    finding = Finding(
        operations=operations, anomalies={"lost": Count(count=lost, messages=tuple(range(lost)))}, missing=missing,
        exercised={"send": {"ok": 10}}, metrics={"rto_s": 2.0 + lost},
    )  # fmt: skip
    return TrialResult(
        trial="t-0", finding=finding, faults=((fault, evidence, in_flight),),
        witnesses_in_flight=lost if witnesses is None else witnesses,
    )  # fmt: skip


def arms(
    treatment: list[TrialResult], control: list[TrialResult], sham: list[TrialResult] | None = None
) -> dict[str, ArmResult]:
    clean = [trial(fault="noop", evidence="no_effect", in_flight=0)] if sham is None else sham
    return {
        "treatment": ArmResult(trials=tuple(treatment)), "control": ArmResult(trials=tuple(control)),
        "sham": ArmResult(trials=tuple(clean)),
    }  # fmt: skip


def word(claim: Claim, made: dict[str, ArmResult], mode: Mode = "deterministic") -> str:
    return judge(claim, mode, made, has_faults=True).word


def test_a_promise_holds_when_only_the_control_breaks() -> None:
    verdict = judge(PROMISE, "deterministic", arms([trial()], [trial(3)]), has_faults=True)
    assert verdict.word == "HOLDS"
    assert "the control shows it in every trial: 3 lost (first message 0) of 10 acknowledged" in verdict.reason


def test_one_witness_breaks_a_promise() -> None:
    assert word(PROMISE, arms([trial(), trial(1)], [trial(3), trial(3)])) == "VIOLATED"


def test_a_control_that_stays_green_proves_nothing() -> None:
    verdict = judge(PROMISE, "deterministic", arms([trial()], [trial()]), has_faults=True)
    assert (verdict.word, "arms not separated" in verdict.reason) == ("UNKNOWN", True)


def test_a_control_whose_witnesses_were_not_in_flight_proves_nothing() -> None:
    assert word(PROMISE, arms([trial()], [trial(3, witnesses=0)])) == "UNKNOWN"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (trial(evidence="no_effect"), "did not bite"),
        (trial(evidence="not_healed"), "was not healed"),
        (trial(evidence="unproven"), "has no evidence"),
        (trial(in_flight=0), "bit nothing in flight"),
        (trial(missing=("lane q was not drained",)), "lane q was not drained"),
        (trial(operations=0), "empty history"),
    ],
)
@pytest.mark.parametrize("claim", [PROMISE, HAZARD])
def test_missing_evidence_is_unknown_never_holds(claim: Claim, broken: TrialResult, reason: str) -> None:
    shown, clean = trial(3), broken
    made = arms([clean], [shown]) if claim is PROMISE else arms([shown], [clean])
    verdict = judge(claim, "deterministic", made, has_faults=True)
    assert (verdict.word, reason in verdict.reason) == ("UNKNOWN", True)


def test_a_witness_counts_even_where_other_evidence_is_missing() -> None:
    verdict = judge(PROMISE, "race", arms([trial(1, evidence="unproven")], [trial(3)]), has_faults=True)
    assert (verdict.word, "besides: fault kill has no evidence" in verdict.reason) == ("VIOLATED", True)


@pytest.mark.parametrize("claim", [PROMISE, HAZARD])
def test_a_red_sham_means_that_the_instrument_is_at_fault(claim: Claim) -> None:
    assert word(claim, arms([trial(1)], [trial(3)], sham=[trial(1, fault="noop")])) == "UNKNOWN"


def test_a_race_needs_enough_trials_to_be_told_from_chance() -> None:
    few = arms([trial()] * 3, [trial(1)] * 3)
    enough = arms([trial()] * 4, [trial(1)] * 4)
    assert word(PROMISE, few, "race") == "UNKNOWN"
    assert word(PROMISE, enough, "race") == "HOLDS"


def test_a_deterministic_control_has_to_break_every_time_or_pass_the_test() -> None:
    assert word(PROMISE, arms([trial()] * 2, [trial(1), trial()])) == "UNKNOWN"
    assert word(PROMISE, arms([trial()] * 8, [trial(1)] * 7 + [trial()])) == "HOLDS"


def test_a_hazard_shows_with_a_witness_and_a_clean_safe_arm() -> None:
    assert word(HAZARD, arms([trial(2)], [trial()])) == "HOLDS"
    assert word(HAZARD, arms([trial(2)], [trial(1)])) == "UNKNOWN"
    assert word(HAZARD, arms([trial(2, witnesses=0)], [trial()])) == "UNKNOWN"


def test_a_hazard_that_does_not_show_is_violated_only_if_it_should_always() -> None:
    assert word(HAZARD, arms([trial()], [trial()])) == "UNKNOWN"
    assert word(ALWAYS, arms([trial()], [trial()])) == "VIOLATED"


def test_a_cluster_that_stays_ill_is_told_and_changes_no_verdict() -> None:
    ill = replace(trial(), unrecovered="the cluster did not come back healthy: r1 lags")
    said = judge(PROMISE, "deterministic", arms([ill, trial()], [trial(2), trial(2)]), has_faults=True)
    assert said.word == "HOLDS"
    assert said.reason.endswith("besides, after 1 of 4 trials the cluster did not come back healthy: r1 lags")
    undrained = replace(ill, finding=replace(ill.finding, missing=("lane 'q' was not drained",)))
    assert word(PROMISE, arms([undrained], [trial(2)])) == "UNKNOWN"


def test_no_trials_no_verdict() -> None:
    assert judge(PROMISE, "race", {}, has_faults=True).word == "UNKNOWN"


def test_without_faults_there_is_nothing_in_flight_to_ask_for() -> None:
    quiet = TrialResult(trial="t-0", finding=trial(2).finding)
    clean = TrialResult(trial="t-0", finding=trial().finding)
    made = {"treatment": ArmResult(trials=(clean,)), "control": ArmResult(trials=(quiet,))}
    assert judge(PROMISE, "deterministic", made, has_faults=False).word == "HOLDS"


def test_a_property_needs_its_mutant_to_fail() -> None:
    claim = Claim(id="t/property", revision=1, kind="property", sentence="s", source="s")
    red, green = PropertyResult(cases=3, counterexample={"key": "#"}), PropertyResult(cases=100)
    assert judge_property(claim, green, "m", red).word == "HOLDS"
    assert judge_property(claim, red, "m", red).word == "VIOLATED"
    assert judge_property(claim, green, "m", green).word == "UNKNOWN"
    assert judge_property(claim, PropertyResult(cases=0), "m", red).word == "UNKNOWN"


def test_a_property_may_show_by_its_control_that_it_could_go_red() -> None:
    claim = Claim(id="t/property", revision=1, kind="property", sentence="s", source="s", control="no queue")
    red, green = PropertyResult(cases=1, counterexample={"answer": "ack"}), PropertyResult(cases=3)
    held = judge_property(claim, green, "", red)
    assert (held.word, held.reason) == ("HOLDS", "all 3 cases agree; the control (no queue) fails it with answer 'ack'")
    assert judge_property(claim, green, "", green).word == "UNKNOWN"


def test_an_observation_can_decide() -> None:
    claim = replace(PROMISE, deciding=("given_up",))
    red = replace(
        trial(),
        witnesses_in_flight=1,
        finding=Finding(operations=1, observations={"given_up": Count(count=2, messages=(4, 5))}),
    )
    verdict = judge(claim, "deterministic", arms([trial()], [red]), has_faults=True)
    assert verdict.word == "HOLDS"
    assert "2 given_up (first message 4)" in verdict.reason


COMPARISON = Claim(id="t/comparison", revision=1, kind="comparison", sentence="s", source="s", control="each by itself")


@pytest.mark.parametrize(
    ("pairs", "word", "alike"),
    [
        ([(2000.0 + n, 1000.0 - n) for n in range(10)], "HOLDS", False),
        ([(1000.0 - n, 2000.0 + n) for n in range(10)], "VIOLATED", False),
        ([(1000.0 + 10 * (-1) ** n, 1000.0) for n in range(10)], "UNKNOWN", True),  # no difference
        ([(1090.0 + 40 * (-1) ** n, 1000.0) for n in range(10)], "UNKNOWN", False),  # one, and about as large as the margin
        ([(3000.0 if n % 2 else 500.0, 1000.0) for n in range(10)], "UNKNOWN", False),  # all over the place
        ([(2000.0, 1000.0 + n) for n in range(9)], "UNKNOWN", False),  # too few
    ],
)  # fmt: skip
def test_a_comparison_holds_when_its_interval_lies_beyond_the_margin(
    pairs: list[tuple[float, float]], word: str, alike: bool
) -> None:
    verdict, comparison = judge_comparison(COMPARISON, 1.1, pairs, "")
    assert verdict.word == word
    assert ("differ by less than the margin" in verdict.reason) == alike
    assert (comparison is None) == (len(pairs) < 10)


def test_a_comparison_of_work_that_was_not_done_says_nothing() -> None:
    verdict, comparison = judge_comparison(
        COMPARISON, 1.1, [(2000.0, 1000.0)] * 10, "9 of 10 messages were acknowledged"
    )
    assert (verdict.word, comparison) == ("UNKNOWN", None)


def test_the_ratio_of_pairs() -> None:
    ratio, low, high = ratio_of_pairs([(4.0, 2.0), (2.0, 1.0)] * 5)
    assert (ratio, low, high) == (pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))
    # Logarithms 0 and 1, five each: mean 0.5, standard error 0.527 / sqrt(10), t(9) = 2.262.
    ratio, low, high = ratio_of_pairs([(1.0, 1.0), (math.e, 1.0)] * 5)
    assert ratio == pytest.approx(math.exp(0.5))
    assert (math.log(low), math.log(high)) == (
        pytest.approx(0.5 - 0.377, abs=1e-3),
        pytest.approx(0.5 + 0.377, abs=1e-3),
    )


def test_the_worst_figure_of_an_arm_is_reported() -> None:
    assert judge(PROMISE, "race", arms([trial(), trial(1)], [trial(3)]), has_faults=True).metrics == {"rto_s": 3.0}


def test_arms_are_reported_with_rate_interval_and_the_worst_evidence() -> None:
    arm = ArmResult(trials=(trial(), trial(1, evidence="no_effect"), trial()))
    assert arm.to_json(PROMISE) == {
        "trials": 3, "violated": 1, "rate": 1 / 3, "wilson95": [0.061492, 0.79234], "trial_ids": ["t-0"] * 3,
        "faults": [{"fault": "kill", "evidence": "no_effect"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 20, 0.0, 0.161), (20, 20, 0.839, 1.0), (0, 5, 0.0, 0.434), (1, 2, 0.0945, 0.9055), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_the_published_intervals(k: int, n: int, low: float, high: float) -> None:
    assert wilson95(k, n) == pytest.approx((low, high), abs=5e-4)


def test_fisher_gives_the_hypergeometric_tail() -> None:
    assert fisher_one_sided((4, 4), (0, 4)) == pytest.approx(1 / 70)
    assert fisher_one_sided((3, 3), (0, 3)) == pytest.approx(1 / 20)
    assert fisher_one_sided((1, 2), (1, 2)) == pytest.approx(5 / 6)
    # Tea tasting (Fisher 1935): three of four right.
    assert fisher_one_sided((3, 4), (1, 4)) == pytest.approx(17 / 70)
    assert math.isclose(fisher_one_sided((0, 3), (0, 3)), 1.0)


MEASURED = Claim(id="faults/kill", revision=1, kind="measurement", sentence="s", source="(ours)")


def injection(fault: str = "kill", **figures: object) -> dict[str, object]:
    return {"fault": fault, "targets": "n1", "detection_s": None, **figures}


def measured(*costs: dict[str, object], evidence: str = "took_effect", dry: str = "no_effect") -> dict[str, ArmResult]:
    each = [replace(trial(evidence=evidence), finding=replace(trial().finding, recovery=(cost,))) for cost in costs]
    return {"treatment": ArmResult(trials=tuple(each)), "control": ArmResult(trials=(trial(evidence=dry),))}


def test_a_measurement_holds_where_the_fault_bit_and_its_dry_run_did_not() -> None:
    arms = measured(injection(rto_s=2.0, clients={"last_s": 3.0}), injection(rto_s=4.0))
    verdict = judge(MEASURED, "deterministic", arms, has_faults=True)
    assert (verdict.word, "back after 3 s" in verdict.reason, "2 of 2 trials" in verdict.reason) == (
        "HOLDS",
        True,
        True,
    )
    (cost,) = recovery(arms["treatment"])
    assert (cost["fault"], cost["targets"], cost["trials"]) == ("kill", ["n1", "n1"], 2)
    assert cost["figures"] == {
        "rto_s": {"n": 2, "median": 3.0, "least": 2.0, "most": 4.0},
        "clients_last_s": {"n": 1, "median": 3.0, "least": 3.0, "most": 3.0},
    }


@pytest.mark.parametrize("evidence", ["no_effect", "not_healed", "unproven"])
def test_a_measurement_of_a_fault_without_evidence_is_unknown(evidence: str) -> None:
    assert judge(MEASURED, "deterministic", measured(injection(), evidence=evidence), has_faults=True).word == "UNKNOWN"


@pytest.mark.parametrize("dry", ["took_effect", "not_healed", "unproven"])
def test_evidence_that_a_dry_run_has_too_proves_nothing(dry: str) -> None:
    verdict = judge(MEASURED, "deterministic", measured(injection(), dry=dry), has_faults=True)
    assert (verdict.word, f"says {dry} where nothing was injected" in verdict.reason) == ("UNKNOWN", True)
