"""A battery: energy is conserved to the last bit, and no limit is ever passed."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.simulation import storage
from kilowatch.simulation.storage import Battery
from tests.simulation.sites import a_device, milliwatts, one_of_each, run

HOME = Battery(capacity_kwh=8, max_charge_kw=4, max_discharge_kw=4.5, round_trip_efficiency=0.9)

batteries = st.builds(
    Battery,
    capacity_kwh=st.floats(1e-3, 1e8),
    max_charge_kw=st.floats(1e-3, 1e7),
    max_discharge_kw=st.floats(1e-3, 1e7),
    round_trip_efficiency=st.floats(0.01, 1),
)


class TestDispatch:
    @given(
        battery=batteries,
        missing=st.lists(st.integers(-(10**10), 10**10) | st.integers(-5000, 5000), min_size=1, max_size=60),
        share=st.floats(0, 1),
        step_s=st.sampled_from([60, 300, 900]),
    )
    def test_keeps_every_law(self, battery: Battery, missing: list[int], share: float, step_s: int) -> None:
        stored = min(int(battery.capacity * share), battery.capacity)
        missing_w = np.array(missing, dtype=np.int64)
        found = storage.dispatch(battery, missing_w, stored=stored, step_s=step_s)
        power = [Fraction(int(one), 1000) for one in found.power_mw]
        # the stored energy is exactly the integral of power with the efficiencies, to half a milliwatt at the limits
        levels = [*(int(level) for level in found.stored), found.stored_at_end]
        for one, (before, after) in zip(power, pairwise(levels), strict=True):
            per_ws = battery.stored_per_ws if one < 0 else battery.drawn_per_ws
            is_at_a_limit = after in (0, battery.capacity)
            slack = per_ws * step_s / 2000 if is_at_a_limit else 0
            assert abs(before - one * per_ws * step_s - after) <= slack + max(before, after) * 2**-52
            assert 0 <= after <= battery.capacity
        # within its power, never more than is missing or left over, and never the other way
        assert all(-battery.max_charge_kw * 1000 <= one <= battery.max_discharge_kw * 1000 for one in power)
        assert all(min(0, lack) <= one <= max(0, lack) for one, lack in zip(power, missing, strict=True))

    @given(missing=st.lists(st.integers(-6000, 6000), min_size=2, max_size=60), cut=st.integers(1, 59))
    def test_in_parts_is_the_same_as_at_once(self, missing: list[int], cut: int) -> None:
        cut = min(cut, len(missing) - 1)
        series = np.array(missing, dtype=np.int64)
        whole = storage.dispatch(HOME, series, stored=10**16, step_s=300)
        first = storage.dispatch(HOME, series[:cut], stored=10**16, step_s=300)
        second = storage.dispatch(HOME, series[cut:], stored=first.stored_at_end, step_s=300)
        assert np.array_equal(np.concatenate([first.power_mw, second.power_mw]), whole.power_mw)
        assert second.stored_at_end == whole.stored_at_end

    def test_never_charges_when_full_nor_discharges_when_empty(self) -> None:
        full = storage.dispatch(HOME, np.full(5, -3000), stored=HOME.capacity, step_s=60)
        empty = storage.dispatch(HOME, np.full(5, 3000), stored=0, step_s=60)
        assert not full.power_mw.any()
        assert not empty.power_mw.any()

    def test_fills_up_exactly(self) -> None:
        found = storage.dispatch(HOME, np.full(300, -4000), stored=0, step_s=60)
        assert found.stored_at_end == HOME.capacity
        assert np.count_nonzero((found.power_mw > -4_000_000) & (found.power_mw < 0)) == 1

    def test_gives_back_the_round_trip_efficiency_of_what_it_took(self) -> None:
        charged = storage.dispatch(HOME, np.full(3000, -4000), stored=0, step_s=60)
        drawn = storage.dispatch(HOME, np.full(3000, 4000), stored=charged.stored_at_end, step_s=60)
        assert drawn.power_mw.sum() / -charged.power_mw.sum() == pytest.approx(0.9, abs=1e-5)

    def test_that_lost_capacity_is_full_at_what_is_left(self) -> None:
        found = storage.dispatch(HOME, np.array([-1000, 500]), stored=2 * HOME.capacity, step_s=60)
        assert list(found.power_mw) == [0, 500_000]

    def test_of_a_giant_is_as_exact(self) -> None:
        giant = Battery(1e9, 1e9, 1e9, 0.81)
        found = storage.dispatch(giant, np.array([-(10**12)]), stored=giant.capacity // 2, step_s=900)
        assert found.stored_at_end - giant.capacity // 2 == 10**12 * 900 * giant.stored_per_ws


class TestBattery:
    def test_state_of_charge_is_the_integral_of_power_with_its_efficiencies(self) -> None:
        devices = one_of_each()
        values = run(devices, "2025-04-01", days=60)
        power_w, soc = values[3, "power"] * 1000, values[3, "state_of_charge"]
        root = 0.9**0.5
        flow_kwh = np.where(power_w < 0, -power_w * root, -power_w / root) * 300 / 3.6e6
        expected = soc[0] + np.concatenate([[0], np.cumsum(flow_kwh)[:-1]]) / 8 * 100
        assert soc == pytest.approx(expected, abs=1e-4)
        assert soc[0] == 50
        assert soc.min() >= 0
        assert soc.max() <= 100
        assert soc.max() - soc.min() > 90

    def test_never_exports_what_it_stored_nor_charges_from_the_grid(self) -> None:
        values = run(one_of_each(), "2025-04-01", days=30)
        balance, power = milliwatts(values[4, "power"]), milliwatts(values[3, "power"])
        assert (balance[power > 0] >= 0).all()
        assert (balance[power < 0] <= 0).all()

    def test_lowers_what_the_site_imports_and_exports(self) -> None:
        with_battery = run(one_of_each(), "2025-04-01", days=30)
        without = run([one for one in one_of_each() if one.kind != "battery"], "2025-04-01", days=30)
        for key in ("energy_imported", "energy_exported"):
            assert with_battery[4, key][-1] < 0.97 * without[4, key][-1]

    def test_beside_another_sees_what_that_one_left(self) -> None:
        values = run([*one_of_each(), a_device("battery", number=30)], "2025-04-01", days=10)
        first, second = milliwatts(values[3, "power"]), milliwatts(values[30, "power"])
        assert not (np.sign(first) * np.sign(second) < 0).any()
        assert (second != 0).any()
        assert (first != 0).sum() > (second != 0).sum()

    def test_warms_with_its_work(self) -> None:
        values = run(one_of_each(), "2025-04-01", days=30)
        assert values[3, "temperature"].min() >= 22
        assert 24 < values[3, "temperature"].max() < 40
