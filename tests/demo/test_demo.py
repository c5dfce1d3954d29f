"""The demo portfolio: complete after one run, unchanged by a second, mended after one that was cut off."""

import csv
import io
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.config import Settings
from kilowatch.demo import house
from kilowatch.services import Kilowatch
from tests.processes import PROGRAM, Server, environment, free_port, kilowatch, wait_until

TIMES = 11_023
PASSWORD_LINE = re.compile(r"(\w+@example\.org)\W+([\w-]{12})\s")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo directory after its first run, to be copied, and what that run printed."""
    data_dir = tmp_path_factory.mktemp("pristine") / "var"
    done = kilowatch("demo", "--no-serve", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert "Loading" in done.stderr
    return data_dir, done.stdout


def copied(pristine: tuple[Path, str], data_dir: Path) -> str:
    """A copy of the demo directory there, and what its first run printed."""
    original, printed = pristine
    shutil.copytree(original, data_dir, symlinks=True)
    return printed.replace(str(original), str(data_dir))


@pytest.fixture(scope="module")
def prepared(pristine: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo directory, and what the first run printed."""
    data_dir = tmp_path_factory.mktemp("demo") / "var"
    return data_dir, copied(pristine, data_dir)


@pytest.fixture(scope="module")
def served(prepared: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = Server(prepared[0], log, command=("demo",)).start()
    yield server
    assert server.end(signal.SIGINT) == 0
    text = log.read_text()
    assert "Traceback" not in text
    assert text.rstrip().endswith("Stopped.")


def passwords(printed: str) -> dict[str, str]:
    return dict(PASSWORD_LINE.findall(printed))


def get(server: Server, path: str, token: str) -> Any:
    import json

    status, _, body = server.ask("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, body
    return json.loads(body)


class TestFirstRun:
    def test_the_passwords_work_and_each_user_has_their_rights(
        self, prepared: tuple[Path, str], served: Server
    ) -> None:
        shown = passwords(prepared[1])
        rights = {}
        for email, password in shown.items():
            token = served.sign_in(email, password)["access_token"]
            me = get(served, "/me", token)
            sites = {site["slug"] for site in get(served, "/sites", token)["items"]}
            rights[email.split("@")[0]] = (me["is_admin"], [grant["role"] for grant in me["grants"]], sites)
        assert rights == {
            "admin": (True, [], {"battery-house", "munich-home", "north-sea-wind-farm", "melbourne-supermarket"}),
            "technician": (False, ["technician"], {"battery-house"}),
            "reader": (False, ["standard", "standard"], {"battery-house", "munich-home"}),
            "newcomer": (False, [], set()),
        }

    def test_the_printed_line_answers_with_real_data(self, prepared: tuple[Path, str], served: Server) -> None:
        line = next(line for line in prepared[1].splitlines() if line.strip().startswith("curl "))
        _, flag, header, url = shlex.split(line)
        assert flag == "-H"
        name, _, value = header.partition(": ")
        status, headers, body = served.ask("GET", url.removeprefix("http://127.0.0.1:8000"), headers={name: value})
        assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
        rows = list(csv.DictReader(io.StringIO(body.decode())))
        roof = [float(row["value"]) for row in rows if row["metric"] == "battery-house/roof/power"]
        assert len(rows) == 5 * 24
        assert len(roof) == 24
        assert max(roof) > 1000
        assert min(roof) == 0

    def test_the_kept_file_is_for_its_owner_only(self, prepared: tuple[Path, str]) -> None:
        assert (prepared[0] / "demo.json").stat().st_mode & 0o777 == 0o600


class TestSecondRun:
    def test_prints_the_same_and_changes_nothing(self, pristine: tuple[Path, str], tmp_path: Path) -> None:
        data_dir = tmp_path / "var"
        printed = copied(pristine, data_dir)
        before = census(data_dir)
        second = kilowatch("demo", "--no-serve", data_dir=data_dir)
        assert second.stdout == printed
        assert second.stderr == ""  # it loads nothing
        assert census(data_dir) == before

    def test_keeps_what_the_user_changed(self, pristine: tuple[Path, str], tmp_path: Path) -> None:
        data_dir = tmp_path / "var"
        copied(pristine, data_dir)
        changed = kilowatch(
            "user", "set-password", "admin@example.org", "--password-stdin", data_dir=data_dir, stdin="my own password"
        )
        assert changed.returncode == 0, changed.stderr
        before = census(data_dir)
        kilowatch("demo", "--no-serve", data_dir=data_dir)
        assert census(data_dir) == before


class TestSimulatedSites:
    def test_have_400_days_at_5_minutes(self, prepared: tuple[Path, str], served: Server) -> None:
        token = served.sign_in("admin@example.org", passwords(prepared[1])["admin@example.org"])["access_token"]
        first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=399)
        window = urlencode({"start": first.isoformat(), "end": (first + timedelta(days=397)).isoformat()})
        for site in get(served, "/sites", token)["items"]:
            if site["slug"] == house.SLUG:
                continue
            for reading in get(served, f"/sites/{site['id']}/latest", token)["items"]:
                assert reading["value"] is not None
                if reading["metric"] == "power":
                    question = f"{window}&resolution=1d&aggregate=count&timezone=UTC"
                    (series,) = get(served, f"/metrics/{reading['metric_id']}/history?{question}", token)["series"]
                    assert set(series["values"]) == {288.0}, reading


def census(data_dir: Path) -> Any:
    """What the catalogue holds, hashes of passwords among it, by a process of its own."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "tables = ['users', 'sites', 'devices', 'metrics', 'grants', 'api_keys', 'subscriptions'];"
        "[print(t, c.execute(f'SELECT * FROM {t}').fetchall()) for t in tables]"
    )
    program = [PROGRAM[0], "-c", code, str(data_dir / "kilowatch.sqlite")]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


class TestCutOff:
    def test_where_others_work_it_refuses_to_go(self, tmp_path: Path) -> None:
        kilowatch("user", "create", "somebody@example.org", "--password-stdin", data_dir=tmp_path, stdin="a password")
        refused = kilowatch("demo", "--no-serve", data_dir=tmp_path)
        assert refused.returncode == 1
        assert "KILOWATCH_DATA_DIR" in refused.stderr
        users = kilowatch("user", "list", data_dir=tmp_path).stdout
        assert "somebody@example.org" in users
        assert "admin@example.org" not in users

    @pytest.mark.parametrize("seen", ["secret.key", "demo.json"])
    def test_killed_in_the_middle_the_next_run_completes_it(self, tmp_path: Path, seen: str) -> None:
        process = subprocess.Popen(
            [*PROGRAM, "demo", "--no-serve"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        wait_until((tmp_path / seen).exists, "it is in the middle")
        process.kill()
        process.communicate()
        done = kilowatch("demo", "--no-serve", data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        self._assert_complete(tmp_path, done.stdout)

    @staticmethod
    def _assert_complete(data_dir: Path, printed: str) -> None:
        server = Server(data_dir, data_dir / "server.log").start()
        try:
            granted = {}
            for email, password in passwords(printed).items():
                token = server.sign_in(email, password)["access_token"]
                granted[email.split("@")[0]] = len(get(server, "/sites", token)["items"])
            assert granted == {"admin": 4, "technician": 1, "reader": 2, "newcomer": 0}
            token = server.sign_in("admin@example.org", passwords(printed)["admin@example.org"])["access_token"]
            site_id = next(s["id"] for s in get(server, "/sites", token)["items"] if s["slug"] == house.SLUG)
            assert all(item["value"] is not None for item in get(server, f"/sites/{site_id}/latest", token)["items"])
        finally:
            server.end(signal.SIGTERM)


class TestHouse:
    def test_has_every_reading_of_the_file_in_each_of_18_metrics(
        self, prepared: tuple[Path, str], served: Server
    ) -> None:
        rows = house.read_measurements()
        assert len({row["ts"] for row in rows}) == TIMES
        token = served.sign_in("admin@example.org", passwords(prepared[1])["admin@example.org"])["access_token"]
        site_id = next(site["id"] for site in get(served, "/sites", token)["items"] if site["slug"] == house.SLUG)
        latest = get(served, f"/sites/{site_id}/latest", token)["items"]
        assert len(latest) == 18
        columns = [column for _, names in house.DEVICES for column in names]
        window = {"start": house.FIRST_DAY, "end": house.AFTER_LAST_DAY, "resolution": "raw", "limit": TIMES + 1}
        for reading, column in zip(latest, columns, strict=True):
            path = f"/metrics/{reading['metric_id']}/history?{urlencode(window)}"
            (series,) = get(served, path, token)["series"]
            assert len(series["values"]) == TIMES, column
            by_time = {row["ts"]: float(row[column]) for row in rows}  # the last of equal times, as in the store
            assert series["values"] == [by_time[ts] for ts in sorted(by_time)], column


def test_ctrl_c_while_it_loads_ends_it_without_a_trace(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--port", str(free_port())],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until((tmp_path / "demo.json").exists, "it is loading")
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "Traceback" not in printed


def test_the_application_of_open_services_leaves_them_open(settings: Settings) -> None:
    with Kilowatch(settings) as services:
        for _ in range(2):
            with TestClient(create_app(settings, services=services)) as client:
                assert client.get("/health/ready").status_code == 200
        services.database.check()
