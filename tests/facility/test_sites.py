"""Sites: slugs, filters, pages, changes and what goes with a deletion."""

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


class TestCreateSite:
    def test_keeps_what_it_is_told(self, world: World) -> None:
        body = {
            "name": "Home",
            "slug": "home",
            "timezone": "Europe/London",
            "latitude": 51.5,
            "longitude": -0.1,
            "country": "GB",
            "currency": "GBP",
            "notes": "Line one\nLine two",
            "raw_days": 400,
        }
        answer = world.admin.post("/sites", body)
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/api/v1/sites/{answer.json()['id']}"
        site = world.admin.get(answer.headers["location"].removeprefix("/api/v1")).json()
        assert site == body | {"id": site["id"], "created_at": "2026-01-05T12:00:00Z", "folded_until": None}

    @pytest.mark.parametrize(
        ("name", "slug"),
        [
            ("Zürich Süd", "zurich-sud"),
            ("  Plant #2 (old) ", "plant-2-old"),
            ("日本", "site"),
            ("a" * 49 + " and more than sixty characters", "a" * 49 + "-and-more-t"),
        ],
    )
    def test_makes_a_slug_from_the_name(self, still_world: World, name: str, slug: str) -> None:
        assert still_world.admin.post("/sites", {"name": name}).json()["slug"] == slug

    def test_numbers_the_slugs_of_equal_names(self, world: World) -> None:
        slugs = [world.admin.post("/sites", {"name": "Home"}).json()["slug"] for _ in range(3)]
        assert slugs == ["home", "home-2", "home-3"]

    def test_makes_slugs_that_it_would_take(self, world: World) -> None:
        name = "a" * 49 + " and more than sixty characters"
        world.admin.post("/sites", {"name": name})
        slug = world.admin.post("/sites", {"name": name}).json()["slug"]
        site = world.site("renamed")
        assert slug == "a" * 49 + "-2"
        assert world.admin.patch(f"/sites/{site}", {"slug": slug + "-3"}).status_code == 200

    def test_refuses_a_duplicate_slug(self, world: World) -> None:
        answer = world.admin.post("/sites", {"name": "Other", "slug": "north"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/slug")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""),
            ("name", " \t "),
            ("name", None),
            ("name", 7),
            ("name", "a\x00b"),
            ("name", "a\u001bb"),
            ("slug", "With Capitals"),
            ("slug", "-edge"),
            ("slug", "a--b"),
            ("slug", "a\n"),
            ("slug", "a" * 61),
            ("timezone", "Mars/Olympus"),
            ("timezone", "../../etc/passwd"),
            ("timezone", ""),
            ("timezone", None),
            ("latitude", 90.01),
            ("latitude", "51.5"),
            ("latitude", True),
            ("longitude", -180.5),
            ("country", "gb"),
            ("country", "GBR"),
            ("currency", "€"),
            ("notes", "a\x00b"),
            ("notes", "x" * 10_001),
            ("owner", "me"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object) -> None:
        answer = still_world.admin.post("/sites", {"name": "Home", field: value})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")


class TestListSites:
    def test_finds_by_part_of_name_or_slug_in_any_case_of_letters(self, world: World) -> None:
        world.admin.post("/sites", {"name": "Ätna Öst", "slug": "volcano"})

        def found(words: str) -> list[str]:
            return [site["slug"] for site in world.admin.get("/sites", q=words).json()["items"]]

        assert found("ätna") == found("ÖST") == found("CAN") == ["volcano"]
        assert found("orth") == ["north"]
        assert found("nowhere") == []

    @pytest.mark.parametrize("words", ["%", "_", "\\", "%%", "a_b"])
    def test_gives_wildcards_no_meaning(self, world: World, words: str) -> None:
        assert world.admin.get("/sites", q=words).json()["items"] == []
        world.admin.post("/sites", {"name": f"x{words}y", "slug": "odd"})
        assert [site["slug"] for site in world.admin.get("/sites", q=words).json()["items"]] == ["odd"]

    def test_refuses_control_characters_in_a_search(self, still_world: World) -> None:
        answer = still_world.admin.get("/sites", q="a\x00b")
        assert (answer.status_code, answer.json()["errors"][0]) == (
            422,
            answer.json()["errors"][0] | {"pointer": "#/q", "in": "query"},
        )

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 500])
    def test_walks_over_all_without_a_duplicate(self, world: World, limit: int) -> None:
        for number in range(5):
            world.site(f"site-{number}")
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = world.admin.get("/sites", limit=limit, **({"cursor": cursor} if cursor else {})).json()
            assert len(page["items"]) <= limit
            seen += [site["slug"] for site in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert seen == ["north", "south", *(f"site-{number}" for number in range(5))]

    def test_a_walk_is_not_disturbed_by_what_comes_and_goes(self, world: World) -> None:
        ids = [world.site(f"site-{number}") for number in range(4)]
        first = world.admin.get("/sites", limit=4).json()
        world.admin.delete(f"/sites/{ids[0]}")
        world.site("newest")
        second = world.admin.get("/sites", limit=4, cursor=first["next"]).json()
        assert [site["slug"] for site in second["items"]] == ["site-2", "site-3", "newest"]

    @pytest.mark.parametrize("limit", ["0", "-1", "501", "x", "1.5", "", str(10**30), "9" * 5000])
    def test_refuses_a_limit_out_of_bounds(self, still_world: World, limit: str) -> None:
        answer = still_world.admin.get("/sites", limit=limit)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/limit")

    @pytest.mark.parametrize(
        "cursor", ["x", "MQ==", "LTE", "MTox", "OTk5OTk5OTk5OTk5", "ÿ", "a" * 300, "MQ\x00", " MQ"]
    )
    def test_refuses_a_broken_cursor(self, still_world: World, cursor: str) -> None:
        answer = still_world.admin.get("/sites", cursor=cursor)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/cursor")

    def test_shows_a_user_its_own_sites_alone(self, world: World) -> None:
        assert [site["slug"] for site in world.standard.get("/sites").json()["items"]] == ["north"]
        assert world.newcomer.get("/sites").json() == {"items": [], "next": None}


class TestChangeSite:
    def test_changes_only_what_is_given(self, world: World) -> None:
        before = world.admin.get(f"/sites/{world.north}").json()
        after = world.admin.patch(f"/sites/{world.north}", {"country": "DE"}).json()
        assert after == before | {"country": "DE"}
        assert world.admin.patch(f"/sites/{world.north}", {"country": None}).json() == before
        assert world.admin.patch(f"/sites/{world.north}", {}).json() == before

    def test_refuses_a_slug_that_is_anothers(self, world: World) -> None:
        answer = world.admin.patch(f"/sites/{world.north}", {"slug": "south"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/slug")
        assert world.admin.patch(f"/sites/{world.north}", {"slug": "north"}).status_code == 200

    @pytest.mark.parametrize("field", ["name", "slug", "timezone"])
    def test_refuses_null_for_what_a_site_must_have(self, still_world: World, field: str) -> None:
        answer = still_world.admin.patch(f"/sites/{still_world.north}", {field: None})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")


class TestDeleteSite:
    def test_says_what_went_and_leaves_no_reading(self, world: World) -> None:
        metrics = [world.metric(), world.metric()]
        kept = world.metric(world.south)
        for metric in (*metrics, kept):
            world.send(metric, ("2026-01-05T10:00:00Z", 1), ("2026-01-05T10:01:00Z", 2))
        answer = world.admin.delete(f"/sites/{world.north}")
        assert answer.json() == {"devices": 2, "metrics": 2, "readings": 4}
        assert world.admin.get(f"/sites/{world.north}").status_code == 404
        history = world.services.history
        assert history is not None
        assert (history.count(metrics), history.count([kept])) == (0, 2)

    def test_never_uses_the_id_again(self, world: World) -> None:
        last = world.site("last")
        world.admin.delete(f"/sites/{last}")
        assert world.site("last") > last
