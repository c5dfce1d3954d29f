"""What is simulated: devices, what each kind can measure, and what is taken where their properties say nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kilowatch.simulation.place import Place


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """`properties` are those of its kind in the catalogue; what is `None` or left out is chosen by `DEFAULTS`."""

    id: int
    kind: str
    properties: Mapping[str, Any]
    seed: int
    place: Place
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Channel:
    """What a kind of device can measure."""

    key: str
    quantity: str
    unit: str
    behaviour: Literal["gauge", "counter"] = "gauge"


_POWER = Channel("power", "power", "kW")
_ENERGY = Channel("energy", "energy", "kWh", "counter")
_TEMPERATURE = Channel("temperature", "temperature", "°C")
_WIND = Channel("wind_speed", "wind_speed", "m/s")

CHANNELS: dict[str, tuple[Channel, ...]] = {
    "battery": (
        _POWER,
        Channel("state_of_charge", "state_of_charge", "%"),
        _TEMPERATURE,
        Channel("energy_charged", "energy", "kWh", "counter"),
        Channel("energy_discharged", "energy", "kWh", "counter"),
    ),
    "inverter": (_POWER, _ENERGY, _TEMPERATURE),
    "pv_array": (_POWER, _ENERGY),
    "wind_turbine": (_POWER, _WIND, _ENERGY),
    "grid_meter": (
        _POWER,
        Channel("energy_imported", "energy", "kWh", "counter"),
        Channel("energy_exported", "energy", "kWh", "counter"),
        Channel("voltage", "voltage", "V"),
        Channel("frequency", "frequency", "Hz"),
    ),
    "load_meter": (_POWER, _ENERGY),
    "ev_charger": (_POWER, _ENERGY),
    "heat_pump": (_POWER, _ENERGY, Channel("flow_temperature", "temperature", "°C")),
    "weather_station": (Channel("irradiance", "irradiance", "W/m²"), _TEMPERATURE, _WIND),
    "generic": (),
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "battery": {"capacity_kwh": 10.0, "round_trip_efficiency": 0.9},  # its power: half its capacity in an hour
    "inverter": {"efficiency": 0.97},  # its rating: what the arrays' peak power asks for, shared
    "pv_array": {"peak_kw": 5.0, "tilt_deg": 30.0, "azimuth_deg": 180.0},
    "wind_turbine": {"rated_kw": 2000.0, "hub_height_m": 80.0, "cut_in_ms": 3.0, "rated_ms": 12.0, "cut_out_ms": 25.0},
    "grid_meter": {"connection_kw": 17.0},
    "load_meter": {"profile": "household", "annual_kwh": 3500.0},
    "ev_charger": {"max_charge_kw": 11.0, "connectors": 1},
    "heat_pump": {"rated_kw": 3.0, "coefficient_of_performance": 3.5},
    "weather_station": {"height_m": 10.0},
}
"""Of what a device's properties don't say."""


def setting(device: SimulatedDevice, name: str) -> Any:
    given = device.properties.get(name)
    return DEFAULTS[device.kind][name] if given is None else given


def peak_w(array: SimulatedDevice) -> float:
    return float(setting(array, "peak_kw")) * 1000
