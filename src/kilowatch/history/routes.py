"""HTTP for latest values and history, by metric, device and site."""

from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BeforeValidator, Field, WithJsonSchema

from kilowatch.auth.routes import Who
from kilowatch.errors import NotAcceptable, invalid, said
from kilowatch.history import formats
from kilowatch.history.model import Aggregate, HistoryOut, HistoryStream, LatestReading, LatestReadings, Stop
from kilowatch.history.service import (
    DEFAULT_POINTS,
    DEFAULT_RAW_LIMIT,
    MAX_BUCKETS,
    MAX_RAW_LIMIT,
    Histories,
)
from kilowatch.history.service import Query as HistoryQuestion
from kilowatch.kit.lanes import Lane
from kilowatch.kit.openapi import Operation, operation
from kilowatch.kit.timespan import RESOLUTIONS, Window, from_ms
from kilowatch.kit.units import MAX_UNIT_LENGTH
from kilowatch.kit.web import HistoryLane, RecordId, WindowEnd, WindowStart, answer, answer_in_parts

router = APIRouter(prefix="/api/v1")

_SHORT = {"json": formats.JSON, "csv": formats.CSV, "parquet": formats.PARQUET, "arrow": formats.ARROW}


async def _histories(request: Request) -> Histories:
    service: Histories = request.app.state.histories
    return service


HistoryService = Annotated[Histories, Depends(_histories)]


RawLimit = Annotated[
    Annotated[int, Field(ge=1, le=MAX_RAW_LIMIT)] | None,
    BeforeValidator(lambda limit: None if limit == "all" else limit),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_RAW_LIMIT}, {"type": "string", "const": "all"}]}
    ),
]
"""How many raw readings a page has: `None` stands for `all`."""


async def history_question(
    start: WindowStart,
    end: WindowEnd,
    resolution: Annotated[
        str,
        Query(
            max_length=10,
            description="`raw`, `auto` (the finest that gives at most `points` buckets), or one of "
            + ", ".join(f"`{resolution.name}`" for resolution in RESOLUTIONS)
            + ". Buckets of an hour and more are those of the time zone. Where readings are folded, of whole quarters "
            "of an hour only.",
        ),
    ] = "auto",
    points: Annotated[int, Query(ge=1, le=MAX_BUCKETS, description="For `auto`.")] = DEFAULT_POINTS,
    aggregate: Annotated[
        Aggregate | None,
        Query(
            description="Default: `mean` for gauges, `delta` for counters. Of a signed power, `energy` is "
            "`energy_positive` less `energy_negative`, both 0 or more: a grid meter's import and export."
        ),
    ] = None,
    timezone: Annotated[
        str | None, Query(max_length=60, description="IANA name. Default: the site's; UTC where sites differ.")
    ] = None,
    unit: Annotated[
        str | None, Query(max_length=MAX_UNIT_LENGTH, description="Any unit that the metric's own can be converted to.")
    ] = None,
    limit: Annotated[
        RawLimit,
        Query(description="Raw readings a page, over all series; `all` streams all there are, with no pages."),
    ] = DEFAULT_RAW_LIMIT,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before (raw only).")] = None,
) -> HistoryQuestion:
    if cursor is not None and resolution != "raw":
        raise invalid("cursor", said("Only raw readings have pages; buckets come all at once."), place="query")
    return HistoryQuestion(Window.parse(start, end), resolution, points, aggregate, timezone, unit, limit, cursor)


HistoryParameters = Annotated[HistoryQuestion, Depends(history_question)]
MAX_METRICS = 500
MetricNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=190)]],
    Query(
        alias="metric",
        min_length=1,
        max_length=MAX_METRICS,
        description="A metric, by its id or as `site/device/key`; once for each.",
        examples=[["7", "home/roof/energy"]],
    ),
]


async def metric_references(names: MetricNames) -> list[int | str]:
    return [int(name) if name.isascii() and name.isdigit() else name for name in names]


References = Annotated[list[int | str], Depends(metric_references)]
Format = Annotated[
    str | None,
    Query(
        max_length=80,
        description="`json`, `csv`, `parquet` or `arrow`, instead of the `Accept` header.",
        examples=["csv"],
    ),
]


def media_type(request: Request, short: str | None) -> str:
    """The format to answer in. Raises `Invalid` naming those there are."""
    if short is not None:
        chosen = _SHORT.get(short, short)
        if chosen in formats.WRITERS:
            return chosen
        raise invalid("format", f"{short!r} can't be written; choose {' or '.join(_SHORT)}.", place="query")
    accept = request.headers.get("accept", "*/*")
    for part in sorted(accept.split(","), key=_quality, reverse=True):
        if not _quality(part) > 0:
            break  # `q=0`: anything but that
        wanted = part.split(";")[0].strip().lower()
        if wanted in formats.WRITERS:
            return wanted
        if wanted in ("*/*", "application/*", ""):
            return "application/json"
        if wanted == "text/*":
            return "text/csv"
    raise NotAcceptable(f"None of {accept!r} can be written; accept {' or '.join(formats.WRITERS)}.")


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


async def answer_history(request: Request, lane: Lane, read: Callable[[Stop], HistoryStream], media: str) -> Response:
    """The history in that format, as it is read: a long one goes out before its end is known.

    Args:
        read: asked in the lane's threads; it is given what says whether the client is still there.
    """
    headers = {"Vary": "Accept"}

    def parts(stop: Stop) -> Iterator[bytes]:
        stream = read(stop)
        if stream.next is not None:
            following = request.url.include_query_params(cursor=stream.next)
            headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
        if stream.raw_from:
            headers["Kilowatch-Raw-From"] = f"{from_ms(max(stream.raw_from.values())):%Y-%m-%dT%H:%M:%SZ}"
        yield from formats.write(stream, media)

    return await answer_in_parts(request, lane, parts, headers=headers, media=media, whole_below=formats.PART_BYTES)


_LATEST = {
    "metric_id": 7,
    "site": "home",
    "device": "roof",
    "metric": "power",
    "value": 1.5,
    "unit": "kW",
    "timestamp": "2026-01-05T09:30:00Z",
    "received_at": "2026-01-05T09:30:00.250Z",
    "age_s": 12.5,
    "stale": False,
    "available": True,
}
_HISTORY = {
    "start": "2025-06-01T00:00:00+01:00",
    "end": "2025-06-01T03:00:00+01:00",
    "resolution": "1h",
    "timezone": "Europe/London",
    "series": [
        {
            "metric_id": 7,
            "site": "home",
            "device": "roof",
            "metric": "power",
            "unit": "kW",
            "aggregate": "mean",
            "timestamps": ["2025-06-01T00:00:00+01:00", "2025-06-01T01:00:00+01:00", "2025-06-01T02:00:00+01:00"],
            "values": [0.0, 1.5, None],
            "coverage": [1.0, 1.0, 0.0],
        }
    ],
    "next": None,
    "unavailable": [],
}
_CSV = "metric,timestamp,value,unit,aggregate,coverage\nhome/roof/power,2025-06-01T00:00:00+01:00,0,kW,mean,1\n"
LATEST_EXAMPLE = {"items": [_LATEST], "next": None}


def history_operation() -> Operation:
    return operation(
        HistoryOut,
        401,
        403,
        404,
        406,
        422,
        example=_HISTORY,
        description="The window. Empty buckets are null; a page of raw readings has `next` and `Link` if more follow.",
        content={
            formats.CSV: {"schema": {"type": "string"}, "example": _CSV},
            formats.PARQUET: {"schema": {"type": "string", "format": "binary"}},
            formats.ARROW: {"schema": {"type": "string", "format": "binary"}},
        },
        headers={
            "Link": "Where the next page of raw readings is.",
            "Kilowatch-Raw-From": "Since when all raw readings of all series are there, where some are folded.",
        },
    )


@router.get(
    "/metrics/{metric_id}/latest",
    tags=["Latest values"],
    summary="Get a metric's latest value",
    **operation(LatestReading, 401, 403, 404, 422, example=_LATEST),
)
async def latest_of_metric(histories: HistoryService, lane: HistoryLane, who: Who, metric_id: RecordId) -> Response:
    """With its time and unit. Late data never moves it back; a metric with no reading yet has nulls."""
    return answer(await lane.run_quickly(histories.latest_of_metric, who, metric_id))


@router.get(
    "/devices/{device_id}/latest",
    tags=["Latest values"],
    summary="Get the latest values of a device's metrics",
    **operation(LatestReadings, 401, 403, 404, 422, example=LATEST_EXAMPLE),
)
async def latest_of_device(histories: HistoryService, lane: HistoryLane, who: Who, device_id: RecordId) -> Response:
    """All of them, on one page."""
    return answer(LatestReadings(await lane.run_quickly(histories.latest_of_device, who, device_id)))


@router.get(
    "/sites/{site_id}/latest",
    tags=["Latest values"],
    summary="Get the latest values of all metrics at a site",
    **operation(LatestReadings, 401, 403, 404, 422, example=LATEST_EXAMPLE),
)
async def latest_of_site(histories: HistoryService, lane: HistoryLane, who: Who, site_id: RecordId) -> Response:
    """All of them, on one page, by device and metric."""
    return answer(LatestReadings(await lane.run_quickly(histories.latest_of_site, who, site_id)))


@router.get(
    "/latest",
    tags=["Latest values"],
    summary="Get the latest values of any metrics",
    **operation(LatestReadings, 401, 403, 404, 422, example=LATEST_EXAMPLE),
)
async def latest_of_metrics(histories: HistoryService, lane: HistoryLane, who: Who, references: References) -> Response:
    """All of them, on one page, in the order in which they are named. One that the caller can't see is a 404."""
    return answer(LatestReadings(await lane.run_quickly(histories.latest_of_metrics, who, references)))


@router.get("/history", tags=["History"], summary="Get the history of any metrics", **history_operation())
async def history_of_metrics(
    request: Request,
    histories: HistoryService,
    lane: HistoryLane,
    who: Who,
    references: References,
    question: HistoryParameters,
    format: Format = None,  # noqa: A002 - the parameter's public name
) -> Response:
    """Readings, or buckets of them, in a half-open window. A metric that the caller can't see is a 404."""
    media = media_type(request, format)
    return await answer_history(
        request, lane, lambda stop: histories.stream_of_metrics(who, references, question, stop=stop), media
    )


@router.get("/metrics/{metric_id}/history", tags=["History"], summary="Get a metric's history", **history_operation())
async def history_of_metric(
    request: Request,
    histories: HistoryService,
    lane: HistoryLane,
    who: Who,
    metric_id: RecordId,
    question: HistoryParameters,
    format: Format = None,  # noqa: A002 - the parameter's public name
) -> Response:
    """Readings, or buckets of them, in a half-open window; what each aggregate means is in the user guide."""
    media = media_type(request, format)
    return await answer_history(
        request, lane, lambda stop: histories.stream_of_metric(who, metric_id, question, stop=stop), media
    )
