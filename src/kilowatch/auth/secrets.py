"""Passwords, tokens and keys: how they are made, hashed and checked."""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from functools import lru_cache

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from kilowatch.auth.model import Credential
from kilowatch.errors import Unauthenticated
from kilowatch.kit.text import MAX_ID

API_KEY_PREFIX = "kw_"
_ALGORITHM = "HS256"
_AUDIENCE = "kilowatch"

# OWASP's second recommended setting for argon2id: 19 MiB, 2 passes, 1 lane.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    return _hasher.hash("what a sign-in to an account that does not exist is checked against")


def hash_password(password: str) -> str:
    return _hasher.hash(password)


def password_matches(password: str, password_hash: str | None) -> bool:
    """Whether it matches; takes as long for an account that does not exist (`None`) as for one that does."""
    try:
        _hasher.verify(password_hash or _nobodys_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def hash_token(token: str) -> str:
    """SHA-256 is enough for what has 256 random bits; a slow hash is for what people can remember."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    return secrets.token_urlsafe(32)


def new_api_key() -> str:
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def repeatable_api_key(signing_key: str, *parts: str) -> str:
    """The key for a request that may be sent again (`Idempotency-Key`): it need not be stored to be shown once more."""
    digest = hmac.new(signing_key.encode(), "\x00".join(("api-key", *parts)).encode(), hashlib.sha256)
    return API_KEY_PREFIX + digest.hexdigest()


def seal(signing_key: str, purpose: str, text: str) -> str:
    """What only we can make of a text; for each purpose another."""
    return hmac.new(signing_key.encode(), f"{purpose}\x00{text}".encode(), hashlib.sha256).hexdigest()


def access_token(sign_in_id: int, user_id: int, *, signing_key: str, now: datetime, life: timedelta) -> str:
    claims = {"sub": str(user_id), "sid": sign_in_id, "iat": now, "exp": now + life, "aud": _AUDIENCE}
    return jwt.encode(claims, signing_key, algorithm=_ALGORITHM)


def read_credential(bearer: str, *, signing_key: str, now: datetime) -> Credential:
    """What a bearer token says, its signature and expiry checked. Raises `Unauthenticated`."""
    if bearer.startswith(API_KEY_PREFIX):
        return Credential(key_hash=hash_token(bearer))
    try:
        claims = jwt.decode(
            bearer,
            signing_key,
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            options={"require": ["exp", "sub", "sid"], "verify_exp": False, "verify_iat": False},
        )
        sign_in_id, expires = int(claims["sid"]), float(claims["exp"])
        if not 0 < sign_in_id <= MAX_ID:
            raise ValueError("no sign-in has this number")
    except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError) as error:
        raise Unauthenticated("The access token is not valid; sign in again at `/api/v1/auth/token`.") from error
    if expires <= now.timestamp():
        raise Unauthenticated("The access token has expired; get a new one at `/api/v1/auth/refresh`.")
    return Credential(sign_in_id=sign_in_id)
