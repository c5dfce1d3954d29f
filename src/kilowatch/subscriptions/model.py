"""Subscriptions and the metrics in them."""

from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.kit.db import Base, Instant


class SubscriptionRow(Base):
    __tablename__ = "subscriptions"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class SubscriptionMetricRow(Base):
    __tablename__ = "subscription_metrics"

    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id", ondelete="CASCADE"), primary_key=True)
    metric_id: Mapped[int] = mapped_column(ForeignKey("metrics.id", ondelete="CASCADE"), primary_key=True, index=True)
    position: Mapped[int]


class StoredSubscription(msgspec.Struct, frozen=True):
    id: int
    user_id: int
    name: str
    created_at: datetime
    updated_at: datetime


class SubscribedMetric(msgspec.Struct, frozen=True):
    """A metric of a subscription; when the caller may not read it any more, all but its id is null."""

    metric_id: int
    available: Annotated[
        bool, msgspec.Meta(description="False when the caller may not read it any more: it yields no data.")
    ]
    site: str | None = None
    device: str | None = None
    metric: str | None = None
    name: str | None = None
    quantity: str | None = None
    unit: str | None = None
    behaviour: str | None = None


class Subscription(msgspec.Struct, frozen=True):
    """A user's chosen set of metrics, in the user's order."""

    id: int
    name: str
    metric_ids: list[int]
    metrics: list[SubscribedMetric]
    created_at: datetime
    updated_at: datetime
