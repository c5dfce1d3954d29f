"""HTTP for senders that speak InfluxDB's line protocol: its addresses, its ways to name a token, its errors."""

import base64
import binascii
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from kilowatch import errors
from kilowatch.auth.model import Credential
from kilowatch.auth.service import SignIns
from kilowatch.ingest.line_protocol import OldPrecision, Precision
from kilowatch.ingest.model import Report
from kilowatch.ingest.routes import IngestLane, IntakeService, is_small, settle
from kilowatch.kit.openapi import schema_ref
from kilowatch.kit.web import NO_CONTENT, PROBLEM_JSON

_MOST_TOLD = 10

# InfluxDB's own words for what is wrong.
_REFUSALS: dict[type[errors.KilowatchError], tuple[int, str]] = {
    errors.Unreadable: (400, "invalid"),
    errors.Unauthenticated: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.TooLarge: (413, "request too large"),
    errors.UnknownFormat: (415, "invalid"),
    errors.Invalid: (422, "unprocessable entity"),
    errors.TooMany: (429, "too many requests"),
    errors.Unavailable: (503, "unavailable"),
}


class InfluxError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, as InfluxDB says it."""

    code: str
    message: str
    line: Annotated[int | None, msgspec.Meta(description="The first line that was refused, from 1.")] = None
    error: Annotated[str | None, msgspec.Meta(description="The message again, where InfluxDB 1 has it.")] = None


class InfluxRoute(APIRoute):
    """Says what is wrong in InfluxDB's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_influx(request: Request) -> Response:
            try:
                return await handle(request)
            except errors.KilowatchError as error:
                return _refusal(request, error)
            except RequestValidationError as error:
                return _refusal(request, _invalid(error))

        return handle_influx


router = APIRouter(route_class=InfluxRoute)


def _invalid(error: RequestValidationError) -> errors.KilowatchError:
    wrong = {str(item["loc"][-1]): item["msg"] for item in error.errors()}
    detail = "; ".join(f"{name}: {message}" for name, message in wrong.items())
    return errors.Unreadable(detail) if "precision" in wrong else errors.Invalid(detail)


def _refusal(request: Request, error: errors.KilowatchError, *, line: int | None = None) -> Response:
    status, code = next(_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if status == 401:
        headers["WWW-Authenticate"] = "Token"
    message = error.detail.encode(errors="replace").decode()
    old = message if request.url.path == _OLD_PATH else None
    body = msgspec.json.encode(InfluxError(code, message, line, old))
    return Response(body, status, headers, "application/json")


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _token(request: Request) -> str:
    scheme, _, rest = request.headers.get("authorization", "").strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "basic":
        try:
            rest = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return ""
    if scheme.lower() in ("token", "basic"):
        return rest.rpartition(":")[2]  # behind a user's name, which InfluxDB 1 has there
    return rest if scheme.lower() == "bearer" else ""


async def who_writes(request: Request) -> Credential:
    """The credential of `Authorization: Token`, `Bearer` or `Basic`; whether it still stands is looked up later."""
    return _credential(request, _token(request))


async def who_writes_as_of_old(
    request: Request,
    p: Annotated[str | None, Query(max_length=4000, description="An API key, if no header has it.")] = None,
) -> Credential:
    """As `who_writes`; or of the query's `p`, which is a password to InfluxDB 1."""
    return _credential(request, _token(request) or p or "")


def _credential(request: Request, token: str) -> Credential:
    if not token:
        raise errors.Unauthenticated("unauthorized access: send `Authorization: Token` with an API key.")
    sign_ins: SignIns = request.app.state.sign_ins
    return sign_ins.read_credential(token)


# ── routes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_OLD_PATH = "/write"
_EXAMPLE = "power,site=home,device=roof power=1.5,energy=10i 1767605400000000000\n"


def _described() -> dict[str, Any]:
    """What both routes' decorators are given to describe them."""
    told = {
        400: "Nothing, or not all, was stored: `message` says what was not, and why; `line` is the first of it.",
        401: "The token is missing, or not valid any more.",
        403: "The token's user may only read, or the token has not the scope `ingest`.",
        413: "The body is larger than the limit.",
        415: "The body's compression is not read here.",
        422: "A parameter is too long.",
        503: "A part of the service does not answer now; `Retry-After` says when to come back.",
    }
    problem = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    own = {"application/json": {"schema": schema_ref(InfluxError)}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": own | problem if status == 413 else own}
        for status, description in told.items()
    }
    body = {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}}
    return {
        "status_code": 204,
        "response_model": None,
        "response_description": "All of it is stored.",
        "responses": responses,
        "openapi_extra": {
            "requestBody": {"required": True, "content": body},
            "security": [{"password": []}, {"api_key": []}],
        },
        "tags": ["Readings"],
    }


Ignored = Annotated[str | None, Query(max_length=1000, description="Accepted, and ignored.")]
Encoding = Annotated[str | None, Header(max_length=40, description="`gzip` or `zstd`, if the body is compressed.")]


@router.post("/api/v2/write", summary="Send lines (InfluxDB 2)", **_described())
async def write(
    request: Request,
    intake: IntakeService,
    lane: IngestLane,
    who: Annotated[Credential, Depends(who_writes)],
    precision: Annotated[Precision, Query(description="What the lines' times count.")] = "ns",
    bucket: Ignored = None,  # noqa: ARG001 - a site is named by each line
    org: Ignored = None,  # noqa: ARG001 - as above
    content_encoding: Encoding = None,
) -> Response:
    """InfluxDB's line protocol: the tags `site` and `device` and a field's key name the metric; the measurement means
    nothing. `Authorization: Token` with an API key will do as well as `Bearer`. Good values are stored though others
    are not; the answer is then 400, with `partial write` in its message.
    """
    return await _take(request, intake, lane, who, precision, content_encoding)


@router.post(_OLD_PATH, summary="Send lines (InfluxDB 1)", **_described())
async def write_as_of_old(
    request: Request,
    intake: IntakeService,
    lane: IngestLane,
    who: Annotated[Credential, Depends(who_writes_as_of_old)],
    precision: Annotated[OldPrecision, Query(description="What the lines' times count.")] = "ns",
    db: Ignored = None,  # noqa: ARG001 - a site is named by each line
    rp: Ignored = None,  # noqa: ARG001 - as above
    u: Ignored = None,  # noqa: ARG001 - the API key tells who it is
    content_encoding: Encoding = None,
) -> Response:
    """As `/api/v2/write`, for clients of InfluxDB 1: an API key is also taken as the password, in `p` or by `Basic`."""
    return await _take(request, intake, lane, who, precision, content_encoding)


async def _take(
    request: Request,
    intake: IntakeService,
    lane: IngestLane,
    who: Credential,
    precision: OldPrecision,
    content_encoding: str | None,
) -> Response:
    body = await request.body()
    run = lane.run_quickly if is_small(body, content_encoding=content_encoding) else lane.run
    taking = await run(intake.begin_lines, who, body, precision=precision, content_encoding=content_encoding)
    await settle(intake, lane, taking)
    if taking.report.rejected:
        return _refusal(request, errors.Unreadable(_message(taking.report)), line=taking.report.errors[0].row)
    return NO_CONTENT()


def _message(report: Report) -> str:
    """What clients look for in it (`partial write`, `unable to parse`) tells them that sending it again is no use."""
    kind = "partial write" if report.accepted else "unable to parse"
    told = "; ".join(f"line {error.row}: {error.detail}" for error in report.errors[:_MOST_TOLD])
    more = f"; and {report.rejected - _MOST_TOLD:,} more" if report.rejected > _MOST_TOLD else ""
    return f"{kind}: {report.accepted:,} stored, {report.rejected:,} rejected: {told}{more}"
