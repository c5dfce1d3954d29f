"""The one place that wires the rooms together: services from settings, over the two stores.

Nothing here knows of HTTP coming in, so that a command starts without what only a server needs.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from kilowatch import migrations
from kilowatch.auth.service import Accounts, Gate, SignIns
from kilowatch.balance.portfolio import Portfolio
from kilowatch.balance.service import Balances
from kilowatch.config import Settings, prepare_data_dir, secret_key
from kilowatch.errors import Unavailable
from kilowatch.facility.service import Catalogue
from kilowatch.history.engine import EngineInUse
from kilowatch.history.folder import folder
from kilowatch.history.folding import Folding
from kilowatch.history.service import Histories
from kilowatch.history.spans import Spans
from kilowatch.history.store import HistoryStore
from kilowatch.ingest.service import Appending, Intake
from kilowatch.kit.chores import Chore
from kilowatch.kit.db import Database
from kilowatch.kit.lanes import Lane
from kilowatch.kit.leadership import Leadership
from kilowatch.live.feed import Feed
from kilowatch.live.streams import Limits, Streams
from kilowatch.operations.service import Operations
from kilowatch.simulation.keeper import keeper
from kilowatch.simulation.service import Simulation
from kilowatch.subscriptions.service import Subscriptions
from kilowatch.webhooks import sender as webhook_sender
from kilowatch.webhooks.addresses import Addresses
from kilowatch.webhooks.deliveries import Deliveries
from kilowatch.webhooks.sender import News
from kilowatch.webhooks.service import Webhooks

Clock = Callable[[], datetime]

THREADS = {
    "ingest": 16,
    "password": 2,
    "deletion": 2,
    "health": 2,
    "operations": 8,
    "webhook": 4,
}
"""For calls that block, by what they are for, besides those that settings say."""

_LIVE_THREADS = 2
_LOOK_WITHIN_S = 2.5
"""Then nobody knows who may go on listening."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Kilowatch:
    """All services, over open stores. The command line uses them as the web application does."""

    def __init__(self, settings: Settings, *, clock: Clock = utc_now, with_history: bool = True) -> None:
        """Open the stores and bring their schemas up to date.

        Raises:
            Invalid: a setting can't be used; the message names it.
            Unavailable: a store does not answer, or another process has the embedded history open.
        """
        prepare_data_dir(settings)
        signing_key = secret_key(settings)
        # one connection for each thread that may ask at once
        threads = (
            2 * settings.threads
            + settings.history_threads
            + sum(THREADS.values())
            + THREADS["deletion"]  # alone meanwhile
            + _LIVE_THREADS
            + 2  # the keeper of simulated devices, and the one thread that stores readings
            + 2  # the folder of old readings, which is alone meanwhile
            + webhook_sender.THREADS
        )
        self.database = Database(
            settings.resolved_database_url, pool_size=threads, replica_url=settings.database_replica_url
        )
        try:
            with _naming("KILOWATCH_DATABASE_URL"):
                migrations.upgrade(self.database)
            with _naming("KILOWATCH_HISTORY_URL"):
                self.history = open_history(settings, self.database, clock=clock) if with_history else None
        except BaseException:
            self.database.close()
            raise
        store: Any = self.history or _NoHistory()
        self._settings, self.now = settings, clock
        self._gate = gate = Gate(self.database, settings, clock)
        self.sign_ins = SignIns(self.database, gate, settings, signing_key, clock)
        self.accounts = Accounts(gate, settings, signing_key)
        self.simulation = Simulation(self.database, store, clock)
        self.catalogue = Catalogue(
            self.database,
            gate,
            store,
            clock,
            simulation=self.simulation,
            least_raw_days=settings.stream_kept_days,
        )
        self.histories = Histories(gate, store, clock, self.simulation)
        self.balances = Balances(gate, self.histories, clock)
        self.portfolio = Portfolio(gate, self.balances)
        self.intake = self.intake_into(store)
        self.feed = Feed(store)
        self.subscriptions = Subscriptions(gate, self.histories)
        self.webhook_addresses = Addresses(private=settings.webhook_private_addresses)
        self.webhook_news = News()
        self.webhooks = Webhooks(
            gate, self.feed, self.webhook_addresses, signing_key=signing_key, changed=self.webhook_news.changed
        )
        self.deliveries = Deliveries(
            self.database,
            self.feed,
            clock,
            signing_key=signing_key,
            kept_for=timedelta(days=settings.stream_kept_days),
        )
        self.operations = Operations(gate, self.database, store, settings, clock)
        if with_history:
            self.feed.listen(self.webhook_news)
            self.catalogue.finish_erasures()

    def intake_into(self, history: Appending) -> Intake:
        """An intake that appends elsewhere: the command line's own way to the history."""
        return Intake(self._gate, history, self._settings)

    def streams(self) -> Streams:
        """Where streams are served from: in the event loop that this is called in."""
        settings = self._settings
        limits = Limits(
            streams=settings.streams,
            per_user=settings.streams_per_user,
            stall_s=settings.stream_stall_s,
            kept=timedelta(days=settings.stream_kept_days),
        )
        return Streams(
            self.feed,
            self.subscriptions,
            limits,
            clock=self.now,
            stamp=self._gate.stamp,
            look=Lane(1).within(_LOOK_WITHIN_S),
            read=Lane(_LIVE_THREADS).run,
        )

    def keeper(self) -> Chore:
        """Has simulated devices report, in one of the processes at this database."""
        return keeper(self.simulation, Leadership(self.database, "simulation"))

    def folding(self, *, elapsed: Callable[[], float] = time.monotonic) -> Folding:
        """Folds old readings. There is a history."""
        assert self.history is not None
        kept_for = timedelta(days=self._settings.stream_kept_days)
        return Folding(
            self.database, self.history, self.now, elapsed=elapsed, making=self.simulation, kept_for=kept_for
        )

    def folder(self) -> Chore:
        """Has old readings folded, in one of the processes at this database."""
        return folder(self.folding(), self.catalogue.finish_erasures, Leadership(self.database, "folding"))

    def close(self) -> None:
        if self.history is not None:
            self.history.close()
        self.database.close()

    def __enter__(self) -> "Kilowatch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_history(
    settings: Settings, database: Database | None, *, clock: Clock = utc_now, migrate: bool = True
) -> HistoryStore:
    """The history that the settings name. Raises `Invalid` or `Unavailable`, saying what to do.

    Args:
        database: where processes take turns that store in the same history. `None`: this one stores nothing.
    """
    is_shared = database is not None and not database.is_sqlite and not settings.resolved_history_url.startswith("chdb")
    return HistoryStore(
        settings.resolved_history_url,
        connections=settings.history_threads + _LIVE_THREADS,
        sync=settings.history_sync,
        memory_bytes=settings.history_memory_bytes,
        clock=clock,
        migrate=migrate,
        shared_by=database if is_shared else None,
    )


@contextlib.contextmanager
def _naming(setting: str) -> Iterator[None]:
    """A store that does not answer when it is opened may be named wrongly."""
    try:
        yield
    except Unavailable as error:
        if setting in error.detail:
            raise
        raise Unavailable(f"{error.detail} Is {setting} right?") from error


class _NoHistory:
    """Stands in for the history where a command does not need it, so that it can run beside a server."""

    def count(self, _metric_ids: Sequence[int] = ()) -> NoReturn:
        raise Unavailable("This command runs without the history.")

    erase = submit = append = backfill = latest = compare = stored_in_window = erase_window = are_folded = count
    listen = arrived_until = told_until = arrivals = check = version = count
    spans = Spans(0)


def refuse_history_in_use(settings: Settings) -> None:
    """Raises `EngineInUse` if another process has the embedded history open.

    The engine finds that out too, but writes a line of its own to standard error first.
    """
    url = urlsplit(settings.resolved_history_url)
    if url.scheme != "chdb":
        return
    path = unquote(url.path)
    with contextlib.suppress(FileNotFoundError), (Path(path) / "status").open("rb") as status:
        try:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineInUse(path) from None
