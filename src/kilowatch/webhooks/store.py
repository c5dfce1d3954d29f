"""Reads and writes webhooks and their deliveries.

A process that is about to send claims the webhook for a while, so that of several processes one sends. What it learns
is written only while the claim is its own.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, or_, select, update

from kilowatch.kit.db import columns, fetch_all, fetch_one
from kilowatch.kit.paging import PageRequest
from kilowatch.subscriptions.model import SubscriptionMetricRow
from kilowatch.webhooks.model import (
    KEPT_DELIVERIES,
    KEPT_FOR,
    LAST_RETRY,
    Backlog,
    Delivery,
    DeliveryRow,
    StoredWebhook,
    WebhookRow,
)

_WEBHOOK = columns(WebhookRow, StoredWebhook)
_DELIVERY = columns(DeliveryRow, Delivery)
_MOST_IDS = 10_000


# ── webhooks ──


def find_webhook(connection: Connection, subscription_id: int) -> StoredWebhook | None:
    statement = select(*_WEBHOOK).where(WebhookRow.subscription_id == subscription_id)
    return fetch_one(connection, statement, StoredWebhook)


def find_enabled(connection: Connection, webhook_id: int) -> StoredWebhook | None:
    statement = select(*_WEBHOOK).where(WebhookRow.id == webhook_id, WebhookRow.status != "disabled")
    return fetch_one(connection, statement, StoredWebhook)


def enabled_ids(connection: Connection) -> list[int]:
    return list(connection.scalars(select(WebhookRow.id).where(WebhookRow.status != "disabled")))


def enabled_ids_of_metrics(connection: Connection, metric_ids: Sequence[int]) -> set[int]:
    """The webhooks whose subscriptions have one of these metrics."""
    found: set[int] = set()
    for begin in range(0, len(metric_ids), _MOST_IDS):
        statement = (
            select(WebhookRow.id)
            .join(SubscriptionMetricRow, SubscriptionMetricRow.subscription_id == WebhookRow.subscription_id)
            .where(
                SubscriptionMetricRow.metric_id.in_(metric_ids[begin : begin + _MOST_IDS]),
                WebhookRow.status != "disabled",
            )
            .distinct()
        )
        found.update(connection.scalars(statement))
    return found


def add_webhook(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(WebhookRow).values(values))


def change_webhook(connection: Connection, webhook_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(WebhookRow).where(WebhookRow.id == webhook_id).values(values))


def delete_webhook(connection: Connection, webhook_id: int) -> None:
    connection.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))


def backlog(connection: Connection) -> Backlog:
    by_status = select(WebhookRow.status, func.count()).group_by(WebhookRow.status)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_status)}
    pending = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.status == "pending")
    longest = select(func.min(WebhookRow.failing_since)).where(WebhookRow.status == "retrying")
    return Backlog(
        active=counts.get("active", 0),
        retrying=counts.get("retrying", 0),
        disabled=counts.get("disabled", 0),
        pending=connection.execute(pending).scalar_one(),
        failing_since=connection.execute(longest).scalar(),
    )


# ── claims ──


def claim(connection: Connection, seen: StoredWebhook, token: str, *, now: datetime, until: datetime) -> bool:
    """Claim a webhook that nobody has claimed or moved on since it was seen; whether that succeeded."""
    statement = (
        update(WebhookRow)
        .where(
            WebhookRow.id == seen.id,
            WebhookRow.place == seen.place,
            WebhookRow.url == seen.url,
            WebhookRow.nonce == seen.nonce,
            WebhookRow.status != "disabled",
            or_(WebhookRow.next_attempt_at <= now, WebhookRow.next_attempt_at > now + LAST_RETRY),
            or_(WebhookRow.claim.is_(None), WebhookRow.claimed_until <= now, WebhookRow.claimed_until > until),
        )
        .values(claim=token, claimed_until=until)
    )
    return connection.execute(statement).rowcount == 1


def settle(connection: Connection, webhook_id: int, token: str, values: dict[str, Any]) -> bool:
    """Change a webhook and end the claim, if it is still the claimant's; whether it was."""
    statement = update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.claim == token)
    return connection.execute(statement.values(values | {"claim": None, "claimed_until": None})).rowcount == 1


def move_on(connection: Connection, seen: StoredWebhook, place: str) -> None:
    """Note that nothing arrived for it up to a place, unless it was moved on meanwhile."""
    connection.execute(
        update(WebhookRow)
        .where(WebhookRow.id == seen.id, WebhookRow.place == seen.place, WebhookRow.claim.is_(None))
        .values(place=place)
    )


# ── deliveries ──


def page_deliveries(connection: Connection, webhook_id: int, page: PageRequest, *, since: datetime) -> list[Delivery]:
    """The newest first; of those that are over, the ones made since then."""
    recent = or_(DeliveryRow.created_at >= since, DeliveryRow.status == "pending")
    statement = select(*_DELIVERY).where(DeliveryRow.webhook_id == webhook_id, recent)
    if page.after_id:
        statement = statement.where(DeliveryRow.id < page.after_id)
    return fetch_all(connection, statement.order_by(DeliveryRow.id.desc()).limit(page.limit + 1), Delivery)


def find_pending(connection: Connection, webhook_id: int) -> Delivery | None:
    """The delivery that is not over; there is at most one."""
    statement = select(*_DELIVERY).where(DeliveryRow.webhook_id == webhook_id, DeliveryRow.status == "pending")
    return fetch_one(connection, statement.order_by(DeliveryRow.id.desc()).limit(1), Delivery)


def add_delivery(connection: Connection, webhook_id: int, delivery: Delivery) -> Delivery:
    """The delivery, with the id that it got."""
    values = {name: getattr(delivery, name) for name in delivery.__struct_fields__ if name != "id"}
    statement = insert(DeliveryRow).values(values | {"webhook_id": webhook_id}).returning(DeliveryRow.id)
    return msgspec.structs.replace(delivery, id=connection.execute(statement).scalar_one())


def change_delivery(connection: Connection, delivery_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(values))


def forget_old_deliveries(connection: Connection, webhook_id: int, now: datetime) -> None:
    mine = (DeliveryRow.webhook_id == webhook_id) & (DeliveryRow.status != "pending")
    newest_too_many = (
        select(DeliveryRow.id).where(mine).order_by(DeliveryRow.id.desc()).offset(KEPT_DELIVERIES).limit(1)
    ).scalar_subquery()
    connection.execute(
        delete(DeliveryRow).where(mine, or_(DeliveryRow.created_at < now - KEPT_FOR, DeliveryRow.id <= newest_too_many))
    )
