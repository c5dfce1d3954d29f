"""Numbers by chance that depend on nothing but a seed and a place in time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.simulation import noise
from tests.simulation.sites import autocorrelation, instants

YEAR = instants("2024-01-01", days=366)


class TestUniform:
    def test_is_splitmix64(self) -> None:
        """The first two words of the published generator for the seed 1234567."""
        words = np.array([6457827717110365317, 3203168211198807973], dtype=np.uint64)
        expected = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
        assert np.array_equal(noise.uniform(1234567, np.array([1, 2])), expected)

    def test_is_evenly_spread_and_never_0_or_1(self) -> None:
        drawn = noise.uniform(3, np.arange(-50_000, 50_000))
        counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
        assert counts.min() > 4700
        assert counts.max() < 5300
        assert drawn.min() > 0
        assert drawn.max() < 1

    @given(seed=st.integers(-(2**70), 2**70))
    def test_takes_any_whole_number_for_a_seed(self, seed: int) -> None:
        assert 0 <= noise.derive(seed) < 2**64
        assert 0 < noise.one_uniform(seed, "name", -1) < 1
        assert np.isfinite(noise.normal(seed, np.arange(-3, 3))).all()


class TestSmooth:
    @pytest.mark.parametrize("period_s", [600, 3600, 86_400])
    def test_is_standard_normal_everywhere_also_between_its_lattice_points(self, period_s: int) -> None:
        steps = period_s // 300
        many = np.stack([noise.smooth(seed, YEAR[: 8 * steps], period_s=period_s) for seed in range(1500)])
        assert np.abs(many.mean(axis=0)).max() < 0.13
        assert np.abs(many.std(axis=0) - 1).max() < 0.09

    def test_forgets_within_two_periods(self) -> None:
        values = noise.smooth(5, YEAR, period_s=3600)
        assert autocorrelation(values, lag=1) > 0.95
        assert 0.3 < autocorrelation(values, lag=9) < 0.8
        assert abs(autocorrelation(values, lag=24)) < 0.05

    def test_does_not_depend_on_where_a_window_begins(self) -> None:
        amplitudes = {600: 0.5, 7200: 1.0}
        whole = noise.octaves(5, YEAR, amplitudes)
        for begin in (1, 7, 100, 5003):
            assert np.array_equal(noise.octaves(5, YEAR[begin : begin + 50], amplitudes), whole[begin : begin + 50])
        assert noise.octaves(5, YEAR[77:78], amplitudes)[0] == whole[77]


class TestSteps:
    def test_are_constant_for_a_period(self) -> None:
        values = noise.steps(5, YEAR[:2880], period_s=1800)
        assert 470 <= np.count_nonzero(np.diff(values)) <= 481
        assert (np.diff(np.flatnonzero(np.diff(values))) == 6).all()


class TestBetween:
    def test_draws_straight_lines(self) -> None:
        seconds = np.array([90, 100, 110])
        lattice = noise.lattice_around(seconds, period_s=100)
        assert list(lattice) == [0, 100, 200]
        assert list(noise.between(seconds, period_s=100, values=np.array([0.0, 10.0, 0.0]))) == [9.0, 10.0, 9.0]
