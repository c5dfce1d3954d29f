"""The engine's Native format: blocks of columns as they lie in memory, for the types that readings have."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kilowatch.history.model import Floats, MetricIds, Milliseconds, Rows

_TIME = "DateTime64(3, 'UTC')"
_TIMES = frozenset(("ts", "received_at", "begins", "ends", "first_ts", "last_ts", "received_until", "made_at"))
_KINDS = {"u": "UInt32", "i": "Int64", "f": "Float64"}
_DTYPES = {_TIME: "<i8", "UInt32": "<u4", "Int64": "<i8", "Float64": "<f8"}


def encode(rows: Rows) -> bytes:
    """The rows as one block for the table `readings`."""
    return encode_columns(rows.metric_ids, rows.timestamps, rows.values, np.full(len(rows), rows.received_at))


def encode_columns(metric_ids: MetricIds, timestamps: Milliseconds, values: Floats, received_at: Milliseconds) -> bytes:
    """Columns of one length as one block for the table `readings`."""
    return block({"metric_id": metric_ids, "ts": timestamps, "value": values, "received_at": received_at})


def block(columns: Mapping[str, np.ndarray]) -> bytes:
    """Columns of one length by their names: numbers as they are, whole ones of 64 bits as times where they are some."""
    kinds = {name: _TIME if name in _TIMES else _KINDS[data.dtype.kind] for name, data in columns.items()}
    return encode_block(
        (name, kinds[name], data.astype(_DTYPES[kinds[name]], copy=False)) for name, data in columns.items()
    )


def encode_block(columns: Iterable[tuple[str, str, np.ndarray]]) -> bytes:
    """Columns of one length (name, the engine's type, what lies in memory as that type does) as one block."""
    columns = list(columns)
    parts = [_varint(len(columns)), _varint(len(columns[0][2]))]
    for name, kind, data in columns:
        parts += (_varint(len(name)), name.encode(), _varint(len(kind)), kind.encode(), data.tobytes())
    return b"".join(parts)


def decode(answer: bytes, dtypes: Sequence[np.dtype[Any]]) -> list[np.ndarray]:
    """The columns of an answer, which are of these types of fixed width."""
    blocks: list[list[np.ndarray]] = [[] for _ in dtypes]
    place = 0
    while place < len(answer):
        _, place = _number(answer, place)  # how many columns
        rows, place = _number(answer, place)
        for column, dtype in zip(blocks, dtypes, strict=True):
            for _ in ("name", "type"):
                length, place = _number(answer, place)
                place += length
            column.append(np.frombuffer(answer, dtype, rows, place))
            place += rows * dtype.itemsize
    return [np.concatenate(parts) if parts else np.empty(0, dtype) for parts, dtype in zip(blocks, dtypes, strict=True)]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _number(answer: bytes, place: int) -> tuple[int, int]:
    """The varint at a place, and the place behind it."""
    number = shift = 0
    while True:
        byte = answer[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
