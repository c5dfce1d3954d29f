"""Decides who someone is, how they sign in, and what administrators may do to users and grants."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection

from kilowatch.auth import audit, secrets, store
from kilowatch.auth.model import (
    ApiKey,
    AuditEntry,
    AuditFilter,
    Cell,
    Credential,
    Grant,
    Me,
    NewApiKey,
    Population,
    Principal,
    Role,
    Scope,
    SignIn,
    Tokens,
    User,
    UserWeight,
    Work,
)
from kilowatch.auth.rights import require_admin, require_scope
from kilowatch.config import Settings
from kilowatch.errors import Conflict, Forbidden, NotFound, Stale, TooMany, Unauthenticated, conflict, invalid, said
from kilowatch.kit import metrics
from kilowatch.kit.db import Database, take_turns
from kilowatch.kit.handling import asked_by
from kilowatch.kit.idempotency import Once, recall, remember, run_once
from kilowatch.kit.memory import Memory
from kilowatch.kit.paging import Page, PageRequest, page_of
from kilowatch.kit.state import Stamp

Clock = Callable[[], datetime]
Caller = Credential | Principal
"""A request's credential, still to be looked up; or somebody known already (the command line's operator)."""

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

ATTEMPT_WINDOW = timedelta(minutes=15)
_KEY_IS_GONE = "This API key is unknown, deleted or expired."
_SIGN_IN_HAS_ENDED = "This sign-in has ended; sign in again at `/api/v1/auth/token`."
_NEW_PASSWORD = {"new_password": True}
_SEEN_EVERY = timedelta(minutes=5)
"""How often it is noted that a session is used: each note is a write."""


class NoSuchUser(NotFound):
    def __init__(self) -> None:
        super().__init__(said("There is no such user."))


class NoSuchApiKey(NotFound):
    def __init__(self) -> None:
        super().__init__(said("There is no such API key."))


class LastAdministrator(Conflict):
    def __init__(self) -> None:
        super().__init__(said("This is the last administrator; make another user one first."))


class StaleUser(Stale):
    def __init__(self) -> None:
        super().__init__(said("The user has changed since you looked; look again and repeat your change."))


class BadCredentials(Unauthenticated):
    def __init__(self) -> None:
        super().__init__(said("The email or the password is wrong."))


class Seen(NamedTuple, Generic[T]):
    """What somebody was shown of the catalogue, and when. Others may be shown the same objects: change none."""

    who: Principal
    found: T
    now: datetime
    as_of: Stamp


class Gate:
    """Opens units of work for whoever asks, so that no service can reach data without knowing who it is for."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._idle = timedelta(hours=settings.session_idle_hours)
        self._memory = Memory()

    def stamp(self) -> Stamp:
        """Names the catalogue's state: nobody's rights change without another, but those that expire."""
        return self._database.stamp()

    def knowing(self, caller: Caller, *, scope: Scope = "read") -> Seen[None]:
        """Who it is, where nothing of the catalogue is asked."""
        return self.seeing(caller, _nothing, None, scope=scope)

    def seeing(
        self,
        caller: Caller,
        question: Callable[[Connection, Principal, H], T],
        about: H,
        *,
        scope: Scope = "read",
        as_of: Stamp | None = None,
    ) -> Seen[T]:
        """The answer to a question: from memory, if nothing was committed since the same caller asked the same.

        Args:
            as_of: when the same request asked something before: what was true then is good enough.
        """
        stamp = self._database.stamp() if as_of is None else as_of
        asked = (caller, question, about)
        known: tuple[Principal, T] | None = self._memory.find(stamp, asked)
        if known is None:
            known = self._database.ask_anywhere(partial(self._answer, caller, question, about, scope))
            self._memory.keep(stamp, asked, known)
            metrics.LOOKUPS_IN_DATABASE.inc()
        else:
            metrics.LOOKUPS_IN_MEMORY.inc()
        who, found = known
        asked_by(who.user_id, who.api_key_id)
        now = self._clock()
        if who.expires_at is not None and who.expires_at <= now:
            raise Unauthenticated(_KEY_IS_GONE if who.sign_in_id is None else _SIGN_IN_HAS_ENDED)
        require_scope(who, scope)
        return Seen(who, found, now, stamp)

    def _answer(
        self,
        caller: Caller,
        question: Callable[[Connection, Principal, H], T],
        about: H,
        scope: Scope,
        connection: Connection,
    ) -> tuple[Principal, T]:
        work = self._work(connection, caller, scope)
        return work.who, question(connection, work.who, about)

    @contextmanager
    def reading(self, caller: Caller, *, scope: Scope = "read") -> Iterator[Work]:
        with self._database.read() as connection:
            yield self._work(connection, caller, scope)

    @contextmanager
    def writing(self, caller: Caller, *, scope: Scope = "write") -> Iterator[Work]:
        with self._database.write() as connection:
            yield self._work(connection, caller, scope)

    def _work(self, connection: Connection, caller: Caller, scope: Scope) -> Work:
        now = self._clock()
        who = caller if isinstance(caller, Principal) else self._identify(connection, caller, now)
        require_scope(who, scope)
        return Work(connection, who, now)

    def _identify(self, connection: Connection, credential: Credential, now: datetime) -> Principal:
        if credential.key_hash is not None:
            who = store.find_principal_by_key(connection, credential.key_hash, now)
            problem = _KEY_IS_GONE
        elif credential.session_hash is not None:
            who = store.find_principal_by_session(connection, credential.session_hash, now, idle=self._idle)
            problem = _SIGN_IN_HAS_ENDED
        else:
            who = store.find_principal_by_sign_in(connection, credential.sign_in_id or 0)
            problem = _SIGN_IN_HAS_ENDED
        if who is None:
            raise Unauthenticated(problem)
        asked_by(who.user_id, who.api_key_id)
        return who


def _nothing(_connection: Connection, _who: Principal, _about: None) -> None: ...


class SignIns:
    """Signing in with a password, staying signed in with refresh tokens, signing out."""

    def __init__(self, database: Database, gate: Gate, settings: Settings, signing_key: str, clock: Clock) -> None:
        self._database = database
        self._gate = gate
        self._signing_key = signing_key
        self._clock = clock
        self._access_life = timedelta(minutes=settings.access_token_minutes)
        self._refresh_life = timedelta(days=settings.refresh_token_days)
        self._most_attempts = settings.login_attempts
        self._session_idle = timedelta(hours=settings.session_idle_hours)
        self._session_life = timedelta(days=settings.session_days)

    def read_credential(self, bearer: str) -> Credential:
        return secrets.read_credential(bearer, signing_key=self._signing_key, now=self._clock())

    def sign_in(self, email: str, password: str, *, address: str, agent: str | None = None) -> Tokens:
        """Tokens for an email and password, from the client at `address`, which is the program `agent`.

        Raises:
            Unauthenticated: one of them is wrong; which, is not said.
            TooMany: too many failures of this account or address in the last 15 minutes.
        """
        return self._sign_in(email, password, address, agent, self._tokens)

    def open_page_session(
        self, email: str, password: str, *, address: str, before: str | None, agent: str | None = None
    ) -> str:
        """What a browser's cookie is to hold, for an email and password; raises as `sign_in` does.

        Args:
            before: what it held, if anything: the sign-in that this was of ends.
        """

        def begin(connection: Connection, sign_in_id: int, _user_id: int, now: datetime) -> str:
            if before is not None:
                store.end_sign_in_of_session(connection, secrets.hash_token(before), now)
            token = secrets.new_token()
            expires_at = now + self._session_life
            store.add_page_session(connection, secrets.hash_token(token), sign_in_id, expires_at=expires_at, now=now)
            return token

        return self._sign_in(email, password, address, agent, begin)

    def _sign_in(
        self,
        email: str,
        password: str,
        address: str,
        agent: str | None,
        begin: Callable[[Connection, int, int, datetime], T],
    ) -> T:
        email = email.strip().casefold()
        now = self._clock()
        attempts = self._count_attempt(email, address, now)
        with self._database.read() as connection:
            found = store.find_password(connection, email)
        matches = secrets.password_matches(password, found[1] if found else None)
        if not matches or found is None:
            raise BadCredentials
        asked_by(found[0])
        with self._database.write() as connection:
            if store.find_password(connection, email) != found:  # changed while it was checked
                raise BadCredentials
            store.delete_attempts(connection, attempts)
            store.forget_expired_tokens(connection, now)
            sign_in_id = store.add_sign_in(connection, found[0], now, agent=agent)
            return begin(connection, sign_in_id, found[0], now)

    def visit(self, token: str) -> Credential:
        """The credential of a browser whose cookie holds this. Raises `Unauthenticated` if its session ended."""
        credential = Credential(session_hash=secrets.hash_token(token))
        seen = self._gate.knowing(credential)
        noted = seen.who.session_seen_at
        if noted is None or seen.now - noted >= min(_SEEN_EVERY, self._session_idle / 10):
            with self._database.write() as connection:
                store.touch_page_session(connection, secrets.hash_token(token), seen.now)
        return credential

    def seal(self, purpose: str, text: str) -> str:
        """What nobody else can make of this text: forms carry that of their session's token."""
        return secrets.seal(self._signing_key, purpose, text)

    def list_sign_ins(self, caller: Caller) -> list[SignIn]:
        """The caller's own that can still be used, the newest first."""
        with self._gate.reading(caller) as work:
            found = store.sign_ins_of_user(work.connection, work.who.user_id, work.now, idle=self._session_idle)
            current = work.who.sign_in_id
            return [msgspec.structs.replace(sign_in, is_current=sign_in.id == current) for sign_in in found]

    def end_others(self, caller: Caller) -> int:
        """End all of the caller's sign-ins but the one that asks; how many that were."""
        with self._gate.writing(caller) as work:
            who = _signed_in(work.who)
            usable = store.sign_ins_of_user(work.connection, who.user_id, work.now, idle=self._session_idle)
            store.end_sign_ins(work.connection, work.now, user_id=who.user_id, but_for=who.sign_in_id)
            return sum(sign_in.id != who.sign_in_id for sign_in in usable)

    def change_password(self, caller: Caller, *, old: str, new: str, address: str) -> None:
        """Change the caller's own; all other sign-ins end.

        Raises:
            Invalid: the old password is wrong.
            TooMany: it was wrong too often in the last 15 minutes, here or at signing in.
        """
        with self._gate.reading(caller, scope="write") as work:
            who = _signed_in(work.who)
            before = store.password_hash_of(work.connection, who.user_id)
        attempts = self._count_attempt(who.email, address, work.now)
        if not secrets.password_matches(old, before):
            raise invalid("old", said("This is not your password."))
        password_hash = secrets.hash_password(new)
        with self._gate.writing(caller) as work:
            if store.password_hash_of(work.connection, who.user_id) != before:  # changed while it was checked
                raise invalid("old", said("This is not your password."))
            store.delete_attempts(work.connection, attempts)
            store.change_user(work.connection, who.user_id, {"password_hash": password_hash})
            store.end_sign_ins(work.connection, work.now, user_id=who.user_id, but_for=who.sign_in_id)
            audit.record(work, None, "user_changed", who.email, _NEW_PASSWORD)

    def keep_form(self, caller: Caller, name: str, fields: Mapping[str, str]) -> None:
        """Keep what the caller typed, for a while; no passwords."""
        with self._gate.writing(caller, scope="read") as work:
            remember(work.connection, _form_kept(name), dict(fields), user_id=work.who.user_id, now=work.now)

    def kept_form(self, caller: Caller, name: str) -> dict[str, str] | None:
        """What the caller typed and was kept under this name, if it still is."""
        with self._gate.reading(caller) as work:
            return recall(
                work.connection,
                _form_kept(name),
                user_id=work.who.user_id,
                answer_type=dict[str, str],
                now=work.now,
            )

    def refresh(self, refresh_token: str) -> Tokens:
        """New tokens for a refresh token, which is used up. A second use ends the sign-in: one was stolen."""
        token_hash = secrets.hash_token(refresh_token)
        now = self._clock()
        with self._database.write() as connection:
            found = store.find_sign_in_of_token(connection, token_hash)
            if found is not None and found[3] is None and found[2] > now:
                sign_in_id, user_id, *_ = found
                if store.use_refresh_token(connection, token_hash, now):
                    return self._tokens(connection, sign_in_id, user_id, now)
                store.end_sign_ins(connection, now, sign_in_id=sign_in_id)
        # Raised outside of the transaction, so that the end of the sign-in is committed.
        raise Unauthenticated("The refresh token is not valid any more; sign in again at `/api/v1/auth/token`.")

    def sign_out(self, caller: Caller) -> None:
        with self._gate.writing(caller, scope="read") as work:
            if work.who.sign_in_id is None:
                raise Forbidden("An API key does not sign in or out; delete it at `/api/v1/me/api-keys/{id}`.")
            store.end_sign_ins(work.connection, work.now, sign_in_id=work.who.sign_in_id)

    def _tokens(self, connection: Connection, sign_in_id: int, user_id: int, now: datetime) -> Tokens:
        refresh_token = secrets.new_token()
        store.add_refresh_token(connection, secrets.hash_token(refresh_token), sign_in_id, now + self._refresh_life)
        token = secrets.access_token(
            sign_in_id, user_id, signing_key=self._signing_key, now=now, life=self._access_life
        )
        return Tokens(token, refresh_token, expires_in=int(self._access_life.total_seconds()))

    def _count_attempt(self, email: str, address: str, now: datetime) -> list[int]:
        """Count it before the password is checked (many at once can't slip through); a success takes it back."""
        most = {
            f"account {email} from {address}": self._most_attempts,
            f"account {email}": 5 * self._most_attempts,
            f"address {address}": 10 * self._most_attempts,
        }
        with self._database.write() as connection:
            take_turns(connection, "sign-in attempts")
            store.forget_attempts(connection, now - ATTEMPT_WINDOW)
            counts = store.count_attempts(connection, list(most), now - ATTEMPT_WINDOW, until=now + ATTEMPT_WINDOW)
            if any(counts.get(subject, 0) >= limit for subject, limit in most.items()):
                minutes = int(ATTEMPT_WINDOW.total_seconds()) // 60
                raise TooMany(
                    said("Too many failed sign-ins; try again in %(minutes)d minutes.", minutes=minutes),
                    retry_after_s=int(ATTEMPT_WINDOW.total_seconds()),
                )
            return store.add_attempts(connection, list(most), now)


class Accounts:
    """Users and their grants, for administrators; oneself and one's API keys, for everyone."""

    def __init__(self, gate: Gate, settings: Settings, signing_key: str) -> None:
        self._gate = gate
        self._signing_key = signing_key
        self._idle = timedelta(hours=settings.session_idle_hours)

    def me(self, caller: Caller) -> Me:
        return self._gate.seeing(caller, _me, None).found

    def require_administrator(self, caller: Caller) -> None:
        """Raises `Forbidden` for everyone else."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)

    # ── users ──

    def list_users(self, caller: Caller, page: PageRequest, *, words: str | None) -> Page[User]:
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return page_of(store.page_users(work.connection, page, words=words), page, id_of=lambda user: user.id)

    def get_user(self, caller: Caller, user_id: int) -> User:
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return _user(work.connection, user_id)

    def create_user(
        self, caller: Caller, *, email: str, name: str, password: str, is_admin: bool, once: Once | None = None
    ) -> User:
        password_hash = secrets.hash_password(password)
        with self._gate.writing(caller) as work:
            require_admin(work.who)

            def create() -> User:
                _refuse_taken_email(work.connection, email)
                user_id = store.add_user(
                    work.connection,
                    email=email,
                    name=name,
                    password_hash=password_hash,
                    is_admin=is_admin,
                    now=work.now,
                )
                audit.record(work, None, "user_created", email, {"name": name, "is_admin": is_admin})
                return _user(work.connection, user_id)

            return run_once(
                work.connection, create, once=once, user_id=work.who.user_id, answer_type=User, now=work.now
            )

    def create_first_administrator(self, caller: Caller, *, email: str, name: str, password: str) -> User | None:
        """The administrator of a new installation; `None` if there is one already. Of several at once, one makes it."""
        password_hash = secrets.hash_password(password)
        with self._gate.writing(caller) as work:
            require_admin(work.who)
            take_turns(work.connection, "first administrator")
            if store.lock_admins(work.connection):
                return None
            _refuse_taken_email(work.connection, email)
            user_id = store.add_user(
                work.connection, email=email, name=name, password_hash=password_hash, is_admin=True, now=work.now
            )
            audit.record(work, None, "user_created", email, {"name": name, "is_admin": True})
            return _user(work.connection, user_id)

    def change_user(
        self, caller: Caller, user_id: int, changes: dict[str, object], *, if_match: str | None = None
    ) -> User:
        """Change `email`, `name`, `is_admin` or `password`; a new password ends all of the user's sign-ins.

        Args:
            if_match: the user's `user_etag` that was read.
        """
        values = dict(changes)
        if "password" in values:
            values["password_hash"] = secrets.hash_password(str(values.pop("password")))
        with self._gate.writing(caller) as work:
            require_admin(work.who)
            user = _user(work.connection, user_id)
            _refuse_stale(user, if_match)
            if "email" in values and values["email"] != user.email:
                _refuse_taken_email(work.connection, str(values["email"]))
            if user.is_admin and values.get("is_admin") is False:
                _keep_an_administrator(work.connection, user_id)
            if values:
                store.change_user(work.connection, user_id, values)
            if "password_hash" in values:
                store.end_sign_ins(work.connection, work.now, user_id=user_id)
            after = _user(work.connection, user_id)
            more = _NEW_PASSWORD if "password_hash" in values else None
            audit.record_changes(work, None, "user_changed", user.email, before=user, after=after, more=more)
            return after

    def delete_user(self, caller: Caller, user_id: int, *, if_match: str | None = None) -> None:
        """Raises `LastAdministrator` if nobody would be left to administer."""
        with self._gate.writing(caller) as work:
            require_admin(work.who)
            user = _user(work.connection, user_id)
            _refuse_stale(user, if_match)
            if user.is_admin:
                _keep_an_administrator(work.connection, user_id)
            weight = store.weigh_user(work.connection, user_id, work.now, idle=self._idle)
            store.delete_user(work.connection, user_id)
            details = {"name": user.name, "grants": weight.grants, "api_keys": weight.api_keys}
            audit.record(work, None, "user_deleted", user.email, details)

    def weigh_user(self, caller: Caller, user_id: int) -> UserWeight:
        """What belongs to a user and would go with them."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            _user(work.connection, user_id)
            return store.weigh_user(work.connection, user_id, work.now, idle=self._idle)

    def grants_among(self, caller: Caller, user_ids: Sequence[int], site_ids: Sequence[int]) -> dict[Cell, Role]:
        """A part of the matrix of users and sites: the roles that there are. At most some hundreds of each."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return grants_among(work.connection, user_ids, site_ids)

    def list_audit(self, caller: Caller, page: PageRequest, *, wanted: AuditFilter) -> Page[AuditEntry]:
        """Who changed what, at all sites and beside them, the newest first."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return audit.page_of_log(work.connection, page, wanted)

    def user_id_of(self, caller: Caller, email: str) -> int:
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            user = store.find_user_by_email(work.connection, email.strip().casefold())
            if user is None:
                raise NoSuchUser
            return user.id

    # ── API keys ──

    def list_api_keys(self, caller: Caller, page: PageRequest) -> Page[ApiKey]:
        with self._gate.reading(caller) as work:
            return page_of(store.page_api_keys(work.connection, work.who.user_id, page), page, id_of=lambda key: key.id)

    def create_api_key(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: list[Scope],
        site_id: int | None,
        expires_at: datetime | None,
        once: Once | None,
    ) -> NewApiKey:
        with self._gate.writing(caller) as work:
            who = _signed_in(work.who)
            fresh = secrets.new_api_key()

            def secret_made_at(moment: datetime) -> str:
                if once is None:
                    return fresh
                parts = (str(who.user_id), once.key, once.fingerprint, moment.isoformat())
                return secrets.repeatable_api_key(self._signing_key, *parts)

            def create() -> ApiKey:
                _check_key(work, site_id=site_id, expires_at=expires_at)
                secret = secret_made_at(work.now)
                values: dict[str, Any] = {
                    "name": name,
                    "prefix": secret[:9],
                    "scopes": scopes,
                    "site_id": site_id,
                    "created_at": work.now,
                    "expires_at": expires_at,
                }
                owned = values | {"user_id": who.user_id, "key_hash": secrets.hash_token(secret)}
                return ApiKey(id=store.add_api_key(work.connection, owned), **values)

            key = run_once(work.connection, create, once=once, user_id=who.user_id, answer_type=ApiKey, now=work.now)
            return NewApiKey(**msgspec.structs.asdict(key), key=secret_made_at(key.created_at))

    def delete_api_key(self, caller: Caller, key_id: int) -> None:
        with self._gate.writing(caller) as work:
            if not store.delete_api_key(work.connection, _signed_in(work.who).user_id, key_id):
                raise NoSuchApiKey


# ── grants: called by the facility room, which knows whether the site is there ───────────────────────────────────────


def list_grants(connection: Connection, site_id: int, page: PageRequest) -> Page[Grant]:
    rows = store.page_grants_of_site(connection, site_id, page)
    return page_of(rows, page, id_of=lambda grant: grant.user_id)


def put_grant(connection: Connection, user_id: int, site_id: int, role: Role) -> Grant:
    _user(connection, user_id)
    store.put_grant(connection, user_id, site_id, role)
    return Grant(user_id, site_id, role)


def delete_grant(connection: Connection, user_id: int, site_id: int) -> None:
    if not store.delete_grant(connection, user_id, site_id):
        raise NotFound(said("This user has no grant at this site."))


def grant_of(connection: Connection, user_id: int, site_id: int) -> tuple[str, Role | None]:
    """A user's email and role at a site, if there is one."""
    grants = store.grants_of_user(connection, user_id, only_site_id=site_id)
    return _user(connection, user_id).email, grants[0].role if grants else None


def population(connection: Connection, now: datetime, *, idle: timedelta) -> Population:
    return store.population(connection, now, idle=idle)


def grants_among(connection: Connection, user_ids: Sequence[int], site_ids: Sequence[int]) -> dict[Cell, Role]:
    """The roles of these users at these sites, where they have one."""
    grants = store.grants_among(connection, user_ids, site_ids)
    return {Cell(grant.user_id, grant.site_id): grant.role for grant in grants}


def lock_users(connection: Connection, user_ids: Sequence[int]) -> dict[int, str]:
    """The emails of those of the users that are there; they stay until the transaction ends."""
    return store.lock_users(connection, sorted(user_ids))


def take_grant(connection: Connection, user_id: int, site_id: int) -> None:
    store.delete_grant(connection, user_id, site_id)


def user_etag(user: User) -> str:
    """Another one if anything of the user that is shown is another."""
    return f'"{secrets.hash_token(msgspec.json.encode(user).decode())[:16]}"'


def _form_kept(name: str) -> Once:
    return Once(f"kept-form-{name}", "")


def _me(connection: Connection, who: Principal, _about: None) -> Me:
    grants = store.grants_of_user(connection, who.user_id, only_site_id=who.only_site_id)
    return Me(who.user_id, who.email, who.name, who.is_admin, grants)


def _user(connection: Connection, user_id: int) -> User:
    user = store.find_user(connection, user_id)
    if user is None:
        raise NoSuchUser
    return user


def _refuse_stale(user: User, if_match: str | None) -> None:
    if if_match is not None and if_match != user_etag(user):
        raise StaleUser


def _refuse_taken_email(connection: Connection, email: str) -> None:
    if store.find_user_by_email(connection, email) is not None:
        raise conflict("email", said("There is a user with this email already."))


def _keep_an_administrator(connection: Connection, user_id: int) -> None:
    if store.lock_admins(connection) == [user_id]:
        raise LastAdministrator


def _signed_in(who: Principal) -> Principal:
    if who.sign_in_id is None:
        raise Forbidden(said("An API key can't do this; sign in with a password."))
    return who


def _check_key(work: Work, *, site_id: int | None, expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= work.now:
        raise invalid("expires_at", said("This time has passed already."))
    if site_id is None:
        return
    seen = (
        store.site_exists(work.connection, site_id)
        if work.who.is_admin
        else bool(store.grants_of_user(work.connection, work.who.user_id, only_site_id=site_id))
    )
    if not seen:
        raise invalid("site_id", said("There is no such site."))
