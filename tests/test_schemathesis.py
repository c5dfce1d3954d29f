"""Schemathesis against a server of its own: all its checks, the same requests each time, and nothing found."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx2
import pytest

from kilowatch import migrations
from kilowatch.kit.db import Database

PROGRAMS = Path(sys.executable).parent
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EMAIL, PASSWORD = "tester@example.org", "correct horse battery"
FIRST_USER_ID = 1_000_000
"""Far from the ids that Schemathesis thinks of, so that it does not delete the one that it is."""


class Server:
    """A real `kilowatch serve` on a free loopback port, with an administrator and a few things to find."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.environment = os.environ | {
            "KILOWATCH_DATA_DIR": str(directory),
            "KILOWATCH_HISTORY_SYNC": "false",
            "KILOWATCH_LOG_LEVEL": "error",
            "KILOWATCH_LOGIN_ATTEMPTS": "1000000",
        }
        self._make_administrator(directory / "kilowatch.sqlite")
        self.log = (directory / "server.log").open("w+")
        self.process = subprocess.Popen(
            [str(PROGRAMS / "kilowatch"), "serve", "--port", self.url.rpartition(":")[2]],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )

    def _make_administrator(self, path: Path) -> None:
        database = Database(f"sqlite:///{path}", pool_size=1)
        migrations.upgrade(database)
        database.close()
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('users', ?)", (FIRST_USER_ID,))
        connection.close()
        command = [str(PROGRAMS / "kilowatch"), "user", "create", EMAIL, "--admin", "--password-stdin"]
        subprocess.run(command, input=f"{PASSWORD}\n", text=True, env=self.environment, check=True, capture_output=True)

    def wait(self) -> None:
        until = monotonic() + 60
        with httpx2.Client(base_url=self.url) as client:
            while True:
                assert self.process.poll() is None, Path(self.log.name).read_text()
                try:
                    if client.get("/health/ready").status_code == 200:
                        return
                except httpx2.TransportError:
                    assert monotonic() < until, "the server does not answer"

    def key(self) -> str:
        """An API key of the administrator, which outlives whatever becomes of sign-ins."""
        with httpx2.Client(base_url=f"{self.url}/api/v1") as client:
            tokens = client.post("/auth/token", data={"username": EMAIL, "password": PASSWORD}).json()
            client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
            client.post("/sites", json={"name": "Home"})
            client.post("/sites/1/devices", json={"name": "Roof", "kind": "pv_array"})
            client.post("/subscriptions", json={"name": "Mine", "metric_ids": [1, 2]})
            key: str = client.post("/me/api-keys", json={"name": "schemathesis"}).json()["key"]
            return key

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    key = server.key()
    command = [
        str(PROGRAMS / "schemathesis"),
        "--config-file",
        str(CONFIGURATION),
        "run",
        f"{server.url}/api/v1/openapi.json",
        "--header",
        f"Authorization: Bearer {key}",
        "--checks",
        "all",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--continue-on-failure",
        "--no-color",
    ]
    run = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False, timeout=400)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    tested = re.search(r"Tested: (\d+)", run.stdout)
    assert tested is not None, run.stdout
    assert int(tested.group(1)) >= 45
    # were it not so, most answers would have been 401, and the run would prove nothing
    with httpx2.Client(headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get(f"{server.url}/api/v1/users").status_code == 200
