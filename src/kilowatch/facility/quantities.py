"""What a metric can measure: each quantity with its usual unit, and how its readings usually behave."""

from dataclasses import dataclass
from typing import Literal

from kilowatch.kit import units

Behaviour = Literal["gauge", "counter"]
GAUGE_MAX_GAP_S = 900
GENERIC = "generic"
"""The quantity of what no other says, in any unit."""


@dataclass(frozen=True, slots=True)
class Quantity:
    key: str
    unit: str
    behaviour: Behaviour = "gauge"


_ALL = (
    Quantity("power", "kW"),
    Quantity("reactive_power", "kvar"),
    Quantity("apparent_power", "kVA"),
    Quantity("power_factor", "dimensionless"),
    Quantity("energy", "kWh", "counter"),
    Quantity("state_of_charge", "%"),
    Quantity("state_of_health", "%"),
    Quantity("voltage", "V"),
    Quantity("current", "A"),
    Quantity("frequency", "Hz"),
    Quantity("irradiance", "W/m²"),
    Quantity("temperature", "°C"),
    Quantity("humidity", "%"),
    Quantity("pressure", "hPa"),
    Quantity("wind_speed", "m/s"),
    Quantity("wind_direction", "deg"),
    Quantity("rotational_speed", "rpm"),
    Quantity("angle", "deg"),
    Quantity("volume", "m³", "counter"),
    Quantity("volume_flow", "m³/h"),
    Quantity("mass", "kg"),
    Quantity("duration", "s"),
    Quantity("dimensionless", "dimensionless"),
    Quantity(GENERIC, "dimensionless"),
)
QUANTITIES = {quantity.key: quantity for quantity in _ALL}


def fits(unit: str, quantity: str) -> bool:
    """Whether a known unit measures a quantity."""
    return quantity == GENERIC or units.compatible(unit, QUANTITIES[quantity].unit)


def quantity_measured_in(unit: str) -> str:
    """The quantity that a known unit tells: power for W, but `generic` for %, which may be one of several."""
    if unit == "dimensionless":
        return unit
    told = [quantity.key for quantity in _ALL if units.same_but_for_prefix(unit, quantity.unit)] or [
        quantity.key for quantity in _ALL if units.compatible(unit, quantity.unit)
    ]
    return told[0] if len(told) == 1 else GENERIC
