"""How a receiver knows that a request is ours: HMAC-SHA256 over the time and the body."""

import hashlib
import hmac
import secrets


def new_nonce() -> str:
    return secrets.token_hex(16)


def secret_of(nonce: str, *, signing_key: str) -> str:
    """The secret of a webhook: worked out anew when it is needed, so that no table has it."""
    digest = hmac.new(signing_key.encode(), f"webhook\x00{nonce}".encode(), hashlib.sha256)
    return "whsec_" + digest.hexdigest()


def signature(body: bytes, *, secret: str, sent_at: int) -> str:
    """The value of the header `Kilowatch-Signature`; `sent_at` is in seconds since 1970."""
    digest = hmac.new(secret.encode(), f"{sent_at}.".encode() + body, hashlib.sha256)
    return f"t={sent_at},v1={digest.hexdigest()}"
