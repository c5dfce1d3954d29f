"""A heat pump and the weather outside."""

import numpy as np
import pytest

from kilowatch.simulation import heating
from kilowatch.simulation.heating import HeatPump
from kilowatch.simulation.plant import Place
from tests.simulation.sites import MELBOURNE, MUNICH, TROMSO, a_device, run

PUMP = HeatPump(rated_kw=3, coefficient_of_performance=3.5, seed=1)


class TestCoefficientOfPerformance:
    def test_is_as_given_at_its_rating_point(self) -> None:
        assert heating.coefficient_of_performance(PUMP, np.array([7.0]), np.array([35.0]))[0] == pytest.approx(3.5)

    def test_falls_with_the_cold_and_with_hotter_water(self) -> None:
        air = np.array([10.0, 0.0, -10.0])
        at_35, at_50 = (heating.coefficient_of_performance(PUMP, air, np.full(3, flow)) for flow in (35.0, 50.0))
        assert (np.diff(at_35) < 0).all()
        assert (at_50 < at_35).all()
        assert 1.5 < at_50[-1] < 2.5

    def test_is_never_below_that_of_a_heating_rod(self) -> None:
        assert heating.coefficient_of_performance(HeatPump(3, 1.1, 1), np.array([-40.0]), np.array([55.0]))[0] == 1


class TestHeatingCurve:
    def test_rises_as_it_gets_colder_between_its_limits(self) -> None:
        flow = heating.flow_temperature_c(np.array([30.0, 15.0, 0.0, -10.0, -40.0]))
        assert list(flow) == sorted(flow)
        assert flow[0] == 25
        assert flow[-1] == 50
        assert 33 < flow[2] < 40


class TestHeatPump:
    def test_takes_more_on_colder_days(self) -> None:
        values = run([a_device("heat_pump"), a_device("weather_station", number=2)], "2024-10-01", days=180)
        power, outdoor = (values[key].reshape(180, -1).mean(axis=1) for key in ((1, "power"), (2, "temperature")))
        assert np.corrcoef(power, outdoor)[0, 1] < -0.9

    def test_rests_in_summer_but_for_hot_water(self) -> None:
        values = run([a_device("heat_pump"), a_device("weather_station", number=2)], "2025-06-15", days=60)
        power, outdoor = values[1, "power"], values[2, "temperature"]
        on = power > 0.1
        assert 0.01 < on[outdoor > heating.HEATING_LIMIT_C].mean() < 0.06

    @pytest.mark.parametrize("place", [MUNICH, MELBOURNE, TROMSO], ids=lambda place: place.timezone)
    def test_is_never_over_its_rated_power_and_sized_for_its_climate(self, place: Place) -> None:
        values = run([a_device("heat_pump", place=place)], "2025-01-01", days=365, step_s=900)
        power = values[1, "power"]
        assert power.max() <= 3.0
        assert power.min() >= 0
        full_load_hours = power.sum() / 4 / 3.0
        assert 500 < full_load_hours < 4500

    def test_switches_on_and_off_in_mild_weather_and_modulates_in_the_cold(self) -> None:
        values = run([a_device("heat_pump"), a_device("weather_station", number=2)], "2025-01-01", days=90, step_s=60)
        power, outdoor = values[1, "power"], values[2, "temperature"]
        mild, cold = (outdoor > 8) & (outdoor < 14), outdoor < -3
        assert (power[mild] < 0.1).mean() > 0.3
        assert (power[cold] < 0.1).mean() < 0.1
        assert power[cold].std() > 0

    def test_flow_is_warm_while_it_runs_hot_for_water_and_never_jumps(self) -> None:
        values = run([a_device("heat_pump")], "2025-01-10", days=20, step_s=60)
        flow = values[1, "flow_temperature"]
        assert 48 < flow.max() <= 52
        assert flow.min() >= heating.INDOOR_C
        assert np.abs(np.diff(flow)).max() < 3
