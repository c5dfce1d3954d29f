"""A store goes away, or hangs, while readings flow: nothing accepted is lost, and all goes on without a restart."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
from sqlalchemy import make_url

from kilowatch.kit.postgres import KEPT
from tests.processes import wait_until
from tests.resilience.conftest import Fleet, Load

AWAY_WITHIN_S = 15
HANGING_WITHIN_S = 90


@contextmanager
def measured(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s")  # noqa: T201 - for the runbook; shown with -s


def check_that_it_says_so(fleet: Fleet) -> None:
    status, headers, body = fleet.ask("/health/ready")
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "5"), body
    assert fleet.ask("/health/live")[0] == 200


def check_pages_say_so(fleet: Fleet) -> None:
    status, headers, body = fleet.ask("/sites", accept="text/html", authorization="", cookie="kilowatch_session=any")
    assert (status, headers["retry-after"]) == (503, "5")
    assert headers["content-type"].startswith("text/html")
    assert b"A part of Kilowatch does not answer" in body


def check_that_all_goes_on(fleet: Fleet) -> None:
    """At both workers: each connection is taken by either."""
    for _ in range(20):
        assert fleet.server.sign_in()["access_token"]
        assert fleet.ask("/api/v1/sites")[0] == 200
    wait_until(lambda: fleet.leaders() == 1, "one of the workers leads again")


def check_recovery(fleet: Fleet, load: Load, since: str) -> None:
    began = time.monotonic()
    wait_until(lambda: all(sender.accepted_at > began for sender in load.senders), "readings are accepted")
    times = ", ".join(f"{sender.accepted_at - began:.1f}" for sender in load.senders)
    with measured(f"{since}: readings accepted after {times} s; all else"):
        wait_until(lambda: all(fleet.is_ready() for _ in range(20)), "both workers are ready again")
        check_that_all_goes_on(fleet)
    load.wait_for_more()
    load.end()


class TestPostgresAway:
    def test_refuses_in_order_loses_nothing_and_goes_on_by_itself(self, fleet: Fleet) -> None:
        metrics = fleet.metrics(2)
        load = fleet.load(metrics)
        load.start()
        fleet.postgres.crash()
        with measured("PostgreSQL away, until readings are refused"):
            load.wait_for_refusals()
        check_that_it_says_so(fleet)
        check_pages_say_so(fleet)
        fleet.postgres.start_again()
        check_recovery(fleet, load, "PostgreSQL is back")
        load.check(fleet, metrics, refused_within_s=AWAY_WITHIN_S)

    def test_that_hangs_is_waited_for_only_so_long(self, fleet: Fleet) -> None:
        metrics = fleet.metrics(2)
        load = fleet.load(metrics)
        load.start()
        fleet.postgres.hang()
        try:
            with measured("PostgreSQL hangs, until it is not ready"):
                check_that_it_says_so(fleet)
            with measured("PostgreSQL hangs, until readings are refused"):
                load.wait_for_quick_refusals()
            check_pages_say_so(fleet)
        finally:
            fleet.postgres.go_on()
        check_recovery(fleet, load, "PostgreSQL goes on")
        load.check(fleet, metrics, refused_within_s=HANGING_WITHIN_S)


class TestPostgresWithoutConnections:
    def test_refuses_in_order_and_goes_on_once_there_are_some(self, fleet: Fleet) -> None:
        metrics = fleet.metrics(1)
        load = fleet.load(metrics)
        load.start()
        with all_connections_taken(fleet):
            load.wait_for_refusals()
            check_that_it_says_so(fleet)
            check_pages_say_so(fleet)
        check_recovery(fleet, load, "PostgreSQL has connections again")
        load.check(fleet, metrics, refused_within_s=AWAY_WITHIN_S)

    def test_each_worker_keeps_few_of_those_that_it_needed(self, fleet: Fleet) -> None:
        def ask(_number: int) -> int:
            return fleet.ask("/api/v1/sites")[0]

        with ThreadPoolExecutor(40) as crowd:
            assert set(crowd.map(ask, range(400))) == {200}
        listening = 2  # a worker's connection that hears of arrivals, and that which leads or would
        wait_until(lambda: fleet.connections() <= 2 * (KEPT + listening), "the others are let go")


def fleet_connections(connection: psycopg.Connection[Any]) -> int:
    (number,) = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'kilowatch'").fetchall()
    return int(number[0])


@contextmanager
def all_connections_taken(fleet: Fleet) -> Iterator[None]:
    """Those of the workers too: they are ended, and the server's places taken."""
    url = make_url(fleet.postgres.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as taken:
        first = taken.enter_context(psycopg.connect(url, autocommit=True))
        while fleet_connections(first):
            first.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'kilowatch'")
            with suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(psycopg.connect(url))
        yield


class TestClickHouseAway:
    def test_refuses_in_order_loses_nothing_and_goes_on_by_itself(self, fleet: Fleet) -> None:
        metrics = fleet.metrics(2)
        load = fleet.load(metrics)
        load.start()
        fleet.clickhouse.crash()
        with measured("ClickHouse away, until readings are refused"):
            load.wait_for_refusals()
        check_that_it_says_so(fleet)
        assert fleet.ask("/api/v1/sites")[0] == 200  # for which the catalogue is enough
        fleet.clickhouse.start()
        check_recovery(fleet, load, "ClickHouse is back")
        load.check(fleet, metrics, refused_within_s=AWAY_WITHIN_S)

    def test_that_hangs_is_waited_for_only_so_long(self, fleet: Fleet) -> None:
        metrics = fleet.metrics(2)
        load = fleet.load(metrics)
        load.start()
        fleet.clickhouse.hang()
        try:
            with measured("ClickHouse hangs, until it is not ready"):
                check_that_it_says_so(fleet)
            with measured("ClickHouse hangs, until readings are refused"):
                load.wait_for_quick_refusals()
            assert fleet.ask("/api/v1/sites")[0] == 200
        finally:
            fleet.clickhouse.go_on()
        check_recovery(fleet, load, "ClickHouse goes on")
        # An insert that we gave up may be done by the server all the same, after it was sent again.
        load.check(fleet, metrics, refused_within_s=HANGING_WITHIN_S, may_be_told_twice=True)
