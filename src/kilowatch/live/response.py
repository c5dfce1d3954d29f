"""A stream as an answer over HTTP.

Not sse-starlette's, which has four tasks and a timer for each client where two and none will do, and can't drop a
connection whose client takes nothing: docs/adr/0009 has the figures.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kilowatch.history.model import Place
from kilowatch.live.model import Sight, Source
from kilowatch.live.stream import Stream
from kilowatch.live.streams import Streams

ABORT = "kilowatch.abort"
"""An extension of our own server: drops the connection at once, though the client does not take what was written."""

_HEADERS = {"X-Accel-Buffering": "no"}  # else nginx keeps events until it has some KB of them


class EventStream(Response):
    """Endless, until the stream ends or the client leaves."""

    def __init__(self, streams: Streams, source: Source, sight: Sight, after: Place | None) -> None:
        # not the base's own: there is no body whose length could be told
        self.status_code, self.media_type, self.background = 200, "text/event-stream", None
        self.charset = "utf-8"
        self.init_headers(_HEADERS)
        self._streams, self._source, self._sight, self._after = streams, source, sight, after
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(events: bytes) -> None:
            await send({"type": "http.response.body", "body": events, "more_body": True})

        def opened(stream: Stream) -> None:
            stream.abort = _abort(scope)
            self._watch = asyncio.create_task(_watch(receive, stream))

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._streams.serve(self._source, self._sight, self._after, write, opened=opened)
        finally:
            if self._watch is not None:
                self._watch.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.leave()


def _abort(scope: Scope) -> Callable[[], Any]:
    abort: Callable[[], Any] | None = scope.get("extensions", {}).get(ABORT)
    task = asyncio.current_task()
    return abort or (task.cancel if task is not None else lambda: None)
