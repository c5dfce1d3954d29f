"""One world for all tests of a module: each makes metrics and people of its own in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.config import Settings
from tests.conftest import SECRET_KEY, START, Clock, Person, World, drop_history


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest,
    sqlite_template: Path,
    history_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("ingest")
    shutil.copy(sqlite_template, directory / "kilowatch.sqlite")
    name = request.module.__name__.replace(".", "_")
    settings = Settings(
        data_dir=directory,
        history_url=f"chdb://{history_directory}?database={name}",
        history_sync=False,
        max_decoded_bytes=100_000_000,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    clock = Clock(START)
    with TestClient(create_app(settings, clock=clock)) as client:
        world = World(client.app.state.services, client, clock)  # type: ignore[attr-defined]  # a FastAPI app
        world.people["anonymous"] = Person(0, "", "", world.http())
        world.person("admin", is_admin=True)
        world.north, world.south = world.site("north"), world.site("south")
        for person, role in (("technician", "technician"), ("standard", "standard")):
            world.grant(world.person(person), world.north, role)
        world.person("newcomer")
        yield world
    drop_history(settings.resolved_history_url)
