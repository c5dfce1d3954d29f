"""Readings in the order of their arrival: the store itself is the log, nothing is written besides."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
import structlog

from kilowatch.errors import Unavailable
from kilowatch.history import statements
from kilowatch.history.engine import Engine, in_chunks
from kilowatch.history.model import Listener, Place, Rows
from kilowatch.history.turns import Arrived

log = structlog.get_logger("kilowatch.history")

ARRIVAL_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8"), ("received_at", "<i8")])
"""A reading as it arrived; times in ms since 1970."""


_MOST_READ = 50_000
"""Readings of others that are passed on; more are an import, which those who listen read from the store."""


class TooMuchAtOnce(Unavailable):
    def __init__(self) -> None:
        super().__init__("More arrived than is passed on; read it from the store.")


class Arrivals:
    """What arrived, and who is told of it. Safe to use from any thread."""

    def __init__(self, engine: Engine, until: int, *, is_shared: bool) -> None:
        """
        Args:
            until: the moment that is before all that will arrive from now on.
            is_shared: other processes store too. Then `heard` says what arrived and when, here as elsewhere.
        """
        self._engine = engine
        self._until = self._told = until
        self._is_shared = is_shared
        self._unheard: dict[int, Rows] = {}
        self._listeners: tuple[Listener, ...] = ()

    @property
    def until(self) -> int:
        """The moment of the last arrival, in ms since 1970. All that arrived until then can be read, whole."""
        return self._until

    @property
    def told(self) -> int:
        """All that arrived until this moment was told to those who listen."""
        return self._told

    def nothing_until(self, moment: int) -> None:
        """Time went by, and nothing will arrive any more before its end. By the one thread that stores."""
        self._until = self._told = max(moment, self._until)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have it told from now on; what is returned ends that."""
        self._listeners = (*self._listeners, listener)

        def stop() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def stored(self, rows: Rows) -> None:
        """By the one thread that stores."""
        if self._is_shared:
            self._unheard[rows.received_at] = rows
        else:
            self._tell(rows.received_at, lambda listener: listener.arrived(rows))

    def stored_in_part(self, received_at: int) -> None:
        """By the one thread that stores."""
        if not self._is_shared:
            self._tell_in_part(received_at)

    def heard(self, news: Arrived) -> None:
        """By the one thread that hears of what all processes store, in the order in which they did."""
        rows = self._unheard.pop(news.received_at, None) if news.is_own else None
        if news.received_at <= self._until and news.metric_ids is not None:
            return  # heard already, as a part of what any metric may have got
        if news.metric_ids is None:
            # Nothing of one's own from before will be heard of any more.
            for received_at in [moment for moment in list(self._unheard) if moment <= news.received_at]:
                self._unheard.pop(received_at, None)
            self._tell_in_part(max(news.received_at, self._until))
        elif rows is not None:
            self._tell(news.received_at, lambda listener: listener.arrived(rows))
        elif news.metric_ids:
            self._tell_of_others(news.received_at, news.metric_ids)
        else:
            self._until = self._told = news.received_at

    def _tell_of_others(self, received_at: int, metric_ids: frozenset[int]) -> None:
        begin = Place.until(self._until)

        def read(wanted: Collection[int]) -> Iterator[Rows]:
            found = self.read(sorted(wanted), begin, until=received_at, limit=_MOST_READ + 1)
            if len(found) > _MOST_READ:
                raise TooMuchAtOnce
            yield from rows_by_moment(found)

        self._tell(received_at, lambda listener: listener.arrived_elsewhere(metric_ids, read))

    def _tell_in_part(self, received_at: int) -> None:
        self._tell(received_at, lambda listener: listener.arrived_in_part(received_at))

    def _tell(self, received_at: int, tell: Callable[[Listener], None]) -> None:
        self._until = received_at  # first, so that whoever comes to listen a moment too late reads them
        for listener in self._listeners:
            with _apart():
                tell(listener)
        self._told = received_at

    def read(self, metric_ids: Sequence[int], after: Place, *, until: int, limit: int) -> np.ndarray:
        """The first of these metrics' readings behind a place, received until then (ms), in order of arrival.

        A reading that was replaced by another value may be missing, as may one that was taken out.

        Returns:
            `ARRIVAL_DTYPE` rows, at most `limit`.
        """
        parameters = {**after._asdict(), "until": until, "limit": limit}
        found = [
            self._engine.query(statements.ARRIVALS, parameters | {"ids": list(chunk)}, ARRIVAL_DTYPE)
            for chunk in in_chunks(metric_ids)
        ]
        if len(found) == 1:
            return found[0]
        rows = np.concatenate([np.empty(0, ARRIVAL_DTYPE), *found])
        return rows[np.lexsort((rows["ts"], rows["metric_id"], rows["received_at"]))][:limit]


class Passing:
    """Passes on what is heard in a thread of its own: whoever hears it has to hear the next, and to tell may mean to
    read from the store."""

    def __init__(self, tell: Callable[[Arrived], None]) -> None:
        self._tell = tell
        self._heard: SimpleQueue[Arrived | None] = SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="history-arrivals", daemon=True)
        self._thread.start()

    def put(self, news: Arrived) -> None:
        self._heard.put(news)

    def close_after(self, stop_hearing: Callable[[], None]) -> None:
        stop_hearing()
        self._is_closed = True
        self._heard.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (news := self._heard.get()) is not None and not self._is_closed:
            with _apart():
                self._tell(news)


def rows_by_moment(found: np.ndarray) -> Iterator[Rows]:
    """`ARRIVAL_DTYPE` rows in order of arrival, those of each moment together."""
    edges = np.flatnonzero(np.diff(found["received_at"])) + 1
    for part in np.split(found, edges):
        if len(part):
            metric_ids, times, values = (np.ascontiguousarray(part[name]) for name in ("metric_id", "ts", "value"))
            yield Rows(metric_ids, times, values, received_at=int(part["received_at"][0]))


@contextmanager
def _apart() -> Iterator[None]:
    """Whatever goes wrong where it is listened to: the readings are stored, and their sender is told so."""
    try:
        yield
    except Exception:
        log.exception("someone could not be told of readings that were stored")
