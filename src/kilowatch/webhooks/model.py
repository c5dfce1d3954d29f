"""Webhooks, and what was posted to them."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.kit.db import Base, Instant

MAX_URL = 2000
KEPT_FOR = timedelta(days=7)
LAST_RETRY = timedelta(hours=1)
"""No attempt is longer after the one before, or after now."""

KEPT_DELIVERIES = 1000

WebhookStatus = Literal["active", "retrying", "disabled"]
DeliveryStatus = Literal["pending", "delivered", "empty", "failed"]


class WebhookRow(Base):
    __tablename__ = "webhooks"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id", ondelete="CASCADE"), unique=True)
    url: Mapped[str] = mapped_column(String(MAX_URL))
    nonce: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(500))
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    next_attempt_at: Mapped[datetime] = mapped_column(Instant)
    last_delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    place: Mapped[str] = mapped_column(String(80))
    claim: Mapped[str | None] = mapped_column(String(32))
    claimed_until: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class DeliveryRow(Base):
    """A batch of readings. The readings themselves are not here: the history has them."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "webhook_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int]
    readings: Mapped[int]
    after: Mapped[str] = mapped_column(String(80))
    until: Mapped[str] = mapped_column(String(80))
    reset: Mapped[bool]
    response_status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(String(500))
    duration_ms: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class StoredWebhook(msgspec.Struct, frozen=True):
    id: int
    subscription_id: int
    url: str
    nonce: str
    status: WebhookStatus
    reason: str | None
    failing_since: datetime | None
    next_attempt_at: datetime
    last_delivered_at: datetime | None
    place: str
    created_at: datetime
    updated_at: datetime


class Webhook(msgspec.Struct, frozen=True):
    """Where the readings of a subscription are posted to as they arrive."""

    subscription_id: int
    url: str
    status: Annotated[
        WebhookStatus,
        msgspec.Meta(
            description="`active`: the last request was taken, or none was needed yet. `retrying`: the last one failed "
            "and is sent again. `disabled`: nothing is sent until it is enabled by a PUT."
        ),
    ]
    reason: Annotated[str | None, msgspec.Meta(description="Why it is not `active`.")]
    failing_since: datetime | None
    next_attempt_at: Annotated[datetime | None, msgspec.Meta(description="Of the batch that failed.")]
    last_delivered_at: datetime | None
    created_at: datetime
    updated_at: datetime


class PutWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook after it was put; with its secret, if that was made just now."""

    secret: Annotated[
        str | None,
        msgspec.Meta(description="Signs each request. Shown when it is made, and never again."),
    ]


class Backlog(msgspec.Struct, frozen=True):
    """How many webhooks are in which state, and how long the worst of them is waiting."""

    active: int
    retrying: int
    disabled: int
    pending: Annotated[int, msgspec.Meta(description="Deliveries that are not taken yet.")]
    failing_since: Annotated[datetime | None, msgspec.Meta(description="Of the one that fails for longest.")]


class Delivery(msgspec.Struct, frozen=True):
    """A batch of readings that was posted, or is to be."""

    id: Annotated[int, msgspec.Meta(description="The same in each attempt: `delivery_id` of the body.")]
    status: Annotated[
        DeliveryStatus,
        msgspec.Meta(
            description="`pending`: not taken yet. `delivered`: answered by a 2xx. `empty`: nothing was left of it "
            "that the owner may read. `failed`: given up."
        ),
    ]
    attempts: int
    readings: Annotated[int, msgspec.Meta(description="In its last attempt.")]
    after: Annotated[str, msgspec.Meta(description="Place in the stream of arrivals that it begins behind.")]
    until: Annotated[str, msgspec.Meta(description="Place in the stream of arrivals that it ends with.")]
    reset: Annotated[
        bool, msgspec.Meta(description="Whether readings before it were lost: they are kept for days only.")
    ]
    response_status: Annotated[
        int | None, msgspec.Meta(description="HTTP status of the last answer, if there was one.")
    ]
    error: Annotated[str | None, msgspec.Meta(description="What went wrong in the last attempt.")]
    duration_ms: Annotated[int | None, msgspec.Meta(description="Of the last attempt.")]
    created_at: datetime
    finished_at: datetime | None


class PostedReading(msgspec.Struct, frozen=True):
    metric_id: int
    metric: str
    timestamp: datetime
    value: float
    unit: str
    received_at: datetime


class Body(msgspec.Struct, frozen=True):
    """What is posted."""

    delivery_id: int
    subscription_id: int
    sent_at: datetime
    reset: bool
    readings: list[PostedReading]


class Outcome(msgspec.Struct, frozen=True):
    """How a request went: the answer's status if there was one, and what went wrong if something did."""

    status: int | None
    error: str | None
    duration_ms: int
