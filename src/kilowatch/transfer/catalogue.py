"""The catalogue as a whole: its tables' rows as lines of JSON, which mean the same on SQLite and PostgreSQL.

The tables are those that the database itself has, so that a backup of an older version is loaded as it was made, and
brought up to date afterwards.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Date,
    DateTime,
    Float,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    null,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, StatementError

from kilowatch import migrations
from kilowatch.errors import Invalid
from kilowatch.kit.db import Database

_REVISIONS = "alembic_version"
_MADE_BY_MIGRATIONS = frozenset(("arrival_clock",))
"""Tables that have rows as soon as they are there."""

_AT_ONCE = 1_000

Line = bytes
Tell = Callable[[str, int], None]
"""Is told a table's name, and how many of its rows were just done."""


class NotEmpty(Invalid):
    def __init__(self, name: str, table: str) -> None:
        super().__init__(
            f"{name} has a catalogue already (its table `{table}` has rows), and nothing is overwritten. Name an empty "
            "database, or a file that is not there yet."
        )


@dataclass(frozen=True, slots=True)
class Lines:
    """How many rows a table has, and a checksum in which their order does not matter."""

    rows: int = 0
    checksum: int = 0

    def plus(self, lines: Iterable[Line]) -> "Lines":
        rows, checksum = self.rows, self.checksum
        for line in lines:
            rows += 1
            checksum += int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())
        return Lines(rows, checksum % (1 << 64))


def tables_of(connection: Connection) -> list[Table]:
    """The tables, each behind those that it refers to."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != _REVISIONS]


def lines_of(connection: Connection, table: Table) -> Iterator[list[Line]]:
    """The rows as arrays in the order of the table's columns, some at a time, by their primary key."""
    telling = [_teller(column) for column in table.columns]
    every = select(table).order_by(*table.primary_key)
    rows = connection.execute(every, execution_options={"yield_per": _AT_ONCE})
    for some in rows.partitions():
        yield [msgspec.json.encode([tell(value) for tell, value in zip(telling, row, strict=True)]) for row in some]


def load(connection: Connection, table: Table, columns: Sequence[str], lines: Iterable[Line]) -> int:
    """Insert rows whose values are in the order of `columns`; returns how many.

    Raises:
        Invalid: the database refuses one, or the table has no such column.
    """
    if unknown := set(columns) - set(table.columns.keys()):
        raise Invalid(f"The table `{table.name}` has no column {', '.join(sorted(unknown))} here.")
    reading = [_reader(table.columns[name], sqlite=connection.dialect.name == "sqlite") for name in columns]
    count = 0
    lines = iter(lines)
    while some := list(islice(lines, _AT_ONCE)):
        rows = [
            dict(
                zip(
                    columns,
                    (read(value) for read, value in zip(reading, msgspec.json.decode(line), strict=True)),
                    strict=True,
                )
            )
            for line in some
        ]
        try:
            connection.execute(insert(table), rows)
        except (DBAPIError, StatementError, ValueError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise Invalid(f"A row of the table `{table.name}` is refused by this database: {reason}") from error
        count += len(rows)
    return count


def sequences_of(connection: Connection, tables: Iterable[Table]) -> dict[str, int]:
    """The last id that each table has given, by its name: ids of rows that are gone are not given again."""
    found = {}
    given: dict[str, int] = (
        {str(name): int(last) for name, last in connection.execute(text("SELECT name, seq FROM sqlite_sequence"))}
        if connection.dialect.name == "sqlite"
        else {}
    )
    for table in tables:
        if (key := _counted(table)) is None:
            continue
        highest = int(connection.execute(select(func.max(table.columns[key]))).scalar_one() or 0)
        if connection.dialect.name == "sqlite":
            last = int(given.get(table.name, 0))
        else:
            last = _last_given(connection, table, key)
        if last or highest:
            found[str(table.name)] = max(last, highest)
    return found


def set_sequences(connection: Connection, tables: Iterable[Table], given: dict[str, int]) -> None:
    """The next row of each table gets a higher id than these."""
    for table in tables:
        key = _counted(table)
        last = given.get(table.name)
        if key is None or not last:
            continue
        if connection.dialect.name == "sqlite":
            is_counted = text("SELECT count(*) FROM sqlite_master WHERE name = :name AND sql LIKE '%AUTOINCREMENT%'")
            if connection.execute(is_counted, {"name": table.name}).scalar_one():
                values = {"name": table.name, "last": last}
                connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), values)
                connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
        elif sequence := _sequence(connection, table, key):
            connection.execute(
                text("SELECT setval(CAST(:sequence AS regclass), :last)"), {"sequence": sequence, "last": last}
            )


def refuse_what_is_not_empty(connection: Connection, name: str) -> None:
    """Raises `NotEmpty` if there are rows in any table."""
    for table in tables_of(connection):
        if table.name not in _MADE_BY_MIGRATIONS and connection.execute(select(table).limit(1)).first() is not None:
            raise NotEmpty(name, table.name)


def make_empty_tables(connection: Connection, name: str, revision: str) -> list[Table]:
    """The tables of a revision without rows, in a transaction of `Database.migrating`. Raises `NotEmpty`."""
    if migrations.current_revision(connection) not in (None, revision):
        refuse_what_is_not_empty(connection, name)
        metadata = MetaData()
        metadata.reflect(connection)
        metadata.drop_all(connection)  # of another version, and empty
    migrations.upgrade_within(connection, revision)
    refuse_what_is_not_empty(connection, name)
    tables = tables_of(connection)
    for table in tables:
        if table.name in _MADE_BY_MIGRATIONS:
            connection.execute(delete(table))
    return tables


# ── from one database to another ──


@dataclass(frozen=True, slots=True)
class Copied:
    table: str
    source: Lines
    target: Lines


def copy_database(source: Database, target: Database, *, tell: Tell = lambda _table, _rows: None) -> list[Copied]:
    """Copy all rows: one state of the source, in one transaction of the target, and compare both before it commits.

    Raises:
        Invalid: the source is not up to date, the target is not empty, or a row comes out as another one. Then
            nothing was changed.
        Unavailable: a database does not answer.
    """
    with source.read() as reading:
        revision = migrations.current_revision(reading)
        if revision is None or revision != migrations.newest_revision():
            raise Invalid("FROM has a catalogue of another version; run `kilowatch migrate` with it first.")
        with target.migrating() as writing:
            tables = {table.name: table for table in make_empty_tables(writing, "TO", revision)}
            copied = []
            for table in tables_of(reading):
                told = Lines()
                for lines in lines_of(reading, table):
                    load(writing, tables[table.name], table.columns.keys(), lines)
                    told = told.plus(lines)
                    tell(table.name, len(lines))
                copied.append(Copied(table.name, told, stored(writing, tables[table.name])))
            set_sequences(writing, tables.values(), sequences_of(reading, tables_of(reading)))
            for table_copied in copied:
                if table_copied.source != table_copied.target:
                    raise Invalid(f"The table `{table_copied.table}` came out different; nothing was changed.")
    return copied


def count_rows(database: Database) -> int:
    with database.read() as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables_of(connection)
        )


def stored(connection: Connection, table: Table) -> Lines:
    """What a table has now."""
    found = Lines()
    for lines in lines_of(connection, table):
        found = found.plus(lines)
    return found


# ── values ──


def _teller(column: Any) -> Callable[[Any], Any]:
    """How a column's values are said in JSON."""
    if isinstance(column.type, DateTime):
        return _tell_instant
    if isinstance(column.type, Float):
        return lambda value: None if value is None else float(value)
    return lambda value: value  # msgspec writes dates as text, and bytes as base64


def _tell_instant(value: datetime | None) -> str | None:
    """In UTC, which SQLite stores without saying so, with all digits."""
    if value is None:
        return None
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _reader(column: Any, *, sqlite: bool) -> Callable[[Any], Any]:
    """How they are read back."""
    kind = column.type
    if isinstance(kind, DateTime):
        return _or_none(lambda value: _instant(value, naive=sqlite))
    if isinstance(kind, Date):
        return _or_none(date.fromisoformat)
    if isinstance(kind, LargeBinary):
        return _or_none(base64.b64decode)
    if isinstance(kind, Boolean):
        return _or_none(bool)
    if isinstance(kind, JSON):
        return lambda value: null() if value is None else value
    return lambda value: value


def _instant(value: str, *, naive: bool) -> datetime:
    instant = datetime.fromisoformat(value)
    return instant.replace(tzinfo=None) if naive else instant


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _counted(table: Table) -> str | None:
    """The column whose numbers the database gives, if there is one."""
    column = table.autoincrement_column
    return None if column is None or column.foreign_keys else str(column.name)


def _sequence(connection: Connection, table: Table, key: str) -> str | None:
    found = connection.execute(
        text("SELECT pg_get_serial_sequence(:table, :key)"), {"table": f'"{table.name}"', "key": key}
    ).scalar_one()
    return None if found is None else str(found)


def _last_given(connection: Connection, table: Table, key: str) -> int:
    sequence = _sequence(connection, table, key)
    if sequence is None:
        return 0
    last = connection.execute(
        text("SELECT pg_sequence_last_value(CAST(:sequence AS regclass))"), {"sequence": sequence}
    ).scalar_one()
    return int(last or 0)  # null: none was given yet
