"""ClickHouse, embedded (chDB) or a server: how it is reached, and what its errors mean here."""

import math
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

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
from opentelemetry.trace import SpanKind

from kilowatch.errors import Invalid, Unavailable, said
from kilowatch.history import cluster, statements
from kilowatch.history.cluster import Cluster
from kilowatch.history.migrations import MIGRATIONS, SCHEMA_TABLE, Step
from kilowatch.history.native import decode
from kilowatch.kit import handling, metrics
from kilowatch.kit.breaker import Breaker
from kilowatch.kit.memory import leave
from kilowatch.kit.stdin import keep_standard_input
from kilowatch.kit.traces import span

log = structlog.get_logger("kilowatch.history")

_SETTINGS = {
    # One upload may bring many years; the engine's default refuses more than 100 months at once.
    "max_partitions_per_insert_block": 0,
    "optimize_on_insert": 0,  # the appender has merged what is the same already
    # Safe, since a row's time is part of its key and decides its partition: equal keys never lie in two of them.
    "do_not_merge_across_partitions_select_final": 1,
}
# What passes by itself, or once an operator has looked: too many queries, memory, disk space, parts; a disk that can't
# be read or written; time-outs; the network; aborted or cancelled; the cluster's keeper; deletions that wait.
_PASSING = re.compile(r"Code: (202|225|241|242|243|252|279|285|319|74|75|76|159|209|210|236|394|692|999)\b")
# An unknown user, a wrong or missing password.
_REFUSED = re.compile(r"\b[Cc]ode: (192|193|194|516)\b")
_CONNECTION_WAIT_S = 10
_ANSWER_WITHIN_S = 30
"""Of a server. Of a question that takes longer it says before then how far it is."""

_REMOVED_WITHIN_S = 25
"""What somebody waits for to be removed; nginx waits for 75 s."""

_LOOK_AFTER_S, _LOOK_AGAIN_S = 0.005, 0.5

_CLOSE_WAIT_S = 5
_MAX_IDS = 10_000
"""As text in a parameter, of which a server takes 128 KB."""

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
        super().__init__(said("The history engine does not answer; try again shortly."), retry_after_s=5)


class NotRemovedYet(Unavailable):
    def __init__(self) -> None:
        super().__init__(
            said(
                "What is to be deleted is not gone yet: the history engine goes on with it. Send the same deletion "
                "again in a minute."
            ),
            retry_after_s=60,
        )


def patience() -> float:
    """Until when, by the monotonic clock, somebody who waits for a deletion that begins now is let wait."""
    return time.monotonic() + _REMOVED_WITHIN_S


def _away() -> HistoryUnavailable:
    metrics.UNAVAILABLE.labels("history").inc()
    return HistoryUnavailable()


class Engine:
    """Connections to ClickHouse, one of them for inserts alone. Safe to use from any thread, but for `insert`."""

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        sync: bool,
        migrate: bool = True,
        migrations: Sequence[Step] = MIGRATIONS,
    ) -> None:
        """Open the engine and bring its tables up to date.

        Args:
            url: `chdb:///path[?database=name]` or `clickhouse://user:password@host:8123/database[?cluster=name]`
                (`clickhouses://` for TLS).
            connections: how many statements may run at once, inserts not counted.
            sync: write what is inserted through to the disk.
            migrate: change nothing if false; then tables that are not up to date are an error.

        Raises:
            Invalid: the URL can't be used, or the tables are not up to date, are newer than `migrations`, or can't be
                brought up to date.
            EngineInUse: another process has the embedded engine's directory open.
            Unavailable: the server does not answer.
        """
        self._connect = _connector(url)
        self.cluster = _cluster(url)
        """The cluster that the tables are spread over; `None` where one server has them."""
        self.is_embedded = url.startswith("chdb:")
        """Nobody but this process has it then."""
        self._migrations = migrations
        self._breaker = Breaker(OperationalError, refusal=_away)
        self._clients: list[Client] = []
        self._connections = connections
        self._opening = threading.Lock()
        self._idle: queue.LifoQueue[Client | None] = queue.LifoQueue()
        """`None` for one that nobody has needed yet: to open one takes longer than most statements."""
        for _ in range(connections):
            self._idle.put(None)
        try:
            with _translated():
                self._clients.append(self._connect(create=migrate))
            if migrate:
                self._migrate(self._clients[0], sync=sync)
            elif self._missing(self._clients[0]):
                raise Invalid("The history's tables are not up to date; run `kilowatch migrate`.")
        except BaseException:
            self._close_clients()
            raise

    def query(self, sql: str, parameters: Mapping[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
        """The rows of an answer, whose columns have a fixed width, as one array."""
        with _Statement(sql) as statement:
            rows = np.frombuffer(self._raw(sql, parameters, "RowBinary"), dtype)
            statement.gives(len(rows))
            return rows

    def columns(self, sql: str, parameters: Mapping[str, Any], dtypes: Sequence[np.dtype[Any]]) -> list[np.ndarray]:
        """The columns of an answer, as they lie in the engine."""
        with _Statement(sql) as statement:
            columns = decode(self._raw(sql, parameters, "Native"), dtypes)
            statement.gives(len(columns[0]))
            return columns

    def lines(self, sql: str, parameters: Mapping[str, Any]) -> list[list[str]]:
        """The fields of an answer's lines as texts."""
        with _Statement(sql) as statement:
            lines = self._raw(sql, parameters, "TSV").decode().splitlines()
            statement.gives(len(lines))
            return [line.split("\t") for line in lines]

    def _raw(self, sql: str, parameters: Mapping[str, Any], form: str) -> bytes:
        if self.cluster is not None:
            sql = self.cluster.asking(sql)
        with self._client() as client:
            return client.raw_query(sql, parameters=dict(parameters), fmt=form)

    def command(self, sql: str, parameters: Mapping[str, Any]) -> None:
        changing = sql if self.cluster is None else self.cluster.changing(sql)
        with _Statement(sql), self._client() as client:
            client.command(changing, parameters=dict(parameters))

    def remove(
        self,
        sql: str,
        parameters: Mapping[str, Any],
        *,
        deadline: float = math.inf,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Carry out an `ALTER TABLE … DELETE WHERE …`, whose parts all parts of a table may have to be written anew.

        Done on every server that is there when it returns, unless it is to stop. The engine goes on with what was begun
        whether anybody waits or not, also after a start; what is removed twice is gone as well.

        Args:
            deadline: by the monotonic clock.
            stop: whether nobody waits any more.

        Raises:
            NotRemovedYet: the deadline has passed, or the engine fails at it and tries again.
            Unavailable: the engine does not answer.
        """
        mark = uuid.uuid4().hex
        changing = sql + statements.MARKED
        if self.cluster is not None:
            changing = self.cluster.changing(changing)
        with _Statement(sql):
            with self._client() as client:
                client.command(changing, parameters={**parameters, "mark": mark})
            # A server of its own has it listed when it answers; those of a cluster may take a while.
            pause, seen = _LOOK_AFTER_S, 1 if self.cluster is None else 0
            while True:
                servers, begun, done = self._progress(mark)
                if servers <= begun == done or stop():
                    return
                if time.monotonic() > deadline or begun < seen:  # fewer: somebody has killed it
                    raise NotRemovedYet
                seen = begun
                time.sleep(pause)
                pause = min(2 * pause, _LOOK_AGAIN_S)

    def _progress(self, mark: str) -> tuple[int, int, int]:
        """How many servers there are, have begun a removal, and are done with it."""
        answer = self._raw(statements.PROGRESS, {"mark": mark}, "TSVRaw").decode()
        servers, begun, done, problem = answer.rstrip("\n").split("\t", 3)
        if problem:
            log.error("the history engine fails at a deletion, and tries again", reason=problem)
            raise NotRemovedYet
        return int(servers), int(begun), int(done)

    def insert(self, table: str, columns: Sequence[str], body: bytes, form: str) -> None:
        """One block in one of the engine's formats. Only one thread at a time may insert."""
        with _translated(), self._breaker.attempt():
            self._clients[0].raw_insert(table, columns, body, fmt=form)

    def connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many there are; that for inserts not counted."""
        return self._connections - self._idle.qsize(), self._connections

    def insert_apart(self, table: str, columns: Sequence[str], body: bytes, form: str) -> None:
        """As `insert`, by any thread, beside what that one inserts."""
        with self._client() as client:
            client.raw_insert(table, columns, body, fmt=form)

    def version(self) -> str:
        return self._clients[0].server_version or "of an unknown version"

    def close(self) -> None:
        """Wait a while for what is being read, then close the connections."""
        with suppress(queue.Empty):
            for _ in range(self._connections):
                self._idle.get(timeout=_CLOSE_WAIT_S)
        self._close_clients()

    @contextmanager
    def _client(self) -> Iterator[Client]:
        leave()
        self._breaker.check()
        try:
            client = self._idle.get(timeout=_CONNECTION_WAIT_S)
        except queue.Empty as error:
            raise _away() from error
        try:
            with _translated(), self._breaker.attempt():
                client = client or self._opened()
                yield client
        finally:
            self._idle.put(client)

    def _opened(self) -> Client:
        with self._opening:
            client = self._connect(create=False)
            self._clients.append(client)
            return client

    def _missing(self, client: Client) -> list[Step]:
        """The migrations that were not run yet. Raises `Invalid` if some were that are not known here."""
        with _translated():
            if not client.command("EXISTS TABLE schema_migrations"):
                return list(self._migrations)
            done = {row[0] for row in client.query("SELECT version FROM schema_migrations FINAL").result_rows}
        newest = max((version for version, *_ in self._migrations), default=0)
        if done and max(done) > newest:
            raise Invalid(
                f"The history's tables are at version {max(done)}, which this Kilowatch does not know (its newest is "
                f"{newest}): a later one has migrated them. Install that version or a later one, or restore the backup "
                "that was made before. Processes that run already may go on."
            )
        return [step for step in self._migrations if step[0] not in done]

    def _migrate(self, client: Client, *, sync: bool) -> None:
        with _translated():
            is_there = client.command("EXISTS TABLE schema_migrations")
            if not is_there:
                self._make(client, SCHEMA_TABLE)
        missing = self._missing(client)
        for step in missing:
            self._migrate_by(client, step, sync=sync)
        if self.cluster is not None and not missing:
            return  # a server of it may be away, and all of them would have to answer
        with _translated():
            for table in ("readings", "latest", "quarters", "days"):
                self._make(
                    client,
                    f"ALTER TABLE {table} MODIFY SETTING fsync_after_insert = {int(sync)}, "
                    f"fsync_part_directory = {int(sync)}",
                )

    def _migrate_by(self, client: Client, step: Step, *, sync: bool) -> None:
        version, brings, parts = step
        log.info("history migration", version=version, brings=brings)
        try:
            with _translated():
                for statement in parts:
                    self._make(client, statement.format(sync=int(sync)))
                client.command("INSERT INTO schema_migrations (version) VALUES ({v:UInt32})", {"v": version})
        except ClickHouseError as error:
            raise Invalid(
                f"The history's tables can't be brought to version {version} ({brings}): {error} What was done of it "
                "stays, and does no harm to the version of Kilowatch that ran before. Remove the cause, then start "
                "again or run `kilowatch migrate`: it goes on from there."
            ) from error

    def _make(self, client: Client, statement: str) -> None:
        for part in (statement,) if self.cluster is None else self.cluster.creating(statement):
            client.command(part)

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()


class _Statement:
    """What is counted, timed and traced of a statement, which the block runs."""

    def __init__(self, sql: str) -> None:
        self._kind = statements.kind_of(sql)

    def __enter__(self) -> "_Statement":
        leave()  # before it counts: it is made again by a thread that may wait
        self._began = time.perf_counter()
        self._opening = span("history statement", kind=SpanKind.CLIENT, statement=self._kind)
        self._span = self._opening.__enter__()
        return self

    def gives(self, rows: int) -> None:
        self._span.set_attribute("db.response.returned_rows", rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.__exit__(kind, error, trace)
        seconds = time.perf_counter() - self._began
        handling.took("history", seconds)
        metrics.STATEMENTS.labels(self._kind, "ok" if error is None else "failed").inc()
        metrics.STATEMENT_DURATION.labels(self._kind).observe(seconds)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise _away() from error
    except DatabaseError as error:
        if _PASSING.search(str(error)):
            raise _away() from error
        if _REFUSED.search(str(error)):
            raise Invalid("KILOWATCH_HISTORY_URL: the server refuses this user or password.") from error
        raise
    except ProgrammingError as error:
        if "closed" in str(error):  # while the server shuts down
            raise _away() from error
        raise


class _Connect(Protocol):
    def __call__(self, *, create: bool) -> Client:
        """Open one connection; make the database first if `create`."""


def _connector(url: str) -> _Connect:
    """How to open a connection. Raises `Invalid` naming KILOWATCH_HISTORY_URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise Invalid("KILOWATCH_HISTORY_URL: the port is no number.") from error
    options = parse_qs(parts.query)
    if parts.scheme == "chdb" and not parts.netloc and parts.path not in ("", "/"):
        path, database = unquote(parts.path), options.get("database", ["kilowatch"])[0]
        _check_database_name(database)
        return partial(_open_embedded, path, database)
    if parts.scheme in ("clickhouse", "clickhouses") and parts.hostname:
        database = _database_of(parts)
        spread = _cluster(url)
        secure = parts.scheme == "clickhouses"
        return partial(
            _open_server,
            host=parts.hostname or "",
            port=port or (8443 if secure else 8123),
            secure=secure,
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=database,
            spread=spread,
        )
    raise Invalid(
        "KILOWATCH_HISTORY_URL must be `chdb:///absolute/path` or `clickhouse://user:password@host:8123/database` "
        "(`clickhouses://` for TLS)."
    )


def _cluster(url: str) -> Cluster | None:
    """The cluster that a URL names. Raises `Invalid`."""
    parts = urlsplit(url)
    named = parse_qs(parts.query, keep_blank_values=True).get("cluster")
    if named is None or parts.scheme == "chdb":
        return None
    return Cluster(named[0], _database_of(parts))


def _database_of(parts: SplitResult) -> str:
    database = unquote(parts.path.strip("/")) or "kilowatch"
    _check_database_name(database)
    return database


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
    keep_standard_input()
    try:
        client = clickhouse_connect.get_client(interface="chdb", path=path)
        if create:
            client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        client.database = database
        # Once for the connection: given with each insert, they would be statements of their own before and after it.
        client.command("SET " + ", ".join(f"{name} = {value}" for name, value in _SETTINGS.items()))
        return client
    except ImportError as error:
        raise Invalid(
            "The embedded history (chDB) is not part of this installation; set KILOWATCH_HISTORY_URL to a ClickHouse "
            "server, or install the package chdb-core-lite."
        ) from error
    except ClickHouseError as error:
        if "already initialized with path" in str(error):
            raise Invalid(
                f"KILOWATCH_HISTORY_URL: {path} can't be opened, as this process has another directory's embedded "
                "history open; it can have several databases in one (`?database=name`)."
            ) from error
        if "Cannot lock file" in str(error) or "EmbeddedServer" in str(error):
            raise EngineInUse(path) from error
        raise Unavailable(f"The embedded history at {path} can't be opened: {error}") from error


def _open_server(*, database: str, spread: Cluster | None, create: bool, **connection: Any) -> Client:
    connection |= {"autogenerate_session_id": False, "connect_timeout": 5, "send_receive_timeout": _ANSWER_WITHIN_S}
    if create:
        client = clickhouse_connect.get_client(**connection, database="default")
        if not client.command(f"EXISTS DATABASE {database}"):
            client.command(f"CREATE DATABASE IF NOT EXISTS {database} {spread.everywhere if spread else ''}")
        client.close()
    return clickhouse_connect.get_client(
        **connection,
        database=database,
        settings=_SETTINGS if spread is None else _SETTINGS | cluster.SETTINGS,
        # Long lists of ids and edges do not fit a URL.
        form_encode_query_params=True,
    )


def in_chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of at most as many as one statement's parameter may list."""
    return (ids[begin : begin + _MAX_IDS] for begin in range(0, len(ids), _MAX_IDS))
