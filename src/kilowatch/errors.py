"""What can go wrong, by category. No HTTP in here: `kit.web` alone knows status codes.

KilowatchError
├── Unreadable        the bytes can't be understood at all
├── Invalid           understood, but a value breaks a rule
├── Unauthenticated   we don't know who is asking
├── Forbidden         we know, and they may not
├── NotFound          does not exist for whoever asks
├── Conflict          clashes with what is stored
├── Stale             the caller's version is not the newest
├── TooLarge          more than a limit allows
├── UnknownFormat     the bytes are of a kind that we don't read
├── NotAcceptable     no kind that we write is accepted
├── TooMany           too often
└── Unavailable       a part that we need does not answer now
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Place = Literal["body", "query", "path", "header"]


class Said(str):
    """A message that remembers the text and the values it was made of, so that it can be told in another language.

    The text has its places as `%(name)s`. It is a `str`: who does not care for languages has it in English.
    """

    __slots__ = ("text", "values")
    text: str
    values: Mapping[str, object]

    def __new__(cls, text: str, values: Mapping[str, object]) -> "Said":
        made = super().__new__(cls, text % values if values else text)
        made.text, made.values = text, values
        return made


def said(text: str, **values: object) -> Said:
    """A message to whoever asked. By this name its text is found for those who translate it."""
    return Said(text, values)


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that is wrong: a JSON pointer into the part of the request it came in, and why."""

    pointer: str
    detail: str
    place: Place = "body"


class KilowatchError(Exception):
    """An error that is shown to whoever asked, so `detail` says what to do about it.

    Where people may meet it on a page, `detail` is made by `said`.
    """

    def __init__(self, detail: str, *, faults: tuple[Fault, ...] = (), retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = str(detail)
        self.message = detail
        """The detail as it was made, so that it can be told in another language."""
        self.faults = faults
        self.retry_after_s = retry_after_s


class Unreadable(KilowatchError): ...


class Invalid(KilowatchError): ...


class Unauthenticated(KilowatchError): ...


class Forbidden(KilowatchError): ...


class NotFound(KilowatchError): ...


class Conflict(KilowatchError): ...


class Stale(KilowatchError): ...


class TooLarge(KilowatchError): ...


class UnknownFormat(KilowatchError): ...


class NotAcceptable(KilowatchError): ...


class TooMany(KilowatchError): ...


class Unavailable(KilowatchError): ...


def invalid(pointer: str, detail: str, *, place: Place = "body") -> Invalid:
    """An `Invalid` about a single field; `pointer` is its name or path without the leading slash."""
    return Invalid(detail, faults=(Fault(f"/{pointer}", detail, place),))


def conflict(pointer: str, detail: str) -> Conflict:
    """A `Conflict` about a single field of the body."""
    return Conflict(detail, faults=(Fault(f"/{pointer}", detail),))


class Abandoned(Exception):
    """Whoever asked went away, so the answer is not worked out any further. Shown to nobody."""
