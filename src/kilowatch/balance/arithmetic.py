"""The rules of a balance, for numbers and for columns of them alike. No history, no clock, no HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kilowatch.balance.model import SOURCES, USES, Link, Node, Role
from kilowatch.history.model import Floats

N = TypeVar("N", float, Floats)

_LEAST_KW = 0.0005
"""Links below half a watt are not told."""
_LEAST_KWH = 1e-6
"""Less is the rounding of sums: no share is told of it."""


@dataclass(frozen=True, slots=True)
class Sums(Generic[N]):
    """What follows from the powers of a site's roles; `None` where it can't be told."""

    production: N | None
    consumption: N | None
    grid: N | None
    other: N | None
    grid_is_computed: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether what comes is what goes."""
        return self.other is not None or self.grid_is_computed


def balanced(known: Mapping[Role, N], roles: Sequence[Role]) -> Sums[N]:
    """The balance of a site.

    Consumption is production, grid and battery together, where there is a grid meter; what is not measured of it is
    other use. Where there is none, consumption is the sum of the measured uses, and the grid gives what they lack.
    Nothing is made of production or a battery that is there but tells nothing.

    Args:
        known: the powers (or energies) of those roles that tell any, with their signs.
        roles: all that the site has devices for.
    """
    production = _sum(known, SOURCES)
    uses = _sum(known, USES)
    inner = _sum(known, (*SOURCES, "battery"))
    if any(role in roles and role not in known for role in (*SOURCES, "battery")):
        return Sums(production, uses, known.get("grid"), None)
    if "grid" in known:
        consumption = known["grid"] if inner is None else known["grid"] + inner
        return Sums(production, consumption, known["grid"], consumption if uses is None else consumption - uses)
    if uses is None:
        return Sums(production, None, None, None)
    return Sums(production, uses, uses if inner is None else uses - inner, None, grid_is_computed=True)


def _sum(known: Mapping[Role, N], roles: Sequence[Role]) -> N | None:
    total: N | None = None
    for role in roles:
        if role in known:
            total = known[role] if total is None else total + known[role]
    return total


def links(*, pv: float, wind: float, battery: float, grid: float, consumption: float) -> list[Link]:
    """How the powers of a site flow, in kW: production serves consumption, then the batteries, then the grid.

    What is discharged serves consumption, then the grid; what is imported serves the consumption that is left, then the
    batteries. What arrays or turbines use themselves (a production below 0) is left out.
    """
    pv, wind, consumption = max(pv, 0.0), max(wind, 0.0), max(consumption, 0.0)
    needs: dict[Node, float] = {
        "consumption": consumption,
        "battery": max(-battery, 0.0),
        "grid": max(-grid, 0.0),
    }
    found: list[Link] = []

    def serve(kw: float, to: Sequence[Node], shares: Mapping[Node, float]) -> None:
        for node in to:
            served = min(kw, needs[node])
            kw, needs[node] = kw - served, needs[node] - served
            found.extend(Link(source, node, served * share) for source, share in shares.items())

    production = pv + wind
    if production > 0:
        serve(production, ("consumption", "battery", "grid"), {"pv": pv / production, "wind": wind / production})
    serve(max(battery, 0.0), ("consumption", "grid"), {"battery": 1.0})
    serve(max(grid, 0.0), ("consumption", "battery"), {"grid": 1.0})
    return [link for link in found if link.kw >= _LEAST_KW]


def self_consumption(*, production: float, exported: float) -> float | None:
    """The share of production that was not exported, 0 to 1; more may be exported, out of batteries."""
    return None if production < _LEAST_KWH else min(max(1 - exported / production, 0.0), 1.0)


def autarky(*, consumption: float, imported: float) -> float | None:
    """The share of consumption that was not imported, 0 to 1; more may be imported, into batteries."""
    return None if consumption < _LEAST_KWH else min(max(1 - imported / consumption, 0.0), 1.0)
