"""`kilowatch history copy`, `kilowatch database copy`, `kilowatch backup` and `kilowatch restore`."""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from kilowatch.cli.progress import meter
from kilowatch.cli.terminal import err, out
from kilowatch.config import Settings, load_settings, prepare_data_dir, with_password
from kilowatch.errors import Conflict, Invalid, KilowatchError

if TYPE_CHECKING:
    from kilowatch.history.copying import Contents
    from kilowatch.kit.db import Database
    from kilowatch.transfer.histories import Compared
    from kilowatch.transfer.places import Place

histories = typer.Typer(help="The history as a whole.", no_args_is_help=True)
databases = typer.Typer(help="The catalogue's database as a whole.", no_args_is_help=True)

FromPassword = Annotated[
    Path | None, typer.Option("--from-password-file", help="File with the password of the user that FROM names.")
]
ToPassword = Annotated[
    Path | None, typer.Option("--to-password-file", help="File with the password of the user that TO names.")
]


@histories.command("copy")
def copy_history(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of a history, as in KILOWATCH_HISTORY_URL.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of an empty one, or of one that was begun.")],
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove from TO what FROM does not have, instead of refusing to go on.")
    ] = False,
    from_password_file: FromPassword = None,
    to_password_file: ToPassword = None,
) -> None:
    """Copy all readings. Run again it goes on where it was, and brings what came in, or was folded, meanwhile.

    Counts and checksums of both sides are compared month by month; the exit code is 1 if one differs.
    """
    from kilowatch.transfer import histories

    settings = load_settings()
    _quiet(settings)
    source, target = _complete(source, "FROM", from_password_file), _complete(target, "TO", to_password_file)
    _refuse_two_directories(source, target)
    with _history(source, "FROM", settings) as here, _history(target, "TO", settings, migrate=True) as there:
        plan = histories.plan_copy(here, there, delete=delete)
        with _counting(plan.rows) as tell:
            compared = histories.copy(here, there, plan, tell=tell)
        later = here.received_until() > plan.until
    _show_months(compared)
    different = [f"{one.table} {one.name}" for one in compared if not one.is_same]
    if different:
        raise Conflict(
            f"FROM and TO differ in {', '.join(different)}. Were readings of FROM deleted or folded meanwhile? Run it "
            "again; the last time with no server that writes to either."
        )
    out.print(f"{plan.rows:,} rows copied; both sides are the same.")
    if later:
        out.print("More readings came in meanwhile: stop the server, and run it again to bring them.")


@databases.command("copy")
def copy_database(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of a catalogue, as in KILOWATCH_DATABASE_URL.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of an empty database.")],
    from_password_file: FromPassword = None,
    to_password_file: ToPassword = None,
) -> None:
    """Copy the catalogue: sites, devices, users and all else but readings, between SQLite and PostgreSQL.

    All of it or nothing. Stop the server first: what it changes meanwhile is not copied.
    """
    from kilowatch.transfer import catalogue

    settings = load_settings()
    _quiet(settings)
    source, target = _complete(source, "FROM", from_password_file), _complete(target, "TO", to_password_file)
    with (
        _database(source, "FROM", must_exist=True) as here,
        _database(target, "TO") as there,
        _counting(catalogue.count_rows(here)) as tell,
    ):
        copied = catalogue.copy_database(here, there, tell=tell)
    table = Table("table", "rows", "checksum", title="Both sides are the same", title_justify="left")
    table.columns[1].justify = "right"
    for one in copied:
        table.add_row(one.table, f"{one.target.rows:,}", f"{one.target.checksum:016x}")
    out.print(table)


def backup(
    target: Annotated[str, typer.Argument(help="A directory, or `s3://bucket/prefix`.")],
    keep: Annotated[
        int | None, typer.Option(min=1, help="Remove the oldest backups there, so that this many are left.")
    ] = None,
) -> None:
    """Back up both stores, also while a server uses them. The secret key is not in it."""
    from kilowatch.transfer.places import place_at

    settings = load_settings()
    _quiet(settings)
    place = place_at(target, os.environ)
    name = f"kilowatch-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if name in {*place.names(), *place.leftovers()}:
        raise Conflict(f"{target} has a backup of this second already; run it again.")
    try:
        _make_backup(settings, place, name)
        place.finish(name)
    except BaseException:
        with contextlib.suppress(KilowatchError):
            place.remove(name)
        raise
    out.print(f"{name} is in {target}", markup=False)
    if keep is not None:
        for old in (*place.names()[:-keep], *(one for one in place.leftovers() if one < name)):
            place.remove(old)
            out.print(f"{old} was removed.", markup=False)


def restore(
    source: Annotated[str, typer.Argument(help="A backup; or where backups are, for the newest of them.")],
) -> None:
    """Put a backup into the stores that the settings name, which must be empty. No server may run."""
    from kilowatch.transfer import restores
    from kilowatch.transfer.manifest import read_manifest
    from kilowatch.transfer.places import chosen

    settings = load_settings()
    _quiet(settings)
    place, name = chosen(source, os.environ)
    with _counting(read_manifest(place, name).size) as tell:
        manifest = restores.open_backup(place, name, tell=lambda path, count: tell(f"checking {path}", count))
    prepare_data_dir(settings)
    with _database(settings.resolved_database_url, "KILOWATCH_DATABASE_URL") as database:
        restores.refuse_used_catalogue(database)
        with (
            _history(settings.resolved_history_url, "KILOWATCH_HISTORY_URL", settings, migrate=True) as contents,
            _counting(manifest.rows) as tell,
        ):
            done = restores.restore(place, name, manifest, database, contents, tell=tell)
    if done.began_anew:
        out.print("An earlier restore was cut off; what it had left was removed.")
    if done.left_out:
        out.print(f"{done.left_out:,} readings of metrics that were deleted while the backup was made are left out.")
    out.print(
        f"{name} is restored: {done.readings:,} rows of history, {done.rows:,} of the catalogue. Start the server with "
        "the KILOWATCH_SECRET_KEY of then (or its secret.key), or all users sign in anew and webhooks get new secrets."
    )


# ── making a backup ──


class _Draft:
    """A backup that is being made, in its place."""

    def __init__(self, place: "Place", name: str) -> None:
        self.create = partial(place.create, name)


def _make_backup(settings: Settings, place: "Place", name: str) -> None:
    from kilowatch.transfer.backups import Stores, rows_about, write_backup
    from kilowatch.transfer.control import ask_for_backup

    draft = _Draft(place, name)
    if _is_embedded(settings.resolved_history_url) and _asked(settings, draft, ask_for_backup):
        return
    with (
        _one_at_a_time(settings),
        _database(settings.resolved_database_url, "KILOWATCH_DATABASE_URL", must_exist=True) as database,
        _history(settings.resolved_history_url, "KILOWATCH_HISTORY_URL", settings) as contents,
    ):
        stores = Stores(database, contents, lambda: datetime.now(UTC))
        with _counting(rows_about(stores)) as tell:
            write_backup(stores, draft, tell=tell)


def _asked(settings: Settings, draft: _Draft, ask: Callable[..., bool]) -> bool:
    """By the server that runs, if one does."""
    with contextlib.ExitStack() as stack:
        tellers: list[Callable[[str, int], None]] = []
        return ask(
            settings.data_dir,
            draft,
            begin=lambda rows: tellers.append(stack.enter_context(_counting(rows))),
            tell=lambda what, rows: tellers[0](what, rows),  # noqa: PLW0108 - which is there only once it has begun
        )


@contextlib.contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    prepare_data_dir(settings)
    path = settings.data_dir / "backup.lock"
    try:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("Another backup is being made; wait until it is done.") from None
            yield
    except PermissionError as error:
        raise Invalid(f"{path} can't be written: {error.strerror}.") from error


# ── stores ──


def _complete(url: str, name: str, password_file: Path | None) -> str:
    """The URL of an argument, with the password that is in the file, if one is given."""
    option = f"--{name.lower()}-password-file"
    if password_file is not None:
        try:
            return with_password(url, password_file, place=name, variable=option)
        except ValueError as error:
            raise Invalid(str(error)) from error
    if password := re.search("://[^:/@]*:(.+)@", url.partition("?")[0]):
        if re.search("[@/#]", password[1]):  # what is behind it would be taken for the host, and told as such
            raise Invalid(f"{name} has a password with `@`, `/` or `#`; give it in a file ({option}).")
        err.print(
            f"{name} has a password on the command line, where everybody on this machine can see it (`ps`) and the "
            f"shell keeps it; give it in a file ({option}).",
            markup=False,
        )
    return url


@contextlib.contextmanager
def _history(url: str, name: str, settings: Settings, *, migrate: bool = False) -> "Iterator[Contents]":
    from kilowatch.history.copying import Contents
    from kilowatch.services import refuse_history_in_use

    with _named(name):
        refuse_history_in_use(settings.model_copy(update={"history_url": url}))
        contents = Contents.open(url, sync=settings.history_sync, migrate=migrate)
    try:
        yield contents
    finally:
        contents.close()


@contextlib.contextmanager
def _database(url: str, name: str, *, must_exist: bool = False) -> "Iterator[Database]":
    from kilowatch.kit.db import Database

    with _named(name):
        database = Database(url, pool_size=2, is_patient=True)
        if must_exist and database.is_sqlite and not Path(database.url.database or "").exists():
            raise Invalid(f"{name}: there is no catalogue at {database.url.database}.")
        if not database.is_sqlite:
            database.check()
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """What is said of a store says which one, and of an argument does not name a setting."""
    try:
        yield
    except KilowatchError as error:
        for setting in ("KILOWATCH_HISTORY_URL", "KILOWATCH_DATABASE_URL"):
            if not name.startswith("KILOWATCH_"):
                error.detail = error.detail.replace(setting, name)
        if name not in error.detail:
            error.detail = f"{name}: {error.detail}"
        raise


def _is_embedded(url: str) -> bool:
    return url.startswith("chdb:")


def _refuse_two_directories(source: str, target: str) -> None:
    if source == target:
        raise Invalid("FROM and TO are the same.")
    if _is_embedded(source) and _is_embedded(target) and urlsplit(source).path != urlsplit(target).path:
        raise Invalid(
            "A process can have one directory of embedded history open, and these are two. With no server running, "
            "copy the directory itself (`cp -a`), or use `kilowatch backup` and `kilowatch restore`."
        )


def _quiet(settings: Settings) -> None:
    from kilowatch.kit.logs import configure_logging

    configure_logging(settings.model_copy(update={"log_level": "warning"}))


# ── what is shown ──


@contextlib.contextmanager
def _counting(total: int) -> Iterator[Callable[[str, int], None]]:
    with meter(total) as shown:
        done = 0

        def tell(what: str, rows: int) -> None:
            nonlocal done
            done += rows
            shown.show(what, done=done, rows=done)

        yield tell


def _show_months(compared: "list[Compared]") -> None:
    table = Table("table", "month", "rows FROM", "rows TO", "checksum FROM", "checksum TO", "")
    for column in table.columns[2:4]:
        column.justify = "right"
    for one in compared:
        table.add_row(
            one.table,
            one.name,
            f"{one.source.rows:,}",
            f"{one.target.rows:,}",
            f"{one.source.checksum:016x}",
            f"{one.target.checksum:016x}",
            "same" if one.is_same else "[red]different[/red]",
        )
    (out if all(one.is_same for one in compared) else err).print(table)
