"""Decides what is posted to a webhook next, and what follows from how that went.

The store of readings is the queue. A webhook remembers its place in the order of arrival; a batch is what arrived
behind it. It moves on in the transaction that notes the batch as taken: a batch is sent until then, and then no more.
"""

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection

from kilowatch.facility.model import PlacedMetric
from kilowatch.history.model import Place
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import from_ms, to_ms
from kilowatch.live.feed import Arrival, Feed
from kilowatch.subscriptions.service import readable_by_owner
from kilowatch.webhooks import store
from kilowatch.webhooks.addresses import Target
from kilowatch.webhooks.model import LAST_RETRY, Body, Delivery, Outcome, PostedReading, StoredWebhook
from kilowatch.webhooks.signing import secret_of, signature

MOST_READINGS = 1000
GATHERED_FOR = timedelta(seconds=1)
FIRST_RETRY = timedelta(seconds=10)
TRIED_FOR = timedelta(days=1)
CLAIMED_FOR = timedelta(minutes=1)
"""Longer than an attempt can take. What a process that died has claimed is free again after that."""
_QUIET_NOTED_EVERY_MS = 3_600_000
_GONE = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    """A batch on its way: what is posted where. Nobody else sends to the webhook until `finish` is told."""

    webhook: StoredWebhook
    claim: str
    delivery: Delivery
    began_at: datetime
    target: Target
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Batch:
    """Readings behind a place, up to another one."""

    after: Place
    until: Place
    arrivals: list[Arrival]
    reset: bool


class Deliveries:
    """What is to be posted. Safe to use from any thread, and from several processes."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        clock: Callable[[], datetime],
        *,
        signing_key: str,
        kept_for: timedelta,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            kept_for: how far back a webhook may go on from.
            jitter: numbers from 0 to 1.
        """
        self._database = database
        self._feed = feed
        self._clock = clock
        self._signing_key = signing_key
        self._kept_for = kept_for
        self._jitter = jitter

    def enabled(self) -> list[int]:
        """The webhooks that something may be posted to."""
        with self._database.read() as connection:
            return store.enabled_ids(connection)

    def concerned(self, metric_ids: Sequence[int]) -> set[int]:
        """Those of them that have one of these metrics."""
        with self._database.read() as connection:
            return store.enabled_ids_of_metrics(connection, metric_ids)

    def prepare(self, webhook_id: int) -> Attempt | datetime | None:
        """Claim the next batch of a webhook; or when to ask again; or nothing, if nothing arrived for it."""
        now = self._clock()
        with self._database.read() as connection:
            webhook = store.find_enabled(connection, webhook_id)
            if webhook is None:
                return None
            if now < webhook.next_attempt_at <= now + LAST_RETRY:  # longer only if the clock was set back since
                return webhook.next_attempt_at
            pending = store.find_pending(connection, webhook_id)
            metrics = readable_by_owner(connection, webhook.subscription_id)
        edge = Place.until(to_ms(now - self._kept_for))
        batch = self._repeated(pending, list(metrics), edge) if pending else None
        given_up = pending if batch is None else None
        if batch is None:
            pending, batch = None, self._next(webhook, list(metrics), edge)
        if batch is None:
            return None
        claim = secrets.token_hex(16)
        with self._database.write() as connection:
            if not store.claim(connection, webhook, claim, now=now, until=now + CLAIMED_FOR):
                return now + GATHERED_FOR
            if given_up is not None:
                values = {"status": "failed", "finished_at": now, "error": "Older than readings are kept for webhooks."}
                store.change_delivery(connection, given_up.id, values)
            delivery = _begun(connection, webhook, pending, batch, now)
            if not batch.arrivals:
                self._settle_empty(connection, webhook, claim, delivery, now)
                return now
        return self._attempt(webhook, claim, delivery, batch.arrivals, metrics, now)

    def finish(self, attempt: Attempt, outcome: Outcome) -> datetime | None:
        """Note how an attempt went. Returns when to ask for the next; `None` if not before something arrives."""
        now = self._clock()
        delivery: dict[str, Any] = {
            "response_status": outcome.status,
            "error": outcome.error,
            "duration_ms": outcome.duration_ms,
        }
        if outcome.error is None:
            delivery |= {"status": "delivered", "finished_at": now}
            webhook = _taken(attempt, now)
        else:
            webhook = self._failed(attempt.webhook, attempt.delivery, outcome.error, outcome.status, now)
        with self._database.write() as connection:
            if not store.settle(connection, attempt.webhook.id, attempt.claim, webhook):
                return now  # it was changed, or another process took over
            store.change_delivery(connection, attempt.delivery.id, delivery)
            store.forget_old_deliveries(connection, attempt.webhook.id, now)
        if webhook["status"] == "disabled" or (outcome.error is None and _had_all(attempt)):
            return None
        next_at: datetime = webhook["next_attempt_at"]
        return next_at

    def abandon(self, attempt: Attempt) -> None:
        """Nobody knows how it went, because this process stops: it is sent again by whoever is next."""
        with self._database.write() as connection:
            store.settle(connection, attempt.webhook.id, attempt.claim, {})

    # ── batches ──

    def _repeated(self, pending: Delivery, metric_ids: list[int], edge: Place) -> _Batch | None:
        """What is left of a batch that was not taken; `None` if it is older than is kept.

        It may have lost readings that its owner may not read any more. Where it gained some, because a metric came to
        the subscription, it may end earlier than it did, and no reading is passed over.
        """
        after, until = _place(pending.after), _place(pending.until)
        arrivals = self._feed.read_until(until, metric_ids, after, MOST_READINGS)
        if arrivals and arrivals[0].place < edge:
            return None
        if len(arrivals) < MOST_READINGS or arrivals[-1].place > until:
            arrivals = [arrival for arrival in arrivals if arrival.place <= until]
        else:
            until = arrivals[-1].place
        return _Batch(after, until, arrivals, pending.reset)

    def _next(self, webhook: StoredWebhook, metric_ids: list[int], edge: Place) -> _Batch | None:
        """The next readings, or `None` where there are none."""
        after, position, reset = _place(webhook.place), self._feed.position(), False
        arrivals = self._feed.read_until(position, metric_ids, after, MOST_READINGS)
        if arrivals and arrivals[0].place < edge:
            after, reset = edge, True
            arrivals = self._feed.read_until(position, metric_ids, after, MOST_READINGS)
        if arrivals:
            until = arrivals[-1].place if len(arrivals) == MOST_READINGS else position
            return _Batch(after, until, arrivals, reset)
        # so that the next look does not begin at a place of long ago; but a loss is still to be told
        if not reset and position.received_at - after.received_at >= _QUIET_NOTED_EVERY_MS:
            with self._database.write() as connection:
                store.move_on(connection, webhook, str(position))
        return None

    # ── attempts ──

    def _attempt(
        self,
        webhook: StoredWebhook,
        claim: str,
        delivery: Delivery,
        arrivals: Sequence[Arrival],
        metrics: dict[int, PlacedMetric],
        now: datetime,
    ) -> Attempt:
        readings = [_reading(arrival, metrics[arrival.metric_id]) for arrival in arrivals]
        body = msgspec.json.encode(Body(delivery.id, webhook.subscription_id, now, delivery.reset, readings))
        secret = secret_of(webhook.nonce, signing_key=self._signing_key)
        headers = {
            "Content-Type": "application/json",
            "Kilowatch-Delivery": str(delivery.id),
            "Kilowatch-Signature": signature(body, secret=secret, sent_at=int(now.timestamp())),
        }
        return Attempt(webhook, claim, delivery, now, Target.parse(webhook.url), headers, body)

    def _settle_empty(
        self, connection: Connection, webhook: StoredWebhook, claim: str, delivery: Delivery, now: datetime
    ) -> None:
        store.change_delivery(connection, delivery.id, {"status": "empty", "finished_at": now})
        store.settle(connection, webhook.id, claim, _moved_on(delivery))

    def _failed(
        self, webhook: StoredWebhook, delivery: Delivery, error: str, status: int | None, now: datetime
    ) -> dict[str, Any]:
        since = webhook.failing_since or now
        state = {"failing_since": since, "reason": error, "next_attempt_at": now}
        if status == _GONE:
            return state | {"status": "disabled"}
        if now - since >= TRIED_FOR:
            return state | {"status": "disabled", "reason": f"It failed for a day, at last so: {error}"}
        # the last one is at the end of the day
        due = min(now + self._delay(delivery.attempts), max(since + TRIED_FOR, now + FIRST_RETRY))
        return state | {"status": "retrying", "next_attempt_at": due}

    def _delay(self, attempts: int) -> timedelta:
        """Twice as long each time, and some of it by chance, so that not all who failed together come back together."""
        doublings = min(attempts - 1, 10)
        return min(FIRST_RETRY * (1 << doublings) * (1 + self._jitter() / 4), LAST_RETRY)


def _begun(
    connection: Connection, webhook: StoredWebhook, pending: Delivery | None, batch: _Batch, now: datetime
) -> Delivery:
    """The delivery with one attempt more."""
    counted = {"until": str(batch.until), "readings": len(batch.arrivals)}
    if pending is not None:
        values = counted | {"attempts": pending.attempts + 1}
        store.change_delivery(connection, pending.id, values)
        return msgspec.structs.replace(pending, **values)
    delivery = Delivery(
        id=0,
        status="pending",
        attempts=1,
        after=str(batch.after),
        reset=batch.reset,
        response_status=None,
        error=None,
        duration_ms=None,
        created_at=now,
        finished_at=None,
        until=str(batch.until),
        readings=len(batch.arrivals),
    )
    return store.add_delivery(connection, webhook.id, delivery)


def _moved_on(delivery: Delivery) -> dict[str, Any]:
    return {"place": delivery.until, "status": "active", "reason": None, "failing_since": None}


def _had_all(attempt: Attempt) -> bool:
    """Whether it had all there was when it was made; a repeated one has what there was when it was made first."""
    return attempt.delivery.attempts == 1 and attempt.delivery.readings < MOST_READINGS


def _taken(attempt: Attempt, now: datetime) -> dict[str, Any]:
    # What fills a batch is not waited for: there is probably more.
    is_full = attempt.delivery.readings == MOST_READINGS
    next_at = now if is_full else max(now, attempt.began_at + GATHERED_FOR)
    return _moved_on(attempt.delivery) | {"next_attempt_at": next_at, "last_delivered_at": now}


def _reading(arrival: Arrival, metric: PlacedMetric) -> PostedReading:
    return PostedReading(
        metric.id, metric.path, from_ms(arrival.ts), arrival.value, metric.unit, from_ms(arrival.received_at)
    )


def _place(text: str) -> Place:
    place = Place.parse(text)
    assert place is not None, f"the database has a place that is none: {text}"
    return place
