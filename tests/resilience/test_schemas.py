"""Upgrades: a migration that fails halfway changes nothing, older programs stand a later schema, and say so at a start.

Within a release migrations only add (expand); what nobody uses any more goes with a later release (contract).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from kilowatch import migrations
from kilowatch.config import Settings
from kilowatch.errors import Invalid
from kilowatch.history.engine import Engine
from kilowatch.history.migrations import MIGRATIONS
from kilowatch.kit.db import Database
from kilowatch.services import Kilowatch
from tests.clickhouse import ClickHouse
from tests.conftest import Clock, _unique, drop_history, open_world
from tests.postgres import PostgresServer
from tests.processes import kilowatch
from tests.resilience.schemas import Schema, later, missed, schema

RELEASED = "0007"
"""The newest migration of the last release: those after it must not break the programs of that release."""

NEXT = MIGRATIONS[-1][0] + 1
"""The number of the history's next migration."""

HALFWAY = (
    'op.add_column("erasures", sa.Column("half", sa.Integer(), nullable=True))',
    'op.execute("UPDATE erasures SET metric_id = 8")',
    'op.drop_table("audit")',
    'op.execute("SELECT no_such_column FROM erasures")',
)
ADDS_A_COLUMN = 'op.add_column("erasures", sa.Column("later", sa.Integer(), nullable=True))'


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=2)
    with database.write() as connection:
        connection.execute(text("INSERT INTO erasures VALUES (7, '2026-01-05 12:00:00')"))
    yield database
    database.close()


def erasures(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT metric_id FROM erasures")).scalars())


class TestAMigrationOfTheCatalogueThatFails:
    def test_changes_nothing_and_says_what_to_do(self, database: Database, tmp_path: Path) -> None:
        with database.read() as connection:
            before = str(schema(connection))
        with pytest.raises(Invalid) as refused:
            migrations.upgrade(database, later(tmp_path / "fails", *HALFWAY))
        for words in ("to later", "no_such_column", "Nothing was changed", "kilowatch migrate"):
            assert words in refused.value.detail
        with database.read() as connection:
            assert migrations.current_revision(connection) == migrations.newest_revision()
            assert str(schema(connection)) == before
        assert erasures(database) == [7]
        migrations.upgrade(database)  # the program of before starts as ever
        migrations.upgrade(database, later(tmp_path / "works", *HALFWAY[:2]))  # the cause was removed
        assert erasures(database) == [8]


class TestAMigrationOfTheHistoryThatFails:
    def test_goes_on_at_the_next_start_from_where_it_failed(self, clickhouse: ClickHouse) -> None:
        url = f"{clickhouse.url}/{_unique('halfway')}"
        Engine(url, connections=1, sync=False).close()
        works = "ALTER TABLE readings ADD COLUMN IF NOT EXISTS later UInt8"
        fails = "ALTER TABLE no_such_table ADD COLUMN later UInt8"
        with pytest.raises(Invalid) as refused:
            Engine(url, connections=1, sync=False, migrations=(*MIGRATIONS, (NEXT, "more", (works, fails))))
        for words in (f"version {NEXT} (more)", "no_such_table", "goes on from there", "kilowatch migrate"):
            assert words in refused.value.detail
        Engine(url, connections=1, sync=False).close()  # the program of before starts as ever
        mended = (*MIGRATIONS, (NEXT, "more", (works, works)))
        Engine(url, connections=1, sync=False, migrations=mended).close()
        with pytest.raises(
            Invalid, match=rf"version {NEXT}, which this Kilowatch does not know \(its newest is {NEXT - 1}\)"
        ):
            Engine(url, connections=1, sync=False)
        with pytest.raises(Invalid, match=f"version {NEXT}, which this Kilowatch does not know"):
            Engine(url, connections=1, sync=False, migrate=False)  # as `kilowatch check` does
        drop_history(url, migrations=mended)


class TestTwoVersionsAtOnce:
    def test_the_older_process_goes_on_and_does_not_start_again(
        self, settings: Settings, clock: Clock, tmp_path: Path
    ) -> None:
        with open_world(settings, clock) as world:
            other = Database(settings.resolved_database_url, pool_size=1)
            migrations.upgrade(other, later(tmp_path / "later", ADDS_A_COLUMN))
            other.close()
            metric = world.metric()
            world.send(metric, ("2026-01-05T12:00:00Z", 1.5))
            assert world.admin.get(f"/metrics/{metric}/latest").json()["value"] == 1.5
            assert world.client.get("/health/ready").status_code == 200
            assert world.person("late").get("/me").status_code == 200
        with pytest.raises(Invalid) as refused:
            Kilowatch(settings, clock=clock)
        for words in ("version later", "does not know", "Install that version", "restore the backup"):
            assert words in refused.value.detail

    def test_a_check_says_that_the_schema_is_newer(self, database: Database, tmp_path: Path) -> None:
        migrations.upgrade(database, later(tmp_path / "later", ADDS_A_COLUMN))
        url = database.url.render_as_string(hide_password=False)
        done = kilowatch("check", data_dir=tmp_path / "var", database_url=url)
        assert done.returncode == 1
        assert "version later, which this Kilowatch does not know" in done.stdout


class TestMigrationsSinceTheRelease:
    def test_only_add(self, empty: Database) -> None:
        assert missed(*migrated(empty, migrations.configuration())) == []

    @pytest.mark.parametrize(
        ("statement", "what"),
        [
            ('op.drop_table("audit")', "audit is gone"),
            ('op.drop_column("sites", "notes")', "sites.notes is gone"),
            (
                'op.add_column("sites", sa.Column("later", sa.Integer(), nullable=False))',
                "sites.later is new and has to be given",
            ),
            (
                'op.create_index("ix_sites_name", "sites", ["name"], unique=True)',
                "sites: name must be unique now",
            ),
        ],
    )
    def test_would_be_found_out_if_they_took_away(
        self, empty: Database, tmp_path: Path, statement: str, what: str
    ) -> None:
        assert missed(*migrated(empty, later(tmp_path / "later", statement))) == [what]


@pytest.fixture
def empty(postgres: PostgresServer) -> Iterator[Database]:
    name = _unique("schemas")
    database = Database(postgres.create_database(name), pool_size=1)
    yield database
    database.close()
    postgres.drop_database(name)


def migrated(database: Database, config: Config) -> tuple[Schema, Schema]:
    """The schema of the release, and what the migrations make of it."""
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, RELEASED)
    with database.read() as connection:
        before = schema(connection)
    migrations.upgrade(database, config)
    with database.read() as connection:
        return before, schema(connection)
