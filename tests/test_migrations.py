"""The catalogue's schema: from nothing to the newest, back again, and by two processes at once."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from kilowatch import migrations
from kilowatch.kit.db import Base, Database
from tests.postgres import PostgresServer

UPGRADE = """
import sys
from kilowatch import migrations
from kilowatch.kit.db import Database
database = Database(sys.argv[1], pool_size=1)
sys.stdin.read(1)
migrations.upgrade(database)
database.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new.sqlite'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"migrations_{tmp_path.name.lower().replace('-', '_')[:40]}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url, pool_size=1)
    yield database
    database.close()


def tables(database: Database) -> set[str]:
    with database.read() as connection:
        return set(inspect(connection).get_table_names()) - {"sqlite_sequence"}


def revision(database: Database) -> str | None:
    with database.read() as connection:
        return migrations.current_revision(connection)


def test_an_empty_database_gets_every_table(empty: Database) -> None:
    assert revision(empty) is None
    migrations.upgrade(empty)
    assert revision(empty) == migrations.newest_revision()
    assert tables(empty) == {*Base.metadata.tables, "alembic_version"}


def test_the_migrated_schema_is_the_one_that_the_code_describes(empty: Database) -> None:
    migrations.upgrade(empty)
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_schema_that_drifted_would_be_noticed(empty: Database) -> None:
    migrations.upgrade(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("ALTER TABLE sites ADD COLUMN stray INTEGER")
    with empty.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert len(compare_metadata(context, Base.metadata)) == 1


def test_migrating_again_changes_nothing(empty: Database) -> None:
    migrations.upgrade(empty)
    with empty.write() as connection:
        connection.exec_driver_sql("INSERT INTO erasures VALUES (7, '2026-01-05 12:00:00')")
    migrations.upgrade(empty)
    with empty.read() as connection:
        assert connection.exec_driver_sql("SELECT metric_id FROM erasures").scalar() == 7


def test_it_goes_back_to_nothing_and_up_again(empty: Database) -> None:
    migrations.upgrade(empty)
    with empty.migrating() as connection:
        configuration = migrations.configuration()
        configuration.attributes["connection"] = connection
        command.downgrade(configuration, "base")
    assert tables(empty) == {"alembic_version"}
    migrations.upgrade(empty)
    assert revision(empty) == migrations.newest_revision()


def test_processes_that_start_at_once_do_not_collide(empty_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("!")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    database = Database(empty_url, pool_size=1)
    assert revision(database) == migrations.newest_revision()
    database.close()
