r"""InfluxDB line protocol to columns: `measurement,site=home,device=roof power=1.5,energy=10i 1767605400000000000`.

The tags `site` and `device` and a field's key name the metric; each field is a row. The measurement and other tags mean
nothing here. Lines without escapes and strings are cut at their spaces, commas and equals signs all at once; those that
are not so plain, or wrong, are read one by one.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilowatch.errors import Unreadable
from kilowatch.history.model import Floats, Milliseconds
from kilowatch.ingest.columns import encoded, in_milliseconds, not_finite, shown
from kilowatch.ingest.model import Columns, Reference, Refusal, Verdicts
from kilowatch.kit.timespan import to_ms

Precision = Literal["ns", "us", "ms", "s"]
OldPrecision = Literal["n", "ns", "u", "us", "ms", "s", "m", "h"]

_PER_SECOND = {"ns": 1e9, "n": 1e9, "us": 1e6, "u": 1e6, "ms": 1e3, "s": 1, "m": 1 / 60, "h": 1 / 3600}
_TRUE = frozenset({"t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"f", "F", "false", "False", "FALSE"})
_NEWLINE, _SPACE, _COMMA, _EQUALS, _HASH = b"\n ,=#"
_MISSING_TAGS = "The line needs the tags `site` and `device`; with a field's key they name the metric."


def read_lines(body: bytes, *, precision: OldPrecision, now: datetime) -> Columns:
    """Columns from lines, with the number of each row's line. A line that has no time is of `now`.

    A line that can't be read is one row, which is refused.

    Raises:
        Unreadable: the body is not UTF-8.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(f"unable to parse: the body is not UTF-8: {error.reason} at byte {error.start}") from error
    lines = _Lines(body.removeprefix(b"\xef\xbb\xbf"))
    clock = _Clock(_PER_SECOND[precision], to_ms(now))
    plain = _read_plain(lines, clock)
    careful = list(_read_carefully(lines, clock))
    return _merged(plain, careful) if careful else plain


class _Clock(NamedTuple):
    """What the lines' times count."""

    per_second: float
    now_ms: int

    def milliseconds(self, ticks: Milliseconds) -> Milliseconds:
        return in_milliseconds(ticks, self.per_second)

    def one(self, ticks: int) -> int:
        return (
            ticks // int(self.per_second // 1000)
            if self.per_second >= 1000
            else int(self.milliseconds(np.array([ticks]))[0])
        )


class _Lines:
    """Where the lines of a body begin and end, and which of them are plain."""

    def __init__(self, body: bytes) -> None:
        self.body = body if body.endswith(b"\n") else body + b"\n"
        if b"\r" in body:
            self.body = self.body.replace(b"\r\n", b"\n")
        data = np.frombuffer(self.body, np.uint8)
        self.ends = np.flatnonzero(data == _NEWLINE)
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])
        spaces = np.flatnonzero(data == _SPACE)
        self._place = np.searchsorted(spaces, self.ends)  # of the first space behind the line
        self._spaces = np.concatenate([spaces, [0, 0]])
        self.counts = np.diff(self._place, prepend=0)
        first = data[self.starts]
        self.blank = (first == _NEWLINE) | (first == _HASH)
        self.plain = (self.counts == 1) | (self.counts == 2)
        self.plain &= ~self.blank
        for special in b'\\"\t':
            if special in self.body:
                self.plain &= ~self._has(np.flatnonzero(data == special))
        if self._may_span():
            self.plain[:] = False

    def _has(self, places: np.ndarray) -> np.ndarray:
        return np.diff(np.searchsorted(places, self.ends), prepend=0) > 0

    def _may_span(self) -> bool:
        """Whether a string may reach from one line into the next."""
        if b'"' not in self.body:
            return False
        if b"\\" in self.body:
            return True
        quotes = np.flatnonzero(np.frombuffer(self.body, np.uint8) == ord('"'))
        return bool((np.diff(np.searchsorted(quotes, self.ends), prepend=0) % 2).any())

    def cut(self) -> tuple[np.ndarray, pa.Array, pa.Array, pa.Array]:
        """The plain lines: their positions, and of each the measurement with its tags, its fields, and its time."""
        first_space = self._spaces[self._place - self.counts]
        second_space = np.where(self.counts == 2, self._spaces[self._place - 1], self.ends)
        is_odd = ~self.plain
        first_space[is_odd] = second_space[is_odd] = self.ends[is_odd]
        pieces = np.empty((len(self.ends), 6), np.int32)
        pieces[:, 0] = self.starts
        pieces[:, 1] = first_space
        pieces[:, 2] = np.minimum(first_space + 1, self.ends)
        pieces[:, 3] = second_space
        pieces[:, 4] = np.minimum(second_space + 1, self.ends)
        pieces[:, 5] = self.ends
        texts = _pieces(pieces, self.body)
        plain = np.flatnonzero(self.plain)
        return plain, *(texts.take(pa.array(6 * plain + part)) for part in (0, 2, 4))


def _pieces(starts: np.ndarray, data: bytes | pa.Buffer) -> pa.Array:
    """Texts that lie one behind the other, from where each begins."""
    offsets = np.append(starts.ravel(), np.int32(len(data))).astype(np.int32, copy=False)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


# ── all at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _NotPlain(Exception):
    """These lines, of those that were taken for plain, are not."""

    def __init__(self, lines: np.ndarray) -> None:
        super().__init__()
        self.lines = lines


def _read_plain(lines: _Lines, clock: _Clock) -> Columns:
    """Columns from the plain lines; those that turn out not to be so are marked as such in `lines`."""
    while True:
        try:
            return _read_at_once(lines, clock)
        except _NotPlain as found:
            lines.plain[found.lines if len(found.lines) else slice(None)] = False


def _read_at_once(lines: _Lines, clock: _Clock) -> Columns:
    if not lines.plain.any():
        nothing = np.empty(0, np.int64)
        return Columns([], nothing, nothing, np.empty(0), Verdicts(0), lines=nothing)
    plain, heads, fields, times = lines.cut()
    devices, device_of = _devices(heads, plain)
    ticks = _times(times, plain, lines.counts[plain] == 2, clock)
    line_of, keys, values = _fields(fields, plain)
    names, key_of = encoded(keys)
    references, reference_of = _combined(devices, device_of[line_of], names, key_of)
    return Columns(references, reference_of, ticks[line_of], values, Verdicts(len(values)), lines=plain[line_of] + 1)


def _devices(heads: pa.Array, plain: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The different devices as `site/device/`, and each line's position among them."""
    names, device_of = encoded(heads)
    devices = [_device_of_plain(name) for name in names]
    if None in devices:
        raise _NotPlain(plain[np.array([device is None for device in devices])[device_of]])
    return devices, device_of  # type: ignore[return-value]  # none is None


def _device_of_plain(head: str) -> str | None:
    measurement, *pairs = head.split(",")
    try:
        tags = dict([pair.split("=") for pair in pairs])
        device = f"{tags['site']}/{tags['device']}/"
    except (ValueError, KeyError):
        return None
    return device if measurement and len(tags) == len(pairs) and "" not in tags and "" not in tags.values() else None


_PLAIN_TIME = "^-?([0-9]{1,18}|[0-8][0-9]{18})$"


def _times(texts: pa.Array, plain: np.ndarray, has_time: np.ndarray, clock: _Clock) -> Milliseconds:
    everyone = bool(has_time.all())
    if not everyone:
        texts = texts.filter(pa.array(has_time))
    ticks = _cast(texts, pa.int64(), allowed=b"-")
    if ticks is None:
        raise _NotPlain(plain[has_time][~_match(texts, _PLAIN_TIME)])
    if everyone:
        return clock.milliseconds(ticks)
    all_ticks = np.full(len(plain), clock.now_ms)
    all_ticks[has_time] = clock.milliseconds(ticks)
    return all_ticks


def _fields(fields: pa.Array, plain: np.ndarray) -> tuple[np.ndarray, pa.Array, Floats]:
    """The position of each field's line among the plain ones, its key, and its value."""
    ends_of_lines = np.frombuffer(fields.buffers()[1], np.int32)[: len(fields) + 1]
    data = fields.buffers()[2] or b""
    letters = np.frombuffer(data, np.uint8)[: ends_of_lines[-1]]
    equals, commas = np.flatnonzero(letters == _EQUALS), np.flatnonzero(letters == _COMMA)
    line_of = np.arange(len(fields))
    starts, ends = ends_of_lines[:-1], ends_of_lines[1:]
    if len(commas):
        line_of = np.repeat(line_of, np.diff(np.searchsorted(commas, ends_of_lines)) + 1)
        starts, ends = np.sort(np.append(starts, commas + 1)), np.sort(np.append(ends, commas))
    if len(equals) != len(starts) or not ((starts < equals) & (equals + 1 < ends)).all():
        raise _NotPlain(plain[line_of[_misshapen(starts, ends, equals)]])
    last = letters[ends - 1]
    is_whole = (last == ord("i")) | (last == ord("u"))
    pieces = np.empty((len(starts), 4), np.int32)
    pieces[:, 0] = starts
    pieces[:, 1] = equals
    pieces[:, 2] = equals + 1
    pieces[:, 3] = ends - is_whole
    texts = _pieces(pieces, letters)
    rows = 4 * np.arange(len(starts))
    keys, numbers = texts.take(pa.array(rows)), texts.take(pa.array(rows + 2))
    values = _values(numbers, last)
    if values is None:
        pieces[:, 3] = ends
        whole_texts = _pieces(pieces, letters).take(pa.array(rows + 2))
        raise _NotPlain(plain[line_of[~_match(whole_texts, _PLAIN_VALUE)]])
    return line_of, keys, values


def _misshapen(starts: np.ndarray, ends: np.ndarray, equals: np.ndarray) -> np.ndarray:
    """Which of the fields have no key, no value, or not just one `=`."""
    place = np.searchsorted(equals, starts)
    first = np.append(equals, -1)[place]
    misshapen: np.ndarray = (np.searchsorted(equals, ends) - place != 1) | (first <= starts) | (first + 1 >= ends)
    return misshapen


# Short enough that a float can neither be too large nor too small.
_PLAIN_VALUE = (
    r"^(-?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?|-?[0-9]{1,18}i|[0-9]{1,18}u"
    r"|t|T|true|True|TRUE|f|F|false|False|FALSE)$"
)


def _values(numbers: pa.Array, last: np.ndarray) -> Floats | None:
    """Float64 of values without their suffix, whose last letter was `last`; `None` if they are not all plain."""
    is_float = ((last >= ord("0")) & (last <= ord("9"))) | (last == ord("."))
    if is_float.all():
        return _cast(numbers, pa.float64())
    values: Floats = np.empty(len(numbers))
    is_signed, is_unsigned = last == ord("i"), last == ord("u")
    for mask, kind, allowed in (
        (is_float, pa.float64(), None),
        (is_signed, pa.int64(), b"-"),
        (is_unsigned, pa.uint64(), b""),
    ):
        read = _cast(numbers.filter(pa.array(mask)), kind, allowed=allowed)
        if read is None:
            return None
        values[mask] = read
    is_other = ~(is_float | is_signed | is_unsigned)
    words, word_of = encoded(numbers.filter(pa.array(is_other)))
    if not set(words) <= _TRUE | _FALSE:
        return None
    values[is_other] = np.array([word in _TRUE for word in words], np.float64)[word_of]
    return values


def _cast(texts: pa.Array, kind: pa.DataType, *, allowed: bytes | None = None) -> np.ndarray | None:
    """The texts as finite numbers; `None` if one is not, or has another letter than digits and those allowed."""
    if allowed is not None and not _all_digits(texts, allowed):
        return None  # Arrow also reads 0x1F
    try:
        numbers: np.ndarray = texts.cast(kind).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    return numbers if kind != pa.float64() or np.isfinite(numbers).all() else None


def _all_digits(texts: pa.Array, others: bytes) -> bool:
    offsets = np.frombuffer(texts.buffers()[1], np.int32) if len(texts) else np.zeros(1, np.int32)
    letters = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[: offsets[len(texts)]]
    fits = (letters >= ord("0")) & (letters <= ord("9"))
    for other in others:
        fits |= letters == other
    return bool(fits.all())


def _match(texts: pa.Array, pattern: str) -> np.ndarray:
    fits: np.ndarray = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return fits


def _combined(
    devices: list[str], device_of: np.ndarray, keys: list[str], key_of: np.ndarray
) -> tuple[list[Reference], np.ndarray]:
    """The different metrics `site/device/key`, and each row's position among them."""
    pairs = device_of.astype(np.int64) * len(keys) + key_of
    if len(devices) * len(keys) > 4 * len(pairs):
        used, reference_of = np.unique(pairs, return_inverse=True)
    else:
        is_used = np.zeros(len(devices) * len(keys), bool)
        is_used[pairs] = True
        used = np.flatnonzero(is_used)
        reference_of = (np.cumsum(is_used) - 1)[pairs]
    return [devices[pair // len(keys)] + keys[pair % len(keys)] for pair in used.tolist()], reference_of


# ── one by one ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Row(NamedTuple):
    line: int
    reference: str = ""
    milliseconds: int = 0
    value: float = 0.0
    refusal: Refusal | None = None


class _BadLine(Exception):
    """The line can't be read; `place` is how far it could."""

    def __init__(self, place: int, detail: str, *, code: Literal["malformed", "missing_metric"] = "malformed") -> None:
        super().__init__(detail)
        self.place = place
        self.refusal: Refusal = (code, detail)


# A separator behind a backslash is none. (The quantifiers never give back: a line may have 10 MB.)
_HEAD = re.compile(rb"(?:[^\\ \n]++|\\ ?)++")
_NAME = re.compile(rb"(?:[^,\\ \n]++|\\[, ]?)++")
_KEY = re.compile(rb"(?:[^,=\\ \n]++|\\[,= ]?)++")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_WORD = re.compile(rb"[^, \n]++")
_GAP = re.compile(rb"[ \t]++")
_ESCAPED = re.compile(rb"\\([,= ])")
_TIME = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?([0-9]++\.?[0-9]*+|\.[0-9]++)([eE][+-]?[0-9]++)?")
_WHOLE = re.compile(r"(-?)([0-9]++)([iu])")
_MOST_DIGITS = 400


def _read_carefully(lines: _Lines, clock: _Clock) -> Iterable[_Row]:
    """The rows of the lines that are not plain."""
    behind = 0
    devices: dict[bytes, str | None] = {}
    starts = lines.starts.tolist()
    for line in np.flatnonzero(~lines.plain & ~lines.blank).tolist():
        start = starts[line]
        if start < behind:
            continue  # it is inside a string of the line before
        try:
            rows, behind = _Cursor(lines.body, start, line + 1, devices).rows(clock)
            yield from rows
        except _BadLine as bad:
            yield _Row(line + 1, refusal=bad.refusal)
            behind = lines.body.find(b"\n", bad.place) + 1


class _Cursor:
    """Walks along a line."""

    def __init__(self, body: bytes, place: int, line: int, devices: dict[bytes, str | None]) -> None:
        """`devices` are those of measurements and tags that were read before."""
        self._body = body
        self._place = place
        self._line = line
        self._devices = devices

    def rows(self, clock: _Clock) -> tuple[list[_Row], int]:
        """A row for each of the line's fields, and where the next line begins. Raises `_BadLine`."""
        self._skip_gap()
        if self._at(b"#") or self._at(b"\n"):
            return [], self._body.find(b"\n", self._place) + 1
        device = self._device()
        self._gap("fields: `measurement,tags field=value time`")
        fields = [self._field()]
        while self._at(b","):
            self._place += 1
            fields.append(self._field())
        milliseconds = self._time(clock)
        if device is None:
            raise _BadLine(self._place, _MISSING_TAGS, code="missing_metric")
        rows = []
        for key, value in fields:
            reference = device + key
            if isinstance(value, tuple):
                code, detail = value
                rows.append(_Row(self._line, reference, refusal=(code, f"field {shown(key)}: {detail}")))
            else:
                rows.append(_Row(self._line, reference, milliseconds, value))
        return rows, self._place + 1

    def _device(self) -> str | None:
        """`site/device/` of the measurement and tags; `None` if they name none."""
        match = _HEAD.match(self._body, self._place)
        head = match[0] if match else b""
        end = self._place + len(head)
        if head not in self._devices:
            device = self._device_of_tags()
            if self._place != end:
                raise self._bad("a comma or a space")
            self._devices[head] = device
        self._place = end
        return self._devices[head]

    def _device_of_tags(self) -> str | None:
        self._take(_NAME, "a measurement")
        tags: dict[str, str] = {}
        while self._at(b","):
            self._place += 1
            key = self._name("a tag's key")
            if not self._at(b"="):
                raise self._bad("a value for the tag", key)
            self._place += 1
            if key in tags:
                raise _BadLine(self._place, f"The tag {shown(key)} is there twice.")
            tags[key] = self._name("a value for the tag", key)
        return f"{tags['site']}/{tags['device']}/" if tags.keys() >= {"site", "device"} else None

    def _field(self) -> tuple[str, float | Refusal]:
        key = self._name("a field's key")
        if not self._at(b"="):
            raise self._bad("`=` and a value for the field", key)
        self._place += 1
        if self._at(b'"'):
            text = self._take(_STRING, "the end of the text of the field", key)
            return key, ("bad_value", f"its value is the text {shown(text.decode()[1:-1])}; only numbers are stored.")
        return key, _value(self._take(_WORD, "a value for the field", key).decode())

    def _time(self, clock: _Clock) -> int:
        self._gap("the end of the line", optional=True)
        if self._at(b"\n"):
            return clock.now_ms
        text = self._take(_WORD, "a time").decode().rstrip("\t")
        self._skip_gap()
        ticks = int(text) if _TIME.fullmatch(text) else 1 << 63
        if not self._at(b"\n") or not -(1 << 63) <= ticks < 1 << 63:
            raise _BadLine(self._place, f"{shown(text)} is no time; it is one whole number of 64 bits at the end.")
        return clock.one(ticks)

    def _name(self, what: str, of: str | None = None) -> str:
        name = self._take(_KEY, what, of)
        return (_ESCAPED.sub(rb"\1", name) if b"\\" in name else name).decode()

    def _take(self, pattern: re.Pattern[bytes], what: str, of: str | None = None) -> bytes:
        match = pattern.match(self._body, self._place)
        if match is None:
            raise self._bad(what, of)
        self._place = match.end()
        return match[0]

    def _gap(self, what: str, *, optional: bool = False) -> None:
        before = self._place
        self._skip_gap()
        if (self._place == before or self._at(b"\n")) and not (optional and (self._at(b"\n"))):
            raise self._bad(what)

    def _skip_gap(self) -> None:
        match = _GAP.match(self._body, self._place)
        self._place = match.end() if match else self._place

    def _at(self, letter: bytes) -> bool:
        return self._body.startswith(letter, self._place)

    def _bad(self, wanted: str, of: str | None = None) -> _BadLine:
        rest = self._body[self._place : self._place + 200].split(b"\n")[0].decode(errors="ignore")
        found = f"found {shown(rest)}" if rest else "the line ends"
        return _BadLine(self._place, f"Expected {wanted}{'' if of is None else ' ' + shown(of)}, but {found}.")


def _value(text: str) -> float | Refusal:
    if text in _TRUE or text in _FALSE:
        return float(text in _TRUE)
    if whole := _WHOLE.fullmatch(text):
        sign, digits, suffix = whole.groups()
        number = int(sign + digits[:_MOST_DIGITS])
        fits = -(1 << 63) <= number < 1 << 63 if suffix == "i" else not sign and number < 1 << 64
        if fits:
            return float(number)
        return "bad_value", f"{shown(text)} does not fit into 64 bits{'' if suffix == 'i' else ' without a sign'}."
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if np.isfinite(value) else not_finite(text)
    if text.strip("+-").lower() in ("nan", "inf", "infinity"):
        return not_finite(text)
    return "bad_value", f"{shown(text)} is neither a number nor true or false."


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _merged(plain: Columns, rows: list[_Row]) -> Columns:
    """Both in the order of their lines."""
    position: dict[Reference, int] = {}
    reference_of = [position.setdefault(row.reference, len(position)) + len(plain.references) for row in rows]
    assert plain.lines is not None  # as it has lines
    lines = np.append(plain.lines, [row.line for row in rows])
    order = np.argsort(lines, kind="stable")
    verdicts = Verdicts(len(lines))
    place_of = np.empty(len(lines), np.int64)
    place_of[order] = np.arange(len(lines))
    for place, row in zip(place_of[len(plain) :].tolist(), rows, strict=True):
        if row.refusal is not None:
            verdicts.refuse(place, *row.refusal)
    return Columns(
        [*plain.references, *position],
        np.append(plain.reference_of, reference_of)[order].astype(np.int64),
        np.append(plain.timestamps, [row.milliseconds for row in rows])[order].astype(np.int64),
        np.append(plain.values, [row.value for row in rows])[order],
        verdicts,
        lines=lines[order].astype(np.int64),
    )
