"""Has old readings folded as time goes on, in the background of one of the processes."""

import structlog

from kilowatch.history.folding import WAIT, Folding
from kilowatch.kit.chores import Chore
from kilowatch.kit.leadership import Leadership

log = structlog.get_logger("kilowatch.history")


def folder(folding: Folding, leadership: Leadership) -> Chore:
    """Looks every ten minutes what is due."""
    return Chore(
        lambda stop: folding.tick(stop=stop),
        leadership,
        name="history-folder",
        every_s=WAIT.total_seconds(),
        log=log,
        waits="old readings wait to be folded for a store",
        fails="old readings could not be folded",
        leads=folding.lead,
    )
