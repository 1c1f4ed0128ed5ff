"""What a database that is lost is needed for: messages that had their effect, and may come again."""

from __future__ import annotations

import numpy as np

from brokerproof.history import COLUMNS, FAIL, INFO, OK, F, History, Meta
from brokerproof.run import _may_come_again

S = 10**9


def history(*rows: tuple[str, int, int, int]) -> History:
    """(function, outcome, end, message)"""
    columns = {name: np.zeros(len(rows), kind) for name, kind in COLUMNS}
    columns["f"] = np.array([F[row[0]] for row in rows], columns["f"].dtype)
    for n, name in enumerate(("outcome", "end_ns", "msg"), start=1):
        columns[name] = np.array([row[n] for row in rows], columns[name].dtype)
    return History(Meta(processes=("producer", "consumer", "reader")), columns, ("",))


def test_only_what_had_its_effect_and_was_not_settled_may_come_again() -> None:
    told = history(
        ("effect", OK, 1 * S, 1), ("settle", OK, 2 * S, 1),  # done with
        ("effect", OK, 3 * S, 2), ("settle", INFO, 4 * S, 2),  # perhaps settled
        ("effect", OK, 3 * S, 3), ("settle", OK, 9 * S, 3),  # settled later
        ("effect", OK, 8 * S, 4),  # its effect is later
        ("effect", FAIL, 3 * S, 5),  # refused: it had none
        ("receive", OK, 3 * S, 6),
    )  # fmt: skip
    assert [_may_come_again(told, at_s) for at_s in (0.5, 1.5, 5.0, 10.0)] == [0, 1, 2, 2]
