"""Decides where a subscription's readings may be posted to: by its owner alone."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from kilowatch.auth.model import Work
from kilowatch.auth.rights import require_scope
from kilowatch.auth.service import Caller, Gate
from kilowatch.errors import NotFound, invalid
from kilowatch.kit.paging import Page, PageRequest, page_of
from kilowatch.live.feed import Feed
from kilowatch.subscriptions.service import require_own
from kilowatch.webhooks import store
from kilowatch.webhooks.addresses import Addresses, BadTarget, Target
from kilowatch.webhooks.model import KEPT_FOR, Backlog, Delivery, PutWebhook, StoredWebhook, Webhook
from kilowatch.webhooks.signing import new_nonce, secret_of

_LOOK_UP_WITHIN_S = 5
SWITCHED_OFF = "Its owner switched it off."


class NoWebhook(NotFound):
    def __init__(self) -> None:
        super().__init__("This subscription has no webhook; make one with a PUT.")


class Webhooks:
    """The webhooks of one's own subscriptions."""

    def __init__(
        self,
        gate: Gate,
        feed: Feed,
        addresses: Addresses,
        *,
        signing_key: str,
        changed: Callable[[int], None] = lambda _webhook_id: None,
    ) -> None:
        """`changed` is told the id of a webhook that was put, after that is stored."""
        self._gate = gate
        self._feed = feed
        self._addresses = addresses
        self._signing_key = signing_key
        self._changed = changed

    def get_webhook(self, caller: Caller, subscription_id: int) -> Webhook:
        with self._gate.reading(caller) as work:
            return _shown(_own(work, subscription_id))

    def list_deliveries(self, caller: Caller, subscription_id: int, page: PageRequest) -> Page[Delivery]:
        """The newest first."""
        with self._gate.reading(caller) as work:
            webhook = _own(work, subscription_id)
            rows = store.page_deliveries(work.connection, webhook.id, page, since=work.now - KEPT_FOR)
            return page_of(rows, page, id_of=lambda delivery: delivery.id)

    def put_webhook(
        self, caller: Caller, subscription_id: int, *, url: str, enabled: bool, new_secret: bool
    ) -> tuple[PutWebhook, bool]:
        """Make or change it; and whether it was made.

        Raises:
            Invalid: nothing may be sent there.
        """
        with self._gate.reading(caller, scope="write") as work:
            # who may only write must not get to read by way of a webhook
            require_scope(work.who, "read")
            require_own(work.connection, work.who, subscription_id)
        if enabled:  # one whose host is no more can still be switched off
            self._check_address(url)
        with self._gate.writing(caller) as work:
            require_own(work.connection, work.who, subscription_id)
            before = store.find_webhook(work.connection, subscription_id)
            nonce = new_nonce() if before is None or new_secret else before.nonce
            values = {"url": url, "nonce": nonce, "updated_at": work.now, **_state(before, work.now, url, enabled)}
            if before is None:
                made = {"subscription_id": subscription_id, "created_at": work.now, "place": str(self._feed.position())}
                store.add_webhook(work.connection, values | made)
            else:
                store.change_webhook(work.connection, before.id, values)
            after = _own(work, subscription_id)
        self._changed(after.id)
        is_new_secret = before is None or new_secret
        secret = secret_of(nonce, signing_key=self._signing_key) if is_new_secret else None
        return PutWebhook(**msgspec.structs.asdict(_shown(after)), secret=secret), before is None

    def delete_webhook(self, caller: Caller, subscription_id: int) -> None:
        with self._gate.writing(caller) as work:
            store.delete_webhook(work.connection, _own(work, subscription_id).id)

    def _check_address(self, url: str) -> None:
        target = Target.parse(url)
        look_up = self._addresses.looked_up(target.host, target.port)
        try:
            look_up.result(_LOOK_UP_WITHIN_S)
        except BadTarget as error:
            raise invalid("url", str(error)) from error
        except TimeoutError as error:
            detail = f"The host {target.host} could not be looked up within {_LOOK_UP_WITHIN_S} s; try again."
            raise invalid("url", detail) from error


def _state(before: StoredWebhook | None, now: datetime, url: str, enabled: bool) -> dict[str, Any]:
    """What a PUT makes of the webhook's state. The place stays, so that it goes on from where it stopped."""
    if not enabled:
        return {
            "status": "disabled",
            "reason": SWITCHED_OFF,
            "failing_since": None,
            "next_attempt_at": now,
            # what is on its way is not waited for, and its outcome is not believed
            "claim": None,
            "claimed_until": None,
        }
    if before is not None and before.status == "active" and before.url == url:
        return {}
    fresh: dict[str, Any] = {"status": "active", "reason": None, "failing_since": None, "next_attempt_at": now}
    if before is not None and before.url != url:
        fresh |= {"claim": None, "claimed_until": None}
    return fresh


def _own(work: Work, subscription_id: int) -> StoredWebhook:
    require_own(work.connection, work.who, subscription_id)
    webhook = store.find_webhook(work.connection, subscription_id)
    if webhook is None:
        raise NoWebhook
    return webhook


def _shown(webhook: StoredWebhook) -> Webhook:
    return Webhook(
        webhook.subscription_id,
        webhook.url,
        webhook.status,
        webhook.reason,
        webhook.failing_since,
        webhook.next_attempt_at if webhook.status == "retrying" else None,
        webhook.last_delivered_at,
        webhook.created_at,
        webhook.updated_at,
    )


def backlog(connection: Connection) -> Backlog:
    """How webhooks are doing; nobody's rights are asked."""
    return store.backlog(connection)
