"""Worlds whose simulated devices are the same."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kilowatch.config import Settings
from tests.conftest import SECRET_KEY, Clock, World, _unique, drop_history, open_world


@pytest.fixture
def others(
    sqlite_template: Path, history_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], World]]:
    """Further worlds, each with stores of its own and the ids of a new one."""
    with ExitStack() as stack:

        @contextmanager
        def another() -> Iterator[World]:
            directory, name = tmp_path_factory.mktemp("other"), _unique("other")
            shutil.copy(sqlite_template, directory / "kilowatch.sqlite")
            url = f"chdb://{history_directory}?database={name}"
            settings = Settings(
                data_dir=directory,
                history_url=url,
                history_sync=False,
                secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
                log_level="error",
            )
            with open_world(settings, Clock()) as world:
                yield world
            drop_history(url)

        yield lambda: stack.enter_context(another())
