"""The texts of the pages: all translated, compiled, and with the same places in them."""

import io
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po

from kilowatch import pages
from kilowatch.pages.words import LANGUAGES, preferred

ROOM = Path(pages.__file__).parent
TEXTS = ROOM / "texts"
TRANSLATED = [code for code in LANGUAGES if code != "en"]


def catalog(code: str) -> Catalog:
    with (TEXTS / code / "LC_MESSAGES" / "kilowatch.po").open("rb") as file:
        return read_po(file, locale=code)


def texts_in_the_code() -> set[str]:
    templates = "pages/templates/**.html"
    methods = [("**.py", "python"), (templates, "jinja2")]
    options = {templates: {"trimmed": "true", "newstyle_gettext": "true"}}
    keywords = {"_": None, "gettext": None, "ngettext": (1, 2), "N_": None, "said": None}
    found = extract_from_dir(ROOM.parent, methods, options, keywords)
    return {text[0] if isinstance(text, tuple) else text for _, _, text, _, _ in found}


def of(message: Message) -> tuple[str, list[str]]:
    """The text, and its translations."""
    original = message.id[0] if isinstance(message.id, tuple | list) else message.id
    strings = message.string if isinstance(message.string, tuple | list) else [message.string or ""]
    return original, list(strings)


@pytest.mark.parametrize("code", TRANSLATED)
class TestEachLanguage:
    def test_has_every_text_and_no_other(self, code: str) -> None:
        assert {of(message)[0] for message in catalog(code) if message.id} == texts_in_the_code()

    def test_leaves_none_untranslated_and_keeps_the_places(self, code: str) -> None:
        for message in catalog(code):
            if message.id:
                original, strings = of(message)
                assert all(strings) and not message.fuzzy, original  # those in doubt are not compiled
                for string in strings:
                    assert set(re.findall(r"%\(\w+\)[ds]", string)) == set(re.findall(r"%\(\w+\)[ds]", original))

    def test_is_compiled_as_it_is_written(self, code: str) -> None:
        """`make texts` compiles it."""
        compiled = io.BytesIO()
        write_mo(compiled, catalog(code))
        compiled.seek(0)
        expected = {of(message)[0]: of(message)[1] for message in read_mo(compiled)}
        with (TEXTS / code / "LC_MESSAGES" / "kilowatch.mo").open("rb") as file:
            assert {of(message)[0]: of(message)[1] for message in read_mo(file)} == expected


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "english", "german"),
        [
            (0.0, "0.00", "0,00"),
            (3.2, "3.20", "3,20"),
            (0.0012, "0.0012", "0,0012"),
            (-1234.56, "−1 234.6", "−1 234,6"),  # noqa: RUF001 - a minus sign
            (45678.9, "45 679", "45 679"),
            (float("inf"), "inf", "inf"),
        ],
    )
    def test_have_the_decimals_that_their_size_asks_for(self, value: float, english: str, german: str) -> None:
        told = [LANGUAGES[code].number(value).replace("\N{NARROW NO-BREAK SPACE}", " ") for code in ("en", "de")]
        assert told == [english, german]

    @pytest.mark.parametrize(
        ("seconds", "told"),
        [(-5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (172_800, "2 days ago")],
    )
    def test_ages_are_in_the_largest_unit_of_which_there_are_two(self, seconds: float, told: str) -> None:
        assert LANGUAGES["en"].age(seconds) == told


@pytest.mark.parametrize(
    ("accepted", "code"), [("de", "de"), ("fr, de;q=0.5", "de"), ("de;q=0.5, en", "en"), ("de;q=0", "en"), ("", "en")]
)
def test_the_browser_gets_the_language_that_it_likes_best(accepted: str, code: str) -> None:
    assert preferred(accepted).code == code
