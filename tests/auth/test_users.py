"""Users, and what an administrator may do to them."""

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


ADA = {"email": "ada@example.org", "name": "Ada", "password": "correct horse battery"}


def token_status(world: World, email: str, password: str) -> int:
    return world.anonymous.post("/auth/token", data={"username": email, "password": password}).status_code


class TestCreateUser:
    def test_makes_one_that_can_sign_in(self, world: World) -> None:
        answer = world.admin.post("/users", ADA)
        assert answer.status_code == 201
        user = answer.json()
        assert answer.headers["location"] == f"/api/v1/users/{user['id']}"
        assert set(user) == {"id", "email", "name", "is_admin", "created_at"}
        assert token_status(world, ADA["email"], ADA["password"]) == 200

    def test_folds_the_case_of_the_email(self, world: World) -> None:
        assert world.admin.post("/users", ADA | {"email": " ADA@Example.org "}).json()["email"] == "ada@example.org"

    def test_refuses_a_duplicate_email_in_any_case(self, world: World) -> None:
        world.admin.post("/users", ADA)
        answer = world.admin.post("/users", ADA | {"email": "Ada@example.ORG"})
        assert answer.status_code == 409
        assert answer.json()["errors"][0]["pointer"] == "#/email"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("email", "no-address"),
            ("email", "a b@example.org"),
            ("email", "a@example"),
            ("email", "a\x00@example.org"),
            ("email", "ß" * 200 + "@example.org"),  # grows beyond the column when it is folded
            ("email", None),
            ("name", ""),
            ("name", "   "),
            ("name", "a\x00b"),
            ("name", "x" * 121),
            ("password", "short"),
            ("password", "x" * 201),
            ("password", None),
            ("is_admin", "yes"),
            ("is_admin", 1),
            ("is_admin", None),
            ("role", "king"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object) -> None:
        answer = still_world.admin.post("/users", ADA | {field: value})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == f"#/{field}"


class TestListUsers:
    def test_finds_by_part_of_name_or_email(self, world: World) -> None:
        world.admin.post("/users", ADA | {"name": "Ägir"})
        for words in ("ägi", "ÄGIR", "ada@"):
            assert [user["email"] for user in world.admin.get("/users", q=words).json()["items"]] == ["ada@example.org"]
        assert world.admin.get("/users", q="%").json()["items"] == []


class TestChangeUser:
    def test_changes_only_what_is_given(self, world: World) -> None:
        before = world.admin.get(f"/users/{world.standard.id}").json()
        after = world.admin.patch(f"/users/{world.standard.id}", {"name": "Renamed"}).json()
        assert after == before | {"name": "Renamed"}

    def test_refuses_an_email_that_is_anothers(self, world: World) -> None:
        answer = world.admin.patch(f"/users/{world.standard.id}", {"email": "ADMIN@example.org"})
        assert answer.status_code == 409
        assert answer.json()["errors"][0]["pointer"] == "#/email"

    def test_lets_a_user_keep_its_own_email(self, world: World) -> None:
        answer = world.admin.patch(f"/users/{world.standard.id}", {"email": world.standard.email})
        assert answer.status_code == 200

    @pytest.mark.parametrize("field", ["email", "name", "password", "is_admin"])
    def test_refuses_null(self, still_world: World, field: str) -> None:
        answer = still_world.admin.patch(f"/users/{still_world.standard.id}", {field: None})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")

    def test_a_new_password_ends_the_users_sign_ins(self, world: World) -> None:
        answer = world.admin.patch(f"/users/{world.standard.id}", {"password": "another password"})
        assert answer.status_code == 200
        assert world.standard.get("/me").status_code == 401
        assert token_status(world, world.standard.email, world.standard.password) == 401
        assert token_status(world, world.standard.email, "another password") == 200
        assert world.technician.get("/me").status_code == 200

    def test_refuses_to_demote_the_last_administrator(self, world: World) -> None:
        answer = world.admin.patch(f"/users/{world.admin.id}", {"is_admin": False})
        assert answer.status_code == 409
        assert world.admin.get("/users").status_code == 200

    def test_demotes_one_of_two(self, world: World) -> None:
        world.person("deputy", is_admin=True)
        assert world.admin.patch(f"/users/{world.admin.id}", {"is_admin": False}).status_code == 200
        assert world.admin.get("/users").status_code == 403
        assert world.deputy.patch(f"/users/{world.deputy.id}", {"is_admin": False}).status_code == 409


class TestDeleteUser:
    def test_takes_sign_ins_keys_grants_and_subscriptions_along(self, world: World) -> None:
        metric = world.metric()
        key = world.technician.post("/me/api-keys", {"name": "k"}).json()["key"]
        world.technician.post("/subscriptions", {"name": "S", "metric_ids": [metric]})
        assert world.admin.delete(f"/users/{world.technician.id}").status_code == 204

        assert world.technician.get("/me").status_code == 401
        assert world.http(key).get("/me").status_code == 401
        assert world.admin.get(f"/users/{world.technician.id}").status_code == 404
        grants = world.admin.get(f"/sites/{world.north}/grants").json()["items"]
        assert [grant["user_id"] for grant in grants] == [world.standard.id]
        from sqlalchemy import text

        with world.services.database.read() as connection:
            for table in ("subscriptions", "subscription_metrics", "api_keys"):
                assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0

    def test_never_uses_the_id_again(self, world: World) -> None:
        first = world.admin.post("/users", ADA).json()["id"]
        world.admin.delete(f"/users/{first}")
        assert world.admin.post("/users", ADA).json()["id"] > first

    def test_refuses_to_delete_the_last_administrator(self, world: World) -> None:
        assert world.admin.delete(f"/users/{world.admin.id}").status_code == 409
        assert world.admin.get("/me").status_code == 200


class TestMe:
    def test_tells_who_one_is_and_ones_roles(self, still_world: World) -> None:
        me = still_world.technician.get("/me").json()
        assert (me["email"], me["is_admin"]) == ("technician@example.org", False)
        assert me["grants"] == [{"user_id": me["id"], "site_id": still_world.north, "role": "technician"}]
        assert still_world.newcomer.get("/me").json()["grants"] == []


class TestGrants:
    def test_putting_one_twice_changes_the_role(self, world: World) -> None:
        path = f"/sites/{world.north}/grants/{world.newcomer.id}"
        for role in ("standard", "technician", "technician"):
            answer = world.admin.put(path, {"role": role})
            assert (answer.status_code, answer.json()["role"]) == (200, role)
        assert len(world.admin.get(f"/sites/{world.north}/grants").json()["items"]) == 3

    def test_refuses_a_role_that_there_is_not(self, still_world: World) -> None:
        answer = still_world.admin.put(f"/sites/{still_world.north}/grants/{still_world.newcomer.id}", {"role": "king"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/role")

    def test_refuses_a_user_that_there_is_not(self, still_world: World) -> None:
        assert (
            still_world.admin.put(f"/sites/{still_world.north}/grants/99999", {"role": "standard"}).status_code == 404
        )

    def test_deleting_one_that_is_not_there_is_told(self, still_world: World) -> None:
        assert (
            still_world.admin.delete(f"/sites/{still_world.north}/grants/{still_world.newcomer.id}").status_code == 404
        )
