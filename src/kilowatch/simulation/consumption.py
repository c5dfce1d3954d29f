"""What a site's people use: a household's appliances, a shop's opening hours.

Each profile is a power that comes from habits, and the energy that the same habits take in each whole day. So a
calendar year's energy is known without its minutes, and the profile is scaled to what the device says it uses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kilowatch.simulation.almanac import DAY_S, SATURDAY, SUNDAY, WORKDAY, Calendar, LocalTime, summer_share
from kilowatch.simulation.noise import Floats, Ints, derive, normal, one_uniform, smooth, steps, uniform
from kilowatch.simulation.runs import Runs, after_another, power_w_at, together, whole

_MINUTE_S = 60
Hourly = Mapping[int, tuple[float, ...]]
"""A value for each hour of each sort of day."""
KWH = 3.6e6
"""In watt-seconds."""
TYPICAL_HOUSEHOLD_KWH = 3500
MOST_HOUSEHOLDS = 6
"""A meter of several households shows the sum of as many of them, up to this number; beyond, they are scaled."""


@dataclass(frozen=True, slots=True)
class Load:
    """A load meter's people; `profile` is "household" or "commercial"."""

    profile: str
    annual_kwh: float
    latitude: float
    seed: int


@dataclass(frozen=True, slots=True)
class Habits:
    """Unscaled: power in W at each instant, and the energy in W·s that each day takes."""

    power_w: Callable[[LocalTime], Floats]
    daily_ws: Callable[[Calendar], Floats]


def load_w(load: Load, time: LocalTime) -> Ints:
    """Whole watts, such that each calendar year's energy is `annual_kwh` (within 1 % as long as that is over 100)."""
    year = time.calendar.year
    by_year = np.array([_scale(load, time.country, one) for one in range(year[0], year[-1] + 1)])
    return whole(_habits(load).power_w(time) * by_year[year - year[0]][time.here])


@lru_cache(maxsize=2000)
def _scale(load: Load, country: str | None, year: int) -> float:
    unscaled_ws = _habits(load).daily_ws(Calendar.of_year(year, country)).sum()
    return float(load.annual_kwh * KWH / unscaled_ws)


def _habits(load: Load) -> Habits:
    return _business(load) if load.profile == "commercial" else _households(load)


# ---------------------------------------------------------------- households


@dataclass(frozen=True, slots=True)
class Appliance:
    """Used on a day by chance, once; `phases` are its power in W and for how many minutes."""

    name: str
    chance: tuple[float, float]  # on a workday, on another day
    hour: float
    spread_h: float
    phases: tuple[tuple[int, int], ...]


APPLIANCES = (
    Appliance("kettle in the morning", (0.9, 0.9), 7.1, 0.7, ((2000, 3),)),
    Appliance("kettle before noon", (0.25, 0.5), 10.6, 1.2, ((2000, 3),)),
    Appliance("kettle in the afternoon", (0.5, 0.6), 16.2, 1.5, ((2000, 3),)),
    Appliance("toaster", (0.5, 0.6), 7.3, 0.8, ((900, 4),)),
    Appliance("hair dryer", (0.4, 0.4), 7.0, 0.5, ((1400, 6),)),
    Appliance("microwave at noon", (0.3, 0.5), 12.6, 0.6, ((1150, 4),)),
    Appliance("microwave in the evening", (0.5, 0.4), 18.9, 1.0, ((1150, 5),)),
    Appliance("hob at noon", (0.15, 0.5), 12.1, 0.5, ((1800, 8), (700, 15))),
    Appliance("hob in the evening", (0.75, 0.7), 18.2, 0.8, ((2400, 8), (900, 20))),
    Appliance("oven", (0.2, 0.4), 18.0, 1.0, ((2400, 11), (700, 35))),
    Appliance("washing machine", (0.35, 0.7), 10.7, 3.0, ((2000, 18), (220, 60), (480, 10))),
    Appliance("dishwasher", (0.6, 0.7), 20.2, 1.1, ((1900, 16), (60, 55), (1900, 14))),
    Appliance("tumble dryer", (0.15, 0.3), 14.5, 2.5, ((2300, 25), (1600, 30))),
    Appliance("television", (0.85, 0.9), 19.7, 0.9, ((110, 160),)),
    Appliance("computer", (0.4, 0.3), 9.6, 1.2, ((130, 250),)),
    Appliance("vacuum cleaner", (0.1, 0.4), 11.0, 2.0, ((850, 20),)),
)
STANDBY_W = 75
# The period is no multiple of a step, so that samples meet each part of it equally often.
FRIDGE_W, FRIDGE_PERIOD_S, FRIDGE_SHARE = 105, 2_887, 0.45
# Lights, screens and other small things, by the hour of the day, in W.
_SMALL_THINGS_W: Hourly = {
    WORKDAY: (
        50, 45, 45, 45, 50, 90, 190, 240, 175, 125, 110, 125,
        150, 140, 120, 125, 175, 275, 350, 390, 375, 310, 200, 100,
    ),
    SATURDAY: (
        90, 60, 50, 45, 45, 50, 90, 150, 210, 225, 210, 210,
        225, 210, 200, 200, 225, 290, 350, 390, 375, 325, 250, 150,
    ),
    SUNDAY: (
        100, 75, 55, 45, 45, 50, 75, 125, 200, 240, 240, 240,
        250, 225, 200, 200, 225, 290, 350, 390, 360, 290, 190, 100,
    ),
}  # fmt: skip


def _households(load: Load) -> Habits:
    """Households of about 3,500 kWh a year each, as many as make up the energy given."""
    count = int(np.clip(round(load.annual_kwh / TYPICAL_HOUSEHOLD_KWH), 1, MOST_HOUSEHOLDS))
    homes = [_one_household(derive(load.seed, "household", number), load.latitude) for number in range(count)]
    return Habits(
        power_w=lambda time: np.sum([home.power_w(time) for home in homes], axis=0),
        daily_ws=lambda calendar: np.sum([home.daily_ws(calendar) for home in homes], axis=0),
    )


def _one_household(seed: int, latitude: float) -> Habits:
    def small_things_w(calendar: Calendar) -> Floats:
        """The scale of each day: more light in winter."""
        return 1 - 0.2 * summer_share(calendar.day_of_year, latitude)

    def power_w(time: LocalTime) -> Floats:
        course = _course(_SMALL_THINGS_W)[time.calendar.kind[time.here], time.second_of_day // _MINUTE_S]
        small = course * small_things_w(time.calendar)[time.here] * _restless(seed, time.seconds, period_s=900, by=0.35)
        used = power_w_at(time.seconds, _appliances(seed, time.calendar, time.midnights))
        found: Floats = (
            STANDBY_W + small + used + FRIDGE_W * _running(seed, time.seconds, FRIDGE_PERIOD_S, FRIDGE_SHARE)
        )
        return found

    def daily_ws(calendar: Calendar) -> Floats:
        always = (STANDBY_W + FRIDGE_W * FRIDGE_SHARE) * DAY_S
        small = _course(_SMALL_THINGS_W).mean(axis=1)[calendar.kind] * small_things_w(calendar) * DAY_S
        found: Floats = (
            always + small + _appliances(seed, calendar, calendar.days * DAY_S).energy_ws() / len(calendar.days)
        )
        return found

    return Habits(power_w, daily_ws)


def _appliances(seed: int, calendar: Calendar, midnights: Ints) -> Runs:
    return together([_uses(derive(seed, each.name), each, calendar, midnights) for each in APPLIANCES])


def _uses(seed: int, appliance: Appliance, calendar: Calendar, midnights: Ints) -> Runs:
    """When an appliance runs on these days. Its own make, and so its power, differs by a tenth from home to home."""
    chance = np.where(calendar.kind == WORKDAY, *appliance.chance)
    used = uniform(derive(seed, "used"), calendar.days) < chance
    days = calendar.days[used]
    hour = np.clip(appliance.hour + appliance.spread_h * normal(derive(seed, "hour"), days), 0, 23.9)
    begin_s = midnights[used] + whole(hour * 3600)
    length = 0.8 + 0.4 * uniform(derive(seed, "length"), days)
    make = 0.9 + 0.2 * one_uniform(seed, "make")
    return after_another(
        begin_s,
        [
            (np.full(len(days), round(power * make), dtype=np.int64), whole(minutes * _MINUTE_S * length))
            for power, minutes in appliance.phases
        ],
    )


# ---------------------------------------------------------------- shops and offices

# Light, ventilation and equipment of a shop by the hour, as a share of what it takes when it is full.
_BUSINESS_SHARE: Hourly = {
    WORKDAY: (
        .22, .22, .22, .22, .22, .28, .45, .75, .90, .95, .97, 1.0,
        1.0, .99, .97, .97, .98, 1.0, 1.0, .96, .85, .55, .32, .24,
    ),
    SATURDAY: (
        .22, .22, .22, .22, .22, .26, .38, .68, .88, .95, .98, 1.0,
        1.0, 1.0, .98, .96, .95, .93, .88, .80, .60, .40, .28, .23,
    ),
    SUNDAY: (
        .22, .22, .22, .22, .22, .22, .22, .23, .25, .26, .26, .26,
        .26, .26, .26, .26, .25, .25, .24, .23, .22, .22, .22, .22,
    ),
}  # fmt: skip
_BUSINESS_W = 60_000
COMPRESSORS, COMPRESSOR_W, COMPRESSOR_PERIOD_S = 10, 3_000, 967


def _business(load: Load) -> Habits:
    """A shop with cooled shelves: opening hours, air conditioning by season, compressors that come and go."""

    def business_w(calendar: Calendar) -> Floats:
        return _BUSINESS_W * (1 + 0.10 * summer_share(calendar.day_of_year, load.latitude))

    def cooling_share(calendar: Calendar) -> Floats:
        """The share of time that a compressor runs."""
        return 0.5 + 0.15 * summer_share(calendar.day_of_year, load.latitude)

    def power_w(time: LocalTime) -> Floats:
        course = _course(_BUSINESS_SHARE)[time.calendar.kind[time.here], time.second_of_day // _MINUTE_S]
        used: Floats = (
            course * business_w(time.calendar)[time.here] * _restless(load.seed, time.seconds, period_s=600, by=0.05)
        )
        share = cooling_share(time.calendar)[time.here]
        for number in range(COMPRESSORS):
            period_s = COMPRESSOR_PERIOD_S + 122 * number
            used += COMPRESSOR_W * _running(derive(load.seed, "compressor", number), time.seconds, period_s, share)
        return used

    def daily_ws(calendar: Calendar) -> Floats:
        opened = _course(_BUSINESS_SHARE).mean(axis=1)[calendar.kind] * business_w(calendar)
        found: Floats = (opened + COMPRESSORS * COMPRESSOR_W * cooling_share(calendar)) * DAY_S
        return found

    return Habits(power_w, daily_ws)


# ---------------------------------------------------------------- both


def _course(hourly: Hourly) -> Floats:
    """From values at the full hours of each sort of day to a table of its minutes."""
    return _minutes(tuple(hourly[kind] for kind in (WORKDAY, SATURDAY, SUNDAY)))


@lru_cache(maxsize=8)
def _minutes(hourly: tuple[tuple[float, ...], ...]) -> Floats:
    minute = np.arange(1440) / 60
    return np.stack([np.interp(minute, np.arange(25), (*values, values[0])) for values in hourly])


def _restless(seed: int, seconds: Ints, *, period_s: int, by: float) -> Floats:
    """A factor that jumps each period and also drifts over hours, with a mean of 1 (log-normal)."""
    jumps = 0.8 * steps(derive(seed, "jumps"), seconds, period_s=period_s)
    drift = 0.6 * smooth(derive(seed, "drift"), seconds, period_s=8 * period_s)
    factor: Floats = np.exp(by * (jumps + drift) - by**2 / 2)
    return factor


def _running(seed: int, seconds: Ints, period_s: int, share: Floats | float) -> Floats:
    """1 while a compressor runs, 0 while it rests; it runs for a share of each period."""
    phase = derive(seed, "compressor phase") % period_s
    running: Floats = ((seconds + phase) % period_s < period_s * share).astype(np.float64)
    return running
