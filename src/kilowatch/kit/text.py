"""Types of values that requests bring.

Text is trimmed, bounded, and without control characters (PostgreSQL refuses NUL).
Values of JSON keep their types: `"1"` and `true` are no numbers, `1` is neither a truth value nor a time.
"""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Strict, StringConstraints

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=PRINTABLE)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=PRINTABLE)]
Notes = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[a-z0-9_]+$")]
Search = Annotated[str, StringConstraints(max_length=120, pattern=PRINTABLE)]


def number_only(value: object) -> object:
    if isinstance(value, bool | str | bytes):
        raise ValueError("Input should be a number")
    return value


def day_only(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError("Input should be a date, such as 2024-05-01")
    return value


def _time(value: object) -> object:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[Tt ]", value, re.ASCII):
        raise ValueError("Input should be a time with an offset, such as 2026-01-05T09:30:00Z")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("This time is out of the range of years 1 to 9999 in UTC") from error


Flag = Annotated[bool, Strict()]
# A limit of a type stands before the validator, `Annotated[int, Field(ge=1), BeforeValidator(number_only)]`; behind it
# the JSON Schema would not have the limit, and no form either.
Whole = Annotated[int, BeforeValidator(number_only)]
Number = Annotated[float, BeforeValidator(number_only)]
Time = Annotated[AwareDatetime, BeforeValidator(_time), AfterValidator(_utc)]

MAX_ID = 2**31 - 1


def slug_from(name: str) -> str:
    """A slug made from a name: ASCII letters and digits with hyphens; `""` if the name has none."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60].strip("-")


def name_from(key: str) -> str:
    """A name made from a metric's key: `energy_today` is "Energy today"."""
    return key.replace("_", " ").strip().capitalize() or key


def free_slug(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, … that is not taken."""
    if wanted not in taken:
        return wanted
    number = 2
    stem = wanted[:50].rstrip("-")
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
