"""Histories to be copied: embedded and over the wire, several at once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilowatch.history.copying import Block, Contents
from tests.clickhouse import ClickHouse
from tests.conftest import drop_history
from tests.processes import Server, create_admin

JANUARY_2025 = 1_735_689_600_000
DAY = 86_400_000
_numbers = count(1)

NewUrl = Callable[[str], str]


@pytest.fixture
def new_history_url(request: pytest.FixtureRequest) -> Iterator[NewUrl]:
    """URLs of histories that are not there yet, `embedded`, on a `server` or on a `cluster`."""
    made = []

    def new(kind: str) -> str:
        name = f"moving_{os.getpid()}_{next(_numbers)}"
        if kind == "embedded":
            directory: Path = request.getfixturevalue("history_directory")
            url = f"chdb://{directory}?database={name}"
        else:
            server: ClickHouse = request.getfixturevalue("clickhouse")
            url = f"{server.url}/{name}{'?cluster=fleet' if kind == 'cluster' else ''}"
        made.append(url)
        return url

    yield new
    for url in made:
        drop_history(url)


NewHistory = Callable[[str], Contents]


@pytest.fixture
def new_history(new_history_url: NewUrl) -> Iterator[NewHistory]:
    """Histories without readings."""
    opened = []

    def new(kind: str) -> Contents:
        opened.append(Contents.open(new_history_url(kind), sync=False, migrate=True))
        return opened[-1]

    yield new
    for contents in opened:
        contents.close()


def readings(
    *metric_ids: int,
    begin: int = JANUARY_2025,
    step: int = DAY,
    days: int = 70,
    received_after: int = 1_000,
    seed: int = 1,
) -> Block:
    """Readings of each metric, one after another, as they come out of a history."""
    random = np.random.default_rng(seed)
    times = np.tile(begin + np.arange(days) * step, len(metric_ids))
    return {
        "metric_id": np.repeat(np.array(metric_ids, np.uint32), days),
        "ts": times,
        "value": random.normal(size=len(times)),
        "received_at": times + received_after,
    }


def put(contents: Contents, *blocks: Block) -> None:
    (table,) = (table for table in contents.tables() if table.name == "readings")
    for block in blocks:
        contents.put(table, block)


def rows(contents: Contents, table_name: str = "readings") -> list[tuple[Any, ...]]:
    """All that a table has, by its key, bit for bit; NaN, which is not even the same as itself, as a text."""
    (table,) = (table for table in contents.tables() if table.name == table_name)
    found: list[tuple[Any, ...]] = []
    for month in contents.counts(table):
        for block in contents.blocks(table, month):
            columns = (["NaN" if value != value else value for value in column.tolist()] for column in block.values())  # noqa: PLR0124
            found += zip(*columns, strict=True)
    return found


@contextmanager
def served(directory: Path) -> Iterator[Server]:
    """A server on embedded stores, as most have it."""
    create_admin(directory / "var")
    server = Server(directory / "var", directory / "server.log").start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may destroy."""
    with served(tmp_path) as server:
        yield server


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("running")) as server:
        yield server
