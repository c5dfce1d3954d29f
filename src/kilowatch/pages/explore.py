"""Metrics of any sites and devices in one chart."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field as Bounds

from kilowatch.errors import Fault, Invalid
from kilowatch.facility.kinds import KINDS
from kilowatch.facility.model import ListedMetric
from kilowatch.facility.quantities import QUANTITIES
from kilowatch.facility.routes import CatalogueService
from kilowatch.facility.service import Catalogue
from kilowatch.history.model import LatestReading
from kilowatch.history.routes import MAX_METRICS, HistoryService
from kilowatch.history.service import Histories
from kilowatch.history.service import Query as HistoryQuestion
from kilowatch.kit.paging import MAX_LIMIT, Page, page_request
from kilowatch.kit.text import MAX_ID
from kilowatch.kit.timespan import from_ms, resolution_named
from kilowatch.kit.web import CatalogueLane, HistoryLane, InThread, SearchText
from kilowatch.pages.forms import KIND_NAMES, QUANTITY_NAMES, translated
from kilowatch.pages.rendering import Visitor, language_of, render
from kilowatch.pages.views import (
    AGGREGATE_NAMES,
    CUSTOM,
    DEFAULT_WINDOW,
    MOST_METRICS,
    RESOLUTION_NAMES,
    WINDOWS,
    Sight,
    View,
    understood,
)
from kilowatch.pages.visitors import SignedIn
from kilowatch.pages.words import Language
from kilowatch.subscriptions.model import Subscription
from kilowatch.subscriptions.routes import SubscriptionService
from kilowatch.subscriptions.service import Subscriptions

router = APIRouter(route_class=InThread)

_FOUND = 50
_ROWS = 48
"""Of the table, which is read without a chart; a file has all of them."""

_MOST_ROWS = 200
_MOST_READINGS = 2_000

Names = Annotated[Sequence[Annotated[str, Bounds(max_length=190)]], Query(max_length=MAX_METRICS)]
Text = Annotated[str, Query(max_length=80)]
Number = Annotated[int | None, Query(ge=1, le=MAX_ID)]


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for among all metrics."""

    words: str = ""
    site_id: int | None = None
    kind: str = ""
    quantity: str = ""

    def parameters(self) -> list[tuple[str, str]]:
        said = {"q": self.words, "site": str(self.site_id or ""), "kind": self.kind, "quantity": self.quantity}
        return [(name, value) for name, value in said.items() if value]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric of the view; without what it is where it can't be seen."""

    reference: int | str
    metric: ListedMetric | None
    label: str = ""
    reading: LatestReading | None = None
    number: int | None = None
    """Its place among those that are drawn, from 0."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the window holds, in few rows: a time and a value of each metric."""

    heads: Sequence[tuple[str, str]]
    rows: Sequence[tuple[datetime, Sequence[float | None]]]
    resolution: str
    is_cut: bool


async def asked_view(
    metric: Names = (),
    subscription: Number = None,
    window: Text = "",
    start: Text = "",
    end: Text = "",
    resolution: Text = "auto",
    aggregate: Text = "",
    timezone: Text = "",
    live: Text = "",
) -> View:
    references = dict.fromkeys(int(name) if name.isascii() and name.isdigit() else name for name in metric if name)
    chosen = window or (CUSTOM if start and end else DEFAULT_WINDOW)
    return View(tuple(references), chosen, start, end, resolution, aggregate, timezone, live == "on", subscription)


async def asked_for(q: SearchText = None, site: Text = "", kind: Text = "", quantity: Text = "") -> Sought:
    """What can be none of them is not looked for."""
    site_id = int(site) if site.isascii() and site.isdigit() and 0 < int(site) <= MAX_ID else None
    return Sought(q or "", site_id, kind if kind in KINDS else "", quantity if quantity in QUANTITIES else "")


AskedView = Annotated[View, Depends(asked_view)]
AskedFor = Annotated[Sought, Depends(asked_for)]


@router.get("/explore")
async def explore(
    request: Request,
    catalogue: CatalogueService,
    subscriptions: SubscriptionService,
    histories: HistoryService,
    lane: CatalogueLane,
    history_lane: HistoryLane,
    who: SignedIn,
    asked: AskedView,
    sought: AskedFor,
) -> Response:
    """The chosen metrics as a chart is to show them, as figures and as a table; and others to choose."""
    language = language_of(request)

    def look() -> tuple[Subscription | None, View, list[Chosen], dict[str, Any]]:
        saved = _opened(subscriptions, who, asked)
        view = replace(asked, metrics=_references(asked, saved))
        chosen = _chosen(catalogue, who, view, language)
        picker = {
            "found": _found(catalogue, who, sought),
            "sites": catalogue.list_sites(who.credential, page_request(MAX_LIMIT, None), words=None).items,
        }
        return saved, view, chosen, picker

    def read() -> tuple[list[Chosen], Table | None, Sight]:
        seen = [item.metric for item in chosen if item.metric]
        sight = understood(view, [metric.timezone for metric in seen], histories.now())
        readings = histories.latest_of_metrics(who.credential, [metric.id for metric in seen]) if seen else []
        by_id = {reading.metric_id: reading for reading in readings}
        known = [replace(item, reading=by_id[item.metric.id]) if item.metric else item for item in chosen]
        if not seen:
            return known, None, sight
        try:
            return known, _table(histories, who, sight, known), sight
        except Invalid as error:  # an aggregate that does not fit all of them, say
            return known, None, replace(sight, errors=sight.errors | {_field_of(error): error.detail})

    saved, view, chosen, picker = await lane.run(look)
    chosen, table, sight = await history_lane.run(read)
    return render(
        request,
        "explore.html",
        status=422 if sight.errors else 200,
        sight=replace(sight, errors={name: translated(told, language) for name, told in sight.errors.items()}),
        asked=view,
        saved=saved,
        is_changed=saved is not None and _is_changed(saved, chosen),
        is_cut=saved is not None and not asked.metrics and len(saved.metric_ids) > MOST_METRICS,
        chosen=chosen,
        table=table,
        chart=_chart(sight, chosen),
        exports=_exports(sight, chosen),
        sought=sought,
        once=secrets.token_urlsafe(16),
        windows=WINDOWS,
        resolutions=RESOLUTION_NAMES,
        aggregates=AGGREGATE_NAMES,
        most=MOST_METRICS,
        kind_names=KIND_NAMES,
        quantity_names=QUANTITY_NAMES,
        **picker,
    )


@router.get("/explore/metrics")
def find_metrics(
    request: Request, catalogue: CatalogueService, who: SignedIn, asked: AskedView, sought: AskedFor
) -> Response:
    """A part of the page: the metrics that fit what is looked for."""
    return render(
        request,
        "explore-found.html",
        found=_found(catalogue, who, sought),
        chosen=_chosen(catalogue, who, asked, language_of(request)),
        sought=sought,
        kind_names=KIND_NAMES,
        quantity_names=QUANTITY_NAMES,
    )


def _opened(subscriptions: Subscriptions, who: Visitor, asked: View) -> Subscription | None:
    if asked.subscription is None:
        return None
    return subscriptions.get_subscription(who.credential, asked.subscription)


def _references(asked: View, saved: Subscription | None) -> tuple[int | str, ...]:
    if asked.metrics or saved is None:
        return asked.metrics[:MOST_METRICS]
    return tuple(saved.metric_ids[:MOST_METRICS])


def _is_changed(saved: Subscription, chosen: Sequence[Chosen]) -> bool:
    """Whether the view's metrics are others than those that are saved, or in another order."""
    ids = [item.metric.id if item.metric else item.reference for item in chosen]
    return ids != saved.metric_ids[: len(ids)] or len(ids) < min(len(saved.metric_ids), MOST_METRICS)


def _chosen(catalogue: Catalogue, who: Visitor, view: View, language: Language) -> list[Chosen]:
    """Each of the metrics once, in their order, whatever it is called by."""
    described = catalogue.describe_metrics(who.credential, view.metrics)
    seen: dict[int | str, ListedMetric | None] = {}
    for reference in view.metrics:
        metric = described.get(reference)
        seen.setdefault(metric.id if metric else reference, metric)
    has_several_sites = len({metric.site_id for metric in seen.values() if metric}) > 1
    numbers = iter(range(len(seen)))
    return [
        Chosen(reference, metric, _label(metric, language, with_site=has_several_sites), number=next(numbers))
        if metric
        else Chosen(reference, None)
        for reference, metric in seen.items()
    ]


def _label(metric: ListedMetric, language: Language, *, with_site: bool) -> str:
    parts = (metric.device_name, language.told(metric.name))
    return " · ".join((metric.site_name, *parts) if with_site else parts)


def _found(catalogue: Catalogue, who: Visitor, sought: Sought) -> Page[ListedMetric]:
    return catalogue.find_metrics(
        who.credential,
        page_request(_FOUND, None),
        words=sought.words,
        site_id=sought.site_id,
        kind=sought.kind or None,
        quantity=sought.quantity or None,
    )


# ── what is shown of a view ──────────────────────────────────────────────────────────────────────────────────────────


def _chart(sight: Sight, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """What web/src/explore.ts is told."""
    return {
        "metrics": [
            {"id": item.metric.id, "label": item.label, "gap_s": item.metric.max_gap_s}
            for item in chosen
            if item.metric
        ],
        "start": sight.start_ms,
        "end": sight.end_ms,
        "rolling": sight.is_rolling,
        "zone": sight.zone.key,
        "resolution": sight.view.resolution,
        "aggregate": sight.view.aggregate,
    }


def _exports(sight: Sight, chosen: Sequence[Chosen]) -> dict[str, str]:
    """Where what is shown is to be had as a file, by format: all of it, though a table has a part."""
    said = [("metric", str(item.metric.id)) for item in chosen if item.metric] + sight.question()
    if sight.view.resolution == "raw":
        said.append(("limit", "all"))
    return {kind: "/api/v1/history?" + urlencode([*said, ("format", kind)]) for kind in ("csv", "parquet")}


def _table(histories: Histories, who: Visitor, sight: Sight, chosen: Sequence[Chosen]) -> Table:
    """Raises `Invalid` as the history does."""
    drawn = [item for item in chosen if item.metric]
    ids = [item.metric.id for item in drawn if item.metric]
    history = histories.history_of_metrics(who.credential, ids, _in_few_rows(sight))
    columns = [dict(zip(series.timestamps.tolist(), series.values.tolist(), strict=True)) for series in history.series]
    times = sorted({instant for column in columns for instant in column})
    rows = [(from_ms(instant), [_or_none(column.get(instant)) for column in columns]) for instant in times[:_MOST_ROWS]]
    return Table(
        [(item.label, series.request.unit) for item, series in zip(drawn, history.series, strict=True)],
        rows,
        resolution=history.resolution.name if history.resolution else "raw",
        is_cut=history.next is not None or len(times) > _MOST_ROWS,
    )


def _in_few_rows(sight: Sight) -> HistoryQuestion:
    query = sight.query(points=_ROWS)
    if query.resolution == "raw":
        return replace(query, limit=_MOST_READINGS)
    if query.resolution != "auto":
        count = resolution_named(query.resolution).count(sight.window, sight.zone, most=_MOST_ROWS)
        return query if count <= _MOST_ROWS else replace(query, resolution="auto")
    return query


def _or_none(value: float | None) -> float | None:
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN is a gap


def _field_of(error: Invalid) -> str:
    fault = error.faults[0] if error.faults else Fault("/window", "")
    return fault.pointer.strip("/")
