"""A wind turbine: from the wind at its hub to electrical power."""

from dataclasses import dataclass

import numpy as np

from kilowatch.simulation.almanac import DAY_S
from kilowatch.simulation.noise import Floats, Ints, derive, octaves, one_uniform
from kilowatch.simulation.runs import whole
from kilowatch.simulation.sky import HOUR_S, SEA_LEVEL_PA, Weather

STANDARD_DENSITY = 1.225
"""Of air in kg/m³, for which power curves are given (IEC 61400-12-1)."""
_GAS_CONSTANT = 287.05
RESTART_SHARE = 0.8
"""A turbine that stopped for a storm starts again below this share of its cut-out speed."""


@dataclass(frozen=True, slots=True)
class Turbine:
    rated_kw: float
    hub_height_m: float
    cut_in_ms: float
    rated_ms: float
    cut_out_ms: float


def wind_at_hub(turbine: Turbine, weather: Weather, *, seed: int) -> Floats:
    """In m/s, to a hundredth: the site's wind at the hub's height, with the gusts and the wake of its spot."""
    gusts = octaves(derive(seed, "gusts"), weather.seconds, {4 * 60: 0.6, 12 * 60: 0.6, HOUR_S: 0.5, DAY_S: 0.3})
    spot = 1 - 0.05 * one_uniform(derive(seed, "spot"))
    return np.round(weather.wind_at(turbine.hub_height_m) * spot * np.exp(0.05 * gusts), 2)


def air_density(weather: Weather, *, height_m: float) -> Floats:
    """In kg/m³, at standard pressure for the height over the sea."""
    kelvin = weather.temperature_c + 273.15
    found: Floats = SEA_LEVEL_PA * np.exp(-height_m / 8434) / (_GAS_CONSTANT * kelvin)
    return found


def curve_w(turbine: Turbine, speed_ms: Floats, density: Floats) -> Ints:
    """Power by the turbine's curve, as long as no storm stops it: cubic between cut-in and rated speed.

    The speed is first brought to standard density, times the cube root of the ratio of densities (IEC 61400-12-1).
    """
    effective = speed_ms * np.cbrt(density / STANDARD_DENSITY)
    start, rated = turbine.cut_in_ms**3, turbine.rated_ms**3
    share = np.clip((effective**3 - start) / max(rated - start, 1e-9), 0, 1)
    return whole(turbine.rated_kw * 1000 * share)


def stopped_by_storm(turbine: Turbine, speed_ms: Floats, *, stopped_before: bool) -> np.ndarray:
    """At which instants it stands still: from the cut-out speed on, until the wind is well below it."""
    happens = np.zeros(len(speed_ms), dtype=np.int8)
    happens[speed_ms < RESTART_SHARE * turbine.cut_out_ms] = -1
    happens[speed_ms >= turbine.cut_out_ms] = 1
    # the last thing that happened, at or before each instant
    last = np.maximum.accumulate(np.where(happens != 0, np.arange(len(happens)), -1))
    stopped: np.ndarray = np.where(last >= 0, happens[last] > 0, stopped_before)
    return stopped
