"""A standby of PostgreSQL that takes reads, and never answers with less than the database itself."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from kilowatch.errors import Invalid
from kilowatch.kit.db import Database
from tests.postgres import PostgresServer
from tests.processes import wait_until

IS_REPLICA = text("SELECT pg_is_in_recovery()")


@pytest.fixture(scope="module")
def standby(postgres: PostgresServer) -> Iterator[PostgresServer]:
    if not postgres.is_ours:
        pytest.skip("a server that was not started here can't be copied")
    with postgres.start_standby() as server:
        yield server


@pytest.fixture
def database(postgres_url: str, standby: PostgresServer) -> Iterator[Database]:
    database = Database(postgres_url, pool_size=2, replica_url=standby.database_url(postgres_url.rpartition("/")[2]))
    with database.write() as connection:
        connection.execute(text("CREATE TABLE kept (number int)"))
    yield database
    database.close()


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT number FROM kept ORDER BY number")).scalars())


def replay(standby: PostgresServer, *, on: bool) -> None:
    standby.execute(f"SELECT pg_wal_replay_{'resume' if on else 'pause'}()")


class TestAReplica:
    def test_is_asked_once_it_has_all(self, database: Database) -> None:
        for number in range(100):
            with database.write() as connection:
                connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})
            with database.read_anywhere() as connection:
                assert numbers(connection) == list(range(number + 1))

        def is_asked() -> bool:
            with database.read_anywhere() as connection:
                assert len(numbers(connection)) == 100
                return bool(connection.execute(IS_REPLICA).scalar_one())

        wait_until(is_asked, "the replica is asked")

    def test_that_lags_is_not_asked(self, database: Database, standby: PostgresServer) -> None:
        replay(standby, on=False)
        try:
            with database.write() as connection:
                connection.execute(text("INSERT INTO kept VALUES (1)"))
            with database.read_anywhere() as connection:
                assert numbers(connection) == [1]
                assert not connection.execute(IS_REPLICA).scalar_one()
        finally:
            replay(standby, on=True)

    def test_of_sqlite_there_is_none(self, sqlite_url: str) -> None:
        with pytest.raises(Invalid, match="KILOWATCH_DATABASE_REPLICA_URL"):
            Database(sqlite_url, pool_size=1, replica_url="postgresql+psycopg://nobody@127.0.0.1:1/nothing")

    def test_that_is_away_or_none_is_not_missed(self, postgres_url: str) -> None:
        for url in ("postgresql+psycopg://nobody@127.0.0.1:1/nothing", postgres_url):
            database = Database(postgres_url, pool_size=2, replica_url=url)
            with database.read_anywhere() as connection:
                assert connection.execute(text("SELECT 1")).scalar_one() == 1
            database.close()
