"""What is due again and again, done in the background of one of several processes."""

import threading
import time
from collections.abc import Callable
from typing import Any

from kilowatch.errors import Unavailable
from kilowatch.kit.leadership import Leadership


class Chore:
    """A thread that looks every so often what is due, in the one process of several that leads."""

    def __init__(
        self,
        do: Callable[[Callable[[], bool]], None],
        leadership: Leadership,
        *,
        name: str,
        every_s: float,
        log: Any,
        waits: str,
        fails: str,
        leads: Callable[[bool], object] = lambda _is_leading: None,
    ) -> None:
        """
        Args:
            do: what is done at each look; it is given a function that says whether to end soon, to be asked before each
                step: this process ends, or leads no more.
            waits, fails: what the log says while a store does not answer, and of anything else that goes wrong.
            leads: is told whether this process leads, at each look, when that is lost, and at the end.
        """
        self._do, self._leadership, self._every_s = do, leadership, every_s
        self._log, self._waits, self._fails, self._say_leads = log, waits, fails, leads
        self._done_at: float | None = None
        self.problem: str | None = None
        """Why nothing was done when it was last looked."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what is being done, then stop."""
        self._stopping.set()
        self._thread.join()
        self._say_leads(False)
        self._leadership.close()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def last_done_s(self) -> float | None:
        """Seconds since it last looked with success; `None` if it never did."""
        return None if self._done_at is None else time.monotonic() - self._done_at

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                is_leading = self._leadership.is_held()
                self._say_leads(is_leading)
                if is_leading:
                    self._do(self._stop())
                self._done_at, self.problem = time.monotonic(), None
            except Unavailable as error:
                self.problem = error.detail
                self._log.warning(self._waits, reason=error.detail)
            except Exception as error:  # without this thread nothing would be done again
                self.problem = type(error).__name__
                self._log.exception(self._fails)

    def _stop(self) -> Callable[[], bool]:
        """For one look: what was lost once is not taken again before the next."""
        has_ended = False

        def stop() -> bool:
            nonlocal has_ended
            if not has_ended and not self._leadership.is_held():
                has_ended = True
                self._say_leads(False)
            return has_ended or self._stopping.is_set()

        return stop
