"""Texts and numbers, as a body has them, to columns: each row is read, or refused with a reason.

Each column has a fast way, in which a library reads all of it at once. A stretch that the fast way can't read is parted
until few rows are left, which are then read one by one: so a bad row costs what few rows do, however many are good.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kilowatch.errors import TooLarge
from kilowatch.history.model import Floats, Milliseconds
from kilowatch.ingest.model import Columns, Reference, Refusal, Verdicts

Number = TypeVar("Number", np.int64, np.float64)

NAME_ONE_METRIC = "A reading names one metric: `metric_id`, or `metric` as `site/device/key`."
TIMESTAMP_HINT = "write RFC 3339 with an offset, such as `2025-06-01T00:00:00Z`"
_MOST_NAMES = 1_000_000
_MICROSECONDS, _NANOSECONDS = pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")
_WHITE_SPACE = " \t\n\r\v\f"
FEW = 64
"""Rows that are sooner read one by one than as a column."""
_PARTS = 16
"""Into so many a stretch is parted that can't be read at once: with two, each row would be looked at too often."""
_FURTHEST = 1 << 62


_COLUMNS = frozenset({"metric", "metric_id", "timestamp", "value", "unit"})


def are_columns(names: Sequence[str]) -> bool:
    """Whether a table of these columns can be read: each known and there once, and just one of them names a metric."""
    known = len(names) <= len(_COLUMNS) and len(set(names)) == len(names) and set(names) <= _COLUMNS
    return known and {"timestamp", "value"} <= set(names) and len({"metric", "metric_id"} & set(names)) == 1


def columns_of(
    named: Sequence[Reference | None],
    reference_of: np.ndarray,
    timestamps: Sequence[Any] | pa.Array,
    values: Sequence[Any] | pa.Array | Floats,
    *,
    odd: Mapping[int, str] | None = None,
) -> Columns:
    """Columns from as many texts and numbers as there are rows.

    Args:
        named: the metrics, `None` for what is none.
        reference_of: each row's position in it; -1 where the row has none.
        odd: what is wrong with the shape of rows that have a wrong one.
    """
    verdicts = Verdicts(len(reference_of))
    if odd:
        is_odd = np.zeros(len(reference_of), bool)
        is_odd[list(odd)] = True
        verdicts.refuse_each(is_odd, lambda row: ("malformed", odd[row]))
    references, reference_of = references_of(named, reference_of, verdicts)
    return Columns(
        references,
        reference_of,
        read_timestamps(timestamps, verdicts),
        values if isinstance(values, np.ndarray) else read_values(values, verdicts),
        verdicts,
    )


def references_of(
    named: Sequence[Reference | None], reference_of: np.ndarray, verdicts: Verdicts
) -> tuple[list[Reference], np.ndarray]:
    """The metrics, and each row's position among them; rows that name none are refused, and have -1."""
    reference_of = reference_of.astype(np.int64, copy=False)
    is_none = np.array([*(reference is None for reference in named), True])  # the last is what -1 picks
    if is_none[:-1].any() or (len(reference_of) and reference_of.min() < 0):
        nameless = is_none[reference_of]
        verdicts.refuse_where(nameless, "missing_metric", lambda _row: NAME_ONE_METRIC)
        reference_of = np.where(nameless, -1, reference_of)
    return ["" if reference is None else reference for reference in named], reference_of


def encoded(texts: pa.Array) -> tuple[list[str], np.ndarray]:
    """The different texts of a column without nulls, and each row's position among them.

    Raises:
        TooLarge: more different ones than any catalogue has.
    """
    dictionary = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    if len(dictionary.dictionary) > _MOST_NAMES:
        raise TooLarge(f"The body has more than {_MOST_NAMES:,} different names; send it in parts.")
    return dictionary.dictionary.to_pylist(), dictionary.indices.to_numpy(zero_copy_only=False)


# ── timestamps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_timestamps(texts: Sequence[Any] | pa.Array, verdicts: Verdicts) -> Milliseconds:
    """Ms since 1970, rounded down; 0 where a row is refused."""
    items = texts if len(texts) <= FEW else _as_array(texts)
    return _read(items, verdicts, _timestamps_at_once, _one_timestamp, np.int64, like=_LIKE_A_TIME)


def _as_array(texts: Sequence[Any] | pa.Array) -> Sequence[Any] | pa.Array:
    try:
        return texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return texts  # something in it is no text


def _timestamps_at_once(some: Sequence[Any] | pa.Array) -> Milliseconds | None:
    texts = _as_array(some)
    if not isinstance(texts, pa.Array) or not _all_have_minutes(texts):
        return None
    for unit in (_MICROSECONDS, _NANOSECONDS):  # microseconds reach further, nanoseconds have nine digits
        try:
            ticks: np.ndarray = texts.cast(unit).cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            continue
        return ticks // (1_000 if unit is _MICROSECONDS else 1_000_000)
    return None


def _all_have_minutes(texts: pa.Array) -> bool:
    """Whether each has a `:` where `2025-06-01T00:00` has it: Arrow also reads `2025-06-01` and `2025-06-01T00Z`."""
    if texts.null_count or not len(texts):
        return False
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if np.diff(offsets).min() <= len("2025-06-01T00:00"):
        return False
    letters = np.frombuffer(texts.buffers()[2], np.uint8)
    return bool((letters[offsets[:-1] + len("2025-06-01T00")] == ord(":")).all())


# Exactly what the fast way reads, and `t` and `z`, digits beyond nanoseconds, and white space around.
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d+))?)?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)",
    re.ASCII,
)
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?", re.ASCII)
_LIKE_A_TIME = (
    r"^\s*[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt ]([01][0-9]|2[0-3]):[0-5][0-9][0-9:.]*([Zz]|[+-][0-9:]+)\s*$"
)
_FIRST_DAY = date(1970, 1, 1).toordinal()


def _one_timestamp(item: Any) -> int | Refusal:
    if not isinstance(item, str):
        return "bad_timestamp", f"The timestamp is {shown(item)}; {TIMESTAMP_HINT}."
    text = item.strip(_WHITE_SPACE)
    match = _RFC3339.fullmatch(text)
    if match is None:
        if _NAIVE.fullmatch(text):
            return "naive_timestamp", f"{shown(item)} has no offset from UTC; {TIMESTAMP_HINT}."
        return "bad_timestamp", f"{shown(item)} is no time; {TIMESTAMP_HINT}."
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        # year 0, which `date` does not know and Arrow does, is like 2000, five times 400 years before it
        like, shift = (2000, 5 * 146_097) if year == "0000" else (int(year), 0)
        days = date(like, int(month), int(day)).toordinal() - shift - _FIRST_DAY
    except ValueError:
        return "bad_timestamp", f"{shown(item)} is no day of the calendar; {TIMESTAMP_HINT}."
    offset = int(offset_hours or 0) * 60 + int(offset_minutes or 0)
    minutes = (days * 24 + int(hour)) * 60 + int(minute) + (offset if sign == "-" else -offset)
    return (minutes * 60 + int(second or 0)) * 1000 + int(((fraction or "") + "000")[:3])


def in_milliseconds(ticks: Milliseconds, per_second: int | float) -> Milliseconds:
    """Ticks since 1970 as ms, rounded down; those that don't fit become some time that is just as far away."""
    if per_second >= 1000:
        return ticks if per_second == 1000 else ticks // int(per_second // 1000)
    ms_a_tick = round(1000 / per_second)
    furthest = _FURTHEST // ms_a_tick
    milliseconds: Milliseconds = np.clip(ticks, -furthest, furthest) * ms_a_tick
    return milliseconds


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_values(items: Sequence[Any] | pa.Array, verdicts: Verdicts) -> Floats:
    """Float64 from numbers, or from an array of texts; 0 where a row is refused."""
    one = _one_text_value if isinstance(items, pa.Array) else _one_value
    return _read(items, verdicts, _values_at_once, one, np.float64, like=_LIKE_A_NUMBER)


def _values_at_once(items: Sequence[Any] | pa.Array) -> Floats | None:
    try:
        if isinstance(items, pa.Array):
            values: np.ndarray = pc.cast(pc.ascii_trim_whitespace(items), pa.float64()).to_numpy(zero_copy_only=False)
        elif set(map(type, items)) <= {float, int}:
            values = np.array(items, np.float64)
        else:
            return None
    except (pa.ArrowException, OverflowError):
        return None
    return values if np.isfinite(values).all() else None


def _one_value(item: Any) -> float | Refusal:
    if isinstance(item, bool) or not isinstance(item, int | float):
        return "bad_value", f"The value is {shown(item)}, not a number."
    try:
        value = float(item)
    except OverflowError:
        value = math.inf
    return value if math.isfinite(value) else not_finite(item)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LIKE_A_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


def _one_text_value(item: str) -> float | Refusal:
    text = item.strip(_WHITE_SPACE)
    if _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
    elif not _NOT_FINITE.fullmatch(text):
        return "bad_value", f"The value is {shown(item)}, not a number."
    return not_finite(item)


def not_finite(item: Any) -> Refusal:
    return "not_finite", f"{shown(item)} is not a finite number of 64 bits."


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(
    items: Sequence[Any] | pa.Array,
    verdicts: Verdicts,
    at_once: Callable[[Sequence[Any] | pa.Array], np.ndarray | None],
    one: Callable[[Any], Any],
    dtype: type[Number],
    *,
    like: str,
) -> np.ndarray:
    """The column: by `at_once` where it can, parting what it can't, and by `one` where few rows are left.

    Texts that are not `like` a good one are refused before, as the fast way takes long over what it can't read.
    """
    if len(items) > FEW and (read := at_once(items)) is not None:
        return read
    out = np.zeros(len(items), dtype)
    rows = np.arange(len(items))
    if len(items) > FEW and isinstance(items, pa.Array):
        fits = pc.fill_null(pc.match_substring_regex(items, like), False).to_numpy(zero_copy_only=False)
        texts = items
        verdicts.refuse_each(~fits, lambda row: one(texts[row].as_py()))
        rows = np.flatnonzero(~verdicts.refused)
        items = items.filter(pa.array(~verdicts.refused))
    stretches = [(0, len(rows))]
    while stretches:
        start, end = stretches.pop()
        some = items[start:end]
        if end - start <= FEW:
            _read_each(some, rows[start:end], verdicts, one, out)
        elif (read := at_once(some)) is not None:
            out[rows[start:end]] = read
        else:
            step = -(-(end - start) // _PARTS)
            stretches += [(begin, min(begin + step, end)) for begin in range(start, end, step)]
    return out


def _read_each(
    some: Sequence[Any] | pa.Array, rows: np.ndarray, verdicts: Verdicts, one: Callable[[Any], Any], out: np.ndarray
) -> None:
    items: Iterable[Any] = some.to_pylist() if isinstance(some, pa.Array) else some
    for row, item in zip(rows.tolist(), items, strict=True):
        if verdicts.refused[row]:
            continue
        outcome = one(item)
        if isinstance(outcome, tuple):
            verdicts.refuse(row, *outcome)
        else:
            out[row] = outcome


# ── texts of others ──────────────────────────────────────────────────────────────────────────────────────────────────


def shown(item: Any, *, most: int = 40) -> str:
    """An item of a body for a message: short, and of whole characters."""
    if item is None:
        return "missing"
    text = encodable(item if isinstance(item, str) else json.dumps(item, default=str))
    return repr(text[:most] + "…" if len(text) > most else text)


def encodable(text: str) -> str:
    """JSON's escapes can spell half a surrogate pair, which is no character and fits no answer, log or database."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
