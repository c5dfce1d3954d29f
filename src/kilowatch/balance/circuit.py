"""Which of a site's metrics its balance is made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from kilowatch.balance.model import ROLES, Role
from kilowatch.facility.kinds import KINDS, DeviceKind
from kilowatch.facility.model import InstalledMetric, PlacedMetric
from kilowatch.kit import units
from kilowatch.kit.units import Conversion

_ROLE_OF: dict[DeviceKind, Role] = {
    "pv_array": "pv",
    "wind_turbine": "wind",
    "battery": "battery",
    "grid_meter": "grid",
    "load_meter": "load",
    "ev_charger": "ev_charging",
    "heat_pump": "heating",
}


@dataclass(frozen=True, slots=True)
class Meter:
    """A device's power, and its part in the balance."""

    role: Role
    metric: PlacedMetric
    kw: float
    """What one of the metric's unit is in kW."""


@dataclass(frozen=True, slots=True)
class Charge:
    """A battery's state of charge."""

    metric: PlacedMetric
    percent: Conversion
    capacity_kwh: float | None


@dataclass(frozen=True, slots=True)
class Circuit:
    """The meters of a site, the states of charge of its batteries, and what tells whether each device reports."""

    site_id: int
    meters: tuple[Meter, ...]
    charges: tuple[Charge, ...]
    signs_of_life: tuple[tuple[PlacedMetric, ...], ...]
    """For each device the metrics of which one at least is fresh while it reports."""

    places: dict[Role, list[int]]
    """Where the meters of each role stand; of roles that the site has devices for."""

    @classmethod
    def of(
        cls,
        site_id: int,
        meters: Sequence[Meter] = (),
        charges: Sequence[Charge] = (),
        signs_of_life: Sequence[tuple[PlacedMetric, ...]] = (),
    ) -> "Circuit":
        there = {role: [place for place, meter in enumerate(meters) if meter.role == role] for role in ROLES}
        places = {role: found for role, found in there.items() if found}
        return cls(site_id, tuple(meters), tuple(charges), tuple(signs_of_life), places)

    @property
    def roles(self) -> Sequence[Role]:
        return list(self.places)

    def of_role(self, role: Role) -> list[Meter]:
        return [self.meters[place] for place in self.places[role]]


def circuits(installed: Iterable[InstalledMetric]) -> dict[int, Circuit]:
    """By site, of metrics that come by site and device."""
    return {
        site_id: _circuit(site_id, [list(of_device) for _, of_device in groupby(of_site, _device_id)])
        for site_id, of_site in groupby(installed, lambda one: one.metric.site_id)
    }


def _device_id(one: InstalledMetric) -> int:
    return one.metric.device_id


def _circuit(site_id: int, devices: Sequence[list[InstalledMetric]]) -> Circuit:
    meters = [meter for device in devices if (role := _ROLE_OF.get(device[0].kind)) and (meter := _meter(device, role))]
    if all(meter.role != "pv" for meter in meters):
        # An inverter passes on what its arrays give: it stands for them where they have no meter of their own.
        meters += [meter for device in devices if device[0].kind == "inverter" and (meter := _meter(device, "pv"))]
    charges = [
        charge
        for device in devices
        if device[0].kind == "battery"
        for charge in [_charge(device)]
        if charge is not None
    ]
    signs_of_life = [_signs_of_life([one.metric for one in device]) for device in devices]
    return Circuit.of(site_id, _without_repeated_grid(meters), charges, signs_of_life)


def _meter(device: Sequence[InstalledMetric], role: Role) -> Meter | None:
    metric = _usual(device, "power")
    return None if metric is None else Meter(role, metric, units.conversion(metric.unit, "kW").scale)


def _charge(device: Sequence[InstalledMetric]) -> Charge | None:
    metric = _usual(device, "state_of_charge")
    return None if metric is None else Charge(metric, units.conversion(metric.unit, "%"), device[0].capacity_kwh)


def _usual(device: Sequence[InstalledMetric], quantity: str) -> PlacedMetric | None:
    """The gauge of that quantity with the key that is usual for the kind; or the only one there is."""
    gauges = [one.metric for one in device if one.metric.quantity == quantity and one.metric.behaviour == "gauge"]
    usual = [metric.key for metric in KINDS[device[0].kind].metrics if metric.quantity == quantity]
    by_key = [metric for metric in gauges if metric.key in usual]
    found = by_key or gauges
    return found[0] if len(found) == 1 else None


def _without_repeated_grid(meters: Sequence[Meter]) -> list[Meter]:
    """All simulated grid meters of a site show the whole of its balance: the first of them counts."""
    simulated = [meter for meter in meters if meter.role == "grid" and meter.metric.simulated]
    return [meter for meter in meters if meter not in simulated[1:]]


def _signs_of_life(metrics: Sequence[PlacedMetric]) -> tuple[PlacedMetric, ...]:
    """Those with a `max_gap_s`, as they say themselves when they are late; all of a device that has none."""
    timed = tuple(metric for metric in metrics if metric.max_gap_s is not None)
    return timed or tuple(metrics)
