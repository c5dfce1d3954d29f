"""Any metrics at once, by name or id, without a subscription: latest values and history."""

import csv
import io
from typing import Any

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


WINDOW = {"start": "2026-01-05T10:00:00Z", "end": "2026-01-05T11:00:00Z", "resolution": "30m"}


def path_of(world: World, metric_id: int) -> str:
    """Its name for gateways."""
    reading = world.admin.get(f"/metrics/{metric_id}/latest").json()
    return f"{reading['site']}/{reading['device']}/{reading['metric']}"


def subscribed(world: World, *metric_ids: int) -> str:
    answer = world.technician.post("/subscriptions", {"name": "S", "metric_ids": list(metric_ids)})
    return f"/subscriptions/{answer.json()['id']}"


class TestLatest:
    def test_answers_as_a_subscription_does(self, world: World) -> None:
        ids = [world.metric() for _ in range(3)]
        world.send(ids[2], ("2026-01-05T10:00:00Z", 2))
        subscription = subscribed(world, *ids)
        assert (
            world.technician.get("/latest", metric=ids).json() == world.technician.get(f"{subscription}/latest").json()
        )

    def test_takes_names_and_ids_each_metric_once_in_their_order(self, world: World) -> None:
        first, second = world.metric(), world.metric()
        asked = [path_of(world, second), first, second, path_of(world, first)]
        items = world.technician.get("/latest", metric=asked).json()["items"]
        assert [item["metric_id"] for item in items] == [second, first]

    @pytest.mark.parametrize(
        "name",
        [
            "0",
            "2000000000",
            "9" * 190,
            "north/none/power",
            "x",
            "a/b",
            "a/b/c/d",
            "//",
            "\u0663",
            "north/A/power",
            "-1",
            "\x00",
        ],
    )
    def test_names_the_one_that_there_is_not(self, world: World, name: str) -> None:
        answer = world.technician.get("/latest", metric=[world.metric(), name])
        assert answer.status_code == 404
        assert repr(name) in answer.json()["detail"]

    @pytest.mark.parametrize("names", [[], [""], ["x" * 191], ["1"] * 501])
    def test_refuses_none_too_many_and_too_long_ones(self, world: World, names: list[str]) -> None:
        answer = world.technician.get("/latest", metric=names)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith("#/metric")

    def test_a_key_for_one_site_sees_that_site_alone(self, world: World) -> None:
        here, there = world.metric(), world.metric(world.south)
        world.grant(world.technician, world.south, "standard")
        key = world.technician.post("/me/api-keys", {"name": "k", "site_id": world.south}).json()["key"]
        assert world.http(key).get("/latest", params={"metric": there}).status_code == 200
        assert world.http(key).get("/latest", params={"metric": [there, here]}).status_code == 404


class TestHistory:
    @pytest.mark.parametrize("written", ["json", "csv"])
    @pytest.mark.parametrize("more", [{}, {"resolution": "raw"}, {"resolution": "raw", "limit": "all"}])
    def test_answers_as_a_subscription_does(self, world: World, written: str, more: dict[str, Any]) -> None:
        first, second = world.metric(), world.metric()
        world.send(first, ("2026-01-05T10:00:00Z", 2), ("2026-01-05T10:10:00Z", 4))
        world.send(second, ("2026-01-05T10:20:00Z", 8))
        question = WINDOW | more | {"format": written}
        of_set = world.technician.get("/history", metric=[second, path_of(world, first)], **question)
        of_subscription = world.technician.get(f"{subscribed(world, second, first)}/history", **question)
        assert of_set.status_code == 200
        assert of_set.text == of_subscription.text

    def test_goes_on_page_by_page(self, world: World) -> None:
        metrics = [world.metric(), world.metric()]
        for metric in metrics:
            world.send(metric, *((f"2026-01-05T10:0{n}:00Z", float(n)) for n in range(5)))
        question = WINDOW | {"resolution": "raw", "limit": 4, "format": "csv"}
        link = f"/history?metric={metrics[0]}&metric={metrics[1]}&" + "&".join(f"{k}={v}" for k, v in question.items())
        rows: list[list[str]] = []
        while link:
            answer = world.technician.http.get(link)
            rows += list(csv.reader(io.StringIO(answer.text)))[1:]
            link = answer.headers.get("link", "").partition(">")[0].removeprefix("</api/v1")
        assert [float(row[2]) for row in rows] == [0, 1, 2, 3, 4] * 2

    def test_names_the_one_that_there_is_not(self, world: World) -> None:
        foreign = world.metric(world.south)
        answer = world.technician.get("/history", metric=[world.metric(), foreign], **WINDOW)
        assert (answer.status_code, answer.json()["detail"]) == (404, f"There is no metric '{foreign}'.")
