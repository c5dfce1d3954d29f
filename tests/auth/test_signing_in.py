"""Signing in and out: passwords, access tokens, refresh tokens, and how often one may try."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from tests.conftest import SECRET_KEY, Person, World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def try_password(world: World, email: str, password: str, *, address: str = "192.0.2.1") -> httpx2.Response:
    client = TestClient(world.client.app, base_url="http://testserver/api/v1", client=(address, 50_000))
    return client.post("/auth/token", data={"username": email, "password": password})


def tokens_of(world: World, person: Person) -> dict[str, Any]:
    answer = try_password(world, person.email, person.password)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def refresh(world: World, refresh_token: str) -> httpx2.Response:
    return world.anonymous.post("/auth/refresh", {"refresh_token": refresh_token})


def status_of_me(world: World, access_token: str) -> int:
    return world.http(access_token).get("/me").status_code


class TestSignIn:
    def test_gives_tokens_by_oauth2s_password_flow(self, world: World) -> None:
        tokens = tokens_of(world, world.standard)
        assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)
        assert status_of_me(world, tokens["access_token"]) == 200

    def test_takes_the_email_in_any_case_of_letters(self, world: World) -> None:
        assert try_password(world, " Standard@Example.ORG ", world.standard.password).status_code == 200

    def test_answers_a_wrong_password_and_an_unknown_email_alike(self, world: World) -> None:
        wrong = try_password(world, world.standard.email, "wrong password")
        unknown = try_password(world, "nobody@example.org", "wrong password")
        assert wrong.status_code == 401
        assert wrong.content == unknown.content
        assert wrong.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"username": "standard@example.org"},
            {"password": "password of standard"},
            {"username": "standard@example.org", "password": "x" * 201},
            {"username": "a\x00@example.org", "password": "password of standard"},
            {"username": "x" * 255, "password": "password of standard"},
            {"username": "standard@example.org", "password": "password of standard", "grant_type": "implicit"},
        ],
    )
    def test_names_the_field_that_is_missing_or_wrong(self, still_world: World, form: dict[str, str]) -> None:
        answer = still_world.anonymous.post("/auth/token", data=form)
        assert answer.status_code == 422
        assert {error["pointer"] for error in answer.json()["errors"]} <= {"#/username", "#/password", "#/grant_type"}

    def test_refuses_json_in_place_of_a_form(self, still_world: World) -> None:
        answer = still_world.anonymous.post("/auth/token", {"username": "standard@example.org", "password": "x"})
        assert answer.status_code == 422


class TestLimitOfAttempts:
    """10 failures in 15 minutes for an account from an address, 50 for the account, 100 for the address."""

    def fail(self, world: World, times: int, *, email: str = "standard@example.org", address: str = "192.0.2.1") -> int:
        return [try_password(world, email, "wrong", address=address).status_code for _ in range(times)][-1]

    def test_holds_an_account_from_one_address(self, world: World) -> None:
        assert self.fail(world, 10) == 401
        refused = try_password(world, world.standard.email, world.standard.password)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 900

    def test_leaves_the_account_free_from_another_address(self, world: World) -> None:
        self.fail(world, 11)
        answer = try_password(world, world.standard.email, world.standard.password, address="192.0.2.2")
        assert answer.status_code == 200

    def test_leaves_another_account_free_from_that_address(self, world: World) -> None:
        self.fail(world, 11)
        assert try_password(world, world.technician.email, world.technician.password).status_code == 200

    def test_holds_an_account_from_many_addresses(self, world: World) -> None:
        for last in range(5):
            self.fail(world, 10, address=f"198.51.100.{last}")
        fresh = try_password(world, world.standard.email, world.standard.password, address="203.0.113.1")
        assert fresh.status_code == 429

    def test_holds_an_address_with_many_accounts(self, world: World) -> None:
        for number in range(10):
            self.fail(world, 10, email=f"guess-{number}@example.org")
        assert try_password(world, world.standard.email, world.standard.password).status_code == 429
        elsewhere = try_password(world, world.standard.email, world.standard.password, address="192.0.2.2")
        assert elsewhere.status_code == 200

    def test_does_not_tell_whether_the_account_exists(self, world: World) -> None:
        self.fail(world, 10, email="nobody@example.org", address="192.0.2.1")
        self.fail(world, 10, email="standard@example.org", address="192.0.2.2")
        unknown = try_password(world, "nobody@example.org", "wrong", address="192.0.2.1")
        known = try_password(world, "standard@example.org", "wrong", address="192.0.2.2")
        assert (unknown.status_code, unknown.content) == (known.status_code, known.content)
        assert known.status_code == 429

    def test_does_not_count_a_success(self, world: World) -> None:
        for _ in range(15):
            assert try_password(world, world.standard.email, world.standard.password).status_code == 200
        assert self.fail(world, 10) == 401
        assert self.fail(world, 1) == 429

    def test_ends_when_the_window_has_passed(self, world: World) -> None:
        self.fail(world, 10)
        world.clock.advance(minutes=14, seconds=59)
        assert try_password(world, world.standard.email, world.standard.password).status_code == 429
        world.clock.advance(seconds=2)
        assert try_password(world, world.standard.email, world.standard.password).status_code == 200

    def test_is_not_slipped_through_by_many_at_once(self, world: World) -> None:
        # One client, so that all requests meet in one event loop as they do in a server.
        form = {"username": world.standard.email, "password": "wrong"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: world.client.post("/api/v1/auth/token", data=form), range(24)))
        statuses = [answer.status_code for answer in answers]
        assert sorted(statuses) == [401] * 10 + [429] * 14


class TestAccessToken:
    def test_expires_after_15_minutes(self, world: World) -> None:
        token = tokens_of(world, world.standard)["access_token"]
        world.clock.advance(minutes=14, seconds=59)
        assert status_of_me(world, token) == 200
        world.clock.advance(seconds=1)
        answer = world.http(token).get("/me")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

    def claims(self, world: World) -> dict[str, Any]:
        token = tokens_of(world, world.standard)["access_token"]
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return claims

    def test_counts_only_with_our_signature(self, still_world: World) -> None:
        claims = self.claims(still_world)
        assert status_of_me(still_world, jwt.encode(claims, SECRET_KEY, algorithm="HS256")) == 200
        assert status_of_me(still_world, jwt.encode(claims, "another key " * 4, algorithm="HS256")) == 401
        assert status_of_me(still_world, jwt.encode(claims, "", algorithm="none")) == 401
        assert status_of_me(still_world, jwt.encode(claims, SECRET_KEY * 2, algorithm="HS512")) == 401

    def test_counts_only_as_it_was_made(self, still_world: World) -> None:
        token = tokens_of(still_world, still_world.standard)["access_token"]
        header, body, signature = token.split(".")
        other = tokens_of(still_world, still_world.admin)["access_token"].split(".")[1]
        for tampered in (
            f"{header}.{other}.{signature}",
            f"{header}.{body}.",
            f"{header}.{body}",
            f"{header}.{body}.{signature[:-6]}AAAAAA",
            "..",
            "x",
        ):
            assert status_of_me(still_world, tampered) == 401

    @pytest.mark.parametrize("missing", ["exp", "sub", "sid", "aud"])
    def test_needs_all_its_claims(self, still_world: World, missing: str) -> None:
        claims = self.claims(still_world)
        del claims[missing]
        assert status_of_me(still_world, jwt.encode(claims, SECRET_KEY, algorithm="HS256")) == 401

    @pytest.mark.parametrize(
        "wrong",
        [
            {"aud": "other"},
            {"sid": "x"},
            {"sid": None},
            {"sid": 999_999},
            {"sid": -1},
            {"sid": 10**30},
            {"exp": "never"},
        ],
    )
    def test_needs_right_claims(self, still_world: World, wrong: dict[str, Any]) -> None:
        claims = self.claims(still_world) | wrong
        assert status_of_me(still_world, jwt.encode(claims, SECRET_KEY, algorithm="HS256")) == 401

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Basic YTpi", "bearer x y", "Token x", "Bearer kw_", "Bearer kw_unknown"]
    )
    def test_needs_a_bearer(self, still_world: World, header: str) -> None:
        for path in ("/me", "/device-kinds", "/sites"):
            assert still_world.http().get(path, headers={"Authorization": header}).status_code == 401


class TestRefresh:
    def test_gives_new_tokens_for_the_same_user(self, world: World) -> None:
        first = tokens_of(world, world.standard)
        world.clock.advance(days=29)
        second = refresh(world, first["refresh_token"]).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert world.http(second["access_token"]).get("/me").json()["id"] == world.standard.id

    def test_takes_the_form_that_oauth2_has_for_it(self, world: World) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": tokens_of(world, world.standard)["refresh_token"]}
        answer = world.anonymous.post("/auth/refresh", data=form | {"client_id": "some app"})
        assert status_of_me(world, answer.json()["access_token"]) == 200

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            ({"data": {"grant_type": "password", "refresh_token": "x"}}, 422),
            ({"data": {"grant_type": "refresh_token"}}, 422),
            ({"json": {"refresh_token": 1}}, 422),
            ({"json": []}, 422),
            ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
            ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
            ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
            ({}, 415),
        ],
    )
    def test_refuses_what_names_no_refresh_token(self, still_world: World, sent: dict[str, Any], status: int) -> None:
        answer = still_world.anonymous.http.post("/auth/refresh", **sent)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"

    def test_refuses_one_that_has_expired(self, world: World) -> None:
        tokens = tokens_of(world, world.standard)
        world.clock.advance(days=30)
        assert refresh(world, tokens["refresh_token"]).status_code == 401

    def test_refuses_one_that_we_never_made(self, world: World) -> None:
        for token in ("x", tokens_of(world, world.standard)["access_token"][:200]):
            assert refresh(world, token).status_code == 401

    def test_ends_the_whole_family_when_one_is_used_again(self, world: World) -> None:
        first = tokens_of(world, world.standard)
        second = refresh(world, first["refresh_token"]).json()
        third = refresh(world, second["refresh_token"]).json()
        assert status_of_me(world, third["access_token"]) == 200

        assert refresh(world, first["refresh_token"]).status_code == 401
        assert [status_of_me(world, tokens["access_token"]) for tokens in (first, second, third)] == [401] * 3
        assert refresh(world, third["refresh_token"]).status_code == 401

    def test_leaves_the_users_other_sign_ins_alone_then(self, world: World) -> None:
        stolen, other = tokens_of(world, world.standard), tokens_of(world, world.standard)
        refresh(world, stolen["refresh_token"])
        refresh(world, stolen["refresh_token"])
        assert status_of_me(world, other["access_token"]) == 200

    def test_gives_tokens_to_one_of_two_at_the_same_moment(self, world: World) -> None:
        token = tokens_of(world, world.standard)["refresh_token"]
        body = {"refresh_token": token}
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: world.client.post("/api/v1/auth/refresh", json=body), range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 401]


class TestSignOut:
    def test_ends_the_sign_in_at_once(self, world: World) -> None:
        tokens = tokens_of(world, world.standard)
        assert world.http(tokens["access_token"]).post("/auth/logout").status_code == 204
        assert status_of_me(world, tokens["access_token"]) == 401
        assert refresh(world, tokens["refresh_token"]).status_code == 401

    def test_ends_that_one_alone(self, world: World) -> None:
        tokens = tokens_of(world, world.standard)
        world.http(tokens["access_token"]).post("/auth/logout")
        assert world.standard.get("/me").status_code == 200


class TestWhatIsStored:
    def test_neither_passwords_nor_tokens_nor_keys_can_be_read_from_the_tables(self, world: World) -> None:
        tokens = tokens_of(world, world.standard)
        refreshed = refresh(world, tokens["refresh_token"]).json()
        key = world.standard.post("/me/api-keys", {"name": "k"}).json()["key"]
        repeated = world.standard.post("/me/api-keys", {"name": "r"}, headers={"Idempotency-Key": "once"}).json()["key"]
        with world.services.database.read() as connection:
            tables = ("users", "sign_ins", "refresh_tokens", "api_keys", "sign_in_attempts", "idempotency_keys")
            stored = "".join(
                str([bytes(v) if isinstance(v, memoryview) else v for v in row])
                for table in tables
                for row in connection.execute(text(f"SELECT * FROM {table}"))
            )
            hashes = list(connection.execute(text("SELECT password_hash FROM users")).scalars())
        for secret in (
            world.standard.password,
            tokens["access_token"],
            tokens["refresh_token"],
            refreshed["refresh_token"],
            key,
            key.removeprefix("kw_"),
            repeated,
            repeated.removeprefix("kw_"),
        ):
            assert secret not in stored
        assert key[:9] in stored  # the prefix that the list shows: the look is not in vain
        assert all(password_hash.startswith("$argon2id$") for password_hash in hashes)

    def test_expired_sign_ins_are_forgotten(self, world: World) -> None:
        tokens_of(world, world.standard)
        world.clock.advance(days=31)
        tokens_of(world, world.standard)
        with world.services.database.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM sign_ins")).scalar() == 1
            assert connection.execute(text("SELECT count(*) FROM refresh_tokens")).scalar() == 1

    def test_a_real_password_hash_costs_what_owasp_asks(self) -> None:
        # the tests' own hasher is a quick one, so the source's setting is looked at
        from importlib import util

        spec = util.find_spec("kilowatch.auth.secrets")
        assert spec is not None
        assert spec.loader is not None
        fresh = util.module_from_spec(spec)
        spec.loader.exec_module(fresh)
        hasher = fresh._hasher
        assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (19 * 1024, 2, 1)
        assert hasher.type.name == "ID"


def test_the_clock_of_the_window_is_the_one_the_retry_after_speaks_of(world: World) -> None:
    for _ in range(10):
        try_password(world, world.standard.email, "wrong")
    wait = int(try_password(world, world.standard.email, "wrong").headers["retry-after"])
    world.clock.now += timedelta(seconds=wait + 1)
    assert try_password(world, world.standard.email, world.standard.password).status_code == 200
