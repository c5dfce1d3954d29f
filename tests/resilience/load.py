"""Senders that try again until they are answered, and followers that come back: what a bad day must not cost."""

import http.client
import json
import threading
import time
from typing import Any, NamedTuple

from tests.live.client import Client

DEADLINE_S = 120
_AGAIN_AFTER_S = 0.1
BROKEN = (OSError, http.client.HTTPException, ValueError)


class Refusal(NamedTuple):
    """An answer other than 200, or none."""

    status: int
    headers: dict[str, str]
    body: str
    after_s: float

    @property
    def is_in_order(self) -> bool:
        """503 with a problem document and when to come again."""
        if self.status != 503 or self.headers.get("content-type") != "application/problem+json":
            return False
        problem: dict[str, Any] = json.loads(self.body)
        return problem["status"] == 503 and bool(problem["detail"]) and int(self.headers["retry-after"]) > 0


class Sender(threading.Thread):
    """Sends the readings of a metric one by one, each of them again until it is accepted."""

    def __init__(self, port: int, token: str, metric: int) -> None:
        super().__init__(daemon=True)
        self._port, self._metric = port, metric
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._enough = threading.Event()
        self._pause = threading.Event()
        self.accepted: list[int] = []
        self.accepted_at = 0.0
        self.refusals: list[Refusal] = []

    def run(self) -> None:
        while not self._enough.is_set():
            number = len(self.accepted) + 1
            refusal = self._send(number)
            if refusal is None:
                self.accepted.append(number)
                self.accepted_at = time.monotonic()
            else:
                self.refusals.append(refusal)
                self._pause.wait(_AGAIN_AFTER_S)

    def _send(self, number: int) -> Refusal | None:
        timestamp = f"2026-01-05T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        rows = [{"metric_id": self._metric, "timestamp": timestamp, "value": number}]
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
        began = time.monotonic()
        try:
            connection.request("POST", "/api/v1/readings", json.dumps({"readings": rows}), self._headers)
            answer = connection.getresponse()
            body = answer.read().decode()
        except BROKEN as error:
            return Refusal(0, {}, repr(error), time.monotonic() - began)
        finally:
            connection.close()
        if answer.status == 200 and json.loads(body)["accepted"] == 1:
            return None
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Refusal(answer.status, headers, body, time.monotonic() - began)

    def end(self) -> None:
        """Once the last reading is accepted."""
        self._enough.set()
        self.join(DEADLINE_S)
        assert not self.is_alive()


class Follower(threading.Thread):
    """Follows metrics, and connects again when its stream ends, as browsers do."""

    def __init__(self, port: int, token: str, metrics: list[int]) -> None:
        super().__init__(daemon=True)
        self._port, self._token, self._metrics = port, token, metrics
        self._enough, self._pause = threading.Event(), threading.Event()
        self.listens = threading.Event()
        self.told: dict[int, list[float]] = {metric: [] for metric in metrics}
        self.ends: list[str] = []
        self.statuses: set[int] = set()

    def run(self) -> None:
        last_id = None
        while not self._enough.is_set():
            try:
                with Client(self._port, self._metrics, self._token, last_id=last_id) as client:
                    self.statuses.add(client.status)
                    if client.status == 200:
                        try:
                            self._follow(client)
                        finally:
                            last_id = client.last_id
            except BROKEN:
                pass
            self._pause.wait(_AGAIN_AFTER_S)

    def _follow(self, client: Client) -> None:
        while not self._enough.is_set() and (event := client.event()) is not None:
            if event.name == "latest":
                self.listens.set()
            elif event.name == "reading":
                self.told[event.data["metric_id"]].append(event.data["value"])
            elif event.name == "end":
                self.ends.append(event.data["reason"])

    def end(self) -> None:
        self._enough.set()
