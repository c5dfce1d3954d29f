"""A real browser, and a real server, for the tests of the pages.

One browser and one server a worker; a test has a context (cookies, storage) of its own. A test fails on whatever
`Watch` notes, and one that failed leaves a screenshot and the console's log in `.cache/browser/`.
"""

import re
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Page, expect

from kilowatch.config import Settings
from tests.browser.chromium import Chromium, running_chromium
from tests.browser.served import Served, served_world
from tests.browser.visitors import Visitors
from tests.browser.watch import Watch
from tests.conftest import SECRET_KEY, _unique

expect.set_options(timeout=30_000)
LEFT_BEHIND = Path(__file__).parents[2] / ".cache" / "browser"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with running_chromium() as chromium:
        yield chromium


class Serve(Protocol):
    def __call__(self, **settings: Any) -> Served: ...


@pytest.fixture(scope="session")
def server(history_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The one that tests share: who changes something makes a site for it."""
    with served_world(_settings(history_directory, tmp_path_factory.mktemp("served"))) as server:
        yield server


@pytest.fixture
def serve(history_directory: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts a server for a test that needs other settings."""
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(served_world(_settings(history_directory, tmp_path, **settings)))


@pytest.fixture
def own_server(serve: Serve) -> Served:
    """One for a test that moves its clock."""
    return serve()


@pytest.fixture
def site(server: Served) -> int:
    """The id of a site, `Place`, of the test's own, where technician and standard have their roles."""
    world = server.world
    site_id = world.site(f"place-{uuid.uuid4().hex[:12]}", name="Place")
    for role in ("standard", "technician"):
        world.grant(getattr(world, role), site_id, role)
    return site_id


def _settings(history_directory: Path, directory: Path, **more: Any) -> Settings:
    usual = {
        "data_dir": directory / "var",
        "history_url": f"chdb://{history_directory}?database={_unique('served')}",
        "history_sync": False,
        "history_threads": 2,
        "login_attempts": 100_000,
        "webhook_requests": 0,
        "secret_key": SECRET_KEY,
        "log_level": "error",
    }
    return Settings.model_validate(usual | more)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def visitors(chromium: Chromium, watch: Watch) -> Iterator[Visitors]:
    """Opens pages, each in a context of its own."""
    chromium.resume()
    visitors = Visitors(chromium.browser, watch)
    yield visitors
    visitors.leave()
    chromium.pause()


class SignIn(Protocol):
    def __call__(self, role: str, **options: Any) -> Page: ...


@pytest.fixture
def sign_in(visitors: Visitors, server: Served) -> SignIn:
    """Opens a page in a browser in which this person of the world is signed in. Options are those of a context."""
    return lambda role, **options: visitors.seen_by(server, role, **options)


@pytest.fixture
def page(sign_in: SignIn) -> Page:
    """A page, signed in as the technician."""
    return sign_in("technician")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """What `Watch` noted is the test's failure, and no error of a fixture."""
    yield
    visitors = _funcargs(item).get("visitors")
    if visitors is not None:
        visitors.verify()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    visitors = _funcargs(item).get("visitors")
    if report.when == "call" and report.failed and visitors is not None:
        name = re.sub(r"[^\w-]+", "-", item.nodeid.removeprefix("tests/browser/"))[-150:]
        for path in visitors.leave_behind(LEFT_BEHIND, name):
            report.sections.append(("left behind", str(path)))
    return report


def _funcargs(item: pytest.Item) -> dict[str, Any]:
    return getattr(item, "funcargs", {})
