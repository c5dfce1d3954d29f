"""Which state the catalogue is in: asked with each request, so answered for all who ask at once by one statement."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import URL, NullPool
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError

from kilowatch.kit.postgres import postgres_engine

# What only stores readings changes nothing else in the database: those transactions say so in `arrival_clock`.
_STATE = "SELECT pg_current_snapshot()::text, turn, transactions FROM arrival_clock WHERE id = 1"
_MOST_ENDED = 1_000
"""Transactions that are looked at one by one; after more, anything may have changed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Names a state of the catalogue. Two are equal only if nothing was committed to it between them.

    Turns at storing readings are not part of that state; `turn` is the last that was committed by then.
    """

    state: Hashable
    turn: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions of PostgreSQL have ended: those before `end` that are not `running`."""

    end: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Of `pg_current_snapshot`: `xmin:xmax:xip,xip…`."""
        _, end, running = text.split(":")
        return cls(int(end), frozenset(map(int, running.split(","))) if running else frozenset())

    def ended_since(self, before: "Snapshot") -> set[int] | None:
        """Those that have ended since an earlier one; `None` if that can't be told."""
        if not 0 <= self.end - before.end <= _MOST_ENDED:
            return None
        return {*before.running, *range(before.end, self.end)} - self.running


class PostgresState:
    """Asks PostgreSQL, by a connection that does nothing else. Safe to use from any thread.

    Whoever comes while it is being asked waits for the next answer, which is for all who wait: so each has one that was
    asked for after it came, and many at once cost hardly more than one.
    """

    def __init__(self, url: URL) -> None:
        self._engine = postgres_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._connection: DBAPIConnection | None = None
        self._changed = threading.Condition()
        self._begun = self._done = 0
        self._is_asking = False
        self._found: Stamp | Exception = Stamp(0)
        self._number = 0
        self._snapshot: Snapshot | None = None

    def stamp(self) -> Stamp:
        """Raises what SQLAlchemy raises where the database does not answer."""
        with self._changed:
            wanted = self._begun + 1
            while self._is_asking and self._done < wanted:
                self._changed.wait()
            if self._done >= wanted:
                return _or_raised(self._found)
            self._begun, self._is_asking = wanted, True
        return _or_raised(self._ask_for_all())

    def close(self) -> None:
        with self._changed:
            while self._is_asking:
                self._changed.wait()
            self._forget_connection()
        self._engine.dispose()

    def _ask_for_all(self) -> Stamp | Exception:
        found: Stamp | Exception = psycopg.OperationalError("asking was broken off")
        try:
            found = self._ask()
        except Exception as error:  # it belongs to all who wait
            found = error
        finally:
            with self._changed:
                self._found, self._done, self._is_asking = found, self._begun, False
                self._changed.notify_all()
        return found

    def _ask(self) -> Stamp:
        is_new = self._connection is None
        try:
            return self._read(self._connected())
        except psycopg.Error as error:
            self._forget_connection()
            if is_new:
                raise _wrapped(error) from error
        try:  # the server may have been started anew since
            return self._read(self._connected())
        except psycopg.Error as error:
            self._forget_connection()
            raise _wrapped(error) from error

    def _connected(self) -> Any:
        if self._connection is None:
            self._snapshot = None  # it may be another database by now
            proxied = self._engine.raw_connection()
            self._connection = proxied.driver_connection
            proxied.detach()
        return self._connection

    def _read(self, connection: Any) -> Stamp:
        snapshot, turn, transactions = connection.execute(_STATE).fetchone()
        self._note(Snapshot.parse(snapshot), frozenset(map(int, transactions.split())))
        return Stamp(self._number, turn)

    def _note(self, snapshot: Snapshot, turns: frozenset[int]) -> None:
        before, self._snapshot = self._snapshot, snapshot
        ended = None if before is None else snapshot.ended_since(before)
        if ended is None or not ended <= turns:
            self._number += 1

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _or_raised(found: Stamp | Exception) -> Stamp:
    if isinstance(found, Exception):
        raise found
    return found


def _wrapped(error: psycopg.Error) -> DBAPIError:
    """As SQLAlchemy would raise it."""
    wrapped = DBAPIError.instance(_STATE, None, error, psycopg.Error)
    assert isinstance(wrapped, DBAPIError)
    return wrapped
