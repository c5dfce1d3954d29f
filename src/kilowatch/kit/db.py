"""The catalogue's database: one engine, and one unit of work for each request.

A write commits when its `with` block ends, which is before the response is made: a failed commit is an error that the
caller sees, never a 201 that was not stored.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Executable,
    MetaData,
    NullPool,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from kilowatch.errors import Conflict, Invalid, Unavailable, said
from kilowatch.kit import metrics
from kilowatch.kit.handling import spent
from kilowatch.kit.memory import leave
from kilowatch.kit.postgres import KEPT, postgres_engine
from kilowatch.kit.state import PostgresState, Stamp
from kilowatch.kit.traces import StatementSpans, span

log = structlog.get_logger("kilowatch.db")

SQLITE_BUSY_TIMEOUT_MS = 5_000
_ALONE_WITHIN_S = 15
"""As long as PostgreSQL lets a statement of ours wait for somebody's lock."""

MIGRATION_TIMEOUT_MS = 120_000
_READ_ONLY = "25006"
"""PostgreSQL's word for a server that only follows another, as after a change of roles."""

_CANCELLED = "57014"
"""Its word for a statement that took too long."""

T = TypeVar("T")


class Base(DeclarativeBase):
    """Base of every table. Names of constraints are fixed, so that migrations can refer to them on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Instant(TypeDecorator[datetime]):
    """A point in time: aware on both sides, UTC in the database (SQLite keeps no zone, so it is put back)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time can't be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """Units of work on the catalogue.

    SQLite: readers see a snapshot and never wait; writers take turns behind a lock of ours and begin with `BEGIN
    IMMEDIATE`, so that none fails half-way with "database is locked". PostgreSQL: plain transactions.
    """

    def __init__(self, url: str, *, pool_size: int, replica_url: str | None = None, is_patient: bool = False) -> None:
        """
        Args:
            replica_url: a standby of the same PostgreSQL, which takes reads off it: see `ask_anywhere`.
            is_patient: statements may take as long as they do, as nobody waits for an answer to a request.
        """
        self.url = _parsed(url, "KILOWATCH_DATABASE_URL")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if replica_url is not None:
                raise Invalid(
                    "KILOWATCH_DATABASE_REPLICA_URL: only PostgreSQL has replicas; set KILOWATCH_DATABASE_URL."
                )
            _prepare_folder(self.url)
            self._reader = _sqlite_engine(self.url, begin="BEGIN", pool_size=pool_size)
            self._writer = _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", pool_size=1)
        else:
            self._writer = _postgres_engine(self.url, pool_size=pool_size, is_patient=is_patient)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")
            self._by_statement = self._writer.execution_options(isolation_level="AUTOCOMMIT")
        self._most = {"read": pool_size + 2, "write": 1, "all": pool_size + 2, "replica": pool_size + 2}
        self._version = "SELECT sqlite_version()" if self.is_sqlite else "SHOW server_version"
        self._replica = None if replica_url is None else _Replica(replica_url, pool_size=pool_size)
        self._is_closed = False
        for engine in (self._reader, self._writer):
            event.listen(engine, "checkin", self._close_late)
        for engine in (self._reader, self._writer) if self.is_sqlite else (self._writer,):
            _trace(engine)
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()
        self._alone: dict[str, threading.RLock] = {}
        self._watcher = _Watcher(self.url.database or "") if self.is_sqlite else None
        self._state = None if self.is_sqlite else PostgresState(self.url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; nothing is written."""
        leave()
        with spent("catalogue"), span("catalogue read"), _translated(), self._reader.connect() as connection:
            yield connection

    def ask_anywhere(self, question: Callable[[Connection], T]) -> T:
        """The answer to a question, which may be asked twice: first of the replica, where there is one.

        That answers only if it has all that was committed when this is called. So it answers as the database itself
        would: a right that was taken away before is gone there, too. If it does not answer, or not to the end, the
        database does.
        """
        leave()
        if self._replica is not None and self._replica.is_asked:
            with self.read() as connection:
                position = str(connection.execute(_POSITION).scalar_one())
            with spent("catalogue"), span("catalogue read"):
                answers = self._replica.ask(question, position)
            for answer in answers:
                return answer
        with self.read() as connection:
            return question(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed when the block ends and rolled back when it raises.

        Raises:
            Conflict: a constraint of the database is broken, which only a race with another request can do.
            Unavailable: the database does not answer.
        """
        leave()
        with (
            spent("catalogue"),
            span("catalogue write"),
            _translated(),
            self._turn,
            self._writer.begin() as connection,
        ):
            yield connection

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Nobody else who asks for the same goes on meanwhile, in this process, or in any at the same PostgreSQL.

        Raises:
            Unavailable: others go on for longer than a request may wait; or the database went away, and perhaps the
                turn with it.
        """
        leave()
        with self._turn_at(what) if self.is_sqlite else self._locked(what):
            yield

    @contextmanager
    def _turn_at(self, what: str) -> Iterator[None]:
        lock = self._alone.setdefault(what, threading.RLock())
        if not lock.acquire(timeout=_ALONE_WITHIN_S):
            raise _away(_OTHERS_GO_ON)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        """A lock of a connection's, not of a transaction's: one that stays open while work goes on elsewhere would keep
        the database from tidying up."""
        key = func.hashtextextended(what, 0)
        with _translated(), self._by_statement.connect() as connection:
            try:
                _execute_surely(connection, select(func.pg_advisory_lock(key)))
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) == _CANCELLED:
                    raise _away(_OTHERS_GO_ON) from error
                raise
            try:
                yield
            finally:
                _execute_surely(connection, select(func.pg_advisory_unlock(key)))

    def stamp(self) -> Stamp:
        """Names the state that the database is in: two stamps are equal only if nothing was committed between them.

        That holds for commits of other processes too. It costs 10 µs on SQLite; on PostgreSQL a round trip, shared by
        all who ask at the same time. There turns at storing readings are told apart: see `Stamp`.
        """
        if self._watcher is not None:
            with _translated_driver_errors():
                return Stamp(self._watcher.stamp())
        assert self._state is not None
        leave()
        with spent("catalogue"), span("catalogue read"), _translated():
            return self._state.stamp()

    def check(self) -> None:
        """Raises `Unavailable` if the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def version(self) -> str:
        """The engine's version. Raises `Unavailable` if the database does not answer."""
        with self.read() as connection:
            return str(connection.execute(text(self._version)).scalar_one())

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction for changes of the schema, which waits longer for other processes than requests may."""
        engine = (
            _sqlite_engine(self.url, begin="BEGIN IMMEDIATE", pool_size=1, busy_timeout_ms=MIGRATION_TIMEOUT_MS)
            if self.is_sqlite
            else postgres_engine(self.url, is_patient=True, poolclass=NullPool)
        )
        try:
            with _translated(), engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def connections(self) -> dict[str, tuple[int, int]]:
        """How many connections of each pool are in use, and how many there may be."""
        if self.is_sqlite:
            pools = {"read": self._reader.pool, "write": self._writer.pool}
        else:
            pools = {"all": self._writer.pool}
        if self._replica is not None:
            pools["replica"] = self._replica.engine.pool
        return {name: (pool.checkedout(), self._most[name]) for name, pool in pools.items()}  # type: ignore[attr-defined]  # all are queues

    def listening_engine(self) -> Engine:
        """For a connection that stays open and begins no transactions (PostgreSQL only). Its user disposes of it."""
        return postgres_engine(
            self.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": "kilowatch, listening"},
        )

    def close(self) -> None:
        """Close what is not in use at once, and the rest when it is given back."""
        self._is_closed = True
        if self._watcher is not None:
            self._watcher.close()
        if self._state is not None:
            self._state.close()
        self._reader.dispose()
        self._writer.dispose()
        if self._replica is not None:
            self._replica.close()

    def _close_late(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """The pool that a connection came from is gone by then, and would leave it open."""
        if self._is_closed:
            record.invalidate()


# What was acknowledged as committed lies before it.
_POSITION = text(
    "SELECT CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn() "
    "ELSE pg_current_wal_flush_lsn() END"
)
_REPLAYED = text("SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= CAST(:position AS pg_lsn), false)")
_REPLAYED_WITHIN_S = 0.02
_REPLAYED_LOOK_EVERY_S = 0.002
_REPLICA_LATE_FOR_S = 1.0
_REPLICA_AGAIN_AFTER_S = 10.0


class _Replica:
    """A standby that is asked while it keeps up. Nothing fails because it does not answer."""

    def __init__(self, url: str, *, pool_size: int) -> None:
        setting = "KILOWATCH_DATABASE_REPLICA_URL"
        self.engine = _postgres_engine(_parsed(url, setting), pool_size=pool_size)
        _trace(self.engine)
        self._again_at = 0.0

    @property
    def is_asked(self) -> bool:
        """Whether it is not left alone for a while."""
        return time.monotonic() >= self._again_at

    def ask(self, question: Callable[[Connection], T], position: str) -> tuple[T] | tuple[()]:
        """Its answer, if it has all that lies before a position in the database's log and answers to the end."""
        try:
            with self.engine.connect() as connection:
                # Asked before the transaction that answers begins, as that sees nothing that comes later.
                if not self._has(connection.execution_options(isolation_level="AUTOCOMMIT"), position):
                    return ()
                connection.rollback()
                return (question(connection.execution_options(isolation_level="REPEATABLE READ")),)
        except (DBAPIError, PoolTimeoutError) as error:
            # It is away, or ends; or it takes back what it was asked, as that is in the way of what it follows.
            self._leave_it("it does not answer", error=str(error).partition("\n")[0])
            return ()

    def _has(self, connection: Connection, position: str) -> bool:
        """Whether it has all that lies before the position, or has it in a moment."""
        until = time.monotonic() + _REPLAYED_WITHIN_S
        while True:
            is_replica, has_it = connection.execute(_REPLAYED, {"position": position}).one()
            if has_it or time.monotonic() > until:
                break
            time.sleep(_REPLAYED_LOOK_EVERY_S)
        if not is_replica:
            self._leave_it("it is no replica")
        elif not has_it:
            self._again_at = time.monotonic() + _REPLICA_LATE_FOR_S
        return bool(is_replica and has_it)

    def _leave_it(self, reason: str, **more: str) -> None:
        self._again_at = time.monotonic() + _REPLICA_AGAIN_AFTER_S
        log.warning("the database's replica is not asked for a while", reason=reason, **more)

    def close(self) -> None:
        self.engine.dispose()


class _Watcher:
    """A connection that only asks whether others have committed, which SQLite knows without reading a page."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def stamp(self) -> int:
        with self._lock:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return int(version)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _parsed(url: str, setting: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise Invalid(
            f"{setting} is no URL: `sqlite:///path` or `postgresql+psycopg://user:password@host/name`."
        ) from error


def _postgres_engine(url: URL, *, pool_size: int, is_patient: bool = False) -> Engine:
    kept = min(pool_size, KEPT)
    return postgres_engine(
        url,
        is_patient=is_patient,
        pool_size=kept,
        max_overflow=pool_size - kept + 2,
        pool_pre_ping=True,
        pool_timeout=10,
    )


def _prepare_folder(url: URL) -> None:
    """Make the folder of a SQLite file. Raises `Invalid` if that can't be, or if there is no file."""
    if not url.database or url.database == ":memory:":
        raise Invalid("KILOWATCH_DATABASE_URL: name a file, as in `sqlite:///path`; nothing in memory would last.")
    folder = Path(url.database).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"KILOWATCH_DATABASE_URL: the folder {folder} can't be made: {error.strerror}.") from error


def _sqlite_engine(url: URL, *, begin: str, pool_size: int, busy_timeout_ms: int = SQLITE_BUSY_TIMEOUT_MS) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0 if pool_size == 1 else 2,
        hide_parameters=True,
        connect_args={"timeout": busy_timeout_ms / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself: `_begin` does
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # SQLite's own knows ASCII alone, and `contains` promises any case of letters, as PostgreSQL does.
        connection.create_function("lower", 1, _lower, deterministic=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated_driver_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _away(_NO_ANSWER) from error


_NO_ANSWER = said("The catalogue's database does not answer; try again shortly.")
_OTHERS_GO_ON = said("Other readings are being removed or folded at this moment; try again shortly.")


def _away(detail: str) -> Unavailable:
    metrics.UNAVAILABLE.labels("catalogue").inc()
    return Unavailable(detail, retry_after_s=5)


def _trace(engine: Engine) -> None:
    spans = StatementSpans(engine.dialect.name)
    event.listen(engine, "before_cursor_execute", spans.begin)
    event.listen(engine, "after_cursor_execute", spans.end)
    event.listen(engine, "handle_error", spans.fail)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict(
            said("Another request changed the same thing at this moment; read it again and retry.")
        ) from error
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        raise _away(_NO_ANSWER) from error
    except DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) == _READ_ONLY:
            raise _away(said("The catalogue's database went away; try again shortly.")) from error
        if "file is not a database" in str(error.orig):
            raise Unavailable("The catalogue's file is not a SQLite database.") from error
        raise


def _execute_surely(connection: Connection, statement: Executable) -> None:
    """Or the connection ends, and all that it may hold."""
    try:
        connection.execute(statement)
    except BaseException:
        connection.invalidate()
        raise


def _lower(value: str | float | bytes | None) -> str | float | bytes | None:
    return value.lower() if isinstance(value, str) else value


def contains(column: Any, words: str) -> Any:
    """`words` anywhere in `column`, in any case of letters, with no wildcard meaning."""
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.ilike(f"%{escaped}%", escape="\\")


def insert_missing(connection: Connection, table: type[Base]) -> Any:
    """An insert that leaves a row that is there already as it is; it waits for one that another transaction puts."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def take_turns(connection: Connection, what: str) -> None:
    """Until this transaction ends, nobody else who takes turns at the same goes on. (SQLite has one writer.)

    For counting before adding: two transactions of PostgreSQL would each count without the other's row.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(what, 0))))


def columns(table: type[Base], struct: type) -> list[Any]:
    """The table's columns in the order of the struct's fields of the same names.

    They are those of the table itself: the mapped ones cost a third of a small query, in SQLAlchemy's adapting of them.
    """
    return [table.__table__.c[field] for field in struct.__struct_fields__]  # type: ignore[attr-defined]  # every msgspec struct has it


def fetch_one(connection: Connection, statement: Executable, into: type[T]) -> T | None:
    row = connection.execute(statement).first()
    return None if row is None else into(*row)


def fetch_all(connection: Connection, statement: Executable, into: type[T]) -> list[T]:
    return [into(*row) for row in connection.execute(statement)]
