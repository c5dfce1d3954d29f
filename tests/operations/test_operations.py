"""How the installation is doing, as administrators ask for it."""

import threading
from collections.abc import Iterator

import pytest

from kilowatch.errors import Unavailable
from kilowatch.operations import routes
from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def unavailable(*_: object) -> None:
    raise Unavailable("no answer")


class TestOverview:
    def test_tells_that_all_is_there(self, world: World) -> None:
        metric = world.metric()
        world.standard.post("/subscriptions", {"name": "S", "metric_ids": [metric]})
        told = world.admin.get("/operations").json()
        assert (told["database"]["answers"], told["history"]["answers"]) == (True, True)
        assert told["database"]["version"] and told["history"]["version"]
        assert told["history"]["engine"] in ("chdb", "clickhouse")
        assert told["amounts"]["people"] == {
            "users": 5, "administrators": 1, "grants": 3, "api_keys": 0, "browsers": 0
        }  # fmt: skip
        assert told["amounts"]["facility"] == {"sites": 2, "devices": 1, "simulated_devices": 0, "metrics": 1}
        assert told["amounts"]["subscriptions"] == 1
        assert told["disk"]["total_bytes"] >= told["disk"]["free_bytes"] > 0
        assert told["streams"] == {"open": 0, "users": 0, "most": 1000, "most_per_user": 20}
        assert told["simulation"]["running"] is True

    def test_tells_of_a_history_that_does_not_answer(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.services.history, "check", unavailable)
        told = world.admin.get("/operations").json()
        assert (told["history"]["answers"], told["history"]["problem"]) == (False, "no answer")
        assert told["database"]["answers"] is True
        assert told["amounts"]["facility"]["sites"] == 2

    def test_does_not_wait_for_a_store_that_hangs(
        self, world: World, monkeypatch: pytest.MonkeyPatch, released: threading.Event
    ) -> None:
        monkeypatch.setattr(world.services.history, "check", released.wait)
        monkeypatch.setattr(routes, "_WITHIN_S", 0.05)
        told = world.admin.get("/operations").json()
        assert told["history"]["answers"] is False
        assert "too long" in told["history"]["problem"]

    @pytest.fixture
    def released(self) -> Iterator[threading.Event]:
        event = threading.Event()
        yield event
        event.set()

    def test_tells_of_amounts_and_a_disk_that_are_not_known(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken() -> None:
            raise OSError("the disk is gone")

        monkeypatch.setattr(world.services.operations, "amounts", unavailable)
        monkeypatch.setattr(world.services.operations, "disk", broken)
        told = world.admin.get("/operations").json()
        assert (told["amounts"], told["disk"]) == (None, None)

    def test_counts_webhooks_by_their_state(self, world: World) -> None:
        subscription = world.technician.post("/subscriptions", {"name": "S", "metric_ids": [world.metric()]}).json()
        hook = {"url": "https://example.org/hook", "enabled": False}
        world.technician.http.put(f"/subscriptions/{subscription['id']}/webhook", json=hook)
        webhooks = world.admin.get("/operations").json()["amounts"]["webhooks"]
        assert webhooks == {"active": 0, "retrying": 0, "disabled": 1, "pending": 0, "failing_since": None}
