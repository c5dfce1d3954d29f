"""A history as a whole: counted, read block by block, and written into another one just as it was.

Of a reading that was replaced the one received last is told, as everywhere. Blocks are short and of bounded size, so
that a server that is read meanwhile goes on serving. Two sums tell whether two histories are the same: how many rows
there are, and a checksum in which their order does not matter. It is arithmetic that the engine and NumPy do alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from kilowatch.errors import Invalid
from kilowatch.history.engine import Engine, in_chunks
from kilowatch.history.native import encode_block

BLOCK = 250_000
"""Rows that are in memory at once: 7 MB of readings."""

ALL = (1 << 63) // 2_000_000
"""As a moment in ms since 1970: later than all that was received."""

_RESTORING = "restore_under_way"
_MIX = ((32, 0x9E3779B97F4A7C15), (29, 0xD6E8FEB86659FD93))

Block = dict[str, np.ndarray]
"""Columns of one length by their names; times in ms (or s, as the engine has them) since 1970."""


class Kept(NamedTuple):
    """A table whose rows are copied: what tells its rows apart, and which of several versions of a row counts."""

    name: str
    time: str
    """The metric and this time are a row's key; rows are copied by its months."""
    version: str
    """The row with the highest is the one that counts."""
    received: str | None
    """When a row was received, by which rows of later on are left out. `None`: rows are made of others."""


KEPT = (
    # The order matters while the history is in use: readings become cells, so those are read first.
    Kept("readings", "ts", "received_at", "received_at"),
    Kept("quarters", "begins", "made_at", None),
    Kept("days", "begins", "made_at", None),
)
"""What a history has; a table that is not there is left out. `latest` is made anew from the others."""


class Sum(NamedTuple):
    """How many rows, and a checksum in which their order does not matter."""

    rows: int
    checksum: int


NOTHING = Sum(0, 0)

SUMS_DTYPE = np.dtype([("metric_id", "<u4"), ("rows", "<u8"), ("checksum", "<u8")])
_MONTHS_DTYPE = np.dtype([("month", "<u4"), ("rows", "<u8"), ("checksum", "<u8")])
KEYS_DTYPE = np.dtype([("metric_id", "<u4"), ("time", "<i8"), ("version", "<i8")])


class _Kind(NamedTuple):
    dtype: np.dtype[Any]
    bits: str
    """The engine's expression for a value's bits as a whole number."""


_KINDS = {
    **{f"UInt{8 * size}": _Kind(np.dtype(f"<u{size}"), "toUInt64({})") for size in (1, 2, 4, 8)},
    **{f"Int{8 * size}": _Kind(np.dtype(f"<i{size}"), "reinterpretAsUInt64(toInt64({}))") for size in (1, 2, 4, 8)},
    "Bool": _Kind(np.dtype("<u1"), "toUInt64({})"),
    "Float32": _Kind(np.dtype("<f4"), "toUInt64(reinterpretAsUInt32({}))"),
    "Float64": _Kind(np.dtype("<f8"), "reinterpretAsUInt64({})"),
    "DateTime('UTC')": _Kind(np.dtype("<u4"), "toUInt64(toUnixTimestamp({}))"),
    "DateTime64(3, 'UTC')": _Kind(np.dtype("<i8"), "reinterpretAsUInt64(toUnixTimestamp64Milli({}))"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is there, with its columns: the engine's types by name, in its order."""

    kept: Kept
    columns: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.kept.name

    @property
    def dtypes(self) -> list[np.dtype[Any]]:
        return [_KINDS[kind].dtype for kind in self.columns.values()]

    @property
    def checksum(self) -> str:
        """The engine's expression for the checksum of rows."""
        terms = (
            f"{_KINDS[kind].bits.format(name)} * toUInt64({_factor(place)})"
            for place, (name, kind) in enumerate(self.columns.items())
        )
        mixed = reduce("bitXor({}, {})".format, terms)
        for shift, factor in _MIX:
            mixed = f"bitXor({mixed}, intDiv({mixed}, toUInt64({1 << shift}))) * toUInt64({factor})"
        return f"sum({mixed})"

    def sum_of(self, block: Block) -> Sum:
        """The same of a block."""
        mixed = np.zeros(len(block[self.kept.time]), np.uint64)
        for place, (name, kind) in enumerate(self.columns.items()):
            column = np.ascontiguousarray(block[name], _KINDS[kind].dtype)
            mixed ^= _bits(column) * np.uint64(_factor(place))
        for shift, factor in _MIX:
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return Sum(len(mixed), int(mixed.sum(dtype=np.uint64)))


def added(one: Sum, other: Sum) -> Sum:
    return Sum(one.rows + other.rows, (one.checksum + other.checksum) % (1 << 64))


class Contents:
    """All that a history has. Safe to use from any thread, but for what writes.

    Every method raises `Unavailable` where the engine does not answer.
    """

    def __init__(self, engine: Engine, *, threads: int = 0) -> None:
        """`threads`: how many a statement may use; 0 for as many as there are processors."""
        self._engine = engine
        self._settings = f"max_threads = {threads}" if threads else "log_queries = 0"

    @classmethod
    def open(cls, url: str, *, sync: bool = True, migrate: bool) -> "Contents":
        """The history at a URL, for this process alone. Raises what `Engine` raises."""
        return cls(Engine(url, connections=2, sync=sync, migrate=migrate))

    def close(self) -> None:
        self._engine.close()

    # ── what there is ──

    def tables(self) -> list[Table]:
        """Raises `Invalid` for a column of a type that can't be copied."""
        lines = self._engine.lines(
            "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position",
            {},
        )
        found = []
        for kept in KEPT:
            columns = {name: kind.replace("\\'", "'") for table, name, kind in lines if table == kept.name}
            if unknown := set(columns.values()) - set(_KINDS):
                raise Invalid(f"The table {kept.name} has columns that can't be copied: {', '.join(sorted(unknown))}.")
            if columns:
                found.append(Table(kept, columns))
        return found

    def schema(self) -> int:
        """The number of the last step of the schema."""
        return int(self._engine.lines("SELECT max(version) FROM schema_migrations", {})[0][0])

    def received_until(self) -> int:
        """When the last reading was received, folded ones too, in ms since 1970; 0 if there is none."""
        return int(self._engine.query(_RECEIVED_UNTIL, {}, np.dtype("<i8"))[0])

    def is_empty(self) -> bool:
        return not any(self.counts(table) for table in self.tables())

    def months(self, table: Table, *, until: int = ALL) -> dict[int, Sum]:
        """Sums of the rows received until then, by month, as 202501 for January."""
        sql = f"""
            SELECT toYYYYMM({table.kept.time}) AS month, count(), {table.checksum}
            FROM {table.name} FINAL
            WHERE {_received(table)}
            GROUP BY month
            ORDER BY month
            SETTINGS {self._settings}
        """
        found = self._engine.query(sql, {"until": until}, _MONTHS_DTYPE)
        return {month: Sum(rows, checksum) for month, rows, checksum in found.tolist()}

    def counts(self, table: Table) -> dict[int, int]:
        """About how many rows each month has: replaced ones are counted until they are merged away."""
        sql = f"SELECT toYYYYMM({table.kept.time}) AS month, count() FROM {table.name} GROUP BY month ORDER BY month"
        return {int(month): int(rows) for month, rows in self._engine.lines(sql, {})}

    def metrics(self, table: Table, month: int, *, until: int = ALL) -> np.ndarray:
        """The same of one month by metric: `SUMS_DTYPE` rows."""
        sql = f"""
            SELECT metric_id, count(), {table.checksum}
            FROM {table.name} FINAL
            WHERE toYYYYMM({table.kept.time}) = {{month:UInt32}} AND {_received(table)}
            GROUP BY metric_id
            ORDER BY metric_id
            SETTINGS {self._settings}
        """
        return self._engine.query(sql, {"month": month, "until": until}, SUMS_DTYPE)

    def keys(self, table: Table, month: int, metric_ids: Sequence[int], *, until: int = ALL) -> np.ndarray:
        """What tells the rows of some metrics (10,000 at most) apart, in a month: `KEYS_DTYPE` rows, ordered so."""
        time, version = table.kept.time, table.kept.version
        sql = f"""
            SELECT metric_id, {time}, {version}
            FROM {table.name} FINAL
            WHERE toYYYYMM({time}) = {{month:UInt32}} AND metric_id IN {{ids:Array(UInt32)}} AND {_received(table)}
            ORDER BY metric_id, {time}
            SETTINGS {self._settings}
        """
        return self._engine.query(sql, {"month": month, "ids": list(metric_ids), "until": until}, KEYS_DTYPE)

    def folded(self, month: int, metric_ids: Sequence[int]) -> np.ndarray:
        """The folded quarters of some metrics (10,000 at most) in a month: `KEYS_DTYPE` rows of when each begins, and
        until when what it was made of was received."""
        sql = f"""
            SELECT metric_id, begins, received_until
            FROM quarters FINAL
            WHERE toYYYYMM(begins) = {{month:UInt32}} AND metric_id IN {{ids:Array(UInt32)}} AND count > 0
            ORDER BY metric_id, begins
            SETTINGS {self._settings}
        """
        return self._engine.query(sql, {"month": month, "ids": list(metric_ids)}, KEYS_DTYPE)

    def blocks(
        self,
        table: Table,
        month: int,
        *,
        until: int = ALL,
        metric_ids: Sequence[int] | None = None,
        rows: int = BLOCK,
    ) -> Iterator[Block]:
        """A month's rows by metric and time, at most `rows` at once; of all metrics unless some are named.

        A row that something received later than `until` replaced is there as it was, if the engine still has it.
        """
        for chunk in [None] if metric_ids is None else in_chunks(metric_ids):
            yield from self._blocks(table, month, until, chunk, rows)

    def _blocks(
        self, table: Table, month: int, until: int, metric_ids: Sequence[int] | None, rows: int
    ) -> Iterator[Block]:
        time, version = table.kept.time, table.kept.version
        some = "" if metric_ids is None else "AND metric_id IN {ids:Array(UInt32)}"
        # Without `FINAL`, so that the engine reads no further than it has to: the versions of a row lie together.
        sql = f"""
            SELECT {", ".join(table.columns)}
            FROM {table.name}
            WHERE toYYYYMM({time}) = {{month:UInt32}} AND {_received(table)} {some}
                AND (metric_id > {{metric_id:UInt32}}
                    OR metric_id = {{metric_id:UInt32}} AND {time} > fromUnixTimestamp64Milli({{time:Int64}}, 'UTC'))
            ORDER BY metric_id, {time}, {version}
            LIMIT {{limit:UInt64}}
            SETTINGS optimize_read_in_order = 1, {self._settings}
        """
        parameters: dict[str, Any] = {
            "month": month,
            "until": until,
            "ids": metric_ids,
            "metric_id": 0,
            "time": 0,
            "limit": rows,
        }
        while True:
            columns = self._engine.columns(sql, {k: v for k, v in parameters.items() if v is not None}, table.dtypes)
            block = dict(zip(table.columns, columns, strict=True))
            read = len(block[time])
            is_last = _last_of_each(block, time)
            if read == parameters["limit"]:
                is_last[-1] = False  # there may be further versions of it
            block = {name: column[is_last] for name, column in block.items()}
            if len(block[time]):
                yield block
                parameters |= {"metric_id": int(block["metric_id"][-1]), "time": int(block[time][-1]), "limit": rows}
            elif read:
                parameters["limit"] = 2 * parameters["limit"]  # so many versions of one row
            if read < rows:
                return

    # ── what writes ──

    def put(self, table: Table, block: Block) -> None:
        """Store rows. By one thread at a time. What is there already is replaced by the same."""
        columns = (
            (name, kind, np.ascontiguousarray(block[name])) for name, kind in table.columns.items() if name in block
        )
        self._engine.insert(
            table.name, [name for name in table.columns if name in block], encode_block(columns), "Native"
        )

    def remove(self, table: Table, month: int, metric_ids: Sequence[int]) -> None:
        """Remove these metrics' rows of a month, and what is said to be their latest: `make_latest` is to follow."""
        for chunk in in_chunks(metric_ids):
            for sql in (
                f"ALTER TABLE {table.name} DELETE WHERE toYYYYMM({table.kept.time}) = {{month:UInt32}} AND {_OF_SOME}",
                f"ALTER TABLE latest DELETE WHERE {_OF_SOME}",
            ):
                self._engine.remove(sql, {"month": month, "ids": list(chunk)})

    def make_latest(self) -> None:
        """Make the table of the latest readings from what is there now. Doing it again changes nothing."""
        for statement in _MAKE_LATEST:
            self._engine.command(statement, {})

    def begin_restore(self) -> None:
        """Mark that what is in the tables from now on comes from a restore that has not ended yet.

        On every server of a cluster, so that it does not matter through which of them the restore is made again.
        """
        self._engine.command(f"CREATE TABLE IF NOT EXISTS {_RESTORING} (begun UInt8) ENGINE = Log", {})

    def is_being_restored(self) -> bool:
        return self._engine.lines(f"EXISTS TABLE {_RESTORING}", {}) == [["1"]]

    def end_restore(self) -> None:
        self._engine.command(f"DROP TABLE IF EXISTS {_RESTORING}", {})

    def clear(self) -> None:
        """Remove all rows. Only of what a restore has begun to put there."""
        for name in (*(table.name for table in self.tables()), "latest"):
            self._engine.remove(f"ALTER TABLE {name} DELETE WHERE true", {})


_OF_SOME = "metric_id IN {ids:Array(UInt32)}"

# Of quarters too: all that was received last may be folded by now.
_RECEIVED_UNTIL = """
SELECT toUnixTimestamp64Milli(max(last))
FROM (SELECT max(received_at) AS last FROM readings UNION ALL SELECT max(received_until) AS last FROM quarters)
"""

# With a row of no metric, which says that the table is complete until then.
_MAKE_LATEST = (
    """
    INSERT INTO latest
    SELECT metric_id, max(newest) AS newest
    FROM (
        SELECT metric_id, max((ts, received_at, value)) AS newest FROM readings GROUP BY metric_id
        UNION ALL
        SELECT metric_id, max((last_ts, received_until, last)) AS newest
        FROM quarters FINAL
        WHERE count > 0
        GROUP BY metric_id
    )
    GROUP BY metric_id
    """,
    """
    INSERT INTO latest
    SELECT 0, (max(received_at) AS last, last, 0.) FROM readings HAVING count() > 0
    """,
)


def _received(table: Table) -> str:
    received = table.kept.received
    return f"{received} <= fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')" if received else "{until:Int64} > 0"


def _last_of_each(block: Block, time: str) -> np.ndarray:
    """Which rows are the last of their metric and time."""
    metric_ids, times = block["metric_id"], block[time]
    is_last = np.ones(len(times), bool)
    is_last[:-1] = (metric_ids[1:] != metric_ids[:-1]) | (times[1:] != times[:-1])
    return is_last


def _factor(place: int) -> int:
    """An odd number of 64 bits for a column, so that the same in another column is something else."""
    return (0xBF58476D1CE4E5B9 * (2 * place + 3)) % (1 << 64) | 1


def _bits(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "f":
        return column.view(f"<u{column.dtype.itemsize}").astype(np.uint64)
    return column.astype(np.int64).view(np.uint64) if column.dtype.kind == "i" else column.astype(np.uint64)
