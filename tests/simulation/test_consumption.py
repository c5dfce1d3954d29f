"""Households and shops: energy of a year, habits of a day."""

from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from kilowatch.simulation.almanac import LocalTime
from kilowatch.simulation.consumption import Load, load_w
from kilowatch.simulation.noise import Floats, Ints
from kilowatch.simulation.plant import Place
from tests.simulation.sites import MELBOURNE, MUNICH, instants, ms

NEW_YORK = Place(1, 40.7, -74.0, "America/New_York", "US")


def load_kw(
    place: Place, seconds: Ints, *, profile: str = "household", annual_kwh: float = 3500, seed: int = 1
) -> Floats:
    time = LocalTime(seconds, timezone=place.timezone, country=place.country)
    return load_w(Load(profile, annual_kwh, place.latitude, seed), time) / 1000


def a_year(place: Place, year: int, *, step_s: int = 300) -> Ints:
    """From local midnight to local midnight, in seconds since 1970."""
    begin, end = (
        int(pd.Timestamp(f"{one}-01-01", tz=ZoneInfo(place.timezone)).timestamp()) for one in (year, year + 1)
    )
    return np.arange(begin, end, step_s, dtype=np.int64)


def by_local_hour(place: Place, seconds: Ints, values: Floats) -> pd.Series:
    times = pd.to_datetime(seconds, unit="s", utc=True).tz_convert(place.timezone)
    return pd.Series(values, index=times).groupby(times.hour).mean()


class TestAnnualEnergy:
    @pytest.mark.parametrize(
        ("profile", "annual_kwh"),
        [("household", 150), ("household", 1800), ("household", 3500), ("household", 14_000), ("household", 2e6),
         ("commercial", 900), ("commercial", 650_000), ("commercial", 1e9)],
    )  # fmt: skip
    @pytest.mark.parametrize(("place", "year"), [(MUNICH, 2024), (MELBOURNE, 2025), (NEW_YORK, 1999)])
    def test_is_as_given_within_a_hundredth(self, profile: str, annual_kwh: float, place: Place, year: int) -> None:
        power = load_kw(place, a_year(place, year), profile=profile, annual_kwh=annual_kwh, seed=year)
        assert power.sum() / 12 == pytest.approx(annual_kwh, rel=0.01)

    @pytest.mark.parametrize("step_s", [60, 900])
    def test_is_so_at_any_step(self, step_s: int) -> None:
        power = load_kw(MUNICH, a_year(MUNICH, 2025, step_s=step_s))
        assert power.sum() * step_s / 3600 == pytest.approx(3500, rel=0.01)


class TestHousehold:
    YEAR = a_year(MUNICH, 2025)
    POWER = load_kw(MUNICH, YEAR)

    def test_is_busiest_in_the_evening_and_quiet_by_night(self) -> None:
        by_hour = by_local_hour(MUNICH, self.YEAR, self.POWER)
        assert by_hour.idxmax() in (18, 19, 20)
        assert by_hour.idxmin() in (1, 2, 3, 4)
        assert by_hour.max() > 3 * by_hour.min()

    def test_uses_more_in_winter_in_either_hemisphere(self) -> None:
        winter, summer = (load_kw(MUNICH, instants(f"2025-{month}-01", days=28)).mean() for month in ("01", "07"))
        assert winter > 1.05 * summer
        winter, summer = (load_kw(MELBOURNE, instants(f"2025-{month}-01", days=28)).mean() for month in ("07", "01"))
        assert winter > 1.05 * summer

    def test_has_steps_of_appliances(self) -> None:
        by_minute = load_kw(MUNICH, instants("2025-03-01", days=28, step_s=60))
        steps = np.abs(np.diff(by_minute))
        assert 3 < np.count_nonzero(steps > 1.2) / 28 < 40
        assert by_minute.max() > 2.5
        assert by_minute.min() > 0.03

    def test_two_homes_do_not_cook_at_the_same_minute(self) -> None:
        one, other = (load_kw(MUNICH, instants("2025-03-01", days=28, step_s=60), seed=seed) for seed in (1, 2))
        assert np.corrcoef(one, other)[0, 1] < 0.3

    def test_many_homes_together_are_smoother_than_one(self) -> None:
        one, many = (load_kw(MUNICH, instants("2025-03-01", days=28), annual_kwh=kwh) for kwh in (3500, 21_000))
        assert many.max() / many.mean() < 0.75 * one.max() / one.mean()


class TestCommercial:
    def test_follows_its_opening_hours_on_the_local_clock_also_when_clocks_change(self) -> None:
        for place, begin in (
            (MUNICH, "2025-03-31"),
            (MUNICH, "2025-10-27"),
            (MELBOURNE, "2025-04-07"),
            (NEW_YORK, "2025-03-10"),
        ):
            seconds = instants(begin, days=5)
            by_hour = by_local_hour(place, seconds, load_kw(place, seconds, profile="commercial", annual_kwh=400_000))
            assert by_hour[[10, 12, 16]].min() > 1.6 * by_hour[[1, 3, 4]].max()
            assert by_hour[8] > 1.3 * by_hour[5]

    def test_rests_on_sundays_and_public_holidays(self) -> None:
        def day(text: str) -> float:
            begin = ms(f"{text}T08:00") // 1000
            hours = np.arange(begin, begin + 8 * 3600, 300, dtype=np.int64)
            return float(load_kw(MUNICH, hours, profile="commercial", annual_kwh=400_000).mean())

        workday, sunday, holiday = day("2025-05-20"), day("2025-05-18"), day("2025-05-29")  # Ascension, a Thursday
        assert workday > 1.8 * sunday
        assert holiday == pytest.approx(sunday, rel=0.1)
