"""HTTP for the energy flow and the balance of a site."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from kilowatch.auth.routes import Who
from kilowatch.balance.model import Balance, Flow
from kilowatch.balance.portfolio import Portfolio
from kilowatch.balance.service import Balances
from kilowatch.balance.service import Query as BalanceQuestion
from kilowatch.kit.openapi import operation
from kilowatch.kit.timespan import RESOLUTIONS
from kilowatch.kit.web import INSTANT, HistoryLane, RecordId, answer

router = APIRouter(prefix="/api/v1")


async def _balances(request: Request) -> Balances:
    service: Balances = request.app.state.balances
    return service


async def _portfolio(request: Request) -> Portfolio:
    service: Portfolio = request.app.state.portfolio
    return service


BalanceService = Annotated[Balances, Depends(_balances)]
PortfolioService = Annotated[Portfolio, Depends(_portfolio)]


async def _balance_question(
    start: Annotated[
        str | None,
        Query(
            max_length=40,
            description="Begin of the window, RFC 3339 with an offset. Default: midnight before its end.",
            json_schema_extra=INSTANT,
            examples=["2025-06-01T00:00:00+01:00"],
        ),
    ] = None,
    end: Annotated[
        str | None,
        Query(
            max_length=40,
            description="End of the window, not part of it. Default: now.",
            json_schema_extra=INSTANT,
            examples=["2025-06-02T00:00:00+01:00"],
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        Query(
            max_length=10,
            description="Brings `series`: `auto` (the finest that gives at most 500 buckets), or one of "
            + ", ".join(f"`{resolution.name}`" for resolution in RESOLUTIONS)
            + ".",
        ),
    ] = None,
    timezone: Annotated[str | None, Query(max_length=60, description="IANA name. Default: the site's.")] = None,
) -> BalanceQuestion:
    return BalanceQuestion(start, end, resolution, timezone)


def _power(kw: float, *, computed: bool = False, devices: int = 1) -> dict[str, object]:
    return {"kw": kw, "devices": devices, "missing": 0, "stale": False, "computed": computed}


def _energy(kwh: float, *, computed: bool = False) -> dict[str, object]:
    return {"kwh": kwh, "coverage": 1.0, "computed": computed}


_FLOW = {
    "site_id": 1,
    "pv": _power(4.2),
    "wind": None,
    "battery": _power(-1.5),
    "grid": _power(-1.7),
    "load": _power(0.6),
    "ev_charging": None,
    "heating": _power(0.3),
    "production": _power(4.2, computed=True),
    "consumption": _power(1.0, computed=True, devices=3),
    "other": _power(0.1, computed=True, devices=5),
    "state_of_charge": 64.0,
    "links": [
        {"from": "pv", "to": "consumption", "kw": 1.0},
        {"from": "pv", "to": "battery", "kw": 1.5},
        {"from": "pv", "to": "grid", "kw": 1.7},
    ],
    "oldest": "2026-01-05T11:59:00Z",
    "newest": "2026-01-05T12:00:00Z",
    "stale": False,
    "complete": True,
    "metric_ids": [7, 9, 10, 14, 19, 24],
}
_BALANCE = {
    "site_id": 1,
    "start": "2026-01-05T00:00:00+01:00",
    "end": "2026-01-05T13:00:00+01:00",
    "timezone": "Europe/Berlin",
    "sources": {"pv": _energy(10.0), "wind": None, "battery_discharge": _energy(2.0), "import": _energy(3.0)},
    "uses": {
        "load": _energy(5.0),
        "ev_charging": None,
        "heating": _energy(4.0),
        "other": _energy(0.0, computed=True),
        "battery_charge": _energy(4.0),
        "export": _energy(2.0),
    },
    "production": _energy(10.0, computed=True),
    "consumption": _energy(9.0, computed=True),
    "self_consumption": 0.8,
    "autarky": 2 / 3,
    "complete": True,
    "resolution": None,
    "series": None,
}


@router.get(
    "/sites/{site_id}/flow",
    tags=["Balance"],
    summary="Get a site's energy flow now",
    **operation(Flow, 401, 403, 404, 422, example=_FLOW),
)
async def flow(balances: BalanceService, lane: HistoryLane, who: Who, site_id: RecordId) -> Response:
    """The powers of its production, batteries, grid and uses by their latest readings, and how they flow."""
    return answer(await lane.run_quickly(balances.flow, who, site_id))


@router.get(
    "/sites/{site_id}/balance",
    tags=["Balance"],
    summary="Get a site's energy balance",
    **operation(Balance, 401, 403, 404, 422, example=_BALANCE),
)
async def balance(
    balances: BalanceService,
    lane: HistoryLane,
    who: Who,
    site_id: RecordId,
    question: Annotated[BalanceQuestion, Depends(_balance_question)],
) -> Response:
    """Energies by source and use in a half-open window, by default today until now."""
    return await lane.run(lambda: answer(balances.balance(who, site_id, question)))
