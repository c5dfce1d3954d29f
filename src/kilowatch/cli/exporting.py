"""`kilowatch export`: history to files."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from kilowatch.cli.terminal import err, opened
from kilowatch.config import load_settings
from kilowatch.errors import Invalid, NotFound

if TYPE_CHECKING:
    from kilowatch.app import Kilowatch
    from kilowatch.history.service import Query


def export(
    start: Annotated[str, typer.Option(help="Begin of the window: RFC 3339 with an offset.")],
    end: Annotated[str, typer.Option(help="End of the window, not part of it.")],
    metric: Annotated[list[str] | None, typer.Option(help="site/device/key or an id; may be given again.")] = None,
    subscription: Annotated[int | None, typer.Option(help="A subscription's id; its owner's rights apply.")] = None,
    resolution: Annotated[str, typer.Option(help="raw, 1h, 1d, …")] = "raw",
    aggregate: Annotated[str | None, typer.Option(help="mean, energy, delta, …")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA name.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit to convert to.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; standard output if left out.")] = None,
) -> None:
    """Write the history of metrics, or of a subscription, as CSV."""
    from kilowatch.history.model import AGGREGATES
    from kilowatch.history.service import MAX_RAW_LIMIT, Query
    from kilowatch.kit.timespan import Window

    if bool(metric) == (subscription is not None):
        raise Invalid("Name either metrics (--metric) or a subscription (--subscription).")
    if aggregate is not None and aggregate not in AGGREGATES:
        raise Invalid(f"--aggregate is one of {', '.join(AGGREGATES)}.")
    query = Query(
        Window.parse(start, end),
        resolution,
        aggregate=aggregate,
        timezone=timezone,
        unit=unit,
        limit=MAX_RAW_LIMIT // 4,
    )
    with opened(load_settings()) as services:
        pages = _history_pages(services, query, metric or [], subscription)
        if output is None:
            _write_pages(pages, sys.stdout.buffer)
            return
        _write_file(pages, output)
    err.print(f"Wrote {output}", markup=False)


def _history_pages(
    services: "Kilowatch", query: "Query", metrics: list[str], subscription_id: int | None
) -> Iterator[bytes]:
    from dataclasses import replace

    from kilowatch.auth.model import OPERATOR
    from kilowatch.history.formats import to_csv
    from kilowatch.kit.text import MAX_ID

    for text in (*metrics, str(subscription_id or 0)):
        if text.isdecimal() and int(text) > MAX_ID:
            raise NotFound(f"There is no metric or subscription {text}.")

    cursor: str | None = None
    while True:
        asked = replace(query, cursor=cursor)
        if subscription_id is not None:
            caller = services.subscriptions.owner(OPERATOR, subscription_id)
            history, _ = services.subscriptions.history(caller, subscription_id, asked)
        else:
            references = [int(text) if text.isdecimal() else text for text in metrics]
            history = services.histories.history_of_metrics(OPERATOR, references, asked)
        yield to_csv(history)
        cursor = history.next
        if cursor is None:
            return


def _write_file(pages: Iterator[bytes], output: Path) -> None:
    """Whole or not at all: what was there stays until the new file is complete."""
    draft = output.with_name(output.name + ".part")
    try:
        with draft.open("wb") as file:
            _write_pages(pages, file)
        draft.replace(output)
    except OSError as error:
        raise Invalid(f"{output} can't be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _write_pages(pages: Iterator[bytes], file: IO[bytes]) -> None:
    for number, page in enumerate(pages):
        file.write(page if number == 0 else page.partition(b"\n")[2])
    file.flush()
