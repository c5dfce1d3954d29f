"""What is due again and again, in the one process that leads."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import text

from kilowatch.kit.chores import Chore
from kilowatch.kit.db import Database
from kilowatch.kit.leadership import Leadership
from tests.processes import wait_until

_END_LEADERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'kilowatch, listening'"
)


def chore(
    do: Callable[[Callable[[], bool]], None], database: Database, *, leads: Callable[[bool], object] = bool
) -> Chore:
    log = structlog.get_logger("test")
    return Chore(
        do, Leadership(database, "test"), name="test", every_s=0.01, log=log, waits="waits", fails="fails", leads=leads
    )


class TestAChore:
    def test_is_told_to_stop_when_another_process_may_lead(self, postgres_url: str) -> None:
        """Between two of its steps. It is not led on with before the next look, which takes the lead anew."""
        database = Database(postgres_url, pool_size=2)
        told: list[bool] = []
        asked: list[bool] = []
        done = threading.Event()

        def do(stop: Callable[[], bool]) -> None:
            if not asked:
                asked.append(stop())
                with database.write() as connection:
                    connection.execute(text(_END_LEADERS))
                asked.extend([stop(), stop()])
            else:
                done.set()

        running = chore(do, database, leads=told.append)
        wait_until(done.is_set, "it leads again")
        running.close()
        database.close()
        assert asked == [False, True, True]
        assert told[:3] == [True, False, True]

    def test_is_told_to_stop_when_the_process_ends(self, sqlite_url: str) -> None:
        database = Database(sqlite_url, pool_size=1)
        began, may_end = threading.Event(), threading.Event()
        asked: list[bool] = []

        def do(stop: Callable[[], bool]) -> None:
            began.set()
            may_end.wait(timeout=30)
            asked.append(stop())

        running = chore(do, database)
        assert began.wait(timeout=30)
        closing = threading.Thread(target=running.close)
        closing.start()
        wait_until(running._stopping.is_set, "it is being closed")
        may_end.set()
        closing.join(timeout=30)
        database.close()
        assert asked == [True]
