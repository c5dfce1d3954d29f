"""HTTP for signing in, oneself, API keys and users."""

import hmac
import json
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from kilowatch.auth.agents import summary_of
from kilowatch.auth.browsers import FORM_TOKEN_HEADER, is_from_us, session_cookie
from kilowatch.auth.model import ApiKey, AuditAction, AuditEntry, AuditFilter, Credential, Me, NewApiKey, Tokens, User
from kilowatch.auth.schemas import ApiKeyIn, RefreshIn, UserChange, UserIn
from kilowatch.auth.service import Accounts, SignIns
from kilowatch.errors import Forbidden, Unauthenticated, UnknownFormat, Unreadable
from kilowatch.kit.idempotency import Once
from kilowatch.kit.lanes import Lane
from kilowatch.kit.openapi import operation
from kilowatch.kit.paging import Page, page_request
from kilowatch.kit.text import MAX_ID, PRINTABLE, Search
from kilowatch.kit.timespan import parse_instant
from kilowatch.kit.web import (
    INSTANT,
    LIMIT_DEFAULT,
    NO_CONTENT,
    Cursor,
    InThread,
    Limit,
    RecordId,
    SearchText,
    answer,
    created,
    once_from,
)

router = APIRouter(prefix="/api/v1", route_class=InThread)


async def who_asks(request: Request) -> Credential:
    """The request's credential, its signature checked; whether it still stands is looked up with the data.

    A page's scripts have no token, but the browser's cookie; it counts where there is no `Authorization`.
    """
    authorization = request.headers.get("authorization")
    token = request.cookies.get(session_cookie(request)) if authorization is None else None
    if token:
        return await _whose_browser(request, token)
    scheme, _, bearer = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not bearer.strip():
        raise Unauthenticated("Send `Authorization: Bearer` with an access token or an API key.")
    sign_ins: SignIns = request.app.state.sign_ins
    return sign_ins.read_credential(bearer.strip())


async def _whose_browser(request: Request, token: str) -> Credential:
    """Whose session it is, which is used by this. Raises `Forbidden` if a page of another site made the browser ask."""
    if is_from_us(request) is False:
        raise Forbidden(_NOT_FROM_US)
    sign_ins: SignIns = request.app.state.sign_ins
    lane: Lane = request.app.state.catalogue_lane
    credential = await lane.run_quickly(sign_ins.visit, token)
    if request.method not in _SAFE_METHODS:
        given = request.headers.get(FORM_TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), sign_ins.seal("form", token).encode()):
            raise Forbidden(_NO_FORM_TOKEN)
    return credential


_SAFE_METHODS = ("GET", "HEAD")
_NOT_FROM_US = "Another site made your browser ask this; its cookie counts for Kilowatch's own pages alone."
_NO_FORM_TOKEN = (
    f"With a cookie, what changes something needs the form token of its session in `{FORM_TOKEN_HEADER}`; "
    "programs send `Authorization: Bearer`."
)


Who = Annotated[Credential, Depends(who_asks)]
MaybeOnce = Annotated[Once | None, Depends(once_from)]


def audit_wanted(
    user: Annotated[Search | None, Query(description="Part of the email of who did it.")] = None,
    action: Annotated[AuditAction | None, Query(description="Only this action.")] = None,
    start: Annotated[
        str | None,
        Query(max_length=40, description="Not before this time, RFC 3339 with an offset.", json_schema_extra=INSTANT),
    ] = None,
    end: Annotated[str | None, Query(max_length=40, description="Before this time.", json_schema_extra=INSTANT)] = None,
) -> AuditFilter:
    return AuditFilter(user=user, action=action, start=_instant(start, "start"), end=_instant(end, "end"))


def _instant(text: str | None, name: str) -> datetime | None:
    return None if text is None else parse_instant(text, pointer=name)


AuditWanted = Annotated[AuditFilter, Depends(audit_wanted)]


async def _sign_ins(request: Request) -> SignIns:
    service: SignIns = request.app.state.sign_ins
    return service


async def _accounts(request: Request) -> Accounts:
    service: Accounts = request.app.state.accounts
    return service


async def _passwords(request: Request) -> Lane:
    lane: Lane = request.app.state.password_lane
    return lane


SignInService = Annotated[SignIns, Depends(_sign_ins)]
AccountService = Annotated[Accounts, Depends(_accounts)]
PasswordLane = Annotated[Lane, Depends(_passwords)]

_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_TOKENS = {"access_token": "eyJ…", "refresh_token": "0S8…", "expires_in": 900, "token_type": "bearer"}
_USER = {"id": 2, "email": "ada@example.org", "name": "Ada", "is_admin": False, "created_at": "2026-01-05T09:30:00Z"}
_ME = {
    "id": 2,
    "email": "ada@example.org",
    "name": "Ada",
    "is_admin": False,
    "grants": [{"user_id": 2, "site_id": 1, "role": "technician"}],
}
AUDIT_EXAMPLE = {
    "id": 12,
    "site_id": 1,
    "at": "2026-01-05T09:30:00Z",
    "user_id": 2,
    "user": "ada@example.org",
    "api_key_id": None,
    "api_key": None,
    "action": "readings_deleted",
    "object": "home/roof/power",
    "details": {"readings": 60, "start": "2026-01-04T12:00:00Z", "end": "2026-01-04T13:00:00Z"},
}
_KEY = {
    "id": 3,
    "name": "Gateway",
    "prefix": "kw_Zk3vQ1",
    "scopes": ["ingest"],
    "site_id": 1,
    "created_at": "2026-01-05T09:30:00Z",
    "expires_at": None,
}


@router.post(
    "/auth/token", tags=["Signing in"], summary="Sign in", **operation(Tokens, 400, 401, 413, 422, 429, example=_TOKENS)
)
async def sign_in(
    request: Request,
    sign_ins: SignInService,
    lane: PasswordLane,
    username: Annotated[
        str, Form(max_length=254, pattern=PRINTABLE, description="The email.", examples=["ada@example.org"])
    ],
    password: Annotated[str, Form(max_length=200, examples=["correct horse battery"])],
    grant_type: Annotated[  # noqa: ARG001 - OAuth2 sends it; that it says `password` is all there is to it
        str, Form(pattern="^(password)?$", description="`password`, by OAuth2.")
    ] = "password",
) -> Response:
    """An access token for 15 minutes, and a refresh token to get the next one with, by OAuth2's password flow."""
    address = request.client.host if request.client else "unknown"
    agent = summary_of(request.headers.get("user-agent", ""))
    return answer(await lane.run(sign_ins.sign_in, username, password, address=address, agent=agent))


async def refresh_in(request: Request) -> RefreshIn:
    """The refresh token, in JSON or in the form that OAuth2 has for it (whose other fields mean nothing here)."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == _FORM:
        form = await request.form()
        given: Any = {name: form[name] for name in RefreshIn.model_fields if name in form}
    elif media == _JSON:
        try:
            given = json.loads(await request.body() or b"null")
        except (ValueError, RecursionError) as error:
            raise Unreadable("The body is not JSON.") from error
    else:
        raise UnknownFormat(f"Send the refresh token as {_JSON} or {_FORM}.")
    try:
        return RefreshIn.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([item | {"loc": ("body", *item["loc"])} for item in error.errors()]) from error


_REFRESH_SCHEMA = RefreshIn.model_json_schema()
_REFRESH_BODY = {
    "required": True,
    "content": {
        _JSON: {"schema": _REFRESH_SCHEMA, "example": {"refresh_token": "0S8…"}},
        _FORM: {"schema": _REFRESH_SCHEMA | {"additionalProperties": True}},
    },
}


@router.post(
    "/auth/refresh",
    tags=["Signing in"],
    summary="Get new tokens",
    openapi_extra={"requestBody": _REFRESH_BODY},
    **operation(Tokens, 400, 401, 413, 415, 422, example=_TOKENS),
)
def refresh(sign_ins: SignInService, body: Annotated[RefreshIn, Depends(refresh_in)]) -> Response:
    """A refresh token is used once; a second use ends its sign-in, since one of the two users stole it."""
    return answer(sign_ins.refresh(body.refresh_token))


@router.post("/auth/logout", tags=["Signing in"], summary="Sign out", **operation(None, 401, 403, status=204))
def sign_out(sign_ins: SignInService, who: Who) -> Response:
    """Ends the sign-in of this access token: all its access and refresh tokens stop working at once."""
    sign_ins.sign_out(who)
    return NO_CONTENT()


@router.get(
    "/me",
    tags=["Me"],
    summary="Who am I",
    **operation(Me, 401, 403, example=_ME),
)
def me(accounts: AccountService, who: Who) -> Response:
    """The user, and the role at each site."""
    return answer(accounts.me(who))


@router.get(
    "/me/api-keys",
    tags=["Me"],
    summary="List my API keys",
    **operation(Page[ApiKey], 401, 403, 422, example={"items": [_KEY], "next": None}),
)
def list_api_keys(accounts: AccountService, who: Who, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None) -> Response:
    return answer(accounts.list_api_keys(who, page_request(limit, cursor)))


@router.post(
    "/me/api-keys",
    tags=["Me"],
    summary="Make an API key",
    **operation(NewApiKey, 400, 401, 403, 409, 413, 422, status=201, example={**_KEY, "key": "kw_Zk3vQ1…"}),
)
def create_api_key(accounts: AccountService, who: Who, body: ApiKeyIn, once: MaybeOnce) -> Response:
    """The answer is the only place that ever shows the key: we keep no more than its hash."""
    key = accounts.create_api_key(
        who,
        name=body.name,
        scopes=sorted(set(body.scopes)),
        site_id=body.site_id,
        expires_at=body.expires_at,
        once=once,
    )
    return created(key, f"/api/v1/me/api-keys/{key.id}")


@router.delete(
    "/me/api-keys/{key_id}", tags=["Me"], summary="Delete an API key", **operation(None, 401, 403, 404, 422, status=204)
)
def delete_api_key(accounts: AccountService, who: Who, key_id: RecordId) -> Response:
    """It stops working with the next request."""
    accounts.delete_api_key(who, key_id)
    return NO_CONTENT()


@router.get(
    "/users",
    tags=["Users"],
    summary="List users",
    **operation(Page[User], 401, 403, 422, example={"items": [_USER], "next": None}),
)
def list_users(
    accounts: AccountService, who: Who, q: SearchText = None, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    """For administrators."""
    return answer(accounts.list_users(who, page_request(limit, cursor), words=q))


@router.post(
    "/users",
    tags=["Users"],
    summary="Create a user",
    **operation(User, 400, 401, 403, 409, 413, 422, status=201, example=_USER),
)
async def create_user(
    accounts: AccountService, lane: PasswordLane, who: Who, body: UserIn, once: MaybeOnce
) -> Response:
    """For administrators. A new user sees no site until one is granted."""
    user = await lane.run(accounts.create_user, who, **body.model_dump(), once=once)
    return created(user, f"/api/v1/users/{user.id}")


@router.get(
    "/users/{user_id}", tags=["Users"], summary="Get a user", **operation(User, 401, 403, 404, 422, example=_USER)
)
def get_user(accounts: AccountService, who: Who, user_id: RecordId) -> Response:
    """For administrators."""
    return answer(accounts.get_user(who, user_id))


@router.patch(
    "/users/{user_id}",
    tags=["Users"],
    summary="Change a user",
    **operation(User, 400, 401, 403, 404, 409, 413, 422, example=_USER),
)
async def change_user(
    accounts: AccountService, lane: PasswordLane, who: Who, user_id: RecordId, body: UserChange
) -> Response:
    """For administrators. Only the fields that are given change; a new password signs the user out everywhere."""
    return answer(await lane.run(accounts.change_user, who, user_id, body.model_dump(exclude_unset=True)))


@router.delete(
    "/users/{user_id}", tags=["Users"], summary="Delete a user", **operation(None, 401, 403, 404, 409, 422, status=204)
)
def delete_user(accounts: AccountService, who: Who, user_id: RecordId) -> Response:
    """For administrators. The user's grants, API keys, sign-ins and subscriptions go with them."""
    accounts.delete_user(who, user_id)
    return NO_CONTENT()


@router.get(
    "/audit",
    tags=["Users"],
    summary="List who changed what everywhere",
    **operation(Page[AuditEntry], 401, 403, 422, example={"items": [AUDIT_EXAMPLE], "next": None}),
)
def list_audit(
    accounts: AccountService,
    who: Who,
    wanted: AuditWanted,
    site_id: Annotated[int | None, Query(ge=1, le=MAX_ID, description="Only this site.")] = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """For administrators, the newest entry first: the logs of all sites, and what concerns none of them: changes of
    users, and sites that were deleted.
    """
    everywhere = msgspec.structs.replace(wanted, site_id=site_id)
    return answer(accounts.list_audit(who, page_request(limit, cursor), wanted=everywhere))
