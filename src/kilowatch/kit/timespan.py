"""Time: aware instants, half-open windows, and calendar buckets in any time zone."""

import re
import zoneinfo
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from kilowatch.errors import Invalid, Place, invalid, said

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_EPOCH = EARLIEST
_MS = timedelta(milliseconds=1)
# "Everything since 1970" in a local zone begins some hours before or after it in UTC: it is cut, not refused.
_DAY_OF_OFFSETS = timedelta(days=1)
_RFC3339 = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$")


def to_ms(instant: datetime) -> int:
    """Whole milliseconds since 1970, rounded down."""
    return (instant - _EPOCH) // _MS


def from_ms(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def zone(name: str, *, pointer: str = "timezone", place: Place = "body") -> ZoneInfo:
    """The IANA time zone of that name. Raises `Invalid` for any other."""
    if name not in zone_names():
        raise invalid(
            pointer, said("%(name)s is not an IANA time zone; one is `Europe/Berlin`.", name=repr(name)), place=place
        )
    return ZoneInfo(name)


def parse_instant(text: str, *, pointer: str, place: Place = "query") -> datetime:
    """An RFC 3339 time with its offset, as UTC. Raises `Invalid` for anything else, naive times among it."""
    text = text.upper()  # RFC 3339 has `t` and `z` too
    # A `+` that was not escaped in a query string arrives as a space: `2025-06-01T00:00:00 01:00`.
    text = re.sub(r" (\d\d:\d\d)$", r"+\1", text) if place == "query" and "T" in text else text
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is not None and instant.tzinfo is None:
        raise invalid(
            pointer,
            said("A time needs its offset from UTC: `2025-06-01T00:00:00Z` or `2025-06-01T00:00:00+01:00`."),
            place=place,
        )
    if instant is None or not _RFC3339.match(text):
        raise invalid(
            pointer, said("Not a time; write RFC 3339 with an offset, such as `2025-06-01T00:00:00Z`."), place=place
        )
    # the year is looked at before it is converted, as a time near year 1 or 9999 can't be
    utc = instant.astimezone(UTC) if EARLIEST.year - 1 <= instant.year <= LATEST.year else None
    if utc is None or not EARLIEST - _DAY_OF_OFFSETS < utc < LATEST + _DAY_OF_OFFSETS:
        raise invalid(
            pointer, said("Times from %(first)d to %(last)d only.", first=EARLIEST.year, last=LATEST.year), place=place
        )
    return min(max(utc, EARLIEST), LATEST)


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time `[start, end)`, aware, in UTC, in whole milliseconds."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, start: str, end: str) -> "Window":
        """From two RFC 3339 texts. Raises `Invalid` naming `start` or `end`."""
        window = cls(
            from_ms(to_ms(parse_instant(start, pointer="start"))), from_ms(to_ms(parse_instant(end, pointer="end")))
        )
        if window.end <= window.start:
            raise invalid(
                "end", said("`end` must be after `start`; the window is half-open, [start, end)."), place="query"
            )
        return window

    @property
    def start_ms(self) -> int:
        return to_ms(self.start)

    @property
    def end_ms(self) -> int:
        return to_ms(self.end)


@dataclass(frozen=True, slots=True)
class Resolution:
    """The length of a bucket: `seconds` where it is a fixed one, a step of the calendar where it is not."""

    name: str
    nominal_s: int
    calendar: bool = False

    @property
    def is_of_quarters(self) -> bool:
        """Whether its buckets are made of whole quarters of an hour."""
        return self.nominal_s % 900 == 0

    def buckets(self, window: Window, zone: ZoneInfo) -> list[int]:
        """The edges of the window's buckets, in ms since 1970: one more than there are buckets.

        The first is the window's start and the last its end; those between are where a bucket of the zone begins.
        """
        inner = self._calendar_edges(window, zone) if self.calendar else self._clock_edges(window, zone)
        return [window.start_ms, *inner, window.end_ms]

    def count(self, window: Window, zone: ZoneInfo, *, most: int) -> int:
        """How many buckets the window has: exact up to `most`, about right above it."""
        about = -(-(window.end - window.start) // timedelta(seconds=self.nominal_s))
        # no month or year is a twentieth longer than its nominal length
        return about if about > most * 1.05 + 1 else len(self.buckets(window, zone)) - 1

    def _clock_edges(self, window: Window, zone: ZoneInfo) -> Iterator[int]:
        """Where the local clock shows a multiple of the bucket's length, and where it is changed.

        So no bucket holds times of two offsets, or of two hours: a change at 00:01 (St. John's) or 02:45 (Chatham)
        ends one bucket and begins another.
        """
        step = self.nominal_s * 1000
        for begin, until, offset in _segments(window, zone):
            if begin > window.start_ms:
                yield begin
            first = begin + step - (begin + offset) % step
            yield from range(first, until, step)

    def _calendar_edges(self, window: Window, zone: ZoneInfo) -> Iterator[int]:
        """The first instants of the local days, weeks (from Monday), months or years inside the window."""
        day = _CALENDAR_START[self.name](window.start.astimezone(zone).date())
        previous = window.start_ms
        while True:
            edge = to_ms(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))
            if edge >= window.end_ms:
                return
            if edge > previous:  # a day that never was (Apia, 2011-12-30) begins where the next one does
                yield edge
                previous = edge
            day = _CALENDAR_NEXT[self.name](day)


_CALENDAR_START: dict[str, Callable[[date], date]] = {
    "1d": lambda day: day,
    "1w": lambda day: day - timedelta(days=day.weekday()),
    "1mo": lambda day: day.replace(day=1),
    "1y": lambda day: day.replace(month=1, day=1),
}
_CALENDAR_NEXT: dict[str, Callable[[date], date]] = {
    "1d": lambda day: day + timedelta(days=1),
    "1w": lambda day: day + timedelta(days=7),
    "1mo": lambda day: date(day.year + day.month // 12, day.month % 12 + 1, 1),
    "1y": lambda day: date(day.year + 1, 1, 1),
}

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
RESOLUTIONS: tuple[Resolution, ...] = (
    *(Resolution(f"{n}s", n) for n in (1, 2, 5, 10, 15, 20, 30)),
    *(Resolution(f"{n}m", n * _MINUTE) for n in (1, 2, 5, 10, 15, 20, 30)),
    Resolution("1h", _HOUR),
    Resolution("1d", _DAY, calendar=True),
    Resolution("1w", 7 * _DAY, calendar=True),
    Resolution("1mo", 30 * _DAY, calendar=True),
    Resolution("1y", 365 * _DAY, calendar=True),
)
_BY_NAME = {resolution.name: resolution for resolution in RESOLUTIONS}


def resolution_named(name: str) -> Resolution:
    """Raises `Invalid` for a name that is none of `RESOLUTIONS`."""
    found = _BY_NAME.get(re.sub(r"^(\d+)min$", r"\1m", name))
    if found is None:
        names = ", ".join(_BY_NAME)
        told = said(
            "%(name)s is no resolution; choose `raw`, `auto` or one of %(names)s.", name=repr(name), names=names
        )
        raise invalid("resolution", told, place="query")
    return found


def finest_resolution(window: Window, zone: ZoneInfo, *, points: int, of_quarters: bool = False) -> Resolution:
    """The finest resolution that gives a window at most that many buckets (`1y` if none does).

    Args:
        of_quarters: only those whose buckets are made of whole quarters of an hour.
    """
    possible = [r for r in RESOLUTIONS if r.is_of_quarters or not of_quarters]
    return next((r for r in possible if r.count(window, zone, most=points) <= points), possible[-1])


def check_bucket_count(resolution: Resolution, window: Window, zone: ZoneInfo, *, most: int) -> None:
    """Raises `Invalid` naming the resolution that would fit, if the window has more than `most` buckets."""
    count = resolution.count(window, zone, most=most)
    if count > most:
        fits = finest_resolution(window, zone, points=most).name
        raise Invalid(
            said(
                "`%(asked)s` makes about %(count)s buckets of this window and at most %(most)s are answered for each "
                "series; `resolution=%(fits)s` fits.",
                asked=resolution.name,
                count=f"{count:,}",
                most=f"{most:,}",
                fits=fits,
            ),
            faults=invalid(
                "resolution", said("Too fine for this window; `%(fits)s` fits.", fits=fits), place="query"
            ).faults,
        )


def _segments(window: Window, zone: ZoneInfo) -> Iterator[tuple[int, int, int]]:
    """The window in spans of one offset from UTC: (begin, end, offset), all in ms."""
    begin = window.start_ms
    for change in (*transitions(window, zone), window.end_ms):
        yield begin, change, offset_ms(from_ms(begin), zone)
        begin = change


def offset_ms(instant: datetime, zone: ZoneInfo) -> int:
    """The zone's offset from UTC at an instant, in ms, east positive."""
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None  # a ZoneInfo always has one
    return offset // _MS


def transitions(window: Window, zone: ZoneInfo) -> list[int]:
    """The instants inside the window at which the zone's offset changes, in ms since 1970.

    `zoneinfo` does not publish them, so each is found by bisection between two days whose offsets differ.
    """
    return [
        t
        for t in _all_transitions(zone, window.start.year - 1, window.end.year + 1)
        if window.start_ms < t < window.end_ms
    ]


@lru_cache(maxsize=256)
def _all_transitions(zone: ZoneInfo, first_year: int, last_year: int) -> tuple[int, ...]:
    day_s = 86_400
    begin = int(datetime(first_year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(last_year + 1, 1, 1, tzinfo=UTC).timestamp())

    def offset(second: int) -> int:
        return offset_ms(from_ms(second * 1000), zone)

    found = []
    before = offset(begin)
    for day in range(begin + day_s, end + 1, day_s):
        after = offset(day)
        if after != before:
            found.append(_first_second_not_at(before, range(day - day_s, day + 1), offset) * 1000)
            before = after
    return tuple(found)


def _first_second_not_at(before: int, seconds: range, offset: Callable[[int], int]) -> int:
    return seconds[bisect_left(seconds, True, key=lambda second: offset(second) != before)]


def iso_suffix(offset: int) -> str:
    """`Z`-less offset of RFC 3339, from ms: `+01:00`. Seconds of historic offsets are cut, as RFC 3339 has none."""
    minutes = abs(offset) // 60_000
    return f"{'-' if offset < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
