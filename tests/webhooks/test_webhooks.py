"""Making, changing and deleting the webhook of a subscription."""

from typing import Any

import pytest

from tests.conftest import World
from tests.webhooks.conftest import Hook, Receiver, hook


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def subscription_path(world: World) -> str:
    answer = world.technician.post("/subscriptions", {"name": "Mine", "metric_ids": [world.metric()]})
    return f"/subscriptions/{answer.json()['id']}/webhook"


class TestPutWebhook:
    def test_makes_one_and_shows_its_secret_once(self, world: World, receiver: Receiver) -> None:
        path = subscription_path(world)
        made = world.technician.put(path, {"url": receiver.url})
        assert (made.status_code, made.headers["location"]) == (201, f"/api/v1{path}")
        secret = made.json()["secret"]
        assert secret.startswith("whsec_")
        assert len(secret) == 70
        again = world.technician.put(path, {"url": receiver.url})
        assert (again.status_code, again.json()["secret"]) == (200, None)
        assert "secret" not in world.technician.get(path).json()

    def test_gives_each_its_own_secret(self, world: World, receiver: Receiver) -> None:
        assert hook(world, receiver.url).secret != hook(world, receiver.url).secret

    def test_gives_one_that_was_deleted_and_made_anew_another_secret(self, mine: Hook) -> None:
        mine.world.technician.delete(mine.path)
        assert mine.put().json()["secret"] not in (None, mine.secret)

    def test_replaces_the_secret_when_asked(self, mine: Hook) -> None:
        assert mine.put(new_secret=True).json()["secret"] not in (None, mine.secret)

    def test_shows_what_became_of_it(self, mine: Hook) -> None:
        mine.world.clock.advance(minutes=1)
        state = mine.put(url="http://127.0.0.1:1/other").json()
        assert state == {
            "subscription_id": mine.subscription_id,
            "url": "http://127.0.0.1:1/other",
            "status": "active",
            "reason": None,
            "failing_since": None,
            "next_attempt_at": None,
            "last_delivered_at": None,
            "created_at": "2026-01-05T12:00:00Z",
            "updated_at": "2026-01-05T12:01:00Z",
            "secret": None,
        }

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("url", None),
            ("url", ""),
            ("url", 1),
            ("url", "example.org/hook"),
            ("url", "ftp://example.org"),
            ("url", "javascript:alert(1)"),
            ("url", "http://"),
            ("url", "http:///hook"),
            ("url", "http://:80/"),
            ("url", "http://ada@example.org"),
            ("url", "http://ada:secret@example.org"),
            ("url", "http://@example.org"),
            ("url", "https://example.org/#part"),
            ("url", "https://example.org/#"),
            ("url", "https://example.org/a b"),
            ("url", "https://example.org/\nHost: other"),
            ("url", " https://example.org/"),
            ("url", "https://example.org\\@127.0.0.1/"),
            ("url", "https://bücher.example/"),
            ("url", "https://example.org:0/"),
            ("url", "https://example.org:65536/"),
            ("url", "https://example.org:x/"),
            ("url", "https://[::1"),
            ("url", "https://[fe80::1%25eth0]/"),
            ("url", "https://[example.org]/"),
            ("url", "https://exa$mple.org/"),
            ("url", "https://example.org/" + "a" * 2000),
            ("enabled", "yes"),
            ("enabled", None),
            ("new_secret", 1),
            ("secret", "mine"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object) -> None:
        path = subscription_path(still_world)
        answer = still_world.technician.put(path, {"url": "https://8.8.8.8/", field: value})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}"), answer.text
        assert still_world.technician.get(path).status_code == 404

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1/",
            "http://localhost:8000/",
            "http://[::1]/",
            "http://10.0.0.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://2130706433/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "https://nobody.invalid/",
        ],
    )
    def test_refuses_what_is_not_on_the_internet(self, still_world: World, url: str) -> None:
        path = subscription_path(still_world)
        answer = still_world.technician.put(path, {"url": url})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/url"), answer.text
        assert still_world.technician.get(path).status_code == 404

    def test_switches_off_one_whose_host_is_no_more(self, mine: Hook) -> None:
        assert mine.put(url="https://nobody.invalid/", enabled=False).json()["status"] == "disabled"
        assert mine.put(url="https://nobody.invalid/", enabled=True).status_code == 422

    def test_needs_a_key_that_may_read_and_write(self, mine: Hook) -> None:
        def status(*scopes: str) -> int:
            body: dict[str, Any] = {"name": "Key", "scopes": list(scopes)}
            sign_in = mine.world.anonymous.post(
                "/auth/token",
                data={"username": mine.world.technician.email, "password": mine.world.technician.password},
            ).json()["access_token"]
            key = mine.world.http(mine.world.http(sign_in).post("/me/api-keys", json=body).json()["key"])
            return key.put(mine.path, json={"url": mine.url}).status_code

        assert [status("read"), status("write"), status("ingest", "write")] == [403, 403, 403]
        assert status("read", "write") == 200

    def test_is_not_for_a_key_of_a_site_that_the_subscription_goes_beyond(
        self, world: World, receiver: Receiver
    ) -> None:
        world.grant(world.technician, world.south, "standard")
        mixed = hook(world, receiver.url, metrics=[world.metric(), world.metric(world.south)])
        sign_in = world.anonymous.post(
            "/auth/token", data={"username": world.technician.email, "password": world.technician.password}
        ).json()["access_token"]
        body = {"name": "Key", "scopes": ["read", "write"], "site_id": world.north}
        key = world.http(world.http(sign_in).post("/me/api-keys", json=body).json()["key"])
        answers = (
            key.put(mixed.path, json={"url": receiver.url}),
            key.get(mixed.path),
            key.get(f"{mixed.path}/deliveries"),
            key.delete(mixed.path),
        )
        assert {answer.status_code for answer in answers} == {404}


class TestGetWebhook:
    def test_is_404_where_there_is_none(self, world: World) -> None:
        path = subscription_path(world)
        for answer in (world.technician.get(path), world.technician.get(f"{path}/deliveries")):
            assert (answer.status_code, answer.json()["detail"]) == (
                404,
                "This subscription has no webhook; make one with a PUT.",
            )

    def test_of_another_reads_like_one_of_a_subscription_that_never_was(self, mine: Hook) -> None:
        theirs, never = (mine.world.admin.get(path) for path in (mine.path, "/subscriptions/99999/webhook"))
        assert (theirs.status_code, theirs.content) == (404, never.content)


class TestDeleteWebhook:
    def test_leaves_the_subscription_alone(self, mine: Hook) -> None:
        assert mine.world.technician.delete(mine.path).status_code == 204
        assert mine.world.technician.delete(mine.path).status_code == 404
        assert mine.world.technician.get(f"/subscriptions/{mine.subscription_id}").status_code == 200
