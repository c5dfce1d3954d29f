"""Kilowatch as it is deployed: nginx over TLS, before a server of several workers on PostgreSQL and ClickHouse."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from kilowatch.pages.static import write
from tests.clickhouse import ClickHouse
from tests.conftest import SECRET_KEY, _unique, drop_history
from tests.deploy.nginx import Nginx
from tests.postgres import PostgresServer, start_own_postgres
from tests.processes import PASSWORD, Server, kilowatch


@dataclass
class Deployment:
    """All parts, and an administrator's token."""

    server: Server
    nginx: Nginx
    postgres: PostgresServer
    clickhouse: ClickHouse
    token: str = ""
    metric: int = 0

    @property
    def address(self) -> str:
        return f"https://localhost:{self.nginx.https_port}"

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self, *, http2: bool = False, **more: object) -> httpx2.Client:
        """One that believes our certificate alone."""
        return httpx2.Client(base_url=self.address, verify=self.nginx.trust, http2=http2, timeout=60, **more)  # type: ignore[arg-type]  # handed on


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    with start_own_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(
    own_postgres: PostgresServer, clickhouse: ClickHouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    directory, name = tmp_path_factory.mktemp("deployment"), _unique("deployment")
    history_url = f"{clickhouse.url}/{name}"
    settings = {
        "database_url": own_postgres.create_database(name),
        "history_url": history_url,
        "history_sync": "false",
        "secret_key": SECRET_KEY,
        "log_level": "info",
    }
    (directory / "password").write_text(PASSWORD)
    init = ("init", "--admin", "admin@example.org", "--password-file", str(directory / "password"))
    done = kilowatch(*init, data_dir=directory / "var", **settings)
    assert done.returncode == 0, done.stderr
    server = Server(directory / "var", directory / "server.log", settings=settings, command=("serve", "--workers", "2"))
    server.start()
    write(directory / "public")
    nginx = Nginx(directory, server.port)
    try:
        nginx.start()
        deployment = Deployment(server, nginx, own_postgres, clickhouse, server.sign_in()["access_token"])
        deployment.metric = server.make_metric(deployment.token)
        yield deployment
    finally:
        nginx.stop()
        server.end(signal.SIGTERM)
        drop_history(history_url)


@pytest.fixture
def log(deployment: Deployment) -> Path:
    """The application's log, emptied."""
    deployment.server.log.write_text("")
    return deployment.server.log
