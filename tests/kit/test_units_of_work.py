"""Idempotency keys, and commits that fail."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import psycopg
import pytest
from sqlalchemy import event, text

from kilowatch.kit.db import Database
from kilowatch.kit.text import free_slug, slug_from
from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def creations(world: World) -> dict[str, dict[str, Any]]:
    """A body for every POST that creates something, by path."""
    device = world.device()
    return {
        "/sites": {"name": "Home"},
        "/users": {"email": "x@example.org", "name": "X", "password": "long enough"},
        "/me/api-keys": {"name": "k"},
        f"/sites/{world.north}/devices": {"name": "D", "kind": "battery"},
        f"/devices/{device['id']}/metrics": {"key": "more", "quantity": "power"},
        "/subscriptions": {"name": "s", "metric_ids": [device["metrics"][0]["id"]]},
    }


def count_all(world: World) -> int:
    tables = ("sites", "users", "api_keys", "devices", "metrics", "subscriptions", "subscription_metrics")
    with world.services.database.read() as connection:
        counts = [connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables]
    return sum(counts)


class TestIdempotencyKey:
    def test_a_replay_answers_as_the_first_did_and_creates_nothing(self, world: World) -> None:
        for path, body in creations(world).items():
            headers = {"Idempotency-Key": f"key {path}".replace(" ", "-")}
            first = world.admin.post(path, body, headers=headers)
            count = count_all(world)
            again = world.admin.post(path, body, headers=headers)
            assert (first.status_code, again.status_code) == (201, 201), path
            assert (again.content, again.headers["location"]) == (first.content, first.headers["location"])
            assert again.headers.get("etag") == first.headers.get("etag")
            assert count_all(world) == count

    def test_another_body_under_the_same_key_is_refused(self, world: World) -> None:
        for path, body in creations(world).items():
            headers = {"Idempotency-Key": f"key{path}"}
            world.admin.post(path, body, headers=headers)
            count = count_all(world)
            assert world.admin.post(path, body | {"name": "Other"}, headers=headers).status_code == 422
            assert count_all(world) == count

    def test_two_requests_at_once_create_one_thing(self, world: World) -> None:
        for path, body in creations(world).items():
            headers = dict(world.admin.http.headers) | {"Idempotency-Key": f"key{path}"}
            before = count_all(world)

            def create(_: int, path: str = path, body: Any = body, headers: Any = headers) -> httpx2.Response:
                return world.client.post(f"/api/v1{path}", json=body, headers=headers)

            with ThreadPoolExecutor(3) as pool:
                answers = list(pool.map(create, range(3)))
            assert [answer.status_code for answer in answers] == [201] * 3, path
            assert len({answer.content for answer in answers}) == 1
            added = 1 + len(answers[0].json().get("metrics", ()))
            assert count_all(world) == before + added

    def test_a_refused_request_does_not_use_the_key_up(self, world: World) -> None:
        headers = {"Idempotency-Key": "one"}
        body = {"name": "Other", "slug": "north"}
        assert world.admin.post("/sites", body, headers=headers).status_code == 409
        assert world.admin.post("/sites", {"name": "Home"}, headers=headers).status_code == 201

    def test_a_key_is_its_users_alone(self, world: World) -> None:
        headers = {"Idempotency-Key": "one"}
        first = world.admin.post("/me/api-keys", {"name": "k"}, headers=headers).json()["key"]
        assert world.standard.post("/me/api-keys", {"name": "k"}, headers=headers).json()["key"] != first

    def test_a_key_is_forgotten_after_a_day(self, world: World) -> None:
        headers = {"Idempotency-Key": "one"}
        first = world.admin.post("/sites", {"name": "Home"}, headers=headers).json()["id"]
        world.clock.advance(hours=24, seconds=1)
        world.admin.http.headers["Authorization"] = f"Bearer {self.new_token(world)}"
        assert world.admin.post("/sites", {"name": "Home"}, headers=headers).json()["id"] != first

    def new_token(self, world: World) -> str:
        form = {"username": world.admin.email, "password": world.admin.password}
        token: str = world.anonymous.post("/auth/token", data=form).json()["access_token"]
        return token


@contextmanager
def failing_commits(world: World, error: Callable[[], Exception]) -> Iterator[None]:
    """Every commit of the catalogue's database fails, at the moment of the commit and not before."""
    engine = world.services.database._writer

    def fail(_connection: object) -> None:
        raise error()

    event.listen(engine, "commit", fail)
    try:
        yield
    finally:
        event.remove(engine, "commit", fail)


class TestACommitThatFails:
    def test_is_an_error_that_the_caller_sees(self, world: World) -> None:
        bodies, count = creations(world), count_all(world)
        with failing_commits(world, lambda: OSError("the disk is full")):
            for path, body in bodies.items():
                answer = world.admin.post(path, body)
                assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json"), path
                assert "location" not in answer.headers
        assert count_all(world) == count

    def test_leaves_no_trace_of_a_deletion_and_the_next_request_works(self, world: World) -> None:
        device = world.device()
        with failing_commits(world, lambda: OSError("the disk is full")):
            assert world.admin.delete(f"/devices/{device['id']}").status_code == 500
        assert world.admin.get(f"/devices/{device['id']}").json() == device
        assert world.admin.delete(f"/devices/{device['id']}").status_code == 200

    def test_does_not_use_the_idempotency_key_up(self, world: World) -> None:
        headers = {"Idempotency-Key": "one"}
        with failing_commits(world, lambda: OSError("the disk is full")):
            assert world.admin.post("/sites", {"name": "Home"}, headers=headers).status_code == 500
        assert world.admin.post("/sites", {"name": "Home"}, headers=headers).status_code == 201

    def test_for_a_deferred_constraint_is_a_conflict(self, world: World) -> None:
        database = world.services.database
        with database.write() as connection:
            for statement in (
                "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
                "CREATE TABLE checked (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
            ):
                connection.exec_driver_sql(statement)
            if database.is_sqlite:
                connection.exec_driver_sql(
                    "CREATE TRIGGER deferred AFTER INSERT ON sites BEGIN INSERT INTO checked VALUES (7); END"
                )
            else:
                connection.exec_driver_sql(
                    "CREATE FUNCTION deferred() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN INSERT INTO checked VALUES (7); RETURN NULL; END $$"
                )
                connection.exec_driver_sql(
                    "CREATE TRIGGER deferred AFTER INSERT ON sites FOR EACH ROW EXECUTE FUNCTION deferred()"
                )
        count = count_all(world)
        assert world.admin.post("/sites", {"name": "Home"}).status_code == 409
        assert count_all(world) == count


class TestClosing:
    def test_closes_what_is_in_use_when_it_is_given_back(self, database_url: str) -> None:
        """Else a thread that outlives its server would leave a connection to the garbage collector."""
        database = Database(database_url, pool_size=2)
        closed = []
        for unit_of_work in (database.read, database.write):
            with unit_of_work() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                database.close()
            try:
                driver.execute("SELECT 1")
            except (psycopg.OperationalError, sqlite3.ProgrammingError) as error:
                closed.append("closed" in str(error))
        assert closed == [True, True]


class TestSlugs:
    @pytest.mark.parametrize("name", ["Ä" * 100, "a-" * 60, "-a-", "😀", "", "a" * 49 + "--b"])
    def test_made_from_any_name_are_ones_that_are_taken(self, name: str) -> None:
        slug = slug_from(name)
        free = free_slug(slug or "site", {slug or "site"})
        for made in filter(None, (slug, free)):
            assert len(made) <= 60
            assert all(part.isalnum() and part.isascii() for part in made.split("-"))
