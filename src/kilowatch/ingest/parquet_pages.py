"""What a Parquet file's pages would take once decompressed, from their own headers.

The sizes in a file's footer are only what its writer says of it: its reader does not mind them, and allocates what each
page's header asks for. So the headers are read here first. They are Thrift structs in the compact protocol
(`parquet.thrift` of Apache Parquet; `thrift-compact-protocol.md` of Apache Thrift).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from kilowatch.errors import TooLarge, Unreadable

MOST_FOOTER_BYTES = 4 << 20
_MOST_CHUNKS = 10_000
_MOST_PAGES = 100_000
_DEEPEST = 16
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_I32, _STRUCT = 5, 12
_DELTA_BYTE_ARRAY = 7
"""Each text is said by how it differs from the one before: a few bytes can stand for any number of long ones."""


class _Page(NamedTuple):
    decoded_bytes: int
    encoding: int


def check_pages(body: bytes, metadata: pq.FileMetaData, *, most: int) -> None:
    """Raises `TooLarge` if the pages decompress to more than `most` bytes, `Unreadable` if they can't be trusted."""
    if metadata.num_row_groups * metadata.num_columns > _MOST_CHUNKS:
        raise Unreadable(f"The Parquet file has more than {_MOST_CHUNKS:,} column chunks; make its row groups larger.")
    decoded = 0
    for number, page in enumerate(_pages(body, metadata)):
        decoded += page.decoded_bytes
        if decoded > most:
            raise TooLarge(f"The body is larger than {most:,} bytes once decoded; send it in parts.")
        if number > _MOST_PAGES:
            raise Unreadable(f"The Parquet file has more than {_MOST_PAGES:,} pages; make them larger.")
        if page.encoding == _DELTA_BYTE_ARRAY:
            raise Unreadable("The Parquet file has texts in the encoding DELTA_BYTE_ARRAY; use a dictionary or PLAIN.")


def _pages(body: bytes, metadata: pq.FileMetaData) -> Iterator[_Page]:
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset
            yield from _pages_of_chunk(body, start, start + chunk.total_compressed_size)


def _pages_of_chunk(body: bytes, place: int, end: int) -> Iterator[_Page]:
    if not 0 < place <= end <= len(body):
        raise Unreadable("The Parquet file is broken: a column is not inside of it.")
    while place < end:
        header = _Thrift(body, place)
        fields = header.struct()
        decoded_bytes, compressed_bytes = fields[2], fields[3]
        if decoded_bytes < 0 or compressed_bytes < 0:
            raise Unreadable("The Parquet file is broken: a page has a negative size.")
        detail = fields.get({_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}.get(fields[1], 0), {})
        yield _Page(decoded_bytes, detail.get(4 if fields[1] == _DATA_PAGE_2 else 2, 0))
        place = header.place + compressed_bytes


class _Thrift:
    """Reads structs of the compact protocol, as dictionaries of those of their fields that are an i32 or a struct."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self.place = place

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            value = self._value(head & 15, depth)
            if head & 15 in (_I32, _STRUCT):  # all that is asked for is; Parquet's reader, too, skips what is not
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:  # true, false
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 6:
                return self._zigzag()
            case 5:
                return self._i32()
            case 7:
                return self._skip(8)
            case 8:
                return self._skip(self._varint())
            case 9 | 10:
                return self._list(depth)
            case 12:
                return self.struct(depth + 1)
        raise ValueError("not Thrift")

    def _list(self, depth: int) -> None:
        head = self._byte()
        for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
            if head & 15 in (1, 2):
                self._byte()
            else:
                self._value(head & 15, depth + 1)

    def _skip(self, length: int) -> None:
        self.place += length

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("not Thrift")

    def _i32(self) -> int:
        value = self._zigzag()
        if not -(1 << 31) <= value < 1 << 31:
            raise ValueError("not Thrift")  # Parquet's reader would cut it, and go on at another place than we
        return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
