"""A site's simulated devices together: what each of them measures in a window, and what they carry on from it.

A sample's power holds until the next sample. Powers are whole watts and counters whole watt-seconds, so that the
balance of a site and the integrals of its powers are exact; they are reported in kW and kWh.

A device that counts takes part in its site's balance. A spectator sees that balance, but nobody notices it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kilowatch.simulation import charging, consumption, grid, heating, photovoltaics, storage, turbine
from kilowatch.simulation.almanac import LocalTime
from kilowatch.simulation.devices import CHANNELS, DEFAULTS, Channel, SimulatedDevice, setting
from kilowatch.simulation.noise import Floats, Ints
from kilowatch.simulation.place import Place
from kilowatch.simulation.roofs import Roofs
from kilowatch.simulation.sky import Weather

__all__ = ["CHANNELS", "Channel", "Place", "SimulatedDevice", "State", "clear_sky_power_kw", "simulate"]

STEPS_S = (60, 300, 900)
_KWH_MWS = 3.6e9
_BATTERY_ROOM_C = 20.0

State = dict[str, Any]
"""JSON-able: what each device carries on, keyed by the text of its number."""
Samples = dict[tuple[int, str], Floats]
"""Values by device number and channel key."""


def simulate(
    devices: Sequence[SimulatedDevice], *, begin_ms: int, end_ms: int, step_s: int, state: State
) -> tuple[Samples, State]:
    """The samples of one site's devices from `begin_ms` on, before `end_ms`, and their state at `end_ms`.

    Both are multiples of the step since 1970. A device that `state` does not know starts anew: its counters from 0,
    a battery half full; what is known of devices that are not there is handed on. To simulate a window in parts,
    handing the state on, gives the same values as at once.

    Raises:
        ValueError: the window is not on the grid of the step, or the devices are not at one place.
    """
    _check(devices, begin_ms, end_ms, step_s)
    known = {number: dict(carried) for number, carried in state.items()}
    if begin_ms >= end_ms or not devices:
        return {(one.id, each.key): np.empty(0) for one in devices for each in CHANNELS[one.kind]}, known
    seconds = np.arange(begin_ms // 1000, end_ms // 1000, step_s, dtype=np.int64)
    samples = _Site(devices, seconds, step_s, known).samples()
    return samples, known


def clear_sky_power_kw(devices: Sequence[SimulatedDevice], array: SimulatedDevice, seconds: Ints) -> Floats:
    """The most that a PV array can give at each instant: without a cloud, and with the inverters for itself."""
    return _Site(devices, seconds, STEPS_S[0], {}).roofs.clear_sky_bound_w(array) / 1000


def _check(devices: Sequence[SimulatedDevice], begin_ms: int, end_ms: int, step_s: int) -> None:
    if step_s not in STEPS_S:
        raise ValueError(f"step_s is {step_s}; it must be one of {STEPS_S}")
    if begin_ms % (step_s * 1000) or end_ms % (step_s * 1000):
        raise ValueError(f"begin_ms {begin_ms} and end_ms {end_ms} must be multiples of the step of {step_s} s")
    if len({one.place for one in devices}) > 1:
        raise ValueError("devices: all of them must be at one place")


class _Site:
    """One window of one site; the state is brought forward as the samples are made."""

    def __init__(self, devices: Sequence[SimulatedDevice], seconds: Ints, step_s: int, state: State) -> None:
        self.devices = sorted(devices, key=lambda one: one.id)
        self.seconds = seconds
        self.step_s = step_s
        self.state = state
        place = self.devices[0].place
        self.place = place
        self.weather = Weather(place, seconds)
        self.time = LocalTime(seconds, timezone=place.timezone, country=place.country)
        self._makers: dict[str, Callable[[SimulatedDevice], Samples]] = {
            "battery": self._battery,
            "inverter": self._inverter,
            "pv_array": self._pv_array,
            "wind_turbine": self._wind_turbine,
            "grid_meter": self._grid_meter,
            "load_meter": self._load_meter,
            "ev_charger": self._ev_charger,
            "heat_pump": self._heat_pump,
            "weather_station": self._weather_station,
        }

    def samples(self) -> Samples:
        made: Samples = {}
        for device in self.devices:
            if device.kind in self._makers:
                made |= self._makers[device.kind](device)
        return made

    # ------------------------------------------------------------ the devices together

    def _counting(self, *kinds: str) -> list[SimulatedDevice]:
        return [one for one in self.devices if one.counts and one.kind in kinds]

    def _sum(self, powers: Iterable[Ints]) -> Ints:
        return sum(powers, np.zeros(len(self.seconds), dtype=np.int64))

    @cached_property
    def before_storage_w(self) -> Ints:
        """What the site lacks (negative: has left over) before its batteries do anything."""
        used = self._sum(self.source_w(one) for one in self._counting("load_meter", "ev_charger", "heat_pump"))
        return used - self._sum(self.source_w(one) for one in self._counting("wind_turbine")) - self.roofs.power_w

    @cached_property
    def dispatches(self) -> dict[int, storage.Dispatch]:
        """Of the batteries that count, one after the other: each sees what those before it left."""
        missing, found = self.before_storage_w, {}
        for one in self._counting("battery"):
            found[one.id] = self._dispatch(one, missing)
            missing = missing - np.fix(found[one.id].power_mw / 1000).astype(np.int64)
        return found

    @cached_property
    def balance_mw(self) -> Ints:
        """Power at the grid connection, positive on import."""
        return self.before_storage_w * 1000 - self._sum(each.power_mw for each in self.dispatches.values())

    def source_w(self, device: SimulatedDevice) -> Ints:
        """What a device gives or takes that minds no other."""
        if device.id not in self._sources:
            self._sources[device.id] = self._new_source_w(device)
        return self._sources[device.id]

    @cached_property
    def _sources(self) -> dict[int, Ints]:
        return {}

    def _new_source_w(self, device: SimulatedDevice) -> Ints:
        match device.kind:
            case "load_meter":
                return self._load_w(device)
            case "ev_charger":
                return self._charging_w(device)
            case "heat_pump":
                return self._heating(device).power_w
            case "wind_turbine":
                return self._turbine_w(device)
        raise AssertionError(device.kind)

    # ------------------------------------------------------------ consumption

    def _load_w(self, device: SimulatedDevice) -> Ints:
        load = consumption.Load(
            setting(device, "profile"), setting(device, "annual_kwh"), self.place.latitude, device.seed
        )
        return consumption.load_w(load, self.time)

    def _charging_w(self, device: SimulatedDevice) -> Ints:
        at_a_shop = any(setting(one, "profile") == "commercial" for one in self._counting("load_meter"))
        charger = charging.Charger(
            setting(device, "max_charge_kw"), setting(device, "connectors"), device.seed, at_a_shop
        )
        return charging.charging_w(charger, self.time)

    def _heating(self, device: SimulatedDevice) -> heating.Operation:
        if device.id not in self._operations:
            self._operations[device.id] = self._new_operation(device)
        return self._operations[device.id]

    @cached_property
    def _operations(self) -> dict[int, heating.Operation]:
        return {}

    def _new_operation(self, device: SimulatedDevice) -> heating.Operation:
        pump = heating.HeatPump(setting(device, "rated_kw"), setting(device, "coefficient_of_performance"), device.seed)
        return heating.operation(pump, self.weather, self.time)

    def _load_meter(self, device: SimulatedDevice) -> Samples:
        return self._power_and_energy(device, self.source_w(device))

    def _ev_charger(self, device: SimulatedDevice) -> Samples:
        return self._power_and_energy(device, self.source_w(device))

    def _heat_pump(self, device: SimulatedDevice) -> Samples:
        target = self._heating(device).flow_target_c
        flow = np.round(self._lagging(device, "flow_temperature", target, minutes=12), 1)
        return {**self._power_and_energy(device, self.source_w(device)), (device.id, "flow_temperature"): flow}

    # ------------------------------------------------------------ sun

    @cached_property
    def roofs(self) -> Roofs:
        return Roofs(self.devices, self.weather)

    def _pv_array(self, device: SimulatedDevice) -> Samples:
        return self._power_and_energy(device, self.roofs.array_w(device))

    def _inverter(self, device: SimulatedDevice) -> Samples:
        power = self.roofs.inverter_w(device)
        target = photovoltaics.inverter_target_c(power, self.weather, rated_kw=self.roofs.rating_kw(device))
        warmth = np.round(self._lagging(device, "temperature", target, minutes=20), 1)
        return {**self._power_and_energy(device, power), (device.id, "temperature"): warmth}

    # ------------------------------------------------------------ wind

    def _turbine_of(self, device: SimulatedDevice) -> turbine.Turbine:
        return turbine.Turbine(*(float(setting(device, name)) for name in DEFAULTS["wind_turbine"]))

    def _wind_at(self, device: SimulatedDevice) -> Floats:
        return turbine.wind_at_hub(self._turbine_of(device), self.weather, seed=device.seed)

    def _turbine_w(self, device: SimulatedDevice) -> Ints:
        model, wind = self._turbine_of(device), self._wind_at(device)
        carried = self._carried(device)
        stopped = turbine.stopped_by_storm(model, wind, stopped_before=bool(carried.get("stopped", False)))
        carried["stopped"] = bool(stopped[-1])
        density = turbine.air_density(self.weather, height_m=model.hub_height_m)
        return np.where(stopped, 0, turbine.curve_w(model, wind, density))

    def _wind_turbine(self, device: SimulatedDevice) -> Samples:
        made = self._power_and_energy(device, self.source_w(device))
        return {**made, (device.id, "wind_speed"): self._wind_at(device)}

    def _weather_station(self, device: SimulatedDevice) -> Samples:
        irradiance = np.zeros(len(self.seconds))
        irradiance[self.weather.day] = np.round(self.weather.actual.ghi, 1)
        return {
            (device.id, "irradiance"): irradiance,
            (device.id, "temperature"): self.weather.temperature_c,
            (device.id, "wind_speed"): np.round(self.weather.wind_at(setting(device, "height_m")), 2),
        }

    # ------------------------------------------------------------ storage and grid

    def _battery_of(self, device: SimulatedDevice) -> storage.Battery:
        capacity_kwh = float(setting(device, "capacity_kwh"))
        return storage.Battery(
            capacity_kwh,
            float(device.properties.get("max_charge_kw") or capacity_kwh / 2),
            float(device.properties.get("max_discharge_kw") or capacity_kwh / 2),
            setting(device, "round_trip_efficiency"),
        )

    def _dispatch(self, device: SimulatedDevice, missing_w: Ints) -> storage.Dispatch:
        battery, carried = self._battery_of(device), self._carried(device)
        stored = int(carried.get("stored", battery.capacity // 2))
        found = storage.dispatch(battery, missing_w, stored=stored, step_s=self.step_s)
        carried["stored"] = str(found.stored_at_end)
        return found

    def _battery(self, device: SimulatedDevice) -> Samples:
        battery = self._battery_of(device)
        found = (
            self.dispatches[device.id]
            if device.counts
            else self._dispatch(device, np.fix(self.balance_mw / 1000).astype(np.int64))
        )
        load = found.power_mw / (1e6 * max(battery.max_charge_kw, battery.max_discharge_kw))
        warmth = self._lagging(device, "temperature", _BATTERY_ROOM_C + 2 + 12 * load**2, minutes=90)
        return {
            (device.id, "power"): found.power_mw / 1e6,
            (device.id, "state_of_charge"): found.stored / battery.capacity * 100,
            (device.id, "temperature"): np.round(warmth, 1),
            (device.id, "energy_charged"): self._counted(device, "energy_charged", np.maximum(-found.power_mw, 0)),
            (device.id, "energy_discharged"): self._counted(device, "energy_discharged", np.maximum(found.power_mw, 0)),
        }

    def _grid_meter(self, device: SimulatedDevice) -> Samples:
        """Several meters at a site show the same balance, each of them the whole."""
        balance, connection_kw = self.balance_mw, setting(device, "connection_kw")
        voltage = grid.voltage_v(
            self.place, self.seconds, balance / 1000, seed=self.place.seed, connection_kw=float(connection_kw)
        )
        return {
            (device.id, "power"): balance / 1e6,
            (device.id, "energy_imported"): self._counted(device, "energy_imported", np.maximum(balance, 0)),
            (device.id, "energy_exported"): self._counted(device, "energy_exported", np.maximum(-balance, 0)),
            (device.id, "voltage"): voltage,
            (device.id, "frequency"): grid.frequency_hz(self.place, self.seconds),
        }

    # ------------------------------------------------------------ what is carried on

    def _carried(self, device: SimulatedDevice) -> dict[str, Any]:
        carried: dict[str, Any] = self.state.setdefault(str(device.id), {})
        return carried

    def _power_and_energy(self, device: SimulatedDevice, power_w: Ints) -> Samples:
        return {
            (device.id, "power"): power_w / 1000,
            (device.id, "energy"): self._counted(device, "energy", power_w * 1000),
        }

    def _counted(self, device: SimulatedDevice, key: str, power_mw: Ints) -> Floats:
        """A counter in kWh; in the state in whole milliwatt-seconds."""
        carried = self._carried(device)
        before = int(carried.get(key, 0))
        passed = np.cumsum(power_mw, dtype=storage.number_type(int(power_mw.max()) * len(power_mw)))
        after = before + int(passed[-1]) * self.step_s
        # as a text: many readers of JSON keep 53 bits of a number, or refuse one of more than 64
        carried[key] = str(after)
        number = storage.number_type(after)
        counted = before + np.concatenate([[0], passed[:-1]]).astype(number) * self.step_s
        return counted.astype(np.float64) / _KWH_MWS

    def _lagging(self, device: SimulatedDevice, key: str, target: Floats, *, minutes: float) -> Floats:
        """What follows a target with a time constant; it begins on it."""
        from scipy.signal import lfilter

        carried = self._carried(device)
        keep = float(np.exp(-self.step_s / (60 * minutes)))
        course, after = lfilter([0, 1 - keep], [1, -keep], target, zi=[carried.get(key, float(target[0]))])
        carried[key] = float(after[0])
        following: Floats = course
        return following
