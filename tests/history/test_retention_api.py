"""How long raw readings are kept, over HTTP: the setting, what is refused, and what answers say."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kilowatch.config import Settings
from tests.conftest import Clock, World

SENT = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def history_url(any_history_url: str) -> str:
    return any_history_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Nobody has to sign in again while weeks go by."""
    return settings.model_copy(update={"access_token_minutes": 10**6})


def minutes(begin: str, number: int) -> list[tuple[str, float]]:
    first = datetime.fromisoformat(begin)
    return [((first + timedelta(minutes=place)).isoformat(), float(place)) for place in range(number)]


class TestRawDays:
    def test_are_for_ever_unless_an_administrator_says_so(self, world: World) -> None:
        site = world.standard.get(f"/sites/{world.north}").json()
        assert (site["raw_days"], site["folded_until"]) == (None, None)
        assert world.admin.patch(f"/sites/{world.north}", {"raw_days": 30}).json()["raw_days"] == 30
        assert world.technician.patch(f"/sites/{world.north}", {"raw_days": 7}).status_code == 403
        assert world.admin.patch(f"/sites/{world.north}", {"raw_days": None}).json()["raw_days"] is None
        log = world.technician.get(f"/sites/{world.north}/audit").json()["items"]
        changes = [entry["details"]["changes"] for entry in log if entry["action"] == "site_changed"]
        assert changes == [{"raw_days": {"old": 30, "new": None}}, {"raw_days": {"old": None, "new": 30}}]

    @pytest.mark.parametrize("days", [0, 6, 36_501, 7.5, "30", True])
    def test_are_seven_at_least(self, world: World, days: Any) -> None:
        refused = world.admin.patch(f"/sites/{world.north}", {"raw_days": days})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "#/raw_days"

    def test_of_a_new_site(self, world: World) -> None:
        site_id = world.site("short", raw_days=7)
        assert world.admin.get(f"/sites/{site_id}").json()["raw_days"] == 7


class TestRawDaysBelowTheStreams:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"stream_kept_days": 20})

    def test_are_refused_naming_the_setting(self, world: World) -> None:
        refused = world.admin.patch(f"/sites/{world.north}", {"raw_days": 19})
        assert refused.status_code == 422
        assert "KILOWATCH_STREAM_KEPT_DAYS" in refused.text
        assert world.admin.patch(f"/sites/{world.north}", {"raw_days": 20}).status_code == 200


class TestFoldedReadings:
    @pytest.fixture
    def metric(self, world: World, clock: Clock) -> Iterator[int]:
        """Two hours of minutes, folded."""
        clock.now = SENT
        assert world.admin.patch(f"/sites/{world.north}", {"raw_days": 7, "timezone": "UTC"}).status_code == 200
        metric = world.metric()
        world.send(metric, *minutes("2026-03-10T00:00:00+00:00", 120))
        clock.now = SENT + timedelta(days=10)
        world.fold()
        yield metric

    def history(self, world: World, metric: int, **query: Any) -> Any:
        asked = {"start": "2026-03-10T00:00:00Z", "end": "2026-03-10T02:00:00Z"} | query
        return world.standard.get(f"/metrics/{metric}/history", **asked)

    def test_are_told_as_such(self, world: World, metric: int) -> None:
        answer = self.history(world, metric, resolution="raw")
        (series,) = answer.json()["series"]
        assert series["raw_from"] == "2026-03-10T02:00:00+00:00"
        assert series["values"] == [float(v) for begin in range(0, 120, 15) for v in (begin, begin + 14)]
        assert answer.headers["Kilowatch-Raw-From"] == "2026-03-10T02:00:00Z"
        as_csv = self.history(world, metric, resolution="raw", format="csv", limit="all")
        assert as_csv.headers["Kilowatch-Raw-From"] == "2026-03-10T02:00:00Z"
        assert as_csv.text.count("\n") == 17
        assert world.standard.get(f"/sites/{world.north}").json()["folded_until"] == "2026-03-13T00:00:00Z"

    def test_are_not_told_as_such_where_all_are_there(self, world: World, metric: int) -> None:
        world.send(metric, ("2026-03-19T00:00:00Z", 1.0))
        answer = self.history(world, metric, resolution="raw", start="2026-03-18T00:00:00Z", end="2026-03-20T00:00:00Z")
        assert "raw_from" not in answer.json()["series"][0]
        assert "Kilowatch-Raw-From" not in answer.headers

    def test_have_the_same_aggregates(self, world: World, metric: int) -> None:
        answer = self.history(world, metric, resolution="1h", aggregate="sum").json()
        assert answer["series"][0]["values"] == [sum(range(60)), sum(range(60, 120))]

    def test_name_the_resolution_that_would_cut_them(self, world: World, metric: int) -> None:
        refused = self.history(world, metric, resolution="5m")
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].endswith("resolution")
        assert "15m" in refused.json()["detail"]

    def test_answer_says_where_the_window_begins(self, world: World, metric: int) -> None:
        answer = self.history(world, metric, start="2026-03-10T00:07:00Z", resolution="1h").json()
        assert answer["start"] == "2026-03-10T00:00:00+00:00"
        assert answer["series"][0]["timestamps"][0] == answer["start"]

    def test_take_no_more_readings(self, world: World, metric: int) -> None:
        rows = [
            {"metric_id": metric, "timestamp": f"2026-03-10T{time}:00Z", "value": 1.0}
            for time in ("01:59", "02:00", "00:00")
        ]
        report = world.technician.post("/readings", {"readings": rows}).json()
        assert (report["accepted"], report["rejected"]) == (1, 2)
        assert [(error["row"], error["code"]) for error in report["errors"]] == [(0, "folded"), (2, "folded")]
        assert "7 days" in report["errors"][0]["detail"]
        assert "2026-03-13T00:00:00Z" in report["errors"][0]["detail"]

    def test_can_be_deleted_by_whole_quarters_and_sent_anew(self, world: World, metric: int) -> None:
        asked = {"start": "2026-03-10T00:00:00Z", "end": "2026-03-10T00:10:00Z"}
        refused = world.technician.http.delete(f"/metrics/{metric}/readings", params=asked)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].endswith("end")
        asked["end"] = "2026-03-10T00:15:00Z"
        deleted = world.technician.http.delete(f"/metrics/{metric}/readings", params=asked)
        assert deleted.json() == {"readings": 15}
        world.send(metric, ("2026-03-10T00:01:00Z", 7.0))
        answer = self.history(world, metric, resolution="15m", aggregate="count").json()
        assert answer["series"][0]["values"] == [1.0] + [15.0] * 7

    def test_go_with_their_device(self, world: World, metric: int) -> None:
        device = world.admin.get(f"/metrics/{metric}").json()["device_id"]
        assert world.technician.delete(f"/devices/{device}").json()["readings"] == 120
        assert world.services.history is not None
        assert world.services.history.count([metric]) == 0

    def test_are_part_of_a_balance(self, world: World, metric: int, clock: Clock) -> None:
        """Also of one whose grid is computed, which is split by the quarter of an hour then."""
        balance = f"/sites/{world.north}/balance"
        load = world.device(kind="load_meter", metrics=None)["metrics"][0]["id"]
        world.send(load, *minutes("2026-03-10T00:00:00+00:00", 120))
        asked = {"start": "2026-03-10T00:05:00Z", "end": "2026-03-10T02:00:00Z"}
        clock.now = SENT + timedelta(days=20)
        world.fold()
        answer = world.standard.get(balance, **asked, resolution="auto")
        assert answer.status_code == 200, answer.text
        assert answer.json()["start"] == "2026-03-10T00:00:00Z"
        assert answer.json()["resolution"] == "15m"
