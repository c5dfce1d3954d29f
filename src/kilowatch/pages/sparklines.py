"""A metric's last hours as a small line in a page: seen at a glance, and without a script."""

import math
from dataclasses import dataclass

from kilowatch.history.model import Series

WIDTH, HEIGHT = 120, 28
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The line as an SVG path in a box of `WIDTH` by `HEIGHT`, and the values between which it runs."""

    path: str
    low: float
    high: float
    unit: str
    width: int = WIDTH
    height: int = HEIGHT


def sparkline(series: Series, *, start_ms: int, end_ms: int) -> Sparkline | None:
    """Each bucket's value is drawn until the next one, and nothing where there is none; `None` if there is no value.

    Args:
        start_ms, end_ms: what the box shows from left to right.
    """
    values = series.values.tolist()
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    low, high = min(known), max(known)
    edges = [_place(time, start_ms, end_ms) for time in (*series.timestamps.tolist(), end_ms)]
    commands, is_drawn = [], False
    for place, value in enumerate(values):
        if not math.isnan(value):
            level = _level(value, low, high)
            commands.append(f"V{level:g}" if is_drawn else f"M{edges[place]:g} {level:g}")
            commands.append(f"H{edges[place + 1]:g}")
        is_drawn = not math.isnan(value)
    return Sparkline("".join(commands), low, high, series.request.unit)


def _place(time_ms: int, start_ms: int, end_ms: int) -> float:
    return round(WIDTH * (time_ms - start_ms) / (end_ms - start_ms), 1)


def _level(value: float, low: float, high: float) -> float:
    """From above; a line without ups and downs runs in the middle."""
    share = (value - low) / (high - low) if high > low and math.isfinite(high - low) else 0.5
    return round(HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN), 1)
