"""Errors as pages, where a browser asked for a page."""

from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import Request, Response

from kilowatch.auth.browsers import session_cookie
from kilowatch.errors import Fault
from kilowatch.pages.forms import Field, Form, Group, translated
from kilowatch.pages.rendering import fragment_of, go_to, language_of, render
from kilowatch.pages.visitors import asked_path, forget_session, local_path
from kilowatch.pages.words import N_, Language

SIGN_IN = Form(
    (
        Group(
            "",
            (
                Field("email", N_("Email"), "email", required=True, attributes={"autocomplete": "username"}),
                Field(
                    "password",
                    N_("Password"),
                    "password",
                    required=True,
                    attributes={"autocomplete": "current-password"},
                ),
            ),
        ),
    )
)
_TITLES = {
    400: N_("This request can't be read"),
    403: N_("You may not do this"),
    404: N_("There is no such page"),
    405: N_("This can't be done here"),
    409: N_("This clashes with what is stored"),
    412: N_("Somebody changed this in the meantime"),
    413: N_("That is too much at once"),
    422: N_("Something in this address is wrong"),
    429: N_("Too many attempts"),
    503: N_("A part of Kilowatch does not answer"),
}
_WENT_WRONG = N_("Something went wrong on our side")
_NOT_SO = N_("A form or an address was used in a way that it is not made for.")
_NOT_HERE = N_("It may never have been here, or it is not for you to see.")


def problem_page(
    request: Request, status: int, detail: str, faults: tuple[Fault, ...], headers: dict[str, str]
) -> Response:
    """Who has to sign in is sent there; everyone else is told what went wrong, and how to go on."""
    if status == HTTPStatus.UNAUTHORIZED:
        return _sign_in_first(request)
    if faults and all(fault.place == "path" for fault in faults):
        status = HTTPStatus.NOT_FOUND  # an address with a number that can't be one
    language = language_of(request)
    response = render(
        request,
        "problem.html",
        status=status,
        problem_status=status,
        title=language.texts.gettext(_TITLES.get(status, _WENT_WRONG)),
        detail=_told(status, detail, faults, language),
        request_id=getattr(request.state, "request_id", None) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None,
    )
    headers.pop("WWW-Authenticate", None)
    response.headers.update(headers)
    return response


def _told(status: int, detail: str, faults: tuple[Fault, ...], language: Language) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return language.told(_NOT_HERE)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return language.told(_NOT_SO)
    if faults:
        return " ".join(translated(fault.detail, language) for fault in faults[:3])
    return translated(detail, language)


def sign_in_page(
    request: Request, *, onward: str, form: Form = SIGN_IN, unsent: str = "", status: int = 200
) -> Response:
    """The page to sign in.

    Args:
        onward: the path to go on to.
        unsent: a form that came too late, sealed.
    """
    return render(request, "sign-in.html", status=status, form=form, onward=onward, unsent=unsent)


def _sign_in_first(request: Request) -> Response:
    page = fragment_of(request)
    unsent = getattr(request.state, "unsent", None)
    onward = asked_path(request) if page is None else local_path(page)
    address = "/sign-in" if onward == "/" else "/sign-in?" + urlencode({"next": onward})
    if page is not None:  # a redirect's answer would be put where the part of the page is
        response = Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"HX-Redirect": address})
    elif unsent is not None:
        response = sign_in_page(request, onward=onward, unsent=unsent, status=HTTPStatus.UNAUTHORIZED)
    else:
        response = go_to(request, address)
    if session_cookie(request) in request.cookies:
        forget_session(request, response)
    return response
