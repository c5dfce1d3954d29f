"""Devices and metrics: to look at, and for technicians to change."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from kilowatch.errors import Conflict, Fault, Invalid, NotFound, Stale, said
from kilowatch.facility.kinds import KINDS, Kind
from kilowatch.facility.model import Deleted, Device, DeviceWithMetrics, Metric, Site
from kilowatch.facility.routes import CatalogueService
from kilowatch.facility.schemas import DeviceChange, DeviceIn, MetricChange, MetricIn
from kilowatch.history.model import LatestReading
from kilowatch.history.routes import HistoryService
from kilowatch.history.service import Query as HistoryQuestion
from kilowatch.kit.timespan import Window
from kilowatch.kit.web import CatalogueLane, DeletionLane, HistoryLane, InThread, RecordId
from kilowatch.pages.forms import (
    KIND_NAMES,
    LABELS,
    WORDS,
    Field,
    Form,
    Group,
    changed,
    checked,
    fields_of,
    lines_of,
    nested,
    plain,
    properties_in,
    status_of,
    without_empty,
)
from kilowatch.pages.rendering import go_to, language_of, render
from kilowatch.pages.sparklines import Sparkline, sparkline
from kilowatch.pages.views import MOST_METRICS, until_now
from kilowatch.pages.visitors import OwnForm, SignedIn, once_of
from kilowatch.pages.words import N_, Language

router = APIRouter(route_class=InThread)

_SPARK_WINDOW, _SPARK_POINTS = "24h", 60
_DEVICE_SCHEMA, _METRIC_SCHEMA = DeviceIn.model_json_schema(), MetricIn.model_json_schema()
_ABOUT = ("name", "slug", "manufacturer", "model", "serial_number", "commissioned_on")
_SIMULATION = ("source", "interval_s")
_FIRST_METRIC = "metrics/0/"
_PROPERTIES = "properties/"
_OF_OWN_CHOICE = Field("properties", LABELS["properties"], "textarea", hint=N_("One a line, as `name: value`."))


def _technician_of(who: SignedIn, site_id: int) -> bool:
    """Whether to offer what a technician may do; the services decide whether it is done."""
    return who.me.may_change(site_id)


# ── to look at ───────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/devices/{device_id}")
async def show_device(
    request: Request,
    catalogue: CatalogueService,
    histories: HistoryService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    device_id: RecordId,
) -> Response:
    def read() -> tuple[list[LatestReading], Window, dict[int, Sparkline | None]]:
        latest = histories.latest_of_device(who.credential, device_id)
        window = until_now(_SPARK_WINDOW, histories.now())
        query = HistoryQuestion(window, points=_SPARK_POINTS)
        history = histories.history_of_metrics(who.credential, [reading.metric_id for reading in latest], query)
        lines = {
            series.request.metric.id: sparkline(series, start_ms=window.start_ms, end_ms=window.end_ms)
            for series in history.series
        }
        return latest, window, lines

    def show(latest: list[LatestReading], window: Window, lines: dict[int, Sparkline | None]) -> Response:
        device = catalogue.get_device(who.credential, device_id)
        site = catalogue.get_site(who.credential, device.site_id)
        readings = {reading.metric_id: reading for reading in latest}
        return render(
            request,
            "device.html",
            site=site,
            device=device,
            kind_names=KIND_NAMES,
            words=WORDS,
            properties=_told_properties(device),
            rows=[(metric, readings.get(metric.id), lines.get(metric.id)) for metric in device.metrics],
            chart=_chart(device.metrics[:MOST_METRICS], window, site.timezone, language_of(request)),
            may_change=_technician_of(who, device.site_id),
        )

    return await lane.run(show, *await history_lane.run(read))


def _chart(metrics: Sequence[Metric], window: Window, timezone: str, language: Language) -> dict[str, Any]:
    """What web/src/device.ts is told."""
    return {
        "metrics": [
            {
                "id": metric.id,
                "label": language.told(metric.name),
                "gap_s": metric.max_gap_s,
                "sums": metric.behaviour == "counter",
            }
            for metric in metrics
        ],
        "start": window.start_ms,
        "end": window.end_ms,
        "rolling": True,
        "zone": timezone,
        "resolution": "auto",
        "aggregate": "",
    }


def _told_properties(device: Device) -> list[tuple[str, Any, str]]:
    """Each property's label, value and unit; those of the owner's choice have their own names."""
    if device.kind == "generic":
        return [(name, value, "") for name, value in device.properties.items()]
    fields = fields_of(KINDS[device.kind].properties.model_json_schema())
    values = {
        name: WORDS.get(value, value) if isinstance(value, str) else value for name, value in device.properties.items()
    }
    return [(field.label, values.get(field.name), field.unit) for field in fields]


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────

KindName = Annotated[str, Path(max_length=30)]


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise NotFound("There is no such kind of device.")
    return KINDS[name]


def _device_form(kind: Kind, *, is_new: bool) -> Form:
    """The fields of a device of this kind; with those of its first metric if the kind brings none."""
    about = fields_of(_DEVICE_SCHEMA, _ABOUT)
    if not is_new:
        slug_hint = N_("Small letters, digits and single hyphens only.")
        about = [replace(field, required=True, hint=slug_hint) if field.name == "slug" else field for field in about]
    groups = [Group(N_("Device"), tuple(about))]
    if kind.key == "generic":
        groups.append(Group(N_("Properties"), (_OF_OWN_CHOICE,)))
    else:
        schema = kind.properties.model_json_schema()
        groups.append(Group(N_("Properties"), tuple(fields_of(schema, prefix=_PROPERTIES))))
    data = fields_of(_DEVICE_SCHEMA, (*(_SIMULATION if kind.can_be_simulated else ()), "create_metrics"))
    groups.append(Group(N_("Data"), tuple(data)))
    if is_new and not kind.metrics:
        groups.append(Group(N_("First metric"), tuple(fields_of(_METRIC_SCHEMA, prefix=_FIRST_METRIC))))
    return Form(tuple(groups))


def _stored_device(device: Device) -> dict[str, Any]:
    """A device's values by the names of its form's fields."""
    values = msgspec.structs.asdict(device)
    if device.kind == "generic":
        return values | {"properties": lines_of(device.properties)}
    return values | {_PROPERTIES + name: value for name, value in device.properties.items()}


def _device_values(kind: Kind, values: dict[str, Any]) -> dict[str, Any]:
    """What the form's fields say, as a request's body has it."""
    body = plain(values)
    if kind.key == "generic":
        properties, unread = properties_in(body.get("properties") or "")
        if unread is not None:
            detail = said("Each line is `name: value`; this one is not: %(line)s", line=unread)
            raise Invalid(detail, faults=(Fault("/properties", detail),))
        return body | {"properties": properties}
    return body | {"properties": nested(values, _PROPERTIES)}


@router.get("/sites/{site_id}/devices/new")
def choose_kind(request: Request, catalogue: CatalogueService, who: SignedIn, site_id: RecordId) -> Response:
    site = catalogue.get_site(who.credential, site_id, to_change=True)
    return render(request, "new-device.html", site=site, kind_names=KIND_NAMES, labels=LABELS)


@router.get("/sites/{site_id}/devices/new/{kind}")
def show_new_device(
    request: Request, catalogue: CatalogueService, who: SignedIn, site_id: RecordId, kind: KindName
) -> Response:
    site = catalogue.get_site(who.credential, site_id, to_change=True)
    return _new_device_page(request, site, kind, _device_form(_kind(kind), is_new=True))


def _new_device_page(request: Request, site: Site, kind: str, form: Form, *, status: int = 200) -> Response:
    return render(
        request,
        "device-form.html",
        status=status,
        site=site,
        device=None,
        kind=kind,
        kind_names=KIND_NAMES,
        form=form,
        once=_new_once(),
        version=None,
    )


def _new_once() -> str:
    return secrets.token_urlsafe(16)


@router.post("/sites/{site_id}/devices/new/{kind}")
def create_device(
    request: Request, catalogue: CatalogueService, who: SignedIn, site_id: RecordId, kind: KindName, sent: OwnForm
) -> Response:
    site = catalogue.get_site(who.credential, site_id, to_change=True)
    chosen, form = _kind(kind), _device_form(_kind(kind), is_new=True)
    try:
        values = form.read(sent)
        body = without_empty(_device_values(chosen, values)) | {"kind": kind}
        body["properties"] = without_empty(body["properties"]) if chosen.metrics else body["properties"]
        first_metric = without_empty(nested(values, _FIRST_METRIC))
        if not chosen.metrics:
            body["metrics"] = [first_metric]
        said = checked(DeviceIn, body, properties=(chosen.properties, body["properties"]))
        metrics = None if said.metrics is None else [metric.model_dump() for metric in said.metrics]
        device = catalogue.create_device(
            who.credential,
            site_id,
            said.model_dump(exclude={"metrics"}),
            metrics=metrics,
            once=once_of(request, sent),
        )
    except (Invalid, Conflict) as error:
        wrong = form.typed(sent).wrong(error, language_of(request))
        return _new_device_page(request, site, kind, wrong, status=status_of(error))
    text = language_of(request).texts.gettext("The device %(name)s was added.") % {"name": device.name}
    return go_to(request, f"/devices/{device.id}", flash=text)


@router.get("/devices/{device_id}/edit")
def show_device_form(request: Request, catalogue: CatalogueService, who: SignedIn, device_id: RecordId) -> Response:
    device = catalogue.get_device(who.credential, device_id, to_change=True)
    form = _device_form(_kind(device.kind), is_new=False).holding(_stored_device(device))
    return _device_form_page(request, catalogue, who, device, form)


def _device_form_page(
    request: Request,
    catalogue: CatalogueService,
    who: SignedIn,
    device: Device,
    form: Form,
    *,
    status: int = 200,
    version: str = "",
) -> Response:
    return render(
        request,
        "device-form.html",
        status=status,
        site=catalogue.get_site(who.credential, device.site_id),
        device=device,
        kind=device.kind,
        kind_names=KIND_NAMES,
        form=form,
        once=None,
        version=version or str(device.version),
        is_stale=status == _STALE,
    )


_STALE = 412


@router.post("/devices/{device_id}/edit")
def change_device(
    request: Request, catalogue: CatalogueService, who: SignedIn, device_id: RecordId, sent: OwnForm
) -> Response:
    device = catalogue.get_device(who.credential, device_id, to_change=True)
    kind, stored = _kind(device.kind), _stored_device(device)
    form = _device_form(kind, is_new=False)
    version = sent.get("version", "")
    try:
        changes = changed(form.read(sent), stored, form)
        body = _device_values(kind, changes)
        if kind.key == "generic" and "properties" in changes:
            # those whose lines were removed are to go
            body["properties"] = dict.fromkeys(device.properties) | body["properties"]
        if not body["properties"]:
            del body["properties"]
        properties = without_empty(device.properties | body.get("properties", {}))
        said = checked(DeviceChange, body, properties=(kind.properties, properties)).model_dump(exclude_unset=True)
        catalogue.change_device(who.credential, device_id, said, if_match=f'"{version}"')
    except Stale:
        kept = form.typed(sent).beside(stored)
        return _device_form_page(request, catalogue, who, device, kept, status=_STALE)
    except (Invalid, Conflict) as error:
        wrong = form.typed(sent).wrong(error, language_of(request))
        return _device_form_page(request, catalogue, who, device, wrong, status=status_of(error), version=version)
    return go_to(request, f"/devices/{device_id}", flash=language_of(request).texts.gettext("The changes were saved."))


@router.get("/devices/{device_id}/delete")
async def confirm_device_deletion(
    request: Request,
    catalogue: CatalogueService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    device_id: RecordId,
) -> Response:
    weight = await history_lane.run(catalogue.weigh_device, who.credential, device_id)

    def show() -> Response:
        device = catalogue.get_device(who.credential, device_id, to_change=True)
        site = catalogue.get_site(who.credential, device.site_id)
        return _deletion_page(request, site, device, None, weight)

    return await lane.run(show)


def _deletion_page(
    request: Request, site: Site, device: DeviceWithMetrics, metric: Metric | None, weight: Deleted
) -> Response:
    return render(request, "delete.html", site=site, device=device, metric=metric, weight=weight)


@router.post("/devices/{device_id}/delete")
async def delete_device(
    request: Request,
    catalogue: CatalogueService,
    deletion_lane: DeletionLane,
    lane: CatalogueLane,
    who: SignedIn,
    device_id: RecordId,
    sent: OwnForm,
) -> Response:
    device = await lane.run(catalogue.get_device, who.credential, device_id, to_change=True)
    try:
        gone = await deletion_lane.run(catalogue.delete_device, who.credential, device_id, if_match=_version(sent))
    except Stale:
        return _look_again(request)
    return go_to(request, f"/sites/{device.site_id}", flash=_told_deletion(request, device.name, gone))


def _version(sent: OwnForm) -> str:
    return f'"{sent.get("version", "")}"'


def _look_again(request: Request) -> Response:
    text = language_of(request).texts.gettext(
        "Somebody changed the device in the meantime, so nothing was deleted. Look again, and confirm if it is right."
    )
    return go_to(request, request.url.path, flash=text, kind="warning")


def _told_deletion(request: Request, name: str, gone: Deleted) -> str:
    language = language_of(request)
    if gone.readings is None:
        return language.texts.gettext("%(name)s was deleted; its readings follow.") % {"name": name}
    text = language.texts.ngettext(
        "%(name)s was deleted, with %(readings)s reading.",
        "%(name)s was deleted, with %(readings)s readings.",
        gone.readings,
    )
    return text % {"name": name, "readings": language.whole(gone.readings)}


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _metric_form(*, is_new: bool) -> Form:
    fields = fields_of(_METRIC_SCHEMA)
    if not is_new:
        must = ("name", "unit", "behaviour")
        fields = [
            replace(
                field,
                required=field.required or field.name in must,
                nullable=field.nullable and field.name not in must,
                options=tuple(option for option in field.options if option[0]),
                hint="" if field.name == "unit" else field.hint,
            )
            for field in fields
        ]
    return Form((Group(N_("Metric"), tuple(fields)),))


@router.get("/devices/{device_id}/metrics/new")
def show_new_metric(request: Request, catalogue: CatalogueService, who: SignedIn, device_id: RecordId) -> Response:
    device = catalogue.get_device(who.credential, device_id, to_change=True)
    return _metric_page(request, catalogue, who, device, None, _metric_form(is_new=True))


def _metric_page(
    request: Request,
    catalogue: CatalogueService,
    who: SignedIn,
    device: Device,
    metric: Metric | None,
    form: Form,
    *,
    status: int = 200,
    version: str = "",
) -> Response:
    return render(
        request,
        "metric-form.html",
        status=status,
        site=catalogue.get_site(who.credential, device.site_id),
        device=device,
        metric=metric,
        form=form,
        once=_new_once() if metric is None else None,
        version=version or str(device.version),
        is_stale=status == _STALE,
    )


@router.post("/devices/{device_id}/metrics/new")
def create_metric(
    request: Request, catalogue: CatalogueService, who: SignedIn, device_id: RecordId, sent: OwnForm
) -> Response:
    device = catalogue.get_device(who.credential, device_id, to_change=True)
    form = _metric_form(is_new=True)
    try:
        values = checked(MetricIn, without_empty(form.read(sent))).model_dump()
        metric = catalogue.create_metric(who.credential, device_id, values, once=once_of(request, sent))
    except (Invalid, Conflict) as error:
        wrong = form.typed(sent).wrong(error, language_of(request))
        return _metric_page(request, catalogue, who, device, None, wrong, status=status_of(error))
    text = language_of(request).texts.gettext("The metric %(name)s was added.") % {"name": metric.name}
    return go_to(request, f"/devices/{device_id}", flash=text)


@router.get("/metrics/{metric_id}/edit")
def show_metric_form(request: Request, catalogue: CatalogueService, who: SignedIn, metric_id: RecordId) -> Response:
    metric = catalogue.get_metric(who.credential, metric_id)
    device = catalogue.get_device(who.credential, metric.device_id, to_change=True)
    form = _metric_form(is_new=False).holding(msgspec.structs.asdict(metric))
    return _metric_page(request, catalogue, who, device, metric, form)


@router.post("/metrics/{metric_id}/edit")
async def change_metric(
    request: Request,
    catalogue: CatalogueService,
    history_lane: HistoryLane,
    who: SignedIn,
    metric_id: RecordId,
    sent: OwnForm,
) -> Response:
    def change() -> Response:
        metric = catalogue.get_metric(who.credential, metric_id)
        device = catalogue.get_device(who.credential, metric.device_id, to_change=True)
        form, stored = _metric_form(is_new=False), msgspec.structs.asdict(metric)
        try:
            changes = checked(MetricChange, changed(form.read(sent), stored, form)).model_dump(exclude_unset=True)
            catalogue.change_metric(who.credential, metric_id, changes, if_match=_version(sent))
        except Stale:
            return _metric_page(request, catalogue, who, device, metric, form.typed(sent).beside(stored), status=_STALE)
        except (Invalid, Conflict) as error:
            wrong = form.typed(sent).wrong(error, language_of(request))
            version = sent.get("version", "")
            return _metric_page(
                request, catalogue, who, device, metric, wrong, status=status_of(error), version=version
            )
        text = language_of(request).texts.gettext("The changes were saved.")
        return go_to(request, f"/devices/{device.id}", flash=text)

    return await history_lane.run(change)


@router.get("/metrics/{metric_id}/delete")
async def confirm_metric_deletion(
    request: Request,
    catalogue: CatalogueService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    metric_id: RecordId,
) -> Response:
    weight = await history_lane.run(catalogue.weigh_metric, who.credential, metric_id)

    def show() -> Response:
        metric = catalogue.get_metric(who.credential, metric_id)
        device = catalogue.get_device(who.credential, metric.device_id, to_change=True)
        return _deletion_page(request, catalogue.get_site(who.credential, device.site_id), device, metric, weight)

    return await lane.run(show)


@router.post("/metrics/{metric_id}/delete")
async def delete_metric(
    request: Request,
    catalogue: CatalogueService,
    lane: CatalogueLane,
    deletion_lane: DeletionLane,
    who: SignedIn,
    metric_id: RecordId,
    sent: OwnForm,
) -> Response:
    metric = await lane.run(catalogue.get_metric, who.credential, metric_id)
    try:
        gone = await deletion_lane.run(catalogue.delete_metric, who.credential, metric_id, if_match=_version(sent))
    except Stale:
        return _look_again(request)
    return go_to(request, f"/devices/{metric.device_id}", flash=_told_deletion(request, metric.name, gone))
