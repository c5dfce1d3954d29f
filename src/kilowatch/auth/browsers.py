"""What a browser sends along: the cookie that its session is in, and which site made it ask."""

from urllib.parse import urlsplit

from fastapi import Request

FORM_TOKEN_HEADER = "X-Form-Token"  # noqa: S105 - a header's name
"""Carries what the forms of a session carry, where a script of our pages changes something."""

SESSION_COOKIES = ("__Host-kilowatch_session", "kilowatch_session")
"""Behind TLS, and without. Of the first one the browser itself refuses any that another host set."""


def session_cookie(request: Request) -> str:
    """Its name."""
    return SESSION_COOKIES[0] if request.url.scheme == "https" else SESSION_COOKIES[1]


def is_from_us(request: Request) -> bool | None:
    """Whether the browser says that a page of ours, or the person itself, made it ask; `None` if it says nothing."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
    return None
