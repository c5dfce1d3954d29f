"""Has old readings folded as time goes on, in the background of one of the processes."""

import threading
import time

import structlog

from kilowatch.errors import Unavailable
from kilowatch.history.folding import WAIT, Folding
from kilowatch.kit.leadership import Leadership

log = structlog.get_logger("kilowatch.history")


class Folder:
    """A thread that looks every ten minutes what is due, in the one process of several that leads."""

    def __init__(self, folding: Folding, leadership: Leadership) -> None:
        self._folding = folding
        self._leadership = leadership
        self._done_at: float | None = None
        self.problem: str | None = None
        """Why nothing was folded when it was last looked."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history-folder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the step that is being done, then stop."""
        self._stopping.set()
        self._thread.join()
        self._leadership.close()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def last_done_s(self) -> float | None:
        """Seconds since it last looked with success; `None` if it never did."""
        return None if self._done_at is None else time.monotonic() - self._done_at

    def _run(self) -> None:
        while not self._stopping.wait(WAIT.total_seconds()):
            try:
                if self._leadership.is_held():
                    self._folding.tick(stop=self._stopping.is_set)
                self._done_at, self.problem = time.monotonic(), None
            except Unavailable as error:
                self.problem = error.detail
                log.warning("old readings wait to be folded for a store", reason=error.detail)
            except Exception as error:  # without this thread nothing would be folded again
                self.problem = type(error).__name__
                log.exception("old readings could not be folded")
