"""Makes the newest readings of simulated devices as time goes on, so that they arrive like those of real ones."""

import threading
import time
from typing import Protocol

import structlog

from kilowatch.errors import Unavailable
from kilowatch.kit import metrics
from kilowatch.kit.leadership import Leadership

log = structlog.get_logger("kilowatch.simulation")

_EVERY_S = 1.0


class Ticking(Protocol):
    def tick(self) -> None: ...


class Keeper:
    """A thread that looks every second what is due, in the one process of several that leads."""

    def __init__(self, simulation: Ticking, leadership: Leadership) -> None:
        self._simulation = simulation
        self._leadership = leadership
        self._done_at: float | None = None
        self.problem: str | None = None
        """Why simulated devices did not report when it was last looked."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulation-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what is being made, then stop."""
        self._stopping.set()
        self._thread.join()
        metrics.SIMULATION_LEADER.set(0)
        self._leadership.close()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def last_done_s(self) -> float | None:
        """Seconds since it last looked with success; `None` if it never did."""
        return None if self._done_at is None else time.monotonic() - self._done_at

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            try:
                leads = self._leadership.is_held()
                metrics.SIMULATION_LEADER.set(leads)
                if leads:
                    self._simulation.tick()
                self._done_at, self.problem = time.monotonic(), None
            except Unavailable as error:
                self.problem = error.detail
                log.warning("simulated devices wait for a store", reason=error.detail)
            except Exception as error:  # without this thread no simulated device would report again
                self.problem = type(error).__name__
                log.exception("simulated devices could not report")
