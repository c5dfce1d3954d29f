"""The part of a running server that posts what arrives: it sleeps until something did, or is due again."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio
import numpy as np
import structlog
from opentelemetry.trace import SpanKind

from kilowatch.errors import KilowatchError
from kilowatch.history.model import ReadArrived, Rows
from kilowatch.kit import metrics
from kilowatch.kit.lanes import Lane
from kilowatch.kit.traces import root_span
from kilowatch.webhooks.courier import Courier
from kilowatch.webhooks.deliveries import Attempt, Deliveries
from kilowatch.webhooks.model import LAST_RETRY

log = structlog.get_logger("kilowatch.webhooks")

THREADS = 4
_NEWS_EVERY_S = 0.1
_ALL_EVERY_S = 300.0
_AFTER_TROUBLE = timedelta(seconds=10)


@dataclass(slots=True)
class Change:
    """What may have something to send: webhooks with one of these metrics, these webhooks, or any."""

    metric_ids: set[int] = field(default_factory=set)
    webhook_ids: set[int] = field(default_factory=set)
    of_any: bool = False

    def __bool__(self) -> bool:
        return self.of_any or bool(self.metric_ids or self.webhook_ids)


class News:
    """What changed since the sender last asked. Told by any thread, at no cost while there is no sender."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._change = Change()
        self._wake: Callable[[], None] | None = None

    def arrived(self, rows: Rows) -> None:
        if self._wake is not None:
            self._tell(Change(metric_ids=set(np.unique(rows.metric_ids).tolist())))

    def arrived_in_part(self, _received_at: int) -> None:
        self._tell(Change(of_any=True))

    def arrived_elsewhere(self, metric_ids: frozenset[int], _read: ReadArrived) -> None:
        self._tell(Change(metric_ids=set(metric_ids)))

    def changed(self, webhook_id: int) -> None:
        self._tell(Change(webhook_ids={webhook_id}))

    def _tell(self, change: Change) -> None:
        with self._lock:  # held over the call, so that no sender is woken that has stopped
            if self._wake is None:
                return
            self._change.metric_ids |= change.metric_ids
            self._change.webhook_ids |= change.webhook_ids
            self._change.of_any |= change.of_any
            self._wake()

    def wake(self, by: Callable[[], None] | None) -> None:
        """Who is woken from now on. It learns nothing of what was before."""
        with self._lock:
            self._wake, self._change = by, Change()

    def __bool__(self) -> bool:
        return bool(self._change)

    def take(self) -> Change:
        with self._lock:
            taken, self._change = self._change, Change()
            return taken


class Sender:
    """Posts to each webhook one batch after another, and to many webhooks at the same time.

    When a webhook is to be looked at next is known here; what there is to send, the database says at that moment.
    """

    def __init__(
        self, deliveries: Deliveries, courier: Courier, news: News, *, most: int, clock: Callable[[], datetime]
    ) -> None:
        """`most`: requests at the same time."""
        self._deliveries = deliveries
        self._courier = courier
        self._news = news
        self._most = most
        self._clock = clock
        self._lane = Lane(THREADS)
        self._woken = asyncio.Event()
        self._due: dict[int, datetime] = {}
        self._busy: set[int] = set()
        self._any_webhooks = True
        self._news_at = self._all_at = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends while the block runs. What is on its way at its end is broken off, and sent again another time."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._woken.set)

        self._news.wake(wake)
        try:
            async with self._courier, anyio.create_task_group() as group:
                group.start_soon(self._run)
                yield
                group.cancel_scope.cancel()
        finally:
            self._news.wake(None)

    async def _run(self) -> None:
        async with anyio.create_task_group() as group:
            while True:
                self._woken.clear()
                try:
                    await self._learn()
                except Exception as error:  # it must not end the server, and there is nobody to tell but the log
                    _complain(error)
                    self._news_at = self._all_at = anyio.current_time() + _AFTER_TROUBLE.total_seconds()
                for webhook_id in self._ripe():
                    del self._due[webhook_id]
                    self._busy.add(webhook_id)
                    group.start_soon(self._look_at, webhook_id)
                with anyio.move_on_after(self._rest_s()):
                    await self._woken.wait()

    # ── what is due ──

    async def _learn(self) -> None:
        time = anyio.current_time()
        if time >= self._all_at:
            self._all_at = time + _ALL_EVERY_S
            self._look_at_all(await self._lane.run(self._deliveries.enabled))
        if not self._news or time < self._news_at:
            return
        self._news_at = time + _NEWS_EVERY_S
        change = self._news.take()
        if change.of_any:
            self._look_at_all(await self._lane.run(self._deliveries.enabled))
        if change.metric_ids and self._any_webhooks:
            self._look_soon(await self._lane.run(self._deliveries.concerned, sorted(change.metric_ids)))
        self._any_webhooks |= bool(change.webhook_ids)
        self._due.update(dict.fromkeys(change.webhook_ids, self._clock()))

    def _look_at_all(self, webhook_ids: Iterable[int]) -> None:
        ids = list(webhook_ids)
        self._any_webhooks = bool(ids)
        self._look_soon(ids)

    def _look_soon(self, webhook_ids: Iterable[int]) -> None:
        now = self._clock()
        for webhook_id in webhook_ids:
            self._due.setdefault(webhook_id, now)  # one that waits is looked at when it may be sent to again

    def _ripe(self) -> list[int]:
        now, free = self._clock(), self._most - len(self._busy)
        latest = now + LAST_RETRY  # what is due later was so before the clock was set back
        ripe = [
            webhook_id
            for webhook_id, due in self._due.items()
            if not now < due <= latest and webhook_id not in self._busy
        ]
        return sorted(ripe, key=self._due.__getitem__)[:free]

    def _rest_s(self) -> float:
        """How long there is nothing to do, unless something changes."""
        time = anyio.current_time()
        rest = self._all_at - time
        if self._news:
            rest = min(rest, self._news_at - time)
        if len(self._busy) < self._most:
            due = [due for webhook_id, due in self._due.items() if webhook_id not in self._busy]
            if due:
                rest = min(rest, (min(due) - self._clock()).total_seconds())
        return max(rest, 0)

    # ── one webhook ──

    async def _look_at(self, webhook_id: int) -> None:
        try:
            next_at = await self._lane.run(self._deliveries.prepare, webhook_id)
            if isinstance(next_at, Attempt):
                next_at = await self._send(next_at)
        except Exception as error:  # as above: what it has claimed is free again after a while
            _complain(error)
            next_at = self._clock() + _AFTER_TROUBLE
        finally:
            self._busy.discard(webhook_id)
            self._woken.set()
        if next_at is not None:
            self._due[webhook_id] = next_at

    async def _send(self, attempt: Attempt) -> datetime | None:
        try:
            with root_span("webhook", kind=SpanKind.CLIENT, webhook_id=attempt.webhook.id):  # it is told of no trace
                outcome = await self._courier.post(attempt.target, headers=attempt.headers, body=attempt.body)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._lane.run(self._deliveries.abandon, attempt)
            raise
        metrics.WEBHOOK_DELIVERIES.labels("taken" if outcome.error is None else "failed").inc()
        metrics.WEBHOOK_DURATION.observe(outcome.duration_ms / 1000)
        if outcome.error is not None:
            log.info(
                "webhook failed", webhook_id=attempt.webhook.id, delivery_id=attempt.delivery.id, why=outcome.error
            )
        return await self._lane.run(self._deliveries.finish, attempt, outcome)


def _complain(error: Exception) -> None:
    if isinstance(error, KilowatchError):
        log.warning("webhooks wait", why=error.detail)
    else:
        log.error("unforeseen error", exc_info=error)
