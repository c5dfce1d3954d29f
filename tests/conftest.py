"""What all tests share: real stores, made afresh for each test, and a small world of people and sites in them.

The catalogue's tests run on SQLite and on a real PostgreSQL; the history is the real embedded engine (one directory a
process, one database in it a test), or also a ClickHouse server where KILOWATCH_TEST_HISTORY_URL names one.
"""

import itertools
import os
import shutil
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import structlog
from argon2 import PasswordHasher
from fastapi.testclient import TestClient
from sqlalchemy import Column, Table, func, select

from kilowatch import migrations
from kilowatch.app import create_app
from kilowatch.auth import secrets
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.history.engine import Engine
from kilowatch.history.folding import WAIT, WATCHED
from kilowatch.history.migrations import MIGRATIONS, Step
from kilowatch.kit.db import Base, Database
from kilowatch.services import Kilowatch
from tests.clickhouse import ClickHouse, serving
from tests.postgres import PostgresServer, start_postgres

SECRET_KEY = "a-key-for-tests-0123456789-abcdefghijklmnop"
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
_numbers = itertools.count(1)

# A developer's own settings, exported for a server, must not reach a test: one that deletes everything would do so in
# the developer's database. (That is also why no test needs to mind them.)
for _name in [name for name in os.environ if name.startswith(("KILOWATCH_", "OTEL_", "PROMETHEUS_"))]:
    if not _name.startswith("KILOWATCH_TEST_"):
        del os.environ[_name]


class Clock:
    """The time, as the application under test has it; it moves only when a test says so."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now
        self._set_by = timedelta()

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)

    def set_by(self, **by: float) -> None:
        """Somebody sets it: no time goes by."""
        self.now += timedelta(**by)
        self._set_by += timedelta(**by)

    def elapsed(self) -> float:
        """In seconds, by another clock that nobody sets."""
        return (self.now - self._set_by).timestamp()


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Argon2 as ever, with the least memory and time: thousands of users are made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """As the application logs them; structlog's default takes seconds for one, and a server waits for it."""
    *_, last = structlog.get_config()["processors"]
    assert isinstance(last, structlog.dev.ConsoleRenderer)
    last.exception_formatter = structlog.dev.plain_traceback


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a migrated PostgreSQL database, to be used as a template."""
    name = _unique("kilowatch_template")
    _migrate(postgres.create_database(name))
    return name


def _migrate(url: str) -> None:
    database = Database(url, pool_size=1)
    migrations.upgrade(database)
    database.close()


_kept_open: dict[str, Engine] = {}
"""The embedded engines by their directory."""


def _unique(stem: str) -> str:
    return f"{stem}_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    copy = tmp_path / "kilowatch.sqlite"
    shutil.copy(sqlite_template, copy)
    return f"sqlite:///{copy}"


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = _unique("kilowatch")
    yield postgres.create_database(name, template=postgres_template)
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database_url(request: pytest.FixtureRequest) -> str:
    """Runs the test on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The catalogue's database. A module overrides this with `any_database_url` to run on both."""
    return sqlite_url


@pytest.fixture(scope="session")
def history_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The one directory that this process may open with the embedded engine.

    It is open all the time: to start the engine takes longer than most tests.
    """
    directory = tmp_path_factory.mktemp("history")
    with _engine(f"chdb://{directory}?database=kept_open") as engine:
        _kept_open[str(directory)] = engine
        yield directory
        del _kept_open[str(directory)]


def _history_engines() -> list[str]:
    return ["embedded", "server"] if os.environ.get("KILOWATCH_TEST_HISTORY_URL") else ["embedded"]


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """A server: the one that KILOWATCH_TEST_HISTORY_URL names, or the embedded engine behind ClickHouse's interface."""
    named = os.environ.get("KILOWATCH_TEST_HISTORY_URL", "").rstrip("/")
    if named:
        yield ClickHouse(named)
    else:
        with serving(tmp_path_factory.mktemp("clickhouse")) as server:
            yield server


def _history_url(request: pytest.FixtureRequest) -> Iterator[str]:
    name = _unique("test")
    if request.param == "embedded":
        url = f"chdb://{request.getfixturevalue('history_directory')}?database={name}"
    else:
        url = f"{request.getfixturevalue('clickhouse').url}/{name}"
    if request.param == "cluster":
        url += f"?cluster={os.environ.get('KILOWATCH_TEST_HISTORY_CLUSTER', 'fleet')}"
    yield url
    drop_history(url)


@pytest.fixture(params=_history_engines())
def history_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The history's engine. A module overrides this with `any_history_url` to run on both."""
    yield from _history_url(request)


@pytest.fixture(params=["embedded", "server"])
def any_history_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with the embedded engine and over the wire."""
    yield from _history_url(request)


@pytest.fixture(params=["embedded", "server", "cluster"])
def every_history_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test with the embedded engine, over the wire, and with what a cluster is told."""
    yield from _history_url(request)


def drop_history(url: str, *, migrations: Sequence[Step] = MIGRATIONS) -> None:
    """Drop a database that a test made."""
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        name = parse_qs(parts.query)["database"][0]
        _kept_open[parts.path].command(f"DROP DATABASE IF EXISTS {name}", {})
    else:
        with _engine(url, migrations) as engine:
            engine.command(f"DROP DATABASE IF EXISTS {parts.path[1:]}", {})


@contextmanager
def _engine(url: str, migrations: Sequence[Step] = MIGRATIONS) -> Iterator[Engine]:
    engine = Engine(url, connections=1, sync=False, migrations=migrations)
    yield engine
    engine.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(database_url: str, history_url: str, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "var",
        database_url=database_url,
        history_url=history_url,
        history_sync=False,
        history_threads=2,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )


# ── people and sites ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Person:
    """A user with an HTTP client that is signed in as them. `id` is 0 for the anonymous."""

    id: int
    email: str
    password: str
    http: httpx2.Client

    def get(self, path: str, **params: Any) -> httpx2.Response:
        return self.http.get(path, params=params or None)

    def post(self, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        return self.http.post(path, json=json, **more) if json is not None else self.http.post(path, **more)

    def patch(self, path: str, json: Any, **more: Any) -> httpx2.Response:
        return self.http.patch(path, json=json, **more)

    def put(self, path: str, json: Any) -> httpx2.Response:
        return self.http.put(path, json=json)

    def delete(self, path: str, **more: Any) -> httpx2.Response:
        return self.http.delete(path, **more)


@dataclass
class World:
    """Two sites, North and South, and one person for each kind of right. Paths are relative to /api/v1.

    `technician` and `standard` have their roles at North; `neighbour` is technician at South; `newcomer` has no grant.
    """

    services: Kilowatch
    client: TestClient
    clock: Clock
    north: int = 0
    south: int = 0
    people: dict[str, Person] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Person:
        try:
            return self.people[name]
        except KeyError:
            raise AttributeError(name) from None

    def person(self, name: str, *, is_admin: bool = False) -> Person:
        """A new user, signed in through the API."""
        email, password = f"{name}@example.org", f"password of {name}"
        user = self.services.accounts.create_user(
            OPERATOR, email=email, name=name.capitalize(), password=password, is_admin=is_admin
        )
        answer = self.client.post("/api/v1/auth/token", data={"username": email, "password": password})
        assert answer.status_code == 200, answer.text
        person = Person(user.id, email, password, self.http(answer.json()["access_token"]))
        self.people[name] = person
        return person

    def http(self, bearer: str | None = None) -> httpx2.Client:
        """A client of the application; with a token or an API key if one is given."""
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return TestClient(self.client.app, base_url="http://testserver/api/v1", headers=headers)

    def site(self, slug: str, **fields: Any) -> int:
        body = {"name": slug.capitalize(), "slug": slug, "timezone": "Europe/Berlin"} | fields
        answer = self.admin.post("/sites", body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def grant(self, person: Person, site_id: int, role: str) -> None:
        answer = self.admin.put(f"/sites/{site_id}/grants/{person.id}", {"role": role})
        assert answer.status_code == 200, answer.text

    def device(self, site_id: int | None = None, **fields: Any) -> dict[str, Any]:
        """A device at North (or another site), by default a generic one with a gauge of power in kW."""
        metric = {"key": "power", "quantity": "power", "unit": "kW"}
        body = {"name": f"Device {next(_numbers)}", "kind": "generic", "metrics": [metric]} | fields
        answer = self.admin.post(f"/sites/{site_id or self.north}/devices", body)
        assert answer.status_code == 201, answer.text
        device: dict[str, Any] = answer.json()
        return device

    def metric(self, site_id: int | None = None, **fields: Any) -> int:
        """The id of a new metric on a device of its own: a gauge of power in kW, unless `fields` say otherwise."""
        metric = {"key": "power", "quantity": "power", "unit": "kW"} | fields
        return int(self.device(site_id, metrics=[metric])["metrics"][0]["id"])

    def send(self, metric: int | str, *readings: tuple[str, float]) -> dict[str, Any]:
        """Readings (time, value) of one metric, sent by the administrator; all of them must be accepted."""
        name = "metric_id" if isinstance(metric, int) else "metric"
        rows = [{name: metric, "timestamp": timestamp, "value": value} for timestamp, value in readings]
        answer = self.admin.post("/readings", {"readings": rows})
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        assert report["rejected"] == 0, report
        return report

    def fold(self) -> None:
        """Until all is folded and deleted that is due, by a process that has watched the clock for long enough."""
        folding = self.services.folding(elapsed=self.clock.elapsed)
        self.clock.now += WATCHED
        for _ in range(3):
            folding.tick()
            self.clock.now += WAIT


@contextmanager
def open_world(settings: Settings, clock: Clock) -> Iterator[World]:
    """The world on these stores; for a module that shares one among its tests."""
    with TestClient(create_app(settings, clock=clock)) as client:
        world = World(client.app.state.services, client, clock)  # type: ignore[attr-defined]  # a FastAPI app
        world.people["anonymous"] = Person(0, "", "", world.http())
        rules, is_empty = _rules(settings, clock), _is_empty(world.services.database)
        if is_empty and rules in _SETTLED:
            _SETTLED[rules].settle(world)
        else:
            _settle(world)
            if is_empty:
                _SETTLED[rules] = _Settled.of(world)
        yield world


def _rules(settings: Settings, clock: Clock) -> Hashable:
    """What the people of a world and their tokens hang on: all but where the stores are."""
    stores = {"data_dir", "database_url", "history_url"}
    return clock(), settings.secret_key or object(), repr(settings.model_dump(exclude=stores))


def _is_empty(database: Database) -> bool:
    """Whether it has no site, as others than a restored one."""
    with database.read() as connection:
        return connection.execute(select(Base.metadata.tables["sites"].c.id).limit(1)).first() is None


def _settle(world: World) -> None:
    world.person("admin", is_admin=True)
    world.north, world.south = world.site("north"), world.site("south")
    for name, site_id, role in (
        ("technician", world.north, "technician"),
        ("standard", world.north, "standard"),
        ("neighbour", world.south, "technician"),
    ):
        world.grant(world.person(name), site_id, role)
    world.person("newcomer")


@dataclass
class _Settled:
    """What a world's catalogue had once people and sites were there. Others like it get the same rows, in no time."""

    rows: dict[Table, list[dict[str, Any]]]
    sites: tuple[int, int]
    people: list[tuple[str, int, str, str, str]]
    """Their names here, ids, emails, passwords and tokens."""

    @classmethod
    def of(cls, world: World) -> "_Settled":
        with world.services.database.read() as connection:
            rows = {
                table: [dict(row) for row in connection.execute(table.select()).mappings()]
                for table in Base.metadata.sorted_tables
                if table.name != "arrival_clock"  # of which the migration has made the only row
            }
        people = [
            (name, person.id, person.email, person.password, person.http.headers["Authorization"].split()[1])
            for name, person in world.people.items()
            if person is not world.anonymous
        ]
        return cls({table: some for table, some in rows.items() if some}, (world.north, world.south), people)

    def settle(self, world: World) -> None:
        with world.services.database.write() as connection:
            for table, rows in self.rows.items():
                connection.execute(table.insert(), rows)
                if connection.dialect.name == "postgresql" and isinstance(table.c.get("id"), Column):
                    sequence = func.pg_get_serial_sequence(table.name, "id")
                    connection.execute(select(func.setval(sequence, max(row["id"] for row in rows))))
        world.north, world.south = self.sites
        for name, user_id, email, password, token in self.people:
            world.people[name] = Person(user_id, email, password, world.http(token))


_SETTLED: dict[Hashable, _Settled] = {}


@pytest.fixture
def world(settings: Settings, clock: Clock) -> Iterator[World]:
    with open_world(settings, clock) as world:
        yield world


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def still_world(
    request: pytest.FixtureRequest,
    sqlite_template: Path,
    history_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """One world for a module and database: for tests of what is refused, and those that make all they need."""
    directory, name = tmp_path_factory.mktemp("still"), _unique("still")
    if request.param == "sqlite":
        url = f"sqlite:///{shutil.copy(sqlite_template, directory / 'kilowatch.sqlite')}"
    else:
        template = request.getfixturevalue("postgres_template")
        url = request.getfixturevalue("postgres").create_database(name, template=template)
    settings = Settings(
        data_dir=directory / "var",
        database_url=url,
        history_url=f"chdb://{history_directory}?database={name}",
        history_sync=False,
        history_threads=2,
        login_attempts=100_000,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    with open_world(settings, Clock()) as world:
        yield world
    if request.param == "postgresql":
        request.getfixturevalue("postgres").drop_database(name)


@pytest.fixture
def services(settings: Settings, clock: Clock) -> Iterator[Kilowatch]:
    """The services alone, without HTTP."""
    with Kilowatch(settings, clock=clock) as services:
        yield services
