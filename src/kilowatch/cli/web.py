"""uvicorn, as streams need it: they never end by themselves, and some clients take nothing of them."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kilowatch.live.response import ABORT
from kilowatch.live.streams import Streams

_LAST_REQUEST_WITHIN_S = 1.0
"""A connection on which nothing is asked may have a request on its way. So long after the end was said it is closed."""


class Protocol(HttpToolsProtocol):
    _is_ending = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # To close it in order would wait for the client to take what was written, for ever perhaps.
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # its values are ours

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._is_ending:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server ends: answer what is being asked, and what may be on its way."""
        self._is_ending = True
        if self._is_idle():
            self.loop.call_later(_LAST_REQUEST_WITHIN_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # it is None at first

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Serves the application; says so once it does, and says goodbye to all streams before it stops."""

    def __init__(
        self, app: FastAPI, *, started: Callable[[], None], timeout_graceful_shutdown: int = 3, **options: Any
    ) -> None:
        """`timeout_graceful_shutdown`: for how many seconds requests may go on at the end. `options` are uvicorn's."""
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=timeout_graceful_shutdown,
                **options,
            )
        )
        self._app, self._say_started = app, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # first of all: who comes from now on is another process's
        streams: Streams = self._app.state.streams
        await streams.close()
        await super().shutdown(sockets)
