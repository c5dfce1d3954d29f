"""A heat pump: driven by the outdoor temperature, with a heating curve, and hot water once a day."""

from dataclasses import dataclass

import numpy as np

from kilowatch.simulation.almanac import LocalTime
from kilowatch.simulation.noise import Floats, Ints, derive, normal, smooth, uniform
from kilowatch.simulation.runs import Runs, power_w_at, whole
from kilowatch.simulation.sky import Weather, climate

HEATING_LIMIT_C = 15.0
"""From this outdoor temperature on the house needs no heat."""
INDOOR_C = 20.0
_RATING_POINT_C = (7.0, 35.0)
"""Air and flow temperature at which the coefficient of performance is given (EN 14511: A7/W35)."""
LEAST_MODULATION = 0.3
"""Below this share of its rated power it switches on and off."""
_CYCLE_S = 40 * 60
_HOT_WATER_C = 52.0
_HOT_WATER_SHARE = 0.8
IDLE_W = 12
"""Of its electronics, while the compressor rests."""


@dataclass(frozen=True, slots=True)
class HeatPump:
    """`rated_kw` is electrical, and what it takes at the design temperature of the place."""

    rated_kw: float
    coefficient_of_performance: float
    seed: int


@dataclass(frozen=True, slots=True)
class Operation:
    """At each instant: electrical power, and the temperature in °C that the flow is heated to, or falls to."""

    power_w: Ints
    flow_target_c: Floats


def operation(pump: HeatPump, weather: Weather, time: LocalTime) -> Operation:
    outdoor_c = weather.temperature_c
    wanted = _wanted_share(pump, outdoor_c, design_c=design_temperature_c(weather.place.latitude))
    wanted = wanted * np.where((time.second_of_day < 5 * 3600) | (time.second_of_day >= 22 * 3600), 0.8, 1.0)
    runs = wanted >= LEAST_MODULATION * _cycle(pump, time)
    share = np.where((wanted > 0) & runs, np.maximum(wanted, LEAST_MODULATION), 0)
    hot_water = power_w_at(time.seconds, _hot_water(pump, time)) > 0
    share = np.where(hot_water, _HOT_WATER_SHARE, share)
    flow_c = np.where(hot_water, _HOT_WATER_C, np.where(share > 0, flow_temperature_c(outdoor_c), INDOOR_C + 2))
    return Operation(whole(pump.rated_kw * 1000 * share) + np.where(share > 0, 0, IDLE_W), flow_c)


def flow_temperature_c(outdoor_c: Floats) -> Floats:
    """The heating curve: 0.75 K more for each K that it is colder outside."""
    return np.clip(INDOOR_C + 4 + 0.75 * (INDOOR_C - outdoor_c - 5), 25, 50)


def coefficient_of_performance(pump: HeatPump, outdoor_c: Floats, flow_c: Floats) -> Floats:
    """Carnot's, times the same quality grade at every temperature as at the rating point; from 1 to 7."""
    air, flow = _RATING_POINT_C
    grade = pump.coefficient_of_performance * (flow - air) / (flow + 273.15)
    return np.clip(grade * (flow_c + 273.15) / np.maximum(flow_c - outdoor_c, 5), 1, 7)


def design_temperature_c(latitude: float) -> float:
    """The coldest that the pump is sized for."""
    mean, seasonal = climate(latitude)
    return min(mean - seasonal - 9, HEATING_LIMIT_C - 10)


def _wanted_share(pump: HeatPump, outdoor_c: Floats, *, design_c: float) -> Floats:
    """Electrical power for the house's heat, as a share of the rated one; what is beyond it is missing."""
    heat = np.maximum(HEATING_LIMIT_C - outdoor_c, 0) / (HEATING_LIMIT_C - design_c)
    at_design = np.array([design_c])
    needed = 1 / coefficient_of_performance(pump, outdoor_c, flow_temperature_c(outdoor_c))
    full = 1 / coefficient_of_performance(pump, at_design, flow_temperature_c(at_design))
    return np.minimum(heat * needed / full, 1)


def _cycle(pump: HeatPump, time: LocalTime) -> Floats:
    """How far each instant is in the pump's on-off cycle, from 0 to 1; a cycle takes half an hour to an hour."""
    wander_s = _CYCLE_S * smooth(derive(pump.seed, "cycle"), time.seconds, period_s=4 * 3600)
    return (time.seconds + wander_s) % _CYCLE_S / _CYCLE_S


def _hot_water(pump: HeatPump, time: LocalTime) -> Runs:
    days = time.days
    begin_s = time.midnights + whole((13.0 + 0.7 * normal(derive(pump.seed, "hot water"), days)) * 3600)
    length_s = whole((30 + 30 * uniform(derive(pump.seed, "hot water length"), days)) * 60)
    return Runs(begin_s, begin_s + length_s, np.ones(len(days), dtype=np.int64))
