"""Electric cars: they come, charge what they need, and slow down at the end."""

from dataclasses import dataclass

import numpy as np

from kilowatch.simulation.almanac import SUNDAY, WORKDAY, Calendar, LocalTime
from kilowatch.simulation.noise import Floats, Ints, derive, normal, one_uniform, uniform
from kilowatch.simulation.runs import Runs, after_another, power_w_at, together, whole

_HOUR_S = 3600
_AC_LIMITS_KW = (3.7, 7.4, 11.0, 11.0, 11.0, 22.0)
"""What the chargers aboard of cars take; 11 kW is the commonest."""
_LARGEST_AC_KW = 22
_DC_LIMITS_KW = (50.0, 100.0, 150.0, 250.0)
# The share of the energy that comes at each share of the power: the battery is nearly full at the end.
_TAPER = ((0.86, 1.0), (0.09, 0.6), (0.05, 0.3))
_MEDIAN_NEED_KWH = 11.0
_LONGEST_AT_HOME_S = 10 * _HOUR_S
_LONGEST_IN_PUBLIC_S = 80 * 60
_PUBLIC_SLOTS_H = (8, 10, 12, 14, 16, 18)
_PUBLIC_CHANCE = (0.3, 0.5, 0.55, 0.5, 0.55, 0.35)


@dataclass(frozen=True, slots=True)
class Charger:
    """`max_charge_kw` is the power of each connector."""

    max_charge_kw: float
    connectors: int
    seed: int
    public: bool
    """By day and shortly, as beside a shop; else by night, as at home."""


def charging_w(charger: Charger, time: LocalTime) -> Ints:
    """The sum of the charger's connectors at each instant, in whole watts."""
    return power_w_at(
        time.seconds, together([_sessions(charger, number, time) for number in range(charger.connectors)])
    )


def _sessions(charger: Charger, connector: int, time: LocalTime) -> Runs:
    seed = derive(charger.seed, "connector", connector)
    if not charger.public:
        return _at_home(charger, seed, time)
    slots = [_in_public(charger, derive(seed, hour), hour, chance, time)
             for hour, chance in zip(_PUBLIC_SLOTS_H, _PUBLIC_CHANCE, strict=True)]  # fmt: skip
    return together(slots)


def _at_home(charger: Charger, seed: int, time: LocalTime) -> Runs:
    """At most once a day, in the evening of workdays and the afternoon of others; the same car each time."""
    calendar = time.calendar
    workday = calendar.kind == WORKDAY
    comes = uniform(derive(seed, "comes"), calendar.days) < np.where(workday, 0.55, 0.45)
    mean, spread = np.where(workday, 18.0, 16.5), np.where(workday, 1.3, 2.5)
    hour = np.clip(mean + spread * normal(derive(seed, "hour"), calendar.days), 12, 23)
    car_kw = _car_kw(charger, np.array([one_uniform(seed, "car")]))
    power_w = np.repeat(whole(car_kw * 1000), int(comes.sum()))
    return _sessions_of(seed, calendar, time, comes, hour, power_w=power_w, longest_s=_LONGEST_AT_HOME_S)


def _in_public(charger: Charger, seed: int, slot_h: int, chance: float, time: LocalTime) -> Runs:
    """At most once in each two hours; each time another car."""
    calendar = time.calendar
    comes = uniform(derive(seed, "comes"), calendar.days) < np.where(calendar.kind == SUNDAY, 0.25, 1) * chance
    hour = slot_h + 0.6 * uniform(derive(seed, "hour"), calendar.days)
    power_w = whole(_car_kw(charger, uniform(derive(seed, "car"), calendar.days[comes])) * 1000)
    return _sessions_of(seed, calendar, time, comes, hour, power_w=power_w, longest_s=_LONGEST_IN_PUBLIC_S)


def _car_kw(charger: Charger, chance: Floats) -> Floats:
    """The largest power of a car that is drawn by chance from 0 to 1."""
    limits = np.array(_AC_LIMITS_KW if charger.max_charge_kw <= _LARGEST_AC_KW else _DC_LIMITS_KW)
    found: Floats = np.minimum(limits[(chance * len(limits)).astype(np.int64)], charger.max_charge_kw)
    return found


def _sessions_of(
    seed: int, calendar: Calendar, time: LocalTime, comes: np.ndarray, hour: Floats, *, power_w: Ints, longest_s: int
) -> Runs:
    """From days on which a car comes, and the hour, to its charging; it leaves after `longest_s` at the latest."""
    need_ws = _MEDIAN_NEED_KWH * np.exp(0.55 * normal(derive(seed, "need"), calendar.days[comes])) * 3.6e6
    full_s: Floats = np.minimum(
        need_ws / np.maximum(power_w, 1), longest_s / sum(energy / power for energy, power in _TAPER)
    )
    begin_s = time.midnights[comes] + whole(hour[comes] * _HOUR_S)
    return after_another(
        begin_s, [(whole(power_w * share), whole(full_s * energy / share)) for energy, share in _TAPER]
    )
