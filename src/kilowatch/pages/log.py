"""The audit log: who changed what, for a site's technicians and, over all sites, for administrators."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request, Response

from kilowatch.auth.model import AuditAction, AuditEntry, AuditFilter
from kilowatch.auth.routes import AccountService
from kilowatch.errors import invalid, said
from kilowatch.facility.model import Site
from kilowatch.facility.routes import CatalogueService
from kilowatch.kit.paging import MAX_LIMIT, Page, page_request
from kilowatch.kit.text import MAX_ID, Search, name_from
from kilowatch.kit.timespan import parse_instant, zone
from kilowatch.kit.web import Cursor, InThread, RecordId
from kilowatch.pages.forms import KIND_NAMES, LABELS, QUANTITY_NAMES, WORDS
from kilowatch.pages.grants import ROLE_NAMES
from kilowatch.pages.rendering import Visitor, language_of, render
from kilowatch.pages.visitors import SignedIn
from kilowatch.pages.words import N_, Language, moment

router = APIRouter(route_class=InThread)

_ROWS = 50
ACTIONS = {
    "user_created": N_("User added"),
    "user_changed": N_("User changed"),
    "user_deleted": N_("User deleted"),
    "site_created": N_("Site added"),
    "site_changed": N_("Site changed"),
    "site_deleted": N_("Site deleted"),
    "grant_changed": N_("Grant changed"),
    "device_created": N_("Device added"),
    "device_changed": N_("Device changed"),
    "device_deleted": N_("Device deleted"),
    "metric_created": N_("Metric added"),
    "metric_changed": N_("Metric changed"),
    "metric_deleted": N_("Metric deleted"),
    "readings_deleted": N_("Readings deleted"),
    "readings_corrected": N_("Readings corrected"),
}
_OF_NO_SITE = ("user_created", "user_changed", "user_deleted", "site_deleted")
_DETAILS = {
    "role": N_("Role"),
    "user": N_("User"),
    "devices": N_("Devices"),
    "metrics": N_("Metrics"),
    "readings": N_("Readings"),
    "grants": N_("Grants"),
    "api_keys": N_("API keys"),
    "kind": N_("Kind"),
    "on_arrival": N_("Made on arrival of readings"),
    "start": N_("From"),
    "end": N_("Until"),
    "first": N_("First"),
    "last": N_("Last"),
    "new_password": N_("New password"),
}
_TIMES = ("start", "end", "first", "last")
_WORDS = ROLE_NAMES | KIND_NAMES | QUANTITY_NAMES | WORDS
assert ACTIONS.keys() == set(get_args(AuditAction))  # a new action needs a name

Day = Annotated[str, Query(max_length=20)]
Part = Annotated[Search, Query()]
Action = Annotated[str, Query(max_length=30)]


@router.get("/admin/audit")
def show_log(
    request: Request,
    accounts: AccountService,
    catalogue: CatalogueService,
    who: SignedIn,
    site_id: Annotated[str, Query(max_length=12)] = "",
    user: Part = "",
    action: Action = "",
    since: Day = "",
    until: Day = "",
    cursor: Cursor = None,
) -> Response:
    asked = {"site_id": site_id, "user": user, "action": action, "since": since, "until": until}
    wanted = _wanted(asked, zone("UTC"))
    page = accounts.list_audit(who.credential, page_request(_ROWS, cursor), wanted=wanted)
    return _log_page(request, page, asked, timezone="UTC", site=None, sites=all_sites(catalogue, who))


@router.get("/sites/{site_id}/audit")
def show_log_of_site(
    request: Request,
    catalogue: CatalogueService,
    who: SignedIn,
    site_id: RecordId,
    user: Part = "",
    action: Action = "",
    since: Day = "",
    until: Day = "",
    cursor: Cursor = None,
) -> Response:
    site = catalogue.get_site(who.credential, site_id, to_change=True)
    asked = {"user": user, "action": action, "since": since, "until": until}
    wanted = _wanted(asked, zone(site.timezone))
    page = catalogue.list_audit(who.credential, site_id, page_request(_ROWS, cursor), wanted=wanted)
    return _log_page(request, page, asked, timezone=site.timezone, site=site, sites={})


def _log_page(
    request: Request,
    page: Page[AuditEntry],
    asked: dict[str, str],
    *,
    timezone: str,
    site: Site | None,
    sites: dict[int, str],
) -> Response:
    language = language_of(request)
    rows = [(entry, list(told_details(entry.details, language, zone(timezone)))) for entry in page.items]
    actions = {name: text for name, text in ACTIONS.items() if site is None or name not in _OF_NO_SITE}
    return render(
        request,
        "audit.html",
        rows=rows,
        following=page.next,
        asked=asked,
        is_filtered=any(asked.values()),
        actions=actions,
        timezone=timezone,
        site=site,
        sites=sites,
    )


def all_sites(catalogue: CatalogueService, who: Visitor) -> dict[int, str]:
    """The names of all sites that the visitor may see, however many there are."""
    found: dict[int, str] = {}
    cursor = None
    while True:
        page = catalogue.list_sites(who.credential, page_request(MAX_LIMIT, cursor), words=None)
        found |= {site.id: site.name for site in page.items}
        if page.next is None:
            return found
        cursor = page.next


# ── what is asked for ────────────────────────────────────────────────────────────────────────────────────────────────


def _wanted(asked: dict[str, str], where: ZoneInfo) -> AuditFilter:
    """Raises `Invalid` for a day that is none."""
    site_id = asked.get("site_id", "")
    action: Any = asked["action"] if asked["action"] in ACTIONS else None
    until = _midnight(asked["until"], "until", where, days=1)
    return AuditFilter(
        site_id=min(int(site_id), MAX_ID) if site_id.isascii() and site_id.isdecimal() else None,
        user=asked["user"] or None,
        action=action,
        start=_midnight(asked["since"], "since", where),
        end=until,
    )


def _midnight(text: str, name: str, where: ZoneInfo, *, days: int = 0) -> datetime | None:
    """The begin of a day in a zone, or of one some days later."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=days), time(), where)
    except (ValueError, OverflowError) as error:
        raise invalid(name, said("Must be a date, such as 2024-05-01."), place="query") from error


# ── what an entry says ───────────────────────────────────────────────────────────────────────────────────────────────


def told_details(details: dict[str, Any], language: Language, where: ZoneInfo) -> Iterator[tuple[str, str, str | None]]:
    """Each detail's label and value; and for what changed, what it was before."""
    for name, value in details.items():
        if name == "changes":
            for field, change in value.items():
                yield (
                    _label(field, language),
                    _told(field, change["new"], language, where),
                    _told(field, change["old"], language, where),
                )
        else:
            yield _label(name, language), _told(name, value, language, where), None


def _label(name: str, language: Language) -> str:
    name = name.removeprefix("properties.")
    return language.told(_DETAILS.get(name) or LABELS.get(name) or name_from(name))


def _told(name: str, value: Any, language: Language, where: ZoneInfo) -> str:
    match value:
        case None if name == "readings":
            return language.told(N_("not known"))
        case None if name == "role":
            return language.told(ROLE_NAMES["none"])
        case None | "":
            return "–"  # noqa: RUF001 - as in the templates
        case bool():
            return language.told(N_("yes") if value else N_("no"))
        case int():
            return language.whole(value)
        case float():
            return language.exact(value)
        case list():
            return ", ".join(str(part) for part in value)
        case str() if name in _TIMES:
            return moment(parse_instant(value, pointer=name), where)
        case str():
            return language.told(_WORDS.get(value, value))
    return str(value)
