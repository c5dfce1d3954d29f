"""A real server in a thread, over the stores of a test's world: streams need one that sends as it goes."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kilowatch.app import create_app
from kilowatch.cli.web import Server
from kilowatch.config import Settings
from tests.conftest import Clock, Person, World
from tests.live.client import DEADLINE_S, Client
from tests.processes import free_port


@dataclass
class Live:
    """A world with a server of its own."""

    world: World
    port: int
    server: Server
    thread: threading.Thread

    def subscribe(self, *metrics: int, person: Person | None = None) -> int:
        answer = (person or self.world.admin).post("/subscriptions", {"name": "Mine", "metric_ids": list(metrics)})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def open(
        self,
        shown: int | Sequence[int],
        person: Person | None = None,
        *,
        last_id: str | None = None,
        query: str = "",
    ) -> Client:
        """A stream of a subscription, or of metrics that are in none."""
        token = token_of((person or self.world.admin).http)
        return Client(self.port, shown, token, last_id=last_id, query=query)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


def token_of(client: Any) -> str:
    return str(client.headers["Authorization"].removeprefix("Bearer "))


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """`@pytest.mark.parametrize("options", [{…}])` changes some."""
    options = request.getfixturevalue("options") if "options" in request.fixturenames else {}
    return settings.model_copy(update=options)


@pytest.fixture
def live(world: World, settings: Settings, clock: Clock) -> Iterator[Live]:
    app, port, started = create_app(settings, clock=clock, services=world.services), free_port(), threading.Event()
    server = Server(app, started=started.set, host="127.0.0.1", port=port, timeout_graceful_shutdown=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(DEADLINE_S)
    live = Live(world, port, server, thread)
    yield live
    live.stop()
