"""One at a time, in all processes."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from kilowatch.errors import Unavailable
from kilowatch.kit import db
from kilowatch.kit.db import Database

_SOON = "?options=-c%20statement_timeout%3D200ms"


@pytest.fixture
def database(any_database_url: str) -> Iterator[Database]:
    database = Database(any_database_url, pool_size=2)
    yield database
    database.close()


@pytest.fixture
def impatient(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Another process at the same PostgreSQL, or the same one; it waits for a moment only."""
    monkeypatch.setattr(db, "_ALONE_WITHIN_S", 0.2)
    if database.is_sqlite:
        yield database
    else:
        another = Database(database.url.render_as_string(hide_password=False) + _SOON, pool_size=2)
        yield another
        another.close()


def enters(database: Database, what: str) -> bool:
    """Whether somebody else may be alone at it now."""
    entered: list[bool] = []

    def enter() -> None:
        try:
            with database.alone(what):
                entered.append(True)
        except Unavailable as error:
            assert error.retry_after_s is not None
            assert "at this moment" in error.detail
            entered.append(False)

    other = threading.Thread(target=enter)
    other.start()
    other.join(timeout=30)
    return entered[0]


class TestAlone:
    def test_is_one_at_a_time(self, database: Database, impatient: Database) -> None:
        """Who would wait for long is told to come again."""
        with database.alone("this"):
            assert not enters(impatient, "this")
            assert enters(database, "that")
        assert enters(database, "this")

    def test_ends_where_what_is_done_fails(self, database: Database) -> None:
        with pytest.raises(ZeroDivisionError), database.alone("this"):
            raise ZeroDivisionError
        assert enters(database, "this")


class TestAloneOnPostgres:
    def test_keeps_no_transaction_open(self, postgres_url: str) -> None:
        """Which PostgreSQL could not tidy up behind, however long it takes."""
        database = Database(postgres_url, pool_size=2)
        states = text("SELECT state FROM pg_stat_activity WHERE datname = current_database()")
        with database.alone("this"), database.read() as connection:
            assert sorted(connection.execute(states).scalars()) == ["active", "idle"]
        database.close()

    def test_says_so_when_it_was_lost_meanwhile(self, postgres_url: str) -> None:
        """Somebody else may have gone on."""
        database = Database(postgres_url, pool_size=2)
        end = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with pytest.raises(Unavailable), database.alone("this"), database.write() as connection:
            connection.execute(end)
        assert enters(database, "this")
        database.close()
