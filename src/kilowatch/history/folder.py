"""Has old readings folded as time goes on, in the background of one of the processes."""

from collections.abc import Callable

import structlog

from kilowatch.history.folding import WAIT, Folding
from kilowatch.history.model import Stop
from kilowatch.kit.chores import Chore
from kilowatch.kit.leadership import Leadership

log = structlog.get_logger("kilowatch.history")


def folder(folding: Folding, finish_erasures: Callable[[], None], leadership: Leadership) -> Chore:
    """Looks every ten minutes what is due. What is still to be erased goes before, as it is not folded."""

    def do(stop: Stop) -> None:
        finish_erasures()
        folding.tick(stop=stop)

    return Chore(
        do,
        leadership,
        name="history-folder",
        every_s=WAIT.total_seconds(),
        log=log,
        waits="old readings wait to be folded for a store",
        fails="old readings could not be folded",
        leads=folding.lead,
    )
