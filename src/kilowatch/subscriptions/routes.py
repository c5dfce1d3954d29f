"""HTTP for subscriptions, their latest values and history."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from kilowatch.auth.routes import MaybeOnce, Who
from kilowatch.errors import Fault, Invalid
from kilowatch.history.model import LatestReadings, Place
from kilowatch.history.routes import (
    LATEST_EXAMPLE,
    Format,
    HistoryParameters,
    References,
    answer_history,
    history_operation,
    media_type,
)
from kilowatch.kit.openapi import operation
from kilowatch.kit.paging import Page, page_request
from kilowatch.kit.web import (
    LIMIT_DEFAULT,
    NO_CONTENT,
    CatalogueLane,
    Cursor,
    HistoryLane,
    InThread,
    Limit,
    RecordId,
    answer,
    created,
)
from kilowatch.live.response import EventStream
from kilowatch.live.streams import Streams
from kilowatch.subscriptions.model import Subscription
from kilowatch.subscriptions.schemas import SubscriptionChange, SubscriptionIn
from kilowatch.subscriptions.service import Subscriptions

router = APIRouter(prefix="/api/v1", route_class=InThread)


async def _subscriptions(request: Request) -> Subscriptions:
    service: Subscriptions = request.app.state.subscriptions
    return service


SubscriptionService = Annotated[Subscriptions, Depends(_subscriptions)]

_SUBSCRIPTION = {
    "id": 4,
    "name": "My roofs",
    "metric_ids": [7],
    "metrics": [
        {
            "metric_id": 7,
            "available": True,
            "site": "home",
            "device": "roof",
            "metric": "power",
            "name": "Power",
            "quantity": "power",
            "unit": "kW",
            "behaviour": "gauge",
        }
    ],
    "created_at": "2026-01-05T09:30:00Z",
    "updated_at": "2026-01-05T09:30:00Z",
}


@router.get(
    "/subscriptions",
    tags=["Subscriptions"],
    summary="List my subscriptions",
    **operation(Page[Subscription], 401, 403, 422, example={"items": [_SUBSCRIPTION], "next": None}),
)
def list_subscriptions(
    subscriptions: SubscriptionService, who: Who, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    return answer(subscriptions.list_subscriptions(who, page_request(limit, cursor)))


@router.post(
    "/subscriptions",
    tags=["Subscriptions"],
    summary="Subscribe to metrics",
    **operation(Subscription, 400, 401, 403, 409, 413, 422, status=201, example=_SUBSCRIPTION),
)
def create_subscription(
    subscriptions: SubscriptionService, who: Who, body: SubscriptionIn, once: MaybeOnce
) -> Response:
    """Any metrics that the caller may read, from any sites and devices."""
    subscription = subscriptions.create_subscription(who, name=body.name, metric_ids=body.metric_ids, once=once)
    return created(subscription, f"/api/v1/subscriptions/{subscription.id}")


@router.get(
    "/subscriptions/{subscription_id}",
    tags=["Subscriptions"],
    summary="Get a subscription",
    **operation(Subscription, 401, 403, 404, 422, example=_SUBSCRIPTION),
)
def get_subscription(subscriptions: SubscriptionService, who: Who, subscription_id: RecordId) -> Response:
    return answer(subscriptions.get_subscription(who, subscription_id))


@router.patch(
    "/subscriptions/{subscription_id}",
    tags=["Subscriptions"],
    summary="Change a subscription",
    **operation(Subscription, 400, 401, 403, 404, 409, 413, 422, example=_SUBSCRIPTION),
)
def change_subscription(
    subscriptions: SubscriptionService, who: Who, subscription_id: RecordId, body: SubscriptionChange
) -> Response:
    """Its name, or all its metrics."""
    given = body.model_dump(exclude_unset=True)
    return answer(
        subscriptions.change_subscription(
            who, subscription_id, name=given.get("name"), metric_ids=given.get("metric_ids")
        )
    )


@router.delete(
    "/subscriptions/{subscription_id}",
    tags=["Subscriptions"],
    summary="Delete a subscription",
    **operation(None, 401, 403, 404, 422, status=204),
)
def delete_subscription(subscriptions: SubscriptionService, who: Who, subscription_id: RecordId) -> Response:
    subscriptions.delete_subscription(who, subscription_id)
    return NO_CONTENT()


@router.get(
    "/subscriptions/{subscription_id}/latest",
    tags=["Latest values"],
    summary="Get the latest values of a subscription",
    **operation(LatestReadings, 401, 403, 404, 422, example=LATEST_EXAMPLE),
)
async def latest_of_subscription(
    subscriptions: SubscriptionService, lane: HistoryLane, who: Who, subscription_id: RecordId
) -> Response:
    """All of them, on one page, in the subscription's order."""
    return answer(LatestReadings(await lane.run_quickly(subscriptions.latest, who, subscription_id)))


@router.get(
    "/subscriptions/{subscription_id}/history",
    tags=["History"],
    summary="Get the history of a subscription",
    **history_operation(),
)
async def history_of_subscription(
    request: Request,
    subscriptions: SubscriptionService,
    lane: HistoryLane,
    who: Who,
    subscription_id: RecordId,
    question: HistoryParameters,
    format: Format = None,  # noqa: A002 - the parameter's public name
) -> Response:
    """Readings, or buckets of them, of all its metrics in a half-open window."""
    media = media_type(request, format)
    return await answer_history(
        request, lane, lambda stop: subscriptions.stream(who, subscription_id, question, stop=stop), media
    )


async def _streams(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


_EVENTS = """retry: 2000

id: 1767605400250
event: latest
data: {"metric_id":7,"site":"home","device":"roof","metric":"power","value":1.5,"unit":"kW",…}

id: 1767605460250.7.1767605460000
event: reading
data: {"metric_id":7,"timestamp":"2026-01-05T09:31:00Z","value":1.6,"received_at":"2026-01-05T09:31:00.250000Z"}

"""
_STREAM = operation(None, 401, 403, 404, 422, 429, description="Events, without an end.")
_STREAM["responses"][200]["content"] = {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}}


async def _after(
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="The `id` of the last event that the client has.")
    ] = None,
    last_event_id_in_query: Annotated[
        str | None,
        Query(alias="last_event_id", max_length=40, description="The same, for clients that can't set a header."),
    ] = None,
) -> Place | None:
    return _place(last_event_id, "header") or _place(last_event_id_in_query, "query")


StreamService = Annotated[Streams, Depends(_streams)]
After = Annotated[Place | None, Depends(_after)]


@router.get(
    "/subscriptions/{subscription_id}/stream",
    tags=["Subscriptions"],
    summary="Stream the readings of a subscription as they arrive",
    response_class=Response,
    **_STREAM,
)
async def stream_of_subscription(
    subscriptions: SubscriptionService,
    streams: StreamService,
    lane: CatalogueLane,
    who: Who,
    subscription_id: RecordId,
    after: After,
) -> Response:
    """Server-sent events: `latest` for each metric, then `reading` for each new reading, whatever way it came in.

    With the last event's id all that was missed comes first, once, in the order of its arrival; `reset` says that the
    id is too old for that. `unavailable` says that metrics may not be read any more, `end` why the stream ends.
    """
    source, sight = await lane.run_quickly(subscriptions.source, who, subscription_id)
    streams.check_room(source)
    return EventStream(streams, source, sight, after)


@router.get(
    "/stream",
    tags=["Latest values"],
    summary="Stream the readings of any metrics as they arrive",
    response_class=Response,
    **_STREAM,
)
async def stream_of_metrics(
    subscriptions: SubscriptionService,
    streams: StreamService,
    lane: CatalogueLane,
    who: Who,
    references: References,
    after: After,
) -> Response:
    """Server-sent events, as those of a subscription. A metric that the caller can't see is a 404."""
    source, sight = await lane.run_quickly(subscriptions.source_of_metrics, who, references)
    streams.check_room(source)
    return EventStream(streams, source, sight, after)


def _place(text: str | None, part: Literal["header", "query"]) -> Place | None:
    if not text:  # browsers send an empty one before there was any event
        return None
    place = Place.parse(text)
    if place is None:
        name = "Last-Event-ID" if part == "header" else "last_event_id"
        detail = f"{name}: not an id of this stream; leave it out to begin anew."
        raise Invalid(detail, faults=(Fault(f"/{name}", detail, part),))
    return place
