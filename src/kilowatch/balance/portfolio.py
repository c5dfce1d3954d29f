"""Decides which of a caller's sites are shown, in which order, with what each of them does now."""

from collections.abc import Callable
from typing import Literal, get_args

import msgspec
from sqlalchemy import Connection

from kilowatch.auth.model import Principal
from kilowatch.auth.service import Caller, Gate
from kilowatch.balance.model import Flow, Health, Power
from kilowatch.balance.service import Balances
from kilowatch.facility import service as facility
from kilowatch.facility.model import Site

Order = Literal["name", "production", "consumption", "stale"]
ORDERS: tuple[Order, ...] = get_args(Order)


class SiteNow(msgspec.Struct, frozen=True):
    """A site with what it does now; without devices it does nothing."""

    site: Site
    flow: Flow | None
    health: Health


class Overview(msgspec.Struct, frozen=True):
    """A page of sites. `countries` are those of all that the caller may see."""

    items: list[SiteNow]
    found: int
    page: int
    pages: int
    countries: list[str]


class Portfolio:
    """All sites of a caller at once.

    They are ordered by values of this moment, so all that fit are looked at for each page: out of memory, some tens of
    microseconds a site.
    """

    def __init__(self, gate: Gate, balances: Balances) -> None:
        self._gate = gate
        self._balances = balances

    def overview(
        self,
        caller: Caller,
        *,
        words: str | None = None,
        country: str | None = None,
        only_stale: bool = False,
        order: Order = "name",
        page: int = 1,
        size: int = 50,
    ) -> Overview:
        """The sites that fit, by `order`: the largest power first, or those with the most stale devices.

        Args:
            page: from 1 on; beyond the last it is the last.
        """
        every = self._gate.seeing(caller, _sites, words).found
        countries = sorted({site.country for site in every if site.country})
        sites = [site for site in every if not country or site.country == country]
        live = self._balances.flows(caller, [site.id for site in sites])
        nothing = (None, Health(0, 0))
        rows = [SiteNow(site, *live.get(site.id, nothing)) for site in sites]
        rows = [row for row in rows if row.health.stale or not only_stale]
        rows.sort(key=lambda row: (row.site.name.casefold(), row.site.id))
        rows.sort(key=_RANKS[order])  # which keeps the names' order among equals
        pages = max(1, -(-len(rows) // size))
        page = min(page, pages)
        return Overview(rows[(page - 1) * size : page * size], len(rows), page, pages, countries)


def _sites(connection: Connection, who: Principal, words: str | None) -> list[Site]:
    return facility.visible_sites(connection, who, words=words)


def _largest(power: Callable[[Flow], Power | None]) -> Callable[[SiteNow], float]:
    """The largest first; sites that have none come last."""

    def rank(row: SiteNow) -> float:
        found = None if row.flow is None else power(row.flow)
        return float("inf") if found is None or found.kw is None else -found.kw

    return rank


_RANKS: dict[Order, Callable[[SiteNow], float]] = {
    "name": lambda _: 0.0,
    "production": _largest(lambda flow: flow.production),
    "consumption": _largest(lambda flow: flow.consumption),
    "stale": lambda row: -row.health.stale,
}
