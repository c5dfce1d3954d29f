"""The audit log: who changed what, written in the transaction of the change."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from kilowatch.auth import store
from kilowatch.auth.model import AuditAction, AuditEntry, AuditFilter, Work
from kilowatch.kit.paging import Page, PageRequest, page_of
from kilowatch.kit.timespan import from_ms

_LONGEST_TEXT = 200


def record(work: Work, site_id: int | None, action: AuditAction, what: str, details: dict[str, Any]) -> int:
    """Write an entry about `what` (`site`, `site/device`, `site/device/key`, or a user's email); its id."""
    (entry_id,) = record_all(work, action, [(site_id, what, details)])
    return entry_id


def record_all(work: Work, action: AuditAction, entries: Iterable[tuple[int | None, str, dict[str, Any]]]) -> list[int]:
    """Write an entry for each site's id, what it is about, and details; their ids."""
    who = work.who
    author: dict[str, Any] = {
        "at": work.now,
        "user_id": who.user_id or None,
        "user": who.email,
        "api_key_id": who.api_key_id,
        "api_key": who.api_key_name,
    }
    rows = [
        author | {"site_id": site_id, "action": action, "object": what, "details": details}
        for site_id, what, details in entries
    ]
    return store.add_audit(work.connection, rows) if rows else []


def record_changes(
    work: Work,
    site_id: int | None,
    action: AuditAction,
    what: str,
    *,
    before: msgspec.Struct,
    after: msgspec.Struct,
    more: dict[str, Any] | None = None,
) -> None:
    """Write an entry with each field that has another value now, and what there is to tell besides; none if nothing."""
    changes = _changes(_flat(before), _flat(after))
    details = ({"changes": changes} if changes else {}) | (more or {})
    if details:
        record(work, site_id, action, what, details)


def complete(connection: Connection, entry_id: int, details: dict[str, Any]) -> None:
    """Write what is known only now into an entry."""
    store.complete_audit(connection, entry_id, details)


def take_back(connection: Connection, entry_ids: Sequence[int]) -> None:
    """What the entries tell of did not happen after all."""
    store.delete_audit(connection, entry_ids)


def page_of_log(connection: Connection, page: PageRequest, wanted: AuditFilter) -> Page[AuditEntry]:
    """The newest entry first; nobody's rights are asked."""
    return page_of(store.page_audit(connection, page, wanted), page, id_of=lambda entry: entry.id)


def span(first_ms: int, last_ms: int, *names: str) -> dict[str, str]:
    """Two times by their names, as everywhere in the API."""
    return dict(zip(names, (_told(from_ms(first_ms)), _told(from_ms(last_ms))), strict=True))


_COUNTED_UP = frozenset(("version", "updated_at", "metrics"))


def _flat(thing: msgspec.Struct) -> dict[str, Any]:
    """Its fields by name, those of `properties` by names such as `properties.peak_kw`."""
    fields = {name: value for name, value in msgspec.structs.asdict(thing).items() if name not in _COUNTED_UP}
    properties = fields.pop("properties", {})
    return fields | {f"properties.{name}": value for name, value in properties.items()}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Any]]:
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return {name: {"old": _told(before.get(name)), "new": _told(after.get(name))} for name in names}


def _told(value: Any) -> Any:
    """As JSON has it, long texts cut."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return value[:_LONGEST_TEXT] + "…"
    return msgspec.to_builtins(value)
