"""Sites with no hardware behind them: a home, a wind farm, and a supermarket on the other half of the earth."""

from datetime import date
from typing import Any

from kilowatch.facility.kinds import DeviceKind
from kilowatch.facility.schemas import DeviceIn, SiteIn

DAYS = 400
INTERVAL_S = 300

HOME = SiteIn(
    name="Munich home",
    slug="munich-home",
    timezone="Europe/Berlin",
    latitude=48.14,
    longitude=11.58,
    country="DE",
    currency="EUR",
    notes="Simulated: a house with PV, a battery, a heat pump and an electric car.",
)
WIND_FARM = SiteIn(
    name="North Sea wind farm",
    slug="north-sea-wind-farm",
    timezone="Europe/Copenhagen",
    latitude=55.55,
    longitude=8.1,
    country="DK",
    currency="DKK",
    notes="Simulated: four turbines at the Danish coast.",
)
SUPERMARKET = SiteIn(
    name="Melbourne supermarket",
    slug="melbourne-supermarket",
    timezone="Australia/Melbourne",
    latitude=-37.81,
    longitude=144.96,
    country="AU",
    currency="AUD",
    notes="Simulated: a shop with PV on its roof, and chargers in its car park.",
)


def sites(commissioned_on: date) -> tuple[tuple[SiteIn, tuple[DeviceIn, ...]], ...]:
    """The sites, with devices that have been there since that day."""

    def device(name: str, kind: DeviceKind, **properties: Any) -> DeviceIn:
        return DeviceIn.model_validate(
            {
                "name": name,
                "slug": name.lower().replace(" ", "-"),
                "kind": kind,
                "source": "simulated",
                "interval_s": INTERVAL_S,
                "commissioned_on": commissioned_on.isoformat(),
                "properties": properties,
            }
        )

    turbines = (
        device(f"Turbine {number}", "wind_turbine", rated_kw=3600, hub_height_m=100, rated_ms=13)
        for number in range(1, 5)
    )
    chargers = (device(f"Charger {number}", "ev_charger", max_charge_kw=22, connectors=2) for number in range(1, 4))
    return (
        (
            HOME,
            (
                device("Roof", "pv_array", peak_kw=9.8, tilt_deg=32, azimuth_deg=170),
                device("Battery", "battery", capacity_kwh=10, max_charge_kw=5, max_discharge_kw=5),
                device("House load", "load_meter", annual_kwh=3800),
                device("Heat pump", "heat_pump", rated_kw=3),
                device("Car charger", "ev_charger", max_charge_kw=11),
                device("Grid meter", "grid_meter", connection_kw=22),
                device("Weather", "weather_station"),
            ),
        ),
        (
            WIND_FARM,
            (
                *turbines,
                device("Mast", "weather_station", height_m=60),
                device("Grid meter", "grid_meter", connection_kw=15_000),
            ),
        ),
        (
            SUPERMARKET,
            (
                device("Roof", "pv_array", peak_kw=180, tilt_deg=10, azimuth_deg=0),
                device("Inverter", "inverter", rated_kw=150),
                device("Shop", "load_meter", profile="commercial", annual_kwh=620_000),
                *chargers,
                device("Grid meter", "grid_meter", connection_kw=350),
            ),
        ),
    )
