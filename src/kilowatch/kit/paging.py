"""Lists are pages: ordered by id, continued by an opaque cursor, so that no row is skipped or shown twice."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from kilowatch.errors import invalid, said
from kilowatch.kit.text import MAX_ID

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
_MAX_NUMBER = 2**53


class PageRequest(msgspec.Struct, frozen=True):
    limit: int = DEFAULT_LIMIT
    after_id: int = 0


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list, and the cursor of the next one (null at the end)."""

    items: list[T]
    next: str | None


def page_request(limit: int, cursor: str | None) -> PageRequest:
    return PageRequest(limit=limit, after_id=decode_cursor(cursor, parts=1)[0] if cursor else 0)


def page_of(rows: Sequence[T], request: PageRequest, *, id_of: Callable[[T], int]) -> Page[T]:
    """A page from rows of which one more than the limit was asked."""
    items = list(rows[: request.limit])
    return Page(items, encode_cursor(id_of(items[-1])) if len(rows) > request.limit else None)


def encode_cursor(*numbers: int) -> str:
    return base64.urlsafe_b64encode(":".join(map(str, numbers)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *, parts: int) -> tuple[int, ...]:
    """The numbers in a cursor. Raises `Invalid` for anything that `encode_cursor` did not make."""
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        numbers = tuple(int(part) for part in text.split(":"))
    except (ValueError, binascii.Error):
        numbers = ()
    in_range = all(0 <= number <= _MAX_NUMBER for number in numbers)
    if len(numbers) != parts or not in_range or numbers[0] > MAX_ID or encode_cursor(*numbers) != cursor:
        raise invalid(
            "cursor", said("Not a cursor of this list; take it from `next` of the page before."), place="query"
        )
    return numbers
