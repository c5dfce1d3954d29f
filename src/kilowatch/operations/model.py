"""What there is to know of a running installation."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from kilowatch.auth.model import Population
from kilowatch.facility.model import Extent
from kilowatch.webhooks.model import Backlog

Engine = Literal["sqlite", "postgresql", "chdb", "clickhouse"]


class StoreHealth(msgspec.Struct, frozen=True):
    """Whether a store answered just now."""

    engine: Engine
    answers: bool
    ms: Annotated[float, msgspec.Meta(description="How long it took to answer, or until it was given up.")]
    version: str | None
    problem: Annotated[str | None, msgspec.Meta(description="Why there was no answer.")]


class Amounts(msgspec.Struct, frozen=True):
    """How much the catalogue's database holds."""

    people: Population
    facility: Extent
    subscriptions: int
    webhooks: Backlog


class Disk(msgspec.Struct, frozen=True):
    """The file system that the data directory is on, in bytes."""

    data_bytes: Annotated[int, msgspec.Meta(description="Of all files in the data directory.")]
    free_bytes: int
    total_bytes: int


class StreamsOpen(msgspec.Struct, frozen=True):
    """Streams of this process, and how many it allows."""

    open: int
    users: int
    most: int
    most_per_user: int


class SimulationKept(msgspec.Struct, frozen=True):
    """Whether simulated devices report as time goes on, in this process."""

    running: bool
    last_done_s: Annotated[float | None, msgspec.Meta(description="Seconds since it last looked what was due.")]
    problem: str | None


class Overview(msgspec.Struct, frozen=True):
    """How the installation is doing. Null: that could not be found out now."""

    at: datetime
    version: str
    python: str
    started_at: datetime
    database: StoreHealth
    history: StoreHealth
    amounts: Amounts | None
    disk: Disk | None
    streams: StreamsOpen
    simulation: SimulationKept
    posts_webhooks: Annotated[bool, msgspec.Meta(description="Whether this process posts to webhooks.")]

    @property
    def is_well(self) -> bool:
        """Whether both stores answered."""
        return self.database.answers and self.history.answers
