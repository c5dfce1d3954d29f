"""What a device's counters show when it is made though it has been there for years: about what it will have counted."""

from collections.abc import Mapping
from typing import Any

from kilowatch.simulation.devices import DEFAULTS

_KWH = 3_600_000_000  # in mW·s

# kWh a year, rather too much than too little, so that a counter of the past is not below 0
_PV_PER_PEAK_KW = 2200.0
_WIND_PER_RATED_KW = 5500.0
_CHARGER_PER_KW = 400.0
_HEAT_PUMP_PER_RATED_KW = 2000.0
_BATTERY_CYCLES = 450.0
_GRID_PER_CONNECTION_KW = 700.0
_YEAR_S = 365.25 * 86_400


def counted_before(kind: str, properties: Mapping[str, Any], seconds: float) -> dict[str, str]:
    """Milliwatt-seconds by channel that a device of that age shows. Any number would be as right: differences count."""
    years = max(seconds, 0.0) / _YEAR_S
    return {channel: str(round(kwh * years) * _KWH) for channel, kwh in _a_year(kind, properties).items()}


def _a_year(kind: str, properties: Mapping[str, Any]) -> dict[str, float]:
    given = {**DEFAULTS.get(kind, {}), **{name: value for name, value in properties.items() if value is not None}}
    match kind:
        case "pv_array":
            return {"energy": given["peak_kw"] * _PV_PER_PEAK_KW}
        case "inverter":
            return {"energy": (given.get("rated_kw") or DEFAULTS["pv_array"]["peak_kw"]) * _PV_PER_PEAK_KW}
        case "wind_turbine":
            return {"energy": given["rated_kw"] * _WIND_PER_RATED_KW}
        case "load_meter":
            return {"energy": given["annual_kwh"] * 1.02}
        case "ev_charger":
            return {"energy": given["max_charge_kw"] * given["connectors"] * _CHARGER_PER_KW}
        case "heat_pump":
            return {"energy": given["rated_kw"] * _HEAT_PUMP_PER_RATED_KW}
        case "battery":
            through = given["capacity_kwh"] * _BATTERY_CYCLES
            return {"energy_charged": through, "energy_discharged": through * given["round_trip_efficiency"]}
        case "grid_meter":
            through = given["connection_kw"] * _GRID_PER_CONNECTION_KW
            return {"energy_imported": through, "energy_exported": through}
    return {}
