"""Charging sessions: at home by night, beside a shop by day."""

from typing import Any

import numpy as np
import pytest

from kilowatch.simulation.almanac import LocalTime
from kilowatch.simulation.charging import Charger, charging_w
from kilowatch.simulation.noise import Ints
from tests.simulation.sites import MUNICH, a_device, instants, run

MINUTES = instants("2025-03-03", days=84, step_s=60)


def charging(
    seconds: Ints, *, max_charge_kw: float = 11, connectors: int = 1, seed: int = 1, public: bool = False
) -> Ints:
    time = LocalTime(seconds, timezone=MUNICH.timezone, country=MUNICH.country)
    return charging_w(Charger(max_charge_kw, connectors, seed, public), time)


def local_hour(seconds: Ints) -> Ints:
    time = LocalTime(seconds, timezone=MUNICH.timezone, country=MUNICH.country)
    return time.second_of_day // 3600


def sessions(power: Ints) -> list[Ints]:
    """The powers of each time that it was on."""
    on = np.flatnonzero(np.diff(np.concatenate([[0], power > 0, [0]])))
    return [power[begin:end] for begin, end in on.reshape(-1, 2)]


class TestCharging:
    @pytest.mark.parametrize("public", [False, True])
    @pytest.mark.parametrize(("max_charge_kw", "connectors"), [(3.7, 1), (11, 2), (22, 6), (150, 4)])
    def test_is_never_over_what_the_connectors_give(self, public: bool, max_charge_kw: float, connectors: int) -> None:
        power = charging(MINUTES, max_charge_kw=max_charge_kw, connectors=connectors, public=public)
        assert power.min() == 0
        assert 0.25 * max_charge_kw * 1000 < power.max() <= max_charge_kw * connectors * 1000

    def test_at_home_brings_a_car_through_its_year(self) -> None:
        """Between 5,000 and 25,000 km at 18 kWh for 100 km."""
        for seed in range(5):
            power = charging(instants("2025-01-01", days=365), seed=seed)
            assert 900 < power.sum() / 12_000 < 4500

    def test_at_home_is_in_the_evening_and_by_night(self) -> None:
        power, hour = charging(MINUTES), local_hour(MINUTES)
        evening = power[(hour >= 16) | (hour < 4)].sum()
        assert evening > 0.85 * power.sum()

    def test_in_public_is_by_day(self) -> None:
        power, hour = charging(MINUTES, public=True, connectors=4, max_charge_kw=22), local_hour(MINUTES)
        assert power[(hour >= 8) & (hour < 20)].sum() > 0.97 * power.sum()

    def test_slows_down_at_the_end_of_each_session(self) -> None:
        found = sessions(charging(MINUTES))
        assert len(found) > 25
        for power in found[1:-1]:
            assert (np.diff(power) <= 0).all()
            assert len(power) < 5 or power[-1] < 0.4 * power[0]

    def test_of_several_connectors_overlaps(self) -> None:
        power = charging(MINUTES, public=True, connectors=6, max_charge_kw=22)
        assert power.max() > 44_000

    def test_is_by_day_where_the_site_has_a_shop_that_counts(self) -> None:
        charger = a_device("ev_charger", max_charge_kw=22, connectors=4)
        shop: dict[str, Any] = {"number": 2, "profile": "commercial", "annual_kwh": 500_000}
        alone = run([charger], "2025-03-03", days=21)[1, "power"]
        beside = run([charger, a_device("load_meter", **shop)], "2025-03-03", days=21)[1, "power"]
        watched = run([charger, a_device("load_meter", counts=False, **shop)], "2025-03-03", days=21)[1, "power"]
        hour = local_hour(instants("2025-03-03", days=21))
        assert np.array_equal(alone, watched)
        assert beside[(hour >= 8) & (hour < 20)].sum() > 0.95 * beside.sum()
        assert alone[(hour >= 8) & (hour < 16)].sum() < 0.3 * alone.sum()
