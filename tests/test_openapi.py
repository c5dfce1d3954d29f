"""The OpenAPI document: it is the committed one, complete, valid, and shown by a page that loads nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from kilowatch.app import create_app
from kilowatch.config import Settings
from tests.conftest import World

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "POST /api/v1/auth/token",
    "POST /api/v1/auth/refresh",
    "GET /health/live",
    "GET /health/ready",
}
INFLUX = {"POST /api/v2/write", "POST /write"}
"""These say what is wrong as InfluxDB does; but for what is refused before anyone looks at the address."""
DOCUMENT: dict[str, Any] = create_app(Settings(data_dir=Path("unused"))).openapi()
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": described
    for path, item in DOCUMENT["paths"].items()
    for method, described in item.items()
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def test_the_committed_document_is_the_generated_one() -> None:
    committed = json.loads((ROOT / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(DOCUMENT)), "run `make openapi` and commit openapi.json"


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_every_schema_is_valid_json_schema_2020_12() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
        assert name


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for value in part.values() for found in references(value)]
    return [found for item in part for found in references(item)] if isinstance(part, list) else []


def test_limits_are_told_in_words_of_json_schema() -> None:
    """And not in pydantic's own, which it leaves where it does not know better: no client would see them."""
    assert re.findall(r'"(?:gt|ge|lt|le|multiple_of|min_length|max_length)":', json.dumps(DOCUMENT)) == []


def test_every_reference_leads_somewhere() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    used = set(references(DOCUMENT))
    assert used <= known
    assert used


def test_operation_ids_are_unique() -> None:
    ids = [described["operationId"] for described in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


@each_operation
def test_has_a_summary_and_a_known_tag(operation: str) -> None:
    described = OPERATIONS[operation]
    assert described["summary"]
    assert set(described["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    assert described["tags"]


@each_operation
def test_is_secured_or_knowingly_public(operation: str) -> None:
    schemes = {scheme for way in OPERATIONS[operation].get("security", ()) for scheme in way}
    expected = set() if operation in PUBLIC else {"password", "api_key"}
    if operation not in PUBLIC | INFLUX:
        expected |= {"session"} if operation.startswith("GET ") else {"session", "form_token"}
    assert schemes == expected
    assert schemes <= set(DOCUMENT["components"]["securitySchemes"])


@each_operation
def test_says_how_it_can_fail(operation: str) -> None:
    method, path = operation.split(" ")
    described = OPERATIONS[operation]
    expected = {"503"}
    if operation not in PUBLIC:
        expected |= {"401", "403"}
    if "{" in path:
        expected |= {"404", "422"}
    if "requestBody" in described:
        expected |= {"400", "413", "415", "422"}
    assert expected <= set(described["responses"]), method
    for status, response in described["responses"].items():
        if operation in INFLUX and int(status) >= 400:
            ours = {"application/problem+json"} if status == "413" else set()
            assert set(response["content"]) == {"application/json"} | ours
        elif int(status) >= 400:
            assert set(response["content"]) == {"application/problem+json"}
            assert response["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}


@each_operation
def test_gives_examples_that_fit_their_schemas(operation: str) -> None:
    described = OPERATIONS[operation]
    bodies = {} if "requestBody" not in described else described["requestBody"]["content"]
    answers = {
        media: content
        for status, response in described["responses"].items()
        if int(status) < 300
        for media, content in response.get("content", {}).items()
    }
    for media, content in [*bodies.items(), *answers.items()]:
        if media != "application/json":
            continue
        schema = content["schema"]
        name = schema.get("$ref", "").rpartition("/")[2]
        component = DOCUMENT["components"]["schemas"].get(name, {})
        examples = [content[key] for key in ("example",) if key in content]
        examples += [example["value"] for example in content.get("examples", {}).values()]
        examples += [component[key] for key in ("example",) if key in component]
        assert examples, f"{operation} has no example of {media}"
        validator = jsonschema_rs.validator_for(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": DOCUMENT["components"], **schema}
        )
        for example in examples:
            validator.validate(example)


class TestBrowsableDescription:
    def test_loads_nothing_from_elsewhere(self, world: World) -> None:
        page = world.client.get("/api/docs")
        assert page.status_code == 200
        assert re.findall(r"""(?:https?:)?//[\w.-]+""", page.text) == []
        loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
        assert len(loaded) >= 2
        for address in loaded:
            assert address.startswith("/api/docs/static/")
            assert world.client.get(address).status_code == 200

    def test_shows_the_document(self, world: World) -> None:
        assert "/api/v1/openapi.json" in world.client.get("/api/docs").text
        assert world.client.get("/api/v1/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
