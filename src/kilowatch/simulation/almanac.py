"""Local time and public holidays: what people's habits follow."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from kilowatch.simulation.noise import Floats, Ints

DAY_S = 86_400
WORKDAY, SATURDAY, SUNDAY = 0, 1, 2
"""The sorts of day; a public holiday is like a Sunday."""

_EPOCH = date(1970, 1, 1).toordinal()


class LocalTime:
    """Instants as people at a place see them.

    A day is numbered by the midnights since 1 January 1970 on the wall clock; `days` are all that an instant lies in,
    and the one before them, from which things may still run.
    """

    def __init__(self, seconds: Ints, *, timezone: str, country: str | None) -> None:
        self.seconds = seconds
        self.timezone = timezone
        self.country = country
        wall = seconds + utc_offsets(seconds, timezone)
        self.day = wall // DAY_S
        self.second_of_day = wall - self.day * DAY_S

    @cached_property
    def days(self) -> Ints:
        return np.arange(self.day.min() - 1, self.day.max() + 1, dtype=np.int64)

    @cached_property
    def here(self) -> Ints:
        """For each instant the position of its day in `days`."""
        found: Ints = self.day - self.days[0]
        return found

    @cached_property
    def midnights(self) -> Ints:
        """When each of `days` begins, in seconds since 1970."""
        return midnights(self.days, self.timezone)

    @cached_property
    def calendar(self) -> "Calendar":
        return Calendar.of(self.days, self.country)


@dataclass(frozen=True)
class Calendar:
    """Days with what is said of them: `kind` is WORKDAY, SATURDAY or SUNDAY, `day_of_year` begins at 0."""

    days: Ints
    year: Ints
    day_of_year: Ints
    kind: Ints

    @classmethod
    def of(cls, days: Ints, country: str | None) -> "Calendar":
        dates = days.astype("datetime64[D]")
        years = dates.astype("datetime64[Y]")
        year = years.astype(np.int64) + 1970
        # 1 January 1970 was a Thursday.
        weekday = (days + 3) % 7
        kind = np.select([weekday == 6, weekday == 5], [SUNDAY, SATURDAY], WORKDAY).astype(np.int64)
        off = [number for one in np.unique(year) for number in _holiday_numbers(country, int(one))]
        kind[np.isin(days, off)] = SUNDAY
        return cls(days, year, (dates - years.astype("datetime64[D]")).astype(np.int64), kind)

    @classmethod
    def of_year(cls, year: int, country: str | None) -> "Calendar":
        first = date(year, 1, 1).toordinal() - _EPOCH
        return cls.of(np.arange(first, date(year + 1, 1, 1).toordinal() - _EPOCH, dtype=np.int64), country)


def midnights(days: Ints, timezone: str) -> Ints:
    """When local days begin, in seconds since 1970 (where no clock shows 00:00, within the hour that is left out)."""
    wall = days * DAY_S
    guess = wall - _offsets(wall, timezone)
    return wall - _offsets(guess, timezone)


def utc_offsets(seconds: Ints, timezone: str) -> Ints:
    """How far local time is ahead of UTC at each instant of a rising array, in seconds."""
    # Looked up once a day; where two neighbours differ, the minute of the change is searched between them.
    days = np.arange(seconds[0] // DAY_S, seconds[-1] // DAY_S + 2, dtype=np.int64) * DAY_S
    daily = _offsets(days, timezone)
    changes = [_change_between(int(days[i]), int(days[i + 1]), timezone) for i in np.flatnonzero(np.diff(daily))]
    offsets = np.array([daily[0], *(_offset(change, timezone) for change in changes)], dtype=np.int64)
    return offsets[np.searchsorted(np.array(changes, dtype=np.int64), seconds, side="right")]


def _offsets(seconds: Ints, timezone: str) -> Ints:
    return np.array([_offset(int(second), timezone) for second in seconds], dtype=np.int64)


def _change_between(early_s: int, late_s: int, timezone: str) -> int:
    before = _offset(early_s, timezone)
    while late_s - early_s > 1:
        middle = (early_s + late_s) // 2
        if _offset(middle, timezone) == before:
            early_s = middle
        else:
            late_s = middle
    return late_s


@lru_cache(maxsize=20_000)
def _offset(second: int, timezone: str) -> int:
    # not fromtimestamp(), which some systems refuse before 1970
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).astimezone(ZoneInfo(timezone)).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


# ---------------------------------------------------------------- public holidays

_CHRISTIAN_FIXED = ("01-01", "12-25")
_FIXED: dict[str, tuple[str, ...]] = {
    "AT": ("01-06", "05-01", "08-15", "10-26", "11-01", "12-08", "12-26"),
    "AU": ("01-26", "04-25", "12-26"),
    "BE": ("05-01", "07-21", "08-15", "11-01", "11-11"),
    "CA": ("07-01", "11-11", "12-26"),
    "CH": ("01-02", "08-01", "12-26"),
    "DE": ("05-01", "10-03", "12-26"),
    "DK": ("06-05", "12-24", "12-26", "12-31"),
    "ES": ("01-06", "05-01", "08-15", "10-12", "11-01", "12-06", "12-08"),
    "FI": ("01-06", "05-01", "12-06", "12-24", "12-26"),
    "FR": ("05-01", "05-08", "07-14", "08-15", "11-01", "11-11"),
    "GB": ("12-26",),
    "IE": ("03-17", "12-26"),
    "IT": ("01-06", "04-25", "05-01", "06-02", "08-15", "11-01", "12-08", "12-26"),
    "NL": ("04-27", "12-26"),
    "NO": ("05-01", "05-17", "12-26"),
    "NZ": ("01-02", "02-06", "04-25", "12-26"),
    "PL": ("01-06", "05-01", "05-03", "08-15", "11-01", "11-11", "12-26"),
    "PT": ("04-25", "05-01", "06-10", "08-15", "10-05", "11-01", "12-01", "12-08"),
    "SE": ("01-06", "05-01", "06-06", "12-24", "12-26"),
    "US": ("06-19", "07-04", "11-11"),
}
_GOOD_FRIDAY, _EASTER_SATURDAY, _EASTER, _EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY, _CORPUS_CHRISTI = (
    -2, -1, 0, 1, 39, 50, 60,
)  # fmt: skip
_FROM_EASTER: dict[str, tuple[int, ...]] = {
    "AT": (_EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY, _CORPUS_CHRISTI),
    "AU": (_GOOD_FRIDAY, _EASTER_SATURDAY, _EASTER_MONDAY),
    "BE": (_EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "CA": (_GOOD_FRIDAY,),
    "CH": (_GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "DE": (_GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "DK": (-3, _GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "ES": (_GOOD_FRIDAY,),
    "FI": (_GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION),
    "FR": (_EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "GB": (_GOOD_FRIDAY, _EASTER_MONDAY),
    "IE": (_EASTER_MONDAY,),
    "IT": (_EASTER_MONDAY,),
    "NL": (_EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "NO": (-3, _GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION, _WHIT_MONDAY),
    "NZ": (_GOOD_FRIDAY, _EASTER_MONDAY),
    "PL": (_EASTER_MONDAY, _CORPUS_CHRISTI),
    "PT": (_GOOD_FRIDAY, _CORPUS_CHRISTI),
    "SE": (_GOOD_FRIDAY, _EASTER_MONDAY, _ASCENSION),
}
_MONDAY, _THURSDAY = 0, 3
# (month, weekday, which one of the month: 1 the first, -1 the last)
_BY_WEEKDAY: dict[str, tuple[tuple[int, int, int], ...]] = {
    "CA": ((5, _MONDAY, -1), (9, _MONDAY, 1), (10, _MONDAY, 2)),
    "GB": ((5, _MONDAY, 1), (5, _MONDAY, -1), (8, _MONDAY, -1)),
    "IE": ((5, _MONDAY, 1), (6, _MONDAY, 1), (8, _MONDAY, 1), (10, _MONDAY, -1)),
    "NZ": ((6, _MONDAY, 1), (10, _MONDAY, 4)),
    "US": ((1, _MONDAY, 3), (2, _MONDAY, 3), (5, _MONDAY, -1), (9, _MONDAY, 1), (10, _MONDAY, 2), (11, _THURSDAY, 4)),
}


def holidays(country: str | None, year: int) -> frozenset[date]:
    """The nation-wide public holidays that are known of a country (ISO 3166-1 alpha-2).

    Regional ones, and days moved because they fall on a weekend, are not. A country that is not in the table
    has New Year's Day alone.
    """
    if country is None or country not in _FIXED:
        return frozenset({date(year, 1, 1)})
    fixed = (date.fromisoformat(f"{year:04}-{day}") for day in _CHRISTIAN_FIXED + _FIXED[country])
    easter_day = easter(year)
    from_easter = (easter_day + timedelta(days=days) for days in _FROM_EASTER.get(country, ()))
    by_weekday = (_nth_weekday(year, *rule) for rule in _BY_WEEKDAY.get(country, ()))
    return frozenset((*fixed, *from_easter, *by_weekday))


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (the anonymous algorithm; Meeus, Astronomical Algorithms, 1991)."""
    century, in_century = divmod(year, 100)
    golden = year % 19
    moon_correction = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - century // 4 - moon_correction + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (in_century // 4) - epact - in_century % 4) % 7
    late = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * late + 114, 31)
    return date(year, month, day + 1)


def _nth_weekday(year: int, month: int, weekday: int, which: int) -> date:
    if which > 0:
        first = date(year, month, 1)
        return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (which - 1))
    last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
    return last - timedelta(days=(last.weekday() - weekday) % 7)


@lru_cache(maxsize=500)
def _holiday_numbers(country: str | None, year: int) -> tuple[int, ...]:
    return tuple(day.toordinal() - _EPOCH for day in holidays(country, year))


def summer_share(day_of_year: Floats | Ints, latitude: float) -> Floats:
    """1 at the warmest time of the year, -1 at the coldest: a cosine that peaks on 20 July, or 18 January in the south.

    Near the equator there are no seasons of this sort: its size falls to 0 there over ten degrees.
    """
    size = float(np.clip(latitude / 10, -1, 1))
    return size * np.cos(2 * np.pi * (day_of_year - 200.0) / 365.25)
