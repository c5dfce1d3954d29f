"""Makes the newest readings of simulated devices as time goes on, so that they arrive like those of real ones."""

import threading
from typing import Protocol

import structlog

from kilowatch.errors import Unavailable

log = structlog.get_logger("kilowatch.simulation")

_EVERY_S = 1.0


class Ticking(Protocol):
    def tick(self) -> None: ...


class Keeper:
    """A thread that looks every second what is due."""

    def __init__(self, simulation: Ticking) -> None:
        self._simulation = simulation
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulation-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what is being made, then stop."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            try:
                self._simulation.tick()
            except Unavailable as error:
                log.warning("simulated devices wait for a store", reason=error.detail)
            except Exception:  # nobody waits for it; but without this thread no simulated device would report again
                log.exception("simulated devices could not report")
