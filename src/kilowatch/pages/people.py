"""Users, for administrators: to look for, create, change and delete."""

import secrets
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from kilowatch.auth.model import User
from kilowatch.auth.routes import AccountService, PasswordLane
from kilowatch.auth.schemas import UserChange, UserIn
from kilowatch.auth.service import user_etag
from kilowatch.errors import Conflict, Invalid, Stale
from kilowatch.kit.paging import page_request
from kilowatch.kit.web import CatalogueLane, Cursor, InThread, RecordId, SearchText
from kilowatch.pages.forms import Field, Form, Group, changed, checked, fields_of, status_of
from kilowatch.pages.rendering import go_to, language_of, render
from kilowatch.pages.visitors import OwnForm, SignedIn, once_of
from kilowatch.pages.words import N_
from kilowatch.subscriptions.routes import SubscriptionService

router = APIRouter(prefix="/admin/users", route_class=InThread)

_ROWS = 50
_SCHEMA = UserIn.model_json_schema()
_STALE = 412


def _form(*, is_new: bool) -> Form:
    def shaped(field: Field) -> Field:
        if field.name == "email":
            return replace(field, control="email", attributes={"maxlength": "254", "autocomplete": "off"})
        if field.name == "password":
            return replace(
                field,
                label=N_("Password") if is_new else N_("New password"),
                control="password",
                required=is_new,
                hint=N_("At least 8 characters.")
                if is_new
                else N_("Stays as it is if left empty. A new one signs the user out everywhere."),
                attributes={"autocomplete": "new-password", "minlength": "8", "maxlength": "200"},
            )
        return field

    fields = map(shaped, fields_of(_SCHEMA, ("name", "email", "password", "is_admin")))
    return Form((Group("", tuple(fields)),))


@router.get("")
def list_users(
    request: Request, accounts: AccountService, who: SignedIn, q: SearchText = None, cursor: Cursor = None
) -> Response:
    page = accounts.list_users(who.credential, page_request(_ROWS, cursor), words=q)
    return render(request, "users.html", page=page, q=q or "")


# ── create ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/new")
def show_new_user(request: Request, accounts: AccountService, who: SignedIn) -> Response:
    accounts.require_administrator(who.credential)
    return _new_page(request, _form(is_new=True))


def _new_page(request: Request, form: Form, *, status: int = 200) -> Response:
    once = secrets.token_urlsafe(16)
    return render(request, "user-form.html", status=status, form=form, user=None, once=once, version=None)


@router.post("/new")
async def create_user(
    request: Request,
    accounts: AccountService,
    lane: PasswordLane,
    catalogue_lane: CatalogueLane,
    who: SignedIn,
    sent: OwnForm,
) -> Response:
    await catalogue_lane.run(accounts.require_administrator, who.credential)
    form = _form(is_new=True)
    try:
        said = checked(UserIn, form.read(sent)).model_dump()
        user = await lane.run(accounts.create_user, who.credential, **said, once=once_of(request, sent))
    except (Invalid, Conflict) as error:
        return _new_page(request, form.typed(sent).wrong(error, language_of(request)), status=status_of(error))
    text = language_of(request).texts.gettext("The user %(name)s was added. Grants say what they see.")
    return go_to(request, f"/admin/users/{user.id}/grants", flash=text % {"name": user.name})


# ── change ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stored(user: User) -> dict[str, Any]:
    return msgspec.structs.asdict(user)


@router.get("/{user_id}/edit")
def show_user_form(request: Request, accounts: AccountService, who: SignedIn, user_id: RecordId) -> Response:
    user = accounts.get_user(who.credential, user_id)
    return _edit_page(request, user, _form(is_new=False).holding(_stored(user)))


def _edit_page(request: Request, user: User, form: Form, *, status: int = 200, version: str = "") -> Response:
    return render(
        request,
        "user-form.html",
        status=status,
        form=form,
        user=user,
        once=None,
        version=version or user_etag(user),
        is_stale=status == _STALE,
    )


@router.post("/{user_id}/edit")
async def change_user(
    request: Request,
    accounts: AccountService,
    lane: PasswordLane,
    catalogue_lane: CatalogueLane,
    who: SignedIn,
    user_id: RecordId,
    sent: OwnForm,
) -> Response:
    user = await catalogue_lane.run(accounts.get_user, who.credential, user_id)
    form, stored, version = _form(is_new=False), _stored(user), sent.get("version", "")
    try:
        values = changed(form.read(sent), stored, form)
        said = checked(UserChange, values).model_dump(exclude_unset=True)
        await lane.run(accounts.change_user, who.credential, user_id, said, if_match=version)
    except Stale:
        return _edit_page(request, user, form.typed(sent).beside(stored), status=_STALE)
    except (Invalid, Conflict) as error:
        wrong = form.typed(sent).wrong(error, language_of(request))
        return _edit_page(request, user, wrong, status=status_of(error), version=version)
    return go_to(request, "/admin/users", flash=language_of(request).texts.gettext("The changes were saved."))


# ── delete ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/{user_id}/delete")
def confirm_deletion(
    request: Request,
    accounts: AccountService,
    subscriptions: SubscriptionService,
    who: SignedIn,
    user_id: RecordId,
) -> Response:
    return _deletion_page(request, accounts, subscriptions, who, user_id)


def _deletion_page(
    request: Request,
    accounts: AccountService,
    subscriptions: SubscriptionService,
    who: SignedIn,
    user_id: int,
    *,
    status: int = 200,
    error: str = "",
) -> Response:
    user = accounts.get_user(who.credential, user_id)
    return render(
        request,
        "delete-user.html",
        status=status,
        user=user,
        version=user_etag(user),
        weight=accounts.weigh_user(who.credential, user_id),
        subscriptions=subscriptions.count_of(who.credential, user_id),
        error=error,
    )


@router.post("/{user_id}/delete")
def delete_user(
    request: Request,
    accounts: AccountService,
    subscriptions: SubscriptionService,
    who: SignedIn,
    user_id: RecordId,
    sent: OwnForm,
) -> Response:
    user = accounts.get_user(who.credential, user_id)
    language = language_of(request)
    try:
        accounts.delete_user(who.credential, user_id, if_match=sent.get("version", ""))
    except (Conflict, Stale) as error:
        told = language.said(error.message)
        status = _STALE if isinstance(error, Stale) else 409
        return _deletion_page(request, accounts, subscriptions, who, user_id, status=status, error=told)
    text = language.texts.gettext("The user %(name)s was deleted.") % {"name": user.name}
    return go_to(request, "/admin/users", flash=text)
