"""How a page is made of a template: in the language and theme of whoever asks, with what protects it."""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from kilowatch.auth.model import Credential, Me
from kilowatch.auth.service import SignIns
from kilowatch.facility.kinds import KINDS
from kilowatch.kit.text import name_from
from kilowatch.kit.timespan import zone
from kilowatch.pages.static import address_of, land, script
from kilowatch.pages.words import IN_SCRIPTS, LANGUAGES, N_, Language, moment, preferred

Theme = Literal["system", "light", "dark"]
THEMES: tuple[Theme, ...] = ("system", "light", "dark")

LANGUAGE_COOKIE = "kilowatch_language"
THEME_COOKIE = "kilowatch_theme"
_FLASH_COOKIE = "kilowatch_flash"
_FLASH_LIFE_S = 60
_MOST_FLASH = 1000

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    # With `no-referrer` browsers would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Cookie, Accept-Language",
}


_NOT_SAVED_YET = N_("Nothing was saved yet: this is what you had filled in when your session ended. Send it again.")


@runtime_checkable
class Typed(Protocol):
    """A form, as it is filled in again."""

    def typed(self, sent: Mapping[str, str]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is signed in in the browser that asks, and what its forms carry."""

    credential: Credential
    me: Me
    form_token: str
    form_owner: str


@lru_cache
def _environment(code: str) -> Environment:
    """The templates in one language."""
    language = LANGUAGES[code]
    environment = Environment(
        loader=PackageLoader("kilowatch.pages"),
        autoescape=True,
        auto_reload=False,  # they change with the program alone; asking the disk each time is not free
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(language.texts, newstyle=True)  # type: ignore[attr-defined]  # the extension's
    environment.filters |= {
        # for what is not a text of the template itself: `_()` would take it for HTML, and its `%` for places
        "told": language.told,
        "said": language.said,
        "bytes": language.bytes,
        "number": language.number,
        "whole": language.whole,
        "exact": language.exact,
        "power": language.power,
        "energy": language.energy,
        "share": language.share,
        "age": language.age,
        "moment": lambda instant, name: moment(instant, zone(name)),
        "key_name": name_from,
    }
    environment.globals |= {
        "static": address_of,
        "land": land,
        "script": script,
        "script_texts": {text: language.told(text) for text in IN_SCRIPTS},
        "language": language,
        "languages": LANGUAGES,
        "kinds": KINDS,
    }
    return environment


def language_of(request: Request) -> Language:
    """The one that was chosen, or else the one that the browser likes best."""
    chosen = LANGUAGES.get(request.cookies.get(LANGUAGE_COOKIE, ""))
    return chosen or preferred(request.headers.get("accept-language", ""))


def theme_of(request: Request) -> Theme:
    chosen = request.cookies.get(THEME_COOKIE)
    return next((theme for theme in THEMES if theme == chosen), "system")


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page, with the messages that an action before it left; its form as it was filled in when it came too late."""
    kept: dict[str, str] | None = getattr(request.state, "kept", None)
    flashes = _flashes(request)
    if kept is not None:
        flashes.append(("warning", language_of(request).told(_NOT_SAVED_YET)))
        context |= _filled(context, kept)
    html = (
        _environment(language_of(request).code)
        .get_template(template)
        .render(
            context,
            theme=theme_of(request),
            visitor=getattr(request.state, "visitor", None),
            flashes=flashes,
            path=request.url.path,
            address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        )
    )
    response = Response(html, int(status), _HEADERS, "text/html; charset=utf-8")
    if _FLASH_COOKIE in request.cookies:
        response.delete_cookie(_FLASH_COOKIE, **cookie_manners(request))
    return response


def _filled(context: dict[str, Any], kept: dict[str, str]) -> dict[str, Any]:
    """The form of a page with what was kept of it, and the version that it was about."""
    form = context.get("form")
    filled: dict[str, Any] = {"form": form.typed(kept)} if isinstance(form, Typed) else {}
    return filled | ({"version": kept["version"]} if "version" in kept else {})


def go_to(request: Request, path: str, *, flash: str | None = None, kind: str = "done") -> Response:
    """On to another page, by 303; with a message that it shows once.

    Args:
        flash: the message, translated.
        kind: `done` or `warning`.
    """
    response = RedirectResponse(path, 303, _HEADERS)
    if flash is not None:
        text = base64.urlsafe_b64encode(json.dumps([kind, flash[:_MOST_FLASH]]).encode()).decode()
        value = f"{text}.{_seal(request, text)}"
        response.set_cookie(_FLASH_COOKIE, value, max_age=_FLASH_LIFE_S, **cookie_manners(request))
    return response


def fragment_of(request: Request) -> str | None:
    """The path of the page that asks for a part of itself; `None` where a whole page is asked for."""
    if request.headers.get("hx-request") != "true":
        return None
    page = urlsplit(request.headers.get("hx-current-url", "/"))
    return (page.path or "/") + (f"?{page.query}" if page.query else "")


def cookie_manners(request: Request) -> dict[str, Any]:
    """No script reads our cookies, no other site's forms send them, and behind TLS nothing but TLS carries them."""
    return {"path": "/", "httponly": True, "samesite": "lax", "secure": request.url.scheme == "https"}


def _flashes(request: Request) -> list[tuple[str, str]]:
    text, _, seal = request.cookies.get(_FLASH_COOKIE, "").partition(".")
    if not text or not hmac.compare_digest(seal.encode(), _seal(request, text).encode()):
        return []
    kind, flash = json.loads(base64.urlsafe_b64decode(text))
    return [(kind, flash)]


def _seal(request: Request, text: str) -> str:
    sign_ins: SignIns = request.app.state.sign_ins
    return sign_ins.seal("flash", text)
