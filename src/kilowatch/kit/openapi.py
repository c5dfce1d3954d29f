"""The OpenAPI document: what routes answer is described from the msgspec structs that they send."""

from collections.abc import Callable
from typing import Any, TypedDict

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from kilowatch.kit.web import PROBLEM_JSON, Problem

_described: set[Any] = {Problem}

_KEPT = "json:"
"""Begins an example that is spelt as text until the document is done: FastAPI drops the nulls inside a real one."""

_PROBLEMS = {
    400: "The request can't be read.",
    401: "Nobody is signed in, or the token or key is not valid any more.",
    403: "The role or the key's scope does not allow it.",
    404: "Does not exist, or is not for the caller to see: the two look the same.",
    406: "None of the formats that the client accepts is written here.",
    409: "Clashes with what is stored.",
    412: "`If-Match` does not name the newest version.",
    413: "The body is larger than the limit.",
    415: "The body's format or compression is not read here.",
    422: "A value breaks a rule; `errors` names each field.",
    429: "Too many attempts; `Retry-After` says when to come back.",
    503: "A part of the service does not answer now; `Retry-After` says when to come back.",
}


class Operation(TypedDict, total=False):
    """What a route decorator is given to describe its operation."""

    responses: dict[int | str, dict[str, Any]]
    status_code: int
    response_model: None


def schema_ref(kind: Any) -> dict[str, Any]:
    """A schema for a msgspec type; its components are added to the document by `install_openapi`."""
    _described.add(kind)
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return schema


def operation(
    kind: Any = None,
    *problems: int,
    status: int = 200,
    example: Any = None,
    description: str = "Done.",
    headers: dict[str, str] | None = None,
    content: dict[str, Any] | None = None,
) -> Operation:
    """Keyword arguments for a route decorator: the answer's type (none: no content), an example, and its problems."""
    success: dict[str, Any] = {"description": description}
    if kind is not None:
        media: dict[str, Any] = {"schema": schema_ref(kind)}
        if example is not None:
            media["example"] = _KEPT + msgspec.json.encode(example).decode()
        success["content"] = {"application/json": media, **(content or {})}
    if headers:
        success["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
        }
    responses: dict[int | str, dict[str, Any]] = {status: success}
    if 413 in problems:  # it takes a body, so the body may be of a wrong kind
        problems = (*problems, 415)
    for code in sorted({*problems, 503}):
        responses[code] = {
            "description": _PROBLEMS[code],
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return Operation(responses=responses, status_code=status, response_model=None)


def install_openapi(app: FastAPI, *, describe: Callable[[dict[str, Any]], None]) -> None:
    """Make `app.openapi()` add our components; `describe` may add to the finished document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                license_info=app.license_info,
            )
            _, components = msgspec.json.schema_components(
                sorted(_described, key=str), ref_template="#/components/schemas/{name}"
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(components)
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            document["components"]["schemas"] = dict(sorted(schemas.items()))
            _restore_examples(document)
            describe(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def _restore_examples(document: dict[str, Any]) -> None:
    for item in document["paths"].values():
        for described in item.values():
            for response in described["responses"].values():
                for media in response.get("content", {}).values():
                    example = media.get("example")
                    if isinstance(example, str) and example.startswith(_KEPT):
                        media["example"] = msgspec.json.decode(example.removeprefix(_KEPT))
