"""Decides which of a caller's sites are shown, in which order, with what each of them does now."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

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

    Ordered by values of this moment, all that fit are looked at for each page: out of memory, some tens of microseconds
    a site.
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
        sites.sort(key=lambda site: (site.name.casefold(), site.id))
        if order == "name" and not only_stale:
            chosen = _Slice.of(len(sites), page, size)
            rows = self._now(caller, sites[chosen.items])
        else:
            found = [row for row in self._now(caller, sites) if row.health.stale or not only_stale]
            found.sort(key=_RANKS[order])  # which keeps the names' order among equals
            chosen = _Slice.of(len(found), page, size)
            rows = found[chosen.items]
        return Overview(rows, chosen.found, chosen.page, chosen.pages, countries)

    def _now(self, caller: Caller, sites: Sequence[Site]) -> list[SiteNow]:
        live = self._balances.flows(caller, [site.id for site in sites])
        nothing = (None, Health(0, 0))
        return [SiteNow(site, *live.get(site.id, nothing)) for site in sites]


class _Slice(NamedTuple):
    """Which part of so many is on a page."""

    items: slice
    found: int
    page: int
    pages: int

    @classmethod
    def of(cls, count: int, page: int, size: int) -> "_Slice":
        pages = max(1, -(-count // size))
        page = min(page, pages)
        return cls(slice((page - 1) * size, page * size), count, page, pages)


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
