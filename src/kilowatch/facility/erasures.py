"""Readings that go: what is deleted is noted in the catalogue, and erased from the history, again after a crash."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from kilowatch.errors import Fault, Invalid, Unavailable, invalid, said
from kilowatch.facility import store
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import Window, from_ms, to_ms

log = structlog.get_logger("kilowatch.facility")

FOLDING = "folding"
"""Whoever folds readings, or takes some out, is alone (`Database.alone`): nothing that goes comes back in a cell."""

_STRAGGLERS = timedelta(minutes=10)
_NOTED_FOR = timedelta(days=30)
"""How long notes of deletions stay once these are done: longer than a backup may take."""
_QUARTER_MS = 900_000


class StoredReadings(Protocol):
    """How many readings a window has, and when the last of them was received, in ms since 1970; and whether it begins
    or ends inside of a quarter of an hour that is folded."""

    @property
    def readings(self) -> int: ...

    @property
    def received_until(self) -> int: ...

    @property
    def cuts_at_start(self) -> bool: ...

    @property
    def cuts_at_end(self) -> bool: ...


class Readings(Protocol):
    """What the catalogue needs of the history: the room above fills it in, `services.py` joins the two."""

    def count(self, metric_ids: Sequence[int]) -> int: ...

    def erase(self, metric_ids: Sequence[int]) -> None: ...

    def stored_in_window(self, metric_id: int, window: Window) -> StoredReadings: ...

    def erase_window(self, metric_id: int, window: Window, *, received_until: int) -> None: ...


class Erasures:
    """Carries out what was noted."""

    def __init__(self, database: Database, readings: Readings, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._readings = readings
        self._clock = clock

    def finish(self) -> None:
        """At a start, and now and then: erase what a crash, or an engine that did not answer in time, left behind."""
        with self._database.read() as connection:
            pending = store.erasures(connection)
            windows = store.window_erasures(connection)
        try:
            self.of_metrics(pending)
            if windows:  # else it waits for nobody
                with self._database.alone(FOLDING):
                    self.of_windows()
        except Unavailable as error:  # an engine at work on a large table keeps nobody from anything else
            log.warning("deletions are still to be finished", reason=error.detail)

    def of_metrics(self, metrics: list[int]) -> None:
        """Erase readings; and again those of metrics deleted a while ago, as requests under way may have added some."""
        long_ago = self._clock() - _STRAGGLERS
        with self._database.read() as connection:
            again = store.erasures(connection, before=long_ago)
        if metrics or again:
            with self._database.alone(FOLDING):
                self._readings.erase(sorted({*metrics, *again}))
        if again:
            with self._database.write() as connection:
                store.forget_erasures(connection, before=long_ago)

    def of_windows(self, metric_id: int | None = None) -> None:
        """Erase readings whose deletion is noted, all or one metric's, and note that it is done. While alone."""
        with self._database.read() as connection:
            pending = store.window_erasures(connection)
        for erasure in pending:
            if metric_id not in (None, erasure.metric_id):
                continue
            window = Window(from_ms(erasure.start), from_ms(erasure.end))
            self._readings.erase_window(erasure.metric_id, window, received_until=erasure.received_until)
            now = self._clock()
            with self._database.write() as connection:
                store.put_window_erasure_done(connection, erasure.id, now)
                store.forget_window_erasures(connection, before=now - _NOTED_FOR)


def refuse_cut_quarters(window: Window, stored: StoredReadings) -> None:
    """Raises `Invalid` if the window begins or ends inside of a quarter of an hour that is folded."""
    faults: list[Fault] = []
    edges = (("start", window.start, stored.cuts_at_start), ("end", window.end, stored.cuts_at_end))
    for name, edge, cuts in edges:
        if cuts:
            begin = from_ms(to_ms(edge) // _QUARTER_MS * _QUARTER_MS)
            times = [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in (begin, begin + timedelta(milliseconds=_QUARTER_MS))]
            told = said(
                "The readings of this quarter of an hour are folded and go together only; `%(name)s` may be %(begin)s "
                "or %(end)s.",
                name=name,
                begin=times[0],
                end=times[1],
            )
            faults += invalid(name, told, place="query").faults
    if faults:
        raise Invalid(faults[0].detail, faults=tuple(faults))
