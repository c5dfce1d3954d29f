"""Line protocol to columns: the two ways to read it agree with a slow reference, whatever the bytes."""

import math
import re
from datetime import UTC, datetime
from typing import Any, ClassVar, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kilowatch.errors import Unreadable
from kilowatch.ingest.line_protocol import OldPrecision, read_lines

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
Rows = list[tuple[Any, ...]]


def rows_of(body: bytes, precision: OldPrecision = "ns") -> Rows:
    """Each row's line; with its metric, ms and value, or the code of its refusal."""
    columns = read_lines(body, precision=precision, now=NOW)
    assert columns.lines is not None
    codes = {error.row: error.code for error in columns.verdicts.report().errors}
    return [
        (line, codes[row])
        if row in codes
        else (
            line,
            columns.references[columns.reference_of[row]],
            int(columns.timestamps[row]),
            float(columns.values[row]),
        )
        for row, line in enumerate(columns.lines.tolist())
    ]


def detail_of(line: bytes) -> str:
    (error,) = read_lines(line, precision="ns", now=NOW).verdicts.report().errors
    return error.detail


# ── the reference: a letter at a time ────────────────────────────────────────────────────────────────────────────────


class Bad(Exception):
    def __init__(self, place: int, code: str = "malformed") -> None:
        super().__init__(code)
        self.place = place
        self.code = code


class Reference:
    """Reads a body letter by letter, with no thought of speed."""

    NS: ClassVar = {
        "ns": 1,
        "n": 1,
        "us": 10**3,
        "u": 10**3,
        "ms": 10**6,
        "s": 10**9,
        "m": 60 * 10**9,
        "h": 3600 * 10**9,
    }

    def __init__(self, text: str, precision: str) -> None:
        if text.startswith("\ufeff"):
            text = text[1:]
        self.text = (text if text.endswith("\n") else text + "\n").replace("\r\n", "\n")
        self.ns = self.NS[precision]
        self.place = 0

    def rows(self) -> Rows:
        found: Rows = []
        while self.place < len(self.text):
            line = self.text.count("\n", 0, self.place) + 1
            try:
                found += [(line, *row) for row in self.line()]
            except Bad as bad:
                found.append((line, bad.code))
                self.place = self.text.index("\n", bad.place) + 1
        return found

    def line(self) -> Rows:
        self.gap()
        if self.here in "#\n":
            self.place = self.text.index("\n", self.place) + 1
            return []
        self.word(", \n")
        tags: dict[str, str] = {}
        while self.here == ",":
            self.place += 1
            key = self.word(",= \n")
            self.expect("=")
            if key in tags:
                raise Bad(self.place)
            tags[key] = self.word(",= \n")
        if not self.gap() or self.here == "\n":
            raise Bad(self.place)
        fields = [self.field()]
        while self.here == ",":
            self.place += 1
            fields.append(self.field())
        if not self.gap() and self.here != "\n":
            raise Bad(self.place)
        ms = self.time()
        if not {"site", "device"} <= tags.keys():
            raise Bad(self.place, "missing_metric")
        self.place += 1
        device = f"{tags['site']}/{tags['device']}/"
        return [(value,) if isinstance(value, str) else (device + key, ms, value) for key, value in fields]

    @property
    def here(self) -> str:
        return self.text[self.place]

    def gap(self) -> bool:
        before = self.place
        while self.here in " \t":
            self.place += 1
        return self.place > before

    def expect(self, letter: str) -> None:
        if self.here != letter:
            raise Bad(self.place)
        self.place += 1

    def word(self, ends: str) -> str:
        read = ""
        while self.here not in ends:
            if self.here == "\\" and self.text[self.place + 1] in ends.replace("\n", ""):
                self.place += 1
            read += self.here
            self.place += 1
        if not read:
            raise Bad(self.place)
        return read

    def field(self) -> tuple[str, float | str]:
        key = self.word(",= \n")
        self.expect("=")
        if self.here == '"':
            self.string()
            return key, "bad_value"
        word = ""
        while self.here not in ", \n":
            word += self.here
            self.place += 1
        if not word:
            raise Bad(self.place)
        return key, self.value(word)

    def string(self) -> None:
        place = self.place + 1
        while place < len(self.text) and self.text[place] != '"':
            place += 2 if self.text[place] == "\\" else 1
        if place >= len(self.text):
            raise Bad(self.place)
        self.place = place + 1

    @staticmethod
    def value(word: str) -> float | str:
        if word in ("t", "T", "true", "True", "TRUE"):
            return 1.0
        if word in ("f", "F", "false", "False", "FALSE"):
            return 0.0
        digits = word[1:-1] if word[0] == "-" else word[:-1]
        if word[-1] in "iu" and digits.isascii() and digits.isdigit():
            low, high = (-(2**63), 2**63) if word[-1] == "i" else (0, 2**64)
            unsigned_minus = word[-1] == "u" and word[0] == "-"
            return float(int(word[:-1])) if low <= int(word[:-1]) < high and not unsigned_minus else "bad_value"
        if word.strip("+-").lower() in ("nan", "inf", "infinity"):
            return "not_finite"
        allowed = set("0123456789.eE+-")
        try:
            number = float(word) if set(word) <= allowed and word[0] != "+" else None
        except ValueError:
            number = None
        if number is None:
            return "bad_value"
        return number if math.isfinite(number) else "not_finite"

    def time(self) -> int:
        if self.here == "\n":
            return NOW_MS
        word = ""
        while self.here not in ", \n":
            word += self.here
            self.place += 1
        self.gap()
        digits = word.rstrip("\t").removeprefix("-")
        if self.here != "\n" or not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
            raise Bad(self.place)
        ticks = int(word)
        if not -(2**63) <= ticks < 2**63:
            raise Bad(self.place)
        return ticks * self.ns // 10**6


_CAPPED = 1 << 61
"""Times so far away are told apart no longer; they are all refused."""


def expected(body: bytes, precision: str) -> Rows:
    return Reference(body.decode(), precision).rows()


def capped(rows: Rows) -> Rows:
    return [(row[0], row[1], max(-_CAPPED, min(_CAPPED, row[2])), row[3]) if len(row) == 4 else row for row in rows]


_names = st.sampled_from(
    ["a", "home", "site", "device", "b\\ c", "d\\,e", "f\\=g", "\\", "h\\", "ü", 'q"', "", "x y", "a=b", "#", "\t"]
)
_values = st.one_of(
    st.floats().map(repr),
    st.integers(-(2**65), 2**65).map(str),
    st.integers(-(2**64), 2**65).map("{}i".format),
    st.integers(-5, 2**65).map("{}u".format),
    st.sampled_from(["t", "F", "true", "FALSE", "tRUE", "1e5", "1.", ".5", "-", "0x1F", "1e400", "1e-400", "NaN"]),
    st.sampled_from(["", "+1", "-i", "i", "1.5i", "0" * 50 + "1", '"text"', '"a b,c=d"', '"', '"\\""', '"two\nlines"']),
)
_times = st.one_of(
    st.just(""),
    st.integers(-(2**64), 2**64).map(" {}".format),
    st.integers(1_700_000_000, 1_800_000_000).map(" {}000000000".format),
    st.sampled_from([" ", "  7 ", " 7\t", " -", " 1-2", " 0x1F", " 1.5", " 1 2", "\t5", " \t5"]),
)
_good = st.builds(
    "m,site=home,device={} {}={}{}".format,
    st.sampled_from(["roof", "meter"]),
    st.sampled_from(["power", "energy"]),
    st.sampled_from(["1", "2.5", "3i", "4u", "t"]),
    st.integers(1_700_000_000, 1_800_000_000).map(" {}000000000".format) | st.just(""),
)
_any = st.builds(
    lambda tags, fields, gap, time: (
        "m" + "".join(f",{key}={value}" for key, value in tags) + gap + ",".join(map("=".join, fields)) + time
    ),
    st.lists(st.tuples(st.one_of(st.sampled_from(["site", "device"]), _names), _names), max_size=4)
    | st.just([("site", "home"), ("device", "roof")]),
    st.lists(st.tuples(_names, _values), min_size=1, max_size=3),
    st.sampled_from([" ", "  ", " \t", ""]),
    _times,
)
_noise = st.text(st.sampled_from(list('m,=site device\\"ab1i.t#-\t')), max_size=40)
_line = st.one_of(_good, _good, _any, _noise, st.sampled_from(["", "# m,site=a,device=b x=1", "  ", " # x"]))
_bodies = st.lists(st.tuples(_line, st.sampled_from(["\n", "\n", "\r\n"])), max_size=8).map(
    lambda lines: "".join(line + end for line, end in lines)
)


class TestBothWays:
    @given(body=_bodies, precision=st.sampled_from(get_args(OldPrecision)))
    @settings(max_examples=300, deadline=None)
    @example(body='m,site=a,device=b x="1\nm,site=a,device=b x=1\n', precision="s")
    @example(body="m,site=a,device=b x=1e-400 1\n", precision="s")
    @example(body="m,site=a,device=b=c x=1\n" * 2, precision="s")
    @example(body='m,site=a,device=b x=1\nm,device=b,site=a x=1\nm,device=b,site=a x="1"\n', precision="s")
    def test_read_as_the_reference_does(self, body: str, precision: OldPrecision) -> None:
        assert capped(rows_of(body.encode(), precision)) == capped(expected(body.encode(), precision))

    @given(good=st.lists(_good, min_size=1, max_size=30), other=_any, place=st.integers(0, 30))
    @settings(max_examples=150, deadline=None)
    def test_read_good_lines_alike_whatever_is_among_them(self, good: list[str], other: str, place: int) -> None:
        alone = [row[1:] for row in rows_of("\n".join(good).encode())]
        lines = [*good[:place], other.replace('"', "").replace("\n", ""), *good[place:]]
        where = min(place, len(good)) + 1
        among = [row[1:] for row in rows_of("\n".join(lines).encode()) if row[0] != where]
        assert among == alone

    @given(body=st.binary(max_size=100))
    @settings(max_examples=300, deadline=None)
    def test_answer_any_bytes(self, body: bytes) -> None:
        try:
            body.decode()
        except UnicodeDecodeError:
            with pytest.raises(Unreadable, match="UTF-8"):
                read_lines(body, precision="ns", now=NOW)
        else:
            assert capped(rows_of(body)) == capped(expected(body, "ns"))


class TestLines:
    def test_name_metrics_by_tags_and_field_keys(self) -> None:
        body = b"anything,site=home,phase=1,device=roof power=1.5,energy=10i 1767605400000000000\n"
        assert rows_of(body) == [(1, "home/roof/power", 1767605400000, 1.5), (1, "home/roof/energy", 1767605400000, 10)]

    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            ("1", 1),
            ("-1.5e3", -1500),
            ("7i", 7),
            ("-7i", -7),
            ("18446744073709551615u", 2.0**64),
            ("t", 1),
            ("False", 0),
        ],
    )
    def test_take_every_kind_of_number(self, value: str, stored: float) -> None:
        for line in (f"m,site=a,device=b c={value} 5000000", f"m,site=a,device=b,x=\\  c={value} 5000000"):
            assert rows_of(line.encode()) == [(1, "a/b/c", 5, stored)]

    @pytest.mark.parametrize(
        ("precision", "time", "ms"),
        [
            ("ns", 1767605400123999999, 1767605400123),
            ("us", 1767605400123999, 1767605400123),
            ("ms", 1767605400123, 1767605400123),
            ("s", 1767605400, 1767605400000),
            ("m", 29460090, 1767605400000),
            ("h", 491001, 1767603600000),
            ("ns", -1, -1),
        ],
    )
    def test_have_times_of_any_precision(self, precision: OldPrecision, time: int, ms: int) -> None:
        assert rows_of(f"m,site=a,device=b c=1 {time}".encode(), precision) == [(1, "a/b/c", ms, 1)]

    def test_without_a_time_are_of_now(self) -> None:
        assert rows_of(b"m,site=a,device=b c=1\nm,site=a,device=b c=2 0") == [
            (1, "a/b/c", NOW_MS, 1),
            (2, "a/b/c", 0, 2),
        ]

    def test_may_escape_what_separates(self) -> None:
        body = rb"m\ \,x,site=a\ b,device=c\,d\=e f\ g=1 0"
        assert rows_of(body) == [(1, "a b/c,d=e/f g", 0, 1)]

    def test_that_hold_a_text_lose_that_field_alone(self) -> None:
        body = rb'm,site=a,device=b c=1,state="on, \"really\" = 1",d=2 0'
        assert rows_of(body) == [(1, "a/b/c", 0, 1), (1, "bad_value"), (1, "a/b/d", 0, 2)]
        assert "field 'state'" in detail_of(b'm,site=a,device=b state="on"')
        assert "only numbers are stored" in detail_of(b'm,site=a,device=b state="on"')

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            (b",site=a,device=b c=1", "Expected a measurement"),
            (b"m,site=a,device=b", "Expected fields"),
            (b"m,site=a,device= c=1", "a value for the tag 'device'"),
            (b"m,site=a,site=b,device=b c=1", "The tag 'site' is there twice"),
            (b"m,site=a,device=b c", "`=` and a value for the field 'c'"),
            (b"m,site=a,device=b c= 1", "a value for the field 'c'"),
            (b"m,site=a,device=b =1", "a field's key"),
            (b'm,site=a,device=b c="x', "the end of the text of the field 'c'"),
            (b"m,site=a,device=b c=1 soon", "'soon' is no time"),
            (b"m,site=a c=1", "the tags `site` and `device`"),
            (b"m,site=a,device=b c=one", "field 'c': 'one' is neither a number nor true or false"),
        ],
    )
    def test_that_can_not_be_read_say_what_was_expected(self, line: bytes, says: str) -> None:
        assert says in detail_of(line)


class TestMuch:
    @pytest.mark.parametrize(
        "line",
        [
            b"m,site=a,device=b " + b",".join(b"f%d=1" % n for n in range(900_000)),
            b"m,site=a,device=b c=" + b"1" * 10_000_000,
            b'm,site=a,device=b c="' + b"x" * 10_000_000 + b'"',
            b'm,site=a,device=b c="' + b"x" * 10_000_000,
            b"m,site=" + b"\\ " * 5_000_000 + b",device=b c=1",
            b"\\" * 10_000_000,
            b"m," * 5_000_000,
            b" " * 10_000_000,
        ],
        ids=["fields", "digits", "text", "open", "escapes", "backslashes", "commas", "spaces"],
    )
    def test_in_one_line_of_ten_megabytes_is_read(self, line: bytes) -> None:
        body = b"m,site=a,device=b c=1 0\n" + line + b"\nm,site=a,device=b c=2 0"
        columns = read_lines(body, precision="ns", now=NOW)
        assert columns.lines is not None
        assert (columns.lines[0], columns.lines[-1]) == (1, 3)
        assert all(len(error.detail) < 300 for error in columns.verdicts.report().errors)

    @pytest.mark.parametrize(
        "line",
        [b"x", b"m,site=a c=1", b"m,site=a,device=b c=x 1", b'm,site=a,device=b c="', b"m,site=a,device=b c=1 x"],
    )
    def test_that_is_bad_is_counted_and_told_in_part(self, line: bytes) -> None:
        report = read_lines((line + b"\n") * 300_000, precision="ns", now=NOW).verdicts.report()
        assert report.rejected >= 150_000  # an open text reaches into the line behind it
        assert report.accepted == 0
        assert len(report.errors) == 100


def test_the_reference_knows_what_a_line_is() -> None:
    assert expected(b"m,site=a,device=b c=1 5", "ms") == [(1, "a/b/c", 5, 1.0)]
    assert re.fullmatch("malformed|missing_metric", expected(b"x", "ms")[0][1])
