"""uvicorn, as streams need it: they never end by themselves, and some clients take nothing of them."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kilowatch.live.response import ABORT
from kilowatch.live.streams import Streams


class Protocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        # To close it in order would wait for the client to take what was written, for ever perhaps.
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # its values are ours


class Server(uvicorn.Server):
    """Serves the application; says so once it does, and says goodbye to all streams before it stops."""

    def __init__(self, app: FastAPI, *, started: Callable[[], None], **options: Any) -> None:
        super().__init__(uvicorn.Config(app, http=Protocol, log_config=None, access_log=False, **options))
        self._app, self._say_started = app, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        streams: Streams = self._app.state.streams
        await streams.close()
        await super().shutdown(sockets)
