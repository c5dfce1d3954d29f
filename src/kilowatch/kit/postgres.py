"""How PostgreSQL is connected to, so that nobody waits for ever: not for one that is away, nor for one that hangs."""

import time
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import URL, Dialect, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from kilowatch.kit.breaker import Breaker

KEPT = 10
"""Connections that a pool keeps while nobody needs them: another process may need them more."""

_CONNECT_WITHIN_S = 5
_CANCELLED_AFTER_S = 15
"""By the server: a statement that takes longer, or waits longer for somebody's lock."""

_ANSWER_WITHIN_S = 20.0
"""By us, where the server does not even do that."""

_IDLE_WITHIN_S = 60
"""By the server: a transaction of ours of which nothing more is heard, so that it holds nobody up with its locks.
Readings are inserted within one, which takes 30 s at most."""

_LIMITS = f"-c statement_timeout={_CANCELLED_AFTER_S}s -c idle_in_transaction_session_timeout={_IDLE_WITHIN_S}s"
# A machine that is gone says nothing: its silence is noticed after 25 s.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}


def _refusal() -> psycopg.OperationalError:
    return psycopg.OperationalError("PostgreSQL did not answer a moment ago")


class _PatientConnection(psycopg.Connection[Any]):
    """Waits as long as it takes, as migrations may."""


class _BoundedConnection(psycopg.Connection[Any]):
    """Closes itself when the server does not answer."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        began = time.monotonic()
        try:
            return super().wait(gen, interval, _ANSWER_WITHIN_S if timeout is None else timeout)
        except psycopg.OperationalError:
            if timeout is None and time.monotonic() >= began + _ANSWER_WITHIN_S:
                self.pgconn.finish()  # what its answer would have been, nobody can tell any more
            raise


def postgres_engine(url: URL, *, is_patient: bool = False, **options: Any) -> Engine:
    """An engine of SQLAlchemy's, whose `options` are given on.

    Args:
        is_patient: statements may take as long as they do.
    """
    engine = create_engine(url, hide_parameters=True, **options)
    breaker = Breaker(psycopg.OperationalError, refusal=_refusal)
    kind = _PatientConnection if is_patient else _BoundedConnection

    @event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: Dialect, _record: ConnectionPoolEntry, arguments: list[Any], named: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        given = dict(named)  # what the URL says has the last word
        options = "" if is_patient else f"{_LIMITS} {given.pop('options', '')}"
        ours: dict[str, Any] = {"connect_timeout": _CONNECT_WITHIN_S, "options": options.strip(), **_KEEPALIVES}
        with breaker.attempt():
            return kind.connect(*arguments, **(ours | given))

    return engine
