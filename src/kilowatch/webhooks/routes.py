"""HTTP for webhooks."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from kilowatch.auth.routes import Who
from kilowatch.kit.lanes import Lane
from kilowatch.kit.openapi import operation
from kilowatch.kit.paging import Page, page_request
from kilowatch.kit.web import LIMIT_DEFAULT, NO_CONTENT, Cursor, InThread, Limit, RecordId, answer, created
from kilowatch.webhooks.model import Delivery, PutWebhook, Webhook
from kilowatch.webhooks.schemas import WebhookIn
from kilowatch.webhooks.service import Webhooks

router = APIRouter(prefix="/api/v1/subscriptions/{subscription_id}/webhook", tags=["Webhooks"], route_class=InThread)


async def _webhooks(request: Request) -> Webhooks:
    service: Webhooks = request.app.state.webhooks
    return service


async def _lane(request: Request) -> Lane:
    lane: Lane = request.app.state.webhook_lane
    return lane


WebhookService = Annotated[Webhooks, Depends(_webhooks)]
WebhookLane = Annotated[Lane, Depends(_lane)]

_WEBHOOK = {
    "subscription_id": 4,
    "url": "https://example.org/kilowatch",
    "status": "active",
    "reason": None,
    "failing_since": None,
    "next_attempt_at": None,
    "last_delivered_at": "2026-01-05T09:30:01Z",
    "created_at": "2026-01-05T09:00:00Z",
    "updated_at": "2026-01-05T09:00:00Z",
}
_MADE = _WEBHOOK | {
    "last_delivered_at": None,
    "secret": "whsec_5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
}
_DELIVERY = {
    "id": 17,
    "status": "delivered",
    "attempts": 1,
    "readings": 2,
    "after": "1767605395000",
    "until": "1767605400123",
    "reset": False,
    "response_status": 204,
    "error": None,
    "duration_ms": 41,
    "created_at": "2026-01-05T09:30:01Z",
    "finished_at": "2026-01-05T09:30:01Z",
}


_PUT = operation(PutWebhook, 400, 401, 403, 404, 409, 413, 422, example=_WEBHOOK | {"secret": None})
_PUT["responses"] |= operation(PutWebhook, status=201, example=_MADE, description="Made.")["responses"]


@router.put("", summary="Make or change the webhook of a subscription", **_PUT)
async def put_webhook(
    webhooks: WebhookService, lane: WebhookLane, who: Who, subscription_id: RecordId, body: WebhookIn
) -> Response:
    """201 with the secret where there was none before. A key needs the scopes `read` and `write`."""
    webhook, is_new = await lane.run(
        webhooks.put_webhook,
        who,
        subscription_id,
        url=body.url,
        enabled=body.enabled,
        new_secret=body.new_secret,
    )
    return created(webhook, f"/api/v1/subscriptions/{subscription_id}/webhook") if is_new else answer(webhook)


@router.get(
    "",
    summary="Get the webhook of a subscription",
    **operation(Webhook, 401, 403, 404, 422, example=_WEBHOOK),
)
def get_webhook(webhooks: WebhookService, who: Who, subscription_id: RecordId) -> Response:
    return answer(webhooks.get_webhook(who, subscription_id))


@router.delete(
    "",
    summary="Delete the webhook of a subscription",
    **operation(None, 401, 403, 404, 422, status=204),
)
def delete_webhook(webhooks: WebhookService, who: Who, subscription_id: RecordId) -> Response:
    """And the list of its deliveries."""
    webhooks.delete_webhook(who, subscription_id)
    return NO_CONTENT()


@router.get(
    "/deliveries",
    summary="List what was posted to a webhook",
    **operation(Page[Delivery], 401, 403, 404, 422, example={"items": [_DELIVERY], "next": None}),
)
def list_deliveries(
    webhooks: WebhookService, who: Who, subscription_id: RecordId, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
) -> Response:
    """The newest first; those of the last 7 days, and at most 1,000."""
    return answer(webhooks.list_deliveries(who, subscription_id, page_request(limit, cursor)))
