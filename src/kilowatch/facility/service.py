"""Decides who may see and change what in the catalogue, and what must hold there."""

import hashlib
import re
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
import structlog
from pydantic import ValidationError
from sqlalchemy import Connection

from kilowatch.auth import audit
from kilowatch.auth import service as auth
from kilowatch.auth.model import (
    OPERATOR,
    AuditEntry,
    AuditFilter,
    Cell,
    Grant,
    GrantChange,
    Principal,
    Role,
    Scope,
    Work,
)
from kilowatch.auth.rights import require_admin, require_technician
from kilowatch.auth.service import Caller, Gate
from kilowatch.errors import Conflict, Fault, Forbidden, Invalid, NotFound, Stale, Unavailable, conflict, invalid, said
from kilowatch.facility import store
from kilowatch.facility.erasures import FOLDING, Erasures, Readings, StoredReadings, refuse_cut_quarters
from kilowatch.facility.kinds import KINDS
from kilowatch.facility.model import (
    Deleted,
    DeletedReadings,
    Device,
    DeviceWithMetrics,
    Extent,
    InstalledMetric,
    KeptSite,
    KindInfo,
    ListedMetric,
    Metric,
    PlacedMetric,
    SimulatedDevice,
    Site,
)
from kilowatch.facility.quantities import GAUGE_MAX_GAP_S, QUANTITIES, fits, quantity_measured_in
from kilowatch.kit import units
from kilowatch.kit.db import Database
from kilowatch.kit.idempotency import Once, run_once
from kilowatch.kit.paging import Page, PageRequest, page_of
from kilowatch.kit.text import MAX_ID, free_slug, name_from, slug_from
from kilowatch.kit.timespan import Window

log = structlog.get_logger("kilowatch.facility")

_EVERYTHING = AuditFilter()
_MOST_WORDS = 8
_MEANING = ("quantity", "unit", "behaviour")
_OTHER_MEANING = said(
    "The metric has readings, whose meaning this would change; make a new metric, or delete this one."
)
MOST_METRICS_ON_ARRIVAL = 200
"""Metrics of one device up to which those that arrive are made, so that a mad sender can't fill the catalogue."""

_METRIC_NAME = re.compile(r"[a-z0-9-]{1,60}/[a-z0-9-]{1,60}/[a-z0-9_]{1,60}")


class NoSuchSite(NotFound):
    def __init__(self) -> None:
        super().__init__(said("There is no such site."))


class NoSuchDevice(NotFound):
    def __init__(self) -> None:
        super().__init__(said("There is no such device."))


class NoSuchMetric(NotFound):
    def __init__(self, name: str | None = None) -> None:
        super().__init__(
            said("There is no such metric.") if name is None else said("There is no metric %(name)s.", name=repr(name))
        )


class StaleDevice(Stale):
    def __init__(self) -> None:
        super().__init__(said("The device has changed since you read it; read it again and repeat your change."))


class StaleSite(Stale):
    def __init__(self) -> None:
        super().__init__(said("The site has changed since you looked; look again and repeat your change."))


class ChangedGrants(Conflict):
    """Its faults name users and sites: `/user/site`."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__(said("Some grants changed in the meantime, so none was saved."), faults=faults)


class LastMetric(Conflict):
    def __init__(self) -> None:
        super().__init__(
            said("This is the device's last metric; a device has at least one. Delete the device instead.")
        )


class CorrectedReadings(Protocol):
    """How many readings of a metric get another value, the first and the last time among them in ms since 1970."""

    @property
    def readings(self) -> int: ...

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...


class Preparing(Protocol):
    """Readings that are made when they are needed: the room above fills this in, `services.py` joins the two."""

    def prepare(self, metrics: Sequence[PlacedMetric], window: Window) -> None: ...


class Catalogue:
    """Sites, devices, metrics and grants."""

    def __init__(
        self,
        database: Database,
        gate: Gate,
        readings: Readings,
        clock: Callable[[], datetime],
        *,
        simulation: Preparing,
        least_raw_days: int,
    ) -> None:
        """`least_raw_days`: streams read on from raw readings that are as old as this."""
        self._least_raw_days = least_raw_days
        self._database = database
        self._gate = gate
        self._readings = readings
        self._erasures = Erasures(database, readings, clock)
        self._simulation = simulation

    def list_kinds(self, caller: Caller) -> list[KindInfo]:
        """The kinds of device there are, for anybody who is signed in."""
        with self._gate.reading(caller):
            return device_kinds()

    # ── sites ──

    def list_sites(self, caller: Caller, page: PageRequest, *, words: str | None) -> Page[Site]:
        with self._gate.reading(caller) as work:
            rows = store.page_sites(work.connection, work.who, page, words=words)
            return page_of(rows, page, id_of=lambda site: site.id)

    def get_site(self, caller: Caller, site_id: int, *, to_change: bool = False) -> Site:
        """Raises `Forbidden` for those who may see it only, if it is `to_change` its devices."""
        with self._gate.reading(caller, scope=_scope(to_change)) as work:
            site, role = site_of(work.connection, work.who, site_id)
            if to_change:
                require_technician(role)
            return site

    def site_named(self, caller: Caller, slug: str) -> Site:
        """The site with this slug, for an administrator."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return site_of(work.connection, work.who, store.find_site_id_by_slug(work.connection, slug) or 0)[0]

    def metrics_where(
        self,
        caller: Caller,
        *,
        metric_id: int | None = None,
        site: str | None = None,
        device: str | None = None,
        key: str | None = None,
    ) -> list[PlacedMetric]:
        """The metrics that an id, or a site's and a device's slug and a key, fit; all without; for an administrator."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)
            return store.placed_metrics_where(work.connection, metric_id=metric_id, site=site, device=device, key=key)

    def create_site(self, caller: Caller, values: dict[str, Any], *, once: Once | None = None) -> Site:
        with self._gate.writing(caller) as work:
            require_admin(work.who)
            self._refuse_few_raw_days(values)

            def create() -> Site:
                slug = values["slug"] or _new_slug(
                    values["name"], "site", lambda slug: store.site_slugs_like(work.connection, slug)
                )
                _refuse_taken_site_slug(work.connection, slug)
                row = values | {"slug": slug, "created_at": work.now}
                site, _ = site_of(work.connection, work.who, store.add_site(work.connection, row))
                audit.record(work, site.id, "site_created", site.slug, {"name": site.name})
                return site

            return run_once(
                work.connection, create, once=once, user_id=work.who.user_id, answer_type=Site, now=work.now
            )

    def change_site(
        self, caller: Caller, site_id: int, changes: dict[str, Any], *, if_match: str | None = None
    ) -> Site:
        """Change some fields.

        Args:
            if_match: the site's `site_etag` that was read.
        """
        with self._gate.writing(caller) as work:
            site, _ = site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            _refuse_stale_site(site, if_match)
            self._refuse_few_raw_days(changes)
            if changes.get("slug", site.slug) != site.slug:
                _refuse_taken_site_slug(work.connection, changes["slug"])
            if changes:
                store.change_site(work.connection, site_id, changes)
            after, _ = site_of(work.connection, work.who, site_id)
            audit.record_changes(work, site_id, "site_changed", site.slug, before=site, after=after)
            return after

    def _refuse_few_raw_days(self, values: Mapping[str, Any]) -> None:
        days = values.get("raw_days")
        if days is not None and days < self._least_raw_days:
            raise invalid(
                "raw_days",
                said(
                    "Streams here read on from raw readings that are up to %(days)d days old "
                    "(KILOWATCH_STREAM_KEPT_DAYS); keep them for so long at least.",
                    days=self._least_raw_days,
                ),
            )

    def administered_site(self, caller: Caller, site_id: int) -> Site:
        """Raises `Forbidden` for those who may see it only: an administrator changes and deletes it."""
        with self._gate.reading(caller, scope="write") as work:
            site, _ = site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            return site

    def weigh_site(self, caller: Caller, site_id: int) -> Deleted:
        """What a deletion would take along now, for those who may delete it."""
        with self._gate.reading(caller, scope="write") as work:
            site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            devices = store.device_ids_of_site(work.connection, site_id)
            metrics = store.metric_ids(work.connection, devices)
        return Deleted(devices=len(devices), metrics=len(metrics), readings=self._weight(metrics))

    def delete_site(self, caller: Caller, site_id: int, *, if_match: str | None = None) -> Deleted:
        with self._gate.writing(caller) as work:
            site, _ = site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            _refuse_stale_site(site, if_match)
            store.lock_site(work.connection, site_id)
            devices = store.device_ids_of_site(work.connection, site_id)
            metrics = store.metric_ids(work.connection, devices)
            store.add_erasures(work.connection, metrics, work.now)
            store.delete_site(work.connection, site_id)
            # of no site, since the site's own log went with it
            details = {"name": site.name, "devices": len(devices), "metrics": len(metrics), "readings": None}
            entry = audit.record(work, None, "site_deleted", site.slug, details)
        return self._deleted(devices=len(devices), metrics=metrics, entry=(entry, details))

    # ── grants ──

    def list_grants(self, caller: Caller, site_id: int, page: PageRequest) -> Page[Grant]:
        with self._gate.reading(caller) as work:
            site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            return auth.list_grants(work.connection, site_id, page)

    def change_grants(self, caller: Caller, changes: Sequence[GrantChange]) -> int:
        """Change roles at sites, all or none; how many changed.

        Raises:
            ChangedGrants: some are not any more what they were when this was decided, or who or what is gone.
        """
        wanted = [change for change in changes if change.after != change.before]
        with self._gate.writing(caller) as work:
            require_admin(work.who)
            sites = store.lock_sites(work.connection, [change.site_id for change in wanted])
            emails = auth.lock_users(work.connection, [change.user_id for change in wanted])
            now = auth.grants_among(work.connection, list(emails), list(sites))
            _refuse_changed_grants(wanted, now, users=emails, sites=sites)
            for change in wanted:
                if change.after is None:
                    auth.take_grant(work.connection, change.user_id, change.site_id)
                else:
                    auth.put_grant(work.connection, change.user_id, change.site_id, change.after)
                slug, email = sites[change.site_id], emails[change.user_id]
                _record_grant(work, change.site_id, slug, email, before=change.before, after=change.after)
        return len(wanted)

    def put_grant(self, caller: Caller, site_id: int, user_id: int, role: Role) -> Grant:
        with self._gate.writing(caller) as work:
            site, _ = site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            auth.lock_users(work.connection, [user_id])
            email, before = auth.grant_of(work.connection, user_id, site_id)
            grant = auth.put_grant(work.connection, user_id, site_id, role)
            _record_grant(work, site_id, site.slug, email, before=before, after=role)
            return grant

    def delete_grant(self, caller: Caller, site_id: int, user_id: int) -> None:
        with self._gate.writing(caller) as work:
            site, _ = site_of(work.connection, work.who, site_id)
            require_admin(work.who)
            auth.lock_users(work.connection, [user_id])
            email, before = auth.grant_of(work.connection, user_id, site_id)
            auth.delete_grant(work.connection, user_id, site_id)
            _record_grant(work, site_id, site.slug, email, before=before, after=None)

    # ── devices ──

    def list_devices(
        self, caller: Caller, site_id: int, page: PageRequest, *, kind: str | None, words: str | None
    ) -> Page[Device]:
        return self._gate.seeing(caller, _devices, (site_id, page, kind, words)).found

    def get_device(self, caller: Caller, device_id: int, *, to_change: bool = False) -> DeviceWithMetrics:
        """Raises `Forbidden` for those who may see it only, if it is `to_change`."""
        with self._gate.reading(caller, scope=_scope(to_change)) as work:
            if to_change:
                _changeable_device(work.connection, work.who, device_id, None)
            return _device_with_metrics(work.connection, work.who, device_id)

    def create_device(
        self,
        caller: Caller,
        site_id: int,
        values: dict[str, Any],
        *,
        metrics: list[dict[str, Any]] | None,
        once: Once | None = None,
    ) -> DeviceWithMetrics:
        """A device with the metrics given, or with its kind's usual ones.

        Raises:
            Invalid: a property, unit or range that does not fit; no metric.
            Conflict: the slug or the serial number is another device's.
        """
        with self._gate.writing(caller) as work:
            _, role = site_of(work.connection, work.who, site_id)
            require_technician(role)

            def create() -> DeviceWithMetrics:
                slug = values["slug"] or _new_slug(
                    values["name"], "device", lambda slug: store.device_slugs_like(work.connection, site_id, slug)
                )
                _refuse_taken(work.connection, site_id, slug=slug, serial_number=values["serial_number"])
                row = values | {
                    "site_id": site_id,
                    "slug": slug,
                    "properties": _checked_properties(values["kind"], values["properties"]),
                    "version": 1,
                    "created_at": work.now,
                    "updated_at": work.now,
                }
                _refuse_unknown_simulation(values["kind"], values["source"])
                checked = _checked_metrics(values["kind"], metrics)
                device_id = store.add_device(work.connection, row)
                store.add_metrics(work.connection, device_id, checked)
                device = _device_with_metrics(work.connection, work.who, device_id)
                path = store.device_path(work.connection, device_id)
                details = {"kind": device.kind, "metrics": [metric.key for metric in device.metrics]}
                audit.record(work, site_id, "device_created", path, details)
                return device

            return run_once(
                work.connection,
                create,
                once=once,
                user_id=work.who.user_id,
                answer_type=DeviceWithMetrics,
                now=work.now,
            )

    def change_device(
        self, caller: Caller, device_id: int, changes: dict[str, Any], *, if_match: str | None
    ) -> DeviceWithMetrics:
        """Change some fields; of `properties`, those that are given (null takes one back to its default)."""
        with self._gate.writing(caller) as work:
            device = _changeable_device(work.connection, work.who, device_id, if_match)
            path = store.device_path(work.connection, device_id)
            values = dict(changes)
            _refuse_taken(
                work.connection,
                device.site_id,
                slug=values.get("slug"),
                serial_number=values.get("serial_number"),
                except_id=device_id,
            )
            kind = values.get("kind", device.kind)
            _refuse_unknown_simulation(kind, values.get("source", device.source))
            if "properties" in values or kind != device.kind:
                # another kind has other properties, so those of the old one do not stay
                before = device.properties if kind == device.kind else {}
                merged = before | values.get("properties", {})
                given = {name: value for name, value in merged.items() if value is not None}
                values["properties"] = _checked_properties(kind, given)
            if not store.change_device(work.connection, device_id, values, version=device.version, now=work.now):
                raise StaleDevice
            after = _device_with_metrics(work.connection, work.who, device_id)
            audit.record_changes(work, device.site_id, "device_changed", path, before=device, after=after)
            return after

    def delete_device(self, caller: Caller, device_id: int, *, if_match: str | None) -> Deleted:
        with self._gate.writing(caller) as work:
            store.lock_device(work.connection, device_id)
            device = _changeable_device(work.connection, work.who, device_id, if_match)
            path = store.device_path(work.connection, device_id)
            metrics = store.metric_ids(work.connection, [device_id])
            store.add_erasures(work.connection, metrics, work.now)
            store.delete_device(work.connection, device_id)
            details = {"metrics": len(metrics), "readings": None}
            entry = audit.record(work, device.site_id, "device_deleted", path, details)
        return self._deleted(devices=1, metrics=metrics, entry=(entry, details))

    def weigh_device(self, caller: Caller, device_id: int) -> Deleted:
        """What a deletion would take along now, for those who may delete it."""
        metrics = [metric.id for metric in self.get_device(caller, device_id, to_change=True).metrics]
        return Deleted(devices=1, metrics=len(metrics), readings=self._weight(metrics))

    def weigh_metric(self, caller: Caller, metric_id: int) -> Deleted:
        """What a deletion would take along now, for those who may delete it. Raises `LastMetric` if nobody may."""
        with self._gate.reading(caller, scope="write") as work:
            metric, role = metric_of(work.connection, work.who, metric_id)
            require_technician(role)
            if len(store.metric_keys(work.connection, metric.device_id)) == 1:
                raise LastMetric
        return Deleted(devices=0, metrics=1, readings=self._weight([metric_id]))

    def _weight(self, metrics: list[int]) -> int | None:
        try:
            return self._readings.count(metrics)
        except Unavailable:
            return None

    # ── metrics ──

    def find_metrics(
        self,
        caller: Caller,
        page: PageRequest,
        *,
        words: str | None = None,
        site_id: int | None = None,
        kind: str | None = None,
        quantity: str | None = None,
    ) -> Page[ListedMetric]:
        """Metrics of any sites, by id; each of the words stands in the name of one, of its device or of its site."""
        sought = (page, tuple((words or "").split()[:_MOST_WORDS]), site_id, kind, quantity)
        return self._gate.seeing(caller, _find_metrics, sought).found

    def describe_metrics(self, caller: Caller, references: Sequence[int | str]) -> Mapping[int | str, ListedMetric]:
        """What ids or names (`site/device/key`) stand for; one that the caller can't see is missing, as one that
        never was."""
        possible = tuple(filter(may_name_a_metric, references))
        return self._gate.seeing(caller, _described_metrics, possible).found

    def list_metrics(self, caller: Caller, device_id: int, page: PageRequest) -> Page[Metric]:
        with self._gate.reading(caller) as work:
            device_of(work.connection, work.who, device_id)
            rows = store.page_metrics(work.connection, device_id, page)
            return page_of(rows, page, id_of=lambda metric: metric.id)

    def get_metric(self, caller: Caller, metric_id: int) -> Metric:
        with self._gate.reading(caller) as work:
            return metric_of(work.connection, work.who, metric_id)[0]

    def create_metric(
        self, caller: Caller, device_id: int, values: dict[str, Any], *, once: Once | None = None
    ) -> Metric:
        with self._gate.writing(caller) as work:
            device, role = device_of(work.connection, work.who, device_id)
            require_technician(role)

            def create() -> Metric:
                if values["key"] in store.metric_keys(work.connection, device_id):
                    raise conflict("key", said("The device has a metric with this key already."))
                _check_metric(values)
                (metric_id,) = store.add_metrics(work.connection, device_id, [values])
                store.touch_device(work.connection, device_id, work.now)
                path = store.device_path(work.connection, device_id)
                _record_new_metrics(work, device.site_id, path, [values], on_arrival=False)
                return metric_of(work.connection, work.who, metric_id)[0]

            return run_once(
                work.connection, create, once=once, user_id=work.who.user_id, answer_type=Metric, now=work.now
            )

    def change_metric(
        self, caller: Caller, metric_id: int, changes: dict[str, Any], *, if_match: str | None = None
    ) -> Metric:
        """Change some fields; quantity, unit and behaviour only while there are no readings to give a meaning to.

        Args:
            if_match: the device's ETag that was read, as its metrics change it too.
        """
        # The history is asked before the transaction begins, so that a slow answer holds up nobody else's writes.
        with self._gate.reading(caller, scope="write") as work:
            require_technician(metric_of(work.connection, work.who, metric_id)[1])
        has_readings = not changes.keys().isdisjoint(_MEANING) and self._readings.count([metric_id]) > 0
        with self._gate.writing(caller) as work:
            metric, _ = metric_of(work.connection, work.who, metric_id)
            _changeable_device(work.connection, work.who, metric.device_id, if_match)
            if changes.get("key", metric.key) != metric.key and changes["key"] in store.metric_keys(
                work.connection, metric.device_id
            ):
                raise conflict("key", said("The device has a metric with this key already."))
            _check_metric(msgspec.structs.asdict(metric) | changes)
            new_meaning = [
                field for field in _MEANING if changes.get(field, getattr(metric, field)) != getattr(metric, field)
            ]
            if new_meaning and has_readings:
                raise conflict(new_meaning[0], _OTHER_MEANING)
            if changes:
                store.change_metric(work.connection, metric_id, changes)
                store.touch_device(work.connection, metric.device_id, work.now)
            after, _ = metric_of(work.connection, work.who, metric_id)
            site_id, path = _place_of(work, metric)
            audit.record_changes(work, site_id, "metric_changed", path, before=metric, after=after)
            return after

    def delete_metric(self, caller: Caller, metric_id: int, *, if_match: str | None = None) -> Deleted:
        with self._gate.writing(caller) as work:
            metric, _ = metric_of(work.connection, work.who, metric_id)
            _changeable_device(work.connection, work.who, metric.device_id, if_match)
            # Locks the device's row, so that two requests can't each take the other's last-but-one metric.
            store.touch_device(work.connection, metric.device_id, work.now)
            if len(store.metric_keys(work.connection, metric.device_id)) == 1:
                raise LastMetric
            store.add_erasures(work.connection, [metric_id], work.now)
            store.delete_metric(work.connection, metric_id)
            site_id, path = _place_of(work, metric)
            entry = audit.record(work, site_id, "metric_deleted", path, {"readings": None})
        return self._deleted(devices=0, metrics=[metric_id], entry=(entry, {}))

    # ── readings ──

    def delete_readings(self, caller: Caller, metric_id: int, window: Window) -> DeletedReadings:
        """Remove a metric's readings in a window, those that are there when it is asked.

        Raises:
            Unavailable: the history does not answer. If that was after the deletion was noted, it is done with the
                next deletion, or within ten minutes.
        """
        with self._gate.reading(caller, scope="write") as work:
            require_technician(metric_of(work.connection, work.who, metric_id)[1])
            metric_there = placed_metric(work.connection, work.who, metric_id)
        self._simulation.prepare([metric_there], window)  # or what nobody has asked for yet would come back
        # One at a time, or two would count the same readings.
        with self._database.alone(FOLDING):
            self._erasures.of_windows(metric_id)
            # The history is asked before the transaction begins, so that a slow answer holds up nobody else's writes.
            stored = self._readings.stored_in_window(metric_id, window)
            refuse_cut_quarters(window, stored)
            with self._gate.writing(caller) as work:
                metric, role = metric_of(work.connection, work.who, metric_id)
                require_technician(role)
                if stored.readings:
                    _note_deletion(work, metric, window, stored)
            self._erasures.of_windows(metric_id)
        return DeletedReadings(stored.readings)

    # ── audit ──

    def list_audit(
        self, caller: Caller, site_id: int, page: PageRequest, *, wanted: AuditFilter = _EVERYTHING
    ) -> Page[AuditEntry]:
        """Who changed what at a site, the newest first, for its technicians."""
        with self._gate.reading(caller) as work:
            _, role = site_of(work.connection, work.who, site_id)
            if role != "technician":
                raise Forbidden(
                    said("Only a technician of this site may read its audit log; your role here is `standard`.")
                )
            of_site = msgspec.structs.replace(wanted, site_id=site_id)
            return audit.page_of_log(work.connection, page, of_site)

    # ── what deletions leave to do ──

    def finish_erasures(self) -> None:
        """At a start, and now and then: erase what a crash, or an engine that did not answer in time, left behind."""
        self._erasures.finish()

    def _deleted(self, *, devices: int, metrics: list[int], entry: tuple[int, dict[str, Any]] | None = None) -> Deleted:
        """What went, with the readings' number put into the audit log's entry (its id and details).

        Readings are `None` if the history does not answer: a later deletion or start takes them.
        """
        try:
            readings: int | None = self._readings.count(metrics)
            if entry is not None:
                with self._database.write() as connection:
                    audit.complete(connection, entry[0], entry[1] | {"readings": readings})
            self._erasures.of_metrics(metrics)
        except Unavailable:
            log.warning("readings of deleted metrics are still to be erased", metrics=len(metrics), exc_info=True)
            readings = None
        return Deleted(devices=devices, metrics=len(metrics), readings=readings)


# ── what other rooms ask of the catalogue, in their own transactions ─────────────────────────────────────────────────


def site_of(connection: Connection, who: Principal, site_id: int) -> tuple[Site, Role]:
    found = store.find_site(connection, who, site_id)
    if found is None:
        raise NoSuchSite
    return found


def visible_sites(connection: Connection, who: Principal, *, words: str | None) -> list[Site]:
    """All sites that `who` may see, by id; those with `words` in the name or slug."""
    return store.visible_sites(connection, who, words=words)


def device_of(connection: Connection, who: Principal, device_id: int) -> tuple[Device, Role]:
    found = store.find_device(connection, who, device_id)
    if found is None:
        raise NoSuchDevice
    return found


def metric_of(connection: Connection, who: Principal, metric_id: int) -> tuple[Metric, Role]:
    found = store.find_metric(connection, who, metric_id)
    if found is None:
        raise NoSuchMetric
    return found


def placed_metric(connection: Connection, who: Principal, metric_id: int) -> PlacedMetric:
    found = store.placed_metrics(connection, who, [metric_id])
    if not found:
        raise NoSuchMetric
    return found[0][0]


def placed_metrics_of_device(connection: Connection, who: Principal, device_id: int) -> list[PlacedMetric]:
    device_of(connection, who, device_id)
    return store.placed_metrics_of(connection, device_id=device_id)


def placed_metrics_of_devices(
    connection: Connection, who: Principal, device_ids: tuple[int, ...]
) -> list[PlacedMetric]:
    """Of those of the devices that `who` may see, by device and metric id."""
    return store.placed_metrics_of_devices(connection, who, device_ids)


def placed_metrics_of_site(connection: Connection, who: Principal, site_id: int) -> list[PlacedMetric]:
    site_of(connection, who, site_id)
    return store.placed_metrics_of(connection, site_id=site_id)


def installed_metrics(
    connection: Connection, who: Principal, site_ids: Sequence[int], *, quantities: Sequence[str] | None = None
) -> list[InstalledMetric]:
    """The metrics of those of the sites that `who` may see, with what measures them; by site, device and metric id.

    Args:
        quantities: those that are asked for; `None` for all.
    """
    return store.installed_metrics(connection, who, site_ids, quantities=quantities)


def readable_metrics(connection: Connection, who: Principal, ids: Sequence[int]) -> dict[int, PlacedMetric]:
    """Those of the metrics that `who` may read."""
    return {metric.id: metric for metric, _ in store.placed_metrics(connection, who, ids)}


def readable_metric_ids(connection: Connection, who: Principal, ids: Sequence[int]) -> set[int]:
    """Those of the metrics that `who` may read, where nothing else of them is asked."""
    return store.visible_metric_ids(connection, who, ids)


def may_name_a_metric(reference: int | str) -> bool:
    """Whether a metric can have this id or name: a database is asked for no number or text that it can't hold."""
    if isinstance(reference, int):
        return 0 < reference <= MAX_ID
    return _METRIC_NAME.fullmatch(reference) is not None


def addressed_metrics(
    connection: Connection, who: Principal, references: Sequence[int | str]
) -> dict[int | str, tuple[PlacedMetric, Role]]:
    """What ids or names (`site/device/key`) stand for, with the caller's role; what is unknown is missing."""
    ids = [reference for reference in references if isinstance(reference, int)]
    found: dict[int | str, tuple[PlacedMetric, Role]] = {
        metric.id: (metric, role) for metric, role in store.placed_metrics(connection, who, ids)
    }
    names = [tuple(reference.split("/")) for reference in references if isinstance(reference, str)]
    triples = [(name[0], name[1], name[2]) for name in names if len(name) == 3]
    for metric, role in store.placed_metrics_named(connection, who, triples):
        found[metric.path] = (metric, role)
    return found


def simulated_devices(connection: Connection, site_id: int) -> list[SimulatedDevice]:
    """The site's simulated devices with their metrics, by id, for the simulation: nobody's rights are asked."""
    return store.simulated_devices(connection, site_id)


def position_of_site(connection: Connection, site_id: int) -> tuple[str, float | None, float | None, str | None] | None:
    """The time zone, latitude, longitude and country of a site, for the simulation; `None` if there is none."""
    site = store.find_site(connection, OPERATOR, site_id)
    return None if site is None else (site[0].timezone, site[0].latitude, site[0].longitude, site[0].country)


def extent(connection: Connection) -> Extent:
    """How much there is of the catalogue; nobody's rights are asked."""
    return store.extent(connection)


def sites_with_simulated_devices(connection: Connection) -> list[int]:
    return store.sites_with_simulated_devices(connection)


def folding_sites(connection: Connection) -> list[KeptSite]:
    """The sites that do not keep raw readings for ever, or once did not, by id; nobody's rights are asked."""
    return store.folding_sites(connection)


def put_folded_until(connection: Connection, site_id: int, border: datetime) -> None:
    """Say that readings of before are folded from now on, or soon. It only moves forward."""
    store.put_folded_until(connection, site_id, border)


def metrics_of_site(connection: Connection, site_id: int) -> list[PlacedMetric]:
    """All of them; nobody's rights are asked."""
    return store.placed_metrics_of(connection, site_id=site_id)


def foldable_metrics(connection: Connection, metric_ids: Sequence[int]) -> set[int]:
    """Those of them that are still there, and have no readings whose deletion is noted, but not done yet."""
    waiting = {erasure.metric_id for erasure in store.window_erasures(connection)}
    return store.visible_metric_ids(connection, OPERATOR, metric_ids) - waiting


def creating_devices(connection: Connection, who: Principal, names: Sequence[str]) -> set[str]:
    """The devices (`site/device`) among those of metrics' names that make metrics on arrival for this caller."""
    devices = {(site, device) for site, device, _ in (name.split("/") for name in names)}
    return {"/".join(device) for device in store.devices_creating_metrics(connection, who, sorted(devices))}


def create_on_arrival(work: Work, units_of: Mapping[str, str | None]) -> dict[str, str]:
    """Make the metrics of devices that are set to make them, where there is none yet.

    Args:
        units_of: the unit of each metric by its name `site/device/key`, `None` where no reading says one.

    Returns:
        Why a metric was not made, for each of the names that has none now.
    """
    wanted: dict[tuple[str, str], dict[str, str]] = {}
    for name, unit in units_of.items():
        site, slug, key = name.split("/")
        wanted.setdefault((site, slug), {})[key] = "dimensionless" if unit is None else unit
    refused: dict[str, str] = {}
    # in the order of their ids, so that two requests can't wait for each other
    creating = store.devices_creating_metrics(work.connection, work.who, sorted(wanted))
    for names, device in sorted(creating.items(), key=lambda item: item[1].id):
        path = "/".join(names)
        store.lock_device(work.connection, device.id)
        taken = store.metric_keys(work.connection, device.id)
        new: list[dict[str, Any]] = []
        for key, unit in wanted[names].items():
            if key in taken:
                continue
            if not units.is_unit(unit):
                refused[f"{path}/{key}"] = f"No metric was made of {path}/{key}, as {unit[:30]!r} is not a known unit."
            elif len(taken) + len(new) >= MOST_METRICS_ON_ARRIVAL:
                refused[f"{path}/{key}"] = (
                    f"No metric was made of {path}/{key}, as its device has {MOST_METRICS_ON_ARRIVAL} or more already."
                )
            else:
                new.append(_metric_on_arrival(key, unit))
        if new:
            store.add_metrics(work.connection, device.id, new)
            store.touch_device(work.connection, device.id, work.now)
            _record_new_metrics(work, device.site_id, path, new, on_arrival=True)
    return refused


def record_corrections(
    work: Work, corrected: Mapping[int, CorrectedReadings], places: Mapping[int, PlacedMetric]
) -> list[int]:
    """Note in the audit log that stored readings are to get other values; the entries' ids."""
    return audit.record_all(
        work,
        "readings_corrected",
        [
            (
                places[metric_id].site_id,
                places[metric_id].path,
                {"readings": told.readings} | audit.span(told.first, told.last, "first", "last"),
            )
            for metric_id, told in corrected.items()
        ],
    )


def take_back_corrections(connection: Connection, entry_ids: Sequence[int]) -> None:
    """The readings were not stored after all."""
    audit.take_back(connection, entry_ids)


def device_kinds() -> list[KindInfo]:
    """The kinds of device there are."""
    return [
        KindInfo(
            kind.key,
            kind.name,
            kind.properties.model_json_schema(),
            list(kind.metrics),
        )
        for kind in KINDS.values()
    ]


_Sought = tuple[PageRequest, tuple[str, ...], int | None, str | None, str | None]


def _find_metrics(connection: Connection, who: Principal, sought: _Sought) -> Page[ListedMetric]:
    page, words, site_id, kind, quantity = sought
    rows = store.page_listed_metrics(connection, who, page, words=words, site_id=site_id, kind=kind, quantity=quantity)
    return page_of(rows, page, id_of=lambda metric: metric.id)


def _described_metrics(
    connection: Connection, who: Principal, references: tuple[int | str, ...]
) -> dict[int | str, ListedMetric]:
    ids = {reference: found[0].id for reference, found in addressed_metrics(connection, who, references).items()}
    listed = {metric.id: metric for metric in store.listed_metrics(connection, who, sorted(set(ids.values())))}
    return {reference: listed[metric_id] for reference, metric_id in ids.items()}


def _devices(
    connection: Connection, who: Principal, asked: tuple[int, PageRequest, str | None, str | None]
) -> Page[Device]:
    site_id, page, kind, words = asked
    site_of(connection, who, site_id)
    rows = store.page_devices(connection, site_id, page, kind=kind, words=words)
    return page_of(rows, page, id_of=lambda device: device.id)


# ── notes of what was changed ────────────────────────────────────────────────────────────────────────────────────────


def _place_of(work: Work, metric: Metric) -> tuple[int, str]:
    """The id of the metric's site, and the metric's name."""
    device, _ = device_of(work.connection, work.who, metric.device_id)
    return device.site_id, f"{store.device_path(work.connection, device.id)}/{metric.key}"


def _scope(to_change: bool) -> Scope:
    return "write" if to_change else "read"


def _record_grant(work: Work, site_id: int, slug: str, email: str, *, before: Role | None, after: Role | None) -> None:
    if before != after:
        details = {"user": email, "changes": {"role": {"old": before, "new": after}}}
        audit.record(work, site_id, "grant_changed", slug, details)


def _refuse_changed_grants(
    wanted: Sequence[GrantChange], now: Mapping[Cell, Role], *, users: Container[int], sites: Container[int]
) -> None:
    """Raises `ChangedGrants` naming each one that is neither as it was nor as it is to be."""
    gone = said("The user or the site was deleted in the meantime.")
    changed = said("Somebody else changed this in the meantime.")
    faults = []
    for change in wanted:
        pointer = f"/{change.user_id}/{change.site_id}"
        if change.user_id not in users or change.site_id not in sites:
            faults.append(Fault(pointer, gone))
        elif now.get(Cell(change.user_id, change.site_id)) not in (change.before, change.after):
            faults.append(Fault(pointer, changed))
    if faults:
        raise ChangedGrants(tuple(faults))


def _record_new_metrics(
    work: Work, site_id: int, device: str, metrics: Sequence[dict[str, Any]], *, on_arrival: bool
) -> None:
    told = ("quantity", "unit", "behaviour")
    entries = [
        (
            site_id,
            f"{device}/{values['key']}",
            {name: values[name] for name in told} | {"on_arrival": on_arrival},
        )
        for values in metrics
    ]
    audit.record_all(work, "metric_created", entries)


def _note_deletion(work: Work, metric: Metric, window: Window, stored: StoredReadings) -> None:
    """In the audit log, and for the history, which may do it only after a crash."""
    store.add_window_erasure(
        work.connection,
        metric.id,
        start=window.start_ms,
        end=window.end_ms,
        received_until=stored.received_until,
    )
    site_id, path = _place_of(work, metric)
    details = {"readings": stored.readings} | audit.span(window.start_ms, window.end_ms, "start", "end")
    audit.record(work, site_id, "readings_deleted", path, details)


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _device_with_metrics(connection: Connection, who: Principal, device_id: int) -> DeviceWithMetrics:
    device, _ = device_of(connection, who, device_id)
    metrics = store.metrics_of_device(connection, device_id)
    return DeviceWithMetrics(**msgspec.structs.asdict(device), metrics=metrics)


def _changeable_device(connection: Connection, who: Principal, device_id: int, if_match: str | None) -> Device:
    device, role = device_of(connection, who, device_id)
    require_technician(role)
    if if_match is not None and not {"*", etag(device)} & {part.strip() for part in if_match.split(",")}:
        raise StaleDevice
    return device


def etag(device: Device) -> str:
    return f'"{device.version}"'


def site_etag(site: Site) -> str:
    """Another one if anything of the site itself is another."""
    own = msgspec.structs.replace(site, folded_until=None)  # that moves by itself, each day
    return f'"{hashlib.sha256(msgspec.json.encode(own)).hexdigest()[:16]}"'


def _refuse_stale_site(site: Site, if_match: str | None) -> None:
    if if_match is not None and if_match != site_etag(site):
        raise StaleSite


def _new_slug(name: str, otherwise: str, taken: Callable[[str], set[str]]) -> str:
    slug = slug_from(name) or otherwise
    return free_slug(slug, taken(slug[:50]))


def _refuse_taken_site_slug(connection: Connection, slug: str) -> None:
    if store.find_site_id_by_slug(connection, slug) is not None:
        raise conflict("slug", said("There is a site with the slug `%(slug)s` already.", slug=slug))


def _refuse_taken(
    connection: Connection, site_id: int, *, slug: str | None, serial_number: str | None, except_id: int | None = None
) -> None:
    if slug is not None and store.find_device_id(connection, site_id, slug=slug) not in (None, except_id):
        raise conflict("slug", said("The site has a device with the slug `%(slug)s` already.", slug=slug))
    if serial_number is None:
        return
    if store.find_device_id(connection, site_id, serial_number=serial_number) not in (None, except_id):
        raise conflict("serial_number", said("The site has a device with this serial number already."))


def _checked_properties(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The properties with defaults filled in. Raises `Invalid` naming each that its kind does not have or allow."""
    try:
        return KINDS[kind].properties.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        faults = tuple(
            Fault("/" + "/".join(("properties", *map(str, item["loc"]))), item["msg"].removeprefix("Value error, "))
            for item in error.errors()
        )
        detail = "; ".join(f"{fault.pointer.strip('/')}: {fault.detail}" for fault in faults[:3])
        raise Invalid(detail, faults=faults) from error


def _refuse_unknown_simulation(kind: str, source: str) -> None:
    if source == "simulated" and not KINDS[kind].can_be_simulated:
        raise invalid(
            "source",
            said("A device of the kind `%(kind)s` can't be simulated; choose `reported` or another kind.", kind=kind),
        )


def _checked_metrics(kind: str, given: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if given is None:
        given = [msgspec.structs.asdict(metric) for metric in KINDS[kind].metrics]
    if not given:
        raise invalid(
            "metrics",
            said("A device has at least one metric; name them, as the kind `%(kind)s` brings none itself.", kind=kind),
        )
    keys: set[str] = set()
    for index, values in enumerate(given):
        if values["key"] in keys:
            raise invalid(f"metrics/{index}/key", said("Another metric of this device has the same key."))
        keys.add(values["key"])
        _check_metric(values, pointer=f"metrics/{index}/")
    return given


def _check_metric(values: dict[str, Any], *, pointer: str = "") -> None:
    usual, unit = QUANTITIES[values["quantity"]].unit, values["unit"]
    if not units.is_unit(unit):
        raise invalid(
            f"{pointer}unit",
            said(
                "%(unit)s is not a unit that is known here; `%(usual)s` is usual for it.", unit=repr(unit), usual=usual
            ),
        )
    if not fits(unit, values["quantity"]):
        raise invalid(
            f"{pointer}unit",
            said(
                "`%(unit)s` does not measure %(quantity)s; `%(usual)s` does.",
                unit=unit,
                quantity=values["quantity"],
                usual=usual,
            ),
        )
    low, high = values["valid_min"], values["valid_max"]
    if low is not None and high is not None and low > high:
        raise invalid(f"{pointer}valid_max", said("`valid_max` is below `valid_min`."))


def _metric_on_arrival(key: str, unit: str) -> dict[str, Any]:
    return {
        "key": key,
        "name": name_from(key),
        "quantity": quantity_measured_in(unit),
        "unit": unit,
        "behaviour": "gauge",
        "max_gap_s": GAUGE_MAX_GAP_S,
        "valid_min": None,
        "valid_max": None,
    }
