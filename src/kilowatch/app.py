"""The web application over the services: routes, what runs beside them, and their description."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.routing import BaseRoute

import kilowatch
from kilowatch.auth.browsers import FORM_TOKEN_HEADER, SESSION_COOKIES
from kilowatch.auth.routes import router as auth_router
from kilowatch.balance.routes import router as balance_router
from kilowatch.config import Settings
from kilowatch.facility.routes import router as facility_router
from kilowatch.history.routes import router as history_router
from kilowatch.ingest.influx import router as influx_router
from kilowatch.ingest.routes import router as ingest_router
from kilowatch.kit import traces
from kilowatch.kit.lanes import Lane, default_lane
from kilowatch.kit.openapi import install_openapi, operation
from kilowatch.kit.requests import RequestLog
from kilowatch.kit.web import BodyLimit, answer, install_errors
from kilowatch.operations.gauges import Gauges
from kilowatch.operations.routes import router as operations_router
from kilowatch.pages.problems import problem_page
from kilowatch.pages.routes import router as pages_router
from kilowatch.services import THREADS, Clock, Kilowatch, utc_now
from kilowatch.subscriptions.routes import router as subscriptions_router
from kilowatch.webhooks.courier import Courier
from kilowatch.webhooks.routes import router as webhooks_router
from kilowatch.webhooks.sender import Sender

_SERVICES = (
    "sign_ins",
    "accounts",
    "catalogue",
    "histories",
    "balances",
    "portfolio",
    "intake",
    "subscriptions",
    "webhooks",
    "operations",
)
_READY_WITHIN_S = 5

_SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"


def create_app(settings: Settings, *, clock: Clock = utc_now, services: Kilowatch | None = None) -> FastAPI:
    """The web application. Raises `Invalid` if the environment asks for traces that can't be made.

    Args:
        services: open ones, which stay open when it stops. By default it opens its own when it starts, and closes them.
    """

    traces.asked_for()  # an error at once, and not from within the server

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        lanes = _lanes(settings)
        for name, lane in lanes.items():
            setattr(app.state, f"{name}_lane", lane)
        with contextlib.nullcontext(services) if services else Kilowatch(settings, clock=clock) as opened:
            for name in _SERVICES:
                setattr(app.state, name, getattr(opened, name))
            app.state.services = opened
            app.state.streams = opened.streams()
            with (
                contextlib.closing(opened.keeper()) as app.state.keeper,
                contextlib.closing(opened.folder()) as app.state.folder,
            ):
                async with _sending(opened, settings, clock), _observed(app, opened, settings, lanes):
                    yield
                    await app.state.streams.close()

    app = FastAPI(
        routes=_routes(),
        title="Kilowatch",
        version=kilowatch.__version__,
        summary="Energy management: sites, devices, and what they measure.",
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `kit.traces` has no query strings in spans
        lifespan=lifespan,
    )
    _install_docs(app)
    app.state.problem_page = problem_page
    install_errors(app)
    install_openapi(app, describe=_describe)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestLog, slow_ms=settings.slow_request_ms)
    return app


@cache
def _routes() -> list[BaseRoute]:
    """Those of all applications in this process, prepared once.

    The framework prepares a route when it is first tried: for an address that none has, all of them within one request.
    """
    all_of_them = APIRouter()
    for router in (  # routes are tried one after another, so what is asked most comes first
        ingest_router,
        history_router,
        influx_router,
        facility_router,
        balance_router,
        subscriptions_router,
        webhooks_router,
        auth_router,
        operations_router,
        _health_router,
        pages_router,
    ):
        all_of_them.include_router(router)
    nowhere = {"type": "http", "method": "GET", "path": "/none-has-this", "root_path": "", "headers": []}
    for route in all_of_them.routes:
        route.matches(nowhere)
    return all_of_them.routes


def _lanes(settings: Settings) -> dict[str, Lane]:
    """The threads that calls run on, by what for."""
    return {
        "endpoint": default_lane(settings.threads),
        "catalogue": Lane(settings.threads),
        "history": Lane(settings.history_threads),
        **{name: Lane(threads) for name, threads in THREADS.items()},
    }


@asynccontextmanager
async def _observed(
    app: FastAPI, services: Kilowatch, settings: Settings, lanes: dict[str, Lane]
) -> AsyncIterator[None]:
    """Spans are sent, and gauges kept, while the application runs and somebody reads them."""
    gauges = Gauges(services.database, services.history, app.state.streams, lanes)
    with traces.sending():
        async with gauges.kept() if settings.metrics_port is not None else contextlib.nullcontext():
            yield


def _sending(services: Kilowatch, settings: Settings, clock: Clock) -> AbstractAsyncContextManager[None]:
    """Webhooks are posted to while the application runs."""
    if services.history is None or settings.webhook_requests == 0:
        return contextlib.nullcontext()
    courier = Courier(services.webhook_addresses)
    return Sender(
        services.deliveries, courier, services.webhook_news, most=settings.webhook_requests, clock=clock
    ).running()


# ── health ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_health_router = APIRouter(prefix="/health", tags=["Health"])


class Health(msgspec.Struct, frozen=True):
    status: str


async def _services(request: Request) -> Kilowatch:
    services: Kilowatch = request.app.state.services
    return services


@_health_router.get("/live", summary="Is the process alive", **operation(Health, example={"status": "alive"}))
async def live() -> Response:
    return answer(Health("alive"))


@_health_router.get("/ready", summary="Can it answer requests", **operation(Health, example={"status": "ready"}))
async def ready(request: Request, services: Annotated[Kilowatch, Depends(_services)]) -> Response:
    """Asks the database and the history engine; 503 while one of them does not answer."""
    lane: Lane = request.app.state.health_lane
    await lane.run_within(_READY_WITHIN_S, services.database.check)
    if services.history is not None:
        await lane.run_within(_READY_WITHIN_S, services.history.check)
    return answer(Health("ready"))


# ── description ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _install_docs(app: FastAPI) -> None:
    app.mount("/api/docs/static", StaticFiles(directory=_SWAGGER_UI), name="docs-static")

    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="/api/v1/openapi.json",
            title="Kilowatch API",
            swagger_js_url="/api/docs/static/swagger-ui-bundle.js",
            swagger_css_url="/api/docs/static/swagger-ui.css",
            swagger_favicon_url="/api/docs/static/favicon.png",
        )


# Who may ask what is said here and not by the framework's own dependencies, which only read the header once more.
_SECURITY_SCHEMES = {
    "password": {
        "type": "oauth2",
        "description": "An access token, for 15 minutes.",
        "flows": {"password": {"tokenUrl": "/api/v1/auth/token", "refreshUrl": "/api/v1/auth/refresh", "scopes": {}}},
    },
    "api_key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`kw_…`), made at `/api/v1/me/api-keys`.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIES[1],
        "description": f"The session of somebody who signed in at the pages, for their scripts; `{SESSION_COOKIES[0]}` "
        "behind TLS. It does not count where another site made the browser ask.",
    },
    "form_token": {
        "type": "apiKey",
        "in": "header",
        "name": FORM_TOKEN_HEADER,
        "description": "What the forms of a session carry: needed beside its cookie for all but GET and HEAD.",
    },
}
_OPEN_TO_ALL = ("/api/v1/auth/token", "/api/v1/auth/refresh", "/health/live", "/health/ready")
_FOR_PROGRAMS_ALONE = ("/api/v2/write", "/write")


def _describe(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    for path, operations in document["paths"].items():
        if path not in _OPEN_TO_ALL:
            for method, described in operations.items():
                described["security"] = [{"password": []}, {"api_key": []}]
                if path not in _FOR_PROGRAMS_ALONE:
                    schemes = ("session",) if method == "get" else ("session", "form_token")
                    described["security"].append({scheme: [] for scheme in schemes})
    document["servers"] = [{"url": "/", "description": "This server"}]


_DESCRIPTION = """
Sites hold devices, devices report metrics. Sign in at `/api/v1/auth/token`, or use an API key, and send it as
`Authorization: Bearer …`. A site that you have no grant for does not exist for you: 404 on every path.

Times are RFC 3339 with an offset, windows half-open `[start, end)`, a gap is null and never 0. Grid power is positive
on import, battery power on discharge. Errors are `application/problem+json` (RFC 9457) and name each field. Lists are
pages: follow `next` with `cursor`. Every answer has an `X-Request-ID`, which the logs have too.
"""

_TAGS = [
    {"name": "Signing in", "description": "Tokens for an email and a password."},
    {"name": "Me", "description": "The caller, and the caller's API keys."},
    {"name": "Sites", "description": "Where devices are."},
    {"name": "Devices", "description": "What measures."},
    {"name": "Metrics", "description": "What is measured."},
    {"name": "Readings", "description": "Measurements coming in."},
    {"name": "Latest values", "description": "The newest reading of each metric."},
    {"name": "Subscriptions", "description": "A chosen set of metrics."},
    {"name": "Webhooks", "description": "Readings posted to you as they arrive."},
    {"name": "History", "description": "Readings and aggregates over a window of time."},
    {"name": "Balance", "description": "Where a site's energy comes from and where it goes."},
    {"name": "Grants", "description": "Who may do what at a site."},
    {"name": "Users", "description": "People and programs with an account."},
    {"name": "Health", "description": "For load balancers and supervisors."},
]
