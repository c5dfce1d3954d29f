"""The sender of a running server: woken by what arrives, held up by nobody, and where it was after a restart."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler

import anyio
import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.services import Kilowatch, utc_now
from kilowatch.webhooks.courier import Courier
from kilowatch.webhooks.sender import News, Sender
from tests.conftest import Clock, World, open_world
from tests.operations.metering import Change
from tests.processes import wait_until
from tests.webhooks.conftest import Hook, Receiver, hook


class RunningClock(Clock):
    """The real time, since what is tested waits for it."""

    def __call__(self) -> datetime:
        return utc_now()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_requests": 2})


@pytest.fixture
def running(settings: Settings) -> Iterator[World]:
    with open_world(settings, RunningClock()) as world:
        yield world


def value_sent(mine: Hook, value: float) -> None:
    value_sent_to(mine.world, mine.metrics[0], value)


def value_sent_to(world: World, metric: int, value: float) -> None:
    """By the services, so that nobody has to be signed in."""
    body = {"readings": [{"metric_id": metric, "timestamp": utc_now().isoformat(), "value": value}]}
    intake = world.services.intake
    intake.wait(intake.begin(OPERATOR, json.dumps(body).encode(), content_type="application/json"))


def stuck(until: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        until.wait(30)
        handler.close_connection = True

    return answer


class TestARunningSender:
    def test_posts_what_arrives(self, running: World, receiver: Receiver) -> None:
        mine = hook(running, receiver.url)
        for value in (1.0, 2.0, 3.0):
            value_sent(mine, value)
            assert receiver.next().values == [value]

    def test_counts_what_was_taken_and_tells_nobody_of_its_traces(self, running: World, receiver: Receiver) -> None:
        mine = hook(running, receiver.url)
        change = Change()
        receiver.answers = [410]
        value_sent(mine, 1.0)
        assert "traceparent" not in {name.lower() for name in receiver.next().headers}
        wait_until(lambda: change.of("kilowatch_webhook_deliveries_total", result="failed") == 1, "it is counted")
        mine.put()
        receiver.next()
        wait_until(lambda: change.of("kilowatch_webhook_deliveries_total", result="taken") == 1, "it is counted")
        assert change.of("kilowatch_webhook_request_duration_seconds_count") == 2

    def test_posts_to_each_webhook_its_own(self, running: World, receiver: Receiver) -> None:
        hooks = [hook(running, f"{receiver.url}/{number}") for number in range(5)]
        for number, mine in enumerate(hooks):
            value_sent(mine, float(number))
        got = {request.path: request.values for request in (receiver.next() for _ in hooks)}
        assert got == {f"/{number}": [float(number)] for number in range(5)}

    def test_a_slow_target_does_not_hold_up_another(self, running: World, receiver: Receiver) -> None:
        done = threading.Event()
        with Receiver() as slow_receiver:
            slow_receiver.answers = [stuck(done)]
            slow, quick = hook(running, slow_receiver.url), hook(running, receiver.url)
            value_sent(slow, 1.0)
            slow_receiver.next()
            for value in (2.0, 3.0):
                value_sent(quick, value)
                assert receiver.next().values == [value]
            value_sent(slow, 4.0)
            assert slow_receiver.taken() == []  # one request at a time
            done.set()

    def test_hears_of_one_that_is_started_again(self, running: World, receiver: Receiver) -> None:
        receiver.answers = [410]
        mine = hook(running, receiver.url)
        value_sent(mine, 1.0)
        receiver.next()
        mine.put()
        assert receiver.next().values == [1.0]


class TestARestart:
    def test_breaks_off_what_is_on_its_way_and_sends_it_again(self, settings: Settings, receiver: Receiver) -> None:
        done = threading.Event()
        receiver.answers = [stuck(done)]
        with open_world(settings, RunningClock()) as world:
            mine = hook(world, receiver.url)
            value_sent(mine, 1.0)
            first = receiver.next()
        with Kilowatch(settings) as stopped, stopped.database.read() as connection:
            row = connection.exec_driver_sql("SELECT status, attempts, error FROM webhook_deliveries").one()
            assert tuple(row) == ("pending", 1, None)  # neither answered nor timed out: it was not waited for
            assert connection.exec_driver_sql("SELECT claim FROM webhooks").scalar() is None
        with TestClient(create_app(settings)):
            again = receiver.next()
        done.set()
        assert again.values == first.values == [1.0]
        assert again.headers["kilowatch-delivery"] == first.headers["kilowatch-delivery"]

    def test_sends_what_arrived_without_a_sender(self, settings: Settings, receiver: Receiver) -> None:
        with open_world(settings.model_copy(update={"webhook_requests": 0}), RunningClock()) as world:
            mine = hook(world, receiver.url)
            for value in (1.0, 2.0):
                value_sent(mine, value)
        assert receiver.taken() == []
        with TestClient(create_app(settings)):
            assert receiver.next().values == [1.0, 2.0]

    def test_sends_nothing_again_that_was_taken(self, settings: Settings, receiver: Receiver) -> None:
        with open_world(settings, RunningClock()) as world:
            mine = hook(world, receiver.url)
            value_sent(mine, 1.0)
            receiver.next()
            wait_until(lambda: mine.listed()[0]["status"] == "delivered", "the answer is noted")
        with TestClient(create_app(settings)) as client:
            world = World(client.app.state.services, client, RunningClock())  # type: ignore[attr-defined]  # a FastAPI app
            value_sent_to(world, mine.metrics[0], 2.0)
            assert receiver.next().values == [2.0]


def test_two_servers_on_one_database_send_each_reading_once(settings: Settings, receiver: Receiver) -> None:
    """Two senders that look at once, of webhooks to one receiver."""
    with open_world(settings, RunningClock()) as world:
        services = world.services
        mine = hook(world, receiver.url)

        async def send_with_two() -> None:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(2):
                    news = News()
                    services.feed.listen(news)
                    courier = Courier(services.webhook_addresses)
                    sender = Sender(services.deliveries, courier, news, most=2, clock=utc_now)
                    await stack.enter_async_context(sender.running())
                for value in range(3):
                    await anyio.to_thread.run_sync(value_sent, mine, float(value))
                while len(got) < 3:
                    got.extend((await anyio.to_thread.run_sync(receiver.next)).values)

        got: list[float] = []
        asyncio.run(send_with_two())
    got.extend(value for request in receiver.taken() for value in request.values)
    assert got == [0.0, 1.0, 2.0]
