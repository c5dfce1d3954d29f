#!/usr/bin/env python3
"""Draw the plots of docs/simulation.md: one simulated week of each kind of device.

    PYTHONPATH=src .venv/bin/python scripts/plot_simulation.py [FOLDER]

Writes simulated-week-<kind>.png to docs/images, or to the folder given. Needs the packages for developing.
"""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from kilowatch.simulation.plant import Place, SimulatedDevice, clear_sky_power_kw, simulate

STEP_S = 300
WEEK_MS = 7 * 86_400_000
WARM_UP_MS = 14 * 86_400_000
"""Batteries and temperatures have found their course by the week that is shown."""
BLUE, ORANGE, GREY, GREEN = "#1f6fb2", "#d9822b", "#8a8f98", "#3c8d40"

MUNICH = Place(seed=7, latitude=48.14, longitude=11.58, timezone="Europe/Berlin", country="DE")
MELBOURNE = Place(seed=8, latitude=-37.81, longitude=144.96, timezone="Australia/Melbourne", country="AU")
ESBJERG = Place(seed=9, latitude=55.47, longitude=8.45, timezone="Europe/Copenhagen", country="DK")

Values = dict[tuple[int, str], np.ndarray]


class Week:
    """A site's devices in one week of local time; values by kind and key."""

    def __init__(self, place: Place, monday: str, kinds: dict[str, dict[str, Any]]) -> None:
        self.devices = [
            SimulatedDevice(number, kind, properties, 40 + number, place)
            for number, (kind, properties) in enumerate(kinds.items(), start=1)
        ]
        self.zone = ZoneInfo(place.timezone)
        begin_ms = int(datetime.fromisoformat(monday).replace(tzinfo=self.zone).timestamp() * 1000)
        _, state = self._simulated(begin_ms - WARM_UP_MS, begin_ms, {})
        self.values, _ = self._simulated(begin_ms, begin_ms + WEEK_MS, state)
        self.seconds = np.arange(begin_ms // 1000, (begin_ms + WEEK_MS) // 1000, STEP_S, dtype=np.int64)
        self.times = self.seconds / 86_400  # as matplotlib counts them: days since 1970, in UTC

    def _simulated(self, begin_ms: int, end_ms: int, state: dict[str, Any]) -> tuple[Values, dict[str, Any]]:
        return simulate(self.devices, begin_ms=begin_ms, end_ms=end_ms, step_s=STEP_S, state=state)

    def device(self, kind: str) -> SimulatedDevice:
        return next(one for one in self.devices if one.kind == kind)

    def __getitem__(self, channel: tuple[str, str]) -> np.ndarray:
        kind, key = channel
        return self.values[self.device(kind).id, key]


def draw(
    folder: Path, week: Week, kind: str, *, title: str, panels: list[tuple[str, Callable[[Axes, Week], None]]]
) -> None:
    heights = [2.0 if number == 0 else 1.0 for number in range(len(panels))]
    figure, axes = plt.subplots(
        len(panels), sharex=True, squeeze=False, figsize=(9, 1.5 + 1.05 * sum(heights)), height_ratios=heights
    )
    for axis, (label, panel) in zip(axes[:, 0], panels, strict=True):
        panel(axis, week)
        axis.set_ylabel(label)
        axis.grid(visible=True, color="#e3e5e8", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, ncols=4, frameon=False)
    axes[0, 0].set_title(title, loc="left", fontsize=11)
    axes[-1, 0].set_xlim(week.times[0], week.times[-1])
    axes[-1, 0].xaxis.set_major_locator(mdates.DayLocator(tz=week.zone))
    axes[-1, 0].xaxis.set_major_formatter(mdates.DateFormatter("%a %-d %b", tz=week.zone))
    figure.tight_layout()
    # a palette of 64 colours: line drawings lose nothing, and a third of the size stays
    path = folder / f"simulated-week-{kind}.png"
    figure.savefig(path, dpi=90)
    plt.close(figure)
    _reduce(path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _reduce(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(64)
    reduced.save(path, optimize=True)


def line(
    kind: str, key: str, *, colour: str = BLUE, label: str | None = None, fill: bool = False
) -> Callable[[Axes, Week], None]:
    def panel(axis: Axes, week: Week) -> None:
        axis.plot(week.times, week[kind, key], color=colour, linewidth=0.9, label=label, drawstyle="steps-post")
        if fill:
            axis.fill_between(week.times, week[kind, key], color=colour, alpha=0.2, step="post", linewidth=0)

    return panel


def both(*panels: Callable[[Axes, Week], None]) -> Callable[[Axes, Week], None]:
    def panel(axis: Axes, week: Week) -> None:
        for one in panels:
            one(axis, week)

    return panel


def clear_sky(axis: Axes, week: Week) -> None:
    bound = clear_sky_power_kw(week.devices, week.device("pv_array"), week.seconds)
    axis.plot(week.times, bound, color=GREY, linewidth=0.8, linestyle="--", label="clear sky")


def main(folder: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": "#6b7078", "axes.axisbelow": True})
    home: dict[str, dict[str, Any]] = {
        "load_meter": {"annual_kwh": 4200},
        "pv_array": {"peak_kw": 9.8, "tilt_deg": 30, "azimuth_deg": 180},
        "battery": {"capacity_kwh": 10, "max_charge_kw": 5, "max_discharge_kw": 5, "round_trip_efficiency": 0.9},
        "grid_meter": {"connection_kw": 17},
        "inverter": {"rated_kw": 8, "efficiency": 0.97},
    }
    april = Week(MUNICH, "2025-04-14", home)
    draw(folder, april, "pv_array", title="PV array: 9.8 kWp, 30° south, Munich; inverter 8 kW",
         panels=[("kW", both(clear_sky,
                             line("pv_array", "power", colour=ORANGE, label="power", fill=True)))])  # fmt: skip
    draw(folder, april, "inverter", title="Inverter: 8 kW, Munich",
         panels=[("kW", line("inverter", "power", colour=ORANGE, fill=True)),
                 ("°C", line("inverter", "temperature"))])  # fmt: skip
    draw(folder, april, "load_meter", title="Load: a household of 4,200 kWh a year, Munich",
         panels=[("kW", line("load_meter", "power", fill=True))])  # fmt: skip
    october = Week(MUNICH, "2025-10-13", home)
    draw(folder, october, "battery", title="Battery: 10 kWh, 5 kW, Munich (positive: discharging)",
         panels=[("kW", line("battery", "power", colour=GREEN, fill=True)),
                 ("%", line("battery", "state_of_charge")), ("°C", line("battery", "temperature"))])  # fmt: skip
    draw(folder, october, "grid_meter", title="Grid meter: that home with PV and battery, Munich (positive: import)",
         panels=[("kW", both(line("grid_meter", "power", fill=True))),
                 ("V", line("grid_meter", "voltage")), ("Hz", line("grid_meter", "frequency"))])  # fmt: skip

    winter = Week(MUNICH, "2025-01-13", {"heat_pump": {"rated_kw": 3}, "weather_station": {"height_m": 10}})
    draw(folder, winter, "heat_pump", title="Heat pump: 3 kW electrical, Munich",
         panels=[("kW", line("heat_pump", "power", fill=True)),
                 ("°C", both(line("heat_pump", "flow_temperature", colour=ORANGE, label="flow"),
                             line("weather_station", "temperature", label="outdoors")))])  # fmt: skip

    spring = Week(MUNICH, "2025-04-14", {"weather_station": {"height_m": 10}})
    draw(folder, spring, "weather_station", title="Weather station, Munich",
         panels=[("W/m²", line("weather_station", "irradiance", colour=ORANGE, fill=True)),
                 ("°C", line("weather_station", "temperature")),
                 ("m/s", line("weather_station", "wind_speed", colour=GREEN))])  # fmt: skip

    farm = Week(ESBJERG, "2025-01-13", {"wind_turbine": {"rated_kw": 3600, "hub_height_m": 90}})
    draw(folder, farm, "wind_turbine", title="Wind turbine: 3.6 MW, hub at 90 m, Danish coast",
         panels=[("kW", line("wind_turbine", "power", fill=True)),
                 ("m/s", line("wind_turbine", "wind_speed", colour=GREEN))])  # fmt: skip

    shop = Week(MELBOURNE, "2025-11-10", {
        "load_meter": {"profile": "commercial", "annual_kwh": 650_000},
        "ev_charger": {"max_charge_kw": 22, "connectors": 4},
    })  # fmt: skip
    draw(folder, shop, "ev_charger", title="EV charger: 4 × 22 kW at a supermarket, Melbourne",
         panels=[("kW", line("ev_charger", "power", colour=GREEN, fill=True))])  # fmt: skip
    draw(folder, shop, "load_meter-commercial", title="Load: a supermarket of 650 MWh a year, Melbourne",
         panels=[("kW", line("load_meter", "power", fill=True))])  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "images")
