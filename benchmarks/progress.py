"""What is going on, on standard error: a line that counts in a terminal, else one line every ten seconds."""

import sys
import time

_EVERY_S = 10


class Progress:
    """One piece of work."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._in_place = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        if now - self._shown < (0.2 if self._in_place else _EVERY_S):
            return
        self._shown = now
        share = f"{done / total:4.0%}" if total else ""
        line = f"  {self._what}: {share} after {now - self._began:.0f} s"
        print(
            f"\r\x1b[K{line}" if self._in_place else line,
            end="" if self._in_place else "\n",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_place:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
