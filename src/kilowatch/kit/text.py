"""Types of text that requests bring: trimmed, bounded, and without control characters (PostgreSQL refuses NUL)."""

import re
import unicodedata
from typing import Annotated

from pydantic import StringConstraints

_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=_PRINTABLE)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=_PRINTABLE)]
Notes = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
Slug = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[a-z0-9_]+$")]
Search = Annotated[str, StringConstraints(max_length=120, pattern=_PRINTABLE)]

MAX_ID = 2**31 - 1


def slug_from(name: str) -> str:
    """A slug made from a name: ASCII letters and digits with hyphens; `""` if the name has none."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60].strip("-")


def free_slug(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, … that is not taken."""
    if wanted not in taken:
        return wanted
    number = 2
    while f"{wanted[:50]}-{number}" in taken:
        number += 1
    return f"{wanted[:50]}-{number}"
