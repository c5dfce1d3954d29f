"""What a browser or program says it is, in a few words: `Firefox · Windows`."""

import re

_LONGEST_LOOKED_AT = 500
_LONGEST = 80

# The first that is found is it: most browsers also name those that they are like.
_BROWSERS = (
    (r"Edg(?:e|A|iOS)?/", "Edge"),
    (r"OPR/|Opera", "Opera"),
    (r"Vivaldi/", "Vivaldi"),
    (r"SamsungBrowser/", "Samsung Internet"),
    (r"Firefox/|FxiOS/", "Firefox"),
    (r"HeadlessChrome/|Chrome/|CriOS/|Chromium/", "Chrome"),
    (r"Version/\S+ .*Safari/", "Safari"),
)
_SYSTEMS = (
    (r"Windows", "Windows"),
    (r"iPhone", "iOS"),
    (r"iPad", "iPadOS"),
    (r"Macintosh|Mac OS X", "macOS"),
    (r"Android", "Android"),
    (r"CrOS", "ChromeOS"),
    (r"Linux|X11", "Linux"),
)


def summary_of(user_agent: str) -> str | None:
    """Browser and system, or the program's own first word; `None` if it says nothing. Printable, at most 80 long."""
    told = user_agent[:_LONGEST_LOOKED_AT]
    browser, system = _first(_BROWSERS, told), _first(_SYSTEMS, told)
    if browser is None:
        program = re.match(r"[A-Za-z0-9][A-Za-z0-9._+-]*(?:/[A-Za-z0-9._+-]+)?", told)
        browser = None if program is None or told.startswith("Mozilla/") else program[0]
    return " · ".join(part for part in (browser, system) if part)[:_LONGEST] or None


def _first(known: tuple[tuple[str, str], ...], told: str) -> str | None:
    return next((name for pattern, name in known if re.search(pattern, told)), None)
