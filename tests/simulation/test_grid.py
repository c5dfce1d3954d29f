"""The grid connection's voltage and frequency."""

import numpy as np
import pytest

from kilowatch.simulation import grid
from kilowatch.simulation.plant import Place
from tests.simulation.sites import ESBJERG, MUNICH, a_device, instants, run

SECONDS = instants("2025-01-01", days=30, step_s=60)


class TestGridMeter:
    @pytest.mark.parametrize(
        ("country", "volts", "hertz"),
        [("DE", 230, 50), ("US", 120, 60), ("JP", 100, 50), ("KR", 230, 60), ("AU", 230, 50), (None, 230, 50)],
    )
    def test_has_the_voltage_and_frequency_of_its_country(
        self, country: str | None, volts: float, hertz: float
    ) -> None:
        place = Place(1, 10.0, 10.0, "UTC", country)
        values = run([a_device("grid_meter", place=place)], "2025-01-01", days=20)
        assert values[1, "voltage"].mean() == pytest.approx(volts, rel=0.01)
        assert values[1, "frequency"].mean() == pytest.approx(hertz, abs=0.01)
        assert np.abs(values[1, "voltage"] / volts - 1).max() < 0.1  # EN 50160
        assert np.abs(values[1, "frequency"] - hertz).max() < 0.15

    def test_shows_a_lower_voltage_on_import_than_on_export(self) -> None:
        importing, exporting = (
            grid.voltage_v(MUNICH, SECONDS, np.full(len(SECONDS), power), seed=1, connection_kw=17)
            for power in (17_000, -17_000)
        )
        assert (exporting - importing).mean() == pytest.approx(0.04 * 230, abs=0.1)

    def test_shares_the_frequency_of_its_synchronous_grid(self) -> None:
        assert np.array_equal(grid.frequency_hz(MUNICH, SECONDS), grid.frequency_hz(ESBJERG, SECONDS))
        britain = Place(MUNICH.seed, 52.0, 0.0, "Europe/London", "GB")
        assert not np.array_equal(grid.frequency_hz(MUNICH, SECONDS), grid.frequency_hz(britain, SECONDS))
