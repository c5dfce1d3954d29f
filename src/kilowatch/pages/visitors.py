"""Who asks for a page: the session that a cookie names; and whether a form was sent by a page of ours."""

import base64
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Depends, Request, Response

from kilowatch.auth.browsers import is_from_us, session_cookie
from kilowatch.auth.routes import AccountService, SignInService
from kilowatch.auth.service import SignIns
from kilowatch.errors import Forbidden, Unauthenticated, said
from kilowatch.kit.idempotency import Once
from kilowatch.kit.web import CatalogueLane
from kilowatch.pages.rendering import Visitor, cookie_manners
from kilowatch.pages.words import N_

FORM_TOKEN = "form_token"  # noqa: S105 - a field's name
FORM_OWNER = "form_owner"
ONCE = "once"
VERSION = "version"
KEPT = "kept"
"""In an address: the name by which a form is kept that came after its session had ended."""

SECRETS = ("password", "old", "new", "again")
"""The fields that hold passwords, which are not kept anywhere."""

_NEVER_KEPT = {*SECRETS, FORM_TOKEN, FORM_OWNER, ONCE, "username"}
_MOST_KEPT = 60_000
FORGED = N_("This form was not sent by a page of Kilowatch, or your session has changed since; open the page again.")
_MOST_FIELDS = 400


def set_session(request: Request, response: Response, token: str) -> None:
    """For as long as the browser is open, and the server says."""
    response.set_cookie(session_cookie(request), token, **cookie_manners(request))


def forget_session(request: Request, response: Response) -> None:
    response.delete_cookie(session_cookie(request), **cookie_manners(request))


async def visitor(request: Request, sign_ins: SignInService, accounts: AccountService, lane: CatalogueLane) -> Visitor:
    """Whoever is signed in. Raises `Unauthenticated` if nobody is; what a form of theirs said is kept meanwhile."""
    token = request.cookies.get(session_cookie(request), "")
    if not token:
        raise Unauthenticated(said("Sign in to see this page."))
    try:
        credential = await lane.run_quickly(sign_ins.visit, token)
    except Unauthenticated:
        request.state.unsent = await _unsent(request, sign_ins, token)
        raise
    me = await lane.run_quickly(accounts.me, credential)
    found = Visitor(credential, me, sign_ins.seal("form", token), _owner(sign_ins, me.id, token))
    request.state.visitor = found
    kept = request.query_params.get(KEPT, "")
    if request.method == "GET" and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kept):
        request.state.kept = await lane.run(sign_ins.kept_form, credential, kept)
    return found


def _owner(sign_ins: SignIns, user_id: int, token: str) -> str:
    """What the forms of a session carry to say whose they are once it has ended."""
    return f"{user_id}-{sign_ins.seal('form owner', f'{user_id} {token}')}"


async def _unsent(request: Request, sign_ins: SignIns, token: str) -> str | None:
    """What a form said that came after its session had ended, sealed, for the form to sign in; no passwords.

    `None` if it was not a form of this very session, or if there is nothing in it to keep.
    """
    if request.method != "POST" or is_from_us(request) is False:
        return None
    sent = await _sent(request)
    owner = sent.get(FORM_OWNER, "")
    user_id = owner.partition("-")[0]
    if not re.fullmatch(r"[1-9][0-9]{0,9}", user_id, re.ASCII):
        return None
    if not hmac.compare_digest(owner.encode(), _owner(sign_ins, int(user_id), token).encode()):
        return None
    fields = {name: value for name, value in sent.items() if name not in _NEVER_KEPT}
    if not fields.keys() - {VERSION}:
        return None
    text = json.dumps({"user_id": int(user_id), "path": asked_path(request), "fields": fields})
    if len(text) > _MOST_KEPT:
        return None
    packed = base64.urlsafe_b64encode(text.encode()).decode()
    return f"{packed}.{sign_ins.seal('unsent', packed)}"


@dataclass(frozen=True, slots=True)
class Unsent:
    """A form that came too late: whose it is, where it goes, and what it said."""

    user_id: int
    path: str
    fields: dict[str, str]


def unsent_in(sign_ins: SignIns, text: str) -> Unsent | None:
    """What the form to sign in carried along; `None` for anything that is not ours."""
    packed, _, seal = text.partition(".")
    if not packed or not hmac.compare_digest(seal.encode(), sign_ins.seal("unsent", packed).encode()):
        return None
    return Unsent(**json.loads(base64.urlsafe_b64decode(packed)))


async def keep(
    request: Request, unsent: Unsent, *, token: str, accounts: AccountService, lane: CatalogueLane
) -> str | None:
    """Keep a form for whoever has just signed in, and say where it is shown again; `None` if it was not theirs."""
    sign_ins: SignIns = request.app.state.sign_ins
    credential = await lane.run(sign_ins.visit, token)
    me = await lane.run(accounts.me, credential)
    if me.id != unsent.user_id:
        return None
    name = secrets.token_urlsafe(16)
    await lane.run(sign_ins.keep_form, credential, name, unsent.fields)
    return unsent.path + ("&" if "?" in unsent.path else "?") + urlencode({KEPT: name})


def asked_path(request: Request) -> str:
    """The address that is asked for, as a link leads there."""
    query = f"?{request.url.query}" if request.url.query else ""
    return local_path(quote(request.url.path, safe="/") + query)


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
