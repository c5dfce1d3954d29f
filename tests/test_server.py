"""A real server process: starting, ending, limits, crashes, and what its log says."""

import http.client
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.config import Settings
from tests.processes import (
    DEADLINE_S,
    PASSWORD,
    PROGRAM,
    Server,
    create_admin,
    environment,
    free_port,
    kilowatch,
    wait_until,
)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*command: str, **settings: str) -> Server:
        made.append(Server(tmp_path / "var", tmp_path / "server.log", settings=settings, command=command or ("serve",)))
        return made[-1]

    yield make
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class TestLife:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_in_order(self, make_server: Callable[..., Server], number: signal.Signals) -> None:
        server = make_server().start()
        idle = socket.create_connection(("127.0.0.1", server.port))  # a client that keeps its connection
        assert server.end(number) == 0
        idle.close()
        text = server.log.read_text()
        assert "Traceback" not in text
        assert text.splitlines()[-1] == "Stopped."

    def test_a_signal_while_it_starts_ends_it_too(self, make_server: Callable[..., Server]) -> None:
        server = make_server()
        with server.log.open("wb") as log:
            server.process = subprocess.Popen(
                [*PROGRAM, "serve", "--port", str(server.port)],
                env=environment(server.data_dir),
                stdout=log,
                stderr=log,
            )
        wait_until((server.data_dir / "kilowatch.sqlite").exists, "it opens its stores")
        server.end(signal.SIGTERM)
        assert "Traceback" not in server.log.read_text()

    def test_health_is_told_to_anyone(self, make_server: Callable[..., Server]) -> None:
        server = make_server().start()
        for path, said in (("/health/live", "alive"), ("/health/ready", "ready")):
            status, headers, body = server.ask("GET", path)
            assert (status, json.loads(body)) == (200, {"status": said})
            assert headers["content-type"] == "application/json"

    def test_two_that_start_at_once_agree_on_the_secret(self, tmp_path: Path) -> None:
        code = "from kilowatch.config import *; print(secret_key(load_settings()))"
        starting = [
            subprocess.Popen(
                [sys.executable, "-c", code], env=environment(tmp_path / "var"), stdout=subprocess.PIPE, text=True
            )
            for _ in range(6)
        ]
        keys = {process.communicate(timeout=DEADLINE_S)[0].strip() for process in starting}
        assert len(keys) == 1
        assert len(keys.pop()) >= 32
        kept = tmp_path / "var" / "secret.key"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
        assert [path.name for path in kept.parent.iterdir()] == ["secret.key"]


class TestRefusesToStart:
    def test_on_a_directory_that_another_has_open(self, make_server: Callable[..., Server], tmp_path: Path) -> None:
        server = make_server().start()
        readings = tmp_path / "readings.csv"
        readings.write_text("metric,timestamp,value\n")
        for command in (
            ("serve", "--port", str(free_port())),
            ("migrate",),
            ("import", str(readings)),
            ("demo", "--no-serve"),
        ):
            done = kilowatch(*command, data_dir=server.data_dir)
            assert done.returncode == 1, command
            (error,) = done.stderr.splitlines()
            assert error.startswith("kilowatch: Another process has the embedded history")
            assert "KILOWATCH_DATA_DIR" in error
        assert server.ask("GET", "/health/ready")[0] == 200

    @pytest.mark.parametrize("command", ["serve", "demo"])
    def test_on_a_port_that_is_taken(self, tmp_path: Path, command: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = kilowatch(command, "--port", str(port), data_dir=tmp_path / "var")
        assert done.returncode == 1
        assert f"127.0.0.1:{port}" in done.stderr
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("secret", "words"),
        [
            ("", "KILOWATCH_SECRET_KEY (or …_FILE) must be set in production"),
            ("short", "at least 32 characters"),
            ("changeme" * 5, "placeholder"),
            ("a" * 40, "placeholder"),
        ],
    )
    def test_in_production_without_a_real_secret(self, tmp_path: Path, secret: str, words: str) -> None:
        done = kilowatch("serve", data_dir=tmp_path / "var", environment="production", secret_key=secret)
        assert done.returncode == 1
        assert "KILOWATCH_SECRET_KEY" in done.stderr
        assert words in done.stderr
        assert "token_urlsafe" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        if len(secret) > 8:
            assert secret not in done.stderr


class TestBodyLimit:
    SIZE = 200_000_000

    def test_a_body_of_200_mb_is_told_413(self, make_server: Callable[..., Server]) -> None:
        server = make_server().start()
        piece = b"x" * 1_000_000
        for length in ({"Content-Length": str(self.SIZE)}, {}):  # without it, the body goes in chunks
            status, headers, body = server.ask(
                "POST",
                "/api/v1/readings",
                (piece for _ in range(self.SIZE // len(piece))),
                {"Content-Type": "text/csv"} | length,
            )
            assert status == 413
            assert headers["content-type"] == "application/problem+json"
            assert "33,554,432 bytes" in json.loads(body)["detail"]
        assert server.ask("GET", "/health/live")[0] == 200

    def test_is_a_setting(self, make_server: Callable[..., Server]) -> None:
        server = make_server(max_body_bytes="2000").start()
        for chunked in (False, True):
            for size, expected in ((2000, 401), (2001, 413)):
                body = iter([b"x" * size]) if chunked else b"x" * size
                status, _, answer = server.ask("POST", "/api/v1/readings", body, {"Content-Type": "text/csv"})
                assert status == expected, answer


class TestKill:
    def test_loses_no_reading_that_was_acknowledged(self, make_server: Callable[..., Server]) -> None:
        server = make_server()
        create_admin(server.data_dir)
        server.start()
        token = server.sign_in()["access_token"]
        metric = server.make_metric(token)
        acknowledged: list[int] = []

        def write(writer: int) -> None:
            for number in range(100_000):
                second = writer * 100_000 + number
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + second))
                row = {"metric_id": metric, "timestamp": stamp, "value": second}
                try:
                    server.send("POST", "/readings", {"readings": [row]}, token)
                except (OSError, http.client.HTTPException, ValueError):
                    return  # the server is gone
                acknowledged.append(second)

        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
        for writer in writers:
            writer.start()
        wait_until(lambda: len(acknowledged) >= 150, "enough is acknowledged")
        server.end(signal.SIGKILL)
        for writer in writers:
            writer.join()
        server.start()
        window = "start=2023-11-01T00:00:00Z&end=2024-01-01T00:00:00Z&resolution=raw"
        history = server.ask(
            "GET", f"/api/v1/metrics/{metric}/history?{window}", headers={"Authorization": f"Bearer {token}"}
        )
        (series,) = json.loads(history[2])["series"]
        assert set(acknowledged) - {int(value) for value in series["values"]} == set()
        # besides those, at most the one that each writer was waiting for
        assert len(series["values"]) <= len(acknowledged) + len(writers)


class TestLog:
    def test_has_the_requests_id_in_every_line_and_no_secret(self, make_server: Callable[..., Server]) -> None:
        server = make_server(
            environment="production", secret_key="kG5-unguessable-0123456789-ABCDEFGH", log_format="auto"
        )
        create_admin_in_production = kilowatch(
            *("user", "create", "admin@example.org", "--admin", "--password-stdin"),
            data_dir=server.data_dir,
            stdin=PASSWORD,
            **server.settings,
        )
        assert create_admin_in_production.returncode == 0
        server.start()
        tokens = server.sign_in()
        status, headers, _ = server.ask(
            "GET",
            "/api/v1/me",
            headers={"X-Request-ID": "my-own-id", "Authorization": f"Bearer {tokens['access_token']}"},
        )
        assert (status, headers["x-request-id"]) == (200, "my-own-id")
        assert server.ask("GET", "/api/v1/me", headers={"X-Request-ID": "ba d\tid"})[1]["x-request-id"] != "ba d\tid"
        server.ask("POST", "/api/v1/auth/token", urlencode({"username": "x@example.org", "password": "a secret try"}))
        server.end(signal.SIGTERM)
        text = server.log.read_text()
        for secret in (PASSWORD, "a secret try", server.settings["secret_key"], *tokens.values()):
            assert secret in ("bearer", "Bearer") or str(secret) == "900" or str(secret) not in text
        requests = [line for line in server.lines() if line["event"] == "request"]
        assert all(re.fullmatch(r"[\w.-]{1,64}", line["request_id"]) for line in requests)
        mine = [line for line in requests if line["request_id"] == "my-own-id"]
        assert [(line["method"], line["path"], line["status"]) for line in mine] == [("GET", "/api/v1/me", 200)]
        assert {"level", "timestamp", "ms"} <= mine[0].keys()
        # nothing else than JSON but what is printed for people
        others = [line for line in text.splitlines() if not line.startswith("{")]
        assert others == [f"Serving on http://127.0.0.1:{server.port}", "Stopped."]

    def test_has_the_web_servers_own_words_in_the_same_form(self, make_server: Callable[..., Server]) -> None:
        server = make_server().start()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"this is no HTTP\r\n\r\n")
            assert b"400" in connection.recv(1000)
        wait_until(
            lambda: any("Invalid HTTP request" in line["event"] for line in server.lines()), "the warning is logged"
        )


class TestUnforeseenError:
    def test_is_a_500_with_an_id_and_nothing_internal(
        self, settings: Settings, capfd: pytest.CaptureFixture[str]
    ) -> None:
        app = create_app(settings)

        @app.get("/api/v1/broken")
        def broken() -> None:
            raise RuntimeError("postgresql://user:hunter2@host refused")

        with TestClient(app, raise_server_exceptions=False) as client:
            answer = client.get("/api/v1/broken", headers={"X-Request-ID": "trace-me"})
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == "trace-me"
        assert answer.json()["detail"].startswith("Something went wrong on our side")
        assert "hunter2" not in answer.text
        assert "RuntimeError" not in answer.text
        logged = capfd.readouterr()
        assert "unforeseen error" in logged.out + logged.err
