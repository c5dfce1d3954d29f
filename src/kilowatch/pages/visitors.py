"""Who asks for a page: the session that a cookie names; and whether a form was sent by a page of ours."""

import hmac
import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request, Response

from kilowatch.auth.browsers import is_from_us, session_cookie
from kilowatch.auth.routes import AccountService, SignInService
from kilowatch.errors import Forbidden, Unauthenticated
from kilowatch.kit.idempotency import Once
from kilowatch.kit.web import CatalogueLane
from kilowatch.pages.rendering import Visitor, cookie_manners
from kilowatch.pages.words import N_

FORM_TOKEN = "form_token"  # noqa: S105 - a field's name
ONCE = "once"
FORGED = N_("This form was not sent by a page of Kilowatch, or your session has changed since; open the page again.")
_MOST_FIELDS = 400


def set_session(request: Request, response: Response, token: str) -> None:
    """For as long as the browser is open, and the server says."""
    response.set_cookie(session_cookie(request), token, **cookie_manners(request))


def forget_session(request: Request, response: Response) -> None:
    response.delete_cookie(session_cookie(request), **cookie_manners(request))


async def visitor(request: Request, sign_ins: SignInService, accounts: AccountService, lane: CatalogueLane) -> Visitor:
    """Whoever is signed in. Raises `Unauthenticated` if nobody is."""
    token = request.cookies.get(session_cookie(request), "")
    if not token:
        raise Unauthenticated("Sign in to see this page.")
    credential = await lane.run_quickly(sign_ins.visit, token)
    me = await lane.run_quickly(accounts.me, credential)
    found = Visitor(credential, me, sign_ins.seal("form", token))
    request.state.visitor = found
    return found


SignedIn = Annotated[Visitor, Depends(visitor)]
Sent = Mapping[str, str]
"""What a form sent: its fields' texts. Of a field that was sent several times the last."""


async def sent_by_visitor(request: Request, who: SignedIn) -> Sent:
    """A form of the session's own. Raises `Forbidden` if it does not carry the session's token."""
    _refuse_other_origins(request)
    sent = await _sent(request)
    if not hmac.compare_digest(sent.get(FORM_TOKEN, "").encode(), who.form_token.encode()):
        raise Forbidden(FORGED)
    return sent


async def sent_by_anyone(request: Request) -> Sent:
    """A form that needs no session. Raises `Forbidden` if the browser does not say that a page of ours sent it."""
    if not _refuse_other_origins(request):
        raise Forbidden(FORGED)
    return await _sent(request)


OwnForm = Annotated[Sent, Depends(sent_by_visitor)]
AnyForm = Annotated[Sent, Depends(sent_by_anyone)]


async def _sent(request: Request) -> Sent:
    form = await request.form(max_fields=_MOST_FIELDS, max_files=0)
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _refuse_other_origins(request: Request) -> bool:
    """Raises `Forbidden` if the browser says that another site sent it; false if it says nothing."""
    is_ours = is_from_us(request)
    if is_ours is False:
        raise Forbidden(FORGED)
    return is_ours is True


def once_of(request: Request, sent: Sent) -> Once | None:
    """A form that is sent again (a double click, a reload) does nothing again; changed, it is another."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", sent.get(ONCE, "")):
        return None
    parts = [text for item in sorted(sent.items()) for text in item]
    fingerprint = Once.of("", request.url.path, *parts).fingerprint
    return Once(f"page-{sent[ONCE]}-{fingerprint[:32]}", fingerprint)


def local_path(text: str) -> str:
    """A path of ours to go on to, or `/` for anything that a browser might take for another site's address."""
    is_local = re.fullmatch(r"/(?![/\\])[^\x00-\x20\x7f\\]*", text) is not None and len(text) <= 2000
    return text if is_local else "/"
