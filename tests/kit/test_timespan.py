"""Time: instants, windows, and calendar buckets over every kind of change of clock."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.errors import Invalid
from kilowatch.kit import timespan
from kilowatch.kit.timespan import (
    EARLIEST,
    LATEST,
    RESOLUTIONS,
    Window,
    from_ms,
    parse_instant,
    resolution_named,
    to_ms,
)

# Some days around changes of clock: zone, first day, days.
CHANGES = (
    ("Europe/Berlin", "2026-03-27", 5),
    ("Europe/Berlin", "2026-10-23", 5),
    ("America/New_York", "2026-03-06", 5),
    ("America/New_York", "2026-10-30", 5),
    ("Asia/Kolkata", "2026-03-30", 5),  # no change, but half an hour off
    ("Asia/Kathmandu", "1985-12-30", 4),  # 15 minutes, once
    ("Australia/Lord_Howe", "2026-04-03", 5),  # half an hour
    ("Australia/Lord_Howe", "2026-10-02", 5),
    ("America/St_Johns", "2010-03-12", 5),  # at 00:01
    ("America/St_Johns", "2010-11-05", 5),  # at 00:01: 23:01 again, so two midnights
    ("Pacific/Apia", "2011-12-28", 5),  # no 30th
    ("Pacific/Kwajalein", "1993-08-19", 5),  # no 21st
    ("Africa/Casablanca", "2026-02-13", 5),  # Ramadan: back for a month
    ("Africa/Casablanca", "2026-03-20", 5),
    ("America/Sao_Paulo", "2018-11-02", 5),  # at midnight: a day without its first hour
    ("America/Sao_Paulo", "2018-02-16", 5),  # at midnight: 23:00 again
    ("Pacific/Chatham", "2026-04-03", 4),  # at 03:45, back to 02:45
    ("Pacific/Chatham", "2026-09-25", 4),
    ("Africa/Cairo", "2026-04-23", 4),
    ("Africa/Cairo", "2026-10-28", 4),
    ("Asia/Pyongyang", "2018-05-03", 4),  # 23:30 to 00:00
    ("Africa/Monrovia", "1972-01-05", 4),  # offset -00:44:30 until then
    ("Europe/Dublin", "1971-10-30", 3),  # winter time is the exception
    ("Etc/GMT+12", "2026-01-30", 4),
    ("UTC", "2026-02-27", 4),
)
EPOCH_DAY = date(1970, 1, 1).toordinal()

# Years, with some days before and after, of the zones that the rules are promised for: how often clocks are changed.
YEARS = (
    *(("Europe/Berlin", year, 2) for year in (1980, 1996, 2025, 2026)),
    ("Europe/Berlin", 1979, 0),
    *(("America/New_York", year, 2) for year in (1974, 1975, 2006, 2007, 2026)),  # four different rules
    *(("Asia/Kolkata", year, 0) for year in (1970, 2026)),
    ("Australia/Lord_Howe", 1981, 2),  # from +10:00 to +10:30, then a whole hour
    ("Australia/Lord_Howe", 1985, 2),  # a whole hour's summer ends, half an hour's begins
    *(("Australia/Lord_Howe", year, 2) for year in (2000, 2025, 2026)),
    ("America/St_Johns", 1988, 2),  # two hours
    *(("America/St_Johns", year, 2) for year in (1986, 1987, 2010, 2011, 2012, 2026)),  # at 00:01 from 1987 to 2011
    *(("Pacific/Apia", year, changes) for year, changes in ((2009, 0), (2010, 1), (2011, 3), (2012, 3), (2021, 1))),
    *(("Africa/Casablanca", year, changes) for year, changes in ((1978, 2), (2012, 4), (2018, 3), (2026, 2))),
)
CLOCK = tuple(resolution for resolution in RESOLUTIONS if not resolution.calendar)
CALENDAR = tuple(resolution for resolution in RESOLUTIONS if resolution.calendar)


def days_from(zone: ZoneInfo, first: str, days: int) -> Window:
    begin = datetime.fromisoformat(first).replace(tzinfo=zone)
    return Window(begin.astimezone(UTC), (begin + timedelta(days=days)).astimezone(UTC))


def wall(instant: int, zone: ZoneInfo) -> datetime:
    """What the clock on the wall shows."""
    return from_ms(instant).astimezone(zone).replace(tzinfo=None)


def wall_seconds(instant: int, zone: ZoneInfo) -> int:
    return int((wall(instant, zone) - datetime(1970, 1, 1)).total_seconds())  # noqa: DTZ001 - the wall has no zone


def walk(window: Window, step_s: int) -> Iterator[int]:
    return iter(range(window.start_ms + step_s * 1000, window.end_ms, step_s * 1000))


@lru_cache(maxsize=64)
def walls(window: Window, zone: ZoneInfo, step_s: int) -> list[tuple[int, int, int]]:
    """Every step of the window, what the wall then shows (s since 1970), and how far the zone is ahead of UTC (ms)."""
    return [
        (instant, wall_seconds(instant, zone), timespan.offset_ms(from_ms(instant), zone))
        for instant in (window.start_ms, *walk(window, step_s))
    ]


def clock_edges_by_walking(window: Window, zone: ZoneInfo, length_s: int, step_s: int) -> list[int]:
    """Look at the clock on the wall at every step, and at the zone's offset: a bucket is the time for which the wall
    shows the same second, minute or hour (or group of them) of the same day by the same offset."""
    shown = [(instant, seconds // length_s, offset) for instant, seconds, offset in walls(window, zone, step_s)]
    edges = [now[0] for before, now in pairwise(shown) if before[1:] != now[1:]]
    return [window.start_ms, *edges, window.end_ms]


def changes_by_walking(window: Window, zone: ZoneInfo) -> list[int]:
    """The minutes at which the zone's offset differs from a minute before, in quarters whose ends differ."""
    quarters = walls(window, zone, 900)
    return [
        minute
        for (begin, _, before), (end, _, after) in pairwise(quarters)
        if before != after
        for minute in range(begin + 60_000, end + 1, 60_000)
        if timespan.offset_ms(from_ms(minute), zone) != timespan.offset_ms(from_ms(minute - 60_000), zone)
    ]


def period(day: date, name: str) -> tuple[int, ...]:
    """The day, week, month or year that a day belongs to."""
    return {
        "1d": (day.toordinal(),),
        "1w": day.isocalendar()[:2],
        "1mo": (day.year, day.month),
        "1y": (day.year,),
    }[name]


def calendar_edges_by_walking(window: Window, zone: ZoneInfo, name: str, step_s: int) -> list[int]:
    """An edge is where the calendar on the wall shows a later period than ever before."""
    edges, latest = [window.start_ms], period(wall(window.start_ms, zone).date(), name)
    for instant, seconds, _ in walls(window, zone, step_s)[1:]:
        now = period(date.fromordinal(EPOCH_DAY + seconds // 86_400), name)
        if now > latest:
            edges.append(instant)
            latest = now
    return [*edges, window.end_ms]


class TestBuckets:
    @pytest.mark.parametrize(("name", "first", "days"), CHANGES)
    @pytest.mark.parametrize("resolution", ["1m", "5m", "20m", "30m", "1h"])
    def test_of_the_clock_are_those_seen_on_the_wall(self, name: str, first: str, days: int, resolution: str) -> None:
        zone, length = ZoneInfo(name), resolution_named(resolution)
        window = days_from(zone, first, days)
        step_s = 30 if name == "Africa/Monrovia" else 60
        assert length.buckets(window, zone) == clock_edges_by_walking(window, zone, length.nominal_s, step_s)

    @pytest.mark.parametrize(("name", "first", "days"), CHANGES)
    @pytest.mark.parametrize("resolution", CALENDAR, ids=lambda resolution: resolution.name)
    def test_of_the_calendar_are_those_seen_on_the_wall(
        self, name: str, first: str, days: int, resolution: timespan.Resolution
    ) -> None:
        zone = ZoneInfo(name)
        window = days_from(zone, first, days)
        edges = resolution.buckets(window, zone)
        assert edges == calendar_edges_by_walking(window, zone, resolution.name, 30)

    @pytest.mark.parametrize("resolution", CALENDAR, ids=lambda resolution: resolution.name)
    @pytest.mark.parametrize("name", ["Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe", "America/Sao_Paulo"])
    def test_of_the_calendar_over_years(self, name: str, resolution: timespan.Resolution) -> None:
        """Counted by the names of days, not by their lengths."""
        zone = ZoneInfo(name)
        window = Window(datetime(2009, 5, 20, 7, tzinfo=UTC), datetime(2013, 2, 3, 4, tzinfo=UTC))
        first, last = (wall(instant, zone).date() for instant in (window.start_ms, window.end_ms - 1))
        never_was = {date(2011, 12, 30)} if name == "Pacific/Apia" else set()
        days = {first + timedelta(days=n) for n in range((last - first).days + 1)} - never_was
        edges = resolution.buckets(window, zone)
        assert len(edges) - 1 == len({period(day, resolution.name) for day in days})

    @pytest.mark.parametrize(("name", "year", "changes"), YEARS)
    def test_of_whole_years_are_those_seen_on_the_wall(self, name: str, year: int, changes: int) -> None:
        """Days, weeks, months and years, by looking at the wall's date every quarter of an hour of the year; then every
        shorter bucket, by looking at its clock every minute around each change, and every second close to it."""
        zone = ZoneInfo(name)
        begin, end = datetime(year - 1, 12, 20, tzinfo=zone), datetime(year + 1, 1, 12, tzinfo=zone)
        whole = Window(max(begin.astimezone(UTC), EARLIEST), end.astimezone(UTC))
        for resolution in CALENDAR:
            assert resolution.buckets(whole, zone) == calendar_edges_by_walking(whole, zone, resolution.name, 900)
        seen = changes_by_walking(whole, zone)
        assert len(seen) == changes
        for change in seen:
            for reach, step_s in ((timedelta(hours=26), 60), (timedelta(minutes=3), 1)):
                window = Window(from_ms(change) - reach, from_ms(change) + reach)
                for resolution in CLOCK:
                    if resolution.nominal_s >= step_s:
                        edges = clock_edges_by_walking(window, zone, resolution.nominal_s, step_s)
                        assert resolution.buckets(window, zone) == edges, resolution.name

    @given(data=st.data())
    @settings(derandomize=True, database=None, deadline=None, max_examples=300)
    def test_partition_the_window(self, data: st.DataObject) -> None:
        """Whatever the zone and window: they begin and end with it, and none is empty or too long."""
        zone = ZoneInfo(data.draw(st.sampled_from(sorted({name for name, _, _ in CHANGES}))))
        resolution = data.draw(st.sampled_from(RESOLUTIONS))
        start = data.draw(st.integers(0, to_ms(LATEST) - 1))
        span = data.draw(st.integers(1, 1000 * resolution.nominal_s * 1000))
        window = Window(from_ms(start), from_ms(min(start + span, to_ms(LATEST))))
        edges = resolution.buckets(window, zone)
        assert (edges[0], edges[-1]) == (window.start_ms, window.end_ms)
        longest = resolution.nominal_s * 1000 * (1.07 if resolution.calendar else 1)
        assert all(0 < end - begin <= longest for begin, end in pairwise(edges))

    @pytest.mark.parametrize(("name", "first", "days"), CHANGES)
    def test_longer_ones_are_made_of_whole_shorter_ones(self, name: str, first: str, days: int) -> None:
        """So that hours add up to days, and days to months."""
        zone = ZoneInfo(name)
        window = days_from(zone, first, days)
        edges = {r.name: set(r.buckets(window, zone)) for r in RESOLUTIONS if r.nominal_s >= 60}
        for longer, shorter in (("1y", "1mo"), ("1mo", "1d"), ("1w", "1d"), ("1d", "1h"), ("1h", "30m"), ("30m", "5m")):
            assert edges[longer] <= edges[shorter], (longer, shorter)

    @pytest.mark.parametrize(
        ("name", "day", "hours"),
        [
            ("Europe/Berlin", "2026-03-29", 23),
            ("Europe/Berlin", "2026-10-25", 25),
            ("America/New_York", "2026-03-08", 23),
            ("America/New_York", "2026-11-01", 25),
            ("Asia/Kolkata", "2026-03-29", 24),
            ("Australia/Lord_Howe", "2026-10-04", 23.5),
            ("Australia/Lord_Howe", "2026-04-05", 24.5),
            ("America/St_Johns", "2010-03-14", 23),
            ("America/St_Johns", "2010-11-07", 25),
            ("America/Sao_Paulo", "2018-11-04", 23),
            ("America/Sao_Paulo", "2018-02-17", 25),
            ("Africa/Cairo", "2026-04-24", 23),
            ("Africa/Cairo", "2026-10-29", 25),
            ("Africa/Monrovia", "1972-01-07", 24 - 44.5 / 60),
        ],
    )
    def test_a_day_has_the_hours_that_it_has(self, name: str, day: str, hours: float) -> None:
        zone = ZoneInfo(name)
        begin = datetime.fromisoformat(day).replace(tzinfo=zone)
        window = Window(begin.astimezone(UTC) - timedelta(days=2), begin.astimezone(UTC) + timedelta(days=3))
        edges = resolution_named("1d").buckets(window, zone)
        of_day = bisect_right(edges, begin.astimezone(UTC).timestamp() * 1000) - 1
        assert wall(edges[of_day], zone).date() == date.fromisoformat(day)
        assert (edges[of_day + 1] - edges[of_day]) / 3_600_000 == pytest.approx(hours, abs=1e-9)

    def test_both_hours_of_a_clock_set_back_are_there(self) -> None:
        """02:00 comes twice in Berlin: with summer's offset, then with winter's."""
        zone = ZoneInfo("Europe/Berlin")
        edges = resolution_named("1h").buckets(days_from(zone, "2026-10-25", 1), zone)
        labels = [from_ms(edge).astimezone(zone).isoformat() for edge in edges[1:5]]
        assert labels == [
            "2026-10-25T01:00:00+02:00",
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ]
        assert len(edges) - 1 == 25

    def test_a_change_in_the_middle_of_an_hour_parts_it(self) -> None:
        """One minute past midnight it is 23:01 again: 00:00 to 00:01, then the rest of 23:00, then all of 00:00."""
        zone = ZoneInfo("America/St_Johns")
        edges = resolution_named("1h").buckets(days_from(zone, "2010-11-07", 1), zone)
        labels = [from_ms(edge).astimezone(zone).isoformat() for edge in edges[:4]]
        assert labels == [
            "2010-11-07T00:00:00-02:30",
            "2010-11-06T23:01:00-03:30",
            "2010-11-07T00:00:00-03:30",
            "2010-11-07T01:00:00-03:30",
        ]
        assert [(end - begin) // 60_000 for begin, end in pairwise(edges[:4])] == [1, 59, 60]

    def test_half_an_hour_set_back_is_a_bucket_of_its_own(self) -> None:
        zone = ZoneInfo("Australia/Lord_Howe")
        edges = resolution_named("1h").buckets(days_from(zone, "2026-04-05", 1), zone)
        labels = [from_ms(edge).astimezone(zone).isoformat() for edge in edges[1:4]]
        assert labels == [
            "2026-04-05T01:00:00+11:00",
            "2026-04-05T01:30:00+10:30",
            "2026-04-05T02:00:00+10:30",
        ]
        assert len(edges) - 1 == 25  # 24.5 hours

    def test_a_day_that_never_was_has_none(self) -> None:
        zone = ZoneInfo("Pacific/Apia")
        window = Window(datetime(2011, 12, 28, 10, tzinfo=UTC), datetime(2012, 1, 1, 10, tzinfo=UTC))
        edges = resolution_named("1d").buckets(window, zone)
        labels = [from_ms(edge).astimezone(zone).isoformat() for edge in edges[:-1]]
        assert labels == [
            "2011-12-28T00:00:00-10:00",
            "2011-12-29T00:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2012-01-01T00:00:00+14:00",
        ]

    @pytest.mark.parametrize("name", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Africa/Monrovia", "Europe/Berlin"])
    @pytest.mark.parametrize("resolution", RESOLUTIONS, ids=lambda resolution: resolution.name)
    def test_reach_both_ends_of_time(self, name: str, resolution: timespan.Resolution) -> None:
        zone, span = ZoneInfo(name), timedelta(seconds=50 * resolution.nominal_s)
        for window in (Window(EARLIEST, min(EARLIEST + span, LATEST)), Window(max(LATEST - span, EARLIEST), LATEST)):
            edges = resolution.buckets(window, zone)
            assert (edges[0], edges[-1]) == (window.start_ms, window.end_ms)
            assert 50 <= len(edges) - 1 <= 53


class TestTransitions:
    @pytest.mark.parametrize(("name", "first", "days"), CHANGES)
    def test_are_those_found_by_looking_at_every_minute(self, name: str, first: str, days: int) -> None:
        zone = ZoneInfo(name)
        window = days_from(zone, first, days)
        seen = [
            instant
            for instant in walk(window, 30)
            if timespan.offset_ms(from_ms(instant), zone) != timespan.offset_ms(from_ms(instant - 1), zone)
        ]
        assert timespan.transitions(window, zone) == seen
        assert len(seen) == (0 if name in ("Asia/Kolkata", "Etc/GMT+12", "UTC") else 1)

    @pytest.mark.parametrize("name", ["Europe/Berlin", "Africa/Casablanca", "America/St_Johns", "Antarctica/Casey"])
    def test_over_decades(self, name: str) -> None:
        """Every quarter of an hour is looked at, and the exact minute where it differs from the one before."""
        zone = ZoneInfo(name)
        window = Window(datetime(2005, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, tzinfo=UTC))
        found = timespan.transitions(window, zone)
        offsets = [timespan.offset_ms(from_ms(instant), zone) for instant in walk(window, 3600)]
        assert len(found) == sum(before != after for before, after in pairwise(offsets))
        assert all(
            timespan.offset_ms(from_ms(instant), zone) != timespan.offset_ms(from_ms(instant - 1), zone)
            for instant in found
        )

    def test_one_on_the_window_s_edge_is_not_inside(self) -> None:
        zone, change = ZoneInfo("Europe/Berlin"), datetime(2026, 3, 29, 1, tzinfo=UTC)
        assert timespan.transitions(Window(change, change + timedelta(days=1)), zone) == []
        assert timespan.transitions(Window(change - timedelta(days=1), change), zone) == []


class TestResolution:
    @given(data=st.data())
    @settings(derandomize=True, database=None, deadline=None, max_examples=150)
    def test_auto_is_the_finest_that_gives_at_most_the_points(self, data: st.DataObject) -> None:
        zone = ZoneInfo(data.draw(st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "UTC"])))
        start = data.draw(st.integers(0, to_ms(LATEST) - 1))
        span = data.draw(st.integers(1, 10) | st.integers(1, 10**8) | st.integers(1, 10**11))
        window = Window(from_ms(start), from_ms(min(start + span, to_ms(LATEST))))
        points = data.draw(st.sampled_from([1, 2, 3, 12, 24, 500]))
        counts = [len(r.buckets(window, zone)) - 1 for r in RESOLUTIONS if r.nominal_s * 20_000 > span / 1000]
        names = [r.name for r in RESOLUTIONS if r.nominal_s * 20_000 > span / 1000]
        fitting = [name for name, count in zip(names, counts, strict=True) if count <= points]
        assert timespan.finest_resolution(window, zone, points=points).name == (fitting[0] if fitting else "1y")

    def test_auto_gives_a_year_its_months(self) -> None:
        window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
        assert timespan.finest_resolution(window, ZoneInfo("UTC"), points=12).name == "1mo"

    def test_a_window_off_the_grid_has_one_bucket_more(self) -> None:
        window = Window(datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC), datetime(2026, 1, 1, 0, 1, 30, tzinfo=UTC))
        assert timespan.finest_resolution(window, ZoneInfo("UTC"), points=1).name == "2m"

    @pytest.mark.parametrize(
        ("name", "days", "fits"),
        [
            ("1s", 10, "10s"),
            ("1s", 1, None),
            ("1m", 69, None),
            ("1m", 70, "2m"),
            ("1h", 5000, "1d"),
            ("5m", 365, "10m"),
        ],
    )
    def test_too_many_buckets_name_the_resolution_that_fits(self, name: str, days: int, fits: str | None) -> None:
        window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days))
        if fits is None:
            timespan.check_bucket_count(resolution_named(name), window, ZoneInfo("UTC"), most=100_000)
            return
        with pytest.raises(Invalid, match=f"`resolution={fits}` fits") as caught:
            timespan.check_bucket_count(resolution_named(name), window, ZoneInfo("UTC"), most=100_000)
        assert caught.value.faults[0].pointer == "/resolution"
        timespan.check_bucket_count(resolution_named(fits), window, ZoneInfo("UTC"), most=100_000)

    @pytest.mark.parametrize("name", ["", "2h", "1 h", "1H", "hour", "-1h", "1M", "raw", "auto", "٣s"])
    def test_a_name_that_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(Invalid, match="is no resolution; choose `raw`, `auto` or one of 1s"):
            resolution_named(name)


class TestParseInstant:
    @pytest.mark.parametrize(
        ("text", "utc"),
        [
            ("2025-06-01T00:00:00Z", "2025-06-01T00:00:00"),
            ("2025-06-01T00:00Z", "2025-06-01T00:00:00"),
            ("2025-06-01 00:00:00Z", "2025-06-01T00:00:00"),
            ("2025-06-01t00:00:00z", "2025-06-01T00:00:00"),
            ("2025-06-01T00:00:00+01:00", "2025-05-31T23:00:00"),
            ("2025-06-01T00:00:00+0100", "2025-05-31T23:00:00"),
            ("2025-06-01T00:00:00-09:30", "2025-06-01T09:30:00"),
            ("2025-06-01T00:00:00.123456789Z", "2025-06-01T00:00:00.123456"),
            ("2025-06-01T00:00:00 01:00", "2025-05-31T23:00:00"),  # an unescaped + of a query
            ("1970-01-01T00:00:00+14:00", "1970-01-01T00:00:00"),  # local begin of time
            ("1969-12-31T19:00:00-05:00", "1970-01-01T00:00:00"),
            ("2200-01-01T00:00:00-10:00", "2200-01-01T00:00:00"),
        ],
    )
    def test_reads_rfc_3339(self, text: str, utc: str) -> None:
        assert parse_instant(text, pointer="start") == datetime.fromisoformat(utc).replace(tzinfo=UTC)

    @pytest.mark.parametrize("text", ["2025-06-01T00:00:00", "2025-06-01", "2025-06-01 10:00"])
    def test_a_naive_time_is_told_what_it_lacks(self, text: str) -> None:
        with pytest.raises(Invalid, match="needs its offset") as caught:
            parse_instant(text, pointer="start")
        assert caught.value.faults[0].pointer == "/start"

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "now", "0", "1700000000", "2025", "2025-06-01T00:00:00Z\n", "2025-02-30T00:00:00Z"),
            *("2025-06-01T25:00:00Z", "2025-06-01T00:60:00Z", "2025-06-01T23:59:60Z", "2025-06-01T00:00:00+24:00"),
            *("20250601T000000Z", "2025-W23-1T00:00:00Z", "٢٠٢٥-06-01T00:00:00Z", "2025-06-01T00:00:00.Z"),
            *("2025-06-01T00:00:00,5Z", "2025-06-01T00:00:00+01:00:30", "2025-06-01T00:00:00Z' OR 1=1", "\x00"),
        ],
    )
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(Invalid, match="Not a time"):
            parse_instant(text, pointer="end")

    @pytest.mark.parametrize(
        "text",
        [
            *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-30T00:00:00Z"),
            *("2200-01-03T00:00:00Z", "1968-12-31T23:59:59Z", "2201-01-01T00:00:00Z"),
        ],
    )
    def test_times_out_of_range_are_refused(self, text: str) -> None:
        with pytest.raises(Invalid, match="Times from 1970 to 2200 only"):
            parse_instant(text, pointer="end")

    @given(
        st.text(max_size=40)
        | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([+-][0-9]{2}:[0-9]{2}|Z)")
    )
    @settings(derandomize=True, database=None, deadline=None)
    def test_any_text_is_a_time_in_range_or_invalid(self, text: str) -> None:
        try:
            instant = parse_instant(text, pointer="start")
        except Invalid:
            return
        assert EARLIEST <= instant <= LATEST


class TestWindow:
    def test_is_in_whole_milliseconds(self) -> None:
        window = Window.parse("2025-06-01T00:00:00.0009Z", "2025-06-01T00:00:00.0019Z")
        assert window.end_ms - window.start_ms == 1

    @pytest.mark.parametrize("end", ["2025-06-01T00:00:00Z", "2025-05-31T00:00:00Z", "2025-06-01T01:00:00+01:00"])
    def test_end_must_be_after_start(self, end: str) -> None:
        with pytest.raises(Invalid, match="`end` must be after `start`") as caught:
            Window.parse("2025-06-01T00:00:00Z", end)
        assert caught.value.faults[0].pointer == "/end"


class TestZone:
    @pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "Asia/Calcutta", "Etc/GMT+12"])
    def test_knows_the_names_of_iana(self, name: str) -> None:
        assert timespan.zone(name).key == name

    @pytest.mark.parametrize(
        "name", ["", "Berlin", "europe/berlin", "CEST", "+01:00", "../etc/passwd", "localtime", "a\x00b"]
    )
    def test_refuses_all_others(self, name: str) -> None:
        with pytest.raises(Invalid, match="is not an IANA time zone"):
            timespan.zone(name)
