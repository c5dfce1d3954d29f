"""A standby of PostgreSQL that takes reads, and never answers with less than the database itself."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from psycopg import sql
from sqlalchemy import Connection, text

from kilowatch.errors import Invalid
from kilowatch.kit.db import Database
from tests.postgres import PostgresServer
from tests.processes import wait_until


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


def is_replica(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one())


def replay(standby: PostgresServer, *, on: bool) -> None:
    standby.execute(f"SELECT pg_wal_replay_{'resume' if on else 'pause'}()")


class TestAReplica:
    def test_is_asked_once_it_has_all(self, database: Database) -> None:
        for number in range(100):
            with database.write() as connection:
                connection.execute(text("INSERT INTO kept VALUES (:number)"), {"number": number})
            assert database.ask_anywhere(numbers) == list(range(number + 1))

        def is_asked(connection: Connection) -> bool:
            assert len(numbers(connection)) == 100
            return is_replica(connection)

        wait_until(lambda: database.ask_anywhere(is_asked), "the replica is asked")

    def test_answers_from_one_state_with_one_connection(self, database: Database) -> None:
        def counts(connection: Connection) -> tuple[bool, int, int]:
            before = len(numbers(connection))
            with database.write() as writing:
                writing.execute(text("INSERT INTO kept VALUES (1)"))
            assert database.connections()["replica"][0] == is_replica(connection)
            return is_replica(connection), before, len(numbers(connection))

        def is_asked() -> bool:
            by_replica, before, after = database.ask_anywhere(counts)
            assert before == after
            return by_replica

        wait_until(is_asked, "the replica is asked")

    def test_that_ends_or_takes_a_question_back_is_left_and_the_question_asked_again(
        self, database: Database, standby: PostgresServer
    ) -> None:
        def end_it(pid: int) -> None:
            standby.execute(sql.SQL("SELECT pg_terminate_backend({})").format(pid))

        def be_in_the_way(_pid: int) -> None:
            """What was read is changed, and the standby does not wait for who reads it."""
            with database.write() as connection:
                connection.execute(text("ALTER TABLE kept ADD COLUMN IF NOT EXISTS more int"))

        standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        standby.execute("SELECT pg_reload_conf()")
        for happens in (end_it, be_in_the_way):
            asked: list[bool] = []

            def question(connection: Connection, happens: Callable[[int], None], asked: list[bool]) -> list[int]:
                asked.append(is_replica(connection))
                found = numbers(connection)
                if asked == [True]:
                    happens(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                    wait_until(lambda: connection.execute(text("SELECT 1")).one() is None, "it fails")
                return found

            def is_asked(happens: Callable[[int], None], asked: list[bool]) -> bool:
                asked.clear()
                assert database.ask_anywhere(partial(question, happens=happens, asked=asked)) == []
                return asked[0]

            wait_until(partial(is_asked, happens, asked), "the replica is asked")
            assert asked == [True, False]
            assert not database.ask_anywhere(is_replica)
            database._replica._again_at = 0  # type: ignore[union-attr]  # a while later

    def test_that_lags_is_not_asked(self, database: Database, standby: PostgresServer) -> None:
        replay(standby, on=False)
        try:
            with database.write() as connection:
                connection.execute(text("INSERT INTO kept VALUES (1)"))
            assert database.ask_anywhere(numbers) == [1]
            assert not database.ask_anywhere(is_replica)
        finally:
            replay(standby, on=True)

    def test_of_sqlite_there_is_none(self, sqlite_url: str) -> None:
        with pytest.raises(Invalid, match="KILOWATCH_DATABASE_REPLICA_URL"):
            Database(sqlite_url, pool_size=1, replica_url="postgresql+psycopg://nobody@127.0.0.1:1/nothing")

    def test_that_is_away_or_none_is_not_missed(self, postgres_url: str) -> None:
        for url in ("postgresql+psycopg://nobody@127.0.0.1:1/nothing", postgres_url):
            database = Database(postgres_url, pool_size=2, replica_url=url)
            assert not database.ask_anywhere(is_replica)
            database.close()
