"""`kilowatch migrate`, `kilowatch check` and `kilowatch openapi`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kilowatch.cli.terminal import opened, out
from kilowatch.config import Settings, load_settings
from kilowatch.errors import Invalid, KilowatchError, Unavailable

_SERVER_WITHIN_S = 8


def migrate() -> None:
    """Bring the schemas of both stores up to date."""
    settings = load_settings()
    with opened(settings) as services:
        out.print(f"Catalogue is up to date: {_shown_url(settings.resolved_database_url)}")
        assert services.history is not None  # opened above
        out.print(f"History is up to date: {_shown_url(settings.resolved_history_url)}")


def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from kilowatch.app import create_app

    document = create_app(load_settings()).openapi()
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def check(
    server: Annotated[
        str | None, typer.Option(help="Ask the server at this address, http://…, whether it is ready, and no more.")
    ] = None,
) -> None:
    """Check the settings and both stores, and say what to do where something is wrong."""
    if server is not None:
        _check_server(server)
        return
    problems = 0

    def report(name: str, detail: str, *, fine: bool = True) -> None:
        nonlocal problems
        problems += not fine
        out.print(f"{'[green]✓[/green]' if fine else '[red]✗[/red]'} {name}: ", end="", markup=True)
        out.print(detail, markup=False)

    try:
        settings = load_settings()
    except Invalid as error:
        report("settings", error.detail, fine=False)
        raise SystemExit(1) from None
    report("settings", f"{settings.environment}, data directory {settings.data_dir}")
    for name, setting, checked in (
        ("catalogue", "KILOWATCH_DATABASE_URL", _check_catalogue),
        ("history", "KILOWATCH_HISTORY_URL", _check_history),
    ):
        try:
            report(name, checked(settings))
        except Unavailable as error:
            hint = "" if setting in error.detail else f" Is {setting} right?"
            report(name, error.detail + hint, fine=False)
        except KilowatchError as error:
            report(name, error.detail, fine=False)
    raise SystemExit(1 if problems else 0)


def _check_server(address: str) -> None:
    """What a container's health check runs. Raises `Unavailable` unless the server says that it is ready."""
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    url = urlsplit(address)
    if url.scheme != "http" or not url.hostname:
        raise Invalid(f"--server {address}: write http://host:port.")
    try:
        connection = HTTPConnection(url.hostname, url.port or 80, timeout=_SERVER_WITHIN_S)
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"{address} does not answer: {error}.") from error
    if status != 200:
        raise Unavailable(f"{address} is not ready: it answers {status}.")
    out.print(f"{address} is ready.", markup=False)


def _check_catalogue(settings: Settings) -> str:
    from kilowatch import migrations
    from kilowatch.kit.db import Database

    database = Database(settings.resolved_database_url, pool_size=1)
    if database.is_sqlite and not Path(database.url.database or "").exists():
        raise Invalid(f"there is no catalogue at {database.url.database} yet; run `kilowatch migrate`.")
    try:
        with database.read() as connection:
            revision = migrations.current_revision(connection)
    finally:
        database.close()
    migrations.refuse_newer(revision)
    if revision != migrations.newest_revision():
        raise Invalid(f"the schema is at {revision or 'nothing'}, not the newest; run `kilowatch migrate`.")
    return f"{_shown_url(settings.resolved_database_url)} answers, schema {revision}"


def _check_history(settings: Settings) -> str:
    from kilowatch.services import open_history, refuse_history_in_use

    refuse_history_in_use(settings)
    store = open_history(settings, None, migrate=False)
    try:
        store.check()
        return f"{_shown_url(settings.resolved_history_url)} answers, ClickHouse {store.version()}"
    finally:
        store.close()


def _shown_url(url: str) -> str:
    """A URL without its password."""
    from sqlalchemy import make_url

    return make_url(url).render_as_string(hide_password=True)
