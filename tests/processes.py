"""Kilowatch as processes of its own: one that runs a command and ends, and a server."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PROGRAM = [sys.executable, "-c", "from kilowatch.__main__ import main; main()"]
PASSWORD = "correct horse battery staple"
DEADLINE_S = 120
PORT_IS_TAKEN = re.compile(r"Can't listen on|address already in use", re.IGNORECASE)


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment without anyone's settings, but for these."""
    foreign = ("KILOWATCH_", "OTEL_", "PROMETHEUS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    if kept.pop("PYTHONDONTWRITEBYTECODE", None):  # then each process would compile everything anew: 3 s
        kept["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"kilowatch-bytecode-{os.getuid()}")
    named = {f"KILOWATCH_{name.upper()}": value for name, value in settings.items()}
    return kept | {"KILOWATCH_DATA_DIR": str(data_dir), "KILOWATCH_LOG_FORMAT": "json"} | named


def kilowatch(*arguments: str, data_dir: Path, stdin: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(data_dir, **settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.02)


def has_ended(process_id: int) -> bool:
    """Also if nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass
class Server:
    """A server process on a data directory of its own, and a way to ask it."""

    data_dir: Path
    log: Path
    port: int = field(default_factory=free_port)
    settings: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("serve",)
    program: Sequence[str] = tuple(PROGRAM)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Server":
        earlier = self.log.stat().st_size if self.log.exists() else 0
        self._launch()
        wait_until(lambda: self._has_ended() or self._answers(earlier), "the server answers")
        if self._has_ended() and PORT_IS_TAKEN.search(self._said_since(earlier)):  # by another process's tests
            os.truncate(self.log, earlier)
            self.port = free_port()
            self._launch()
            wait_until(lambda: self._has_ended() or self._answers(earlier), "the server answers")
        assert not self._has_ended(), self._said_since(earlier)
        return self

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, *self.command, "--port", str(self.port)],
                env=environment(self.data_dir, **self.settings),
                stdout=log,
                stderr=log,
            )

    def _has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def _said_since(self, position: int) -> str:
        return self.log.read_bytes()[position:].decode()

    def _answers(self, earlier: int) -> bool:
        if "Serving on " not in self._said_since(earlier):
            return False  # who answers at the port now is another
        try:
            return self.ask("GET", "/health/ready")[0] == 200
        except OSError:
            return False

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def send(self, method: str, path: str, document: Any, token: str) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        status, _, body = self.ask(method, f"/api/v1{path}", json.dumps(document), headers)
        assert status in (200, 201), body
        return json.loads(body)

    def sign_in(self, email: str = "admin@example.org", password: str = PASSWORD) -> dict[str, str]:
        status, _, body = self.ask(
            "POST",
            "/api/v1/auth/token",
            urlencode({"username": email, "password": password}),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert status == 200, body
        tokens: dict[str, str] = json.loads(body)
        return tokens

    def make_metric(self, token: str, *, site: str = "North") -> int:
        made = self.send("POST", "/sites", {"name": site, "timezone": "UTC"}, token)
        metric = {"key": "power", "quantity": "power", "unit": "kW"}
        device = {"name": "Meter", "kind": "generic", "metrics": [metric]}
        return int(self.send("POST", f"/sites/{made['id']}/devices", device, token)["metrics"][0]["id"])

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def create_admin(data_dir: Path) -> None:
    done = kilowatch(
        "user", "create", "admin@example.org", "--admin", "--password-stdin", data_dir=data_dir, stdin=PASSWORD + "\n"
    )
    assert done.returncode == 0, done.stderr
