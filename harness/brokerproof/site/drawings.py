"""The site's own small drawings: a history as a line of steps, figures beside each other on one scale.

Like those of a run's report they say in words what they show, and are coloured by classes of the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from brokerproof.render.folder import Json, mapping, number
from brokerproof.site.model import Cell, standing

_LEVEL = {"good": 2, "open": 7, "bad": 12}
#: Results that a spark shows at most, the latest; the cell's page has all.
SPARK_MAX = 60


def spark(cell: Cell) -> Markup:
    """The verdicts of a cell, oldest first: up is kept, down is not kept, between them neither. Empty for one result."""
    past = cell.history[-SPARK_MAX:]
    if len(past) < 2:
        return Markup("")
    step = max(1.5, min(6.0, 90 / len(past)))
    path, at, run = "", -1, 0
    for result in past:
        level = _LEVEL[standing(cell.key.what, result.verdict)]
        if level != at:
            path += (f"h{run * step:g}" if run else "") + (f"M0 {level}" if at < 0 else f"V{level}")
            at, run = level, 0
        run += 1
    path += f"h{run * step:g}"
    width = len(past) * step
    return Markup(
        '<svg class="spark" width="{0:g}" height="14" role="img" aria-label="{1} runs, {2} changes of verdict">'
        '<path d="{3}"/><circle cx="{4:g}" cy="{5}" r="2"/></svg>'
    ).format(width + 4, len(cell.history), cell.changes, path, width, at)


def history(cell: Cell) -> Markup:
    """Rate with its 95 % interval, run by run; empty where no result has a rate, or there is one result only."""
    rates = [next((f for f in r.figures if f.name == "rate"), None) for r in cell.history]
    if len(rates) < 2 or not any(rates):
        return Markup("")
    left, width, top, tall = 40.0, 760.0, 8.0, 90.0
    step = (width - left - 10) / len(rates)

    def y(rate: float) -> float:
        return top + (1 - min(1.0, max(0.0, rate))) * tall

    parts = []
    for mark in (0.0, 0.5, 1.0):
        parts.append(Markup('<path class="grid" d="M{:g} {:g}H{:g}"/>').format(left, y(mark), width))
        parts.append(Markup('<text class="end" x="{:g}" y="{:g}">{:.0%}</text>').format(left - 6, y(mark) + 4, mark))
    for i, figure in enumerate(rates):
        if figure is not None:
            x = left + (i + 0.5) * step
            parts.append(
                Markup('<path class="whisker" d="M{0:.1f} {1:.1f}V{2:.1f}"/><circle class="rate" cx="{0:.1f}" cy="{3:.1f}" r="3.5"/>').format(
                    x, y(figure.low), y(figure.high), y(figure.value)
                )
            )  # fmt: skip
    said = f"rate of trials that show the anomaly, {len(rates)} runs, oldest first"
    return Markup('<svg class="history" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        width, top + tall + 8, said, Markup("").join(parts)
    )


def spread(figures: Json, name: str, most: float) -> Markup:
    """Median and least to most of one figure on a square-root scale from 0 to ``most``, which its neighbours share."""
    one = mapping(figures.get(name))
    value, low, high = (number(one.get(k)) for k in ("median", "least", "most"))
    if value is None or low is None or high is None or most <= 0:
        return Markup("")
    wide, pad = 150.0, 5.0

    def x(v: float) -> float:
        return pad + math.sqrt(min(1.0, max(0.0, v) / most)) * (wide - 2 * pad)

    return Markup(
        '<svg class="spread" width="{0:g}" height="14" role="img" aria-label="median {1:.3g}, {2:.3g} to {3:.3g}">'
        '<path class="axis" d="M{4:g} 7H{5:g}"/><rect class="ci" x="{6:.1f}" y="3" width="{7:.1f}" height="8" rx="2"/>'
        '<circle class="rate" cx="{8:.1f}" cy="7" r="3.5"/></svg>'
    ).format(wide, value, low, high, pad, wide - pad, x(low), max(1.0, x(high) - x(low)), x(value))


def most(found: Sequence[Json], name: str) -> float:
    """The end of the scale for ``spread``: the largest value that was seen."""
    known = [number(mapping(f.get(name)).get("most")) for f in found]
    return max((v for v in known if v is not None), default=0.0)
