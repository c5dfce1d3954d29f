"""Standard input, kept from a library that helps itself to it."""

import os
import sys
from functools import cache


@cache
def keep_standard_input() -> None:
    """Put nothing at descriptor 0, and what was there to another one, where `sys.stdin` reads it.

    To be called before chDB opens: it takes what it finds at descriptor 0 for rows of any statement that inserts, and
    makes it non-blocking meanwhile (https://github.com/chdb-io/chdb-core/issues/239).
    """
    ours = sys.__stdin__
    if ours is None or ours.closed:  # descriptor 0 is nothing, or another file
        return
    if sys.stdin is ours:
        sys.stdin = os.fdopen(os.dup(ours.fileno()), encoding=ours.encoding, errors=ours.errors, closefd=False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, ours.fileno())
    os.close(nothing)
