"""How far a long command is: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from kilowatch.cli.terminal import err

_LINE_EVERY_S = 5.0


class Meter:
    """Shows what is done of a total (of any unit; `None`: not known), rows a second and the time left."""

    def __init__(self, total: int | None, bar: Progress | None) -> None:
        self._total = total
        self._bar = bar
        self._task = bar.add_task("", total=total, rest="") if bar else None
        self._started = self._last_line = time.monotonic()

    def show(self, what: str, *, done: int, rows: int) -> None:
        """Args:
        what: is under way, such as a file's name.
        done: so far, of the total, by this process.
        rows: done so far by this process.
        """
        now = time.monotonic()
        rest = self._rest(done, rows, now - self._started)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=done, rest=rest)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            share = f"{done / self._total:.0%}, " if self._total else ""
            err.print(f"{what}: {share}{rest}", markup=False)

    def _rest(self, done: int, rows: int, elapsed_s: float) -> str:
        text = f"{rows:,} rows, {rows / max(elapsed_s, 1e-3):,.0f} rows/s"
        if self._total and done:
            left_s = elapsed_s * max(self._total - done, 0) / done
            text += f", {timedelta(seconds=round(left_s))} left"
        return text


@contextmanager
def meter(total: int | None) -> Iterator[Meter]:
    """A meter for as long as the command works."""
    if not err.is_terminal:
        yield Meter(total, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rest]}", markup=False),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        yield Meter(total, bar)
