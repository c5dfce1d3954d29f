"""Solar power: from the sky to the alternating current of an array, and what its inverters show of it."""

from dataclasses import dataclass

import numpy as np

from kilowatch.simulation.noise import Floats, Ints, derive, one_uniform
from kilowatch.simulation.sky import Irradiance, Weather

STANDARD_IRRADIANCE = 1000.0
TEMPERATURE_COEFFICIENT = -0.0035
"""Change of power for each K over 25 °C: crystalline silicon."""
ALBEDO = 0.2
LOSSES = 0.12
"""Soiling, mismatch, wiring and reflection together."""


@dataclass(frozen=True, slots=True)
class Array:
    """A PV array; azimuth 180 looks south, tilt 0 lies flat. `performance` is what its losses leave, about 0.88."""

    peak_kw: float
    tilt_deg: float
    azimuth_deg: float
    performance: float

    @classmethod
    def with_own_losses(cls, seed: int, *, peak_kw: float, tilt_deg: float, azimuth_deg: float) -> "Array":
        own = 0.03 * (one_uniform(derive(seed, "losses")) - 0.5)
        return cls(peak_kw, tilt_deg, azimuth_deg, 1 - LOSSES + own)


def dc_power_w(array: Array, weather: Weather) -> Floats:
    """What the array gives before its inverter at daylight instants. Never over `clear_dc_power_w`."""
    plane = np.minimum(_in_plane(array, weather, weather.actual), _in_plane(array, weather, weather.clear))
    return _power_w(array, weather, plane)


def clear_dc_power_w(array: Array, weather: Weather) -> Floats:
    """What it would give without a cloud at the same air temperature and wind: the bound of `dc_power_w`.

    A bound for every orientation: a roof that faces away from the sun, which in fact gets a little more light from a
    bright cloud than from the blue, is held to what the blue gives it.
    """
    return _power_w(array, weather, _in_plane(array, weather, weather.clear))


def _in_plane(array: Array, weather: Weather, light: Irradiance) -> Floats:
    """Irradiance on the array's plane in W/m², at daylight instants (Hay and Davies 1980, by pvlib)."""
    from pvlib import irradiance

    day, sun = weather.day, weather.sun
    tilt, azimuth = np.radians(array.tilt_deg), np.radians(array.azimuth_deg)
    facing = np.sin(tilt) * (np.sin(azimuth) * sun.east[day] + np.cos(azimuth) * sun.north[day])
    facing = np.maximum(facing + np.cos(tilt) * sun.up[day], 0)
    # pvlib holds the ratio to the sun 1° over the horizon, as the model grows without bound below it
    ratio = facing / np.maximum(sun.up[day], 0.01745)
    diffuse = irradiance.haydavies(
        array.tilt_deg, array.azimuth_deg, light.dhi, light.dni, weather.extraterrestrial, projection_ratio=ratio
    )
    ground = irradiance.get_ground_diffuse(array.tilt_deg, light.ghi, albedo=ALBEDO)
    plane: Floats = light.dni * facing + np.maximum(diffuse, 0) + ground
    return plane


def _power_w(array: Array, weather: Weather, plane: Floats) -> Floats:
    """Power of cells of the temperature that this irradiance gives them (Faiman 2008, by pvlib)."""
    from pvlib import temperature

    cell_c = temperature.faiman(plane, weather.temperature_c[weather.day], weather.wind_10m[weather.day])
    warmth = 1 + TEMPERATURE_COEFFICIENT * (cell_c - 25)
    power: Floats = array.peak_kw * array.performance * (plane * warmth) * (1000 / STANDARD_IRRADIANCE)
    return np.maximum(power, 0)


def clipped_together_w(arrays_w: list[Floats], *, limit_w: float) -> list[Ints]:
    """Whole watts of each array behind inverters that pass `limit_w` in all; each gives way in proportion.

    They are rounded down, so that their sum is never over the limit.
    """
    total = np.sum(arrays_w, axis=0)
    share = np.minimum(1, limit_w / np.maximum(total, 1))
    return [np.floor(array_w * share).astype(np.int64) for array_w in arrays_w]


def shared_by_rating(total_w: Ints, ratings_kw: list[float]) -> list[Ints]:
    """What each of several inverters shows of the whole, in proportion to its rating; they add up to it exactly."""
    shares = [np.floor(total_w * (rating / sum(ratings_kw))).astype(np.int64) for rating in ratings_kw[:-1]]
    return [*shares, total_w - sum(shares, np.zeros_like(total_w))]


def at_all_instants(values: Ints, weather: Weather) -> Ints:
    """From daylight instants to all: nothing by night."""
    spread = np.zeros(len(weather.seconds), dtype=np.int64)
    spread[weather.day] = values
    return spread


def inverter_target_c(power_w: Ints, weather: Weather, *, rated_kw: float) -> Floats:
    """The temperature in °C that an inverter's heat sink would settle at: some 30 K over the air at its rated power."""
    found: Floats = weather.temperature_c + 2 + 30 * np.minimum(power_w / max(rated_kw * 1000, 1), 1)
    return found
