"""Schemathesis against a server of its own: all its checks, the same requests each time, and nothing found."""

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.processes import Server, create_admin, kilowatch

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
FIRST_USER_ID = 1_000_000
"""Far from the ids that Schemathesis thinks of, so that it does not delete the one that it is."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with an administrator."""
    data_dir = tmp_path / "var"
    assert kilowatch("migrate", data_dir=data_dir).returncode == 0
    with sqlite3.connect(data_dir / "kilowatch.sqlite") as connection:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('users', ?)", (FIRST_USER_ID,))
    connection.close()
    create_admin(data_dir)
    settings = {"history_sync": "false", "log_level": "error", "login_attempts": "1000000"}
    server = Server(data_dir, tmp_path / "server.log", settings=settings).start()
    yield server
    assert server.end(signal.SIGTERM) == 0


def furnish(server: Server) -> str:
    """A few things to find; and an API key of the administrator, which outlives whatever becomes of sign-ins."""
    token = server.sign_in()["access_token"]
    server.send("POST", "/sites", {"name": "Home"}, token)
    server.send("POST", "/sites/1/devices", {"name": "Roof", "kind": "pv_array"}, token)
    server.send("POST", "/subscriptions", {"name": "Mine", "metric_ids": [1, 2]}, token)
    key: str = server.send("POST", "/me/api-keys", {"name": "schemathesis"}, token)["key"]
    return key


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    key, url = furnish(server), f"http://127.0.0.1:{server.port}"
    command = [
        str(SCHEMATHESIS),
        "--config-file",
        str(CONFIGURATION),
        "run",
        f"{url}/api/v1/openapi.json",
        "--header",
        f"Authorization: Bearer {key}",
        "--checks",
        "all",
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--continue-on-failure",
        "--no-color",
    ]
    run = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False, timeout=180)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    tested = re.search(r"Tested: (\d+)", run.stdout)
    assert tested is not None, run.stdout
    assert int(tested.group(1)) >= 45
    # were it not so, most answers would have been 401, and the run would prove nothing
    with httpx2.Client(headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get(f"{url}/api/v1/users").status_code == 200
