"""Streams of a real server process: its end, its next start, and what came in while it was down."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.client import Client
from tests.processes import Server, create_admin, kilowatch

NINE, TEN = "2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z"
CLIENTS = 500


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    create_admin(tmp_path / "var")
    settings = {"log_level": "error", "streams_per_user": str(CLIENTS + 1)}
    server = Server(tmp_path / "var", tmp_path / "server.log", settings=settings).start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def send(server: Server, token: str, metric: int, timestamp: str, value: float) -> None:
    rows = [{"metric_id": metric, "timestamp": timestamp, "value": value}]
    assert server.send("POST", "/readings", {"readings": rows}, token)["accepted"] == 1


def test_a_stream_goes_on_after_a_restart_with_what_was_imported_meanwhile(server: Server, tmp_path: Path) -> None:
    token = server.sign_in()["access_token"]
    metric = server.make_metric(token)
    subscription = server.send("POST", "/subscriptions", {"name": "Mine", "metric_ids": [metric]}, token)["id"]
    with Client(server.port, subscription, token) as client:
        client.named("latest")
        send(server, token, metric, NINE, 1)
        client.named("reading")
        assert server.end(signal.SIGTERM) == 0
        end = client.rest()[-1]
    assert (end.name, end.data["reason"]) == ("end", "shutdown")

    file = tmp_path / "readings.csv"
    file.write_text(f"metric_id,timestamp,value\n{metric},{NINE},1\n{metric},{TEN},2\n")
    done = kilowatch("import", str(file), data_dir=server.data_dir)
    assert done.returncode == 0, done.stderr
    server.start()
    send(server, token, metric, "2026-01-05T11:00:00Z", 3)
    with Client(server.port, subscription, token, last_id=client.last_id) as again:
        assert again.named("latest").data["value"] == 3
        arrived = [(event.data["timestamp"], event.data["value"]) for event in again.many("reading", 2)]
    assert arrived == [(TEN, 2), ("2026-01-05T11:00:00Z", 3)]  # the first was known already


def test_a_server_with_many_streams_stops_and_tells_each(server: Server) -> None:
    token = server.sign_in()["access_token"]
    metric = server.make_metric(token)
    subscription = server.send("POST", "/subscriptions", {"name": "Mine", "metric_ids": [metric]}, token)["id"]
    request = (
        f"GET /api/v1/subscriptions/{subscription}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.sendall(request)
        told = [_until(client, b"event: latest") for client in clients]
        assert all(text.startswith(b"HTTP/1.1 200") for text in told)
        assert server.end(signal.SIGTERM) == 0
        assert all(b'"reason":"shutdown"' in _until(client, None) for client in clients)
    finally:
        for client in clients:
            client.close()


def _until(client: socket.socket, part: bytes | None) -> bytes:
    """What comes until there is that part; `None`: until the end."""
    received = b""
    while (part is None or part not in received) and (data := client.recv(65_536)):
        received += data
    return received
