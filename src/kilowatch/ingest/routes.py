"""HTTP for readings that come in."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from kilowatch.auth.routes import MaybeOnce, Who
from kilowatch.history.appender import StoredTooLate
from kilowatch.ingest.formats import ARROW, PARQUET
from kilowatch.ingest.model import Report
from kilowatch.ingest.service import Intake, Taking
from kilowatch.kit.handling import spent
from kilowatch.kit.lanes import Lane
from kilowatch.kit.openapi import operation
from kilowatch.kit.web import answer

router = APIRouter(prefix="/api/v1")


async def _intake(request: Request) -> Intake:
    service: Intake = request.app.state.intake
    return service


async def _ingest_lane(request: Request) -> Lane:
    lane: Lane = request.app.state.ingest_lane
    return lane


IntakeService = Annotated[Intake, Depends(_intake)]
IngestLane = Annotated[Lane, Depends(_ingest_lane)]

_SMALL = 16 * 1024


def is_small(body: bytes, *, content_type: str | None = None, content_encoding: str | None) -> bool:
    """Whether it has some hundred readings at most, which are read sooner than a thread has taken them over.

    What is compressed may be a thousand times what it looks like: that is never read in the event loop.
    """
    is_packed = bool(content_encoding) or (content_type or "").split(";")[0].strip().lower() in (PARQUET, ARROW)
    return len(body) <= _SMALL and not is_packed


_ONE_METRIC = {
    "metric_id": {"description": "The metric's id; or `metric`."},
    "metric": {"description": "`site-slug/device-slug/metric_key`; or `metric_id`."},
}
# What a single row must look like is said in words: a row that does not is reported, and the others are stored.
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "title": "Rows",
                        "type": "object",
                        "required": ["readings"],
                        "additionalProperties": False,
                        "properties": {
                            "readings": {
                                "type": "array",
                                "items": {
                                    "description": "A reading.",
                                    "properties": _ONE_METRIC
                                    | {
                                        "timestamp": {"description": "RFC 3339 with an offset."},
                                        "value": {"description": "A finite number, in the metric's unit."},
                                    },
                                },
                            }
                        },
                    },
                    {
                        "title": "Columns",
                        "type": "object",
                        "required": ["series"],
                        "additionalProperties": False,
                        "properties": {
                            "series": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["timestamps", "values"],
                                    "additionalProperties": False,
                                    "properties": _ONE_METRIC
                                    | {
                                        "timestamps": {"type": "array", "items": {}},
                                        "values": {"type": "array", "items": {}},
                                    },
                                },
                            }
                        },
                    },
                ]
            },
            "examples": {
                "rows": {
                    "summary": "Rows",
                    "value": {
                        "readings": [{"metric": "home/roof/power", "timestamp": "2026-01-05T09:30:00Z", "value": 1.5}]
                    },
                },
                "columns": {
                    "summary": "Columns",
                    "value": {
                        "series": [
                            {
                                "metric_id": 7,
                                "timestamps": ["2026-01-05T09:30:00Z", "2026-01-05T09:31:00Z"],
                                "values": [1.5, 1.6],
                            }
                        ]
                    },
                },
            },
        },
        "text/csv": {
            "schema": {"type": "string"},
            "example": "metric,timestamp,value\nhome/roof/power,2026-01-05T09:30:00Z,1.5\n",
        },
        PARQUET: {"schema": {"type": "string", "format": "binary"}},
        ARROW: {"schema": {"type": "string", "format": "binary"}},
    },
}
_REPORT = {
    "accepted": 2,
    "rejected": 1,
    "errors": [{"row": 1, "code": "naive_timestamp", "detail": "'2026-01-05T09:30:00' has no offset from UTC; …"}],
}


@router.post(
    "/readings",
    tags=["Readings"],
    summary="Send readings",
    openapi_extra={"requestBody": _BODY},
    **operation(Report, 400, 401, 403, 413, 415, 422, example=_REPORT, description="What became of each row."),
)
async def take_readings(
    request: Request,
    intake: IntakeService,
    lane: IngestLane,
    who: Who,
    once: MaybeOnce,
    content_encoding: Annotated[
        str | None, Header(max_length=40, description="`gzip` or `zstd`, if the body is compressed.")
    ] = None,
) -> Response:
    """For technicians of the metrics' sites. Good rows are stored though others are bad: `errors` says which were not.

    The answer means that the readings are on the disk. The same reading again changes nothing; another value for the
    same metric and time replaces the one before.
    """
    body = await request.body()
    content_type = request.headers.get("content-type")
    small = is_small(body, content_type=content_type, content_encoding=content_encoding)
    run = lane.run_quickly if small else lane.run
    taking = await run(
        intake.begin,
        who,
        body,
        content_type=content_type,
        content_encoding=content_encoding,
        once=once,
    )
    await settle(intake, lane, taking)
    return answer(taking.report)


async def settle(intake: Intake, lane: Lane, taking: Taking) -> None:
    """Wait until the readings are stored. No thread waits, so that many small senders share an insert."""
    try:
        if taking.stored is not None:
            with spent("storing"):
                await asyncio.wrap_future(taking.stored)
    except StoredTooLate:
        raise
    except Exception:
        await lane.run(intake.give_up, taking)
        raise
    taking.count()
    if taking.once is not None:
        await lane.run(intake.finish, taking)
