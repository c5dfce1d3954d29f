"""Drives a server over HTTP as fast as it answers: one thread, keep-alive sockets, requests that are bytes already.

Server and driver share the machine, so an answer is parsed only as far as its status and its length need.
"""

import gc
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_SMALL, _LARGE = 1 << 16, 1 << 20
_PATIENCE_S = 120


@dataclass(frozen=True)
class Api:
    """Where a server listens, and who asks."""

    port: int
    key: str

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
        """A whole request as bytes. A path that does not start with /api is one below /api/v1."""
        target = path if path.startswith("/api/") else f"/api/v1{path}"
        scheme = "Token" if target.startswith("/api/v2") else "Bearer"
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: {scheme} {self.key}"]
        if method != "GET":
            lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def get(self, path: str) -> bytes:
        return self.request("GET", path)


@dataclass
class Outcome:
    """What became of the requests of one kind. Seconds; latencies from the first byte sent to the last received."""

    expect: bytes = b""
    """What the first bytes of every answer's body contain; another answer is an error."""
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    body_bytes: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def took_s(self) -> float:
        return self.ended - self.began

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the requests kept within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


@dataclass
class Lane:
    """One client: it sends the next request when the one before is answered, or every `every_s` if that is later.

    Lanes may share an iterator of requests. A `background` lane is stopped when the others are done.
    """

    requests: Iterator[bytes]
    outcome: Outcome
    every_s: float = 0.0
    background: bool = False


class Refused(Exception):
    """The server answered with something other than what the measurement is about."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:500].decode(errors='replace')}")
        self.status = status


def lanes(requests: Iterator[bytes], *, clients: int, expect: bytes = b"") -> list[Lane]:
    """So many clients that share these requests, and one outcome."""
    outcome = Outcome(expect)
    return [Lane(requests, outcome) for _ in range(clients)]


def drive(
    port: int, given: Sequence[Lane], *, tick: Callable[[], None] | None = None, tick_s: float = 0.25
) -> list[Outcome]:
    """Run all lanes to their end; the outcomes, each once.

    Args:
        tick: called every `tick_s` while it runs.

    Raises:
        Refused: an answer was not a success, or not what was expected.
    """
    connections = [_Connection(port, lane) for lane in given]
    gc.collect()
    gc.disable()  # a collection over all prepared requests would be part of the figures
    try:
        _loop(connections, tick, tick_s)
    finally:
        gc.enable()
        for connection in connections:
            connection.socket.close()
    return list({id(lane.outcome): lane.outcome for lane in given}.values())


def _loop(connections: "list[_Connection]", tick: Callable[[], None] | None, tick_s: float) -> None:
    clock = time.perf_counter
    selector = selectors.DefaultSelector()
    now = clock()
    for connection in connections:
        connection.lane.outcome.began = now
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.due = now
    idle = list(connections)
    foreground = sum(not connection.lane.background for connection in connections)
    next_tick, last_answer = now + tick_s, now
    busy = 0
    while foreground or busy:
        now = clock()
        for connection in [one for one in idle if one.due <= now or not foreground]:
            idle.remove(connection)
            if (foreground or not connection.lane.background) and connection.begin(selector):
                busy += 1
            elif not connection.lane.background:
                foreground -= 1
        wait = min([next_tick, *(one.due for one in idle)]) - clock()
        for key, events in selector.select(max(wait, 0.0)):
            connection = key.data
            if events & selectors.EVENT_WRITE:
                connection.send(selector)
            if events & selectors.EVENT_READ and connection.receive():
                last_answer = connection.lane.outcome.ended
                busy -= 1
                if not connection.lane.every_s and not connection.lane.background:
                    if connection.begin(selector):
                        busy += 1
                    else:
                        foreground -= 1
                else:
                    connection.due = max(connection.due + connection.lane.every_s, last_answer)
                    idle.append(connection)
        now = clock()
        if now >= next_tick:
            next_tick = now + tick_s
            if tick is not None:
                tick()
            if now - last_answer > _PATIENCE_S:
                raise TimeoutError(f"no answer for {_PATIENCE_S} s")


class _Connection:
    def __init__(self, port: int, lane: Lane) -> None:
        self.lane = lane
        self.due = 0.0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.socket.setblocking(False)
        self._unsent = memoryview(b"")
        self._answer = Answer()
        self._began = 0.0

    def begin(self, selector: selectors.BaseSelector) -> bool:
        """Send the next request; false if there is none."""
        request = next(self.lane.requests, None)
        if request is None:
            return False
        self._answer = Answer()
        self._began = time.perf_counter()
        self._unsent = memoryview(request)
        self.send(selector, waiting=False)
        return True

    def send(self, selector: selectors.BaseSelector, *, waiting: bool = True) -> None:
        with suppress(BlockingIOError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        if self._unsent and not waiting:
            selector.modify(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        elif not self._unsent and waiting:
            selector.modify(self.socket, selectors.EVENT_READ, self)

    def receive(self) -> bool:
        """Take what has come; true when the answer is complete."""
        answer, outcome = self._answer, self.lane.outcome
        data = self.socket.recv(_LARGE if answer.is_large else _SMALL)
        if not data:
            raise ConnectionError("the server closed the connection")
        before = answer.body_bytes
        complete = answer.feed(data)
        if not before and answer.body_bytes:
            answer.first_byte_at = time.perf_counter()
        if not complete:
            return False
        if not 200 <= answer.status < 300 or outcome.expect not in answer.start:
            raise Refused(answer.status, answer.start)
        outcome.ended = time.perf_counter()
        outcome.latencies.append(outcome.ended - self._began)
        outcome.first_bytes.append((answer.first_byte_at or outcome.ended) - self._began)
        outcome.body_bytes += answer.body_bytes
        return True


class Answer:
    """One HTTP answer: its status, and where its body ends."""

    __slots__ = (
        "_chunk_left",
        "_chunked",
        "_head",
        "_is_last",
        "_left",
        "_pending",
        "body_bytes",
        "first_byte_at",
        "start",
        "status",
    )

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._chunked = self._is_last = False
        self._left = self._chunk_left = 0
        self.status = self.body_bytes = 0
        self.first_byte_at = 0.0
        self.start = b""
        self._pending = b""  # the first half of a chunk's size

    @property
    def is_large(self) -> bool:
        return self._left > _SMALL or self._chunked

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; true when the answer is complete."""
        if self._head is not None:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return False
            self._read_head(data[:end].lower())
            data = data[end + 4 :]
        if self._chunked:
            return self._feed_chunks(data)
        self._take(data)
        self._left -= len(data)
        return self._left <= 0

    def _read_head(self, head: bytes) -> None:
        self._head = None
        self.status = int(head[9:12])
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._left = int(head[at + 17 :].split(b"\r\n", 1)[0])
        elif not self._chunked and self.status != 204:
            raise ValueError("an answer of unknown length")

    def _feed_chunks(self, data: bytes) -> bool:
        data, self._pending = self._pending + data, b""
        at = 0
        while at < len(data):
            if self._chunk_left:  # its CRLF counted
                part = data[at : at + self._chunk_left]
                at += len(part)
                self._chunk_left -= len(part)
                if not self._is_last:
                    self._take(part)  # the CRLF too, which hurts nobody
                elif not self._chunk_left:
                    return True
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._pending = data[at:]
                return False
            size = int(data[at:end].split(b";")[0], 16)
            at = end + 2
            self._chunk_left, self._is_last = size + 2, size == 0
        return False

    def _take(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if len(self.start) < 500:
            self.start += data[:500]
