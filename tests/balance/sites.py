"""Sites with devices of each kind, and what is sent for them."""

from typing import Any

from tests.conftest import World

HOME = ("pv_array", "battery", "grid_meter", "load_meter", "ev_charger", "heat_pump")
MIDNIGHT = "2026-01-05T00:00:00+01:00"
"""Of the tests' day (`START`), at North in Berlin."""


class Site:
    """A site of a world's administrator, whose devices are named by their kinds."""

    def __init__(self, world: World, *kinds: str, site_id: int | None = None) -> None:
        self.world = world
        self.id = site_id or world.north
        self.devices: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: str, name: str | None = None, **fields: Any) -> dict[str, Any]:
        device = self.world.device(self.id, kind=kind, name=name or kind, **({"metrics": None} | fields))
        self.devices[name or kind] = device
        return device

    def metric(self, name: str, key: str = "power") -> int:
        return next(int(metric["id"]) for metric in self.devices[name]["metrics"] if metric["key"] == key)

    def read(self, time: str, **values: float) -> None:
        """The power of devices at a time, in their own unit; `battery__state_of_charge` is another metric's."""
        for name, value in values.items():
            device, _, key = name.partition("__")
            self.world.send(self.metric(device, key or "power"), (time, value))

    def flow(self) -> dict[str, Any]:
        answer = self.world.admin.get(f"/sites/{self.id}/flow")
        assert answer.status_code == 200, answer.text
        flow: dict[str, Any] = answer.json()
        return flow

    def balance(self, **query: str) -> dict[str, Any]:
        answer = self.world.admin.get(f"/sites/{self.id}/balance", **query)
        assert answer.status_code == 200, answer.text
        balance: dict[str, Any] = answer.json()
        return balance


def links(flow: dict[str, Any]) -> dict[str, float]:
    return {f"{link['from']} to {link['to']}": round(link["kw"], 9) for link in flow["links"]}


def kwh(energies: dict[str, Any]) -> dict[str, float]:
    """Of those that the site has."""
    return {name: energy["kwh"] for name, energy in energies.items() if energy is not None}
