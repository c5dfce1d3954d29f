"""No space for an embedded history and SQLite: nothing is half stored, and it goes on when there is space."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Server, create_admin
from tests.resilience.load import Refusal

SIZE_MB = 48
BATCH = 20_000


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own; only root may have one."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def server(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    create_admin(small_disk / "var")
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = Server(small_disk / "var", log, settings={"log_level": "warning"}).start()
    yield server
    assert server.end(signal.SIGTERM) == 0


def send(server: Server, token: str, metric: int, batch: int) -> Refusal | None:
    times = [f"2026-01-05T{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.{batch:03}Z" for at in range(BATCH)]
    values = [at * 1.000001 + batch for at in range(BATCH)]
    body = json.dumps({"series": [{"metric_id": metric, "timestamps": times, "values": values}]})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    status, answered, text = server.ask("POST", "/api/v1/readings", body, headers)
    if status == 200:
        assert json.loads(text)["accepted"] == BATCH
        return None
    return Refusal(status, answered, text.decode(), 0)


def stored(server: Server, token: str, metric: int) -> int:
    window = "start=2026-01-05T00:00:00Z&end=2026-01-06T00:00:00Z&resolution=1d&aggregate=count"
    headers = {"Authorization": f"Bearer {token}"}
    status, _, body = server.ask("GET", f"/api/v1/metrics/{metric}/history?{window}", headers=headers)
    assert status == 200, body
    return int(json.loads(body)["series"][0]["values"][0])


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


class TestADiskWithoutSpace:
    def test_refuses_readings_and_changes_and_goes_on_when_there_is_space(
        self, server: Server, small_disk: Path
    ) -> None:
        token = server.sign_in()["access_token"]
        metric = server.make_metric(token)
        assert send(server, token, metric, 0) is None
        fill(small_disk / "filler")

        for batch in (1, 2, 3):
            refusal = send(server, token, metric, batch)
            assert refusal is not None
            assert refusal.is_in_order, refusal
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        sites = [json.dumps({"name": f"Site {at}", "timezone": "UTC", "notes": "x" * 2000}) for at in range(40)]
        answers = [server.ask("POST", "/api/v1/sites", site, headers) for site in sites]
        refused = [Refusal(status, given, body.decode(), 0) for status, given, body in answers if status != 201]
        assert refused  # the log of SQLite may have had some space of its own, but not so much
        assert all(refusal.is_in_order for refusal in refused)
        assert server.ask("GET", "/health/live")[0] == 200
        assert stored(server, token, metric) == BATCH

        (small_disk / "filler").unlink()
        assert send(server, token, metric, 1) is None
        assert stored(server, token, metric) == 2 * BATCH
        assert server.ask("POST", "/api/v1/sites", sites[-1], headers)[0] == 201
        assert server.sign_in()["access_token"]
        server.end(signal.SIGKILL)
        server.start()
        assert stored(server, token, metric) == 2 * BATCH
