"""What arrived, from any place on: the store is the log, so whoever remembers a place misses nothing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from kilowatch.history.model import Listener, Place


class Arrival(NamedTuple):
    """A reading as it arrived. Times are ms since 1970; the value is in the metric's own unit."""

    metric_id: int
    ts: int
    value: float
    received_at: int

    @property
    def place(self) -> Place:
        return Place(self.received_at, self.metric_id, self.ts)


class Arriving(Protocol):
    def listen(self, listener: Listener) -> Callable[[], None]: ...

    def arrived_until(self) -> int: ...

    def told_until(self) -> int: ...

    def arrivals(self, metric_ids: Sequence[int], after: Place, *, until: int, limit: int) -> np.ndarray: ...


class Feed:
    """Reads on from a place in the order of arrival. Safe to use from any thread."""

    def __init__(self, history: Arriving) -> None:
        self._history = history

    def position(self) -> Place:
        """Behind all that has arrived."""
        return Place.until(self._history.arrived_until())

    def told(self) -> Place:
        """Behind all that was told to those who listen."""
        return Place.until(self._history.told_until())

    def read(self, metric_ids: Sequence[int], after: Place, limit: int) -> list[Arrival]:
        """The first `limit` readings of these metrics behind a place; fewer only where there are no more by now."""
        return self.read_until(self.position(), metric_ids, after, limit)

    def read_until(self, until: Place, metric_ids: Sequence[int], after: Place, limit: int) -> list[Arrival]:
        """As `read`, of what had arrived when `position` said `until`."""
        rows = self._history.arrivals(metric_ids, after, until=until.received_at, limit=limit) if metric_ids else ()
        return [Arrival(*row) for row in np.asarray(rows).tolist()]

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have it told of all that this process stores from now on, by the thread that stores it.

        Returns:
            What ends that.
        """
        return self._history.listen(listener)
