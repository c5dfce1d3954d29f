"""People in front of browsers."""

import contextlib
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Error, Page, Response, ViewportSize

from tests.browser.served import Served
from tests.browser.watch import Watch
from tests.conftest import Person

WIDE = ViewportSize(width=1280, height=900)
NARROW = ViewportSize(width=360, height=740)
_WAIT_MS = 60_000


class Visitors:
    """Opens pages, each in a context of its own: cookies, storage, and what its options say of who looks and how."""

    def __init__(self, browser: Browser, watch: Watch) -> None:
        self._browser, self._watch = browser, watch
        self._contexts: list[BrowserContext] = []
        self.documents: list[Response] = []
        """What was served as a page, the last at the end."""

    def anonymous(self, server: Served, **options: Any) -> Page:
        """A page of somebody who is not signed in; nothing is open yet."""
        seen = {"base_url": server.address, "viewport": WIDE, "locale": "en-GB", "timezone_id": "Europe/Berlin"}
        context = self._browser.new_context(**{**seen, **options})
        self._contexts.append(context)
        context.set_default_timeout(_WAIT_MS)
        self._watch.over(context, origin=server.address)
        context.on("response", self._keep_documents)
        return context.new_page()

    def signed_in(self, server: Served, person: Person, **options: Any) -> Page:
        page = self.anonymous(server, **options)
        answer = page.context.request.post(
            "/sign-in",
            form={"email": person.email, "password": person.password},
            headers={"Origin": server.address},
            max_redirects=0,
        )
        assert answer.status == 303, answer.text()
        return page

    def seen_by(self, server: Served, role: str, **options: Any) -> Page:
        """A page of one of the world's people, the anonymous too."""
        if role == "anonymous":
            return self.anonymous(server, **options)
        return self.signed_in(server, getattr(server.world, role), **options)

    def _keep_documents(self, response: Response) -> None:
        if response.request.is_navigation_request() and not 300 <= response.status < 400:
            self.documents.append(response)

    def verify(self) -> None:
        """Raises `AssertionError` for what `Watch` noted, to which the pages' last words belong."""
        for page in self._pages:
            with contextlib.suppress(Error):  # it went away meanwhile
                page.title()
        self._watch.verify()

    @property
    def _pages(self) -> list[Page]:
        return [page for context in self._contexts for page in context.pages]

    def leave(self) -> None:
        for context in self._contexts:
            context.close()

    def leave_behind(self, folder: Path, name: str) -> list[Path]:
        """A screenshot of each open page, and what the console said; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        left = []
        for number, page in enumerate(self._pages):
            path = folder / f"{name}-{number}.png"
            with contextlib.suppress(Error):  # a page that hangs has no picture, but a log
                page.screenshot(path=path, full_page=True)
                left.append(path)
        left.append(folder / f"{name}.log")
        left[-1].write_text("\n".join([*self._watch.console, *self._watch.faults, ""]))
        return left
