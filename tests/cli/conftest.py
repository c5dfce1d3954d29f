"""What the tests of the command line share: a place to run commands in."""

import csv
import io
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import PASSWORD, Server, create_admin, kilowatch

WINDOW = ("--start", "2026-01-05T10:00:00Z", "--end", "2026-01-05T11:00:00Z")


class Place:
    """A data directory with an administrator, a site and two metrics, made once and used by tests one after another."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "var"
        create_admin(self.data_dir)
        server = Server(self.data_dir, directory / "server.log").start()
        token = server.sign_in()["access_token"]
        self.metric_id = server.make_metric(token)
        generic = {"name": "Counter", "kind": "generic"}
        counter = {"key": "energy", "quantity": "energy", "unit": "kWh", "behaviour": "counter"}
        device = server.send("POST", "/sites/1/devices", generic | {"metrics": [counter]}, token)
        self.counter_id = device["metrics"][0]["id"]
        reader = {"email": "reader@example.org", "name": "Reader", "password": PASSWORD}
        server.send("POST", "/users", reader, token)
        server.send("PUT", "/sites/1/grants/2", {"role": "standard"}, token)
        own = server.sign_in("reader@example.org")["access_token"]
        both = {"name": "Both", "metric_ids": [self.metric_id, self.counter_id]}
        self.subscription_id = server.send("POST", "/subscriptions", both, own)["id"]
        assert server.end(signal.SIGTERM) == 0

    def run(self, *arguments: object, stdin: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
        return kilowatch(*map(str, arguments), data_dir=self.data_dir, stdin=stdin, **settings)

    def exported(self, *options: object) -> list[dict[str, str]]:
        done = self.run("export", *options)
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def refused(done: "subprocess.CompletedProcess[str]", *words: str, status: int = 1) -> None:
    """The command failed, with one line that says these words."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def filled(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The place with an hour of readings of both metrics, one a second."""
    path = tmp_path_factory.mktemp("fill") / "hour.csv"
    times = [f"2026-01-05T10:{second // 60:02}:{second % 60:02}Z" for second in range(3600)]
    lines = [f"{place.metric_id},{time},{n % 7 / 3!r}" for n, time in enumerate(times)]
    lines += [f"{place.counter_id},{time},{n * 0.1!r}" for n, time in enumerate(times)]
    path.write_text("\n".join(["metric_id,timestamp,value", *lines]))
    assert place.run("import", path).returncode == 0
    yield place
