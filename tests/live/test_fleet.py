"""Two server processes at one PostgreSQL and one ClickHouse: who listens at one hears what came in at the other."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clickhouse import ClickHouse
from tests.conftest import SECRET_KEY, _unique, drop_history
from tests.live.client import Client
from tests.processes import PASSWORD, Server, kilowatch


@pytest.fixture
def fleet(postgres_url: str, clickhouse: ClickHouse, tmp_path: Path) -> Iterator[list[Server]]:
    history_url = f"{clickhouse.url}/{_unique('fleet')}"
    settings = {
        "database_url": postgres_url,
        "history_url": history_url,
        "secret_key": SECRET_KEY,
        "log_level": "warning",
    }
    user = ("user", "create", "admin@example.org", "--admin", "--password-stdin")
    done = kilowatch(*user, data_dir=tmp_path / "one", stdin=PASSWORD, **settings)
    assert done.returncode == 0, done.stderr
    servers = [Server(tmp_path / name, tmp_path / f"{name}.log", settings=settings).start() for name in ("one", "two")]
    yield servers
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.end(signal.SIGTERM)
    drop_history(history_url)


def test_a_stream_at_one_tells_what_came_in_at_the_other_and_goes_on_there(fleet: list[Server]) -> None:
    one, two = fleet
    token = one.sign_in()["access_token"]
    metric = one.make_metric(token)

    def send(server: Server, minute: int) -> None:
        rows = [{"metric_id": metric, "timestamp": f"2026-01-05T10:{minute:02}:00Z", "value": minute}]
        assert server.send("POST", "/readings", {"readings": rows}, token)["accepted"] == 1

    with Client(one.port, [metric], token) as client:
        client.named("latest")
        for minute in range(20):
            send((one, two)[minute % 2], minute)
        told = [event.data["value"] for event in client.many("reading", 20)]
    assert told == list(range(20))

    assert one.process is not None
    one.process.kill()
    one.process.wait()
    send(two, 20)
    with Client(two.port, [metric], token, last_id=client.last_id) as again:
        assert again.named("reading").data["value"] == 20
        one.start()
        send(one, 21)
        assert again.named("reading").data["value"] == 21
