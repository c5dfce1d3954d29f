"""What a page must never do, noted while a test uses it."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, Response, WebError

_FAILED_TO_LOAD = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d ")
_HARMLESS = ("log", "info", "debug")


@dataclass
class Watch:
    """Notes the faults of all pages of the contexts that it is set over.

    Faults are console errors and warnings (of which violations of the Content-Security-Policy are some), uncaught
    errors, requests to any other host, and answers of 500 and above.
    """

    console: list[str] = field(default_factory=list)
    _faults: list[str] = field(default_factory=list)
    _not_loaded: list[tuple[str, str]] = field(default_factory=list)
    _pages_refused: set[str] = field(default_factory=set)
    _expected: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext, *, origin: str) -> None:
        context.on("console", self._hear)
        context.on("weberror", self._note_error)
        context.on("request", lambda request: self._note_request(request, origin))
        context.on("response", self._note_response)

    def expect(self, fault: str) -> None:
        """A fault that contains this is none, and that there was no such one is one."""
        self._expected.append(fault)

    @property
    def faults(self) -> list[str]:
        # Chromium says that of each page that a person is refused too, which is no fault of the page.
        not_loaded = [text for address, text in self._not_loaded if address not in self._pages_refused]
        return self._faults + not_loaded

    def verify(self) -> None:
        """Raises `AssertionError` naming each fault."""
        unforeseen = [fault for fault in self.faults if not any(known in fault for known in self._expected)]
        missing = [known for known in self._expected if not any(known in fault for fault in self.faults)]
        assert not unforeseen, "the page did what no page may do:\n  " + "\n  ".join(unforeseen)
        assert not missing, f"these were expected: {missing}; there were: {self.faults}"

    def _hear(self, message: ConsoleMessage) -> None:
        address = str(message.location.get("url", ""))
        told = f"console {message.type}: {message.text} ({address})"
        self.console.append(told)
        if _FAILED_TO_LOAD.match(message.text):
            self._not_loaded.append((address, told))
        elif message.type not in _HARMLESS:
            self._faults.append(told)

    def _note_error(self, error: WebError) -> None:
        self._faults.append(f"uncaught error: {error.error}")

    def _note_request(self, request: Request, origin: str) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and f"{address.scheme}://{address.netloc}" != origin:
            self._faults.append(f"request to another host: {request.method} {request.url}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 500:
            self._faults.append(f"answer {response.status}: {response.request.method} {response.url}")
        elif response.status >= 400 and response.request.is_navigation_request():
            self._pages_refused.add(response.url)
