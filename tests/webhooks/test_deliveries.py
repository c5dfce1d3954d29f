"""What a webhook is sent: every reading once it arrived, signed, in order, until it is taken."""

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kilowatch.history.model import Batch, Place
from kilowatch.kit.timespan import to_ms
from kilowatch.services import Kilowatch
from kilowatch.webhooks.deliveries import (
    CLAIMED_FOR,
    FIRST_RETRY,
    GATHERED_FOR,
    MOST_READINGS,
    TRIED_FOR,
    Attempt,
)
from kilowatch.webhooks.model import KEPT_DELIVERIES, LAST_RETRY
from tests.conftest import START, Clock, World
from tests.webhooks.conftest import Hook, Receiver, hook, post_all

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def flood(world: World, metric: int, count: int) -> None:
    """Readings that arrive at one moment, with the values 0, 1, 2, …"""
    import numpy as np

    begin = to_ms(START) - count
    times = np.arange(begin, begin + count, dtype=np.int64)
    assert world.services.history is not None
    world.services.history.append(Batch(np.full(count, metric, np.uint32), times, np.arange(count, dtype=np.float64)))


def documented_check() -> Any:
    """The function that the documentation shows."""
    (snippet,) = re.findall(r"```python\n(import hashlib.*?)```", DOCS.read_text(), re.DOTALL)
    documented: dict[str, Any] = {}
    exec(snippet, documented)  # noqa: S102 - our own documentation
    return documented["is_ours"]


class TestABatch:
    def test_has_what_arrived_since_the_webhook_was_made(self, world: World, receiver: Receiver) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 1.0))
        mine = hook(world, receiver.url, metrics=[metric])
        assert mine.prepare() is None
        mine.send(2.0, 3.0)
        assert mine.deliver().error is None
        assert receiver.next().values == [2.0, 3.0]
        assert mine.prepare() == world.clock.now + GATHERED_FOR
        world.clock.advance(seconds=1)
        assert mine.prepare() is None

    def test_says_all_of_each_reading(self, mine: Hook, receiver: Receiver) -> None:
        mine.send(1.5)
        mine.deliver()
        request = receiver.next()
        metric = mine.world.technician.get(f"/subscriptions/{mine.subscription_id}").json()["metrics"][0]
        (delivery,) = mine.listed()
        received_at = datetime.fromtimestamp(int(delivery["until"]) / 1000, UTC).isoformat().replace("+00:00", "Z")
        assert request.json == {
            "delivery_id": delivery["id"],
            "subscription_id": mine.subscription_id,
            "sent_at": "2026-01-05T12:00:00Z",
            "reset": False,
            "readings": [
                {
                    "metric_id": mine.metrics[0],
                    "metric": f"north/{metric['device']}/power",
                    "timestamp": "2026-01-05T11:00:00Z",
                    "value": 1.5,
                    "unit": "kW",
                    "received_at": request.json["readings"][0]["received_at"],
                }
            ],
        }
        arrived = datetime.fromisoformat(request.json["readings"][0]["received_at"])
        assert arrived == datetime.fromisoformat(received_at)
        assert request.path == "/hook?of=me"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"].startswith("Kilowatch/")
        assert request.headers["kilowatch-delivery"] == str(delivery["id"])
        assert request.headers["host"] == f"127.0.0.1:{receiver.port}"

    def test_has_no_more_than_a_thousand_and_the_next_one_follows_at_once(self, mine: Hook, receiver: Receiver) -> None:
        flood(mine.world, mine.metrics[0], 2 * MOST_READINGS + 5)
        for _ in range(3):
            mine.deliver()
        batches = [request.values for request in receiver.taken()]
        assert [len(batch) for batch in batches] == [MOST_READINGS, MOST_READINGS, 5]
        assert list(itertools.chain(*batches)) == [float(n) for n in range(2 * MOST_READINGS + 5)]
        assert mine.prepare() == mine.world.clock.now + GATHERED_FOR

    def test_gathers_for_a_second_what_comes_after_it(self, mine: Hook, receiver: Receiver) -> None:
        mine.send(1.0)
        mine.deliver()
        mine.send(2.0, minute=1)
        mine.send(3.0, minute=2)
        assert mine.prepare() == mine.world.clock.now + GATHERED_FOR
        mine.world.clock.advance(seconds=1)
        mine.deliver()
        assert [request.values for request in receiver.taken()] == [[1.0], [2.0, 3.0]]

    def test_a_reading_that_is_sent_again_with_another_value_is_another_one(
        self, mine: Hook, receiver: Receiver
    ) -> None:
        mine.send(1.0)
        mine.deliver()
        mine.world.clock.advance(seconds=1)
        mine.send(2.0)
        mine.deliver()
        assert [request.values for request in receiver.taken()] == [[1.0], [2.0]]


class TestTheNextLook:
    """When a webhook is looked at again: each look costs a question to the history."""

    def after(self, mine: Hook) -> datetime | None:
        attempt = mine.attempt()
        (outcome,) = post_all([attempt])
        return mine.deliveries.finish(attempt, outcome)

    def test_after_a_batch_with_all_there_was_is_when_something_arrives(self, mine: Hook) -> None:
        mine.send(1.0)
        assert self.after(mine) is None

    def test_after_a_full_batch_is_at_once(self, mine: Hook) -> None:
        flood(mine.world, mine.metrics[0], MOST_READINGS)
        assert self.after(mine) == mine.world.clock.now

    def test_after_a_repeated_batch_is_soon_since_more_may_have_arrived(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        mine.send(1.0)
        retry_at = self.after(mine)
        assert retry_at is not None
        mine.world.clock.now = retry_at
        assert self.after(mine) == retry_at + GATHERED_FOR


class TestTheSignature:
    def test_is_checked_by_what_the_documentation_shows(self, mine: Hook, receiver: Receiver) -> None:
        is_ours, now = documented_check(), START.timestamp()
        mine.send(1.0)
        mine.deliver()
        request = receiver.next()
        header = request.headers["kilowatch-signature"]
        assert is_ours(request.body, header, mine.secret, now=now)
        assert not is_ours(request.body + b" ", header, mine.secret, now=now)
        assert not is_ours(request.body, header, mine.secret + "x", now=now)
        assert not is_ours(request.body, header, mine.secret, now=now + 301)
        assert not is_ours(request.body, header.replace("t=1", "t=2"), mine.secret, now=2 * now)

    def test_is_by_the_new_secret_once_there_is_one(self, mine: Hook, receiver: Receiver) -> None:
        secret = mine.put(new_secret=True).json()["secret"]
        mine.send(1.0)
        mine.deliver()
        request = receiver.next()
        by = [
            documented_check()(request.body, request.headers["kilowatch-signature"], one, now=START.timestamp())
            for one in (mine.secret, secret)
        ]
        assert by == [False, True]

    def test_no_table_has_the_secret(self, mine: Hook) -> None:
        with mine.world.services.database.read() as connection:
            row = connection.exec_driver_sql("SELECT * FROM webhooks").one()
        assert mine.secret.removeprefix("whsec_") not in str(row)
        assert "secret" not in mine.state()


class TestAFailure:
    def test_is_tried_again_as_the_same_delivery_with_the_same_readings(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500, 503]
        mine.send(1.0)
        assert mine.deliver().error == "It answered with 500."
        state = mine.state()
        assert (state["status"], state["reason"]) == ("retrying", "It answered with 500.")
        assert state["failing_since"] == "2026-01-05T12:00:00Z"
        mine.send(2.0, minute=1)  # has to wait until the batch before it is taken
        for _ in range(2):
            next_at = mine.prepare()
            assert isinstance(next_at, datetime)
            mine.world.clock.now = next_at
            mine.deliver()
        first, second, third = receiver.taken()
        assert first.values == second.values == third.values == [1.0]
        assert len({request.headers["kilowatch-delivery"] for request in (first, second, third)}) == 1
        assert first.headers["kilowatch-signature"] != third.headers["kilowatch-signature"]
        (delivery,) = mine.listed()
        assert (delivery["status"], delivery["attempts"], delivery["response_status"]) == ("delivered", 3, 204)
        state = mine.state()
        assert (state["status"], state["reason"], state["failing_since"]) == ("active", None, None)
        mine.world.clock.advance(seconds=1)
        mine.deliver()
        assert receiver.next().values == [2.0]

    def test_waits_twice_as_long_each_time_up_to_an_hour(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500] * 12
        mine.send(1.0)
        waits = []
        for _ in range(12):
            mine.deliver()
            next_at = mine.prepare()
            assert isinstance(next_at, datetime)
            waits.append(next_at - mine.world.clock.now)
            mine.world.clock.now = next_at
        for number, wait in enumerate(waits):
            least = min(FIRST_RETRY * 2**number, LAST_RETRY)
            assert least <= wait <= min(least * 1.25, LAST_RETRY)
        assert waits[-1] == LAST_RETRY

    def test_does_not_wait_for_a_clock_that_was_set_back(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        mine.send(1.0)
        mine.deliver()
        assert isinstance(mine.prepare(), datetime)
        mine.world.clock.advance(hours=-6)
        mine.deliver()
        assert [request.values for request in receiver.taken()] == [[1.0], [1.0]]

    def test_of_a_day_disables_it_and_says_so(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500] * 100
        mine.send(1.0)
        began = mine.world.clock.now
        mine.deliver()
        while (next_at := mine.prepare()) is not None:
            assert isinstance(next_at, datetime)
            mine.world.clock.now = next_at
            mine.deliver()
        assert mine.world.clock.now - began == TRIED_FOR
        state = mine.state()
        assert state["status"] == "disabled"
        assert state["reason"] == "It failed for a day, at last so: It answered with 500."
        assert state["failing_since"] == "2026-01-05T12:00:00Z"
        assert 24 + 8 < len(receiver.taken()) < 40

    def test_by_410_disables_it_at_once(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [410]
        mine.send(1.0)
        mine.deliver()
        assert mine.prepare() is None
        assert (mine.state()["status"], mine.state()["reason"]) == ("disabled", "It answered with 410.")

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_by_a_redirect_is_not_followed_and_says_so(self, mine: Hook, receiver: Receiver, status: int) -> None:
        receiver.answers = [status]
        mine.send(1.0)
        assert "redirect" in (mine.deliver().error or "")
        assert [request.path for request in receiver.taken()] == ["/hook?of=me"]
        assert mine.listed()[0]["response_status"] == status


class TestStartingAgain:
    def fail(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [410]
        mine.send(1.0)
        mine.deliver()
        receiver.taken()

    def test_goes_on_from_where_it_stopped(self, mine: Hook, receiver: Receiver) -> None:
        self.fail(mine, receiver)
        mine.send(2.0, minute=1)
        mine.world.clock.advance(days=3)
        answer = mine.put()
        assert (answer.status_code, answer.json()["status"], answer.json()["secret"]) == (200, "active", None)
        mine.deliver()
        mine.world.clock.advance(seconds=1)
        mine.deliver()
        assert [request.values for request in receiver.taken()] == [[1.0], [2.0]]

    def test_says_so_where_readings_are_not_kept_any_more(self, mine: Hook, receiver: Receiver) -> None:
        self.fail(mine, receiver)
        mine.world.clock.advance(days=5)
        mine.send(2.0, minute=1)
        mine.world.clock.advance(days=3)
        mine.put()
        mine.deliver()
        request = receiver.next()
        assert (request.json["reset"], request.values) == (True, [2.0])
        newest, oldest = mine.listed()[0], mine.state()
        assert newest["reset"]
        assert oldest["status"] == "active"
        mine.world.clock.advance(seconds=1)
        mine.send(3.0, minute=2)
        mine.deliver()
        assert not receiver.next().json["reset"]

    def test_says_so_with_the_next_reading_where_none_is_kept(self, mine: Hook, receiver: Receiver) -> None:
        self.fail(mine, receiver)
        mine.world.clock.advance(days=8)
        mine.put()
        assert mine.prepare() is None
        mine.send(2.0, minute=1)
        mine.deliver()
        request = receiver.next()
        assert (request.json["reset"], request.values) == (True, [2.0])

    def test_a_quiet_webhook_was_not_away(self, mine: Hook, receiver: Receiver) -> None:
        mine.world.clock.advance(days=8)
        mine.send(1.0)
        mine.deliver()
        assert not receiver.next().json["reset"]

    def test_what_its_owner_switched_off_waits(self, mine: Hook, receiver: Receiver) -> None:
        state = mine.put(enabled=False).json()
        assert (state["status"], state["reason"]) == ("disabled", "Its owner switched it off.")
        mine.send(1.0)
        assert mine.prepare() is None
        mine.put(enabled=True)
        mine.deliver()
        assert receiver.next().values == [1.0]

    def test_a_put_while_retrying_tries_at_once(self, mine: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        mine.send(1.0)
        mine.deliver()
        assert isinstance(mine.prepare(), datetime)
        assert mine.put().json()["status"] == "active"
        assert mine.deliver().error is None


class TestAPutWhileABatchIsOnItsWay:
    def test_to_another_url_is_not_held_up_by_it_nor_disabled(self, mine: Hook, receiver: Receiver) -> None:
        mine.send(1.0)
        old = mine.attempt()
        mine.url = f"{receiver.url}/new"
        mine.put()
        new = mine.attempt()
        receiver.answers = [410]
        (outcome,) = post_all([old])
        mine.deliveries.finish(old, outcome)
        assert mine.state()["status"] == "active"
        (outcome,) = post_all([new])
        mine.deliveries.finish(new, outcome)
        to_old, to_new = receiver.taken()
        assert (to_old.path, to_new.path) == ("/hook?of=me", "/new")
        assert to_old.json["delivery_id"] == to_new.json["delivery_id"]
        assert mine.listed()[0]["status"] == "delivered"

    def test_that_deletes_it_leaves_nothing(self, mine: Hook) -> None:
        mine.send(1.0)
        attempt = mine.attempt()
        assert mine.world.technician.delete(mine.path).status_code == 204
        (outcome,) = post_all([attempt])
        mine.deliveries.finish(attempt, outcome)
        assert mine.deliveries.prepare(attempt.webhook.id) is None
        with mine.world.services.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM webhook_deliveries").scalar() == 0


class TestRights:
    @pytest.fixture
    def both(self, world: World, receiver: Receiver) -> Hook:
        world.grant(world.technician, world.south, "standard")
        return hook(world, receiver.url, metrics=[world.metric(), world.metric(world.south)])

    def revoke(self, world: World) -> None:
        assert world.admin.delete(f"/sites/{world.south}/grants/{world.technician.id}").status_code == 204

    def test_a_revoked_metric_yields_nothing_from_the_next_delivery_on(self, both: Hook, receiver: Receiver) -> None:
        both.send(1.0)
        both.send(2.0, metric=both.metrics[1])
        self.revoke(both.world)
        both.deliver()
        assert receiver.next().values == [1.0]

    def test_nor_in_a_batch_that_is_sent_again(self, both: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        both.send(1.0)
        both.send(2.0, metric=both.metrics[1])
        both.deliver()
        self.revoke(both.world)
        both.world.clock.advance(minutes=1)
        both.deliver()
        assert [request.values for request in receiver.taken()] == [[1.0, 2.0], [1.0]]

    def test_a_batch_of_which_nothing_is_left_is_not_sent(self, both: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        both.send(2.0, metric=both.metrics[1])
        both.deliver()
        self.revoke(both.world)
        both.send(1.0)
        both.world.clock.advance(minutes=1)
        assert both.prepare() == both.world.clock.now
        both.deliver()
        assert [request.values for request in receiver.taken()] == [[2.0], [1.0]]
        assert [delivery["status"] for delivery in both.listed()] == ["delivered", "empty"]

    def test_a_metric_that_comes_to_a_batch_passes_no_reading_over(self, both: Hook, receiver: Receiver) -> None:
        receiver.answers = [500]
        other = both.world.metric()
        flood(both.world, other, MOST_READINGS)
        both.send(1.0)
        both.deliver()
        both.world.technician.patch(f"/subscriptions/{both.subscription_id}", {"metric_ids": [*both.metrics, other]})
        both.world.clock.advance(minutes=1)
        both.deliver()
        both.world.clock.advance(seconds=1)
        both.deliver()
        first, *rest = receiver.taken()
        assert first.values == [1.0]
        values = itertools.chain(*(request.values for request in rest))
        assert sorted(values) == sorted([1.0, *map(float, range(MOST_READINGS))])

    @pytest.mark.parametrize("what", ["user", "subscription"])
    def test_a_deleted_owner_or_subscription_takes_it_along(self, world: World, receiver: Receiver, what: str) -> None:
        mine = hook(world, receiver.url)
        mine.send(1.0)
        webhook_id = mine.id
        receiver.answers = [500]
        mine.deliver()
        path = f"/users/{world.technician.id}" if what == "user" else f"/subscriptions/{mine.subscription_id}"
        assert (world.admin if what == "user" else world.technician).delete(path).status_code == 204
        world.clock.advance(hours=1)
        assert world.services.deliveries.prepare(webhook_id) is None
        assert world.services.deliveries.enabled() == []

    def test_an_administrator_is_sent_what_they_may_read(self, world: World, receiver: Receiver) -> None:
        metric = world.metric(world.south)
        subscription = world.admin.post("/subscriptions", {"name": "S", "metric_ids": [metric]}).json()
        path = f"/subscriptions/{subscription['id']}/webhook"
        assert world.admin.put(path, {"url": receiver.url}).status_code == 201
        world.send(metric, ("2026-01-05T10:00:00Z", 1.0))
        (webhook_id,) = world.services.deliveries.enabled()
        assert isinstance(world.services.deliveries.prepare(webhook_id), Attempt)


class TestTwoSendersOnOneDatabase:
    def test_do_not_send_the_same_batch_at_once(self, mine: Hook, receiver: Receiver, clock: Clock) -> None:
        mine.send(1.0)
        attempt = mine.attempt()
        other = other_sender(mine.world.services, clock)
        assert other.prepare(mine.id) == clock.now + GATHERED_FOR
        (outcome,) = post_all([attempt])
        mine.deliveries.finish(attempt, outcome)
        clock.advance(seconds=1)
        assert other.prepare(mine.id) is None
        assert len(receiver.taken()) == 1

    def test_the_second_takes_over_when_the_claim_has_expired(
        self, mine: Hook, receiver: Receiver, clock: Clock
    ) -> None:
        mine.send(1.0)
        lost = mine.attempt()
        clock.advance(seconds=CLAIMED_FOR.total_seconds())
        taken_over = other_sender(mine.world.services, clock).prepare(mine.id)
        assert isinstance(taken_over, Attempt)
        assert taken_over.delivery.id == lost.delivery.id
        (outcome,) = post_all([lost])
        mine.deliveries.finish(lost, outcome)  # late: it is not its own any more
        assert mine.listed()[0]["status"] == "pending"
        (outcome,) = post_all([taken_over])
        mine.deliveries.finish(taken_over, outcome)
        assert (mine.listed()[0]["status"], mine.listed()[0]["attempts"]) == ("delivered", 2)
        assert len(receiver.taken()) == 2

    def test_one_of_those_that_looked_at_the_same_moment_claims_it(self, mine: Hook, clock: Clock) -> None:
        from concurrent.futures import ThreadPoolExecutor

        mine.send(1.0)
        senders = [mine.deliveries, *(other_sender(mine.world.services, clock) for _ in range(3))]
        webhook_id = mine.id
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda sender: sender.prepare(webhook_id), senders))
        assert sum(isinstance(one, Attempt) for one in found) == 1
        assert len(mine.listed()) == 1


def other_sender(services: Kilowatch, clock: Clock) -> Any:
    """As another process has it: only the stores are the same."""
    from kilowatch.webhooks.deliveries import Deliveries
    from tests.conftest import SECRET_KEY

    return Deliveries(services.database, services.feed, clock, signing_key=SECRET_KEY, kept_for=timedelta(days=7))


class TestTheListOfDeliveries:
    def test_is_in_pages_the_newest_first(self, mine: Hook) -> None:
        for value in (1.0, 2.0, 3.0):
            mine.send(value, minute=int(value))
            mine.deliver()
            mine.world.clock.advance(seconds=1)
        path = f"{mine.path}/deliveries"
        first = mine.world.technician.get(path, limit=2).json()
        second = mine.world.technician.get(path, limit=2, cursor=first["next"]).json()
        ids = [item["id"] for item in first["items"] + second["items"]]
        assert ids == sorted(ids, reverse=True)
        assert len(ids) == 3
        assert second["next"] is None
        oldest, newest = second["items"][0], first["items"][0]
        assert Place.parse(oldest["until"]) <= Place.parse(newest["after"])  # type: ignore[operator]  # they are places
        assert newest["duration_ms"] >= 0

    def test_has_those_of_a_week(self, mine: Hook) -> None:
        mine.send(1.0)
        mine.deliver()
        mine.world.clock.advance(days=6)
        assert len(mine.listed()) == 1
        mine.world.clock.advance(days=2)
        assert mine.listed() == []
        mine.send(2.0, minute=1)
        mine.deliver()
        with mine.world.services.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM webhook_deliveries").scalar() == 1

    def test_has_a_thousand_at_most(self, mine: Hook) -> None:
        mine.send(1.0)
        mine.deliver()
        with mine.world.services.database.write() as connection:
            columns = "webhook_id, status, attempts, readings, after, until, reset, created_at"
            for _ in range(KEPT_DELIVERIES + 5):
                connection.exec_driver_sql(
                    f"INSERT INTO webhook_deliveries ({columns}) SELECT {columns} FROM webhook_deliveries "
                    "ORDER BY id LIMIT 1"
                )
        mine.world.clock.advance(seconds=1)
        mine.send(2.0, minute=1)
        mine.deliver()
        with mine.world.services.database.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM webhook_deliveries").scalar() == KEPT_DELIVERIES


def test_a_quiet_webhook_moves_on_so_that_it_does_not_look_far_back(mine: Hook) -> None:
    def place() -> str:
        with mine.world.services.database.read() as connection:
            return str(connection.exec_driver_sql("SELECT place FROM webhooks").scalar_one())

    other = mine.world.metric()
    mine.send(0.0, metric=other)
    assert mine.prepare() is None
    before = place()
    mine.world.clock.advance(minutes=30)
    mine.send(1.0, metric=other)
    assert mine.prepare() is None
    assert place() == before
    mine.world.clock.advance(minutes=31)
    mine.send(2.0, metric=other)
    assert mine.prepare() is None
    assert int(place()) > int(before)
