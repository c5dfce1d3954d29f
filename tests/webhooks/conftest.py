"""A receiver of webhooks on this machine, and a subscription whose readings it is sent."""

import asyncio
import contextlib
import json
import queue
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from kilowatch.config import Settings
from kilowatch.webhooks.addresses import Addresses
from kilowatch.webhooks.courier import Courier
from kilowatch.webhooks.deliveries import Attempt, Deliveries
from kilowatch.webhooks.model import Outcome
from tests.conftest import World

Answer = int | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Request:
    """What the receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def values(self) -> list[float]:
        return [reading["value"] for reading in self.json["readings"]]


class Receiver:
    """Takes what is posted, and answers with 204 or as told: a status, or a function that writes to the connection."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = []
        self.requests: queue.Queue[Request] = queue.Queue()
        self.connections = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = receiver.answers.pop(0) if receiver.answers else 204
                receiver.requests.put(Request(self.path, headers, body))
                if not isinstance(answer, int):
                    answer(self)
                    return
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None: ...  # the sender may hang up

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next(self) -> Request:
        """The next request, waited for."""
        return self.requests.get(timeout=20)

    def taken(self) -> list[Request]:
        """The requests up to now."""
        with contextlib.suppress(queue.Empty):
            taken: list[Request] = []
            while True:
                taken.append(self.requests.get_nowait())
        return taken


@pytest.fixture
def world(world: World) -> World:
    """Whose people use API keys, since days go by here and sign-ins end."""
    for name in ("admin", "technician"):
        person = world.people[name]
        key = person.post("/me/api-keys", {"name": "For days"}).json()["key"]
        person.http = world.http(key)
    return world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Webhooks may go to this machine; they are sent where a test says so, and not behind its back."""
    return settings.model_copy(update={"webhook_private_addresses": True, "webhook_requests": 0})


def post_all(attempts: Sequence[Attempt]) -> list[Outcome]:
    """Post batches at the same time, over real connections."""

    async def run() -> list[Outcome]:
        async with Courier(Addresses(private=True)) as courier:
            return await asyncio.gather(
                *(courier.post(one.target, headers=one.headers, body=one.body) for one in attempts)
            )

    return asyncio.run(run())


@dataclass
class Hook:
    """The technician's subscription with a webhook, and the metrics in it."""

    world: World
    metrics: list[int]
    subscription_id: int
    url: str
    secret: str

    @property
    def path(self) -> str:
        return f"/subscriptions/{self.subscription_id}/webhook"

    @property
    def deliveries(self) -> Deliveries:
        return self.world.services.deliveries

    @property
    def id(self) -> int:
        with self.world.services.database.read() as connection:
            return int(
                connection.exec_driver_sql(
                    f"SELECT id FROM webhooks WHERE subscription_id = {self.subscription_id}"
                ).scalar_one()
            )

    def put(self, **fields: Any) -> httpx2.Response:
        return self.world.technician.put(self.path, {"url": self.url} | fields)

    def state(self) -> dict[str, Any]:
        answer = self.world.technician.get(self.path)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    def listed(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.world.technician.get(f"{self.path}/deliveries").json()["items"]
        return items

    def send(self, *values: float, metric: int | None = None, minute: int = 0) -> None:
        """Readings of a metric, one a second, that arrive now."""
        times = [f"2026-01-05T11:{minute:02}:{second:02}Z" for second in range(len(values))]
        self.world.send(metric or self.metrics[0], *zip(times, values, strict=True))

    def prepare(self) -> Attempt | datetime | None:
        return self.deliveries.prepare(self.id)

    def attempt(self) -> Attempt:
        attempt = self.prepare()
        assert isinstance(attempt, Attempt), attempt
        return attempt

    def deliver(self) -> Outcome:
        """Post the next batch, which there must be."""
        attempt = self.attempt()
        (outcome,) = post_all([attempt])
        self.deliveries.finish(attempt, outcome)
        return outcome


def hook(world: World, url: str, *, metrics: Sequence[int] | None = None) -> Hook:
    """A new webhook of the technician's, with nothing to send yet."""
    ids = list(metrics) if metrics is not None else [world.metric(), world.metric()]
    subscription = world.technician.post("/subscriptions", {"name": "Mine", "metric_ids": ids}).json()
    answer = world.technician.put(f"/subscriptions/{subscription['id']}/webhook", {"url": url})
    assert answer.status_code == 201, answer.text
    return Hook(world, ids, subscription["id"], url, answer.json()["secret"])


@pytest.fixture
def mine(world: World, receiver: Receiver) -> Hook:
    return hook(world, f"{receiver.url}/hook?of=me")
