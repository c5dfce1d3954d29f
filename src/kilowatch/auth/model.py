"""Users, sign-ins, API keys, grants, and the log of who changed what."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from sqlalchemy import JSON, Connection, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.kit.db import Base, Instant

Role = Literal["standard", "technician"]
Scope = Literal["read", "write", "ingest"]
AuditAction = Literal[
    "user_created",
    "user_changed",
    "user_deleted",
    "site_created",
    "site_changed",
    "site_deleted",
    "grant_changed",
    "device_created",
    "device_changed",
    "device_deleted",
    "metric_created",
    "metric_changed",
    "metric_deleted",
    "readings_deleted",
    "readings_corrected",
]
ALL_SCOPES: frozenset[Scope] = frozenset(("read", "write", "ingest"))


class UserRow(Base):
    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    password_hash: Mapped[str] = mapped_column(String(255))
    is_admin: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(Instant)


class GrantRow(Base):
    """A user's role at a site."""

    __tablename__ = "grants"
    __table_args__ = (Index(None, "site_id"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(20))


class SignInRow(Base):
    """One sign-in: a family of refresh tokens, each used once, and the access tokens made with them."""

    __tablename__ = "sign_ins"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    agent: Mapped[str | None] = mapped_column(String(80))


class RefreshTokenRow(Base):
    __tablename__ = "refresh_tokens"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    sign_in_id: Mapped[int] = mapped_column(ForeignKey("sign_ins.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    used_at: Mapped[datetime | None] = mapped_column(Instant)


class PageSessionRow(Base):
    """A browser that is signed in: the hash of what its cookie holds. It ends with its sign-in."""

    __tablename__ = "page_sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    sign_in_id: Mapped[int] = mapped_column(ForeignKey("sign_ins.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)
    seen_at: Mapped[datetime] = mapped_column(Instant)


class ApiKeyRow(Base):
    __tablename__ = "api_keys"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    prefix: Mapped[str] = mapped_column(String(12))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Scope]] = mapped_column(JSON)
    site_id: Mapped[int | None] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)


class SignInAttemptRow(Base):
    """A failed sign-in (or one still being checked), counted against the account and the address."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index(None, "subject", "attempted_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(String(64))
    attempted_at: Mapped[datetime] = mapped_column(Instant, index=True)


class AuditRow(Base):
    """Who changed what. Names are as they were then, as users, keys and things may be gone by now.

    What concerns no site that there is (users, and that a site was deleted) has no `site_id`.
    """

    __tablename__ = "audit"
    __table_args__ = (Index(None, "site_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[int | None] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(Instant)
    user_id: Mapped[int | None]
    user: Mapped[str] = mapped_column(String(254))
    api_key_id: Mapped[int | None]
    api_key: Mapped[str | None] = mapped_column(String(120))
    action: Mapped[str] = mapped_column(String(30))
    object: Mapped[str] = mapped_column(String(254))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)


class User(msgspec.Struct, frozen=True):
    id: int
    email: str
    name: str
    is_admin: bool
    created_at: datetime


class Grant(msgspec.Struct, frozen=True):
    """A user's role at a site."""

    user_id: int
    site_id: int
    role: Role


class Me(msgspec.Struct, frozen=True):
    """Who is asking, and what they may do where."""

    id: int
    email: str
    name: str
    is_admin: bool
    grants: list[Grant]

    def may_change(self, site_id: int) -> bool:
        """Whether they are a technician of this site, or may do everything."""
        return self.is_admin or any(grant.site_id == site_id and grant.role == "technician" for grant in self.grants)


class UserWeight(msgspec.Struct, frozen=True):
    """What belongs to a user: grants, API keys, and sign-ins that can still be used."""

    grants: int
    api_keys: int
    sign_ins: int


class Cell(NamedTuple):
    """Where in the matrix of users and sites."""

    user_id: int
    site_id: int


class GrantChange(NamedTuple):
    """Another role (or none) of a user at a site, and the one that was there when it was decided."""

    user_id: int
    site_id: int
    before: Role | None
    after: Role | None


class Population(msgspec.Struct, frozen=True):
    """How many there are."""

    users: int
    administrators: int
    grants: int
    api_keys: int
    browsers: int


class SignIn(msgspec.Struct, frozen=True):
    """One of a user's sign-ins that has not ended."""

    id: int
    created_at: datetime
    seen_at: Annotated[datetime | None, msgspec.Meta(description="When its browser last asked; null: no browser.")]
    agent: Annotated[str | None, msgspec.Meta(description="Browser and system, or program, as it names itself.")]
    is_current: bool = False


class ApiKey(msgspec.Struct, frozen=True):
    """An API key without its secret."""

    id: int
    name: str
    prefix: str
    scopes: list[Scope]
    site_id: int | None
    created_at: datetime
    expires_at: datetime | None


class NewApiKey(ApiKey, frozen=True, kw_only=True):
    """An API key at the moment it is made: the only time that `key` is shown."""

    key: str


class Tokens(msgspec.Struct, frozen=True):
    access_token: str
    refresh_token: str
    expires_in: int
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - OAuth2's word, not a secret


class AuditEntry(msgspec.Struct, frozen=True):
    """Who changed what, and when. Names are as they were then."""

    id: int
    site_id: Annotated[int | None, msgspec.Meta(description="Null for users, and for a site that was deleted.")]
    at: datetime
    user_id: Annotated[int | None, msgspec.Meta(description="Null for the operator of the machine.")]
    user: Annotated[str, msgspec.Meta(description="The email of the user who did it.")]
    api_key_id: int | None
    api_key: Annotated[str | None, msgspec.Meta(description="The name of the API key, if one was used.")]
    action: AuditAction
    object: Annotated[
        str, msgspec.Meta(description="`site`, `site/device` or `site/device/key`; of a user, the email.")
    ]
    details: Annotated[dict[str, Any], msgspec.Meta(description="What changed, and how many readings it concerned.")]


class AuditFilter(msgspec.Struct, frozen=True):
    """Which entries of the log are wanted: those that all that is given fits."""

    site_id: int | None = None
    user: str | None = None
    """Part of the email of who did it."""
    action: AuditAction | None = None
    start: datetime | None = None
    end: datetime | None = None


class Credential(msgspec.Struct, frozen=True):
    """What a request proves itself with, its signature checked where it has one; `Gate.identify` looks it up."""

    sign_in_id: int | None = None
    key_hash: str | None = None
    session_hash: str | None = None


class Principal(msgspec.Struct, frozen=True):
    """Who is asking, as of this transaction."""

    user_id: int
    email: str
    name: str
    is_admin: bool
    scopes: frozenset[Scope] = ALL_SCOPES
    only_site_id: int | None = None
    sign_in_id: int | None = None
    expires_at: datetime | None = None
    api_key_id: int | None = None
    api_key_name: str | None = None
    session_seen_at: datetime | None = None


class Work(NamedTuple):
    """A unit of work: its transaction, on whose behalf, and the time it is now for all of it."""

    connection: Connection
    who: Principal
    now: datetime


OPERATOR = Principal(user_id=0, email="operator", name="Operator of this machine", is_admin=True)
"""Whoever runs the command line: they hold the files, so they may do everything."""
