"""`Idempotency-Key`: a POST that is sent again with the same key answers as the first did, and creates nothing.

The record is written in the transaction of the work itself, so that there is a record exactly if the work was done.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, ForeignKey, LargeBinary, String, UniqueConstraint, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.errors import Invalid, said
from kilowatch.kit.db import Base, Instant, insert_missing

T = TypeVar("T")

KEPT_FOR = timedelta(hours=24)


class IdempotencyRow(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("user_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class Once(msgspec.Struct, frozen=True):
    """The caller's key, and a fingerprint of the request that it stands for."""

    key: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, *parts: str | bytes) -> "Once":
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
        return cls(key, digest.hexdigest())


def run_once(
    connection: Connection,
    work: Callable[[], T],
    *,
    once: Once | None,
    user_id: int,
    answer_type: type[T],
    now: datetime,
) -> T:
    """The work's answer, or the stored one if the caller's key did this work before.

    Two requests with one key at the same moment: the second waits for the first's transaction and gets its answer.

    Raises:
        Invalid: the key was used for another request.
    """
    if once is None:
        return work()
    mine = (IdempotencyRow.user_id == user_id) & (IdempotencyRow.key == once.key)
    if not _claim(connection, once, user_id, now):
        row = connection.execute(select(IdempotencyRow.fingerprint, IdempotencyRow.answer).where(mine)).one()
        return _same(once, *row, answer_type)
    result = work()
    connection.execute(update(IdempotencyRow).where(mine).values(answer=msgspec.json.encode(result)))
    return result


def _claim(connection: Connection, once: Once, user_id: int, now: datetime) -> bool:
    """Put the key's record there; false if there is one, waiting for another transaction that is putting it."""
    connection.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < now - KEPT_FOR))
    claim = insert_missing(connection, IdempotencyRow).values(
        user_id=user_id, key=once.key, fingerprint=once.fingerprint, created_at=now
    )
    return connection.execute(claim.returning(IdempotencyRow.id)).scalar() is not None


def remember(connection: Connection, once: Once, answer: object, *, user_id: int, now: datetime) -> None:
    """Store the answer to a key for `recall`; the first one stays."""
    if _claim(connection, once, user_id, now):
        mine = (IdempotencyRow.user_id == user_id) & (IdempotencyRow.key == once.key)
        connection.execute(update(IdempotencyRow).where(mine).values(answer=msgspec.json.encode(answer)))


def recall(connection: Connection, once: Once, *, user_id: int, answer_type: type[T], now: datetime) -> T | None:
    """The stored answer to this key, for work that may harmlessly run twice. Raises `Invalid` like `run_once`."""
    row = connection.execute(
        select(IdempotencyRow.fingerprint, IdempotencyRow.answer).where(
            IdempotencyRow.user_id == user_id,
            IdempotencyRow.key == once.key,
            IdempotencyRow.created_at >= now - KEPT_FOR,
        )
    ).first()
    return None if row is None else _same(once, *row, answer_type)


def _same(once: Once, fingerprint: str, answer: bytes | None, answer_type: type[T]) -> T:
    if fingerprint != once.fingerprint:
        raise Invalid(
            said("This Idempotency-Key was used for a different request; use a new key for each new request.")
        )
    assert answer is not None  # the row and its answer are written in one transaction
    return msgspec.json.decode(answer, type=answer_type)
