"""Connections and the server are killed at random while readings flow, and no event is lost or doubled."""

import http.client
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kilowatch.history.model import Place
from tests.live.client import Client, Event
from tests.processes import Server, create_admin

SEED = 20_260_105
KILLS_OF_CONNECTIONS, KILLS_OF_SERVERS = 92, 8
METRICS, SENDERS, SUBSCRIBERS = 6, 3, 2
DEADLINE_S = 120.0
BEGIN_MS = 1_767_603_600_000
TWO_MONTHS_MS = 62 * 86_400_000
BROKEN = (OSError, http.client.HTTPException, ValueError)  # the last: a file that was closed while it was read

Reading = tuple[int, int, float]
"""A metric, a time in ms, a value."""


class Sender(threading.Thread):
    """Sends the readings of its metrics in batches, and each of them again until it is answered."""

    def __init__(self, port: int, token: str, metrics: list[int], seed: int) -> None:
        super().__init__(daemon=True)
        self.accepted: list[list[Reading]] = []
        """Batches, in the order in which they were answered."""
        self.repeats = 0
        self._port, self._token, self._metrics = port, token, metrics
        self._random = random.Random(seed)
        self._done, self._pause = threading.Event(), threading.Event()
        self._http: http.client.HTTPConnection | None = None
        self._now = 0

    def run(self) -> None:
        while not self._done.is_set():
            batch = self._next_batch()
            while not self._is_answered(batch):
                self.repeats += 1
                self._pause.wait(0.05)
            self.accepted.append(batch)
        if self._http is not None:
            self._http.close()

    def finish(self) -> None:
        """Send what was begun, then stop."""
        self._done.set()
        self.join(DEADLINE_S)
        assert not self.is_alive(), "a sender got no answer"

    def kill_connection(self) -> bool:
        return break_off(self._http.sock if self._http is not None else None)

    def _next_batch(self) -> list[Reading]:
        """New readings, most of them later than all before. Some are two months late, and stored apart from the others:
        so a crash can leave half a batch.
        """
        batch = []
        for _ in range(self._random.randint(1, 8)):
            self._now += 1
            late = self._random.random() < 0.2
            ts = BEGIN_MS + 1000 * self._now - (TWO_MONTHS_MS if late else 0)
            batch.append((self._random.choice(self._metrics), ts, float(self._now)))
        return batch

    def _is_answered(self, batch: list[Reading]) -> bool:
        rows = [{"metric_id": metric, "timestamp": _iso(ts), "value": value} for metric, ts, value in batch]
        body = json.dumps({"readings": rows})
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            if self._http is None:
                self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            self._http.request("POST", "/api/v1/readings", body, headers)
            answer = self._http.getresponse()
            report = json.loads(answer.read())
        except (*BROKEN, AttributeError):  # the last: http.client, where the socket goes while it sends
            self._forget_connection()
            return False
        if answer.status == 503:
            return False
        assert (answer.status, report["accepted"]) == (200, len(batch)), report
        return True

    def _forget_connection(self) -> None:
        connection, self._http = self._http, None
        if connection is not None:
            connection.close()


class Subscriber(threading.Thread):
    """Reads a stream, and goes on from the last id that it has when it breaks."""

    def __init__(self, port: int, token: str, subscription: int) -> None:
        super().__init__(daemon=True)
        self.readings: list[Event] = []
        self.connections = 0
        self.unexpected: list[Event] = []
        self._port, self._token, self._subscription = port, token, subscription
        self._client: Client | None = None
        self._last_id: str | None = None
        self._done = False
        self._pause = threading.Event()

    def run(self) -> None:
        while not self._done:
            try:
                client = Client(self._port, self._subscription, self._token, last_id=self._last_id)
            except BROKEN:
                self._pause.wait(0.05)
                continue
            self._client = client
            self.connections += client.status == 200
            self._read(client)
            client.close()

    def _read(self, client: Client) -> None:
        try:
            while client.status == 200 and (event := client.event()) is not None:
                self._last_id = client.last_id
                if event.name == "reading":
                    self.readings.append(event)
                elif event.name in ("reset", "unavailable"):
                    self.unexpected.append(event)
        except (*BROKEN, AttributeError):
            pass

    @property
    def has_begun(self) -> bool:
        return self._last_id is not None

    def kill_connection(self) -> bool:
        client = self._client
        return break_off(client.socket if client is not None else None)

    def finish(self) -> None:
        self._done = True
        self.kill_connection()
        self.join(DEADLINE_S)
        assert not self.is_alive()


def break_off(connection: socket.socket | None) -> bool:
    """Reset a connection that is open, whatever is on its way in either direction."""
    if connection is None:
        return False
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def _iso(ts: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ts // 1000)) + f".{ts % 1000:03d}Z"


def until(true: Callable[[], bool], what: str) -> None:
    """Looks at it often, as there is nobody who would tell; the deadline is far beyond what it ever takes."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        pause.wait(0.002)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    create_admin(tmp_path / "var")
    server = Server(tmp_path / "var", tmp_path / "server.log", settings={"log_level": "error"}).start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def test_no_event_is_lost_or_doubled_though_connections_and_servers_are_killed(server: Server) -> None:
    chance = random.Random(SEED)
    token = server.sign_in()["access_token"]
    metrics = [server.make_metric(token, site=f"Site {n}") for n in range(METRICS)]
    body = {"name": "All", "metric_ids": metrics}
    subscription = server.send("POST", "/subscriptions", body, token)["id"]
    subscribers = [Subscriber(server.port, token, subscription) for _ in range(SUBSCRIBERS)]
    for subscriber in subscribers:
        subscriber.start()
    until(lambda: all(subscriber.has_begun for subscriber in subscribers), "the streams are open")
    senders = [Sender(server.port, token, metrics[n::SENDERS], SEED + n) for n in range(SENDERS)]
    for sender in senders:
        sender.start()

    kills = ["connection"] * KILLS_OF_CONNECTIONS + ["server"] * KILLS_OF_SERVERS
    chance.shuffle(kills)
    killable: list[Sender | Subscriber] = [*senders, *subscribers]
    for kill in kills:
        answered = sum(len(sender.accepted) for sender in senders) + chance.randint(1, 12)
        until(lambda enough=answered: sum(len(sender.accepted) for sender in senders) >= enough, "readings flow")  # type: ignore[misc]
        if kill == "server":
            server.end(signal.SIGKILL)
            server.start()
        else:
            until(lambda: chance.choice(killable).kill_connection(), "there is one to kill")
    for sender in senders:
        sender.finish()

    expected = sorted(reading for sender in senders for batch in sender.accepted for reading in batch)
    assert len(set(expected)) == len(expected) > 500
    for subscriber in subscribers:
        until(lambda one=subscriber: len(one.readings) >= len(expected), "all has arrived")  # type: ignore[misc]
        subscriber.finish()
        arrived = [_reading(event) for event in subscriber.readings]
        assert sorted(arrived) == expected  # each once
        places = [_place(event) for event in subscriber.readings]
        assert places == sorted(set(places))  # in order of arrival: each further than the last
        assert subscriber.unexpected == []
    for sender in senders:
        assert _in_order(sender, subscribers[0])
    assert sum(subscriber.connections for subscriber in subscribers) > KILLS_OF_SERVERS * SUBSCRIBERS
    assert sum(sender.repeats for sender in senders) > KILLS_OF_SERVERS


def _place(event: Event) -> Place:
    place = Place.parse(event.id or "")
    assert place is not None
    return place


def _reading(event: Event) -> Reading:
    return event.data["metric_id"], _place(event).ts, event.data["value"]


def _in_order(sender: Sender, subscriber: Subscriber) -> bool:
    """Whether all of a batch arrived before all of those that were sent when it was answered."""
    arrived_at = {_reading(event): _place(event).received_at for event in subscriber.readings}
    moments = [[arrived_at[reading] for reading in batch] for batch in sender.accepted]
    return all(max(before) < min(after) for before, after in pairwise(moments))
