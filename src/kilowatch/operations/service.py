"""Finds out how the installation is doing, a part at a time: each may take long, or fail, on its own."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from kilowatch.auth import service as auth
from kilowatch.auth.rights import require_admin
from kilowatch.auth.service import Caller, Gate
from kilowatch.config import Settings
from kilowatch.facility import service as facility
from kilowatch.kit.db import Database
from kilowatch.operations.model import Amounts, Disk, Engine
from kilowatch.subscriptions import service as subscriptions
from kilowatch.webhooks import service as webhooks


class Store(Protocol):
    """What is asked of the history."""

    def check(self) -> None: ...

    def version(self) -> str: ...


class Operations:
    """Nobody's rights are asked but by `allow`, which comes first."""

    def __init__(
        self,
        gate: Gate,
        database: Database,
        history: Store,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._gate, self._database, self._history, self._settings = gate, database, history, settings
        self._idle = timedelta(hours=settings.session_idle_hours)
        self.now = clock
        self.started_at = clock()
        self.database_engine: Engine = "sqlite" if database.is_sqlite else "postgresql"
        is_embedded = settings.resolved_history_url.startswith("chdb:")
        self.history_engine: Engine = "chdb" if is_embedded else "clickhouse"
        self.posts_webhooks = settings.webhook_requests > 0

    def allow(self, caller: Caller) -> None:
        """Raises `Forbidden` for everyone but administrators."""
        with self._gate.reading(caller) as work:
            require_admin(work.who)

    def ask_database(self) -> str:
        """Its version. Raises `Unavailable` if it does not answer."""
        return self._database.version()

    def ask_history(self) -> str:
        """Its version. Raises `Unavailable` if it does not answer."""
        self._history.check()
        return self._history.version()

    def amounts(self) -> Amounts:
        now = self.now()
        with self._database.read() as connection:
            return Amounts(
                auth.population(connection, now, idle=self._idle),
                facility.extent(connection),
                subscriptions.count(connection),
                webhooks.backlog(connection),
            )

    def disk(self) -> Disk:
        """Raises `OSError` if the data directory can't be read."""
        usage = shutil.disk_usage(self._settings.data_dir)
        return Disk(_size_of(self._settings.data_dir), usage.free, usage.total)


def _size_of(folder: Path) -> int:
    """Bytes of the files below; those that go meanwhile are not counted."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(path) / name).lstat().st_size
            except FileNotFoundError:  # engines write new files and drop old ones all the time
                continue
    return size
