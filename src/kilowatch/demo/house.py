"""The real house: its devices, and which column of the measurements each metric is."""

import csv
import gzip
import io
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec

from kilowatch.facility.schemas import DeviceIn, MetricIn, SiteIn

SLUG = "battery-house"
FIRST_DAY, AFTER_LAST_DAY = "2025-06-01T00:00:00+01:00", "2025-06-11T00:00:00+01:00"
_MAX_GAP_S = 1200  # the portal samples every 5 minutes and often leaves out two

SITE = SiteIn(
    name="Battery house",
    slug=SLUG,
    timezone="Europe/London",
    latitude=52.5,
    longitude=-1.5,
    country="GB",
    currency="GBP",
    notes="A house in England with PV, a battery and a grid connection; ten days of June 2025 as its inverter's portal "
    "exported them. The position is the middle of England, not the house's.",
)


def _gauge(key: str, quantity: str, unit: str, name: str, **more: Any) -> MetricIn:
    return MetricIn(key=key, quantity=quantity, unit=unit, name=name, max_gap_s=_MAX_GAP_S, **more)


def _counter(key: str, name: str) -> MetricIn:
    return MetricIn(key=key, quantity="energy", unit="kWh", name=name, behaviour="counter")


DEVICES: tuple[tuple[DeviceIn, tuple[str, ...]], ...] = (
    (
        DeviceIn(
            name="Roof",
            slug="roof",
            kind="pv_array",
            metrics=[
                _gauge("power", "power", "W", "Power"),
                _counter("today_energy", "Energy today"),
                _counter("total_energy", "Energy in total"),
            ],
        ),
        ("pv_w", "today_pv_kwh", "total_pv_kwh"),
    ),
    (
        DeviceIn(
            name="Battery",
            slug="battery",
            kind="battery",
            metrics=[
                _gauge("power", "power", "W", "Power, positive on discharge"),
                _gauge("state_of_charge", "state_of_charge", "%", "State of charge", valid_min=0, valid_max=100),
                _gauge("temperature", "temperature", "°C", "Temperature"),
                _counter("today_energy_charged", "Energy charged today"),
                _counter("today_energy_discharged", "Energy discharged today"),
            ],
        ),
        ("battery_discharge_pos_w", "soc_pct", "battery_temp_c", "today_charge_kwh", "today_discharge_kwh"),
    ),
    (
        DeviceIn(
            name="Grid meter",
            slug="grid-meter",
            kind="grid_meter",
            properties={"phases": 1},
            metrics=[
                _gauge("power", "power", "W", "Power, positive on import"),
                _gauge("voltage", "voltage", "V", "Voltage"),
                _gauge("frequency", "frequency", "Hz", "Frequency"),
                _counter("today_energy_imported", "Energy imported today"),
                _counter("today_energy_exported", "Energy exported today"),
                _counter("total_energy_imported", "Energy imported in total"),
                _counter("total_energy_exported", "Energy exported in total"),
            ],
        ),
        (
            "grid_import_pos_w",
            "grid_v",
            "grid_hz",
            "today_import_kwh",
            "today_export_kwh",
            "total_import_kwh",
            "total_export_kwh",
        ),
    ),
    (
        DeviceIn(
            name="House load",
            slug="house-load",
            kind="load_meter",
            metrics=[_gauge("power", "power", "W", "Power"), _counter("total_energy", "Energy in total")],
        ),
        ("load_w", "total_load_kwh"),
    ),
    (
        DeviceIn(
            name="Inverter",
            slug="inverter",
            kind="inverter",
            metrics=[_gauge("power", "power", "W", "Output power")],
        ),
        ("inverter_w",),
    ),
)
"""Each device, and the columns of the measurements in the order of its metrics."""


def read_measurements() -> list[dict[str, str]]:
    """The rows of the measurements, as texts."""
    packed = (files("kilowatch.demo") / "data" / "battery_house_2025-06.csv.gz").read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))


def ingest_bodies(rows: list[dict[str, str]]) -> Iterator[tuple[str, bytes]]:
    """For each metric its name, and its readings as the body of a `POST /api/v1/readings`."""
    timestamps = [row["ts"] for row in rows]
    for device, columns in DEVICES:
        for metric, column in zip(device.metrics or (), columns, strict=True):
            name = f"{SLUG}/{device.slug}/{metric.key}"
            series = {"metric": name, "timestamps": timestamps, "values": [float(row[column]) for row in rows]}
            yield name, msgspec.json.encode({"series": [series]})
