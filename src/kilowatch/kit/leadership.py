"""Which of several processes does what only one has to do."""

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from kilowatch.kit.db import Database


class Leadership:
    """A lock of PostgreSQL's that is held as long as a connection lives: when its holder ends, another one gets it.

    Used by one thread. On SQLite, which one process has alone, everyone who asks leads.
    """

    def __init__(self, database: Database, of: str) -> None:
        self._engine: Engine | None = None if database.is_sqlite else database.listening_engine()
        self._key = select(func.hashtextextended(f"kilowatch {of}", 0)).scalar_subquery()
        self._connection: Connection | None = None

    def is_held(self) -> bool:
        """Whether this process leads, which it becomes the leader for if nobody is. False while nobody can know."""
        if self._engine is None:
            return True
        try:
            return self._holds() or self._takes(self._engine)
        except DBAPIError:
            self.close_connection()
            return False

    def close(self) -> None:
        self.close_connection()
        if self._engine is not None:
            self._engine.dispose()

    def close_connection(self) -> None:
        """Another process may lead from now on."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _holds(self) -> bool:
        if self._connection is None:
            return False
        self._connection.execute(select(1))  # raises if the connection, and the lock with it, is gone
        return True

    def _takes(self, engine: Engine) -> bool:
        self._connection = engine.connect()
        if self._connection.execute(select(func.pg_try_advisory_lock(self._key))).scalar_one():
            return True
        self.close_connection()
        return False
