"""What a Parquet file's pages would take once decompressed, from their own headers.

The sizes in a file's footer are only what its writer says of it: its reader does not mind them, and allocates what each
page's header asks for. So the headers are read here first. They are Thrift structs in the compact protocol
(`parquet.thrift` of Apache Parquet; `thrift-compact-protocol.md` of Apache Thrift).
"""

from collections.abc import Iterator
from typing import NamedTuple

from kilowatch.errors import TooLarge, Unreadable

_MOST_FOOTER_BYTES = 4 << 20
_MOST_PAGES = 100_000
_DEEPEST = 16
_DATA_PAGE, _DATA_PAGE_2 = 0, 3
# fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_VALUES, _TOTAL_COMPRESSED_SIZE, _DATA_PAGE_OFFSET, _DICTIONARY_PAGE_OFFSET = 5, 7, 9, 11
# types of the compact protocol
_I32, _I64, _LIST, _STRUCT = 5, 6, 9, 12
_DELTA_BYTE_ARRAY = 7
"""Each text is said by how it differs from the one before: a few bytes can stand for any number of long ones."""


class _Page(NamedTuple):
    decoded_bytes: int
    encoding: int


def check_pages(body: bytes, *, most: int) -> None:
    """Raises `TooLarge` if the pages decompress to more than `most` bytes, `Unreadable` if they can't be trusted."""
    decoded = 0
    for number, page in enumerate(_pages(body)):
        decoded += page.decoded_bytes
        if decoded > most:
            raise TooLarge(f"The body is larger than {most:,} bytes once decoded; send it in parts.")
        if number > _MOST_PAGES:
            raise Unreadable(f"The Parquet file has more than {_MOST_PAGES:,} pages; make them larger.")
        if page.encoding == _DELTA_BYTE_ARRAY:
            raise Unreadable("The Parquet file has texts in the encoding DELTA_BYTE_ARRAY; use a dictionary or PLAIN.")


def _pages(body: bytes) -> Iterator[_Page]:
    # pyarrow would tell of the chunks, too; but for some that are broken it ends the process
    for group in _Thrift(body, _start_of_footer(body)).struct().lists[_ROW_GROUPS]:
        for chunk in group.lists[_COLUMNS]:
            column = chunk.structs[_META_DATA]
            if column.longs[_VALUES] <= 0:
                continue  # its reader reads no page at all
            start = column.longs[_DATA_PAGE_OFFSET]
            dictionary = column.longs.get(_DICTIONARY_PAGE_OFFSET, 0)
            if 0 < dictionary < start:
                start = dictionary
            yield from _pages_of_chunk(body, start, start + column.longs[_TOTAL_COMPRESSED_SIZE])


def _start_of_footer(body: bytes) -> int:
    length = int.from_bytes(body[-8:-4], "little")
    if body[-4:] != b"PAR1" or length > len(body) - 8:
        raise Unreadable("The Parquet file can't be read: it does not end like one.")
    if length > _MOST_FOOTER_BYTES:
        raise Unreadable(f"The Parquet file's footer is larger than {_MOST_FOOTER_BYTES:,} bytes.")
    return len(body) - 8 - length


def _pages_of_chunk(body: bytes, place: int, end: int) -> Iterator[_Page]:
    if not 0 < place <= end <= len(body):
        raise Unreadable("The Parquet file is broken: a column is not inside of it.")
    while place < end:
        reader = _Thrift(body, place)
        header = reader.struct()
        kind, decoded_bytes, compressed_bytes = header.numbers[1], header.numbers[2], header.numbers[3]
        if decoded_bytes < 0 or compressed_bytes < 0:
            raise Unreadable("The Parquet file is broken: a page has a negative size.")
        yield _Page(decoded_bytes, _encoding(header, kind))
        place = reader.place + compressed_bytes


def _encoding(header: "_Struct", kind: int) -> int:
    """A data page's encoding; 0, which is PLAIN, of a page that has none."""
    place = {_DATA_PAGE: (5, 2), _DATA_PAGE_2: (8, 4)}.get(kind)
    detail = header.structs.get(place[0]) if place else None
    return detail.numbers.get(place[1], 0) if place and detail else 0


class _Struct(NamedTuple):
    """Fields by their number, apart by type: Parquet's reader, too, skips one that is not of the type it should be."""

    numbers: dict[int, int]
    longs: dict[int, int]
    structs: dict[int, "_Struct"]
    lists: dict[int, "list[_Struct]"]


class _Thrift:
    """Reads structs of the compact protocol."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self.place = place

    def struct(self, depth: int = 0) -> _Struct:
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        fields = _Struct({}, {}, {}, {})
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if head & 15 == _I32:
                fields.numbers[number] = self._i32()
            elif head & 15 == _I64:
                fields.longs[number] = self._zigzag()
            elif head & 15 == _STRUCT:
                fields.structs[number] = self.struct(depth + 1)
            elif head & 15 == _LIST:
                fields.lists[number] = self._list(depth)
            else:
                self._skip_value(head & 15, depth)
        return fields

    def _skip_value(self, kind: int, depth: int) -> None:
        match kind:
            case 1 | 2:  # true, false: said by the kind
                pass
            case 3:
                self._byte()
            case 4 | 5 | 6:
                self._varint()
            case 7:
                self._skip(8)
            case 8:
                self._skip(self._varint())
            case 9 | 10:  # list, set
                self._list(depth)
            case 12:
                self.struct(depth + 1)
            case _:
                raise ValueError("not Thrift")

    def _list(self, depth: int) -> list[_Struct]:
        """The list's structs; what else is in it is skipped."""
        structs = []
        head = self._byte()
        for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
            if head & 15 == _STRUCT:
                structs.append(self.struct(depth + 1))
            elif head & 15 in (1, 2):
                self._byte()
            else:
                self._skip_value(head & 15, depth + 1)
        return structs

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
