"""Sites, for administrators: to create, change and delete."""

import secrets
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from kilowatch.auth.routes import AccountService
from kilowatch.errors import Conflict, Invalid, Stale
from kilowatch.facility.model import Deleted, Site
from kilowatch.facility.routes import CatalogueService
from kilowatch.facility.schemas import SiteChange, SiteIn
from kilowatch.facility.service import site_etag
from kilowatch.kit.timespan import zone_names
from kilowatch.kit.web import CatalogueLane, DeletionLane, HistoryLane, InThread, RecordId
from kilowatch.pages.forms import Field, Form, Group, changed, checked, fields_of, status_of, without_empty
from kilowatch.pages.rendering import go_to, language_of, render
from kilowatch.pages.visitors import OwnForm, SignedIn, once_of
from kilowatch.pages.words import N_

router = APIRouter(prefix="/sites", route_class=InThread)

_SCHEMA = SiteIn.model_json_schema()
_STALE = 412


def _form(*, is_new: bool) -> Form:
    def shaped(field: Field) -> Field:
        if field.name == "timezone":
            names = tuple((name, name) for name in sorted(zone_names()))
            return replace(field, control="select", options=names, required=True)
        if field.name == "slug" and not is_new:
            return replace(field, required=True, nullable=False, hint=N_("Gateways send readings by it."))
        return field

    about = tuple(map(shaped, fields_of(_SCHEMA, ("name", "slug", "timezone", "raw_days", "notes"))))
    place = tuple(fields_of(_SCHEMA, ("latitude", "longitude", "country", "currency")))
    return Form((Group(N_("Site"), about), Group(N_("Place"), place)))


# ── create ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/new")
def show_new_site(request: Request, accounts: AccountService, who: SignedIn) -> Response:
    accounts.require_administrator(who.credential)
    return _new_page(request, _form(is_new=True))


def _new_page(request: Request, form: Form, *, status: int = 200) -> Response:
    once = secrets.token_urlsafe(16)
    return render(request, "site-form.html", status=status, form=form, site=None, once=once, version=None)


@router.post("/new")
def create_site(
    request: Request, accounts: AccountService, catalogue: CatalogueService, who: SignedIn, sent: OwnForm
) -> Response:
    accounts.require_administrator(who.credential)
    form = _form(is_new=True)
    try:
        values = checked(SiteIn, without_empty(form.read(sent))).model_dump()
        site = catalogue.create_site(who.credential, values, once=once_of(request, sent))
    except (Invalid, Conflict) as error:
        return _new_page(request, form.typed(sent).wrong(error, language_of(request)), status=status_of(error))
    text = language_of(request).texts.gettext("The site %(name)s was added.") % {"name": site.name}
    return go_to(request, f"/sites/{site.id}", flash=text)


# ── change ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stored(site: Site) -> dict[str, Any]:
    return msgspec.structs.asdict(site)


@router.get("/{site_id}/edit")
def show_site_form(request: Request, catalogue: CatalogueService, who: SignedIn, site_id: RecordId) -> Response:
    site = catalogue.administered_site(who.credential, site_id)
    return _edit_page(request, site, _form(is_new=False).holding(_stored(site)))


def _edit_page(request: Request, site: Site, form: Form, *, status: int = 200, version: str = "") -> Response:
    return render(
        request,
        "site-form.html",
        status=status,
        form=form,
        site=site,
        once=None,
        version=version or site_etag(site),
        is_stale=status == _STALE,
    )


@router.post("/{site_id}/edit")
def change_site(
    request: Request, catalogue: CatalogueService, who: SignedIn, site_id: RecordId, sent: OwnForm
) -> Response:
    site = catalogue.administered_site(who.credential, site_id)
    form, stored, version = _form(is_new=False), _stored(site), sent.get("version", "")
    try:
        said = checked(SiteChange, changed(form.read(sent), stored, form)).model_dump(exclude_unset=True)
        catalogue.change_site(who.credential, site_id, said, if_match=version)
    except Stale:
        return _edit_page(request, site, form.typed(sent).beside(stored), status=_STALE)
    except (Invalid, Conflict) as error:
        wrong = form.typed(sent).wrong(error, language_of(request))
        return _edit_page(request, site, wrong, status=status_of(error), version=version)
    return go_to(request, f"/sites/{site_id}", flash=language_of(request).texts.gettext("The changes were saved."))


# ── delete ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/{site_id}/delete")
async def confirm_deletion(
    request: Request,
    catalogue: CatalogueService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    site_id: RecordId,
) -> Response:
    weight = await history_lane.run(catalogue.weigh_site, who.credential, site_id)
    site = await lane.run(catalogue.administered_site, who.credential, site_id)
    return render(request, "delete-site.html", site=site, weight=weight, version=site_etag(site))


@router.post("/{site_id}/delete")
async def delete_site(
    request: Request,
    catalogue: CatalogueService,
    lane: CatalogueLane,
    deletion_lane: DeletionLane,
    who: SignedIn,
    site_id: RecordId,
    sent: OwnForm,
) -> Response:
    site = await lane.run(catalogue.administered_site, who.credential, site_id)
    version = sent.get("version", "")
    try:
        gone = await deletion_lane.run(catalogue.delete_site, who.credential, site_id, if_match=version)
    except Stale as error:
        text = language_of(request).said(error.message)
        return go_to(request, request.url.path, flash=text, kind="warning")
    return go_to(request, "/sites", flash=_told(request, site.name, gone))


def _told(request: Request, name: str, gone: Deleted) -> str:
    language = language_of(request)
    if gone.readings is None:
        return language.texts.gettext("%(name)s was deleted; its readings follow.") % {"name": name}
    text = language.texts.ngettext(
        "%(name)s was deleted, with %(readings)s reading.",
        "%(name)s was deleted, with %(readings)s readings.",
        gone.readings,
    )
    return text % {"name": name, "readings": language.whole(gone.readings)}
