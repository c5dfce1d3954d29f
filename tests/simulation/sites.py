"""Places and devices that the tests of the simulation share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kilowatch.simulation.noise import Floats, Ints
from kilowatch.simulation.plant import Place, SimulatedDevice, State, simulate

MUNICH = Place(seed=7, latitude=48.14, longitude=11.58, timezone="Europe/Berlin", country="DE")
MELBOURNE = Place(seed=8, latitude=-37.81, longitude=144.96, timezone="Australia/Melbourne", country="AU")
ESBJERG = Place(seed=9, latitude=55.47, longitude=8.45, timezone="Europe/Copenhagen", country="DK")
TROMSO = Place(seed=10, latitude=69.65, longitude=18.96, timezone="Europe/Oslo", country="NO")
SUVA = Place(seed=11, latitude=-18.14, longitude=178.44, timezone="Pacific/Fiji", country="FJ")

DAY_MS = 86_400_000
KINDS: dict[str, dict[str, Any]] = {
    "load_meter": {"annual_kwh": 4000},
    "pv_array": {"peak_kw": 9.8, "tilt_deg": 30, "azimuth_deg": 180},
    "battery": {"capacity_kwh": 8.0, "max_charge_kw": 4.0, "max_discharge_kw": 4.5, "round_trip_efficiency": 0.9},
    "grid_meter": {"connection_kw": 17.0, "phases": 3},
    "inverter": {"rated_kw": 8.0, "efficiency": 0.97},
    "ev_charger": {"max_charge_kw": 11, "connectors": 1},
    "heat_pump": {"rated_kw": 3.0, "coefficient_of_performance": 3.5},
    "weather_station": {"height_m": 10},
    "wind_turbine": {"rated_kw": 5, "hub_height_m": 18, "cut_in_ms": 2.5, "rated_ms": 11, "cut_out_ms": 20},
}


def ms(text: str) -> int:
    """A time in UTC, as milliseconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def a_device(
    kind: str, *, number: int = 1, place: Place = MUNICH, counts: bool = True, seed: int | None = None, **given: Any
) -> SimulatedDevice:
    return SimulatedDevice(number, kind, {**KINDS[kind], **given}, number if seed is None else seed, place, counts)


def one_of_each(place: Place = MUNICH) -> list[SimulatedDevice]:
    return [a_device(kind, number=number, place=place) for number, kind in enumerate(KINDS, start=1)]


def run(
    devices: Sequence[SimulatedDevice], begin: str, *, days: float, step_s: int = 300, state: State | None = None
) -> dict[tuple[int, str], Floats]:
    """From a time in UTC on, for some days."""
    begin_ms = ms(begin)
    end_ms = begin_ms + int(days * DAY_MS)
    return simulate(devices, begin_ms=begin_ms, end_ms=end_ms, step_s=step_s, state=state or {})[0]


def instants(begin: str, *, days: float, step_s: int = 300) -> Ints:
    """In seconds since 1970."""
    first = ms(begin) // 1000
    return np.arange(first, first + int(days * 86_400), step_s, dtype=np.int64)


def watts(kilowatts: Floats) -> Ints:
    return np.rint(kilowatts * 1000).astype(np.int64)


def milliwatts(kilowatts: Floats) -> Ints:
    """What a battery, and with it the grid connection, is rounded to where it meets its limit."""
    return np.rint(kilowatts * 1e6).astype(np.int64)


def autocorrelation(values: Floats, *, lag: int) -> float:
    return float(np.corrcoef(values[:-lag], values[lag:])[0, 1])
