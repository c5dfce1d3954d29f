"""One client's stream: what it is still to be sent, and where it is in the order of arrival."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from kilowatch.errors import KilowatchError
from kilowatch.history.model import LatestReading, Place
from kilowatch.kit import metrics
from kilowatch.live import events
from kilowatch.live.feed import Feed
from kilowatch.live.hub import Hub
from kilowatch.live.model import NOTHING_LEFT, End, Sight, Source

RETRY_S = 2.0
_PAGE = 1_000
_MOST_WAITING = 256 * 1024
"""Bytes of events that wait for a client; beyond that it goes on from the store."""

_EVENTS_A_WRITE = 200

Write = Callable[[bytes], Awaitable[None]]
Latest = Callable[[Source], Sequence[LatestReading]]
Run = Callable[..., Awaitable[Any]]
"""Calls a function in a thread that may wait for the stores."""


class Stream:
    """Sends events to one client, until it leaves or is ended. All of it in one event loop."""

    def __init__(
        self,
        source: Source,
        *,
        hub: Hub,
        feed: Feed,
        latest: Latest,
        run: Run,
        after: Place | None,
        reset: End | None = None,
    ) -> None:
        """
        Args:
            latest: the newest readings, as `Showing` has them.
            after: the client's last place; `None` where it begins anew.
            reset: why it can't go on from the place that it named.
        """
        self.source = source
        self.writing_since: float | None = None
        self.wrote_at = 0.0
        self.abort: Callable[[], None] = lambda: None
        self._hub, self._feed, self._latest, self._run = hub, feed, latest, run
        self._after, self._reset = after, reset
        self._metrics: frozenset[int] = frozenset()
        self._waiting: list[tuple[int, int, bytes]] = []  # when it was received, its metric, the events
        self._waiting_bytes = 0
        self._notices: list[bytes] = []
        self._gained: set[int] = set()
        self._is_behind = False
        self._is_gone = False
        self._end: End | None = None
        self._place = Place.until(0)
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None

    # ── what happens to it ──

    def put(self, received_at: int, metric_id: int, written: bytes) -> None:
        if self._is_behind:
            return
        self._waiting.append((received_at, metric_id, written))
        self._waiting_bytes += len(written)
        if self._waiting_bytes > _MOST_WAITING:
            self.fall_behind()
        self._rouse()

    def fall_behind(self) -> None:
        self._is_behind = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._rouse()

    def show(self, sight: Sight) -> None:
        """From now on, only what may be seen."""
        now, belonging = frozenset(sight.metric_ids), {*sight.metric_ids, *sight.unavailable}
        lost, gained = self._metrics - now, now - self._metrics
        if not lost and not gained:
            return
        self._hub.add(self, gained)
        self._hub.remove(self, lost)
        self._metrics = now
        self._gained = (self._gained | gained) & now
        self._waiting = [waiting for waiting in self._waiting if waiting[1] in now]
        self._waiting_bytes = sum(len(written) for *_, written in self._waiting)
        for reason, metric_ids in (("not_readable", lost & belonging), ("removed", lost - belonging)):
            if metric_ids:
                self._notices.append(events.unavailable(sorted(metric_ids), reason))
        if not now:
            self.end(NOTHING_LEFT)
        self._rouse()

    def beat(self, told: Place) -> None:
        """Say that we are here, and have sent all until then; unless there is something else to say."""
        if self._wake is not None and not self._wake.done():
            self._place = max(self._place, told)
            self._notices.append(events.heartbeat(self._place))
            self._rouse()

    def end(self, why: End) -> None:
        self._end = self._end or why
        self._rouse()

    def leave(self) -> None:
        """The client is not there any more."""
        self._is_gone = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ── what it sends ──

    async def send(self, sight: Sight, write: Write) -> None:
        """All of it, from the first event to the last."""
        try:
            await self._begin(sight, write)
            while not self._is_gone and self._end is None:
                await self._next(write)
        except KilowatchError as error:  # of a store that does not answer
            self.end(End("unavailable", error.detail))
        finally:
            self._hub.remove(self, self._metrics)
        if self._end is not None and not self._is_gone:
            await self._say(write, *self._take_notices(), events.end(self._end.reason, self._end.detail))

    async def _begin(self, sight: Sight, write: Write) -> None:
        # First it listens, then it reads: so nothing falls between the two.
        self._metrics = frozenset(sight.metric_ids)
        self._hub.add(self, self._metrics)
        position = self._feed.position()
        self._place = self._after or position
        self._is_behind = self._after is not None
        await self._say(write, events.retry(RETRY_S))
        if self._reset is not None:
            await self._say(write, events.reset(self._reset.reason, self._reset.detail, position))
        # Who goes on from a place keeps it until the first missed reading: so these have no id then.
        await self._say_latest(write, await self._run(self._latest, self.source), None if self._after else position)
        if not self._metrics:
            self.end(NOTHING_LEFT)

    async def _next(self, write: Write) -> None:
        """Whatever is to be said, or else a wait for it."""
        if self._notices:
            await self._say(write, *self._take_notices())
        elif self._gained:
            gained, self._gained = self._gained, set()
            found = [reading for reading in await self._run(self._latest, self.source) if reading.metric_id in gained]
            await self._say_latest(write, found)
        elif self._is_behind:
            await self._catch_up(write)
        elif self._waiting:
            await self._say_waiting(write)
        else:
            self._wake = self._loop.create_future()
            await self._wake

    async def _catch_up(self, write: Write) -> None:
        """Read on from the store, to where what arrived meanwhile waits."""
        self._is_behind = False  # from here on it waits
        until = self._feed.position()
        while not self._is_gone and self._end is None:
            metrics = self._metrics
            written, place, is_last = await self._run(self._read_page, until, sorted(metrics), self._place)
            if metrics - self._metrics:
                continue  # a right was lost meanwhile: it is read again without
            self._place = place
            if written:
                await self._say(write, written)
            if is_last:
                break
            if self._notices:
                await self._say(write, *self._take_notices())

    def _read_page(self, until: Place, metric_ids: list[int], after: Place) -> tuple[bytes, Place, bool]:
        """Written events, the place behind them, and whether these are the last."""
        page = self._feed.read_until(until, metric_ids, after, _PAGE)
        if len(page) == _PAGE:
            return events.readings(page), page[-1].place, False
        return events.readings(page), max(until, after), True

    async def _say_waiting(self, write: Write) -> None:
        """What waits is of whole inserts, as these are put without a pause; and some of it may have been read."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        fresh = [written for received_at, _, written in waiting if received_at > self._place.received_at]
        self._place = max(self._place, Place.until(waiting[-1][0]))
        if fresh:
            await self._say(write, *fresh)

    async def _say_latest(self, write: Write, readings: Iterable[LatestReading], place: Place | None = None) -> None:
        """Those whose right was lost since they were looked up are left out."""
        for some in _in_groups(readings):
            allowed = [reading for reading in some if not reading.available or reading.metric_id in self._metrics]
            await self._say(write, *(events.latest(reading, place) for reading in allowed))

    def _take_notices(self) -> list[bytes]:
        notices, self._notices = self._notices, []
        return notices

    async def _say(self, write: Write, *written: bytes) -> None:
        self.writing_since = self._loop.time()
        sent = b"".join(written)
        await write(sent)
        metrics.STREAM_EVENTS.inc(sent.count(events.END))
        self.wrote_at = self._loop.time()
        self.writing_since = None


def _in_groups(readings: Iterable[LatestReading]) -> Iterator[list[LatestReading]]:
    left = iter(readings)
    while some := list(islice(left, _EVENTS_A_WRITE)):
        yield some
