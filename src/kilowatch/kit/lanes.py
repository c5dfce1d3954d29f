"""Threads for calls that block, some for each kind of them."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import anyio

from kilowatch import errors
from kilowatch.errors import said
from kilowatch.kit import handling
from kilowatch.kit.memory import NotKept, alone

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """A few threads of their own for calls that are slow, so that they don't starve the quick ones."""

    def __init__(self, threads: int | anyio.CapacityLimiter) -> None:
        self._limiter = anyio.CapacityLimiter(threads) if isinstance(threads, int) else threads

    def use(self) -> "LaneUse":
        return LaneUse(
            busy=self._limiter.borrowed_tokens,
            limit=int(self._limiter.total_tokens),
            waiting=self._limiter.statistics().tasks_waiting,
        )

    async def run_within(self, seconds: float, call: Callable[[], T]) -> T:
        """Raises `Unavailable` if the call takes longer; it is then left to itself."""
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_thread.run_sync(on_time(call), limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise errors.Unavailable(said("A store takes too long to answer."), retry_after_s=5) from error

    def within(self, seconds: float) -> Callable[..., Awaitable[Any]]:
        """What runs a call with its arguments as `run_within` does."""

        async def run(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
            return await self.run_within(seconds, partial(call, *args, **kwargs))

        return run

    async def run_quickly(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """At once if all that the call needs is in memory, which costs less than handing it to a thread.

        It may be broken off and made again, so it does nothing that lasts before it asks a store.
        """
        try:
            with alone():
                return call(*args, **kwargs)
        except NotKept:
            return await self.run(call, *args, **kwargs)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(on_time(partial(call, *args, **kwargs)), limiter=self._limiter)


class LaneUse(NamedTuple):
    """Threads at work, threads there are, and calls that wait for one."""

    busy: int
    limit: int
    waiting: int


def on_time(call: Callable[[], T]) -> Callable[[], T]:
    """The call; it notes how long it waited to be made."""
    asked = time.perf_counter()

    def made() -> T:
        handling.took("waiting", time.perf_counter() - asked)
        return call()

    return made


def default_lane(threads: int) -> Lane:
    """What calls of `def` endpoints run on, that many at once. Called inside the event loop."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = threads
    return Lane(limiter)
