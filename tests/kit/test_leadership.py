"""One of several processes leads, and another when it ends."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from kilowatch.kit.db import Database
from kilowatch.kit.leadership import Leadership


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url, pool_size=2)
    yield database
    database.close()


@pytest.fixture
def two(database: Database) -> Iterator[tuple[Leadership, Leadership]]:
    both = Leadership(database, "test"), Leadership(database, "test")
    yield both
    for leadership in both:
        leadership.close()


class TestLeadership:
    def test_is_held_by_one(self, two: tuple[Leadership, Leadership]) -> None:
        one, other = two
        for _ in range(3):
            assert (one.is_held(), other.is_held()) == (True, False)

    def test_passes_on_when_its_holder_ends(self, two: tuple[Leadership, Leadership]) -> None:
        one, other = two
        assert (one.is_held(), other.is_held()) == (True, False)
        one.close()
        assert other.is_held()

    def test_passes_on_when_the_connection_is_lost(
        self, database: Database, two: tuple[Leadership, Leadership]
    ) -> None:
        one, other = two
        assert (one.is_held(), other.is_held()) == (True, False)
        with database.write() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'kilowatch, listening'"
                )
            )
        assert not one.is_held()
        assert [one.is_held(), other.is_held()].count(True) == 1

    def test_of_another_thing_is_another(self, database: Database, two: tuple[Leadership, Leadership]) -> None:
        assert two[0].is_held()
        third = Leadership(database, "something else")
        assert third.is_held()
        third.close()

    def test_is_everyones_on_sqlite(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, pool_size=1)
        assert Leadership(database, "test").is_held()
        assert Leadership(database, "test").is_held()
        database.close()
