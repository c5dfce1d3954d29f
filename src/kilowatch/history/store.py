"""Reads and writes readings in ClickHouse: embedded (chDB) or a server, the same statements for both."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import structlog

from kilowatch.errors import Unavailable
from kilowatch.facility.model import PlacedMetric
from kilowatch.history import replacing, statements
from kilowatch.history.appender import Appender
from kilowatch.history.arrivals import Arrivals, Passing
from kilowatch.history.changes import Changes
from kilowatch.history.copying import Contents
from kilowatch.history.corrections import Corrections
from kilowatch.history.engine import Engine, in_chunks, patience
from kilowatch.history.folded import Days, Folded
from kilowatch.history.frontier import UNKNOWN, Frontier
from kilowatch.history.intervals import QUARTER_MS, Cells, merged
from kilowatch.history.model import (
    Batch,
    Compared,
    Flags,
    Listener,
    MetricIds,
    Milliseconds,
    Place,
    Points,
    Rows,
    Stored,
)
from kilowatch.history.native import encode, encode_columns
from kilowatch.history.newest import NEWEST_DTYPE, Newest, complete_until, in_order, last_of_each
from kilowatch.history.recent import Recent
from kilowatch.history.replacing import NewestOf
from kilowatch.history.spans import Spans
from kilowatch.history.turns import Arrived, OwnTurns, SharedTurns, Turn, Turns
from kilowatch.kit.db import Database
from kilowatch.kit.state import Stamp
from kilowatch.kit.timespan import Window, from_ms, to_ms

log = structlog.get_logger("kilowatch.history")

_DAY_MS = 86_400_000
_LOOK_FURTHER_MS = (_DAY_MS, 32 * _DAY_MS, 300 * 366 * _DAY_MS)
_NEWEST_EVERY_S = 30
_DAYS_AT_ONCE = 1000
"""Metrics times days that are put together in one step: of 96 quarters each, some 10 MB."""

_MEMORY_BYTES = 256 * 1024 * 1024
_HEARD_WITHIN_S = 0.02
"""PostgreSQL tells of a turn within a few ms; whoever waited that long asks the store instead."""

_READING_COLUMNS = ("metric_id", "ts", "value", "received_at")
_LATEST_COLUMNS = ("metric_id", "newest")
_POINT_COLUMNS = (np.dtype("<u4"), np.dtype("<i8"), np.dtype("<f8"))  # metric_id, ts, value


@dataclass(frozen=True, slots=True, eq=False)
class MissingDays:
    """Days that follow one another and are to become one cell each, for some metrics; `edges` are where they begin."""

    metrics: Sequence[PlacedMetric]
    edges: Milliseconds


class HistoryStore:
    """The readings. Safe to use from any thread.

    Times are ms since 1970, values float64 in the metrics' own units.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        sync: bool,
        clock: Callable[[], datetime],
        migrate: bool = True,
        memory_bytes: int = _MEMORY_BYTES,
        shared_by: Database | None = None,
    ) -> None:
        """Open the engine and bring its tables up to date.

        Args:
            url, connections, migrate: see `Engine`.
            sync: write readings through to the disk before `append` returns.
            clock: the time that readings are received.
            memory_bytes: what may be kept in memory of the history that was asked for.
            shared_by: the PostgreSQL at which the processes take turns that store in the same server.

        Raises what `Engine` raises.
        """
        self._engine = Engine(url, connections=connections, sync=sync, migrate=migrate)
        self._alone = self._engine.is_embedded
        self._closed = False
        self.spans = Spans(memory_bytes if self._alone else 0)
        self._newest = Newest()
        self._recent = Recent()
        self._erasing: set[int] = set()
        """Metrics of which readings that are still there may be gone in a moment: none of them is as good as stored."""
        self._changes = Changes()
        self._unsure: set[int] = set()
        self._frontier = None if shared_by is None else Frontier()
        self._touched: set[int] = set()  # what others are still to forget about
        self.folded = Folded(self._engine)
        self._corrections = Corrections(self._engine, self, self._recent if self._alone else None)
        self._correcting = threading.Lock()
        # Held while readings, and what is the newest of them, are written or taken out.
        self._storing = threading.RLock()
        self._stored_until = self._written_until = 0
        self._written_at = time.monotonic()
        try:
            (last_written,) = self._engine.query(statements.LAST_WRITTEN, {}, np.dtype("<i8"))
            if self._alone:
                self._load_newest()
            else:
                self._stored_until = self._complete_until()
        except BaseException:
            self._engine.close()
            raise
        # A clock that was ahead has left readings, and a mark in `latest`, which what comes now must be later than.
        last_received_at = max(int(last_written), self._stored_until, to_ms(clock()) - 1)
        self._own_turns = OwnTurns(last_received_at)
        self._stop_hearing: Callable[[], None] = lambda: None
        turns: Turns = self._own_turns
        if shared_by is None:
            self._arrivals = Arrivals(self._engine, last_received_at, is_shared=False)
        else:
            turns = shared = SharedTurns(shared_by, last=last_received_at)
            self._arrivals = Arrivals(self._engine, last_received_at, is_shared=True)
            self._passing = passing = Passing(self._arrivals.heard)
            stop_listening = shared.listen(self._heard)
            self._stop_hearing = lambda: passing.close_after(stop_listening)
        self._clock = clock
        self._is_shared = shared_by is not None
        self._appender = Appender(
            self._store_rows,
            turns,
            clock=clock,
            when_idle=self._between_inserts,
            idle_s=_NEWEST_EVERY_S if self._alone else None,
        )

    # ── how it is doing ──

    def connections(self) -> tuple[int, int]:
        """How many of the engine's connections are in use, and how many there are."""
        return self._engine.connections()

    def waiting(self) -> tuple[int, int]:
        """How many batches and readings wait for the next insert."""
        return self._appender.waiting()

    @property
    def is_embedded(self) -> bool:
        """Whether this process alone has the history."""
        return self._alone

    # ── in ──

    def submit(self, batch: Batch) -> Future[int]:
        """Store readings, together with those of others who write at this moment.

        Those of a batch that was compared which are stored already are not stored again. Of readings of the same
        metric and time the later in the batch, or the later submitted, wins.

        Returns:
            Done when the readings are durable; its result is when they were received, in ms since 1970. Its error is
            `Unavailable` where the engine does not answer; nothing was accepted then.

        Raises:
            Unavailable: too much is waiting to be written. Nothing was accepted.
        """
        return self._appender.submit(batch)

    def append(self, batch: Batch) -> int:
        """Store readings, and return when they are durable. See `submit`."""
        return self.submit(batch).result()

    def backfill(self, batch: Batch) -> None:
        """Store readings of old as though each had been received at its own time. Durable when it returns.

        So they are there as if they always had been: no stream tells them as new, and what was sent for the same metric
        and time wins over them.

        Args:
            batch: ordered by metric and time, each pair once.
        """
        rows = Rows(batch.metric_ids, batch.timestamps, batch.values, received_at=0)
        found = last_of_each(rows)
        found["received_at"] = found["ts"]
        body = encode_columns(batch.metric_ids, batch.timestamps, batch.values, batch.timestamps)
        with self._storing:
            try:
                self._engine.insert("readings", _READING_COLUMNS, body, "Native")
            finally:  # a part of it may be stored though the whole is not
                self.spans.stored(rows)
                self._recent.settle(found)
                self._changes.unknown()
                self._touch(found["metric_id"].tolist())
            self._newest.put(found)
            self._insert_latest(found)  # at once: a start looks only at what was received lately
            self._touch(found["metric_id"].tolist())

    def erase(self, metric_ids: Sequence[int]) -> None:
        """Remove every reading of these metrics from the disk. Done when it returns.

        Raises:
            Unavailable: it is not done yet, or the engine does not answer: it is to be asked for again.
        """
        deadline = patience()
        self._newest.forget(metric_ids)
        for chunk in in_chunks(metric_ids):
            self._engine.remove(statements.ERASE, {"ids": list(chunk)}, deadline=deadline)
        self.folded.erase(metric_ids, deadline=deadline)
        self.spans.removed(metric_ids)
        self._recent.clear()
        self._changes.unknown()
        for chunk in in_chunks(metric_ids):
            self._engine.remove(statements.ERASE_LATEST, {"ids": list(chunk)}, deadline=deadline)
        with self._storing:
            self._touch(metric_ids)

    # ── folding ──

    def are_folded(self, metric_ids: MetricIds, timestamps: Milliseconds) -> Flags:
        """Which of these times lie in a folded quarter of an hour of their metric."""
        return self.folded.are_folded(metric_ids, timestamps)

    def fold(self, parts: Sequence[tuple[PlacedMetric, Cells, Milliseconds]], *, made_at: int) -> None:
        """Let cells of quarters of an hour take the place of readings, each with when the last of these was received.

        Durable when it returns.
        """
        if not parts:
            return
        spans = {m.id: _window(int(cells.first_ts[0]), int(cells.last_ts[-1]) + 1) for m, cells, _ in parts}
        self.folded.take_days_back(spans, made_at=made_at)  # first: a day never speaks for readings that are no part
        try:
            rows = [(metric.id, metric.behaviour, cells, received_until) for metric, cells, received_until in parts]
            self.folded.put(rows, made_at=made_at)
        finally:  # a part of it may be stored though the whole is not
            for metric_id, window in spans.items():
                self.spans.removed([metric_id], window.start_ms, window.end_ms)

    def unfold(self, metric: PlacedMetric, begins: Milliseconds, *, made_at: int) -> None:
        """Let the readings of these quarters take their own place again. None of them was deleted yet."""
        window = _window(int(begins[0]), int(begins[-1]) + QUARTER_MS)
        self.folded.take_days_back({metric.id: window}, made_at=made_at)
        self.folded.take_back(metric.id, begins, made_at=made_at)
        self.spans.removed([metric.id], window.start_ms, window.end_ms)

    def missing_days(self, metrics: Sequence[PlacedMetric], midnights: Milliseconds) -> Iterator[MissingDays]:
        """The days between the `midnights` of which metrics have folded quarters, or may have, and no cell yet.

        In parts of about as many quarters as may be put together at once.
        """
        first = self.folded.first_begins([metric.id for metric in metrics])
        metrics = [metric for metric in metrics if metric.id in first]
        if not metrics or len(midnights) < 2:
            return
        window = _window(int(midnights[0]), int(midnights[-1]))
        stored = self.folded.stored_days([metric.id for metric in metrics], window)
        missing: dict[tuple[int, int], list[PlacedMetric]] = {}
        for metric in metrics:
            begin = max(0, int(np.searchsorted(midnights, first[metric.id], side="right")) - 1)
            for run in _missing_runs(midnights, begin, stored.get(metric.id), _gap_of(metric)):
                missing.setdefault(run, []).append(metric)
        for (begin, end), some in sorted(missing.items()):
            at_once = max(1, _DAYS_AT_ONCE // (end - begin))
            for place in range(0, len(some), at_once):
                yield MissingDays(some[place : place + at_once], midnights[begin : end + 1])

    def fold_days(self, missing: MissingDays, *, made_at: int) -> None:
        """Put the quarters of each day, of which none is to come, together to one cell."""
        edges = missing.edges
        behaviours = {metric.id: metric.behaviour for metric in missing.metrics}
        quarters = self.folded.cells(behaviours, _window(int(edges[0]), int(edges[-1])))
        parts = []
        for metric in missing.metrics:
            if (some := quarters.get(metric.id)) is not None:
                cells = merged(some, edges, behaviour=metric.behaviour, max_gap_ms=metric.max_gap_ms)
                place = np.searchsorted(edges, cells.first_ts, side="right") - 1
                days = Days(edges[place], edges[place + 1], np.full(len(cells), _gap_of(metric)), cells)
                parts.append((metric.id, metric.behaviour, days))
        self.folded.put_days(parts, made_at=made_at)

    # ── corrections ──

    def stored_in_window(self, metric_id: int, window: Window) -> Stored:
        """What the window has of a metric, for `erase_window`: which must cut none of its folded quarters."""
        parameters = {"ids": [metric_id], "start": window.start_ms, "end": window.end_ms}
        ((readings, received_until),) = self._engine.query(
            statements.STORED_IN_WINDOW, parameters, statements.STORED_DTYPE
        ).tolist()
        folded, folded_received_until = self.folded.in_window(metric_id, window)
        edges = np.array([window.start_ms, window.end_ms])
        cut = self.folded.are_folded(np.full(2, metric_id, np.uint32), edges) & (edges % QUARTER_MS > 0)
        return Stored(readings + folded, max(received_until, folded_received_until), *cut.tolist())

    def erase_window(self, metric_id: int, window: Window, *, received_until: int) -> None:
        """Remove a metric's readings in the window from the disk, those received until then (ms). Done when it returns.

        Latest is the newest reading that is left. If this is cut off half-way it has to be done again, as nothing else
        makes latest right.

        Raises:
            Unavailable: it is not done yet, or the engine does not answer: it is to be asked for again.
        """
        parameters = {
            "ids": [metric_id],
            "start": window.start_ms,
            "end": window.end_ms,
            "received_until": received_until,
        }
        of_readings, of_latest, newest_left = statements.ERASE_WINDOW
        deadline = patience()
        # One at a time: what one finds to be the newest reading may be what another is just removing.
        with self._correcting:
            self._erasing.add(metric_id)
            try:
                self._engine.remove(of_readings, parameters, deadline=deadline)
                self.folded.erase_window(metric_id, window, received_until=received_until, deadline=deadline)
            finally:  # a part of it may be gone, or going, though the whole is not
                self.spans.removed([metric_id], window.start_ms, window.end_ms)
                self._recent.clear()
                self._changes.unknown()
            if self._alone:
                with self._storing:  # from now on nobody writes a reading that is gone to `latest`
                    left = self._engine.query(statements.NEWEST_STORED, {"ids": [metric_id]}, NEWEST_DTYPE)
                    self._newest.replace(metric_id, left)
            # Readings are stored meanwhile: whatever the table has to do, nobody waits for it.
            self._engine.remove(of_latest, parameters, deadline=deadline)
            with self._storing:
                self._engine.command(newest_left, parameters)
                self._touch([metric_id])
            self._changes.unknown()
            self._erasing.discard(metric_id)

    def compare(self, batch: Batch, *, as_of: Stamp | None = None) -> Compared:
        """Look for what is stored already at the times of a batch's readings, before it is submitted.

        Only what is not newer than a metric's latest reading is looked for. Of the batch that it returns, readings
        that would change nothing are left out when it is stored, so that they don't arrive a second time.

        Args:
            as_of: where others store too, a state of the catalogue from after this was asked for: what was stored by
                then is looked for, mostly without asking the server. `None`: by now, by asking it.
        """
        state = self._changes.state  # before anything is read
        found = self._corrections.compare(batch, self._newest_as_of(as_of))
        same = None if found is None else found.same(batch)
        return Compared(replace(batch, same=same, compared_at=state), {} if found is None else found.replaced())

    # ── in order of arrival ──

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have it told of all that this process stores from now on; what is returned ends that."""
        return self._arrivals.listen(listener)

    def arrived_until(self) -> int:
        """The moment of the last arrival, in ms since 1970. All that arrived until then can be read, whole."""
        return self._arrivals.until

    def told_until(self) -> int:
        """All that arrived until this moment (ms since 1970) was told to those who listen."""
        return self._arrivals.told

    def arrivals(self, metric_ids: Sequence[int], after: Place, *, until: int, limit: int) -> np.ndarray:
        """These metrics' readings behind a place, in order of arrival. See `Arrivals.read`."""
        return self._arrivals.read(metric_ids, after, until=until, limit=limit)

    # ── out ──

    def count(self, metric_ids: Sequence[int]) -> int:
        """How many readings these metrics have, the folded ones counted and the replaced ones not."""
        folded, hidden = self.folded.count(metric_ids)
        return self._count(statements.COUNT, metric_ids) + folded - hidden

    def _count(self, statement: str, metric_ids: Sequence[int], **parameters: Any) -> int:
        counts = (
            self._engine.query(statement, parameters | {"ids": list(chunk)}, np.dtype("<u8"))[0]
            for chunk in in_chunks(metric_ids)
        )
        return int(sum(counts))

    def latest(self, metric_ids: MetricIds) -> np.ndarray:
        """The newest reading of each metric, in their order: `NEWEST_DTYPE` rows, `ts` -1 for one with none.

        The time it takes does not depend on the history's length.
        """
        if self._alone:
            return self._newest.of(metric_ids)
        chunks = in_chunks(sorted(set(metric_ids.tolist())))
        found = [self._engine.query(statements.NEWEST_OF, {"ids": list(chunk)}, NEWEST_DTYPE) for chunk in chunks]
        return in_order(np.concatenate(found), metric_ids) if found else self._newest.of(metric_ids)

    def count_in_window(self, metric_ids: Sequence[int], window: Window) -> int:
        """About how many readings the metrics have there (replaced ones are counted until they are merged away)."""
        return self._count(statements.COUNT_IN_WINDOW, metric_ids, start=window.start_ms, end=window.end_ms)

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        """A number that these metrics' readings in the window do not exceed: some thousands too many a month."""
        if self._engine.cluster is not None:  # of the tables of other servers the engine estimates nothing
            return self.count_in_window(metric_ids, window)
        parameters = {"ids": list(metric_ids), "start": window.start_ms, "end": window.end_ms}
        return sum(int(rows) for _, _, _, rows, *_ in self._engine.lines(statements.ESTIMATE, parameters))

    def first_readings(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        """The first readings in the window by (metric, time), `limit` of them over all metrics."""
        parameters: dict[str, Any] = {"start": window.start_ms, "end": window.end_ms}
        if len(metric_ids) == 1:
            (metric_id,) = metric_ids
            columns = self._once(statements.READINGS_OF_ONE, parameters | {"id": metric_id}, _POINT_COLUMNS[1:], limit)
            return [Points(metric_id, *columns)]
        parameters["ids"] = list(metric_ids)
        ids, timestamps, values = self._once(statements.READINGS_OF_SOME, parameters, _POINT_COLUMNS, limit)
        changes = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
        return [
            Points(int(ids[begin]), timestamps[begin:end], values[begin:end])
            for begin, end in pairwise(changes)
            if begin < end
        ]

    def _once(
        self, statement: tuple[str, str], parameters: dict[str, Any], dtypes: Sequence[np.dtype[Any]], limit: int
    ) -> list[np.ndarray]:
        """The first rows of a statement, of the same metric and time only the one received last.

        Rows that were replaced are there until the engine has merged them away. It costs three times as much to have
        it look for them than to see that there are none, which is mostly so.
        """
        plain, final = statement
        columns = self._engine.columns(plain, parameters | {"limit": limit + 1}, dtypes)
        same = columns[-2][1:] == columns[-2][:-1]
        if len(dtypes) > 2 and same.any():
            same &= columns[0][1:] == columns[0][:-1]
        if same.any():
            return self._engine.columns(final, parameters | {"limit": limit}, dtypes)
        return [column[:limit] for column in columns]

    def usual_intervals_ms(self, metric_ids: Sequence[int], window: Window) -> dict[int, int]:
        """The median time between readings, for each metric that has three at least in the window."""
        parameters = {"start": window.start_ms, "end": window.end_ms}
        found = {}
        for chunk in in_chunks(metric_ids):
            rows = self._engine.query(
                statements.USUAL_INTERVALS, parameters | {"ids": list(chunk)}, statements.USUAL_DTYPE
            )
            found.update(rows.tolist())
        return found

    def last_before(self, reach_ms: Mapping[int, int | None], instant: int, *, folded_until: int = 0) -> np.ndarray:
        """The last reading of each metric before an instant, less than its reach (`None`: any time) before it.

        Looked for in the day before, then further back for those that had none, so that long histories cost nothing.

        Args:
            folded_until: none of them are folded that are later. The instant lies in no folded quarter.

        Returns:
            `POINT_DTYPE` rows by metric, one for each that has such a reading.
        """
        earliest = {
            metric_id: 0 if reach is None else max(0, instant - reach + 1) for metric_id, reach in reach_ms.items()
        }
        found = [np.empty(0, statements.POINT_DTYPE)]
        until = instant
        for distance in _LOOK_FURTHER_MS:
            if not earliest:
                break
            begin = max(min(earliest.values()), instant - distance)
            rows = self._near(statements.LAST_BEFORE, earliest, begin, until)
            if begin < folded_until:
                folded = self.folded.near(statements.LAST_FOLDED_BEFORE, sorted(earliest), begin, until)
                rows = _ends(np.concatenate((rows, folded)), place=-1)
            near = [row["ts"] >= earliest[int(row["metric_id"])] for row in rows]
            found.append(rows[np.array(near, bool)])
            answered = set(rows["metric_id"].tolist())
            earliest = {m: first for m, first in earliest.items() if m not in answered and first < begin}
            until = begin
        return np.sort(np.concatenate(found), order="metric_id")

    def first_from(self, metric_ids: Sequence[int], instant: int, *, folded_until: int = 0) -> np.ndarray:
        """The first reading of each metric at or after an instant: `POINT_DTYPE` rows by metric. See `last_before`."""
        found = [np.empty(0, statements.POINT_DTYPE)]
        missing, begin = set(metric_ids), instant
        for distance in _LOOK_FURTHER_MS:
            if not missing:
                break
            end = instant + distance
            rows = self._near(statements.FIRST_FROM, missing, begin, end)
            if begin < folded_until:
                folded = self.folded.near(statements.FIRST_FOLDED_FROM, sorted(missing), begin, end)
                rows = _ends(np.concatenate((folded, rows)), place=0)
            found.append(rows)
            missing -= set(rows["metric_id"].tolist())
            begin = end
        return np.sort(np.concatenate(found), order="metric_id")

    def _near(self, statement: str, metric_ids: Iterable[int], begin: int, end: int) -> np.ndarray:
        parameters = {"ids": sorted(metric_ids), "start": begin, "end": end}
        return self._engine.query(statement, parameters, statements.POINT_DTYPE)

    def contents(self) -> Contents:
        """The history as a whole, to be read while it is in use: with one processor, that others may have the rest."""
        return Contents(self._engine, threads=1)

    def check(self) -> None:
        """Raises `Unavailable` if the engine does not answer."""
        self._engine.query("SELECT toUInt64(1)", {}, np.dtype("<u8"))

    def version(self) -> str:
        return self._engine.version()

    def close(self) -> None:
        """Finish what is being written, wait a while for what is being read, then close the engine."""
        if self._closed:
            return
        self._closed = True
        self._appender.close()
        self._stop_hearing()
        if self._alone:
            self._write_newest()
        self._engine.close()

    # ── by the appender's thread ──

    def _store_rows(self, rows: Rows, turn: Turn) -> None:
        """One insert by the appender's thread, on the client that is its own."""
        turn.lost |= self._make_sure()
        if not turn.alone:
            self._changes.unknown()
        rows = self._without_same(rows, self._newest_in(turn))
        found = last_of_each(rows)
        self._say(found, turn)
        if not len(rows):
            return
        with self._storing:
            try:
                self._engine.insert("readings", _READING_COLUMNS, encode(rows), "Native")
                if not self._alone:
                    self._insert_latest(np.append(found, complete_until(rows.received_at)))
            except BaseException:
                self._stored_in_part(rows, found)
                raise
            finally:
                self.spans.stored(rows)
            if self._alone:
                self._recent.stored(rows)
                self._newest.put(found)
                self._stored_until = rows.received_at
            if self._frontier is not None:
                self._frontier.stored(found["metric_id"], found["ts"])
            self._changes.stored(rows)
        self._arrivals.stored(rows)

    def _say(self, found: np.ndarray, turn: Turn) -> None:
        """Which metrics this turn has to do with, and until when the readings of each reach."""
        metric_ids, reached = found["metric_id"].tolist(), found["ts"].tolist()
        with self._storing:
            touched, self._touched = self._touched, set()
        turn.metric_ids = tuple({*metric_ids, *touched}) if touched else tuple(metric_ids)
        turn.reached = None if touched else tuple(reached)

    def _without_same(self, rows: Rows, newest: NewestOf) -> Rows:
        """The rows without those that are stored already with the same value, where they were compared."""
        if rows.compared_at is None:
            return rows
        is_cheap = self._alone or self._frontier is not None
        late = replacing.late(rows, newest) if is_cheap else np.arange(len(rows))
        if not len(late):
            return rows
        same = np.zeros(len(rows), bool)
        same[late] = self._same(rows.at(late), newest)
        same &= ~np.isin(rows.metric_ids, list(self._erasing))
        return rows.at(~same) if same.any() else rows

    def _same(self, rows: Rows, newest: NewestOf) -> Flags:
        """Which of the rows are stored already: when they were compared, and after what was stored since."""
        since = self._changes.since(rows.compared_at or 0)
        if since is None:
            batch = Batch(rows.metric_ids, rows.timestamps, rows.values)
            found = self._corrections.compare(batch, newest)
            return np.zeros(len(rows), bool) if found is None else found.same(batch)
        same = np.zeros(len(rows), bool) if rows.same is None else rows.same
        points = replacing.points_of(rows)
        for stored in since:
            if replacing.near(points, stored):
                values = replacing.values_at(points, replacing.points_of(stored))
                same = np.where(np.isnan(values), same, values == points["value"])
        return same

    def _stored_in_part(self, rows: Rows, found: np.ndarray) -> None:
        """An insert failed, and nobody knows what of it is stored."""
        if self._alone:
            self._recent.settle(found)
        self._unsure.update(found["metric_id"].tolist())
        self._changes.unknown()
        if self._frontier is not None:
            self._frontier.forget(found["metric_id"].tolist())
        self._arrivals.stored_in_part(rows.received_at)
        if not self._alone:  # at once, as other processes may be sent the same readings again
            with suppress(Unavailable):
                self._make_sure()

    def _make_sure(self) -> bool:
        """Look up what is the newest reading of metrics of which an insert failed; whether there were any."""
        if not self._unsure:
            return False
        for chunk in in_chunks(sorted(self._unsure)):
            found = self._engine.query(statements.NEWEST_STORED, {"ids": list(chunk)}, NEWEST_DTYPE)
            if self._alone:
                self._newest.put(found)
            elif len(found):
                self._insert_latest(found)
        if self._frontier is not None:
            self._frontier.forget(self._unsure)
        self._unsure.clear()
        self._changes.unknown()
        return True

    # ── what others store ──

    def _heard(self, news: Arrived) -> None:
        """By the thread that hears of what is stored."""
        if self._frontier is not None:
            self._frontier.hear(news.turn, news.metric_ids, news.reached)
        self._passing.put(news)

    def _touch(self, metric_ids: Sequence[int]) -> None:
        """Readings were put in or taken out besides the turns: whoever takes the next one says so. While storing."""
        if self._frontier is not None:
            self._frontier.forget(metric_ids)
            self._touched.update(metric_ids)

    def _newest_as_of(self, stamp: Stamp | None) -> NewestOf:
        """What says which readings may replace another one that was stored by then, for a request."""
        frontier = self._frontier
        if frontier is None or stamp is None or not frontier.has_heard(stamp.turn, within_s=_HEARD_WITHIN_S):
            return self.latest
        return lambda metric_ids: self._newest_at(frontier, metric_ids)

    def _newest_in(self, turn: Turn) -> NewestOf:
        """The same in a turn, in which nobody else stores."""
        frontier = self._frontier
        if frontier is None:
            return self.latest
        if turn.lost:
            frontier.forget()
        if not turn.lost and not frontier.has_heard(turn.before, within_s=_HEARD_WITHIN_S):
            return self.latest
        frontier.take(turn.number)
        return lambda metric_ids: self._newest_at(frontier, metric_ids)

    def _newest_at(self, frontier: Frontier, metric_ids: MetricIds) -> np.ndarray:
        """As `latest`, but where memory knows the time it alone is told, or a later one: NaN stands for the value."""
        version = frontier.version
        found = np.zeros(len(metric_ids), NEWEST_DTYPE)
        found["metric_id"], found["ts"], found["value"] = metric_ids, frontier.of(metric_ids), np.nan
        unknown = np.flatnonzero(found["ts"] == UNKNOWN)
        if len(unknown):
            asked, position = np.unique(metric_ids[unknown], return_inverse=True)
            newest = self.latest(asked)
            frontier.learn(asked, newest["ts"], version=version)
            found[unknown] = newest[position]
        return found

    # ── the newest readings ──
    #
    # Where this process alone has the engine they are kept in memory, and written to the table `latest` now and then,
    # with the moment until when it is complete, so that a start looks at what came later only. Where others
    # write too, the table is the truth, and written after each insert.

    def _load_newest(self) -> None:
        self._newest.put(self._engine.query(statements.NEWEST, {}, NEWEST_DTYPE))
        self._newest.take_changes()
        self._written_until = self._complete_until()
        self._newest.put(self._engine.query(statements.NEWEST_SINCE, {"since": self._written_until}, NEWEST_DTYPE))
        self._stored_until = self._complete_until()
        self._recent.settle(self._newest.all())

    def _complete_until(self) -> int:
        (mark,) = self.latest(np.zeros(1, np.uint32))
        return int(mark["received_at"])

    def _between_inserts(self) -> None:
        """Now and then, by the appender's thread."""
        if not self._is_shared:
            self._arrivals.nothing_until(self._own_turns.let_time_pass(to_ms(self._clock())))
        self._changes.forget_old()
        self._write_newest_sometimes()

    def _write_newest_sometimes(self) -> None:
        if self._alone and time.monotonic() - self._written_at > _NEWEST_EVERY_S:
            try:
                self._write_newest()
            except Unavailable as error:
                log.warning("the latest readings were not written; the next time they will be", reason=error.detail)

    def _write_newest(self) -> None:
        """By the appender's thread or after its end, so that nothing is stored meanwhile."""
        self._written_at = time.monotonic()
        if self._stored_until == self._written_until:
            return
        with self._storing:
            changes = self._newest.take_changes()
            try:
                self._insert_latest(np.append(changes, complete_until(self._stored_until)))
            except BaseException:
                self._newest.put(changes)
                raise
            self._written_until = self._stored_until

    def _insert_latest(self, rows: np.ndarray) -> None:
        self._engine.insert("latest", _LATEST_COLUMNS, rows.tobytes(), "RowBinary")


def _window(begin: int, end: int) -> Window:
    return Window(from_ms(begin), from_ms(end))


def _gap_of(metric: PlacedMetric) -> int:
    """As days are stored with it."""
    return -1 if metric.max_gap_ms is None else metric.max_gap_ms


def _missing_runs(
    midnights: Milliseconds, begin: int, stored: np.ndarray | None, gap: int
) -> Iterator[tuple[int, int]]:
    """Where days follow each other of which no cell is stored that was made with this gap, from the `begin`th on."""
    is_missing = np.arange(len(midnights) - 1) >= begin
    if stored is not None:
        same = stored[stored["max_gap_ms"] == gap]
        is_missing &= ~(np.isin(midnights[:-1], same["begins"]) & np.isin(midnights[1:], same["ends"]))
    turns = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)).tolist()
    for first, end in zip(turns[::2], turns[1::2], strict=True):
        for part in range(first, end, _DAYS_AT_ONCE):
            yield part, min(part + _DAYS_AT_ONCE, end)


def _ends(rows: np.ndarray, *, place: int) -> np.ndarray:
    """Of `POINT_DTYPE` rows the first (0) or the last (-1) of each metric by time, and among equal ones."""
    rows = rows[np.lexsort((rows["ts"], rows["metric_id"]))]
    is_end = rows["metric_id"][1:] != rows["metric_id"][:-1]
    return rows[np.append(True, is_end) if place == 0 else np.append(is_end, True)] if len(rows) else rows
