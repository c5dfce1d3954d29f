"""Drawings of a site's energy: where each line and area of an SVG goes. No texts but names, no colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kilowatch.balance.model import BalanceSeries, Flow, Link, Node, PowerSeries
from kilowatch.facility.model import Site

Point = tuple[float, float]
Side = Literal["up", "down", "left", "right"]

# ── the energy flow ──────────────────────────────────────────────────────────────────────────────────────────────────

_RADIUS = 46
_BEND = 52
_AHEAD: dict[Side, Point] = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
_GRID, _CONSUMPTION, _BATTERY, _TOP = (52, 172), (308, 172), (180, 292), 52
_ALONE, _LEFT, _RIGHT = 180, 108, 252
_WIDEST = 9
_QUICK, _SLOW = 0.5, 0.12


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part of the site stands."""

    node: Node
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """How a link is drawn: its path, its width, an arrowhead at its end, and where its figure stands."""

    link: Link
    path: str
    width: float
    speed: Literal["slow", "steady", "quick"]
    head: str
    label: Point


@dataclass(frozen=True, slots=True)
class FlowDrawing:
    places: tuple[Place, ...]
    lines: tuple[Line, ...]
    height: int


def flow_drawing(flow: Flow) -> FlowDrawing:
    """Production on top, the grid on the left, the battery below, consumption on the right; in a box 360 wide."""
    both = flow.pv is not None and flow.wind is not None
    across: dict[Node, int] = {}
    if flow.pv is not None:
        across["pv"] = _LEFT if both else _ALONE
    if flow.wind is not None:
        across["wind"] = _RIGHT if both else _ALONE
    places = [Place(node, x, _TOP) for node, x in across.items()]
    if flow.grid is not None:
        places.append(Place("grid", *_GRID))
    if flow.consumption is not None:
        places.append(Place("consumption", *_CONSUMPTION))
    if flow.battery is not None:
        places.append(Place("battery", *_BATTERY))
    largest = max((link.kw for link in flow.links), default=0.0)
    lines = tuple(_line(link, across.get(link.source, _ALONE), largest) for link in flow.links)
    return FlowDrawing(tuple(places), lines, 344 if flow.battery is not None else 224)


def _line(link: Link, x: float, largest: float) -> Line:
    begin, leaving, end, arriving = _course(link, x)
    (ax, ay), (bx, by) = _AHEAD[leaving], _AHEAD[arriving]
    end = (end[0] - 6 * bx, end[1] - 6 * by)  # where the arrowhead begins
    first = (begin[0] + _BEND * ax, begin[1] + _BEND * ay)
    second = (end[0] - _BEND * bx, end[1] - _BEND * by)
    share = link.kw / largest
    return Line(
        link,
        f"M{_told(begin)}C{_told(first)} {_told(second)} {_told(end)}",
        round(2 + (_WIDEST - 2) * math.sqrt(share), 1),
        "quick" if share > _QUICK else "steady" if share > _SLOW else "slow",
        "M" + "L".join(_told((end[0] + 8 * ahead * bx - side * 6 * by, end[1] + 8 * ahead * by + side * 6 * bx))
                       for ahead, side in ((1, 0), (0, 1), (0, -1))) + "Z",
        _middle(begin, first, second, end),
    )  # fmt: skip


def _course(link: Link, x: float) -> tuple[Point, Side, Point, Side]:
    """Where a link leaves and where it arrives; `x` is where its source stands, if that is on top."""
    (gx, gy), (cx, cy), (bx, by), r = _GRID, _CONSUMPTION, _BATTERY, _RADIUS
    match link.source, link.target:
        case "pv" | "wind", "consumption":
            if x == _RIGHT:
                return (x + 18, _TOP + 44), "down", (cx - 10, cy - r), "down"
            return (x + 16, _TOP + 44), "down", (cx - r, cy - 16), "right"
        case "pv" | "wind", "grid":
            if x == _LEFT:
                return (x - 18, _TOP + 44), "down", (gx + 10, gy - r), "down"
            return (x - 16, _TOP + 44), "down", (gx + r, gy - 16), "left"
        case "pv" | "wind", _:
            return (x, _TOP + r), "down", (bx + (x - _ALONE) / 6, by - r), "down"
        case "grid", "consumption":
            return (gx + r, gy), "right", (cx - r, cy), "right"
        case "grid", _:
            return (gx + r, gy + 14), "right", (bx - 16, by - r + 2), "down"
        case _, "grid":
            return (bx - 16, by - r + 2), "up", (gx + r, gy + 14), "left"
        case _:
            return (bx + 16, by - r + 2), "up", (cx - r, cy + 16), "right"


def _middle(begin: Point, first: Point, second: Point, end: Point) -> Point:
    x, y = ((b + 3 * c + 3 * d + e) / 8 for b, c, d, e in zip(begin, first, second, end, strict=True))
    return round(x, 1), round(y, 1)


def _told(point: Point) -> str:
    return f"{point[0]:g} {point[1]:g}"


# ── a day ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Box:
    """How large a drawing is, and where its plot lies in it."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int


WIDE = Box(640, 264, left=46, top=8, right=620, bottom=240)
NARROW = Box(360, 270, left=44, top=8, right=340, bottom=240)
_UP = ("pv", "wind", "battery_discharge", "import")
_DOWN = ("battery_charge", "export")


@dataclass(frozen=True, slots=True)
class Area:
    """A band of the stack."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str
    is_major: bool = True


@dataclass(frozen=True, slots=True)
class DayDrawing:
    box: Box
    areas: tuple[Area, ...]
    line: str
    """The consumption."""
    zero: float
    levels: tuple[tuple[float, float], ...]
    """Heights of the horizontal lines, and the kW that they stand for."""
    hours: tuple[Tick, ...]
    times: tuple[str, ...]
    columns: dict[str, list[float | None]]
    """What is drawn, by bucket in kW: for those who read it."""


def day_drawing(series: BalanceSeries, end: datetime, box: Box) -> DayDrawing | None:
    """Mean powers, stacked: what comes in upwards, what is stored and exported downwards. `None` if there are none.

    Args:
        end: of the last bucket, in the zone of the series.
    """
    columns = _columns(series)
    if not any(kw is not None for column in columns.values() for kw in column):
        return None
    edges = [at.timestamp() for at in (*series.timestamps, end)]
    up, down = (_stacked(columns, names) for names in (_UP, _DOWN))
    consumption = columns.get("consumption", [])
    highest = max([0.0, *(top for _, tops in up for top in tops), *(kw for kw in consumption if kw is not None)])
    lowest = -max([0.0, *(top for _, tops in down for top in tops)])
    lowest = min(lowest, *(kw for kw in (*consumption, 0.0) if kw is not None))
    span = max(highest - lowest, 0.05)

    def x(at: float) -> float:
        return round(box.left + (box.right - box.left) * (at - edges[0]) / (edges[-1] - edges[0]), 1)

    def y(kw: float) -> float:
        return round(box.bottom - (box.bottom - box.top) * (kw - lowest) / span, 1)

    xs = [x(edge) for edge in edges]
    areas = []
    for sign, stack in ((1, up), (-1, down)):
        below = [0.0] * len(series.timestamps)
        for name, tops in stack:
            path = _band(xs, [y(sign * kw) for kw in below], [y(sign * kw) for kw in tops])
            if path:
                areas.append(Area(name, path))
            below = tops
    return DayDrawing(
        box,
        tuple(areas),
        _steps(xs, [None if kw is None else y(kw) for kw in consumption]),
        y(0),
        tuple((y(kw), kw) for kw in _levels(lowest, lowest + span)),
        tuple(_hours(series.timestamps, xs)),
        tuple(at.strftime("%H:%M") for at in series.timestamps),
        {name: [None if kw is None else round(kw, 4) + 0.0 for kw in column] for name, column in columns.items()},
    )


def _columns(series: BalanceSeries) -> dict[str, list[float | None]]:
    """By what is drawn: battery and grid in their two directions."""
    one_way = {"pv": series.pv, "wind": series.wind, "consumption": series.consumption}
    found = {name: power.kw for name, power in one_way.items() if power is not None}
    for power, forth, back in (
        (series.battery, "battery_discharge", "battery_charge"),
        (series.grid, "import", "export"),
    ):
        if power is not None:
            found[forth] = _direction(power, 1)
            found[back] = _direction(power, -1)
    return {name: found[name] for name in (*_UP, *_DOWN, "consumption") if name in found}


def _direction(power: PowerSeries, sign: int) -> list[float | None]:
    return [None if kw is None else max(sign * kw, 0.0) for kw in power.kw]


def _stacked(columns: dict[str, list[float | None]], names: Sequence[str]) -> list[tuple[str, list[float]]]:
    """The tops of each band; a gap adds nothing."""
    found: list[tuple[str, list[float]]] = []
    for name in names:
        if name in columns:
            below = found[-1][1] if found else [0.0] * len(columns[name])
            found.append((name, [low + max(kw or 0.0, 0.0) for low, kw in zip(below, columns[name], strict=True)]))
    return found


def _band(xs: Sequence[float], bottoms: Sequence[float], tops: Sequence[float]) -> str:
    """The buckets in which it has a height, each run of them as one shape of steps."""
    path, place = "", 0
    while place < len(tops):
        if tops[place] == bottoms[place]:
            place += 1
            continue
        begin = place
        while place < len(tops) and tops[place] != bottoms[place]:
            place += 1
        there = "".join(f"V{tops[one]:g}H{xs[one + 1]:g}" for one in range(begin, place))
        back = "".join(f"V{bottoms[one]:g}H{xs[one]:g}" for one in reversed(range(begin, place)))
        path += f"M{xs[begin]:g} {bottoms[begin]:g}{there}{back}Z"
    return path


def _steps(xs: Sequence[float], ys: Sequence[float | None]) -> str:
    path, is_drawn = "", False
    for place, y in enumerate(ys):
        if y is not None:
            path += f"V{y:g}H{xs[place + 1]:g}" if is_drawn else f"M{xs[place]:g} {y:g}H{xs[place + 1]:g}"
        is_drawn = y is not None
    return path


def _levels(lowest: float, highest: float) -> list[float]:
    """Round kW between the two, 0 among them."""
    least = (highest - lowest) / 5
    power = 10.0 ** math.floor(math.log10(least))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least)
    first, last = math.ceil(lowest / step - 1e-9), math.floor(highest / step + 1e-9)
    return [round(step * number, 6) for number in range(first, last + 1)]


def _hours(times: Sequence[datetime], xs: Sequence[float]) -> list[Tick]:
    """Every third hour of the clock."""
    return [
        Tick(xs[place], at.strftime("%H:%M"), at.hour % 6 == 0)
        for place, at in enumerate(times)
        if at.hour % 3 == 0 and at.minute == 0 and place > 0
    ]


# ── a map ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_LEAST_DEG, _WIDER = 24.0, 1.35
_ASPECT = 2.8


@dataclass(frozen=True, slots=True)
class Dot:
    site: Site
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class MapDrawing:
    """In degrees: x east, y south."""

    left: float
    top: float
    width: float
    height: float
    dots: tuple[Dot, ...]


def map_drawing(sites: Sequence[Site]) -> MapDrawing | None:
    """A map of those whose position is known, as near as all of them are seen; `None` if there are none."""
    dots = tuple(
        Dot(site, site.longitude, -site.latitude)
        for site in sites
        if site.latitude is not None and site.longitude is not None
    )
    if not dots:
        return None
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    height = max((max(ys) - min(ys)) * _WIDER, (max(xs) - min(xs)) * _WIDER / _ASPECT, _LEAST_DEG / _ASPECT)
    height = min(height, 360 / _ASPECT)
    width = height * _ASPECT
    left = _within((max(xs) + min(xs) - width) / 2, -180, 180 - width)
    top = _within((max(ys) + min(ys) - height) / 2, -90, 90 - height)
    return MapDrawing(left, top, width, height, dots)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
