"""What is around each request: its id, its line in the log, its metrics, its span."""

import errno
import re
import secrets
import time
from typing import Any

import structlog
from fastapi import Request
from opentelemetry.trace import Span, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kilowatch.errors import said
from kilowatch.kit import handling, metrics, traces
from kilowatch.kit.handling import Handling
from kilowatch.kit.web import problem

log = structlog.get_logger("kilowatch.web")

_USED_UP = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)
"""What there is no more of at the moment: files that may be open, space on the disk."""


class RequestLog:
    """Gives each request an id (the caller's own, if it is a sane one), and tells how it ended."""

    def __init__(self, app: ASGIApp, *, slow_ms: int) -> None:
        """`slow_ms`: requests that take longer are told of with the parts of their time. 0: none are."""
        self.app = app
        self._slow_ms = slow_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        handled = handling.begin()
        with traces.request_span(exchange.method, scope["headers"]) as span:
            if traces.is_open():
                trace_id = f"{span.get_span_context().trace_id:032x}"
                structlog.contextvars.bind_contextvars(trace_id=trace_id)
            try:
                await self._answer(exchange)
            finally:
                handled.seconds["sending"] = exchange.sending_s
                self._tell(exchange, handled)
                _describe(span, exchange, handled)

    async def _answer(self, exchange: "_Exchange") -> None:
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            # What nobody foresaw: the log has it whole, the answer says nothing of it.
            log.error("unforeseen error", exc_info=error)
            if exchange.started:
                raise
            detail = said("Something went wrong on our side; the log has it under this request's id.")
            passes = isinstance(error, OSError) and error.errno in _USED_UP
            status, headers = (503, {"Retry-After": "5"}) if passes else (500, {})
            response = problem(Request(exchange.scope), status, detail, headers=headers)
            await response(exchange.scope, exchange.receive, exchange.send)

    def _tell(self, exchange: "_Exchange", handled: Handling) -> None:
        seconds = exchange.seconds()
        line = exchange.line(seconds) | _who(handled)
        log.info("request", **line)
        if exchange.is_stream:
            metrics.stream_ended(
                method=exchange.method, route=exchange.route, status=exchange.status, sent=exchange.sent
            )
            return
        metrics.request_ended(
            method=exchange.method,
            route=exchange.route,
            status=exchange.status,
            seconds=seconds,
            received=exchange.received,
            sent=exchange.sent,
        )
        if 0 < self._slow_ms < seconds * 1000:
            metrics.SLOW_REQUESTS.labels(exchange.route or "other").inc()
            parts = {f"{part}_ms": _ms(spent) for part, spent in handled.seconds.items()}
            log.warning("slow request", **line, **parts, received_bytes=exchange.received, sent_bytes=exchange.sent)


class _Exchange:
    """A request and its answer as they pass by."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.request_id = _request_id(scope)
        self.status, self.started, self.is_stream = 500, False, False
        self.received = self.sent = 0
        self.sending_s = 0.0
        self._receive, self._send = receive, send
        self._began = time.perf_counter()

    @property
    def route(self) -> str | None:
        """Its template; `None` if no route of ours was found."""
        return getattr(self.scope.get("route"), "path", None)

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def line(self, seconds: float) -> dict[str, Any]:
        """What the log says of it. Not the query: InfluxDB 1 has passwords in there."""
        client = self.scope.get("client")
        return {
            "method": self.method,
            "path": self.scope["raw_path"].decode("ascii", "replace"),
            "route": self.route,
            "status": self.status,
            "ms": _ms(seconds),
            "client": client[0] if client else None,
        }

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message)
        else:
            self.sent += len(message.get("body", b""))
        began = time.perf_counter()
        await self._send(message)
        self.sending_s += time.perf_counter() - began

    def _start(self, message: Message) -> None:
        self.status, self.started = message["status"], True
        headers = [*message.get("headers", ())]
        named = dict(headers)
        self.is_stream = named.get(b"content-type", b"").startswith(_STREAM)
        if b"cache-control" not in named:
            headers.append((b"cache-control", b"no-store"))
        headers += [(b"x-request-id", self.request_id.encode()), (b"x-content-type-options", b"nosniff")]
        message["headers"] = headers


_STREAM = b"text/event-stream"


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else secrets.token_hex(8)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _who(handled: Handling) -> dict[str, int]:
    """Who asked, where that is known."""
    known = {"user_id": handled.user_id, "api_key_id": handled.api_key_id}
    return {name: number for name, number in known.items() if number is not None}


def _describe(span: Span, exchange: _Exchange, handled: Handling) -> None:
    """By OpenTelemetry's conventions for HTTP servers, but for the query, which it does not get."""
    if not span.is_recording():
        return
    route = exchange.route
    span.update_name(f"{exchange.method} {route}" if route else exchange.method)
    client = exchange.scope.get("client")
    described = {
        "http.request.method": exchange.method,
        "http.route": route,
        "http.response.status_code": exchange.status,
        "url.scheme": exchange.scope.get("scheme"),
        "url.path": exchange.scope["path"],
        "client.address": client[0] if client else None,
        "kilowatch.request_id": exchange.request_id,
    }
    described |= {f"kilowatch.{name}": number for name, number in _who(handled).items()}
    described |= {f"kilowatch.{part}_ms": _ms(spent) for part, spent in handled.seconds.items()}
    span.set_attributes({name: value for name, value in described.items() if value is not None})
    if exchange.status >= 500:
        span.set_status(StatusCode.ERROR)
