"""All streams that are open: how many may be, whether each may go on, and the end of all."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from kilowatch.errors import TooMany
from kilowatch.history.model import Place
from kilowatch.kit.timespan import to_ms
from kilowatch.live.feed import Feed
from kilowatch.live.hub import Hub
from kilowatch.live.model import SHUTDOWN, UNSURE, End, Showing, Sight, Source
from kilowatch.live.stream import Run, Stream, Write

log = structlog.get_logger("kilowatch.live")

_TICK_S = 0.5
_LOOK_EVERY_S = 2.0
"""How often it is looked up who may go on, at most; it takes some tenths of a second for 500 streams."""

_SURE_FOR_S = 4.0
"""How long a right is believed in that can't be looked up: it is promised that none outlasts its end by 5 s."""

_LOOK_AT_LEAST_S = 0.4
"""What it may take to look, however long ago the last time was."""

_HEARTBEAT_S = 15.0
_GOODBYE_S = 1.0
_LATER_S = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """How many streams may be open here and for one user, how long a reader may take nothing, how long one may have
    been away."""

    streams: int
    per_user: int
    stall_s: float
    kept: timedelta


class Streams:
    """The open streams of one process, in one event loop."""

    def __init__(
        self,
        feed: Feed,
        showing: Showing,
        limits: Limits,
        *,
        clock: Callable[[], datetime],
        stamp: Callable[[], Hashable],
        look: Run,
        read: Run,
    ) -> None:
        """
        Args:
            stamp: names the catalogue's state; nobody's rights change without it.
            look, read: call a function in a thread, for rights and for readings.
        """
        self._feed, self._showing, self._limits, self._clock, self._stamp = feed, showing, limits, clock, stamp
        self._look, self._read = look, read
        self._loop = asyncio.get_running_loop()
        self._hub = Hub()
        self._stop_listening = feed.listen(self._hub)
        self._open: set[Stream] = set()
        self._new: set[Stream] = set()
        self._of_user: Counter[int] = Counter()
        self._is_closing = False
        self._seen: Hashable = None
        self._sure_at = self._looked_at = 0.0
        self._watching = [self._loop.create_task(self._watch_rights()), self._loop.create_task(self._watch_readers())]

    def check_room(self, source: Source) -> None:
        """Raises `TooMany` if no further stream may be opened.

        One that is opened while the server stops ends at once: browsers connect again after that, not after a 503.
        """
        if self._of_user[source.user_id] >= self._limits.per_user:
            raise TooMany(
                f"You have {self._limits.per_user} streams open; end one first, or have one subscription for more.",
                retry_after_s=_LATER_S,
            )
        if len(self._open) >= self._limits.streams:
            raise TooMany("As many streams are open as this server serves; try again later.", retry_after_s=_LATER_S)

    @property
    def limits(self) -> Limits:
        return self._limits

    def open_now(self) -> tuple[int, int]:
        """How many streams are open, and of how many users."""
        return len(self._open), len(self._of_user)

    async def serve(
        self, source: Source, sight: Sight, after: Place | None, write: Write, *, opened: Callable[[Stream], None]
    ) -> None:
        """Send a stream, until it ends or its client leaves; `opened` is given it first."""
        reset = None if after is None else self._reset(after)
        stream = Stream(
            source,
            hub=self._hub,
            feed=self._feed,
            latest=self._showing.latest_of,
            run=self._read,
            after=None if reset else after,
            reset=reset,
        )
        stream.wrote_at = self._loop.time()
        self._open.add(stream)
        self._of_user[source.user_id] += 1
        self._new.add(stream)  # something may have been committed since `sight` was looked up
        opened(stream)
        if self._is_closing:
            stream.end(SHUTDOWN)
        try:
            await stream.send(sight, write)
        finally:
            self._open.discard(stream)
            self._new.discard(stream)
            self._of_user[source.user_id] -= 1
            self._of_user += Counter()  # forgets those who have none

    async def close(self) -> None:
        """End all streams. Those whose clients take nothing are cut off after a while."""
        self._is_closing = True
        for task in self._watching:
            task.cancel()
        for stream in self._open:
            stream.end(SHUTDOWN)
        until = self._loop.time() + _GOODBYE_S
        while self._open and self._loop.time() < until:
            await asyncio.sleep(0.02)
        for stream in list(self._open):
            stream.abort()
        self._stop_listening()

    def _reset(self, after: Place) -> End | None:
        """Why nobody can go on from there."""
        now = to_ms(self._clock())
        if after.received_at > max(now, self._feed.position().received_at):
            return End("unknown", "The id is not one of this server's; it goes on from now.")
        if after.received_at < now - self._limits.kept // timedelta(milliseconds=1):
            return End("expired", f"The id is older than {self._limits.kept.days} days; it goes on from now.")
        return None

    # ── rights ──

    async def _watch_rights(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if not self._open:
                self._sure_at = self._loop.time()
            elif self._loop.time() - self._looked_at >= _LOOK_EVERY_S:
                left = self._sure_at + _SURE_FOR_S - self._loop.time()
                try:
                    async with asyncio.timeout(max(left, _LOOK_AT_LEAST_S)):
                        await self._check_rights()
                # Whatever it is: were this task to end, nobody would lose a right any more.
                except Exception:
                    log.exception("it can't be looked up who may go on listening")
                    self._end_unless_sure()

    async def _check_rights(self) -> None:
        asked_at, new = self._loop.time(), set(self._new)
        stamp = await self._look(self._stamp)
        doubtful = self._doubtful() if stamp == self._seen else list(self._open)
        if doubtful:
            self._looked_at = asked_at
            sights = await self._look(self._showing.look_at, [stream.source for stream in doubtful])
            for stream, sight in zip(doubtful, sights, strict=True):
                if isinstance(sight, End):
                    stream.end(sight)
                else:
                    stream.show(sight)
        self._new -= new
        self._seen, self._sure_at = stamp, asked_at

    def _doubtful(self) -> list[Stream]:
        """Those whose rights may have changed though nothing was committed."""
        now = self._clock()
        expires = (stream for stream in self._open if (at := stream.source.expires_at) is not None and at <= now)
        return list({*expires, *self._new})

    def _end_unless_sure(self) -> None:
        if self._loop.time() - self._sure_at >= _SURE_FOR_S:
            for stream in self._open:
                stream.end(UNSURE)

    # ── readers ──

    async def _watch_readers(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now, told = self._loop.time(), self._feed.told()
            self._loop.call_soon(self._beat, told)  # after all that the hub was told until then
            for stream in list(self._open):
                if stream.writing_since is not None and now - stream.writing_since > self._limits.stall_s:
                    log.info("a reader that took nothing was cut off", user=stream.source.user_id)
                    stream.leave()
                    stream.abort()

    def _beat(self, told: Place) -> None:
        until = self._loop.time() - _HEARTBEAT_S + _TICK_S
        for stream in self._open:
            if stream.wrote_at < until:
                stream.beat(told)
