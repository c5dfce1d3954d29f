"""What a stream is told by whoever opens it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kilowatch.auth.model import Credential
from kilowatch.history.model import LatestReading


@dataclass(frozen=True, slots=True)
class Sight:
    """What a stream shows: the metrics that may be read, and those that belong to it but may not."""

    metric_ids: tuple[int, ...]
    unavailable: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """Why a stream ends: a word for programs, and a sentence."""

    reason: str
    detail: str


SHUTDOWN = End("shutdown", "The server stops; connect again in a moment.")
NOTHING_LEFT = End("no_metrics", "None of its metrics may be read any more.")
UNSURE = End("unavailable", "It can't be looked up whether this may still be read; connect again in a moment.")


Shown = int | tuple[int, ...]
"""What a stream is of: a subscription's id, or the ids of metrics that are in none."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a stream shows, to whom, and when that which it was opened with expires: an API key, a browser's session."""

    caller: Credential
    shown: Shown
    user_id: int
    expires_at: datetime | None = None


class Showing(Protocol):
    """Says what streams may show. Both calls may take a while, and raise `KilowatchError`."""

    def look_at(self, sources: Sequence[Source]) -> list[Sight | End]:
        """What each may show at this moment."""

    def latest_of(self, source: Source) -> Sequence[LatestReading]:
        """The newest reading of each of its metrics, nulls for those that may not be read."""
