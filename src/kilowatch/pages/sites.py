"""The sites, and each of them: what it does now, its day, its devices."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from kilowatch.balance.model import Balance, Flow
from kilowatch.balance.portfolio import ORDERS, Order
from kilowatch.balance.routes import BalanceService, PortfolioService
from kilowatch.facility.kinds import KINDS
from kilowatch.facility.model import Device
from kilowatch.facility.routes import CatalogueService
from kilowatch.history.model import LatestReading
from kilowatch.history.routes import HistoryService
from kilowatch.kit.paging import page_request
from kilowatch.kit.web import CatalogueLane, Cursor, HistoryLane, RecordId, SearchText
from kilowatch.pages.drawings import NARROW, WIDE, day_drawing, flow_drawing, map_drawing
from kilowatch.pages.forms import KIND_NAMES
from kilowatch.pages.rendering import render
from kilowatch.pages.visitors import SignedIn
from kilowatch.pages.words import N_

router = APIRouter()

_ROWS = 50
_STREAMED = 100
"""Metrics whose readings make a page look again; of a site with more, it does so often enough."""
_DRAWN_AT_ONCE = 60
"""Meters whose day is read while the page waits; of a site with more it comes a moment later."""
_ORDER_NAMES: dict[Order, str] = {
    "name": N_("name"),
    "production": N_("production"),
    "consumption": N_("consumption"),
    "stale": N_("stale devices first"),
}
Kinds = Annotated[str, Query(max_length=30)]
Country = Annotated[str, Query(max_length=2)]
Flag = Annotated[str, Query(max_length=5)]
OrderName = Annotated[str, Query(max_length=20)]
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@router.get("/sites")
async def list_sites(
    request: Request,
    portfolio: PortfolioService,
    lane: HistoryLane,
    who: SignedIn,
    q: SearchText = None,
    country: Country = "",
    stale: Flag = "",
    order: OrderName = "name",
    page: PageNumber = 1,
) -> Response:
    return await _sites(request, portfolio, lane, who, "sites.html", q, country, stale, order, page)


@router.get("/sites/cards")
async def show_cards(
    request: Request,
    portfolio: PortfolioService,
    lane: HistoryLane,
    who: SignedIn,
    q: SearchText = None,
    country: Country = "",
    stale: Flag = "",
    order: OrderName = "name",
    page: PageNumber = 1,
) -> Response:
    """The part of the page that changes by itself."""
    return await _sites(request, portfolio, lane, who, "site-cards.html", q, country, stale, order, page)


async def _sites(
    request: Request,
    portfolio: PortfolioService,
    lane: HistoryLane,
    who: SignedIn,
    template: str,
    q: str | None,
    country: str,
    stale: str,
    order: str,
    page: int,
) -> Response:
    chosen: Order = next((known for known in ORDERS if known == order), "name")

    def show() -> Response:
        overview = portfolio.overview(
            who.credential, words=q, country=country, only_stale=stale == "on", order=chosen, page=page, size=_ROWS
        )
        asked = {"q": q or "", "country": country, "stale": "on" if stale == "on" else "", "order": chosen}
        return render(
            request,
            template,
            overview=overview,
            map=map_drawing([item.site for item in overview.items]),
            asked=asked,
            is_filtered=bool(q or country or stale == "on"),
            orders=_ORDER_NAMES,
        )

    return await lane.run(show)


@router.get("/sites/{site_id}")
async def show_site(
    request: Request,
    catalogue: CatalogueService,
    histories: HistoryService,
    balances: BalanceService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    site_id: RecordId,
    q: SearchText = None,
    kind: Kinds = "",
    cursor: Cursor = None,
) -> Response:
    def read() -> tuple[Flow, list[tuple[Device, list[LatestReading]]], str | None, dict[str, Any]]:
        devices = catalogue.list_devices(
            who.credential, site_id, page_request(_ROWS, cursor), kind=kind if kind in KINDS else None, words=q
        )
        by_device = histories.latest_of_devices(who.credential, [device.id for device in devices.items])
        rows = [(device, by_device.get(device.id, [])) for device in devices.items]
        flow = balances.flow(who.credential, site_id)
        is_small = len(flow.metric_ids) <= _DRAWN_AT_ONCE
        day = _day(*balances.recent(who.credential, site_id)) if flow.has_parts and is_small else {}
        return flow, rows, devices.next, day

    flow, rows, following, day = await history_lane.run(read)

    def show() -> Response:
        return render(
            request,
            "site.html",
            site=catalogue.get_site(who.credential, site_id),
            rows=rows,
            following=following,
            q=q or "",
            kind=kind if kind in KINDS else "",
            kind_names=KIND_NAMES,
            may_change=who.me.may_change(site_id),
            streamed=flow.metric_ids[:_STREAMED],
            **_now(flow),
            is_day_here=bool(day),
            **day,
        )

    return await lane.run(show)


@router.get("/sites/{site_id}/now")
async def show_now(
    request: Request,
    catalogue: CatalogueService,
    balances: BalanceService,
    history_lane: HistoryLane,
    who: SignedIn,
    site_id: RecordId,
) -> Response:
    """The part of a site's page that changes with its readings."""

    def show() -> Response:
        flow = balances.flow(who.credential, site_id)
        return render(request, "site-now.html", site=catalogue.get_site(who.credential, site_id), **_now(flow))

    return await history_lane.run(show)


@router.get("/sites/{site_id}/today")
async def show_today(
    request: Request,
    catalogue: CatalogueService,
    balances: BalanceService,
    history_lane: HistoryLane,
    who: SignedIn,
    site_id: RecordId,
) -> Response:
    """The part of a site's page that tells its day."""

    def show() -> Response:
        recent = balances.recent(who.credential, site_id)
        return render(request, "site-today.html", site=catalogue.get_site(who.credential, site_id), **_day(*recent))

    return await history_lane.run(show)


def _now(flow: Flow) -> dict[str, Any]:
    return {"flow": flow, "drawing": flow_drawing(flow)}


def _day(today: Balance, day: Balance) -> dict[str, Any]:
    assert day.series is not None  # it is asked with a resolution
    drawings = [drawing for box in (WIDE, NARROW) if (drawing := day_drawing(day.series, day.end, box))]
    return {"today": today, "drawings_of_day": drawings}
