"""Metrics of any sites: found by words and by what they are."""

from typing import Any

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def ids(world: World, **question: Any) -> list[int]:
    answer = world.technician.get("/metrics", **question)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


class TestFindMetrics:
    def test_tells_each_with_its_place(self, world: World) -> None:
        device = world.device(name="Roof", slug="roof")
        (item,) = world.technician.get("/metrics").json()["items"]
        assert item == {
            "id": device["metrics"][0]["id"], "key": "power", "name": "Power", "quantity": "power", "unit": "kW",
            "behaviour": "gauge", "max_gap_s": 900, "device_id": device["id"], "device": "roof", "device_name": "Roof",
            "kind": "generic", "site_id": world.north, "site": "north", "site_name": "North",
            "timezone": "Europe/Berlin",
        }  # fmt: skip

    def test_leaves_out_what_one_may_not_see(self, world: World) -> None:
        here, there = world.metric(), world.metric(world.south)
        assert ids(world) == [here]
        assert ids(world, site_id=world.south) == []
        key = world.admin.post("/me/api-keys", {"name": "k", "site_id": world.south}).json()["key"]
        assert [item["id"] for item in world.http(key).get("/metrics").json()["items"]] == [there]

    def test_each_word_stands_somewhere(self, world: World) -> None:
        roof = world.device(name="Roof east", slug="pv-1", metrics=[{"key": "output", "quantity": "power"}])
        shed = world.device(name="Shed", slug="pv-2", metrics=[{"key": "output", "quantity": "power"}])
        of_roof, of_shed = (device["metrics"][0]["id"] for device in (roof, shed))
        for words, expected in (
            ("EAST", [of_roof]), ("output", [of_roof, of_shed]), ("north  out shed", [of_shed]), ("pv-1", [of_roof]),
            ("east shed", []), ("%", []), ("_", []), ("", [of_roof, of_shed]),
        ):  # fmt: skip
            assert ids(world, q=words) == expected, words

    def test_goes_on_page_by_page(self, world: World) -> None:
        made = [world.metric() for _ in range(3)]
        first = world.technician.get("/metrics", limit=2).json()
        assert [item["id"] for item in first["items"]] == made[:2]
        assert ids(world, limit=2, cursor=first["next"]) == made[2:]

    @pytest.mark.parametrize(
        "question",
        [{"kind": "x"}, {"quantity": "x"}, {"site_id": 0}, {"q": "x" * 121}, {"cursor": "x"}, {"limit": 501}],
    )
    def test_names_the_parameter_that_is_wrong(self, still_world: World, question: dict[str, Any]) -> None:
        answer = still_world.technician.get("/metrics", **question)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{next(iter(question))}")
