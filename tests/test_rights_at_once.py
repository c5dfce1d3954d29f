"""What is kept of the catalogue never outlives a right, a name or a limit: the very next request knows."""

from datetime import timedelta

import httpx2
import pytest

from tests.conftest import START, Person, World

NOW = "2026-01-05T11:59:00Z"
WINDOW = {"start": "2026-01-05T00:00:00Z", "end": "2026-01-06T00:00:00Z", "resolution": "raw"}


@pytest.fixture
def database_url(any_database_url: str) -> str:
    """Each says in its own way that something was committed."""
    return any_database_url


class TestTheVeryNextRequest:
    """Each is asked twice before, so that the answer is one that was kept."""

    @pytest.fixture(autouse=True)
    def _a_metric(self, world: World) -> None:
        self.metric = world.metric(max_gap_s=900)
        world.send(self.metric, (NOW, 1.0))
        body = {"name": "Mine", "metric_ids": [self.metric]}
        self.subscription = world.standard.post("/subscriptions", body).json()["id"]
        self.paths = (
            f"/metrics/{self.metric}/latest",
            f"/sites/{world.north}/latest",
            f"/sites/{world.north}/devices",
        )

    def statuses(self, asks: Person | httpx2.Client, paths: tuple[str, ...] | None = None) -> set[int]:
        answers = [asks.get(path) for path in paths or self.paths]
        return {answer.status_code for answer in answers}

    def test_after_a_grant_was_taken_away_finds_nothing(self, world: World) -> None:
        for _ in range(2):
            assert self.statuses(world.standard) == {200}
            assert world.standard.get(f"/metrics/{self.metric}/history", **WINDOW).status_code == 200
        world.admin.delete(f"/sites/{world.north}/grants/{world.standard.id}")
        assert self.statuses(world.standard) == {404}
        assert world.standard.get(f"/metrics/{self.metric}/history", **WINDOW).status_code == 404
        (item,) = world.standard.get(f"/subscriptions/{self.subscription}/latest").json()["items"]
        assert (item["available"], item["value"]) == (False, None)
        world.grant(world.standard, world.north, "standard")
        assert self.statuses(world.standard) == {200}

    def test_after_a_role_was_lowered_stores_nothing(self, world: World) -> None:
        row = {"metric_id": self.metric, "timestamp": NOW, "value": 1.0}
        for _ in range(2):
            assert world.technician.post("/readings", {"readings": [row]}).status_code == 200
        world.grant(world.technician, world.north, "standard")
        assert world.technician.post("/readings", {"readings": [row]}).status_code == 403

    def test_after_a_key_was_deleted_or_has_expired_is_refused(self, world: World) -> None:
        for expires_at in (None, (START + timedelta(hours=1)).isoformat()):
            made = world.standard.post("/me/api-keys", {"name": "K", "scopes": ["read"], "expires_at": expires_at})
            http = world.http(made.json()["key"])
            for _ in range(2):
                assert self.statuses(http) == {200}
            if expires_at is None:
                world.standard.delete(f"/me/api-keys/{made.json()['id']}")
            else:
                world.clock.advance(minutes=60)
            assert self.statuses(http) == {401}

    def test_after_a_sign_out_or_a_new_password_is_refused(self, world: World) -> None:
        for _ in range(2):
            assert self.statuses(world.standard) == {200}
        world.standard.post("/auth/logout")
        assert self.statuses(world.standard) == {401}
        assert self.statuses(world.technician) == {200}
        world.admin.patch(f"/users/{world.technician.id}", {"password": "another password"})
        assert self.statuses(world.technician) == {401}

    def test_after_a_user_was_deleted_is_refused(self, world: World) -> None:
        for _ in range(2):
            assert self.statuses(world.standard) == {200}
        world.admin.delete(f"/users/{world.standard.id}")
        assert self.statuses(world.standard) == {401}

    def test_after_a_site_got_another_slug_has_it_everywhere(self, world: World) -> None:
        device = world.standard.get(f"/metrics/{self.metric}/latest").json()["device"]
        old, new = ({"metric": f"{slug}/{device}/power", "timestamp": NOW, "value": 1.0} for slug in ("north", "nord"))
        for _ in range(2):
            assert world.technician.post("/readings", {"readings": [old]}).json()["accepted"] == 1
        assert world.admin.patch(f"/sites/{world.north}", {"slug": "nord"}).status_code == 200
        assert world.standard.get(f"/metrics/{self.metric}/latest").json()["site"] == "nord"
        report = world.technician.post("/readings", {"readings": [old, new]}).json()
        assert (report["accepted"], report["errors"][0]["code"]) == (1, "unknown_metric")

    def test_after_a_metric_was_changed_or_deleted_goes_by_that(self, world: World) -> None:
        row = {"metric_id": self.metric, "timestamp": NOW, "value": 1.0}
        for _ in range(2):
            assert world.technician.post("/readings", {"readings": [row]}).json()["accepted"] == 1
        assert world.technician.patch(f"/metrics/{self.metric}", {"valid_max": 0.5}).status_code == 200
        (error,) = world.technician.post("/readings", {"readings": [row]}).json()["errors"]
        assert error["code"] == "out_of_range"
        (device,) = world.standard.get(f"/sites/{world.north}/devices").json()["items"]
        assert world.technician.delete(f"/devices/{device['id']}").status_code == 200
        assert self.statuses(world.standard, (f"/metrics/{self.metric}/latest",)) == {404}
        assert world.standard.get(f"/sites/{world.north}/latest").json()["items"] == []
        (error,) = world.technician.post("/readings", {"readings": [row]}).json()["errors"]
        assert error["code"] == "unknown_metric"
