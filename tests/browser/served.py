"""The application as a browser reaches it: a real server in a thread, over a world that tests fill."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi import FastAPI

from kilowatch.app import create_app
from kilowatch.cli.web import Server
from kilowatch.config import Settings
from tests.conftest import Clock, World, open_world

DEADLINE_S = 60


class RealClock(Clock):
    """The real time, as the browser has it too, and how far a test has moved on from it."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    @property
    def now(self) -> datetime:  # type: ignore[override]  # which is a field there
        return datetime.now(UTC) + self._ahead

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self._ahead += timedelta(**by)


@dataclass(frozen=True)
class Served:
    """A server, and the world behind it: readings sent there arrive on the pages here."""

    world: World
    address: str
    """Its origin, as `http://127.0.0.1:54321`."""


@contextmanager
def served_world(settings: Settings) -> Iterator[Served]:
    """The world of `tests.conftest`, in the real time, at a port of its own."""
    with open_world(settings, RealClock()) as world:
        app = create_app(settings, clock=world.clock, services=world.services)
        with _running(app) as address:
            yield Served(world, address)


@contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    started = threading.Event()
    server = Server(app, started=started.set, host="127.0.0.1", port=0, server_header=False)
    thread = threading.Thread(target=server.run, name="served")
    thread.start()
    try:
        assert started.wait(DEADLINE_S), "the server did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
    assert not thread.is_alive(), "the server did not end"
