"""What was looked up in the catalogue, kept for as long as nothing has been committed to it since.

And the way to answer from memory alone: a call inside of `alone()` that turns out to need a store is broken off by
`NotKept` before it reaches one, and is then made again where it may wait.
"""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from kilowatch.kit.paging import Page

_MOST_ITEMS = 200_000
"""Items of all kept questions and answers together (a metric with its names has some 400 bytes)."""


_here = threading.local()


class NotKept(BaseException):
    """A store has to be asked. No `Exception`, so that nothing takes it for an error of the store's."""


@contextmanager
def alone() -> Iterator[None]:
    """Within, whoever would ask a store raises `NotKept` instead."""
    _here.alone = True
    try:
        yield
    finally:
        _here.alone = False


def leave() -> None:
    """Said by each store before it does anything that may take a while. Raises `NotKept` within `alone()`."""
    if getattr(_here, "alone", False):
        raise NotKept


class Memory:
    """Answers by question, all of one state of the database. Safe to use from any thread.

    The state is named by a stamp that is another one after each commit, of whichever process, so that an answer from
    memory is what the database would say at this moment: a right that was taken away is gone with the next request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamp: Hashable = None
        self._answers: dict[Hashable, Any] = {}
        self._items = 0

    def find(self, stamp: Hashable, question: Hashable) -> Any:
        """The answer that was kept of this state; `None` if there is none."""
        with self._lock:
            return self._answers.get(question) if stamp == self._stamp else None

    def keep(self, stamp: Hashable, question: Hashable, answer: Any) -> None:
        """Keep an answer that was looked up after the stamp was taken."""
        size = _items(question) + _items(answer)  # a question may name many things that are not there
        with self._lock:
            if stamp != self._stamp or self._items + size > _MOST_ITEMS:
                self._stamp, self._answers, self._items = stamp, {}, 0
            if size <= _MOST_ITEMS:
                self._answers[question] = answer
                self._items += size


def _items(answer: Any) -> int:
    if isinstance(answer, tuple):
        return sum(map(_items, answer))
    if isinstance(answer, Page):
        answer = answer.items
    return 1 + len(answer) if isinstance(answer, list | dict) else 1
