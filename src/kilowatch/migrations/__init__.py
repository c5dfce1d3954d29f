"""The catalogue's schema, step by step (Alembic)."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from kilowatch.errors import Invalid
from kilowatch.kit.db import Database

_LOCK = 0x6B696C6F  # any number that nobody else takes on this database


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("kilowatch") / "migrations").replace("%", "%%"))
    return config


def upgrade(database: Database, config: Config | None = None) -> None:
    """Bring the schema up to date. Of several processes that start at once, one does it and the others wait.

    All of it is one transaction, on SQLite as on PostgreSQL: what fails has changed nothing.

    Args:
        config: other migrations than the program's own.

    Raises:
        Invalid: the schema is newer than these migrations, or one of them fails; the message says what to do.
        Unavailable: the database does not answer, or went away.
    """
    with database.migrating() as connection:
        upgrade_within(connection, config=config)


def upgrade_within(connection: Connection, revision: str = "head", *, config: Config | None = None) -> None:
    """The same within a transaction of `Database.migrating`, up to a revision."""
    config = config or configuration()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = current_revision(connection)
    if before is not None and before == newest_revision(config):
        return
    refuse_newer(before, config)
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except Exception as error:  # a migration may fail by anything, and whoever starts the program is told
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        raise MigrationFailed(before, newest_revision(config), error) from error


class MigrationFailed(Invalid):
    def __init__(self, before: str | None, newest: str | None, error: Exception) -> None:
        reason = error.orig if isinstance(error, DBAPIError) else error
        super().__init__(
            f"The catalogue's schema can't be brought from version {before or 'nothing'} to {newest}: "
            f"{type(reason).__name__}: {str(reason).strip()} Nothing was changed, and the version that ran "
            "before runs on it as it did. Remove the cause, then start again or run `kilowatch migrate`."
        )


def refuse_newer(revision: str | None, config: Config | None = None) -> None:
    """Raises `Invalid` for a schema that a later version of Kilowatch has made."""
    if revision is not None and revision not in revisions(config):
        raise Invalid(
            f"The catalogue's schema is at version {revision}, which this Kilowatch does not know (its newest is "
            f"{newest_revision(config)}): a later one has migrated it. Install that version or a later one, or restore "
            "the backup that was made before. Processes that run already may go on."
        )


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision(config: Config | None = None) -> str | None:
    return ScriptDirectory.from_config(config or configuration()).get_current_head()


def revisions(config: Config | None = None) -> set[str]:
    """All that this version knows."""
    return {script.revision for script in ScriptDirectory.from_config(config or configuration()).walk_revisions()}
