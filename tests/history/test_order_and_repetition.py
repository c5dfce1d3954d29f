"""The way that readings take to us must not show: order, batches and repetition, compared by the answers' bytes."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.config import Settings
from tests.conftest import SECRET_KEY, Clock, World, _unique, open_world

Reading = tuple[str, str, float]
"""A metric's key, a time, a value."""

KEYS = ("power", "energy")
TIMES = st.integers(0, 3 * 96).map(lambda n: f"2026-01-{2 + n // 96:02d}T{n % 96 // 4:02d}:{n % 4 * 15:02d}:00Z")
READINGS = st.tuples(st.sampled_from(KEYS), TIMES, st.integers(-80, 800).map(lambda eighths: eighths / 8))
QUESTIONS = (
    {"resolution": "raw"},
    {"resolution": "1h"},
    {"resolution": "1d"},
    {"resolution": "1d", "aggregate": "sum"},
)
_numbers = count(1)
steady = settings(
    derandomize=True, deadline=None, database=None, max_examples=8, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def one_world(
    sqlite_template: Path, history_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("order")
    options = Settings(
        data_dir=directory / "var",
        database_url=f"sqlite:///{copy(sqlite_template, directory / 'kilowatch.sqlite')}",
        history_url=f"chdb://{history_directory}?database={_unique('order')}",
        history_sync=False,
        history_threads=2,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    with open_world(options, Clock()) as world:
        yield world


def new_device(world: World) -> dict[str, Any]:
    metrics = [
        {"key": "power", "quantity": "power", "unit": "kW"},
        {"key": "energy", "quantity": "energy", "unit": "kWh", "behaviour": "counter"},
    ]
    return world.device(slug=f"device-{next(_numbers):04d}", metrics=metrics)


def send(world: World, device: dict[str, Any], batch: list[Reading]) -> None:
    path = f"north/{device['slug']}"
    rows = [{"metric": f"{path}/{key}", "timestamp": at, "value": value} for key, at, value in batch]
    answer = world.admin.post("/readings", {"readings": rows})
    assert (answer.status_code, answer.json()["rejected"]) == (200, 0), answer.text


def everything(world: World, device: dict[str, Any]) -> list[bytes]:
    """All that can be asked of the device, in bytes, but for its own name and numbers, and the times of receipt."""
    window = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-06T00:00:00Z"}
    answers = [
        world.admin.get(f"/metrics/{metric['id']}/history", **window, **question, format=form)
        for metric in device["metrics"]
        for question in QUESTIONS
        for form in ("json", "csv")
    ]
    answers.append(world.admin.get(f"/devices/{device['id']}/latest"))
    assert {answer.status_code for answer in answers} == {200}
    own = re.compile(rb'"metric_id":\d+|"received_at":"[^"]*"|' + device["slug"].encode())
    return [own.sub(b"", answer.content) for answer in answers]


def batches(draw: st.DrawFn, readings: list[Reading]) -> list[list[Reading]]:
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(readings) - 1)), max_size=4)))
    return [
        part for begin, end in zip([0, *cuts], [*cuts, len(readings)], strict=True) if (part := readings[begin:end])
    ]


@st.composite
def ways(draw: st.DrawFn) -> tuple[list[Reading], list[list[Reading]]]:
    """Readings without a conflict; and the same shuffled, in batches, with some of them sent again."""
    one_each = st.lists(READINGS, min_size=1, max_size=25, unique_by=lambda reading: reading[:2])
    readings = draw(one_each)
    again = draw(st.lists(st.sampled_from(readings), max_size=10))
    return readings, batches(draw, draw(st.permutations(readings + again)))


@st.composite
def conflicts(draw: st.DrawFn) -> tuple[list[Reading], list[list[Reading]]]:
    """The last reading of each metric and time; and all of them in the order of arrival, in batches."""
    few_times = st.tuples(
        st.sampled_from(KEYS), st.sampled_from([draw(TIMES) for _ in range(4)]), READINGS.map(lambda r: r[2])
    )
    arrived = draw(st.lists(few_times, min_size=2, max_size=25))
    last = {(key, at): value for key, at, value in arrived}
    return [(key, at, value) for (key, at), value in last.items()], batches(draw, arrived)


@given(way=ways())
@steady
def test_shuffled_split_and_sent_again(one_world: World, way: tuple[list[Reading], list[list[Reading]]]) -> None:
    at_once, piecemeal = new_device(one_world), new_device(one_world)
    send(one_world, at_once, way[0])
    for batch in way[1]:
        send(one_world, piecemeal, batch)
    assert everything(one_world, at_once) == everything(one_world, piecemeal)
    before = everything(one_world, at_once)
    send(one_world, at_once, way[0])
    assert everything(one_world, at_once) == before


@given(way=conflicts())
@steady
def test_of_a_conflict_the_last_received_wins(one_world: World, way: tuple[list[Reading], list[list[Reading]]]) -> None:
    """Also inside one batch, where the later row is the last."""
    survivors, all_of_them = new_device(one_world), new_device(one_world)
    send(one_world, survivors, way[0])
    for batch in way[1]:
        send(one_world, all_of_them, batch)
    assert everything(one_world, survivors) == everything(one_world, all_of_them)


@given(readings=st.lists(READINGS, min_size=1, max_size=12))
@steady
def test_latest_never_moves_back(one_world: World, readings: list[Reading]) -> None:
    """Looked at after every single reading."""
    device = new_device(one_world)
    known: dict[str, tuple[str, float]] = {}
    for key, at, value in readings:
        send(one_world, device, [(key, at, value)])
        if key not in known or at >= known[key][0]:
            known[key] = (at, value)
        items = one_world.admin.get(f"/devices/{device['id']}/latest").json()["items"]
        seen = {item["metric"]: (item["timestamp"], item["value"]) for item in items if item["timestamp"]}
        assert seen == known
