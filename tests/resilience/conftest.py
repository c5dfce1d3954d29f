"""Two workers on stores of their own, which the tests of a module take away and give back."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

import psycopg
import pytest
from sqlalchemy import make_url

from tests.clickhouse import OwnClickHouse
from tests.conftest import SECRET_KEY
from tests.postgres import PostgresServer, start_own_postgres
from tests.processes import PASSWORD, Server, kilowatch, wait_until
from tests.resilience.load import Follower, Sender


@dataclass
class Fleet:
    """A server of two workers, both of its stores, and an administrator's token."""

    server: Server
    postgres: PostgresServer
    clickhouse: OwnClickHouse
    token: str
    sites: int = 0

    def metrics(self, count: int) -> list[int]:
        """New ones, each at a site of its own."""
        self.sites += count
        return [self.server.make_metric(self.token, site=f"Site {self.sites - at}") for at in range(count)]

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.server.ask("GET", path, headers={"Authorization": f"Bearer {self.token}", **headers})

    def is_ready(self) -> bool:
        return self.ask("/health/ready")[0] == 200

    def values(self, metric: int) -> list[float]:
        window = "start=2026-01-05T00:00:00Z&end=2026-01-06T00:00:00Z&resolution=raw"
        status, _, body = self.ask(f"/api/v1/metrics/{metric}/history?{window}")
        assert status == 200, body
        found: list[float] = json.loads(body)["series"][0]["values"]
        return found

    def leaders(self) -> int:
        """How many hold a lock for as long as they are connected."""
        return self._count("pg_locks WHERE locktype = 'advisory' AND granted")

    def connections(self) -> int:
        """How many the workers have to their database."""
        return self._count("pg_stat_activity WHERE datname = 'kilowatch'")

    def _count(self, what: LiteralString) -> int:
        url = make_url(self.postgres.url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url) as connection:
            row = connection.execute(f"SELECT count(*) FROM {what}").fetchone()
        assert row is not None
        return int(row[0])

    def load(self, metrics: list[int]) -> "Load":
        return Load(
            [Sender(self.server.port, self.token, metric) for metric in metrics],
            Follower(self.server.port, self.token, metrics),
        )


@dataclass
class Load:
    senders: list[Sender]
    follower: Follower

    def start(self) -> None:
        self.follower.start()
        assert self.follower.listens.wait(60)
        for sender in self.senders:
            sender.start()
        self.wait_for_more()

    def wait_for_more(self) -> None:
        """Until each sender had some more readings accepted."""
        enough = [len(sender.accepted) + 10 for sender in self.senders]
        wait_until(
            lambda: all(len(one.accepted) >= most for one, most in zip(self.senders, enough, strict=True)),
            "more readings are accepted",
        )

    def wait_for_refusals(self, number: int = 3) -> None:
        enough = [len(sender.refusals) + number for sender in self.senders]
        wait_until(
            lambda: all(len(one.refusals) >= most for one, most in zip(self.senders, enough, strict=True)),
            "readings are refused",
        )

    def wait_for_quick_refusals(self) -> None:
        """Until each sender was refused, and one of them in a small part of the time that the longest took."""

        def are_quick() -> bool:
            took = [[refusal.after_s for refusal in one.refusals] for one in self.senders]
            return all(took) and min(map(min, took)) < max(map(max, took)) / 10

        wait_until(are_quick, "readings are refused without waiting")

    def end(self) -> None:
        for sender in self.senders:
            sender.end()

    def check(
        self, fleet: Fleet, metrics: list[int], *, refused_within_s: float, may_be_told_twice: bool = False
    ) -> None:
        """Every refusal was in order and in time; all that was accepted is stored, and was told once."""
        for sender, metric in zip(self.senders, metrics, strict=True):
            assert [refusal for refusal in sender.refusals if not refusal.is_in_order] == []
            assert max(refusal.after_s for refusal in sender.refusals) < refused_within_s
            assert fleet.values(metric) == sender.accepted
        told = self.follower.told
        wait_until(
            lambda: all(
                told[metric][-1:] == one.accepted[-1:] for metric, one in zip(metrics, self.senders, strict=True)
            ),
            "the last readings are told",
        )
        self.follower.end()
        if may_be_told_twice:
            told = {metric: list(dict.fromkeys(values)) for metric, values in told.items()}
        assert [told[metric] for metric in metrics] == [sender.accepted for sender in self.senders]
        assert self.follower.statuses <= {200, 503}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    clickhouse = OwnClickHouse(folder / "clickhouse")
    with start_own_postgres() as postgres:
        settings = {
            "database_url": postgres.create_database("kilowatch"),
            "history_url": f"{clickhouse.url}/kilowatch",
            "secret_key": SECRET_KEY,
            "log_level": "warning",
        }
        user = ("user", "create", "admin@example.org", "--admin", "--password-stdin")
        done = kilowatch(*user, data_dir=folder / "var", stdin=PASSWORD, **settings)
        assert done.returncode == 0, done.stderr
        server = Server(folder / "var", folder / "log", settings=settings, command=("serve", "--workers", "2")).start()
        yield Fleet(server, postgres, clickhouse, server.sign_in()["access_token"])
        assert server.end(signal.SIGTERM) == 0
    clickhouse.crash()
