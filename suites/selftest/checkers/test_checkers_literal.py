"""Literal histories: what each checker says of the smallest cases, word by word from the definitions."""

from __future__ import annotations

from typing import Any

import pytest
from storybook import MS, nonzero, told

from brokerproof.checkers.base import check, checkers, keys
from brokerproof.finding import Finding

FAN_OUT = {"0": ({"lane": 1, "must": True}, {"lane": 2, "must": True})}
DEAD_LETTERS = {"0": ({"lane": 1, "must": False},)}
GROUPS = ("", "x", "y", "")
#: Every key that a finding has to list.
VOCABULARY = {
    "lost", "definition_lost", "duplicated", "phantom", "corrupted", "misrouted", "failed_but_seen", "reordered",
    "effect_lost", "effect_duplicated", "effect_out_of_order", "effect_of_nobody", "settled_but_lost", "zombie_effect",
    "commit_regressed", "commit_ahead_of_work", "aborted_read", "precommitted_read", "inconsistent_positions",
    "poll_skip", "poll_nonmonotonic", "send_nonmonotonic", "send_skip", "g0", "g1c", "expired_but_delivered",
    "delivered_early", "delivered_late", "stale_read", "late", "undrained", "redelivered", "resent", "given_up", "recovered",
    "unavailable",
}  # fmt: skip


def anomalies(*lines: str, **about: Any) -> dict[str, int]:
    return nonzero(check(told(*lines, **about)).anomalies)


def look(*lines: str, **about: Any) -> Finding:
    return check(told(*lines, **about))


# -- the minimal histories of the vocabulary ---------------------------------------------------------------------------


def test_one_position_two_messages() -> None:
    assert "inconsistent_positions" in anomalies("ok send a@0", "ok receive b@0", kind="log")


def test_one_message_two_positions_is_duplicated() -> None:
    found = anomalies("ok send a@1", "ok receive a@1", "ok receive a@3", kind="log")
    assert found == {"duplicated": 1}


def test_refused_and_seen() -> None:
    assert anomalies("fail send a", "ok receive a") == {"failed_but_seen": 1}


def test_lost_in_the_middle_where_something_later_was_read() -> None:
    finding = look("ok send a@0", "ok send b@1", "ok receive b@1", kind="log")
    assert nonzero(finding.anomalies) == {"lost": 1}
    lost = finding.anomalies["lost"]
    assert lost.messages == (0,)
    assert (lost.details["middle"], lost.details["tail"], lost.details["prefix"]) == (1, 0, 1)
    assert lost.details["by_sender"]["0"]["middle"] == 1


def test_lost_at_the_tail_if_drained_and_undrained_if_not() -> None:
    drained = look("ok send a@0", kind="log", drained=True)
    assert nonzero(drained.anomalies) == {"lost": 1}
    assert drained.anomalies["lost"].details["tail"] == 1
    assert not drained.missing
    undrained = look("ok send a@0", kind="log", drained=False)
    assert nonzero(undrained.anomalies) == {}
    assert nonzero(undrained.observations)["undrained"] == 1
    assert any("not drained" in sentence for sentence in undrained.missing)


def test_a_file_without_control_rows_is_judged_as_drained() -> None:
    assert anomalies("ok send a") == {"lost": 1}
    assert nonzero(look("ok send a").observations).get("undrained") is None


def test_a_torn_file_without_control_rows_is_not() -> None:
    finding = look("ok send a", torn="the tail of history.arrow is torn: short read")
    assert nonzero(finding.anomalies) == {}
    assert nonzero(finding.observations)["undrained"] == 1
    assert finding.missing[0].startswith("the tail")


def test_a_poll_that_jumps_over_a_known_position() -> None:
    finding = look(
        "ok send a@0", "ok send b@1", "ok send c@2", "ok receive a@0 batch=7", "ok receive c@2 batch=7",
        "ok receive b@1 by=3", kind="log",
    )  # fmt: skip
    assert nonzero(finding.anomalies) == {"poll_skip": 1}
    assert finding.anomalies["poll_skip"].messages == (1,)
    assert finding.anomalies["poll_skip"].details == {"inside_poll": 1, "between_polls": 0}


def test_nothing_completed_is_missing_evidence_and_no_anomaly() -> None:
    finding = look("info send a pending=1", "info receive - pending=1")
    assert nonzero(finding.anomalies) == {}
    assert [s.split(" ever")[0] for s in finding.missing] == ["no send", "no receive"]


# -- empty and sane ----------------------------------------------------------------------------------------------------


def test_an_empty_history_is_missing_evidence() -> None:
    finding = look()
    assert any("empty" in sentence for sentence in finding.missing)
    assert not nonzero(finding.anomalies)
    assert finding.operations == 0
    assert any("empty" in s for s in look(drained=True).missing)


def test_every_key_is_listed_and_none_twice() -> None:
    finding = look("ok send a", "ok receive a", "ok settle a")
    known = keys()
    assert set(finding.anomalies) == {key for key, kind in known.items() if kind == "anomaly"}
    assert set(finding.observations) == {key for key, kind in known.items() if kind == "observation"}
    assert set(known) == VOCABULARY
    assert all(count.count == 0 for count in (*finding.anomalies.values(), *finding.observations.values()))
    assert all(each.prose for each in checkers())


def test_sane_queue_with_effects_is_clean() -> None:
    finding = look("ok send a", "ok receive a attempt=0", "ok effect a", "ok settle a", drained=True)
    assert not nonzero(finding.anomalies)
    assert not finding.missing
    assert finding.exercised["effect"] == {"ok": 1, "fail": 0, "info": 0}
    assert finding.operations == 4


def test_check_does_not_say_that_a_function_that_was_not_used_never_succeeded() -> None:
    assert not look("ok send a", "ok receive a").missing


# -- loss --------------------------------------------------------------------------------------------------------------


def test_an_unknown_send_may_appear_or_not() -> None:
    finding = look("ok send a", "info send b", "info send c", "ok receive a", "ok receive c")
    assert not nonzero(finding.anomalies)
    assert nonzero(finding.observations)["recovered"] == 1


def test_a_refused_send_is_not_lost() -> None:
    assert anomalies("ok send a", "fail send b", "ok receive a") == {}


def test_an_info_receive_is_no_progress() -> None:
    assert anomalies("ok send a", "info receive a") == {"lost": 1}


def test_a_resend_that_is_ok_makes_the_message_acknowledged() -> None:
    assert anomalies("info send a", "ok send a", "ok send b", "ok receive b") == {"lost": 1}
    assert nonzero(look("info send a", "ok send a", "ok receive a").observations) == {"resent": 1}


def test_what_no_attempt_got_acknowledged_and_nobody_has_is_given_up() -> None:
    finding = look(
        "info send a", "info send a", "fail send b", "info send c", "ok receive c", "ok send d", "ok receive d"
    )
    assert nonzero(finding.anomalies) == {}
    assert (
        finding.observations["given_up"].messages
        == look("info send a", "fail send b").observations["given_up"].messages
    )
    assert finding.observations["given_up"].details == {"refused": 1}
    # Not drained: it may be there.
    assert "given_up" not in nonzero(look("info send a", "ok send b", drained=False).observations)


def test_lost_splits_per_sender_and_lane() -> None:
    finding = look(
        "ok send 1", "ok send 2", "ok send 3", "ok send 11 by=4", "ok send 12 by=4", "ok send 21 by=4 lane=1",
        "ok receive 2", "ok receive 11", lanes=("queue", "queue"), roles=(*("producer", "consumer", "consumer", "reader"), "producer"),
    )  # fmt: skip
    lost = finding.anomalies["lost"]
    assert lost.messages == (1, 3, 12, 21)
    assert (lost.details["middle"], lost.details["tail"], lost.details["prefix"]) == (1, 3, 1)
    assert lost.details["by_sender"]["4"] == {"prefix": 0, "middle": 0, "tail": 2}


def test_found_in_the_dead_letter_lane_is_not_lost() -> None:
    lines = ("ok send a", "ok receive a lane=1")
    assert anomalies(*lines, lanes=("queue", "queue"), routes=DEAD_LETTERS) == {}
    assert anomalies(*lines, lanes=("queue", "queue")) == {"misrouted": 1, "lost": 1}


def test_what_may_lie_in_an_undrained_dead_letter_lane_is_undrained() -> None:
    finding = look(
        "ok send a", "ok send b", "ok receive b", "ok control error=drained lane=0",
        lanes=("queue", "queue"), routes=DEAD_LETTERS,
    )  # fmt: skip
    assert not nonzero(finding.anomalies)
    assert nonzero(finding.observations) == {"undrained": 1}


def test_fan_out_owes_each_lane_its_copy() -> None:
    lanes = ("queue", "queue", "queue")
    both = ("ok send a", "ok receive a lane=1 by=1", "ok receive a lane=2 by=2")
    assert anomalies(*both, lanes=lanes, routes=FAN_OUT) == {}
    assert anomalies(*both[:2], lanes=lanes, routes=FAN_OUT) == {"lost": 1}


def test_each_group_has_to_get_its_messages() -> None:
    lines = ("ok send a@0", "ok send b@1", "ok receive a@0 by=1", "ok receive b@1 by=1", "ok receive a@0 by=2")
    finding = look(*lines, kind="log", groups=GROUPS)
    assert nonzero(finding.anomalies) == {"lost": 1}
    assert finding.anomalies["lost"].details["by_group"] == {"x": 0, "y": 1}
    assert anomalies(*lines, "ok receive b@1 by=2", kind="log", groups=GROUPS) == {}
    assert anomalies(*lines, kind="log") == {}
    assert anomalies(*lines, kind="log", groups=("", "x", "x", "")) == {}


def test_a_lane_that_is_gone_loses_its_definition_not_its_messages() -> None:
    rows = (
        "ok control error=start",
        "ok send a",
        "ok send b lane=1",
        "ok receive b lane=1",
        "ok control error=drained lane=1",
    )
    finding = look(*rows, "ok control error=definition-lost lane=0", lanes=("queue", "queue"))
    assert nonzero(finding.observations) == {"undrained": 1}  # an unknown word says nothing
    gone = look(*rows, "ok control error=definition~lost lane=0", lanes=("queue", "queue"))
    assert nonzero(gone.anomalies) == {"definition_lost": 1}
    assert gone.anomalies["definition_lost"].messages == (0,)
    assert gone.anomalies["definition_lost"].details == {"lanes": ["queue-0"], "messages": 1}
    assert not nonzero(gone.observations)
    assert not gone.missing


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_a_second_delivery_that_is_not_flagged_is_duplicated() -> None:
    finding = look("ok send a", "ok receive a attempt=0", "ok receive a attempt=0 by=2")
    assert nonzero(finding.anomalies) == {"duplicated": 1}
    assert finding.anomalies["duplicated"].details["broker"] == 1
    assert finding.anomalies["duplicated"].details["queue"] == 1


def test_a_redelivery_before_the_settle_is_none() -> None:
    finding = look("ok send a", "ok receive a attempt=0", "ok receive a attempt=1 by=2", "ok settle a by=2")
    assert not nonzero(finding.anomalies)
    assert nonzero(finding.observations) == {"redelivered": 1}


def test_any_delivery_after_the_settle_is_duplicated() -> None:
    lines = ("ok send a", "ok receive a attempt=0", "ok settle a", "ok receive a attempt={} by=2")
    for attempt in (0, 1, -1):
        finding = look(*lines[:3], lines[3].format(attempt))
        assert nonzero(finding.anomalies) == {"duplicated": 1}
        assert finding.anomalies["duplicated"].details["after_settle"] == 1
    assert anomalies(*lines[:2], "info settle a", lines[3].format(1)) == {}


def test_where_the_broker_tells_no_attempt_only_the_settle_counts_and_it_is_said() -> None:
    finding = look("ok send a", "ok receive a", "ok receive a by=2")
    assert not nonzero(finding.anomalies)
    assert finding.anomalies["duplicated"].details["attempt_unknown"] == 1


def test_a_double_by_the_application_is_told_from_the_brokers() -> None:
    finding = look("info send a", "ok send a", "ok receive a attempt=0", "ok receive a attempt=0")
    assert finding.anomalies["duplicated"].count == 1
    assert (finding.anomalies["duplicated"].details["resend"], finding.anomalies["duplicated"].details["broker"]) == (
        1,
        0,
    )


def test_one_position_read_again_is_no_double() -> None:
    assert anomalies("ok send a@4", "ok receive a@4", "ok receive a@4 by=2", "ok receive a@4 by=3", kind="log") == {}


def test_a_double_in_another_partition_of_the_topic() -> None:
    either = {"0": ({"lane": 0}, {"lane": 1}), "1": ({"lane": 0}, {"lane": 1})}
    lines = ("ok send a@0", "ok receive a@0", "ok receive a@0 lane=1")
    assert anomalies(*lines, lanes=("log", "log"), routes=either) == {"duplicated": 1}
    assert anomalies(*lines, lanes=("log", "log"), routes=DEAD_LETTERS) == {}


def test_copies_in_lanes_of_a_fan_out_are_no_doubles() -> None:
    assert anomalies(
        "ok send a", "ok receive a lane=1 attempt=0", "ok receive a lane=2 attempt=0", lanes=("queue",) * 3, routes=FAN_OUT
    ) == {}  # fmt: skip


def test_another_groups_settle_is_not_this_groups() -> None:
    lines = ("ok send a", "ok receive a by=1 attempt=0", "ok settle a by=1", "ok receive a by=2 attempt=0")
    assert anomalies(*lines, groups=GROUPS) == {}
    assert anomalies(*lines, groups=("", "x", "x", "")) == {"duplicated": 1}


def test_what_stays_after_consumption_is_read_once_more_and_not_delivered_twice() -> None:
    """A final reader that is a group of its own; without a group it gets what was left, and a second time is a second time."""
    lines = ("ok send a", "ok receive a attempt=0", "ok settle a", "ok receive a by=3 attempt=0")
    own = look(*lines, groups=("", "g", "g", "final read"))
    assert (nonzero(own.anomalies), nonzero(own.observations)) == ({}, {})
    assert anomalies(*lines, groups=("", "g", "g", "")) == {"duplicated": 1}
    assert anomalies(*lines, "ok receive a by=3 attempt=0", groups=("", "g", "g", "final read")) == {"duplicated": 1}
    assert anomalies(*lines, "ok receive a attempt=0", groups=("", "g", "g", "final read")) == {"duplicated": 1}


# -- what nobody sent --------------------------------------------------------------------------------------------------


def test_phantom_and_corrupted() -> None:
    finding = look("ok send a", "ok receive a", "ok receive z", "ok receive ? lane=0", "ok receive ?")
    assert nonzero(finding.anomalies) == {"phantom": 1, "corrupted": 2}
    assert finding.anomalies["phantom"].messages == (25,)
    shown = {(w["anomaly"], w["msg"]): w["lines"] for w in finding.witnesses}
    assert len(shown["phantom", 25]) == 1
    assert shown["corrupted", -2][0]["f"] == "receive"


def test_an_info_send_is_enough_not_to_be_a_phantom() -> None:
    assert anomalies("info send a lane=-1", "ok receive a") == {}


def test_misrouted_unless_a_resend_went_there() -> None:
    assert anomalies("ok send a", "ok receive a", "ok receive a lane=1", lanes=("queue", "queue")) == {"misrouted": 1}
    assert anomalies("info send a", "ok send a lane=1", "ok receive a lane=1", lanes=("queue", "queue")) == {}


# -- order -------------------------------------------------------------------------------------------------------------


def test_reordered_tells_its_causes() -> None:
    new = look("ok send a", "ok send b", "ok receive b", "ok receive a")
    assert nonzero(new.observations) == {"reordered": 1}
    assert not nonzero(new.anomalies)
    assert new.observations["reordered"].messages == (0,)
    assert new.observations["reordered"].details == {"new": 1, "redelivery": 0, "resend": 0}
    redelivery = look("ok send a", "ok send b", "ok receive a", "ok receive b by=2", "ok receive a by=2 attempt=1")
    assert redelivery.observations["reordered"].details == {"new": 0, "redelivery": 1, "resend": 0}
    resend = look("info send a", "ok send b", "ok send a", "ok receive b", "ok receive a")
    assert resend.observations["reordered"].details == {"new": 0, "redelivery": 0, "resend": 1}


@pytest.mark.parametrize("lines", [
    ("ok send a", "ok send b", "ok receive b by=2", "ok receive a"),                  # two receivers
    ("ok send a key=1", "ok send b", "ok receive b", "ok receive a key=1"),           # two keys
    ("ok send a key=-1", "ok send b key=-1", "ok receive b", "ok receive a"),         # no order
    ("ok send a", "ok send b by=4", "ok receive b", "ok receive a"),                  # two senders
    ("ok send a", "ok send b", "ok receive a", "ok receive b", "ok receive a"),       # read again: the first counts
])  # fmt: skip
def test_not_reordered(lines: tuple[str, ...]) -> None:
    assert "reordered" not in nonzero(look(*lines).observations)


def test_an_effect_that_began_after_a_later_ones_end_is_out_of_order() -> None:
    sends = ("ok send a", "ok send b", "ok receive a", "ok receive b")
    late = ("ok effect b at=10..11", "ok effect a at=12..13 by=2")
    finding = look(*sends, *late)
    assert nonzero(finding.anomalies) == {"effect_out_of_order": 1}
    assert finding.anomalies["effect_out_of_order"].messages == (0,)
    assert anomalies(*sends, "ok effect b at=10..12", "ok effect a at=11..13 by=2") == {}
    assert anomalies(sends[0] + " key=3", *sends[1:], *late) == {}
    assert anomalies(*(s + " key=-1" for s in sends), *late) == {}


def test_an_effect_order_holds_over_a_senders_reconnection() -> None:
    lines = (
        "ok send a",
        "ok send b by=4",
        "ok receive a",
        "ok receive b",
        "ok effect b at=10..11",
        "ok effect a at=12..13",
    )
    assert anomalies(*lines) == {"effect_out_of_order": 1}


def test_a_second_effect_that_comes_too_late_is_told_apart() -> None:
    finding = look(
        "ok send a",
        "ok send b",
        "ok receive a",
        "ok receive b",
        "ok effect a",
        "ok effect b",
        "ok effect a",
        "ok settle a",
    )
    assert nonzero(finding.anomalies) == {"effect_duplicated": 1, "effect_out_of_order": 1}
    assert finding.anomalies["effect_out_of_order"].details == {"repeated": 1}


# -- effects -----------------------------------------------------------------------------------------------------------


def test_effect_lost_and_settled_but_lost() -> None:
    before = ("ok send a", "ok send b", "ok receive a", "ok receive b", "ok effect a")
    assert anomalies(*before) == {"effect_lost": 1}
    assert anomalies(*before, "ok settle b") == {"effect_lost": 1, "settled_but_lost": 1}
    assert anomalies(*before, "info settle b") == {"effect_lost": 1}
    assert anomalies(*before, "ok settle b", "info effect b") == {}


def test_lost_implies_effect_lost_where_there_are_effects() -> None:
    assert anomalies("ok send a", "ok send b", "ok receive a", "ok effect a") == {"lost": 1, "effect_lost": 1}
    assert anomalies("ok send a", "ok send b", "ok receive a") == {"lost": 1}


def test_what_the_final_reader_took_out_of_the_queue_never_had_its_turn() -> None:
    finding = look(
        "ok send a", "ok send b", "ok receive a", "ok effect a", "ok settle a", "ok receive b by=3", "ok settle b by=3"
    )
    assert not nonzero(finding.anomalies)
    assert finding.anomalies["effect_lost"].details["beyond_consumers"] == 1


def test_what_a_consumer_left_is_lost_to_the_world_and_what_it_gave_back_is_not_yet() -> None:
    for said, lost in (("LEFT", 1), ("REQUEUED", 0)):
        finding = look(
            "ok send a", "ok send b", "ok receive a", "ok effect a", "ok settle a", "ok receive b", f"fail settle b error={said}",
            "ok receive b by=3",
        )  # fmt: skip
        assert finding.anomalies["effect_lost"].count == lost
        assert bool(finding.missing) is not bool(lost)


def test_what_a_log_consumer_had_passed_by_is_lost_to_the_world() -> None:
    base = ("ok send a@0", "ok send b@1", "ok send c@2", "ok receive a@0", "ok effect a")
    read = ("ok receive a@0 by=3", "ok receive b@1 by=3", "ok receive c@2 by=3")
    assert anomalies(*base, *read, kind="log") == {}
    assert anomalies(*base, *read, "ok commit - value=2", kind="log")["effect_lost"] == 1


def test_effect_duplicated_and_of_nobody() -> None:
    finding = look("ok send a", "ok receive a", "ok effect a", "ok effect a by=2", "ok effect z")
    assert nonzero(finding.anomalies) == {"effect_duplicated": 1, "effect_of_nobody": 1}
    assert (
        anomalies("ok send a", "ok receive a", "ok receive a by=2", "ok effect a", "ok effect a by=2", groups=GROUPS)
        == {}
    )


def test_an_effect_by_a_member_whose_lane_was_revoked() -> None:
    base = ("ok send a", "ok assign -", "ok receive a")
    assert anomalies(*base, "ok revoke -", "ok effect a") == {"zombie_effect": 1}
    assert anomalies(*base, "ok revoke - lane=-1", "ok effect a") == {"zombie_effect": 1}
    assert anomalies(*base, "ok effect a", "ok revoke -") == {}
    assert anomalies(*base, "ok revoke - by=2", "ok effect a") == {}
    assert anomalies(*base, "ok revoke -", "ok assign -", "ok effect a") == {}


def test_a_sleeper_is_a_zombie_once_another_member_has_its_lane() -> None:
    lines = ("ok send a", "ok assign -", "ok receive a", "ok assign - by=2", "ok effect a")
    assert anomalies(*lines, groups=("", "g", "g", "")) == {"zombie_effect": 1}
    assert "zombie_effect" not in anomalies(*lines, groups=("", "g", "h", ""))
    # Another lane that another member takes is nothing to it.
    elsewhere = ("ok send a", "ok assign - lane=-1", "ok receive a", "ok assign - by=2 lane=1", "ok effect a")
    assert anomalies(*elsewhere, groups=("", "g", "g", "")) == {}
    # Whichever group is named first.
    assert anomalies(*lines, groups=("g", "g", "g", "")) == {"zombie_effect": 1}
    assert anomalies(*lines) == {}


# -- logs --------------------------------------------------------------------------------------------------------------


def test_poll_nonmonotonic_unless_rebalanced() -> None:
    base = ("ok send a@0", "ok send b@1", "ok receive a@0", "ok receive b@1", "ok receive a@0 batch=1")
    finding = look(*base, kind="log")
    assert nonzero(finding.anomalies) == {"poll_nonmonotonic": 1}
    assert anomalies(*base[:4], "ok revoke -", "ok assign -", base[4], kind="log") == {}
    assert anomalies(*base[:4], "ok assign - by=2", base[4], kind="log") == {"poll_nonmonotonic": 1}


@pytest.mark.parametrize("between", [
    (),                                            # a hole
    ("fail send b",),                              # refused
    ("info send b",),                              # not seen
    ("fail send b", "info receive b@1 by=2"),      # refused, yet somebody says where it lies
])  # fmt: skip
def test_holes_in_positions_are_none(between: tuple[str, ...]) -> None:
    assert anomalies("ok send a@0", *between, "ok send c@2", "ok receive a@0", "ok receive c@2", kind="log") == {}


def test_an_unknown_send_that_was_seen_is_known() -> None:
    found = anomalies(
        "ok send a@0",
        "info send b",
        "ok send c@2",
        "ok receive a@0",
        "ok receive c@2",
        "ok receive b@1 by=3",
        kind="log",
    )
    assert found == {"poll_skip": 1}


def test_info_receives_testify_to_positions_not_to_progress() -> None:
    assert anomalies("ok send a@0", "ok receive a@0", "info receive b@0", "ok send b@1", "ok receive b@1", kind="log").keys() == {
        "inconsistent_positions", "duplicated",
    }  # fmt: skip
    assert (
        anomalies("ok send a@0", "ok send b@1", "ok receive a@0", "info receive a@0", "ok receive b@1", kind="log")
        == {}
    )


def test_send_nonmonotonic_implies_reordered() -> None:
    finding = look("ok send a@1", "ok send b@0", "ok receive b@0", "ok receive a@1", kind="log")
    assert nonzero(finding.anomalies) == {"send_nonmonotonic": 1}
    assert nonzero(finding.observations) == {"reordered": 1}
    assert anomalies("ok send a@1 key=1", "ok send b@0 key=2", "ok receive b@0", "ok receive a@1", kind="log") == {}
    assert anomalies("ok send a@1 by=4", "ok send b@0", "ok receive b@0", "ok receive a@1", kind="log") == {}
    assert anomalies("info send a", "ok send b@0", "ok send a@1", "ok receive b@0", "ok receive a@1", kind="log") == {}
    lanes = ("ok send a@7", "ok send b@0 lane=1", "ok receive a@7", "ok receive b@0 lane=1")
    assert anomalies(*lanes, lanes=("log", "log")) == {}


def test_commit_regressed() -> None:
    base = ("ok send a@0", "ok send b@1", "ok receive a@0", "ok receive b@1")
    back = ("ok commit - value=2", "ok commit - value=1")
    assert anomalies(*base, *back, kind="log") == {"commit_regressed": 1}
    assert anomalies(*base, *reversed(back), kind="log") == {}
    assert anomalies(*base, back[0], back[1] + " by=2", kind="log", groups=("", "g", "g", "")) == {
        "commit_regressed": 1
    }
    assert anomalies(*base, back[0], back[1] + " by=2", kind="log") == {}
    assert anomalies(*base, back[0] + " at=10..12", back[1] + " at=11..13", kind="log") == {}
    assert anomalies(*base, back[0] + " at=10..12", back[1] + " at=12..13", kind="log") == {"commit_regressed": 1}


def test_commit_ahead_of_work() -> None:
    base = ("ok send a@0", "ok send b@1", "ok receive a@0", "ok effect a", "ok receive b@1")
    assert anomalies(*base, "ok commit - value=2", "ok effect b", kind="log") == {"commit_ahead_of_work": 1}
    assert anomalies(*base, "ok effect b", "ok commit - value=2", kind="log") == {}
    assert anomalies(*base, "ok commit - value=1", "ok effect b", kind="log") == {}
    assert anomalies(*base, "ok commit - value=2 at=10..12", "ok effect b at=11..13", kind="log") == {}


# -- transactions ------------------------------------------------------------------------------------------------------


def test_a_reader_saw_what_was_aborted() -> None:
    lines = (
        "ok txn_begin - batch=1",
        "fail send a@0 batch=1",
        "ok txn_abort - batch=1",
        "ok send b@1",
        "ok receive b@1",
    )
    assert anomalies(*lines, kind="log") == {}
    found = anomalies(*lines, "ok receive a@0 by=2", kind="log")
    assert found == {"aborted_read": 1, "failed_but_seen": 1}


def test_sends_take_the_outcome_of_their_transaction() -> None:
    begun = ("ok txn_begin - batch=1", "ok send a@0 batch=1", "ok send b@5", "ok receive b@5")
    assert anomalies(*begun, "ok txn_abort - batch=1", kind="log") == {}
    assert anomalies(*begun, "info txn_commit - batch=1", kind="log") == {}
    assert anomalies(*begun, kind="log") == {}
    assert anomalies(*begun, "ok txn_commit - batch=1", kind="log") == {"lost": 1}


def test_a_transaction_reads_what_it_has_sent_itself() -> None:
    lines = ("ok txn_begin - batch=1", "ok send a@0 batch=1", "ok receive a@0 by=0 batch=1", "ok txn_commit - batch=1")
    assert anomalies(*lines, "ok receive a@0", kind="log") == {"precommitted_read": 1}
    assert anomalies(lines[0], lines[1], lines[3], "ok receive a@0 by=0 batch=2", kind="log") == {}


# -- cycles of transactions --------------------------------------------------------------------------------------------

BEGUN = ("ok txn_begin - batch=1 by=0", "ok txn_begin - batch=1 by=4")
COMMITTED = ("ok txn_commit - batch=1 by=0", "ok txn_commit - batch=1 by=4")


def test_writes_of_two_transactions_that_lie_in_each_other() -> None:
    sends = ("ok send a@0 batch=1", "ok send b@1 batch=1 by=4", "ok send c@2 batch=1")
    received = ("ok receive a@0", "ok receive b@1", "ok receive c@2")
    finding = look(*BEGUN, *sends, *COMMITTED, *received, kind="log")
    assert nonzero(finding.anomalies) == {}
    assert finding.observations["g0"].count == 2
    assert finding.observations["g0"].messages == (1, 2)
    assert finding.observations["g0"].details == {"cycles": 1}
    apart = ("ok send a@0 batch=1", "ok send b@2 batch=1 by=4", "ok send c@1 batch=1 key=1")
    assert look(*BEGUN, *apart, *COMMITTED, kind="log").observations["g0"].count == 0
    # Not committed, or not in a transaction, or in a queue, where nobody tells positions.
    assert look(*BEGUN, *sends, COMMITTED[0], kind="log").observations["g0"].count == 0
    assert look(*sends, kind="log").observations["g0"].count == 0
    bare = (line.partition("@")[0] + line.partition("@")[2][1:] for line in sends)
    assert look(*BEGUN, *bare, *COMMITTED).observations["g0"].count == 0


def test_writes_that_lie_crosswise_in_two_logs() -> None:
    sends = (
        "ok send a@0 batch=1",
        "ok send b@1 batch=1 by=4",
        "ok send c@1 batch=1 lane=1",
        "ok send d@0 batch=1 by=4 lane=1",
    )
    finding = look(*BEGUN, *sends, *COMMITTED, lanes=("log", "log"))
    assert (finding.observations["g0"].count, finding.observations["g0"].details) == (2, {"cycles": 1})


@pytest.mark.parametrize("kind", ["queue", "log"])
def test_two_transactions_that_have_read_from_each_other(kind: str) -> None:
    def place(n: int) -> str:
        return f"@{n}" if kind == "log" else ""

    sends = (f"ok send a{place(0)} batch=1", f"ok send b{place(1)} batch=1 by=4")
    reads = (f"ok receive b{place(1)} by=0 batch=1", f"ok receive a{place(0)} by=4 batch=1")
    finding = look(*BEGUN, *sends, *reads, *COMMITTED, kind=kind)
    assert nonzero(finding.anomalies) == {"g1c": 2}
    assert finding.anomalies["g1c"].messages == (0, 1)
    assert finding.anomalies["g1c"].details == {"cycles": 1}
    # One way only; what one sent and the other read in no transaction; what was aborted.
    assert anomalies(*BEGUN, *sends, reads[0], f"ok receive a{place(0)}", *COMMITTED, kind=kind) == {}
    assert anomalies(*BEGUN, *sends, reads[0], reads[1].replace("batch=1", "batch=2"), *COMMITTED, kind=kind) == {}
    aborted = anomalies(*BEGUN, *sends, *reads, COMMITTED[0], "ok txn_abort - batch=1 by=4", kind=kind)
    assert aborted == {"aborted_read": 1, "failed_but_seen": 1}


def test_a_cycle_through_three_transactions_and_one_beside_it() -> None:
    lines = [f"ok txn_begin - batch=1 by={p}" for p in (0, 4, 8, 12)]
    lines += [f"ok send {n} batch=1 by={p}" for n, p in enumerate((0, 4, 8, 12))]
    # 0 reads from 8, 4 from 0, 8 from 4, and 12 from all of them.
    lines += [f"ok receive {n} by={p} batch=1" for n, p in ((2, 0), (0, 4), (1, 8), (0, 12), (1, 12), (2, 12))]
    lines += [f"ok txn_commit - batch=1 by={p}" for p in (0, 4, 8, 12)]
    finding = look(*lines, "ok receive 3")
    assert (finding.anomalies["g1c"].count, finding.anomalies["g1c"].messages) == (3, (0, 1, 2))
    assert set(nonzero(finding.anomalies)) == {"g1c"}


def test_a_cycle_that_needs_the_order_of_writes_contradicts_nothing() -> None:
    """0 wrote a before 4 wrote b into the log; 4 committed, and 0 read c of it from another one."""
    lines = (
        *BEGUN, "ok send a@0 batch=1", "ok send b@1 batch=1 by=4", "ok send c@0 batch=1 by=4 lane=1", COMMITTED[1],
        "ok receive c@0 lane=1 by=0 batch=1", COMMITTED[0], "ok receive a@0", "ok receive b@1",
    )  # fmt: skip
    finding = look(*lines, lanes=("log", "log"))
    assert nonzero(finding.anomalies) == {}
    assert finding.anomalies["g1c"].details == {"through_writes": 2}


def test_what_two_transactions_may_have_sent_is_nobodys() -> None:
    begun, committed = "ok txn_begin - batch=1 by=8", "ok txn_commit - batch=1 by=8"
    sends = ("ok send a batch=1", "ok send b batch=1 by=4")
    reads = ("ok receive b by=0 batch=1", "ok receive a by=4 batch=1")
    again = "{} send b batch=1 by=8"
    for outcome, expected in (("ok", {}), ("info", {}), ("fail", {"g1c": 2})):
        lines = (*BEGUN, begun, *sends, again.format(outcome), *reads, *COMMITTED, committed)
        assert anomalies(*lines) == expected


# -- caches ------------------------------------------------------------------------------------------------------------

INVALIDATED = ("ok send a", "ok send b", "ok receive a", "ok receive b", "ok effect a value=1", "ok effect b value=2")


def test_a_read_that_is_older_than_what_was_invalidated_before_it_began() -> None:
    finding = look(*INVALIDATED, "ok read - key=0 value=1 at=100")
    assert nonzero(finding.anomalies) == {"stale_read": 1}
    assert finding.anomalies["stale_read"].messages == (1,)
    assert finding.metrics["stale_s"] == pytest.approx(0.0945)


@pytest.mark.parametrize("read", [
    "ok read - key=0 value=2 at=100",              # the newest
    "ok read - key=0 value=7 at=100",              # newer than anybody told
    "ok read - key=1 value=1 at=100",              # of another key
    "ok read - key=0 lane=1 value=1 at=100",       # of another lane's key
    "ok read - key=0 value=-1 at=100",             # a miss
    "ok read - value=1 at=100",                    # of no key
    "info read - key=0 value=1 at=100",            # nobody knows what it saw
    "ok read - key=0 value=1 at=5.2",              # began before the invalidation had ended
    "ok read - key=0 value=1 at=5.5",              # in that instant
])  # fmt: skip
def test_a_read_that_is_not_stale(read: str) -> None:
    assert anomalies(*INVALIDATED, read) == {}


def test_staleness_goes_by_the_greatest_version_that_is_done() -> None:
    read = "ok read - key=0 value=1 at=100"
    assert anomalies(*INVALIDATED[:5], "info effect b value=2", read) == {}
    # The invalidations came in the wrong order: the cache holds what is gone, for good.
    wrong = ("ok effect b value=2", "ok effect a value=1")
    assert anomalies(*INVALIDATED[:4], *wrong, read) == {"effect_out_of_order": 1, "stale_read": 1}
    assert anomalies(*INVALIDATED[:4], "ok effect b value=2 key=-1", "ok effect a value=1 key=-1", read) == {
        "effect_out_of_order": 1, "stale_read": 1,
    }  # fmt: skip
    two = look(*INVALIDATED, read, "ok read - key=0 value=1 at=200", "ok read - key=0 value=0 at=5.2")
    assert two.anomalies["stale_read"].count == 3
    assert two.anomalies["stale_read"].messages == (0, 1)
    assert nonzero(look("ok effect - value=5 key=3", "ok read - key=3 value=4").anomalies) == {"stale_read": 1}


# -- time --------------------------------------------------------------------------------------------------------------


def test_late_is_what_came_only_after_the_heal() -> None:
    finding = look(
        "ok send a", "ok receive a", "ok fault - error=inject_kill_n1", "ok send b", "ok fault - error=heal_kill", "ok receive b",
        "ok send c", "ok receive c",
    )  # fmt: skip
    assert nonzero(finding.observations) == {"late": 1}
    assert finding.observations["late"].messages == (1,)


def test_rto_is_until_sends_succeed_and_keep_succeeding() -> None:
    finding = look(
        "ok send 1 at=0..1", "ok fault - error=inject_kill_n1 at=1000..1000",
        "ok send 2 at=990..1010",    # was in flight
        "info send 3 at=1100..1900",
        "ok send 4 at=2000..2100",   # a success, but not for good
        "info send 5 at=2200..2800",
        "ok send 6 at=3000..3500", "ok fault - error=heal_kill at=3600..3600", "ok send 7 at=4000..4010",
        *(f"ok receive {n}" for n in (1, 2, 4, 6, 7)),
    )  # fmt: skip
    assert finding.metrics["rto_s"] == pytest.approx(2.5)
    assert finding.observations["unavailable"].details["injections"][0]["fault"] == "kill n1"
    assert finding.metrics["longest_gap_s"] == pytest.approx(1.4)
    assert finding.metrics["rpo_count"] == 0


def test_rto_is_absent_where_sends_never_came_back() -> None:
    finding = look(
        "ok send 1 at=0..1", "ok fault - error=inject_kill at=10..10", "info send 2 at=11..20", "ok receive 1"
    )
    assert "rto_s" not in finding.metrics
    assert finding.observations["unavailable"].details["injections"] == [{"fault": "kill", "at_s": 0.01, "rto_s": None}]


def test_a_stall_without_errors_counts_too() -> None:
    finding = look(
        "ok send 1 at=0..1",
        "ok fault - error=inject_pause at=10..10",
        "ok send 2 at=11..5000",
        "ok receive 1",
        "ok receive 2",
    )
    assert finding.metrics["rto_s"] == pytest.approx(4.99)
    assert nonzero(finding.observations) == {"unavailable": 1}


def test_rpo_in_messages_and_seconds() -> None:
    finding = look(
        *(f"ok send {n} at={n * 100}..{n * 100 + 50}" for n in range(1, 6)), "ok fault - error=inject_power_cut at=600..600",
        "ok receive 1", "ok receive 2",
    )  # fmt: skip
    assert finding.metrics["rpo_count"] == 3
    assert finding.metrics["rpo_s"] == pytest.approx(0.25)


def test_delays_against_their_due_time() -> None:
    due = 10_000 * MS
    lines = ("ok send 1 value={0} at=1", "ok send 2 value={0} at=1", "ok send 3 value={0} at=1")
    got = ("ok receive 1 at=8000", "ok receive 2 at=10500", "ok receive 3 at=12000")
    finding = look(*(line.format(due) for line in lines), *got)
    assert nonzero(finding.anomalies) == {"delivered_early": 1, "delivered_late": 1}
    assert finding.metrics["delay_error_p50_s"] == pytest.approx(0.5005)
    expiry = look(*(line.format(due) for line in lines), *got, lane_facts={"due": "expiry"})
    assert nonzero(expiry.anomalies) == {"expired_but_delivered": 1}


def test_confirm_numbers_are_no_due_times() -> None:
    assert (
        anomalies(
            *(f"ok send {n} value={n} at=0" for n in range(1, 9)), *(f"ok receive {n} at=5000" for n in range(1, 9))
        )
        == {}
    )


# -- lanes that stand in for each other, and those that lead back ------------------------------------------------------

CHOICE = {"0": ({"lane": 0}, {"lane": 1}), "1": ({"lane": 0}, {"lane": 1})}
RETRY = {"0": ({"lane": 1},), "1": ({"lane": 0},)}


def test_queues_that_a_client_chooses_between_are_one_place() -> None:
    lines = ("info send a", "ok send a lane=1", "ok receive a attempt=0", "ok receive a lane=1 attempt=0")
    assert anomalies(*lines, lanes=("queue", "queue"), routes=CHOICE) == {"duplicated": 1}
    assert anomalies(*lines[:3], "ok receive a attempt=0", lanes=("queue", "queue"), routes=CHOICE) == {"duplicated": 1}
    settled = ("ok send a", "ok receive a", "ok settle a", "ok receive a lane=1")
    assert anomalies(*settled, lanes=("queue", "queue"), routes=CHOICE) == {"duplicated": 1}


def test_back_from_a_retry_queue_is_no_double() -> None:
    lines = ("ok send a", "ok receive a attempt=0", "ok receive a lane=1 attempt=0", "ok receive a attempt=0")
    assert anomalies(*lines, lanes=("queue", "queue"), routes=RETRY) == {}
    assert anomalies(*lines, lanes=("queue", "queue"), routes=DEAD_LETTERS) == {"duplicated": 1}


def test_a_settle_without_a_lane_counts_for_any() -> None:
    lines = ("ok send a", "ok receive a", "ok settle a lane=-1", "ok receive a by=2")
    assert anomalies(*lines) == {"duplicated": 1}


def test_copies_that_the_plan_allows() -> None:
    two = {"0": ({"lane": 0, "copies": 2},)}
    lines = ("ok send a", "ok receive a attempt=0", "ok receive a attempt=0 by=2")
    assert anomalies(*lines, routes=two) == {}
    assert anomalies(*lines, "ok receive a attempt=0", routes=two) == {"duplicated": 1}


def test_a_settle_in_the_first_lane_says_nothing_of_the_copy_in_another() -> None:
    both = {"0": ({"lane": 0, "must": True}, {"lane": 1, "must": True})}
    lines = ("ok send a", "ok receive a attempt=0", "ok settle a", "ok receive a lane=1 attempt=0 by=2")
    again = "ok receive a lane=1 attempt=1 by=2"
    assert anomalies(*lines, again, lanes=("queue", "queue"), routes=both) == {}
    assert anomalies(*lines, "ok settle a lane=1 by=2", again, lanes=("queue", "queue"), routes=both) == {
        "duplicated": 1
    }
