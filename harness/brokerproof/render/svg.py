"""The report's drawings: hand-made SVG, coloured by classes of the one style sheet (inline style is forbidden there).

Every number drawn stands in the run's files; what is done here is scale and place. Every drawing says in words what it
shows (``aria-label``), no meaning hangs on colour alone, and all text passes ``Markup.format``, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from brokerproof.render.folder import Json, items, number, text

#: Points of one drawn line: past it, adjacent bins share a point (sums of counts, the highest of latencies).
POINTS_MAX = 300
WIDTH, LEFT, RIGHT = 1100.0, 56.0, 10.0
LIFE_WIDTH, LIFE_HEIGHT = 300.0, 30.0


def interval(arm: Json, label: str) -> Markup:
    """Rate and Wilson interval of an arm on the axis from 0 to 1."""
    rate, bounds = number(arm.get("rate")), [number(b) for b in items(arm.get("wilson95"))[:2]]
    width, pad = 240.0, 8.0

    def x(value: float) -> str:
        return _n(pad + min(1.0, max(0.0, value)) * (width - 2 * pad))

    parts = [Markup('<path class="axis" d="M{} 14H{}"/>').format(x(0), x(1))]
    parts += [Markup('<path class="axis" d="M{} 10v8"/>').format(x(q / 4)) for q in range(5)]
    said = "no interval"
    if len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        low, high = bounds[0], bounds[1]
        span = max(1.0, float(x(high)) - float(x(low)))
        parts.append(Markup('<rect class="ci" x="{}" y="9" width="{}" height="10" rx="2"/>').format(x(low), _n(span)))
        said = f"95 % interval {low:.1%} to {high:.1%}"
    if rate is not None:
        parts.append(Markup('<circle class="rate" cx="{}" cy="14" r="4.5"/>').format(x(rate)))
        said = f"rate {rate:.1%}, {said}"
    return _svg(width, 28, f"{label}: {said}", parts, "interval")


def ratio(comparison: Json) -> Markup:
    """Ratio and interval of a comparison on a logarithmic axis; the line at 1 is "no difference"."""
    value, bounds = number(comparison.get("ratio")), [number(b) for b in items(comparison.get("ci95"))[:2]]
    known = [v for v in (value, *bounds) if v is not None and v > 0]
    if not known:
        return Markup("")
    reach = max(math.log10(2), *(abs(math.log10(v)) for v in known)) * 1.15
    width, pad = 420.0, 24.0

    def x(v: float) -> float:
        return pad + (math.log10(v) + reach) / (2 * reach) * (width - 2 * pad)

    parts = [Markup('<path class="axis" d="M{} 20H{}"/>').format(_n(pad), _n(width - pad))]
    steps = (1, 2, 5) if reach < 1.2 else (1,)
    stride = max(1, round(reach / 4))
    for tick in (step * 10.0**e for e in range(-60, 61) if e % stride == 0 for step in steps):
        if abs(math.log10(tick)) <= reach:
            kind = "one" if tick == 1 else "axis"
            parts.append(Markup('<path class="{}" d="M{} {}V26"/>').format(kind, _n(x(tick)), 6 if tick == 1 else 15))
            parts.append(Markup('<text class="mid" x="{}" y="38">{:g}×</text>').format(_n(x(tick)), tick))
    said = "no interval"
    if len(bounds) == 2 and all(b is not None and b > 0 for b in bounds):
        low, high = float(bounds[0] or 1), float(bounds[1] or 1)
        parts.append(
            Markup('<rect class="ci" x="{}" y="14" width="{}" height="12" rx="2"/>').format(
                _n(x(low)), _n(max(1.0, x(high) - x(low)))
            )
        )
        said = f"95 % interval {low:.3g} to {high:.3g}"
    if value is not None and value > 0:
        parts.append(Markup('<circle class="rate" cx="{}" cy="20" r="5"/>').format(_n(x(value))))
        said = f"ratio {value:.3g}, {said}"
    return _svg(width, 42, said, parts, "ratio")


def tally(counts: Sequence[tuple[str, int]]) -> Markup:
    """One bar cut into (word, count); each part has the word's class."""
    total = sum(count for _, count in counts)
    at, parts = 0.0, []
    for word, count in counts:
        if count:
            wide = count / total * 1000
            parts.append(
                Markup('<rect class="tally-{}" x="{}" y="0" width="{}" height="12"/>').format(
                    word.lower(), _n(at), _n(max(1.0, wide - 2))
                )
            )
            at += wide
    said = ", ".join(f"{count} {word}" for word, count in counts if count)
    return _svg(1000, 12, said, parts, "tally", stretch=True)


def timeline(data: Json, faults: Sequence[Json]) -> Markup:
    """Throughput above latency over one clock, with every fault as a band through both. Empty without any bins."""
    bin_s = number(data.get("bin_s")) or 0.0
    rows = {key: items(data.get(key)) for key in ("sent_ok", "received_ok", "send_p50_ms", "send_p99_ms")}
    bins = max(map(len, rows.values()))
    if bin_s <= 0 or not bins:
        return Markup("")
    group = math.ceil(bins / POINTS_MAX)
    ends = [_time(fault, key) for fault in faults for key in ("healed_s", "healing_s", "injected_s")]
    end_s = max([bins * bin_s, *(e for e in ends if e is not None)])

    def x(seconds: float) -> float:
        return LEFT + min(max(seconds, 0.0), end_s) / end_s * (WIDTH - LEFT - RIGHT)

    def points(values: Sequence[Any], merge: Callable[[Iterable[float]], float]) -> list[tuple[float, float | None]]:
        out: list[tuple[float, float | None]] = []
        for first in range(0, len(values), group):
            known = [v for v in map(number, values[first : first + group]) if v is not None]
            middle = (first + min(group, len(values) - first) / 2) * bin_s
            out.append((middle, merge(known) if known else None))
        return out

    def rates(values: Sequence[Any]) -> list[tuple[float, float | None]]:
        # The last point may stand for fewer bins than the others.
        out = []
        for i, (at, n) in enumerate(points(values, sum)):
            out.append((at, None if n is None else n / (bin_s * min(group, len(values) - i * group))))
        return out

    sent, received = rates(rows["sent_ok"]), rates(rows["received_ok"])
    p50, p99 = points(rows["send_p50_ms"], max), points(rows["send_p99_ms"], max)
    drawn = [f for f in faults if (_time(f, "injected_s")) is not None]
    top = 6.0 + 20.0 * len(drawn)
    upper, lower = (top + 14, top + 124), (top + 158, top + 248)
    latencies = [v for _, v in (*p50, *p99) if v is not None and v > 0]
    bottom = lower[1] if latencies else upper[1]

    parts: list[Markup] = []
    for i, fault in enumerate(drawn):
        parts += _band(fault, x, end_s, 4.0 + 20.0 * i, bottom)
    parts += _time_axis(x, end_s, bottom)
    most = _ceiling(max((v for _, v in (*sent, *received) if v is not None), default=1.0))
    parts += _panel(upper, "operations per second", [(v, f"{v:,.10g}") for v in (0, most / 2, most)], 0, most)
    parts.append(_line(sent, x, upper, 0, most, "sent", area=True))
    parts.append(_line(received, x, upper, 0, most, "received"))
    if latencies:
        low, high = math.floor(math.log10(min(latencies))), math.ceil(math.log10(max(latencies)))
        high = max(high, low + 1)
        marks = [(float(e), f"{10.0**e:,g}") for e in range(low, high + 1, max(1, (high - low) // 3))]
        parts += _panel(lower, "send latency, ms (log)", marks, low, high)
        for values, name in ((p50, "p50"), (p99, "p99")):
            logs = [(at, math.log10(v) if v is not None and v > 0 else None) for at, v in values]
            parts.append(_line(logs, x, lower, low, high, name))
    said = f"throughput and latency over {end_s:.1f} s"
    if drawn:
        said += "; faults: " + ", ".join(_fault_label(f) for f in drawn)
    return _svg(WIDTH, bottom + 30, said, parts, "timeline")


def lifeline_scale(lines: Sequence[Json]) -> tuple[float, float] | None:
    """(first, last) second that the life line of one message spans, with a margin; None without any time."""
    starts = [t for t in (number(line.get("t_s")) for line in lines) if t is not None]
    if not starts:
        return None
    ends = [t for t in (number(line.get("end_s")) for line in lines) if t is not None]
    first, last = min(starts), max([*starts, *ends])
    margin = max((last - first) * 0.06, 0.001)
    return first - margin, last + margin


def lifeline(line: Json, scale: tuple[float, float], faults: Sequence[Json]) -> Markup:
    """One operation on the time axis that all lines of its message share; an open end runs off to the right."""
    first, last = scale

    def x(seconds: float) -> float:
        return min(max((seconds - first) / (last - first), 0.0), 1.0) * LIFE_WIDTH

    parts = []
    for fault in faults:
        begin, end = _time(fault, "injected_s"), _time(fault, "healed_s")
        if fault.get("dry") is True:
            continue  # nothing was broken
        if begin is not None and begin < last and (end is None or end > first):
            wide = x(last if end is None else end) - x(begin)
            parts.append(
                Markup('<rect class="band" x="{}" y="0" width="{}" height="{}"/>').format(
                    _n(x(begin)), _n(max(1.0, wide)), _n(LIFE_HEIGHT)
                )
            )
    start, end = number(line.get("t_s")), number(line.get("end_s"))
    outcome = text(line.get("outcome"))
    known = outcome if outcome in ("ok", "fail", "info") else "info"
    # A row of the injector says in its error column what it did.
    said = f"fault {text(line.get('error'))[:24]}" if line.get("f") == "fault" else f"{text(line.get('f'))} {outcome}"
    if start is not None:
        label = said
        still_open = end is None or end < start
        stop = last if end is None or end < start else end
        wide = max(5.0, x(stop) - x(start))
        left = min(x(start), LIFE_WIDTH - 5.0)
        middle = LIFE_HEIGHT / 2
        parts.append(Markup('<path class="axis" d="M0 {0}H{1}"/>').format(_n(middle), _n(LIFE_WIDTH)))
        parts.append(
            Markup('<rect class="op op-{}" x="{}" y="{}" width="{}" height="12" rx="2"/>').format(
                "fault" if line.get("f") == "fault" else "open" if still_open else known,
                _n(left),
                _n(middle - 6),
                _n(wide),
            )
        )
        said += f" from {start:.4f} s " + ("without an end" if still_open else f"to {end:.4f} s")
        right = left + wide
        fits = right + 6 + 6 * len(label) < LIFE_WIDTH or left < LIFE_WIDTH / 3
        parts.append(
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                "start" if fits else "end",
                _n(right + 6 if fits else left - 6),
                _n(middle + 4),
                label,
            )
        )
    return _svg(LIFE_WIDTH, LIFE_HEIGHT, said, parts, "lifeline")


def _band(fault: Json, x: Callable[[float], float], end_s: float, y: float, bottom: float) -> list[Markup]:
    begin = _time(fault, "injected_s") or 0.0
    healed = _time(fault, "healed_s")
    healing = _time(fault, "healing_s")
    stop = end_s if healed is None else healed
    active = stop if healing is None else min(healing, stop)
    dry = fault.get("dry") is True
    out = [
        Markup('<rect class="{}" x="{}" y="{}" width="{}" height="15"/>').format(
            "bar dry" if dry else "bar", _n(x(begin)), _n(y), _n(max(1.5, x(active) - x(begin)))
        ),
    ]
    if not dry:
        out.insert(
            0,
            Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>').format(
                _n(x(begin)), _n(y), _n(max(1.5, x(active) - x(begin))), _n(bottom - y)
            ),
        )
    if stop > active and not dry:
        out.append(
            Markup('<rect class="heal" x="{}" y="{}" width="{}" height="{}"/>').format(
                _n(x(active)), _n(y), _n(max(1.0, x(stop) - x(active))), _n(bottom - y)
            )
        )
    label = _fault_label(fault)
    wide = len(label) * 6.4
    fits_right = x(stop) + 8 + wide < WIDTH
    out.append(
        Markup('<text class="fault {}" x="{}" y="{}">{}</text>').format(
            "start" if fits_right else "end", _n(x(stop) + 6 if fits_right else x(begin) - 6), _n(y + 12), label
        )
    )
    return out


def _fault_label(fault: Json) -> str:
    """The fault and whom it hit, cut to what fits beside its bar."""
    targets = ", ".join(text(t) for t in items(fault.get("targets"))) or text(fault.get("target"))
    label = (
        ("dry run of " if fault.get("dry") is True else "")
        + text(fault.get("fault"))
        + (f" → {targets}" if targets else "")
    )
    return label if len(label) <= 56 else label[:55] + "…"


def _time_axis(x: Callable[[float], float], end_s: float, bottom: float) -> list[Markup]:
    step = _ceiling(end_s / 15)
    marks = [i * step for i in range(int(end_s / step + 1e-9) + 1)]
    ticks = "".join(f"M{_n(x(mark))} {_n(bottom)}v5" for mark in marks)
    out = [Markup('<path class="axis" d="M{} {}H{}{}"/>').format(_n(x(0)), _n(bottom), _n(x(end_s)), ticks)]
    for mark in marks:
        unit = " s" if mark in (marks[0], marks[-1]) else ""
        at = (_n(x(mark)), _n(bottom + 18))
        out.append(Markup('<text class="mid" x="{}" y="{}">{:.6g}{}</text>').format(*at, mark, unit))
    return out


def _panel(
    box: tuple[float, float], title: str, marks: Sequence[tuple[float, str]], low: float, high: float
) -> list[Markup]:
    out = [Markup('<text class="title" x="{}" y="{}">{}</text>').format(_n(LEFT), _n(box[0] - 6), title)]
    for value, label in marks:
        y = _n(_y(value, box, low, high))
        out.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(_n(LEFT), y, _n(WIDTH - RIGHT)))
        out.append(Markup('<text class="end" x="{}" y="{}">{}</text>').format(_n(LEFT - 6), _n(float(y) + 4), label))
    return out


def _line(
    points: Sequence[tuple[float, float | None]], x: Callable[[float], float], box: tuple[float, float],
    low: float, high: float, name: str, *, area: bool = False,
) -> Markup:  # fmt: skip
    """A line with gaps where a value is missing; a point alone between two gaps gets a dot's length.

    area: filled down to the axis, from where it starts and to where it ends.
    """
    strokes: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            strokes.append([])
        else:
            strokes[-1].append((x(at), _y(value, box, low, high)))
    path = []
    for stroke in filter(None, strokes):
        (left, top), steps, floor = stroke[0], _steps(stroke), _n(box[1])
        if area:
            path.append(f"M{_n(left)} {floor}V{_n(top)}{steps}V{floor}")
        else:
            path.append(f"M{_n(left)} {_n(top)}{steps or 'h2'}")
    return Markup('<path class="line line-{}{}" d="{}"/>').format(name, " area" if area else "", "".join(path))


def _steps(stroke: Sequence[tuple[float, float]]) -> str:
    """The rest of a stroke as relative steps, half as long as places; each starts where the rounded last one ended."""
    tenths = [(round(px * 10), round(py * 10)) for px, py in stroke]
    # What lies between two neighbours of the same height is on the line anyway.
    flat = {i for i in range(1, len(tenths) - 1) if tenths[i - 1][1] == tenths[i][1] == tenths[i + 1][1]}
    out = []
    for (x0, y0), (x1, y1) in pairwise(point for i, point in enumerate(tenths) if i not in flat):
        dx, dy = _n((x1 - x0) / 10), _n((y1 - y0) / 10)
        out.append(dx + (dy if dy.startswith("-") else f" {dy}"))
    return "l" + " ".join(out) if out else ""


def _y(value: float, box: tuple[float, float], low: float, high: float) -> float:
    return box[1] - (min(max(value, low), high) - low) / (high - low) * (box[1] - box[0])


def _time(fault: Json, key: str) -> float | None:
    """A time of an injection; negative ones mean that it never came to that."""
    at = number(fault.get(key))
    return None if at is None or at < 0 else at


def _ceiling(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8, 10 times a power of ten: an axis that ends in a number one can halve."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _n(value: float) -> str:
    """A coordinate in as few characters as show no difference."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _svg(
    width: float, height: float, label: str, parts: Sequence[Markup], kind: str, *, stretch: bool = False
) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"{}>').format(
        kind, _n(width), _n(height), _n(width), _n(height), label,
        Markup(' preserveAspectRatio="none"') if stretch else "",
    )  # fmt: skip
    return head + Markup("").join(parts) + Markup("</svg>")
