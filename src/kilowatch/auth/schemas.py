"""What requests about users, sign-ins and keys may say."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from kilowatch.auth.model import ALL_SCOPES, Role, Scope
from kilowatch.kit.schemas import Body
from kilowatch.kit.text import MAX_ID, Flag, Name, Time, number_only


def _caseless(value: object) -> object:
    # before the length is checked, since folding can make it longer
    return value.casefold() if isinstance(value, str) else value


Email = Annotated[
    str,
    BeforeValidator(_caseless),
    StringConstraints(
        strip_whitespace=True,
        max_length=254,
        pattern=r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+\.[^@\s\x00-\x1f\x7f]+$",
    ),
]
Password = Annotated[str, StringConstraints(min_length=8, max_length=200)]


class UserIn(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "email": "ada@example.org",
                "name": "Ada",
                "password": "correct horse battery",
                "is_admin": False,
            }
        }
    )
    email: Email
    name: Name
    password: Password
    is_admin: Flag = False


class UserChange(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "Ada L."}})
    email: Email = Field(default="")
    name: Name = Field(default="")
    password: Password = Field(default="")
    is_admin: Flag = False


class GrantIn(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"role": "technician"}})
    role: Role


class ApiKeyIn(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "Gateway", "scopes": ["ingest"], "site_id": 1}})
    name: Name
    scopes: list[Scope] = Field(
        default_factory=lambda: sorted(ALL_SCOPES),
        min_length=1,
        max_length=3,
        description="`read` looks, `write` changes the catalogue, `ingest` sends readings.",
    )
    site_id: Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(number_only)] | None = Field(
        None, description="Only this site, if given."
    )
    expires_at: Time | None = None


class RefreshIn(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"refresh_token": "…"}})
    refresh_token: str = Field(min_length=1, max_length=200)
    grant_type: Literal["refresh_token"] = "refresh_token"
