"""A site's PV arrays and inverters together: who clips whom, and who shows what."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from kilowatch.simulation.devices import DEFAULTS, SimulatedDevice, peak_w, setting
from kilowatch.simulation.noise import Floats, Ints, derive
from kilowatch.simulation.photovoltaics import (
    Array,
    at_all_instants,
    clear_dc_power_w,
    clipped_together_w,
    dc_power_w,
    shared_by_rating,
)
from kilowatch.simulation.sky import Weather

DEFAULT_INVERTER_KW = 5.0
"""Of an inverter that says nothing, at a site without an array."""


class Roofs:
    """The arrays are clipped in sum at the inverters' rating, or without an inverter each at its own peak power.

    An inverter at a site without an array has one of its own behind it. Spectators behave as if they had joined the
    devices that count.
    """

    def __init__(self, devices: Sequence[SimulatedDevice], weather: Weather) -> None:
        """`devices` are all of a site, in order of their numbers."""
        self.weather = weather
        self._inverters = [one for one in devices if one.counts and one.kind == "inverter"]
        self._real_arrays = [one for one in devices if one.counts and one.kind == "pv_array"]
        self._arrays = self._real_arrays or [self._array_behind(one) for one in self._inverters]

    @cached_property
    def power_w(self) -> Ints:
        """Of all arrays that count, on the AC side, in whole watts."""
        return sum(self._array_powers.values(), np.zeros(len(self.weather.seconds), dtype=np.int64))

    def array_w(self, array: SimulatedDevice) -> Ints:
        if array.counts:
            return self._array_powers[array.id]
        return self._clipped([*self._unclipped, self._before_clipping_w(array)])[-1]

    def inverter_w(self, inverter: SimulatedDevice) -> Ints:
        """Its share, by rating, of what the arrays give."""
        if inverter.counts:
            return self._inverter_powers[inverter.id]
        if not self._arrays:
            behind = self._before_clipping_w(self._array_behind(inverter))
            return at_all_instants(behind.astype(np.int64), self.weather)
        ratings = [self.rating_kw(one) for one in (inverter, *self._inverters)]
        return np.minimum(shared_by_rating(self.power_w, ratings)[0], int(ratings[0] * 1000))

    def clear_sky_bound_w(self, array: SimulatedDevice) -> Ints:
        """The most that an array can give: without a cloud, and with all inverters for itself."""
        clear = clear_dc_power_w(_array(array), self.weather) * self._efficiency
        limit_w = self._limit_w if self._inverters else peak_w(array)
        return at_all_instants(np.minimum(clear, limit_w).astype(np.int64), self.weather)

    def rating_kw(self, inverter: SimulatedDevice) -> float:
        """As given, or else an equal share of the arrays' peak power."""
        given = inverter.properties.get("rated_kw")
        if given is not None:
            return float(given)
        if not self._real_arrays:
            return DEFAULT_INVERTER_KW
        sharing = {one.id for one in self._inverters} | {inverter.id}
        return sum(peak_w(one) for one in self._real_arrays) / 1000 / len(sharing)

    # ------------------------------------------------------------ arrays

    def _array_behind(self, inverter: SimulatedDevice) -> SimulatedDevice:
        toward_equator = 180.0 if inverter.place.latitude >= 0 else 0.0
        rated_kw = inverter.properties.get("rated_kw") or DEFAULT_INVERTER_KW
        properties = {"peak_kw": rated_kw, "tilt_deg": 30.0, "azimuth_deg": toward_equator}
        return SimulatedDevice(inverter.id, "pv_array", properties, derive(inverter.seed, "roof"), inverter.place)

    @cached_property
    def _array_powers(self) -> dict[int, Ints]:
        clipped = self._clipped(self._unclipped)
        return {one.id: power for one, power in zip(self._arrays, clipped, strict=True)}

    @cached_property
    def _unclipped(self) -> list[Floats]:
        return [self._before_clipping_w(one) for one in self._arrays]

    def _before_clipping_w(self, array: SimulatedDevice) -> Floats:
        """On the AC side, at daylight instants."""
        power = dc_power_w(_array(array), self.weather) * self._efficiency
        return power if self._inverters else np.minimum(power, peak_w(array))

    def _clipped(self, arrays_w: list[Floats]) -> list[Ints]:
        limit_w = self._limit_w if self._inverters else np.inf
        return [at_all_instants(each, self.weather) for each in clipped_together_w(arrays_w, limit_w=limit_w)]

    # ------------------------------------------------------------ inverters

    @cached_property
    def _inverter_powers(self) -> dict[int, Ints]:
        shares = shared_by_rating(self.power_w, [self.rating_kw(one) for one in self._inverters])
        return {one.id: share for one, share in zip(self._inverters, shares, strict=True)}

    @cached_property
    def _limit_w(self) -> float:
        return sum(self.rating_kw(one) for one in self._inverters) * 1000

    @cached_property
    def _efficiency(self) -> float:
        """Of all inverters that count, by rating."""
        if not self._inverters:
            return float(DEFAULTS["inverter"]["efficiency"])
        parts = sum(self.rating_kw(one) * setting(one, "efficiency") for one in self._inverters)
        return float(parts * 1000 / self._limit_w)


def _array(device: SimulatedDevice) -> Array:
    return Array.with_own_losses(
        device.seed,
        peak_kw=setting(device, "peak_kw"),
        tilt_deg=setting(device, "tilt_deg"),
        azimuth_deg=setting(device, "azimuth_deg"),
    )
