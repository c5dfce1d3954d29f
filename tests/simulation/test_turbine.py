"""A wind turbine's curve, its storms, and its neighbours."""

import numpy as np
import pytest

from kilowatch.simulation import turbine
from kilowatch.simulation.plant import simulate
from kilowatch.simulation.sky import Weather
from kilowatch.simulation.turbine import STANDARD_DENSITY, Turbine
from tests.simulation.sites import DAY_MS, ESBJERG, a_device, instants, ms, run

MODEL = Turbine(rated_kw=2000, hub_height_m=80, cut_in_ms=3, rated_ms=12, cut_out_ms=25)


def power_at(*speeds: float, density: float = STANDARD_DENSITY) -> list[int]:
    return [int(one) for one in turbine.curve_w(MODEL, np.array(speeds), np.full(len(speeds), density))]


class TestCurve:
    def test_begins_at_cut_in_and_is_flat_from_rated_speed_on(self) -> None:
        assert power_at(0, 2.99, 3) == [0, 0, 0]
        assert power_at(12, 18, 24.99) == [2_000_000] * 3

    def test_rises_with_the_cube_of_the_speed(self) -> None:
        low, high = power_at(6, 9)
        assert high / low == pytest.approx((9**3 - 3**3) / (6**3 - 3**3), rel=1e-5)

    def test_gives_less_in_thin_air(self) -> None:
        thin, dense = power_at(8, density=1.1)[0], power_at(8)[0]
        assert thin / dense == pytest.approx((8**3 * 1.1 / STANDARD_DENSITY - 27) / (8**3 - 27), rel=1e-5)

    def test_density_is_that_of_the_standard_atmosphere(self) -> None:
        weather = Weather(ESBJERG, instants("2025-06-01", days=1))
        weather.__dict__["temperature_c"] = np.full(288, 15.0)
        assert turbine.air_density(weather, height_m=0)[0] == pytest.approx(1.225, abs=0.001)
        assert turbine.air_density(weather, height_m=500)[0] == pytest.approx(1.154, abs=0.005)


class TestStorm:
    def stopped(self, *speeds: float, before: bool = False) -> list[bool]:
        return [bool(one) for one in turbine.stopped_by_storm(MODEL, np.array(speeds), stopped_before=before)]

    def test_stops_it_at_cut_out_until_the_wind_is_well_below(self) -> None:
        assert self.stopped(24, 25, 24, 22, 20, 19.9, 22, 24.9, 26) == [
            False, True, True, True, True, False, False, False, True,
        ]  # fmt: skip

    def test_is_remembered_from_before(self) -> None:
        assert self.stopped(24, 21, 19, before=True) == [True, True, False]
        assert self.stopped(24, 21, before=False) == [False, False]

    def test_shows_as_no_power_at_a_speed_that_gave_full_power_on_the_way_up(self) -> None:
        device = a_device("wind_turbine", place=ESBJERG, rated_kw=5, cut_out_ms=14.0)
        values = run([device], "2025-01-01", days=60)
        power, speed = values[1, "power"], values[1, "wind_speed"]
        between = (speed > 0.8 * 14 + 0.1) & (speed < 13.9)
        assert (power[speed >= 14] == 0).all()
        assert (power[between] == 0).any()
        assert (power[between] > 4).any()

    def test_carries_over_the_edge_of_a_window(self) -> None:
        device = a_device("wind_turbine", place=ESBJERG, cut_out_ms=14.0)
        begin, end = ms("2025-01-01"), ms("2025-01-01") + 60 * DAY_MS
        values, _ = simulate([device], begin_ms=begin, end_ms=end, step_s=300, state={})
        speed, power = values[1, "wind_speed"], values[1, "power"]
        still = int(np.flatnonzero((speed > 12) & (speed < 13.9) & (power == 0))[0])
        edge = begin + still * 300_000
        _, state = simulate([device], begin_ms=begin, end_ms=edge, step_s=300, state={})
        assert state["1"]["stopped"] is True
        after, _ = simulate([device], begin_ms=edge, end_ms=edge + 300_000, step_s=300, state=state)
        assert after[1, "power"][0] == 0


class TestWindTurbine:
    def test_yields_what_a_coastal_site_yields(self) -> None:
        """A capacity factor between a fifth and a half."""
        device = a_device("wind_turbine", place=ESBJERG, rated_kw=3600, hub_height_m=90, rated_ms=13, cut_out_ms=25)
        power = run([device], "2024-01-01", days=720, step_s=900)[1, "power"]
        assert 0.2 < power.mean() / 3600 < 0.5
        assert power.max() == 3600

    def test_sees_the_same_wind_as_its_neighbour_but_not_quite(self) -> None:
        values = run([a_device("wind_turbine", number=n, place=ESBJERG) for n in (1, 2)], "2025-01-01", days=30)
        one, other = values[1, "wind_speed"], values[2, "wind_speed"]
        assert np.corrcoef(one, other)[0, 1] > 0.95
        assert 0.2 < np.abs(one - other).mean() < 2

    def test_sees_the_wind_of_the_weather_station_higher_up(self) -> None:
        devices = [a_device("wind_turbine", place=ESBJERG, hub_height_m=80),
                   a_device("weather_station", number=2, place=ESBJERG)]  # fmt: skip
        values = run(devices, "2025-01-01", days=90)
        ratio = values[1, "wind_speed"].mean() / values[2, "wind_speed"].mean()
        assert ratio == pytest.approx(8 ** (1 / 7), rel=0.06)
        assert np.corrcoef(values[1, "wind_speed"], values[2, "wind_speed"])[0, 1] > 0.97
