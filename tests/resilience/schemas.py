"""Migrations that only tests have, behind the program's own; and what of a schema an older program would miss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alembic.config import Config
from sqlalchemy import Connection, inspect

from kilowatch import migrations

_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    {statements}
"""


def later(folder: Path, *statements: str) -> Config:
    """The program's migrations and one more, of these statements of Python."""
    folder.mkdir(exist_ok=True)
    text = _MIGRATION.format(before=migrations.newest_revision(), statements="\n    ".join(statements))
    (folder / "later.py").write_text(text)
    config = migrations.configuration()
    own = Path(migrations.__file__).parent / "versions"
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{own}\n{folder}")
    return config


Schema = Mapping[str, Mapping[str, Any]]
Columns = Mapping[str, Mapping[str, Any]]


def schema(connection: Connection) -> Schema:
    """Each table's columns, and what of it is unique."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": {column["name"]: column for column in inspector.get_columns(table)},
            "unique": {
                *(tuple(unique["column_names"]) for unique in inspector.get_unique_constraints(table)),
                *(tuple(index["column_names"]) for index in inspector.get_indexes(table) if index["unique"]),
            },
        }
        for table in inspector.get_table_names()
    }


def missed(before: Schema, after: Schema) -> list[str]:
    """What a program that knows the schema before could not do with the one after."""
    found = []
    for table, was in before.items():
        if table not in after:
            found.append(f"{table} is gone")
            continue
        now = after[table]
        found += _missed_columns(table, was["columns"], now["columns"])
        found += [f"{table}: {', '.join(names)} must be unique now" for names in now["unique"] - was["unique"]]
    return found


def _missed_columns(table: str, before: Columns, after: Columns) -> list[str]:
    found = [f"{table}.{name} is gone" for name in before.keys() - after.keys()]
    for name, column in after.items():
        may_be_left_out = column["nullable"] or column["default"] is not None
        if name not in before:
            found += [] if may_be_left_out else [f"{table}.{name} is new and has to be given"]
        elif before[name]["nullable"] and not column["nullable"]:
            found.append(f"{table}.{name} may not be null any more")
        elif type(before[name]["type"]) is not type(column["type"]):
            found.append(f"{table}.{name} is of another type")
    return found
