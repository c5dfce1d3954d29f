"""A Kilowatch server of its own on an empty directory, and a client that keeps its connection."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_IDLE_S = 2
EMAIL, PASSWORD = "bench@example.org", "a password for the bench"


class Client:
    """One keep-alive connection, signed in as the administrator."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self._token = token
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._used_at = 0.0

    def another(self) -> "Client":
        return Client(self.port, self._token)

    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        headers = {"Content-Type": content_type}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if time.monotonic() - self._used_at > _IDLE_S:
            self._connection.close()  # the server may have closed it by now
        self._connection.request(method, f"/api/v1{path}", body, headers)
        answer = self._connection.getresponse()
        self._used_at = time.monotonic()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return content

    def post(self, path: str, value: Any) -> Any:
        return json.loads(self.request("POST", path, json.dumps(value).encode()))

    def sign_in(self) -> None:
        form = f"username={EMAIL}&password={PASSWORD.replace(' ', '+')}".encode()
        content = self.request("POST", "/auth/token", form, "application/x-www-form-urlencoded")
        self._token = json.loads(content)["access_token"]


@contextmanager
def running_server() -> Iterator[tuple[Client, float]]:
    """A signed-in client of a fresh server, and the seconds from its start to its first answer."""
    program = str(Path(sys.executable).with_name("kilowatch"))
    with tempfile.TemporaryDirectory(prefix="kilowatch-bench-") as directory, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        environment = os.environ | {"KILOWATCH_DATA_DIR": directory, "KILOWATCH_LOG_LEVEL": "error"}
        create = [program, "user", "create", EMAIL, "--admin", "--password-stdin"]
        subprocess.run(create, input=PASSWORD, text=True, env=environment, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        server = subprocess.Popen([program, "serve", "--port", str(port)], env=environment, stdout=subprocess.DEVNULL)
        try:
            _await_port(port, server)
            took = time.perf_counter() - began
            client = Client(port)
            client.sign_in()
            yield client, took
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def _await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the server did not start within a minute")
