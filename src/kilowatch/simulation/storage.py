"""A battery that keeps a site's own power for it: charged by what is left over, discharged into what is missing."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kilowatch.simulation.noise import Floats, Ints

NANO = 1_000_000_000
KWH = 3_600_000 * NANO
"""In billionths of a watt-second, the unit of stored energy: whole, so that no rounding ever adds up."""


@dataclass(frozen=True, slots=True)
class Battery:
    capacity_kwh: float
    max_charge_kw: float
    max_discharge_kw: float
    round_trip_efficiency: float

    @property
    def capacity(self) -> int:
        """In billionths of a watt-second."""
        return max(round(self.capacity_kwh * KWH), 1)

    @property
    def stored_per_ws(self) -> int:
        """Billionths of a watt-second that a watt-second of charging leaves in it."""
        return round(math.sqrt(self.round_trip_efficiency) * NANO)

    @property
    def drawn_per_ws(self) -> int:
        """Billionths of a watt-second that a watt-second of discharging takes out of it."""
        return round(NANO / math.sqrt(self.round_trip_efficiency))


@dataclass(frozen=True, slots=True)
class Dispatch:
    """At each instant: power in mW, positive on discharge, and the stored energy; and what is stored at the end."""

    power_mw: Ints
    stored: Floats
    stored_at_end: int


def dispatch(battery: Battery, missing_w: Ints, *, stored: int, step_s: int) -> Dispatch:
    """Follow what is missing at the site (negative: left over) within the limits of power and energy."""
    wish = np.clip(missing_w, -int(battery.max_charge_kw * 1000), int(battery.max_discharge_kw * 1000))
    gain, drain = battery.stored_per_ws * step_s, battery.drawn_per_ws * step_s
    number = number_type(battery.capacity, int(np.abs(wish).max()) * drain)
    wish = wish.astype(number)
    levels = _levels(
        np.where(wish < 0, -wish * gain, -wish * drain).tolist(),
        stored=min(stored, battery.capacity),
        capacity=battery.capacity,
    )
    course = np.array(levels, dtype=number)
    rise = np.diff(course)
    power = np.where(rise < 0, -rise / drain, -rise / gain)
    power_mw = np.rint(power.astype(np.float64) * 1000).astype(np.int64)
    return Dispatch(power_mw, course[:-1].astype(np.float64), levels[-1])


def _levels(changes: list[int], *, stored: int, capacity: int) -> list[int]:
    """Stored energy before each change and after the last, none over a limit.

    It meets a limit exactly, and has then forgotten how it came to be there. So the power of that step is not in whole
    watts as all others, but rounded to a milliwatt.
    """
    levels = [stored]
    note = levels.append
    for change in changes:
        after = stored + change
        if after > capacity:
            after = capacity
        elif after < 0:
            after = 0
        stored = after
        note(stored)
    return levels


def number_type(*largest: int) -> Any:
    """64 bits while they hold these (a battery of half a MWh); beyond, Python's own whole numbers, which are slower."""
    return np.int64 if max(largest) < 2**61 else object
