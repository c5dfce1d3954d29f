"""HTTP for every room: answers, problem documents, body limits, and which threads a route's calls run on."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps
from http import HTTPStatus
from inspect import iscoroutinefunction
from ipaddress import IPv6Network
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import anyio
import msgspec
import structlog
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kilowatch import errors
from kilowatch.errors import said
from kilowatch.kit.idempotency import Once
from kilowatch.kit.lanes import Lane, on_time
from kilowatch.kit.paging import DEFAULT_LIMIT, MAX_LIMIT
from kilowatch.kit.text import MAX_ID, Search

T = TypeVar("T")

log = structlog.get_logger("kilowatch.web")

PROBLEM_JSON = "application/problem+json"
_DRAIN_AT_MOST = 512 * 1024 * 1024
_DRAIN_SECONDS = 10
_MAX_FAULTS = 100
_MAX_DETAIL = 2000
_CLIENT_GONE = 499
RecordId = Annotated[int, Path(ge=1, le=MAX_ID, description="Its id.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items a page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next` of the page before.")]
SearchText = Annotated[Search | None, Query(description="Part of the name or slug, in any case of letters.")]
LIMIT_DEFAULT = DEFAULT_LIMIT
INSTANT = {"format": "date-time"}
"""What the schema of a time in a query has besides."""
WindowStart = Annotated[
    str,
    Query(
        max_length=40,
        description="Begin of the window, RFC 3339 with an offset.",
        json_schema_extra=INSTANT,
        examples=["2025-06-01T00:00:00+01:00"],
    ),
]
WindowEnd = Annotated[
    str,
    Query(
        max_length=40,
        description="End of the window, not part of it.",
        json_schema_extra=INSTANT,
        examples=["2025-06-02T00:00:00+01:00"],
    ),
]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field that is wrong."""

    pointer: Annotated[str, msgspec.Meta(description="JSON Pointer, as a URI fragment, into the part named by `in`.")]
    detail: str
    place: Annotated[Literal["body", "query", "path", "header"], msgspec.Meta(description="Part of the request.")] = (
        msgspec.field(name="in", default="body")
    )


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: Annotated[
        str, msgspec.Meta(description="The request's path; for a 404 its template, so that all of them read alike.")
    ]
    errors: list[FieldProblem] = []


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer from msgspec structs."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def created(value: object, location: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return answer(value, status=201, headers={"Location": location, **(headers or {})})


NO_CONTENT = partial(Response, status_code=204)

# ── problems ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_STATUS_OF: dict[type[errors.KilowatchError], int] = {
    errors.Unreadable: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.NotAcceptable: 406,
    errors.Conflict: 409,
    errors.Stale: 412,
    errors.TooLarge: 413,
    errors.UnknownFormat: 415,
    errors.Invalid: 422,
    errors.TooMany: 429,
    errors.Unavailable: 503,
}


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    faults: tuple[errors.Fault, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document; or a page that says the same, where one was asked for."""
    if is_for_a_page(request):
        page: ProblemPage = request.app.state.problem_page
        return page(request, status, detail, faults, dict(headers or {}))
    path = request.url.path
    if status == HTTPStatus.NOT_FOUND and (route := request.scope.get("route")) is not None:
        path = getattr(route, "path", path)
    document = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_sendable(detail),
        instance=_sendable(path),
        errors=[
            FieldProblem(
                "#" + quote(_sendable(fault.pointer), safe="/~!$&'()*+,;=:@?"), _sendable(fault.detail), fault.place
            )
            for fault in faults[:_MAX_FAULTS]
        ],
    )
    return Response(msgspec.json.encode(document), status, headers, PROBLEM_JSON)


ProblemPage = Callable[[Request, int, str, tuple[errors.Fault, ...], dict[str, str]], Response]
"""Makes a page of a problem's status, detail, faults and headers. The room of pages is above this one; `app.py` joins
the two."""


def is_for_a_page(request: Request) -> bool:
    """Whether a browser asks for a page, and no program for data."""
    path = request.url.path
    asks_for_data = path == "/write" or path.startswith(("/api/", "/health/"))
    return not asks_for_data and "text/html" in request.headers.get("accept", "")


def _sendable(text: str) -> str:
    """Text that may quote what a request brought: JSON can bring half characters and names of any length."""
    return text.encode(errors="replace").decode()[:_MAX_DETAIL]


def install_errors(app: FastAPI) -> None:
    """Turn every error that is known into a problem document. (`kit.requests` does it for what nobody foresaw.)"""

    @app.exception_handler(errors.KilowatchError)
    def _known(request: Request, error: errors.KilowatchError) -> Response:
        status = next(_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF)
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return problem(request, status, error.message, faults=error.faults, headers=headers)

    @app.exception_handler(ClientDisconnect)  # before its body was all here
    @app.exception_handler(errors.Abandoned)
    def _abandoned(_request: Request, _error: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)  # for the log alone

    @app.exception_handler(RequestValidationError)
    def _validation(request: Request, error: RequestValidationError) -> Response:
        if any(item["type"] == "json_invalid" for item in error.errors()):
            return problem(request, 400, "The body is not JSON: " + str(error.errors()[0]["ctx"]["error"]))
        if any(item["loc"] == ("body",) and isinstance(item.get("input"), bytes) for item in error.errors()):
            return problem(request, 415, "The body must be JSON: send `Content-Type: application/json`.")
        faults = tuple(_fault(item) for item in error.errors()[:_MAX_FAULTS])
        detail = "; ".join(f"{fault.pointer.strip('/') or fault.place}: {fault.detail}" for fault in faults[:3])
        return problem(request, 422, detail, faults=faults)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        detail = {404: said("There is nothing at this address."), 400: said("The body can't be read.")}.get(
            error.status_code, str(error.detail)
        )
        headers = dict(error.headers or {})
        # Each route knows its own method alone; the document knows all of an address.
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (route := request.scope.get("route")) is not None:
            methods = app.openapi()["paths"].get(getattr(route, "path", ""), {})
            if methods:
                headers["Allow"] = ", ".join(sorted(method.upper() for method in methods))
        return problem(request, error.status_code, detail, headers=headers)


def _fault(item: dict[str, Any]) -> errors.Fault:
    place, *path = item["loc"]
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    detail = item["msg"].removeprefix("Value error, ")
    return errors.Fault(pointer, detail, place if place in ("query", "path", "header") else "body")


# ── the middle ───────────────────────────────────────────────────────────────────────────────────────────────────────


_LARGE_BYTES = 1024 * 1024
_LARGE_AT_ONCE = 8
_LARGE_OF_ONE_CLIENT = 4
_GRACE_S = 30.0
_SLOWEST_BYTES_S = 16 * 1024
_LONGEST_S = 300.0


class BodyLimit:
    """Refuses a request body over the limit with 413, before anything of it is looked at.

    Large ones are taken in turn, so that memory holds them: what waits for its turn is not read, and stays with
    whoever sends it. One client never has all turns, and none keeps one by sending slowly (408).
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, grace_s: float = _GRACE_S) -> None:
        """`grace_s`: how much longer a large body may take than at 16 KiB/s."""
        self.app = app
        self.max_bytes = max_bytes
        self._grace_s = grace_s
        self._turns = anyio.CapacityLimiter(_LARGE_AT_ONCE)
        self._turns_of: WeakValueDictionary[str, anyio.CapacityLimiter] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"")
        is_chunked = any(k == b"transfer-encoding" for k, _ in scope["headers"])
        if declared.isdigit():
            await self._take_declared(int(declared), scope, receive, send)
        elif is_chunked:
            with suppress(ClientDisconnect):  # there is nobody to answer
                await self._take_chunked(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _take_declared(self, size: int, scope: Scope, receive: Receive, send: Send) -> None:
        """The server itself holds the client to the length."""
        if size > self.max_bytes:
            await self._refuse(scope, receive, send)
        elif size > _LARGE_BYTES:
            await self._in_turn(self.app, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _in_turn(self, take: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        client = _network((scope.get("client") or ("",))[0])
        turns = self._turns_of.setdefault(client, anyio.CapacityLimiter(_LARGE_OF_ONE_CLIENT))
        async with turns, self._turns:
            try:
                await take(scope, _in_time(receive, self._grace_s), send)
            except HTTPException as slow:  # as it was read here, and not by the application
                await problem(Request(scope), slow.status_code, slow.detail, headers=slow.headers)(scope, receive, send)

    async def _take_chunked(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        if await _read(body, receive, _LARGE_BYTES):
            await self._take_read(body, scope, receive, send)
        else:
            await self._in_turn(partial(self._take_rest, body), scope, receive, send)

    async def _take_rest(self, body: bytearray, scope: Scope, receive: Receive, send: Send) -> None:
        await _read(body, receive, self.max_bytes)
        await self._take_read(body, scope, receive, send)

    async def _take_read(self, body: bytearray, scope: Scope, receive: Receive, send: Send) -> None:
        if len(body) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The rest is read and dropped for a while: a client that is still sending would see a broken connection
        # instead of our answer.
        dropped = 0
        with anyio.move_on_after(_DRAIN_SECONDS):
            while dropped < _DRAIN_AT_MOST:
                message = await receive()
                dropped += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
        detail = said(
            "The body is larger than %(limit)s bytes; send it in parts, or compressed "
            "(Content-Encoding: gzip or zstd).",
            limit=f"{self.max_bytes:,}",
        )
        response = problem(Request(scope), 413, detail)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


def _network(address: str) -> str:
    """The address of a client by IPv4, or the /64 of one by IPv6, which has all of that."""
    try:
        return str(IPv6Network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address


async def _read(body: bytearray, receive: Receive, most: int) -> bool:
    """Whether all of a body is there, and not only the first of more than `most` bytes.

    Raises:
        ClientDisconnect: the client went away before.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return True
        if len(body) > most:
            return False


def _in_time(receive: Receive, grace_s: float) -> Receive:
    """The same, but for `HTTPException` where a body comes too slowly. What comes after it may take its time."""
    began = time.monotonic()
    received, is_whole = 0, False

    async def in_time() -> Message:
        nonlocal received, is_whole
        left = began + min(grace_s + received / _SLOWEST_BYTES_S, _LONGEST_S) - time.monotonic()
        with anyio.move_on_after(math.inf if is_whole else max(0, left)):
            message = await receive()
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            return message
        detail = said("The body came too slowly: less than 16 KiB/s. Send it in smaller parts, or compressed.")
        raise HTTPException(408, detail, {"Connection": "close"})

    return in_time


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


# Dependencies are `async`: the framework hands others to a thread each.
async def _history_lane(request: Request) -> Lane:
    lane: Lane = request.app.state.history_lane
    return lane


HistoryLane = Annotated[Lane, Depends(_history_lane)]


async def _deletion_lane(request: Request) -> Lane:
    lane: Lane = request.app.state.deletion_lane
    return lane


DeletionLane = Annotated[Lane, Depends(_deletion_lane)]
"""They may take very long, and keep no others waiting."""


async def _catalogue_lane(request: Request) -> Lane:
    lane: Lane = request.app.state.catalogue_lane
    return lane


CatalogueLane = Annotated[Lane, Depends(_catalogue_lane)]


class _Client:
    """Whether the one who asked is still there."""

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        while not self.gone:
            self.gone = (await self._receive())["type"] == "http.disconnect"


async def answer_in_parts(
    request: Request,
    lane: Lane,
    make: Callable[[Callable[[], bool]], Iterator[bytes]],
    *,
    headers: Mapping[str, str],
    media: str,
    whole_below: int,
) -> Response:
    """An answer that is sent as it is made, part by part, each in a thread of the lane.

    The first part is made before the status is sent, so what goes wrong by then is a problem as any other. What goes
    wrong later breaks the connection off, so that nobody takes a part for the whole. No thread is held while the
    client takes its time, and no part is made before the one before it was taken.

    Args:
        make: the parts; it is given what says whether the client went away, and may then raise `Abandoned`.
        headers: read once the first part is made.
        whole_below: the bytes below which the first part is all of it.
    """
    client = _Client(request.receive)
    parts = make(lambda: client.gone)
    async with client.watched():
        first = await lane.run(next, parts, b"")
    if client.gone:
        raise errors.Abandoned
    if len(first) < whole_below:
        return Response(first, 200, headers, media)
    return _AnswerInParts(first, parts, lane, client, headers=headers, media=media)


class _AnswerInParts(Response):
    def __init__(
        self,
        first: bytes,
        parts: Iterator[bytes],
        lane: Lane,
        client: _Client,
        *,
        headers: Mapping[str, str],
        media: str,
    ) -> None:
        # not the base's own: there is no body whose length could be told
        self.status_code, self.media_type, self.background = 200, media, None
        self.init_headers(headers)
        self._first, self._parts, self._lane, self._client = first, parts, lane, client

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._client.watched():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            part: bytes | None = self._first
            while part is not None:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                if self._client.gone:
                    log.info("the client went away before the answer's end")
                    return
                part = await self._lane.run(next, self._parts, None)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class InThread(APIRoute):
    """A route whose `def` endpoint runs in a thread, as the framework has it, and notes how long it waited for one."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint if iscoroutinefunction(endpoint) else _in_thread(endpoint), **options)


def _in_thread(endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    @wraps(endpoint)
    async def run(**values: Any) -> T:
        return await anyio.to_thread.run_sync(on_time(partial(endpoint, **values)))

    return run


# ── idempotency ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def once_from(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Makes the request safe to send again: the same key answers as the first time, for 24 hours.",
        ),
    ] = None,
) -> Once | None:
    """The request's `Idempotency-Key` with a fingerprint of its method, path and body."""
    if idempotency_key is None:
        return None
    return Once.of(idempotency_key, request.method, request.url.path, await request.body())
