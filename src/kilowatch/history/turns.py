"""When readings are received: a moment of its own for each insert, later than all before it, in whatever process.

One process alone counts by itself. Several that share a ClickHouse server take turns at a row of the catalogue's
database: whoever holds it stores, and commits with a notice of what arrived. PostgreSQL delivers notices in the order
of the commits, so all processes hear of all arrivals in the same order, and of none before it can be read.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from sqlalchemy import BigInteger, Connection, Text, select, text
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.kit.db import Base, Database
from kilowatch.kit.notices import Notices

log = structlog.get_logger("kilowatch.history")

_CHANNEL = "kilowatch_arrivals"
_MOST_BYTES = 7_900
"""Of a notice. One that would be longer says less: which metrics have readings, but not until when; or that any may."""

_KEPT_TRANSACTIONS = 32
"""Turns that are known as such by who asks for the catalogue's state: those of a second or so."""


class ArrivalClock(Base):
    """One row: the last moment that was taken."""

    __tablename__ = "arrival_clock"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    received_at: Mapped[int] = mapped_column(BigInteger)
    turn: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The number of the turn that took it."""
    transactions: Mapped[str] = mapped_column(Text, server_default="")
    """PostgreSQL's numbers of the last turns' transactions, the newest first: see `kit.state`."""


# A sequence, `arrival_turns`, counts turns, those too that are not committed: their numbers are missing then.

# One statement each, since all processes wait for each other meanwhile. The inner query waits for the row, for 10 s at
# most; a number is drawn once that is over, so that none is drawn in vain.
_BEGIN = text("""
SELECT taken.received_at, taken.turn, taken.transactions, nextval('arrival_turns'), pg_current_xact_id()::text
FROM (
    SELECT clock.received_at, clock.turn, clock.transactions
    FROM (SELECT set_config('lock_timeout', '10s', true) AS longest OFFSET 0) AS wait, arrival_clock AS clock
    WHERE clock.id = 1 AND wait.longest <> ''
    FOR UPDATE OF clock
) AS taken
""")
_END = text("""
WITH taken AS (
    UPDATE arrival_clock SET received_at = :received_at, turn = :turn, transactions = :transactions
    WHERE id = 1
    RETURNING id
)
SELECT pg_notify(:channel, :notice) FROM taken
""")
_LAST = select(ArrivalClock.received_at, ArrivalClock.turn).where(ArrivalClock.id == 1)


@dataclass(slots=True)
class Turn:
    """The right to store, for as long as it takes."""

    received_at: int
    """In ms since 1970."""

    alone: bool = True
    """Whether nobody else stored since the last turn here."""

    number: int = 0
    before: int = 0
    """The number of the last turn that was committed before this one."""

    lost: bool = False
    """Whether readings may have been stored in between of which nobody was told."""

    transactions: str = ""
    """As of the `ArrivalClock`, this turn's own among them."""

    metric_ids: tuple[int, ...] | None = None
    """Which metrics have new readings: said by whoever stored. `None`: any may have."""

    reached: tuple[int, ...] | None = None
    """The time of the newest of them, for each of `metric_ids`. `None`: it may be any."""


class Turns(Protocol):
    def take(self, now: int) -> AbstractContextManager[Turn]:
        """A turn whose moment is `now` (ms since 1970) or later. Raises `Unavailable` if there is none to be had."""


class OwnTurns:
    """Of one process alone. Used by one thread."""

    def __init__(self, last: int) -> None:
        """`last`: a moment that all turns are later than."""
        self._last = last

    @contextmanager
    def take(self, now: int) -> Iterator[Turn]:
        self._last = max(now, self._last + 1)
        yield Turn(self._last)

    def let_time_pass(self, now: int) -> int:
        """A moment before `now`, which all turns to come are later than."""
        self._last = max(now - 1, self._last)
        return self._last


@dataclass(frozen=True, slots=True)
class Arrived:
    """A notice: at this moment readings of these metrics (`None`: of any) were stored, by this process or another."""

    received_at: int
    metric_ids: frozenset[int] | None
    is_own: bool
    turn: int = 0
    reached: Mapping[int, int] | None = None
    """The time of the newest of them by metric, where that was said."""


Hear = Callable[[Arrived], None]


class SharedTurns:
    """Of all processes at one PostgreSQL. `take` is used by one thread; what is heard comes from another."""

    def __init__(self, database: Database, *, last: int) -> None:
        """`last`: a moment that all turns are later than, whatever the database says."""
        self._database = database
        self._process = secrets.token_hex(8)
        self._last = 0
        self._unsure = True  # an earlier process may have stored, and ended before it could say so
        with database.write() as connection:
            # Nothing is stored in this turn, but it has a number, which others wait to hear of. The transactions of
            # turns before it may have been another server's, whose database was copied or restored.
            turn = self._begin(connection, last)
            turn.metric_ids = turn.reached = None if turn.lost else ()
            turn.transactions = turn.transactions.split()[0]
            self._end(connection, turn)

    @contextmanager
    def take(self, now: int) -> Iterator[Turn]:
        trouble: Exception | None = None
        was_unsure, self._unsure = self._unsure, True
        with self._database.write() as connection:
            turn = self._begin(connection, now)
            turn.lost |= was_unsure
            try:
                yield turn
            except Exception as error:
                # Some of it may be stored: so the moment is taken all the same, and the others look.
                turn.metric_ids, trouble = None, error
            if turn.lost:
                turn.metric_ids = None
            self._end(connection, turn)
        # Where this is not reached nobody was told, so the next notice says that any metric may have readings.
        self._last, self._unsure = turn.number, False
        if trouble is not None:
            raise trouble

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Have it told of all arrivals from now on, in their order, first of the last one before; returns what ends it.

        Whenever notices may have been missed (the database was away) it hears that any metric may have readings.
        """
        return Notices(
            self._database,
            _CHANNEL,
            hear=lambda notice: hear(self._arrived(notice)),
            connected=lambda connection: hear(_anything_until(*connection.execute(_LAST).one())),
        ).close

    def _begin(self, connection: Connection, now: int) -> Turn:
        """A turn at a new moment; `lost` if one was lost since the last that was committed.

        What was stored in a turn that was lost (its process ended, or could not commit) has a moment between, and
        nobody was told.
        """
        last, before, transactions, number, own = connection.execute(_BEGIN).one()
        is_next = number == before + 1
        return Turn(
            max(now, last + 1),
            alone=is_next and before == self._last,
            number=number,
            before=before,
            lost=not is_next,
            transactions=" ".join([own, *transactions.split()[: _KEPT_TRANSACTIONS - 1]]),
        )

    def _end(self, connection: Connection, turn: Turn) -> None:
        values = {"received_at": turn.received_at, "turn": turn.number, "transactions": turn.transactions}
        connection.execute(_END, values | {"channel": _CHANNEL, "notice": self._notice(turn)})

    def _notice(self, turn: Turn) -> str:
        said: list[Any] = [turn.received_at, self._process, turn.number, turn.metric_ids, None]
        if turn.metric_ids is not None and turn.reached is not None:
            said[4] = [turn.received_at - reached for reached in turn.reached]
        for place in (4, 3):
            if len(notice := _text(said)) <= _MOST_BYTES:
                return notice
            said[place] = None
        return _text(said)

    def _arrived(self, notice: str) -> Arrived:
        received_at, process, turn, metric_ids, ages = json.loads(notice)
        known = None if metric_ids is None else frozenset(metric_ids)
        reached = None if ages is None else {i: received_at - age for i, age in zip(metric_ids, ages, strict=True)}
        return Arrived(received_at, known, process == self._process, turn, reached)


def _text(said: list[Any]) -> str:
    return json.dumps(said, separators=(",", ":"))


def _anything_until(received_at: int, turn: int) -> Arrived:
    return Arrived(received_at, None, False, turn)
