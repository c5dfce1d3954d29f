"""Solar power, held against pvlib's own chain and against what roofs of the kind are known to yield."""

from typing import Any

import numpy as np
import pandas as pd
import pvlib
import pytest

from kilowatch.simulation import photovoltaics
from kilowatch.simulation.noise import Floats
from kilowatch.simulation.photovoltaics import Array
from kilowatch.simulation.plant import Place, SimulatedDevice, clear_sky_power_kw
from kilowatch.simulation.sky import Weather
from tests.simulation.sites import ESBJERG, MELBOURNE, MUNICH, SUVA, TROMSO, a_device, instants, run, watts

PLACES = [MUNICH, MELBOURNE, ESBJERG, TROMSO, SUVA]


def sun_elevation_deg(place: Place, begin: str, *, days: float, step_s: int = 300) -> Floats:
    """By pvlib alone; the middle of the sun, without refraction."""
    times = pd.to_datetime(instants(begin, days=days, step_s=step_s), unit="s", utc=True)
    found: Floats = pvlib.solarposition.get_solarposition(times, place.latitude, place.longitude)[
        "elevation"
    ].to_numpy()
    return found


class TestPvArray:
    @pytest.mark.parametrize("place", PLACES, ids=lambda place: place.timezone)
    @pytest.mark.parametrize("begin", ["2025-06-15", "2025-12-15"])
    def test_gives_power_while_the_sun_is_up_and_none_by_night(self, place: Place, begin: str) -> None:
        power = run([a_device("pv_array", place=place)], begin, days=8)[1, "power"]
        elevation = sun_elevation_deg(place, begin, days=8)
        assert (power[elevation < 0] == 0).all()
        assert (power[elevation > 10] > 0).all()

    @pytest.mark.parametrize("place", PLACES, ids=lambda place: place.timezone)
    @pytest.mark.parametrize(("tilt_deg", "azimuth_deg"), [(30, 180), (90, 0), (0, 0), (60, 90), (15, 270)])
    def test_is_never_over_its_clear_sky_bound(self, place: Place, tilt_deg: int, azimuth_deg: int) -> None:
        array = a_device("pv_array", place=place, tilt_deg=tilt_deg, azimuth_deg=azimuth_deg)
        power = run([array], "2025-03-01", days=60)[1, "power"]
        bound = clear_sky_power_kw([array], array, instants("2025-03-01", days=60))
        assert (power <= bound).all()
        assert np.count_nonzero(power == bound) > 0.1 * len(power)  # by night, and under clear skies by day

    def test_reaches_its_bound_on_clear_days_and_a_fraction_of_it_on_overcast_ones(self) -> None:
        array = a_device("pv_array")
        power = run([array], "2025-04-01", days=90)[1, "power"].reshape(90, -1).sum(axis=1)
        bound = clear_sky_power_kw([array], array, instants("2025-04-01", days=90)).reshape(90, -1).sum(axis=1)
        share = power / bound
        assert share.max() > 0.97
        assert share.min() < 0.35

    def test_agrees_with_the_chain_of_pvlib_under_a_clear_sky(self) -> None:
        """Position, transposition and cell temperature by pvlib's own high-level functions."""
        seconds = instants("2025-05-01", days=3)
        array, weather = Array(5.0, 35, 150, performance=1.0), Weather(MUNICH, seconds)
        times = pd.to_datetime(seconds, unit="s", utc=True)
        sun = pvlib.solarposition.get_solarposition(times, MUNICH.latitude, MUNICH.longitude)
        airmass = pvlib.atmosphere.get_absolute_airmass(pvlib.atmosphere.get_relative_airmass(sun["apparent_zenith"]))
        extra = pvlib.irradiance.get_extra_radiation(times.day_of_year.to_numpy())
        turbidity = weather._turbidity  # of our own choice, so given
        sky = pvlib.clearsky.ineichen(sun["apparent_zenith"], airmass, turbidity, dni_extra=extra)
        plane = pvlib.irradiance.get_total_irradiance(
            35, 150, sun["zenith"], sun["azimuth"], sky["dni"], sky["ghi"], sky["dhi"],
            dni_extra=extra, albedo=photovoltaics.ALBEDO, model="haydavies",
        )["poa_global"].fillna(0).to_numpy()  # fmt: skip
        cell = pvlib.temperature.faiman(plane, weather.temperature_c, weather.wind_10m)
        expected = pvlib.pvsystem.pvwatts_dc(plane, cell, 5000.0, photovoltaics.TEMPERATURE_COEFFICIENT)
        high = (sun["elevation"] > 3).to_numpy()[weather.day]
        power = photovoltaics.clear_dc_power_w(array, weather)
        assert power[high] == pytest.approx(expected[weather.day][high], rel=0.01, abs=5)

    @pytest.mark.parametrize(
        ("place", "azimuth_deg", "expected_kwh"), [(MUNICH, 180, 1120), (MELBOURNE, 0, 1350), (TROMSO, 180, 750)]
    )
    def test_yields_in_a_year_what_such_roofs_yield(
        self, place: Place, azimuth_deg: float, expected_kwh: float
    ) -> None:
        """kWh for each kW of peak power, as PVGIS and PVWatts tell for these places, within a fifth."""
        array = a_device("pv_array", place=place, peak_kw=10, azimuth_deg=azimuth_deg)
        energy = run([array], "2025-01-01", days=365, step_s=900)[1, "energy"]
        assert energy[-1] / 10 == pytest.approx(expected_kwh, rel=0.2)

    def test_faces_the_equator_best_in_either_hemisphere(self) -> None:
        for place, best, worst in ((MUNICH, 180, 0), (MELBOURNE, 0, 180)):
            yields = {
                azimuth: run([a_device("pv_array", place=place, azimuth_deg=azimuth)], "2025-03-10", days=20)[
                    1, "energy"
                ][-1]
                for azimuth in (best, worst)
            }
            assert yields[best] > 1.3 * yields[worst]

    def test_peaks_before_noon_when_it_looks_east_and_after_when_it_looks_west(self) -> None:
        seconds = instants("2025-06-01", days=1, step_s=60)
        noon_s = 12 * 3600 - MUNICH.longitude / 15 * 3600
        for azimuth, side in ((90, -1), (270, 1)):
            array = a_device("pv_array", azimuth_deg=azimuth, tilt_deg=45)
            peak_s = seconds[clear_sky_power_kw([array], array, seconds).argmax()] % 86_400
            assert 1 < side * (peak_s - noon_s) / 3600 < 5

    @pytest.mark.parametrize(("place", "noon_utc_h"), [(SUVA, 0.1), (MELBOURNE, 2.3), (MUNICH, 11.2)])
    def test_gives_most_at_the_local_noon_also_at_the_date_line(self, place: Place, noon_utc_h: float) -> None:
        array = a_device("pv_array", place=place, tilt_deg=0)
        power = clear_sky_power_kw([array], array, instants("2025-06-01T12:00", days=30, step_s=900))
        hour = ((12 + 0.25 * power.reshape(30, -1).mean(axis=0).argmax()) % 24 - noon_utc_h + 12) % 24 - 12
        assert abs(hour) < 0.6

    def test_gives_more_in_the_cold_at_the_same_light(self) -> None:
        assert photovoltaics.TEMPERATURE_COEFFICIENT < 0
        weather = Weather(MUNICH, instants("2025-06-01", days=1))
        cold, hot = weather.temperature_c - 20, weather.temperature_c + 20
        powers = []
        for temperature in (cold, hot):
            weather.__dict__["temperature_c"] = temperature
            powers.append(photovoltaics.clear_dc_power_w(Array(5, 30, 180, 1.0), weather).sum())
        assert powers[0] / powers[1] == pytest.approx(1.16, abs=0.02)

    def test_passes_no_more_than_its_peak_power_without_an_inverter(self) -> None:
        place = Place(3, 30.0, 0.0, "UTC")
        power = run([a_device("pv_array", place=place, peak_kw=1.0, tilt_deg=5)], "2025-05-01", days=60)[1, "power"]
        assert power.max() <= 1.0


class TestInverters:
    def site(self, *ratings: float | None, **array: Any) -> list[SimulatedDevice]:
        arrays = [a_device("pv_array", number=1, azimuth_deg=120), a_device("pv_array", number=2, azimuth_deg=240)]
        inverters = [a_device("inverter", number=10 + n, rated_kw=rating) for n, rating in enumerate(ratings)]
        return [*arrays, *inverters, a_device("grid_meter", number=20)]

    def test_clip_the_arrays_in_sum(self) -> None:
        clipped, free = (run(self.site(*ratings), "2025-06-01", days=20) for ratings in ([5.0, 3.0], [50.0]))
        total, unclipped = (watts(values[1, "power"]) + watts(values[2, "power"]) for values in (clipped, free))
        assert total.max() == pytest.approx(8000, abs=2)
        assert total.max() <= 8000
        assert unclipped.max() > 10_000
        assert np.abs(total - np.minimum(unclipped, 8000)).max() <= 2

    def test_share_what_the_arrays_give_by_rating(self) -> None:
        values = run(self.site(6.0, 3.0), "2025-06-01", days=5)
        arrays = watts(values[1, "power"]) + watts(values[2, "power"])
        first, second = watts(values[10, "power"]), watts(values[11, "power"])
        assert np.array_equal(first + second, arrays)
        assert np.abs(first - 2 * second).max() <= 3
        assert first.max() <= 6000

    def test_do_not_count_twice_in_the_balance(self) -> None:
        values = run(self.site(6.0, 3.0), "2025-06-01", days=5)
        assert np.array_equal(values[20, "power"], -(watts(values[1, "power"]) + watts(values[2, "power"])) / 1000)

    def test_without_a_rating_share_the_arrays_peak_power(self) -> None:
        values = run(self.site(None, None), "2025-06-01", days=5)
        assert np.abs(watts(values[10, "power"]) - watts(values[11, "power"])).max() <= 1

    def test_alone_have_a_roof_of_their_own(self) -> None:
        for place in (MUNICH, MELBOURNE):
            devices = [a_device("inverter", rated_kw=4.0, place=place), a_device("grid_meter", number=2, place=place)]
            values = run(devices, "2025-10-01", days=20)
            assert 3 < values[1, "power"].max() <= 4
            assert np.array_equal(values[2, "power"], -values[1, "power"])

    def test_warm_up_with_their_power_and_slowly(self) -> None:
        values = run([a_device("inverter", rated_kw=5.0)], "2025-06-01", days=5, step_s=60)
        warmth, power = values[1, "temperature"], values[1, "power"]
        assert warmth[power > 4].mean() - warmth[power == 0].mean() > 15
        assert np.abs(np.diff(warmth)).max() < 2.5
