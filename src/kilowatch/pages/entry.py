"""Signing in and out, and how pages look."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from kilowatch.auth.agents import summary_of
from kilowatch.auth.browsers import session_cookie
from kilowatch.auth.routes import AccountService, PasswordLane, SignInService
from kilowatch.auth.service import BadCredentials
from kilowatch.errors import TooMany
from kilowatch.kit.text import PRINTABLE
from kilowatch.kit.web import CatalogueLane
from kilowatch.pages.problems import SIGN_IN, sign_in_page
from kilowatch.pages.rendering import LANGUAGE_COOKIE, THEME_COOKIE, THEMES, cookie_manners, go_to, language_of, render
from kilowatch.pages.visitors import (
    AnyForm,
    OwnForm,
    SignedIn,
    forget_session,
    keep,
    local_path,
    set_session,
    unsent_in,
)
from kilowatch.pages.words import LANGUAGES

router = APIRouter()

_MOST_EMAIL, _MOST_PASSWORD = 254, 200
_YEAR_S = 365 * 86_400
Next = Annotated[str, Query(alias="next", max_length=4000)]


@router.get("/")
async def start(request: Request, _who: SignedIn) -> Response:
    return go_to(request, "/sites")


@router.get("/sign-in")
async def show_sign_in(request: Request, onward: Next = "/") -> Response:
    return sign_in_page(request, onward=local_path(onward))


@router.post("/sign-in")
async def sign_in(
    request: Request,
    sign_ins: SignInService,
    accounts: AccountService,
    lane: PasswordLane,
    catalogue_lane: CatalogueLane,
    sent: AnyForm,
) -> Response:
    """A new session, whatever the browser's cookie held before; then on to the page that was asked for.

    A form that came too late is shown there again, filled, if the same user signs in; it is not sent.
    """
    email, password, onward = sent.get("email", ""), sent.get("password", ""), local_path(sent.get("next", "/"))
    address = request.client.host if request.client else "unknown"
    try:
        if len(email) > _MOST_EMAIL or len(password) > _MOST_PASSWORD or not re.match(PRINTABLE, email):
            raise BadCredentials  # none of ours is such a one
        before = request.cookies.get(session_cookie(request))
        agent = summary_of(request.headers.get("user-agent", ""))
        token = await lane.run(sign_ins.open_page_session, email, password, address=address, before=before, agent=agent)
    except (BadCredentials, TooMany) as error:
        form = SIGN_IN.typed({"email": email}).wrong(error, language_of(request))
        status = 429 if isinstance(error, TooMany) else 401
        response = sign_in_page(request, onward=onward, form=form, status=status, unsent=sent.get("unsent", ""))
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    unsent = unsent_in(sign_ins, sent.get("unsent", ""))
    if unsent is not None:
        onward = await keep(request, unsent, token=token, accounts=accounts, lane=catalogue_lane) or onward
    response = go_to(request, onward)
    set_session(request, response, token)
    return response


@router.post("/sign-out")
async def sign_out(
    request: Request, sign_ins: SignInService, lane: CatalogueLane, who: SignedIn, _sent: OwnForm
) -> Response:
    await lane.run(sign_ins.sign_out, who.credential)
    response = go_to(request, "/sign-in", flash=language_of(request).texts.gettext("You are signed out."))
    forget_session(request, response)
    return response


@router.get("/display")
async def show_display(request: Request, onward: Next = "/") -> Response:
    return render(request, "display.html", themes=THEMES, onward=local_path(onward))


@router.post("/display")
async def set_display(request: Request, sent: AnyForm) -> Response:
    """Language and theme, kept in this browser; what is not known is left as it is."""
    response = go_to(request, local_path(sent.get("next", "/")))
    for name, cookie, known in (("language", LANGUAGE_COOKIE, LANGUAGES), ("theme", THEME_COOKIE, THEMES)):
        if sent.get(name) in known:
            response.set_cookie(cookie, sent[name], max_age=_YEAR_S, **cookie_manners(request))
    return response
