"""My account: the password, API keys, and where I am signed in."""

import re
import secrets
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from kilowatch.auth.routes import AccountService, PasswordLane, SignInService
from kilowatch.auth.schemas import ApiKeyIn
from kilowatch.auth.service import NoSuchApiKey
from kilowatch.errors import Invalid, TooMany, invalid
from kilowatch.facility.routes import CatalogueService
from kilowatch.kit.paging import MAX_LIMIT, PageRequest, page_request
from kilowatch.kit.web import Cursor, InThread, RecordId
from kilowatch.pages.forms import LABELS, WORDS, Field, Form, Group, checked
from kilowatch.pages.rendering import go_to, language_of, render
from kilowatch.pages.visitors import OwnForm, Sent, SignedIn, once_of
from kilowatch.pages.words import N_

router = APIRouter(route_class=InThread)

_SHORTEST_PASSWORD, _LONGEST_PASSWORD = 8, 200
_LONGEST_LIFE_DAYS = 3650
_SCOPES = ("read", "write", "ingest")
_NEW_PASSWORD = {"autocomplete": "new-password", "minlength": str(_SHORTEST_PASSWORD)}
_PASSWORD = Form(
    (
        Group(
            "",
            (
                Field(
                    "old",
                    N_("Password until now"),
                    "password",
                    required=True,
                    attributes={"autocomplete": "current-password"},
                ),
                Field(
                    "new",
                    N_("New password"),
                    "password",
                    required=True,
                    hint=N_("At least 8 characters."),
                    attributes=_NEW_PASSWORD,
                ),
                Field("again", N_("New password once more"), "password", required=True, attributes=_NEW_PASSWORD),
            ),
        ),
    )
)


@router.get("/account")
def show_account(request: Request, sign_ins: SignInService, who: SignedIn) -> Response:
    return render(request, "account.html", sign_ins=sign_ins.list_sign_ins(who.credential))


@router.post("/account/end-others")
def end_others(request: Request, sign_ins: SignInService, who: SignedIn, _sent: OwnForm) -> Response:
    ended = sign_ins.end_others(who.credential)
    text = language_of(request).texts.ngettext(
        "%(num)d other sign-in was ended.", "%(num)d other sign-ins were ended.", ended
    )
    return go_to(request, "/account", flash=text % {"num": ended})


# ── password ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/account/password")
async def show_password_form(request: Request, _who: SignedIn) -> Response:
    return render(request, "password.html", form=_PASSWORD)


@router.post("/account/password")
async def change_password(
    request: Request, sign_ins: SignInService, lane: PasswordLane, who: SignedIn, sent: OwnForm
) -> Response:
    """No password is put into the page again, right or wrong."""
    address = request.client.host if request.client else "unknown"
    try:
        old, new = _passwords(sent)
        await lane.run(sign_ins.change_password, who.credential, old=old, new=new, address=address)
    except (Invalid, TooMany) as error:
        form = _PASSWORD.wrong(error, language_of(request))
        return render(request, "password.html", status=429 if isinstance(error, TooMany) else 422, form=form)
    text = language_of(request).texts.gettext("Your password was changed, and all other sign-ins were ended.")
    return go_to(request, "/account", flash=text)


def _passwords(sent: Sent) -> tuple[str, str]:
    """The old and the new one. Raises `Invalid` naming the field."""
    old, new = sent.get("old", ""), sent.get("new", "")
    if not old or len(old) > _LONGEST_PASSWORD:
        raise invalid("old", "This is not your password.")
    if len(new) < _SHORTEST_PASSWORD:
        raise invalid("new", f"String should have at least {_SHORTEST_PASSWORD} characters")
    if len(new) > _LONGEST_PASSWORD:
        raise invalid("new", f"String should have at most {_LONGEST_PASSWORD} characters")
    if sent.get("again", "") != new:
        raise invalid("again", N_("This is not the same as above."))
    return old, new


# ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/account/keys")
def list_keys(
    request: Request, accounts: AccountService, catalogue: CatalogueService, who: SignedIn, cursor: Cursor = None
) -> Response:
    page = accounts.list_api_keys(who.credential, page_request(50, cursor))
    return render(request, "keys.html", page=page, words=WORDS, sites=dict(_sites(catalogue, who)), now=_now(request))


@router.get("/account/keys/new")
def show_key_form(request: Request, catalogue: CatalogueService, who: SignedIn) -> Response:
    return _key_page(request, _key_form(catalogue, who))


def _key_page(request: Request, form: Form, *, status: int = 200) -> Response:
    return render(request, "key-form.html", status=status, form=form, once=secrets.token_urlsafe(16))


def _key_form(catalogue: CatalogueService, who: SignedIn) -> Form:
    scopes = tuple(
        Field(f"scope-{scope}", WORDS[scope], "checkbox", value="on" if scope == "ingest" else "") for scope in _SCOPES
    )
    sites = tuple((str(site_id), name) for site_id, name in _sites(catalogue, who))
    return Form(
        (
            Group(
                N_("API key"),
                (
                    Field(
                        "name",
                        LABELS["name"],
                        required=True,
                        hint=N_("What it is for, such as the gateway's name."),
                        attributes={"maxlength": "120"},
                    ),
                    Field("site_id", LABELS["site_id"], "select", options=(("", N_("all of mine")), *sites)),
                    Field(
                        "days",
                        N_("Ends after"),
                        "number",
                        unit=N_("days"),
                        hint=N_("Empty: when you delete it."),
                        attributes={"min": "1", "max": str(_LONGEST_LIFE_DAYS), "step": "1"},
                    ),
                ),
            ),
            Group(N_("It may"), scopes),
        )
    )


def _sites(catalogue: CatalogueService, who: SignedIn) -> list[tuple[int, str]]:
    """All sites that the visitor may see, however many there are."""
    found: list[tuple[int, str]] = []
    cursor = None
    while True:
        page = catalogue.list_sites(who.credential, page_request(MAX_LIMIT, cursor), words=None)
        found += [(site.id, site.name) for site in page.items]
        if page.next is None:
            return found
        cursor = page.next


@router.post("/account/keys/new")
def create_key(
    request: Request, accounts: AccountService, catalogue: CatalogueService, who: SignedIn, sent: OwnForm
) -> Response:
    """The key is in this answer alone; a reload makes no other one, but shows it again for as long as a day."""
    try:
        body = checked(ApiKeyIn, _key_values(sent))
        key = accounts.create_api_key(
            who.credential,
            name=body.name,
            scopes=sorted(set(body.scopes)),
            site_id=body.site_id,
            expires_at=_end(sent.get("days", "").strip(), now=_now(request)),
            once=once_of(request, sent),
        )
    except Invalid as error:
        form = _key_form(catalogue, who).typed(sent).wrong(error, language_of(request))
        return _key_page(request, form, status=422)
    return render(request, "key.html", key=key)


def _key_values(sent: Sent) -> dict[str, Any]:
    scopes = [scope for scope in _SCOPES if sent.get(f"scope-{scope}") == "on"]
    if not scopes:
        raise invalid("scopes", N_("Choose at least one thing that the key may do."))
    site_id = sent.get("site_id", "")
    known = int(site_id) if re.fullmatch(r"[0-9]{1,9}", site_id, re.ASCII) else site_id or None
    return {"name": sent.get("name", ""), "scopes": scopes, "site_id": known}


def _end(days: str, *, now: datetime) -> datetime | None:
    if not days:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", days, re.ASCII) or not 1 <= int(days) <= _LONGEST_LIFE_DAYS:
        raise invalid("days", N_("Must be a whole number of days, from 1 to 3650."))
    return now + timedelta(days=int(days))


def _now(request: Request) -> datetime:
    now: datetime = request.app.state.services.now()
    return now


@router.get("/account/keys/{key_id}/delete")
def confirm_key_deletion(request: Request, accounts: AccountService, who: SignedIn, key_id: RecordId) -> Response:
    page = accounts.list_api_keys(who.credential, PageRequest(limit=1, after_id=key_id - 1))
    key = next((key for key in page.items if key.id == key_id), None)
    if key is None:
        raise NoSuchApiKey
    return render(request, "delete-key.html", key=key)


@router.post("/account/keys/{key_id}/delete")
def delete_key(request: Request, accounts: AccountService, who: SignedIn, key_id: RecordId, _sent: OwnForm) -> Response:
    accounts.delete_api_key(who.credential, key_id)
    return go_to(request, "/account/keys", flash=language_of(request).texts.gettext("The key was deleted."))
