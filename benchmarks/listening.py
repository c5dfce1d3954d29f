"""Clients that listen to streams while gateways send: when each event arrives, and when its sender was answered."""

import gc
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.driver import Answer, Api, Refused

_MOST = 1 << 18
_PATIENCE_S = 60
_EVENT, _LATEST = b"event: reading\n", b"event: latest\n"


@dataclass
class Gateway:
    """Sends a request each second; those who listen to its metrics."""

    requests: Sequence[bytes]
    listeners: Sequence["Listener"]
    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    """When each was answered; 0 while it is not."""


class Listener:
    """One open stream. Its events come in the order in which they were sent, so counting tells which each one is."""

    def __init__(self, api: Api, subscription_id: int, metrics: int) -> None:
        self.metrics = metrics
        self.arrived: list[float] = []
        """When the last event of each of its gateway's requests arrived."""
        self.latest = self.events = 0
        self._rest = b""
        self._is_open = False
        self.socket = socket.create_connection(("127.0.0.1", api.port))
        self.socket.sendall(api.get(f"/subscriptions/{subscription_id}/stream"))
        self.socket.setblocking(False)

    def receive(self) -> None:
        data = self.socket.recv(_MOST)
        if not data:
            raise ConnectionError("the server closed a stream")
        if not self._is_open and not data.startswith(b"HTTP/1.1 200"):
            raise Refused(int(data[9:12]), data)
        self._is_open = True
        data = self._rest + data
        self.latest += data.count(_LATEST)
        self.events += data.count(_EVENT)
        self._rest = data[-len(_EVENT) + 1 :].rpartition(b"\n")[2]  # a name that comes in two halves
        now = time.perf_counter()
        while len(self.arrived) < self.events // self.metrics:
            self.arrived.append(now)


@dataclass
class Heard:
    """Seconds, of each request's events at each client."""

    after_answer: list[float]
    """From the sender's answer until a client had all of its events; 0 where it had them before."""
    after_sending: list[float]
    """From the request's first byte."""
    took_s: float
    events: int


@contextmanager
def listening(api: Api, subscriptions: Sequence[int], *, metrics: int) -> Iterator[list[Listener]]:
    """Streams that have shown their latest values."""
    listeners = [Listener(api, subscription_id, metrics) for subscription_id in subscriptions]
    try:
        with selectors.DefaultSelector() as selector:
            for listener in listeners:
                selector.register(listener.socket, selectors.EVENT_READ, listener)
            _until(lambda: all(one.latest == metrics for one in listeners), selector)
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def _until(done: Callable[[], bool], selector: selectors.BaseSelector) -> None:
    deadline = time.perf_counter() + _PATIENCE_S
    while not done():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"streams did not show all for {_PATIENCE_S} s")
        for key, _ in selector.select(0.1):
            key.data.receive()


def hear(api: Api, gateways: Sequence[Gateway], *, tick: Callable[[int], None]) -> Heard:
    """Each gateway sends once a second, one after another within it, until all is sent and has arrived."""
    senders = [_Sender(api, gateway, at / len(gateways)) for at, gateway in enumerate(gateways)]
    listeners = [listener for gateway in gateways for listener in gateway.listeners]
    gc.collect()
    gc.disable()  # a collection would be part of the figures
    began = time.perf_counter()
    try:
        with selectors.DefaultSelector() as selector:
            connections: list[_Sender | Listener] = [*senders, *listeners]
            for one in connections:
                selector.register(one.socket, selectors.EVENT_READ, one)
            _exchange(senders, listeners, selector, began, tick)
    finally:
        gc.enable()
        for sender in senders:
            sender.socket.close()
    triples = [
        (arrived, answered, sent)
        for gateway in gateways
        for listener in gateway.listeners
        for arrived, answered, sent in zip(listener.arrived, gateway.answered, gateway.sent, strict=True)
    ]
    return Heard(
        after_answer=sorted(max(0.0, arrived - answered) for arrived, answered, _ in triples),
        after_sending=sorted(arrived - sent for arrived, _, sent in triples),
        took_s=time.perf_counter() - began,
        events=sum(listener.events for listener in listeners),
    )


def _exchange(
    senders: "Sequence[_Sender]",
    listeners: Sequence[Listener],
    selector: selectors.BaseSelector,
    began: float,
    tick: Callable[[int], None],
) -> None:
    rounds = len(senders[0].gateway.requests)
    deadline = time.perf_counter() + rounds + _PATIENCE_S
    while any(not sender.is_done for sender in senders) or any(len(one.arrived) < rounds for one in listeners):
        now = time.perf_counter()
        if now > deadline:
            raise TimeoutError("events did not arrive")
        for sender in senders:
            sender.send_if_due(now - began)
        due = min((sender.due_s for sender in senders if sender.is_idle), default=now - began + 0.05)
        for key, _ in selector.select(max(0.0, min(due + began - now, 0.05))):
            key.data.receive()
        tick(min(len(one.arrived) for one in listeners))


class _Sender:
    def __init__(self, api: Api, gateway: Gateway, first_s: float) -> None:
        self.gateway = gateway
        self.due_s = first_s
        self._answer: Answer | None = None
        self._left = iter(gateway.requests)
        self.socket = socket.create_connection(("127.0.0.1", api.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_idle(self) -> bool:
        return self._answer is None and not self.is_done

    @property
    def is_done(self) -> bool:
        return self._answer is None and len(self.gateway.answered) == len(self.gateway.requests)

    def send_if_due(self, now_s: float) -> None:
        if not self.is_idle or now_s < self.due_s:
            return
        self.due_s += 1.0
        self._answer = Answer()
        self.gateway.sent.append(time.perf_counter())
        self.socket.sendall(next(self._left))

    def receive(self) -> None:
        data = self.socket.recv(_MOST)
        if not data:
            raise ConnectionError("the server closed a sender's connection")
        answer = self._answer
        assert answer is not None
        if answer.feed(data):
            if answer.status != 200 or b'"rejected":0' not in answer.start:
                raise Refused(answer.status, answer.start)
            self.gateway.answered.append(time.perf_counter())
            self._answer = None
