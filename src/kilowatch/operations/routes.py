"""HTTP for how the installation is doing."""

import asyncio
import platform
import time
from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter, Request, Response

import kilowatch
from kilowatch.auth.routes import Who
from kilowatch.auth.service import Caller
from kilowatch.errors import Unavailable
from kilowatch.kit.chores import Chore
from kilowatch.kit.lanes import Lane
from kilowatch.kit.openapi import operation
from kilowatch.kit.web import answer
from kilowatch.live.streams import Streams
from kilowatch.operations.model import Engine, Overview, SimulationKept, StoreHealth, StreamsOpen
from kilowatch.operations.service import Operations

router = APIRouter(prefix="/api/v1")
T = TypeVar("T")

_WITHIN_S = 3.0
"""How long each part is waited for; all of them are asked at once."""

_STORE = {"engine": "sqlite", "answers": True, "ms": 0.4, "version": "3.50.4", "problem": None}
_OVERVIEW = {
    "at": "2026-01-05T12:00:00Z",
    "version": "0.1.0",
    "python": "3.13.9",
    "started_at": "2026-01-01T08:00:00Z",
    "database": _STORE,
    "history": {"engine": "chdb", "answers": False, "ms": 3000.0, "version": None, "problem": "It took too long."},
    "amounts": {
        "people": {"users": 5, "administrators": 1, "grants": 8, "api_keys": 3, "browsers": 2},
        "facility": {"sites": 3, "devices": 42, "simulated_devices": 12, "metrics": 180},
        "subscriptions": 4,
        "webhooks": {"active": 1, "retrying": 0, "disabled": 0, "pending": 0, "failing_since": None},
    },
    "disk": {"data_bytes": 52_428_800, "free_bytes": 10_737_418_240, "total_bytes": 107_374_182_400},
    "streams": {"open": 3, "users": 2, "most": 1000, "most_per_user": 20},
    "simulation": {"running": True, "last_done_s": 0.6, "problem": None},
    "posts_webhooks": True,
}


@router.get(
    "/operations",
    tags=["Health"],
    summary="How the installation is doing",
    **operation(Overview, 401, 403, example=_OVERVIEW),
)
async def show_operations(request: Request, who: Who) -> Response:
    """For administrators. A store that does not answer within 3 s is told of as such, and keeps nothing else back."""
    return answer(await overview_of(request, who))


async def overview_of(request: Request, caller: Caller) -> Overview:
    """Raises `Forbidden` for everyone but administrators."""
    state = request.app.state
    operations: Operations = state.operations
    lane: Lane = state.operations_lane
    await state.catalogue_lane.run(operations.allow, caller)
    database, history, amounts, disk = await asyncio.gather(
        _health(lane, operations.database_engine, operations.ask_database),
        _health(lane, operations.history_engine, operations.ask_history),
        _known(lane, operations.amounts),
        _known(lane, operations.disk),
    )
    return Overview(
        at=operations.now(),
        version=kilowatch.__version__,
        python=platform.python_version(),
        started_at=operations.started_at,
        database=database,
        history=history,
        amounts=amounts,
        disk=disk,
        streams=_streams_open(state.streams),
        simulation=_simulation_kept(state.keeper),
        posts_webhooks=operations.posts_webhooks,
    )


async def _health(lane: Lane, engine: Engine, ask: Callable[[], str]) -> StoreHealth:
    began = time.perf_counter()
    version, problem = None, None
    try:
        version = await lane.run_within(_WITHIN_S, ask)
    except Unavailable as error:
        problem = error.detail
    ms = round((time.perf_counter() - began) * 1000, 1)
    return StoreHealth(engine, answers=problem is None, ms=ms, version=version, problem=problem)


async def _known(lane: Lane, ask: Callable[[], T]) -> T | None:
    try:
        return await lane.run_within(_WITHIN_S, ask)
    except (Unavailable, OSError):
        return None


def _streams_open(streams: Streams) -> StreamsOpen:
    count, users = streams.open_now()
    return StreamsOpen(count, users, streams.limits.streams, streams.limits.per_user)


def _simulation_kept(keeper: Chore) -> SimulationKept:
    return SimulationKept(keeper.is_running, keeper.last_done_s(), keeper.problem)
