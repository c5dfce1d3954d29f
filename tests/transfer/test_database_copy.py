"""The catalogue from one database to another: the same things, of the same types, and able to grow."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kilowatch import migrations
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.errors import Invalid, KilowatchError
from kilowatch.kit.db import Database
from kilowatch.transfer import catalogue
from tests.conftest import Clock, World, open_world
from tests.postgres import PostgresServer
from tests.processes import kilowatch


@contextmanager
def opened(url: str) -> Iterator[Database]:
    with closing(Database(url, pool_size=2)) as database:
        yield database


def content(url: str) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with opened(url) as database, database.read() as connection:
        return {
            table.name: [
                dict(zip(table.columns.keys(), json.loads(line), strict=True))
                for lines in catalogue.lines_of(connection, table)
                for line in lines
            ]
            for table in catalogue.tables_of(connection)
        }


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    yield postgres.create_database("kilowatch_copy")
    postgres.drop_database("kilowatch_copy")


@pytest.fixture
def used(settings: Settings, clock: Clock) -> Settings:
    """Settings of stores with something of everything, and of what is gone."""
    with open_world(settings, clock) as world:
        fill(world)
    return settings


def fill(world: World) -> None:
    clock = world.clock
    clock.now = clock.now.replace(microsecond=123_456)
    metric = world.metric(max_gap_s=7)
    world.metric(name="Größe ° 電力", valid_min=-1e300, valid_max=0.1)
    world.device(kind="battery", metrics=None, commissioned_on="2024-02-29", serial_number="ABC")
    world.send(metric, ("2026-01-05T11:00:00Z", 1.5), ("2026-01-05T11:30:00Z", 2.5))
    gone = world.device()["id"]
    assert world.admin.delete(f"/devices/{gone}").status_code == 200
    for person in (world.admin, world.standard):
        assert person.post("/subscriptions", {"name": "Mine", "metric_ids": [metric]}).status_code == 201
    key = {"name": "gateway", "scopes": ["ingest"], "expires_at": "2027-01-01T00:00:00+02:00"}
    assert world.admin.post("/me/api-keys", key, headers={"Idempotency-Key": "once"}).status_code == 201
    window = {"start": "2026-01-05T11:00:00Z", "end": "2026-01-05T11:10:00Z"}
    assert world.admin.http.delete(f"/metrics/{metric}/readings", params=window).status_code == 200


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


class TestCopy:
    def test_of_a_copy_is_the_original(self, used: Settings, empty_postgres_url: str, tmp_path: Path) -> None:
        there, back = empty_postgres_url, f"sqlite:///{tmp_path / 'back.sqlite'}"
        source = used.resolved_database_url
        with opened(source) as first, opened(there) as second, opened(back) as third:
            catalogue.copy_database(first, second)
            copied = catalogue.copy_database(second, third)
            assert sum(one.target.rows for one in copied) == catalogue.count_rows(first) > 40
        assert content(there) == content(source)
        assert content(back) == content(source)
        with closing(sqlite3.connect(tmp_path / "back.sqlite")) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_goes_on_where_the_original_was(
        self, used: Settings, empty_postgres_url: str, tmp_path: Path, clock: Clock
    ) -> None:
        """Everybody signs in, and ids of what is gone are not given again."""
        highest = max(row["id"] for row in content(used.resolved_database_url)["metrics"])
        target = (
            f"sqlite:///{tmp_path / 'other.sqlite'}" if "postgres" in str(used.database_url) else empty_postgres_url
        )
        with opened(used.resolved_database_url) as source, opened(target) as other:
            catalogue.copy_database(source, other)
        with open_copy(used.model_copy(update={"database_url": target}), clock) as world:
            made = world.metric()
            assert made == highest + 2  # the device that was deleted had one
            assert (
                world.services.accounts.create_user(
                    OPERATOR, email="new@example.org", name="New", password="a long password", is_admin=False
                ).id
                == 6
            )
            assert world.admin.get("/sites").json()["items"][0]["slug"] == "north"

    def test_is_refused_where_something_is_and_changes_nothing(self, used: Settings, empty_postgres_url: str) -> None:
        with opened(used.resolved_database_url) as source, opened(empty_postgres_url) as target:
            catalogue.copy_database(source, target)
            before = content(empty_postgres_url)
            with pytest.raises(Invalid, match="TO has a catalogue already"):
                catalogue.copy_database(source, target)
        assert content(empty_postgres_url) == before

    def test_of_another_version_is_refused(self, empty_postgres_url: str, tmp_path: Path, used: Settings) -> None:
        old = f"sqlite:///{tmp_path / 'old.sqlite'}"
        with opened(old) as source, opened(empty_postgres_url) as target:
            with source.migrating() as connection:
                migrations.upgrade_within(connection, "0003")
            with pytest.raises(Invalid, match="kilowatch migrate"):
                catalogue.copy_database(source, target)
            # Empty tables of another version are made anew.
            with target.migrating() as connection:
                migrations.upgrade_within(connection, "0003")
            with opened(used.resolved_database_url) as newest:
                catalogue.copy_database(newest, target)
        assert content(empty_postgres_url) == content(used.resolved_database_url)

    def test_a_row_that_is_refused_leaves_nothing_behind(self, empty_postgres_url: str, sqlite_url: str) -> None:
        with opened(sqlite_url) as source, opened(empty_postgres_url) as target:
            with source.write() as connection:
                connection.execute(
                    text(
                        "INSERT INTO sites (name, slug, timezone, created_at) "
                        "VALUES (:name, 'long', 'UTC', '2026-01-05 12:00:00.000000')"
                    ),
                    {"name": "x" * 500},  # which SQLite does not mind
                )
            with pytest.raises(Invalid, match="`sites` is refused"):
                catalogue.copy_database(source, target)
        with opened(empty_postgres_url) as target, target.read() as connection:
            assert catalogue.tables_of(connection) == []


class TestCommand:
    def test_copies_and_says_what(self, used: Settings, tmp_path: Path) -> None:
        target = f"sqlite:///{tmp_path / 'target.sqlite'}"
        done = kilowatch("database", "copy", used.resolved_database_url, target, data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "sites" in done.stdout
        assert content(target) == content(used.resolved_database_url)
        again = kilowatch("database", "copy", used.resolved_database_url, target, data_dir=tmp_path)
        said = [line for line in again.stderr.splitlines() if "--from-password-file" not in line]
        assert (again.returncode, len(said)) == (1, 1)
        assert "TO has a catalogue already" in again.stderr

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("sqlite:///{}/none.sqlite", "FROM: there is no catalogue at"),
            ("nonsense", "FROM is no URL"),
            ("postgresql+psycopg://nobody@127.0.0.1:1/none", "FROM"),
        ],
    )
    def test_refuses_a_source_that_is_not_there(self, tmp_path: Path, source: str, said: str) -> None:
        target = f"sqlite:///{tmp_path / 'target.sqlite'}"
        done = kilowatch("database", "copy", source.format(tmp_path), target, data_dir=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert said in done.stderr
        assert not (tmp_path / "none.sqlite").exists()


@contextmanager
def open_copy(settings: Settings, clock: Clock) -> Iterator[World]:
    """The world of before, on other stores: its administrator signs in with the old password."""
    from fastapi.testclient import TestClient

    from kilowatch.app import create_app
    from tests.conftest import Person

    with TestClient(create_app(settings, clock=clock)) as client:
        world = World(client.app.state.services, client, clock)  # type: ignore[attr-defined]  # a FastAPI app
        for name in ("admin", "standard", "technician"):
            email, password = f"{name}@example.org", f"password of {name}"
            answer = client.post("/api/v1/auth/token", data={"username": email, "password": password})
            if answer.status_code != 200:
                raise KilowatchError(answer.text)
            world.people[name] = Person(0, email, password, world.http(answer.json()["access_token"]))
        world.north = world.admin.get("/sites").json()["items"][0]["id"]
        yield world
