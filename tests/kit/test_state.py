"""The catalogue's state on PostgreSQL: another one after each commit, but not after readings were stored."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import text

from kilowatch import migrations
from kilowatch.errors import Unavailable
from kilowatch.history.turns import SharedTurns
from kilowatch.kit.db import Database
from kilowatch.kit.state import Snapshot

Open = Callable[[], Database]


@pytest.fixture
def open_database(postgres_url: str) -> Iterator[Open]:
    opened: list[Database] = []

    def open_() -> Database:
        opened.append(Database(postgres_url, pool_size=10))
        migrations.upgrade(opened[-1])
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


def change(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE users SET name = 'another' WHERE id = -1; SELECT pg_current_xact_id()"))


class TestStamp:
    def test_stays_the_same_while_nothing_is_committed(self, open_database: Open) -> None:
        database = open_database()
        assert database.stamp() == database.stamp()

    def test_is_another_one_after_a_commit_of_any_process(self, open_database: Open) -> None:
        one, two = open_database(), open_database()
        for changing in (one, two):
            before = one.stamp()
            change(changing)
            assert one.stamp() != before

    def test_stays_the_same_while_readings_are_stored_by_any_process(self, open_database: Open) -> None:
        one, two = open_database(), open_database()
        turns = SharedTurns(one, last=0), SharedTurns(two, last=0)
        before = one.stamp()
        for number in range(10):
            with turns[number % 2].take(number) as turn:
                pass
            after = one.stamp()
            assert (after, after.turn) == (before, turn.number)

    def test_is_another_one_after_a_commit_among_turns(self, open_database: Open) -> None:
        one, two = open_database(), open_database()
        turns = SharedTurns(two, last=0)
        before = one.stamp()
        with turns.take(0):
            change(one)
        assert one.stamp() != before

    def test_is_another_one_after_a_commit_that_began_before_many_turns(self, open_database: Open) -> None:
        one, two = open_database(), open_database()
        turns = SharedTurns(two, last=0)
        with one.write() as connection:
            connection.execute(text("SELECT pg_current_xact_id()"))
            for number in range(3):
                with turns.take(number):
                    pass
            before = two.stamp()
            with turns.take(4):
                pass
            assert two.stamp() == before
        assert two.stamp() != before

    def test_of_many_who_ask_at_once_is_of_after_each_of_them_came(self, open_database: Open) -> None:
        database = open_database()
        same: list[bool] = []

        def ask() -> None:
            for _ in range(25):
                before = database.stamp()
                change(database)
                same.append(database.stamp() == before)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert same == [False] * 200

    def test_is_another_one_after_the_connection_was_lost(self, open_database: Open) -> None:
        one, two = open_database(), open_database()
        before = one.stamp()
        with two.write() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        with suppress(Unavailable):  # where the listener has seen it before
            assert one.stamp() != before
        assert one.stamp() == one.stamp()

    def test_can_not_be_had_of_a_server_that_is_away(self) -> None:
        database = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing", pool_size=1)
        for _ in range(2):
            with pytest.raises(Unavailable):
                database.stamp()
        database.close()


class TestSnapshot:
    @pytest.mark.parametrize(
        ("before", "after", "ended"),
        [
            ("10:10:", "10:10:", set()),
            ("10:10:", "12:12:", {10, 11}),
            ("10:13:10,12", "12:14:12", {10, 13}),
            ("10:13:10", "10:13:10", set()),
            ("10:13:10", "10:20:10,15,19", {13, 14, 16, 17, 18}),
            ("10:13:", "9:9:", None),  # another database
            ("10:13:", "5000:5000:", None),  # too much to look at
        ],
    )
    def test_says_what_has_ended_since_another(self, before: str, after: str, ended: set[int] | None) -> None:
        assert Snapshot.parse(after).ended_since(Snapshot.parse(before)) == ended
