"""The kinds of device: what can be said of each (its properties), and what each usually measures.

Signs: grid power is positive on import, battery power on discharge; production and consumption are positive.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from kilowatch.facility.quantities import GAUGE_MAX_GAP_S, QUANTITIES, Behaviour
from kilowatch.kit.text import Number, Whole, number_only

DeviceKind = Literal[
    "battery",
    "inverter",
    "pv_array",
    "wind_turbine",
    "grid_meter",
    "load_meter",
    "ev_charger",
    "heat_pump",
    "weather_station",
    "generic",
]

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), BeforeValidator(number_only)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(number_only)]


class Properties(BaseModel):
    """Properties of a kind of device; those that are `None` by default are not known until they are given."""

    model_config = ConfigDict(extra="forbid")


class BatteryProperties(Properties):
    capacity_kwh: Positive | None = Field(None, description="Usable energy between 0 and 100 % state of charge.")
    max_charge_kw: Positive | None = None
    max_discharge_kw: Positive | None = None
    round_trip_efficiency: Share = Field(0.9, description="Energy out for energy in, over a full cycle.")


class InverterProperties(Properties):
    rated_kw: Positive | None = Field(None, description="Largest power on the AC side.")
    efficiency: Share = 0.97


class PvArrayProperties(Properties):
    peak_kw: Positive | None = Field(None, description="Power under standard test conditions.")
    tilt_deg: Number = Field(30, ge=0, le=90, allow_inf_nan=False, description="0 lies flat, 90 stands upright.")
    azimuth_deg: Number = Field(180, ge=0, lt=360, allow_inf_nan=False, description="0 north, 90 east, 180 south.")


class WindTurbineProperties(Properties):
    rated_kw: Positive | None = None
    hub_height_m: Positive = 80
    cut_in_ms: Positive = Field(3, description="Wind speed at which it starts, in m/s.")
    rated_ms: Positive = Field(12, description="Wind speed from which it gives its rated power, in m/s.")
    cut_out_ms: Positive = Field(25, description="Wind speed at which it stops, in m/s.")

    @model_validator(mode="after")
    def _speeds_rise(self) -> "WindTurbineProperties":
        if not self.cut_in_ms < self.rated_ms < self.cut_out_ms:
            raise ValueError("cut_in_ms, rated_ms and cut_out_ms must rise in this order")
        return self


class GridMeterProperties(Properties):
    connection_kw: Positive | None = Field(None, description="Largest power of the grid connection.")
    phases: Annotated[Literal[1, 3], BeforeValidator(number_only)] = 3


class LoadMeterProperties(Properties):
    profile: Literal["household", "commercial"] = "household"
    annual_kwh: Positive = 3500


class EvChargerProperties(Properties):
    max_charge_kw: Positive = 11
    connectors: Whole = Field(1, ge=1, le=100)


class HeatPumpProperties(Properties):
    rated_kw: Positive | None = Field(None, description="Largest electrical power.")
    coefficient_of_performance: Number = Field(3.5, gt=1, le=10, allow_inf_nan=False)


class WeatherStationProperties(Properties):
    height_m: Positive = Field(10, description="Height of the wind sensor over ground.")


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def _scalar(value: object) -> object:
    match value:
        case None | bool():
            return value
        case int() if abs(value) <= 2**53:
            return value
        case float() if math.isfinite(value):
            return value
        case str() if len(value) <= 1000 and not _UNPRINTABLE.search(value):
            return value
    raise ValueError(
        "Input should be a text of up to 1000 printable characters, a finite number (whole ones up to 2^53), "
        "true, false or null"
    )


Scalar = Annotated[
    Any, AfterValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean", "null"], "maxLength": 1000})
]


class GenericProperties(BaseModel):
    """Names of the owner's choice, with texts, numbers or truth values."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar]

    @model_validator(mode="before")
    @classmethod
    def _names_are_printable(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if not 1 <= len(name) <= 100 or _UNPRINTABLE.search(name):
                raise ValueError("names of properties have 1 to 100 characters and no control characters")
        return given


class UsualMetric(msgspec.Struct, frozen=True):
    """A metric that devices of a kind get unless others are named."""

    key: str
    name: str
    quantity: str
    unit: str
    behaviour: Behaviour
    max_gap_s: int | None
    valid_min: float | None
    valid_max: float | None


def _metric(
    key: str,
    quantity: str,
    name: str | None = None,
    *,
    valid_min: float | None = None,
    valid_max: float | None = None,
) -> UsualMetric:
    usual = QUANTITIES[quantity]
    max_gap_s = GAUGE_MAX_GAP_S if usual.behaviour == "gauge" else None
    name = name or key.replace("_", " ").capitalize()
    return UsualMetric(key, name, quantity, usual.unit, usual.behaviour, max_gap_s, valid_min, valid_max)


@dataclass(frozen=True, slots=True)
class Kind:
    key: DeviceKind
    name: str
    properties: type[BaseModel]
    metrics: tuple[UsualMetric, ...] = field(default=())

    @property
    def can_be_simulated(self) -> bool:
        """Whether it is known what it does; what a `generic` device does, nobody knows."""
        return bool(self.metrics)


_SOC = _metric("state_of_charge", "state_of_charge", valid_min=0, valid_max=100)

_ALL = (
    Kind(
        "battery",
        "Battery",
        BatteryProperties,
        (
            _metric("power", "power", "Power, positive on discharge"),
            _SOC,
            _metric("temperature", "temperature"),
            _metric("energy_charged", "energy"),
            _metric("energy_discharged", "energy"),
        ),
    ),
    Kind(
        "inverter",
        "Inverter",
        InverterProperties,
        (_metric("power", "power", "Output power"), _metric("energy", "energy"), _metric("temperature", "temperature")),
    ),
    Kind("pv_array", "PV array", PvArrayProperties, (_metric("power", "power"), _metric("energy", "energy"))),
    Kind(
        "wind_turbine",
        "Wind turbine",
        WindTurbineProperties,
        (_metric("power", "power"), _metric("wind_speed", "wind_speed", valid_min=0), _metric("energy", "energy")),
    ),
    Kind(
        "grid_meter",
        "Grid meter",
        GridMeterProperties,
        (
            _metric("power", "power", "Power, positive on import"),
            _metric("energy_imported", "energy"),
            _metric("energy_exported", "energy"),
            _metric("voltage", "voltage"),
            _metric("frequency", "frequency"),
        ),
    ),
    Kind("load_meter", "Load meter", LoadMeterProperties, (_metric("power", "power"), _metric("energy", "energy"))),
    Kind("ev_charger", "EV charger", EvChargerProperties, (_metric("power", "power"), _metric("energy", "energy"))),
    Kind(
        "heat_pump",
        "Heat pump",
        HeatPumpProperties,
        (
            _metric("power", "power", "Electrical power"),
            _metric("energy", "energy"),
            _metric("flow_temperature", "temperature"),
        ),
    ),
    Kind(
        "weather_station",
        "Weather station",
        WeatherStationProperties,
        (
            _metric("irradiance", "irradiance", "Global horizontal irradiance"),
            _metric("temperature", "temperature", "Air temperature"),
            _metric("wind_speed", "wind_speed", valid_min=0),
        ),
    ),
    Kind("generic", "Other device", GenericProperties),
)
KINDS: dict[str, Kind] = {kind.key: kind for kind in _ALL}
