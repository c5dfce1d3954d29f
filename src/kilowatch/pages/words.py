"""The languages of the pages, and how numbers, ages and times are written in them."""

import gettext
import math
import re
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import as_file, files
from zoneinfo import ZoneInfo

from kilowatch.errors import Said

_TEXTS = files("kilowatch") / "pages" / "texts"
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def N_(text: str) -> str:  # noqa: N802 - gettext's usual name for a text that is translated later
    return text


# There are always two or more of these, so no language needs another word for one.
SECONDS_AGO = N_("%(num)d s ago")
MINUTES_AGO = N_("%(num)d min ago")
HOURS_AGO = N_("%(num)d h ago")
DAYS_AGO = N_("%(num)d days ago")

IN_SCRIPTS = (
    SECONDS_AGO,
    MINUTES_AGO,
    HOURS_AGO,
    DAYS_AGO,
    N_("Live values have ended; load the page again."),
    N_("The connection is lost; values are as of before. Trying again …"),
    N_("Arrows move, + and - zoom, Home shows the whole window, Shift with arrows reads values."),
    N_("Chart: %(what)s"),
    N_("There are more readings than are shown here; zoom in."),
    N_("The values can't be loaded; try again."),
)
"""The texts that scripts show; the layout hands them over (web/src/texts.ts)."""


@dataclass(frozen=True, slots=True)
class Language:
    code: str
    name: str
    decimal_sign: str
    texts: gettext.NullTranslations

    def told(self, text: str) -> str:
        """A text of ours in this language; any other as it is."""
        return self.texts.gettext(text) if text else ""

    def said(self, message: str) -> str:
        """A message of a service in this language; in English where nobody translated it."""
        if isinstance(message, Said):
            return self.texts.gettext(message.text) % message.values if message.values else self.told(message.text)
        return self.told(message)

    def bytes(self, count: int) -> str:
        """With the unit that suits its size: 52.4 MB."""
        size, unit = float(count), "B"
        for larger in ("kB", "MB", "GB", "TB"):
            if size < 1000:
                break
            size, unit = size / 1000, larger
        return f"{self._spelt(f'{size:.0f}' if unit == 'B' or size >= 100 else f'{size:.1f}')} {unit}"

    def number(self, value: float) -> str:
        """With as many decimals as its size asks for: 0.05, 3.20, 123.4, 45 678."""
        size = abs(value)
        if size >= 1e15 or (size != 0 and size < 0.005):
            told = f"{value:.3g}"
        else:
            told = f"{value:,.{2 if size < 100 else 1 if size < 10_000 else 0}f}"
        return self._spelt(told)

    def whole(self, value: int) -> str:
        return self._spelt(f"{value:,}")

    def exact(self, value: float) -> str:
        return self._spelt(f"{value:,.12g}")

    def _spelt(self, told: str) -> str:
        return (
            told.replace("-", _MINUS).replace(",", _THIN_SPACE).replace(".", self.decimal_sign)
            if re.fullmatch(r"[-+.,e0-9]+", told)
            else told
        )

    def power(self, kw: float) -> tuple[str, str]:
        """In the unit that its size asks for: watts, kilowatts, megawatts."""
        if abs(kw) < 0.9995:
            return self.whole(round(kw * 1000)), "W"
        return self._scaled(kw, "kW", "MW")

    def energy(self, kwh: float) -> tuple[str, str]:
        """In the unit that its size asks for."""
        return self._scaled(kwh, "kWh", "MWh")

    def _scaled(self, value: float, unit: str, thousand: str) -> tuple[str, str]:
        if abs(value) < 0.005:
            return self.number(0.0), unit
        return (self.number(value / 1000), thousand) if abs(value) >= 10_000 else (self.number(value), unit)

    def share(self, value: float) -> str:
        """A share of 1 in whole percent, without its sign."""
        return self.whole(round(value * 100))

    def age(self, seconds: float) -> str:
        """How long ago: in the largest unit of which there are two."""
        gone = max(0, math.floor(seconds))
        if gone < 120:
            return self.told(SECONDS_AGO) % {"num": gone}
        if gone < 7200:
            return self.told(MINUTES_AGO) % {"num": gone // 60}
        if gone < 172_800:
            return self.told(HOURS_AGO) % {"num": gone // 3600}
        return self.told(DAYS_AGO) % {"num": gone // 86_400}


def moment(instant: datetime, zone: ZoneInfo) -> str:
    """A time in a zone, with the zone's name at that time."""
    return instant.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def _texts(code: str) -> gettext.NullTranslations:
    with as_file(_TEXTS) as folder:
        return gettext.translation("kilowatch", folder, [code], fallback=code == "en")


LANGUAGES = {
    language.code: language
    for language in (
        Language("en", "English", ".", _texts("en")),
        Language("de", "Deutsch", ",", _texts("de")),
    )
}


def preferred(accepted: str) -> Language:
    """The language of ours that an `Accept-Language` likes best; English if it likes none."""
    liked: list[tuple[float, Language]] = []
    for part in accepted[:200].split(","):
        name, _, weight = part.partition(";")
        language = LANGUAGES.get(name.strip().lower().split("-")[0])
        found = re.fullmatch(r"\s*q=([01](?:\.[0-9]{0,3})?)\s*", weight)
        if language is not None:
            liked.append((float(found[1]) if found else 1.0, language))
    likes, language = max(liked, key=lambda item: item[0], default=(0.0, LANGUAGES["en"]))
    return language if likes > 0 else LANGUAGES["en"]
