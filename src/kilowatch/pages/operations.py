"""How the installation is doing, for administrators."""

from fastapi import APIRouter, Request, Response

from kilowatch.kit.web import InThread
from kilowatch.operations.model import Overview
from kilowatch.operations.routes import overview_of
from kilowatch.pages.rendering import render
from kilowatch.pages.visitors import SignedIn
from kilowatch.pages.words import N_

router = APIRouter(route_class=InThread)

_ENGINES = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "chdb": N_("ClickHouse in this process (chDB)"),
    "clickhouse": N_("ClickHouse server"),
}
_LITTLE_FREE = 0.1
_QUIET_S = 120
"""A simulation that was not done for so long stands still."""


@router.get("/admin")
async def show_overview(request: Request, who: SignedIn) -> Response:
    overview = await overview_of(request, who.credential)
    return render(
        request, "admin.html", overview=overview, engines=_ENGINES, warnings=_warnings(overview), quiet_s=_QUIET_S
    )


def _warnings(overview: Overview) -> list[str]:
    """What somebody should look at, before it is translated."""
    disk, amounts, simulation = overview.disk, overview.amounts, overview.simulation
    told = {
        N_("The catalogue's database does not answer."): not overview.database.answers,
        N_("The history does not answer: readings are neither stored nor shown."): not overview.history.answers,
        N_("The disk is nearly full."): disk is not None and disk.free_bytes < _LITTLE_FREE * disk.total_bytes,
        N_("As many streams are open as are allowed."): overview.streams.open >= overview.streams.most,
        N_("Some webhooks are not taken and are sent again."): amounts is not None and amounts.webhooks.retrying > 0,
        N_("Some webhooks are switched off."): amounts is not None and amounts.webhooks.disabled > 0,
        N_("Simulated devices stand still."): not simulation.running or simulation.problem is not None,
    }
    return [text for text, holds in told.items() if holds]
