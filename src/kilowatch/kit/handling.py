"""A request while it is handled: who asks, and where its time goes. In all threads that work for it."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["waiting", "catalogue", "history", "storing", "sending"]
"""Waiting for a thread of a lane; in units of work; at the history; for the insert that readings are stored with; for
the client to take the answer."""


@dataclass(slots=True)
class Handling:
    """Parts may overlap (two threads of one request), and are not all of a request's time."""

    user_id: int | None = None
    api_key_id: int | None = None
    seconds: dict[Part, float] = field(default_factory=dict)


_current: ContextVar[Handling | None] = ContextVar("handling", default=None)


def begin() -> Handling:
    """From now on, what is done in this context is done for a new request."""
    handling = Handling()
    _current.set(handling)
    return handling


def asked_by(user_id: int, api_key_id: int | None = None) -> None:
    """Who asks has been found out."""
    handling = _current.get()
    if handling is not None:
        handling.user_id, handling.api_key_id = user_id, api_key_id


def took(part: Part, seconds: float) -> None:
    """So much of the time of the request that is handled here, if there is one, went there."""
    handling = _current.get()
    if handling is not None:
        handling.seconds[part] = handling.seconds.get(part, 0.0) + seconds


class spent:  # noqa: N801 - reads as `with spent("history")`
    """The block's time is a part of the request's."""

    __slots__ = ("_began", "_part")

    def __init__(self, part: Part) -> None:
        self._part: Part = part

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took(self._part, time.perf_counter() - self._began)
