"""The weather of a place, held against astronomy and meteorology."""

import numpy as np
import pandas as pd
import pvlib
import pytest
from scipy import stats

from kilowatch.simulation.noise import Floats
from kilowatch.simulation.place import Place
from kilowatch.simulation.sky import Weather, mean_wind_10m
from tests.simulation.sites import ESBJERG, MELBOURNE, MUNICH, SUVA, TROMSO, autocorrelation, instants

PLACES = [
    MUNICH,
    MELBOURNE,
    TROMSO,
    SUVA,
    Place(1, 0.0, 0.0, "UTC"),
    Place(1, -77.85, 166.67, "Antarctica/McMurdo"),
    Place(1, 89.9, -180.0, "UTC"),
    Place(1, 51.88, -176.65, "America/Adak"),
    Place(1, -33.45, -70.67, "America/Santiago"),
    Place(1, 23.44, 180.0, "UTC"),
]
NAMES = [f"{place.latitude} {place.longitude}" for place in PLACES]


def daily_means(values: Floats) -> Floats:
    """Of values each five minutes."""
    means: Floats = values.reshape(-1, 288).mean(axis=1)
    return means


class TestSun:
    @pytest.mark.parametrize("place", PLACES, ids=NAMES)
    @pytest.mark.parametrize("begin", ["1999-12-20T00:07", "2024-02-27T13:11", "2030-06-19T21:42"])
    def test_is_where_pvlib_has_it_within_a_hundredth_of_a_degree(self, place: Place, begin: str) -> None:
        seconds = instants(begin, days=11, step_s=1740)
        sun = Weather(place, seconds).sun
        there = pvlib.solarposition.get_solarposition(
            pd.to_datetime(seconds, unit="s", utc=True), place.latitude, place.longitude, method="nrel_numpy"
        )
        zenith, azimuth = np.radians(there["zenith"].to_numpy()), np.radians(there["azimuth"].to_numpy())
        expected = np.stack([np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)])
        apart = np.linalg.norm(np.stack([sun.east, sun.north, sun.up]) - expected, axis=0)
        assert np.degrees(apart).max() < 0.01

    @pytest.mark.parametrize("place", [place for place in PLACES if abs(place.latitude) < 60])
    def test_is_highest_at_noon_of_the_meridian(self, place: Place) -> None:
        seconds = instants("2025-04-15", days=1, step_s=60)  # when the equation of time is 0
        up = Weather(place, seconds).sun.up
        noon_h = seconds[up.argmax()] % 86_400 / 3600
        assert (noon_h + place.longitude / 15 - 12 + 12) % 24 - 12 == pytest.approx(0, abs=0.05)

    def test_stands_north_at_noon_in_the_south(self) -> None:
        weather = Weather(MELBOURNE, instants("2025-06-21", days=1))
        assert weather.sun.north[weather.sun.up.argmax()] > 0.8

    def test_stays_away_in_the_polar_night_and_up_in_the_polar_day(self) -> None:
        assert len(Weather(TROMSO, instants("2025-12-10", days=5)).day) == 0
        midsummer = Weather(TROMSO, instants("2025-06-19", days=5))
        assert len(midsummer.day) == len(midsummer.seconds)
        assert midsummer.actual.ghi.min() > 0


class TestIrradiance:
    def test_of_a_clear_sky_agrees_with_another_model(self) -> None:
        """Simplified Solis (Ineichen 2008) with as much aerosol and water as in Central Europe."""
        weather = Weather(MUNICH, instants("2025-01-01", days=365, step_s=900))
        high = weather.sun.up[weather.day] > 0.3
        elevation = np.degrees(np.arcsin(weather.sun.up[weather.day][high]))
        solis = pvlib.clearsky.simplified_solis(elevation, aod700=0.1, precipitable_water=1.5)
        assert weather.clear.ghi[high] == pytest.approx(solis["ghi"], rel=0.1)

    @pytest.mark.parametrize("place", PLACES, ids=NAMES)
    def test_is_never_over_that_of_a_clear_sky(self, place: Place) -> None:
        weather = Weather(place, instants("2025-03-01", days=40))
        assert (weather.actual.ghi <= weather.clear.ghi).all()
        assert (weather.actual.dni <= weather.clear.dni).all()
        assert (weather.actual.ghi >= 0).all()

    def test_is_the_beam_and_the_diffuse_together(self) -> None:
        weather = Weather(MUNICH, instants("2025-03-01", days=40))
        beam = weather.actual.dni * weather.sun.up[weather.day]
        assert weather.actual.ghi == pytest.approx(beam + weather.actual.dhi, abs=0.5)

    def test_of_a_year_is_as_much_as_is_measured_there(self) -> None:
        """Munich has about 1,150 kWh/m², Melbourne 1,550; years and sites differ by a tenth."""
        for place, expected in ((MUNICH, 1150), (MELBOURNE, 1550)):
            weather = Weather(place, instants("2025-01-01", days=365))
            assert weather.actual.ghi.sum() / 12 / 1000 == pytest.approx(expected, rel=0.2)


class TestClouds:
    YEAR = Weather(MUNICH, instants("2024-01-01", days=360))

    def test_leave_clear_days_and_broken_and_overcast_ones(self) -> None:
        days = daily_means(self.YEAR.clear_sky_index)
        for low, high in ((0, 0.45), (0.45, 0.85), (0.85, 1)):
            assert np.mean((days >= low) & (days <= high)) > 0.15

    def test_persist(self) -> None:
        index = self.YEAR.clear_sky_index
        assert autocorrelation(index, lag=1) > 0.85
        assert 0.5 < autocorrelation(index, lag=12) < 0.9
        assert 0.25 < autocorrelation(daily_means(index), lag=1) < 0.8
        assert abs(autocorrelation(daily_means(index), lag=20)) < 0.25

    def test_make_ramps_of_minutes_on_broken_days_alone(self) -> None:
        by_minute = Weather(MUNICH, instants("2024-05-01", days=90, step_s=60))
        ramps = np.abs(by_minute.clear_sky_index[5:] - by_minute.clear_sky_index[:-5]) > 0.3
        broken = (by_minute.cloud_cover > 0.3) & (by_minute.cloud_cover < 0.7)
        assert ramps[broken[5:]].mean() > 0.1
        assert ramps[by_minute.cloud_cover[5:] < 0.001].mean() < 0.01

    def test_cover_as_much_as_they_shade(self) -> None:
        """The share of instants at which a cloud is before the sun is the share of the sky that is covered."""
        shaded = self.YEAR.clear_sky_index < 0.85
        for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
            there = (self.YEAR.cloud_cover > low) & (self.YEAR.cloud_cover < high)
            assert shaded[there].mean() == pytest.approx((low + high) / 2, abs=0.12)


class TestTemperature:
    def test_is_warm_in_summer_and_after_noon(self) -> None:
        weather = Weather(MUNICH, instants("2024-01-01", days=360))
        by_month = weather.temperature_c.reshape(12, -1).mean(axis=1)
        assert by_month[6] - by_month[0] > 10
        by_hour = weather.temperature_c.reshape(-1, 24, 12).mean(axis=(0, 2))
        assert 12 <= by_hour.argmax() <= 16  # in UTC; local solar time is 46 minutes ahead
        assert by_hour.argmin() in (2, 3, 4, 5, 6)
        assert by_hour.max() - by_hour.min() > 4

    def test_has_its_seasons_reversed_in_the_south(self) -> None:
        means = [
            Weather(MELBOURNE, instants(f"2025-{month}-01", days=28)).temperature_c.mean() for month in ("01", "07")
        ]
        assert means[0] - means[1] > 7

    def test_never_jumps(self) -> None:
        weather = Weather(TROMSO, instants("2025-01-01", days=60))
        assert np.abs(np.diff(weather.temperature_c)).max() < 1

    def test_persists_for_days(self) -> None:
        days = daily_means(Weather(Place(4, 0.0, 0.0, "UTC"), instants("2024-01-01", days=720)).temperature_c)
        assert 0.5 < autocorrelation(days, lag=1) < 0.95
        assert abs(autocorrelation(days, lag=25)) < 0.2


class TestWind:
    DECADE = Weather(ESBJERG, instants("2015-01-01", days=3650, step_s=900))

    def test_has_a_weibull_distribution_of_shape_2(self) -> None:
        speed = self.DECADE.wind_10m[::4]
        shape, _, scale = stats.weibull_min.fit(speed[::10], floc=0)
        assert shape == pytest.approx(2.0, abs=0.15)
        distance = stats.kstest(speed, stats.weibull_min(shape, 0, scale).cdf).statistic
        assert distance < 0.03

    @pytest.mark.parametrize("seed", range(4))
    def test_has_the_mean_of_its_site(self, seed: int) -> None:
        place = Place(seed, 48.0, 11.0, "Europe/Berlin", "DE")
        speed = Weather(place, instants("2018-01-01", days=2500, step_s=900)).wind_10m
        assert speed.mean() == pytest.approx(mean_wind_10m(place), rel=0.08)

    @pytest.mark.parametrize(
        ("lag_h", "low", "high"), [(0.25, 0.97, 1), (1, 0.9, 0.99), (6, 0.65, 0.92), (24, 0.35, 0.8), (240, -0.1, 0.2)]
    )
    def test_persists_for_hours_and_changes_with_the_fronts(self, lag_h: float, low: float, high: float) -> None:
        assert low < autocorrelation(self.DECADE.wind_10m, lag=int(lag_h * 4)) < high

    def test_is_stronger_by_day_and_in_winter(self) -> None:
        by_hour = self.DECADE.wind_10m.reshape(-1, 24, 4).mean(axis=(0, 2))
        assert 11 <= by_hour.argmax() <= 16
        month = pd.to_datetime(self.DECADE.seconds, unit="s").month.to_numpy()
        assert self.DECADE.wind_10m[month == 1].mean() > 1.15 * self.DECADE.wind_10m[month == 7].mean()

    def test_rises_with_height_by_the_power_law(self) -> None:
        assert (self.DECADE.wind_at(80) / self.DECADE.wind_at(10)).mean() == pytest.approx(8 ** (1 / 7))


class TestPlace:
    def test_decides_the_weather(self) -> None:
        seconds = instants("2025-06-01", days=2)
        one, same = Weather(MUNICH, seconds), Weather(MUNICH, seconds)
        other = Weather(Place(999, MUNICH.latitude, MUNICH.longitude, MUNICH.timezone, MUNICH.country), seconds)
        assert np.array_equal(one.wind_10m, same.wind_10m)
        assert not np.array_equal(one.wind_10m, other.wind_10m)
        assert not np.array_equal(one.clear_sky_index, other.clear_sky_index)
