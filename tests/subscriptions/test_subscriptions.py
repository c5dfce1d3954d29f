"""Subscriptions: a user's chosen metrics, in the user's order, over time."""

from typing import Any

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


WINDOW = {"start": "2026-01-05T10:00:00Z", "end": "2026-01-05T11:00:00Z", "resolution": "1h"}


def subscribe(world: World, *metric_ids: int, name: str = "Mine") -> dict[str, Any]:
    answer = world.technician.post("/subscriptions", {"name": name, "metric_ids": list(metric_ids)})
    assert answer.status_code == 201, answer.text
    subscription: dict[str, Any] = answer.json()
    return subscription


class TestSubscribe:
    def test_keeps_the_order(self, still_world: World) -> None:
        ids = [still_world.metric() for _ in range(4)]
        order = [ids[2], ids[0], ids[3], ids[1]]
        subscription = subscribe(still_world, *order)
        assert subscription["metric_ids"] == [metric["metric_id"] for metric in subscription["metrics"]] == order
        path = f"/subscriptions/{subscription['id']}"
        assert still_world.technician.get(path).json() == subscription
        assert [item["metric_id"] for item in still_world.technician.get(f"{path}/latest").json()["items"]] == order
        history = still_world.technician.get(f"{path}/history", **WINDOW).json()
        assert [series["metric_id"] for series in history["series"]] == order

    def test_takes_metrics_from_any_site_that_one_may_read(self, world: World) -> None:
        north, south = world.metric(), world.metric(world.south)
        world.grant(world.technician, world.south, "standard")
        sites = [metric["site"] for metric in subscribe(world, south, north)["metrics"]]
        assert sites == ["south", "north"]

    def test_names_duplicates_and_unknown_metrics(self, world: World) -> None:
        known, foreign = world.metric(), world.metric(world.south)
        body = {"name": "S", "metric_ids": [known, 99_999, known, foreign]}
        answer = world.technician.post("/subscriptions", body)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/metric_ids/{n}" for n in (1, 2, 3)]
        assert world.technician.get("/subscriptions").json()["items"] == []

    @pytest.mark.parametrize(
        ("field", "value", "pointer"),
        [
            ("metric_ids", [], "#/metric_ids"),
            ("metric_ids", None, "#/metric_ids"),
            ("metric_ids", 1, "#/metric_ids"),
            ("metric_ids", ["1"], "#/metric_ids/0"),
            ("metric_ids", [0], "#/metric_ids/0"),
            ("metric_ids", [True], "#/metric_ids/0"),
            ("metric_ids", [10**30], "#/metric_ids/0"),
            ("metric_ids", [1] * 10_001, "#/metric_ids"),
            ("name", "", "#/name"),
            ("name", "\x00", "#/name"),
            ("owner", 1, "#/owner"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object, pointer: str) -> None:
        answer = still_world.technician.post("/subscriptions", {"name": "S", "metric_ids": [1], field: value})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


class TestListSubscriptions:
    def test_shows_ones_own_alone_page_by_page(self, world: World) -> None:
        metric = world.metric()
        made = [subscribe(world, metric, name=f"S{n}")["id"] for n in range(3)]
        first = world.technician.get("/subscriptions", limit=2).json()
        second = world.technician.get("/subscriptions", limit=2, cursor=first["next"]).json()
        assert [item["id"] for item in first["items"] + second["items"]] == made
        assert second["next"] is None
        assert world.admin.get("/subscriptions").json()["items"] == []


class TestChangeSubscription:
    def test_changes_the_name_alone(self, world: World) -> None:
        before = subscribe(world, world.metric())
        after = world.technician.patch(f"/subscriptions/{before['id']}", {"name": "New"}).json()
        assert after == before | {"name": "New"}

    def test_changes_all_the_metrics(self, world: World) -> None:
        first, second, third = (world.metric() for _ in range(3))
        path = f"/subscriptions/{subscribe(world, first, second)['id']}"
        assert world.technician.patch(path, {"metric_ids": [third, first]}).json()["metric_ids"] == [third, first]

    @pytest.mark.parametrize("field", ["name", "metric_ids"])
    def test_refuses_null(self, still_world: World, field: str) -> None:
        path = f"/subscriptions/{subscribe(still_world, still_world.metric())['id']}"
        answer = still_world.technician.patch(path, {field: None})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")

    def test_refuses_no_metrics_and_leaves_those_there_were(self, world: World) -> None:
        metric = world.metric()
        path = f"/subscriptions/{subscribe(world, metric)['id']}"
        for metric_ids, pointer in (
            ([], "#/metric_ids"),
            ([99_999], "#/metric_ids/0"),
            ([metric] * 2, "#/metric_ids/1"),
        ):
            answer = world.technician.patch(path, {"metric_ids": metric_ids})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
        assert world.technician.get(path).json()["metric_ids"] == [metric]


class TestWhenAGrantIsLost:
    @pytest.fixture
    def metrics(self, world: World) -> tuple[int, int]:
        world.grant(world.technician, world.south, "standard")
        metrics = world.metric(), world.metric(world.south)
        for metric in metrics:
            world.send(metric, ("2026-01-05T10:00:00Z", 1.5))
        return metrics

    def revoke(self, world: World) -> None:
        assert world.admin.delete(f"/sites/{world.south}/grants/{world.technician.id}").status_code == 204

    def test_the_metric_stays_as_unavailable_and_says_no_more(self, world: World, metrics: tuple[int, int]) -> None:
        path = f"/subscriptions/{subscribe(world, *metrics)['id']}"
        self.revoke(world)
        kept, lost = world.technician.get(path).json()["metrics"]
        assert (kept["available"], kept["site"]) == (True, "north")
        assert lost == {
            "metric_id": metrics[1],
            "available": False,
            **dict.fromkeys(("site", "device", "metric", "name", "quantity", "unit", "behaviour")),
        }

    def test_a_repeated_request_says_no_more_either(self, world: World, metrics: tuple[int, int]) -> None:
        body = {"name": "Mine", "metric_ids": list(metrics)}
        first = world.technician.post("/subscriptions", body, headers={"Idempotency-Key": "once"})
        self.revoke(world)
        again = world.technician.post("/subscriptions", body, headers={"Idempotency-Key": "once"})
        assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
        assert [metric["available"] for metric in again.json()["metrics"]] == [True, False]

    def test_it_yields_no_data(self, world: World, metrics: tuple[int, int]) -> None:
        path = f"/subscriptions/{subscribe(world, *metrics)['id']}"
        assert [item["value"] for item in world.technician.get(f"{path}/latest").json()["items"]] == [1.5, 1.5]
        self.revoke(world)
        assert [item["value"] for item in world.technician.get(f"{path}/latest").json()["items"]] == [1.5, None]
        history = world.technician.get(f"{path}/history", **WINDOW).json()
        assert [series["metric_id"] for series in history["series"]] == [metrics[0]]
        assert history["unavailable"] == [metrics[1]]

    def test_it_may_stay_in_a_change_but_not_be_added(self, world: World, metrics: tuple[int, int]) -> None:
        both, one = subscribe(world, *metrics)["id"], subscribe(world, metrics[0])["id"]
        self.revoke(world)
        change = {"metric_ids": [metrics[1], metrics[0]]}
        assert world.technician.patch(f"/subscriptions/{both}", change).status_code == 200
        assert world.technician.patch(f"/subscriptions/{one}", change).status_code == 422

    def test_all_is_back_with_the_grant(self, world: World, metrics: tuple[int, int]) -> None:
        before = subscribe(world, *metrics)
        self.revoke(world)
        world.grant(world.technician, world.south, "standard")
        assert world.technician.get(f"/subscriptions/{before['id']}").json() == before


class TestDeleteSubscription:
    def test_leaves_the_metrics_alone(self, still_world: World) -> None:
        metric = still_world.metric()
        path = f"/subscriptions/{subscribe(still_world, metric)['id']}"
        assert still_world.technician.delete(path).status_code == 204
        assert still_world.technician.get(path).status_code == 404
        assert still_world.technician.get(f"/metrics/{metric}").status_code == 200


def test_a_deleted_metric_leaves_the_subscription(world: World) -> None:
    device = world.device(kind="battery", metrics=None)
    first, second = (metric["id"] for metric in device["metrics"][:2])
    path = f"/subscriptions/{subscribe(world, first, second)['id']}"
    world.technician.delete(f"/metrics/{first}")
    assert world.technician.get(path).json()["metric_ids"] == [second]


def test_a_key_of_one_site_reaches_no_subscription_with_metrics_of_another(world: World) -> None:
    world.grant(world.technician, world.south, "standard")
    here, mixed = subscribe(world, world.metric()), subscribe(world, world.metric(), world.metric(world.south))
    body = {"name": "Key", "scopes": ["read", "write"], "site_id": world.north}
    key = world.http(world.technician.post("/me/api-keys", body).json()["key"])
    assert [item["id"] for item in key.get("/subscriptions").json()["items"]] == [here["id"]]
    path = f"/subscriptions/{mixed['id']}"
    refused = (key.get(path), key.patch(path, json={"name": "Other"}), key.delete(path), key.get(f"{path}/latest"))
    assert {answer.status_code for answer in refused} == {404}
    assert key.patch(f"/subscriptions/{here['id']}", json={"name": "Mine"}).status_code == 200
