"""A client of a stream, as simple as the format allows: it reads lines."""

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

DEADLINE_S = 60.0


class Event(NamedTuple):
    name: str
    """The event's name; "" for a block that has none, as a heartbeat."""
    data: Any
    id: str | None
    comment: str = ""
    retry: str = ""


class Client:
    """Reads a stream until it is closed. `last_id` is what it resumes with.

    Args:
        shown: a subscription, or the metrics themselves.
        token: `None` where `headers` say who asks.
    """

    def __init__(
        self,
        port: int,
        shown: int | Sequence[int],
        token: str | None,
        *,
        last_id: str | None = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.last_id = last_id
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        sent = {"Accept": "text/event-stream", **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if last_id is not None:
            sent["Last-Event-ID"] = last_id
        path = f"/subscriptions/{shown}/stream" if isinstance(shown, int) else "/stream"
        if not isinstance(shown, int):
            query = "?" + "&".join(f"metric={metric}" for metric in shown)
        self._http.request("GET", f"/api/v1{path}{query}", headers=sent)
        self.socket = self._http.sock
        self.answer = self._http.getresponse()
        self.status = self.answer.status

    def event(self) -> Event | None:
        """The next block; `None` at the stream's end. An `OSError` or `HTTPException` where the connection broke."""
        fields: dict[str, str] = {}
        while line := self.answer.readline().decode():
            if line == "\n":
                break
            name, _, value = line.rstrip("\n").partition(":")
            fields[name or "comment"] = value.removeprefix(" ")
        else:
            return None
        self.last_id = fields.get("id", self.last_id)
        data = json.loads(fields["data"]) if "data" in fields else None
        return Event(
            fields.get("event", ""), data, fields.get("id"), fields.get("comment", ""), fields.get("retry", "")
        )

    def until(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Events until one that is wanted, that one included."""
        events: list[Event] = []
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            event = self.event()
            assert event is not None, f"the stream ended after {events[-5:]}"
            events.append(event)
            if wanted(event):
                return events
        raise AssertionError(f"waited too long; the last events were {events[-5:]}")

    def named(self, name: str) -> Event:
        """The next event of that name."""
        return self.until(lambda event: event.name == name)[-1]

    def many(self, name: str, count: int) -> list[Event]:
        return [self.named(name) for _ in range(count)]

    def rest(self) -> list[Event]:
        """All until the stream's end."""
        events = []
        while (event := self.event()) is not None:
            events.append(event)
        return events

    def close(self) -> None:
        self.answer.close()
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
