"""What other processes say by PostgreSQL's LISTEN and NOTIFY."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from kilowatch.kit.db import Database

log = structlog.get_logger("kilowatch.notices")

_LOOK_EVERY_S = 0.5
_AGAIN_AFTER_S = 1.0


class Notices:
    """A connection that listens at a channel, in a thread of its own, until it is closed."""

    def __init__(
        self,
        database: Database,
        channel: str,
        *,
        hear: Callable[[str], None],
        connected: Callable[[Connection], None],
    ) -> None:
        """
        Args:
            hear: is given each notice, in the order of the commits that sent them.
            connected: is called before that whenever it listens anew: it may have missed some. Whatever is committed
                after this is heard.
        """
        self._engine = database.listening_engine()
        self._channel, self._hear, self._connected = channel, hear, connected
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notices-{channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            # Whatever it is: without this thread the process would hear of nothing any more.
            except Exception as error:
                log.warning("notices are not heard; listening again", channel=self._channel, reason=str(error))
                self._closing.wait(_AGAIN_AFTER_S)

    def _listen(self) -> None:
        with self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            connection.exec_driver_sql(f'LISTEN "{self._channel}"')
            self._connected(connection)
            while not self._closing.is_set():
                for notice in driver.notifies(timeout=_LOOK_EVERY_S):
                    self._hear(notice.payload)
