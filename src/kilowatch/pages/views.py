"""What is looked at in a chart, as an address says it: which metrics, in which window and zone, how divided."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import get_args
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from kilowatch.errors import Invalid, invalid
from kilowatch.history.model import Aggregate
from kilowatch.history.service import Query
from kilowatch.kit.timespan import RESOLUTIONS, Window, parse_instant, to_ms, zone
from kilowatch.pages.words import N_

MOST_METRICS = 100
"""In one chart; more can't be told apart."""

CUSTOM = "custom"
_ROLLING = {
    "1h": (N_("the last hour"), timedelta(hours=1)),
    "6h": (N_("the last 6 hours"), timedelta(hours=6)),
    "24h": (N_("the last 24 hours"), timedelta(hours=24)),
    "7d": (N_("the last 7 days"), timedelta(days=7)),
    "30d": (N_("the last 30 days"), timedelta(days=30)),
    "365d": (N_("the last 365 days"), timedelta(days=365)),
}
_Days = Callable[[date], tuple[date, date]]
_CALENDAR: dict[str, tuple[str, _Days]] = {
    "today": (N_("today"), lambda day: (day, day + timedelta(days=1))),
    "yesterday": (N_("yesterday"), lambda day: (day - timedelta(days=1), day)),
    "week": (N_("this week"), lambda day: (_monday(day), _monday(day) + timedelta(days=7))),
    "month": (N_("this month"), lambda day: (day.replace(day=1), _next_month(day))),
    "year": (N_("this year"), lambda day: (date(day.year, 1, 1), date(day.year + 1, 1, 1))),
}
WINDOWS = {name: told for name, (told, _) in (_ROLLING | _CALENDAR).items()} | {CUSTOM: N_("from … to …")}
DEFAULT_WINDOW = "24h"

RESOLUTION_NAMES = ("auto", "raw", *(resolution.name for resolution in RESOLUTIONS))
AGGREGATE_NAMES = {
    "": N_("the usual"),
    "mean": N_("mean"),
    "min": N_("minimum"),
    "max": N_("maximum"),
    "first": N_("first"),
    "last": N_("last"),
    "sum": N_("sum"),
    "count": N_("number of readings"),
    "energy": N_("energy"),
    "energy_positive": N_("energy, positive part"),
    "energy_negative": N_("energy, negative part"),
    "delta": N_("increase of a counter"),
}
assert set(AGGREGATE_NAMES) == {"", *get_args(Aggregate)}  # each has a name


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


@dataclass(frozen=True, slots=True)
class View:
    """What an address or a form says, right or wrong."""

    metrics: tuple[int | str, ...] = ()
    window: str = DEFAULT_WINDOW
    start: str = ""
    end: str = ""
    resolution: str = "auto"
    aggregate: str = ""
    timezone: str = ""
    live: bool = False
    subscription: int | None = None

    def parameters(self) -> list[tuple[str, str]]:
        """As they stand in an address: what is as by default is left out."""
        said = [("metric", str(metric)) for metric in self.metrics]
        if self.subscription is not None:
            said.append(("subscription", str(self.subscription)))
        if self.window != DEFAULT_WINDOW:
            said.append(("window", self.window))
        if self.window == CUSTOM:
            said += [("start", self.start), ("end", self.end)]
        default = View()
        for name in ("resolution", "aggregate", "timezone"):
            value = getattr(self, name)
            if value != getattr(default, name):
                said.append((name, value))
        return [*said, ("live", "on")] if self.live else said

    def address(self, **changes: object) -> str:
        """Where this is looked at, with some of it changed."""
        return "/explore?" + urlencode(replace(self, **changes).parameters())  # type: ignore[arg-type]  # its own fields


@dataclass(frozen=True, slots=True)
class Sight:
    """A view as it is understood: times and zone; and by field what is wrong, for which the default stands in."""

    view: View
    window: Window
    zone: ZoneInfo
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def is_rolling(self) -> bool:
        """Whether it ends now, and goes on with the time."""
        return self.view.window in _ROLLING

    @property
    def start_ms(self) -> int:
        return to_ms(self.window.start)

    @property
    def end_ms(self) -> int:
        return to_ms(self.window.end)

    def local(self, instant: datetime) -> str:
        """As a field for a time and date holds it, in the zone that is shown."""
        return instant.astimezone(self.zone).strftime("%Y-%m-%dT%H:%M:%S").removesuffix(":00")

    def query(self, *, points: int) -> Query:
        view = self.view
        aggregate: Aggregate | None = view.aggregate or None  # type: ignore[assignment]  # one of the names
        return Query(self.window, view.resolution, points=points, aggregate=aggregate, timezone=self.zone.key)

    def question(self) -> list[tuple[str, str]]:
        """The same as parameters of the API, but for the metrics."""
        said = [("start", self.window.start.isoformat()), ("end", self.window.end.isoformat())]
        said += [("resolution", self.view.resolution), ("timezone", self.zone.key)]
        return [*said, ("aggregate", self.view.aggregate)] if self.view.aggregate else said


def understood(view: View, zones: Sequence[str], now: datetime) -> Sight:
    """What a view means now.

    Args:
        zones: those of the sites of the metrics: where they have one, and no other is asked for, it is theirs.
    """
    errors: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], object]) -> object:
        try:
            return make()
        except Invalid as error:
            errors[error.faults[0].pointer.strip("/") if error.faults else name] = error.detail
            return None

    usual = zones[0] if len(set(zones)) == 1 else "UTC"
    shown = attempt("timezone", lambda: zone(view.timezone or usual, place="query")) or zone(usual)
    assert isinstance(shown, ZoneInfo)
    if view.resolution not in RESOLUTION_NAMES:
        errors["resolution"] = N_("Choose one of the list.")
    if view.aggregate not in AGGREGATE_NAMES:
        errors["aggregate"] = N_("Choose one of the list.")
    window = attempt("window", lambda: _window(view, shown, now)) or until_now(DEFAULT_WINDOW, now)
    assert isinstance(window, Window)
    known = {name: getattr(View(), name) for name in errors.keys() & {"resolution", "aggregate", "timezone"}}
    if errors.keys() & {"window", "start", "end"}:
        known["window"] = DEFAULT_WINDOW
    return Sight(replace(view, **known), window, shown, errors)


def _window(view: View, shown: ZoneInfo, now: datetime) -> Window:
    """Raises `Invalid` naming the field."""
    if view.window in _ROLLING:
        return until_now(view.window, now)
    if view.window in _CALENDAR:
        first, last = (_midnight(day, shown) for day in _CALENDAR[view.window][1](now.astimezone(shown).date()))
        return Window.parse(first.isoformat(), last.isoformat())
    if view.window != CUSTOM:
        raise invalid("window", N_("Choose one of the list."), place="query")
    start, end = (_instant(getattr(view, name), name, shown) for name in ("start", "end"))
    return Window.parse(start.isoformat(), end.isoformat())


def until_now(name: str, now: datetime) -> Window:
    """One of the windows that end now. It ends with the second after now, so that what is read now is in it."""
    end = now.replace(microsecond=0) + timedelta(seconds=1)
    return Window(end - _ROLLING[name][1], end)


def _midnight(day: date, shown: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), shown)


def _instant(text: str, name: str, shown: ZoneInfo) -> datetime:
    """A time with an offset, or as a form's field has it: one of the zone that is shown (of two, the earlier)."""
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?", text, re.ASCII):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=shown)
        except ValueError as error:
            raise invalid(name, _A_TIME, place="query") from error
    try:
        return parse_instant(text, pointer=name)
    except Invalid as error:
        raise invalid(name, _A_TIME, place="query") from error


_A_TIME = N_("Must be a date and a time, such as 2026-01-05T09:30.")
