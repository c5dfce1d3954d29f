"""Readings in the order of their arrival: the store itself is the log, nothing is written besides."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import structlog

from kilowatch.history import statements
from kilowatch.history.engine import Engine, in_chunks
from kilowatch.history.model import Listener, Place, Rows

log = structlog.get_logger("kilowatch.history")

ARRIVAL_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8"), ("received_at", "<i8")])
"""A reading as it arrived; times in ms since 1970."""


class Arrivals:
    """What arrived, and who is told of it. Safe to use from any thread."""

    def __init__(self, engine: Engine, until: int) -> None:
        """`until`: the moment that is before all that will arrive from now on."""
        self._engine = engine
        self._until = self._told = until
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
        self._until = rows.received_at  # first, so that whoever comes to listen a moment too late reads them
        for listener in self._listeners:
            with _apart():
                listener.arrived(rows)
        self._told = rows.received_at

    def stored_in_part(self, received_at: int) -> None:
        """By the one thread that stores."""
        self._until = received_at
        for listener in self._listeners:
            with _apart():
                listener.arrived_in_part(received_at)
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


@contextmanager
def _apart() -> Iterator[None]:
    """Whatever goes wrong where it is listened to: the readings are stored, and their sender is told so."""
    try:
        yield
    except Exception:
        log.exception("someone could not be told of readings that were stored")
