"""Readings of old that were folded: a cell for each quarter of an hour takes their place.

A quarter is folded once it has a cell; what is still in `readings` of it counts no more, and is deleted some time. So
whoever needs both reads `readings` first: what goes from there meanwhile has a cell by then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kilowatch.facility.quantities import Behaviour
from kilowatch.history import statements
from kilowatch.history.engine import Engine, in_chunks
from kilowatch.history.intervals import QUARTER_MS, Cells
from kilowatch.history.model import Flags, MetricIds, Milliseconds, Points, Stop
from kilowatch.history.native import block
from kilowatch.history.packing import COLUMNS, packed, unpacked
from kilowatch.kit.timespan import Window, from_ms

Columns = dict[str, np.ndarray]

_POINTS_AT_ONCE = 5_000  # as text in a parameter, of which a server takes 128 KB
_MOST_BEGINS = 2_000_000  # quarters that are read to be looked through
_NAMES_AT_ONCE = 2_000_000  # of quarters, in a set: a month of 40,000 metrics without a gap needs them
_COUNTED_AT_ONCE = 1_000  # metrics, all of whose quarters are read in a second for each year
_EVER_MS = (1 << 63) // 2_000_000


class Folded:
    """The cells that are stored. Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ── out ──

    def cells(self, behaviours: Mapping[int, Behaviour], window: Window) -> dict[int, Cells]:
        """Those that begin in the window, and the one that it begins in, of each metric that has some."""
        found = {}
        for chunk in in_chunks(sorted(behaviours)):
            dtypes = (np.dtype("<u4"), *statements.CELL_DTYPES)
            ids, *columns = self._engine.columns(statements.QUARTERS, _asked(chunk, window), dtypes)
            for metric_id, begin, end in _by_metric(ids):
                part = {name: column[begin:end] for name, column in zip(COLUMNS, columns, strict=True)}
                found[metric_id] = unpacked(part, behaviours[metric_id])
        return found

    def days(self, behaviours: Mapping[int, Behaviour], window: Window) -> dict[int, "Days"]:
        """The days inside of the window that are stored as one cell each, of each metric that has some."""
        found = {}
        for chunk in in_chunks(sorted(behaviours)):
            dtypes = (*statements.DAY_DTYPES, *statements.CELL_DTYPES)
            ids, begins, ends, gaps, *columns = self._engine.columns(statements.DAYS, _asked(chunk, window), dtypes)
            for metric_id, begin, end in _by_metric(ids):
                part = {name: column[begin:end] for name, column in zip(COLUMNS, columns, strict=True)}
                cells = unpacked(part, behaviours[metric_id])
                found[metric_id] = Days(begins[begin:end], ends[begin:end], gaps[begin:end], cells)
        return found

    def raw_quarters(self, metric_ids: Sequence[int], window: Window, *, most: int) -> dict[int, Milliseconds] | None:
        """Where the quarters of the window begin that have readings as such, by metric; `None` if there are more."""
        parameters = _asked(metric_ids, window) | {"limit": most + 1}
        rows = self._engine.query(statements.RAW_QUARTERS, parameters, statements.BEGINS_DTYPE)
        if len(rows) > most:
            return None
        return {metric_id: rows["begins"][begin:end] for metric_id, begin, end in _by_metric(rows["metric_id"])}

    def kept(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        """The readings that are kept of folded quarters, the first and the last of each, in the window.

        By metric, of the first `limit` quarters over all of them at most.
        """
        parameters = _asked(metric_ids, window) | {"limit": limit}
        rows = self._engine.query(statements.KEPT, parameters, statements.KEPT_DTYPE)
        found = []
        for metric_id, begin, end in _by_metric(rows["metric_id"]):
            part = rows[begin:end]
            times = np.stack((part["first_ts"], part["last_ts"]), axis=1).reshape(-1)
            values = np.stack((part["first"], part["last"]), axis=1).reshape(-1)
            is_another = np.diff(times, prepend=-1) > 0  # a quarter of one reading has it twice
            points = Points(metric_id, times[is_another], values[is_another])
            found.append(points.between(window.start_ms, window.end_ms))
        return found

    def begins(self, metric_ids: Sequence[int], window: Window) -> dict[int, Milliseconds]:
        """Where the folded quarters of the window begin, for each metric that has some."""
        rows = self._engine.query(statements.BEGINS, _asked(metric_ids, window), statements.BEGINS_DTYPE)
        return {metric_id: rows["begins"][begin:end] for metric_id, begin, end in _by_metric(rows["metric_id"])}

    def until(self, metric_ids: Sequence[int], window: Window) -> dict[int, int]:
        """The end of the last folded quarter of the window, in ms, for each metric that has one."""
        found: dict[int, int] = {}
        for chunk in in_chunks(metric_ids):
            rows = self._engine.query(statements.FOLDED_UNTIL, _asked(chunk, window), statements.BEGINS_DTYPE)
            found.update(rows.tolist())
        return found

    def first_begins(self, metric_ids: Sequence[int]) -> dict[int, int]:
        """When (ms) the first folded quarter of each metric begins that has one."""
        found: dict[int, int] = {}
        for chunk in in_chunks(metric_ids):
            found.update(self._engine.query(statements.EXTENTS, {"ids": list(chunk)}, statements.BEGINS_DTYPE).tolist())
        return found

    def stored_days(self, metric_ids: Sequence[int], window: Window) -> dict[int, np.ndarray]:
        """The days that have something of the window and are stored, by metric: `STORED_DAY_DTYPE` rows by time."""
        rows = self._engine.query(statements.STORED_DAYS, _asked(metric_ids, window), statements.STORED_DAY_DTYPE)
        return {metric_id: rows[begin:end] for metric_id, begin, end in _by_metric(rows["metric_id"])}

    def made_until(self) -> int:
        """When (ms) a cell was last made or taken back, by the clock of then; 0 if none ever was."""
        return int(self._engine.query(statements.MADE_UNTIL, {}, np.dtype("<i8"))[0])

    def has_any(self, metric_ids: Sequence[int], window: Window) -> bool:
        return bool(self.until(metric_ids, window))

    def are_folded(self, metric_ids: MetricIds, timestamps: Milliseconds) -> Flags:
        """Which of these times lie in a folded quarter of their metric."""
        if not len(timestamps):
            return np.zeros(0, bool)
        ids, quarters = metric_ids.astype(np.int64), timestamps // QUARTER_MS
        first, width = int(quarters.min()), int(quarters.max() - quarters.min()) + 1
        own = np.unique(ids)
        keys, place = np.unique(np.searchsorted(own, ids) * width + quarters - first, return_inverse=True)
        # Either all quarters from the first to the last are read, or those that are asked are looked for.
        if len(own) * width // _MOST_BEGINS < len(keys) // _POINTS_AT_ONCE:
            there = self._keys_between(own, first, width)
        else:
            there = self._keys_at(own, keys, first, width)
        return np.isin(keys, there)[place]

    def _keys_between(self, own: np.ndarray, first: int, width: int) -> np.ndarray:
        window = Window(from_ms(first * QUARTER_MS), from_ms((first + width) * QUARTER_MS))
        at_once = max(1, _MOST_BEGINS // width)
        found = [np.empty(0, np.int64)]
        for begin in range(0, len(own), at_once):
            for chunk in in_chunks(own[begin : begin + at_once].tolist()):
                rows = self._engine.query(statements.BEGINS, _asked(chunk, window), statements.BEGINS_DTYPE)
                found.append(_keys(rows, own, first, width))
        return np.concatenate(found)

    def _keys_at(self, own: np.ndarray, keys: np.ndarray, first: int, width: int) -> np.ndarray:
        found = [np.empty(0, np.int64)]
        for begin in range(0, len(keys), _POINTS_AT_ONCE):
            part = keys[begin : begin + _POINTS_AT_ONCE]
            times = (part % width + first) * QUARTER_MS
            parameters = {"ids": own[part // width].tolist(), "times": times.tolist()}
            rows = self._engine.query(statements.BEGINS_AT, parameters, statements.BEGINS_DTYPE)
            found.append(_keys(rows, own, first, width))
        return np.concatenate(found)

    def near(self, statement: str, metric_ids: Sequence[int], begin: int, end: int) -> np.ndarray:
        """`POINT_DTYPE` rows of `LAST_FOLDED_BEFORE` or `FIRST_FOLDED_FROM`."""
        return self._engine.query(statement, {"ids": metric_ids, "start": begin, "end": end}, statements.POINT_DTYPE)

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        """A number that the quarters in the window do not exceed: some thousands too many."""
        if self._engine.cluster is not None:  # of the tables of other servers the engine estimates nothing
            return int(self._engine.query(statements.COUNT_FOLDED, _asked(metric_ids, window), np.dtype("<u8"))[0])
        lines = self._engine.lines(statements.ESTIMATE_FOLDED, _asked(metric_ids, window))
        return sum(int(rows) for _, _, _, rows, *_ in lines)

    def count(self, metric_ids: Sequence[int]) -> tuple[int, int]:
        """How many readings are folded; and how many of them are still among the raw ones."""
        readings = hidden = 0
        for begin in range(0, len(metric_ids), _COUNTED_AT_ONCE):
            some = metric_ids[begin : begin + _COUNTED_AT_ONCE]
            rows = self._engine.query(statements.FOLDED, {"ids": list(some)}, statements.FOLDED_DTYPE)
            ((folded, until),) = rows.tolist()
            readings += folded
            hidden += self._hidden(some, until) if folded else 0
        return readings, hidden

    def _hidden(self, metric_ids: Sequence[int], until: int) -> int:
        found = 0
        for begin, end in self.old_months(metric_ids, until=until):
            for part in self._parts(metric_ids, Window(from_ms(begin), from_ms(end)), made_until=_EVER_MS):
                part["ids"] = [metric_id for metric_id in metric_ids if part["first"] <= metric_id <= part["last"]]
                found += int(self._engine.query(statements.COUNT_HIDDEN, part, np.dtype("<u8"))[0])
        return found

    def _parts(self, metric_ids: Sequence[int], window: Window, *, made_until: int) -> Iterator[dict[str, Any]]:
        """Metrics that have quarters folded by then (ms) in the window, from a `first` to a `last` of them.

        A statement can name the quarters of all metrics of a part: it takes some 200 MB.
        """
        asked = {"start": window.start_ms, "end": window.end_ms, "made_until": made_until}
        part: dict[str, Any] = {}
        names = 0
        for chunk in in_chunks(sorted(metric_ids)):
            rows = self._engine.query(statements.NAMES, asked | {"ids": list(chunk)}, statements.NAMES_DTYPE)
            for metric_id, own in rows.tolist():
                if part and names + own > _NAMES_AT_ONCE:
                    yield part
                    part, names = {}, 0
                part = asked | {"first": part.get("first", metric_id), "last": metric_id}
                names += own
        if part:
            yield part

    def in_window(self, metric_id: int, window: Window) -> tuple[int, int]:
        """How many readings are folded there, and when the last of them was received (ms)."""
        ((readings, received_until),) = self._engine.query(
            statements.FOLDED_IN_WINDOW, _asked([metric_id], window), statements.STORED_DTYPE
        ).tolist()
        return readings, received_until

    # ── what is to be folded, and deleted ──

    def old(self, metric_ids: Sequence[int], *, until: int) -> np.ndarray:
        """How many readings there are from before a time (ms), folded or not, by metric: `OLD_DTYPE` rows."""
        found = [
            self._engine.query(statements.OLD, {"ids": list(chunk), "until": until}, statements.OLD_DTYPE)
            for chunk in in_chunks(metric_ids)
        ]
        return np.concatenate([np.empty(0, statements.OLD_DTYPE), *found])

    def old_quarters(self, metric_ids: Sequence[int], *, until: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """The quarters in which metrics have readings from before a time (ms), and those of them that are folded.

        By metric, of those that have some. Both are `OLD_QUARTER_DTYPE` rows by time.
        """
        parameters = {"ids": list(metric_ids), "until": until}
        raw, folded = (
            self._engine.query(statement, parameters, statements.OLD_QUARTER_DTYPE)
            for statement in (statements.OLD_QUARTERS, statements.FOLDED_QUARTERS)
        )
        of_metric = {metric_id: folded[begin:end] for metric_id, begin, end in _by_metric(folded["metric_id"])}
        return {
            metric_id: (raw[begin:end], of_metric.get(metric_id, folded[:0]))
            for metric_id, begin, end in _by_metric(raw["metric_id"])
        }

    def old_months(self, metric_ids: Sequence[int], *, until: int) -> list[tuple[int, int]]:
        """Where there are readings from before a time (ms), month by month: from when until when, in ms."""
        found: dict[int, tuple[int, int]] = {}
        for chunk in in_chunks(metric_ids):
            parameters = {"ids": list(chunk), "until": until}
            rows = self._engine.query(statements.OLD_MONTHS, parameters, statements.OLD_MONTH_DTYPE)
            for month, first, last in rows.tolist():
                begin, end = found.get(month, (first, last))
                found[month] = min(begin, first), max(end, last)
        return [(begin, end + QUARTER_MS) for _, (begin, end) in sorted(found.items())]

    def is_deleting(self) -> bool:
        """Whether a deletion among the readings is still under way."""
        return bool(self._engine.query(statements.UNFINISHED, {}, np.dtype("<u8"))[0])

    def delete_raw(
        self, metric_ids: Sequence[int], window: Window, *, made_until: int, stop: Stop = lambda: False
    ) -> int:
        """Remove the readings of quarters that were folded by then (ms) from the disk, and say how many.

        Done when it returns, unless it is to stop: then what was begun goes on. Each part of a month that has any of
        them is written anew: once, unless the metrics are so many that their quarters can't be named at once.
        """
        deleted = 0
        for part in self._parts(metric_ids, window, made_until=made_until):
            found = int(self._engine.query(statements.HIDDEN_ROWS, part, np.dtype("<u8"))[0])
            if found:
                self._engine.remove(statements.DELETE_HIDDEN, part, stop=stop)
            deleted += found
            if stop():
                break
        return deleted

    def has_any_made_since(self, metric_ids: Sequence[int], window: Window, instant: int) -> bool:
        """Whether quarters of the window were folded later than a moment (ms): their readings are deleted later."""
        parameters = {"made_until": instant}
        return any(
            self._engine.query(statements.MADE_SINCE, parameters | _asked(chunk, window), np.dtype("<u8"))[0]
            for chunk in in_chunks(metric_ids)
        )

    # ── in ──

    def put(self, parts: Sequence[tuple[int, Behaviour, Cells, Milliseconds]], *, made_at: int) -> None:
        """Store cells of metrics, each with when the last reading of each was received. Durable when it returns."""
        columns: list[Columns] = [
            {
                "metric_id": np.full(len(cells), metric_id, np.uint32),
                "begins": cells.first_ts // QUARTER_MS * QUARTER_MS,
                **packed(cells, behaviour),
                "received_until": received_until,
                "made_at": np.full(len(cells), made_at),
            }
            for metric_id, behaviour, cells, received_until in parts
        ]
        self._insert("quarters", statements.QUARTER_COLUMNS, columns)

    def put_days(self, parts: Sequence[tuple[int, Behaviour, "Days"]], *, made_at: int) -> None:
        """Store cells of whole days of metrics."""
        if parts:
            columns = [
                _of_days(np.full(len(days.begins), metric_id), days.begins, days.ends, days.max_gap_ms, made_at=made_at)
                | packed(days.cells, behaviour)
                for metric_id, behaviour, days in parts
            ]
            self._insert("days", statements.DAY_COLUMNS, columns)

    def take_days_back(self, windows: Mapping[int, Window], *, made_at: int) -> None:
        """Metrics' readings change in these windows: no day that has something of one is stored any more."""
        for chunk in in_chunks(sorted(windows)):
            some = [windows[metric_id] for metric_id in chunk]
            around = Window(min(one.start for one in some), max(one.end for one in some))
            rows = [
                stored[(stored["begins"] < windows[metric_id].end_ms) & (stored["ends"] > windows[metric_id].start_ms)]
                for metric_id, stored in self.stored_days(chunk, around).items()
            ]
            days = np.concatenate([np.empty(0, statements.STORED_DAY_DTYPE), *rows])
            if len(days):
                which = days["metric_id"], days["begins"], days["ends"], days["max_gap_ms"]
                of_none = _nothing(len(days))
                self._insert("days", statements.DAY_COLUMNS, [of_none | _of_days(*which, made_at=made_at)])

    def take_back(self, metric_id: int, begins: Milliseconds, *, made_at: int) -> None:
        """These quarters are folded no more: their readings are all there still."""
        own: Columns = {
            "metric_id": np.full(len(begins), metric_id, np.uint32),
            "begins": begins,
            "received_until": np.zeros(len(begins), np.int64),
            "made_at": np.full(len(begins), made_at),
        }
        self._insert("quarters", statements.QUARTER_COLUMNS, [_nothing(len(begins)) | own])

    def _insert(self, table: str, names: Sequence[str], parts: Sequence[Columns]) -> None:
        columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
        self._engine.insert_apart(table, names, block(columns), "Native")

    def erase(self, metric_ids: Sequence[int], *, deadline: float) -> None:
        """Remove all that is folded of these metrics from the disk. Done when it returns. See `Engine.remove`."""
        for chunk in in_chunks(metric_ids):
            if self._engine.query(statements.ANY_FOLDED, {"ids": list(chunk)}, np.dtype("<u4")).size:
                for statement in statements.ERASE_FOLDED:
                    self._engine.remove(statement, {"ids": list(chunk)}, deadline=deadline)

    def erase_window(self, metric_id: int, window: Window, *, received_until: int, deadline: float) -> None:
        """Remove the quarters of a window, none of which it cuts, that have nothing received later (ms).

        See `Engine.remove`.
        """
        if self.has_any([metric_id], window):
            parameters = _asked([metric_id], window) | {"received_until": received_until}
            for statement in statements.ERASE_FOLDED_WINDOW:
                self._engine.remove(statement, parameters, deadline=deadline)


@dataclass(frozen=True, slots=True, eq=False)
class Days:
    """Days of one metric, by time: when each begins and ends, the `max_gap_ms` (-1 for none) that it was made with, and
    its cell."""

    begins: Milliseconds
    ends: Milliseconds
    max_gap_ms: Milliseconds
    cells: Cells


def _of_days(
    metric_ids: np.ndarray, begins: Milliseconds, ends: Milliseconds, max_gap_ms: Milliseconds, *, made_at: int
) -> Columns:
    """Columns of days, besides what their cells are."""
    return {
        "metric_id": metric_ids.astype(np.uint32),
        "begins": begins,
        "ends": ends,
        "max_gap_ms": max_gap_ms,
        "received_until": np.zeros(len(begins), np.int64),
        "made_at": np.full(len(begins), made_at),
    }


def _nothing(size: int) -> Columns:
    return {name: np.zeros(size, dtype) for name, dtype in _DTYPES.items()}


_DTYPES = dict(zip(COLUMNS, statements.CELL_DTYPES, strict=True))


def _asked(metric_ids: Sequence[int], window: Window) -> dict[str, Any]:
    return {"ids": list(metric_ids), "start": window.start_ms, "end": window.end_ms}


def _by_metric(ids: np.ndarray) -> list[tuple[int, int, int]]:
    """Of rows by metric: each metric, where its rows begin and where they end."""
    begins = np.flatnonzero(np.diff(ids.astype(np.int64), prepend=0)).tolist()
    return [(int(ids[begin]), begin, end) for begin, end in pairwise([*begins, len(ids)])]


def _keys(rows: np.ndarray, own: np.ndarray, first: int, width: int) -> np.ndarray:
    """A number for each metric's quarter, from `first` on."""
    keys: np.ndarray = np.searchsorted(own, rows["metric_id"]) * width + rows["begins"] // QUARTER_MS - first
    return keys
