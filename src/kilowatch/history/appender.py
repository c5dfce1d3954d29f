"""Group commit: readings of many writers go into the engine with one insert.

An insert of one row costs about as much as one of ten thousand. So while one insert runs, what arrives waits and goes
with the next, and where several write, an insert waits a few ms for more of them.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

import numpy as np
import structlog

from kilowatch.errors import Unavailable, said
from kilowatch.history.model import Batch, Flags, Rows, joined
from kilowatch.history.turns import Turn, Turns
from kilowatch.kit import metrics
from kilowatch.kit.timespan import to_ms
from kilowatch.kit.traces import here, root_span

log = structlog.get_logger("kilowatch.history")

MOST_WAITING = 4_000_000
"""Readings that may wait for the engine; 20 bytes each. Beyond that, writers are sent away for a second."""

MOST_AT_ONCE = 1_000_000

STORED_WITHIN_S = 300
"""Of when they were checked, or else readings are refused: what a quarter of an hour that is folded by then had would
be hidden, or theirs would be. Half of what folding waits for them (`folding.WAIT`), as clocks are not all alike."""

_PAUSE_S, _LINGER_S = 0.003, 0.02
"""Where several write at once, an insert waits until nobody has come for `_PAUSE_S`, but no longer than `_LINGER_S`, so
that more of them share what it costs. A writer alone waits for nobody."""

_TIME_BITS = 42
"""Bits of a time in ms since 1970 until the year 2109, which leaves 21 for a metric's number."""


class Overloaded(Unavailable):
    def __init__(self) -> None:
        super().__init__(said("More readings arrive than can be stored; send them again in a moment."), retry_after_s=1)


class TookTooLong(Unavailable):
    def __init__(self) -> None:
        super().__init__("The readings took too long until they were stored; send them again.", retry_after_s=1)


class StoredTooLate(TookTooLong):
    """They may be stored."""


class _Stored(Future[int]):
    """`span`: of whoever waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.span = here()


class Appender:
    """Writes batches in the order of their arrival, from one thread of its own."""

    def __init__(
        self,
        store: Callable[[Rows, Turn], None],
        turns: Turns,
        *,
        clock: Callable[[], datetime],
        when_idle: Callable[[], None] = lambda: None,
        idle_s: float | None = None,
    ) -> None:
        """
        Args:
            store: makes rows durable in a turn, and says in it which metrics they are of.
            when_idle: is called, by the same thread, at least every `idle_s` or so.
        """
        self._store = store
        self._turns = turns
        self._clock = clock
        self._when_idle = when_idle
        self._idle_s = idle_s
        self._waiting: list[tuple[Batch, _Stored]] = []
        self._waiting_rows = 0
        self._writers = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="history-appender", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> Future[int]:
        """See `HistoryStore.submit`."""
        done = _Stored()
        done.set_running_or_notify_cancel()  # from now on nobody can cancel it: it will be stored
        with self._changed:
            if self._closed or (self._waiting and self._waiting_rows + len(batch) > MOST_WAITING):
                raise Overloaded
            self._waiting.append((batch, done))
            self._waiting_rows += len(batch)
            self._changed.notify()
        return done

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            if group:
                self._write(group)
            try:
                self._when_idle()
            except Exception:  # nobody waits for it; but without this thread all writers would wait for ever
                log.exception("what is done between two inserts failed")

    def _linger(self) -> None:
        """By sleeping: to be woken by each writer would cost each of them more than it saves."""
        until = time.monotonic() + _LINGER_S
        waiting = 0
        while waiting < len(self._waiting) and not self._closed and time.monotonic() < until:
            waiting = len(self._waiting)
            time.sleep(_PAUSE_S)

    def waiting(self) -> tuple[int, int]:
        """How many batches and readings wait for the next insert."""
        return len(self._waiting), self._waiting_rows

    def _write(self, group: list[tuple[Batch, _Stored]]) -> None:
        group = _in_time(group, else_=TookTooLong)
        if not group:
            return
        began, readings = time.perf_counter(), sum(len(batch) for batch, _ in group)
        try:
            with (
                root_span("history insert", of=[done.span for _, done in group], batches=len(group), readings=readings),
                self._turns.take(to_ms(self._clock())) as turn,
            ):
                self._store(rows_of([batch for batch, _ in group], turn.received_at), turn)
        # Whatever it is, it belongs to those who wait for this insert: each of them raises it.
        except Exception as error:
            metrics.INSERT_FAILURES.inc()
            for _, done in group:
                done.set_exception(error)
        else:
            metrics.inserted(readings=readings, batches=len(group), seconds=time.perf_counter() - began)
            for _, done in _in_time(group, else_=StoredTooLate):
                done.set_result(turn.received_at)

    def _next_group(self) -> list[tuple[Batch, _Stored]] | None:
        """The batches that go with the next insert, none after a while without any; `None` when closed and all done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, self._idle_s)
            if self._closed and not self._waiting:
                return None
        if self._writers > 1:
            self._linger()
        with self._changed:
            size = count = 0
            for batch, _ in self._waiting:
                if count and size + len(batch) > MOST_AT_ONCE:
                    break
                size, count = size + len(batch), count + 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            self._waiting_rows -= size
            self._writers = count
            return group


def _in_time(group: list[tuple[Batch, _Stored]], *, else_: type[TookTooLong]) -> list[tuple[Batch, _Stored]]:
    """Those that were not checked too long ago; whoever waits for the others is told."""
    now = time.monotonic()
    kept = []
    for batch, done in group:
        if batch.checked_at is None or now - batch.checked_at < STORED_WITHIN_S:
            kept.append((batch, done))
        else:
            done.set_exception(else_())
    return kept


def rows_of(batches: list[Batch], received_at: int) -> Rows:
    """One row for each metric and time, the last that arrived, ordered as the table is."""
    metric_ids = joined([batch.metric_ids for batch in batches], np.uint32)
    timestamps = joined([batch.timestamps for batch in batches], np.int64)
    values = joined([batch.values for batch in batches], np.float64)
    same = _same(batches)
    compared_at = min((batch.compared_at for batch in batches if batch.compared_at is not None), default=None)
    if _rises(metric_ids, timestamps):
        return Rows(metric_ids, timestamps, values, received_at, same, compared_at)
    order = _stable_order(metric_ids, timestamps)
    metric_ids, timestamps = metric_ids[order], timestamps[order]
    last = np.ones(len(order), bool)
    last[:-1] = (metric_ids[1:] != metric_ids[:-1]) | (timestamps[1:] != timestamps[:-1])
    if not last.all():
        metric_ids, timestamps, order = metric_ids[last], timestamps[last], order[last]
    same = None if same is None else same[order]
    return Rows(metric_ids, timestamps, values[order], received_at, same, compared_at)


def _same(batches: list[Batch]) -> Flags | None:
    if all(batch.same is None for batch in batches):
        return None
    return joined([np.zeros(len(batch), bool) if batch.same is None else batch.same for batch in batches], np.bool_)


def _rises(metric_ids: np.ndarray, timestamps: np.ndarray) -> bool:
    """Whether the rows are ordered as the table is, each once: what a lone sender mostly brings."""
    before, after = metric_ids[:-1], metric_ids[1:]
    return bool(((before < after) | ((before == after) & (timestamps[:-1] < timestamps[1:]))).all())


def _stable_order(metric_ids: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """The order by metric and time, equal ones as they arrived.

    One key of both is sorted in a quarter of the time: senders bring sorted runs, which are only merged then.
    """
    if len(metric_ids) and timestamps.max() >> _TIME_BITS == 0 and metric_ids.max() >> (63 - _TIME_BITS) == 0:
        return np.argsort((metric_ids.astype(np.int64) << _TIME_BITS) | timestamps, kind="stable")
    return np.lexsort((timestamps, metric_ids))
