"""API keys: shown once, limited in scope, site and time."""

from typing import Any

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def make_key(world: World, **fields: Any) -> dict[str, Any]:
    answer = world.technician.post("/me/api-keys", {"name": "Gateway", **fields})
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


class TestMakeAnApiKey:
    def test_shows_the_key_once(self, world: World) -> None:
        made = make_key(world)
        assert made["key"].startswith("kw_")
        assert made["key"].startswith(made["prefix"])
        (listed,) = world.technician.get("/me/api-keys").json()["items"]
        assert listed == {field: value for field, value in made.items() if field != "key"}

    def test_has_all_scopes_unless_some_are_named(self, world: World) -> None:
        assert make_key(world)["scopes"] == ["ingest", "read", "write"]
        assert make_key(world, scopes=["read", "read"])["scopes"] == ["read"]

    def test_refuses_a_key_in_place_of_a_sign_in(self, still_world: World) -> None:
        key = still_world.http(make_key(still_world)["key"])
        assert key.post("/me/api-keys", json={"name": "child"}).status_code == 403
        assert key.post("/auth/logout").status_code == 403

    @pytest.mark.parametrize(
        ("field", "value", "pointer"),
        [
            ("scopes", [], "#/scopes"),
            ("scopes", ["admin"], "#/scopes/0"),
            ("scopes", "read", "#/scopes"),
            ("site_id", 99_999, "#/site_id"),
            ("site_id", 0, "#/site_id"),
            ("site_id", 10**30, "#/site_id"),
            ("site_id", True, "#/site_id"),
            ("expires_at", "2026-01-05T11:59:59Z", "#/expires_at"),
            ("expires_at", "2026-02-01T00:00:00", "#/expires_at"),
            ("expires_at", "9999-12-31T23:59:59-01:00", "#/expires_at"),
            ("expires_at", "0001-01-01T00:00:00+01:00", "#/expires_at"),
            ("expires_at", 1_900_000_000, "#/expires_at"),
            ("expires_at", "1900000000", "#/expires_at"),
            ("name", "", "#/name"),
            ("name", "\x07", "#/name"),
            ("key", "kw_mine", "#/key"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object, pointer: str) -> None:
        for person in (still_world.technician, still_world.admin):
            answer = person.post("/me/api-keys", {"name": "k", field: value})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)

    def test_does_not_tell_a_foreign_site_from_one_that_never_was(self, still_world: World) -> None:
        foreign = still_world.technician.post("/me/api-keys", {"name": "k", "site_id": still_world.south})
        never = still_world.technician.post("/me/api-keys", {"name": "k", "site_id": 99_999})
        assert foreign.status_code == 422
        assert foreign.content == never.content

    def test_gives_the_same_key_for_the_same_idempotency_key(self, world: World) -> None:
        def make(name: str, once: str) -> Any:
            return world.technician.post("/me/api-keys", {"name": name}, headers={"Idempotency-Key": once})

        first, again = make("a", "one"), make("a", "one")
        assert first.json()["key"].startswith("kw_")
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert len(world.technician.get("/me/api-keys").json()["items"]) == 1
        assert world.http(again.json()["key"]).get("/me").status_code == 200
        assert make("a", "two").json()["key"] != first.json()["key"]
        assert make("b", "one").status_code == 422


class TestUseAnApiKey:
    def test_ends_when_it_expires(self, world: World) -> None:
        key = world.http(make_key(world, expires_at="2026-01-05T13:00:00+00:00")["key"])
        world.clock.advance(minutes=59, seconds=59)
        assert key.get("/me").status_code == 200
        world.clock.advance(seconds=1)
        assert key.get("/me").status_code == 401

    def test_outlives_the_sign_in_that_made_it(self, world: World) -> None:
        key = world.http(make_key(world)["key"])
        world.technician.post("/auth/logout")
        world.clock.advance(days=365)
        assert key.get("/sites").status_code == 200

    def test_ends_when_it_is_deleted(self, world: World) -> None:
        made = make_key(world)
        assert world.technician.delete(f"/me/api-keys/{made['id']}").status_code == 204
        assert world.http(made["key"]).get("/me").status_code == 401
        assert world.technician.delete(f"/me/api-keys/{made['id']}").status_code == 404

    def test_ends_with_its_site(self, world: World) -> None:
        site = world.site("short-lived")
        world.grant(world.technician, site, "technician")
        key = world.http(make_key(world, site_id=site)["key"])
        assert key.get("/me").status_code == 200
        world.admin.delete(f"/sites/{site}")
        assert key.get("/me").status_code == 401

    def test_names_the_scope_that_it_lacks(self, still_world: World) -> None:
        key = still_world.http(make_key(still_world, scopes=["ingest"])["key"])
        answer = key.get("/sites")
        assert answer.status_code == 403
        assert "`read`" in answer.json()["detail"]
