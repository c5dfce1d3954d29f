"""Local time and public holidays."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.simulation.almanac import (
    SATURDAY,
    SUNDAY,
    WORKDAY,
    Calendar,
    easter,
    holidays,
    midnights,
    summer_share,
    utc_offsets,
)
from tests.simulation.sites import ms

ZONES = [
    "UTC",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Chatham",
    "Pacific/Apia",
    "Asia/Tehran",
]


def day_number(text: str) -> int:
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


class TestUtcOffsets:
    @given(
        zone=st.sampled_from(ZONES),
        begin=st.integers(ms("1975-01-01") // 60_000, ms("2035-01-01") // 60_000),
        step_min=st.sampled_from([1, 15, 60, 600]),
    )
    def test_are_those_of_the_zone(self, zone: str, begin: int, step_min: int) -> None:
        seconds = (begin + np.arange(200) * step_min) * 60
        expected = [datetime.fromtimestamp(int(one), UTC).astimezone(ZoneInfo(zone)).utcoffset() for one in seconds]
        assert list(utc_offsets(seconds, zone)) == [one.total_seconds() for one in expected if one is not None]

    def test_change_in_the_minute_of_the_law(self) -> None:
        change = ms("2025-03-30T01:00") // 1000
        assert list(utc_offsets(np.array([change - 60, change]), "Europe/Berlin")) == [3600, 7200]


class TestMidnights:
    def test_come_an_hour_earlier_in_summer(self) -> None:
        days = np.array([day_number("2025-03-30"), day_number("2025-03-31")])
        expected = [ms("2025-03-29T23:00") // 1000, ms("2025-03-30T22:00") // 1000]
        assert list(midnights(days, "Europe/Berlin")) == expected


class TestHolidays:
    @pytest.mark.parametrize(
        "day", ["1961-04-02", "2000-04-23", "2024-03-31", "2025-04-20", "2038-04-25", "2285-03-22"]
    )
    def test_easter(self, day: str) -> None:
        assert easter(int(day[:4])).isoformat() == day

    @pytest.mark.parametrize(
        ("country", "day"),
        [
            ("DE", "2025-05-29"),  # Ascension
            ("DE", "2025-10-03"),
            ("DK", "2025-04-17"),  # Maundy Thursday
            ("US", "2025-11-27"),  # Thanksgiving
            ("US", "2026-05-25"),  # Memorial Day
            ("GB", "2025-08-25"),  # summer bank holiday
            ("AU", "2025-04-25"),
            ("CA", "2025-10-13"),  # Thanksgiving
            ("IE", "2024-10-28"),
            ("PL", "2025-06-19"),  # Corpus Christi
            (None, "2025-01-01"),
            ("XX", "2025-01-01"),
        ],
    )
    def test_are_known(self, country: str | None, day: str) -> None:
        assert date.fromisoformat(day) in holidays(country, int(day[:4]))

    def test_are_from_5_to_16_a_year(self) -> None:
        assert all(5 <= len(holidays(country, 2025)) <= 16 for country in ("DE", "US", "GB", "AT", "NL", "NZ", "IT"))


class TestCalendar:
    def test_sorts_days(self) -> None:
        first = day_number("2025-05-01")  # a Thursday, Labour Day
        calendar = Calendar.of(np.arange(first - 1, first + 4), "DE")
        assert list(calendar.kind) == [WORKDAY, SUNDAY, WORKDAY, SATURDAY, SUNDAY]
        assert set(calendar.year) == {2025}
        assert calendar.day_of_year[1] == 120

    def test_of_a_year_has_all_its_days(self) -> None:
        assert len(Calendar.of_year(2024, None).days) == 366
        assert len(Calendar.of_year(2025, None).days) == 365


class TestSummer:
    def test_is_half_a_year_later_in_the_south_and_absent_at_the_equator(self) -> None:
        days = np.arange(365.0)
        assert summer_share(days, 50).argmax() == 200
        assert summer_share(days, -35).argmin() == 200
        assert np.abs(summer_share(days, 0)).max() == 0
