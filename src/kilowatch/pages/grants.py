"""Who may do what where, for administrators: the matrix of users and sites, or one site's or one user's part of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from kilowatch.auth.model import Cell, GrantChange, Role, User
from kilowatch.auth.routes import AccountService
from kilowatch.errors import Fault, Invalid, said
from kilowatch.facility.model import Site
from kilowatch.facility.routes import CatalogueService
from kilowatch.facility.service import ChangedGrants
from kilowatch.kit.paging import Page, page_request
from kilowatch.kit.web import Cursor, InThread, RecordId, SearchText
from kilowatch.pages.rendering import Visitor, go_to, language_of, render
from kilowatch.pages.visitors import OwnForm, Sent, SignedIn
from kilowatch.pages.words import N_, Language

router = APIRouter(route_class=InThread)

_USERS, _SITES, _OF_ONE = 25, 8, 100
"""How many of each a page has; their product stays below the number of fields that a form may have."""

ROLE_NAMES = {"none": N_("no access"), "standard": N_("reads"), "technician": N_("technician")}
_ROLES: Mapping[str, Role | None] = {"none": None, "standard": "standard", "technician": "technician"}
_CELL = re.compile(r"grant-([1-9][0-9]{0,8})-([1-9][0-9]{0,8})-(none|standard|technician)", re.ASCII)


@dataclass(frozen=True, slots=True)
class View:
    """A part of the matrix: these users at these sites, and how it was asked for."""

    path: str
    users: Page[User]
    sites: Page[Site]
    asked: Mapping[str, str] = field(default_factory=dict)
    user: User | None = None
    site: Site | None = None

    def address(self, **changes: str | None) -> str:
        """Its own address, with some of what was asked changed."""
        asked = {name: value for name, value in {**self.asked, **changes}.items() if value}
        return self.path + (f"?{urlencode(asked)}" if asked else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """A field of the matrix: the role that is stored, what is chosen, and what is wrong with it."""

    name: str
    stored: str
    chosen: str
    error: str = ""

    @property
    def id(self) -> str:
        return self.name.rpartition("-")[0]


# ── the whole, a site's part, a user's part ──────────────────────────────────────────────────────────────────────────


def _matrix(
    accounts: AccountService,
    catalogue: CatalogueService,
    who: Visitor,
    *,
    q_users: str | None,
    q_sites: str | None,
    users: str | None,
    sites: str | None,
) -> View:
    accounts.require_administrator(who.credential)
    asked = {"q_users": q_users or "", "q_sites": q_sites or "", "users": users or "", "sites": sites or ""}
    return View(
        "/admin/grants",
        accounts.list_users(who.credential, page_request(_USERS, users), words=q_users),
        catalogue.list_sites(who.credential, page_request(_SITES, sites), words=q_sites),
        asked,
    )


def _of_site(
    accounts: AccountService, catalogue: CatalogueService, who: Visitor, site_id: int, q: str | None, users: str | None
) -> View:
    site = catalogue.administered_site(who.credential, site_id)
    found = accounts.list_users(who.credential, page_request(_OF_ONE, users), words=q)
    asked = {"q_users": q or "", "users": users or ""}
    return View(f"/sites/{site_id}/grants", found, Page([site], None), asked, site=site)


def _of_user(
    accounts: AccountService, catalogue: CatalogueService, who: Visitor, user_id: int, q: str | None, sites: str | None
) -> View:
    user = accounts.get_user(who.credential, user_id)
    found = catalogue.list_sites(who.credential, page_request(_OF_ONE, sites), words=q)
    asked = {"q_sites": q or "", "sites": sites or ""}
    return View(f"/admin/users/{user_id}/grants", Page([user], None), found, asked, user=user)


@router.get("/admin/grants")
def show_matrix(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    q_users: SearchText = None,
    q_sites: SearchText = None,
    users: Cursor = None,
    sites: Cursor = None,
) -> Response:
    view = _matrix(accounts, catalogue, who, q_users=q_users, q_sites=q_sites, users=users, sites=sites)
    return _show(request, accounts, who, view)


@router.post("/admin/grants")
def change_matrix(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    sent: OwnForm,
    q_users: SearchText = None,
    q_sites: SearchText = None,
    users: Cursor = None,
    sites: Cursor = None,
) -> Response:
    view = _matrix(accounts, catalogue, who, q_users=q_users, q_sites=q_sites, users=users, sites=sites)
    return _change(request, accounts, catalogue, who, view, sent)


@router.get("/sites/{site_id}/grants")
def show_grants_of_site(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    site_id: RecordId,
    q_users: SearchText = None,
    users: Cursor = None,
) -> Response:
    return _show(request, accounts, who, _of_site(accounts, catalogue, who, site_id, q_users, users))


@router.post("/sites/{site_id}/grants")
def change_grants_of_site(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    site_id: RecordId,
    sent: OwnForm,
    q_users: SearchText = None,
    users: Cursor = None,
) -> Response:
    view = _of_site(accounts, catalogue, who, site_id, q_users, users)
    return _change(request, accounts, catalogue, who, view, sent)


@router.get("/admin/users/{user_id}/grants")
def show_grants_of_user(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    user_id: RecordId,
    q_sites: SearchText = None,
    sites: Cursor = None,
) -> Response:
    return _show(request, accounts, who, _of_user(accounts, catalogue, who, user_id, q_sites, sites))


@router.post("/admin/users/{user_id}/grants")
def change_grants_of_user(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    user_id: RecordId,
    sent: OwnForm,
    q_sites: SearchText = None,
    sites: Cursor = None,
) -> Response:
    view = _of_user(accounts, catalogue, who, user_id, q_sites, sites)
    return _change(request, accounts, catalogue, who, view, sent)


# ── what all of them do ──────────────────────────────────────────────────────────────────────────────────────────────


def _show(
    request: Request,
    accounts: AccountService,
    who: Visitor,
    view: View,
    *,
    typed: Mapping[Cell, str] | None = None,
    error: Invalid | ChangedGrants | None = None,
) -> Response:
    """The part of the matrix, with what was typed and is not stored yet."""
    kept: dict[str, str] | None = getattr(request.state, "kept", None)
    typed = chosen_in(kept) if kept else typed
    users, sites = [user.id for user in view.users.items], [site.id for site in view.sites.items]
    stored = accounts.grants_among(who.credential, users, sites)
    faults = {fault.pointer: fault.detail for fault in error.faults} if error else {}
    language = language_of(request)

    def choice(user_id: int, site_id: int) -> Choice:
        cell = Cell(user_id, site_id)
        now = stored.get(cell) or "none"
        fault = faults.get(f"/{user_id}/{site_id}")
        told = "" if fault is None else language.said(fault)
        return Choice(f"grant-{user_id}-{site_id}-{now}", now, (typed or {}).get(cell, now), told)

    rows = [(user, [choice(user.id, site.id) for site in view.sites.items]) for user in view.users.items]
    status = 200 if error is None else 422 if isinstance(error, Invalid) else 409
    return render(
        request,
        "grants.html",
        status=status,
        view=view,
        rows=rows,
        role_names=ROLE_NAMES,
        error=language.said(error.message) if error else "",
    )


def _change(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: Visitor,
    view: View,
    sent: Sent,
) -> Response:
    typed = chosen_in(sent)
    try:
        count = catalogue.change_grants(who.credential, _changes(sent))
    except (Invalid, ChangedGrants) as error:
        return _show(request, accounts, who, view, typed=typed, error=error)
    return go_to(request, view.address(), flash=_told(language_of(request), count))


def chosen_in(sent: Mapping[str, str]) -> dict[Cell, str]:
    """What was chosen for each cell, right or wrong."""
    found = ((_CELL.fullmatch(name), value) for name, value in sent.items())
    return {Cell(int(cell[1]), int(cell[2])): value for cell, value in found if cell}


def _changes(sent: Sent) -> list[GrantChange]:
    """The changes that were chosen. Raises `Invalid` naming what is no role."""
    changes, faults = [], []
    for name, value in sent.items():
        cell = _CELL.fullmatch(name)
        if cell is None:
            continue
        if value not in _ROLES:
            faults.append(Fault(f"/{cell[1]}/{cell[2]}", said("Choose one of the list.")))
        elif value != cell[3]:
            changes.append(GrantChange(int(cell[1]), int(cell[2]), _ROLES[cell[3]], _ROLES[value]))
    if faults:
        raise Invalid(said("Choose one of the list."), faults=tuple(faults))
    return changes


def _told(language: Language, count: int) -> str:
    if count == 0:
        return language.texts.gettext("Nothing was changed.")
    text = language.texts.ngettext("%(num)d grant was changed.", "%(num)d grants were changed.", count)
    return text % {"num": count}
