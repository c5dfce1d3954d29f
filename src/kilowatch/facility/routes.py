"""HTTP for sites, grants, devices and metrics."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BeforeValidator

from kilowatch.auth.model import AuditEntry, Grant
from kilowatch.auth.routes import AUDIT_EXAMPLE, AuditWanted, MaybeOnce, Who
from kilowatch.auth.schemas import GrantIn
from kilowatch.facility.kinds import DeviceKind
from kilowatch.facility.model import (
    Deleted,
    DeletedReadings,
    Device,
    DeviceWithMetrics,
    KindInfo,
    ListedMetric,
    Metric,
    Site,
)
from kilowatch.facility.quantities import QUANTITIES
from kilowatch.facility.schemas import DeviceChange, DeviceIn, MetricChange, MetricIn, SiteChange, SiteIn
from kilowatch.facility.service import Catalogue, etag
from kilowatch.kit.openapi import operation
from kilowatch.kit.paging import Page, page_request
from kilowatch.kit.text import MAX_ID, Search
from kilowatch.kit.timespan import Window
from kilowatch.kit.web import (
    LIMIT_DEFAULT,
    NO_CONTENT,
    CatalogueLane,
    Cursor,
    DeletionLane,
    HistoryLane,
    InThread,
    Limit,
    RecordId,
    SearchText,
    WindowEnd,
    WindowStart,
    answer,
    created,
)

router = APIRouter(prefix="/api/v1", route_class=InThread)


async def _catalogue(request: Request) -> Catalogue:
    service: Catalogue = request.app.state.catalogue
    return service


CatalogueService = Annotated[Catalogue, Depends(_catalogue)]


def _strong(if_match: object) -> object:
    """A proxy that compresses an answer makes its ETag a weak one (`W/"3"`): the bytes are others, the thing is not."""
    return re.sub(r'\bW/(?=")', "", if_match) if isinstance(if_match, str) else if_match


IfMatch = Annotated[
    str | None,
    Header(
        max_length=200,
        description="The `ETag` that was read: the change is made only if it is still the newest (else 412).",
    ),
    BeforeValidator(_strong),
]

_SITE = {
    "id": 1,
    "name": "Home",
    "slug": "home",
    "timezone": "Europe/London",
    "latitude": 51.5,
    "longitude": -0.1,
    "country": "GB",
    "currency": "GBP",
    "notes": None,
    "raw_days": 400,
    "folded_until": None,
    "created_at": "2026-01-05T09:30:00Z",
}
_GRANT = {"user_id": 2, "site_id": 1, "role": "technician"}
_METRIC = {
    "id": 7,
    "device_id": 3,
    "key": "power",
    "name": "Power",
    "quantity": "power",
    "unit": "kW",
    "behaviour": "gauge",
    "max_gap_s": 900,
    "valid_min": None,
    "valid_max": None,
}
_LISTED = {
    "id": 7,
    "key": "power",
    "name": "Power",
    "quantity": "power",
    "unit": "kW",
    "behaviour": "gauge",
    "max_gap_s": 900,
    "device_id": 3,
    "device": "roof",
    "device_name": "Roof",
    "kind": "pv_array",
    "site_id": 1,
    "site": "home",
    "site_name": "Home",
    "timezone": "Europe/London",
}
_DEVICE = {
    "id": 3,
    "site_id": 1,
    "name": "Roof",
    "slug": "roof",
    "kind": "pv_array",
    "manufacturer": None,
    "model": None,
    "serial_number": "PV-0042",
    "commissioned_on": "2024-05-01",
    "source": "reported",
    "interval_s": 60,
    "properties": {"peak_kw": 9.8, "tilt_deg": 30.0, "azimuth_deg": 180.0},
    "create_metrics": False,
    "version": 1,
    "created_at": "2026-01-05T09:30:00Z",
    "updated_at": "2026-01-05T09:30:00Z",
}
_KIND = {
    "key": "load_meter",
    "name": "Load meter",
    "properties": {"type": "object", "properties": {"annual_kwh": {"type": "number", "default": 3500}}},
    "metrics": [{name: value for name, value in _METRIC.items() if name not in ("id", "device_id")}],
}
_DELETED = {"devices": 1, "metrics": 2, "readings": 525600}
_ETAG = {"ETag": "The device's version, for `If-Match`."}


def _page(item: object) -> dict[str, object]:
    return {"items": [item], "next": None}


@router.get(
    "/device-kinds",
    tags=["Devices"],
    summary="List the kinds of device",
    **operation(list[KindInfo], 401, 403, example=[_KIND]),
)
def list_device_kinds(catalogue: CatalogueService, who: Who) -> Response:
    """Each kind's properties as JSON Schema, and the metrics that a device of it gets if none are named."""
    return answer(catalogue.list_kinds(who))


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/sites", tags=["Sites"], summary="List sites", **operation(Page[Site], 401, 403, 422, example=_page(_SITE))
)
def list_sites(
    catalogue: CatalogueService, who: Who, q: SearchText = None, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    """The sites that the caller has a grant for; all of them for an administrator."""
    return answer(catalogue.list_sites(who, page_request(limit, cursor), words=q))


@router.post(
    "/sites",
    tags=["Sites"],
    summary="Create a site",
    **operation(Site, 400, 401, 403, 409, 413, 422, status=201, example=_SITE),
)
def create_site(catalogue: CatalogueService, who: Who, body: SiteIn, once: MaybeOnce) -> Response:
    """For administrators. Nobody else sees it until it is granted to them."""
    site = catalogue.create_site(who, body.model_dump(), once=once)
    return created(site, f"/api/v1/sites/{site.id}")


@router.get(
    "/sites/{site_id}", tags=["Sites"], summary="Get a site", **operation(Site, 401, 403, 404, 422, example=_SITE)
)
def get_site(catalogue: CatalogueService, who: Who, site_id: RecordId) -> Response:
    return answer(catalogue.get_site(who, site_id))


@router.patch(
    "/sites/{site_id}",
    tags=["Sites"],
    summary="Change a site",
    **operation(Site, 400, 401, 403, 404, 409, 413, 422, example=_SITE),
)
def change_site(catalogue: CatalogueService, who: Who, site_id: RecordId, body: SiteChange) -> Response:
    """For administrators. Only the fields that are given change."""
    return answer(catalogue.change_site(who, site_id, body.model_dump(exclude_unset=True)))


@router.delete(
    "/sites/{site_id}",
    tags=["Sites"],
    summary="Delete a site",
    **operation(Deleted, 401, 403, 404, 422, example=_DELETED, description="What went with it."),
)
async def delete_site(catalogue: CatalogueService, lane: DeletionLane, who: Who, site_id: RecordId) -> Response:
    """For administrators. Its devices, metrics, readings and grants go with it."""
    return answer(await lane.run(catalogue.delete_site, who, site_id))


@router.get(
    "/sites/{site_id}/grants",
    tags=["Grants"],
    summary="List who may do what at a site",
    **operation(Page[Grant], 401, 403, 404, 422, example=_page(_GRANT)),
)
def list_grants(
    catalogue: CatalogueService, who: Who, site_id: RecordId, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    """For administrators."""
    return answer(catalogue.list_grants(who, site_id, page_request(limit, cursor)))


@router.put(
    "/sites/{site_id}/grants/{user_id}",
    tags=["Grants"],
    summary="Give a user a role at a site",
    **operation(Grant, 400, 401, 403, 404, 409, 413, 422, example=_GRANT),
)
def put_grant(catalogue: CatalogueService, who: Who, site_id: RecordId, user_id: RecordId, body: GrantIn) -> Response:
    """For administrators. `standard` reads; `technician` also changes devices and metrics and sends readings."""
    return answer(catalogue.put_grant(who, site_id, user_id, body.role))


@router.delete(
    "/sites/{site_id}/grants/{user_id}",
    tags=["Grants"],
    summary="Take a user's role at a site away",
    **operation(None, 401, 403, 404, 422, status=204),
)
def delete_grant(catalogue: CatalogueService, who: Who, site_id: RecordId, user_id: RecordId) -> Response:
    """For administrators. Takes effect with the user's next request."""
    catalogue.delete_grant(who, site_id, user_id)
    return NO_CONTENT()


# ── audit ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/sites/{site_id}/audit",
    tags=["Sites"],
    summary="List who changed what at a site",
    **operation(Page[AuditEntry], 401, 403, 404, 422, example=_page(AUDIT_EXAMPLE)),
)
def list_audit(
    catalogue: CatalogueService,
    who: Who,
    site_id: RecordId,
    wanted: AuditWanted,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """For technicians of the site, the newest entry first: changes of the site, its devices and metrics, grants, and
    readings that were deleted or got another value. Names are as they were then. It goes with its site.
    """
    return answer(catalogue.list_audit(who, site_id, page_request(limit, cursor), wanted=wanted))


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/sites/{site_id}/devices",
    tags=["Devices"],
    summary="List a site's devices",
    **operation(Page[Device], 401, 403, 404, 422, example=_page(_DEVICE)),
)
async def list_devices(
    catalogue: CatalogueService,
    lane: CatalogueLane,
    who: Who,
    site_id: RecordId,
    kind: Annotated[DeviceKind | None, Query(description="Only this kind.")] = None,
    q: SearchText = None,
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    page = page_request(limit, cursor)
    return answer(await lane.run_quickly(catalogue.list_devices, who, site_id, page, kind=kind, words=q))


@router.post(
    "/sites/{site_id}/devices",
    tags=["Devices"],
    summary="Add a device",
    **operation(
        DeviceWithMetrics,
        400,
        401,
        403,
        404,
        409,
        413,
        422,
        status=201,
        example=_DEVICE | {"metrics": [_METRIC]},
        headers=_ETAG,
    ),
)
def create_device(
    catalogue: CatalogueService, who: Who, site_id: RecordId, body: DeviceIn, once: MaybeOnce
) -> Response:
    """For technicians of the site. With no metrics named, it gets its kind's usual ones."""
    metrics = None if body.metrics is None else [metric.model_dump() for metric in body.metrics]
    values = body.model_dump(exclude={"metrics"})
    device = catalogue.create_device(who, site_id, values, metrics=metrics, once=once)
    return created(device, f"/api/v1/devices/{device.id}", headers={"ETag": etag(device)})


@router.get(
    "/devices/{device_id}",
    tags=["Devices"],
    summary="Get a device",
    **operation(DeviceWithMetrics, 401, 403, 404, 422, example=_DEVICE | {"metrics": [_METRIC]}, headers=_ETAG),
)
def get_device(catalogue: CatalogueService, who: Who, device_id: RecordId) -> Response:
    device = catalogue.get_device(who, device_id)
    return answer(device, headers={"ETag": etag(device)})


@router.patch(
    "/devices/{device_id}",
    tags=["Devices"],
    summary="Change a device",
    **operation(
        DeviceWithMetrics,
        400,
        401,
        403,
        404,
        409,
        412,
        413,
        422,
        example=_DEVICE | {"metrics": [_METRIC]},
        headers=_ETAG,
    ),
)
def change_device(
    catalogue: CatalogueService, who: Who, device_id: RecordId, body: DeviceChange, if_match: IfMatch = None
) -> Response:
    """For technicians of the site. Only the fields that are given change; the same holds inside `properties`."""
    device = catalogue.change_device(who, device_id, body.model_dump(exclude_unset=True), if_match=if_match)
    return answer(device, headers={"ETag": etag(device)})


@router.delete(
    "/devices/{device_id}",
    tags=["Devices"],
    summary="Delete a device",
    **operation(Deleted, 401, 403, 404, 412, 422, example=_DELETED, description="What went with it."),
)
async def delete_device(
    catalogue: CatalogueService, lane: DeletionLane, who: Who, device_id: RecordId, if_match: IfMatch = None
) -> Response:
    """For technicians of the site. Its metrics and all their readings go with it; nothing is kept."""
    return answer(await lane.run(catalogue.delete_device, who, device_id, if_match=if_match))


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/devices/{device_id}/metrics",
    tags=["Metrics"],
    summary="List a device's metrics",
    **operation(Page[Metric], 401, 403, 404, 422, example=_page(_METRIC)),
)
def list_metrics(
    catalogue: CatalogueService, who: Who, device_id: RecordId, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    return answer(catalogue.list_metrics(who, device_id, page_request(limit, cursor)))


@router.post(
    "/devices/{device_id}/metrics",
    tags=["Metrics"],
    summary="Add a metric to a device",
    **operation(Metric, 400, 401, 403, 404, 409, 413, 422, status=201, example=_METRIC),
)
def create_metric(
    catalogue: CatalogueService, who: Who, device_id: RecordId, body: MetricIn, once: MaybeOnce
) -> Response:
    """For technicians of the site."""
    metric = catalogue.create_metric(who, device_id, body.model_dump(), once=once)
    return created(metric, f"/api/v1/metrics/{metric.id}")


@router.get(
    "/metrics",
    tags=["Metrics"],
    summary="Find metrics of any sites",
    **operation(Page[ListedMetric], 401, 403, 422, example=_page(_LISTED)),
)
def find_metrics(
    catalogue: CatalogueService,
    who: Who,
    q: Annotated[
        Search | None,
        Query(description="Words: each stands in the name, slug or key of the metric, its device or its site."),
    ] = None,
    site_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    kind: Annotated[DeviceKind | None, Query(description="Kind of the device.")] = None,
    quantity: Annotated[Literal[tuple(QUANTITIES)] | None, Query()] = None,  # type: ignore[valid-type]  # made of a table
    limit: Limit = LIMIT_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """Those that the caller may read, by id."""
    page = page_request(limit, cursor)
    return answer(catalogue.find_metrics(who, page, words=q, site_id=site_id, kind=kind, quantity=quantity))


@router.get(
    "/metrics/{metric_id}",
    tags=["Metrics"],
    summary="Get a metric",
    **operation(Metric, 401, 403, 404, 422, example=_METRIC),
)
def get_metric(catalogue: CatalogueService, who: Who, metric_id: RecordId) -> Response:
    return answer(catalogue.get_metric(who, metric_id))


@router.patch(
    "/metrics/{metric_id}",
    tags=["Metrics"],
    summary="Change a metric",
    **operation(Metric, 400, 401, 403, 404, 409, 413, 422, example=_METRIC),
)
async def change_metric(
    catalogue: CatalogueService, lane: HistoryLane, who: Who, metric_id: RecordId, body: MetricChange
) -> Response:
    """For technicians of the site. Quantity, unit and behaviour can change only while there are no readings."""
    changes = body.model_dump(exclude_unset=True)
    return answer(await lane.run(catalogue.change_metric, who, metric_id, changes))


@router.delete(
    "/metrics/{metric_id}",
    tags=["Metrics"],
    summary="Delete a metric",
    **operation(Deleted, 401, 403, 404, 409, 422, example=_DELETED, description="What went with it."),
)
async def delete_metric(catalogue: CatalogueService, lane: DeletionLane, who: Who, metric_id: RecordId) -> Response:
    """For technicians of the site. Its readings go with it; a device's last metric can't be deleted."""
    return answer(await lane.run(catalogue.delete_metric, who, metric_id))


@router.delete(
    "/metrics/{metric_id}/readings",
    tags=["Readings"],
    summary="Delete a metric's readings in a window",
    **operation(DeletedReadings, 401, 403, 404, 422, example={"readings": 60}, description="How many went."),
)
async def delete_readings(
    catalogue: CatalogueService,
    lane: DeletionLane,
    who: Who,
    metric_id: RecordId,
    start: WindowStart,
    end: WindowEnd,
) -> Response:
    """For technicians of the site. History and latest are at once as if they had never been; the audit log says who did
    it. What is sent again afterwards, also for the same times, is stored as ever.
    """
    return answer(await lane.run(catalogue.delete_readings, who, metric_id, Window.parse(start, end)))
