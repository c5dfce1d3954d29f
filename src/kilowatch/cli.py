"""The command line. Heavy parts are imported by the commands that need them, so that `--help` is quick."""

import contextlib
import gzip
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kilowatch.config import Settings, load_settings, prepare_data_dir
from kilowatch.errors import Invalid, KilowatchError, NotFound, Unavailable

if TYPE_CHECKING:
    from kilowatch.app import Kilowatch
    from kilowatch.history.service import Query
    from kilowatch.ingest.model import RowError

app = typer.Typer(
    help="Kilowatch, an energy management back-end. Settings come from the environment: KILOWATCH_DATA_DIR and others.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
users = typer.Typer(help="Users.", no_args_is_help=True)
sites = typer.Typer(help="Sites.", no_args_is_help=True)
app.add_typer(users, name="user")
app.add_typer(sites, name="site")

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]

_CHUNK_BYTES = 4 * 1024 * 1024


def main() -> None:
    """The console script."""
    try:
        app()
    except KilowatchError as error:
        err.print("kilowatch: ", style="red", end="")
        err.print(" ".join(error.detail.split()), markup=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _open(settings: Settings, *, with_history: bool = True) -> "Kilowatch":
    from kilowatch.app import Kilowatch, refuse_history_in_use
    from kilowatch.kit.logs import configure_logging

    configure_logging(settings)
    prepare_data_dir(settings)
    if with_history:
        refuse_history_in_use(settings)
    return Kilowatch(settings, with_history=with_history)


# ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the API. Migrates both stores first; Ctrl-C ends it."""
    settings = load_settings()
    _refuse_taken_port(host, port)
    with _open(settings) as services:
        _serve(services, settings, host, port)


@app.command()
def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve it, or only prepare it.")] = True,
) -> None:
    """Load a portfolio of sites with a real house's measurements, and serve it. Running it again loses nothing."""
    settings = load_settings()
    if serve:
        _refuse_taken_port(host, port)
    from kilowatch.demo import portfolio

    out.print(f"Preparing the demo in {settings.data_dir}", markup=False)
    with _open(settings) as services:
        prepared = portfolio.prepare(services, settings, progress=_show_progress)
        address = _address("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)  # noqa: S104 - compared, not bound
        _show_demo(prepared, address)
        if serve:
            banner = f"Serving on {address} (description: {address}/api/docs). Ctrl-C ends it."
            _serve(services, settings, host, port, banner=banner)


@contextlib.contextmanager
def _show_progress() -> Iterator[Callable[[int, int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("Loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _show_demo(prepared: Any, address: str) -> None:
    from kilowatch.demo import house

    table = Table("email", "password", "who", title="Demo users", title_justify="left")
    for user in prepared.users:
        table.add_row(user.email, user.password, user.may)
    out.print(table)
    first_day = f"start={house.FIRST_DAY}&end=2025-06-02T00:00:00+01:00&resolution=1h".replace("+", "%2B")
    out.print("\nThe powers of a real house, hour by hour:\n", style="bold")
    url = f"{address}/api/v1/subscriptions/{prepared.subscription_id}/history?{first_day}&format=csv"
    out.print(f'  curl -H "Authorization: Bearer {prepared.api_key}" "{url}"\n', markup=False)


def _serve(services: "Kilowatch", settings: Settings, host: str, port: int, *, banner: str | None = None) -> None:
    import uvicorn

    from kilowatch.app import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                out.print(banner or f"Serving on {_address(host, port)}", markup=False)

    config = uvicorn.Config(
        create_app(settings, services=services),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = Server(config)
    # uvicorn has shut down by the time that it passes the signal on, so the end is an orderly one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(1)
    out.print("Stopped.")


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Invalid(
                f"Can't listen on {host}:{port} ({error.strerror}); choose another with --port, or stop what is there."
            ) from error


@app.command()
def migrate() -> None:
    """Bring the schemas of both stores up to date."""
    settings = load_settings()
    with _open(settings) as services:
        out.print(f"Catalogue is up to date: {_shown_url(settings.resolved_database_url)}")
        assert services.history is not None  # opened above
        out.print(f"History is up to date: {_shown_url(settings.resolved_history_url)}")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from kilowatch.app import create_app

    document = create_app(load_settings()).openapi()
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


@app.command()
def check() -> None:
    """Check the settings and both stores, and say what to do where something is wrong."""
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
    if revision != migrations.newest_revision():
        raise Invalid(f"the schema is at {revision or 'nothing'}, not the newest; run `kilowatch migrate`.")
    return f"{_shown_url(settings.resolved_database_url)} answers, schema {revision}"


def _check_history(settings: Settings) -> str:
    from kilowatch.app import open_history, refuse_history_in_use

    refuse_history_in_use(settings)
    store = open_history(settings, migrate=False)
    try:
        store.check()
        return f"{_shown_url(settings.resolved_history_url)} answers, ClickHouse {store.version()}"
    finally:
        store.close()


def _shown_url(url: str) -> str:
    """A URL without its password."""
    from sqlalchemy import make_url

    return make_url(url).render_as_string(hide_password=True)


# ── users and sites ──────────────────────────────────────────────────────────────────────────────────────────────────


@users.command("create")
def user_create(
    email: str,
    name: Annotated[str | None, typer.Option(help="Default: the part of the email before the @.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make an administrator.")] = False,
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import UserIn

    fields = {"email": email, "name": name or email.split("@", maxsplit=1)[0], "is_admin": admin}
    user = _validated(UserIn, **fields, password=_password(from_stdin=password_stdin))
    with _open(load_settings(), with_history=False) as services:
        made = services.accounts.create_user(OPERATOR, **user.model_dump())
    out.print(f"Created user {made.id}: {made.email}{' (administrator)' if admin else ''}")


@users.command("list")
def user_list() -> None:
    """List the users."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.kit.paging import page_request

    table = Table("id", "email", "name", "administrator")
    with _open(load_settings(), with_history=False) as services:
        cursor: str | None = None
        while True:
            page = services.accounts.list_users(OPERATOR, page_request(500, cursor), words=None)
            for user in page.items:
                table.add_row(str(user.id), user.email, user.name, "yes" if user.is_admin else "")
            cursor = page.next
            if cursor is None:
                break
    out.print(table)


@users.command("set-password")
def user_set_password(email: str, password_stdin: PasswordStdin = False) -> None:
    """Give a user a new password, which signs them out everywhere."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import UserChange

    change = _validated(UserChange, password=_password(from_stdin=password_stdin))
    with _open(load_settings(), with_history=False) as services:
        user_id = _user_id(services, email)
        services.accounts.change_user(OPERATOR, user_id, change.model_dump(exclude_unset=True))
    out.print(f"{email} has a new password.")


@sites.command("grant")
def site_grant(
    site: Annotated[str, typer.Argument(help="The site's slug.")],
    email: Annotated[str, typer.Argument(help="The user's email.")],
    role: Annotated[str, typer.Argument(help="standard or technician.")],
) -> None:
    """Give a user a role at a site."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.auth.schemas import GrantIn

    checked = _validated(GrantIn, role=role)
    with _open(load_settings(), with_history=False) as services:
        user_id = _user_id(services, email)
        try:
            site_id = services.catalogue.site_id_of(OPERATOR, site)
        except NotFound as error:
            raise NotFound(f"There is no site with the slug {site!r}.") from error
        services.catalogue.put_grant(OPERATOR, site_id, user_id, checked.role)
    out.print(f"{email} is {role} at {site}.")


def _user_id(services: "Kilowatch", email: str) -> int:
    from kilowatch.auth.model import OPERATOR

    try:
        return services.accounts.user_id_of(OPERATOR, email)
    except NotFound as error:
        raise NotFound(f"There is no user {email!r}; `kilowatch user list` shows them.") from error


def _validated(schema: Any, **fields: Any) -> Any:
    from pydantic import ValidationError

    try:
        return schema(**fields)
    except ValidationError as error:
        details = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise Invalid("; ".join(details)) from error


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Invalid("There is no terminal to ask for the password; use --password-stdin.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


# ── readings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, readable=True, help="CSV with `metric,timestamp,value`; .gz too."),
    ],
) -> None:
    """Store readings from CSV files, and report on the rows that were refused (then the exit status is 1)."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.ingest.model import MAX_REPORTED

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    accepted = rejected = 0
    with _open(load_settings()) as services, Progress(*columns, console=err) as bar:
        for path in files:
            task = bar.add_task(path.name, total=path.stat().st_size)
            refused: list[tuple[int, RowError]] = []
            row = file_rejected = 0
            for body, position in _csv_parts(path):
                try:
                    report = services.intake.take(OPERATOR, body, content_type="text/csv")
                except KilowatchError as problem:
                    raise Invalid(f"{path.name}: {problem.detail} {accepted:,} readings are stored.") from problem
                refused += [(row + error.row, error) for error in report.errors]
                row += report.accepted + report.rejected
                accepted += report.accepted
                file_rejected += report.rejected
                bar.update(task, completed=position)
            rejected += file_rejected
            for number, error in refused[:MAX_REPORTED]:
                err.print(f"{path.name}: row {number}: {error.code}: {error.detail}", markup=False)
            if file_rejected > MAX_REPORTED:
                err.print(f"{path.name}: and {file_rejected - MAX_REPORTED:,} rows more.", markup=False)
    out.print(f"{accepted:,} readings stored, {rejected:,} refused.")
    raise SystemExit(1 if rejected else 0)


def _csv_parts(path: Path) -> Iterator[tuple[bytes, int]]:
    """A file in parts that each have the header and whole lines, and how many bytes of the file are read by then."""
    with path.open("rb") as raw:
        file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        try:
            header = file.readline()
            rest = b""
            empty = True
            while chunk := file.read(_CHUNK_BYTES):
                lines, _, rest_of_line = (rest + chunk).rpartition(b"\n")
                rest = rest_of_line
                if lines.strip():
                    empty = False
                    yield header.rstrip(b"\r\n") + b"\n" + lines + b"\n", raw.tell()
            if rest.strip() or empty:
                yield header.rstrip(b"\r\n") + b"\n" + rest, raw.tell()
        except (OSError, EOFError) as error:
            raise Invalid(f"{path} can't be read: {error}; what came before is stored.") from error


@app.command()
def export(
    start: Annotated[str, typer.Option(help="Begin of the window: RFC 3339 with an offset.")],
    end: Annotated[str, typer.Option(help="End of the window, not part of it.")],
    metric: Annotated[list[str] | None, typer.Option(help="site/device/key or an id; may be given again.")] = None,
    subscription: Annotated[int | None, typer.Option(help="A subscription's id; its owner's rights apply.")] = None,
    resolution: Annotated[str, typer.Option(help="raw, 1h, 1d, …")] = "raw",
    aggregate: Annotated[
        str | None, typer.Option(help="mean, energy, energy_positive, energy_negative, delta, …")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA name.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit to convert to.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; standard output if left out.")] = None,
) -> None:
    """Write the history of metrics, or of a subscription, as CSV."""
    from kilowatch.history.model import AGGREGATES
    from kilowatch.history.service import Query
    from kilowatch.kit.timespan import Window

    if bool(metric) == (subscription is not None):
        raise Invalid("Name either metrics (--metric) or a subscription (--subscription).")
    if aggregate is not None and aggregate not in AGGREGATES:
        raise Invalid(f"--aggregate is one of {', '.join(AGGREGATES)}.")
    query = Query(
        Window.parse(start, end),
        resolution,
        aggregate=aggregate,
        timezone=timezone,
        unit=unit,
        limit=None,
    )
    with _open(load_settings()) as services:
        parts = _history_parts(services, query, metric or [], subscription)
        if output is None:
            _write_parts(parts, sys.stdout.buffer)
            return
        _write_file(parts, output)
    err.print(f"Wrote {output}", markup=False)


def _history_parts(
    services: "Kilowatch", query: "Query", metrics: list[str], subscription_id: int | None
) -> Iterator[bytes]:
    from kilowatch.auth.model import OPERATOR
    from kilowatch.history import formats
    from kilowatch.kit.text import MAX_ID

    for text in (*metrics, str(subscription_id or 0)):
        if text.isdecimal() and int(text) > MAX_ID:
            raise NotFound(f"There is no metric or subscription {text}.")

    if subscription_id is not None:
        caller = services.subscriptions.owner(OPERATOR, subscription_id)
        stream = services.subscriptions.stream(caller, subscription_id, query)
    else:
        references = [int(text) if text.isdecimal() else text for text in metrics]
        stream = services.histories.stream_of_metrics(OPERATOR, references, query)
    yield from formats.write(stream, formats.CSV)


def _write_file(parts: Iterator[bytes], output: Path) -> None:
    """Whole or not at all: what was there stays until the new file is complete."""
    draft = output.with_name(output.name + ".part")
    try:
        with draft.open("wb") as file:
            _write_parts(parts, file)
        draft.replace(output)
    except OSError as error:
        raise Invalid(f"{output} can't be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _write_parts(parts: Iterator[bytes], file: IO[bytes]) -> None:
    for part in parts:
        file.write(part)
    file.flush()
