"""A process that may open no further file: who is connected is answered, nobody else gets it down."""

import http.client
import json
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Server, create_admin
from tests.resilience.load import Refusal

SPARE = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    create_admin(tmp_path / "var")
    server = Server(tmp_path / "var", tmp_path / "log", settings={"log_level": "warning"}).start()
    yield server
    assert server.end(signal.SIGTERM) == 0


class TestNoFurtherFile:
    def test_does_not_end_the_process_and_all_goes_on_when_there_are_some(self, server: Server) -> None:
        assert server.process is not None
        process = server.process.pid
        token = server.sign_in()["access_token"]
        metric = server.make_metric(token)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        reading = {"metric_id": metric, "timestamp": "2026-01-05T12:00:00Z", "value": 1}
        body = json.dumps({"readings": [reading]})
        known = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        known.request("GET", "/health/live")
        known.getresponse().read()

        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        most = len(list(Path(f"/proc/{process}/fd").iterdir())) + SPARE
        resource.prlimit(process, resource.RLIMIT_NOFILE, (most, before[1]))
        strangers = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(SPARE * 5)]
        try:
            for _ in range(10):
                known.request("GET", "/health/live")
                answer = known.getresponse()
                assert (answer.status, answer.read()) == (200, b'{"status":"alive"}')
            known.request("POST", "/api/v1/readings", body, headers)
            answer = known.getresponse()
            text = answer.read().decode()
            given = {name.lower(): value for name, value in answer.getheaders()}
            assert answer.status == 200 or Refusal(answer.status, given, text, 0).is_in_order
        finally:
            for stranger in strangers:
                stranger.close()
            known.close()
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        assert server.send("POST", "/readings", {"readings": [reading]}, token)["accepted"] == 1
        assert server.ask("GET", "/health/ready")[0] == 200
