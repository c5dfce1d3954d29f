"""Reads and writes users, sign-ins, API keys and grants."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, column, delete, func, insert, or_, select, table, update

from kilowatch.auth.model import (
    ApiKey,
    ApiKeyRow,
    AuditEntry,
    AuditFilter,
    AuditRow,
    Grant,
    GrantRow,
    PageSessionRow,
    Population,
    Principal,
    RefreshTokenRow,
    Role,
    SignIn,
    SignInAttemptRow,
    SignInRow,
    User,
    UserRow,
    UserWeight,
)
from kilowatch.kit.db import Base, columns, contains, fetch_all, fetch_one
from kilowatch.kit.paging import PageRequest

_USER = columns(UserRow, User)
_API_KEY = columns(ApiKeyRow, ApiKey)
_GRANT = columns(GrantRow, Grant)
_AUDIT = columns(AuditRow, AuditEntry)
_CHUNK = 1000


# ── who is asking ────────────────────────────────────────────────────────────────────────────────────────────────────


def find_principal_by_sign_in(connection: Connection, sign_in_id: int) -> Principal | None:
    row = connection.execute(
        select(UserRow.id, UserRow.email, UserRow.name, UserRow.is_admin)
        .join(SignInRow, SignInRow.user_id == UserRow.id)
        .where(SignInRow.id == sign_in_id, SignInRow.ended_at.is_(None))
    ).first()
    return None if row is None else Principal(*row, sign_in_id=sign_in_id)


def find_principal_by_key(connection: Connection, key_hash: str, now: datetime) -> Principal | None:
    row: Any = connection.execute(
        select(
            UserRow.id,
            UserRow.email,
            UserRow.name,
            UserRow.is_admin,
            ApiKeyRow.scopes,
            ApiKeyRow.site_id,
            ApiKeyRow.expires_at,
            ApiKeyRow.id,
            ApiKeyRow.name,
        )
        .join(ApiKeyRow, ApiKeyRow.user_id == UserRow.id)
        .where(ApiKeyRow.key_hash == key_hash, or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now))
    ).first()
    if row is None:
        return None
    user_id, email, name, is_admin, scopes, site_id, expires_at, key_id, key_name = row
    return Principal(
        user_id,
        email,
        name,
        is_admin,
        scopes=frozenset(scopes),
        only_site_id=site_id,
        expires_at=expires_at,
        api_key_id=key_id,
        api_key_name=key_name,
    )


def find_principal_by_session(
    connection: Connection, token_hash: str, now: datetime, *, idle: timedelta
) -> Principal | None:
    """Whose browser it is, unless its session ended or was left alone for `idle`."""
    row: Any = connection.execute(
        select(
            UserRow.id,
            UserRow.email,
            UserRow.name,
            UserRow.is_admin,
            SignInRow.id,
            PageSessionRow.expires_at,
            PageSessionRow.seen_at,
        )
        .join(SignInRow, SignInRow.user_id == UserRow.id)
        .join(PageSessionRow, PageSessionRow.sign_in_id == SignInRow.id)
        .where(
            PageSessionRow.token_hash == token_hash,
            PageSessionRow.expires_at > now,
            PageSessionRow.seen_at > now - idle,
            SignInRow.ended_at.is_(None),
        )
    ).first()
    if row is None:
        return None
    user_id, email, name, is_admin, sign_in_id, expires_at, seen_at = row
    return Principal(
        user_id,
        email,
        name,
        is_admin,
        sign_in_id=sign_in_id,
        expires_at=min(expires_at, seen_at + idle),
        session_seen_at=seen_at,
    )


# ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def page_users(connection: Connection, page: PageRequest, *, words: str | None) -> list[User]:
    statement = select(*_USER).where(UserRow.id > page.after_id).order_by(UserRow.id).limit(page.limit + 1)
    if words:
        statement = statement.where(or_(contains(UserRow.email, words), contains(UserRow.name, words)))
    return fetch_all(connection, statement, User)


def find_user(connection: Connection, user_id: int) -> User | None:
    return fetch_one(connection, select(*_USER).where(UserRow.id == user_id), User)


def find_user_by_email(connection: Connection, email: str) -> User | None:
    return fetch_one(connection, select(*_USER).where(UserRow.email == email), User)


def password_hash_of(connection: Connection, user_id: int) -> str | None:
    return connection.execute(select(UserRow.password_hash).where(UserRow.id == user_id)).scalar()


def find_password(connection: Connection, email: str) -> tuple[int, str] | None:
    """A user's id and password hash."""
    row = connection.execute(select(UserRow.id, UserRow.password_hash).where(UserRow.email == email)).first()
    return None if row is None else (row[0], row[1])


def add_user(
    connection: Connection, *, email: str, name: str, password_hash: str, is_admin: bool, now: datetime
) -> int:
    statement = insert(UserRow).values(
        email=email, name=name, password_hash=password_hash, is_admin=is_admin, created_at=now
    )
    return connection.execute(statement.returning(UserRow.id)).scalar_one()


def change_user(connection: Connection, user_id: int, values: dict[str, object]) -> None:
    connection.execute(update(UserRow).where(UserRow.id == user_id).values(values))


def delete_user(connection: Connection, user_id: int) -> None:
    connection.execute(delete(UserRow).where(UserRow.id == user_id))


def lock_admins(connection: Connection) -> list[int]:
    """Ids of the administrators, locked, so that two of them can't remove each other at the same moment."""
    return list(connection.execute(select(UserRow.id).where(UserRow.is_admin).with_for_update()).scalars())


# ── grants ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def grants_of_user(connection: Connection, user_id: int, *, only_site_id: int | None = None) -> list[Grant]:
    statement = select(*_GRANT).where(GrantRow.user_id == user_id).order_by(GrantRow.site_id)
    if only_site_id is not None:
        statement = statement.where(GrantRow.site_id == only_site_id)
    return fetch_all(connection, statement, Grant)


def page_grants_of_site(connection: Connection, site_id: int, page: PageRequest) -> list[Grant]:
    statement = select(*_GRANT).where(GrantRow.site_id == site_id, GrantRow.user_id > page.after_id)
    return fetch_all(connection, statement.order_by(GrantRow.user_id).limit(page.limit + 1), Grant)


def grants_among(connection: Connection, user_ids: Sequence[int], site_ids: Sequence[int]) -> list[Grant]:
    """The grants of these users at these sites; at most some hundreds of each."""
    statement = select(*_GRANT).where(GrantRow.user_id.in_(user_ids), GrantRow.site_id.in_(site_ids))
    return fetch_all(connection, statement, Grant)


def lock_users(connection: Connection, user_ids: Sequence[int]) -> dict[int, str]:
    """Their emails by id; nobody else changes or deletes them until the transaction ends."""
    statement = select(UserRow.id, UserRow.email).where(UserRow.id.in_(user_ids)).order_by(UserRow.id)
    return {row.id: row.email for row in connection.execute(statement.with_for_update())}


def put_grant(connection: Connection, user_id: int, site_id: int, role: Role) -> None:
    this = update(GrantRow).where(GrantRow.user_id == user_id, GrantRow.site_id == site_id)
    if connection.execute(this.values(role=role)).rowcount == 0:
        connection.execute(insert(GrantRow).values(user_id=user_id, site_id=site_id, role=role))


def delete_grant(connection: Connection, user_id: int, site_id: int) -> bool:
    statement = delete(GrantRow).where(GrantRow.user_id == user_id, GrantRow.site_id == site_id)
    return connection.execute(statement).rowcount > 0


# ── sign-ins ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_sign_in(connection: Connection, user_id: int, now: datetime, *, agent: str | None) -> int:
    return connection.execute(
        insert(SignInRow).values(user_id=user_id, created_at=now, agent=agent).returning(SignInRow.id)
    ).scalar_one()


def sign_ins_of_user(connection: Connection, user_id: int, now: datetime, *, idle: timedelta) -> list[SignIn]:
    """Those that can still be used, the newest first."""
    browser = and_(
        PageSessionRow.sign_in_id == SignInRow.id, PageSessionRow.expires_at > now, PageSessionRow.seen_at > now - idle
    )
    token = select(RefreshTokenRow.sign_in_id).where(
        RefreshTokenRow.sign_in_id == SignInRow.id, RefreshTokenRow.expires_at > now, RefreshTokenRow.used_at.is_(None)
    )
    statement = (
        select(SignInRow.id, SignInRow.created_at, PageSessionRow.seen_at, SignInRow.agent)
        .outerjoin(PageSessionRow, browser)
        .where(SignInRow.user_id == user_id, SignInRow.ended_at.is_(None))
        .where(or_(PageSessionRow.seen_at.is_not(None), token.exists()))
    )
    return fetch_all(connection, statement.order_by(SignInRow.id.desc()), SignIn)


def end_sign_ins(
    connection: Connection,
    now: datetime,
    *,
    sign_in_id: int | None = None,
    user_id: int | None = None,
    but_for: int | None = None,
) -> int:
    """End one sign-in, or all of a user's but for one; how many that were."""
    which = SignInRow.id == sign_in_id if sign_in_id is not None else SignInRow.user_id == user_id
    statement = update(SignInRow).where(which, SignInRow.ended_at.is_(None))
    if but_for is not None:
        statement = statement.where(SignInRow.id != but_for)
    return connection.execute(statement.values(ended_at=now)).rowcount


def add_page_session(
    connection: Connection, token_hash: str, sign_in_id: int, *, expires_at: datetime, now: datetime
) -> None:
    values = {"token_hash": token_hash, "sign_in_id": sign_in_id, "expires_at": expires_at, "seen_at": now}
    connection.execute(insert(PageSessionRow).values(values))


def touch_page_session(connection: Connection, token_hash: str, now: datetime) -> None:
    connection.execute(update(PageSessionRow).where(PageSessionRow.token_hash == token_hash).values(seen_at=now))


def end_sign_in_of_session(connection: Connection, token_hash: str, now: datetime) -> None:
    of_session = select(PageSessionRow.sign_in_id).where(PageSessionRow.token_hash == token_hash)
    statement = update(SignInRow).where(SignInRow.id.in_(of_session), SignInRow.ended_at.is_(None))
    connection.execute(statement.values(ended_at=now))


def add_refresh_token(connection: Connection, token_hash: str, sign_in_id: int, expires_at: datetime) -> None:
    connection.execute(
        insert(RefreshTokenRow).values(token_hash=token_hash, sign_in_id=sign_in_id, expires_at=expires_at)
    )


def use_refresh_token(connection: Connection, token_hash: str, now: datetime) -> bool:
    """Mark it as used; false if it was used before. Of two uses at one moment, one is told true."""
    statement = update(RefreshTokenRow).where(
        RefreshTokenRow.token_hash == token_hash, RefreshTokenRow.used_at.is_(None)
    )
    return connection.execute(statement.values(used_at=now)).rowcount == 1


def find_sign_in_of_token(connection: Connection, token_hash: str) -> tuple[int, int, datetime, datetime | None] | None:
    """The sign-in's id, its user's id, the token's expiry, and when the sign-in was ended."""
    row = connection.execute(
        select(SignInRow.id, SignInRow.user_id, RefreshTokenRow.expires_at, SignInRow.ended_at)
        .join(SignInRow, SignInRow.id == RefreshTokenRow.sign_in_id)
        .where(RefreshTokenRow.token_hash == token_hash)
    ).first()
    return None if row is None else (row[0], row[1], row[2], row[3])


def forget_expired_tokens(connection: Connection, now: datetime) -> None:
    """And browsers' sessions, and the sign-ins that have neither any more."""
    connection.execute(delete(RefreshTokenRow).where(RefreshTokenRow.expires_at < now))
    connection.execute(delete(PageSessionRow).where(PageSessionRow.expires_at < now))
    tokens = select(RefreshTokenRow.sign_in_id).where(RefreshTokenRow.sign_in_id == SignInRow.id)
    sessions = select(PageSessionRow.sign_in_id).where(PageSessionRow.sign_in_id == SignInRow.id)
    connection.execute(delete(SignInRow).where(~tokens.exists(), ~sessions.exists()))


def weigh_user(connection: Connection, user_id: int, now: datetime, *, idle: timedelta) -> UserWeight:
    def count(column: Any) -> int:
        return connection.execute(select(func.count()).where(column == user_id)).scalar_one()

    sign_ins = sign_ins_of_user(connection, user_id, now, idle=idle)
    return UserWeight(count(GrantRow.user_id), count(ApiKeyRow.user_id), len(sign_ins))


def population(connection: Connection, now: datetime, *, idle: timedelta) -> Population:
    def count(table: type[Base], *conditions: Any) -> int:
        return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()

    in_use = (PageSessionRow.expires_at > now, PageSessionRow.seen_at > now - idle, SignInRow.ended_at.is_(None))
    browsers = (
        select(func.count()).join(SignInRow, SignInRow.id == PageSessionRow.sign_in_id).select_from(PageSessionRow)
    )
    return Population(
        users=count(UserRow),
        administrators=count(UserRow, UserRow.is_admin),
        grants=count(GrantRow),
        api_keys=count(ApiKeyRow),
        browsers=connection.execute(browsers.where(*in_use)).scalar_one(),
    )


# ── sign-in attempts ─────────────────────────────────────────────────────────────────────────────────────────────────


def _subject(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def count_attempts(connection: Connection, subjects: list[str], since: datetime, *, until: datetime) -> dict[str, int]:
    """`until`: those of later are of a clock that was set back, and lock nobody out until it is there again."""
    hashed = {_subject(subject): subject for subject in subjects}
    rows = connection.execute(
        select(SignInAttemptRow.subject, func.count())
        .where(
            SignInAttemptRow.subject.in_(hashed),
            SignInAttemptRow.attempted_at > since,
            SignInAttemptRow.attempted_at <= until,
        )
        .group_by(SignInAttemptRow.subject)
    )
    return {hashed[subject]: count for subject, count in rows}


def add_attempts(connection: Connection, subjects: list[str], now: datetime) -> list[int]:
    statement = insert(SignInAttemptRow).returning(SignInAttemptRow.id)
    rows = [{"subject": _subject(subject), "attempted_at": now} for subject in subjects]
    return list(connection.execute(statement, rows).scalars())


def delete_attempts(connection: Connection, ids: list[int]) -> None:
    connection.execute(delete(SignInAttemptRow).where(SignInAttemptRow.id.in_(ids)))


def forget_attempts(connection: Connection, before: datetime) -> None:
    connection.execute(delete(SignInAttemptRow).where(SignInAttemptRow.attempted_at < before))


# ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def page_api_keys(connection: Connection, user_id: int, page: PageRequest) -> list[ApiKey]:
    statement = select(*_API_KEY).where(ApiKeyRow.user_id == user_id, ApiKeyRow.id > page.after_id)
    return fetch_all(connection, statement.order_by(ApiKeyRow.id).limit(page.limit + 1), ApiKey)


def add_api_key(connection: Connection, values: dict[str, object]) -> int:
    return connection.execute(insert(ApiKeyRow).values(values).returning(ApiKeyRow.id)).scalar_one()


def site_exists(connection: Connection, site_id: int) -> bool:
    """Whether there is such a site: asked by name, as the room that has the sites is above this one."""
    return connection.execute(select(table("sites", column("id")).c.id).filter_by(id=site_id)).scalar() is not None


def delete_api_key(connection: Connection, user_id: int, key_id: int) -> bool:
    statement = delete(ApiKeyRow).where(and_(ApiKeyRow.id == key_id, ApiKeyRow.user_id == user_id))
    return connection.execute(statement).rowcount > 0


# ── audit ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_audit(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    statement = insert(AuditRow).returning(AuditRow.id, sort_by_parameter_order=True)
    return list(connection.execute(statement, rows).scalars())


def complete_audit(connection: Connection, entry_id: int, details: dict[str, Any]) -> None:
    """Write what is known only now into an entry."""
    connection.execute(update(AuditRow).where(AuditRow.id == entry_id).values(details=details))


def delete_audit(connection: Connection, entry_ids: Sequence[int]) -> None:
    for begin in range(0, len(entry_ids), _CHUNK):
        connection.execute(delete(AuditRow).where(AuditRow.id.in_(entry_ids[begin : begin + _CHUNK])))


def page_audit(connection: Connection, page: PageRequest, wanted: AuditFilter) -> list[AuditEntry]:
    """Entries of all sites, or of one that is known to be visible, the newest first."""
    statement = select(*_AUDIT).order_by(AuditRow.id.desc()).limit(page.limit + 1)
    if page.after_id:
        statement = statement.where(AuditRow.id < page.after_id)
    if wanted.site_id is not None:
        statement = statement.where(AuditRow.site_id == wanted.site_id)
    if wanted.action is not None:
        statement = statement.where(AuditRow.action == wanted.action)
    if wanted.user:
        statement = statement.where(contains(AuditRow.user, wanted.user))
    if wanted.start is not None:
        statement = statement.where(AuditRow.at >= wanted.start)
    if wanted.end is not None:
        statement = statement.where(AuditRow.at < wanted.end)
    return fetch_all(connection, statement, AuditEntry)
