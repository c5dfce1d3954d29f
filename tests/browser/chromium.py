"""The system's Chromium, driven by Playwright.

`python -m tests.browser.chromium` says whether there is one, and if not, how to get it; scripts/setup asks that.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ON_A_MAC = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)
NO_BROWSER = (
    "The tests of the pages need Chromium, and none was found. On Debian: "
    "`sudo apt-get update && sudo apt-get install chromium chromium-sandbox`; elsewhere: "
    "`.venv/bin/playwright install --with-deps chromium`; or name one: `CHROMIUM=/path/to/chromium make test`."
)
# Nothing but what the tests ask for goes out, and that goes to this machine.
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


class NoBrowser(Exception):
    pass


def find_chromium(playwright: Playwright) -> str:
    """Its path: that of $CHROMIUM, the system's, or the one that Playwright fetched. Raises `NoBrowser`."""
    named = os.environ.get("CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise NoBrowser(f"CHROMIUM={named} is not a program. {NO_BROWSER}")
        return found
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    for path in (*_ON_A_MAC, Path(playwright.chromium.executable_path)):
        if path.exists():
            return str(path)
    raise NoBrowser(NO_BROWSER)


class Chromium:
    """A running one. Between `resume` and `pause` its calls work, and no other event loop can run in this thread."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self._loop = asyncio.get_running_loop()

    def resume(self) -> None:
        # Playwright's sync API leaves its loop marked as the running one of this thread after each call, as it needs it
        # to be; other tests in the same process, which call asyncio.run(), could not.
        asyncio._set_running_loop(self._loop)

    def pause(self) -> None:
        asyncio._set_running_loop(None)


@contextmanager
def running_chromium() -> Iterator[Chromium]:
    """One with a profile of its own, which goes with it. As root there is no sandbox: Chromium refuses it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(playwright), args=_FLAGS, chromium_sandbox=os.getuid() != 0
        )
        chromium = Chromium(browser)
        chromium.pause()
        yield chromium
        chromium.resume()
        browser.close()
    chromium.pause()


if __name__ == "__main__":
    with sync_playwright() as playwright:
        try:
            find_chromium(playwright)
        except NoBrowser as error:
            sys.exit(f"setup: {error}")
