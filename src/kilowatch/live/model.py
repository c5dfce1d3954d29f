"""What a stream is told by whoever opens it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

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
NOTHING_LEFT = End("no_metrics", "None of the subscription's metrics may be read any more.")
UNSURE = End("unavailable", "It can't be looked up whether this may still be read; connect again in a moment.")


class Source(Protocol):
    """Says what a stream may show. Both calls may take a while, and raise `KilowatchError`."""

    user_id: int
    expires_at: datetime | None

    def look(self) -> Sight | End:
        """What may be shown at this moment."""

    def latest(self) -> Sequence[LatestReading]:
        """The newest reading of each metric, nulls for those that may not be read."""
