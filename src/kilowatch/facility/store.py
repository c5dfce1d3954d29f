"""Reads and writes sites, devices and metrics. Who may see what is joined into every read."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, and_, case, delete, func, insert, null, or_, select, tuple_, update

from kilowatch.auth.model import Principal, Role
from kilowatch.auth.rights import visible, visible_with_role
from kilowatch.facility.model import (
    Device,
    DeviceRow,
    ErasureRow,
    Extent,
    InstalledMetric,
    KeptSite,
    ListedMetric,
    Metric,
    MetricRow,
    PlacedMetric,
    SimulatedDevice,
    Site,
    SiteRow,
    WindowErasure,
    WindowErasureRow,
)
from kilowatch.kit.db import Base, columns, contains, fetch_all, insert_missing
from kilowatch.kit.paging import PageRequest

_SITE = columns(SiteRow, Site)
_DEVICE = columns(DeviceRow, Device)
_METRIC = columns(MetricRow, Metric)
_KEPT_SITE = columns(SiteRow, KeptSite)
_WINDOW_ERASURE = columns(WindowErasureRow, WindowErasure)
_SITES, _DEVICES, _METRICS = SiteRow.__table__.c, DeviceRow.__table__.c, MetricRow.__table__.c
_PLACED: list[Any] = [
    _METRICS.id,
    _SITES.id,
    _SITES.slug,
    _SITES.timezone,
    _DEVICES.id,
    _DEVICES.slug,
    _METRICS.key,
    _METRICS.name,
    _METRICS.quantity,
    _METRICS.unit,
    _METRICS.behaviour,
    _METRICS.max_gap_s,
    _METRICS.valid_min,
    _METRICS.valid_max,
    _DEVICES.source == "simulated",
    _SITES.raw_days,
    _SITES.folded_until,
]
_LISTED: list[Any] = [
    _METRICS.id,
    _METRICS.key,
    _METRICS.name,
    _METRICS.quantity,
    _METRICS.unit,
    _METRICS.behaviour,
    _METRICS.max_gap_s,
    _DEVICES.id,
    _DEVICES.slug,
    _DEVICES.name,
    _DEVICES.kind,
    _SITES.id,
    _SITES.slug,
    _SITES.name,
    _SITES.timezone,
]
_SIMULATED: list[Any] = [
    _DEVICES.id,
    _DEVICES.kind,
    _DEVICES.commissioned_on,
    _DEVICES.interval_s,
    _DEVICES.properties,
    _DEVICES.created_at,
    _SITES.id,
    _SITES.timezone,
    _SITES.latitude,
    _SITES.longitude,
    _SITES.country,
]
_CHUNK = 1000
T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Parts of at most `size`: databases limit how many parameters a statement may have."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def page_sites(connection: Connection, who: Principal, page: PageRequest, *, words: str | None) -> list[Site]:
    statement = select(*_SITE).where(SiteRow.id > page.after_id).order_by(SiteRow.id).limit(page.limit + 1)
    if words:
        statement = statement.where(or_(contains(SiteRow.name, words), contains(SiteRow.slug, words)))
    return fetch_all(connection, visible(statement, who, SiteRow.id), Site)


def visible_sites(connection: Connection, who: Principal, *, words: str | None) -> list[Site]:
    """All of them, by id."""
    statement = select(*_SITE).order_by(SiteRow.id)
    if words:
        statement = statement.where(or_(contains(SiteRow.name, words), contains(SiteRow.slug, words)))
    return fetch_all(connection, visible(statement, who, SiteRow.id), Site)


def find_site(connection: Connection, who: Principal, site_id: int) -> tuple[Site, Role] | None:
    statement = visible_with_role(select(*_SITE).where(SiteRow.id == site_id), who, SiteRow.id)
    return _with_role(connection, statement, Site)


def find_site_id_by_slug(connection: Connection, slug: str) -> int | None:
    return connection.execute(select(SiteRow.id).where(SiteRow.slug == slug)).scalar()


def site_slugs_like(connection: Connection, slug: str) -> set[str]:
    return set(connection.execute(select(SiteRow.slug).where(SiteRow.slug.startswith(slug, autoescape=True))).scalars())


def add_site(connection: Connection, values: dict[str, Any]) -> int:
    return connection.execute(insert(SiteRow).values(values).returning(SiteRow.id)).scalar_one()


def change_site(connection: Connection, site_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(SiteRow).where(SiteRow.id == site_id).values(values))


def lock_sites(connection: Connection, site_ids: Sequence[int]) -> dict[int, str]:
    """Their slugs by id; nobody else changes or deletes them until the transaction ends."""
    statement = select(SiteRow.id, SiteRow.slug).where(SiteRow.id.in_(site_ids)).order_by(SiteRow.id)
    return {row.id: row.slug for row in connection.execute(statement.with_for_update())}


def extent(connection: Connection) -> Extent:
    def count(table: type[Base], *conditions: Any) -> int:
        return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()

    return Extent(
        sites=count(SiteRow),
        devices=count(DeviceRow),
        simulated_devices=count(DeviceRow, DeviceRow.source == "simulated"),
        metrics=count(MetricRow),
    )


def delete_site(connection: Connection, site_id: int) -> None:
    connection.execute(delete(SiteRow).where(SiteRow.id == site_id))


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def page_devices(
    connection: Connection, site_id: int, page: PageRequest, *, kind: str | None, words: str | None
) -> list[Device]:
    """Devices of a site that is known to be visible."""
    statement = select(*_DEVICE).where(DeviceRow.site_id == site_id, DeviceRow.id > page.after_id)
    if kind:
        statement = statement.where(DeviceRow.kind == kind)
    if words:
        statement = statement.where(
            or_(*(contains(column, words) for column in (DeviceRow.name, DeviceRow.slug, DeviceRow.serial_number)))
        )
    return fetch_all(connection, statement.order_by(DeviceRow.id).limit(page.limit + 1), Device)


def find_device(connection: Connection, who: Principal, device_id: int) -> tuple[Device, Role] | None:
    statement = visible_with_role(select(*_DEVICE).where(DeviceRow.id == device_id), who, DeviceRow.site_id)
    return _with_role(connection, statement, Device)


def device_path(connection: Connection, device_id: int) -> str:
    """`site/device`, of a device that is known to be there."""
    statement = (
        select(SiteRow.slug, DeviceRow.slug)
        .join(SiteRow, SiteRow.id == DeviceRow.site_id)
        .where(DeviceRow.id == device_id)
    )
    return "/".join(connection.execute(statement).one())


def devices_creating_metrics(
    connection: Connection, who: Principal, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Device]:
    """Those of the devices (site and device) that make metrics on arrival and `who` is a technician of."""
    found: dict[tuple[str, str], Device] = {}
    for chunk in batched(names, _CHUNK):
        statement = (
            select(SiteRow.slug, *_DEVICE)
            .join(SiteRow, SiteRow.id == DeviceRow.site_id)
            .where(DeviceRow.create_metrics, tuple_(SiteRow.slug, DeviceRow.slug).in_(chunk))
        )
        for site, *fields, role in connection.execute(visible_with_role(statement, who, SiteRow.id)):
            device = Device(*fields)
            if role == "technician":
                found[site, device.slug] = device
    return found


def device_slugs_like(connection: Connection, site_id: int, slug: str) -> set[str]:
    statement = select(DeviceRow.slug).where(
        DeviceRow.site_id == site_id, DeviceRow.slug.startswith(slug, autoescape=True)
    )
    return set(connection.execute(statement).scalars())


def find_device_id(
    connection: Connection, site_id: int, *, slug: str | None = None, serial_number: str | None = None
) -> int | None:
    """The device of the site with this slug, or with this serial number."""
    which = DeviceRow.slug == slug if slug is not None else DeviceRow.serial_number == serial_number
    return connection.execute(select(DeviceRow.id).where(DeviceRow.site_id == site_id, which)).scalar()


def add_device(connection: Connection, values: dict[str, Any]) -> int:
    return connection.execute(insert(DeviceRow).values(values).returning(DeviceRow.id)).scalar_one()


def change_device(
    connection: Connection, device_id: int, values: dict[str, Any], *, version: int, now: datetime
) -> bool:
    """Change it and count its version up; false if it is not at `version` any more."""
    statement = update(DeviceRow).where(DeviceRow.id == device_id, DeviceRow.version == version)
    return connection.execute(statement.values(values | {"version": version + 1, "updated_at": now})).rowcount == 1


def touch_device(connection: Connection, device_id: int, now: datetime) -> None:
    """Its metrics changed, so what its ETag stands for did."""
    connection.execute(
        update(DeviceRow).where(DeviceRow.id == device_id).values(version=DeviceRow.version + 1, updated_at=now)
    )


def lock_device(connection: Connection, device_id: int) -> None:
    """Until the transaction ends nobody else changes the device or its metrics. (SQLite has one writer anyway.)"""
    connection.execute(select(DeviceRow.id).where(DeviceRow.id == device_id).with_for_update())


def lock_site(connection: Connection, site_id: int) -> None:
    """Until the transaction ends nobody else changes the site, its devices or their metrics."""
    connection.execute(select(SiteRow.id).where(SiteRow.id == site_id).with_for_update())
    connection.execute(select(DeviceRow.id).where(DeviceRow.site_id == site_id).with_for_update())


def delete_device(connection: Connection, device_id: int) -> None:
    connection.execute(delete(DeviceRow).where(DeviceRow.id == device_id))


def device_ids_of_site(connection: Connection, site_id: int) -> list[int]:
    return list(connection.execute(select(DeviceRow.id).where(DeviceRow.site_id == site_id)).scalars())


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def metrics_of_device(connection: Connection, device_id: int) -> list[Metric]:
    statement = select(*_METRIC).where(MetricRow.device_id == device_id).order_by(MetricRow.id)
    return fetch_all(connection, statement, Metric)


def page_metrics(connection: Connection, device_id: int, page: PageRequest) -> list[Metric]:
    statement = select(*_METRIC).where(MetricRow.device_id == device_id, MetricRow.id > page.after_id)
    return fetch_all(connection, statement.order_by(MetricRow.id).limit(page.limit + 1), Metric)


def find_metric(connection: Connection, who: Principal, metric_id: int) -> tuple[Metric, Role] | None:
    statement = select(*_METRIC).join(DeviceRow, DeviceRow.id == MetricRow.device_id).where(MetricRow.id == metric_id)
    return _with_role(connection, visible_with_role(statement, who, DeviceRow.site_id), Metric)


def metric_keys(connection: Connection, device_id: int) -> set[str]:
    return set(connection.execute(select(MetricRow.key).where(MetricRow.device_id == device_id)).scalars())


def metric_ids(connection: Connection, device_ids: Sequence[int]) -> list[int]:
    return [
        metric_id
        for chunk in batched(device_ids, _CHUNK)
        for metric_id in connection.execute(select(MetricRow.id).where(MetricRow.device_id.in_(chunk))).scalars()
    ]


def add_metrics(connection: Connection, device_id: int, metrics: Iterable[dict[str, Any]]) -> list[int]:
    rows = [{"device_id": device_id, **values} for values in metrics]
    statement = insert(MetricRow).returning(MetricRow.id, sort_by_parameter_order=True)
    return list(connection.execute(statement, rows).scalars())


def change_metric(connection: Connection, metric_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(MetricRow).where(MetricRow.id == metric_id).values(values))


def delete_metric(connection: Connection, metric_id: int) -> None:
    connection.execute(delete(MetricRow).where(MetricRow.id == metric_id))


# ── metrics with their places ────────────────────────────────────────────────────────────────────────────────────────


def _placed(columns: Sequence[Any] = _PLACED) -> Select[Any]:
    return (
        select(*columns)
        .join(DeviceRow, DeviceRow.id == MetricRow.device_id)
        .join(SiteRow, SiteRow.id == DeviceRow.site_id)
    )


def page_listed_metrics(
    connection: Connection,
    who: Principal,
    page: PageRequest,
    *,
    words: Sequence[str],
    site_id: int | None,
    kind: str | None,
    quantity: str | None,
) -> list[ListedMetric]:
    """The metrics of all sites that `who` may see, by id; each word stands in the name of one, its device or site."""
    wanted = ((SiteRow.id, site_id), (DeviceRow.kind, kind), (MetricRow.quantity, quantity))
    named = (MetricRow.name, MetricRow.key, DeviceRow.name, DeviceRow.slug, SiteRow.name, SiteRow.slug)
    statement = _placed(_LISTED).where(
        MetricRow.id > page.after_id,
        *(column == value for column, value in wanted if value is not None),
        *(or_(*(contains(column, word) for column in named)) for word in words),
    )
    statement = visible(statement, who, SiteRow.id).order_by(MetricRow.id).limit(page.limit + 1)
    return fetch_all(connection, statement, ListedMetric)


def listed_metrics(connection: Connection, who: Principal, ids: Sequence[int]) -> list[ListedMetric]:
    """Those of the metrics that `who` may see, in no order."""
    found: list[ListedMetric] = []
    for chunk in batched(ids, _CHUNK):
        statement = visible(_placed(_LISTED).where(MetricRow.id.in_(chunk)), who, SiteRow.id)
        found += fetch_all(connection, statement, ListedMetric)
    return found


def placed_metrics(connection: Connection, who: Principal, ids: Sequence[int]) -> list[tuple[PlacedMetric, Role]]:
    """Those of the metrics that `who` may see, with the role at their sites, in no order."""
    found: list[tuple[PlacedMetric, Role]] = []
    for chunk in batched(ids, _CHUNK):
        statement = _placed().where(MetricRow.id.in_(chunk))
        found += _all_with_role(connection, visible_with_role(statement, who, SiteRow.id), PlacedMetric)
    return found


def visible_metric_ids(connection: Connection, who: Principal, ids: Sequence[int]) -> set[int]:
    """Those of the metrics that `who` may see: a third of what it costs to find their names too."""
    found: set[int] = set()
    for chunk in batched(ids, _CHUNK):
        statement = select(MetricRow.id).join(DeviceRow, DeviceRow.id == MetricRow.device_id)
        statement = visible(statement.where(MetricRow.id.in_(chunk)), who, DeviceRow.site_id)
        found.update(connection.execute(statement).scalars())
    return found


def placed_metrics_named(
    connection: Connection, who: Principal, names: Sequence[tuple[str, str, str]]
) -> list[tuple[PlacedMetric, Role]]:
    """Those of the metrics (site, device and key) that `who` may see, with the role at their sites, in no order."""
    found: list[tuple[PlacedMetric, Role]] = []
    for chunk in batched(names, _CHUNK):
        statement = _placed().where(tuple_(SiteRow.slug, DeviceRow.slug, MetricRow.key).in_(chunk))
        found += _all_with_role(connection, visible_with_role(statement, who, SiteRow.id), PlacedMetric)
    return found


def placed_metrics_of(
    connection: Connection, *, site_id: int | None = None, device_id: int | None = None
) -> list[PlacedMetric]:
    """All metrics of a site or a device that is known to be visible, by device and metric id."""
    which = and_(
        *([DeviceRow.site_id == site_id] if site_id is not None else []),
        *([DeviceRow.id == device_id] if device_id is not None else []),
    )
    return fetch_all(connection, _placed().where(which).order_by(DeviceRow.id, MetricRow.id), PlacedMetric)


def placed_metrics_of_devices(connection: Connection, who: Principal, device_ids: Sequence[int]) -> list[PlacedMetric]:
    """The metrics of those of the devices that `who` may see, by device and metric id."""
    found: list[PlacedMetric] = []
    for chunk in batched(sorted(device_ids), _CHUNK):
        statement = visible(_placed().where(DeviceRow.id.in_(chunk)), who, SiteRow.id)
        found += fetch_all(connection, statement.order_by(DeviceRow.id, MetricRow.id), PlacedMetric)
    return found


def installed_metrics(
    connection: Connection, who: Principal, site_ids: Sequence[int], *, quantities: Sequence[str] | None
) -> list[InstalledMetric]:
    """The metrics of those of the sites that `who` may see, by site, device and metric id."""
    properties_of_batteries = case((DeviceRow.kind == "battery", DeviceRow.properties), else_=null())
    found: list[InstalledMetric] = []
    for chunk in batched(sorted(site_ids), _CHUNK):
        statement = _placed().add_columns(DeviceRow.kind, properties_of_batteries).where(SiteRow.id.in_(chunk))
        if quantities is not None:
            statement = statement.where(MetricRow.quantity.in_(quantities))
        ordered = visible(statement, who, SiteRow.id).order_by(SiteRow.id, DeviceRow.id, MetricRow.id)
        for *fields, kind, properties in connection.execute(ordered):
            found.append(InstalledMetric(PlacedMetric(*fields), kind, (properties or {}).get("capacity_kwh")))
    return found


def placed_metrics_where(
    connection: Connection, *, metric_id: int | None, site: str | None, device: str | None, key: str | None
) -> list[PlacedMetric]:
    """The metrics that all that is given fits, by device and metric id; nobody's rights are asked."""
    wanted = ((MetricRow.id, metric_id), (SiteRow.slug, site), (DeviceRow.slug, device), (MetricRow.key, key))
    statement = _placed().order_by(DeviceRow.id, MetricRow.id)
    for column, value in wanted:
        if value is not None:
            statement = statement.where(column == value)
    return fetch_all(connection, statement, PlacedMetric)


# ── simulated devices ────────────────────────────────────────────────────────────────────────────────────────────────


def simulated_devices(connection: Connection, site_id: int) -> list[SimulatedDevice]:
    """The site's simulated devices with their metrics, by id; nobody's rights are asked."""
    is_one = and_(DeviceRow.site_id == site_id, DeviceRow.source == "simulated")
    statement = select(*_SIMULATED).join(SiteRow, SiteRow.id == DeviceRow.site_id).where(is_one).order_by(DeviceRow.id)
    of_devices = select(*_METRIC).join(DeviceRow, DeviceRow.id == MetricRow.device_id).where(is_one)
    metrics: dict[int, list[Metric]] = {}
    for metric in fetch_all(connection, of_devices.order_by(MetricRow.id), Metric):
        metrics.setdefault(metric.device_id, []).append(metric)
    return [SimulatedDevice(*(*row, tuple(metrics.get(row[0], ())))) for row in connection.execute(statement)]


def sites_with_simulated_devices(connection: Connection) -> list[int]:
    statement = select(DeviceRow.site_id).where(DeviceRow.source == "simulated").distinct().order_by(DeviceRow.site_id)
    return list(connection.execute(statement).scalars())


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


def folding_sites(connection: Connection) -> list[KeptSite]:
    """The sites that do not keep raw readings for ever, or once did not, by id; nobody's rights are asked."""
    statement = select(*_KEPT_SITE).where(or_(SiteRow.raw_days.is_not(None), SiteRow.folded_until.is_not(None)))
    return fetch_all(connection, statement.order_by(SiteRow.id), KeptSite)


def put_folded_until(connection: Connection, site_id: int, border: datetime) -> None:
    """It only moves forward."""
    is_later = or_(SiteRow.folded_until.is_(None), SiteRow.folded_until < border)
    connection.execute(update(SiteRow).where(SiteRow.id == site_id, is_later).values(folded_until=border))


# ── erasures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_erasures(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    for chunk in batched(ids, _CHUNK):
        rows = [{"metric_id": metric_id, "requested_at": now} for metric_id in chunk]
        connection.execute(insert_missing(connection, ErasureRow), rows)


def erasures(connection: Connection, *, before: datetime | None = None) -> list[int]:
    """The metrics whose readings are to be erased; those noted before a time, if one is given."""
    statement = select(ErasureRow.metric_id)
    if before is not None:
        statement = statement.where(ErasureRow.requested_at < before)
    return list(connection.execute(statement).scalars())


def forget_erasures(connection: Connection, *, before: datetime) -> None:
    connection.execute(delete(ErasureRow).where(ErasureRow.requested_at < before))


def add_window_erasure(connection: Connection, metric_id: int, *, start: int, end: int, received_until: int) -> None:
    """Note readings to be erased; times in ms since 1970."""
    values = {"metric_id": metric_id, "start": start, "end": end, "received_until": received_until}
    connection.execute(insert(WindowErasureRow).values(values))


def window_erasures(connection: Connection) -> list[WindowErasure]:
    """Those that are still to be done."""
    statement = select(*_WINDOW_ERASURE).where(WindowErasureRow.done_at.is_(None)).order_by(WindowErasureRow.id)
    return fetch_all(connection, statement, WindowErasure)


def put_window_erasure_done(connection: Connection, erasure_id: int, now: datetime) -> None:
    connection.execute(update(WindowErasureRow).where(WindowErasureRow.id == erasure_id).values(done_at=now))


def forget_window_erasures(connection: Connection, *, before: datetime) -> None:
    """Those that were done before then."""
    connection.execute(delete(WindowErasureRow).where(WindowErasureRow.done_at < before))


def _with_role(connection: Connection, statement: Select[Any], into: type[T]) -> tuple[T, Role] | None:
    row = connection.execute(statement).first()
    return None if row is None else (into(*row[:-1]), row[-1])


def _all_with_role(connection: Connection, statement: Select[Any], into: type[T]) -> Iterator[tuple[T, Role]]:
    return ((into(*row[:-1]), row[-1]) for row in connection.execute(statement))
