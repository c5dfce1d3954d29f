"""`kilowatch serve --workers`: several processes at one socket, on real servers for both stores."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clickhouse import ClickHouse
from tests.conftest import SECRET_KEY, _unique, drop_history
from tests.live.client import Client, Event
from tests.operations.metering import read, scrape
from tests.processes import PASSWORD, Server, environment, free_port, has_ended, kilowatch, wait_until


@pytest.fixture
def settings(postgres_url: str, clickhouse: ClickHouse) -> Iterator[dict[str, str]]:
    history_url = f"{clickhouse.url}/{_unique('workers')}"
    yield {
        "database_url": postgres_url,
        "history_url": history_url,
        "secret_key": SECRET_KEY,
        "log_level": "info",
    }
    drop_history(history_url)


@pytest.fixture
def server(settings: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    user = ("user", "create", "admin@example.org", "--admin", "--password-stdin")
    done = kilowatch(*user, data_dir=tmp_path, stdin=PASSWORD, **settings)
    assert done.returncode == 0, done.stderr
    server = Server(tmp_path, tmp_path / "log", settings=settings, command=("serve", "--workers", "2")).start()
    yield server
    if server.process is not None and server.process.poll() is None:
        assert server.end(signal.SIGTERM) == 0


def children(process_id: int) -> set[int]:
    found = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return {int(child) for child in found}


def workers(server: Server) -> set[int]:
    assert server.process is not None
    return children(server.process.pid)


class Load(threading.Thread):
    """Sends readings one by one, and asks for them, on a connection that is kept (or not), until it is told to stop."""

    def __init__(self, server: Server, token: str, metric: int, *, keeps_connection: bool) -> None:
        super().__init__(daemon=True)  # a test that fails must not wait for it
        self._server, self._metric, self._keeps_connection = server, metric, keeps_connection
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._enough = threading.Event()
        self.accepted: list[int] = []
        self.wrong: list[Any] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        number = 0
        while not self._enough.is_set():
            number += 1
            try:
                self._send(connection, number)
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(error)
                connection.close()
            if not self._keeps_connection:
                connection.close()
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, number: int) -> None:
        time = f"2026-01-05T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        body = json.dumps({"readings": [{"metric_id": self._metric, "timestamp": time, "value": number}]})
        connection.request("POST", "/api/v1/readings", body, self._headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 200 and json.loads(text)["accepted"] == 1:
            self.accepted.append(number)
        else:
            self.wrong.append((answer.status, text))
        connection.request("GET", f"/api/v1/metrics/{self._metric}/latest", headers=self._headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            self.wrong.append((answer.status, text))

    def end(self) -> None:
        self._enough.set()
        self.join()


class Listener(threading.Thread):
    """Follows a metric, and connects again when its stream ends, as browsers do, until nobody is there."""

    def __init__(self, server: Server, token: str, metric: int) -> None:
        super().__init__(daemon=True)
        self._server, self._token, self._metric = server, token, metric
        self.listens = threading.Event()
        self.told: list[float] = []
        self.ends: list[str] = []

    def run(self) -> None:
        last_id = None
        while True:
            try:
                client = Client(self._server.port, [self._metric], self._token, last_id=last_id)
            except OSError:
                return
            with client:
                while (event := client.event()) is not None:
                    self._note(event)
                last_id = client.last_id

    def _note(self, event: Event) -> None:
        if event.name == "latest":
            self.listens.set()
        elif event.name == "reading":
            self.told.append(event.data["value"])
        elif event.name == "end":
            self.ends.append(event.data["reason"])


def values(server: Server, token: str, metric: int) -> list[float]:
    path = f"/api/v1/metrics/{metric}/history?start=2026-01-05T00:00:00Z&end=2026-01-06T00:00:00Z&resolution=raw"
    status, _, body = server.ask("GET", path, headers={"Authorization": f"Bearer {token}"})
    assert status == 200, body
    found: list[float] = json.loads(body)["series"][0]["values"]
    return found


class TestSeveralWorkers:
    def test_are_refused_with_the_reason_where_a_store_is_embedded(self, tmp_path: Path) -> None:
        done = kilowatch("serve", "--workers", "2", data_dir=tmp_path)
        assert done.returncode == 1
        for words in ("KILOWATCH_DATABASE_URL", "KILOWATCH_HISTORY_URL", "one process", "--workers 1"):
            assert words in done.stderr

    def test_end_at_once_where_the_first_of_them_can_not_start(self, settings: dict[str, str], tmp_path: Path) -> None:
        wrong = settings | {"database_url": "postgresql+psycopg://nobody@127.0.0.1:1/nothing"}
        done = kilowatch("serve", "--workers", "2", data_dir=tmp_path, **wrong)
        assert done.returncode == 1
        assert "KILOWATCH_DATABASE_URL" in done.stderr

    def test_serve_together_and_one_that_is_killed_is_started_again(self, server: Server) -> None:
        wait_until(lambda: len(workers(server)) == 2, "two workers run")
        killed = min(workers(server))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers(server) - {killed}) == 2, "another worker runs")
        assert server.ask("GET", "/health/ready")[0] == 200
        assert any(line["event"] == "a worker ended" and line["code"] == -9 for line in server.lines())

    def test_end_when_the_process_that_started_them_is_killed(self, server: Server) -> None:
        wait_until(lambda: len(workers(server)) == 2, "two workers run")
        orphans = workers(server)
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        wait_until(lambda: all(map(has_ended, orphans)), "the workers have ended, too")


class TestARollingRestart:
    def test_replaces_all_workers_and_no_request_fails(self, server: Server) -> None:
        token = server.sign_in()["access_token"]
        kept, changing = (server.make_metric(token, site=site) for site in ("North", "South"))
        wait_until(lambda: len(workers(server)) == 2, "two workers run")
        before = workers(server)
        load = [
            Load(server, token, kept, keeps_connection=True),
            Load(server, token, changing, keeps_connection=False),
        ]
        for one in load:
            one.start()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & workers(server) and len(workers(server)) == 2, "all workers are others")
        for one in load:
            one.end()
        assert [one.wrong for one in load] == [[], []]
        for one, metric in zip(load, (kept, changing), strict=True):
            assert values(server, token, metric) == one.accepted

    def test_is_done_with_a_single_worker_too(self, settings: dict[str, str], tmp_path: Path) -> None:
        alone = Server(tmp_path, tmp_path / "log", settings=settings, command=("serve", "--workers", "1")).start()
        before = workers(alone)
        assert alone.process is not None
        alone.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & workers(alone) and len(workers(alone)) == 1, "the worker is another")
        assert alone.ask("GET", "/health/ready")[0] == 200
        assert alone.end(signal.SIGTERM) == 0

    def test_gives_way_to_an_end_of_all(self, server: Server) -> None:
        before = workers(server)
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(workers(server) - before), "a successor was started")
        assert server.end(signal.SIGTERM) == 0
        wait_until(lambda: all(map(has_ended, before)), "all have ended")

    def test_ends_streams_which_go_on_at_another_worker(self, server: Server) -> None:
        token = server.sign_in()["access_token"]
        metric = server.make_metric(token)
        wait_until(lambda: len(workers(server)) == 2, "two workers run")
        before = workers(server)
        listener = Listener(server, token, metric)
        listener.start()
        assert listener.listens.wait(60)
        load = Load(server, token, metric, keeps_connection=True)
        load.start()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & workers(server) and len(workers(server)) == 2, "all workers are others")
        load.end()
        wait_until(lambda: listener.told[-1:] == load.accepted[-1:], "the last reading was told")
        assert server.end(signal.SIGTERM) == 0
        listener.join()
        assert load.wrong == []
        assert listener.told == load.accepted
        assert set(listener.ends) == {"shutdown"}
        assert len(listener.ends) >= 2  # by the restart, and by the end


EARLY = """
import os, signal, sys

class Importing:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Importing())
from kilowatch.__main__ import main
main()
"""
"""The program, and a signal to it while it has not imported its command line yet."""


class TestASignalWhileItStarts:
    def _program(self, number: signal.Signals) -> list[str]:
        return [sys.executable, "-c", EARLY.format(signal=number.name)]

    def test_replaces_the_workers_once_they_are_there(self, settings: dict[str, str], tmp_path: Path) -> None:
        command = ("serve", "--workers", "2")
        early = Server(tmp_path, tmp_path / "log", settings=settings, command=command)
        early.program = self._program(signal.SIGHUP)
        early.start()
        wait_until(lambda: any(line["event"] == "a worker was replaced" for line in early.lines()), "one was replaced")
        assert early.end(signal.SIGTERM) == 0

    def test_ends_it_in_order(self, settings: dict[str, str], tmp_path: Path) -> None:
        command = [*self._program(signal.SIGTERM), "serve", "--workers", "2", "--port", str(free_port())]
        done = subprocess.run(
            command, env=environment(tmp_path, **settings), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Stopped.")

    def test_to_a_server_without_workers_ends_it_before_it_opens_its_stores(self, tmp_path: Path) -> None:
        command = [*self._program(signal.SIGTERM), "serve", "--port", str(free_port())]
        done = subprocess.run(command, env=environment(tmp_path), capture_output=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGTERM
        assert list(tmp_path.iterdir()) == []


def test_what_all_count_is_read_at_one_port(settings: dict[str, str], tmp_path: Path) -> None:
    user = ("user", "create", "admin@example.org", "--admin", "--password-stdin")
    assert kilowatch(*user, data_dir=tmp_path, stdin=PASSWORD, **settings).returncode == 0
    port = free_port()
    server = Server(
        tmp_path,
        tmp_path / "log",
        settings=settings | {"metrics_port": str(port), "streams": "100"},
        command=("serve", "--workers", "2"),
    ).start()
    try:
        wait_until(lambda: read(scrape(port), "kilowatch_streams_limit") == {(): 200}, "both are there")
        token = server.sign_in()["access_token"]
        for _ in range(20):  # over connections of their own, so that both have some
            assert server.ask("GET", "/api/v1/me", headers={"Authorization": f"Bearer {token}"})[0] == 200
        asked = (("method", "GET"), ("route", "/api/v1/me"), ("status", "200"))
        assert read(scrape(port), "kilowatch_http_requests_total")[asked] == 20
        wait_until(lambda: read(scrape(port), "kilowatch_simulation_leader") == {(): 1}, "one leads")
        (killed, *_) = workers(server)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers(server) - {killed}) == 2, "there is a new one")
        wait_until(
            lambda: read(scrape(port), "kilowatch_streams_limit") == {(): 200}, "it counts, and the old one no more"
        )
        wait_until(lambda: read(scrape(port), "kilowatch_simulation_leader") == {(): 1}, "one leads again")
        assert read(scrape(port), "kilowatch_http_requests_total")[asked] == 20
    finally:
        assert server.end(signal.SIGTERM) == 0
