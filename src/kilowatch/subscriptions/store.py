"""Reads and writes subscriptions. A subscription is its owner's alone, so the owner is part of every look-up."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from kilowatch.auth.model import Principal, UserRow
from kilowatch.kit.db import columns, fetch_all, fetch_one
from kilowatch.kit.paging import PageRequest
from kilowatch.subscriptions.model import StoredSubscription, SubscriptionMetricRow, SubscriptionRow

_SUBSCRIPTION = columns(SubscriptionRow, StoredSubscription)


def page_subscriptions(connection: Connection, user_id: int, page: PageRequest) -> list[StoredSubscription]:
    statement = select(*_SUBSCRIPTION).where(SubscriptionRow.user_id == user_id, SubscriptionRow.id > page.after_id)
    return fetch_all(connection, statement.order_by(SubscriptionRow.id).limit(page.limit + 1), StoredSubscription)


def find_subscription(connection: Connection, user_id: int, subscription_id: int) -> StoredSubscription | None:
    statement = select(*_SUBSCRIPTION).where(SubscriptionRow.id == subscription_id, SubscriptionRow.user_id == user_id)
    return fetch_one(connection, statement, StoredSubscription)


def count(connection: Connection, *, user_id: int | None = None) -> int:
    """All of them, or those of a user."""
    statement = select(func.count()).select_from(SubscriptionRow)
    if user_id is not None:
        statement = statement.where(SubscriptionRow.user_id == user_id)
    return connection.execute(statement).scalar_one()


def owned(connection: Connection, user_id: int, subscription_ids: Sequence[int]) -> set[int]:
    """Those of the subscriptions that are the user's."""
    statement = select(SubscriptionRow.id).where(
        SubscriptionRow.id.in_(subscription_ids), SubscriptionRow.user_id == user_id
    )
    return set(connection.execute(statement).scalars())


def find_owner(connection: Connection, subscription_id: int) -> Principal | None:
    statement = (
        select(UserRow.id, UserRow.email, UserRow.name, UserRow.is_admin)
        .join(SubscriptionRow, SubscriptionRow.user_id == UserRow.id)
        .where(SubscriptionRow.id == subscription_id)
    )
    return fetch_one(connection, statement, Principal)


def metric_ids_of(connection: Connection, subscription_ids: Sequence[int]) -> dict[int, list[int]]:
    """The metrics of each subscription, in its order."""
    found: dict[int, list[int]] = defaultdict(list)
    statement = (
        select(SubscriptionMetricRow.subscription_id, SubscriptionMetricRow.metric_id)
        .where(SubscriptionMetricRow.subscription_id.in_(subscription_ids))
        .order_by(SubscriptionMetricRow.subscription_id, SubscriptionMetricRow.position)
    )
    for subscription_id, metric_id in connection.execute(statement):
        found[subscription_id].append(metric_id)
    return found


def add_subscription(connection: Connection, user_id: int, name: str, now: datetime) -> int:
    values = {"user_id": user_id, "name": name, "created_at": now, "updated_at": now}
    return connection.execute(insert(SubscriptionRow).values(values).returning(SubscriptionRow.id)).scalar_one()


def change_subscription(connection: Connection, subscription_id: int, values: dict[str, Any]) -> None:
    connection.execute(update(SubscriptionRow).where(SubscriptionRow.id == subscription_id).values(values))


def put_metrics(connection: Connection, subscription_id: int, metric_ids: Sequence[int]) -> None:
    """Make these its metrics, in this order."""
    connection.execute(delete(SubscriptionMetricRow).where(SubscriptionMetricRow.subscription_id == subscription_id))
    connection.execute(
        insert(SubscriptionMetricRow),
        [
            {"subscription_id": subscription_id, "metric_id": metric_id, "position": position}
            for position, metric_id in enumerate(metric_ids)
        ],
    )


def delete_subscription(connection: Connection, subscription_id: int) -> None:
    connection.execute(delete(SubscriptionRow).where(SubscriptionRow.id == subscription_id))
