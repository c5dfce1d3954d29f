"""How much of what there is is in use, for the metrics: looked at every few seconds."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import kilowatch
from kilowatch.kit import metrics
from kilowatch.kit.db import Database
from kilowatch.kit.lanes import Lane
from kilowatch.live.streams import Streams

_EVERY_S = 2.0


class Store(Protocol):
    """What is asked of the history."""

    def connections(self) -> tuple[int, int]: ...

    def waiting(self) -> tuple[int, int]: ...


class Gauges:
    """Looks at no store, only at what this process knows; so it takes some microseconds."""

    def __init__(self, database: Database, history: Store | None, streams: Streams, lanes: Mapping[str, Lane]) -> None:
        self._database, self._history, self._streams, self._lanes = database, history, streams, lanes

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keeps them up to date while the block runs, in the event loop."""
        metrics.BUILD_INFO.labels(kilowatch.__version__).set(1)
        self.look()
        looking = asyncio.create_task(self._look_again())
        try:
            yield
        finally:
            looking.cancel()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self.look()

    def look(self) -> None:
        """Set each gauge to what is the case now."""
        for pool, (in_use, most) in self._database.connections().items():
            metrics.DATABASE_CONNECTIONS.labels(pool).set(in_use)
            metrics.DATABASE_CONNECTIONS_LIMIT.labels(pool).set(most)
        if self._history is not None:
            in_use, most = self._history.connections()
            metrics.HISTORY_CONNECTIONS.set(in_use)
            metrics.HISTORY_CONNECTIONS_LIMIT.set(most)
            batches, readings = self._history.waiting()
            metrics.WAITING_BATCHES.set(batches)
            metrics.WAITING_READINGS.set(readings)
        for name, lane in self._lanes.items():
            use = lane.use()
            metrics.LANE_BUSY.labels(name).set(use.busy)
            metrics.LANE_LIMIT.labels(name).set(use.limit)
            metrics.LANE_WAITING.labels(name).set(use.waiting)
        streams, users = self._streams.open_now()
        metrics.STREAMS_OPEN.set(streams)
        metrics.STREAM_USERS.set(users)
        metrics.STREAMS_LIMIT.set(self._streams.limits.streams)
