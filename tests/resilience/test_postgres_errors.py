"""What PostgreSQL says when it can't go on, told by itself: each is an answer to come again, and no fault of ours."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from kilowatch.errors import Unavailable
from kilowatch.kit.db import Database


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url, pool_size=1)
    yield database
    database.close()


class TestAnErrorOfPostgres:
    @pytest.mark.parametrize(
        "state",
        [
            pytest.param("53100", id="disk full"),
            pytest.param("53200", id="out of memory"),
            pytest.param("53300", id="too many connections"),
            pytest.param("57014", id="a statement took too long"),
            pytest.param("57P01", id="ended by an administrator"),
            pytest.param("58030", id="the disk can't be read"),
            pytest.param("55P03", id="somebody's lock was waited for too long"),
            pytest.param("40P01", id="a deadlock"),
        ],
    )
    def test_that_passes_is_told_as_that(self, database: Database, state: str) -> None:
        with pytest.raises(Unavailable) as told, database.write() as connection:
            connection.execute(text("INSERT INTO erasures VALUES (7, now())"))
            connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{state}'; END $$"))
        assert told.value.retry_after_s == 5
        with database.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM erasures")).scalar_one() == 0

    def test_that_it_takes_no_changes_is_told_as_that(self, database: Database) -> None:
        with pytest.raises(Unavailable), database.write() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))  # as all are after a change of roles
            connection.execute(text("INSERT INTO erasures VALUES (7, now())"))

    def test_each_connection_has_the_limits_that_the_runbook_names(self, database: Database) -> None:
        with database.read() as connection:
            limits = [
                connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("statement_timeout", "idle_in_transaction_session_timeout")
            ]
        assert limits == ["15s", "1min"]
        with database.migrating() as connection:
            assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"
