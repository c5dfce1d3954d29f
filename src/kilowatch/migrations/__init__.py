"""The catalogue's schema, step by step (Alembic)."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from kilowatch.kit.db import Database

_LOCK = 0x6B696C6F  # any number that nobody else takes on this database


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("kilowatch") / "migrations").replace("%", "%%"))
    return config


def upgrade(database: Database) -> None:
    """Bring the schema up to date. Of several processes that start at once, one does it and the others wait."""
    with database.migrating() as connection:
        upgrade_within(connection)


def upgrade_within(connection: Connection, revision: str = "head") -> None:
    """The same within a transaction of `Database.migrating`, up to a revision."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    return ScriptDirectory.from_config(configuration()).get_current_head()


def revisions() -> set[str]:
    """All that this version knows."""
    return {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
