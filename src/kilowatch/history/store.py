"""Reads and writes readings in ClickHouse: embedded (chDB) or a server, the same statements for both."""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
import numpy as np
import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DatabaseError,
    OperationalError,
    ProgrammingError,
)

from kilowatch.errors import Invalid, Unavailable
from kilowatch.history import replacing, statements
from kilowatch.history.appender import Appender
from kilowatch.history.chunks import read_in_chunks
from kilowatch.history.migrations import MIGRATIONS, SCHEMA_TABLE
from kilowatch.history.model import Batch, MetricIds, Points, Replaced, Rows, Stored
from kilowatch.history.native import decode, encode
from kilowatch.history.newest import NEWEST_DTYPE, Newest, complete_until, in_order, last_of_each
from kilowatch.history.recent import Recent
from kilowatch.history.spans import Spans
from kilowatch.kit.memory import leave
from kilowatch.kit.timespan import Window, from_ms

log = structlog.get_logger("kilowatch.history")

_DAY_MS = 86_400_000
_LOOK_FURTHER_MS = (_DAY_MS, 32 * _DAY_MS, 300 * 366 * _DAY_MS)
_MAX_IDS = 20_000
_POINTS_AT_ONCE = 5_000  # as text in a parameter, of which a server takes 128 KB
# One upload may bring many years; the engine's default refuses more than 100 months at once. The appender has merged
# what is the same already.
_INSERT_SETTINGS = {"max_partitions_per_insert_block": 0, "optimize_on_insert": 0}
_NEWEST_EVERY_S = 30
_LATE_AT_MOST = 1_000  # readings that are looked for one by one in memory
_MEMORY_BYTES = 256 * 1024 * 1024
_READING_COLUMNS = ("metric_id", "ts", "value", "received_at")
_LATEST_COLUMNS = ("metric_id", "newest")
_READ_BACK_AT_ONCE = 1_000_000
# What passes by itself, or once an operator has looked: too many queries, memory, disk space, parts; a disk that can't
# be read or written; time-outs; the network; aborted or cancelled; the cluster's keeper.
_PASSING = re.compile(r"Code: (202|241|243|252|74|75|76|159|209|210|236|394|999)\b")
_POINT_COLUMNS = (np.dtype("<u4"), np.dtype("<i8"), np.dtype("<f8"))  # metric_id, ts, value
_CONNECTION_WAIT_S = 30
_CLOSE_WAIT_S = 5
_DATABASE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,60}$")


class EngineInUse(Unavailable):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"Another process has the embedded history at {path} open, and only one can. Stop it (is `kilowatch serve` "
            "running?), or set KILOWATCH_DATA_DIR to another directory, or KILOWATCH_HISTORY_URL to a ClickHouse "
            "server."
        )


class HistoryUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__("The history engine does not answer; try again shortly.", retry_after_s=5)


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
    ) -> None:
        """Open the engine and bring its tables up to date.

        Args:
            url: `chdb:///path[?database=name]` or `clickhouse://user:password@host:8123/database` (`clickhouses://`
                for TLS).
            connections: how many statements may run at once, the writer's not counted.
            sync: write readings through to the disk before `append` returns.
            clock: the time that readings are received.
            memory_bytes: what may be kept in memory of the history that was asked for.
            migrate: change nothing if false; then tables that are not up to date are an error.

        Raises:
            Invalid: the URL can't be used, or the tables are not up to date.
            EngineInUse: another process has the embedded engine's directory open.
            Unavailable: the server does not answer.
        """
        connect = _connector(url, create=migrate)
        self._alone = url.startswith("chdb:")
        self._closed = False
        self._recent = Recent()
        self.spans = Spans(memory_bytes if self._alone else 0)
        self._newest = Newest()
        self._storing = (
            threading.RLock()
        )  # held while readings, and what is the newest of them, are written or taken out
        self._stored_until = self._written_until = 0
        self._written_at = time.monotonic()
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue()
        self._clients: list[Client] = []
        self._correcting = threading.Lock()
        try:
            for _ in range(connections + 1):
                self._clients.append(connect())
            if migrate:
                self._migrate(self._clients[0], sync=sync)
            elif self._missing(self._clients[0]):
                raise Invalid("The history's tables are not up to date; run `kilowatch migrate`.")
            for client in self._clients[1:]:
                self._idle.put(client)
            (last_written,) = self._query(statements.LAST_WRITTEN, {}, np.dtype("<i8"))
            if self._alone:
                self._load_newest()
        except BaseException:
            self._close_clients()
            raise
        self._appender = Appender(
            self._store_rows,
            clock=clock,
            # A clock that was ahead has left readings, and a mark in `latest`, which what comes now must be later than.
            last_received_at=max(int(last_written), self._stored_until),
            when_idle=self._write_newest_sometimes,
            idle_s=_NEWEST_EVERY_S if self._alone else None,
        )

    # ── in ──

    def submit(self, batch: Batch) -> Future[int]:
        """Store readings, together with those of others who write at this moment.

        Of readings of the same metric and time the later in the batch, or the later submitted, wins.

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

    def erase(self, metric_ids: Sequence[int]) -> None:
        """Remove every reading of these metrics from the disk. Done when it returns."""
        self._newest.forget(metric_ids)
        for chunk in _chunks(metric_ids):
            self._command(statements.ERASE, {"ids": list(chunk)})
        self.spans.removed(metric_ids)
        self._recent.clear()
        with self._storing:
            for chunk in _chunks(metric_ids):
                self._command(statements.ERASE_LATEST, {"ids": list(chunk)})

    # ── corrections ──

    def stored_in_window(self, metric_id: int, window: Window) -> Stored:
        """What the window has of a metric, for `erase_window`."""
        parameters = {"ids": [metric_id], "start": window.start_ms, "end": window.end_ms}
        ((readings, received_until),) = self._query(
            statements.STORED_IN_WINDOW, parameters, statements.STORED_DTYPE
        ).tolist()
        return Stored(readings, received_until)

    def erase_window(self, metric_id: int, window: Window, *, received_until: int) -> None:
        """Remove a metric's readings in the window from the disk, those received until then (ms). Done when it returns.

        Latest is the newest reading that is left. If this is cut off half-way it has to be done again, as nothing else
        makes latest right.
        """
        parameters = {
            "ids": [metric_id],
            "start": window.start_ms,
            "end": window.end_ms,
            "received_until": received_until,
        }
        # One at a time: what one finds to be the newest reading may be what another is just removing.
        with self._correcting:
            of_readings, *of_latest = statements.ERASE_WINDOW
            self._command(of_readings, parameters)
            self.spans.removed([metric_id], window.start_ms, window.end_ms)
            self._recent.clear()
            with self._storing:
                for statement in of_latest:
                    self._command(statement, parameters)
                if self._alone:
                    left = self._query(statements.NEWEST_STORED, {"ids": [metric_id]}, NEWEST_DTYPE)
                    self._newest.replace(metric_id, left)

    def replaced(self, batch: Batch) -> dict[int, Replaced]:
        """How many stored readings would get another value by this batch, by metric; those that would not are missing.

        Only what is not newer than a metric's latest reading is looked for.
        """
        at_latest, before_latest = replacing.not_newer(batch, self.latest)
        found = [at_latest]
        if self._alone and 0 < len(before_latest) <= _LATE_AT_MOST:
            is_known, values = self._recent.values_at(before_latest["metric_id"], before_latest["ts"])
            differs = is_known & ~np.isnan(values) & (values != before_latest["value"])
            found.append(before_latest[differs])
            before_latest = before_latest[~is_known]
        for rows in replacing.spans(before_latest):
            window = Window(from_ms(int(rows["ts"].min())), from_ms(int(rows["ts"].max()) + 1))
            stored_parts = self._read_points(rows) if self._is_sparse(rows, window) else self._read_back(rows, window)
            found += [replacing.differing(rows, stored) for stored in stored_parts]
        return replacing.by_metric(np.concatenate(found))

    def _is_sparse(self, rows: np.ndarray, window: Window) -> bool:
        """Whether the rows' metrics have so much in the window that it is quicker to look for the rows alone."""
        counts = (
            sum(self.count_in_window(chunk, window).values())
            for chunk in _chunks(np.unique(rows["metric_id"]).tolist())
        )
        return sum(counts) > 10 * len(rows) + _READ_BACK_AT_ONCE // 10

    def _read_points(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """What is stored at the rows' times, some of the rows at a time."""
        for begin in range(0, len(rows), _POINTS_AT_ONCE):
            part = rows[begin : begin + _POINTS_AT_ONCE]
            parameters = {"ids": part["metric_id"].tolist(), "times": part["ts"].tolist()}
            yield self._query(statements.READINGS_AT, parameters, statements.POINT_DTYPE)

    def _read_back(self, rows: np.ndarray, window: Window) -> Iterator[np.ndarray]:
        """What the rows' metrics have in the window, a million readings at most at a time."""
        for chunk in read_in_chunks(self, np.unique(rows["metric_id"]).tolist(), window):
            stored = np.empty(sum(map(len, chunk)), statements.POINT_DTYPE)
            begin = 0
            for points in chunk:
                part = stored[begin : begin + len(points)]
                part["metric_id"], part["ts"], part["value"] = points.metric_id, points.timestamps, points.values
                begin += len(points)
            yield stored

    # ── out ──

    def count(self, metric_ids: Sequence[int]) -> int:
        """How many readings these metrics have, the replaced ones not counted."""
        counts = (
            self._query(statements.COUNT, {"ids": list(chunk)}, np.dtype("<u8"))[0] for chunk in _chunks(metric_ids)
        )
        return int(sum(counts))

    def latest(self, metric_ids: MetricIds) -> np.ndarray:
        """The newest reading of each metric, in their order: `NEWEST_DTYPE` rows, `ts` -1 for one with none.

        The time it takes does not depend on the history's length.
        """
        if self._alone:
            return self._newest.of(metric_ids)
        chunks = _chunks(sorted(set(metric_ids.tolist())))
        found = [self._query(statements.NEWEST_OF, {"ids": list(chunk)}, NEWEST_DTYPE) for chunk in chunks]
        return in_order(np.concatenate(found), metric_ids) if found else self._newest.of(metric_ids)

    def count_in_window(self, metric_ids: Sequence[int], window: Window) -> dict[int, int]:
        """About how many readings each metric has there (replaced ones are counted until they are merged away)."""
        parameters = {"ids": list(metric_ids), "start": window.start_ms, "end": window.end_ms}
        return dict(self._query(statements.COUNT_IN_WINDOW, parameters, statements.COUNT_DTYPE).tolist())

    def readings(self, metric_ids: Sequence[int], window: Window) -> np.ndarray:
        """Readings in the window, by (metric, time): `POINT_DTYPE` rows."""
        parameters = {"ids": list(metric_ids), "start": window.start_ms, "end": window.end_ms}
        return self._query(statements.READINGS, parameters, statements.POINT_DTYPE)

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        """A number that these metrics' readings in the window do not exceed: some thousands too many a month."""
        parameters = {"ids": list(metric_ids), "start": window.start_ms, "end": window.end_ms}
        with self._client() as client:
            answer = client.raw_query(statements.ESTIMATE, parameters=parameters, fmt="TSV")
        return sum(int(line.split(b"\t")[3]) for line in answer.splitlines())

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
        columns = self._columns(plain, parameters | {"limit": limit + 1}, dtypes)
        same = columns[-2][1:] == columns[-2][:-1]
        if len(dtypes) > 2 and same.any():
            same &= columns[0][1:] == columns[0][:-1]
        if same.any():
            return self._columns(final, parameters | {"limit": limit}, dtypes)
        return [column[:limit] for column in columns]

    def usual_intervals_ms(self, metric_ids: Sequence[int], window: Window) -> dict[int, int]:
        """The median time between readings, for each metric that has three at least in the window."""
        parameters = {"start": window.start_ms, "end": window.end_ms}
        found = {}
        for chunk in _chunks(metric_ids):
            rows = self._query(statements.USUAL_INTERVALS, parameters | {"ids": list(chunk)}, statements.USUAL_DTYPE)
            found.update(rows.tolist())
        return found

    def last_before(self, reach_ms: Mapping[int, int | None], instant: int) -> np.ndarray:
        """The last reading of each metric before an instant, less than its reach (`None`: any time) before it.

        Looked for in the day before, then further back for those that had none, so that long histories cost nothing.

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
            near = [row["ts"] >= earliest[int(row["metric_id"])] for row in rows]
            found.append(rows[np.array(near, bool)])
            answered = set(rows["metric_id"].tolist())
            earliest = {m: first for m, first in earliest.items() if m not in answered and first < begin}
            until = begin
        return np.sort(np.concatenate(found), order="metric_id")

    def first_from(self, metric_ids: Sequence[int], instant: int) -> np.ndarray:
        """The first reading of each metric at or after an instant: `POINT_DTYPE` rows by metric."""
        found = [np.empty(0, statements.POINT_DTYPE)]
        missing, begin = set(metric_ids), instant
        for distance in _LOOK_FURTHER_MS:
            if not missing:
                break
            end = instant + distance
            rows = self._near(statements.FIRST_FROM, missing, begin, end)
            found.append(rows)
            missing -= set(rows["metric_id"].tolist())
            begin = end
        return np.sort(np.concatenate(found), order="metric_id")

    def _near(self, statement: str, metric_ids: Iterable[int], begin: int, end: int) -> np.ndarray:
        parameters = {"ids": sorted(metric_ids), "start": begin, "end": end}
        return self._query(statement, parameters, statements.POINT_DTYPE)

    def check(self) -> None:
        """Raises `Unavailable` if the engine does not answer."""
        self._query("SELECT toUInt64(1)", {}, np.dtype("<u8"))

    def version(self) -> str:
        return self._clients[0].server_version or "of an unknown version"

    def close(self) -> None:
        """Finish what is being written, wait a while for what is being read, then close the engine."""
        if self._closed:
            return
        self._closed = True
        self._appender.close()
        if self._alone:
            self._write_newest()
        with suppress(queue.Empty):
            for _ in self._clients[1:]:
                self._idle.get(timeout=_CLOSE_WAIT_S)
        self._close_clients()

    # ── the engine ──

    def _store_rows(self, rows: Rows) -> None:
        """One insert by the appender's thread, on the client that is its own."""
        with self._storing:
            self._insert("readings", _READING_COLUMNS, encode(rows), "Native")
            self.spans.stored(rows)
            found = last_of_each(rows)
            if self._alone:
                self._recent.stored(rows)
                self._newest.put(found)
                self._stored_until = rows.received_at
            else:
                self._insert_latest(found)

    def _insert(self, table: str, columns: Sequence[str], body: bytes, form: str) -> None:
        with _translated():
            self._clients[0].raw_insert(table, columns, body, fmt=form)

    # ── the newest readings ──
    #
    # Where this process alone has the engine they are kept in memory, and written to the table `latest` now and then,
    # with the moment until when it is complete, so that a start looks at what came later only. Where others
    # write too, the table is the truth, and written after each insert.

    def _load_newest(self) -> None:
        self._newest.put(self._query(statements.NEWEST, {}, NEWEST_DTYPE))
        self._newest.take_changes()
        self._written_until = self._complete_until()
        self._newest.put(self._query(statements.NEWEST_SINCE, {"since": self._written_until}, NEWEST_DTYPE))
        self._stored_until = self._complete_until()
        self._recent.settle(self._newest.all())

    def _complete_until(self) -> int:
        (mark,) = self._newest.of(np.zeros(1, np.uint32))
        return int(mark["received_at"])

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
        self._insert("latest", _LATEST_COLUMNS, rows.tobytes(), "RowBinary")

    def _query(self, sql: str, parameters: Mapping[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
        with self._client() as client:
            return np.frombuffer(client.raw_query(sql, parameters=dict(parameters), fmt="RowBinary"), dtype)

    def _columns(self, sql: str, parameters: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]) -> list[np.ndarray]:
        with self._client() as client:
            answer = client.raw_query(sql, parameters=dict(parameters), fmt="Native")
        return decode(answer, dtypes)

    def _command(self, sql: str, parameters: Mapping[str, Any]) -> None:
        with self._client() as client:
            client.command(sql, parameters=dict(parameters))

    @contextmanager
    def _client(self) -> Iterator[Client]:
        leave()
        try:
            client = self._idle.get(timeout=_CONNECTION_WAIT_S)
        except queue.Empty as error:
            raise HistoryUnavailable from error
        try:
            with _translated():
                yield client
        finally:
            self._idle.put(client)

    def _missing(self, client: Client) -> list[tuple[int, str, tuple[str, ...]]]:
        """The migrations that were not run yet."""
        with _translated():
            if not client.command("EXISTS TABLE schema_migrations"):
                return list(MIGRATIONS)
            done = {row[0] for row in client.query("SELECT version FROM schema_migrations FINAL").result_rows}
            return [step for step in MIGRATIONS if step[0] not in done]

    def _migrate(self, client: Client, *, sync: bool) -> None:
        with _translated():
            client.command(SCHEMA_TABLE)
            for version, brings, steps in self._missing(client):
                log.info("history migration", version=version, brings=brings)
                for step in steps:
                    client.command(step.format(sync=int(sync)))
                client.command("INSERT INTO schema_migrations (version) VALUES ({v:UInt32})", {"v": version})
            for table in ("readings", "latest"):
                client.command(
                    f"ALTER TABLE {table} MODIFY SETTING fsync_after_insert = {int(sync)}, "
                    f"fsync_part_directory = {int(sync)}"
                )

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise HistoryUnavailable from error
    except DatabaseError as error:
        if _PASSING.search(str(error)):
            raise HistoryUnavailable from error
        raise
    except ProgrammingError as error:
        if "closed" in str(error):  # while the server shuts down
            raise HistoryUnavailable from error
        raise


def _connector(url: str, *, create: bool) -> Callable[[], Client]:
    """How to open one connection, making what is not there yet. Raises `Invalid` naming KILOWATCH_HISTORY_URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise Invalid("KILOWATCH_HISTORY_URL: the port is no number.") from error
    options = parse_qs(parts.query)
    if parts.scheme == "chdb" and not parts.netloc and parts.path not in ("", "/"):
        path, database = unquote(parts.path), options.get("database", ["kilowatch"])[0]
        _check_database_name(database)
        return lambda: _open_embedded(path, database, create=create)
    if parts.scheme in ("clickhouse", "clickhouses") and parts.hostname:
        database = unquote(parts.path.strip("/")) or "kilowatch"
        _check_database_name(database)
        secure = parts.scheme == "clickhouses"
        return lambda: _open_server(
            host=parts.hostname or "",
            port=port or (8443 if secure else 8123),
            secure=secure,
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database,
            create=create,
        )
    raise Invalid(
        "KILOWATCH_HISTORY_URL must be `chdb:///absolute/path` or `clickhouse://user:password@host:8123/database` "
        "(`clickhouses://` for TLS)."
    )


def _check_database_name(name: str) -> None:
    if not _DATABASE_NAME.match(name):
        raise Invalid(f"KILOWATCH_HISTORY_URL: {name!r} can't be a database's name; use letters, digits and `_`.")


def _open_embedded(path: str, database: str, *, create: bool) -> Client:
    if not create and not (Path(path) / "metadata").exists():
        raise Invalid(f"There is no history at {path} yet; run `kilowatch migrate`.")
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"KILOWATCH_HISTORY_URL: the directory {path} can't be made: {error.strerror}.") from error
    try:
        if create:
            client = clickhouse_connect.get_client(interface="chdb", path=path)
            client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
            client.close()
        client = clickhouse_connect.get_client(interface="chdb", path=path, database=database)
        # Once for the connection: given with each insert, they would be statements of their own before and after it.
        client.command("SET " + ", ".join(f"{name} = {value}" for name, value in _INSERT_SETTINGS.items()))
        return client
    except ClickHouseError as error:
        if "already initialized with path" in str(error):
            raise Invalid(
                f"KILOWATCH_HISTORY_URL: {path} can't be opened, as this process has another directory's embedded "
                "history open; it can have several databases in one (`?database=name`)."
            ) from error
        if "Cannot lock file" in str(error) or "EmbeddedServer" in str(error):
            raise EngineInUse(path) from error
        raise Unavailable(f"The embedded history at {path} can't be opened: {error}") from error


def _open_server(*, database: str, create: bool, **connection: Any) -> Client:
    connection |= {"autogenerate_session_id": False, "connect_timeout": 5, "send_receive_timeout": 60}
    with _translated():
        if create:
            client = clickhouse_connect.get_client(**connection, database="default")
            client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
            client.close()
        return clickhouse_connect.get_client(
            **connection,
            database=database,
            settings=_INSERT_SETTINGS,
            # Long lists of ids and edges do not fit a URL.
            form_encode_query_params=True,
        )


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[begin : begin + _MAX_IDS] for begin in range(0, len(ids), _MAX_IDS))
